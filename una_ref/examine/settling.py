"""Where training ends with unlimited data: the point that the expected gradient leads to, or where it runs.

A loss that is minimised on a fixed data set ends where `theory.fixed_point` finds its minimum. Samples of the current
policy, and parts that a loss holds constant, make a gradient that is no derivative of a mean loss. Then the end is a
root of the expected gradient that descent reaches and stays at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from una_ref.examine.enumeration import Enumeration
from una_ref.examine.signature import Examinee
from una_ref.examine.soundness import probes
from una_ref.theory import NotConverged, fixed_point

FAR = 40.0
"""A log-ratio to the start, in nats, from which a policy is said to run off."""
MOVING = 0.05
"""A last step of more nats than this is one of a policy that still moves, however small its gradient."""
MOST = 100
"""Evaluations of the mean loss before the search for a smooth minimum is given up."""
NOTHING = 1e-13
"""An expected gradient below this is rounding."""
STEPS = 40
"""Steps of the descent before it is given up."""
LATE = 10
"""The last steps, in each of which a policy that runs off moves further away at a smaller gradient."""
PLATEAU = 1e-18
"""A gradient below this, here and nearby, is exactly 0 up to rounding: the loss is constant there."""

Outcome = Literal["settles", "runs off", "stays", "flat", "unsettled"]
"""A finite end; log-ratios that were still growing (see `RUNS_OFF`); no gradient at the start; a plateau, where the
loss is constant; or no point without gradient, as with a kink at the minimum."""
RUNS_OFF = (
    f"“Still growing” means that a log-ratio to π_ref passed {FAR:g} nats, or that the gradient was not finite.",
    f"It also means that steps of more than {MOVING:g} nats went on, at a falling gradient or at one of rounding.",
)
"""How "runs off" is tested, as sentences."""


@dataclass(frozen=True)
class End:
    """Where training ends.

    Attributes:
        logps: (X, S) log π, the last one that was reached.
        outcome: whether the expected gradient is 0 there and leads back to it.
        largest: largest |log π/π_start|, in nats.
    """

    logps: Tensor
    outcome: Outcome
    largest: float

    @property
    def settles(self) -> bool:
        """Whether it is a finite end."""
        return self.outcome == "settles"


def expected_gradient(enumeration: Enumeration) -> Callable[[Tensor], Tensor]:
    """Logits (X, S) -> the expected gradient in them; V(x), where the loss asks for one, is at its best value."""

    def field(logits: Tensor) -> Tensor:
        logits = logits.detach().requires_grad_()
        logps = logits.log_softmax(-1)
        (gradient,) = torch.autograd.grad(enumeration.loss(logps, best_values(enumeration, logps)), logits)
        return gradient

    return field


def best_values(enumeration: Enumeration, logps: Tensor) -> Tensor | None:
    """V(x) (X,) with the least loss at a policy, or None where the loss asks for none.

    It is 0 in a loss that is not curved in V(x), such as a score function, whose value says nothing about V(x).
    The last Newton step has a gradient in the policy, so that second derivatives through V(x) are right.
    """
    if "baseline" not in enumeration.examinee.given:
        return None
    values = enumeration.last_values  # of a policy nearby, from the last call
    fixed = logps.detach()

    def slopes(at: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = values.detach().requires_grad_()
        (slope,) = torch.autograd.grad(enumeration.loss(at, values), values, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), values, retain_graph=True)
        return values, slope, curvature

    if enumeration.learns is None:
        enumeration.learns = learns_values(enumeration.examinee)
    if not enumeration.learns:
        return values
    for _ in range(20):
        values, slope, curvature = slopes(fixed, values)
        step = (slope / curvature.clamp(min=1e-9)).detach().clamp(-2, 2)
        values = values.detach() - step
        if step.abs().max() < 1e-13:
            break
    enumeration.last_values = values.detach()
    at, slope, curvature = slopes(logps, values)
    return at.detach() - slope / curvature.detach().clamp(min=1e-9)


def learns_values(examinee: Examinee) -> bool:
    """Whether a loss that is given ``baseline`` is curved in it, so that a V(x) can be learned with it."""
    given = probes(examinee)
    if "baseline" not in given:
        return False
    values = given["baseline"].requires_grad_()
    loss = examinee(given)
    if not loss.requires_grad:
        return False
    (slope,) = torch.autograd.grad(loss.sum(), values, create_graph=True, allow_unused=True)
    return slope is not None and slope.requires_grad


def settled(enumeration: Enumeration) -> End:
    """Where descent from π_ref ends."""
    start, field = enumeration.world.ref_logps, expected_gradient(enumeration)
    if float(field(start).abs().max()) < NOTHING:
        return End(start, "stays", 0.0)
    if _conservative(enumeration, start):
        calls = 0

        def population(logps: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > MOST:
                raise NotConverged(f"settled: expected a minimum within {MOST} evaluations")
            return enumeration.loss(logps, best_values(enumeration, logps))

        try:
            logps = fixed_point(population, start)
            calls = 0
            outcome: Outcome = "runs off" if _newton_step(population, logps) > MOVING else "settles"
            return End(logps, outcome, _largest(logps, start))
        except (NotConverged, RuntimeError):
            pass  # the flow says where it runs; an ill-conditioned Hessian is one of a loss that runs off
    return _flow(field, start, coupled=_coupled(field, start))


def _newton_step(population: Callable[[Tensor], Tensor], logps: Tensor) -> float:
    """The largest entry of Newton's next step, in nats: rounding at a minimum, about 1/β where a margin runs off."""

    def of_logits(logits: Tensor) -> Tensor:
        return population(logits.log_softmax(-1))

    logits = logps.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of_logits(logits), logits)
    curvature = torch.autograd.functional.hessian(of_logits, logits.detach()).view(logits.numel(), -1)
    scale = curvature.diagonal().abs().clamp(min=1e-300).sqrt()  # responses that are almost gone keep their digits
    step = torch.linalg.lstsq(curvature / scale / scale[:, None], (gradient.flatten() / scale), driver="gelsd").solution
    return float((step / scale).abs().max())


