"""The regularised objective, its optimum and a policy's distance from it, by enumeration.

For every prompt x, with J(π) = E_{y~π} r(x, y) − β·KL(π ‖ π_ref)   (UNA Eq. 3; `arg max`, not `max`: EU1):

    Z(x)       = Σ_y π_ref(y|x)·exp(r(x, y)/β)
    π*(y|x)    = π_ref(y|x)·exp(r(x, y)/β) / Z(x)      (UNA Eq. 4, 14; λ is Z(x), one for each prompt: EU3)
    max_π J    = β·log Z(x)                               (UNA Eq. 13; not 0 as Eq. 16 has it: EU4)
    regret(π)  = β·log Z(x) − J(π) = β·KL(π ‖ π*)

With an f-divergence in the place of the KL (UPO Eq. 11), and f as `divergences` normalises it:

    r(x, y)    = β·f′(π*/π_ref) + λ(x) where π* > 0,  and r ≤ β·f′(0+) + λ(x) where π* = 0   (UPO Eq. 12, 15; EP1, EP2)

so that one number λ(x) for each prompt, `multiplier`, is all there is to find; for the KL it is β·log Z(x). ΨPO and
UPO are the same objective with the reward `preference_rewards`; their Nash equilibrium is `nash_logps`.

A policy is a table of log-probabilities, (X, Y): X prompts, Y responses, each row a distribution. Log-probabilities
are in nats, rewards and β in one common unit. Everything is computed in float64, and is differentiable but for the
optima of divergences other than the KL and the Nash equilibrium. A probability of zero is a log-probability of −inf
and is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from una_ref.theory.divergences import DIVERGENCES, Divergence, named

ROW_SUM_TOLERANCE = 1e-4
"""How far a row may be from summing to one; sums of float32 log-softmaxes over a response stay within it."""
REVERSE_KL = DIVERGENCES["reverse_kl"]
EULER_GAMMA = 0.5772156649015329


def log_partition(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log Z(x) = log E_{y~π_ref} exp(r/β), in nats, (X,); β times it is the best J (UNA Eq. 13)."""
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    return torch.logsumexp(ref_logps + rewards / beta, dim=-1)


