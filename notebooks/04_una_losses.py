# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # If alignment is a regression, what does it learn?
#
# Notebook 03 ended with $r = \beta \log \frac{\pi^*}{\pi_\text{ref}} + V(x)$: at the optimum the implicit reward is
# the explicit one less a number per prompt, $V(x) = \beta \log Z(x)$. UNA drops the number and fits the rest: pairs,
# thumbs and scores become three losses that compare $r_\theta = \beta \log \frac{\pi_\theta}{\pi_\text{ref}}$ with
# feedback.
#
# **Claim** (UNA Eq. 7–10). Minimising the difference of implicit and explicit reward solves the RLHF problem, online
# and offline, for pairs, labels and scores; "it transforms the original unstable RL problem into a stable supervised
# learning problem" (Sec. 2.3.2).
#
# The notebook takes it in four steps: what the losses are once their signs are right; when the regression *is* policy
# gradient; where it ends when it is not; and what one number per prompt changes, which is **centred UNA**. Sections 5
# to 8 apply that to the released code, to thumbs, to the choice between pairs and scores, and to mixtures.
#
# **Needs.** Notebooks 02 and 03: $\pi^*$, $Z(x)$, and regret $= \beta\, \text{KL}(\pi \,\|\, \pi^*)$.

# %%
import sympy as sp
import torch
from IPython.display import Markdown

from una_ref import METHODS, figures
from una_ref.claims import CLAIMS, example_worlds, information, markdown, sampling  # the ledger and its helpers
from una_ref.claims.floors import label_floors, offset_for
from una_ref.claims.pair_loss import pair_at
from una_ref.claims.released import released_world
from una_ref.methods.rewards import leave_one_out
from una_ref.notebook import check
from una_ref.theory import (
    TableWorld,
    bradley_terry,
    fixed_point,
    kl,
    objective,
    una_end,
    una_fixed_point,
    una_minima,
    una_regression,
)
from una_ref.theory.populations import binary_labels, pairs, singles  # a loss in expectation

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
plt = figures.pyplot()

BETA = 0.5
WORLD = TableWorld.random(0, prompts=4, responses=5, beta=BETA)  # rewards: mean 0, sd 1 in each prompt
mu = WORLD.ref_logps.exp()  # responses come from π_ref unless said
uniform = torch.full_like(mu, 1 / 5)


def plus(offset):
    """The world with a constant added to all its rewards: neither π* nor any regret changes."""
    return TableWorld(WORLD.ref_logps, WORLD.rewards + offset, BETA)


for x in range(2):
    print(f"prompt {x}: π_ref {mu[x].numpy().round(3)}  r {WORLD.rewards[x].numpy().round(2)}")
    print(f"          π*    {WORLD.optimum[x].exp().numpy().round(3)}  β·log Z {BETA * WORLD.log_partition[x]:.3f}")

# %% [markdown]
# ## 1. One regression, three kinds of feedback
#
# UNA Eq. 7 is the general form, a function $g$ that compares the two rewards of a response:
#
# $$L(\pi_\theta) = \mathbb{E}_x\, \mathbb{E}_{y \sim \pi_\theta}\; g\big(r_\phi(x, y),\, r_\theta(x, y)\big)$$
#
# Offline the responses come from data instead. In a table world nothing needs to be sampled: a loss in expectation is
# a sum over responses, weighted by how often each is drawn. That is all that "population loss" means below.


# %%
def in_expectation(loss, weights, scores):
    """log π (X, Y) -> Σ weights·loss, a method's own loss summed over every response of every prompt."""
    given = {"ref_logps": WORLD.ref_logps.flatten(), "scores": scores.flatten(), "beta": BETA}
    return lambda logps: (weights.flatten() * loss(logps=logps.flatten(), **given)).sum()


score = METHODS["una-score"]
mine = in_expectation(score.loss, mu, WORLD.rewards)
print(f"Eq. 10 at π_ref {mine(WORLD.ref_logps):.3f}, at π* {mine(WORLD.optimum):.3f}")

# %% tags=["check"]
library = singles(score.loss, WORLD, mu, scores=WORLD.rewards)
check.close("in_expectation = the ledger's", mine(WORLD.optimum), library(WORLD.optimum))
closed = una_regression(WORLD.ref_logps, WORLD.rewards, BETA)  # the mean over prompts
check.close("= una_regression", mine(WORLD.optimum), len(mu) * closed(WORLD.optimum))

# %% [markdown]
# **Pairs.** UNA Eq. 8 is the bare difference,
#
# $$L_\text{UNA-pair} = -\mathbb{E}\,\big(r_\theta(x, y_w) - r_\theta(x, y_l)\big),$$
#
# which has no minimum: descent on it never slows down. The line below it adds $\log$ but loses $\sigma$, so that a
# pair in the wrong order asks for the logarithm of a negative number. With $-\log \sigma$ it is DPO, and *that* is
# all of DPO (EU7, EU8, CU10).

# %%
pair, preferences = METHODS["una-pair"], bradley_terry(WORLD.rewards)
printed, dpo = (pairs(loss, WORLD, mu, preferences) for loss in (pair.printed, pair.loss))
for name, population in (("Eq. 8 as printed", printed), ("with -log σ", dpo)):
    logits, seen = WORLD.ref_logps, []
    for step in range(400):
        if step in (0, 100, 200, 399):
            seen.append(f"{population(logits.log_softmax(-1)):8.3f}")
        logits = logits - example_worlds.slope(population, logits)
    print(f"{name:<18} loss after 0, 100, 200, 399 steps: {' '.join(seen)}")

