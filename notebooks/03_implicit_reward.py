# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # When is β·log(π/π_ref) the reward?
#
# [Notebook 02](02_partition_function.ipynb) ended with the reward computed from the optimal policy,
# $r = \beta \log \frac{\pi^*}{\pi_\text{ref}} + \beta \log Z(x)$. It also showed that $Z(x)$ is hard to estimate at
# small $\beta$. UNA omits $Z(x)$. This notebook asks what UNA then claims and when the claim is true. It also asks
# what the two symbols $f(x)$ and $c$ of the general form can and cannot do.
#
# **Claim** (UNA Eq. 6, Sec. 3, App. C). "Given the classical RLHF objective, the optimal policy is induced by"
#
# $$r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)},$$
#
# a special case, $f(x) = c = 0$, of $r = \beta \log \frac{\pi}{\pi_\text{ref}} + f(x) + c$ with
# $c = \beta \log \lambda$.
#
# **Needs.** [Notebooks 01](01_log_sum_inequality.ipynb) and 02.
#
# **Time.** About 25 minutes to read, without the exercises. Next: [notebook 04](04_una_losses.ipynb).

# %%
import math

import sympy as sp
import torch
from IPython.display import Markdown

from una_ref import figures
from una_ref.claims import CLAIMS, markdown
from una_ref.methods.rewards import implicit_reward
from una_ref.notebook import check
from una_ref.theory import TableWorld, fixed_point, log_partition, objective, una_minima, una_regression

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
plt = figures.pyplot()

BETA = 0.3
ref = torch.tensor([[0.30, 0.25, 0.20, 0.15, 0.10], [0.30, 0.10, 0.25, 0.20, 0.15], [0.35, 0.25, 0.20, 0.05, 0.15]])
ratings = torch.tensor([[0.90, 0.80, 0.70, 0.95, 0.60], [0.20, 0.90, 0.50, 0.10, 0.70], [0.05, 0.10, 0.0, 0.30, 0.20]])
world = TableWorld(ref.log(), ratings, BETA)  # an easy, a mixed and a hard prompt, rated from 0 to 1
generator = torch.Generator().manual_seed(0)
policies = [(3 * torch.randn(3, 5, generator=generator)).log_softmax(-1) for _ in range(200)]

# %% [markdown]
# ## What UNA Eq. 6 defines
#
# Any policy has an implicit reward, UNA Eq. 6. It says how far the policy has moved from its reference:
#
# $$r_\theta(x, y) = \beta \log \frac{\pi_\theta(y \mid x)}{\pi_\text{ref}(y \mid x)}.$$


# %%
def implicit(logps):
    """UNA Eq. 6."""
    return BETA * (logps - world.ref_logps)


print("the implicit reward of π*\n", implicit(world.optimum))
print("the ratings\n", ratings)

# %% tags=["check"]
check.close(
    "UNA Eq. 6 by hand = implicit_reward", implicit(policies[0]), implicit_reward(policies[0], world.ref_logps, BETA)
)
mean = (policies[0].exp() * implicit(policies[0])).sum(-1)
check.true("its mean under π itself is β·KL >= 0", (mean >= 0).all(), str([round(x, 3) for x in mean.tolist()]))

# %% [markdown]
# ## Two ways to read the claim, and the one that holds
#
# Section 3 sets out to "rigorously prove that $r = \beta \log (\pi_\theta / \pi_\text{ref})$ will maximize the
# objective". Which $\pi$ is meant?
#
# **Reading 1: the reward is the implicit reward of whichever policy is judged.** Then
#
# $$
# J(\pi) = \mathbb{E}_\pi \left[ \beta \log \frac{\pi}{\pi_\text{ref}} \right]
# - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}) = 0
# $$
#
# for *every* policy. Nothing is maximised (EU2).

# %% tags=["check"]
p, q = sp.symbols("pi1:4", positive=True), sp.symbols("q1:4", positive=True)
beta = sp.symbols("beta", positive=True)
earned = sum(a * beta * sp.log(a / b) for a, b in zip(p, q, strict=True))
paid = beta * sum(a * sp.log(a / b) for a, b in zip(p, q, strict=True))
check.true("reading 1: J = 0, symbolically", sp.simplify(earned - paid) == 0, "sympy: 0")
own = torch.stack([objective(p, world.ref_logps, implicit(p), BETA) for p in policies])
check.close("reading 1: J = 0 for 200 policies", own, 0.0)
given = torch.stack([objective(p, world.ref_logps, ratings, BETA) for p in policies])
check.differs("with the ratings as the reward, J differs between policies", given.amax(0), given.amin(0), by=0.5)

