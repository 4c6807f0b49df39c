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
# [Notebook 03](03_implicit_reward.ipynb) ended with $r = \beta \log \frac{\pi^*}{\pi_\text{ref}} + V(x)$. At the
# optimum the implicit reward is the explicit one minus a number per prompt, $V(x) = \beta \log Z(x)$. UNA omits this
# number and fits the rest: $r_\theta = \beta \log \frac{\pi_\theta}{\pi_\text{ref}}$ is compared with pairs, binary
# labels (thumbs) or scores.
#
# **Claim** (UNA Eq. 7–10). Minimising the difference of implicit and explicit reward solves the RLHF problem, online
# and offline, for pairs, labels and scores; "it transforms the original unstable RL problem into a stable supervised
# learning problem" (Sec. 2.3.2).
#
# Sections 1 to 4 ask when the regression *is* policy gradient, where it ends otherwise, and what one number per
# prompt adds. This gives **centred UNA**. Sections 5 to 8 apply it to the released code, to binary labels, to the
# choice between pairs and scores, and to mixtures. Ids such as EU7 name rows of the table at the end.
#
# **Needs.** [Notebooks 02](02_partition_function.ipynb) and 03: $\pi^*$, $Z(x)$, and regret
# $= \beta\, \text{KL}(\pi \,\|\, \pi^*)$. In Colab or Kaggle: `%pip install una_ref` first.
#
# **Time.** About 40 minutes to read, without the exercises. Next: [notebook 05](05_f_divergences.ipynb).

# %%
import sympy as sp
import torch
from IPython.display import SVG, Markdown

from una_ref import METHODS
from una_ref.claims import CLAIMS, example_worlds, information, markdown, sampling  # the ledger and its checks
from una_ref.claims.floors import label_floors, offset_for
from una_ref.claims.ledger import committed
from una_ref.claims.released import released_world
from una_ref.methods.rewards import leave_one_out
from una_ref.notebook import check
from una_ref.studies.lesson_figures import draw_regret_by_offset
from una_ref.theory import TableWorld, bradley_terry, kl, objective
from una_ref.theory.fixed_points import fixed_point, una_end, una_fixed_point, una_minima, una_regression
from una_ref.theory.populations import binary_labels, pairs, singles  # a loss in expectation

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)

BETA = 0.5
WORLD = TableWorld.random(0, prompts=4, responses=5, beta=BETA)  # rewards: mean 0, sd 1 in each prompt
mu = WORLD.ref_logps.exp()  # responses come from π_ref unless stated
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
# UNA Eq. 7 is the general form. $g$ compares the explicit reward $r_\phi$ of a response with the implicit $r_\theta$:
#
# $$L(\pi_\theta) = \mathbb{E}_x\, \mathbb{E}_{y \sim \pi_\theta}\; g\big(r_\phi(x, y),\, r_\theta(x, y)\big)$$
#
# Offline the responses come from data instead. A table world needs no sampling: a loss in expectation is a sum over
# responses, weighted by their probability under the sampler. Losses are written without the papers' misprints;
# [one page](../docs/errata.md) lists those. The cell sums $(r_\theta - r_\phi)^2$, Eq. 10. It is not 0 at $\pi^*$;
# section 3 says why.


# %%
def in_expectation(loss, weights, scores):
    """log π (X, Y) -> Σ weights·loss: a method's loss summed over every response of every prompt."""
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
# which has no minimum: descent on it never slows down. With $-\log \sigma$ it is exactly DPO (EU7, CU10).

# %%
pair, preferences = METHODS["una-pair"], bradley_terry(WORLD.rewards)
printed, dpo = (pairs(loss, WORLD, mu, preferences) for loss in (pair.printed, pair.loss))
for name, population in (("Eq. 8", printed), ("with -log σ", dpo)):
    logits, seen = WORLD.ref_logps, []
    for step in range(400):
        if step in (0, 100, 200, 399):
            seen.append(f"{population(logits.log_softmax(-1)):8.3f}")
        logits = logits - example_worlds.slope(population, logits)
    print(f"{name:<18} loss after 0, 100, 200, 399 steps: {' '.join(seen)}")

# %% tags=["check"]
check.close("−log σ ends at π*", fixed_point(dpo, WORLD.ref_logps).exp(), WORLD.optimum.exp(), tol=1e-8)
moved = pairs(pair.loss, plus(7.0), mu, bradley_terry(plus(7.0).rewards))
check.close("−log σ ends at π* at offset 7", fixed_point(moved, WORLD.ref_logps).exp(), WORLD.optimum.exp(), tol=1e-8)
slope_early, slope_late = (example_worlds.slope(printed, at) for at in (WORLD.ref_logps, logits))
check.differs("Eq. 8 as printed: the slope does not vanish", slope_late, 0 * slope_late, by=1e-3)
check.close("Eq. 8 as printed: the slope is that at the start", slope_late, slope_early)

# %% [markdown]
# **Binary labels.** UNA Eq. 9 gives a good response the reward 1 and a bad one 0, and minimises $\mathbb{E}[g]$. $g$
# is the squared error of $\sigma(r_\theta)$ (MSE) or the cross-entropy (BCE). The paper's second line adds the means
# of the two classes. That is not the mean over the data: the rarer label counts for more (EU10, CU11).

# %% tags=["check"]
learned, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1.0, 1.0, 1.0, 0.0])
g = METHODS["una-binary-mse"].loss(logps=learned.logit(), ref_logps=0 * learned, labels=labels, beta=1.0)
up = labels == 1
print(f"σ(r) {learned.numpy()}, labels {labels.numpy()}, g {g.numpy().round(3)}")
print(f"E g {g.mean():.4f}   E_w g + E_l g {g[up].mean() + g[~up].mean():.4f}")
check.close("g is the squared error", g, (learned - labels) ** 2)
check.close("class means with shares: E g", 0.75 * g[up].mean() + 0.25 * g[~up].mean(), g.mean())
check.differs("class means without shares: not E g", g[up].mean() + g[~up].mean(), g.mean(), by=0.2)

# %% [markdown]
# **Scores.** UNA Eq. 10 is least squares:
#
# $$L_\text{UNA-score} = \mathbb{E}\,\big(r_\theta(x, y) - r_\phi(x, y)\big)^2$$
#
# Below Eq. 9 the paper says that scores exclude BCE. But BCE with a label $s$ in $[0, 1]$ has its minimum at
# $\sigma(r_\theta) = s$ (EU17).

