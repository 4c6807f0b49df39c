# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does each divergence forbid?
#
# [Notebook 04](04_una_losses.ipynb) ended at a regression of $\beta \log \frac{\pi}{\pi_\text{ref}} + V(x)$ on the
# reward. Its solution maximises the reward minus $\beta$ times a KL. The logarithm comes from the KL. This notebook
# replaces the KL by another $f$-divergence. It asks what the optimal policy may then do, and what it may not.
#
# **Claim** (UPO Theorem 3.1, corrected). Each prompt has one number $\lambda(x)$ such that
#
# $$r(x, y) = \beta f'\!\left(\frac{\pi^*(y|x)}{\pi_\text{ref}(y|x)}\right) + \lambda(x)
# \qquad \text{wherever } \pi^*(y|x) > 0.$$
#
# This $\lambda$ is not UNA's. For the KL, $\lambda(x)$ here is $\beta \log Z(x)$, and UNA's $\lambda$ is $Z(x)$.
#
# So one curve, $f'$, describes a divergence. It is the price of the next bit of mass. If the price is finite at zero,
# responses can be deleted. If the price is bounded at the top, a good response can take most of the mass. This holds
# however rare the response was. The paper prints the theorem and its proof with five wrong details. This notebook shows
# each of them with a number.
#
# **Needs.** [Notebooks 02](02_partition_function.ipynb) and [03](03_implicit_reward.ipynb) (the optimum for the KL,
# $Z(x)$), and a first course in Lagrange multipliers.
#
# **Time.** About 30 minutes to read, without the exercises. Next: [notebook 06](06_upo_and_iupo.ipynb).

# %%
import math

import numpy as np
import sympy as sp
import torch
from IPython.display import Markdown, display
from scipy.optimize import linprog, minimize

from una_ref import METHODS, figures
from una_ref.claims import CLAIMS, markdown
from una_ref.notebook import check
from una_ref.theory import (
    DIVERGENCES,
    TableWorld,
    entropy,
    expected_reward,
    f_divergence,
    fixed_point,
    kl,
    multiplier,
    objective,
    optimal_logps,
)

torch.set_num_threads(1)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
np.set_printoptions(suppress=True)
plt = figures.pyplot()
F64 = torch.float64

# %% [markdown]
# **The world.** There are two prompts with six responses each. The responses of the first prompt are ordered by reward.
# Its best response is rare under $\pi_\text{ref}$, and so is its worst. The rewards of the second prompt are about one
# unit higher, in no order.

# %%
ref = torch.tensor([[0.05, 0.20, 0.30, 0.25, 0.12, 0.08], [0.30, 0.05, 0.25, 0.10, 0.20, 0.10]], dtype=F64)
rewards = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0, 1.5], [0.9, 2.3, 0.2, 1.4, 0.6, 1.9]], dtype=F64)
ref_logps, beta = ref.log(), 0.5

# %% [markdown]
# ## 1. Where we stand: the KL
#
# RLHF's last step maximises (UPO Eq. 3)
#
# $$\mathbb{E}_{y \sim \pi}\, r(x, y) - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}),
# \qquad \pi^* \propto \pi_\text{ref}\, e^{r/\beta}.$$

# %% tags=["check"]
kl_best = ref * (rewards / beta).exp()
kl_best = kl_best / kl_best.sum(-1, keepdim=True)
j_best = (kl_best * rewards).sum(-1) - beta * (kl_best * (kl_best / ref).log()).sum(-1)
print("π_ref  ", ref[0])
print("π*     ", kl_best[0])
check.close("UPO Eq. 3: objective() = reward minus β·KL", objective(kl_best.log(), ref_logps, rewards, beta), j_best)
check.close("UPO Eq. 3: optimal_logps() = the closed form", optimal_logps(ref_logps, rewards, beta).exp(), kl_best)

# %% [markdown]
# DPO learns that policy from pairs. It reads $\beta \log(\pi/\pi_\text{ref})$ as the reward. The missing term
# $\beta \log Z(x)$ is the same for two responses of one prompt (UPO Eq. 4):
#
# $$-\mathbb{E}_{\mathcal{D}} \log \sigma\!\left(\beta \log \frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}
# {} - \beta \log \frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\right)$$


# %% tags=["check"]
def a_pair(logps, x=0, w=5, l=2):  # noqa: E741
    """The four log-probabilities of one pair, as the losses take them."""
    four = (logps[x, w], logps[x, l], ref_logps[x, w], ref_logps[x, l])
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return dict(zip(names, (p.reshape(1) for p in four), strict=True))


h = (kl_best.log() - ref_logps)[0, 5] - (kl_best.log() - ref_logps)[0, 2]
check.close("at π* DPO's margin is the reward difference", beta * h, rewards[0, 5] - rewards[0, 2])
by_hand = -torch.log(torch.sigmoid(beta * h))
check.close("UPO Eq. 4: METHODS['dpo'].loss", METHODS["dpo"].loss(**a_pair(kl_best.log()), beta=beta)[0], by_hand)

# %% [markdown]
# ## 2. Generators
#
# An $f$-divergence takes a convex $f$ on the positive numbers with $f(1) = 0$ (UPO Sec. 2.4):
#
# $$D_f(\pi, \pi_\text{ref}) = \mathbb{E}_{y \sim \pi_\text{ref}}\, f(w), \qquad
# w = \frac{\pi(y|x)}{\pi_\text{ref}(y|x)}$$
#
# Adding $c\,(w - 1)$ to $f$ adds $c \sum_y (\pi - \pi_\text{ref}) = 0$ to $D_f$. So each divergence has many
# generators. We take the one that also has $f'(1) = 0$. A response that has not moved then has price 0. The paper
# writes $w \log w$ for the reverse KL, which has $f'(1) = 1$.