# %% [markdown]
# **Reading 2: the reward is given, and it is the implicit reward of its optimum $\pi^*$.** By
# [notebook 02](02_partition_function.ipynb) this fails by $\beta \log Z(x)$, the same for every response of the prompt.

# %%
missing = ratings - implicit(world.optimum)
print("r − β·log π*/π_ref\n", missing)
print("β·log Z(x)", BETA * world.log_partition)

# %% tags=["check"]
check.close("reading 2: the difference is β·log Z(x)", missing, (BETA * world.log_partition)[:, None].expand(3, 5))
check.differs("reading 2: the difference is not 0", missing, 0.0, by=0.8)

# %% [markdown]
# **What holds: every policy is optimal for its own implicit reward.** Freeze a policy $\pi_0$ and take
# $r_0 = \beta \log \frac{\pi_0}{\pi_\text{ref}}$ as a *given* reward. Since
# $\pi_\text{ref}\, e^{r_0 / \beta} = \pi_0$, its $Z(x)$ is 1, its optimum is $\pi_0$, and its largest $J$ is 0. So
# the claim is true of exactly the rewards with $Z(x) = 1$ (CU1).

# %% tags=["check"]
for name, frozen in (("a random policy", policies[0]), ("another", policies[1]), ("π*", world.optimum)):
    its_own = TableWorld(world.ref_logps, implicit(frozen), BETA)
    check.close(f"{name}: its implicit reward has Z(x) = 1", its_own.log_partition, 0.0)
    check.close(f"{name}: it is the optimum of its implicit reward", its_own.optimum, frozen)
fits = TableWorld(world.ref_logps, ratings - (BETA * world.log_partition)[:, None], BETA)
check.close("ratings − β·log Z(x) are the implicit reward of their optimum", implicit(fits.optimum), fits.rewards)

# %% [markdown]
# ## λ, and whether it can be 1
#
# UNA starts from the equality condition, Eq. 14 ([notebook 01](01_log_sum_inequality.ipynb)):
# $\pi = \frac1\lambda\, \pi_\text{ref}\, e^{r / \beta}$. Solved for $r$ this is UNA Eq. 15:
#
# $$r(x, y) = \beta \log \frac{\lambda\, \pi(y \mid x)}{\pi_\text{ref}(y \mid x)}
# = \beta \log \frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)} + \beta \log \lambda,$$
#
# "$= \beta \log \frac{\pi}{\pi_\text{ref}}$ when $\lambda = 1$". But $\lambda$ cannot be chosen. It is $Z(x)$, which
# the reward determines.

# %%
lam = (world.ref_logps + ratings / BETA - world.optimum).exp()
print("λ = π_ref·e^(r/β)/π*\n", lam)

# %% tags=["check"]
check.close("UNA Eq. 14: λ(x) = Z(x), for every response", lam, world.log_partition.exp()[:, None].expand(3, 5))
check.close("UNA Eq. 15 with λ(x): the ratings", implicit(world.optimum) + BETA * lam.log(), ratings)
check.differs("UNA Eq. 15 with λ = 1: not the ratings", implicit(world.optimum), ratings, by=0.8)

# %% [markdown]
# With Eq. 14 inserted into the upper bound, UNA Eq. 16 reads
#
# $$
# \beta\, \mathbb{E}_x \log \mathbb{E}_{\pi_\text{ref}} e^{r / \beta}
# = \beta\, \mathbb{E}_x \log \mathbb{E}_{\pi_\text{ref}} \frac{\lambda\, \pi}{\pi_\text{ref}}
# = \beta\, \mathbb{E}_x \log \mathbb{E}_{\pi} \lambda
# = \beta\, \mathbb{E}_x \log \lambda
# $$
#
# and ends with "$= \beta \log \lambda = 0$ when $\lambda = 1$". With $\lambda(x)$ the last line stays
# $\mathbb{E}_x\, \beta \log Z(x)$ (EU4). To take $\lambda$ out of the expectation it would have to be one number.

# %%
best = world.optimum
eq16 = [
    BETA * (ref * (ratings / BETA).exp()).sum(-1).log(),
    BETA * (ref * lam * best.exp() / ref).sum(-1).log(),
    BETA * (best.exp() * lam).sum(-1).log(),
    BETA * lam[:, 0].log(),
]
print("for each prompt  ", eq16[-1], "   mean", round(float(eq16[-1].mean()), 4))
print("β·log of the mean Z", round(float(BETA * lam[:, 0].mean().log()), 4))