# %% tags=["check"]
gaps = torch.tensor([0.5, -1.0])
check.true("line below Eq. 8: no loss for a wrong order", (-gaps.log())[1].isnan(), f"{-gaps.log()}")
check.close("with σ: 0.4741 and 1.3133", pair.loss(**pair_at(gaps), beta=1.0), [0.4741, 1.3133], tol=1e-4)
check.close("−log σ ends at π*", fixed_point(dpo, WORLD.ref_logps).exp(), WORLD.optimum.exp(), tol=1e-8)
moved = pairs(pair.loss, plus(7.0), mu, bradley_terry(plus(7.0).rewards))
check.close("and at any offset", fixed_point(moved, WORLD.ref_logps).exp(), WORLD.optimum.exp(), tol=1e-8)
slope_early, slope_late = (example_worlds.slope(printed, at) for at in (WORLD.ref_logps, logits))
check.differs("Eq. 8 as printed still pulls there", slope_late, 0 * slope_late, by=1e-3)
check.close("and no less than at the start", slope_late, slope_early)

# %% [markdown]
# **Thumbs.** UNA Eq. 9 gives a thumb up the reward 1 and a thumb down 0:
#
# $$L_\text{UNA-binary} = -\mathbb{E}[g]
# = -\big[\mathbb{E}_{y_w}(g(r_\theta, 1))^2 + \mathbb{E}_{y_l}(g(r_\theta, 0))^2\big]$$
#
# Three slips in a line. $g$ is an error already, so the minus maximises it; the second line squares it once more; and
# it adds two class means, which is not the mean over the data. What is meant is $+\mathbb{E}[g]$ (EU9, EU10, CU11):

# %% tags=["check"]
learned, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1.0, 1.0, 1.0, 0.0])
g = METHODS["una-binary-mse"].loss(logps=learned.logit(), ref_logps=0 * learned, labels=labels, beta=1.0)
up = labels == 1
print(f"σ(r) {learned.numpy()}, labels {labels.numpy()}, g {g.numpy().round(3)}")
print(f"E g {g.mean():.4f}   line 1 as printed {-g.mean():.4f}")
print(f"line 2 as printed {-(g[up] ** 2).mean() - (g[~up] ** 2).mean():.4f}")
print(f"E_w g + E_l g {g[up].mean() + g[~up].mean():.4f}")
check.close("g is the squared error", g, (learned - labels) ** 2)
check.close("E g, with the classes' shares", 0.75 * g[up].mean() + 0.25 * g[~up].mean(), g.mean())
check.differs("without them it is not E g", g[up].mean() + g[~up].mean(), g.mean(), by=0.2)

# %% [markdown]
# **Scores.** UNA Eq. 10 is least squares, again with the sign of a loss that is to be maximised:
#
# $$L_\text{UNA-score} = -\mathbb{E}\,\big(r_\theta(x, y) - r_\phi(x, y)\big)^2$$
#
# With $r_\theta = 0.2$ and a score of 0.9, descent on it lowers $r_\theta$ further (EU12). From here on all signs are
# mended; the authors' code has them right. That scores exclude BCE, as the paper says below Eq. 9, is not so either:
# BCE with a label $s$ in $[0, 1]$ is least at $\sigma(r_\theta) = s$ (EU17). And the weighted ratings of Sec. 4.1 lie
# in $[0, 1.9]$, not $[0, 1]$: the weights .65, .8 and .45 sum to 1.9 (EU16).

# %% tags=["check"]
logps = torch.tensor([0.2], requires_grad=True)
row = {"logps": logps, "ref_logps": torch.zeros(1), "scores": torch.tensor([0.9]), "beta": 1.0}
for name, loss, slope in (("printed", score.printed, 1.4), ("mended", score.loss, -1.4)):
    (found,) = torch.autograd.grad(loss(**row).sum(), logps)
    check.close(f"Eq. 10 {name}: the slope is {slope}", found, slope)

z, p = sp.symbols("z p", real=True)
sigma = 1 / (1 + sp.exp(-z))
bce = -p * sp.log(sigma) - (1 - p) * sp.log(1 - sigma)
mse = p * (sigma - 1) ** 2 + (1 - p) * sigma**2
check.true("d BCE / dz = σ − p", sp.simplify(sp.diff(bce, z) - (sigma - p)) == 0)
check.true("d MSE / dz = 2(σ − p)·σ'", sp.simplify(sp.diff(mse, z) - 2 * (sigma - p) * sp.diff(sigma, z)) == 0)

# %% [markdown]
# ## 2. Online: the regression is policy gradient
#
# In UNA Eq. 7 the responses come from $\pi_\theta$, which is what is being trained. Is the sampling differentiated?
# The paper does not say. "Supervised learning" says no: draw, then regress. Write
# $e = r - \beta \log \frac{\pi}{\pi_\text{ref}}$, so that $J = \mathbb{E}_\pi\, e$ is the RLHF objective (UNA Eq. 3).
# The regression's gradient is
#
# $$\mathbb{E}_{y \sim \pi}\, \nabla e^2 = -2\beta\, \mathbb{E}_\pi[e\, \nabla \log \pi] = -2\beta\, \nabla J .$$
#
# The last step is the policy-gradient theorem; the term $\mathbb{E}_\pi \nabla e$ is zero. So in expectation every
# step of online UNA is a step of **REINFORCE without a baseline**, at any policy and whatever the rewards' offset.

# %% tags=["check"]
t1, t2, r1, r2, r3, b = sp.symbols("t1 t2 r1 r2 r3 beta", positive=True)
weights = [sp.exp(t1), sp.exp(t2), 1]
pi = [w / sum(weights) for w in weights]
ref = [sp.Rational(1, 2), sp.Rational(1, 3), sp.Rational(1, 6)]
e = [r - b * sp.log(q / m) for r, q, m in zip((r1, r2, r3), pi, ref, strict=True)]
J = sum(q * v for q, v in zip(pi, e, strict=True))
regression = sum(q * sp.diff(v**2, t1) for q, v in zip(pi, e, strict=True))  # the weights q are not differentiated
point = {t1: 0.3, t2: -0.8, r1: 1.1, r2: -0.4, r3: 2.0, b: 0.7}
check.true("symbolically: E ∇e² + 2β∇J = 0", sp.simplify(regression + 2 * b * sp.diff(J, t1)) == 0)

