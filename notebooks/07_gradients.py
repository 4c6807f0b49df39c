# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does one example push, and how hard?
#
# [Notebook 06](06_upo_and_iupo.ipynb) ended with two forms of one loss: one comes to rest and one runs away. Such
# properties can be read off a loss before any training, for every method so far. All these methods descend on
# log-probabilities of whole responses. So they can only raise or lower the log-probability of a response, with some
# strength. Twelve methods are twelve rules for one number.
#
# **Claim** (Eq. 11 of the survey of alignment by UNA's authors, "the survey" from here on). DPO's number is
# $\beta\,\sigma(r_l - r_w)$. A pair that is ranked wrong is pushed hard, and a pair that is ranked right hardly at
# all. We ask the same of every other method. When does an example push, in which direction, how hard, and where does
# it rest?
#
# Some equations are printed with a wrong sign. Others have a factor that differs from the text. The push shows such an
# error at once. The example pushes the wrong way, or forever, or not at all.
#
# **Needs.** [Notebook 00](00_one_row_to_one_step.ipynb): the implicit reward $r = \beta u$ with
# $u = \log\frac{\pi}{\pi_\text{ref}}$ (UNA Eq. 6). The unit of $u$ is the nat, the unit of natural logarithms.
#
# **Time.** About 30 minutes to read, without the exercises. Next: [notebook 08](08_pairs.ipynb).

# %%
import inspect
import math

import torch

from una_ref import METHODS, figures
from una_ref.data import toysteer
from una_ref.notebook import check
from una_ref.theory.divergences import DIVERGENCES

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
torch.manual_seed(0)
plt = figures.pyplot()
sigma = torch.sigmoid

BETA = 0.1  # for every method, so that 10 nats of log-ratio are one unit of reward

# %% [markdown]
# ## 1. One number per response
#
# A loss sees the parameters $\theta$ only through log-probabilities. By the chain rule its gradient is
#
# $$-\nabla_\theta L = \sum_b p_b \, \nabla_\theta \log \pi(y_b), \qquad
# p_b = -\frac{\partial L}{\partial \log \pi(y_b)}.$$
#
# We call $p_b$ the **push** on response $y_b$. If it is positive, descent raises $\log \pi(y_b)$. If it is negative,
# descent lowers it. SFT has $p = 1$ for every response. So each method is, at each moment, *SFT with weights*. Two
# helpers ask autograd for the pushes of a library loss:

# %%
REF = {"chosen": -3.0, "rejected": -4.0}  # log π_ref: only the printed IUPO depends on these numbers (section 3)


def push(loss, u, **given):
    """(B,) the push on single responses with log-ratios u in nats."""
    logps, ref = (u - 3.0).requires_grad_(), torch.full_like(u, -3.0)
    available = {"logps": logps, "ref_logps": ref, "beta": BETA, **given}
    named = {name: available[name] for name in inspect.signature(loss).parameters if name in available}
    return -torch.autograd.grad(loss(**named).sum(), logps)[0]


def pushes(loss, u_w, u_l, ref=REF, **given):
    """(P,), (P,) the pushes on the chosen and the rejected response of pairs with these log-ratios."""
    ref_w, ref_l = ref["chosen"] + 0 * u_w, ref["rejected"] + 0 * u_l
    chosen, rejected = (ref_w + u_w).requires_grad_(), (ref_l + u_l).requires_grad_()
    sides = {"chosen_logps": chosen, "rejected_logps": rejected, "ref_chosen_logps": ref_w, "ref_rejected_logps": ref_l}
    slopes = torch.autograd.grad(loss(**sides, beta=BETA, **given).sum(), (chosen, rejected))
    return -slopes[0], -slopes[1]


u = torch.linspace(-60, 60, 121)  # nats; rewards from −6 to 6
u_w, u_l = 20 * torch.randn(2, 300)
r, h = BETA * u, u_w - u_l  # h: the gap of a pair, in nats
m = BETA * h  # its margin r_w − r_l
up, down = torch.ones_like(u), torch.zeros_like(u)

# %% [markdown]
# Is the push really all that reaches the parameters? Take a policy of five responses that share four parameters, and
# three methods on the same responses. Compare the gradient of the method with the gradient of SFT whose fixed weights
# are the pushes.

# %% tags=["check"]
features, start = torch.randn(5, 4), torch.randn(4)
for name in ("una-score", "una-binary-bce", "kto"):
    theta = start.clone().requires_grad_()
    logps = (features @ theta).log_softmax(-1)
    ref_logps = torch.full((5,), 1 / 5).log()
    feedback = {"scores": torch.rand(5), "labels": torch.tensor([1.0, 0, 1, 0, 1]), "kl": torch.tensor(0.2)}
    given = {k: v for k, v in feedback.items() if k in inspect.signature(METHODS[name].loss).parameters}
    losses = METHODS[name].loss(logps=logps, ref_logps=ref_logps, beta=BETA, **given)
    (truth,) = torch.autograd.grad(losses.sum(), theta, retain_graph=True)
    p = push(METHODS[name].loss, (logps - ref_logps).detach(), **given)
    weighted_sft = (p * METHODS["sft"].loss(logps=logps)).sum()
    check.close(f"{name} = SFT weighted by its pushes", torch.autograd.grad(weighted_sft, theta)[0], truth)
check.close("sft: the push is 1 everywhere", push(METHODS["sft"].loss, u), 1.0)

# %% [markdown]
# ## 2. A pair
#
# Write $m = r_w - r_l$ for the margin. DPO's loss is $-\log\sigma(m)$, and its derivative is $-\sigma(-m)$. The margin
# contains $\log\pi(y_w)$ with the factor $\beta$ and $\log\pi(y_l)$ with the factor $-\beta$ (survey Eq. 11):
#
# $$p_w = \beta\,\sigma(-m), \qquad p_l = -p_w$$

# %% tags=["check"]
dpo = pushes(METHODS["dpo"].loss, u_w, u_l)
check.close("dpo: p_w = β·σ(−m)", dpo[0], BETA * sigma(-m))
check.close("dpo: p_l = −p_w", dpo[1], -dpo[0])
for margin in (-6.0, 0.0, 6.0):
    print(f"margin {margin:+.0f}: push {BETA * sigma(torch.tensor(-margin)):.5f}, of at most β = {BETA}")