# %% tags=["check"]
check.close("UNA Eq. 16: its first four lines, for each prompt", torch.stack(eq16), eq16[0].expand(4, 3))
reached = objective(best, world.ref_logps, ratings, BETA).mean()
check.close("the bound that π* reaches is E β·log Z(x)", eq16[-1].mean(), reached)
check.differs("the bound is not β·log of one λ = E Z(x)", BETA * lam[:, 0].mean().log(), reached, by=0.1)
check.differs("the bound is not 0", reached, 0.0, by=0.4)

# %% [markdown]
# **Can ratings between 0 and 1 have $\lambda = 1$?** No. With $r \ge 0$ each $e^{r / \beta}$ is at least 1. Their
# mean is above 1 as soon as one rating is above 0. Some rewards have to be negative. (By
# [notebook 02](02_partition_function.ipynb), $\mathbb{E}_{\pi_\text{ref}} r \le \beta \log Z \le \max r$. So $Z = 1$
# needs $\mathbb{E}_{\pi_\text{ref}} r \le 0 \le \max r$.) For 200 prompts with random ratings:

# %%
many_ref = torch.randn(200, 8, generator=generator).log_softmax(-1)
many = torch.rand(200, 8, generator=generator)
print("β·log Z(x), equal to 0 by UNA Sec. 3")
for b in (0.03, 0.3, 1.0):
    value = b * log_partition(many_ref, many, b)
    print(f"    β {b:<5} mean {value.mean():.2f}   from {value.min():.2f} to {value.max():.2f}")

# %% tags=["check"]
least = min(float((b * log_partition(many_ref, many, b)).min()) for b in (0.03, 0.1, 0.3, 1.0, 10.0))
check.true("ratings in [0, 1]: β·log Z(x) > 0, at every β", least > 0.05, f"least {least:.3f}")
signed = many - 0.5
both = (0.3 * log_partition(many_ref, signed, 0.3)).sign()
check.true(
    "ratings − ½: some prompts above 0, some below",
    both.min() < 0 < both.max(),
    f"{int((both < 0).sum())} of 200 below",
)

# %% [markdown]
# ## Does f(x) help?
#
# Appendix C repeats the derivation with an unspecified function $f(x)$. UNA Eq. 20 adds and subtracts $f(x)$:
#
# $$
# J(\pi) = \beta\, \mathbb{E}_\pi \left[ -\log \frac{\pi}{\pi_\text{ref}\, e^{r / \beta}} \right]
# = \beta \left\{ \mathbb{E}_\pi \left[ -\log \frac{\pi}{\pi_\text{ref}\, e^{(r - f) / \beta}} \right]
# + \frac{f(x)}{\beta} \right\}.
# $$

# %%
some_f = torch.tensor(
    [[0.0, 0.0, 0.0], [0.5, -1.0, 2.0], [-3.0, 0.1, 0.7]]
)  # three choices of f, each for three prompts
pi = policies[0].exp()


def eq20(f):
    """The last line of UNA Eq. 20, for each prompt."""
    b = ref * ((ratings - f[:, None]) / BETA).exp()
    return BETA * ((pi * -(pi / b).log()).sum(-1) + f / BETA)


for f in some_f:
    print("f", f.tolist(), "  J", eq20(f))

# %% tags=["check"]
truth = objective(policies[0], world.ref_logps, ratings, BETA)
check.close("UNA Eq. 20: the same J for three choices of f", torch.stack([eq20(f) for f in some_f]), truth.expand(3, 3))
check.differs("UNA Eq. 20 without + f/β: not J", eq20(some_f[1]) - some_f[1], truth, by=1.0)

# %% [markdown]
# UNA Eq. 21 applies the log-sum inequality. The bound contains $f$ twice, and the two cancel:
#
# $$J(\pi) \;\le\; \beta \log \mathbb{E}_{\pi_\text{ref}} e^{(r - f) / \beta} + f(x) \;=\; \beta \log Z(x).$$

# %%
bounds = torch.stack([BETA * log_partition(world.ref_logps, ratings - f[:, None], BETA) + f for f in some_f])
print("the bound for three choices of f\n", bounds)

# %% tags=["check"]
check.close(
    "UNA Eq. 21: the bound is β·log Z(x) for three choices of f", bounds, (BETA * world.log_partition).expand(3, 3)
)
check.true("UNA Eq. 21: no policy is above it", all((given <= bound + 1e-12).all() for bound in bounds))

# %% [markdown]
# Equality is UNA Eq. 22,
#
# $$\frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)\, e^{(r(x, y) - f(x)) / \beta}} = \frac1\lambda,$$
#
# which solved for the reward is UNA Eq. 23:
#
# $$r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)} + f(x) + \beta \log \lambda.$$

