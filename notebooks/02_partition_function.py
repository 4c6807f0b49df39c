# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is Z(x), and what does it cost to know it?
#
# [Notebook 01](01_log_sum_inequality.ipynb) ended with a bound: no policy's objective is above $\beta \log Z(x)$. Only
# the policy with $\pi / (\pi_\text{ref}\, e^{r/\beta}) = 1/Z(x)$ reaches it. UNA depends on this one number per prompt.
# In DPO it cancels; UNA omits it. This notebook derives it the usual way, uses it, and then estimates it.
#
# **Claim** (UNA Eq. 3, 4, App. A). Let $Z(x) = \sum_y \pi_\text{ref}(y \mid x)\, e^{r(x, y) / \beta}$. The policy
# that maximises $J(\pi) = \mathbb{E}_\pi\, r - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref})$ satisfies
#
# $$r(x, y) = \beta \log \frac{\pi^*(y \mid x)}{\pi_\text{ref}(y \mid x)} + \beta \log Z(x),$$
#
# and $Z(x)$ "cannot be computed as it needed to be computed by summing all candidate responses" (App. A), nor even
# "be directly estimated" (Sec. 2.2). The equation is true. The statement about $Z(x)$ is true of computing and false
# of estimating. How hard estimation is depends on $\beta$.
#
# **Needs.** Notebook 01 for the inequality; Lagrange multipliers.
#
# **Time.** About 25 minutes to read, without the exercises. Next: [notebook 03](03_implicit_reward.ipynb).

# %%
import math

import sympy as sp
import torch
from IPython.display import Markdown

from una_ref import METHODS, figures
from una_ref.claims import CLAIMS, markdown
from una_ref.notebook import check, scale
from una_ref.theory import (
    TableWorld,
    bradley_terry,
    expected_reward,
    f_divergence,
    fixed_point,
    kl,
    log_partition,
    objective,
    optimal_logps,
    regret,
    sampled_log_partition,
)

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False)
plt = figures.pyplot()

BETA = 1.0
ref_logps = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]).log()  # the two prompts of notebook 01
rewards = torch.tensor([[0.0, 1.0, -0.5, 1.5], [1.0, 2.0, 0.3, 0.0]])
generator = torch.Generator().manual_seed(0)
policies = [(3 * torch.randn(2, 4, generator=generator)).log_softmax(-1) for _ in range(300)]

# %% [markdown]
# ## Where the reward comes from
#
# RLHF begins with a reward model. It is fitted to pairs: a person has compared $y_w$ and $y_l$ and preferred $y_w$.
# The model gives the probability of this preference, UNA Eq. 1 (Bradley–Terry):
#
# $$
# P(y_w \succ y_l \mid x) = \frac{e^{r(x, y_w)}}{e^{r(x, y_w)} + e^{r(x, y_l)}} = \sigma\big(r(x, y_w) - r(x, y_l)\big).
# $$

# %%
preferences = bradley_terry(rewards)  # (prompt, winner, loser)
print("P(row beats column), prompt 1\n", preferences[0])

# %% tags=["check"]
u, v = sp.symbols("r_w r_l", real=True)
two_forms = sp.exp(u) / (sp.exp(u) + sp.exp(v)) - 1 / (1 + sp.exp(-(u - v)))
check.true("UNA Eq. 1: its two forms are equal", sp.simplify(two_forms) == 0, "sympy: 0")
exps = rewards.exp()
by_hand = exps[:, :, None] / (exps[:, :, None] + exps[:, None, :])
check.close("UNA Eq. 1 by hand = bradley_terry", preferences, by_hand)
offset = torch.tensor([[5.0], [-2.0]])  # f(x): a different number for each prompt
check.close("r + f(x) gives the same preferences", bradley_terry(rewards + offset), preferences)

# %% [markdown]
# The reward model minimises the cross-entropy, UNA Eq. 2. (Equations stand here without the papers'
# [misprints](../docs/errata.md).)
#
# $$L_\text{RM}(r_\phi) = -\mathbb{E}_{(x, y_w, y_l)} \log \sigma\big(r_\phi(x, y_w) - r_\phi(x, y_l)\big)$$


# %%
def reward_model_loss(r, winners=preferences):
    """UNA Eq. 2 over all pairs of responses; `winners` holds the probability that the first one wins."""
    margins = r[:, :, None] - r[:, None, :]
    return -(winners * torch.nn.functional.logsigmoid(margins)).sum() / winners.sum()


for name, r in (("r", rewards), ("1.5 r", 1.5 * rewards), ("r + f(x)", rewards + offset)):
    r = r.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward_model_loss(r), r)
    print(f"{name:<9} loss {reward_model_loss(r):.6f}   largest slope {gradient.abs().max():.6f}")