# %%
w, a = sp.symbols("w alpha", positive=True)
HALF = sp.Rational(1, 2)
js = w * sp.log(w) - (w + 1) * sp.log((w + 1) / 2)
alpha_f = ((1 - a) * (w - 1) - (w ** (1 - a) - 1)) / (a * (1 - a))
GENERATORS = {
    "reverse_kl": w * sp.log(w) - w + 1,
    "forward_kl": w - 1 - sp.log(w),
    "js": js,
    "jsd": js / 2,
    "alpha": alpha_f.subs(a, HALF),
    "chi2": (w - 1) ** 2,
    "hellinger": (sp.sqrt(w) - 1) ** 2,
}
SLOPES = {name: sp.simplify(sp.diff(f, w)) for name, f in GENERATORS.items()}
print(f"{'':<12}{'f′(w)':<35}{'f″(1)':<8}{'f′(0+)':<9}f′(∞)")
for name, slope in SLOPES.items():
    ends = sp.limit(slope, w, 0, "+"), sp.limit(slope, w, sp.oo)
    print(f"{name:<12}{slope!s:<35}{sp.diff(slope, w).subs(w, 1)!s:<8}{ends[0]!s:<9}{ends[1]}")

# %% [markdown]
# Sympy proves the properties of a generator. Total variation, $f = \frac12 |w - 1|$ with $f' = \pm\frac12$, is added by
# hand. It has a corner at 1 and no $f''$ there. The library keeps all of them as functions of the log-ratio
# $u = \log w$, because a language model gives log-ratios.

# %% tags=["check"]
at_one = [f.subs(w, 1) for f in GENERATORS.values()] + [slope.subs(w, 1) for slope in SLOPES.values()]
check.true("f(1) = f′(1) = 0, exactly", all(value == 0 for value in at_one))
curvature = {name: sp.simplify(sp.diff(f, w, 2)) for name, f in GENERATORS.items()}
check.true("f″ > 0 for every w > 0, exactly", all(f2.is_positive for f2 in curvature.values()), str(curvature["js"]))

u = torch.linspace(-3, 3, 61, dtype=F64)
own = [DIVERGENCES[name] for name in GENERATORS]


def exact(expressions):
    """(names, 61): sympy's expressions at w = e^u."""
    return torch.tensor(np.stack([sp.lambdify(w, e, "numpy")(u.exp().numpy()) for e in expressions]))


check.close("f, all seven", torch.stack([d.f(u) for d in own]), exact(GENERATORS.values()), tol=1e-10)
check.close("f′", torch.stack([d.slope(u) for d in own]), exact(SLOPES.values()), tol=1e-10)
check.close("the inverse of f′", torch.stack([d.inverse(d.slope(u)) for d in own]), u.expand(7, -1), tol=1e-10)
limits = [[float(sp.limit(slope, w, at, "+" if at == 0 else "-")) for at in (0, sp.oo)] for slope in SLOPES.values()]
check.close("f′(0+) and f′(∞)", [[d.slope_at_zero, d.slope_at_infinity] for d in own], limits)
check.close(
    "α → 0 is the reverse KL, α → 1 the forward",
    [
        float(sp.limit(alpha_f.subs(w, 3), a, end) - GENERATORS[name].subs(w, 3))
        for name, end in (("reverse_kl", 0), ("forward_kl", 1))
    ],
    0.0,
)

# %% [markdown]
# **The multiple of $w - 1$.** It does not change the divergence, so it does not change the optimum. It does change the
# number $\beta f'$. In a pair of responses to one prompt the change cancels. In a label or a score it does not. For
# this reason every generator here has $f'(1) = 0$.

# %% tags=["check"]
ratio = kl_best / ref
paper = (ref * ratio * ratio.log()).sum(-1)  # w·log w, the paper's
ours = (ref * (ratio * ratio.log() - ratio + 1)).sum(-1)
check.close("two generators, one divergence", paper, ours)
check.close("f_divergence() is the same number", f_divergence(kl_best.log(), ref_logps, "reverse_kl"), ours)
prices = beta * torch.stack([ratio.log() + 1, ratio.log()])  # β·f′ with f′(1) = 1 and with f′(1) = 0
check.close(
    "pairs: the same price difference with both", prices[0, :, 5] - prices[0, :, 2], prices[1, :, 5] - prices[1, :, 2]
)
check.differs("single responses: another price", prices[0], prices[1], by=beta)

# %% [markdown]
# **The papers' JS** is twice the Jensen–Shannon divergence (EP10). Term by term, with $m = \frac12(p + q)$,
#
# $$q f\!\left(\tfrac{p}{q}\right) = p \log \frac{p}{m} + q \log \frac{q}{m}, \qquad
# \text{JSD} = \tfrac12 \text{KL}(p \,\|\, m) + \tfrac12 \text{KL}(q \,\|\, m).$$
#
# This matters when values of $\beta$ are compared: `js` at $\beta$ is `jsd` at $2\beta$.

# %% tags=["check"]
p, q = sp.symbols("p q", positive=True)
left = q * js.subs(w, p / q)
right = p * sp.log(2 * p / (p + q)) + q * sp.log(2 * q / (p + q))
difference = sp.simplify(sp.expand_log(sp.expand(left - right), force=True))
check.true("EP10: the identity, symbolically", difference == 0, f"difference {difference}")
one, other = torch.tensor([[0.2, 0.8]], dtype=F64).log(), torch.tensor([[0.5, 0.5]], dtype=F64).log()
middle = ((one.exp() + other.exp()) / 2).log()
jsd = (kl(one, middle) + kl(other, middle)) / 2
print(
    f"p = (0.2, 0.8), q = (0.5, 0.5): the papers' D_f {float(f_divergence(one, other, 'js')):.5f}, JSD {float(jsd):.5f}"
)
check.close("D_f = 2·JSD", f_divergence(one, other, "js"), 2 * jsd)
same = optimal_logps(ref_logps, rewards, 0.5, "js").exp(), optimal_logps(ref_logps, rewards, 1.0, "jsd").exp()
check.close("js at β = 0.5 is jsd at β = 1", *same, tol=1e-10)
check.differs(
    "js at β = 0.5 is not jsd at β = 0.5", same[0], optimal_logps(ref_logps, rewards, 0.5, "jsd").exp(), by=0.05
)

# %% [markdown]
# ## 3. The objective
#
# With preferences and an opponent $\mu$ the reward is $\mathbb{E}_{y' \sim \mu} \Psi(p^*(y \succeq y'|x))$.
# [Notebook 06](06_upo_and_iupo.ipynb) is about that. For a fixed $x$ it is one number per response, and we still call
# it $r(x, y)$. The objective then is (UPO Eq. 11)
#
# $$\max_\pi \; \mathbb{E}_{y \sim \pi}\, r(x, y) - \beta\, D_f(\pi, \pi_\text{ref}).$$