# %% tags=["check"]
z, p = sp.symbols("z p", real=True)
sigma = 1 / (1 + sp.exp(-z))
bce = -p * sp.log(sigma) - (1 - p) * sp.log(1 - sigma)
mse = p * (sigma - 1) ** 2 + (1 - p) * sigma**2
check.true("d BCE / dz = σ − p", sp.simplify(sp.diff(bce, z) - (sigma - p)) == 0)
check.true("d MSE / dz = 2(σ − p)·σ'", sp.simplify(sp.diff(mse, z) - 2 * (sigma - p) * sp.diff(sigma, z)) == 0)

# %% [markdown]
# ## 2. Online: the regression is policy gradient
#
# In UNA Eq. 7 the responses come from $\pi_\theta$, the policy in training. The paper does not say whether the sampling
# is differentiated. "Supervised learning" implies no: sample, then regress. Write
# $e = r - \beta \log \frac{\pi}{\pi_\text{ref}}$, so that $J = \mathbb{E}_\pi\, e$ is the RLHF objective (UNA Eq. 3).
# The regression's gradient is
#
# $$\mathbb{E}_{y \sim \pi}\, \nabla e^2 = -2\beta\, \mathbb{E}_\pi[e\, \nabla \log \pi] = -2\beta\, \nabla J .$$
#
# The last step is the policy-gradient theorem; the term $\mathbb{E}_\pi \nabla e$ is zero. So in expectation every
# step of online UNA is a step of **REINFORCE without a baseline**. This holds at any policy and for any offset of the
# rewards.

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
check.differs("through the sampler: not −2β∇J", literal, -2 * BETA * rl, by=0.1)

# %% [markdown]
# **And if the sampling is differentiated?** Then the loss is the literal Eq. 7, a mean square under $\pi$ itself:
#
# $$\mathbb{E}_\pi\, e^2 = \text{Var}_\pi(e) + J(\pi)^2$$
#
# The second term asks for $J = 0$, where RLHF asks for the largest $J$. The curvature at $\pi^*$, in the logits, takes
# three lines. Write $\text{Cov}_\pi = \text{diag}(\pi) - \pi \pi^\top$.
#
# 1. There $e = \beta \log Z$ for every response, so $\text{Var}_\pi(e) = 0$ is least and $J$ is largest. Both slopes
#    are 0, and only second derivatives count.
# 2. A small change $\delta$ of the logits changes $e$ by $-\beta \delta$, up to a constant. So $\text{Var}_\pi(e)
#    \approx \beta^2\, \delta^\top \text{Cov}_{\pi^*}\, \delta$, with the second derivative
#    $2\beta^2\, \text{Cov}_{\pi^*}$.
# 3. $J = \beta \log Z - \beta\, \text{KL}(\pi \,\|\, \pi^*)$, and the KL has the second derivative
#    $\text{Cov}_{\pi^*}$. So that of $J^2$ is $2J \cdot (-\beta\, \text{Cov}) = -2\beta^2 \log Z\, \text{Cov}$.
#
# The sum is $2\beta^2 (1 - \log Z)\, \text{Cov}_{\pi^*}$. Two responses with $\pi^* = (\frac12, \frac12)$,
# $\beta = 1$ and $\log Z = 3$: $\text{Cov}$ has the eigenvalue $\frac12$, and the loss curves by
# $2 \cdot (1 - 3) \cdot \frac12 = -2$. The optimum is a local *maximum* as soon as $\log Z > 1$ (EU13, CU6).
# (At offset 4 no policy has a $J$ near 0, and descent ends near the smallest one.)

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
check.true("π* is a maximum there", one.log_partition.item() > 1, f"log Z = {one.log_partition.item():.2f}")
two = TableWorld(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[3.0, 3.0]]), 1.0)  # π* = (½, ½), log Z = 3
bend = torch.autograd.functional.hessian(lambda v: sampling.literal(two)(v.log_softmax(-1)), two.optimum)[0, :, 0]
check.close("two responses by hand: the loss curves by −2", torch.linalg.eigvalsh(bend)[0], -2.0)

# %% [markdown]
# ## 3. Offline: where the regression ends
#
# Offline the responses come from a fixed sampler $\mu$. Then the gradient is in general not that of $J$. If
# $r_\theta = r$ were possible for every response, least squares would find it. But probabilities sum to one, so
# $r_\theta = r$ needs $Z(x) = 1$. The minimiser of Eq. 10 is a compromise. Write $u = \log \frac{\pi}{\pi_\text{ref}}$
# and take the multiplier $2\beta\nu(x)$ for $\sum_y \pi_\text{ref}\, e^u = 1$. The derivative in $u$, divided by
# $2\beta$, is 0:
#
# $$\mu\,(\beta u - r) + \nu\, \pi_\text{ref}\, e^u = 0 .$$
#
# Divide by $\beta\mu$: $u = \frac{r}{\beta} - w$ with $w = \kappa e^u$, so $w e^w = \kappa\, e^{r/\beta}$. Lambert's
# $W$ solves this, and each $u$ has a closed form (CU5a):
#
# $$\log \frac{\pi}{\pi_\text{ref}} = \frac{r}{\beta} - W\big(\kappa\, e^{r/\beta}\big), \qquad
# \kappa(x, y) = \frac{\nu(x)}{\beta}\, \frac{\pi_\text{ref}}{\mu}$$
#
# $\nu(x)$ is the number that makes the row sum to one. It has the sign of $\log Z(x)$:
#
# 1. The first equation is $\mu(\beta u - r) = -\nu\, \pi_\text{ref}\, e^u$. So every $u$ is below $r / \beta$ if
#    $\nu > 0$, equal to it if $\nu = 0$, and above it if $\nu < 0$.
# 2. With $u = r / \beta$ the row sums to $\sum_y \pi_\text{ref}\, e^{r / \beta} = Z(x)$.
# 3. It has to sum to one. So $\nu > 0$ if $Z(x) > 1$, and $\nu < 0$ if $Z(x) < 1$.
#
# Two equally likely responses with $\beta = 1$ and $r = (1, 1)$ have $Z = e$. The policy is
# $(\frac12, \frac12)$ and $u = 0$, so $\frac12 (0 - 1) = -\nu \cdot \frac12$ and $\nu = 1 > 0$.
# For $Z(x) = 1$, $\nu = 0$ and the policy is $\pi^*$. For any other $Z(x)$ it is $\pi^*$ only if $\mu = \pi^*$, as in
# this example.

# %% tags=["check"]
w, a = sp.symbols("w a", real=True)  # w = W(κe^a), so κ = w·e^w·e^(−a); u = a − w
kappa, u = w * sp.exp(w) * sp.exp(-a), a - w
check.true("symbolically: u + κ·e^u = r/β", sp.simplify(u + kappa * sp.exp(u) - a) == 0)

