"""``una-ref leaderboard``: what it prints, and what it refuses with exit code 2 before anything runs."""

import json
from dataclasses import replace

import pytest

from una_ref.cli import main
from una_ref.commands.leaderboard_command import AXES
from una_ref.studies.leaderboard import board_study
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings


def test_the_axes_of_the_command_are_those_of_the_study():
    assert tuple(board_study.LEADERBOARD.axes) == AXES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--axis", "noise"], "axis noise: expected one of board"),
        (["--axis", "label_nois"], "did you mean label_noise?"),
        (["--axis", "tiny_lm", "--quick"], "axis tiny_lm: expected no --quick"),
        (["--methods", "dppo"], "methods: expected a row of the leaderboard, got 'dppo'; did you mean"),
        (["--methods", "qqqq"], "Fix: choose from sft, una-pair"),
        (["--methods", ""], "methods: expected rows separated by commas, got none"),
        (["--report"], "out, got none. Fix: name their folder with --output"),
        (["--methods", "paft"], "excluded: merges two adapters"),
        (["--workers", "0"], "workers: expected at least 1, got 0"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_no_folder(words, said, capsys, tmp_path):
    assert main(["leaderboard", "--output", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_exits_with_2(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["leaderboard", "--methods", "dpo", "--axis", "board", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "expected a folder that can be written, got: Not a directory" in capsys.readouterr().err


def test_results_of_another_version_exit_with_2(capsys, tmp_path):
    (tmp_path / "runs.jsonl").write_text('{"settings": {"protocol": 0}}\n')
    assert main(["leaderboard", "--output", str(tmp_path), "--methods", "dpo", "--axis", "board"]) == 2
    assert "expected runs of" in capsys.readouterr().err


@pytest.fixture
def tiny_study(monkeypatch):
    """The command runs a study of seconds."""
    tiny = replace(
        LeaderboardSettings(),
        prompts=2,
        second=1,
        vocabulary=3,
        length=3,
        hidden=4,
        steps=2,
        batch=4,
        draws=2,
        seeds=(0, 1),
        tuning_seeds=(100,),
        tuning_budget=16,
        budgets=(16,),
        axis_budget=16,
        lrs=(1e-3,),
        factors=(1.0,),
    )
    monkeypatch.setattr(board_study, "LEADERBOARD", replace(board_study.LEADERBOARD, settings=tiny))


def test_the_board_of_chosen_methods_is_printed_and_reported_again(tiny_study, capsys, tmp_path):
    words = ["leaderboard", "--methods", "dpo,ipo", "--axis", "board", "--output", str(tmp_path), "--workers", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| IPO |" in printed and "numbers:" in printed
    assert main([*words, "--report", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in again["board"]["rows"]] == ["una-pair", "ipo"]


@pytest.mark.slow
def test_the_quick_board_orders_fourteen_rows(capsys, tmp_path):
    assert main(["leaderboard", "--quick", "--output", str(tmp_path), "--json"]) == 0
    board = json.loads(capsys.readouterr().out)["board"]
    regret = {row["name"]: row["regret"]["mean"] for row in board["rows"]}
    base = next(row for row in board["references"] if row["name"] == "base")["regret"]["mean"]
    assert len(regret) >= 12 and len(board["rows"][0]["regret"]["values"]) == 3
    assert max(regret["una-pair"], regret["una-centred"], regret["rloo"]) < base < regret["una-score.shuffled"]
    assert (tmp_path / "board.html").is_file()