# %%
f = some_f[1]
ratio = world.optimum.exp() / (ref * ((ratings - f[:, None]) / BETA).exp())
lam_f = 1 / ratio[:, 0]
print("π*/(π_ref·e^((r − f)/β))\n", ratio)

# %% tags=["check"]
check.close("UNA Eq. 22: one ratio in each prompt", ratio / ratio[:, :1], 1.0)
check.differs("UNA Eq. 22: not one ratio for all prompts", ratio[:, 0] / ratio[0, 0], 1.0, by=1.0)
again = implicit(world.optimum) + f[:, None] + BETA * lam_f.log()[:, None]
check.close("UNA Eq. 23 with λ(x): the ratings", again, ratings)

# %% [markdown]
# UNA Eq. 24 is Eq. 16 with $f$:
#
# $$
# \beta\, \mathbb{E}_x \left\{ \log \mathbb{E}_{\pi_\text{ref}} e^{(r - f) / \beta} + \frac{f(x)}{\beta} \right\}
# = \mathbb{E}_x \left\{ \beta \log \lambda + f(x) \right\},
# $$
#
# printed as $\beta \log \lambda + \mathbb{E}_x f(x)$. With $\lambda(x)$ the logarithm stays inside. The sum is again
# the mean of $\beta \log Z(x)$.

# %% tags=["check"]
left = (BETA * log_partition(world.ref_logps, ratings - f[:, None], BETA) + f).mean()
check.close("UNA Eq. 24 with λ(x)", left, (BETA * lam_f.log() + f).mean())
check.close("UNA Eq. 24: its value is E β·log Z(x)", left, (BETA * world.log_partition).mean())
one = lam_f.mean()
check.differs("UNA Eq. 24 with one λ, the mean: not E β·log Z(x)", BETA * one.log() + f.mean(), left, by=0.1)

# %% [markdown]
# Probabilities sum to one, which links $\lambda$ to $f$, UNA Eq. 25:
#
# $$1 = \sum_y \pi(y \mid x) = \frac{\sum_y \pi_\text{ref}\, e^{r / \beta}}{\lambda\, e^{f(x) / \beta}}
# = \frac{Z(x)}{\lambda\, e^{f(x) / \beta}}
# \quad\Longrightarrow\quad f(x) + \beta \log \lambda = \beta \log Z(x).$$

# %% tags=["check"]
r_s, f_s, lam_s = sp.symbols("r1:4", real=True), sp.symbols("f", real=True), sp.symbols("lambda", positive=True)
total = sum(b * sp.exp((r - f_s) / beta) for b, r in zip(q, r_s, strict=True)) / lam_s
Z_s = sum(b * sp.exp(r / beta) for b, r in zip(q, r_s, strict=True))
(solved,) = sp.solve(total - 1, lam_s)
rest = sp.simplify(solved * sp.exp(f_s / beta) - Z_s)
check.true("UNA Eq. 25: λ·e^(f/β) = Z(x), symbolically", rest == 0, "sympy: 0")
check.close("UNA Eq. 25 in numbers", f + BETA * lam_f.log(), BETA * world.log_partition)

# %% [markdown]
# Here UNA agrees with DPO: Eq. 23 with Eq. 25 *is* DPO's Eq. 4. The general form is right, as long as nothing in it
# is free (CU2). With a constant $\lambda$ only one $f$ fits: $f(x) = \beta \log Z(x)$ minus a constant. With an $f$
# of our choice $\lambda$ must vary with the prompt.
#
# ## What can be known
#
# **$f$ and $c$ separately: never.** Add $a$ to one and subtract it from the other:
# $(f + a,\; \lambda\, e^{-a / \beta})$ is the same policy (EU5).

# %%
mixed = world.log_partition[1].exp()
print("the mixed prompt")
rows = []
for f_, lam_ in ((0.0, mixed), (BETA * mixed.log(), 1.0), (2.0, mixed * math.exp(-2.0 / BETA))):
    rows.append(ref[1] * ((ratings[1] - f_) / BETA).exp() / lam_)
    both = float(f_ + BETA * math.log(lam_))
    print(f"    f {float(f_):.4f}   λ {float(lam_):.5f}   f + β·log λ {both:.4f}   policy {rows[-1]}")

# %% tags=["check"]
check.close("three choices of (f, λ) are one policy, π*", torch.stack(rows), world.optimum[1].exp().expand(3, 5))
check.differs("f = 0 and λ = 1: not a policy", (ref[1] * (ratings[1] / BETA).exp()).sum(), 1.0, by=1.0)