# %% tags=["check"]
for name in ("js", "chi2"):
    by_hand = (kl_best * rewards).sum(-1) - beta * (ref * DIVERGENCES[name].f((kl_best / ref).log())).sum(-1)
    check.close(f"UPO Eq. 11, {name}", objective(kl_best.log(), ref_logps, rewards, beta, name), by_hand)

# %% [markdown]
# **The Lagrangian** (UPO Eq. 13; equations stand here without the papers' [misprints](../docs/errata.md)) is
#
# $$\mathcal{L} = \sum_y \pi(y)\, r(y)
# {} - \beta \sum_y \pi_\text{ref}(y)\, f\!\left(\frac{\pi(y)}{\pi_\text{ref}(y)}\right)
# {} - \lambda \Big[\sum_y \pi(y) - 1\Big] + \sum_y \eta(y)\, \pi(y).$$

# %% [markdown]
# **Stationarity.** The derivative in $\pi(y)$ has to vanish (UPO Eq. 14). The expectation gives a factor
# $\pi_\text{ref}(y)$. The chain rule gives a factor $1/\pi_\text{ref}(y)$. The two cancel:
#
# $$\frac{\partial \mathcal{L}}{\partial \pi(y)} = r(y) - \beta\, \pi_\text{ref}(y)\,
# f'\!\left(\frac{\pi(y)}{\pi_\text{ref}(y)}\right) \frac{1}{\pi_\text{ref}(y)} - \lambda + \eta(y) = 0$$
#
# Sympy shows this on two responses, for any $f$. With $\mathbb{E}_\pi f$, as Eq. 13 is printed, the derivative differs:

# %% tags=["check"]
p1, p2, q1, q2, r1, r2, b, lam, e1, e2 = sp.symbols("p1 p2 q1 q2 r1 r2 beta lambda eta1 eta2", positive=True)
f = sp.Function("f")
constraint = -lam * (p1 + p2 - 1) + e1 * p1 + e2 * p2
with_ref = p1 * r1 + p2 * r2 - b * (q1 * f(p1 / q1) + q2 * f(p2 / q2)) + constraint
with_pi = p1 * r1 + p2 * r2 - b * (p1 * f(p1 / q1) + p2 * f(p2 / q2)) + constraint
slope_at = sp.diff(f(w), w).subs(w, p1 / q1)
eq14 = r1 - b * slope_at - lam + e1
check.true("UPO Eq. 14 is the derivative with E_ref", sp.simplify((sp.diff(with_ref, p1) - eq14).doit()) == 0)
check.true(
    "UPO Eq. 14 is not the derivative of Eq. 13 as printed", sp.simplify((sp.diff(with_pi, p1) - eq14).doit()) != 0
)

# %% [markdown]
# Solved for the reward this is UPO Eq. 15:
#
# $$r(x, y) = \beta f'\!\left(\frac{\pi(y|x)}{\pi_\text{ref}(y|x)}\right) + \lambda(x) - \eta(y)$$
#
# The other three conditions are:
#
# - $\sum_y \pi(y|x) = 1$ for every $x$.
# - $\eta(y) \ge 0$.
# - $\pi(y|x)\, \eta(y) = 0$: either the probability is zero or $\eta$ is.
#
# Where no probability is zero, $\eta$ vanishes, which is UPO Eq. 16. Written for $\pi^*$ it is Theorem 3.1, UPO Eq. 12.
# It holds for each response. $\lambda$ is not one number, as printed, but **one number per prompt** (EP2).
#
# So the only unknown is $\lambda(x)$. The policy is the inverse of $f'$, and its sum falls with $\lambda$:
#
# $$\pi_\lambda(y) = \pi_\text{ref}(y)\, (f')^{-1}\!\left(\frac{r(y) - \lambda}{\beta}\right), \qquad
# \sum_y \pi_\lambda(y) = 1.$$


# %%
def solve(ref, r, beta, divergence):
    """(π*, λ) of one prompt, by bisection. At λ = max r no response gains mass, at λ = min r none loses any."""
    low, high = r.min(), r.max()
    for _ in range(100):
        lam = (low + high) / 2
        pi = ref * divergence.inverse((r - lam) / beta).exp()
        low, high = (lam, high) if pi.sum() > 1 else (low, lam)
    return pi, lam


SMOOTH = [name for name in DIVERGENCES if name != "tv"]
print(f"{'':<12}λ(0)    λ(1)    π* of prompt 0")
for name in SMOOTH:
    solved = [solve(ref[x], rewards[x], beta, DIVERGENCES[name]) for x in range(2)]
    print(f"{name:<12}{solved[0][1]:.4f}  {solved[1][1]:.4f}  {solved[0][0].numpy().round(4)}")

# %% tags=["check"]
for name in SMOOTH:
    best, level = optimal_logps(ref_logps, rewards, beta, name), multiplier(ref_logps, rewards, beta, name)
    mine = [solve(ref[x], rewards[x], beta, DIVERGENCES[name]) for x in range(2)]
    check.close(f"{name}: optimal_logps() = bisection", best.exp(), torch.stack([pi for pi, _ in mine]), tol=1e-10)
    check.close(f"{name}: multiplier()", level, torch.stack([lam for _, lam in mine]), tol=1e-10)

# %% [markdown]
# **UPO Eq. 12 and 16 in numbers**, for JS. The sum $\beta f' + \lambda(x)$ gives back each reward. One $\lambda$ for
# both prompts gives no probability distribution.

# %% tags=["check"]
best, level = optimal_logps(ref_logps, rewards, beta, "js"), multiplier(ref_logps, rewards, beta, "js")
rebuilt = beta * DIVERGENCES["js"].slope(best - ref_logps) + level[:, None]
print("β·f′(π*/π_ref) + λ(x):\n", rebuilt)
check.close("UPO Eq. 12, 16: it is r(x, y)", rebuilt, rewards, tol=1e-9)
log_z = multiplier(ref_logps, rewards, beta)  # for the KL λ(x) is β·log Z(x)
with_mean = ref * ((rewards - log_z.mean()) / beta).exp()
print("the KL with one λ for both prompts: the probabilities sum to", with_mean.sum(-1))
check.differs("EP2: one λ for both prompts gives no distribution", with_mean.sum(-1), 1.0, by=0.1)
up = optimal_logps(ref_logps, rewards + 1, beta, "js"), multiplier(ref_logps, rewards + 1, beta, "js")
check.close("r + 1: the same policy", up[0].exp(), best.exp(), tol=1e-10)
check.close("r + 1: λ + 1", up[1], level + 1, tol=1e-10)