# %% tags=["check"]
r = rewards.clone().requires_grad_()
(gradient,) = torch.autograd.grad(reward_model_loss(r), r)
check.close("UNA Eq. 2 is at rest at the true reward", gradient, 0.0)
check.close("UNA Eq. 2 has the same loss at r + f(x)", reward_model_loss(rewards + offset), reward_model_loss(rewards))
check.differs(
    "UNA Eq. 2 has another loss at 1.5 r", reward_model_loss(1.5 * rewards), reward_model_loss(rewards), by=0.005
)
certain = (preferences > 0.5).double()
falling = [float(reward_model_loss(k * rewards, certain)) for k in (1, 10, 100)]
evidence = ", ".join(f"{x:.4f}" for x in falling)
check.true("UNA Eq. 2 with P(y_w ≻ y_l) = 1, as in Sec. 2.1: no minimum", falling == sorted(falling)[::-1], evidence)

# %% [markdown]
# Two points matter below. With labels that are always certain the loss has no minimiser, so the data must sometimes
# disagree. And pairs do not determine a number $f(x)$ that is added to all rewards of a prompt. **The reward that
# RLHF maximises contains an arbitrary number per prompt.**
#
# ## The objective
#
# Now the reward is given. The policy's objective is the one that UNA Eq. 3 maximises:
#
# $$J(\pi; x) = \mathbb{E}_{y \sim \pi}\, r(x, y) - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}).$$


# %%
def J(logps):
    """UNA Eq. 3 for each prompt."""
    pi = logps.exp()
    return (pi * rewards).sum(-1) - BETA * (pi * (logps - ref_logps)).sum(-1)


for name, logps in (("π_ref", ref_logps), ("the best response only", torch.eye(4)[[3, 1]].clamp(1e-300).log())):
    print(f"J of {name:<24}{J(logps)}")

# %% tags=["check"]
all_policies = torch.stack(policies)
check.close("UNA Eq. 3 by hand = objective", J(all_policies[0]), objective(policies[0], ref_logps, rewards, BETA))

# %% [markdown]
# The best policy is $\pi^* = \arg\max_\pi J(\pi)$, and $\max_\pi J(\pi)$ is a number. For two responses with
# $\pi_\text{ref} = (\frac12, \frac12)$, $r = (1, 0)$ and $\beta = 1$:

# %%
small = TableWorld(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]), 1.0)
print(f"max J     {small.beta * small.log_partition.item():.6f}")
print("arg max J", small.optimum.exp()[0])

# %% [markdown]
# ## The optimum, by Lagrange
#
# [Notebook 01](01_log_sum_inequality.ipynb) found the maximum from the log-sum inequality. The usual way is a
# multiplier $\nu$ for $\sum_y \pi = 1$. The derivative by $\pi(y)$ of $J + \nu\,(1 - \sum_y \pi)$ must be zero:
#
# $$r - \beta \left( \log \frac{\pi}{\pi_\text{ref}} + 1 \right) - \nu = 0
# \quad\Longrightarrow\quad \pi = \pi_\text{ref}\, e^{r / \beta}\, e^{-1 - \nu / \beta}.$$
#
# The last factor is the same for all $y$, and makes the sum one. It is $1/Z(x)$.

# %%
n = 3
p, q, rr = (sp.symbols(f"{name}1:{n + 1}", positive=True) for name in ("pi", "q", "r"))
beta, nu, z = sp.symbols("beta nu Z", positive=True)
objective_s = sum(pi * ri - beta * pi * sp.log(pi / qi) for pi, qi, ri in zip(p, q, rr, strict=True))
lagrangian = objective_s + nu * (1 - sum(p))
stationary = [sp.solve(sp.diff(lagrangian, pi), pi)[0] for pi in p]
partition = sum(qi * sp.exp(ri / beta) for qi, ri in zip(q, rr, strict=True))
(multiplier,) = sp.solve(sum(stationary) - 1, nu)
print("π1 =", sp.simplify(stationary[0]))
print("ν  =", sp.simplify(multiplier))

# %% tags=["check"]
found = [
    sp.simplify(s.subs(nu, multiplier) - qi * sp.exp(ri / beta) / partition)
    for s, qi, ri in zip(stationary, q, rr, strict=True)
]
check.true("Lagrange: π = π_ref·e^(r/β)/Z", found == [0, 0, 0], f"sympy: {found}")
check.true("Lagrange: ν = β·log Z − β", sp.simplify(multiplier - beta * sp.log(partition) + beta) == 0, "sympy: 0")
curvature = sp.hessian(objective_s, p)
diagonal = sp.diag(*[-beta / pi for pi in p])
check.true(
    "J is strictly concave: its Hessian is diag(−β/π)", sp.simplify(curvature - diagonal) == sp.zeros(n), "sympy: 0"
)

# %% [markdown]
# $J$ is strictly concave, so this point is the only maximum. In numbers, the same point comes out of a search over
# logits that does not use $Z$:

# %%
b = ref_logps.exp() * (rewards / BETA).exp()
Z = b.sum(-1)
optimum = (b / Z[:, None]).log()
climbed = fixed_point(lambda logps: -J(logps).sum(), ref_logps)
print("π*, by formula\n", optimum.exp())
print("π, by search\n", climbed.exp())

# %% tags=["check"]
check.close("π* by formula = by search", optimum, climbed, tol=1e-9)
check.close("π* by formula = optimal_logps", optimum, optimal_logps(ref_logps, rewards, BETA))
check.close("log Z by hand = log_partition", Z.log(), log_partition(ref_logps, rewards, BETA))
check.differs("without e^(r/β), which is π_ref: not π*", optimum.exp(), ref_logps.exp(), by=0.1)