# %% [markdown]
# **The reward from the policy: up to a number per prompt.** DPO calls two rewards equivalent if and only if they
# differ by an $f(x)$. UNA's App. A objects that a "rigorous proof cannot be provided", only that such rewards have
# the same optimal policy. The converse takes one line. If $r$ and $r'$ have the same $\pi^*$, subtract Eq. 4 for $r'$
# from Eq. 4 for $r$:
#
# $$r - r' = \beta \log Z(x) - \beta \log Z'(x),$$
#
# which does not depend on $y$. So policies with the support of $\pi_\text{ref}$ correspond one-to-one to rewards up
# to $f(x)$. What each kind of feedback determines:
#
# | known | the reward is known | Z(x) is known |
# | --- | --- | --- |
# | the policy $\pi^*$ | up to $f(x)$ | no |
# | pairs, however many | up to $f(x)$ | no |
# | scores, or one score per prompt and $\pi^*$ | completely | yes |
#
# The implicit reward of $\pi^*$ is the one reward among all $r + f(x)$ that has $Z(x) = 1$.

# %% tags=["check"]
shift = torch.randn(3, 1, generator=generator)
moved = TableWorld(world.ref_logps, ratings + shift, BETA)
check.close("r and r + f(x) have the same optimum", moved.optimum, world.optimum)
difference = moved.rewards - ratings
check.close(
    "one optimum: the rewards differ by β·log Z' − β·log Z",
    difference,
    BETA * (moved.log_partition - world.log_partition)[:, None].expand(3, 5),
)
bent = TableWorld(world.ref_logps, ratings + 0.1 * torch.randn(3, 5, generator=generator), BETA)
check.differs("a change within a prompt moves the optimum", bent.optimum.exp(), world.optimum.exp(), by=0.02)

# %% [markdown]
# ## f(x) above the largest reward
#
# App. C adds a restriction: with infinitely many responses "$\sum_y \pi_\text{ref}\, e^{(r - f) / \beta}$ should be
# finite. Then, $f(x)$ is further restricted to $f(x) > \max[r(x, y)]$". But $f$ is a factor $e^{-f / \beta}$ in front
# of the sum. A factor makes no infinite sum finite (EU6).
#
# Take $\pi_\text{ref}(y) = 2^{-y}$ for $y = 1, 2, \dots$ and $r = y$. The terms are
# $e^{-f / \beta}\, (e^{1 / \beta} / 2)^y$:
#
# - At $\beta = 1$ the sum is infinite for every $f$.
# - At $\beta = 2$ it is finite for every $f$, even for $f = 0$, although $r$ has no maximum at all.
# - A reward that has a maximum has a finite sum, since $Z(x) \le e^{\max r / \beta}$.

# %%
y = torch.arange(1, 2001)
for b in (1.0, 2.0):
    for f_ in (0.0, 50.0):
        log_terms = -y * math.log(2) + (y - f_) / b
        partial = [float(log_terms[:n].logsumexp(0)) for n in (100, 500, 2000)]
        print(f"β {b:g}  f {f_:4g}   log of the first 100, 500, 2000 terms: " + "  ".join(f"{v:9.3f}" for v in partial))

# %% tags=["check"]
k, f_s = sp.symbols("k", integer=True, positive=True), sp.symbols("f", real=True)
term = sp.exp((k - f_s) / beta) / 2**k
growth = sp.simplify(term.subs(k, k + 1) / term)
check.true("the growth per term does not depend on f", f_s not in growth.free_symbols, f"sympy: {growth}")
check.true("the growth per term is above 1 at β = 1, below 1 at β = 2", growth.subs(beta, 1) > 1 > growth.subs(beta, 2))
limit = math.exp(0.5) / 2 / (1 - math.exp(0.5) / 2)
check.close("β = 2, f = 0: the sum is finite", (-y * math.log(2) + y / 2).exp().sum(), limit)
check.true("Z(x) <= e^(max r/β)", (BETA * world.log_partition <= ratings.amax(-1)).all())

# %% [markdown]
# The rest of the paper uses $\lambda = 1$. Then $f(x)$ has to be $\beta \log Z(x)$, and that is *below* $\max r$. So
# the restriction is not only unnecessary but excludes the right $f$ (CU3). The figure plots the sum of the
# "probabilities" $\pi_\text{ref}\, e^{(r - f) / \beta}$ of a prompt against $f$. On a logarithmic axis each prompt is
# a straight line of slope $-1/\beta$. It is a policy where the sum is 1.