# %% [markdown]
# UNA's Eq. 8 has no $\log\sigma$. It is printed as $-(r_w - r_l)$ and called equivalent to DPO. Its push is
#
# $$p_w = \beta, \qquad p_l = -\beta,$$
#
# for every margin. No pair is ever finished, and the loss has no minimum (EU7 in `una-ref methods una-pair`).

# %% tags=["check"]
printed = pushes(METHODS["una-pair"].printed, u_w, u_l)
check.close("una-pair as printed: p_w = β", printed[0], BETA)
check.close("una-pair as printed: p_l = −β", printed[1], -BETA)
check.differs("una-pair as printed: p_w is not DPO's", printed[0], dpo[0], by=0.09)

# %% [markdown]
# Label smoothing says that a share $\epsilon$ of the labels is wrong (cDPO, survey Eq. 12). A wrong label pushes the
# other way with $\sigma(m) = 1 - \sigma(-m)$. The mixture is DPO's push *minus a constant*:
#
# $$p_w = \beta\left[(1 - \epsilon)\,\sigma(-m) - \epsilon\,\sigma(m)\right] = \beta\left[\sigma(-m) - \epsilon\right]$$
#
# It is zero at $m = \log\frac{1 - \epsilon}{\epsilon}$. A pair beyond that margin is pulled back.

# %% tags=["check"]
epsilon = 0.1
cdpo = pushes(METHODS["cdpo"].loss, u_w, u_l, label_smoothing=epsilon)
check.close("cdpo: p_w = β·[σ(−m) − ε]", cdpo[0], BETA * (sigma(-m) - epsilon))
rest = torch.tensor([math.log((1 - epsilon) / epsilon)]) / BETA
zero = torch.zeros(1)
check.close("cdpo rests at margin log((1 − ε)/ε)", pushes(METHODS["cdpo"].loss, rest, zero)[0], 0.0)
check.true("dpo does not rest there", pushes(METHODS["dpo"].loss, rest, zero)[0] > 0.009, f"push {BETA * epsilon:.3f}")
print(f"{rest.item():.1f} nats of log-ratio gap for ε = {epsilon}, β = {BETA}")

# %% [markdown]
# IPO regresses the gap $h = m/\beta$, in nats, on $\frac{1}{2\beta}$. The survey's Eq. 17 prints a minus in front
# (ES9). The push of the correct form is
#
# $$p_w = 2\left(\frac{1}{2\beta} - h\right).$$
#
# It acts like a spring: the further the gap is from its target, the harder the push. It has no bound, and it acts on
# both sides. With the printed sign the spring pushes away from the target.

# %% tags=["check"]
ipo, ipo_printed = (pushes(form, u_w, u_l) for form in (METHODS["ipo"].loss, METHODS["ipo"].printed))
check.close("ipo: p_w = 2·(1/(2β) − h)", ipo[0], 2 * (1 / (2 * BETA) - h))
check.close("ipo: p_l = −p_w", ipo[1], -ipo[0])
check.close("ipo as printed: the opposite sign", ipo_printed[0], -ipo[0])
check.differs("ipo as printed: p_w is not ipo's", ipo_printed[0], ipo[0], by=100)
centred = pushes(METHODS["una-centred"].losses["pairs"], u_w, u_l)
check.close("una-centred on pairs is dpo", centred[0], dpo[0])

# %% [markdown]
# ## 3. A pair, with another divergence
#
# With an f-divergence instead of the KL the reward is $\beta f'(\pi/\pi_\text{ref})$ (UPO Eq. 18). DPO becomes f-DPO
# (UPO Eq. 5). The chain rule adds one factor, the rate at which $f'$ changes with the log-ratio:
#
# $$\kappa(u) = \frac{d}{du} f'(e^u) = e^u f''(e^u)$$
#
# | divergence | reverse KL | forward KL | JS | $\chi^2$ | Hellinger | $\alpha$ | total variation |
# | --- | --- | --- | --- | --- | --- | --- | --- |
# | $\kappa(u)$ | $1$ | $e^{-u}$ | $\frac{1}{1 + e^u}$ | $2 e^u$ | $\frac12 e^{-u/2}$ | $e^{-\alpha u}$ | $0$ |

# %% tags=["check"]
KAPPA = {
    "reverse_kl": torch.ones_like,
    "forward_kl": lambda u: torch.exp(-u),
    "js": lambda u: 1 / (1 + torch.exp(u)),
    "jsd": lambda u: 0.5 / (1 + torch.exp(u)),
    "chi2": lambda u: 2 * torch.exp(u),
    "hellinger": lambda u: 0.5 * torch.exp(-u / 2),
    "alpha": lambda u: torch.exp(-0.5 * u),  # the default, α = ½
    "tv": torch.zeros_like,
}
small_w, small_l = u_w / 20, u_l / 20  # a few nats, so that e^u stays moderate
for name, kappa in KAPPA.items():
    point = small_w.clone().requires_grad_()
    (slope,) = torch.autograd.grad(DIVERGENCES[name].slope(point).sum(), point)
    check.close(f"κ of {name}", slope, kappa(small_w), tol=1e-11)
check.true("κ covers every divergence", set(KAPPA) == set(DIVERGENCES), f"{len(KAPPA)} divergences")

# %% [markdown]
# The two pushes of f-DPO, with $m_f = \beta f'_w - \beta f'_l$:
#
# $$p_w = \beta\,\sigma(-m_f)\,\kappa(u_w), \qquad p_l = -\beta\,\sigma(-m_f)\,\kappa(u_l)$$


# %% tags=["check"]
def reward_gap(name, u_w, u_l):
    return DIVERGENCES[name].slope(u_w) - DIVERGENCES[name].slope(u_l)


for name, kappa in KAPPA.items():
    p_w, p_l = pushes(METHODS["f-dpo"].loss, small_w, small_l, divergence=name)
    common = BETA * sigma(-BETA * reward_gap(name, small_w, small_l))
    check.close(f"f-dpo, {name}: p_w", p_w, common * kappa(small_w), tol=1e-11)
    check.close(f"f-dpo, {name}: p_l", p_l, -common * kappa(small_l), tol=1e-11)

# %% [markdown]
# Only with the reverse KL do the two pushes always cancel. Take a pair that has been moved apart, $u_w = 2$ and $u_l =
# -2$. With JS the rejected response is pushed down $(1 + e^2)/(1 + e^{-2}) = e^2$ times as hard as the chosen one is
# pushed up. With $\chi^2$ the chosen one is pushed harder. A divergence decides *which of the two* keeps moving.

