# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why does the best policy have one ratio for all responses, and another ratio for each prompt?
#
# [Notebook 00](00_one_row_to_one_step.ipynb) ended with a policy's regret,
# $J(\pi^*) - J(\pi) = \beta\,\text{KL}(\pi \,\|\, \pi^*)$. It used without proof that the regret is never negative. UNA
# derives this, and its results on rewards and policies, from one inequality about two lists of numbers. This notebook
# proves the inequality twice, examines zeros, and inserts a policy. One word of UNA's conclusion fails: *constant*.
#
# **Claim** (UNA Prop. 1, Eq. 11). For non-negative $a_1, \dots, a_n$ with sum $a$ and $b_1, \dots, b_n$ with sum $b$,
#
# $$\sum_i a_i \log \frac{a_i}{b_i} \;\ge\; a \log \frac ab,$$
#
# with equality if and only if all ratios $a_i / b_i$ are the same number $\lambda$. From this UNA concludes
# (Eq. 13, 14) where the RLHF objective is largest: at $\pi = \frac1\lambda\, \pi_\text{ref}\, e^{r/\beta}$, "where
# $\lambda$ is a constant". (The ratio that Prop. 1 calls $\lambda$ is $1/\lambda$ in Eq. 14.)
#
# The ledger records what the papers claim and which claims hold. Ids like EU3 are its entries: `una-ref claims EU3`.
#
# **Needs.** Notebook 00 for $J$, $\pi_\text{ref}$ and $\pi^*$; derivatives, and what a convex function is.
#
# **Time.** About 15 minutes to read, without the exercises. Next: [notebook 02](02_partition_function.ipynb).

# %%
import math

import sympy as sp
import torch
from IPython.display import Markdown

from una_ref import figures
from una_ref.claims import CLAIMS, markdown
from una_ref.notebook import check
from una_ref.theory import DIVERGENCES, TableWorld, kl, log_partition, objective

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
plt = figures.pyplot()

# %% [markdown]
# ## The statement in numbers
#
# UNA Eq. 11 compares a sum of logarithms with the logarithm of the sums. Here is a pair of lists. Beside it is a
# second list $a$ with the same sum and equal ratios.
#
# > **Guess first:** for which of the two lists are both sides equal?

# %%
a = torch.tensor([2.0, 3.0, 5.0, 1.0])
b = torch.tensor([1.0, 4.0, 2.0, 3.0])
proportional = b * a.sum() / b.sum()


def both_sides(a, b):
    """The two sides of UNA Eq. 11."""
    return (a * (a / b).log()).sum(), a.sum() * (a.sum() / b.sum()).log()


for name, list_a in (("a", a), ("proportional to b", proportional)):
    left, right = both_sides(list_a, b)
    ratios = ", ".join(f"{w:.2f}" for w in list_a / b)
    print(f"{name:<18} ratios {ratios}    left {left:.4f}   right {right:.4f}   gap {abs(left - right):.4f}")

# %% tags=["check"]
generator = torch.Generator().manual_seed(0)
lists = 5 * torch.rand(2, 10_000, 6, generator=generator) ** 3
sums = lists.sum(-1)
gaps = (lists[0] * (lists[0] / lists[1]).log()).sum(-1) - sums[0] * (sums[0] / sums[1]).log()
check.true("UNA Eq. 11: left >= right for 10,000 pairs of lists", (gaps > 0).all(), f"smallest gap {gaps.min():.4f}")
check.close("equal ratios: left = right", *both_sides(proportional, b))
check.differs("unequal ratios: left > right", *both_sides(a, b), by=1.0)

# %% [markdown]
# ## First proof: two terms, then one more, then one more
#
# **Two terms.** Keep the sums $a$ and $b$ fixed. Write $a_1 = a\,t$ and $b_1 = b\,s$ with $t$ and $s$ between 0
# and 1. The left side minus the right side is
#
# $$a\, G(t), \qquad G(t) = t \log \frac ts + (1 - t) \log \frac{1 - t}{1 - s}.$$

# %%
t, s, A, B = sp.symbols("t s a b", positive=True)
G = t * sp.log(t / s) + (1 - t) * sp.log((1 - t) / (1 - s))
terms = A * t * sp.log(A * t / (B * s)) + A * (1 - t) * sp.log(A * (1 - t) / (B * (1 - s)))
gap = terms - A * sp.log(A / B)
slope, curvature = sp.diff(G, t), sp.diff(G, t, 2)