high = plus(2.0)
found = fixed_point(una_regression(high.ref_logps, high.rewards, BETA), high.ref_logps)
form = una_fixed_point(high.ref_logps, high.rewards, BETA)
check.close("the closed form is the numerical minimiser", form.exp(), found.exp(), tol=1e-8)
residual = BETA * (form - high.ref_logps) - high.rewards
nu = -residual / (form - high.ref_logps).exp()  # μ = π_ref: −(βu − r)/e^u is one number per prompt
check.close("one ν per prompt", nu, nu[:, :1].expand_as(nu), tol=1e-9)
for offset in (2.0, -0.5):  # β·log Z changes its sign in two prompts between these offsets
    at = plus(offset)
    end = una_end(at.ref_logps, at.rewards, BETA)
    sign = -(BETA * (end - at.ref_logps) - at.rewards)[:, 0] / (end - at.ref_logps).exp()[:, 0]
    check.true(f"ν has the sign of log Z, offset {offset:+.1f}", torch.equal(sign.sign(), at.log_partition.sign()),
               f"log Z {at.log_partition.numpy().round(2)}, ν {sign.numpy().round(2)}")  # fmt: skip
check.differs("the minimiser is not π*", form.exp(), WORLD.optimum.exp(), by=0.1)
just_below = BETA * high.log_partition[:, None] - 1e-13  # β·log Z(x); the closed form needs log Z(r − b) >= 0
told = una_fixed_point(high.ref_logps, high.rewards, BETA, baseline=just_below)
check.close("β·log Z(x) given: the minimiser is π*", told.exp(), WORLD.optimum.exp(), tol=1e-8)

# %% [markdown]
# Is 7 of 10 a good score? That depends on the other scores of the prompt, which a loss on one response cannot know.
#
# > **Guess first:** add 128 to all scores, which does not change $\pi^*$. Where does this minimiser go?

# %%
# una_end: the minimum that gradient descent from π_ref ends at
for offset in (0.0, 2.0, 8.0, 32.0, 128.0):
    ends = {name: una_end(WORLD.ref_logps, WORLD.rewards + offset, BETA, sampler_logps=s.log()) for name, s in
            (("π_ref", mu), ("uniform", uniform))}  # fmt: skip
    to_ref, to_uniform = kl(ends["π_ref"], WORLD.ref_logps).mean(), kl(ends["uniform"], uniform.log()).mean()
    print(f"offset {offset:5.0f}: y ~ π_ref, KL to π_ref {to_ref:.4f}    y ~ uniform, KL to uniform {to_uniform:.4f}")

# %% tags=["check"]
far = una_fixed_point(WORLD.ref_logps, WORLD.rewards + 1e5, BETA, sampler_logps=uniform.log())
check.close("large offset: the sampler is learned", far.exp(), uniform, tol=1e-4)
check.differs("large offset: the uniform sampler is not π_ref", far.exp(), mu, by=0.1)

# %% [markdown]
# **Large positive** scores ask for a large $r_\theta$ everywhere. An offset $o$ adds $-2 o \beta \sum_y \mu u$ and a
# constant to the loss. For large $o$ this is SFT on the data, which ends at the sampler $\mu$.
#
# **Large negative** scores ask for $\pi < \pi_\text{ref}$ everywhere, and some response has to take the mass that all
# the others lose. The loss is no longer convex. $\nu < 0$, and $W$ has two branches there, above and below $-1$. At a
# minimum, at most one response has $W$ below $-1$; it takes the mass. The reason is the second-order condition:
#
# 1. The loss and its constraint have the second derivative $2\beta^2 \mu + 2\beta\nu\, \pi_\text{ref}\, e^u = 2\beta^2
#    \mu\,(1 + W)$ in each $u$, since $W = \kappa e^u$. It is negative where $W < -1$.
# 2. The constraint $\sum_y \pi_\text{ref}\, e^u = 1$ is one equation. Of any two $u$ some combined change keeps it,
#    to first order.
# 3. So two responses with $W < -1$ would leave a direction in which the loss falls. That is no minimum.
#
# How many minima there are depends on the offset. For prompt 0 it is one at $-1$, two at $-1.5$, four at $-2$, and
# from $-3$ on five, one for each response. The global minimum is usually at the *rarest* response, since errors are
# weighted by the sampler's probabilities (CU5b).

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
counts = {}
for offset in (-0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -8.0):
    counts[offset] = (~una_minima(WORLD.ref_logps, WORLD.rewards + offset, BETA)[..., 0].isnan()).sum(-1).tolist()
    print(f"offset {offset:4.1f}: minima by prompt {counts[offset]} (0: log Z >= 0, one minimum in closed form)")

# %% tags=["check"]
population = una_regression(low.ref_logps, low.rewards, BETA)
for k in range(5):
    check.close(f"a minimum at response {k}: no slope", example_worlds.slope(population, minima[:, k]), 0.0, tol=1e-10)
big = example_worlds.WORLD  # 40 prompts × 8 responses
lowest = una_end(big.ref_logps, big.rewards - 8, BETA, which="global")
check.true("prompt 0: one minimum at −1, two at −1.5, four at −2, five from −3 on",
           [counts[o][0] for o in (-1.0, -1.5, -2.0, -3.0, -8.0)] == [1, 2, 4, 5, 5])  # fmt: skip
rarest = (lowest.argmax(-1) == big.ref_logps.argmin(-1)).double().mean()
check.true("40 prompts: mostly the rarest response", rarest > 0.6, f"in {rarest:.0%} of prompts")
ratio = big.regret(lowest).mean() / big.regret(big.ref_logps).mean()
check.true("40 prompts: worse than no training", ratio > 2, f"regret {ratio:.2f} times that of π_ref")

# %% [markdown]
# ## 4. One number, or one number per prompt
#
# The paper proposes to estimate a constant $c$ "in advance or … through exponential moving average" (Discussion 3). A
# constant in $r_\theta$ is a constant in the scores with the opposite sign. So $c$ can only undo an offset that all
# prompts share. The best $c$ in hindsight moves to the lowest point of the curve below. Regret is left there, because
# prompts differ in $\beta \log Z(x)$ (CU7). (A $c$ fitted along with the policy can do harm:
# [notebook 03](03_implicit_reward.ipynb).)
#
# **Centred UNA** takes one number per prompt,
#
# $$L = \mathbb{E}\,\big(r_\theta + V(x) - r\big)^2 .$$
#
# $V(x)$ is fitted, or it is the mean of $e = r - r_\theta$ over the *other* responses of the prompt. Either way the
# expected gradient is that of $\text{Var}_\mu(e)$. In the next cell $V(x)$ is fitted beside the policy, at every
# offset. It starts at 0 and knows nothing of $Z(x)$.