# %% [markdown]
# ## The objective is a KL in disguise
#
# UNA Eq. 12 moves everything under one logarithm, in four lines:
#
# $$
# \mathbb{E}_\pi r - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref})
# = \mathbb{E}_\pi \left[ r - \beta \log \frac{\pi}{\pi_\text{ref}} \right]
# = \beta\, \mathbb{E}_\pi \left[ \frac r\beta - \log \frac{\pi}{\pi_\text{ref}} \right]
# = \beta\, \mathbb{E}_\pi \left[ -\log \frac{\pi}{\pi_\text{ref}\, e^{r / \beta}} \right].
# $$

# %%
pi, u = all_policies.exp(), all_policies - ref_logps  # 300 policies, (300, prompts, responses)
eq12 = [
    (pi * rewards).sum(-1) - BETA * (pi * u).sum(-1),
    (pi * (rewards - BETA * u)).sum(-1),
    BETA * (pi * (rewards / BETA - u)).sum(-1),
    BETA * (pi * -(all_policies - b.log())).sum(-1),
]
print("the four lines for the first policy, prompt 1:", "  ".join(f"{line[0, 0]:.6f}" for line in eq12))

# %% tags=["check"]
check.close("UNA Eq. 12: its four lines are equal, for 300 policies", torch.stack(eq12), eq12[0].expand(4, -1, -1))

# %% [markdown]
# UNA Eq. 17 (App. A) continues. It divides by $-\beta$, so that $\max$ becomes $\min$. Then it multiplies and divides
# by $Z(x)$:
#
# $$
# -\frac{J}{\beta}
# = \mathbb{E}_\pi \left[ \log \frac{\pi}{\pi_\text{ref}} - \frac r\beta \right]
# = \mathbb{E}_\pi \left[ \log \frac{\pi}{\frac1Z \pi_\text{ref}\, e^{r / \beta}} \right] - \log Z
# = \text{KL}(\pi \,\|\, \pi^*) - \log Z.
# $$

# %%
eq17 = [
    (pi * (u - rewards / BETA)).sum(-1),
    (pi * (all_policies - (b / Z[:, None]).log() - Z.log()[:, None])).sum(-1),
    (pi * (all_policies - optimum)).sum(-1) - Z.log(),
]

# %% tags=["check"]
check.close("UNA Eq. 17: its lines are −J/β", torch.stack(eq17), (-eq12[0] / BETA).expand(3, -1, -1))
check.differs("UNA Eq. 17 without − log Z: not −J/β", eq17[2] + Z.log(), -eq12[0] / BETA, by=0.5)
exact = [(pi_s, qi * sp.exp(ri / beta) / z) for pi_s, qi, ri in zip(p, q, rr, strict=True)]
kl_s = sum(pi_s * sp.log(pi_s / star) for pi_s, star in exact)
rest = sp.expand(sp.expand_log(objective_s + beta * kl_s - beta * sp.log(z) * sum(p), force=True))
check.true("J = β·log Z − β·KL(π‖π*), symbolically", sp.simplify(rest) == 0, "sympy: 0, with Σ π = 1")

# %% [markdown]
# So $J(\pi; x) = \beta \log Z(x) - \beta\, \text{KL}(\pi \,\|\, \pi^*)$. A policy can raise $J$ only by reducing its
# KL to $\pi^*$. Two results follow.
#
# **The maximum** is $\beta \log Z(x)$, which is the last line of UNA Eq. 13:
#
# $$\max_\pi J(\pi; x) = \beta \log \mathbb{E}_{y \sim \pi_\text{ref}} e^{r(x, y) / \beta}.$$
#
# **The regret** is a KL. It is zero at $\pi^*$ and nowhere else (CU4). TV is the total variation distance, half the
# sum of $|\pi - \pi^*|$. The bound is Pinsker's:
#
# $$J(\pi^*) - J(\pi) = \beta\, \text{KL}(\pi \,\|\, \pi^*) \;\ge\; 2\beta\, \text{TV}(\pi, \pi^*)^2.$$

# %% tags=["check"]
check.close("UNA Eq. 13: J(π*) = β·log Z", J(optimum), BETA * Z.log())
behind = torch.stack([regret(p, ref_logps, rewards, BETA) for p in policies])
to_optimum = torch.stack([kl(p, optimum) for p in policies])
check.close("J(π*) − J(π) = β·KL(π‖π*), for 300 policies", J(optimum) - eq12[0], BETA * to_optimum)
check.close("the library's regret is β·KL(π‖π*)", behind, BETA * to_optimum)
distance = (pi - optimum.exp()).abs().sum(-1) / 2
check.true(
    "regret is at least 2β·TV², so only π* has none",
    (behind >= 2 * BETA * distance**2).all(),
    f"least {behind.min():.4f}",
)
other = torch.stack([kl(optimum, p) for p in policies])
check.differs("KL(π*‖π) is another number", to_optimum, other, by=1.0)