for offset in (0.0, 4.0, -4.0):
    for name, at in (("π_ref", WORLD.ref_logps), ("a policy", WORLD.optimum.flip(-1))):
        supervised = sampling.on_policy(plus(offset), at, through_sampler=False)
        rl = sampling.policy_gradient(plus(offset), at)
        check.close(f"offset {offset:+.0f}, {name}: supervised = −2β∇J", supervised, -2 * BETA * rl)
literal = sampling.on_policy(WORLD, WORLD.ref_logps, through_sampler=True)
rl = sampling.policy_gradient(WORLD, WORLD.ref_logps)
check.differs("through the sampler it is not", literal, -2 * BETA * rl, by=0.1)

# %% [markdown]
# **And if it is differentiated?** Then the loss is what Eq. 7 literally says, a mean square under $\pi$ itself:
#
# $$\mathbb{E}_\pi\, e^2 = \text{Var}_\pi(e) + J(\pi)^2$$
#
# It asks for $J = 0$, where RLHF asks for the largest $J$. At $\pi^*$, where $e = \beta \log Z$ for every response,
# its curvature is $2\beta^2 (1 - \log Z)$ times the covariance of $\pi^*$: the optimum is a local *maximum* as soon
# as $\log Z > 1$ (EU13, CU6).

# %%
for offset in (0.0, 4.0):
    world = plus(offset)
    for through in (False, True):
        logits = WORLD.ref_logps
        for _ in range(600):
            logits = logits - 0.4 * sampling.on_policy(world, logits.log_softmax(-1), through_sampler=through)
        end = logits.log_softmax(-1)
        j = objective(end, world.ref_logps, world.rewards, BETA).mean()
        how = "differentiated    " if through else "not differentiated"
        best = BETA * world.log_partition.mean()
        print(f"offset {offset:.0f}, {how}: regret {world.regret(end).mean():.4f}   J {j:+.3f}, at π* {best:.3f}")

# %% tags=["check"]
e_now = (world.rewards - BETA * (end - world.ref_logps)).detach()
mean = (end.exp() * e_now).sum(-1)
variance = (end.exp() * (e_now - mean[:, None]) ** 2).sum(-1)
check.close("E e² = Var(e) + J²", (variance + mean**2).sum(), sampling.literal(world)(end))
one = TableWorld(WORLD.ref_logps[:1], WORLD.rewards[:1] + 4, BETA)
curvature = torch.autograd.functional.hessian(lambda v: sampling.literal(one)(v.log_softmax(-1)), one.optimum)
best = one.optimum.exp()[0]
wanted = 2 * BETA**2 * (1 - one.log_partition) * (best.diag() - best[:, None] * best)
check.close("curvature at π* is 2β²(1 − log Z)·Cov", curvature[0, :, 0], wanted, tol=1e-10)
check.true("so π* is a maximum there", one.log_partition.item() > 1, f"log Z = {one.log_partition.item():.2f}")

# %% [markdown]
# ## 3. Offline: where the regression ends
#
# Offline the responses come from a fixed sampler $\mu$, and nothing makes the gradient that of $J$ any more. If
# $r_\theta = r$ were possible for every response, least squares would find it. But probabilities sum to one:
# $r_\theta = r$ needs $Z(x) = 1$. So the minimiser of Eq. 10 is a compromise. With a multiplier $\nu(x)$ for
# $\sum_y \pi = 1$ and $u = \log \frac{\pi}{\pi_\text{ref}}$, it is where
#
# $$\mu\,(\beta u - r) + \nu\, \pi_\text{ref}\, e^u = 0 .$$

# %% [markdown]
# Divide by $\beta\mu$, and Lambert's $W$, which solves $W e^W = z$, gives each $u$ in closed form (CU5a):
#
# $$\log \frac{\pi}{\pi_\text{ref}} = \frac{r}{\beta} - W\big(\kappa\, e^{r/\beta}\big), \qquad
# \kappa(x, y) = \frac{\nu(x)}{\beta}\, \frac{\pi_\text{ref}}{\mu}$$
#
# $\nu(x)$ is what makes the row sum to one. It has the sign of $\log Z(x)$, and only for $Z(x) = 1$ it is zero and
# the policy $\pi^*$.

# %% tags=["check"]
w, a = sp.symbols("w a", real=True)  # w = W(κe^a), so κ = w·e^w·e^(−a); u = a − w
kappa, u = w * sp.exp(w) * sp.exp(-a), a - w
check.true("symbolically: u + κ·e^u = r/β", sp.simplify(u + kappa * sp.exp(u) - a) == 0)

high = plus(2.0)
found = fixed_point(una_regression(high.ref_logps, high.rewards, BETA), high.ref_logps)
form = una_fixed_point(high.ref_logps, high.rewards, BETA)
check.close("the closed form is the numerical minimiser", form.exp(), found.exp(), tol=1e-8)
residual = BETA * (form - high.ref_logps) - high.rewards
nu = -residual / (form - high.ref_logps).exp()  # μ = π_ref: the condition says −(βu − r)/e^u is one number a prompt
check.close("one ν a prompt", nu, nu[:, :1].expand_as(nu), tol=1e-9)
check.differs("and the policy is not π*", form.exp(), WORLD.optimum.exp(), by=0.1)
just_below = BETA * high.log_partition[:, None] - 1e-13  # β·log Z(x); the closed form wants log Z(r − b) >= 0
told = una_fixed_point(high.ref_logps, high.rewards, BETA, baseline=just_below)
check.close("told β·log Z(x), it is π*", told.exp(), WORLD.optimum.exp(), tol=1e-8)

# %% [markdown]
# What does a constant in the scores do? Nothing to $\pi^*$, and much to this. Is 7 of 10 a good score? It depends on
# what else the prompt was given, which a loss on one response cannot know. **Large positive** scores are answered
# best by a large $r_\theta$ everywhere. That is not to be had, and what comes closest is the sampler itself:

