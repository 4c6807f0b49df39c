"""What a loss learns from unlimited data on a small world, beside π* and the optima of other objectives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from una_ref.examine.enumeration import (
    BETA,
    UNAVAILABLE,
    Enumeration,
    Feedback,
    Sampler,
    at_examined_beta,
    standard_setting,
)
from una_ref.examine.known_policies import SAME, Identity, identity, kept
from una_ref.examine.settling import RUNS_OFF, learns_values, settled
from una_ref.examine.signature import Examinee
from una_ref.theory import SequenceWorld

FROM_REFERENCE, FROM_OTHER, FROM_POLICY = "π_ref", "another policy", "the policy itself"
SAMPLERS = (FROM_REFERENCE, FROM_OTHER, FROM_POLICY)
"""Who wrote the responses, in the order of `Optima.learned`."""
OFFSETS = (2.0, -1.0)
"""What is added to the rewards of the two prompts."""


@dataclass(frozen=True)
class Learned:
    """What a loss learns in one setting.

    Attributes:
        setting: what the data are.
        outcome: "settles", "runs off", "stays", "flat" or "unsettled"; see `settling.Outcome`.
        regret: J(π*) − J(π), in reward units; of the last policy where it does not settle.
        kl_to_reference, kl_to_optimum: in nats.
        largest: the largest |log π/π_ref|, in nats.
        policy: which known policy it is, or the nearest; None unless it settles.
        kept: which responses keep probability, where it runs off.
        probabilities: π, a row for each prompt; of the last policy where it does not settle.
    """

    setting: str
    outcome: str
    regret: float
    kl_to_reference: float
    kl_to_optimum: float
    largest: float
    policy: Identity | None
    kept: str
    probabilities: tuple[tuple[float, ...], ...]

    @property
    def settles(self) -> bool:
        """Whether training has a finite end."""
        return self.outcome == "settles"

    @property
    def is_optimum(self) -> bool:
        """Whether it is π*."""
        return self.policy is not None and self.policy.same and self.policy.name == "π*"

    def sentence(self) -> str:
        """The finding."""
        if self.policy is None:
            return f"{self.setting}: {_no_end(self)}."
        if self.is_optimum:
            return f"{self.setting}: it learns π* = π_ref·exp(r/β)/Z(x), up to {self.policy.gap:.0e} in a probability."
        if self.policy.same:
            return f"{self.setting}: it learns {self.policy.name}, with a regret of {self.regret:.3g}."
        return (
            f"{self.setting}: it learns a policy with a regret of {self.regret:.3g}; the nearest known policy is "
            f"{self.policy.name} (KL {self.policy.kl:.2g} nats)."
        )


def _no_end(learned: Learned) -> str:
    if learned.outcome == "runs off":
        found = f"no finite minimum was found; log-ratios were still growing at {learned.largest:.0f} nats"
        return f"{found}, with nearly all probability on {learned.kept}" if learned.kept else found
    if learned.outcome == "stays":
        return "it stays at π_ref, where its expected gradient is 0"
    if learned.outcome == "flat":
        return (
            "it stops on a plateau with log-ratios of up to "
            f"{learned.largest:.3g} nats; the loss is constant there, so it has many minima"
        )
    return (
        "descent found no stable point with gradient 0, as happens at a kink or where the loss is nearly flat; its "
        f"last policy has a regret of {learned.regret:.3g}"
    )


@dataclass(frozen=True)
class Optima:
    """What a loss learns, by who wrote the data.

    Attributes:
        beta: at which it was examined; None where the loss has a β of its own.
        learned: by sampler.
        depends_on_sampler: whether another sampler leads to another policy; None where one of them leads nowhere.
        with_values: what it learns with a learned V(x) in an argument `baseline` that has a default.
        with_offset: what it learns when a number is added to the rewards of each prompt; None where it reads none.
        offset_moves: whether that is another policy.
        missing: why nothing was computed; empty otherwise.
        reference_regret: that of π_ref, in reward units; None where nothing was computed.
    """

    beta: float | None
    learned: tuple[Learned, ...]
    depends_on_sampler: bool | None
    with_values: Learned | None
    with_offset: Learned | None
    offset_moves: bool | None
    missing: str = ""
    reference_regret: float | None = None

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        if self.missing:
            return [self.missing]
        own = (
            "the loss is examined at that β"
            if self.beta is not None
            else "the loss names no beta and is examined at its defaults"
        )
        found = [
            f"The world has two prompts with five responses; π* is that of β = {BETA:g}, and {own}.",
            "Data are unlimited, and training is the descent from π_ref; another start may end elsewhere.",
        ]
        if self.reference_regret is not None:
            found.append(f"Regret is J(π*) − J(π): that of π* is 0, and that of π_ref {self.reference_regret:.3g}.")
        found += [learned.sentence() for learned in self.learned]
        if self.depends_on_sampler is not None:
            found.append(
                "What it learns depends on who wrote the data."
                if self.depends_on_sampler
                else "What it learns is the same for all samplers here, each of which gives every response."
            )
        if self.with_values is not None:
            found.append(self.with_values.sentence())
        if self.with_offset is not None:
            found.append(self.with_offset.sentence())
            if self.offset_moves is not None:
                found.append(
                    f"Adding {OFFSETS[0]:+g} and {OFFSETS[1]:+g} to the rewards of the two prompts "
                    f"{'changes' if self.offset_moves else 'does not change'} what it learns."
                )
        if any(
            one is not None and one.outcome == "runs off" for one in (*self.learned, self.with_values, self.with_offset)
        ):
            found += RUNS_OFF
        return found


def not_computed(examinee: Examinee, independent: bool) -> str:
    """Why a loss has no population on a table, as a sentence; empty where it has one."""
    if missing := sorted(UNAVAILABLE & {*examinee.arguments}):
        return f"What it learns was not computed: a run makes {', '.join(missing)} by a rule of its own."
    if not independent:
        return "What it learns was not computed: the loss compares all examples of a batch, so it depends on the batch."
    return ""


def learned_from(
    examinee: Examinee, world: SequenceWorld, feedback: Feedback, sampler: Sampler, setting: str
) -> Learned:
    """What a loss learns from some feedback. The known policies are those of the same feedback."""
    end = settled(Enumeration(examinee, world, feedback, sampler))
    metrics = world.metrics(end.logps)
    policy = identity(end.logps, world, feedback, sampler, examinee.kind) if end.settles else None
    left = kept(end.logps, world.ref_logps, world, feedback, sampler) if end.outcome == "runs off" else ""
    return Learned(
        setting=setting,
        outcome=end.outcome,
        regret=metrics["regret"],
        kl_to_reference=metrics["kl"],
        kl_to_optimum=metrics["kl_to_optimum"],
        largest=end.largest,
        policy=policy,
        kept=left,
        probabilities=tuple(map(tuple, end.logps.exp().tolist())),
    )


def moved_by(first: Learned, second: Learned) -> float | None:
    """The largest difference of a probability between what is learned in two settings; None unless both settle."""
    if not (first.settles and second.settles):
        return None
    return float((torch.tensor(first.probabilities) - torch.tensor(second.probabilities)).abs().max())


def optima(examinee: Examinee, *, independent: bool) -> Optima:
    """Compute what a loss learns from samples of π_ref, of another policy and of the policy itself."""
    examined = at_examined_beta(examinee)
    if reason := not_computed(examinee, independent):
        return Optima(examined.beta, (), None, None, None, None, reason)
    world, other, feedback = standard_setting()
    samplers: dict[str, Sampler] = {FROM_REFERENCE: world.ref_logps, FROM_OTHER: other, FROM_POLICY: None}
    found = {
        name: learned_from(examined, world, feedback, sampler, f"From samples of {name}")
        for name, sampler in samplers.items()
    }
    values = None
    if "baseline" in examinee.arguments and not {"baseline", "groups"} & {*examinee.given}:
        asking = replace(examined, forced=("baseline",))
        words = f"With a learned V(x), from samples of {FROM_OTHER}"
        values = learned_from(asking, world, feedback, other, words) if learns_values(asking) else None
    with_offset, moves = _with_offset(examined, found[FROM_OTHER], world, other)
    return Optima(
        beta=examined.beta,
        learned=tuple(found.values()),
        depends_on_sampler=_differ(found[FROM_REFERENCE], found[FROM_OTHER]),
        with_values=values,
        with_offset=with_offset,
        offset_moves=moves,
        reference_regret=world.metrics(world.ref_logps)["regret"],
    )


def _differ(first: Learned, second: Learned) -> bool | None:
    moved = moved_by(first, second)
    return None if moved is None else moved > SAME


def _with_offset(
    examinee: Examinee, without: Learned, world: SequenceWorld, sampler: Tensor
) -> tuple[Learned | None, bool | None]:
    """What it learns when each prompt's rewards have an offset: pairs and rankings do not show one."""
    if examinee.kind not in ("scores", "labels"):
        return None, None
    rewards = world.rewards + torch.tensor(OFFSETS, dtype=torch.float64)[:, None]
    shifted = SequenceWorld(world.ref_next_logps, rewards, world.beta, length=world.tree.length)
    learned = learned_from(
        examinee, shifted, Feedback.of(rewards), sampler, f"With an offset per prompt, from samples of {FROM_OTHER}"
    )
    return learned, _differ(without, learned)