# %% tags=["check"]
check.true("left − right = a·G", sp.simplify(sp.expand_log(gap - A * G, force=True)) == 0, "sympy: 0")
check.true("G(s) = 0", sp.simplify(G.subs(t, s)) == 0, "sympy: 0")
check.true("G'(s) = 0", sp.simplify(slope.subs(t, s)) == 0, "sympy: 0")
check.true("G''(t) = 1/(t(1 − t))", sp.simplify(curvature - 1 / (t * (1 - t))) == 0, "sympy: 0")

# %% [markdown]
# $G'' > 0$ between 0 and 1, so $G$ is strictly convex. At $t = s$ it touches 0 with slope 0, so everywhere else it is
# above 0. And $t = s$ means $a_1 / b_1 = a_2 / b_2$. That is the whole proposition for two terms.
#
# **One more term.** Merge two terms into one, $a_{n-1} + a_n$ over $b_{n-1} + b_n$. By the case of two terms this
# never raises the left side. The sums $a$ and $b$ stay. Merge on, until one term is left: $a \log \frac ab$. So the
# inequality for $n$ terms follows from that for $n - 1$. The equality case follows too: no merger may lower the sum,
# so all ratios are equal. In numbers, on the list above:

# %%
merged_a, merged_b, steps = a, b, []
while True:
    value = float((merged_a * (merged_a / merged_b).log()).sum())
    steps.append(value)
    fractions = "  ".join(f"{x:g}/{y:g}" for x, y in zip(merged_a.tolist(), merged_b.tolist(), strict=True))
    print(f"{value:8.4f}   {fractions}")
    if len(merged_a) == 1:
        break
    merged_a = torch.cat([merged_a[:-2], merged_a[-2:].sum(0, keepdim=True)])
    merged_b = torch.cat([merged_b[:-2], merged_b[-2:].sum(0, keepdim=True)])

# %% tags=["check"]
left, right = both_sides(a, b)
check.true("every merger lowers the sum", all(x > y for x, y in zip(steps, steps[1:], strict=False)))
check.close("the sums run from the left side to the right side", [steps[0], steps[-1]], [left, right])
same = proportional[-2:]
pair, single = (same * (same / b[-2:]).log()).sum(), same.sum() * (same.sum() / b[-2:].sum()).log()
check.close("merging two equal ratios leaves the sum unchanged", pair, single)

# %% [markdown]
# ## Second proof: a convex function (the paper's, App. B)
#
# Jensen's inequality is UNA Eq. 18. For any convex $\varphi$ and positive weights $p_i$ (UNA calls them $a_i$),
#
# $$\frac{\sum_i p_i\, \varphi(x_i)}{\sum_i p_i} \;\ge\; \varphi\!\left( \frac{\sum_i p_i x_i}{\sum_i p_i} \right).$$
#
# Why is it true? A convex function lies above each of its tangents. Take the tangent at the mean $m$ of the $x_i$.
# The mean of the tangent's values is $\varphi(m)$, and the function's values are above. App. B uses
# $\varphi(x) = x \log x$. For it the distance between the function and its tangent is
#
# $$\varphi(x) - \varphi(m) - \varphi'(m)(x - m) = x \log \frac xm - x + m = m\, f\!\left(\frac xm\right),
# \qquad f(w) = w \log w - w + 1.$$

# %%
x, m, w = sp.symbols("x m w", positive=True)
phi = x * sp.log(x)
above_tangent = phi - phi.subs(x, m) - sp.diff(phi, x).subs(x, m) * (x - m)
f = w * sp.log(w) - w + 1

# %% tags=["check"]
check.true("φ'' = 1/x, so φ is convex for x > 0", sp.diff(phi, x, 2) == 1 / x, "sympy: 1/x")
nothing = sp.simplify(sp.expand_log(above_tangent - m * f.subs(w, x / m), force=True))
check.true("φ minus its tangent is m·f(x/m)", nothing == 0, "sympy: 0")
point, least = sp.solve(sp.diff(f, w), w), f.subs(w, 1)
check.true("f has its only minimum, 0, at w = 1", point == [1] and least == 0, f"f' = 0 at {point}, f(1) = {least}")