# %%
# una_end: the minimum that gradient descent from π_ref ends at
for offset in (0.0, 2.0, 8.0, 32.0, 128.0):
    ends = {name: una_end(WORLD.ref_logps, WORLD.rewards + offset, BETA, sampler_logps=s.log()) for name, s in
            (("π_ref", mu), ("uniform", uniform))}  # fmt: skip
    to_ref, to_uniform = kl(ends["π_ref"], WORLD.ref_logps).mean(), kl(ends["uniform"], uniform.log()).mean()
    print(f"offset {offset:5.0f}: y ~ π_ref, KL to π_ref {to_ref:.4f}    y ~ uniform, KL to uniform {to_uniform:.4f}")

# %% tags=["check"]
far = una_fixed_point(WORLD.ref_logps, WORLD.rewards + 1e5, BETA, sampler_logps=uniform.log())
check.close("the offset grows: the sampler is learned", far.exp(), uniform, tol=1e-4)
check.differs("which is not π_ref", far.exp(), mu, by=0.1)

# %% [markdown]
# **Large negative** scores ask for $\pi < \pi_\text{ref}$ everywhere, and some response has to take the mass that all
# the others lose. The loss is no longer convex. $\nu < 0$, and $W$ has two branches there: below $-1$ for at most one
# response, which takes the mass. So there are several minima, one for each choice of it, and the least of all is as a
# rule the *rarest* response, since errors are weighted by how often a response is drawn (CU5b).

# %%
low = plus(-8.0)
minima = una_minima(low.ref_logps, low.rewards, BETA)
loss = (mu[:, None] * (BETA * (minima - low.ref_logps[:, None]) - low.rewards[:, None]) ** 2).sum(-1)
for x in range(2):
    print(f"prompt {x}, offset −8: π_ref {mu[x].numpy().round(3)}")
    for k in range(5):
        regret = low.regret(minima[:, k])[x]
        note = "  <- global" if k == int(loss[x, :5].argmin()) else ""
        policy = minima[x, k].exp().numpy().round(3)
        print(f"    minimum at response {k}: π {policy} loss {loss[x, k]:.2f} regret {regret:.2f}{note}")

# %% tags=["check"]
population = una_regression(low.ref_logps, low.rewards, BETA)
for k in range(5):
    check.close(f"a minimum at response {k}: no slope", example_worlds.slope(population, minima[:, k]), 0.0, tol=1e-10)
big = example_worlds.WORLD  # 40 prompts × 8 responses
lowest = una_end(big.ref_logps, big.rewards - 8, BETA, which="global")
rarest = (lowest.argmax(-1) == big.ref_logps.argmin(-1)).double().mean()
check.true("40 prompts: it is the rarest response", rarest > 0.6, f"in {rarest:.0%} of prompts")
ratio = big.regret(lowest).mean() / big.regret(big.ref_logps).mean()
check.true("and worse than no training", ratio > 2, f"regret {ratio:.2f} times that of π_ref")

# %% [markdown]
# ## 4. One number, or one number per prompt
#
# The paper proposes to estimate a constant $c$ "in advance or … through exponential moving average" (Discussion 3). A
# constant in $r_\theta$ is a constant in the scores with the other sign, so all that $c$ can do is to undo an offset
# that all prompts share. The best $c$ in hindsight slides along the curve below to its lowest point, and that is not
# 0, because prompts differ in $\beta \log Z(x)$ (CU7). (A $c$ that is fitted along with the policy minimises the
# loss, not the regret, and does no better; notebook 03 has a case where it does harm.)
#
# **Centred UNA** takes one number per prompt,
#
# $$L = \mathbb{E}\,\big(r_\theta + V(x) - r\big)^2,$$
#
# with $V(x)$ learned, or the mean of $r - r_\theta$ over the *other* responses of the prompt. Which of the two does
# not matter for what is learned: fitted or leave-one-out, the gradient is that of a variance.

# %%
own = torch.randn(40, 1, generator=torch.Generator().manual_seed(1))
own = (own - own.mean()) / own.std(correction=0) / 2  # how generously each prompt is scored: mean 0, sd ½
at_ref = big.regret(big.ref_logps).mean().item()
OFFSETS = [-8, -6.5, -5, -4, -3.25, -2.5, -2, -1.5, -1.25, -1, -0.75, -0.5, -0.25, 0, 0.5, 1, 1.5, 2]
OFFSETS += [3, 4, 5, 6, 8, 10, 13, 16]
raw = [example_worlds.raw_regret(big, o + own) for o in OFFSETS]
lowest_regret = [example_worlds.raw_regret(big, o + own, which="global") for o in OFFSETS if o <= 2]
with_c = min(raw)  # a constant c moves the curve sideways: its best is the lowest point, wherever the scores lie
V = BETA * big.log_partition[:, None]
with_v = [
    big.regret(una_end(big.ref_logps, big.rewards + o + own, BETA, baseline=o + own + V - 1e-13)).mean().item()
    for o in OFFSETS
]
print("offset  Eq. 10, descent  global minimum")
for i, o in enumerate(OFFSETS[::3]):
    print(f"{o:6.2f}  {raw[3 * i]:15.3f}  " + (f"{lowest_regret[3 * i]:14.3f}" if o <= 2 else " " * 11 + "the same"))
print(f"π_ref {at_ref:.3f}   best c, any offset {with_c:.3f}   V(x), any offset {max(with_v):.0e}")

# %% tags=["check"]
i = OFFSETS.index(1)
shifted_c = example_worlds.raw_regret(big, 1 + own, baseline=2.0)
check.close("c = 2 at offset 1 = no c at offset −1", shifted_c, raw[OFFSETS.index(-1)], tol=1e-9)
check.close("V(x): regret 0 at every offset", with_v, 0.0, tol=1e-9)
check.true("best c: a floor", 0.05 * at_ref < with_c < 0.5 * at_ref, f"{with_c:.3f}, {with_c / at_ref:.0%} of π_ref's")
check.true("offset 16: nothing learned", raw[-1] > 0.9 * at_ref, f"{raw[-1]:.3f} of {at_ref:.3f}")