# %% tags=["check"]
apart = torch.tensor([2.0]), torch.tensor([-2.0])
for name in ("reverse_kl", "js", "forward_kl", "chi2"):
    p_w, p_l = pushes(METHODS["f-dpo"].loss, *apart, divergence=name)
    print(f"{name:<11} chosen {p_w.item():+.4f}   rejected {p_l.item():+.4f}   ratio {(-p_l / p_w).item():.4f}")
js_w, js_l = pushes(METHODS["f-dpo"].loss, *apart, divergence="js")
check.close("js: the rejected one is pushed e² times as hard", -js_l / js_w, math.exp(2))
check.differs("js: the two pushes do not cancel", js_w, -js_l, by=0.01)
tv = pushes(METHODS["f-dpo"].loss, small_w, small_l, divergence="tv")
check.close("total variation pushes nothing", torch.stack(tv), 0.0)

# %% [markdown]
# IUPO is IPO with a divergence. UPO's Theorem 3.1 asks for the rewards of the two responses, each against the
# reference:
#
# $$p_w = 2\left(\tfrac{1}{2\beta} - \Delta\right)\kappa(u_w), \quad
# p_l = -2\left(\tfrac{1}{2\beta} - \Delta\right)\kappa(u_l), \qquad
# \Delta = f'\!\left(\tfrac{\pi_w}{\pi_{\text{ref},w}}\right) - f'\!\left(\tfrac{\pi_l}{\pi_{\text{ref},l}}\right)$$

# %% tags=["check"]
for name in ("reverse_kl", "js", "forward_kl", "chi2"):
    p_w, p_l = pushes(METHODS["iupo"].loss, small_w, small_l, divergence=name)
    spring = 2 * (1 / (2 * BETA) - reward_gap(name, small_w, small_l))
    check.close(f"iupo, {name}: p_w", p_w, spring * KAPPA[name](small_w), tol=1e-9)
    check.close(f"iupo, {name}: p_l", p_l, -spring * KAPPA[name](small_l), tol=1e-9)
with_kl, _ = pushes(METHODS["iupo"].loss, u_w, u_l, divergence="reverse_kl")
check.close("iupo with the reverse KL is ipo", with_kl, ipo[0])

# %% [markdown]
# The paper prints another form. It puts the *policy's own* ratio of the two responses into $f'$ (UPO Eq. 23 and 26).
# With JS, $a = \log\frac{\pi_w}{\pi_l}$ and $U = f'(\pi_w/\pi_l) - f'(\pi_{\text{ref},w}/\pi_{\text{ref},l})$,
#
# $$p_w = 2\left(\tfrac{1}{2\beta} - U\right) \cdot \frac{1}{1 + \pi_w/\pi_l}, \qquad p_l = -p_w.$$
#
# The second factor is a gate. It depends on which response is more likely, not on what has been learned. A chosen
# response may be much more likely only because it is shorter. Such a pair gets almost no push from the start (notebook
# 06, section 6).

# %% tags=["check"]
p_w, p_l = pushes(METHODS["iupo"].printed, u_w, u_l)
a, a_ref = (REF["chosen"] + u_w) - (REF["rejected"] + u_l), torch.tensor(REF["chosen"] - REF["rejected"])
gate = 1 / (1 + a.exp())
U = DIVERGENCES["js"].slope(a) - DIVERGENCES["js"].slope(a_ref)
check.close("iupo as printed: p_w", p_w, 2 * (1 / (2 * BETA) - U) * gate, tol=1e-11)
check.close("iupo as printed: p_l = −p_w", p_l, -p_w)

# %% [markdown]
# How many pairs does this concern? The gate is below 0.01 where $a > \log 99 = 4.6$ nats. Log-probabilities of whole
# responses usually differ by more than that. Suppose that the gaps are normal around 0 with a standard deviation $s$
# (in nats). Then the share of pairs with less than a hundredth of the push is
#
# $$\Phi\left(-\frac{\log 99}{s}\right).$$
#
# All these pairs are already ranked right.

# %% tags=["check"]
at_start = torch.zeros(200_000)
shares = {}
for sd in (5.0, 20.0, 50.0):
    gaps = sd * torch.randn(200_000)
    apart_in_ref = {"chosen": gaps, "rejected": torch.zeros_like(gaps)}
    first, _ = pushes(METHODS["iupo"].printed, at_start, at_start, apart_in_ref)
    dead = (BETA * first < 0.01).double().mean()  # at the start U = 0, and the push is gate/β
    shares[sd] = torch.special.ndtr(torch.tensor(-math.log(99) / sd))
    check.close(
        f"gap sd {sd:.0f}: {100 * shares[sd]:.0f} % of pairs have a gate below 0.01", dead, shares[sd], tol=0.006
    )
corrected, _ = pushes(METHODS["iupo"].loss, at_start, at_start, apart_in_ref)
check.close("iupo, corrected, at the start: κ = ½ for every pair", BETA * corrected, 0.5)
check.differs("iupo as printed, at the start: not ½ for every pair", BETA * first, BETA * corrected, by=0.49)

# %% [markdown]
# ## 4. A binary label
#
# A binary label $y$ is 1 for a good response and 0 for a bad one ("thumbs up" and "thumbs down"). $z = r + c$ is the
# implicit reward with a baseline $c$. UNA Eq. 9 leaves the measure open. With the cross-entropy, the derivative of the
# log cancels the derivative of $\sigma$:
#
# $$p = \beta\left(y - \sigma(z)\right)$$

# %% tags=["check"]
bce_up, bce_down = (push(METHODS["una-binary-bce"].loss, u, labels=y) for y in (up, down))
check.close("una-binary-bce, up: p = β·(1 − σ)", bce_up, BETA * (1 - sigma(r)))
check.close("una-binary-bce, down: p = −β·σ", bce_down, -BETA * sigma(r))
shifted = push(METHODS["una-binary-bce"].loss, u, labels=up, baseline=0.7)
check.close("una-binary-bce with a baseline: at z = r + c", shifted, BETA * (1 - sigma(r + 0.7)))
with_v = push(METHODS["una-centred"].losses["labels"], u, labels=up, baseline=0.7)
check.close("una-centred on binary labels is that, with V(x)", with_v, shifted)

# %% [markdown]
# With the squared error $(\sigma(z) - y)^2$ nothing cancels. The remaining factor is at most $\frac12$ and vanishes at
# both ends:
#
# $$p = \beta\left(y - \sigma(z)\right) \cdot 2\,\sigma(z)\,\sigma(-z)$$
#
# Where the policy is right this does no harm. Where it is *sure and wrong*, the example pushes almost nothing.

