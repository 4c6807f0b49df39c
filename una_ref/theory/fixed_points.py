"""The minimiser of a population loss over all policies of a table: what a loss learns from unlimited data.

`fixed_point` minimises any population loss. `una_regression` is the population loss of UNA's Eq. 10. Where it has one
minimiser, `una_fixed_point` is its closed form; where it may have several, `una_minima` lists them, and `una_end` says
which one training reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from una_ref.theory.checks import check_baseline, check_tables, first_bad
from una_ref.theory.optimum import log_partition


class NotConverged(RuntimeError):
    """No minimum was reached: the loss may have no finite minimiser."""


def fixed_point(
    population_loss: Callable[[Tensor], Tensor], start_logps: Tensor, *, tolerance: float = 1e-12
) -> Tensor:
    """Log-probabilities (X, Y) where `population_loss` (log π (X, Y) -> a scalar) has its minimum.

    L-BFGS on the logits from `start_logps` comes so near that differences of the loss are rounding. Newton steps on the
    gradient do the rest. A loss that is not convex gives the minimum that the start leads to. So does one that falls
    towards a greedy policy: gradients in logits vanish there, also where another policy has less loss. Raises
    NotConverged where a gradient in a logit stays above `tolerance` or the point is no minimum, and ValueError where a
    start is zero.
    """
    (start_logps,) = check_tables(start_logps=start_logps.detach())
    if (bad := start_logps == -torch.inf).any():
        raise ValueError(
            f"start_logps: expected finite numbers, got {first_bad(start_logps, bad)}. "
            "Fix: start with every probability above 0"
        )

    def of_logits(logits: Tensor) -> Tensor:
        return population_loss(logits.log_softmax(dim=-1))

    def curvature_at(logits: Tensor) -> Tensor:
        return torch.autograd.functional.hessian(of_logits, logits).view(logits.numel(), -1)

    logits = _lbfgs(of_logits, start_logps)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(of_logits(logits.requires_grad_()), logits)
        logits = logits.detach()
        if gradient.abs().max() <= tolerance or not gradient.isfinite().all():
            break
        # A pseudo-inverse: adding a number to all logits of a prompt changes nothing.
        inverse = torch.linalg.pinv(curvature_at(logits), hermitian=True)
        logits = logits - (inverse @ gradient.flatten()).view_as(logits)
    largest = float(gradient.abs().max())
    if not largest <= tolerance:
        raise NotConverged(f"fixed_point: expected gradients of at most {tolerance:.3g}, got {largest:.3g} in a logit")
    # A gradient is also 0 at a maximum, at a saddle, and on a plateau that falls for ever.
    curvatures = torch.linalg.eigvalsh(curvature_at(logits))
    upwards = int((curvatures > 1e-9 * curvatures.abs().max()).sum())
    expected = logits.numel() - len(logits)
    if upwards != expected:
        raise NotConverged(
            f"fixed_point: expected a loss that curves upwards in {expected} directions, all but one for each prompt, "
            f"got {upwards}: no minimum, or none at finite logits"
        )
    return logits.log_softmax(dim=-1)


def una_regression(
    ref_logps: Tensor,
    rewards: Tensor,
    beta: float,
    *,
    sampler_logps: Tensor | None = None,
    baseline: Tensor | float | Literal["constant", "prompt"] = 0.0,
    normaliser: Literal["identity", "sigmoid"] = "identity",
) -> Callable[[Tensor], Tensor]:
    """log π (X, Y) -> the mean over prompts of E_{y~μ} (h(β·log π/π_ref + b) − r)²   (UNA Eq. 10, EU12).

    μ is `sampler_logps`, π_ref by default, and is not differentiated. h is the identity, or σ as in the authors' code
    (EU11). The baseline b is one of:

    - a number, the c of the paper, 0 by default;
    - a tensor (X, 1): f(x), V(x), or β·log Z(x), with which π* is the minimiser;
    - "constant": the best c for each policy, one for all prompts;
    - "prompt": the best V(x) for each policy, one for each prompt. This is also the population loss of leave-one-out
      baselines: over K independent samples their expected gradient is that of Var_μ(r − β·log π/π_ref).

    Raises ValueError for a best baseline with σ, which has no closed form, and for tables that do not fit.
    """
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = _sampler(sampler_logps, ref_logps)
    weights = sampler.exp()
    if (bad := (weights > 0) & (ref_logps == -torch.inf)).any():
        raise ValueError(
            f"ref_logps: expected finite numbers where the sampler has probability, got {first_bad(ref_logps, bad)}"
        )
    if normaliser not in ("identity", "sigmoid"):
        raise ValueError(f"normaliser: expected 'identity' or 'sigmoid', got {normaliser!r}")
    if isinstance(baseline, str) and (baseline not in ("constant", "prompt") or normaliser == "sigmoid"):
        raise ValueError(
            "baseline: expected a number, a tensor, or (with the identity only) 'constant' or 'prompt', "
            f"got {baseline!r} with the {normaliser}"
        )
    given = None if isinstance(baseline, str) else check_baseline(baseline, rewards)

    def population(logps: Tensor) -> Tensor:
        if logps.shape != rewards.shape:
            raise ValueError(
                f"logps: expected the shape {tuple(rewards.shape)} (prompts, responses), got {tuple(logps.shape)}"
            )
        # A response that is never sampled is not in the sum, whatever its log-ratio.
        implicit = beta * torch.where(weights > 0, logps - ref_logps, 0.0)
        if given is not None:
            b = given
        else:
            b = (weights * (rewards - implicit)).sum(-1, keepdim=True)
            b = b if baseline == "prompt" else b.mean()
        learned = (implicit + b).sigmoid() if normaliser == "sigmoid" else implicit + b
        return (weights * (learned - rewards) ** 2).sum(-1).mean()

    return population


def una_fixed_point(
    ref_logps: Tensor,
    rewards: Tensor,
    beta: float,
    *,
    sampler_logps: Tensor | None = None,
    baseline: Tensor | float = 0.0,
) -> Tensor:
    """log π (X, Y): the one minimiser of `una_regression` (identity, a given baseline), where log Z of r − b is ≥ 0.

    With a = (r − b)/β and a multiplier ν ≥ 0 of Σ π = 1, the log-ratio solves u + (ν/β)·(π_ref/μ)·e^u = a. That is
    u = a − W((ν/β)·(π_ref/μ)·e^a) with Lambert's W. ν is 0 exactly where b = β·log Z(x), and the minimiser is π* there;
    elsewhere only if μ = π*. For rewards that grow without bound it tends to μ.

    Raises ValueError for a prompt where log Z(r − b) < 0: ν is negative there, the loss is not convex and may have
    several minima (`una_minima`, `una_end`). Also for a sampler that never gives some response.
    """
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = _sampler(sampler_logps, ref_logps)
    _check_support(sampler, ref_logps)
    baseline = check_baseline(baseline, rewards)
    above = log_partition(ref_logps, rewards - baseline, beta)
    if (above < -1e-12 * (rewards / beta).abs().amax(-1).clamp(min=1)).any():
        x = int(above.argmin())
        raise ValueError(
            f"baseline: expected log Z(rewards - baseline) >= 0, got {float(above[x]):.4g} in prompt {x}, "
            "where the loss is not convex. Fix: use una_end or fixed_point"
        )
    a = (rewards - baseline) / beta
    tilt = ref_logps - sampler - math.log(beta)

    # The sum of π falls with log ν, at a slope between −1 and 0: Newton's method inside a bracket.
    low = torch.full_like(a[:, :1], -700.0)
    high = (a.abs() + tilt.abs()).amax(-1, keepdim=True).log1p() + tilt.abs().amax(-1, keepdim=True) + 1
    log_nu = high
    for _ in range(200):
        log_kappa = log_nu + tilt
        s = _log_lambert(a + log_kappa)
        logps = ref_logps + s - log_kappa
        excess = logps.logsumexp(-1, keepdim=True)
        low, high = torch.where(excess > 0, log_nu, low), torch.where(excess > 0, high, log_nu)
        if not ((excess.abs() > 1e-15) & (high - low > 1e-15 * high.abs().clamp(min=1))).any():
            break
        slope = (logps.softmax(-1) * s.sigmoid()).sum(-1, keepdim=True)
        newton = log_nu + excess / slope
        log_nu = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
    return logps.log_softmax(-1)


def una_minima(
    ref_logps: Tensor,
    rewards: Tensor,
    beta: float,
    *,
    sampler_logps: Tensor | None = None,
    baseline: Tensor | float = 0.0,
) -> Tensor:
    """log π (X, Y + 1, Y): the local minima of `una_regression` (identity) where log Z(r − b) < 0, NaN for the others.

    The multiplier ν of `una_fixed_point` is then negative, and w = (ν/β)·(π_ref/μ)·e^u solves w·e^w = z < 0. This has
    two roots, W₀ above −1 and W₋₁ below. The loss curves by 2β²μ·(1 + w) in each u, and Σ π = 1 leaves room for one
    direction that curves downwards. So at a minimum at most one response is on W₋₁, and takes nearly all the mass.

    Row k is the minimum with response k on W₋₁, row Y the one with none; the global minimum has the least loss. Rows
    without a minimum are NaN, and so is a prompt with log Z(r − b) ≥ 0, whose minimum is `una_fixed_point`.
    """
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = _sampler(sampler_logps, ref_logps)
    _check_support(sampler, ref_logps)
    baseline, responses = check_baseline(baseline, rewards), rewards.shape[-1]
    a = ((rewards - baseline) / beta)[:, None, :]
    top = a + (ref_logps - sampler)[:, None, :]  # z = −e^(top − t) with t = −log(−ν/β)
    lower = torch.eye(responses + 1, responses, dtype=torch.bool)

    def logps_at(t: Tensor) -> Tensor:
        """(..., X, Y + 1) -> (..., X, Y + 1, Y), not normalised."""
        return ref_logps[:, None, :] + a + _minus_lambert(t[..., None] - top, lower)

    # Both branches meet at z = −1/e, so t starts where the first response reaches it. It ends where response k alone
    # has mass one. With none on W₋₁ the sum falls to exp(log Z) < 1 as t grows.
    first = top.amax(-1).expand(-1, responses + 1) + 1
    v = (-ref_logps[:, None, :] - a).clamp(min=1.0).squeeze(1)
    last = torch.cat([top.squeeze(1) + v - v.log(), first[:, :1] + 800], -1).maximum(first)
    steps = torch.linspace(0, 1, 33, dtype=torch.float64)[:, None, None]
    grid = first + steps * (last - first)
    excess = logps_at(grid).logsumexp(-1)
    excess[:, :, -1] = -excess[:, :, -1]  # every kind then turns from − to + at its minimum
    exists = (excess[0] <= 0) | (excess < 0).any(0)
    last_below = ((excess <= 0) * torch.arange(33)[:, None, None]).amax(0)
    low = grid.gather(0, last_below[None])[0]
    high = grid.gather(0, (last_below + 1).clamp(max=32)[None])[0]
    sign = torch.ones(responses + 1, dtype=torch.float64)
    sign[-1] = -1
    for _ in range(60):
        middle = (low + high) / 2
        above = sign * logps_at(middle).logsumexp(-1) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    minima = logps_at((low + high) / 2).log_softmax(-1)
    exists &= (log_partition(ref_logps, rewards - baseline, beta) < 0)[:, None]
    return torch.where(exists[..., None], minima, math.nan)


def una_end(
    ref_logps: Tensor,
    rewards: Tensor,
    beta: float,
    *,
    sampler_logps: Tensor | None = None,
    baseline: Tensor | float = 0.0,
    which: Literal["descent", "global"] = "descent",
) -> Tensor:
    """log π (X, Y) where `una_regression` (identity, a given baseline) ends: `una_fixed_point` where log Z(r − b) ≥ 0.

    Below that it is one of `una_minima`: with `which` "descent" the one that gradient descent on the logits reaches
    from π_ref, with "global" the one of least loss. The descent only chooses; the result is exact. Raises NotConverged
    where the descent reaches none.
    """
    ref_logps, rewards = check_tables(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = _sampler(sampler_logps, ref_logps)
    if which not in ("descent", "global"):
        raise ValueError(f"which: expected 'descent' or 'global', got {which!r}")
    r = rewards - check_baseline(baseline, rewards)
    below = log_partition(ref_logps, r, beta) < 0
    ends = torch.empty_like(r)
    if not below.all():
        above = ~below
        ends[above] = una_fixed_point(ref_logps[above], r[above], beta, sampler_logps=sampler[above])
    if not below.any():
        return ends
    ref, r, mu = ref_logps[below], r[below], sampler[below].exp()
    minima = una_minima(ref, r, beta, sampler_logps=sampler[below])
    there = ~minima[..., 0].isnan()
    if which == "global":
        loss = (mu[:, None] * (beta * (minima - ref[:, None]) - r[:, None]) ** 2).sum(-1)
        chosen = loss.where(there, torch.inf).argmin(-1)
    else:
        rate = 1 / (beta * (2 * beta + r.abs().amax(-1, keepdim=True)))  # one over a bound of the loss's curvature
        chosen = there.long().argmax(-1)  # the only one, where there is only one
        moving = there.sum(-1) > 1
        logits, velocity = ref.clone(), torch.zeros_like(ref)
        for step in range(60_000):
            if not moving.any():
                break
            logps = logits.log_softmax(-1)
            slope = 2 * beta * mu * (beta * (logps - ref) - r)
            # Momentum crosses flat places. It begins late: from the start it may lead to another minimum.
            momentum = 0.95 if step > 3000 else 0.0
            velocity = momentum * velocity - rate * (slope - logps.exp() * slope.sum(-1, keepdim=True))
            logits = logits + velocity
            if step % 500 == 499:
                distance = (minima.exp() - logits.softmax(-1)[:, None]).abs().amax(-1).where(there, torch.inf)
                arrived = moving & (distance.amin(-1) < 0.02)
                chosen = torch.where(arrived, distance.argmin(-1), chosen)
                moving = moving & ~arrived
        if moving.any():
            raise NotConverged(f"una_end: expected descent to reach a minimum, got none in {int(moving.sum())} prompts")
    ends[below] = minima[torch.arange(len(r)), chosen]
    return ends


def _sampler(sampler_logps: Tensor | None, ref_logps: Tensor) -> Tensor:
    """The sampler's table, π_ref by default. Raises ValueError unless it fits."""
    if sampler_logps is None:
        return ref_logps
    return check_tables(sampler_logps=sampler_logps, ref_logps=ref_logps)[0]