def _conservative(enumeration: Enumeration, logps: Tensor, width: float = 1e-5) -> bool:
    """Whether the expected gradient is the derivative of the mean loss, along one direction."""
    if enumeration.sampler is None:
        return False
    direction = torch.randn(logps.shape, generator=torch.Generator().manual_seed(3), dtype=logps.dtype)

    def value(at: Tensor) -> Tensor:
        at = at.log_softmax(-1)
        return enumeration.loss(at, best_values(enumeration, at)).detach()

    difference = float(value(logps + width * direction) - value(logps - width * direction)) / (2 * width)
    slopes = expected_gradient(enumeration)(logps) * direction
    return abs(difference - float(slopes.sum())) <= 1e-6 * max(float(slopes.abs().sum()), 1e-12)


def _coupled(field: Callable[[Tensor], Tensor], start: Tensor) -> bool:
    """Whether the gradient of one prompt depends on the policy of another, through a number of the whole batch."""
    if len(start) < 2:
        return False
    moves = torch.randn(start.shape, generator=torch.Generator().manual_seed(7), dtype=start.dtype)
    first, second = start + moves, start + moves
    second[0] -= 2 * moves[0]
    others, again = field(first)[1:], field(second)[1:]
    return not torch.allclose(others, again, rtol=1e-9, atol=1e-12 * float(others.abs().max()))


def _largest(logps: Tensor, start: Tensor) -> float:
    return float((logps - start).abs().max())


def _flow(field: Callable[[Tensor], Tensor], start: Tensor, *, coupled: bool) -> End:
    """Implicit descent steps that grow: (1/τ + J)·step = −gradient. It follows the descent, and ends like Newton."""
    logits, gradient = start.clone(), field(start)
    curvature = _jacobian(field, logits, gradient, coupled)
    rate, last, outcome = 1.0 / float(gradient.abs().max().clamp(min=1e-30)), 0.0, "unsettled"
    seen: list[tuple[float, float]] = []  # (−largest gradient, largest log-ratio) of each step
    for _ in range(STEPS):
        largest = float(gradient.abs().max())
        if largest < PLATEAU and _is_plateau(field, logits):
            outcome = "flat"
            break
        if largest < 1e-12:
            outcome = "runs off" if last > MOVING else "settles"
            break
        damped = curvature + torch.eye(start.numel(), dtype=start.dtype) / rate
        step = -torch.linalg.lstsq(damped, gradient.flatten()).solution.view_as(logits)
        step = step / max(1.0, float(step.abs().max()) / 3)  # a step of 3 nats at most
        moved = logits + step - (logits + step).mean(-1, keepdim=True)
        following = field(moved)
        if not following.isfinite().all():
            outcome = "runs off"
            break
        rate = min(1e12, max(1e-3, rate * min(4.0, largest / max(1e-300, float(following.abs().max())))))
        logits, gradient, last = moved, following, float(step.abs().max())
        seen.append((-float(gradient.abs().max()), _largest(logits.log_softmax(-1), start)))
        if seen[-1][1] > FAR:
            outcome = "runs off"
            break
        curvature = _jacobian(field, logits, gradient, coupled)
    logps = logits.log_softmax(-1)
    if outcome == "unsettled" and last > MOVING and _grows(seen[-LATE:]):
        outcome = "runs off"
    if outcome == "settles":
        curvatures = torch.linalg.eigvals(curvature).real
        upwards = int((curvatures > 1e-7 * curvatures.abs().max()).sum())
        outcome = "settles" if upwards >= start.numel() - len(start) else "unsettled"
    return End(logps, cast(Outcome, outcome), _largest(logps, start))


def _grows(seen: list[tuple[float, float]]) -> bool:
    """Whether gradients fell and log-ratios grew in every step; around a kink they go up and down."""
    return all(one < two and near < far for (one, near), (two, far) in pairwise(seen))


def _is_plateau(field: Callable[[Tensor], Tensor], logits: Tensor, width: float = 0.01) -> bool:
    """Whether the gradient stays 0 where every logit moves a little. A tail that falls for ever has a tiny gradient."""
    nearby = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6), dtype=logits.dtype)
    return float(field(logits + width * nearby).abs().max()) < PLATEAU


def _jacobian(
    field: Callable[[Tensor], Tensor], logits: Tensor, here: Tensor, coupled: bool, width: float = 1e-6
) -> Tensor:
    """(n, n) derivative of the expected gradient, by differences: constants that a loss holds move with the policy.

    Unless prompts are coupled by a number of the whole batch, one response of every prompt moves at once.
    """
    prompts, size = logits.shape
    curvature = torch.zeros(prompts, size, prompts, size, dtype=logits.dtype)
    for y in range(size):
        for moving in [[x] for x in range(prompts)] if coupled else [list(range(prompts))]:
            moved = logits.clone()
            moved[moving, y] += width
            slopes = (field(moved) - here) / width
            if coupled:
                curvature[:, :, moving[0], y] = slopes
            else:
                rows = torch.arange(prompts)
                curvature[rows, :, rows, y] = slopes
    return curvature.view(logits.numel(), -1)