# %% tags=["check"]
mse_up, mse_down = (push(METHODS["una-binary-mse"].loss, u, labels=y) for y in (up, down))
check.close("una-binary-mse, up: p = BCE's · 2σ(z)σ(−z)", mse_up, bce_up * 2 * sigma(r) * sigma(-r))
check.close("una-binary-mse, down", mse_down, bce_down * 2 * sigma(r) * sigma(-r))
sure = torch.tensor([-80.0])  # a positive label, and r = −8
bce, mse = (push(METHODS[f"una-binary-{g}"].loss, sure, labels=torch.ones(1)).item() / BETA for g in ("bce", "mse"))
check.true("sure and wrong: BCE pushes almost β", bce > 0.999, f"{bce:.4f}·β")
check.true("sure and wrong: MSE pushes almost 0", mse < 1e-3, f"{mse:.4f}·β")

# %% [markdown]
# The second line of Eq. 9 squares the measure $g$ once more and puts a minus in front (EU9). Since
# $\frac{\partial (-g^2)}{\partial g} = -2g$,
#
# $$p^\text{printed} = -2g \cdot p.$$
#
# This is the wrong direction, with an extra factor that grows with the error.

# %% tags=["check"]
for name, right in (("una-binary-bce", bce_up), ("una-binary-mse", mse_up)):
    logps = u - 3.0
    g = METHODS[name].loss(logps=logps, ref_logps=torch.full_like(u, -3.0), labels=up, beta=BETA)
    wrong_way = push(METHODS[name].printed, u, labels=up)
    check.close(f"{name} as printed: p = −2g·p", wrong_way, -2 * g * right)
    check.true(f"{name} as printed: a positive label pushes down everywhere", (wrong_way < 0).all())

# %% [markdown]
# KTO's loss is the $\sigma$ itself (survey Eq. 32–34), so its push is the slope of $\sigma$, a bell curve. Let $z_0$
# be $\beta$ times a KL that is not differentiated, and $x = r - z_0$. Let $\lambda$ be the weight of the label's kind.
# Then
#
# $$p = \pm\,\beta\,\lambda\,\sigma(x)\,\sigma(-x).$$
#
# The label alone gives the sign.

# %% tags=["check"]
kl_now = torch.tensor(4.0)  # the KL in nats, as the library takes it; z₀ = β·KL = 0.4
weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
kto_up, kto_down = (push(METHODS["kto"].loss, u, labels=y, kl=kl_now, **weights) for y in (up, down))
bell = BETA * sigma(r - BETA * kl_now) * sigma(BETA * kl_now - r)
check.close("kto, up: p = β·λ_D·σ(x)σ(−x)", kto_up, 1.5 * bell)
check.close("kto, down: p = −β·λ_U·σ(x)σ(−x)", kto_down, -0.5 * bell)

# %% [markdown]
# The consequence shows when labels disagree. Let a share $q$ of the labels of a response be positive. The mean pushes
# are
#
# $$\text{BCE: } \beta\,(q - \sigma(z)), \qquad
# \text{KTO: } \beta\,\sigma(x)\,\sigma(-x)\left[q\lambda_D - (1 - q)\lambda_U\right].$$
#
# BCE rests at $\sigma(z) = q$, and so does MSE. KTO's bracket does not contain $x$. So the mean push has one sign for
# *every* policy, and the response is driven to one end. For equal weights the sign changes at $q = \frac12$.

# %% tags=["check"]
plain = {"kl": torch.tensor(0.0)}
for q in (0.3, 0.49, 0.51, 0.7):
    means = {
        "bce": q * bce_up + (1 - q) * bce_down,
        "mse": q * mse_up + (1 - q) * mse_down,
        "kto": q * push(METHODS["kto"].loss, u, labels=up, **plain)
        + (1 - q) * push(METHODS["kto"].loss, u, labels=down, **plain),
    }
    signs = {name: set(p.sign().tolist()) for name, p in means.items()}
    check.true(f"q = {q}: kto has one sign everywhere", signs["kto"] == {1.0 if q > 0.5 else -1.0}, str(signs["kto"]))
    check.true(f"q = {q}: bce and mse have both", {1.0, -1.0} <= signs["bce"] & signs["mse"])
logit = torch.tensor([math.log(0.3 / 0.7)]) / BETA
for name in ("una-binary-bce", "una-binary-mse"):
    mean = 0.3 * push(METHODS[name].loss, logit, labels=zero + 1) + 0.7 * push(METHODS[name].loss, logit, labels=zero)
    check.close(f"{name} rests at σ = q", mean, 0.0)

# %% [markdown]
# DRO reads a binary label as a reward of $\pm 1$ and regresses on it, with a learned $V(x)$ (survey Eq. 37). It belongs
# to the next section:
#
# $$p = \beta\left(\pm 1 - V(x) - r\right)$$

# %% tags=["check"]
dro_up, dro_down = (push(METHODS["dro"].losses["labels"], u, labels=y, baseline=0.2) for y in (up, down))
check.close("dro, up: p = β·(1 − V − r)", dro_up, BETA * (1 - 0.2 - r))
check.close("dro, down: p = β·(−1 − V − r)", dro_down, BETA * (-1 - 0.2 - r))

# %% [markdown]
# ## 5. A score
#
# UNA-score is a regression (UNA Eq. 10), and its push is the residual:
#
# $$p = 2\beta\,(s - c - r)$$
#
# Eq. 10 is printed with a minus in front of the square (EU12). Then $p = -2\beta\,(s - c - r)$. With $r = 0.2$ and
# $s = 0.9$ descent lowers a response that should be raised. The lower it is, the harder the push.

# %% tags=["check"]
s = torch.linspace(0, 1, len(u))
raw, raw_printed = (push(form, u, scores=s) for form in (METHODS["una-score"].loss, METHODS["una-score"].printed))
check.close("una-score: p = 2β·(s − r)", raw, 2 * BETA * (s - r))
check.close("una-score as printed: p = −2β·(s − r)", raw_printed, -2 * BETA * (s - r))
known = {"logps": torch.tensor([0.2]), "ref_logps": zero, "scores": torch.tensor([0.9]), "beta": 1.0}
after = {}
for form in ("loss", "printed"):
    at = known["logps"].clone()
    for _ in range(20):  # plain descent on one log-ratio, learning rate 0.1, β = 1
        loss = getattr(METHODS["una-score"], form)(**known | {"logps": at.requires_grad_()})
        at = (at - 0.1 * torch.autograd.grad(loss.sum(), at)[0]).detach()
    after[form] = at.item()