# %%
def fitted(loss, start, steps):
    """log π (X, Y) and V(x) (X, 1) after `steps` of L-BFGS on loss(log π, V), from the policy `start` and V = 0."""
    both = torch.cat([start, torch.zeros(len(start), 1)], 1).requires_grad_()  # logits, and V(x) in the last column
    optimiser = torch.optim.LBFGS([both], max_iter=steps, history_size=50, tolerance_grad=1e-12,
                                  tolerance_change=1e-18, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        value = loss(both[:, :-1].log_softmax(-1), both[:, -1:])
        (both.grad,) = torch.autograd.grad(value, both)
        return value

    optimiser.step(closure)
    return both[:, :-1].detach().log_softmax(-1), both[:, -1:].detach()


own = torch.randn(40, 1, generator=torch.Generator().manual_seed(1))
own = (own - own.mean()) / own.std(correction=0) / 2  # a prompt's own offset of all its scores: mean 0, sd ½
at_ref = big.regret(big.ref_logps).mean().item()
OFFSETS = [-8, -6.5, -5, -4, -3.25, -2.5, -2, -1.5, -1.25, -1, -0.75, -0.5, -0.25, 0, 0.5, 1, 1.5, 2]
OFFSETS += [3, 4, 5, 6, 8, 10, 13, 16]
raw = [example_worlds.raw_regret(big, o + own) for o in OFFSETS]
lowest_regret = [example_worlds.raw_regret(big, o + own, which="global") for o in OFFSETS if o <= 2]
with_c = min(raw)  # a constant c moves the curve sideways
big_mu = big.ref_logps.exp()
with_v = []
for o in OFFSETS:
    s = big.rewards + o + own
    squares = lambda logps, V: (big_mu * (BETA * (logps - big.ref_logps) + V - s) ** 2).sum()  # noqa: B023, E731
    with_v.append(big.regret(fitted(squares, big.ref_logps, 200)[0]).mean().item())
print("offset  Eq. 10, descent  global minimum")
for i, o in enumerate(OFFSETS[::3]):
    print(f"{o:6.2f}  {raw[3 * i]:15.3f}  " + (f"{lowest_regret[3 * i]:14.3f}" if o <= 2 else " " * 11 + "the same"))
print(f"π_ref {at_ref:.3f}   best c, any offset {with_c:.3f}   V(x) fitted, any offset {max(with_v):.4f}")

# %% tags=["check"]
i = OFFSETS.index(1)
shifted_c = example_worlds.raw_regret(big, 1 + own, baseline=2.0)
check.close("c = 2 at offset 1 = no c at offset −1", shifted_c, raw[OFFSETS.index(-1)], tol=1e-9)
check.close("V(x) fitted: no regret at any of the offsets", with_v, 0.0, tol=1e-6)
alone = [example_worlds.raw_regret(big, o) for o in (-8.0, -2.0, 0.0)]
stated = [committed()["CU5"][name] for name in ("m8", "m2", "p0")]
check.close("without the prompts' own offsets: the numbers of CU5", alone, stated, tol=1e-6)
check.differs("with them: other numbers", [raw[OFFSETS.index(o)] for o in (-8, -2, 0)], stated, by=0.01)
left = with_c / at_ref
check.true("best c: regret is left", 0.05 < left < 0.5, f"{with_c:.3f}, {left:.0%} of π_ref's")
check.true("offset 16: almost nothing learned", raw[-1] > 0.9 * at_ref, f"{raw[-1]:.3f} of {at_ref:.3f}")

# %%
curves = {"offsets": OFFSETS, "descent": raw, "lowest": lowest_regret, "fitted": with_v, "reference": at_ref}
SVG(draw_regret_by_offset(curves))

# %% [markdown]
# The figure has 40 prompts of 8 responses and $\beta = \frac12$. The mean score differs between prompts, with a
# standard deviation (sd) of ½. (Without it, as in CU5, offset $-2$ has 0.31 and not 0.35.) The solid line is the end of
# gradient descent from $\pi_\text{ref}$ with unlimited data, the dotted line the global minimum of the same loss.
# $\pi^*$ is the same policy at every offset.
#
# Three identities say what $V(x)$ does to the loss. The first was in section 2: *online, Eq. 10 is REINFORCE without
# a baseline*. The second: the leave-one-out form is the **log-variance loss**. For $K$ responses of a prompt,
#
# $$\nabla\, \frac{1}{K} \sum_k \big(r_\theta + V_{-k} - r\big)^2 = \nabla\, \frac{1}{K - 1} \sum_k (e_k - \bar e)^2 ,$$
#
# without gradient through $V_{-k}$ on the left, with all gradients on the right. The proof takes three lines:
#
# 1. $V_{-k}$ is the mean of the other $e$, so $V_{-k} = \frac{K \bar e - e_k}{K - 1}$.
# 2. $r_\theta - r = -e_k$, so the residual is $V_{-k} - e_k = \frac{K \bar e - e_k - (K - 1) e_k}{K - 1}
#    = -\frac{K}{K - 1} (e_k - \bar e)$.
# 3. Left: $\frac1K \sum_k 2 \cdot \big(-\frac{K}{K - 1}\big)(e_k - \bar e) \cdot (-\nabla e_k)$. Right:
#    $\frac{2}{K - 1} \sum_k (e_k - \bar e) \nabla (e_k - \bar e)$, in which $\nabla \bar e$ drops out because
#    $\sum_k (e_k - \bar e) = 0$. Both are $\frac{2}{K - 1} \sum_k (e_k - \bar e) \nabla e_k$.
#
# Two responses with $e = (1.3, 0.4)$: the residuals are $0.4 - 1.3 = -0.9$ and $0.9$, which is $-2\,(e_k - 0.85)$.
#
# The third: put $\nabla e_k = -\beta \nabla \log \pi(y_k)$ and line 2 into this gradient. For samples of the policy it
# is $-2\beta$ times that of **RLOO**,
#
# $$\nabla L = -2\beta\, \frac{1}{K} \sum_k \Big(e_k - \frac{1}{K - 1} \sum_{j \ne k} e_j\Big) \nabla \log \pi(y_k) .$$
#
# Both hold sample by sample, so no averaging is needed. Here are all 125 ways to sample three of five responses.

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

with torch.no_grad():  # RLOO: the total reward of each response minus the mean of the others
    advantage = e_drawn - leave_one_out(e_drawn.flatten(), group).view(125, 3)
    scores_of = torch.nn.functional.one_hot(drawn, 5) - policy.exp()  # ∇ log π(y_k) in the logits
    rloo = (advantage[..., None] * scores_of).mean(1)
print("samples    centred UNA's gradient")
for n in (1, 37, 99):
    print(f"{drawn[n].tolist()}  {of_centred[n].numpy().round(4)}")

# %% tags=["check"]
others = leave_one_out(e_drawn.detach().flatten(), group).view(125, 3)
spread = e_drawn - e_drawn.mean(1, keepdim=True)
check.close("125 triples: the residual is −K/(K − 1)·(e − ē)", others - e_drawn, -3 / 2 * spread)
check.close("125 triples: centred UNA = ∇ of the sample variance", of_centred, of_variance, tol=1e-14)
check.close("125 triples: centred UNA = −2β·RLOO", of_centred, -2 * BETA * rloo, tol=1e-14)
chance = policy[drawn].sum(1).exp()
alone = TableWorld(WORLD.ref_logps[:1], WORLD.rewards[:1], BETA)
expected = (chance[:, None] * of_centred).sum(0)
check.close("samples from π: −2β∇J in the mean", expected, -2 * BETA * sampling.policy_gradient(alone, policy[None])[0])
biased = e_drawn - e_drawn.mean(1, keepdim=True)
with torch.no_grad():
    off = (biased[..., None] * scores_of).mean(1)
check.differs("the group's own mean as baseline: not RLOO", off, rloo, by=0.1)
loo = leave_one_out(r0[drawn].flatten(), group)
scores_only = METHODS["una-score"].loss(**flat, baseline=loo, beta=BETA).view(125, 3).mean(1)
(of_scores_only,) = torch.autograd.grad(scores_only.sum(), logits)
check.differs("V as the mean of s alone, without −r_θ: another gradient", of_scores_only, of_centred, by=0.1)

# %% [markdown]
# Offline the same loss has $\pi^*$ as its minimiser, for every offset and every sampler that gives each response a
# positive probability. $\text{Var}_\mu(e) = 0$ says that $e$ is one number per prompt, and that *is* $\pi^*$ (UNA
# Eq. 4). Two responses of a prompt are enough; more only lower the noise (CU8). This holds as long as some policy of
# the class has zero variance.
#
# A policy class with shared parameters may not contain $\pi^*$. Then offline regression (centred or not) and DPO
# weight errors by $\mu$, and end at another member of the class than RL does. Only samples from $\pi$ itself give
# the gradient of $J$ (CU9; [notebook 13](13_online_alignment.ipynb), section 6).

# %% tags=["check"]
for name, sampler in (("π_ref", mu), ("uniform", uniform), ("π* backwards", WORLD.optimum.flip(-1).exp())):
    for offset in (-8.0, 8.0):
        moved = plus(offset)
        how = {"sampler_logps": sampler.log(), "baseline": "prompt"}
        end = fixed_point(una_regression(moved.ref_logps, moved.rewards, BETA, **how), moved.ref_logps)
        check.close(f"centred, y ~ {name}, offset {offset:+.0f}: π*", end.exp(), WORLD.optimum.exp(), tol=1e-7)

# %% [markdown]
# ## 5. What the released code regresses
#
# The authors' scripts put a $\sigma$ around $r_\theta = \beta u$, since "some normalization function" is needed (UNA
# Eq. 9 and 10, EU11). They use $\beta = 0.01$ and $0.03$. A score $s$ then asks for $\sigma(\beta u) = s$,
#
# $$u = \frac{1}{\beta} \log \frac{s}{1 - s} .$$
#
# At $\beta = 0.03$ a score of 0.767 asks for 40 nats: $\pi = e^{40}\, \pi_\text{ref}$. Only a share $e^{-40}$ of
# $\pi_\text{ref}$ can have that. The others stay where $\beta u$ is small or $\pi$ is negligible. For small $\beta u$
# the squared error is linear in $u$, up to a constant:
#
# $$\Big(\tfrac12 + \tfrac{\beta u}{4} - s\Big)^2 \approx -\tfrac{\beta}{2} \big(s - \tfrac12\big)\, u + \text{const}
# \quad \Rightarrow \quad \pi \propto \mu \cdot \big(s - \tfrac12\big)_+$$
#
# This is SFT with the weights $s - \frac12$. $\beta$ and $\pi_\text{ref}$ are not in the result (CU14). The positive
# part $(\cdot)_+$ takes three lines:
#
# 1. Minimise $-\sum_y \mu (s - \frac12)\, u$ with $\sum_y \pi = 1$. With a multiplier $\nu$, the slope in one $u$ is
#    $-\mu (s - \frac12) + \nu \pi$.
# 2. If $s > \frac12$ it is zero at $\pi = \mu (s - \frac12) / \nu$, and $\nu > 0$ makes the sum one.
# 3. If $s < \frac12$ it is positive at every $\pi > 0$. So $u$ falls, and $\pi$ tends to 0. (With $\sigma$ it stops at
#    the target, where $\pi$ is negligible.)
#
# Three equally likely responses with scores 0.9, 0.6 and 0.3 have the weights 0.4, 0.1 and $-0.2$. The policy is
# $(0.8, 0.2, 0)$.

# %% tags=["check"]
for beta, near in ((0.1, 0.05), (0.03, 0.02), (0.01, 0.01)):
    world = released_world(beta)  # mean score 0.76
    weights = world.ref_logps.exp()
    population = singles(score.released, world, weights, scores=world.rewards)
    end = fixed_point(population, world.ref_logps, tolerance=1e-9)
    sft = weights * (world.rewards - 0.5).clamp(min=0)
    sft = sft / sft.sum(-1, keepdim=True)
    far = (end.exp() - sft).abs().sum(-1).mean() / 2
    optimum = (end.exp() - world.optimum.exp()).abs().sum(-1).mean() / 2
    check.true(f"β = {beta}: π ∝ μ(s − ½)₊", far < near, f"TV {far:.4f} to that, {optimum:.2f} to π*")
three = TableWorld(torch.full((1, 3), 1 / 3).log(), torch.tensor([[0.9, 0.6, 0.3]]), 0.01)
population = singles(score.released, three, three.ref_logps.exp(), scores=three.rewards)
end = fixed_point(population, three.ref_logps, tolerance=1e-9)
check.close("three responses by hand: (0.8, 0.2, 0), at β = 0.01", end.exp(), [[0.8, 0.2, 0.0]], tol=0.02)

# %% [markdown]
# Two consequences follow.
#
# **The first step** of Eq. 10 with $\sigma$ is SFT with weights $s - \frac12$. A mean score above $\frac12$ adds plain
# SFT on everything; one below it adds the opposite. An LLM judge's scores of 16 models' answers (AlpacaEval) have mean
# 0.18. Then the mean weight, "lower every response", is 45 % of the squared weights (CU15, from
# `figures/runs/score_weights.json`).
#
# **The shuffled control also gains.** Shuffle the scores over all responses, so that they carry no information. Let
# the data be better than $\pi_\text{ref}$, as training data often are. What remains is SFT on the data.
# ([Notebook 11](11_offline_alignment.ipynb) has such a control with sampling.)

# %%
world = released_world(0.03)
better = (world.ref_logps + 0.5 * TableWorld.random(0, responses=6).rewards).softmax(-1)  # the data's sampler
mean_score = (better * world.rewards).sum(-1).mean()
of_ref = (world.ref_logps.exp() * world.rewards).sum(-1).mean()
# With a random s, (σ − s)² has in expectation the mean score as its target, plus a constant.
shuffled = torch.full_like(world.rewards, mean_score.item())
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
check.true("released: the shuffled control keeps much of the gain", share > 0.4, f"{share:.0%} of it")
check.close("released: the shuffled control is SFT on the data", gains["shuffled"], gains["SFT on the data"], tol=2e-3)
check.close("centred: shuffled scores teach nothing", gains["centred, shuffled"], 0.0, tol=1e-9)
check.true("centred: true scores teach", gains["centred, scores"] > 0.05, f"{gains['centred, scores']:+.4f} (β = 0.1)")

# %% [markdown]
# ## 6. Binary labels: MSE, BCE, KTO
#
# Let a label be 1 with probability $P(\text{up}) = \sigma(r)$. By section 1, MSE and BCE both aim at
# $\sigma(r_\theta) = P(\text{up})$, which is $r_\theta = r$. That is the target of Eq. 10, with the same problem. KTO
# has another target. Its loss is $1 - \sigma(m)$ for a good label and $1 - \sigma(-m) = \sigma(m)$ for a bad one,
# with $m = r_\theta - z_0$ and a reference point $z_0$ without gradient. In expectation, with $p = P(\text{up})$,
#
# $$p\,(1 - \sigma(m)) + (1 - p)\, \sigma(m) = p + (1 - 2p)\, \sigma(m),
# \qquad \frac{d}{dm} = (1 - 2p)\, \sigma(m)\, \sigma(-m) .$$
#
# The derivative has the sign of $1 - 2p$ for every $m$. So KTO asks for all or nothing, at $p = 0.51$ as at $0.99$
# (CU12). The table shows the regret left with *unlimited* labels, as a ratio to that of $\pi_\text{ref}$. Its last
# column is BCE at $\pi^*$ with $V(x) = \beta \log Z(x)$, minus the least possible BCE:

# %%
floors = {share: label_floors(offset_for(share)) for share in (0.4, 0.6, 0.9)}
print("good labels  UNA, BCE    KTO     UNA with V(x)")
for share, found in floors.items():
    print(f"{share:11.0%}  {found['bce']:8.3f}  {found['kto']:7.3f}   {abs(found['excess']):8.0e}")

# %% tags=["check"]
m = torch.linspace(-4, 4, 9).requires_grad_()
up_, down_ = (METHODS["kto"].loss(logps=m, ref_logps=0 * m, labels=0 * m + t, kl=0.0, beta=1.0) for t in (1.0, 0.0))
for chance in (0.51, 0.99):
    mean_loss = chance * up_ + (1 - chance) * down_
    check.close(f"KTO, P(up) {chance}: p + (1 − 2p)σ(m)", mean_loss, chance + (1 - 2 * chance) * m.sigmoid())
    (slope_of_mean,) = torch.autograd.grad(mean_loss.sum(), m, retain_graph=True)
    check.true(f"KTO, P(up) {chance}: one sign at every m", (slope_of_mean < 0).all())
check.true("40 % good labels: UNA ahead of KTO", floors[0.4]["bce"] < 0.5 * floors[0.4]["kto"])
check.true("90 % good labels: KTO ahead of UNA", floors[0.9]["bce"] > 1.05 * floors[0.9]["kto"])
check.true("both leave regret", min(min(f["bce"], f["kto"]) for f in floors.values()) > 0.02)
ups = WORLD.rewards.sigmoid()
V = BETA * WORLD.log_partition[:, None]
for name in ("una-binary-mse", "una-binary-bce"):
    end = fixed_point(binary_labels(METHODS[name].loss, WORLD, mu, ups, baseline=V), WORLD.ref_logps)
    check.close(f"{name} with V(x): π*", end.exp(), WORLD.optimum.exp(), tol=1e-7)
end = fixed_point(binary_labels(METHODS["una-binary-bce"].loss, WORLD, mu, ups), WORLD.ref_logps)
check.differs("una-binary-bce without V(x): not π*", end.exp(), WORLD.optimum.exp(), by=0.05)

# %% [markdown]
# "UNA consistently outperforms KTO" thus depends on the share of good labels (CU13, CU20, CU21).
#
# ## 7. When do scores beat labels beat pairs?
#
# The paper says that scores win because "more information is provided". With $n$ labels and maximum likelihood, the
# regret left is
#
# $$\mathbb{E}[\text{regret}] \approx \frac{1}{2 \beta n}\, \text{tr}\big(\text{Cov}_{\pi^*}\, I^{-1}\big).$$
#
# 1. The rewards are estimated with an error $\delta$ of mean 0 and covariance $I^{-1} / n$. $I$ is the Fisher
#    information of one label.
# 2. The policy $\propto \pi_\text{ref}\, e^{(r + \delta) / \beta}$ differs from $\pi^*$ by $\delta / \beta$ in its
#    logits. The KL has the second derivative $\text{Cov}_{\pi^*}$, so regret is
#    $\beta \cdot \frac12\, (\delta / \beta)^\top \text{Cov}_{\pi^*}\, (\delta / \beta)$.
# 3. Its mean over $\delta$ is the trace above.
#
# $I$ is singular for pairs. A number added to all rewards of a prompt changes no preference, so no pair tells it. It
# does not change $\pi^*$ either: $\text{Cov}_{\pi^*}$ is zero in that direction, and the pseudo-inverse loses
# nothing. For scores and labels that direction is $V(x)$, which is fitted too. Let a score have noise of variance
# $\tau^2$. Two equally likely responses with $r = (0, 0)$ and $\beta = 1$ have multiples of one matrix:
#
# $$M = \begin{pmatrix} 1 & -1 \\ -1 & 1 \end{pmatrix}, \qquad \text{Cov}_{\pi^*} = \tfrac14 M, \qquad
# I_\text{score} = \tfrac{1}{4 \tau^2} M, \qquad I_\text{pair} = \tfrac18 M .$$
#
# (Half of all pairs of samples are of one response with itself and tell nothing.) $M$ has the eigenvalue 2 on
# $(1, -1)$. So $n$ scores leave $\frac{\tau^2}{2n}$ and $n$ pairs $\frac1n$. A score is worth a pair at
# $\tau = \sqrt 2$. In general a score has the information $1 / \tau^2$ on its reward, a binary label $p(1 - p)$. A pair
# has $p(1 - p)$ on a *difference* of two rewards, whose variance is twice that of one. So
# $1 / \tau^2 = 2\, \mathbb{E}[p(1 - p)]$, with the mean over two different responses. A score is worth a pair at about
# (CU19)
#
# $$\tau = \frac{1}{\sqrt{2\, \mathbb{E}[p(1 - p)]}} .$$

# %%
rated = information.RATED  # one prompt, eight equally likely responses, sd of rewards 1
goal = 0.05 * rated.metrics(rated.ref_logps)["regret"]
print("labels until 5 % of π_ref's regret is left")
kinds = [(f"scores, noise {noise:g}", "score", noise) for noise in (0.5, 1.0, 2.0, 4.0)]
for name, kind, noise in [*kinds, ("pairs", "pair", 1.0), ("labels, V(x) fitted", "label", 1.0)]:
    print(f"    {name:<20} {information.regret_per_label(rated, kind, noise) / goal:7.0f}")
exact, formula = information.break_even(rated, "pair"), information.break_even_by_formula(rated)
label = information.break_even(rated, "label")
print(f"a score is worth a pair at noise {exact:.2f} (formula {formula:.2f}), a binary label at {label:.2f}")

# %% tags=["check"]
for kind in ("score", "pair"):
    predicted = information.regret_per_label(rated, kind) / 4000
    measured = information.measured_regret(rated, kind, 4000, runs=400)
    ratio = measured / predicted
    check.true(f"{kind}s: 400 fits on 4,000 labels", abs(ratio - 1) < 0.15, f"{measured:.5f}, theory {predicted:.5f}")
check.close("the break-even formula, within a fifth", formula / exact, 1.0, tol=0.2)
even = TableWorld(torch.full((1, 2), 0.5).log(), torch.zeros(1, 2), 1.0)
M = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
check.close("two responses by hand: I of a score with τ = 2", information.information(even, "score", 2.0)[0], M / 16)
check.close("two responses by hand: I of a pair", information.information(even, "pair")[0], M / 8)
check.close("two responses by hand: scores leave τ²/2n", information.regret_per_label(even, "score", 2.0), 2.0)
check.close("two responses by hand: a score is worth a pair at √2", information.break_even(even, "pair"), 2**0.5)
common = information.information(rated, "pair") @ torch.ones(8)
check.close("a pair has no information on a common shift of the rewards", common, 0.0)
few, many = (information.regret_per_label(rated, "score", noise) for noise in (0.5, 4.0))
pairs_say = information.regret_per_label(rated, "pair")
check.true("noise 0.5: scores; noise 4: pairs", few < pairs_say < many, f"{few:.2f} < {pairs_say:.2f} < {many:.2f}")

# %% [markdown]
# ## 8. All at once
#
# UNA promises one framework for every kind of feedback. With $V(x)$ the promise holds, if all feedback is on one
# reward scale. Then scores, labels and pairs are three likelihoods of one reward, $r_\theta + V(x)$. Scores and
# labels share one $V(x)$; pairs need none. Each loss has its minimum at $\pi^*$, and so has any mixture. The paper's
# recipe mixes the same three without $V(x)$ and contradicts itself: pairs pull to $\pi^*$ and the others away from
# it.
#
# "On one scale" is a condition. Let the labels and pairs be made from the scores instead: a response is good above
# the median of its prompt, and a pair is always won by the higher score. A hard pair asks for $r_w - r_l = \infty$,
# while the scores ask for their difference. The mixture ends at a compromise, $V(x)$ or not. The cell shows it on the
# world above and on the mixed prompt of [notebook 03](03_implicit_reward.ipynb).


# %%
def mixture(world, ups, preferences):
    """log π, V -> the sum of the three losses, with a baseline V (X, 1) for scores and labels."""
    losses, weights = METHODS["una-centred"].losses, world.ref_logps.exp()

    def of(logps, V):
        scored = singles(losses["scores"], world, weights, scores=world.rewards, baseline=V)(logps)
        labelled = binary_labels(losses["labels"], world, weights, ups, baseline=V)(logps)
        return scored + labelled + pairs(losses["pairs"], world, weights, preferences)(logps)

    return of


def apart(logps, world):
    """(X,) total variation to π*."""
    return (logps.exp() - world.optimum.exp()).abs().sum(-1) / 2


world = plus(2.0)
ref_mixed, rated_mixed = torch.tensor([[0.30, 0.10, 0.25, 0.20, 0.15]]), torch.tensor([[0.20, 0.90, 0.50, 0.10, 0.70]])
mixed = TableWorld(ref_mixed.log(), rated_mixed, 0.3)
ends, left = {}, {}
for name, given in (("this world", world), ("mixed prompt", mixed)):
    r = given.rewards
    difference = r[:, :, None] - r[:, None, :]
    feedback = {
        "on one scale": (r.sigmoid(), bradley_terry(r)),
        "converted": ((r > r.median(-1, keepdim=True).values).double(), (difference.sign() + 1) / 2),
    }
    for how, (ups, preferences) in feedback.items():
        policy, V = fitted(mixture(given, ups, preferences), given.ref_logps, 800)
        ends[name, how] = policy, V
        left[name, how] = (given.regret(policy).mean() / given.regret(given.ref_logps).mean()).item()
        far = apart(policy, given).max()
        print(f"{name:<13} {how:<13} total variation to π* {far:.3f}, {abs(left[name, how]):.0%} of the regret left")

# %% tags=["check"]
policy, V = ends["this world", "on one scale"]
check.close("mixed, V(x) fitted: π*", policy.exp(), WORLD.optimum.exp(), tol=1e-5)
check.close("mixed: the fitted V(x) is β·log Z(x)", V[:, 0], BETA * world.log_partition, tol=1e-5)
for name, given in (("this world", world), ("mixed prompt", mixed)):
    policy = ends[name, "converted"][0].exp()
    check.differs(f"hard conversions, V(x) fitted, {name}: not π*", policy, given.optimum.exp(), by=0.1)
check.true("mixed prompt: a large part of the regret is left", left["mixed prompt", "converted"] > 0.3)
whole = mixture(world, world.rewards.sigmoid(), bradley_terry(world.rewards))
plain = fixed_point(lambda logps: whole(logps, torch.zeros(4, 1)), WORLD.ref_logps)
share = world.regret(plain).mean() / world.regret(WORLD.ref_logps).mean()
check.true("mixed without V(x): not π*", share > 0.05, f"{share:.0%} of π_ref's regret left")

# %% [markdown]
# ## What we learned
#
# - Eq. 8 needs its $\log \sigma$: *Eq. 8 as printed: the slope does not vanish*. Eq. 9 needs the shares of its labels:
#   *class means without shares: not E g*.
# - Online, if the sampler is not differentiated, UNA is REINFORCE without a baseline: *symbolically: E ∇e² + 2β∇J =
#   0*. If it is, $\pi^*$ is a maximum of the loss where $\log Z > 1$: *curvature at …*, *π\* is a maximum there*.
# - Offline, without a baseline, an offset in the scores decides. A large positive offset teaches the sampler (*large
#   offset*). At a large negative offset the best fit is mostly the rarest response (*40 prompts*).
# - A constant $c$ can only slide along that curve: *c = 2 at offset 1*. A fitted $V(x)$ gives $\pi^*$ at every offset
#   of the figure (*V(x) fitted*), and at $-8$ and $+8$ from three samplers: *centred, y ~ …*.
# - Centred UNA is the log-variance loss. On-policy it is RLOO, sample by sample: *125 triples*.
# - At the published $\beta$ the released loss is SFT weighted by $s - \frac12$: *β = 0.03*. Half of a gain can come
#   from the data: *the shuffled control keeps much of the gain*.
# - The order of UNA and KTO depends on the share of good labels: *40 % good labels*, *90 % good labels*. The order of
#   scores and pairs depends on the scores' noise: *noise 0.5: scores; noise 4: pairs*.
#
# The ledger's entries, without [misprints](../docs/errata.md):

# %%
HERE = [entry for entry in CLAIMS.values() if entry.notebook == "04_una_losses" and not entry.misprint]
Markdown(markdown(HERE))

# %% [markdown]
# ## Limits
#
# - Everything here, except section 7, is at the end of training with unlimited feedback. Speed, noise and early
#   stopping are other questions; [notebook 11](11_offline_alignment.ipynb) asks them offline.
# - "Descent" is gradient descent on a table's logits from $\pi_\text{ref}$, with momentum once it has become slow.
#   Where the loss has several minima another optimiser may end at another one.
# - The worlds are random, with rewards of sd 1, $\beta = 0.5$ and 5 to 8 responses. The effect of an offset depends
#   on its size in units of the rewards' spread and of $\beta$.
# - KTO's end is measured after 3,000 steps. It has no finite minimiser, and its regret still moves in the second
#   digit. Its order relative to UNA at 40 % and 90 % good labels does not depend on that.
# - Section 5 is about the released loss at its published $\beta$, not about a trained 7B model.
# - A mixture has its minimum at $\pi^*$ only with feedback on one reward scale. This package's own conversions are not
#   (section 8, *hard conversions*).
#
# ## Exercises
#
# Replace `...` and run the cell, which checks it. Hints and answers are folded below.
#
# **1.** (Code.) Which offset of all rewards makes Eq. 10 exact for prompt 0, so that its minimiser is $\pi^*$ without
# any baseline?

# %%
mine = ...  # a number

if mine is not ...:
    end = una_end(WORLD.ref_logps[:1], WORLD.rewards[:1] + mine + 1e-13, BETA)
    check.close("exercise 1", end.exp(), WORLD.optimum[:1].exp(), tol=1e-6)

# %% [markdown]
# **2.** (Pencil.) For $K = 2$ the gradient of centred UNA, summed over both responses, is that of a loss on the pair
# $(y_1, y_2)$ without $V$. Write its value for $e_1 = 1.3$ and $e_2 = 0.4$.

# %%
mine = ...  # a number

if mine is not ...:
    check.close("exercise 2", mine, 2 * torch.tensor([1.3, 0.4]).var())

# %% [markdown]
# **3.** (Pencil.) All scores of a data set are 0.9. What does the released loss learn from it at $\beta = 0.01$, and
# what centred UNA? Give the two policies for data from `uniform`, each (4, 5).

# %%
mine = ...  # (released, centred)

if mine is not ...:
    nines = TableWorld(WORLD.ref_logps, torch.full((4, 5), 0.9), 0.01)
    population = singles(score.released, nines, uniform, scores=nines.rewards)
    check.close("exercise 3, released", mine[0], fixed_point(population, WORLD.ref_logps).exp(), tol=0.02)
    population = una_regression(WORLD.ref_logps, nines.rewards, 0.01, sampler_logps=uniform.log(), baseline="prompt")
    check.close("exercise 3, centred", mine[1], fixed_point(population, WORLD.ref_logps).exp(), tol=1e-6)

# %% [markdown]
# **4.** (Open.) Your scores come from a judge that is strict on some prompts and mild on others, with one response a
# prompt. What could you measure before training to know whether Eq. 10 will fail?
#
# <details>
# <summary>Hints</summary>
#
# **1.** What is $\beta \log Z$ after the offset? **2.** Write both residuals with $V_{-k}$, which has no gradient.
# **3.** At this $\beta$ no log-ratio moves $\sigma$ much. **4.** Which part of a score's variance is shared by all
# responses of a prompt?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `-BETA * WORLD.log_partition[0].item()`: an offset adds itself to $\beta \log Z$, and Eq. 10 is exact where
# that is zero.
#
# **2.** `(1.3 - 0.4) ** 2`, which is `una_centred_pairwise` on the two scored responses: twice their variance.
# (START's half is for one fitted $V$.)
#
# **3.** `(uniform, mu)`: the released loss imitates the data, since every weight is $+0.4$. Centred UNA learns that
# no response is better than another, and stays at $\pi_\text{ref}$.
#
# **4.** Sample a few more responses of some prompts and have them judged. If the means of prompts differ by more than
# the scores within a prompt, one response a prompt cannot tell a good response from an easy prompt.
#
# </details>