# %% [markdown]
# **An independent solver.** SLSQP gets the objective, its gradient, the bounds and the condition that the sum is one.
# It knows nothing of $\lambda$. Total variation has corners, and with it the problem is a linear programme.


# %%
def general_solver(x, name):
    """arg max of Eq. 11 on the simplex, by scipy."""
    f = DIVERGENCES[name]

    def loss(p):
        u = torch.tensor(p, dtype=F64).clamp(min=1e-15).log() - ref_logps[x]
        value = (ref[x] * u.exp() * rewards[x]).sum() - beta * (ref[x] * f.f(u)).sum()
        return -float(value), (beta * f.slope(u) - rewards[x]).numpy()

    sum_to_one = {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-15, "maxiter": 500}
    found = minimize(
        loss, ref[x].numpy(), jac=True, method="SLSQP", bounds=[(1e-12, 1)] * 6, constraints=sum_to_one, options=options
    )
    return torch.tensor(found.x / found.x.sum(), dtype=F64)


def linear_programme(x):
    """The same for total variation: π = π_ref + gains − losses, and each of those costs β/2."""
    r = rewards[x].numpy()
    cost = np.concatenate([beta / 2 - r, beta / 2 + r])
    bounds = [(0, None)] * 6 + [(0, q) for q in ref[x].tolist()]
    found = linprog(cost, A_eq=np.concatenate([np.ones(6), -np.ones(6)])[None], b_eq=[0.0], bounds=bounds)
    return ref[x] + torch.tensor(found.x[:6] - found.x[6:], dtype=F64)


# %% tags=["check"]
for name in DIVERGENCES:
    theirs = torch.stack([linear_programme(x) if name == "tv" else general_solver(x, name) for x in range(2)])
    mine = optimal_logps(ref_logps, rewards, beta, name)
    gap = objective(mine, ref_logps, rewards, beta, name) - objective(theirs.log(), ref_logps, rewards, beta, name)
    check.true(f"{name}: J as high as the solver's", gap.abs().max() < 1e-9, f"J apart by {gap.abs().max():.0e}")
    check.close(f"{name}: the same policy as the solver's", mine.exp(), theirs, tol=1e-4)

# %% [markdown]
# ## 4. Zeros
#
# When does a divergence delete responses? The paper excludes zeros "for functions $f$ in which $0 \notin \text{dom}
# (f')$". A convex $f$ on the positive numbers never has 0 in its domain, so this condition excludes nothing (EP4). The
# price of the last bit of mass decides:
#
# $$\pi^*(y|x) = 0 \iff r(x, y) \le \lambda(x) + \beta f'(0^+).$$
#
# If $f'(0^+) = -\infty$, no reward is low enough. If $f'(0^+)$ is finite, $\eta(y) = \lambda + \beta f'(0^+) - r$ is
# the amount by which the reward would have to rise.

# %% tags=["check"]
small_ref = torch.tensor([[0.2, 0.3, 0.5]], dtype=F64).log()
small_r, small_beta = torch.tensor([[1.0, 0.0, 0.5]], dtype=F64), 0.1
best = optimal_logps(small_ref, small_r, small_beta, "chi2")
eta = small_beta * DIVERGENCES["chi2"].slope(best - small_ref) - small_r
eta = eta + multiplier(small_ref, small_r, small_beta, "chi2")[:, None]
print("χ², r = (1, 0, ½), β = 0.1:  π* =", best.exp()[0], "  η =", eta[0])
check.close(
    "EP4: π* = (9/14, 0, 5/14), a zero, though 0 is not in dom f′", best.exp()[0], [9 / 14, 0, 5 / 14], tol=1e-9
)
check.close("UPO Eq. 15 with η", eta[0], [0, 5 / 14, 0], tol=1e-9)
check.close("π·η = 0, everywhere", best.exp() * eta, 0.0)
check.differs("without η Eq. 16 fails at the zero", eta, 0.0, by=0.3)
raised = [small_r + torch.tensor([[0.0, 5 / 14 + more, 0.0]]) for more in (-1e-3, 1e-3)]
too_little, enough = (optimal_logps(small_ref, r, small_beta, "chi2")[0, 1].exp().item() for r in raised)
check.true("a rise below η leaves a zero, a rise above η does not", too_little == 0 < enough, f"{enough:.4f}")

# %% [markdown]
# How many of twelve responses are deleted? The rewards have sd 1 (standard deviation), and the number is a mean over
# eight prompts (CP2).
#
# > **Guess first:** which divergences delete responses, and do they delete more or fewer as $\beta$ grows?

# %%
wide = TableWorld.random(0, prompts=8, responses=12)
BETAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def zeros(name, beta):
    best = optimal_logps(wide.ref_logps, wide.rewards, beta, name)
    return float((best == -torch.inf).sum(-1).double().mean())


print(f"{'β':<12}" + "".join(f"{beta:>6}" for beta in BETAS))
for name in DIVERGENCES:
    print(f"{name:<12}" + "".join(f"{zeros(name, beta):6.1f}" for beta in BETAS))

# %% tags=["check"]
strict = [name for name in DIVERGENCES if DIVERGENCES[name].slope_at_zero == -math.inf]
check.true("f′(0+) = −∞: never a zero", not any(zeros(n, beta) for n in strict for beta in BETAS), ", ".join(strict))
check.true("χ² and total variation: many at small β", zeros("chi2", 0.05) > 5 and zeros("tv", 0.05) > 5)
spread = float((wide.rewards.amax(-1) - wide.rewards.amin(-1)).max())
stays = optimal_logps(wide.ref_logps, wide.rewards, spread + 1e-6, "tv")
check.close("total variation: π* = π_ref for β above the range of rewards", stays.exp(), wide.ref_logps.exp())
moves = optimal_logps(wide.ref_logps, wide.rewards, spread - 0.01, "tv")
check.differs("total variation: just below that β, π* is not π_ref", moves.exp(), wide.ref_logps.exp(), by=1e-3)