# %% [markdown]
# What kind of number is $\beta \log Z(x)$? It is a soft maximum of the rewards. As $\beta \to \infty$ it tends to the
# mean reward of $\pi_\text{ref}$, because the policy does not move. As $\beta \to 0$ it tends to the largest reward,
# because the KL has no weight. Its derivative by a response's reward is the probability of that response under
# $\pi^*$:
#
# $$\mathbb{E}_{\pi_\text{ref}} r \;\le\; \beta \log Z(x) \;\le\; \max_y r(x, y), \qquad
# \frac{\partial\, \beta \log Z(x)}{\partial r(x, y)} = \pi^*(y \mid x).$$

# %%
for beta_ in (100.0, 1.0, 0.1, 0.01):
    print(f"β {beta_:6}   β·log Z {beta_ * log_partition(ref_logps, rewards, beta_)}")
print("mean and largest reward", expected_reward(ref_logps, rewards), rewards.amax(-1))

# %% tags=["check"]
betas = torch.logspace(-3, 3, 60)
soft = torch.stack([x * log_partition(ref_logps, rewards, float(x)) for x in betas])
low, high = expected_reward(ref_logps, rewards), rewards.amax(-1)
check.true("β·log Z is between the mean and the largest reward", ((soft > low) & (soft <= high)).all())
check.true("β·log Z falls with β", (soft[1:] < soft[:-1]).all())
r = rewards.clone().requires_grad_()
(slope,) = torch.autograd.grad((BETA * log_partition(ref_logps, r, BETA)).sum(), r)
check.close("∂(β·log Z)/∂r = π*", slope, optimum.exp())
moved = BETA * log_partition(ref_logps, rewards + offset, BETA)
check.close("r + f(x): β·log Z moves by f(x)", moved - BETA * Z.log(), offset[:, 0])
check.close("r + f(x): π* does not move", optimal_logps(ref_logps, rewards + offset, BETA), optimum)

# %% [markdown]
# ## The reward, from the policy
#
# Solve $\pi^* = \pi_\text{ref}\, e^{r / \beta} / Z$ for the reward. The result is UNA Eq. 4, which is DPO's:
#
# $$r(x, y) = \beta \log \frac{\pi^*(y \mid x)}{\pi_\text{ref}(y \mid x)} + \beta \log Z(x).$$

# %%
implicit = BETA * (optimum - ref_logps)
print("r\n", rewards)
print("β·log π*/π_ref\n", implicit)
print("difference\n", rewards - implicit)

# %% tags=["check"]
check.close("UNA Eq. 4: with β·log Z(x), the reward", implicit + BETA * Z.log()[:, None], rewards)
check.differs("UNA Eq. 4 without β·log Z(x): not the reward", implicit, rewards, by=0.5)

# %% [markdown]
# **DPO never needs $Z$.** It inserts Eq. 4 into the reward model's loss. Two responses of one prompt have the same
# $\beta \log Z(x)$, so it cancels. UNA Eq. 5:
#
# $$
# L_\text{DPO} = -\mathbb{E} \log \sigma\big(r_\theta(x, y_w) - r_\theta(x, y_l)\big)
# = -\mathbb{E} \log \sigma\left( \beta \log \frac{\pi_\theta(y_w)}{\pi_\text{ref}(y_w)}
# - \beta \log \frac{\pi_\theta(y_l)}{\pi_\text{ref}(y_l)} \right).
# $$

# %%
w, l = 1, 2  # noqa: E741 - the chosen and the rejected response of prompt 1
theta = policies[0][0]


def dpo(logps):
    """DPO's loss from the library."""
    pair = {"chosen_logps": logps[[w]], "rejected_logps": logps[[l]]}
    pair |= {"ref_chosen_logps": ref_logps[0, [w]], "ref_rejected_logps": ref_logps[0, [l]]}
    return METHODS["dpo"].loss(**pair, beta=BETA)[0]


def line_one(r):
    """The first line of Eq. 5."""
    return -torch.nn.functional.logsigmoid(r[w] - r[l])


r_theta = BETA * (theta - ref_logps[0])
print(f"with r_θ {line_one(r_theta):.4f}, with r_θ + β·log Z {line_one(r_theta + BETA * Z[0].log()):.4f}")
print(f"with r_φ {line_one(rewards[0]):.4f}, for every policy")

# %% tags=["check"]
check.close(
    "UNA Eq. 5, with or without Z = dpo", [line_one(r_theta), line_one(r_theta + BETA * Z[0].log())], [dpo(theta)] * 2
)
check.differs("UNA Eq. 5 with r_φ, as printed: not dpo", line_one(rewards[0]), dpo(theta), by=0.1)
least = fixed_point(lambda logps: reward_model_loss(BETA * (logps - ref_logps)), ref_logps)
check.close("Eq. 2 of r_θ, over all pairs, is least at π*", least, optimum, tol=1e-7)