check.close("una-score, sign corrected: r = 0.2 goes to the score, 0.9", after["loss"], 0.9, tol=0.01)
check.true("una-score as printed: it runs away", after["printed"] < -20, f"r = {after['printed']:.1f} after 20 steps")

# %% [markdown]
# The authors' code regresses $\sigma(r)$, not $r$ (EU11). This is the push of section 4's MSE with the score as the
# label:
#
# $$p = 2\beta\,(s - \sigma(r))\,\sigma(r)\,\sigma(-r)$$

# %% tags=["check"]
released = push(METHODS["una-score"].released, u, scores=s)
check.close("una-score.released", released, 2 * BETA * (s - sigma(r)) * sigma(r) * sigma(-r))
as_label = push(METHODS["una-binary-mse"].loss, u, labels=s)
check.close("una-score.released is una-binary-mse with soft labels", released, as_label)

# %% [markdown]
# Centred UNA compares each score with a number for the prompt, $V(x)$. DRO does the same with half the loss. The survey
# prints DRO's gradient (Eq. 38) without the factor $\beta$ (ES18):
#
# $$\text{una-centred: } 2\beta\,(s - V(x) - r), \qquad \text{dro: } \beta\,(s - V(x) - r), \qquad
# \text{Eq. 38: } s - V(x) - r$$

# %% tags=["check"]
V = 0.6
residual = s - V - r
given = {"scores": s, "baseline": V}
check.close("una-centred: 2β·(s − V − r)", push(METHODS["una-centred"].loss, u, **given), 2 * BETA * residual)
check.close("dro: β·(s − V − r)", push(METHODS["dro"].loss, u, **given), BETA * residual)
check.close("dro as printed: s − V − r", push(METHODS["dro"].printed, u, **given), residual)

# %% [markdown]
# ### The first step on scores is SFT
#
# Training starts at $\pi = \pi_\text{ref}$, where $r = 0$ for every response. The first pushes are
#
# $$\text{una-score: } 2\beta \cdot s, \qquad \text{as released: } \tfrac{\beta}{2}\left(s - \tfrac12\right), \qquad
# \text{una-centred: } 2\beta\,(s - V(x))$$
#
# The first raises *every* response with a positive score. The second raises every response above one half, the middle
# of the scale. Neither compares the response with other responses to the prompt.

# %% tags=["check"]
begin = {
    "una-score": push(METHODS["una-score"].loss, 0 * s, scores=s),
    "released": push(METHODS["una-score"].released, 0 * s, scores=s),
    "una-centred": push(METHODS["una-centred"].loss, 0 * s, scores=s, baseline=V),
}
check.close("una-score starts as SFT weighted by s", begin["una-score"], 2 * BETA * s)
check.close("released: as SFT weighted by s − ½", begin["released"], BETA / 2 * (s - 0.5))
check.close("una-centred: as SFT weighted by s − V", begin["una-centred"], 2 * BETA * (s - V))

# %% [markdown]
# How much of a first step is plain SFT? Take responses as ToySteer's program writes them, right answers with mistakes,
# and their scores. Split the weight $w$ of a response into two parts. The mean $\bar w$ is the same for all responses,
# and the rest depends on the score:
#
# $$\mathbb E\,w^2 = \bar w^2 + \operatorname{Var} w$$
#
# > **Guess first:** for `una-score`, which share of $\mathbb E\,w^2$ is $\bar w^2$?

# %%
world = toysteer.ToySteer(seed=0, knobs=toysteer.Knobs(writer="program"))
prompts, responses = world.draw(4000, torch.empty(0), seed=0, k=1).T  # the writer is a program, not a policy
scores = world.scores[prompts, responses]
of_prompt = scores.view(-1, world.size).mean(0)  # the prompts alternate
first_steps = {
    "una-score": scores,
    "una-score.released": (scores - 0.5) / 4,
    "una-centred": scores - of_prompt[prompts],
}
plain_sft = {name: (w.mean() ** 2 / (w**2).mean()).item() for name, w in first_steps.items()}
print(f"{len(scores)} responses to {world.size} prompts, mean score {scores.mean():.3f}, sd {scores.std():.3f}")
for name, share in plain_sft.items():
    print(f"{name:<20} {100 * share:5.1f} % of the squared weight is the same for every response")

# %% tags=["check"]
for name, w in first_steps.items():
    check.close(f"{name}: E w² = w̄² + Var w", w.mean() ** 2 + w.var(correction=0), (w**2).mean())
check.true("una-score: nearly all of it is SFT", plain_sft["una-score"] > 0.85, f"{plain_sft['una-score']:.3f}")
check.true(
    "released: more than half of it is SFT",
    plain_sft["una-score.released"] > 0.5,
    f"{plain_sft['una-score.released']:.3f}",
)
check.true("una-centred: nothing of it is SFT", plain_sft["una-centred"] < 1e-20, f"{plain_sft['una-centred']:.1g}")
shuffle = torch.randperm(len(scores))
for name, w in first_steps.items():
    cosine = (w * w[shuffle]).mean() / (w**2).mean()
    check.close(f"{name}: shuffled weights, cosine {cosine:.2f} with the true ones", cosine, plain_sft[name], tol=0.05)

# %% [markdown]
# A run with *shuffled* scores keeps the share that is plain SFT. This is why such a method needs the shuffled control.
# On good responses, imitation can look like learning from scores.

# %% [markdown]
# ## 6. All of them
#
# There is one row per method. It shows the push on a very wrong example, at the start, and on a very right example, in
# units of $\beta$. The last column is the gap or reward at which the push changes sign. Pairs are moved apart by
# $h = \mp 100$ nats. A positive label and a score of 0.9 have $r = \mp 10$, and $V = c = z_0 = 0$.
#
# "Never" means that the push does not become negative. f-DPO and the printed IUPO fade and never rest. Far out their
# computed push underflows to 0, and the closed form stays positive. Corrected IUPO, here with JS, rests at 10 nats.
# [Notebook 06](06_upo_and_iupo.ipynb) has 6.09, because there $\pi_w$ and $\pi_l$ sum to one. Here each takes half of
# the gap.


# %%
def chosen(form, **given):
    def of(gap):
        return pushes(form, gap / 2, -gap / 2, {"chosen": -3.0, "rejected": -3.0}, **given)[0]

    return of