# %% [markdown]
# Total variation also shows that Theorem 3.1 needs the word "invertible". The $f'$ of total variation is flat,
# $\pm\frac12$. Such a price can only say up, down or stay.
#
# ## 5. f-DPO: the same from pairs
#
# $\lambda(x)$ cancels between two responses of one prompt, as $\beta \log Z(x)$ did. So with a Bradley–Terry labeller
# the loss of f-DPO needs only $f'$ (UPO Eq. 5):
#
# $$-\mathbb{E}_{\mathcal{D}} \log \sigma\!\left(\beta f'\!\left(\frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}\right)
# {} - \beta f'\!\left(\frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\right)\right)$$

# %% tags=["check"]
pair = a_pair(optimal_logps(ref_logps, rewards, beta, "js"))
for name in SMOOTH:
    slope = DIVERGENCES[name].slope
    chosen, rejected = (slope(pair[f"{k}_logps"] - pair[f"ref_{k}_logps"]) for k in ("chosen", "rejected"))
    by_hand = -torch.log(torch.sigmoid(beta * chosen - beta * rejected))
    check.close(f"UPO Eq. 5, {name}", METHODS["f-dpo"].loss(**pair, beta=beta, divergence=name), by_hand)
as_dpo = METHODS["f-dpo"].loss(**pair, beta=beta, divergence="reverse_kl")
check.close("with the reverse KL it is UPO Eq. 4, DPO", as_dpo, METHODS["dpo"].loss(**pair, beta=beta))

# %% [markdown]
# Where does it end? Every pair is sampled from $\pi_\text{ref}$ and labelled with the right probability. `fixed_point`
# minimises that population loss over all policies. If the optimum of section 3 has full support, it is the minimiser.


# %%
def population(divergence, beta):
    """log π -> f-DPO's loss over all pairs, each as often as π_ref and Bradley–Terry make it."""
    i, j = (~torch.eye(6, dtype=torch.bool)).nonzero(as_tuple=True)
    weight = ref[:, i] * ref[:, j] * torch.sigmoid(rewards[:, i] - rewards[:, j])

    def loss(logps):
        four = {"chosen_logps": logps[:, i], "rejected_logps": logps[:, j]}
        four |= {"ref_chosen_logps": ref_logps[:, i], "ref_rejected_logps": ref_logps[:, j]}
        flat = {name: table.flatten() for name, table in four.items()}
        return (weight.flatten() * METHODS["f-dpo"].loss(**flat, beta=beta, divergence=divergence)).sum()

    return loss


# %% tags=["check"]
for name in ("reverse_kl", "js", "forward_kl", "hellinger"):
    found = fixed_point(population(name, 0.8), ref_logps)
    check.close(
        f"f-DPO's minimiser is π*, {name}", found.exp(), optimal_logps(ref_logps, rewards, 0.8, name).exp(), 1e-8
    )
js_ends, kl_ends = (optimal_logps(ref_logps, rewards, 0.8, name).exp() for name in ("js", "reverse_kl"))
check.differs("the optimum for JS is not that for the KL", js_ends, kl_ends, by=0.1)

# %% [markdown]
# If $\pi^*$ has zeros, it is not the minimiser. A pair has no $\eta$ to compensate for a price that cannot fall
# further. [Notebook 06](06_upo_and_iupo.ipynb) comes back to this (CP3).
#
# ## 6. The picture
#
# The inverse of $f'$ gives the optimal policy. The left panel shows the price of the next bit of mass, divided by
# $f''(1)$. With this scale the smooth curves have the same slope at the origin. Total variation has no $f''(1)$ and is
# not scaled. The right panels show the policies in the first prompt, log-ratio against reward. There $\beta$ is chosen
# so that **all six earn the same expected reward**.


# %%
def with_reward(target, name, x=0):
    """(β, log π*) at which the optimum of prompt x earns `target`: bisection on log β, as reward falls with β."""
    low, high = math.log(1e-2), math.log(1e2)
    for _ in range(45):
        beta = math.exp((low + high) / 2)
        best = optimal_logps(ref_logps[x : x + 1], rewards[x : x + 1], beta, name)
        low, high = (
            (math.log(beta), high) if expected_reward(best, rewards[x : x + 1]) > target else (low, math.log(beta))
        )
    return beta, best


tv_beta = 1.7  # the best reward exceeds only the two worst by more than β: these two lose all their mass
tv_best = optimal_logps(ref_logps[:1], rewards[:1], tv_beta, "tv")
target = float(expected_reward(tv_best, rewards[:1]))
matched = {name: with_reward(target, name) for name in ("reverse_kl", "forward_kl", "js", "hellinger", "chi2")}
matched["tv"] = (tv_beta, tv_best)
print(f"expected reward {target:.3f} (π_ref: {float(expected_reward(ref_logps[:1], rewards[:1])):.3f})")
for name, (b_, best) in matched.items():
    print(f"{name:<12}β {b_:.3f}   H {float(entropy(best)):.3f}   π* {best.exp()[0].numpy().round(3)}")

# %% tags=["check"]
earned = [float(expected_reward(best, rewards[:1])) for _, best in matched.values()]
check.close("all six earn the same reward", earned, target, tol=1e-9)
gone = {name: int((best == -torch.inf).sum()) for name, (_, best) in matched.items()}
check.true(
    "at equal reward total variation deletes, the KL does not", gone["tv"] == 2 and gone["reverse_kl"] == 0, str(gone)
)

# %%
LOOK = {
    "reverse_kl": ("reverse KL", figures.INK, "the baseline: the price\nis the log-ratio"),
    "forward_kl": ("forward KL", figures.PALETTE["blue"], "forbids deleting;\nthe best is cheap"),
    "js": ("Jensen–Shannon", figures.PALETTE["green"], "forbids zeros;\nthe best is cheap"),
    "hellinger": ("Hellinger", figures.PALETTE["purple"], "forbids zeros;\nkeeps the worst more"),
    "chi2": ("χ²", figures.PALETTE["vermilion"], "forbids large ratios;\nzeros are possible"),
    "tv": ("total variation", figures.PALETTE["orange"], "deletes the worst,\nraises only the best"),
}
TICKS = (-math.log(16), -math.log(4), 0, math.log(4), math.log(16))
RATIOS = ("1/16", "1/4", "1", "4", "16")
fig = plt.figure(figsize=(11.6, 5.1))
price_side, policy_side = fig.subfigures(1, 2, width_ratios=(0.78, 1))

ax = price_side.subplots()
u = torch.linspace(-3.2, 3.2, 641, dtype=F64)
for name, (_, colour, _) in LOOK.items():
    at_one = 1.0 if name == "tv" else float(sp.diff(SLOPES[name], w).subs(w, 1))
    ax.plot(u, DIVERGENCES[name].slope(u) / at_one, color=colour, linewidth=2.1)