def _check_support(sampler: Tensor, ref_logps: Tensor) -> None:
    if not (sampler.isfinite().all() and ref_logps.isfinite().all()):
        raise ValueError(
            "sampler_logps and ref_logps: expected finite numbers, got -inf. "
            "Fix: leave out responses that either never gives"
        )


def _log_lambert(z: Tensor) -> Tensor:
    """log W(e^z), the s with s + e^s = z; with gradient."""
    return cast(Tensor, _LogLambert.apply(z))


class _LogLambert(torch.autograd.Function):
    """scipy's Wright omega function, with its derivative ds/dz = 1/(1 + e^s)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        from scipy.special import wrightomega

        w = torch.from_numpy(wrightomega(z.detach().numpy()))
        s = torch.where(z > 1, w.log(), z - w)  # each where it keeps its digits
        ctx.save_for_backward(s)
        return s

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return gradients[0] * (-s).sigmoid()


def _minus_lambert(s: Tensor, lower: Tensor) -> Tensor:
    """−W(−e^(−s)) for s ≥ 1, the v with v − log v = s: above 1 (W₋₁) where `lower`, else below 1 (W₀).

    `scipy.special.lambertw` has four digits near the branch point s = 1, which the minima come near.
    """
    s = s.clamp(min=1.0)
    root = (2 * (s - 1)).sqrt()
    # Bounds that become exact at s = 1, where the two roots meet; from them Newton's method never overshoots.
    big, q = s + root, torch.maximum((1 - root).clamp(min=1e-300).log(), -s)
    for _ in range(8):
        big = big - (big - big.log() - s) / (1 - 1 / big).clamp(min=1e-12)
        w = q.exp()
        q = q + (w - q - s) / (1 - w).clamp(min=1e-12)
    return torch.where(lower, big, q.exp())


def _lbfgs(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where L-BFGS ends from `start`."""
    x = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        value = loss(x)
        (x.grad,) = torch.autograd.grad(value, x)
        return value

    optimiser.step(closure)
    return x.detach()