# %% [markdown]
# A single response has no partner to cancel with. For binary labels (thumbs) and scores, $Z$ has to be known, made 1,
# or learned. That is the subject of [notebooks 03](03_implicit_reward.ipynb) and [04](04_una_losses.ipynb).
#
# ## Can Z be estimated?
#
# App. A: "$Z(x)$ cannot be computed as it needed to be computed by summing all candidate responses". But $Z(x)$ is a
# mean under $\pi_\text{ref}$, and a mean can be estimated from samples:
#
# $$\hat Z(x) = \frac1K \sum_{k=1}^K e^{r(x, y_k) / \beta}, \quad y_k \sim \pi_\text{ref}.$$
#
# > **Guess first:** how many samples does it take at $\beta = 1$, and how many at $\beta = 0.03$?
#
# Its mean is $Z(x)$ for every $K$. Its variance, as $\pi^* / \pi_\text{ref} = e^{r / \beta} / Z$, is
#
# $$
# \frac{\text{Var}\, \hat Z}{Z^2}
# = \frac1K \left( \mathbb{E}_{\pi_\text{ref}} \Big(\frac{\pi^*}{\pi_\text{ref}}\Big)^2 - 1 \right).
# $$
#
# The bracket is the $\chi^2$ divergence of $\pi^*$ from $\pi_\text{ref}$. It grows fast as $\beta$ falls. For
# Gaussian rewards of standard deviation (sd) 1 it would be $e^{1/\beta^2} - 1$. In a finite list it ends at
# $1/\pi_\text{ref}(y_\text{best}) - 1$, where $\pi^*$ is on the best response alone. Here is one prompt with 1,000
# responses, whose rewards have mean 0 and sd 1 over the list:

# %%
sixteen = TableWorld.random(0, prompts=16, responses=1000, beta=1.0)
big = TableWorld(sixteen.ref_logps[:1], sixteen.rewards[:1], 1.0)  # its first prompt
BETAS = (1.0, 0.3, 0.1, 0.03)
worlds = {beta_: TableWorld(big.ref_logps, big.rewards, beta_) for beta_ in BETAS}
for beta_, it in worlds.items():
    chi2 = f_divergence(it.optimum, it.ref_logps, "chi2").item()
    divergence = kl(it.optimum, it.ref_logps).item()
    print(
        f"β {beta_:<4}  β·log Z {beta_ * it.log_partition.item():.3f}   χ² {chi2:10.1f}"
        f"   KL(π*‖π_ref) {divergence:.2f} nats, e^KL {math.exp(divergence):7.0f}"
    )

# %% tags=["check"]
it = worlds[0.3]
K, repeats = 64, scale(full=200_000, ci=20_000)
drawn = torch.multinomial(it.ref_logps[0].exp(), K * repeats, replacement=True, generator=generator)
log_z_hat = (it.rewards[0, drawn] / it.beta).view(repeats, K).logsumexp(-1) - math.log(K)
relative = (log_z_hat - it.log_partition).exp()  # Ẑ/Z
variance = f_divergence(it.optimum, it.ref_logps, "chi2").item() / K
check.close("E Ẑ = Z, within 5 standard errors", relative.mean(), 1.0, tol=5 * math.sqrt(variance / repeats))
check.close("Var Ẑ/Z² = χ²(π*‖π_ref)/K, within 10 %", relative.var() / variance, 1.0, tol=0.1)

# %% [markdown]
# $\hat Z$ has no bias. Its logarithm has one. The logarithm is concave, so by the inequality of
# [notebook 01](01_log_sum_inequality.ipynb) $\log \hat Z$ is too low on average. The bias can be computed exactly,
# without sampling. (Repeated sampling would only estimate it.) Let $T$ be a standard exponential variable, independent
# of $\hat Z$. Then
#
# $$P\big(\log T - \log \hat Z > s\big) = \mathbb{E} \exp\big({-e^s \hat Z}\big)
# = \Big( \mathbb{E}_{y \sim \pi_\text{ref}} \exp\big({-e^s e^{r / \beta} / K}\big) \Big)^K,$$
#
# because the $K$ samples are independent. Why an exponential $T$? Given $\hat Z$, the event is $T > e^s \hat Z$, and
# only an exponential $T$ gives it the probability $e^{-e^s \hat Z}$. That turns the sum in $\hat Z$ into a product of
# independent factors, whose mean is the product of their means. Subtract 1 where $s < 0$ and integrate over $s$: the
# result is the mean of $\log T - \log \hat Z$. The mean of $\log T$ is $-\gamma = -0.5772$.


# %%
def mean_log_z_hat(ref, value, draws, step=0.25, low=-36.0):
    """E log Ẑ for one prompt, value = r/β."""
    s = torch.arange(low, 50.0 - float(value.min()), step)
    above = (ref * torch.exp(-(s[:, None] + value).exp() / draws)).sum(-1) ** draws
    return -0.5772156649015329 - (low + step * (above.sum() - above[0] / 2))


by_integral = mean_log_z_hat(it.ref_logps[0].exp(), it.rewards[0] / it.beta, K)
print("mean of log Ẑ, K = 64, β = 0.3")
print(f"    by the integral          {by_integral:.4f}")
print(f"    by {repeats:,} repetitions    {log_z_hat.mean():.4f}")
print(f"    log Z                    {it.log_partition.item():.4f}")