def single(form, **given):
    return lambda u: push(form, u, **{name: torch.full_like(u, value) for name, value in given.items()})


label, rating = {"labels": 1.0}, {"scores": 0.9}
RULES = {  # method, kind or form -> the push, as a function of nats
    ("sft", "demos"): single(METHODS["sft"].loss),
    ("una-pair", "pairs"): chosen(METHODS["una-pair"].loss),
    ("una-pair", "printed"): chosen(METHODS["una-pair"].printed),
    ("una-binary-mse", "labels"): single(METHODS["una-binary-mse"].loss, **label),
    ("una-binary-mse", "printed"): single(METHODS["una-binary-mse"].printed, **label),
    ("una-binary-bce", "labels"): single(METHODS["una-binary-bce"].loss, **label),
    ("una-binary-bce", "printed"): single(METHODS["una-binary-bce"].printed, **label),
    ("una-score", "scores"): single(METHODS["una-score"].loss, **rating),
    ("una-score", "printed"): single(METHODS["una-score"].printed, **rating),
    ("una-score", "released"): single(METHODS["una-score"].released, **rating),
    ("una-centred", "scores"): single(METHODS["una-centred"].loss, **rating, baseline=0.0),
    ("una-centred", "labels"): single(METHODS["una-centred"].losses["labels"], **label, baseline=0.0),
    ("una-centred", "pairs"): chosen(METHODS["una-centred"].losses["pairs"]),
    ("kto", "labels"): single(METHODS["kto"].loss, **label, kl=0.0),
    ("ipo", "pairs"): chosen(METHODS["ipo"].loss),
    ("ipo", "printed"): chosen(METHODS["ipo"].printed),
    ("cdpo", "pairs"): chosen(METHODS["cdpo"].loss),
    ("f-dpo", "pairs"): chosen(METHODS["f-dpo"].loss, divergence="js"),
    ("iupo", "pairs"): chosen(METHODS["iupo"].loss),
    ("iupo", "printed"): chosen(METHODS["iupo"].printed),
    ("dro", "scores"): single(METHODS["dro"].loss, **rating, baseline=0.0),
    ("dro", "labels"): single(METHODS["dro"].losses["labels"], **label, baseline=0.0),
    ("dro", "printed"): single(METHODS["dro"].printed, **rating, baseline=0.0),
}
ends = torch.tensor([-100.0, 0.0, 100.0])
nats = torch.linspace(-100, 100, 20_001)
at_rest = {}
print(f"{'method':<27} {'very wrong':>11} {'at the start':>13} {'very right':>11}   at rest, nats")
for (name, form), rule in RULES.items():
    by_nats = rule(nats)
    crossings = nats[:-1][(by_nats[:-1] >= 0) & (by_nats[1:] < 0)]
    rests = f"{crossings[0]:.1f}" if len(crossings) else ("never" if (by_nats > -1e-12).all() else "runs away")
    at_rest[f"{name} {form}"] = rests
    values = [f"{0.0 if abs(v) < 5e-5 else v:.4f}" for v in (rule(ends) / BETA).tolist()]
    print(f"{name + ' ' + form:<27} {values[0]:>11} {values[1]:>13} {values[2]:>11}   {rests}")

# %% tags=["check"]
names = {name for name, _ in RULES}
every = {(name, kind) for name in names for kind in METHODS[name].kinds}
every |= {(name, form) for name in names for form in ("printed", "released") if getattr(METHODS[name], form)}
complete = every == set(RULES)
check.true("no loss of these methods is left out", complete, f"{len(RULES)} losses of {len(names)} methods")
column = {
    "una-score scores": "9.0", "una-score released": "22.0", "una-centred scores": "9.0", "ipo pairs": "5.0",
    "cdpo pairs": "22.0", "iupo pairs": "10.0", "dro scores": "9.0", "dro labels": "10.0", "dro printed": "9.0",
}  # fmt: skip
away = {f"{name} printed" for name in ("una-binary-mse", "una-binary-bce", "una-score", "ipo")}
column |= dict.fromkeys(away, "runs away")
check.true(
    "the column: nine rest, four run away, all others never", at_rest == dict.fromkeys(at_rest, "never") | column
)
score_at = 10 * torch.logit(torch.tensor(0.9))  # r = β·u, and σ(r) = 0.9
by_formula = [9.0, score_at, 1 / (2 * BETA), math.log(9) / BETA, 1 / BETA]
found = [
    float(column[row]) for row in ("una-score scores", "una-score released", "ipo pairs", "cdpo pairs", "dro labels")
]
check.close("where they rest, by hand", found, by_formula, tol=0.05)
h_far = torch.linspace(0, 300, 3001)  # f-DPO and the printed IUPO in closed form, at gaps where autograd underflows
fades = BETA * sigma(-BETA * h_far / 2) / (1 + torch.exp(h_far / 2))
gated = 2 * (1 / (2 * BETA) - (math.log(2) - torch.log1p(torch.exp(-h_far)))) / (1 + torch.exp(h_far))
computed = [RULES["f-dpo", "pairs"](h_far), RULES["iupo", "printed"](h_far)]
check.close("f-dpo and iupo as printed: the closed forms", torch.stack(computed), torch.stack([fades, gated]), tol=1e-9)
check.true(
    "f-dpo and iupo as printed never rest: the closed push is above 0 up to 300 nats",
    (fades > 0).all() and (gated > 0).all(),
    f"{fades[750] / BETA:.1e}·β at 75, {gated[370]:.1e} at 37",
)
zero_from = [float(h_far[push == 0].min()) if (push == 0).any() else math.inf for push in computed]
check.true(
    "the computed push underflows there", min(zero_from) < 300, f"to 0 from {zero_from[0]:.0f}, {zero_from[1]:.0f}"
)
restless = {f"{name} {form}" for (name, form), rule in RULES.items() if rule(nats)[-1] > 0.5 * BETA}
expected = {"sft demos", "una-pair printed", "ipo printed", "una-score printed"}
check.true("still pushed up hard when very right", restless == expected, ", ".join(sorted(restless)))

# %% [markdown]
# ## 7. The picture
#
# Solid lines are the methods as the library trains them. Dashed lines are equations as printed. A dot marks where the
# push is zero. In the shaded halves descent lowers a response that the feedback calls good.

# %%
colour = figures.PALETTE
INK, GREY = figures.INK, colour["grey"]
fig, axes = plt.subplots(2, 2, figsize=(10.4, 8.0))
(pair_ax, gate_ax), (label_ax, score_ax) = axes