ratios, weights = a / b, b / b.sum()
mean = (weights * ratios).sum()
jensen = (weights * ratios * ratios.log()).sum(), mean * mean.log()
evidence = f"{jensen[0]:.4f} > {jensen[1]:.4f}"
check.true("UNA Eq. 18 in numbers: mean of φ >= φ of the mean", jensen[0] > jensen[1], evidence)
of_library = (weights * mean * DIVERGENCES["reverse_kl"].f((ratios / mean).log())).sum()
check.close("the gap is the mean of m·f(x/m), f the library's reverse KL", jensen[0] - jensen[1], of_library)

# %% [markdown]
# The log-sum inequality is Jensen's for the points $x_i = a_i / b_i$ with the weights $b_i$. UNA Eq. 19 shows it in
# five lines:
#
# $$
# \sum_i a_i \log \frac{a_i}{b_i}
# = \sum_i b_i\, \varphi\!\left(\frac{a_i}{b_i}\right)
# = b \sum_i \frac{b_i}{b}\, \varphi\!\left(\frac{a_i}{b_i}\right)
# = b\, \frac{\sum_i b_i\, \varphi(a_i / b_i)}{\sum_i b_i}
# \;\ge\; b\, \varphi\!\left( \frac{\sum_i b_i\, a_i / b_i}{\sum_i b_i} \right)
# = b\, \varphi\!\left(\frac ab\right).
# $$

# %%
phi_of = lambda x: x * x.log()  # noqa: E731
lines = [
    (a * (a / b).log()).sum(),
    (b * phi_of(a / b)).sum(),
    b.sum() * (b / b.sum() * phi_of(a / b)).sum(),
    b.sum() * (b * phi_of(a / b)).sum() / b.sum(),
    b.sum() * phi_of((b * (a / b)).sum() / b.sum()),
    b.sum() * phi_of(a.sum() / b.sum()),
]
print("  ".join(f"{value:.6f}" for value in lines))

# %% tags=["check"]
check.close("UNA Eq. 19: the first four expressions are equal", torch.stack(lines[:4]), lines[0])
check.true("UNA Eq. 19: the fourth is above the fifth", lines[3] > lines[4], f"{lines[3]:.4f} > {lines[4]:.4f}")
check.close("UNA Eq. 19: the last two are a·log(a/b)", torch.stack(lines[4:]), right)
wrong = a.sum() * ((a / a.sum()) * phi_of(a / b)).sum()
check.differs("weights a instead of b: not the left side", wrong, lines[0], by=1.0)

# %% [markdown]
# ## Zeros
#
# Prop. 1 allows "non-negative numbers", and probabilities can be zero. Three cases:
#
# - $a_i = 0 < b_i$: the term is $\lim_{x \to 0} x \log x = 0$. The ratio is 0, so equality needs all $a_i = 0$.
# - $a_i > 0 = b_i$: the term is $+\infty$. The inequality holds trivially, and no $\lambda$ fits.
# - $a_i = b_i = 0$: the term is 0 and the ratio is undefined. Such a term belongs in neither sum.
#
# So "the ratios are equal for all $i$" means: for all $i$ with $b_i > 0$, and $a_i = 0$ where $b_i = 0$ (EU18). For
# policies: a response with probability 0 under $\pi_\text{ref}$ has probability 0 under the optimum.

# %% tags=["check"]
check.true("x·log x → 0", sp.limit(phi, x, 0, "+") == 0, "sympy: limit 0")
with_zeros = kl(torch.tensor([[0.0, 1.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
check.close("a_i = 0 < b_i: the sum is finite, here log 2", with_zeros, math.log(2))
infinite = kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log())
check.true("a_i > 0 = b_i: the sum is infinite", infinite.item() == math.inf, f"{infinite.item()}")
neither = kl(torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.2, 0.8, 0.0]]).log())
without = kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.2, 0.8]]).log())
check.close("a_i = b_i = 0: the term changes nothing", neither, without)