# %% tags=["check"]
mean, sd = sampled_log_partition(it.ref_logps, it.rewards, it.beta, K)
check.close("the integral by hand = sampled_log_partition", by_integral, mean[0], tol=1e-9)
error = 5 * log_z_hat.std() / math.sqrt(repeats)
check.close("the integral = the mean of repetitions, within 5 standard errors", log_z_hat.mean(), mean[0], tol=error)
check.close("the sd = the sd of repetitions, within 5 %", log_z_hat.std() / sd[0], 1.0, tol=0.05)
check.true("log Ẑ is too low on average", mean < it.log_partition, f"by {(it.log_partition - mean).item():.3f} nats")

# %% [markdown]
# Now the question has an exact answer for every number of samples. At $K = 1$ the estimate $\beta \log \hat Z$ is the
# reward of one sample. Its mean is the mean reward for every $\beta$. At $K = \infty$ it is $\beta \log Z$. In
# between:

# %%
draws = 2 ** torch.arange(0, 17)
estimate = {
    beta_: torch.tensor([sampled_log_partition(x.ref_logps, x.rewards, beta_, int(k)) for k in draws]) * beta_
    for beta_, x in worlds.items()
}
truth = {beta_: beta_ * x.log_partition.item() for beta_, x in worlds.items()}
needed = {beta_: kl(x.optimum, x.ref_logps).exp().item() for beta_, x in worlds.items()}

# The mean of the best reward of K samples: P(best <= r) is the K-th power of P(one sample <= r).
order = big.rewards[0].argsort()
upto = big.ref_logps[0, order].exp().cumsum(0).clamp(max=1.0)
best_of = torch.stack([(big.rewards[0, order] * torch.diff(upto**k, prepend=torch.zeros(1))).sum() for k in draws])

print("mean error of β·log Ẑ, in reward units")
print("      K " + "".join(f"{f'β {beta_}':>9}" for beta_ in BETAS))
for k in (1, 16, 64, 1024, 65536):
    i = int(math.log2(k))
    print(f"{k:7,} " + "".join(f"{estimate[beta_][i, 0] - truth[beta_]:9.3f}" for beta_ in BETAS))

# %%
names = ("green", "blue", "purple", "vermilion")
colour = {beta_: figures.PALETTE[name] for beta_, name in zip(BETAS, names, strict=True)}
fig, ax = plt.subplots(figsize=(8.8, 4.9))
ax.plot(draws, best_of, color=figures.INK, linewidth=1.3, linestyle=(0, (1, 2)))
ax.text(120, 2.5, "the best reward of K samples", color=figures.INK, ha="right", va="center")
for beta_ in BETAS:
    mean, sd = estimate[beta_].T
    if beta_ == 0.03:
        ax.fill_between(draws, mean - sd, mean + sd, color=colour[beta_], alpha=0.12, linewidth=0)
    ax.plot(draws, mean, color=colour[beta_], linewidth=2.4)
    ax.plot([draws[0], 1.3e5], [truth[beta_]] * 2, color=colour[beta_], linewidth=1, linestyle="--")
    ax.text(1.5e5, truth[beta_], rf"$\beta$ = {beta_:g}", color=colour[beta_], va="center", fontweight="bold")
    at = math.log2(needed[beta_])
    height = torch.lerp(mean[int(at)], mean[int(at) + 1], at % 1)
    ax.plot(needed[beta_], height, "o", color=colour[beta_], markersize=10, markeredgecolor=figures.CARD, zorder=5)
    ax.text(needed[beta_] * 1.1, height - 0.13, f"{needed[beta_]:,.0f}", color=colour[beta_], va="center")
ax.set_xscale("log", base=2)
ticks = [4**i for i in range(9)]
ax.set_xticks(ticks, [f"{k:,}" for k in ticks])
ax.minorticks_off()
ax.set_xlim(1, 1.3e5)
ax.set_ylim(-0.12, 3.2)
ax.set_xlabel(r"K, samples from $\pi_\mathrm{ref}$")
ax.set_ylabel(r"mean of $\beta\,\log\,\hat Z(x)$, in sd of the reward")
ax.text(1.2, truth[0.03] + 0.09, r"dashed: exact $\beta\,\log\,Z(x)$", color=figures.INK, va="center")
ax.plot(1100, 0.93, "o", color=figures.INK, markersize=10, markeredgecolor=figures.CARD)
ax.text(1500, 0.93, r"$K = e^{\mathrm{KL}(\pi^*\Vert\,\pi_\mathrm{ref})}$ samples", color=figures.INK, va="center")
figures.save(fig, "02_partition_function")
plt.show()

# %% [markdown]
# Every curve starts at the mean reward. (The band is one standard deviation of a single estimate, shown for one
# $\beta$.) At $\beta = 1$ a few dozen samples are enough. At $\beta = 0.03$ the curve follows the dotted line. The
# mean of $K$ positive numbers is at most the largest of them, and at least a $K$-th of it. So
#
# $$\max_k r_k - \beta \log K \;\le\; \beta \log \hat Z \;\le\; \max_k r_k.$$
#
# At small $\beta$ the estimate is close to the best reward seen so far. It becomes accurate once the likely responses
# of $\pi^*$ have been sampled. The dots mark a rule of thumb for this: $K = e^{\text{KL}(\pi^* \| \pi_\text{ref})}$
# samples. At $\beta = 0.1$ and $0.03$ that number leaves less than a tenth of the one-sample error. At larger $\beta$
# the rule is less useful. At $\beta = 0.3$ it asks for 19 samples, and 16 samples still leave a fifth of that error.
# At $\beta = 1$ it asks for about 2 samples, and most of the error remains.