def draw(ax, x, y, name, at, *, style="-", rests=None, **text):
    label, method = name
    tint = figures.look(method)["color"]
    ax.plot(x, y, style, color=tint, zorder=3)
    ax.annotate(label, at, color=tint, fontsize=9, **text)
    if rests is not None:
        ax.plot(rests, 0, "o", color=tint, markersize=7, markeredgecolor=figures.CARD, zorder=4)


def against(ax, bottom, top):
    ax.set_ylim(bottom, top)
    ax.axhspan(bottom, 0, color=colour["vermilion"], alpha=0.07, linewidth=0, zorder=0)
    ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
    ax.grid(False)


# A pair, reverse KL
x = torch.linspace(-25, 45, 141)
rule = {key: RULES[key](x) for key in RULES if key[0] in ("una-pair", "cdpo", "ipo")}
relative = {key: p / abs(RULES[key](torch.zeros(1)).item()) for key, p in rule.items()}
draw(pair_ax, x, relative["una-pair", "pairs"], ("DPO", "una-pair"), (-24, 1.56))
draw(pair_ax, x, relative["cdpo", "pairs"], ("cDPO, ε = 0.1", "cdpo"), (25.5, -0.33), rests=rest.item())
draw(pair_ax, x, relative["ipo", "pairs"], ("IPO", "ipo"), (-7.4, 2.17), rests=5, ha="right")
draw(pair_ax, x, relative["una-pair", "printed"], ("UNA Eq. 8", "una-pair"), (44, 1.06), style="--", ha="right")
draw(pair_ax, x, relative["ipo", "printed"], ("survey Eq. 17", "ipo"), (17.6, 2.17), style="--")
against(pair_ax, -1.3, 2.4)
pair_ax.set_xlabel("gap of the pair, nats")
pair_ax.set_ylabel("push on the chosen response\n(at the start: ±1)")
pair_ax.set_title("A pair: which losses come to rest?")

# A pair, Jensen-Shannon: the first step
x = torch.linspace(-60, 60, 301)
gaps_of = {"chosen": x, "rejected": torch.zeros_like(x)}
zeros = torch.zeros_like(x)
first, _ = pushes(METHODS["iupo"].printed, zeros, zeros, gaps_of)
corrected, _ = pushes(METHODS["iupo"].loss, zeros, zeros, gaps_of)
bell_curve = torch.exp(-((x / 20) ** 2) / 2)
gate_ax.fill_between(x, 0.62 * bell_curve, color=colour["grey"], alpha=0.16, linewidth=0)
right = x > math.log(99)
gate_ax.fill_between(x[right], 0.62 * bell_curve[right], color=colour["orange"], alpha=0.38, linewidth=0)
draw(gate_ax, x, BETA * first, ("UPO Eq. 26", "iupo"), (-58, 1.03), style="--")
draw(gate_ax, x, BETA * corrected, ("IUPO, corrected", "iupo"), (-58, 0.53))
gate_ax.annotate(f"{100 * shares[20.0]:.0f} % of the pairs:\nalmost no push", (21, 0.2), (27, 0.66), fontsize=9,
                 arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8})  # fmt: skip
gate_ax.text(-26, 0.1, "pairs, if gaps have\nsd 20 nats", color=GREY, fontsize=8.5, ha="center")
gate_ax.set_ylim(0, 1.2)
gate_ax.grid(False)
gate_ax.set_xlabel(r"$\log\,\pi(y_w)/\pi(y_l)$ before training, nats")
gate_ax.set_ylabel(r"first push on the chosen response, in $1/\beta$")
gate_ax.set_title("A pair with JS: which pairs get a push?")

# A positive label
x = torch.linspace(-8, 8, 161)
labelled = {key: RULES[key](x / BETA) / BETA for key in RULES if key[1] in ("labels", "printed")}
draw(label_ax, x, labelled["una-binary-bce", "labels"], ("BCE", "una-binary-bce"), (-7.8, 1.04))
draw(label_ax, x, labelled["una-binary-mse", "labels"], ("MSE of σ", "una-binary-mse"), (-3.5, 0.24), ha="right")
draw(label_ax, x, labelled["kto", "labels"], ("KTO", "kto"), (1.75, 0.2))
draw(label_ax, x, labelled["dro", "labels"], ("DRO", "dro"), (0.05, 1.33), rests=1)
eq9 = labelled["una-binary-bce", "printed"]
draw(label_ax, x, eq9, ("UNA Eq. 9, BCE", "una-binary-bce"), (-0.3, -0.62), style="--", ha="right")
against(label_ax, -1.0, 1.5)
label_ax.annotate("sure and wrong:\nalmost no push", (-6.3, 0.02), (-6.3, 0.42), ha="center", fontsize=9,
                  arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8})  # fmt: skip
label_ax.set_xlabel("implicit reward r of the response")
label_ax.set_ylabel(r"push, in $\beta$")
label_ax.set_title("A positive label: which losses push wrong examples?")

# A score, the first step
x = torch.linspace(0, 1, 21)
mean = scores.mean().item()
counts = torch.histc(scores, 20, 0, 1)
score_ax.bar((torch.arange(20) + 0.5) / 20, counts / counts.max() * 0.8, 0.045, bottom=-1.1, color=GREY, alpha=0.3)
score_ax.text(0.47, -0.93, "scores of 4,000 responses", color=GREY, fontsize=8.5, ha="center")
draw(score_ax, x, x, ("UNA-score", "una-score"), (0.3, 0.4), ha="right")
draw(score_ax, x, (x - 0.5) / 4, ("as released", "una-score.released"), (0.6, 0.13), rests=0.5)
draw(score_ax, x, x - mean, ("centred UNA", "una-centred"), (0.2, -0.78), rests=mean)
draw(score_ax, x, -x, ("UNA Eq. 10", "una-score"), (0.57, -0.52), style="--")
score_ax.set_ylim(-1.1, 1.1)
score_ax.axhline(0, color=INK, linewidth=0.8, zorder=1)
score_ax.grid(False)
score_ax.set_xlabel("score s")
score_ax.set_ylabel(r"first push, in $2\beta$")
score_ax.set_title("A score: what does the first step raise?")

figures.save(fig, "07_gradients")
plt.show()