ends = {"reverse_kl": 3.2, "hellinger": 1.64, "js": 1.29, "forward_kl": 0.94, "tv": 0.5}
for name, y in ends.items():
    ax.text(3.3, y, LOOK[name][0], color=LOOK[name][1], va="center", fontsize=9.5)
ax.text(1.28, 3.55, "χ²", color=LOOK["chi2"][1], ha="right", va="center", fontsize=11)
ax.set_xticks(TICKS, RATIOS)
ax.set_xlim(-3.2, 3.2)
ax.set_ylim(-4, 4)
ax.set_xlabel(r"ratio  $\pi\,/\,\pi_\mathrm{ref}$")
ax.set_ylabel(r"price of the next bit of mass,  $f'/f''(1)$")
price_side.suptitle("Each divergence is a price of mass", x=0.02, ha="left", fontsize=12)

axes = policy_side.subplots(2, 3, sharex=True, sharey=True)
policy_side.suptitle("The optimal policy of each, all six at the same reward", x=0.02, ha="left", fontsize=12)
line = torch.linspace(-1.15, 1.65, 561, dtype=F64)
for ax, (name, (label, colour, what)) in zip(axes.flat, LOOK.items(), strict=True):
    best = matched[name][1]
    for drawn, tint, width in (("reverse_kl", figures.FAINT, 2.4), (name, colour, 1.8)):
        own = matched[drawn][0]
        level = float(multiplier(ref_logps[:1], rewards[:1], own, drawn))
        ratio = DIVERGENCES[drawn].inverse((line - level) / own).clamp(min=-9, max=9)
        if drawn == "tv":
            ratio = torch.where(line > 1.5, torch.nan, ratio)
            ax.plot([1.5, 1.5], [0, float((best - ref_logps[:1])[0, 5])], color=tint, linewidth=width, zorder=2)
        ax.plot(line, ratio, color=tint, linewidth=width, zorder=2)
    gap = (best - ref_logps[:1])[0]
    alive = gap > -9
    size = 30 + 260 * ref[0][alive].numpy()
    ax.scatter(rewards[0][alive], gap[alive], s=size, color=colour, edgecolor=figures.CARD, zorder=4)
    for x in rewards[0][~alive].tolist():
        ax.scatter([x], [-3.72], s=64, marker="X", color=colour, zorder=4, edgecolor=figures.CARD)
    if not bool(alive.all()):
        ax.text(-1.0, -3.25, "deleted", color=colour, fontsize=9, ha="center", va="bottom")
    ax.set_title(label, color=colour, fontweight="bold", fontsize=10.5, pad=3)
    ax.text(-1.22, 2.95, what, fontsize=8.5, va="top", linespacing=1.15)
    ax.set_ylim(-4, 3.1)
    ax.set_xlim(-1.3, 1.8)
    ax.set_yticks(TICKS, RATIOS)
    ax.set_xticks((-1, 0, 1), ("−1", "0", "1"))
axes[1, 1].set_xlabel("reward of a response")
for ax in axes[:, 0]:
    ax.set_ylabel(r"$\pi^*/\,\pi_\mathrm{ref}$", labelpad=1)
figures.save(fig, "05_f_divergences")
plt.show()

# %% [markdown]
# A dot is a response. A larger dot is more likely under $\pi_\text{ref}$. The grey line is that of the KL.
#
# - The **forward KL**'s price falls steeply towards zero and has a ceiling of 1. The worst responses keep mass as
#   $1/\text{gap}$, not $e^{-\text{gap}}$. Near the ceiling, more mass on a good response costs hardly more.
# - **Jensen–Shannon** and **Hellinger** lie between the forward and the reverse KL. Bad responses fade, and the best
#   one is cheap.
# - **χ²** is the reverse: large ratios are expensive, zeros are not.
# - **Total variation** has two prices and no policy in between.
#
# ## 7. The same theory as the survey prints it
#
# The survey of alignment has these steps in its Sec. 3.12, with $p$ and $q$ for the two policies (survey Eq. 63):
#
# $$D_f(p, q) = \mathbb{E}_{q}\left[f\left(\tfrac{p}{q}\right)\right].$$
#
# Its objective is printed as a mean over a data set $D$ (survey Eq. 64):
#
# $$\max_{\pi_\theta} \mathbb{E}_{(x, y) \sim D}\left[r_\theta(y|x)
# - \beta f\left(\tfrac{\pi_\theta(y|x)}{\pi_\text{ref}(y|x)}\right)\right].$$
#
# Over a fixed $D$ the reward does not depend on $\pi_\theta$, so nothing is learned from it
# ([ES34](../docs/claims.md#es34)). What is meant is $\mathbb{E}_{\pi} r - \beta D_f(\pi, \pi_\text{ref})$.
# Its Lagrangian has one $\lambda$ for each prompt and one $\alpha(y) \ge 0$ for each response (survey Eq. 65):
#
# $$L = \mathbb{E}_{\pi} r - \beta D_f(\pi, \pi_\text{ref}) - \lambda\Big(\sum_y \pi(y) - 1\Big)
# + \sum_y \alpha(y) \pi(y).$$
#
# Its stationary point is the optimum, and solved for the reward it is what f-DPO compares (survey Eq. 66 and 67):
#
# $$\pi(y) = \pi_\text{ref}(y)\,(f')^{-1}\left(\frac{r(y) - \lambda + \alpha(y)}{\beta}\right), \qquad
# r(y) = \beta f'\left(\frac{\pi(y)}{\pi_\text{ref}(y)}\right) + C(x).$$
#
# $\alpha(y)$ is positive only where a response is deleted. There Eq. 67 does not hold; it needs $f'(0^+) = -\infty$
# ([ES36](../docs/claims.md#es36)).

# %% tags=["check"]
weights = torch.tensor([0.2, 0.1, 0.3, 0.1, 0.2, 0.1], dtype=F64)  # a data set D


def as_printed(best, r):
    """The survey's Eq. 64 as printed, with χ²."""
    return (weights * (r - beta * (best - ref_logps).expm1() ** 2)).sum(-1)