# %% tags=["check"]
for beta_ in BETAS:
    below = estimate[beta_][:, 0]
    check.true(
        f"β {beta_}: the mean rises to β·log Z from below", (below.diff() > 0).all() and below[-1] < truth[beta_]
    )
starts = [estimate[beta_][0, 0] for beta_ in BETAS]
check.close(
    "K = 1: all start at the mean reward", starts, big.ref_logps[0].exp() @ big.rewards[0].expand(4, -1).T, tol=1e-9
)
at_64 = {beta_: float(estimate[beta_][6, 0] - truth[beta_]) for beta_ in BETAS}
check.true(
    "64 samples: enough at β 1, not at β 0.03",
    at_64[1.0] > -0.02 and at_64[0.03] < -0.5,
    str({k: round(v, 3) for k, v in at_64.items()}),
)
below_best = best_of - estimate[0.03][:, 0]
inside = ((below_best >= -1e-9) & (below_best <= 0.03 * draws.log() + 1e-9)).all()
check.true("β 0.03: at most β·log K below the best reward", inside, f"{below_best[6]:.3f} at 64 samples")
for beta_ in (0.1, 0.03):
    mean, _ = sampled_log_partition(big.ref_logps, big.rewards, beta_, round(needed[beta_]))
    share = (truth[beta_] - beta_ * mean.item()) / (truth[beta_] - float(estimate[beta_][0, 0]))
    check.true(f"β {beta_}: exp KL samples leave < 10 % of the one-sample error", share < 0.1, f"{share:.3f}")
for beta_, more in ((0.3, 0.15), (1.0, 0.5)):  # the rule is for large KL, and fails here
    mean, _ = sampled_log_partition(big.ref_logps, big.rewards, beta_, round(needed[beta_]))
    share = (truth[beta_] - beta_ * mean.item()) / (truth[beta_] - float(estimate[beta_][0, 0]))
    evidence = f"{share:.3f} with {round(needed[beta_])} samples"
    check.true(f"β {beta_}: exp KL samples are too few", share > more, evidence)

# %% [markdown]
# The ledger's number is the average over 16 such prompts (CU28):

# %% tags=["check"]
average = {}
for beta_ in BETAS:
    mean, _ = sampled_log_partition(sixteen.ref_logps, sixteen.rewards, beta_, 64)
    log_z = log_partition(sixteen.ref_logps, sixteen.rewards, beta_)
    average[beta_] = beta_ * float((mean - log_z).mean())
print("mean error of β·log Ẑ, 64 samples:", {beta_: round(x, 3) for beta_, x in average.items()})
check.true("the error grows as β falls", sorted(average.values()) == list(average.values())[::-1])
check.true("error: below 0.02 at β 1, above 0.8 at β 0.03", average[1.0] > -0.02 and average[0.03] < -0.8)

# %% [markdown]
# ## What KTO estimates instead
#
# App. A ends: "KTO estimates $Z(x)$ by averaging over multiple samples". KTO's reference point is
# $z_0 = \beta\, \text{KL}(\pi_\theta \,\|\, \pi_\text{ref})$ of the present policy. That is not $\beta \log Z$
# (EU15). The two are related at $\pi^*$ only. There they sum to the mean reward of $\pi^*$:
#
# $$\mathbb{E}_{\pi^*} r = \beta\, \text{KL}(\pi^* \,\|\, \pi_\text{ref}) + \beta \log Z.$$

# %%
print("two responses, π_ref = (½, ½), r = (1, 0), β = 1")
shifted = TableWorld(small.ref_logps, small.rewards + 10, small.beta)
for name, w in (("r", small), ("r + 10", shifted)):
    at_ref, at_best = kl(w.ref_logps, w.ref_logps).item(), kl(w.optimum, w.ref_logps).item()
    print(f"{name:<7} KL at π_ref {at_ref:.4f}, at π* {at_best:.4f}     log Z {w.log_partition.item():.4f}")

# %% tags=["check"]
tie = expected_reward(small.optimum, small.rewards) / small.beta - small.log_partition
check.close("at π*: KL = E r/β − log Z", kl(small.optimum, small.ref_logps), tie)
check.differs("KTO's KL is not log Z, at π*", kl(small.optimum, small.ref_logps), small.log_partition, by=0.5)
check.close("r + 10 does not move the KL", kl(shifted.optimum, shifted.ref_logps), kl(small.optimum, small.ref_logps))
check.close("r + 10 moves log Z by 10", shifted.log_partition - small.log_partition, 10.0)

