"""f-divergences, D_f(π ‖ π_ref) = E_{y~π_ref} f(π/π_ref), written in the log-ratio u = log π/π_ref.

A generator is a convex f on the positive numbers, normalised to f(1) = 0 and f′(1) = 0. The second condition is a
choice (UPO Sec. 2.4 leaves it open). It adds a multiple of Σ(π − π_ref) = 0 to the divergence, which is nothing; but
rewards β·f′ that are compared with a number (labels, scores) need it.

At an optimum of E_π r − β·D_f the reward is r = β·f′(π*/π_ref) + λ(x) wherever π* > 0 (UPO Eq. 12, corrected: EP1,
EP2). Where f′(0+) is finite, π* may be zero (EP4).

| name | f(w) | f′(w) | f′(0+) | f′(∞) |
| --- | --- | --- | --- | --- |
| reverse_kl | w·log w − w + 1 | log w | −∞ | ∞ |
| forward_kl | w − 1 − log w | 1 − 1/w | −∞ | 1 |
| js | w·log w − (w + 1)·log((w + 1)/2) | log(2w/(1 + w)) | −∞ | log 2 |
| jsd | half of js, the true Jensen–Shannon divergence (EP10) | ½·log(2w/(1 + w)) | −∞ | ½·log 2 |
| alpha | ((1 − α)·(w − 1) − (w^(1−α) − 1)) / (α·(1 − α)) | (1 − w^−α)/α | −∞ | 1/α |
| chi2 | (w − 1)² | 2·(w − 1) | −2 | ∞ |
| tv | ½·abs(w − 1) | ½·sign(w − 1) | −½ | ½ |
| hellinger | (√w − 1)² | 1 − 1/√w | −∞ | 1 |

α → 0 is reverse_kl and α → 1 forward_kl; alpha at ½ is twice hellinger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

LOG2 = math.log(2.0)


@dataclass(frozen=True)
class Divergence:
    """A generator. Its three functions are elementwise and keep the dtype; none gives NaN for u in [−∞, ∞].

    name
        As in `DIVERGENCES`.
    f
        u -> f(e^u), +inf where it overflows.
    slope
        u -> f′(e^u), dimensionless; β times it is a reward. Overflow is a signed infinity.
    inverse
        v -> the u with f′(e^u) = v: −inf for v at or below f′(0+), +inf at or above f′(∞). Where f′ jumps over v, the u
        of the jump; where f′ is constant, the u nearest to 0.
    slope_at_zero, slope_at_infinity
        f′(0+) and f′(∞).
    """

    name: str
    f: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    slope_at_zero: float = -math.inf
    slope_at_infinity: float = math.inf

    @property
    def allows_zeros(self) -> bool:
        """Whether an optimum may give a response probability zero: f′(0+) is finite (EP4)."""
        return self.slope_at_zero > -math.inf


def _reverse_kl(u: Tensor) -> Tensor:
    low = u.clamp(max=1.0)  # w·u − (w − 1) keeps its digits near 0 and is ∞ − ∞ far above
    return torch.where(u > 1, u.clamp(min=1.0).exp() * (u - 1) + 1, _times_exp(low, low) - low.expm1())


def _js(u: Tensor) -> Tensor:
    # w·log(2w/(1 + w)) + log(2/(1 + w)); the second is −∞ at the end where the first is ∞.
    return _times_exp(_js_slope(u), u) + _js_slope(-u.nan_to_num(posinf=0.0))


def _js_slope(u: Tensor) -> Tensor:
    # log(2w/(1 + w)), from the side where no digit is lost: exact at ±∞ and near 0.
    low, high = u.clamp(max=0.0), u.clamp(min=0.0)
    return torch.where(u < 0, low - torch.log1p(low.expm1() / 2), -torch.log1p(torch.expm1(-high) / 2))


def _js_inverse(v: Tensor) -> Tensor:
    # e^u = e^v / (2 − e^v); 2 − e^v = 1 − expm1(v).
    return _within(v, -math.inf, LOG2, lambda inside: inside - torch.log1p(-inside.expm1()))


def _alpha(u: Tensor, alpha: float) -> Tensor:
    low, high = u.clamp(max=1.0), u.clamp(min=1.0)
    near = (1 - alpha) * low.expm1() - ((1 - alpha) * low).expm1()
    far = _times_exp((1 - alpha) - (-alpha * high).exp(), high) + alpha
    return torch.where(u > 1, far, near) / (alpha * (1 - alpha))


def _times_exp(x: Tensor, u: Tensor) -> Tensor:
    """x·e^u: 0 where e^u is 0, whatever x is. Where e^u overflows, x counts as constant: its gradient would be 0·∞."""
    w = u.exp()
    return w * torch.where(w == 0, 0.0, torch.where(w.isinf(), x.detach(), x))


def _within(v: Tensor, low: float, high: float, inverse: Callable[[Tensor], Tensor]) -> Tensor:
    """`inverse` on the open interval (low, high), −inf below it and +inf above."""
    inside = v
    if high < math.inf:
        inside = inside.clamp(max=_next(v.new_tensor(high), 0.0))
    if low > -math.inf:
        inside = inside.clamp(min=_next(v.new_tensor(low), 0.0))
    u = inverse(inside)
    if high < math.inf:
        u = torch.where(v >= high, math.inf, u)
    if low > -math.inf:
        u = torch.where(v <= low, -math.inf, u)
    return u


def _next(x: Tensor, towards: float) -> float:
    return float(torch.nextafter(x, x.new_tensor(towards)))


def alpha(alpha: float = 0.5) -> Divergence:
    """The α-divergence (survey Sec. 3.12). Raises ValueError unless 0 < α < 1; beyond, limits change (ES37)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a number between 0 (reverse_kl) and 1 (forward_kl), got {alpha}")
    return Divergence(
        "alpha",
        f=lambda u: _alpha(u, alpha),
        slope=lambda u: -torch.expm1(-alpha * u) / alpha,
        inverse=lambda v: _within(v, -math.inf, 1 / alpha, lambda inside: -torch.log1p(-alpha * inside) / alpha),
        slope_at_infinity=1 / alpha,
    )