p, q = (optimal_logps(ref_logps, rewards, b, "chi2") for b in (0.5, 2.0))
gain = as_printed(p, rewards) - as_printed(q, rewards)
check.close(
    "survey Eq. 64 as printed compares two policies alike for r and for 10 r",
    as_printed(p, 10 * rewards) - as_printed(q, 10 * rewards),
    gain,
)
meant = [
    objective(best, ref_logps, 10 * rewards, beta, "chi2") - objective(best, ref_logps, rewards, beta, "chi2")
    for best in (p, q)
]
check.differs("the objective that is meant does not", meant[0], meant[1], by=0.1)
for name, strength in (("js", beta), ("chi2", 0.2)):
    best = optimal_logps(ref_logps, rewards, strength, name)
    level = multiplier(ref_logps, rewards, strength, name)[:, None]
    price = (rewards - level) / strength
    floor = -math.inf if name == "js" else -2.0  # f′(0)
    alpha_ = strength * (floor - price).clamp(min=0)
    ratio = DIVERGENCES[name].inverse(price + alpha_ / strength)
    check.close(
        f"{name}: survey Eq. 66 with λ(x) and α(y) is the optimum", (ref_logps + ratio).exp(), best.exp(), tol=1e-9
    )
    left = rewards - strength * DIVERGENCES[name].slope(best - ref_logps)
    spread = left.amax(-1) - left.amin(-1)
    if name == "js":
        check.close("js: survey Eq. 67, r − β·f′ is one C for a prompt", spread, 0.0, tol=1e-9)
        check.differs("js: and another C for the other prompt", left[0, :1], left[1, :1], by=0.1)
    else:
        deleted = int((best == -math.inf).sum())
        check.true(
            "chi2: where a response is deleted α > 0, and survey Eq. 67 fails", spread.max() > 0.1, f"{deleted} deleted"
        )

# %% [markdown]
# ## 8. Reward against diversity
#
# The survey of alignment reports two results of f-DPO's experiments (Sec. 3.12; RKL is the reverse KL). JS "achieved
# rewards comparable to RKL but with higher diversity". The forward KL and $\alpha$ had "better entropy with lower
# rewards". Diversity is entropy here. Such a sentence has to say what is held equal.
#
# **At equal $\beta$** the strength of a divergence is its $f''(1)$. Near $\pi_\text{ref}$ all of them give the same
# policy,
#
# $$\pi^* \approx \pi_\text{ref} \left(1 + \frac{r - \mathbb{E}_{\pi_\text{ref}} r}{\beta f''(1)}\right).$$
#
# So JS at $\beta$ is about the KL at $\beta / 2$, and "at equal $\beta$" compares two strengths.

# %% tags=["check"]
large = 200.0
for name in ("reverse_kl", "forward_kl", "js", "chi2", "hellinger"):
    strength = large * float(sp.diff(SLOPES[name], w).subs(w, 1))
    centred = rewards - (ref * rewards).sum(-1, keepdim=True)
    tilt = (optimal_logps(ref_logps, rewards, large, name) - ref_logps).expm1() * strength
    check.close(f"{name}: small tilts are (r − E r) / (β·f″(1))", tilt, centred, tol=0.05)

SEEDS, PROMPTS = 10, 6
worlds = [TableWorld.random(seed, prompts=PROMPTS, responses=12) for seed in range(SEEDS)]
r_all = torch.cat([world.rewards for world in worlds])
refs = {"random π_ref": torch.cat([world.ref_logps for world in worlds])}
refs["uniform π_ref"] = torch.full_like(r_all, -math.log(12))


def by_world(values):
    """(seeds,) means over prompts."""
    return values.view(SEEDS, PROMPTS).mean(1)


for beta_ in (0.2, 0.5):
    print(f"\nβ = {beta_}: mean of ten worlds minus the KL's, ± 95 %  reward             entropy")
    for name in ("forward_kl", "js", "alpha", "hellinger", "chi2"):
        best, kl_best_ = (optimal_logps(refs["random π_ref"], r_all, beta_, n) for n in (name, "reverse_kl"))
        gains = expected_reward(best, r_all) - expected_reward(kl_best_, r_all), entropy(best) - entropy(kl_best_)
        shown = "    ".join(f"{g.mean():+.3f} ± {2.262 * by_world(g).std() / math.sqrt(SEEDS):.3f}" for g in gains)
        print(f"    {name:<48}{shown}")
        if name == "forward_kl":
            poorer = bool((by_world(gains[0]) < 0).all() and (by_world(gains[1]) > 0).all())
            if beta_ == 0.2:
                check.true("β = 0.2: the forward KL has less reward and more entropy in each world", poorer)
            else:
                check.true("β = 0.5: this does not hold in each world", not poorer)
        if name == "js":
            richer, narrower = (by_world(gains[0]) > 0).all(), (by_world(gains[1]) < 0).all()
            check.true(f"β = {beta_}: JS has more reward and less entropy in each world", richer and narrower)

# %% [markdown]
# So at equal $\beta$ JS is the *less* diverse one, and earns more reward. The forward KL's "better entropy with lower
# rewards" holds at $\beta = 0.2$ and not at $0.5$. The sign of $\alpha$'s difference changes as well.
#
# **At equal reward**, each divergence gets the $\beta$ at which it earns what the KL earns at $\beta = 0.5$. This is
# done world by world. With a uniform $\pi_\text{ref}$ the outcome is a theorem, because there $\text{KL}(\pi \,\|\,
# \pi_\text{ref}) = \log Y - H(\pi)$. So the KL's optimum has the greatest entropy among all policies with its reward.
# No other divergence can have more.


# %%
def at_equal_reward(ref_logps, name, goal):
    """log π* in every world, each at the β which earns `goal` (seeds,): bisection on log β, all worlds at once."""
    low, high = torch.full((SEEDS,), -5.0, dtype=F64), torch.full((SEEDS,), 4.0, dtype=F64)
    for _ in range(28):
        own = ((low + high) / 2).exp().repeat_interleave(PROMPTS)[:, None]
        best = optimal_logps(ref_logps, r_all / own, 1.0, name)
        rich = by_world(expected_reward(best, r_all)) > goal
        low, high = torch.where(rich, (low + high) / 2, low), torch.where(rich, high, (low + high) / 2)
    return best