# %% [markdown]
# ## What we learned
#
# - Pairs determine a reward up to a number $f(x)$ per prompt: *r + f(x) gives the same preferences*. This number does
#   not change $\pi^*$, but it changes $Z$: *r + f(x): π\* does not move*, *β·log Z moves by f(x)*.
# - $J(\pi) = \beta \log Z - \beta\, \text{KL}(\pi \,\|\, \pi^*)$: *J = β·log Z − β·KL(π‖π\*), symbolically*. So the
#   maximum is $\beta \log Z(x)$ and regret is a KL: *UNA Eq. 13*, *J(π\*) − J(π)*.
# - The reward is the implicit reward of $\pi^*$ plus $\beta \log Z(x)$: *UNA Eq. 4*. Without $\beta \log Z(x)$ the
#   two differ. In pairs it cancels: *UNA Eq. 5*.
# - $Z$ can be estimated without bias: *E Ẑ = Z*. At $\beta = 1$ it is easy. At $\beta = 0.03$ the estimate from 64
#   samples is close to the best sampled reward: *β 0.03: at most β·log K below the best reward*.
# - At $\beta = 0.1$ and $0.03$, $e^{\text{KL}(\pi^* \| \pi_\text{ref})}$ samples leave less than a tenth of the
#   one-sample error: *exp KL samples leave < 10 % of the one-sample error*. At $\beta = 0.3$ and $1$ they leave more:
#   *exp KL samples are too few*.
# - KTO's reference point is not $Z$: *KTO's KL is not log Z*.

# %%
Markdown(markdown([CLAIMS[id] for id in ("EU15", "CU4", "CU28")]))

# %% [markdown]
# ## Limits
#
# - The lists are short and the rewards are Gaussian with standard deviation 1. What matters is $r / \beta$. UNA's
#   offline $\beta$ is 0.03 for scores in $[0, 1]$. Their standard deviation is at most ½, so in the units used here
#   that $\beta$ is 0.06 or more. Longer lists make small $\beta$ harder, since the best response is rarer.
# - The estimate samples from $\pi_\text{ref}$, as the definition says. Fewer importance-weighted samples from a better
#   policy suffice, and very few from a policy near $\pi^*$. That is one reason to learn a number per prompt beside
#   the policy ([notebook 04](04_una_losses.ipynb)).
# - About $e^\text{KL}$ samples are needed and sufficient, by a rule for large KL (Chatterjee and Diaconis, 2018). The
#   dots at $\beta = 0.1$ and $0.03$ illustrate the rule and do not prove it. At $\beta = 0.3$ and $1$ the KL is small
#   and $e^\text{KL}$ samples are too few.
#
# ## Exercises
#
# Put your answer in place of `...` and run the cell; it checks it. Hints and answers are folded below.
#
# **1.** (Code.) Subtract a number $f(x)$ from the rewards of each prompt so that $Z(x) = 1$ for both. Which numbers?
# (What is the largest $J$ then?)

# %%
mine = ...  # a tensor (2,)

if mine is not ...:
    check.close("exercise 1", log_partition(ref_logps, rewards - mine[:, None], BETA), 0.0)

# %% [markdown]
# **2.** (Code.) How many samples does `worlds[0.3]` need for a mean error of $\beta \log \hat Z$ below 0.05? Find the
# smallest power of two.

# %%
mine = ...  # K

if mine is not ...:
    for k, enough in ((mine, True), (mine // 2, False)):
        mean, _ = sampled_log_partition(big.ref_logps, big.rewards, 0.3, k)
        check.true("exercise 2", (truth[0.3] - 0.3 * mean.item() < 0.05) == enough, f"K = {k}")

# %% [markdown]
# **3.** (Pencil.) How fast does $\beta \log Z$ fall with $\beta$? Its derivative is minus a divergence. Which?

# %%
mine = ...  # a tensor (2,), computed from the divergence

if mine is not ...:
    at = torch.tensor(BETA, requires_grad=True)
    (slope,) = torch.autograd.grad((at * torch.logsumexp(ref_logps + rewards / at, -1)).sum(), at)
    check.close("exercise 3", -mine.sum(), slope)

# %% [markdown]
# **4.** (Open.) A reward model gives scores in $[0, 1]$. How would you find out, with 64 samples of a prompt, whether
# $\beta$ is too small to estimate $Z$?
#
# <details>
# <summary>Hints</summary>
#
# **1.** How does $\beta \log Z$ change with $r - f$? **2.** Halve or double $K$ until the check changes. **3.** The
# derivative at fixed $\pi^*$ is enough: why?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `BETA * Z.log()`. Then the largest $J$ is 0, and the implicit reward of $\pi^*$ *is* the reward.
# [Notebook 03](03_implicit_reward.ipynb) begins there.
#
# **2.** `256`: the mean error is 0.057 at 128 samples and 0.032 at 256.
#
# **3.** `kl(optimum, ref_logps)`: the derivative is $\log Z - \mathbb{E}_{\pi^*} r / \beta$, which is
# $-\text{KL}(\pi^* \,\|\, \pi_\text{ref})$.
#
# **4.** See how much of $\hat Z$ the largest of the 64 terms makes up. If it is most of it, the estimate says little
# more than the best reward sampled.
#
# </details>