# %%
INK = figures.INK
colours = [figures.PALETTE[name] for name in ("blue", "vermilion", "green")]
log_z, most = world.log_partition, ratings.amax(-1)
at = torch.linspace(-0.3, 1.45, 200)
round_mark = {"marker": "o", "markersize": 11, "markeredgecolor": figures.CARD, "linestyle": "none"}
square_mark = round_mark | {"marker": "s", "markersize": 8.5}

fig, ax = plt.subplots(figsize=(8.8, 4.8))
ax.axhline(1.0, color=INK, linewidth=1.2)
ax.axvline(0.0, color=figures.PALETTE["grey"], linewidth=1.2, linestyle="--")
for x, (name, colour) in enumerate(zip(("easy", "mixed", "hard"), colours, strict=True)):
    sums, allowed = (log_z[x] - at / BETA).exp(), at <= most[x]
    ax.plot(at[allowed], sums[allowed], color=colour, linewidth=2.4)
    ax.plot(at[~allowed], sums[~allowed], color=colour, linewidth=2.4, linestyle=":", alpha=0.8)
    ax.plot(BETA * log_z[x], 1.0, color=colour, zorder=5, **round_mark)
    ax.plot(0.0, log_z[x].exp(), color=colour, zorder=5, **square_mark)
    ax.text(0.025, log_z[x].exp() * 1.06, f"{log_z[x].exp():.1f}", color=colour, va="bottom")
    ax.text(BETA * log_z[x] + 0.015, 1.12, f"{BETA * log_z[x]:.2f}", color=colour, va="bottom")
    ax.text(-0.17, (log_z[x] + 0.17 / BETA).exp() * 1.1, name, color=colour, va="bottom", fontweight="bold")
ax.plot([], [], color=INK, label=r"$f = c = 0$, as in the paper's losses", **square_mark)
ax.plot([], [], color=INK, label=r"$f = \beta\,\log\,Z(x)$: a policy", **round_mark)
ax.plot([], [], color=INK, linewidth=2.4, linestyle=":", label=r"$f > \max\,r$, as in App. C")
ax.legend(loc="upper right", fontsize=10)
ax.set_yscale("log")
ax.set_ylim(0.08, 60)
ax.set_xlim(-0.3, 1.45)
ax.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
ax.minorticks_off()
ax.set_xlabel(r"$f(x)$, in units of the rating")
ax.set_ylabel(r"$\sum_y\;\pi_\mathrm{ref}\;e^{(r - f(x))/\beta}$")
ax.text(1.43, 1.1, "probabilities", color=INK, ha="right", va="bottom")
figures.save(fig, "03_implicit_reward")
plt.show()

# %% [markdown]
# No line is at 1 where $f = 0$ (squares). For ratings between 0 and 1 the paper's special case is not a policy for
# any prompt. Nor is any line at 1 where it is dotted. The three dots are at three places, so no constant $c$ fits all
# three.

# %% tags=["check"]
drawn = lambda f: (ref * ((ratings - f[:, None]) / BETA).exp()).sum(-1)  # noqa: E731
check.close("the sum is 1 at f = β·log Z(x)", drawn(BETA * log_z), 1.0)
check.true(
    "at f = 0 it is above 1 in every prompt",
    (drawn(torch.zeros(3)) > 1.3).all(),
    str([round(v, 2) for v in drawn(torch.zeros(3)).tolist()]),
)
check.true(
    "at f = max r it is below 1 in every prompt",
    (drawn(most) < 0.9).all(),
    str([round(v, 2) for v in drawn(most).tolist()]),
)
spread = BETA * (log_z.max() - log_z.min())
check.true("the dots differ: no constant fits all prompts", spread > 0.5, f"by {spread:.2f}")

# %% [markdown]
# ## So when can f = c = 0 hold?
#
# It holds when a baseline $b$ has been subtracted from the rewards so that $Z(x) = 1$. Here are four baselines. Each
# is judged by the end of the regression of UNA Eq. 10 on the shifted rewards,
# $\min_\pi \mathbb{E}_{y \sim \pi_\text{ref}} (\beta \log \frac{\pi}{\pi_\text{ref}} + b - r)^2$:
#
# - $b = 0$: the paper's special case;
# - $b = c$: one constant, fitted to minimise the same loss (Sec. 7 proposes a moving average for $c$);
# - $b = f(x) > \max r$: App. C;
# - $b = \beta \log Z(x)$, or any $V(x)$ that is learned for each prompt.
#
# > **Guess first:** which of them leaves no regret? Is the fitted constant better than $b = 0$?