# %%
blue, orange, red, grey = (figures.PALETTE[name] for name in ("blue", "orange", "vermilion", "grey"))
fig, ax = plt.subplots(figsize=(9.0, 4.7))
ax.axhspan(at_ref, 1.0, color=figures.FAINT, alpha=0.45, linewidth=0)
ax.axhline(at_ref, color=grey, linestyle="--", linewidth=1.3)
ax.axhline(with_c, color=orange, linewidth=2.4)
apart = [o for o in OFFSETS if o <= -0.5]
ax.plot(apart, lowest_regret[: len(apart)], color=blue, linestyle=(0, (1.2, 1.6)), linewidth=1.8)
ax.plot(OFFSETS, raw, color=blue, linewidth=3, solid_capstyle="round", solid_joinstyle="round")
ax.plot([-8, 16], [0, 0], color=red, linewidth=3.6, clip_on=False, zorder=5)
at_best = OFFSETS[raw.index(with_c)]
ax.plot(
    [at_best], [with_c], "o", color=orange, markersize=9, zorder=6, markeredgecolor=figures.CARD, markeredgewidth=1.5
)
ax.set(xlim=(-8, 16), ylim=(0, 1.0), xticks=range(-8, 17, 4))
ax.set_xlabel("constant added to all scores  (1 = the standard deviation of a prompt's scores)")
ax.set_ylabel("exact regret of what is learned")
label, right = {"va": "center", "fontsize": 11}, {"va": "center", "fontsize": 11, "ha": "right"}
small = {"va": "center", "fontsize": 10, "color": blue, "linespacing": 1.45}
ax.text(15.8, at_ref + 0.036, r"$\pi_\mathrm{ref}$: no training at all", color=grey, **right)
ax.text(15.8, 0.955, "worse than no training", color=grey, style="italic", **right)
ax.text(4.2, 0.455, "UNA Eq. 10", color=blue, weight="bold", **label)
ax.text(4.2, 0.37, "high scores say “raise everything”:\nwhat is learned is $\\pi_\\mathrm{ref}$ again", **small)
ax.text(-7.8, 0.47, "low scores say\n“lower everything”:\nsome response has to\ntake the mass", **small)
ax.text(
    -1.75,
    0.875,
    f"the best fit of all: one response alone,\nmostly the rarest (regret up to {max(lowest_regret):.1f})",
    **small,
)
ax.text(15.8, with_c + 0.036, "with the best constant $c$: the curve's lowest point", color="#9A6800", **right)
ax.text(15.8, 0.036, "with one number per prompt, $V(x)$: the optimum", color=red, weight="bold", **right)
ax.set_title("A constant in the scores decides what UNA learns, until each prompt has its own $V(x)$", fontsize=12)
figures.save(fig, "04_una_losses")
plt.show()

# %% [markdown]
# 40 prompts of 8 responses, $\beta = \frac12$; how generously a prompt is scored differs between prompts, with sd ½.
# The solid line is where gradient descent from $\pi_\text{ref}$ ends with unlimited data, the dotted one the global
# minimum of the same loss. $\pi^*$ is the same policy at every offset.
#
# Three identities say what $V(x)$ does to the loss. The first was in section 2: *online, Eq. 10 is REINFORCE without
# a baseline*. The second: the leave-one-out form is the **log-variance loss**. For $K$ responses of a prompt,
#
# $$\nabla\, \frac{1}{K} \sum_k \big(r_\theta + V_{-k} - r\big)^2 = \nabla\, \frac{1}{K - 1} \sum_k (e_k - \bar e)^2 ,$$
#
# without gradient through $V_{-k}$ on the left, with all gradients on the right.

# %% [markdown]
# The third: its gradient is, for samples of the policy, **RLOO**'s times $-2\beta$,
#
# $$\nabla L = -2\beta\, \frac{1}{K} \sum_k \Big(e_k - \frac{1}{K - 1} \sum_{j \ne k} e_j\Big) \nabla \log \pi(y_k) .$$
#
# Both hold sample by sample, so nothing has to be averaged: here are all 125 ways to draw three of five responses.

# %%
ref0, r0, policy = WORLD.ref_logps[0], WORLD.rewards[0], WORLD.optimum[1]  # some policy for prompt 0
drawn = torch.cartesian_prod(*[torch.arange(5)] * 3)
logits = policy.expand(125, -1).clone().requires_grad_()
own_logps = logits.log_softmax(-1).gather(1, drawn)
group = torch.arange(125).repeat_interleave(3)
flat = {"logps": own_logps.flatten(), "ref_logps": ref0[drawn].flatten(), "scores": r0[drawn].flatten()}
centred = METHODS["una-centred"].loss(**flat, groups=group, beta=BETA).view(125, 3).mean(1)
(of_centred,) = torch.autograd.grad(centred.sum(), logits, retain_graph=True)
e_drawn = r0[drawn] - BETA * (own_logps - ref0[drawn])
(of_variance,) = torch.autograd.grad(e_drawn.var(1).sum(), logits, retain_graph=True)

with torch.no_grad():  # RLOO, the total reward of each response less the mean of the others'
    advantage = e_drawn - leave_one_out(e_drawn.flatten(), group).view(125, 3)
    scores_of = torch.nn.functional.one_hot(drawn, 5) - policy.exp()  # ∇ log π(y_k) in the logits
    rloo = (advantage[..., None] * scores_of).mean(1)
print("drawn       centred UNA's gradient")
for n in (1, 37, 99):
    print(f"{drawn[n].tolist()}  {of_centred[n].numpy().round(4)}")

# %% tags=["check"]
check.close("125 triples: centred UNA = ∇ of the sample variance", of_centred, of_variance, tol=1e-14)
check.close("125 triples: centred UNA = −2β·RLOO", of_centred, -2 * BETA * rloo, tol=1e-14)
chance = policy[drawn].sum(1).exp()
alone = TableWorld(WORLD.ref_logps[:1], WORLD.rewards[:1], BETA)
expected = (chance[:, None] * of_centred).sum(0)
check.close("drawn from π: −2β∇J in the mean", expected, -2 * BETA * sampling.policy_gradient(alone, policy[None])[0])
biased = e_drawn - e_drawn.mean(1, keepdim=True)
with torch.no_grad():
    off = (biased[..., None] * scores_of).mean(1)