# %% [markdown]
# ## A policy goes in
#
# Take two prompts with four responses each, and $\beta = 1$. For each prompt let
#
# $$a_y = \pi(y \mid x), \qquad b_y = \pi_\text{ref}(y \mid x)\, e^{r(x, y) / \beta}.$$
#
# The $a_y$ sum to 1. The sum of the $b_y$ is the partition function
# $Z(x) = \sum_y \pi_\text{ref}(y \mid x)\, e^{r(x, y) / \beta}$. The RLHF objective is $-\beta$ times the left side
# of Eq. 11:
#
# $$
# J(\pi; x) = \sum_y \pi\, r - \beta \sum_y \pi \log \frac{\pi}{\pi_\text{ref}}
# = -\beta \sum_y a_y \log \frac{a_y}{b_y}.
# $$

# %%
BETA = 1.0
ref_logps = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]).log()
rewards = torch.tensor([[0.0, 1.0, -0.5, 1.5], [1.0, 2.0, 0.3, 0.0]])
b = ref_logps.exp() * (rewards / BETA).exp()
Z = b.sum(-1)
print("b\n", b.numpy().round(3))
print("Z(x)", Z.numpy().round(4))

# %% tags=["check"]
policies = [(3 * torch.randn(2, 4, generator=generator)).log_softmax(-1) for _ in range(5000)]
for_eq_11 = torch.stack([-BETA * (p.exp() * (p - b.log())).sum(-1) for p in policies])
J = torch.stack([objective(p, ref_logps, rewards, BETA) for p in policies])
check.close("J = −β·Σ a·log(a/b), for 5,000 policies", J, for_eq_11)
check.close("log Z by hand = log_partition", Z.log(), log_partition(ref_logps, rewards, BETA))

# %% [markdown]
# With $a = 1$ and $b = Z(x)$, Eq. 11 is the step "$\le$" in UNA Eq. 13:
#
# $$J(\pi; x) \;\le\; -\beta \cdot 1 \cdot \log \frac{1}{Z(x)} = \beta \log Z(x).$$
#
# It holds for each prompt separately. The paper's expectation over prompts only averages it.

# %% tags=["check"]
room = BETA * Z.log() - J
check.true(
    "UNA Eq. 13: J <= β·log Z(x) for every policy and prompt", (room >= 0).all(), f"smallest gap {room.min():.4f}"
)
world = TableWorld(ref_logps, rewards, BETA)
to_optimum = torch.stack([kl(p, world.optimum) for p in policies])
check.close("the gap is β·KL(π‖π*), the regret", room, BETA * to_optimum)

# %% [markdown]
# ## Where equality holds: one ratio per prompt, not one for all
#
# Equality in Eq. 11 needs equal ratios, which is UNA Eq. 14:
#
# $$\frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)\, e^{r(x, y) / \beta}} = \frac1\lambda.$$
#
# The inequality was used once for each prompt, so the ratios have to be equal *within a prompt*. The sum fixes the
# number: $1 = \sum_y \pi = Z(x) / \lambda$. So $\lambda = \lambda(x) = Z(x)$. UNA's "$\lambda$ is a constant" holds
# only if $Z(x)$ is the same for all prompts (EU3). Here it is not:

# %%
one_ratio = world.optimum.exp() / b
print("ratios at π*\n", one_ratio.numpy().round(4))
print("1/Z(x)", (1 / Z).numpy().round(4))
for x, name in enumerate(("Z of the first", "Z of the second")):
    sums = (b / Z[x]).sum(-1)
    print(f"one λ for both, {name}: the rows sum to {sums[0]:.3f} and {sums[1]:.3f}")

# %% tags=["check"]
check.close("UNA Eq. 14: one ratio within a prompt, 1/Z(x)", one_ratio, (1 / Z)[:, None].expand(2, 4))
check.close("λ(x) = Z(x): both rows are distributions", (b / Z[:, None]).sum(-1), 1.0)
constant = torch.linspace(0.5, 8.0, 1000)  # every λ that could fit either prompt
worst = (b.sum(-1) / constant[:, None] - 1).abs().amax(-1)
check.true("no constant λ makes both a distribution (EU3)", worst.min() > 0.2, f"best λ is off by {worst.min():.3f}")

# %% [markdown]
# **Which problem has a single $\lambda$?** One in which the prompts may be chosen as well. Let the unknown be a joint
# distribution $\pi(x, y)$. Compare it with $\rho(x)\, b_y(x)$, where $\rho$ is the distribution of the prompts. Now
# Eq. 11 is used once, over all pairs $(x, y)$, with one ratio for all. The bound is $\beta \log \mathbb{E}_x Z(x)$,
# which is larger. The maximiser reaches it by asking prompts with a large $Z(x)$ more often. A policy cannot do that,
# so its bound is $\mathbb{E}_x\, \beta \log Z(x)$. (By Jensen's inequality the first bound is never smaller than the
# second.)

