"""The rows that the board's figure shows."""

from una_ref.studies.leaderboard import board_figures
from una_ref.studies.leaderboard.board_figures import ASKED, shown_rows


def row(name, *values):
    return {"name": name, "regret": {"values": [*values]}}


def test_rows_that_are_the_same_method_here_are_shown_once(monkeypatch):
    monkeypatch.setattr(board_figures, "SHOWN", 4)
    same = [row("f-dpo", 0.3, 0.5), row("una-pair", 0.3, 0.5), row("token-dpo", 0.3, 0.5)]
    ranked = [row("best", 0.1, 0.2), *same, row("near", 0.3, 0.502), row("other", 0.6, 0.7), row("kto", 0.8, 0.9)]
    assert {"una-pair", "kto"} <= set(ASKED)
    assert [each["name"] for each in shown_rows(ranked)] == ["best", "una-pair", "near", "kto"]