check.differs("the group's own mean as baseline is not RLOO", off, rloo, by=0.1)
loo = leave_one_out(r0[drawn].flatten(), group)
scores_only = METHODS["una-score"].loss(**flat, baseline=loo, beta=BETA).view(125, 3).mean(1)
(of_scores_only,) = torch.autograd.grad(scores_only.sum(), logits)
check.differs("nor may V be the mean of s alone, without −r_θ", of_scores_only, of_centred, by=0.1)

# %% [markdown]
# Offline the same loss has $\pi^*$ as its minimiser, for every sampler that gives each response and for every offset:
# $\text{Var}_\mu(e) = 0$ says that $e$ is one number per prompt, and that *is* $\pi^*$ (UNA Eq. 4). Two responses of
# a prompt are enough; more only lower the noise (CU8). It holds as long as some policy of the class has zero
# variance. With shared parameters that cannot express $\pi^*$, offline regression, centred or not, and DPO weigh
# errors by $\mu$ and end at another member of the class than RL does; only sampling from $\pi$ itself finds the best
# one (CU9).

# %% tags=["check"]
for name, sampler in (("π_ref", mu), ("uniform", uniform), ("π* backwards", WORLD.optimum.flip(-1).exp())):
    for offset in (-8.0, 8.0):
        moved = plus(offset)
        centred_loss = una_regression(
            moved.ref_logps, moved.rewards, BETA, sampler_logps=sampler.log(), baseline="prompt"
        )
        end = fixed_point(centred_loss, moved.ref_logps)
        check.close(f"centred, y ~ {name}, offset {offset:+.0f}: π*", end.exp(), WORLD.optimum.exp(), tol=1e-7)

# %% [markdown]
# ## 5. What the released code regresses
#
# The authors' scripts put a $\sigma$ around $r_\theta$, since "some normalization function" is needed (UNA Eq. 9 and
# 10, EU11), and use $\beta = 0.01$ and $0.03$. For a score $s$ they then ask for the log-ratio
#
# $$u = \frac{1}{\beta} \log \frac{s}{1 - s} .$$

# %% [markdown]
# At $\beta = 0.03$ a score of 0.767 asks for 40 nats: $\pi = e^{40}\, \pi_\text{ref}$. Nothing like that fits into a
# distribution, so the policy stays where $|\beta u|$ is small, and there the squared error is linear in $u$ but for a
# constant:
#
# $$\Big(\tfrac12 + \tfrac{\beta u}{4} - s\Big)^2 \approx -\tfrac{\beta}{2} \big(s - \tfrac12\big)\, u + \text{const}
# \quad \Rightarrow \quad \pi \propto \mu \cdot \big(s - \tfrac12\big)_+$$
#
# It is SFT with the weights $s - \frac12$. $\beta$ and $\pi_\text{ref}$ are not in it (CU14).

# %% tags=["check"]
for beta, near in ((0.1, 0.05), (0.03, 0.02), (0.01, 0.01)):
    world = released_world(beta)  # mean score .76
    weights = world.ref_logps.exp()
    population = singles(score.released, world, weights, scores=world.rewards)
    end = fixed_point(population, world.ref_logps, tolerance=1e-9)
    sft = weights * (world.rewards - 0.5).clamp(min=0)
    sft = sft / sft.sum(-1, keepdim=True)
    far = (end.exp() - sft).abs().sum(-1).mean() / 2
    optimum = (end.exp() - world.optimum.exp()).abs().sum(-1).mean() / 2
    check.true(f"β = {beta}: π ∝ μ(s − ½)₊", far < near, f"TV {far:.4f} to that, {optimum:.2f} to π*")

# %% [markdown]
# Two consequences. **The first step** of Eq. 10 with $\sigma$ is SFT with weights $s - \frac12$, whose mean is plain
# SFT on everything, or its opposite. An LLM judge's scores of 16 models' answers (AlpacaEval) have mean 0.18, and
# then 45 % of the squared weight says "lower every response" (CU15, from `figures/runs/score_weights.json`).
#
# **A placebo works.** Shuffle the scores over all responses, so that they say nothing, and let the data be better
# than $\pi_\text{ref}$, as data that one trains on tend to be. What remains is SFT on the data.
# (Here without sampling; the study of notebook 11 has such a control.)

# %%
world = released_world(0.03)
better = (world.ref_logps + 0.5 * TableWorld.random(0, responses=6).rewards).softmax(-1)  # the data's sampler
mean_score = (better * world.rewards).sum(-1).mean()
of_ref = (world.ref_logps.exp() * world.rewards).sum(-1).mean()
shuffled = torch.full_like(world.rewards, mean_score.item())  # (σ − s)² with a random s: its mean, and a constant
gains = {}
for name, given in (("scores", world.rewards), ("shuffled", shuffled)):
    end = fixed_point(singles(score.released, world, better, scores=given), world.ref_logps, tolerance=1e-9)
    gains[name] = ((end.exp() * world.rewards).sum(-1).mean() - of_ref).item()
    centred_loss = una_regression(world.ref_logps, given, 0.1, sampler_logps=better.log(), baseline="prompt")
    end = fixed_point(centred_loss, world.ref_logps, tolerance=1e-10)
    gains[f"centred, {name}"] = ((end.exp() * world.rewards).sum(-1).mean() - of_ref).item()
gains["SFT on the data"] = (mean_score - of_ref).item()
for name, gain in gains.items():
    print(f"{name:<20} gain in mean score {gain:+.4f}")