# %% [markdown]
# - Top left: DPO fades, IPO and cDPO come to rest, and Eq. 8 as printed never stops.
# - Top right: Eq. 26 gives almost no push to pairs whose chosen response is much more likely.
# - Bottom left: at a reward of $-6$ on a positive label, BCE pushes with almost full strength. MSE and KTO push almost
#   nothing.
# - Bottom right: UNA-score raises every response. Centred UNA raises those above their prompt's mean.

# %% [markdown]
# ## What we learned
#
# - At each moment a method is SFT with weights, positive or negative: *= SFT weighted by its pushes*.
# - DPO never rests, it fades. cDPO is DPO minus a constant, and rests: *cdpo: p_w = β·[σ(−m) − ε]*, *dpo does not rest
#   there*. IPO acts like a spring: *ipo: p_w = 2·(1/(2β) − h)*.
# - A divergence decides which of the two responses keeps moving: *js: the rejected one is pushed e² times as hard*.
#   Total variation moves neither.
# - UPO's Eq. 26 has a gate that depends on which response is more likely. With gaps of sd 20 nats, 41 % of the pairs
#   get less than a hundredth of the push: *gap sd 20*. All of them are ranked right. UPO's own theorem gives every
#   pair the same first push: *κ = ½*.
# - BCE and the squared error on binary labels rest at the same place. Only BCE pushes an example about which the policy
#   is sure and wrong: *sure and wrong*.
# - KTO's mean push has one sign for every policy: *kto has one sign everywhere*. It does not learn the share of
#   positive labels, only which label is more frequent.
# - UNA-score's first step is SFT weighted by the score: *una-score starts as SFT weighted by s*. The released code's is
#   SFT weighted by score minus ½: *released: as SFT weighted by s − ½*.
# - On good responses most of that is plain SFT: *una-score: nearly all of it is SFT*. Shuffled scores teach it as well:
#   *shuffled weights*. A number per prompt removes that share: *una-centred: nothing of it is SFT*.
# - Three equations as printed ([misprints](../docs/errata.md)) push the wrong way (UNA Eq. 9 and 10, survey Eq. 17):
#   *a positive label pushes down everywhere*, *una-score as printed: it runs away*, *ipo as printed*.
# - One equation pushes forever (UNA Eq. 8): *una-pair as printed*. One lacks the factor $\beta$ (survey Eq. 38): *dro
#   as printed*.
#
# ## Limits
#
# - A push says what an example asks for, not what it gets. Probabilities sum to one and parameters are shared, so
#   raising one response lowers others.
# - Adam divides by the size of past gradients. A factor common to all pushes of a method ($\beta$, the 2 of a square)
#   therefore changes little. Ratios and signs remain.
# - Where many examples together come to rest is another question: [notebook 00](00_one_row_to_one_step.ipynb) for
#   scores, `una_ref.theory` for all.
# - The 41 % assumes gaps that are normal with an sd of 20 nats. Their real width depends on the lengths of the
#   responses.
# - The share of plain SFT depends on the scores. It is high because ToySteer's program is right more often than not.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell, which checks it. Hints and answers are folded below.
#
# **1.** (Pencil.) *Robust* DPO divides out the label noise instead of smoothing:
#
# $$L = \frac{-(1 - \epsilon)\log\sigma(m) + \epsilon\log\sigma(-m)}{1 - 2\epsilon}$$
#
# Write its push on the chosen response as a function of $m$. Does it rest?

# %%
mine = ...  # a function of m


def robust(m, e=epsilon):
    return (-(1 - e) * m.sigmoid().log() + e * (-m).sigmoid().log()) / (1 - 2 * e)


if mine is not ...:
    margins = torch.linspace(-8, 8, 33).requires_grad_()
    check.close("exercise 1", mine(margins), -BETA * torch.autograd.grad(robust(margins).sum(), margins)[0])

# %% [markdown]
# **2.** (Code.) Which scalar baseline $c$ makes the mean push of UNA-score's first step zero on the 4,000 scores
# above? Which share of the squared weight is then still the same for all responses *of a prompt*? For `una-centred`
# this share is zero.

# %%
mine = ...  # (c, the share)

if mine is not ...:
    w = push(METHODS["una-score"].loss, torch.zeros_like(scores), scores=scores, baseline=mine[0])
    check.close("exercise 2: no common push", w.mean(), 0.0)
    common = w.view(-1, world.size).mean(0)
    check.close("exercise 2: what is left per prompt", (common**2).mean() / (w**2).mean(), mine[1], tol=1e-4)

# %% [markdown]
# **3.** (Pencil.) At which implicit reward $r$ does the squared error push a positive label hardest? How hard, in
# units of $\beta$?

# %%
mine = ...  # (r, the push)

if mine is not ...:
    fine = torch.linspace(-3, 3, 60_001)
    p = push(METHODS["una-binary-mse"].loss, fine / BETA, labels=torch.ones_like(fine)) / BETA
    check.close("exercise 3", torch.tensor([fine[p.argmax()], p.max()]), torch.tensor(mine), tol=1e-3)

# %% [markdown]
# **4.** (Open.) Your loss curve falls, and the log-probabilities of chosen *and* rejected responses fall with it.
# Which rows of the table can do that, and is it a fault?
#
# <details>
# <summary>Hints</summary>
#
# **1.** Differentiate both terms in $m$; the chain rule gives $\beta$. **2.** What is the push at $r = 0$? **3.**
# Write the push in $q = \sigma(r)$.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `lambda m: BETA * ((1 - epsilon) * sigma(-m) + epsilon * sigma(m)) / (1 - 2 * epsilon)`. Both terms are
# positive, so it never rests. For a large margin it tends to $\beta\epsilon/(1 - 2\epsilon)$, a constant push. It is
# right on average over flipped labels, not for each of them.
#
# **2.** $c = \bar s$: at $r = 0$ the push is $2\beta\,(s - c)$, zero on average.
#
# ```python
# c = scores.mean()
# mine = (c.item(), (((of_prompt - c) ** 2).mean() / ((scores - c) ** 2).mean()).item())
# ```
#
# The share is a few per cent. One number for all prompts removes what the prompts share. $V(x)$ removes the rest, the
# differences in difficulty between prompts.
#
# **3.** `(-math.log(2), 8 / 27)`. With $q = \sigma(r)$ the push is $2\beta q(1 - q)^2$, whose derivative is zero at
# $q = 1/3$.
#
# **4.** Every method on pairs that sees only the difference: its pushes say "apart", not "up". It is a fault only if
# mass goes to responses outside the data.
#
# </details>