@torch.no_grad()
def sampled_log_partition(ref_logps: Tensor, rewards: Tensor, beta: float, draws: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, in nats, of log Ẑ with Ẑ(x) = 1/K·Σ_k exp(r(x, y_k)/β), y_k ~ π_ref; (X,), exact.

    K is `draws`. With e a standard exponential number, P(log e − log Ẑ > s) = (E_{y~π_ref} exp(−e^s·exp(r/β)/K))^K: the
    moments of this variable are integrals over s, and those of log e (−γ, π²/6) are taken off. No sample is drawn.
    """
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    if not draws >= 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    there = ref_logps > -torch.inf
    best = rewards.where(there, -torch.inf).amax(-1, keepdim=True)
    worth = ((rewards - best) / beta).where(there, 0.0)  # in units of β, 0 for the best response
    low, step = -36.0, 0.25  # e^−36 is nothing; the integrand is smooth, so that the trapezoid rule is exact
    points = int((-float(worth.min()) + math.log(draws) + 8 - low) / step)
    s = low + step * torch.arange(points, dtype=torch.float64)
    value = worth - math.log(draws)
    parts = s[:, None, None].split(max(1, 2**20 // value.numel()))  # bounds the memory
    above = torch.cat([torch.logsumexp(ref_logps - (part + value).exp(), -1) for part in parts]).T
    above = (draws * above).exp()  # (X, points), from 1 to 0
    above[:, 0] /= 2
    first = step * above.sum(-1)
    second = 2 * (step * (above * (s - low)).sum(-1) + step**2 / 12)  # the slope at the left end is 1, not 0
    mean = best.squeeze(-1) / beta - EULER_GAMMA - (low + first)
    return mean, (second - first**2 - math.pi**2 / 6).clamp(min=0).sqrt()


def optimal_logps(
    ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl"
) -> Tensor:
    """log π*(y|x), (X, Y): the arg max of J (UNA Eq. 4; UPO Theorem 3.1). Where π_ref is zero, π* is.

    For an f with a finite f′(0+) other responses may have probability zero too (EP4). Where the optimum is not
    unique (total variation), mass that all best responses may share is shared in proportion to π_ref.
    """
    if named(divergence) is REVERSE_KL:
        ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
        return torch.log_softmax(ref_logps + rewards / beta, dim=-1)
    return _solve(ref_logps, rewards, beta, named(divergence))[1]


def multiplier(ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl") -> Tensor:
    """λ(x), (X,), in the rewards' unit: r = β·f′(π*/π_ref) + λ(x) where π* > 0; β·log Z(x) for the KL (EP2)."""
    if named(divergence) is REVERSE_KL:
        return beta * log_partition(ref_logps, rewards, beta)
    return _solve(ref_logps, rewards, beta, named(divergence))[0]


def expected_reward(logps: Tensor, rewards: Tensor) -> Tensor:
    """E_{y~π} r(x, y), (X,), in the rewards' unit."""
    logps, rewards = _check(rewards=rewards, logps=logps)
    return (logps.exp() * rewards).sum(dim=-1)


def kl(logps: Tensor, other: Tensor) -> Tensor:
    """KL(π ‖ other) in nats, (X,). +inf where π puts mass on a response that `other` never gives."""
    logps, other = _check(logps=logps, other=other)
    # 0·log 0 = 0: the gap of a response that π never gives is dropped before it can become inf − inf.
    gap = torch.where(logps == -torch.inf, 0.0, logps - other)
    return (logps.exp() * gap).sum(dim=-1)


def f_divergence(logps: Tensor, other: Tensor, divergence: str | Divergence) -> Tensor:
    """D_f(π ‖ other) = E_{y~other} f(π/other), (X,), without unit; not E_{y~π}, as UPO Eq. 13 has it (EP3).

    A response that `other` never gives adds π·f′(∞), the limit, which may be +inf.
    """
    divergence = named(divergence)
    if divergence is REVERSE_KL:
        return kl(logps, other)
    logps, other = _check(logps=logps, other=other)
    absent = other == -torch.inf
    u = torch.where(absent, 0.0, logps - torch.where(absent, 0.0, other))
    far = absent | (divergence.f(u.detach()).isinf() & (u > 0))  # where f overflows, it is as good as at the limit
    limit = torch.where(far & (logps > -torch.inf), other.new_tensor(divergence.slope_at_infinity), 0.0)
    return (other.exp() * divergence.f(torch.where(far, 0.0, u)) + logps.exp() * limit).sum(dim=-1)


def entropy(logps: Tensor) -> Tensor:
    """H(π) in nats, (X,)."""
    (logps,) = _check(logps=logps)
    return -(logps.exp() * torch.where(logps == -torch.inf, 0.0, logps)).sum(dim=-1)


def objective(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl"
) -> Tensor:
    """J(π) = E_π r − β·D_f(π ‖ π_ref), (X,), in the rewards' unit (UNA Eq. 3; UPO Eq. 6, 11)."""
    _check(beta, rewards=rewards, logps=logps, ref_logps=ref_logps)
    return expected_reward(logps, rewards) - beta * f_divergence(logps, ref_logps, divergence)


def regret(
    logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float, divergence: str | Divergence = "reverse_kl"
) -> Tensor:
    """J(π*) − J(π) ≥ 0, (X,), in the rewards' unit; for the KL it is β·KL(π ‖ π*)."""
    if named(divergence) is REVERSE_KL:
        return beta * log_partition(ref_logps, rewards, beta) - objective(logps, ref_logps, rewards, beta)
    best = optimal_logps(ref_logps, rewards, beta, divergence)
    return objective(best, ref_logps, rewards, beta, divergence) - objective(
        logps, ref_logps, rewards, beta, divergence
    )


def bradley_terry(rewards: Tensor) -> Tensor:
    """P(y ≻ y') = σ(r(y) − r(y')), (X, Y) -> (X, Y, Y), the winner first (UNA Eq. 1; UPO Eq. 2)."""
    (rewards,) = _check(rewards=rewards)
    return (rewards[:, :, None] - rewards[:, None, :]).sigmoid()


def preference_rewards(
    preferences: Tensor, opponent_logps: Tensor, psi: Callable[[Tensor], Tensor] = lambda p: p
) -> Tensor:
    """g(x, y) = E_{y'~μ} Ψ(P(y ≻ y' | x)), (X, Y): what ΨPO and UPO maximise in the place of a reward (UPO Eq. 6, 11).

    `preferences` (X, Y, Y) as in `bradley_terry`; `opponent_logps` (X, Y) is log μ, a fixed policy, which UPO's Eq. 8
    and 22 silently take to be π_ref (EP6). With Ψ = `torch.logit` and Bradley–Terry preferences g is the reward less a
    number for each prompt (UPO Eq. 7).
    """
    opponent_logps = _check_preferences(preferences, opponent_logps)
    values, weights = psi(preferences.to(torch.float64)), opponent_logps.exp()[:, None, :]
    if values.shape != preferences.shape or values.isnan().any():
        raise ValueError(f"psi must give a number for each preference, got NaN or the shape {tuple(values.shape)}")
    return (torch.where(weights > 0, values, 0.0) * weights).sum(dim=-1)  # Ψ may be infinite at 0 and 1


def nash_logps(preferences: Tensor, ref_logps: Tensor, beta: float, tolerance: float = 1e-12) -> Tensor:
    """log of the policy (X, Y) that no other beats when both pay β·KL to π_ref: π ∝ π_ref·exp(Σ_y' P(y ≻ y')·π(y')/β).

    It is the optimum of ΨPO with the identity, against itself as the opponent: unique, and found by Newton's method.
    Raises ValueError unless P(y ≻ y') + P(y' ≻ y) = 1 (the game is symmetric), RuntimeError if `tolerance`, relative to
    the log-probabilities, is not met.
    """
    ref_logps = _check_preferences(preferences, ref_logps, beta)
    p = preferences.to(torch.float64)
    if not torch.allclose(p + p.mT, torch.ones_like(p), rtol=0, atol=1e-9):
        worst = float((p + p.mT - 1).abs().max())
        raise ValueError(f"preferences: P(y over y') + P(y' over y) must be 1, off by up to {worst:.3g}")
    if (bad := ref_logps == -torch.inf).any():
        raise ValueError(
            f"ref_logps must be finite, got {_first(ref_logps, bad)}: "
            "a Nash equilibrium is on the responses that π_ref gives; leave out the others"
        )

    # Unknowns log π and one multiplier a prompt: β·log(π/π_ref) − P·π + λ = 0, Σ π = 1. As P is antisymmetric but for
    # its ½, the equations are monotone, and Newton steps damped like a barrier's reach their root from anywhere.
    x, y = ref_logps.shape
    logps = ref_logps.log_softmax(-1)
    system = torch.ones(x, y + 1, y + 1, dtype=torch.float64)
    for _ in range(500 + math.ceil(4 / beta)):  # a step is at most 1 long, and the way may be 1/β
        force = (p @ logps.exp()[..., None]).squeeze(-1)
        gap = logps - (ref_logps + force / beta).log_softmax(-1)
        if (largest := float((gap.abs() / (1 + logps.abs())).max())) <= tolerance:
            return logps
        system[:, :y, :y] = beta * torch.eye(y, dtype=torch.float64) - p * logps.exp()[:, None, :]
        system[:, y, :y], system[:, y, y] = logps.exp(), 0.0
        right = torch.cat([force - beta * (logps - ref_logps), torch.zeros(x, 1, dtype=torch.float64)], -1)
        step = torch.linalg.solve(system, right)[:, :y]
        logps = (logps + step / (1 + step.abs().amax(-1, keepdim=True))).log_softmax(-1)
    raise RuntimeError(f"the largest relative gap in a log-probability is {largest:.3g}, above {tolerance:.3g}")


@torch.no_grad()
def _solve(ref_logps: Tensor, rewards: Tensor, beta: float, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """(λ(x), log π*) for any f: the root in λ of log Σ_y π_ref·w((r − λ)/β), w the inverse of f′, inside a bracket.

    The sum falls with λ. Since f′(1) = 0, at λ = max r no response gains mass and at λ = min r none loses any, so
    the root lies between; nor can λ be below max r − β·f′(∞), where the best response would be infinitely likely.
    """
    ref_logps, rewards = _check(beta, rewards=rewards, ref_logps=ref_logps)
    there = ref_logps > -torch.inf
    best = rewards.where(there, -torch.inf).amax(-1, keepdim=True)
    worst = rewards.where(there, torch.inf).amin(-1, keepdim=True)
    # Measured from the best reward and in units of β, so that v is exact where the policy's mass is.
    v = ((rewards - best) / beta).where(there, -torch.inf)
    low, high = torch.zeros_like(best), (best - worst).div(beta).clamp(max=divergence.slope_at_infinity)

    def logps_at(shift: Tensor) -> Tensor:
        return ref_logps + divergence.inverse(v + shift)

    def excess(shift: Tensor) -> Tensor:
        return logps_at(shift).logsumexp(-1, keepdim=True)

    # λ = best − β·shift; the sum grows with the shift. Chandrupatla's method: a is the newest point, b the bracket's
    # other end, c the one before; inverse quadratic interpolation where it can be trusted, else bisection.
    a, b, f_a, f_b = high, low, excess(high), excess(low)
    t = torch.full_like(a, 0.5)
    for _ in range(100):
        width, least = (a - b).abs(), 4e-16 * torch.maximum(a, b)
        if not (width > least).any():
            break
        x = torch.where(width > least, a + t * (b - a), a)
        f_x = excess(x)
        same = (f_x < 0) == (f_a < 0)
        c, f_c = torch.where(same, a, b), torch.where(same, f_a, f_b)
        b, f_b = torch.where(same, b, a), torch.where(same, f_b, f_a)
        a, f_a = x, f_x
        place, value = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
        trusted = (value**2 < place) & ((1 - value) ** 2 < 1 - place)
        quadratic = f_a / (f_b - f_a) * f_c / (f_b - f_c) + (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
        edge = (least / (2 * (a - b).abs())).clamp(max=0.5)
        t = torch.where(trusted, quadratic, 0.5).clamp(min=edge, max=1 - edge)
    low, high = torch.where(f_a < 0, a, b), torch.where(f_a < 0, b, a)
    logps, above = logps_at(low), logps_at(high)
    # Where f′ is constant the sum jumps past one: the responses that jump share what is missing.
    missing = 1 - logps.logsumexp(-1, keepdim=True).exp()
    jumps = (above > logps + 1e-6) & (missing > 1e-9)
    share = torch.log_softmax(ref_logps.where(jumps, -torch.inf), -1).nan_to_num(nan=-torch.inf)
    logps = torch.where(jumps, torch.logaddexp(logps, missing.log() + share), logps)
    return (best - beta * high).squeeze(-1), logps.log_softmax(-1)


def _check(beta: float = 1.0, *, rewards: Tensor | None = None, **policies: Tensor) -> list[Tensor]:
    """The policies, then the rewards if any, in float64; raises ValueError unless all is as it should be."""
    if torch.as_tensor(beta).numel() != 1 or not 0 < beta < math.inf:
        raise ValueError(f"beta must be positive and finite, one number, got {beta}")
    tables = policies if rewards is None else policies | {"rewards": rewards}
    shapes = {name: tuple(table.shape) for name, table in tables.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"tables must share one shape (prompts, responses), got {shapes}")
    tables = {name: table.to(torch.float64) for name, table in tables.items()}
    if rewards is not None and (bad := ~tables["rewards"].isfinite()).any():
        raise ValueError(f"rewards must be finite, got {_first(tables['rewards'], bad)}")
    for name in policies:
        sums = tables[name].detach().exp().sum(dim=-1)
        row = int((sums - 1).abs().nan_to_num(nan=torch.inf).argmax())
        if not abs(sums[row] - 1) <= ROW_SUM_TOLERANCE:
            raise ValueError(f"{name}: each row must sum to one, row {row} sums to {float(sums[row]):.6g}")
    return list(tables.values())


def _check_preferences(preferences: Tensor, logps: Tensor, beta: float = 1.0) -> Tensor:
    """The policy in float64; raises ValueError unless preferences (X, Y, Y) are probabilities and go with it."""
    (logps,) = _check(beta, logps=logps)
    expected, shape = (*logps.shape, logps.shape[-1]), tuple(preferences.shape)
    if shape != expected:
        raise ValueError(f"preferences must be {expected} (prompts, winner, loser), got {shape}")
    if (bad := ~((preferences >= 0) & (preferences <= 1))).any():
        raise ValueError(f"preferences must be probabilities, between 0 and 1, got {_first(preferences, bad)}")
    return logps


def _first(table: Tensor, bad: Tensor) -> str:
    """The first bad entry and where it is."""
    place = tuple(bad.nonzero()[0].tolist())
    return f"{float(table[place]):.6g} at {place}"