# %%
ways = {
    "b = 0": 0.0,
    "b = c, least loss": "constant",
    "b = max r + 0.1": most[:, None] + 0.1,
    "b = β·log Z(x)": (BETA * log_z)[:, None],
    "b = V(x), learned": "prompt",
}
ends = {"π_ref": world.ref_logps}
for name, baseline in ways.items():
    ends[name] = fixed_point(una_regression(world.ref_logps, ratings, BETA, baseline=baseline), world.ref_logps)
behind = {name: world.regret(logps).abs() for name, logps in ends.items()}
print(f"{'regret':<22} mean     easy     mixed    hard")
for name, each in behind.items():
    print(f"{name:<22} {each.mean():.4f}   " + "   ".join(f"{v:.4f}" for v in each))


def with_constant(c):
    """The mean regret with one given constant."""
    return world.regret(fixed_point(una_regression(world.ref_logps, ratings, BETA, baseline=c), world.ref_logps)).mean()


by_constant = {c: with_constant(c) for c in (-0.2, 0.0, 0.1, 0.15, 0.2, 0.25, 0.3)}
print("mean regret by constant:", "  ".join(f"c = {c:g}: {value:.4f}" for c, value in by_constant.items()))

# %% tags=["check"]
check.close("b = β·log Z(x) ends at π*", behind["b = β·log Z(x)"], 0.0, tol=1e-9)
check.close("b = V(x) ends at π*, with Z unknown", behind["b = V(x), learned"], 0.0, tol=1e-9)
for name in ("b = 0", "b = c, least loss", "b = max r + 0.1"):
    check.differs(f"{name} does not end at π*", behind[name].mean(), 0.0, by=0.01)
base, constant = behind["π_ref"], behind["b = c, least loss"]
check.true("c helps the easy and the mixed prompt", (constant < behind["b = 0"])[:2].all())
check.true(
    "c: regret above π_ref's on the hard prompt and in the mean",
    constant[2] > base[2] and constant.mean() > base.mean(),
)
hard = ends["b = c, least loss"][2].exp()
up = hard > ref[2]
check.true(
    "hard prompt: one response is raised, the others are lowered",
    up.sum() == 1,
    f"from {ref[2][up].item()} to {hard.max():.2f}",
)
c = (ref * (ratings - implicit(ends["b = c, least loss"]))).sum(-1).mean()  # the c that fits this policy best
check.close("c = 0 is the paper's special case", by_constant[0.0], behind["b = 0"].mean())
least = min(by_constant, key=by_constant.get)
check.true("the constant with the least regret is not the one with the least loss",
           abs(least - c) > 0.3 and by_constant[least] < by_constant[0.0] < constant.mean(),
           f"regret {by_constant[least]:.4f} at {least:g}, {constant.mean():.4f} at {c:.2f}")  # fmt: skip
moved = ratings - c
counts = (~una_minima(world.ref_logps, moved, BETA)[..., 0].isnan()).sum(-1)
below = log_partition(world.ref_logps, moved, BETA) < 0
check.true("several minima only where the shifted rewards have Z(x) < 1", ((counts > 0) == below).all(),
           f"Z < 1: {below.tolist()}, minima there: {counts.tolist()}")  # fmt: skip
check.true("hard prompt: all ratings minus c are negative", (ratings[2] < c).all(), f"c = {c:.2f}")

# %% [markdown]
# The fitted constant has a higher mean regret here than $b = 0$: 0.0948 against 0.0184. $b = 0$ is a constant too. So
# the constant with the least loss is not the constant with the least regret. That one lies near 0.15 and has 0.0136.
# It still leaves regret, since no constant fits all three prompts. The fitted constant helps the easy and
# the mixed prompt. For the hard prompt it makes all ratings negative, which says "lower everything". A policy cannot
# lower everything. It lowers all responses but one, and moves the mass there. (Where the shifted rewards have
# $Z(x) < 1$ the regression can have several minima, but need not: [notebook 04](04_una_losses.ipynb) counts them. These
# are the ones that descent from $\pi_\text{ref}$ reaches.)
#
# ## What we learned
#
# - Let the reward be the judged policy's own implicit reward. Then $J = 0$ for every policy: *reading 1*. A given
#   reward is the implicit reward of its optimum plus $\beta \log Z(x)$: *reading 2*.
# - "$r = \beta \log \pi / \pi_\text{ref}$" is true of the rewards with $Z(x) = 1$ and no others: *its implicit reward
#   has Z(x) = 1*. Ratings in $[0, 1]$ are not among them, unless all are 0: *β·log Z(x) > 0, at every β*.
# - The largest $J$ is $\mathbb{E}_x\, \beta \log Z(x)$. It is neither 0 nor the logarithm of one $\lambda$: *UNA
#   Eq. 16*.
# - $f(x)$ changes neither the objective nor the bound: *UNA Eq. 20*, *UNA Eq. 21*. Of $f$ and $\beta \log \lambda$
#   only the sum has a meaning: *three choices of (f, λ)*.
# - A policy, or any number of pairs, determines the reward up to a number per prompt: *one optimum*.
# - $f > \max r$ is not needed for a finite sum: *the growth per term does not depend on f*. With $\lambda = 1$ it
#   cannot be a policy: *at f = max r it is below 1*.
# - $f = c = 0$ holds once $\beta \log Z(x)$ has been subtracted from the rewards. A number per prompt learned beside
#   the policy has the same end: *b = V(x)*.

