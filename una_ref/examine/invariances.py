"""What a loss ignores: a number added to the rewards of a prompt, lengths, order, copies of a batch, scale, who won."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from una_ref.examine.enumeration import BETA, Enumeration, Feedback, small_world
from una_ref.examine.settling import expected_gradient
from una_ref.examine.signature import Examinee
from una_ref.examine.soundness import ALIKE, SIZE, gradients_of, probes
from una_ref.methods.arguments import SIDES

OLD = ("old_", "chosen_old_", "rejected_old_")
"""How names of log-probabilities of the policy that sampled begin."""


@dataclass(frozen=True)
class Invariances:
    """What changes nothing, and what changes how much.

    Attributes:
        offset_gap: relative change of the gradient when a number g(x) is added to the rewards of each prompt.
        offset: whether g(x) is ignored: in "every batch", only "in expectation", or not ("no").
        offset_added_to: what g(x) was added to.
        permutation: whether reordered examples have reordered losses.
        duplication: whether a batch that stands twice has its losses twice.
        reads_length: relative change of the gradient when lengths double and log-probs do not; None without lengths.
        per_token: whether doubled lengths and log-probs together change nothing.
        degree: k, where c times β and the scores, at the same log-probs, give c^k times the loss, or None.
        ratio_degree: k, where c times β and 1/c times the log-probs give c^k times the loss.
        raises_margin: share of examples where a step raises the chosen (positive, better) response's log-prob against
            the other (negative, worse) one; None where the feedback has no direction.
        lowers_margin: share of examples where a step lowers it. In the rest it stays as it is.
        one_margin: whether the two log-probs of every pair have opposite gradients; None for other feedback.
        swap: what exchanging the two responses of a pair does: "ignored", "a line in the margin" or "other".
    """

    offset_gap: float
    offset: str
    offset_added_to: str
    permutation: bool
    duplication: bool
    reads_length: float | None
    per_token: bool | None
    degree: float | None
    ratio_degree: float | None
    raises_margin: float | None
    lowers_margin: float | None
    one_margin: bool | None
    swap: str | None

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        added = f"A number g(x) added to {self.offset_added_to} of each prompt"
        found = [
            {
                "every batch": f"{added} changes no gradient.",
                "in expectation": f"{added} changes the gradient of a batch by {self.offset_gap:.0%}, but not its "
                "expectation over samples of the policy.",
                "no": f"{added} changes the gradient by {self.offset_gap:.0%}.",
            }[self.offset]
        ]
        found.append(f"Reordering the examples {'reorders the losses' if self.permutation else 'changes the losses'}.")
        found.append(f"A batch given twice {'has its losses twice' if self.duplication else 'has other losses'}.")
        if self.reads_length is not None:
            found.append(
                "It counts log-probs per token: doubled lengths and log-probs change nothing."
                if self.per_token
                else f"Doubled lengths at the same log-probs change the gradient by {self.reads_length:.0%}."
            )
        if self.degree is not None:
            found.append(f"Twice β and scores, at the same log-probs, give {2**self.degree:.4g} times the loss.")
        if self.ratio_degree is not None:
            found.append(
                f"Twice β and half the log-probs give {2**self.ratio_degree:.4g} times the loss."
                if self.ratio_degree
                else "β multiplies log-probs and nothing else: twice β and half the log-probs change nothing."
            )
        if self.raises_margin is not None:
            found.append(f"A step favours the better response in {self.raises_margin:.0%} of random examples.")
            if self.lowers_margin == 1:
                found.append("It always favours the worse response, so its sign or its sides may be exchanged.")
            elif not self.raises_margin and not self.lowers_margin:
                found.append("It favours neither response: a step moves both by the same, so a sign may be wrong.")
        if self.one_margin is not None:
            found.append(
                "The two log-probs of a pair have opposite gradients."
                if self.one_margin
                else "The two log-probs of a pair have gradients that are not opposite."
            )
        if self.swap is not None:
            found.append(_SWAPS[self.swap])
        return found


_SWAPS = {
    "ignored": "Exchanging chosen and rejected changes nothing: it does not read who won.",
    "a line in the margin": "Exchanging chosen and rejected adds a multiple of the margin, as in the logistic loss.",
    "other": "Exchanging chosen and rejected changes the loss by something else than a multiple of the margin.",
}


def invariances(examinee: Examinee) -> Invariances:
    """Measure them on random examples."""
    gap, added = offset_gap(examinee)
    every = gap < 1e-10
    reads, per_token = _length(examinee)
    raised, lowered = _direction(examinee)
    return Invariances(
        offset_gap=gap,
        offset="every batch" if every else "in expectation" if _in_expectation(examinee) else "no",
        offset_added_to=added,
        permutation=_permutation(examinee),
        duplication=_duplication(examinee),
        reads_length=reads,
        per_token=per_token,
        degree=_degree(examinee, 2.0, ("scores", "margins", "baseline", "score_sd")),
        ratio_degree=_degree(examinee, 0.5, ("logps", "kl", "gap", "gap_sd", "gain")),
        raises_margin=raised,
        lowers_margin=lowered,
        one_margin=_one_margin(examinee),
        swap=_swap(examinee),
    )


# ---- an offset per prompt


def offset_gap(examinee: Examinee) -> tuple[float, str]:
    """(relative change of the gradient, what was moved) when a number g(x) is added to the rewards of a prompt.

    With a reference, log π_ref falls by g(x)/β, which adds g(x) to β·log π/π_ref. Scorers' outputs and, in losses
    without a reference, log π itself move by g(x). A registered method whose reward is not β·log π plus a term has
    another function in the place of its reward. A V(x) that the loss learns takes its best value again. Where rewards
    are scores, scores move instead.
    """
    given = probes(examinee)
    beta = examinee.beta or BETA
    offset = torch.randn(SIZE // 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    offset = offset.repeat_interleave(2)
    moved, words = _moved(examinee, given, offset, beta)
    record = examinee.record
    function = record.reward.function if record is not None else None
    before = _gradients(examinee, given, beta)
    own = function is not None and record is not None and examinee.loss is record.loss
    additive = words == LOG_RATIOS and "divergence" not in examinee.hyperparameters
    if words in (LOG_PROBS, LOG_RATIOS) and not additive and own and function is not None:
        with replaced(examinee.loss, function, offset[:, None] if examinee.kind == "lists" else offset):
            return _gap(before, _gradients(examinee, given, beta)), "the reward"
    return _gap(before, _gradients(examinee, moved, beta)), words


LOG_PROBS, LOG_RATIOS, SCORES, OUTPUTS = "log π", "the log-ratios", "the scores", "the rewards"


def _moved(examinee: Examinee, given: Mapping[str, Any], offset: Tensor, beta: float) -> tuple[dict[str, Any], str]:
    """The arguments with g(x) in the rewards of each prompt, and what was moved."""
    column = offset[:, None]
    tokens = {
        n: torch.cat([x[:, :1] - column / beta, x[:, 1:]], 1) for n, x in given.items() if _lowered(n, "token_logps")
    }
    wide = column if examinee.kind == "lists" else offset
    lowered = {n: x - wide / beta for n, x in given.items() if _lowered(n, "logps") and n not in tokens}
    rewards = {n: x + wide for n, x in given.items() if n.endswith("rewards")}
    penalised = "scores" in given and any(n.startswith("old_token") for n in given)  # the reference is a penalty
    if penalised:
        return {**given, "scores": given["scores"] + wide}, SCORES
    if tokens or lowered:
        return {**given, **lowered, **tokens}, LOG_RATIOS
    if rewards:
        return {**given, **rewards}, OUTPUTS
    if "scores" in given and examinee.kind != "lists":
        return {**given, "scores": given["scores"] + wide}, SCORES
    policy = {
        n: x + wide for n, x in given.items() if n in examinee.trained and n.endswith("logps") and "token" not in n
    }
    return {**given, **policy}, LOG_PROBS


def _lowered(name: str, end: str) -> bool:
    """Whether log-probs are those of what the policy is measured against."""
    return name.endswith(end) and name.startswith(("ref_", "second_ref_", *OLD))


@contextmanager
def replaced(loss: Callable[..., Tensor], function: Callable[..., Tensor], offset: Tensor) -> Iterator[None]:
    """While it lasts, a loss finds its reward function plus an offset in the place of it."""
    scope = loss.__globals__
    if scope.get(function.__name__) is not function:
        yield
        return
    scope[function.__name__] = lambda *args, **kwargs: function(*args, **kwargs) + offset
    try:
        yield
    finally:
        scope[function.__name__] = function


def _gradients(examinee: Examinee, given: Mapping[str, Any], beta: float) -> Tensor:
    """The gradient in everything that is trained, as one row. A required V(x) has its best value of a squared loss."""
    if "baseline" in given:
        known = given.get("scores", given.get("labels"))
        gap = known.detach().to(torch.float64) - beta * (given["logps"] - given["ref_logps"]).detach()
        given = {**given, "baseline": gap.view(-1, 2).mean(1).repeat_interleave(2)}
    return torch.cat([g.flatten() for g in gradients_of(examinee, given).values()])


def _gap(before: Tensor, after: Tensor) -> float:
    return float((after - before).norm() / before.norm().clamp(min=1e-300))


def _in_expectation(examinee: Examinee) -> bool:
    """Whether scores plus g(x) leave the expected gradient over samples of the policy as it is."""
    if examinee.kind != "scores" or not {"scores"} <= {*examinee.given} or "win_rates" in examinee.given:
        return False
    world, _ = small_world()
    logits = torch.randn(world.rewards.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    steps = []
    for offset in (0.0, 5.0):
        shifted = world.rewards + torch.tensor([[offset], [-offset]], dtype=torch.float64)
        feedback = Feedback.of(world.rewards)
        feedback = Feedback(feedback.preferences, feedback.positive, shifted, shifted)
        try:
            enumeration = Enumeration(examinee, world, feedback, None)
        except ValueError:
            return False  # it names what only a run can make
        steps.append(expected_gradient(enumeration)(logits))
    return _gap(*steps) < 1e-10


# ---- order, copies, lengths, scale


def _alike(first: Tensor, second: Tensor) -> bool:
    return bool(torch.allclose(first, second, rtol=ALIKE, atol=ALIKE))


def _permutation(examinee: Examinee) -> bool:
    given, order = probes(examinee), torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {name: x[order] if x.dim() else x for name, x in given.items()}
    return _alike(examinee(moved).detach(), examinee(given).detach()[order])


def _duplication(examinee: Examinee) -> bool:
    given = probes(examinee)
    twice = {name: torch.cat([x, x]) if x.dim() else x for name, x in given.items()}
    if "groups" in given:  # the copies answer other prompts
        twice["groups"] = torch.cat([given["groups"], given["groups"] + SIZE])
    return _alike(examinee(twice).detach(), examinee(given).detach().repeat(2))


def _length(examinee: Examinee) -> tuple[float | None, bool | None]:
    """(relative change with doubled lengths, whether doubled lengths and log-probs change nothing)."""
    given = probes(examinee)
    lengths = {name: 2 * x for name, x in given.items() if name.endswith("lengths")}
    if not lengths:
        return None, None
    doubled = {name: 2 * x for name, x in given.items() if name.endswith("logps")}
    before = torch.cat([g.flatten() for g in gradients_of(examinee, given).values()])
    after = torch.cat([g.flatten() for g in gradients_of(examinee, {**given, **lengths}).values()])
    per_token = _alike(examinee({**given, **lengths, **doubled}).detach(), examinee(given).detach())
    return _gap(before, after), per_token


def _degree(examinee: Examinee, factor: float, ends: tuple[str, ...]) -> float | None:
    """k, where 2β and `factor` times the arguments whose names end so give 2^k times the loss."""
    if examinee.beta is None:
        return None
    given = probes(examinee)
    scaled = {name: factor * x if name.endswith(ends) else x for name, x in given.items()}
    if all(scaled[name] is given[name] for name in given):
        return None
    ratio = examinee.at(beta=2 * examinee.beta)(scaled).detach() / examinee(given).detach()
    if not ratio.isfinite().all() or (ratio <= 0).any() or (ratio / ratio[0] - 1).abs().max() > 1e-9:
        return None
    return round(math.log2(float(ratio[0])), 9)


# ---- who is better


def _direction(examinee: Examinee) -> tuple[float | None, float | None]:
    """The shares of examples where a step favours the better response, and where it favours the worse one."""
    steps: list[Tensor] = []  # above 0 where the better response gains against the worse one
    for seed in range(8):
        given = probes(examinee, seed=seed)
        slopes = gradients_of(examinee, given)
        if examinee.kind == "pairs":
            if any(name.endswith(("margins", "scores")) for name in given):
                return None, None  # what is right depends on how large the margin should be
            of_responses = [name for name in slopes if not name.endswith("logits")]
            parts = [(-1 if name.startswith("chosen") else 1) * _summed(slopes[name]) for name in of_responses]
            if parts:
                step, size = torch.stack(parts).sum(0), torch.stack(parts).abs().sum(0)
                steps.append(torch.where(step.abs() > ALIKE * size, step, 0.0))
        elif examinee.kind == "labels" and not any(name.endswith(("token_logps", "logits")) for name in slopes):
            labels = given["labels"] > 0.5
            whole = {**given, "labels": labels.to(torch.float64)}
            slope = torch.as_tensor(sum(_summed(g) for g in gradients_of(examinee, whole).values()))
            steps.append(torch.where(labels, -slope, slope)[slope != 0])
    every = torch.cat(steps) if steps else torch.zeros(0)
    return (float((every > 0).double().mean()), float((every < 0).double().mean())) if len(every) else (None, None)


def _one_margin(examinee: Examinee) -> bool | None:
    """Whether the gradients of a pair's two log-probs, or a scorer's two outputs, sum to 0."""
    slopes = gradients_of(examinee, probes(examinee))
    for first, second in (("chosen_logps", "rejected_logps"), ("chosen_rewards", "rejected_rewards")):
        if first in slopes and second in slopes:
            return _alike(slopes[first], -slopes[second])
    return None


def _summed(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).sum(1) if gradient.dim() > 1 else gradient


def _swap(examinee: Examinee) -> str | None:
    """What exchanging the two responses of a pair does to the loss."""
    if examinee.kind != "pairs":
        return None
    given = probes(examinee, 4 * SIZE)
    partners = [(a, a.replace(SIDES[0], SIDES[1])) for a in given if SIDES[0] in a]
    if any(b not in given for _, b in partners) or any(b.replace(SIDES[1], SIDES[0]) not in given for _, b in partners):
        return None
    swapped = dict(given)
    for a, b in partners:
        swapped[a], swapped[b] = given[b], given[a]
    if "margins" in given:
        swapped["margins"] = -given["margins"]
    difference = (examinee(given) - examinee(swapped)).detach()
    if difference.abs().max() < ALIKE:
        return "ignored"
    if not all(name.endswith(("logps", "rewards", "margins")) for name in given):
        return None  # lengths and masks change the margin, too
    margin = torch.zeros_like(difference)
    for name, x in given.items():
        if name.endswith(("logps", "rewards")):
            sign = (1 if "chosen" in name else -1) * (-1 if name.startswith("ref_") or "old" in name else 1)
            margin = margin + sign * (x.sum(-1) if x.dim() > 1 else x)
    slope = (difference * margin).sum() / (margin * margin).sum()
    return "a line in the margin" if _alike(slope * margin, difference) else "other"