_REGISTERED: dict[str, Divergence] = {
    divergence.name: divergence
    for divergence in (
        Divergence("reverse_kl", f=_reverse_kl, slope=lambda u: u, inverse=lambda v: v),
        Divergence(
            "forward_kl",
            f=lambda u: torch.where(u == -math.inf, math.inf, u.expm1() - u.nan_to_num(posinf=0.0)),
            slope=lambda u: -torch.expm1(-u),
            inverse=lambda v: _within(v, -math.inf, 1.0, lambda inside: -torch.log1p(-inside)),
            slope_at_infinity=1.0,
        ),
        Divergence("js", f=_js, slope=_js_slope, inverse=_js_inverse, slope_at_infinity=LOG2),
        Divergence(
            "jsd",
            f=lambda u: _js(u) / 2,
            slope=lambda u: _js_slope(u) / 2,
            inverse=lambda v: _js_inverse(2 * v),
            slope_at_infinity=LOG2 / 2,
        ),
        alpha(0.5),
        Divergence(
            "chi2",
            f=lambda u: u.expm1() ** 2,
            slope=lambda u: 2 * u.expm1(),
            inverse=lambda v: _within(v, -2.0, math.inf, lambda inside: torch.log1p(inside / 2)),
            slope_at_zero=-2.0,
        ),
        Divergence(
            "tv",
            f=lambda u: u.expm1().abs() / 2,
            slope=lambda u: u.sign() / 2,
            inverse=lambda v: _within(v, -0.5, 0.5, torch.zeros_like),
            slope_at_zero=-0.5,
            slope_at_infinity=0.5,
        ),
        Divergence(
            "hellinger",
            f=lambda u: torch.expm1(u / 2) ** 2,
            slope=lambda u: -torch.expm1(-u / 2),
            inverse=lambda v: _within(v, -math.inf, 1.0, lambda inside: -2 * torch.log1p(-inside)),
            slope_at_infinity=1.0,
        ),
    )
}


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(_REGISTERED)
"""Every registered divergence by name, read-only; `register` adds another. "alpha" is α = ½."""


def named(divergence: str | Divergence) -> Divergence:
    """The divergence of that name; a `Divergence` is returned as it is. Raises ValueError for an unknown name."""
    if isinstance(divergence, Divergence):
        return divergence
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence: expected one of {', '.join(DIVERGENCES)}, got {divergence!r}")
    return DIVERGENCES[divergence]