# %% tags=["check"]
share = gains["shuffled"] / gains["scores"]
check.true("released: the placebo keeps much of the gain", share > 0.4, f"{share:.0%} of it")
check.close("and that is SFT on the data", gains["shuffled"], gains["SFT on the data"], tol=2e-3)
check.close("centred: shuffled scores teach nothing", gains["centred, shuffled"], 0.0, tol=1e-9)
check.true("centred: scores do", gains["centred, scores"] > 0.05, f"{gains['centred, scores']:+.4f} (β = 0.1)")

# %% [markdown]
# ## 6. Thumbs: MSE, BCE, KTO
#
# For thumbs with $P(\text{up}) = \sigma(r)$, section 1 has shown that MSE and BCE both want
# $\sigma(r_\theta) = P(\text{up})$, which is $r_\theta = r$: the same target, and the same trouble, as Eq. 10. KTO
# wants something else. For one response its expected slope has the sign of $1 - 2P(\text{up})$ everywhere, so it asks
# for all or nothing, at $P(\text{up})$ .51 as at .99 (CU12). The regret that is left with *unlimited* thumbs, over
# that of $\pi_\text{ref}$:

# %%
floors = {share: label_floors(offset_for(share)) for share in (0.4, 0.6, 0.9)}
print("thumbs up   UNA, BCE    KTO     UNA with V(x)")
for share, found in floors.items():
    print(f"{share:9.0%}   {found['bce']:8.3f}  {found['kto']:7.3f}   {abs(found['excess']):8.0e}")

# %% tags=["check"]
check.true("few ups: UNA before KTO", floors[0.4]["bce"] < 0.5 * floors[0.4]["kto"])
check.true("many ups: KTO before UNA", floors[0.9]["bce"] > 1.05 * floors[0.9]["kto"])
check.true("both stop at a floor", min(min(f["bce"], f["kto"]) for f in floors.values()) > 0.02)
ups = WORLD.rewards.sigmoid()
V = BETA * WORLD.log_partition[:, None]
for name in ("una-binary-mse", "una-binary-bce"):
    end = fixed_point(binary_labels(METHODS[name].loss, WORLD, mu, ups, baseline=V), WORLD.ref_logps)
    check.close(f"{name} with V(x): π*", end.exp(), WORLD.optimum.exp(), tol=1e-7)
end = fixed_point(binary_labels(METHODS["una-binary-bce"].loss, WORLD, mu, ups), WORLD.ref_logps)
check.differs("without V(x): not", end.exp(), WORLD.optimum.exp(), by=0.05)

# %% [markdown]
# "UNA consistently outperforms KTO" is thus a statement about the share of thumbs up (CU13, CU20, CU21).
#
# ## 7. When do scores beat labels beat pairs?
#
# Scores are said to win because "more information is provided". How much information is Fisher's: with $n$ labels and
# maximum likelihood, the regret that is left is
#
# $$\mathbb{E}[\text{regret}] \approx \frac{1}{2 \beta n}\, \text{tr}\big(\text{Cov}_{\pi^*}\, I^{-1}\big).$$

# %% [markdown]
# $I$ is the information of one label on the rewards of a prompt. A score with noise of variance $\tau^2$ has
# $1 / \tau^2$ on its response; a thumb has $p(1 - p)$; a pair has $p(1 - p)$ on a *difference* of two. So a score
# says as much as a pair at about (CU19)
#
# $$\tau = \frac{1}{\sqrt{2\, \mathbb{E}[p(1 - p)]}} .$$

# %%
rated = information.RATED  # one prompt, eight equally likely responses, sd of rewards 1
goal = 0.05 * rated.metrics(rated.ref_logps)["regret"]
print("labels until 5 % of π_ref's regret is left")
for name, kind, noise in (
    ("scores, noise 0.5", "score", 0.5),
    ("scores, noise 1", "score", 1.0),
    ("scores, noise 2", "score", 2.0),
    ("scores, noise 4", "score", 4.0),
    ("pairs", "pair", 1.0),
    ("thumbs, V(x) fitted", "label", 1.0),
):
    print(f"    {name:<20} {information.regret_per_label(rated, kind, noise) / goal:7.0f}")
exact, formula = information.break_even(rated, "pair"), information.break_even_by_formula(rated)
thumb = information.break_even(rated, "label")
print(f"a score is worth a pair at noise {exact:.2f} (formula {formula:.2f}), a thumb at {thumb:.2f}")

# %% tags=["check"]
for kind in ("score", "pair"):
    predicted = information.regret_per_label(rated, kind) / 4000
    measured = information.measured_regret(rated, kind, 4000, runs=400)
    ratio = measured / predicted
    check.true(f"{kind}s: 400 fits on 4,000 labels", abs(ratio - 1) < 0.15, f"{measured:.5f}, theory {predicted:.5f}")
check.close("the formula, within a fifth", formula / exact, 1.0, tol=0.2)
few, many = (information.regret_per_label(rated, "score", noise) for noise in (0.5, 4.0))
pairs_say = information.regret_per_label(rated, "pair")
check.true("noise 0.5: scores; noise 4: pairs", few < pairs_say < many, f"{few:.2f} < {pairs_say:.2f} < {many:.2f}")

# %% [markdown]
# ## 8. All at once
#
# UNA's promise was one framework for every kind of feedback. With $V(x)$ it is kept. Scores, thumbs and pairs are
# three likelihoods of one reward, $r_\theta + V(x)$, with one $V(x)$ for scores and thumbs and none needed for pairs;
# each is least at $\pi^*$, and so is any mixture. The paper's recipe, the same three without $V(x)$, contradicts
# itself: pairs pull to $\pi^*$ and the others away from it.

# %% tags=["check"]
world = plus(2.0)
ups, preferences = world.rewards.sigmoid(), bradley_terry(world.rewards)


def mixture(baseline):
    """log π -> the sum of the three losses, scores and thumbs with a baseline (X, 1)."""
    losses = METHODS["una-centred"].losses
    scored = singles(losses["scores"], world, mu, scores=world.rewards, baseline=baseline)
    thumbed = binary_labels(losses["labels"], world, mu, ups, baseline=baseline)
    paired = pairs(losses["pairs"], world, mu, preferences)
    return lambda logps: scored(logps) + thumbed(logps) + paired(logps)