# %%
rho = torch.tensor([0.5, 0.5])
joint = rho[:, None] * b / (rho * Z).sum()  # one ratio for all pairs
value = -BETA * (joint * (joint / (rho[:, None] * b)).log()).sum()
print("the joint distribution with one ratio asks the prompts", joint.sum(-1).numpy().round(3), "not", rho.numpy())
print(f"bound with one λ       β·log E Z = {BETA * (rho * Z).sum().log():.4f}, reached by it: {value:.4f}")
print(f"bound for a policy     E β·log Z = {BETA * (rho * Z.log()).sum():.4f}")

# %% tags=["check"]
for_policy = BETA * (rho * Z.log()).sum()
check.close("one λ over all pairs reaches β·log E Z", value, BETA * (rho * Z).sum().log())
check.close("π* reaches E β·log Z", (rho * objective(world.optimum, ref_logps, rewards, BETA)).sum(), for_policy)
check.differs("the two bounds differ", value, for_policy, by=0.02)

# %% [markdown]
# ## The picture
#
# Each response is one point. Its x-coordinate is the ratio $\pi / b$, its y-coordinate is $\varphi$ of the ratio, and
# its area is the weight $b / Z$. The policy is a poor one, chosen for the picture. The diamond is the weighted mean
# of the points. It lies above the curve. $Z$ times its height above the curve is the KL to $\pi^*$. For the optimal
# policy all points coincide with the star. The stars of the two prompts stand at different places.

# %%
poor = torch.tensor([[0.6, 0.1, 0.25, 0.05], [0.3, 0.1, 0.1, 0.5]]).log()
ratio, weight = poor.exp() / b, b / Z[:, None]
star, height = 1 / Z, (weight * phi_of(ratio)).sum(-1)
curve = torch.linspace(1e-4, 2.25, 600)

fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.3), sharey=True, sharex=True)
for x, (ax, colour) in enumerate(zip(axes, ("blue", "vermilion"), strict=True)):
    colour = figures.PALETTE[colour]
    ax.plot(curve, phi_of(curve), color=figures.INK, linewidth=1.3, zorder=1)
    ax.scatter(ratio[x], phi_of(ratio[x]), s=900 * weight[x], color=colour, alpha=0.5, linewidth=0, zorder=2)
    ax.plot([star[x]] * 2, [phi_of(star[x]), height[x]], color=colour, linewidth=2.4, zorder=3)
    ax.plot(star[x], height[x], "D", color=colour, markersize=8, zorder=4)
    ax.plot(star[x], phi_of(star[x]), "*", color=colour, markersize=19, markeredgecolor=figures.CARD, zorder=5)
    ax.axvline(star[x], ymax=0.13, color=colour, linewidth=1.2)
    ax.text(star[x] - 0.25, height[x] + 0.17, r"mean of the points, $\pi$", color=colour, va="center")
    where = rf"all points of $\pi^*$:  $1/Z(x) = 1/\lambda(x) = {star[x]:.2f}$"
    ax.text(star[x] + 0.05, -0.58, where, color=colour, va="center")
    ax.set_title(
        rf"prompt {x + 1}:  KL$(\pi\,\Vert\,\pi^*) = Z$ × gap = {kl(poor, world.optimum)[x]:.2f}", color=colour
    )
    ax.set_xlabel(r"ratio  $w = \pi\;/\;(\pi_\mathrm{ref}\,e^{r/\beta})$")
axes[0].text(ratio[0, 0] - 0.09, phi_of(ratio[0, 0]) + 0.03, "a response", color=figures.PALETTE["blue"], ha="right")
axes[0].set_ylim(-0.75, 1.75)
axes[0].set_xlim(0, 2.25)
axes[0].set_ylabel(r"$\varphi(w) = w \,\log\, w$")
figures.save(fig, "01_log_sum_inequality")
plt.show()

# %% tags=["check"]
check.close("Z × the plotted gap = KL(π‖π*)", Z * (height - phi_of(star)), kl(poor, world.optimum))
check.close("the mean of the points has x-coordinate 1/Z(x)", (weight * ratio).sum(-1), star)