def register(divergence: Divergence) -> Divergence:
    """Check a divergence, add it to `DIVERGENCES` and return it.

    Checked on log-ratios from −30 to 30:

    - f(1) = f′(1) = 0, f′ is the derivative of f and does not fall (f is convex), and `inverse` inverts `slope`;
    - f′ stays between `slope_at_zero` and `slope_at_infinity`, tends to them where they are finite and is unbounded
      where they are not; `inverse` is infinite at and beyond them;
    - nothing is NaN, at ±∞ either.

    Raises ValueError naming the condition that fails, where and by how much, and for a name that is taken.
    """
    name = divergence.name
    if name in _REGISTERED:
        raise ValueError(f"divergence {name!r}: this name is registered already")

    def fail(what: str) -> ValueError:
        return ValueError(f"divergence {name!r}: {what}")

    one = torch.zeros(1, dtype=torch.float64)
    for label, function in (("f(1)", divergence.f), ("f'(1)", divergence.slope)):
        if not abs(value := float(function(one))) <= 1e-12:
            raise fail(f"expected {label} = 0, got {value:.3g}")
    u = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    slope, f = divergence.slope(u), divergence.f(u)
    ends = torch.tensor([-math.inf, -50_000.0, 50_000.0, math.inf], dtype=torch.float64)
    everywhere = torch.cat([u, ends])
    for label, function in (("f", divergence.f), ("f'", divergence.slope)):
        if (bad := function(everywhere).isnan()).any():
            raise fail(f"{label} is NaN at log-ratio {float(everywhere[bad][0]):.3g}")
    if (bad := slope.diff() < -1e-12 * slope[1:].abs().clamp(min=1)).any():
        raise fail(f"f is not convex: f' falls at log-ratio {float(u[1:][bad][0]):.3g}")
    # f is convex, so the integral of f′ between two points lies between the slopes at its ends.
    width, rise = u.exp().diff(), f.diff()
    slack = 1e-9 * (f[1:].abs() + f[:-1].abs() + width) + 1e-12
    if (bad := (rise < slope[:-1] * width - slack) | (rise > slope[1:] * width + slack)).any():
        raise fail(f"f' is not the derivative of f at log-ratio {float(u[1:][bad][0]):.3g}")
    low, high = divergence.slope_at_zero, divergence.slope_at_infinity
    if not (low < 0 < high and (slope >= low - 1e-12).all() and (slope <= high + 1e-12).all()):
        raise fail(
            f"expected f' between f'(0+) = {low} and f'(inf) = {high}, got {slope.min():.6g} to {slope.max():.6g}"
        )
    far = torch.tensor([-2000.0, 2000.0], dtype=torch.float64)
    for label, limit, value in zip(("0+", "inf"), (low, high), divergence.slope(far).tolist(), strict=True):
        near = abs(value - limit) <= 1e-6 * max(1.0, abs(limit)) if math.isfinite(limit) else abs(value) > 30
        if not near:
            raise fail(
                f"f'({label}) is given as {limit}, but f' is {value:.6g} at log-ratio {math.copysign(2000, value)}"
            )
    moving = torch.zeros_like(u, dtype=torch.bool)  # where the slope tells u from its neighbours
    moving[1:-1] = torch.minimum(slope.diff()[1:], slope.diff()[:-1]) > 1e-9 * slope[1:-1].abs().clamp(min=1)
    back = divergence.inverse(slope[moving])
    if (bad := ~((back - u[moving]).abs() <= 1e-5 * u[moving].abs().clamp(min=1))).any():
        at, got = float(u[moving][bad][0]), float(back[bad][0])
        raise fail(f"inverse does not invert f': at log-ratio {at:.3g} it gives {got:.3g}")
    beyond = torch.tensor([-math.inf, low - 1, low, high, high + 1, math.inf], dtype=torch.float64)
    expected = torch.tensor(3 * [-math.inf] + 3 * [math.inf], dtype=torch.float64)
    if (bad := divergence.inverse(beyond) != expected).any():
        at, got = float(beyond[bad][0]), float(divergence.inverse(beyond)[bad][0])
        raise fail(f"expected inverse -inf up to f'(0+) and inf from f'(inf) on, but at {at:.3g} it gives {got:.3g}")
    _REGISTERED[name] = divergence
    return divergence
