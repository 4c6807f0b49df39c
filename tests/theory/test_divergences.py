"""Each generator against its textbook formula, at its ends and at its overflow; `register` refuses what is wrong."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from una_ref.theory import DIVERGENCES, Divergence, divergences
from una_ref.theory.divergences import alpha, named, register

F64, INF, LOG2 = torch.float64, math.inf, math.log(2)

GENERATORS = {  # in w, as in the table of the module
    "reverse_kl": lambda w: w * math.log(w) - w + 1,
    "forward_kl": lambda w: w - 1 - math.log(w),
    "js": lambda w: w * math.log(w) - (w + 1) * math.log((w + 1) / 2),
    "jsd": lambda w: (w * math.log(w) - (w + 1) * math.log((w + 1) / 2)) / 2,
    "alpha": lambda w: (0.5 * (w - 1) - (w**0.5 - 1)) / 0.25,
    "chi2": lambda w: (w - 1) ** 2,
    "tv": lambda w: abs(w - 1) / 2,
    "hellinger": lambda w: (w**0.5 - 1) ** 2,
}
SLOPES = {
    "reverse_kl": math.log,
    "forward_kl": lambda w: 1 - 1 / w,
    "js": lambda w: math.log(2 * w / (1 + w)),
    "jsd": lambda w: math.log(2 * w / (1 + w)) / 2,
    "alpha": lambda w: 2 * (1 - w**-0.5),
    "chi2": lambda w: 2 * (w - 1),
    "tv": lambda w: math.copysign(0.5, w - 1) if w != 1 else 0.0,
    "hellinger": lambda w: 1 - w**-0.5,
}
LIMITS = {  # f′(0+), f′(∞), f(0+)
    "reverse_kl": (-INF, INF, 1.0),
    "forward_kl": (-INF, 1.0, INF),
    "js": (-INF, LOG2, LOG2),
    "jsd": (-INF, LOG2 / 2, LOG2 / 2),
    "alpha": (-INF, 2.0, 2.0),
    "chi2": (-2.0, INF, 1.0),
    "tv": (-0.5, 0.5, 0.5),
    "hellinger": (-INF, 1.0, 1.0),
}
each = pytest.mark.parametrize("name", DIVERGENCES)
WS = (1e-6, 0.003, 0.2, 0.9, 1.0, 1.5, 2.0, 7.0, 40.0, 1e5)


@pytest.fixture
def registry():
    """Forgets after the test what `register` added."""
    before = dict(DIVERGENCES)
    yield
    divergences._REGISTERED.clear()
    divergences._REGISTERED.update(before)


def tensor(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)


def test_all_eight_divergences_are_registered_under_their_names():
    assert list(DIVERGENCES) == list(GENERATORS) == list(SLOPES) == list(LIMITS)
    assert len(DIVERGENCES) == 8 and all(DIVERGENCES[name].name == name for name in DIVERGENCES)


@each
def test_f_and_its_slope_are_the_textbook_formulas(name):
    u = tensor(*map(math.log, WS))
    assert DIVERGENCES[name].f(u).tolist() == pytest.approx([GENERATORS[name](w) for w in WS], rel=1e-12, abs=1e-15)
    assert DIVERGENCES[name].slope(u).tolist() == pytest.approx([SLOPES[name](w) for w in WS], rel=1e-12, abs=1e-15)


@each
def test_f_and_its_slope_are_zero_at_one_and_f_nowhere_negative(name):
    assert float(DIVERGENCES[name].f(tensor(0.0))) == 0 == float(DIVERGENCES[name].slope(tensor(0.0)))
    near = torch.logspace(-12, 0, 200, dtype=F64)
    for u in (near, -near):
        assert (DIVERGENCES[name].f(u) >= 0).all()


@each
def test_the_slope_is_the_derivative_of_f(name):
    u = torch.linspace(-8, 8, 98, dtype=F64, requires_grad=True)  # without 0, where tv has a kink
    (rise,) = torch.autograd.grad(DIVERGENCES[name].f(u).sum(), u)
    torch.testing.assert_close(rise / u.exp(), DIVERGENCES[name].slope(u), rtol=1e-9, atol=1e-9)  # df/dw = (df/du)/w


@each
def test_f_is_convex(name):
    w = torch.logspace(-6, 6, 400, dtype=F64)
    f, slope = DIVERGENCES[name].f(w.log()), DIVERGENCES[name].slope(w.log())
    assert (slope.diff() >= -1e-15 * slope[1:].abs().clamp(min=1)).all()
    chords = f.diff() / w.diff()
    assert (chords.diff() >= -1e-8 * chords[1:].abs().clamp(min=1e-3)).all()
    if name != "tv":
        assert (slope.diff() > 0).all()


@each
def test_the_inverse_inverts_the_slope(name):
    divergence = DIVERGENCES[name]
    u = torch.linspace(-12, 12, 241, dtype=F64)
    if name == "tv":  # jumps at u = 0 from −½ to ½
        assert (divergence.inverse(torch.linspace(-0.4999, 0.4999, 99, dtype=F64)) == 0).all()
    else:
        torch.testing.assert_close(divergence.inverse(divergence.slope(u)), u, rtol=1e-8, atol=1e-8)


@each
def test_slope_and_inverse_at_the_limits(name):
    divergence, (low, high, at_zero) = DIVERGENCES[name], LIMITS[name]
    assert (divergence.slope_at_zero, divergence.slope_at_infinity) == pytest.approx((low, high), abs=1e-15)
    ends = tensor(-INF, INF)
    assert divergence.slope(ends).tolist() == pytest.approx([low, high], abs=1e-15)
    assert divergence.f(ends).tolist() == pytest.approx([at_zero, INF], abs=1e-15)
    assert divergence.allows_zeros == (low > -INF) == (name in ("chi2", "tv"))
    beyond = tensor(-INF, low - 1, low, divergence.slope_at_infinity, high + 1, INF)
    assert divergence.inverse(beyond).tolist() == 3 * [-INF] + 3 * [INF]
    # The slope tends to its limits from inside.
    far = divergence.slope(tensor(-700.0, 700.0)).tolist()
    assert all(abs(a - b) < 1e-12 if math.isfinite(b) else abs(a) > 300 for a, b in zip(far, (low, high), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_slopes_are_exact_at_50_000_nats(dtype):
    far = tensor(-50_000.0, 50_000.0, dtype=dtype)
    exact = {"reverse_kl": (-50_000.0, 50_000.0), "js": (-50_000.0 + LOG2, LOG2), "tv": (-0.5, 0.5)}
    for name, (low, high) in exact.items():
        assert torch.equal(DIVERGENCES[name].slope(far), tensor(low, high, dtype=dtype)), name
    low = DIVERGENCES["jsd"].slope(far)
    torch.testing.assert_close(low, tensor((-50_000 + LOG2) / 2, LOG2 / 2, dtype=dtype), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@each
def test_overflow_is_a_signed_infinity_and_never_nan(name, dtype):
    divergence, (low, high, at_zero) = DIVERGENCES[name], LIMITS[name]
    largest = math.log(torch.finfo(dtype).max)
    u = torch.cat([tensor(-INF, -50_000.0, -1000.0), torch.linspace(-120, 120, 4001), tensor(1000.0, 50_000.0, INF)])
    u = u.to(dtype)
    f, slope = divergence.f(u), divergence.slope(u)
    assert f.dtype == slope.dtype == divergence.inverse(slope).dtype == dtype
    assert not f.isnan().any() and not slope.isnan().any() and not divergence.inverse(slope).isnan().any()
    assert (f >= (0 if dtype == F64 else -1e-6)).all() and (f[-3:] == INF).all()
    # f grows at least like w and at most like w²; it is finite where w² is.
    assert f[u.abs() < largest / 2 - 1].isfinite().all() and slope[u.abs() < largest / 2 - 1].isfinite().all()
    for end, limit in ((slope[:2], low), (slope[-2:], high)):  # f′(±50 000), f′(±∞)
        for value in end.tolist():
            linear = name in ("reverse_kl", "js", "jsd") and not math.isfinite(limit)
            assert abs(value) > 20_000 if linear else value == pytest.approx(limit, rel=1e-6), value
            assert value * limit > 0
    assert f[1].item() == pytest.approx(at_zero if name != "forward_kl" else 50_000.0, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@each
def test_gradients_are_finite_wherever_values_are(name, dtype):
    divergence = DIVERGENCES[name]
    far = tensor(-50_000.0, -1000.0, -80.0, -1.0, 0.0, 1.0, 80.0, 1000.0, 50_000.0, dtype=dtype)
    for function in (divergence.f, divergence.slope):
        u = far.clone().requires_grad_()
        value = function(u)
        (gradient,) = torch.autograd.grad(value.sum(), u)
        assert not gradient.isnan().any()
        assert gradient[value.detach().abs() < 1e20].isfinite().all()
    # At π = π_ref, where training starts, the derivative in the log-ratio is f″(1).
    u = torch.zeros(1, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(divergence.slope(u).sum(), u)
    curvature = {"reverse_kl": 1, "forward_kl": 1, "js": 0.5, "jsd": 0.25, "alpha": 1, "chi2": 2, "tv": 0}
    assert float(gradient) == pytest.approx(curvature.get(name, 0.5))


@pytest.mark.parametrize("name", ["js", "jsd", "reverse_kl", "alpha", "hellinger", "chi2", "forward_kl"])
def test_values_near_one_keep_their_digits(name):
    # f ≈ f″(1)·u²/2 and f′ ≈ f″(1)·u; log 2 + log σ(u) alone would have no digit left at u = 1e-12.
    curvature = {"js": 0.5, "jsd": 0.25, "hellinger": 0.5, "chi2": 2.0}.get(name, 1.0)
    for u in (1e-12, -1e-12, 1e-7, -1e-7):
        assert float(DIVERGENCES[name].slope(tensor(u))) == pytest.approx(curvature * u, rel=1e-6)
    for u in (1e-6, -1e-6):
        assert float(DIVERGENCES[name].f(tensor(u))) == pytest.approx(curvature * u * u / 2, rel=1e-5)


def test_relations_between_the_divergences():
    u = torch.linspace(-6, 6, 121, dtype=F64)
    for part in ("f", "slope"):
        of = {name: getattr(divergence, part)(u) for name, divergence in DIVERGENCES.items()}
        torch.testing.assert_close(of["js"], 2 * of["jsd"], rtol=0, atol=1e-15)
        torch.testing.assert_close(of["alpha"], 2 * of["hellinger"], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(getattr(alpha(1e-7), part)(u), of["reverse_kl"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(getattr(alpha(1 - 1e-7), part)(u), of["forward_kl"], rtol=1e-5, atol=1e-6)
    for a in (0.0, 1.0, -0.5, 2.0, math.nan):
        with pytest.raises(ValueError, match=rf"alpha: expected a number between 0 .* and 1 .*, got {a}"):
            alpha(a)


def test_js_is_twice_the_true_jensen_shannon_divergence():
    # JSD(π, ref) = ½·KL(π ‖ m) + ½·KL(ref ‖ m), m their mean; the papers' generator gives twice that (EP10).
    policy, ref = tensor(0.7, 0.2, 0.1), tensor(0.1, 0.3, 0.6)
    mean = (policy + ref) / 2
    jsd = 0.5 * (policy * (policy / mean).log()).sum() + 0.5 * (ref * (ref / mean).log()).sum()
    u = (policy / ref).log()
    assert float((ref * DIVERGENCES["jsd"].f(u)).sum()) == pytest.approx(float(jsd), abs=1e-15)
    assert float((ref * DIVERGENCES["js"].f(u)).sum()) == pytest.approx(2 * float(jsd), abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from([name for name in GENERATORS if name != "tv"]),
    u=st.lists(st.floats(-15, 15), min_size=2, max_size=6),
    a=st.floats(0.02, 0.98),
)
def test_tangents_lie_below_f_at_any_points(name, u, a):
    divergence = alpha(a) if name == "alpha" else DIVERGENCES[name]
    u = tensor(*u)
    w, f, slope = u.exp(), divergence.f(u), divergence.slope(u)
    # Each tangent lies below f everywhere.
    tangent = f[:, None] + slope[:, None] * (w[None] - w[:, None])
    size = f[None].abs() + f[:, None].abs() + (slope[:, None] * (w[None] - w[:, None])).abs() + 1
    assert (f[None] - tangent >= -1e-12 * size).all()
    assert (divergence.inverse(slope) - u).abs().max() < 1e-5 * math.exp(max(0.0, float(u.max())) / 2)
    assert (slope[torch.argsort(u)].diff() >= 0).all()


# -------------------------------------------------------------------------------------------------------- register


QUARTIC = Divergence(  # f = (w − 1)⁴: flat at 1, allows zeros
    "quartic",
    f=lambda u: u.expm1() ** 4,
    slope=lambda u: 4 * u.expm1() ** 3,
    inverse=lambda v: torch.log1p((v / 4).sign() * ((v / 4).abs() ** (1 / 3)).where(v > -4, 1.0)),
    slope_at_zero=-4.0,
)


@pytest.mark.usefixtures("registry")
def test_register_accepts_divergences_that_meet_the_conditions():
    assert register(QUARTIC) is QUARTIC is DIVERGENCES["quartic"] is named("quartic")
    for name, divergence in dict(DIVERGENCES).items():
        register(dataclasses.replace(divergence, name=f"my {name}"))
    assert len(DIVERGENCES) == 18
    register(dataclasses.replace(alpha(0.1), name="alpha 0.1"))


KL = DIVERGENCES["reverse_kl"]
CHI2 = DIVERGENCES["chi2"]
WRONG = {
    "this name is registered already": dataclasses.replace(KL, name="js"),
    r"expected f\(1\) = 0, got 1": dataclasses.replace(KL, f=lambda u: KL.f(u) + 1),
    r"expected f'\(1\) = 0, got 1": dataclasses.replace(KL, f=lambda u: u * u.exp(), slope=lambda u: u + 1),
    "f is not convex: f' falls at log-ratio 0": dataclasses.replace(
        KL, f=lambda u: torch.where(u > 0, -KL.f(u), KL.f(u)), slope=lambda u: -u.abs()
    ),
    "f' is not the derivative of f at log-ratio -": dataclasses.replace(
        KL, slope=lambda u: 1.01 * u, inverse=lambda v: v / 1.01
    ),
    "f is NaN at log-ratio 10": dataclasses.replace(KL, f=lambda u: KL.f(u).where(u < 10, math.nan)),
    "f' is NaN at log-ratio 5e.04": dataclasses.replace(
        DIVERGENCES["js"], slope=lambda u: (2 * u.exp() / (1 + u.exp())).log().where(u > -700, u + LOG2)
    ),
    "f is NaN at log-ratio -inf": dataclasses.replace(KL, f=lambda u: KL.f(u).where(u > -INF, math.nan)),
    "f is NaN at log-ratio inf": dataclasses.replace(
        DIVERGENCES["forward_kl"], f=lambda u: (u.expm1() - u).where(u > -INF, INF)
    ),
    r"expected f' between f'\(0\+\) = -1.0 and f'\(inf\) = inf, got -2": dataclasses.replace(CHI2, slope_at_zero=-1.0),
    r"f'\(0\+\) is given as -3.0, but f' is -2 at log-ratio -2": dataclasses.replace(CHI2, slope_at_zero=-3.0),
    r"f'\(0\+\) is given as -inf, but f' is -2 at log-ratio -2": dataclasses.replace(CHI2, slope_at_zero=-INF),
    r"f'\(inf\) is given as inf, but f' is 0.69.* at log-ratio 2": dataclasses.replace(
        DIVERGENCES["js"], slope_at_infinity=INF
    ),
    "inverse does not invert f': at log-ratio -": dataclasses.replace(KL, inverse=lambda v: v * 1.001),
    "expected inverse -inf up to .* but at -3 it gives nan": dataclasses.replace(
        CHI2, inverse=lambda v: torch.log1p(v / 2).where(v > -INF, -INF)
    ),
    r"expected inverse .* inf from f'\(inf\) on, but at 2 it gives nan": dataclasses.replace(
        DIVERGENCES["forward_kl"], inverse=lambda v: torch.where(v == INF, INF, -torch.log1p(-v))
    ),
}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("message", WRONG)
def test_register_names_the_condition_that_fails(message):
    wrong = WRONG[message]
    if "registered already" not in message:
        wrong = dataclasses.replace(wrong, name="custom")
    with pytest.raises(ValueError, match=rf"divergence '{wrong.name}': {message}"):
        register(wrong)
    assert "custom" not in DIVERGENCES and DIVERGENCES["js"].name == "js"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("side", [1, -1])
def test_register_checks_log_ratios_from_minus_30_to_30(side):
    def wrong_beyond(far):
        return dataclasses.replace(KL, name=f"custom {far}", f=lambda u: KL.f(u) * (1 + (side * u > far)))

    register(wrong_beyond(30.001))
    with pytest.raises(ValueError, match="f' is not the derivative of f at log-ratio"):
        register(wrong_beyond(29.99))


def test_an_unknown_name_is_refused_and_the_table_is_read_only():
    for wrong in ("kl", "", None, 3):
        with pytest.raises(ValueError, match=r"expected one of reverse_kl, .*hellinger, got " + repr(wrong)):
            named(wrong)
    with pytest.raises(TypeError):
        DIVERGENCES["custom"] = KL
