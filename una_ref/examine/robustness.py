"""What a loss learns where feedback is certain, and where part of it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from una_ref.examine.enumeration import SCORE_NOISE, at_examined_beta, standard_setting
from una_ref.examine.known_policies import SAME
from una_ref.examine.optima import FROM_OTHER, Learned, learned_from, moved_by, not_computed
from una_ref.examine.signature import Examinee

FLIPPED = 0.1
"""Share of labels and preferences that are wrong in the noisy setting."""


@dataclass(frozen=True)
class Robustness:
    """What changes with certain and with noisy feedback.

    Attributes:
        certain: what it learns if the likelier answer is always given; None for feedback without chance.
        noisy: what it learns if a share of the feedback is wrong.
        noise_moves: largest difference of a probability between noisy and clean feedback; None unless both settle.
        consistent: whether it learns the same policy from noisy feedback.
    """

    certain: Learned | None
    noisy: Learned | None
    noise_moves: float | None
    consistent: bool | None

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        found = []
        if self.certain is not None:
            found.append(_certain(self.certain))
        if self.noisy is not None:
            found.append(self.noisy.sentence())
            if self.noise_moves is not None:
                found.append(
                    "This noise does not change what it learns."
                    if self.consistent
                    else f"This noise changes a probability by up to {self.noise_moves:.3g}."
                )
        return found


def _certain(learned: Learned) -> str:
    if learned.outcome == "settles":
        return (
            f"{learned.setting}: log-ratios stay finite, at most {learned.largest:.3g} nats, with a regret of "
            f"{learned.regret:.3g}."
        )
    return learned.sentence()


def robustness(examinee: Examinee, *, independent: bool, clean: Learned | None = None) -> Robustness:
    """Compute them, from samples of another policy than π_ref.

    Args:
        examinee: the loss.
        independent: whether examples stand alone, see `Soundness`.
        clean: what it learns there from feedback without noise, if that is known.
    """
    if examinee.kind == "demos" or not_computed(examinee, independent):
        return Robustness(None, None, None, None)
    world, sampler, feedback = standard_setting()
    examined = at_examined_beta(examinee)
    clean = clean or learned_from(examined, world, feedback, sampler, FROM_OTHER)
    certain = None
    if examinee.kind != "scores":
        words = {"labels": "labels", "lists": "rankings"}.get(examinee.kind, "preferences")
        certain = learned_from(examined, world, feedback.certain(), sampler, f"With certain {words}")
    if examinee.kind == "lists":
        return Robustness(certain, None, None, None)
    wrong = (
        f"With scores that are off by ±{SCORE_NOISE:g}"
        if examinee.kind == "scores"
        else f"With {FLIPPED:.0%} of the {'labels' if examinee.kind == 'labels' else 'preferences'} flipped"
    )
    noisy = learned_from(examined, world, feedback.noisy(FLIPPED), sampler, wrong)
    moves = moved_by(clean, noisy)
    return Robustness(certain, noisy, moves, None if moves is None else moves < SAME)