# %%
Markdown(markdown([CLAIMS[id] for id in ("EU2", "EU4", "EU5", "EU6", "CU1", "CU2", "CU3")]))

# %% [markdown]
# ## Limits
#
# - The last table has three prompts and one $\beta$. [Notebook 04](04_una_losses.ipynb) moves the rewards' offset, uses
#   other samplers, and puts $\sigma$ around the reward.
# - One-to-one holds for policies with the support of $\pi_\text{ref}$ and the KL. Other divergences allow zeros.
#   There a reward below a threshold leaves no trace in the policy ([notebook 05](05_f_divergences.ipynb)).
# - UNA normalises rewards before it compares them (Sec. 2.3). If the explicit reward is normalised, the statements
#   about $r$ here hold for the normalised reward, whatever its range. A $\sigma$ around the *implicit* reward makes
#   another loss (notebook 04).
#
# ## Exercises
#
# Put your answer in place of `...` and run the cell; it checks it. Hints and answers are folded below.
#
# **1.** (Code.) You know $\pi^*$, $\pi_\text{ref}$, $\beta$, and that the second response of the mixed prompt is rated
# 0.9. What are its other ratings?

# %%
mine = ...  # a tensor (5,), from world.optimum, world.ref_logps, BETA and 0.9

if mine is not ...:
    check.close("exercise 1", mine, ratings[1])

# %% [markdown]
# **2.** (Code.) One constant $c$ for all prompts makes the bound of Eq. 16, $\mathbb{E}_x\, \beta \log Z(x)$, equal to
# 0 for the rewards $r - c$. Which? Is $\lambda = 1$ then, and the special case right?

# %%
mine = ...  # (c, whether λ(x) is 1 for every prompt)

if mine is not ...:
    log_z_c = log_partition(world.ref_logps, ratings - mine[0], BETA)
    check.close("exercise 2", log_z_c.mean(), 0.0)
    check.true("exercise 2, λ", mine[1] == bool((log_z_c.abs() < 1e-9).all()))

# %% [markdown]
# **3.** (Pencil.) Binary labels (thumbs): a response is rated 1 or $b$, and $\pi_\text{ref}$ gives a good one with
# probability $p$. For which $b$ is $Z(x) = 1$?

# %%
mine = ...  # a function of (p, beta); it may be nan where there is no such b

if mine is not ...:
    for p_ in (0.01, 0.02, 0.03):
        labels = torch.tensor([[1.0, mine(p_, 0.3)]])
        check.close("exercise 3", log_partition(torch.tensor([[p_, 1 - p_]]).log(), labels, 0.3), 0.0)

# %% [markdown]
# **4.** (Open.) A paper reports the implicit reward of its trained policy as "the learned reward". Which comparisons
# of that number are meaningful, and which are not?
#
# <details>
# <summary>Hints</summary>
#
# **1.** What differs between ratings and implicit rewards? **2.** Which numbers does $c$ shift? **3.** Write $Z = p\,
# e^{1/\beta} + (1 - p)\, e^{b/\beta}$.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `0.9 + implicit(world.optimum)[1] - implicit(world.optimum)[1, 1]`: one rating determines the number that the
# policy leaves open.
#
# **2.** `(BETA * world.log_partition.mean(), False)`. The mean is 0, its terms are not.
#
# **3.** `lambda p, beta: beta * math.log((1 - p * math.exp(1 / beta)) / (1 - p))`. It exists only for
# $p < e^{-1 / \beta}$, which is 3.6 % at $\beta = 0.3$, and is negative. If $\pi_\text{ref}$ gives good responses
# more often than that, no second rating, however low, makes $Z(x) = 1$.
#
# **4.** Differences between responses to one prompt are. Differences between prompts, and the mean over prompts,
# contain a free number per prompt.
#
# </details>
