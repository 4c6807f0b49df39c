"""What a loss really learns: the minimiser of its population loss over all policies of a table.

`fixed_point` minimises any population loss; `una_regression` is that of UNA's Eq. 10 in all its readings, and
`una_fixed_point` its minimiser in closed form, where there is one; `una_minima` are its minima where there may be more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from una_ref.theory.optimum import _check, _first, log_partition


class NotConverged(RuntimeError):
    """The minimisation stopped where the gradient is not zero: the loss may have no finite minimiser."""


def fixed_point(
    population_loss: Callable[[Tensor], Tensor],
    start_logps: Tensor,
    *,
    tolerance: float = 1e-12,
    newton_steps: int = 50,
) -> Tensor:
    """Log-probabilities (X, Y) where `population_loss` (log π (X, Y) -> a scalar) has its minimum.

    L-BFGS on the logits from `start_logps`, which ends where differences of the loss drown in rounding, then
    Newton steps on the gradient itself. Where the loss is not convex, the minimum that `start_logps` leads
    to. Raises NotConverged when the largest gradient in a logit is still above `tolerance`, and ValueError where
    `start_logps` is no table of positive probabilities.
    """
    (start_logps,) = _check(start_logps=start_logps.detach())
    if (bad := start_logps == -torch.inf).any():
        raise ValueError(f"start_logps must be finite, got {_first(start_logps, bad)}: no logit leads back from zero")

    def of_logits(logits: Tensor) -> Tensor:
        return population_loss(logits.log_softmax(dim=-1))

    def slope(logits: Tensor) -> Tensor:
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(of_logits(logits), logits)[0]

    logits = _lbfgs(of_logits, start_logps)
    gradient = slope(logits)
    for _ in range(newton_steps):
        if gradient.abs().max() <= tolerance or not gradient.isfinite().all():
            break
        curvature = torch.autograd.functional.hessian(of_logits, logits).view(logits.numel(), -1)
        # A pseudo-inverse: adding a number to a prompt's logits changes nothing.
        step = (torch.linalg.pinv(curvature, hermitian=True) @ gradient.flatten()).view_as(logits)
        trials = [logits - step * 0.5**halvings for halvings in range(20)]
        slopes = (slope(trial) for trial in trials)
        better = ((t, g) for t, g in zip(trials, slopes, strict=True) if g.abs().max() < gradient.abs().max())
        logits, gradient = next(better, (logits, gradient))
    largest = float(gradient.abs().max())
    if not largest <= tolerance:
        raise NotConverged(f"the largest gradient in a logit is {largest:.3g}, above {tolerance:.3g}")
    # A gradient is also 0 at a maximum, at a saddle, and on a plateau that falls for ever.
    curvature = torch.autograd.functional.hessian(of_logits, logits).view(logits.numel(), -1)
    curvatures = torch.linalg.eigvalsh(curvature)
    up = int((curvatures > 1e-9 * curvatures.abs().max()).sum())
    if up != logits.numel() - len(logits):
        raise NotConverged(
            f"the loss curves upwards in {up} directions, expected {logits.numel() - len(logits)}, "
            "all but one a prompt: no minimum, or none at a finite logit"
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

    μ is `sampler_logps`, π_ref by default, and is not differentiated. The baseline b is a number (c; 0 is the paper's
    default), a tensor (X, 1) (f(x), V(x), or β·log Z(x), at which π* is the minimiser), or the best
    one for each policy: "constant", one c for all prompts, or "prompt", one V(x) for each. The last is the population
    of leave-one-out baselines too: for K independent draws their expected gradient is that of Var_μ(r − β·log π/π_ref).
    h is the identity, or σ as in the authors' code (EU11); with σ a best baseline has no closed form and is refused.
    """
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = ref_logps if sampler_logps is None else _check(rewards=rewards, sampler_logps=sampler_logps)[0]
    weights = sampler.exp()
    if (bad := (weights > 0) & (ref_logps == -torch.inf)).any():
        raise ValueError(f"ref_logps must be finite where the sampler draws, got {_first(ref_logps, bad)}")
    if normaliser not in ("identity", "sigmoid"):
        raise ValueError(f"normaliser must be 'identity' or 'sigmoid', got {normaliser!r}")
    if isinstance(baseline, str) and (baseline not in ("constant", "prompt") or normaliser == "sigmoid"):
        raise ValueError(
            "baseline must be a number, a tensor, or (identity only) 'constant' or 'prompt'; "
            f"got {baseline!r} with the {normaliser}"
        )
    given = None if isinstance(baseline, str) else _per_prompt(baseline, rewards)

    def population(logps: Tensor) -> Tensor:
        if logps.shape != rewards.shape:
            raise ValueError(f"logps must be {tuple(rewards.shape)} (prompts, responses), got {tuple(logps.shape)}")
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

    With a = (r − b)/β and a multiplier ν ≥ 0 of Σ π = 1, the log-ratio solves u + (ν/β)·(π_ref/μ)·e^u = a, that is
    u = a − W((ν/β)·(π_ref/μ)·e^a) with Lambert's W; ν = 0, and so π*, exactly where b = β·log Z(x). For rewards that
    grow without bound π tends to μ. Raises ValueError for a prompt where log Z(r − b) < 0, as there ν is negative, the
    loss is not convex and its minima may be several (`una_minima`, `una_end`), and for a sampler that leaves out a
    response.
    """
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = ref_logps if sampler_logps is None else _check(rewards=rewards, sampler_logps=sampler_logps)[0]
    if not (sampler.isfinite().all() and ref_logps.isfinite().all()):
        raise ValueError("sampler_logps and ref_logps must be finite: each response is drawn now and then")
    baseline = _per_prompt(baseline, rewards)
    above = log_partition(ref_logps, rewards - baseline, beta)
    if (above < -1e-12 * (rewards / beta).abs().amax(-1).clamp(min=1)).any():
        x = int(above.argmin())
        raise ValueError(
            f"rewards less baseline must have log Z >= 0 in each prompt, prompt {x} has {float(above[x]):.4g}: "
            "below that the loss is not convex; use una_end or fixed_point"
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
    """log π (X, Y + 1, Y): the local minima of `una_regression` (identity) where log Z(r − b) < 0; NaN for one less.

    The multiplier ν of `una_fixed_point` is then negative, and w = (ν/β)·(π_ref/μ)·e^u solves w·e^w = z < 0, which has
    two roots, W₀ above −1 and W₋₁ below. The loss curves by 2β²μ·(1 + w) in each u, and Σ π = 1 leaves room for one
    direction that curves downwards: at a minimum at most one response is on W₋₁, which takes nearly all the mass. Row k
    is the minimum with response k there, row Y the one with none; the global minimum is the one of least loss. A prompt
    with log Z(r − b) ≥ 0 has one minimum, `una_fixed_point`, and is NaN throughout.
    """
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = ref_logps if sampler_logps is None else _check(rewards=rewards, sampler_logps=sampler_logps)[0]
    if not (sampler.isfinite().all() and ref_logps.isfinite().all()):
        raise ValueError("sampler_logps and ref_logps must be finite: each response is drawn now and then")
    baseline, responses = _per_prompt(baseline, rewards), rewards.shape[-1]
    a = ((rewards - baseline) / beta)[:, None, :]
    top = a + (ref_logps - sampler)[:, None, :]  # z = −e^(top − t) with t = −log(−ν/β)
    lower = torch.eye(responses + 1, responses, dtype=torch.bool)

    def logps_at(t: Tensor) -> Tensor:
        """(..., X, Y + 1) -> (..., X, Y + 1, Y), not normalised."""
        return ref_logps[:, None, :] + a + _minus_lambert(t[..., None] - top, lower)

    # Both branches meet at z = −1/e, so t starts where the first response gets there. It ends where response k alone
    # has mass one; with none on W₋₁ the sum falls to exp(log Z) < 1 as t grows.
    first = top.amax(-1).expand(-1, responses + 1) + 1
    v = (-ref_logps[:, None, :] - a).clamp(min=1.0).squeeze(1)
    last = torch.cat([top.squeeze(1) + v - v.log(), first[:, :1] + 800], -1).maximum(first)
    steps = torch.linspace(0, 1, 33, dtype=torch.float64)[:, None, None]
    grid = first + steps * (last - first)
    excess = logps_at(grid).logsumexp(-1)
    excess[:, :, -1] = -excess[:, :, -1]  # so that every kind is looked for where it turns from − to +
    exists = (excess[0] <= 0) | (excess < 0).any(0)
    at = ((excess <= 0) * torch.arange(33)[:, None, None]).amax(0)
    low = grid.gather(0, at[None])[0]
    high = grid.gather(0, (at + 1).clamp(max=32)[None])[0]
    sign = torch.ones(responses + 1, dtype=torch.float64)
    sign[-1] = -1
    for _ in range(60):
        middle = (low + high) / 2
        above = sign * logps_at(middle).logsumexp(-1) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    found = logps_at((low + high) / 2)
    there = exists & (log_partition(ref_logps, rewards - baseline, beta) < 0)[:, None]
    return torch.where(there[..., None], found.log_softmax(-1), math.nan)


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

    Below that it is one of `una_minima`: the one that gradient descent on the logits comes to from π_ref, or the global
    minimum. The descent tells which, and the digits are those of the minimum.
    """
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    sampler = ref_logps if sampler_logps is None else _check(rewards=rewards, sampler_logps=sampler_logps)[0]
    if which not in ("descent", "global"):
        raise ValueError(f"which must be 'descent' or 'global', got {which!r}")
    r = rewards - _per_prompt(baseline, rewards)
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
        chosen = there.long().argmax(-1)  # where there is only one, it is that
        going = there.sum(-1) > 1
        logits, move = ref.clone(), torch.zeros_like(ref)
        for step in range(60_000):
            if not going.any():
                break
            logps = logits.log_softmax(-1)
            slope = 2 * beta * mu * (beta * (logps - ref) - r)
            # Momentum only after a while: it leads through flat places, and from the start might lead elsewhere.
            move = (0.95 if step > 3000 else 0.0) * move - rate * (slope - logps.exp() * slope.sum(-1, keepdim=True))
            logits = logits + move
            if step % 500 == 499:
                distance = (minima.exp() - logits.softmax(-1)[:, None]).abs().amax(-1).where(there, torch.inf)
                arrived = going & (distance.amin(-1) < 0.02)
                chosen = torch.where(arrived, distance.argmin(-1), chosen)
                going = going & ~arrived
        if going.any():
            raise NotConverged(f"descent has come to no minimum in {int(going.sum())} prompts")
    ends[below] = minima[torch.arange(len(r)), chosen]
    return ends


def _per_prompt(baseline: Tensor | float, rewards: Tensor) -> Tensor:
    """The baseline in float64; raises ValueError unless it is one finite number, or one for each prompt, (X, 1)."""
    found = torch.as_tensor(baseline, dtype=torch.float64)
    shape, expected = tuple(found.shape), (len(rewards), 1)
    if shape not in ((), expected):
        raise ValueError(f"baseline must be a number or {expected} (prompts, 1), got the shape {shape}")
    if (bad := ~found.isfinite()).any():
        raise ValueError(f"baseline must be finite, got {_first(found, bad)}")
    return found


def _log_lambert(z: Tensor) -> Tensor:
    """log W(e^z), the s with s + e^s = z, by Newton's method from above, which never overshoots."""
    s = torch.where(z > 1, z.clamp(min=1.0).log(), z)
    for _ in range(8):
        w = s.exp()
        s = s - (s + w - z) / (1 + w)
    return s


def _minus_lambert(s: Tensor, lower: Tensor) -> Tensor:
    """−W(−e^(−s)) for s ≥ 1, the v with v − log v = s: above 1 (W₋₁) where `lower`, else below 1 (W₀)."""
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
