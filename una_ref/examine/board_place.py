"""The place of a loss on the quick leaderboard."""

from __future__ import annotations

from dataclasses import dataclass

from una_ref.examine.signature import Examinee


@dataclass(frozen=True)
class Place:
    """Where a loss stands among the methods of the quick board.

    Attributes:
        kind: of feedback.
        rank, of: its rank by mean regret, from 1, and the number of rows, both with this kind of feedback.
        regret: its mean regret over the worlds, in reward units; None where a run failed.
        low, high: the ends of its 95 % interval.
        failed: runs that ended without a finite policy.
        to_dpo: its regret minus DPO's, paired by world: mean and ends of the 95 % interval; None where a run failed.
        worse: worlds in which it ends with more regret than π_ref. worlds: their number.
    """

    kind: str
    rank: int
    of: int
    regret: float | None
    low: float | None
    high: float | None
    failed: int
    to_dpo: tuple[float, float, float] | None
    worse: int
    worlds: int

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        if self.regret is None or self.low is None or self.high is None:
            return [f"{self.failed} of its runs ended without a finite policy."]
        found = [
            f"It is number {self.rank} of {self.of} on {self.kind} by mean regret: {self.regret:.3f} "
            f"(95 % interval {self.low:.3f} to {self.high:.3f})."
        ]
        if self.to_dpo is not None:
            mean, low, high = self.to_dpo
            found.append(f"Its regret minus DPO's is {mean:.3f} (95 % interval {low:.3f} to {high:.3f}).")
        return [*found, f"It is worse than π_ref in {self.worse} of {self.worlds} worlds."]


def check_board(examinee: Examinee) -> None:
    """Refuse what cannot be placed, before anything long starts.

    Raises:
        InputError: the settings of the quick board have not been chosen yet, or the board has no data for the loss.
    """
    from una_ref.studies.leaderboard.board_study import LEADERBOARD
    from una_ref.studies.leaderboard.placing import entry_of

    entry_of(examinee.loss, board_kind(examinee), name=_row_name(examinee))
    LEADERBOARD.chosen()


def on_board(examinee: Examinee) -> Place:
    """Train a loss on the worlds of the quick board, which takes minutes. Finished runs are kept and used again.

    It gets a row of its own, tuned like every other, also where it is a registered loss.
    """
    from una_ref.studies.leaderboard.placing import place

    kind = board_kind(examinee)
    placed = place(examinee.loss, kind, name=_row_name(examinee), title=examinee.name)
    row = placed["row"]
    regret, gap, worse = row["regret"], row.get("to_dpo"), row["worse_than_base"]
    return Place(
        *(kind, placed["rank"], placed["of"]),
        *(regret["mean"], regret["low"], regret["high"], int(row["failed"])),
        to_dpo=None if gap is None or gap["low"] is None else (gap["mean"], gap["low"], gap["high"]),
        worse=int(worse["count"]),
        worlds=int(worse["of"]),
    )


def _row_name(examinee: Examinee) -> str:
    return f"{examinee.name.replace(':', '.')}.examined"


def board_kind(examinee: Examinee) -> str:
    """The board's name for the data of a loss: samples of the policy, and pairs with scores, are kinds of their own."""
    if examinee.record is not None and examinee.record.on_policy_only:
        return "calls"
    scored = any(name == "margins" or name.endswith("scores") for name in examinee.given)
    return "scored pairs" if examinee.kind == "pairs" and scored else examinee.kind