more = {}
for label, table in refs.items():
    kl_policy = optimal_logps(table, r_all, 0.5)
    goal = by_world(expected_reward(kl_policy, r_all))
    for name in ("js", "forward_kl", "chi2"):
        best = at_equal_reward(table, name, goal)
        assert (by_world(expected_reward(best, r_all)) - goal).abs().max() < 1e-4
        more[label, name] = by_world(entropy(best) - entropy(kl_policy))
        mean, ci = more[label, name].mean(), 2.262 * more[label, name].std() / math.sqrt(SEEDS)
        print(f"{label}, {name:<11} entropy minus the KL's: {mean:+.3f} ± {ci:.3f} nats")

# %% tags=["check"]
check.true(
    "uniform π_ref: the KL has most entropy",
    all((gain < 0).all() for (label, _), gain in more.items() if label == "uniform π_ref"),
)
gain = more["random π_ref", "js"]
check.true(
    "random π_ref: JS has more in some worlds and less in others",
    gain.max() > 0 > gain.min(),
    str(gain.numpy().round(3)),
)

# %% [markdown]
# So "more diversity" is a property of a divergence *and* of a reference. Compare JS with the KL under the random
# $\pi_\text{ref}$. At equal reward they differ on average by hundredths of a nat. At equal $\beta$ they differed by
# tenths. Where $\pi_\text{ref}$ is uniform, the forward KL and $\chi^2$ are clearly less diverse than the KL.
#
# ## What we learned
#
# - A divergence is its $f'$, and one number per prompt turns it into the optimal policy: *optimal_logps() = bisection*,
#   *J as high as the solver's*. For the KL this number is $\beta \log Z(x)$.
# - Theorem 3.1 is true per response and per prompt: *UPO Eq. 12, 16: it is r(x, y)*.
# - As printed, the theorem takes one $\lambda$ for all prompts (*EP2*).
# - No optimum has zeros if and only if $f'(0^+) = -\infty$: *f′(0+) = −∞: never a zero*. The counterexample to the
#   paper's condition is *EP4: a zero, though 0 is not in dom f′*.
# - f-DPO needs only $f'$, and ends at $\pi^*$ if that has full support: *f-DPO's minimiser is π\**.
# - The papers' JS is $2 \cdot$ JSD (*EP10*). Equal $\beta$ is not equal strength: *small tilts are (r − E r) /
#   (β·f″(1))*.
# - At equal reward and uniform $\pi_\text{ref}$, no divergence is more diverse than the KL: *uniform π_ref: the KL has
#   most entropy*. With other references it depends: *random π_ref*.
#
# In the ledger:

# %%
HERE = [entry for entry in CLAIMS.values() if entry.notebook == "05_f_divergences" and not entry.misprint]
display(Markdown(markdown(HERE)))

# %% tags=["check"]
ids = [entry.id for entry in HERE]
check.true(
    "the ledger has the claims of notebook 05",
    {"EP2", "EP4", "EP10", "CP1", "CP2"} <= set(ids),
    str(ids),
)

# %% [markdown]
# ## Limits
#
# - These are tables of 6 and 12 responses, rewards of sd 1, and exact optima. They do not show what a network trained
#   on samples makes of a divergence. They do not show whether a ceiling of the price makes training unstable.
# - Entropy is one notion of diversity. Two responses that say the same in other words count as two.
# - With total variation the optimum is not unique where rewards differ from the best by exactly $\beta$. The library
#   shares such mass in proportion to $\pi_\text{ref}$.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell. Hints and answers are folded below.
#
# **1.** (Pencil.) The generator $f(w) = (w - 1)^2 / w$ is Neyman's χ². Write its $f'$ and the inverse of $f'$, in the
# log-ratio. Can its optimum have zeros?

# %%
mine = ...  # (slope, inverse, whether zeros are possible): two functions of a tensor and a bool

if mine is not ...:
    truth = sp.lambdify(w, sp.diff((w - 1) ** 2 / w, w), "numpy")(u.exp().numpy())
    check.close("exercise 1: f′", mine[0](u), truth, tol=1e-9)
    check.close("exercise 1: its inverse", mine[1](mine[0](u)), u, tol=1e-9)
    check.true("exercise 1: zeros", mine[2] is False)

# %% [markdown]
# **2.** (Pencil.) In the first prompt, above which $\beta$ does χ² keep all six responses? Give three digits.

# %%
mine = ...  # β

if mine is not ...:
    kept = [
        bool((optimal_logps(ref_logps[:1], rewards[:1], mine * k, "chi2") > -torch.inf).all()) for k in (0.999, 1.001)
    ]
    check.true("exercise 2", kept == [False, True])

# %% [markdown]
# **3.** (Pencil.) At $\beta = 0.1$, a response has a reward 1 below $\lambda$. Which share of its $\pi_\text{ref}$
# does it keep in the optimum for the forward KL? And for the reverse KL?

# %%
mine = ...  # (forward, reverse)

if mine is not ...:
    truth = [
        float(DIVERGENCES[n].inverse(torch.tensor([-1 / 0.1], dtype=F64)).exp()) for n in ("forward_kl", "reverse_kl")
    ]
    check.close("exercise 3", torch.tensor(mine, dtype=F64).log(), torch.tensor(truth, dtype=F64).log(), tol=1e-6)

# %% [markdown]
# **4.** (Open.) You want a policy that never says certain responses, and keeps the others near the reference. Which
# divergence would you take, and what would you check first?
#
# <details>
# <summary>Hints</summary>
#
# **1.** What is $f'(0^+)$? **2.** When does the first response reach zero? **3.** Invert $f' = 1 - 1/w$ and $f' = \log
# w$.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** $f' = 1 - 1/w^2$: `(lambda u: -torch.expm1(-2 * u), lambda v: -torch.log1p(-v) / 2, False)`, as $f'(0^+) =
# -\infty$.
#
# **2.** `0.6075`. A zero needs $r \le \lambda - 2\beta$. While none is zero $\sum \pi_\text{ref} (r - \lambda) / (2
# \beta) = 0$, so $\lambda = \mathbb{E}_{\pi_\text{ref}} r = 0.215$ and $\beta = (0.215 + 1) / 2 = 0.6075$.
#
# **3.** `(1 / 11, math.exp(-10))`: $1/w = 1 - v$ with $v = -10$, against $w = e^v$.
#
# **4.** One with a finite $f'(0^+)$, such as χ². Check that the rewards of those responses are below the threshold
# $\lambda + \beta f'(0^+)$ for every prompt, since $\lambda$ differs between prompts.
#
# </details>