# %% [markdown]
# ## What we learned
#
# - The log-sum inequality is true, and has two short proofs. Merging two terms never raises the sum: *every merger
#   lowers the sum*. And $x \log x$ is convex: *UNA Eq. 19*.
# - Zeros need a condition: where $b_i = 0$, $a_i$ must be 0, or the sum is infinite: *a_i > 0 = b_i*.
# - With a policy inserted, the inequality is the upper bound on the RLHF objective: *UNA Eq. 13*. The gap to the
#   bound is $\beta$ times a KL: *the gap is β·KL(π‖π\*)*.
# - The bound is reached where $\pi / (\pi_\text{ref}\, e^{r/\beta})$ is one number in each prompt, $1/Z(x)$: *UNA
#   Eq. 14*. It is not one number for all prompts: *no constant λ makes both a distribution*.
#
# What the ledger says of it (`una-ref claims EU3`):

# %%
Markdown(markdown([CLAIMS["EU3"]]))

# %% [markdown]
# ## Limits
#
# - The proof by merging is for finitely many terms. Jensen's inequality also covers countably many, as long as
#   $b = \sum b_i$ is finite. UNA's App. C wants to ensure this with a function $f(x)$.
#   [Notebook 03](03_implicit_reward.ipynb) shows that $f$ cannot.
# - Nothing here says how to find $\pi^*$, or how hard it is to know $Z(x)$. That is
#   [notebook 02](02_partition_function.ipynb).
#
# ## Exercises
#
# Put your answer in place of `...` and run the cell; it checks it. Hints and answers are folded below.
#
# **1.** (Code.) Which number $c$, subtracted from all rewards of the second prompt, gives both prompts the same
# $\lambda$? (UNA's App. C calls this number $f(x)$.)

# %%
mine = ...  # a number

if mine is not ...:
    moved = rewards - torch.tensor([[0.0], [mine]])
    log_z = log_partition(ref_logps, moved, BETA)
    check.close("exercise 1", log_z[1], log_z[0])

# %% [markdown]
# **2.** (Pencil.) The gap of Eq. 11 is $a$ times a KL divergence, for any two lists. Between which two distributions?

# %%
first, second = torch.tensor([2.0, 3.0, 5.0, 1.0]), torch.tensor([1.0, 4.0, 2.0, 3.0])
mine = ...  # (p, q), two tensors (4,) for these two lists

if mine is not ...:
    left, right = both_sides(first, second)
    check.close("exercise 2", first.sum() * kl(mine[0].log()[None], mine[1].log()[None])[0], left - right)

# %% [markdown]
# **3.** (Pencil.) Among all lists $b$ with sum 10, which one minimises the left side of Eq. 11 for `first`? How small
# is it?

# %%
mine = ...  # (b, the smallest left side)

if mine is not ...:
    check.close("exercise 3, the sum", mine[0].sum(), 10.0)
    check.close("exercise 3, the value", both_sides(first, mine[0])[0], mine[1])
    others = 10 * (2 * torch.randn(1000, 4, generator=generator)).softmax(-1)
    lefts = (first * (first / others).log()).sum(-1)
    check.true("exercise 3: no other list is below", (lefts >= mine[1]).all())

# %% [markdown]
# **4.** (Open.) Where in the argument is it used that $\pi$ and $\pi_\text{ref}$ are distributions, and where only
# that they are non-negative?
#
# <details>
# <summary>Hints</summary>
#
# **1.** What does $e^{-c/\beta}$ do to $Z$? **2.** Divide each list by its sum. **3.** What in the right side depends
# on $b$?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `BETA * (Z[1] / Z[0]).log()`. Subtracting $c$ from the rewards divides $Z$ by $e^{c / \beta}$.
#
# **2.** `(first / first.sum(), second / second.sum())`: both lists, normalised. The right side subtracts exactly the
# contribution of the sums.
#
# **3.** `(10 * first / first.sum(), first.sum() * (first.sum() / 10).log())`. The right side of Eq. 11 depends on $b$
# only through its sum. Equal ratios reach it.
#
# **4.** The inequality needs non-negative numbers alone. That $\pi$ sums to one fixes $\lambda = Z(x)$. That
# $\pi_\text{ref}$ sums to one is never used: without it $Z$ changes, and $\pi^*$ does not.
#
# </details>