both = torch.cat([WORLD.ref_logps, torch.zeros(4, 1)], 1).requires_grad_()  # logits, and V(x) in the last column
optimiser = torch.optim.LBFGS(
    [both], max_iter=800, tolerance_grad=1e-12, tolerance_change=1e-18, line_search_fn="strong_wolfe"
)


def closure():
    value = mixture(both[:, 5:])(both[:, :5].log_softmax(-1))
    (both.grad,) = torch.autograd.grad(value, both)
    return value


optimiser.step(closure)
policy, fitted = both[:, :5].detach().softmax(-1), both[:, 5].detach()
check.close("mixed, V(x) learned along: π*", policy, WORLD.optimum.exp(), tol=1e-5)
check.close("and V(x) is β·log Z(x)", fitted, BETA * world.log_partition, tol=1e-5)
plain = fixed_point(mixture(torch.zeros(4, 1)), WORLD.ref_logps)
left = world.regret(plain).mean() / world.regret(WORLD.ref_logps).mean()
check.true("mixed as the paper has it: not", left > 0.05, f"{left:.0%} of π_ref's regret left")

# %% [markdown]
# ## What we learned
#
# - The losses of Eq. 8–10 need their signs mended, Eq. 8 its $\log \sigma$ and Eq. 9 one square less: *Eq. 8 as printed
#   still pulls there*, *without them it is not E g*, *Eq. 10 printed*.
# - Online, if the sampler is not differentiated, UNA is REINFORCE without a baseline: *symbolically: E ∇e² + 2β∇J = 0*.
#   If it is, $\pi^*$ becomes a maximum of the loss: *curvature at …*, *so … is a maximum there*.
# - Offline, without a baseline, an offset in the scores decides: upwards the sampler is learned (*the offset grows*),
#   downwards one rare response is the best fit (*40 prompts*).
# - A constant $c$ can only slide along that curve (*c = 2 at offset 1*). One number per prompt gives $\pi^*$ at every
#   offset and from every sampler: *centred, y ~ …*.
# - Centred UNA is the log-variance loss, and on-policy RLOO, sample by sample: *125 triples*.
# - At the published $\beta$ the released loss is SFT weighted by $s - \frac12$: *β = 0.03*; half of a gain can be the
#   data's: *the placebo keeps much of the gain*.
# - UNA or KTO is a matter of the share of thumbs up: *few ups*, *many ups*. Scores or pairs is a matter of the scores'
#   noise: *noise 0.5: scores; noise 4: pairs*.
#
# The ledger's entries, computed by the same functions:

# %%
HERE = [entry for entry in CLAIMS.values() if entry.notebook == "04_una_losses"]
Markdown(markdown(HERE))

# %% [markdown]
# ## Limits
#
# - Everything here is at the end of training with unlimited feedback, but for section 7. How fast a method gets there,
#   with how much noise, and what early stopping does, are other questions (notebook 11 asks them offline).
# - "Descent" is gradient descent on a table's logits from $\pi_\text{ref}$, with momentum once it has become slow.
#   Where the loss has several minima another optimiser may end at another; the global one does not depend on it.
# - The worlds are random: rewards of sd 1, $\beta = 0.5$, 5 to 8 responses. What matters of an offset is its size in
#   units of the rewards' spread and of $\beta$, so the same curve is wider or narrower elsewhere.
# - KTO's end is measured after 3,000 steps. It has no finite minimiser, and its regret still moves in the second
#   digit; that it is ahead or behind at 40 % and 90 % thumbs up does not depend on that.
# - Section 5 speaks of the loss in the released code at its published $\beta$, not of a trained 7B model.
#
# ## Exercises
#
# Put your answer in place of `...` and run the cell; it checks it. The answers are folded below.
#
# **1.** Which offset of all rewards makes Eq. 10 exact for prompt 0, so that its minimiser is $\pi^*$ without any
# baseline?

# %%
mine = ...  # a number

if mine is not ...:
    end = una_end(WORLD.ref_logps[:1], WORLD.rewards[:1] + mine + 1e-13, BETA)
    check.close("exercise 1", end.exp(), WORLD.optimum[:1].exp(), tol=1e-6)

# %% [markdown]
# **2.** For $K = 2$ the gradient of centred UNA is that of a loss on the pair $(y_1, y_2)$ which has no $V$ in it.
# Write its value for $e_1 = 1.3$ and $e_2 = 0.4$.

# %%
mine = ...  # a number

if mine is not ...:
    check.close("exercise 2", mine, torch.tensor([1.3, 0.4]).var())

# %% [markdown]
# **3.** All scores of a data set are 0.9. What does the released loss learn from it at $\beta = 0.01$, and what
# centred UNA? Give the two policies for data from `uniform`, each (4, 5).

# %%
mine = ...  # (released, centred)

if mine is not ...:
    nines = TableWorld(WORLD.ref_logps, torch.full((4, 5), 0.9), 0.01)
    population = singles(score.released, nines, uniform, scores=nines.rewards)
    check.close("exercise 3", mine[0], fixed_point(population, WORLD.ref_logps).exp(), tol=0.02)
    population = una_regression(WORLD.ref_logps, nines.rewards, 0.01, sampler_logps=uniform.log(), baseline="prompt")
    check.close("exercise 3", mine[1], fixed_point(population, WORLD.ref_logps).exp(), tol=1e-6)

# %% [markdown]
# <details>
# <summary>Answers</summary>
#
# **1.** `-BETA * WORLD.log_partition[0].item()`: an offset adds itself to $\beta \log Z$, and Eq. 10 is exact where
# that is zero.
#
# **2.** `(1.3 - 0.4) ** 2 / 2`: the variance of two numbers is half their squared difference, which is `una-centred`
# on scored pairs.
#
# **3.** `(uniform, mu)`: the released loss imitates the data, since every weight is $+0.4$; centred UNA has learned
# that no response is better than another, and stays at $\pi_\text{ref}$.
#
# </details>
