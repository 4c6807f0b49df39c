# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What can be learned from one response, and what more from a whole list?
#
# A pair of responses says which one is better, and whatever is the same for both cancels. A single response comes
# with a label ("good") or a score, and with nothing to compare it with. The loss needs to know what is usual for its
# prompt. A list has more responses to compare than a pair. Does it teach more? This notebook goes through the
# survey's methods for both, on one world that is known exactly.
#
# **Claim** (survey Eq. 36). At the optimum of RLHF the reward of a response is its log-ratio plus *one number per
# prompt*,
#
# $$r(x, y) = \beta \log \frac{\pi^*(y|x)}{\pi_\text{ref}(y|x)} + V(x), \qquad V(x) = \beta \log Z(x).$$
#
# So single responses suffice exactly if a method finds $V(x)$. A list contains it: a loss on *differences* within the
# list is free of $V(x)$. Such a loss finds $\pi^*$ if it also turns rankings into the right distances.
#
# **Needs.** Notebook [04](04_una_losses.ipynb) (what a regression on scores learns) and notebook
# [07](07_gradients.ipynb) (the push of an example). $u = \log\frac{\pi}{\pi_\text{ref}}$ is in nats, $r_\theta = \beta
# u$ is the implicit reward, and $r$ without index is the true reward.
#
# **Time.** About 40 minutes to read, without the exercises. Next: [notebook 10](10_tokens_games_and_merging.ipynb).

# %%
import functools
import inspect
import itertools
import math

import torch
from IPython.display import SVG
from scipy.optimize import brentq

from una_ref import METHODS
from una_ref.methods.lists import RANKINGS
from una_ref.methods.measures import MEASURES
from una_ref.methods.reference_points import ESTIMATORS
from una_ref.methods.shapes import prospect
from una_ref.notebook import check
from una_ref.studies.survey_figures import draw_list_pushes, draw_single_responses
from una_ref.theory import TableWorld, fixed_point, kl
from una_ref.theory.populations import binary_labels, singles

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
torch.manual_seed(0)
sigma = torch.sigmoid

BETA = 0.5

# %% [markdown]
# ## 1. The number that is missing
#
# The world has 8 prompts with 4 responses each. Rewards have sd 1 within a prompt. The prompts differ in difficulty:
# their mean rewards run from 1 (easy) to $-1$ (hard). A response is labelled good with probability $q = \sigma(r)$. In
# the data all responses are equally frequent. The optimum is (survey Eq. 35)
#
# $$\pi^*(y|x) = \frac{\pi_\text{ref}(y|x)\, e^{r(x, y)/\beta}}{e^{V(x)/\beta}}.$$

# %% tags=["check"]
base = TableWorld.random(0, prompts=8, responses=4, beta=BETA)
WORLD = TableWorld(base.ref_logps, base.rewards + torch.linspace(1, -1, 8)[:, None], BETA)
ref, r, best = WORLD.ref_logps, WORLD.rewards, WORLD.optimum
q, data = sigma(r), torch.full_like(r, 1 / 4)
V = BETA * (ref.exp() * (r / BETA).exp()).sum(-1, keepdim=True).log()

check.close("survey Eq. 35: π*", ref.exp() * (r / BETA).exp() / (V / BETA).exp(), best.exp())
check.close("survey Eq. 36: r − V is β times the log-ratio", r - V, BETA * (best - ref))
check.differs("one number for all prompts is not enough", r - V.mean(), BETA * (best - ref), by=1)
print("V(x), easy to hard:", V.flatten())

# %% [markdown]
# The methods for single responses differ in what they put in the place of $V(x)$:
#
# | method | a response is compared with |
# | --- | --- |
# | [`dro`](../docs/methods.md#dro) | $V(x)$, learned with the policy |
# | [`una-measure`](../docs/methods.md#una-measure) | a constant $c$: 0, or a moving average |
# | [`kto`](../docs/methods.md#kto) | $z_0$: one estimate of a KL divergence per batch |
# | [`bco`](../docs/methods.md#bco) | $\delta$: the moving average of $r_\theta$ |
# | [`apo-zero-unpaired`](../docs/methods.md#apo-zero-unpaired) | 0 |
#
# Online, the other samples of the prompt can give that number. [`rloo`](../docs/methods.md#rloo) weights
# $\nabla\log\pi(y_i)$ by $r_i - \frac{1}{K-1}\sum_{j \ne i} r_j$ (survey Eq. 48),
# [`reinforce`](../docs/methods.md#reinforce) by $r_i$. Notebook [04](04_una_losses.ipynb) derives both from the
# regression. (Equations stand here without the survey's [misprints](../docs/errata.md).)

# %% tags=["check"]
rewards = torch.tensor([1.0, 0.0, 0.0, 0.5])
advantages = rewards - (rewards.sum() - rewards) / 3
check.close("survey Eq. 48: the advantages add up to 0", advantages.sum(), 0.0)
check.close("survey Eq. 48: K/(K − 1) times the centred reward", advantages, 4 / 3 * (rewards - rewards.mean()))

# %% [markdown]
# ## 2. DRO: learn the number
#
# [`dro`](../docs/methods.md#dro) is least squares on Eq. 36, in the policy and in $V$ together (survey Eq. 37):
#
# $$L(\pi, V) = \tfrac12\, \mathbb E\big[(r - V(x) - r_\theta)^2\big]$$
#
# Write $\rho = r - V - r_\theta$ for the residual. The gradients are $-\rho\,\beta\nabla\log\pi$ in the policy (survey
# Eq. 38) and $-\rho\,\nabla V$ in the value (survey Eq. 39). Twice this loss is
# [`una-centred`](../docs/methods.md#una-centred).

# %% tags=["check"]
logps = (ref + torch.randn(8, 4)).log_softmax(-1)
flat = {"logps": logps.flatten().requires_grad_(), "ref_logps": ref.flatten(), "scores": r.flatten(), "beta": BETA}
value = torch.randn(32, requires_grad=True)
losses = METHODS["dro"].loss(**flat, baseline=value)
residual = (flat["scores"] - value - BETA * (flat["logps"] - flat["ref_logps"])).detach()
of_logps, of_value = torch.autograd.grad(losses.sum(), [flat["logps"], value])
check.close("survey Eq. 37", losses, residual**2 / 2)
check.close("survey Eq. 38: the gradient in log π", of_logps, -BETA * residual)
check.close("survey Eq. 39: the gradient in V", of_value, -residual)

# %% [markdown]
# $V$ can be kept in three ways, which are settings of the trainer. It can be a number per prompt that gradients move
# (`baseline=learned`), or the running mean of $r - r_\theta$ of a prompt (`baseline=mean`). It can also be a network
# on features of the prompt (`baseline=network`, the paper's DRO-V). A fourth setting keeps *one* mean for all
# prompts (`baseline=ema`): UNA's constant $c$. All four from $\pi_\text{ref}$, by Adam on the policy's logits:

# %%
network = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
features = torch.randn(8, 3)  # what the network sees of a prompt
number, running = torch.zeros(8, 1, requires_grad=True), torch.zeros(8, 1)


def visited(gap, share=0.1):
    running.add_(share * (gap.mean(-1, keepdim=True) - running))
    return running


ways = {  # the value from the gaps r − r_θ, and what Adam trains beside the policy
    "learned": (lambda gap: number, [number]),
    "mean": (visited, []),
    "network": (lambda gap: network(features), list(network.parameters())),
    "ema": (lambda gap: gap.mean(), []),
}
ends = {}
print("baseline   largest error of V(x)   regret       after 600 steps")
for name, (value_of, trained) in ways.items():
    logits = ref.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits, *trained], lr=0.05)
    for _ in range(600):
        logps = logits.log_softmax(-1)
        V_now = value_of((r - BETA * (logps - ref)).detach())
        optimiser.zero_grad()
        singles(METHODS["dro"].loss, WORLD, data, scores=r, baseline=V_now)(logps).backward()
        optimiser.step()
    ends[name] = WORLD.regret(logits.detach().log_softmax(-1)).mean().item()
    print(f"{name:<10} {(V_now - V).abs().max().item():21.4f}   {ends[name]:.4f}")

# %% tags=["check"]
found = max(ends[name] for name in ("learned", "mean", "network"))
check.true("V(x) in three ways: π*", found < 1e-3, f"regret at most {found:.0e}")
check.true("one number for all prompts: not π*", ends["ema"] > 0.02, f"regret {ends['ema']:.4f}")

# %% [markdown]
# The running mean has no learning rate that could be wrong for the unit of the rewards. The network is the only one
# that has a value for a new prompt.
#
# The survey calls the optimum unique. It is, if the data have every response ([ES19](../docs/claims.md#es19),
# [CS5](../docs/claims.md#cs5)). Take out two of the four and exchange their probabilities: the loss is 0 as before.

# %% tags=["check"]
seen = torch.tensor([1.0, 1.0, 0.0, 0.0]) / 2
exchanged = best[:, [0, 1, 3, 2]]
on_seen = singles(METHODS["dro"].loss, WORLD, seen.expand(8, 4), scores=r, baseline=V)
check.close("two responses not in the data: another policy with loss 0", on_seen(exchanged), 0.0)
check.true("and with regret", WORLD.regret(exchanged).mean() > 0.1, f"{WORLD.regret(exchanged).mean():.4f}")
on_all = singles(METHODS["dro"].loss, WORLD, data, scores=r, baseline=V)
check.true("with all responses in the data its loss is not 0", on_all(exchanged) > 0.1, f"{on_all(exchanged):.4f}")

# %% [markdown]
# On **binary labels** DRO reads good as $1$ and bad as $-1$. Least squares learn the mean, $2q - 1 =
# \tanh\frac{r}{2}$. So it finds $\pi^*$ of *that* reward, which is bounded by 1. A cross-entropy with $V(x)$
# ([`una-binary-bce`](../docs/methods.md#una-binary-bce)) finds the logit of $q$ instead, which is $r$.


# %% tags=["check"]
def regret(logps):
    return WORLD.regret(logps).mean().item()


def with_best_value(scores):
    """The population loss of DRO where V(x) is the mean gap of each prompt, its best value."""

    def population(logps):
        gap = scores - BETA * (logps - ref)
        return singles(METHODS["dro"].loss, WORLD, data, scores=scores, baseline=gap.mean(-1, keepdim=True))(logps)

    return population


learned = {
    "dro, scores": fixed_point(with_best_value(r), ref),
    "dro, labels": fixed_point(with_best_value(2 * q - 1), ref),
}
bounded = TableWorld(ref, (r / 2).tanh(), BETA).optimum
check.close("dro on labels: π* of tanh(r/2)", learned["dro, labels"].exp(), bounded.exp(), tol=1e-8)
check.true("which is not π*", regret(bounded) > 0.1, f"regret {regret(bounded):.4f}")
bce = binary_labels(METHODS["una-binary-bce"].loss, WORLD, data, q, baseline=V)
learned["una-binary-bce, V(x) given"] = fixed_point(bce, ref)
check.close("cross-entropy with V(x): π*", learned["una-binary-bce, V(x) given"].exp(), best.exp(), tol=1e-8)

# %% [markdown]
# ## 3. KTO: a reference point instead
#
# [`kto`](../docs/methods.md#kto) takes its loss from how people value gains and losses. Prospect theory's value of an
# outcome $z$ with reference point $z_0$ is (survey Eq. 31)
#
# $$v(z) = \begin{cases} (z - z_0)^\alpha & z \ge z_0 \\ -\lambda\,(z_0 - z)^\alpha & z < z_0 \end{cases}$$
#
# KTO keeps the shape and replaces the power by a sigmoid (survey Eq. 32, survey Eq. 34):
#
# $$L = \mathbb E[\lambda_y - v], \qquad v = \lambda_D\,\sigma(r_\theta - z_0) \text{ if good}, \quad
# v = \lambda_U\,\sigma(z_0 - r_\theta) \text{ if bad}$$
#
# Both are concave in gains and convex in losses. The power's slope is infinite at $z_0$, where every run starts. The
# sigmoid's is $\frac14$.

# %% tags=["check"]
z = torch.tensor([4.0, -4.0])
check.close("survey Eq. 31 by hand: 4^½ and −2.25·4^½", prospect(z, alpha=0.5, loss_aversion=2.25), [2.0, -4.5])
near = torch.tensor([1e-9], requires_grad=True)
(steep,) = torch.autograd.grad(prospect(near, alpha=0.5).sum(), near)
check.true("its slope near the reference point", steep.item() > 1e4, f"{steep.item():.0f} at a gain of 1e-9")

z0, weights = torch.tensor(0.4), {"desirable_weight": 1.5, "undesirable_weight": 0.5}
r_theta = torch.linspace(-3, 3, 32)
given = {"logps": r_theta / BETA + ref.flatten(), "ref_logps": ref.flatten(), "kl": z0 / BETA, "beta": BETA}
kto = functools.partial(METHODS["kto"].loss, **given, **weights)
check.close("survey Eq. 32 and 34, good", kto(labels=torch.ones(32)), 1.5 - 1.5 * sigma(r_theta - z0))
check.close("survey Eq. 32 and 34, bad", kto(labels=torch.zeros(32)), 0.5 - 0.5 * sigma(z0 - r_theta))

# %% [markdown]
# The mean push on a response with a share $q$ of good labels is $\beta\,\sigma'(r_\theta - z_0)\,[q\lambda_D - (1 -
# q)\lambda_U]$ (notebook [07](07_gradients.ipynb)). Only its size depends on the policy and on $z_0$. Its sign is that
# of $q - \frac{\lambda_U}{\lambda_D + \lambda_U}$. So the two weights set a line: *which share of good labels counts
# as good*. Where a prompt has responses on both sides of it, those below lose all their probability, and no minimum is
# inside. $z_0$ cannot stand for $V(x)$.
#
# The paper advises $\lambda_D n_D$ between 1 and $\frac43$ times $\lambda_U n_U$, for $n_D$ good and $n_U$ bad labels.
# In these terms the line is at, or just below, the *average* share of good labels. An average response is then held
# or gently raised. With equal weights and mostly good labels, nearly everything is raised.

# %% tags=["check"]
logps = (ref + torch.randn(8, 4)).requires_grad_()
for lambda_d, lambda_u, kl_now in ((1.0, 1.0, 0.0), (1.0, 3.0, 0.0), (4.0, 3.0, 0.0), (4.0, 3.0, 3.0)):
    weights = {"desirable_weight": lambda_d, "undesirable_weight": lambda_u}
    loss = functools.partial(METHODS["kto"].loss, **weights)
    mean = binary_labels(loss, WORLD, data, q, kl=torch.tensor(kl_now))(logps)
    push = -torch.autograd.grad(mean, logps)[0]
    x = (BETA * (logps - ref - kl_now)).detach()
    formula = data * BETA * sigma(x) * sigma(-x) * (q * lambda_d - (1 - q) * lambda_u)
    line = lambda_u / (lambda_d + lambda_u)
    check.close(f"λ_D = {lambda_d:.0f}, λ_U = {lambda_u:.0f}, KL = {kl_now:.0f}: the mean push", push, formula)
    check.true(f"  up above q = {line:.3f}, down below", torch.equal(push > 0, q > line))
generous = q**0.5  # labellers who like most responses
n_d, n_u = generous.mean(), 1 - generous.mean()
for ratio in (1.0, 4 / 3):
    lambda_d = ratio * n_u / n_d  # λ_U = 1
    line = 1 / (1 + lambda_d)
    print(
        f"λ_D·n_D = {ratio:.2f}·λ_U·n_U: the line is at q = {line:.3f}, the average is {n_d:.3f}, equal weights 0.500"
    )
    check.close("  it is n_D/(ratio·n_U + n_D)", line, n_d / (ratio * n_u + n_d))

# %% [markdown]
# ### How well is $z_0$ estimated?
#
# $z_0$ should be $\beta\,\text{KL}(\pi \,\|\, \pi_\text{ref})$. The survey prints (survey Eq. 33)
#
# $$z_0 = \max\Big(0, \frac1m \sum_{i \ne j} \beta \log
# \frac{\pi_\theta(y_j|x_i)}{\pi_\text{ref}(y_j|x_i)}\Big).$$
#
# The double sum has $m(m - 1)$ terms, so the factor is wrong ([ES16](../docs/claims.md#es16)). Runs of KTO pair each
# prompt with the *next* response, $m$ terms. Correctly averaged, the number is still no estimate of the KL
# ([CS9](../docs/claims.md#cs9)). The response to another prompt is less likely under $\pi$ than under
# $\pi_\text{ref}$, so the mean is negative, and the maximum turns it into 0. We measure it on 64 prompts with 8
# responses, where $\pi$ is the optimum and writes the responses itself.
#
# > **Guess first:** does a larger batch bring the estimate closer to the KL?

# %%
wide = TableWorld.random(0, prompts=64, responses=8, beta=0.85)
wide_u = wide.optimum - wide.ref_logps
exact = kl(wide.optimum, wide.ref_logps).mean().item()
sizes, rounds = (2, 4, 8, 16, 32), 400
estimated = {name: [] for name in ESTIMATORS}
for m in sizes:
    sums = dict.fromkeys(ESTIMATORS, 0.0)
    for _ in range(rounds):
        prompts = torch.randperm(64)[:m]
        responses = torch.multinomial(wide.optimum[prompts].exp(), 1)[:, 0]
        for name, estimate in ESTIMATORS.items():
            sums[name] += estimate(wide_u[prompts][:, responses]).item() / rounds
    for name, total in sums.items():
        estimated[name].append(total)
print(f"exact KL {exact:.3f} nats; mean estimates for batches of", *sizes)
for name, values in estimated.items():
    print(f"{name:<30}", *(f"{value:6.3f}" for value in values))

# %% tags=["check"]
ones = torch.ones(4, 4)
check.close("survey Eq. 33 as printed: m − 1 times the mean", ESTIMATORS["every other response, printed"](ones), 3.0)
check.close("survey Eq. 33 with its factor corrected", ESTIMATORS["every other response"](ones), 1.0)
following, alone = estimated["next response"], estimated["own response"]
check.true("the next response: nearer to 0 the larger the batch", following[0] > 0.1 > 0.01 > following[-1])
check.close("each prompt's own response: the KL", alone[-1], exact, tol=0.03)
check.differs("the next response is no estimate of the KL", following[-1], exact, by=0.4)
of_reference = (wide.ref_logps.exp() * wide_u).sum(-1).mean()
check.true("responses of π_ref: negative even for the own prompt", of_reference < 0, f"{of_reference:.3f} nats")

# %% [markdown]
# In a batch of 32 KTO therefore runs with $z_0 = 0$. This is
# [`apo-zero-unpaired`](../docs/methods.md#apo-zero-unpaired), whose loss is $\lambda_D\,(1 - \sigma(r_\theta))$ for
# good and $\lambda_U\,\sigma(r_\theta)$ for bad responses. It saves the pass that computes $z_0$. The survey also
# counts SLiC among the human-aware losses. Their definition requires $\pi_\text{ref}$, which SLiC does not have
# ([ES17](../docs/claims.md#es17)).
#
# Neither loss has a minimum on this world, so we descend for 500 steps. Then we look at the prompts that have both
# kinds of responses:

# %% tags=["check"]
with_kl, without = METHODS["kto"].loss, METHODS["apo-zero-unpaired"].loss
single = {"logps": ref.flatten() + 1, "ref_logps": ref.flatten(), "labels": (q > 0.5).double().flatten(), "beta": BETA}
check.close("kto at kl = 0 is apo-zero-unpaired", with_kl(**single, kl=0.0), without(**single))


def descend(population, steps=500):
    """log π after steps of Adam from π_ref, for losses that have no minimum."""
    logits = ref.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(steps):
        optimiser.zero_grad()
        population(logits.log_softmax(-1)).backward()
        optimiser.step()
    return logits.detach().log_softmax(-1)


def kto_with_exact_kl(logps):
    kl_now = kl(logps, ref).mean().detach()[None, None]
    return binary_labels(METHODS["kto"].loss, WORLD, data, q, kl=kl_now)(logps)


learned["kto, exact KL"] = descend(kto_with_exact_kl)
learned["apo-zero-unpaired"] = descend(binary_labels(METHODS["apo-zero-unpaired"].loss, WORLD, data, q))
good = q > 0.5
mixed = good.any(-1) & ~good.all(-1)
for name in ("kto, exact KL", "apo-zero-unpaired"):
    mass = (learned[name].exp() * good).sum(-1)[mixed].mean().item()
    print(f"{name:<18} regret {regret(learned[name]):.4f}")
    check.true(f"{name}: all mass on mostly good responses", mass > 0.999, f"{mass:.4f} in {mixed.sum()} prompts")
mass = (best.exp() * good).sum(-1)[mixed].mean().item()
check.true("π* keeps some elsewhere", mass < 0.97, f"{mass:.4f}")

# %% [markdown]
# ## 4. One constant for all prompts
#
# [`bco`](../docs/methods.md#bco) is the cross-entropy of $\sigma(r_\theta - \delta)$, where $\delta$ is the moving
# average of $r_\theta$. To find $\pi^*$, $-\delta$ has to be $V$. At $\pi^*$ the mean of $r_\theta = r - V$ over the
# data is $\bar r - V$. So $\delta = -V$ needs $\bar r = 0$, and one prompt.
#
# UNA proposes a moving average for the constant of [`una-score`](../docs/methods.md#una-score) (Sec. 7, item 3;
# `baseline=ema`). It is $c = \mathbb E[s - r_\theta]$, the best constant for a squared loss. For a single prompt that
# is $V$, whatever $\bar r$ is.


# %% tags=["check"]
def bco(world, start=-4.0, stop=4.0):
    """The policy of BCO and its δ: δ is the mean of r_θ where the policy is the minimiser for δ."""
    q, data = sigma(world.rewards), torch.full_like(world.rewards, 1 / world.rewards.shape[-1])

    def fit(gain):
        loss = functools.partial(METHODS["bco"].loss, running_gain=torch.tensor(gain))
        return fixed_point(binary_labels(loss, world, data, q), world.ref_logps)

    gain = brentq(lambda gain: (fit(gain) - world.ref_logps).mean().item() - gain, start, stop, xtol=1e-9)
    return fit(gain), BETA * gain


def one_constant(logps):
    gap = r - BETA * (logps - ref)
    return singles(METHODS["una-score"].loss, WORLD, data, scores=r, baseline=gap.mean()[None, None])(logps)


for offset in (0.0, 1.0):
    one = TableWorld(ref[:1], base.rewards[:1] + offset, BETA)
    policy, delta = bco(one)
    away = (policy.exp() - one.optimum.exp()).abs().sum().item() / 2
    print(f"bco, one prompt with mean reward {offset:.0f}: total variation from π* {away:.4f}")
    if offset:
        check.true("bco with mean reward 1: not π*", away > 0.01, f"{away:.4f}")
    else:
        check.close("bco with mean reward 0: π*", away, 0.0, tol=1e-6)
learned["bco"], delta = bco(WORLD)
learned["una-score, c moving average"] = fixed_point(one_constant, ref)
learned["una-score, c = 0"] = fixed_point(singles(METHODS["una-score"].loss, WORLD, data, scores=r), ref)
for name in ("bco", "una-score, c moving average", "una-score, c = 0"):
    check.true(f"{name}: eight prompts, not π*", regret(learned[name]) > 0.02, f"regret {regret(learned[name]):.4f}")

# %% [markdown]
# ## 5. Scores with mistakes: which measure?
#
# UNA's Eq. 7 leaves the distance $g$ between reward and score open, and the paper asks for others (Sec. 7, item 4).
# [`una-measure`](../docs/methods.md#una-measure) has five of them. They agree while a response has one score. Suppose
# now that one score in five is a mistake: the labeller gives the lowest score of the prompt. Then each measure learns
# another summary of a response's scores,
#
# $$\hat s(y) = \arg\min_x \mathbb E\,g(x, s),$$
#
# the **mean** (MSE), the **median** (L1), a number between them (Huber), the median up to `width` (hinge), or the
# logit of the mean of $\sigma(s)$ (KL). With $V(x)$ for these numbers, the policy is the optimum for the reward
# $\hat s$.

# %% tags=["check"]
scores = torch.stack([r, r.amin(-1, keepdim=True).expand_as(r)])  # (2, 8, 4) right and mistaken
chances = torch.tensor([0.8, 0.2])[:, None, None, None]
x = torch.linspace(-4, 4, 4001)[:, None, None]  # rewards to try, 0.002 apart
summaries = {}
print(f"{'measure':<8} {'largest error of ŝ':>19}   {'regret':>6}")
for measure in MEASURES:
    distance = functools.partial(METHODS["una-measure"].loss, measure=measure, width=0.1, beta=1.0)  # at u = x, r_θ = x
    rewards, zeros, given = (z.expand(2, 4001, 8, 4).flatten() for z in (x, torch.zeros(1), scores[:, None]))
    g = distance(logps=rewards, ref_logps=zeros, scores=given).view(2, 4001, 8, 4)
    summaries[measure] = x.flatten()[(chances * g).sum(0).argmin(0)]
    policy = (ref + summaries[measure] / BETA).log_softmax(-1)
    learned[f"una-measure {measure}, mistakes"] = policy
    print(f"{measure:<8} {(summaries[measure] - r).abs().max().item():19.3f}   {regret(policy):.4f}")

mean_score = (chances[:, 0] * scores).sum(0)
check.close("mse: the mean", summaries["mse"], mean_score, tol=0.0021)
check.close("l1: the median, here the right score", summaries["l1"], r, tol=0.0021)
check.close(
    "kl: the logit of the mean of σ(s)",
    summaries["kl"].sigmoid(),
    (chances[:, 0] * scores.sigmoid()).sum(0),
    tol=0.0021,
)
check.true("mse learns from the mistakes", regret(learned["una-measure mse, mistakes"]) > 0.01)
check.close("l1 does not", regret(learned["una-measure l1, mistakes"]), 0.0, tol=1e-4)
mse = functools.partial(METHODS["una-measure"].loss, measure="mse")
V_of_mean = BETA * torch.logsumexp(ref + mean_score / BETA, -1, keepdim=True)
fitted = fixed_point(singles(mse, WORLD, data, scores=mean_score, baseline=V_of_mean), ref)
check.close(
    "una-measure with that V(x): the optimum for ŝ", fitted.exp(), (ref + mean_score / BETA).softmax(-1), tol=1e-8
)

# %% [markdown]
# L1 ignores what is rare, right or wrong. If one reader in five sees the error that the others overlook, the median
# learns nothing of it, and the mean a fifth.

# %% [markdown]
# ## 6. Only bad responses
#
# Gradient ascent ([`gradient-ascent`](../docs/methods.md#gradient-ascent)) minimises $\log\pi(y_l)$. Its push is $-1$
# for ever. [`npo`](../docs/methods.md#npo) has DPO's logarithm without the chosen response (Sec. 3.10.2 has no
# equation; "DPO's negative part" lacks the factor $\frac2\beta$, [ES30](../docs/claims.md#es30)):
#
# $$L = \frac2\beta \log\!\big(1 + e^{\beta u(y_l)}\big), \qquad \text{push} = -2\,\sigma(\beta u(y_l))$$
#
# The push fades as $e^{\beta u}$, so $u$ falls like $-\frac1\beta\log t$ and not like $-t$. For $\beta \to 0$ NPO is
# gradient ascent. We take both down one response of a world with 5, by 2,000 steps of plain descent at 0.2.

# %% tags=["check"]
small = TableWorld.random(0, prompts=4, responses=5, beta=0.5)  # the world of CS16
small_ref = small.ref_logps[0]
paths, divergences = {}, {}
for name, beta in (("gradient-ascent", None), ("npo", 0.1), ("npo", 0.01)):
    logits, path = small_ref.clone().requires_grad_(), []
    given = {} if beta is None else {"ref_logps": small_ref[:1], "beta": beta}
    for _ in range(2000):
        logps = logits.log_softmax(0)
        path.append((small_ref[0] - logps[0]).item())
        loss = METHODS[name].loss(logps=logps[:1], labels=torch.zeros(1), **given)
        logits.data -= 0.2 * torch.autograd.grad(loss.sum(), logits)[0]
    label = name if beta is None else f"{name}, β = {beta}"
    paths[label], divergences[label] = path, kl(small_ref[None], logits.detach().log_softmax(0)[None]).item()
    print(f"{label:<16} log π(y_l) fell by {path[-1]:5.1f} nats, KL(π_ref ‖ π) {divergences[label]:5.1f}")
ascent, slow = paths["gradient-ascent"], paths["npo, β = 0.1"]
check.close("ascent: twice the time, twice the fall", ascent[1999] / ascent[999], 2.0, tol=0.03)
check.close("npo: twice the time, log(2)/β more", slow[1999] - slow[999], math.log(2) / 0.1, tol=0.3)
check.true("npo leaves π_ref less", divergences["npo, β = 0.1"] < 0.2 * divergences["gradient-ascent"])
u_l = torch.linspace(-30, 30, 61, requires_grad=True)
for beta in (0.1, 1e-6):
    values = METHODS["npo"].loss(logps=u_l, ref_logps=torch.zeros(61), labels=torch.zeros(61), beta=beta)
    push = -torch.autograd.grad(values.sum(), u_l)[0]
    check.close(f"npo, β = {beta}: push −2σ(βu)", push, -2 * sigma(beta * u_l))
check.close("β → 0: gradient ascent", push, -1.0, tol=2e-5)

# %%
SVG(draw_single_responses({"sizes": sizes, "estimated": estimated, "exact": exact, "paths": paths}))

# %% [markdown]
# NPO's fall of 50.5 nats against 799 is the ledger's entry too ([CS16](../docs/claims.md#cs16)). Slow is not safe:
# with rejected samples of $\pi_\text{ref}$ itself, $\pi_\text{ref}$ is a *maximum* of NPO. Nothing says where the
# lost mass should go.

# %% tags=["check"]
own = singles(METHODS["npo"].loss, WORLD, ref.exp(), labels=torch.zeros_like(r))
logits = ref.clone().requires_grad_()
slope = torch.autograd.grad(own(logits.log_softmax(-1)), logits)[0]
check.close("npo on samples of π_ref: no slope at π_ref", slope, 0.0)
widths = torch.linspace(0.05, 3, 50)
around = [own((ref + width * torch.randn(8, 4)).log_softmax(-1)) for width in widths]
check.true("and a lower loss at 50 policies around it", max(around) < own(ref), f"{max(around):.4f} < {own(ref):.4f}")

# %% [markdown]
# *Negating Negatives* ([`d2o`](../docs/methods.md#d2o)) gives it a direction. $K$ samples of $\pi_\text{ref}$ stand
# in for the chosen response (survey Eq. 53):
#
# $$L = -\log\sigma\Big(\frac{\gamma}{K} \sum_{i=1}^K u(y_i) - \alpha\, u(y_l)\Big)$$
#
# The paper compares the samples with a second, harmful reference. The survey defines it and does not use it
# ([ES29](../docs/claims.md#es29)). `d2o` takes both (`second_reference_model`). Here they are the same, and
# $\gamma = \alpha = \beta$. With $K = 1$ this is DPO where the sample always wins. For bad responses from $\nu$ the
# share of wins of $y$ over $y'$ is $\sigma$ of a
# difference of $\log\frac{\pi_\text{ref}}{\nu}$. So the optimum is $\pi \propto \pi_\text{ref}
# \left(\frac{\pi_\text{ref}}{\nu}\right)^{1/\beta}$.


# %% tags=["check"]
bad = data * (1 - q) / (data * (1 - q)).sum(-1, keepdim=True)  # ν: where the bad labels are


def d2o(samples):
    """The population loss over all lists of samples of π_ref and one bad response."""
    lines = torch.tensor(list(itertools.product(range(4), repeat=samples + 1)))
    scores = torch.tensor([1.0] * samples + [0.0]).expand(len(lines), -1)
    chance = ref[:, lines[:, :-1]].sum(-1).exp() * bad[:, lines[:, -1]]
    given = {"scores": scores.repeat(8, 1), "mask": torch.ones(8 * len(lines), samples + 1, dtype=torch.bool)}

    def population(logps):
        of_ref = ref[:, lines].flatten(0, 1)
        both = {"logps": logps[:, lines].flatten(0, 1), "ref_logps": of_ref, "second_ref_logps": of_ref}
        return (chance.flatten() * METHODS["d2o"].loss(**both, **given, beta=BETA)).sum()

    return population


u_list = torch.tensor([[1.0, 3.0, -2.0]])
four = {"logps": u_list - 4, "scores": torch.tensor([[1.0, 1.0, 0.0]])}
four |= {"ref_logps": 0 * u_list - 4, "second_ref_logps": 0 * u_list - 4}
value = METHODS["d2o"].loss(**four, mask=torch.ones(1, 3, dtype=torch.bool), beta=0.5)
check.close("survey Eq. 53 by hand: −log σ(½·2 + ½·2)", value, math.log1p(math.exp(-2)))
for samples in (1, 3):
    learned[f"d2o, K = {samples}"] = fixed_point(d2o(samples), ref)
ratio = (ref + (ref - bad.log()) / BETA).softmax(-1)
check.close("d2o, K = 1: π_ref·(π_ref/ν)^(1/β)", learned["d2o, K = 1"].exp(), ratio, tol=1e-8)
check.differs("that is not π*", ratio, best.exp(), by=0.3)
bad_only = singles(METHODS["npo"].loss, WORLD, data * (1 - q), labels=torch.zeros_like(q))
learned["npo"] = descend(bad_only)

# %% [markdown]
# ## 7. A list
#
# A list is $K$ responses of one prompt with labels $\psi_i$, the best with the highest. The oldest use of lists is to
# split them into pairs for a reward model (survey Eq. 1). The mean over the $\binom{K}{2}$ pairs of a list is meant;
# the survey divides twice ([ES1](../docs/claims.md#es1)). Notebook [08](08_pairs.ipynb) has the methods on pairs.

# %% tags=["check"]
rewards = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
whole = torch.ones(1, 4, dtype=torch.bool)
eq1 = METHODS["reward-model"].losses["lists"](rewards=rewards, scores=rewards, mask=whole)
by_hand = sum(math.log1p(math.exp(j - i)) for i in range(4) for j in range(i)) / 6  # gaps 1, 2, 3
check.close("survey Eq. 1: the mean over six pairs", eq1, by_hand)
print(f"{eq1.item():.5f}; divided by 6 once more {eq1.item() / 6:.5f}")

# %% [markdown]
# [`lipo`](../docs/methods.md#lipo) takes the losses of learning to rank and gives them implicit rewards
# $r_{\theta,i} = \beta u(y_i)$, which the survey calls $s_i$. Its own proposal is the $\lambda$-loss (survey Eq.
# 49):
#
# $$L = \sum_{\psi_i > \psi_j} \Delta_{ij} \log\!\big(1 + e^{-(r_{\theta,i} - r_{\theta,j})}\big), \qquad
# \Delta_{ij} = \big|2^{\psi_i} - 2^{\psi_j}\big| \cdot \left|\tfrac{1}{\ln(1 + \tau_i)} - \tfrac{1}{\ln(1 +
# \tau_j)}\right|$$
#
# $\tau_i$ is the rank that the policy gives ([ES26](../docs/claims.md#es26)). The weight is what a swap of the two
# changes in the discounted cumulative gain: errors at the top count most.
#
# Six losses are borrowed:
#
# - `pair_logistic` and `pair_hinge` sum $-\log\sigma$ and $\max(0, 1 - \cdot)$ of $r_{\theta,i} - r_{\theta,j}$ over
#   the pairs of the list.
# - `list_mle` is the likelihood of the whole ranking.
# - `softmax` is the cross-entropy of $\text{softmax}(\psi)$ and $\text{softmax}(r_\theta)$.
# - `point_mse` and `point_sigmoid` are UNA's regression and UNA's cross-entropy, for each response alone.
#
# For two responses `pair_logistic` and `list_mle` are DPO, and the $\lambda$-loss is DPO times $\Delta$.


# %% tags=["check"]
def pushes(loss, implicit, labels, **settings):
    """(K,) the pushes on the responses of one list, and its loss, at log π_ref = −3, β = 1 and one token each."""
    logps = (implicit - 3)[None].requires_grad_()
    of_ref = torch.full_like(logps, -3)
    available = {"logps": logps, "ref_logps": of_ref, "second_ref_logps": of_ref, "lengths": torch.ones_like(logps)}
    available |= {"scores": labels[None], "mask": torch.ones_like(logps, dtype=torch.bool), "beta": 1.0, **settings}
    value = loss(**{name: available[name] for name in inspect.signature(loss).parameters if name in available})
    return -torch.autograd.grad(value.sum(), logps)[0][0], value.item()


lipo = METHODS["lipo"]
two, right_way, wrong_way = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
swap = 1 / math.log(2) - 1 / math.log(3)  # Δ of the two: one unit of gain, ranks 1 and 2
check.close("survey Eq. 49 by hand", pushes(lipo.loss, right_way, two)[1], swap * math.log1p(math.exp(-3)))
print(f"right order {pushes(lipo.loss, right_way, two)[1]:.5f}, inverted {pushes(lipo.loss, wrong_way, two)[1]:.5f}")
dpo = math.log1p(math.exp(-3))
for ranking, factor in (("pair_logistic", 1), ("list_mle", 1), ("lambda", swap)):
    check.close(f"K = 2, {ranking}", pushes(lipo.loss, right_way, two, ranking=ranking)[1], factor * dpo)

# %% [markdown]
# [`rrhf`](../docs/methods.md#rrhf) has no reference. It compares mean log-probabilities per token $p_i$ by a hinge
# at 0 and imitates the best response (survey Eq. 50):
#
# $$L = \sum_{\psi_i < \psi_j} \max(0, p_i - p_j) - \log\pi(y_\text{best})$$
#
# $\psi$ are the labels. A list in the right
# order gets no push from the ranking, however small the margins.
#
# [`pro`](../docs/methods.md#pro) has no reference either. Its first form is the Plackett–Luce likelihood of a ranking:
# the best is chosen among all, the second among those left, and so on (survey Eq. 51). It is the `list_mle` above with
# $p$ in place of $r_\theta$. Its second form scales each logit by a distance of labels (survey Eq. 52):
#
# $$L_\text{align} = -\sum_{k=1}^{K-1} \log \frac{e^{p_k/T_k^k}}{\sum_{i \ge k} e^{p_i/T_i^k}}, \qquad
# \frac{1}{T_i^k} = \psi_k - \psi_i, \qquad \frac{1}{T_k^k} = \max_{i > k} \frac{1}{T_i^k}$$
#
# It adds SFT on the best response. The survey takes $T$ from the policy, where a pair in the wrong order makes it
# negative ([ES28](../docs/claims.md#es28)).

# %% tags=["check"]
p, labels = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([3.0, 2.0, 1.0])
push, value = pushes(METHODS["rrhf"].loss, p + 3, labels)
check.close("survey Eq. 50 by hand: 0.5 + 1.5 + 1", value, 3.0)
check.close("its pushes: SFT, and the two inverted pairs", push, [2.0, 1.0, -2.0])
push, _ = pushes(METHODS["rrhf"].loss, torch.tensor([0.002, 0.001, 0.0]), labels)
check.close("in the right order only SFT is left", push, [1.0, 0.0, 0.0])

p, labels = torch.tensor([0.5, -0.5, 0.0]), torch.tensor([2.0, 1.0, -1.0])
eq51 = -sum((p[k] - p[k:].logsumexp(0)).item() for k in range(2))
check.close("survey Eq. 51 and SFT", pushes(METHODS["pro"].loss, p + 3, labels, distances="none")[1], eq51 - 0.5)
check.close("it is list_mle", pushes(lipo.loss, p + 3, labels, ranking="list_mle")[1], eq51)
softplus = torch.nn.functional.softplus
eq52 = math.log(1 + math.exp(-0.5 - 1.5) + math.exp(0 - 1.5)) + math.log(1 + math.exp(0 + 1.0))
check.close("survey Eq. 52 and SFT", pushes(METHODS["pro"].loss, p + 3, labels)[1], eq52 - 0.5)
as_printed = pushes(METHODS["pro"].printed, p + 3, labels)[1]
check.differs("survey Eq. 52 as printed, T from the policy", as_printed, eq52 - 0.5, by=0.3)

# %% [markdown]
# ### One list, eleven losses
#
# Four responses with labels 1, 0.7, 0.3 and 0. The policy has the first two in the wrong order, and the last two as
# well: $r_\theta = (0.5, 1, -0.5, 0)$. Each bar is a push, scaled to a largest bar of 1. A sum of 0 means that a
# number which the prompt adds to all rewards cancels.

# %% tags=["check"]
labels, implicit = torch.tensor([1.0, 0.7, 0.3, 0.0]), torch.tensor([0.5, 1.0, -0.5, 0.0])
FORMS = {f"lipo {name}": (lipo.loss, {"ranking": name}) for name in RANKINGS}
FORMS |= {
    "rrhf": (METHODS["rrhf"].loss, {}),
    "pro, Eq. 51": (METHODS["pro"].loss, {"distances": "none"}),
    "pro, Eq. 52": (METHODS["pro"].loss, {"distances": "scores"}),
    "d2o": (METHODS["d2o"].loss, {}),
}
bars = {name: pushes(loss, implicit, labels, **settings)[0] for name, (loss, settings) in FORMS.items()}
print("push on response        1       2       3       4      sum")
for name, push in bars.items():
    print(f"{name:<19}", *(f"{value:7.3f}" for value in push), f"{round(push.sum().item(), 9) + 0.0:8.3f}")
free = {name for name, push in bars.items() if abs(push.sum()) < 1e-12}
on_differences = {f"lipo {name}" for name in ("lambda", "list_mle", "pair_logistic", "pair_hinge", "softmax")} | {"d2o"}
check.true("V(x) cancels in the losses on differences, and in no other", free == on_differences, f"{len(free)} losses")

# %%
SVG(draw_list_pushes(bars))

# %% [markdown]
# - A number per prompt cancels in LiPO's losses on pairs and rankings, in its softmax and in D2O. It does not cancel
#   in the two losses on points.
# - RRHF and PRO have a sum of 1 from SFT on the best response. They know no reference, so that $V(x)$ is not their
#   question. PRO's distances add another 0.65.
# - `list_mle` and the pairs push by *order*: response 3 up and response 2 down, since each is on the wrong side of a
#   neighbour. The softmax pushes by *distance*, hardest where the policy is furthest from the labels.
# - The $\lambda$-loss cares for the top. It lowers response 3, although the policy has it below a worse one.
# - D2O knows one bad response, and the other three are all alike to it.
#
# ### How much more than a pair?
#
# Count in *Fisher information* about the rewards, at equal rewards of $K$ responses. In a ranking each choice of the
# best among $m$ adds $\frac{m-1}{m}$ to its trace. A comparison of two is the case $m = 2$:
#
# $$\text{one ranking} = \frac{\sum_{m=2}^K \frac{m - 1}{m}}{1/2} = 2\,(K - H_K) \text{ comparisons}, \qquad H_K = 1 +
# \tfrac12 + \dots + \tfrac1K$$
#
# For $K = 4$ these are 3.83, not the six pairs that the list contains: the pairs of one ranking are not independent.
# `pair_logistic` adds them up as if they were, which costs a little. By the sandwich formula, curvature² over the
# variance of the gradient, its ranking is worth 3.60.

# %% tags=["check"]
orders = torch.tensor(list(itertools.permutations(range(4))))  # (24, 4), each equally probable at equal rewards
ranked = {"scores": torch.tensor([3.0, 2, 1, 0]).expand(24, 4), "mask": torch.ones(24, 4, dtype=torch.bool)}


def of_rankings(rewards, ranking):
    return lipo.loss(logps=rewards[orders], ref_logps=torch.zeros(24, 4), **ranked, beta=1.0, ranking=ranking)


comparison = 1 / 2
worth = {}
for ranking in ("list_mle", "pair_logistic"):
    loss = functools.partial(of_rankings, ranking=ranking)
    curvature = torch.autograd.functional.hessian(lambda x, loss=loss: loss(x).mean(), torch.zeros(4)).trace() / 3
    slopes = torch.autograd.functional.jacobian(loss, torch.zeros(4))
    spread = (slopes**2).mean(0).sum() / 3  # equal to the curvature for a likelihood
    worth[ranking] = (curvature**2 / spread / (comparison / 3)).item()
    print(f"{ranking:<14} a ranking of 4 is worth {worth[ranking]:.3f} comparisons")
check.close("list_mle: 2·(K − H_K)", worth["list_mle"], 2 * (4 - (1 + 1 / 2 + 1 / 3 + 1 / 4)))
check.close("pair_logistic", worth["pair_logistic"], 3.6)
check.true("less than six", worth["list_mle"] < 6)

# %% [markdown]
# ## 8. What each method learns from unlimited data
#
# The labellers of the world rank all four responses of a prompt by Plackett–Luce with the true rewards. So the best
# is drawn from $\text{softmax}(r)$, and so on with those left. Losses on a ranking get the labels 3, 2, 1, 0. The
# softmax and `point_mse` get the rewards themselves, and `point_sigmoid` gets $\sigma(r)$. Each loss is averaged
# over all 24 rankings. The regret is $J(\pi^*) - J(\pi)$, averaged over prompts.

# %%
lists = orders.repeat(8, 1)  # (192, 4)
prompt = torch.arange(8).repeat_interleave(24)[:, None]
in_order = r[prompt, lists]
chance = sum(in_order[:, k] - in_order[:, k:].logsumexp(-1) for k in range(4)).exp()
by_rank = torch.tensor([3.0, 2, 1, 0]).expand(192, 4)


def over_rankings(loss, labels=by_rank, chance=chance, **settings):
    """log π -> the loss's mean over all rankings; tokens are not modelled, every response has one."""
    available = {"ref_logps": ref[prompt, lists], "beta": BETA, "lengths": torch.ones(192, 4), "scores": labels}
    available["mask"] = torch.ones(192, 4, dtype=torch.bool)
    given = {name: available[name] for name in inspect.signature(loss).parameters if name in available}
    return lambda logps: (chance * loss(logps=logps[prompt, lists], **given, **settings)).sum()


labels_of = {"point_mse": in_order, "softmax": in_order, "point_sigmoid": sigma(in_order)}
populations = {
    f"lipo {ranking}": over_rankings(lipo.loss, labels_of.get(ranking, by_rank), ranking=ranking)
    for ranking in RANKINGS
}
populations |= {
    "pro, Eq. 51": over_rankings(METHODS["pro"].loss, distances="none"),
    "pro, Eq. 52": over_rankings(METHODS["pro"].loss),
    "rrhf": over_rankings(METHODS["rrhf"].loss),
}
NO_MINIMUM = {"kto, exact KL", "apo-zero-unpaired", "npo"}
KINKS = {"lipo pair_hinge", "rrhf"}  # their minimum is at a kink, which Newton's method does not find
for name, population in populations.items():
    learned[name] = descend(population) if name in KINKS else fixed_point(population, ref)
table = sorted((round(abs(regret(logps)), 4), name) for name, logps in {**learned, "π_ref": ref}.items())
print(f"{'method':<32} regret against π*")
for value, name in table:
    note = (
        "  no minimum: after 500 steps"
        if name in NO_MINIMUM
        else "  minimum at a kink: after 500 steps" * (name in KINKS)
    )
    print(f"{name:<32} {value:.4f}{note}")
print("gradient-ascent                  no minimum, unbounded")

# %% tags=["check"]
finds = {name for value, name in table if value < 1e-4}
expected = {"dro, scores", "una-binary-bce, V(x) given", "lipo list_mle", "lipo pair_logistic", "lipo softmax"}
expected |= {f"una-measure {measure}, mistakes" for measure in ("l1", "huber", "hinge")}
check.true("π* is found by these, to a regret of 1e-4", finds == expected, f"{len(finds)} of {len(table) - 1}")
check.close(
    "lipo point_mse is una-score with c = 0",
    learned["lipo point_mse"].exp(),
    learned["una-score, c = 0"].exp(),
    tol=1e-7,
)
check.close("pro, Eq. 51: softmax(r), without π_ref and β", learned["pro, Eq. 51"].exp(), r.softmax(-1), tol=1e-8)
uniform = torch.full_like(ref, 1 / 4).log()
ranking_only = over_rankings(METHODS["rrhf"].loss)(uniform) - over_rankings(METHODS["rrhf"].loss, alpha=0.0)(uniform)
check.close("rrhf: no ranking loss at the uniform policy", ranking_only, 0.0)
near, far = (kl(logps, uniform).mean() for logps in (learned["rrhf"], r.log_softmax(-1)))
check.true("rrhf: nearer to uniform than SFT on the best", near < 0.2 * far, f"KL {near:.4f} against {far:.4f} nats")
alone = min(regret(learned[name]) for name in ("npo", "d2o, K = 1", "d2o, K = 3"))
check.true("bad responses alone: not π*", alone > 0.4, f"regret {alone:.4f} or more")

# %% [markdown]
# - With $V(x)$, or with differences that do not need it, $\pi^*$ is found. A constant leaves 0.06 to 0.08.
# - The $\lambda$-loss misses $\pi^*$ by little. Its weights depend on the ranking, so it is not a likelihood.
# - LiPO's paper finds the $\lambda$-loss best, then rankings and pairs, then softmax, and points last. Points are last
#   here too. An advantage of the $\lambda$-loss can only come from finite data or from other labellers.
# - PRO's first form learns $\text{softmax}(r)$, which knows neither $\pi_\text{ref}$ nor $\beta$.
# - RRHF's hinge at 0 asks for *no* order where labellers disagree: any policy with equal $p$ has no ranking loss. Its
#   paper reports parity with PPO, for lists that a reward model ranks, which agrees with itself.
# - Bad responses alone improve on $\pi_\text{ref}$, D2O more than NPO, and stay far from $\pi^*$.
#
# What if labellers agree, and the better response always wins? Then a ranking says nothing about distances. The
# likelihoods run to the best response alone. A list of *scores* keeps the distances.

# %% tags=["check"]
sorted_only = (in_order.diff(dim=-1) < 0).all(-1).double()  # the one true ranking of each prompt
greedy = (r.amax(-1) + BETA * ref.gather(-1, r.argmax(-1, keepdim=True))[:, 0]).mean()  # J of the best response
lost = (V.mean() - greedy).item()
agreed = {
    ranking: regret(descend(over_rankings(lipo.loss, labels_of.get(ranking, by_rank), sorted_only, ranking=ranking)))
    for ranking in ("list_mle", "softmax")
}
check.close("agreed rankings, list_mle: the regret of the best response alone", agreed["list_mle"], lost, tol=2e-3)
check.close("scores, softmax: no regret", agreed["softmax"], 0.0, tol=1e-6)
print(f"regret of the best response alone {lost:.4f}")

# %% [markdown]
# ## 9. Wrong labels
#
# The survey's Sec. 4.3 asks how to deal with noise in binary feedback. Let a share $a$ of the good labels be flipped,
# and a share $b$ of the bad ones:
#
# $$q' = (1 - a)\,q + b\,(1 - q) = b + (1 - a - b)\,q$$
#
# This is increasing in $q$ while $a + b < 1$. So what a method keeps depends on what it reads off $q'$. The
# cross-entropy with $V(x)$ learns $\text{logit}\,q'$, and DRO learns $2q' - 1$. Both keep the order of the responses.
# Their distances shrink. For $a = b = \epsilon$ DRO's shrink by exactly $1 - 2\epsilon$: it learns the optimum for
# $\frac{\beta}{1 - 2\epsilon}$. KTO reads only whether $q'$ is above $\frac12$. Symmetric flips do not move that line.
# They multiply all pushes by $1 - 2\epsilon$, so that KTO ends where it ended before.

# %% tags=["check"]
print("                            regret")
print("flipped   BCE, V(x)   DRO on labels   apo-zero-unpaired   BCE, ε known")
same_order = True
for flipped in (0.0, 0.2, 0.4):
    noisy = flipped + (1 - 2 * flipped) * q
    bce_end, dro_end = ((ref + target / BETA).log_softmax(-1) for target in (noisy.logit(), 2 * noisy - 1))
    kto_end = descend(binary_labels(METHODS["apo-zero-unpaired"].loss, WORLD, data, noisy))
    unflipped = (ref + ((noisy - flipped) / (1 - 2 * flipped)).logit() / BETA).log_softmax(-1)
    regrets = [abs(regret(end)) for end in (bce_end, dro_end, kto_end, unflipped)]
    print(f"{flipped:7.1f} {regrets[0]:11.4f} {regrets[1]:15.4f} {regrets[2]:19.4f} {regrets[3]:14.4f}")
    same_order &= all(torch.equal((end - ref).argsort(-1), r.argsort(-1)) for end in (bce_end, dro_end))
check.true("BCE and DRO keep the order of the responses", same_order)
V_noisy = BETA * torch.logsumexp(ref + noisy.logit() / BETA, -1, keepdim=True)
fitted = fixed_point(binary_labels(METHODS["una-binary-bce"].loss, WORLD, data, noisy, baseline=V_noisy), ref)
check.close("BCE with V(x), 40 % flipped: π* of logit q'", fitted.exp(), bce_end.exp(), tol=1e-8)
check.close("DRO, 40 % flipped: π* at β/(1 − 2ε)", dro_end.exp(), (ref + 0.2 * (2 * q - 1) / BETA).softmax(-1))
check.close("a known ε: π* again", unflipped.exp(), best.exp())
check.close("apo-zero-unpaired ends as without flips", regret(kto_end), regret(learned["apo-zero-unpaired"]), tol=1e-3)

# %% [markdown]
# One-sided flips are another matter. Suppose that 40 % of the good labels get lost and no bad one ($a = 0.4$, $b =
# 0$). KTO's line is now at $q = \frac{1/2 - b}{1 - a - b} = 0.83$. A response that 80 % of the people like is pushed
# down without end. The weights can bring the line back, if $a$ and $b$ are known: $\frac{\lambda_U}{\lambda_D} =
# \frac{q'_{1/2}}{1 - q'_{1/2}}$ with $q'_{1/2} = \frac{1 - a + b}{2}$.

# %% tags=["check"]
a, b = 0.4, 0.0
noisy = b + (1 - a - b) * q
half = (1 - a + b) / 2
logps = (ref + torch.randn(8, 4)).requires_grad_()
signs = {}
for name, lambda_u in (("equal weights", 1.0), ("weights moved back", half / (1 - half))):
    loss = functools.partial(METHODS["apo-zero-unpaired"].loss, undesirable_weight=lambda_u)
    population = binary_labels(loss, WORLD, data, noisy)
    signs[name] = -torch.autograd.grad(population(logps), logps)[0].sign()
    wrong = (signs[name] != (q - 0.5).sign()).sum().item()
    print(f"{name:<19} {wrong} of {q.numel()} responses pushed the other way; regret {regret(descend(population)):.4f}")
check.close("weights moved back: the pushes of clean labels", signs["weights moved back"], (q - 0.5).sign())
check.differs("equal weights: not", signs["equal weights"], (q - 0.5).sign(), by=2)
check.true("the order of q' is that of q", torch.equal(noisy.argsort(-1), q.argsort(-1)))

# %% [markdown]
# Could the policy filter the labels itself? A label with a large residual, far from $\sigma(r_\theta + V)$, looks
# flipped. Let the policy be exact, so that $\sigma(r_\theta + V) = q$. Drop the bad labels of responses whose $q$ is
# above 0.7, and the good labels of those whose $q$ is below 0.3. With 20 % flips, half of what is dropped was
# flipped. The other half was honest disagreement. What remains is unanimous, so that the response is pushed without
# end.

# %% tags=["check"]
flipped = 0.2
noisy = flipped + (1 - 2 * flipped) * q
sure = (q - 0.5).abs() > 0.2
against = torch.where(q > 0.5, 1 - noisy, noisy)[sure]  # share of labels against the policy, all dropped
wrong = flipped * torch.maximum(q, 1 - q)[sure]  # share that is against it and flipped
kept = torch.where(sure, (q > 0.5).double(), noisy)
print(f"of the dropped labels {100 * (wrong.sum() / against.sum()).item():.0f} % were flipped")
filtered = binary_labels(METHODS["una-binary-bce"].loss, WORLD, data, kept, baseline=V)
slope = {}
for name, far in (("at π*", best), ("10 nats beyond", best + 10 * (2 * kept - 1))):
    logps = far.clone().requires_grad_()
    push = -torch.autograd.grad(filtered(logps), logps)[0]
    slope[name] = (push * (2 * kept - 1))[sure]
    check.true(
        f"filtered labels still push outwards, {name}", (slope[name] > 0).all(), f"at least {slope[name].min():.1e}"
    )

# %% [markdown]
# ## What we learned
#
# - **One response needs one number per prompt.** With it a regression finds $\pi^*$: *V(x) in three ways*. No constant
#   does: *one number for all prompts: not π\**, *bco: eight prompts*, *una-score, c moving average*.
# - On binary labels DRO learns a bounded reward: *dro on labels: π\* of tanh(r/2)*.
# - **KTO learns which responses are mostly good**, not how good. Its weights set the line: *up above q*. In a batch
#   of 32 its $z_0$ is 0 where the KL is 0.48 ([ES16](../docs/claims.md#es16), [CS9](../docs/claims.md#cs9)): *the
#   next response is no estimate of the KL*.
# - BCO finds $\pi^*$ for one prompt with mean reward 0, and in general only then: *bco with mean reward 1: not π\**.
# - With mistaken scores the measure decides what is learned: *l1: the median*, *mse: the mean*.
# - Gradient ascent falls linearly, NPO logarithmically ([ES30](../docs/claims.md#es30),
#   [CS16](../docs/claims.md#cs16)): *ascent: twice the time*, *npo: twice the time*. Bad responses alone, D2O included
#   ([ES29](../docs/claims.md#es29)), do not lead to $\pi^*$.
# - **A list brings its own $V(x)$**: *V(x) cancels in the losses on differences, and in no other*. A ranking of four
#   is worth 3.83 comparisons: *list_mle: 2·(K − H_K)*.
# - Of LiPO's seven losses three find $\pi^*$: *π\* is found by these, …*.
# - RRHF and PRO do not know $\pi_\text{ref}$ ([ES28](../docs/claims.md#es28)): *pro,
#   Eq. 51: softmax(r)*, *rrhf: no ranking loss at the uniform policy*.
# - BCE and DRO keep the order of responses under flipped labels. Symmetric flips do not move KTO, one-sided ones move
#   its line: *BCE and DRO keep the order of the responses*, *apo-zero-unpaired ends as without flips*,
#   *equal weights: not*.
#
# ## Limits
#
# - Unlimited data on 8 prompts, and a table for a policy. Nothing here says how fast or how noisily a method gets
#   there. One ranking of $K$ also costs a labeller more than one comparison.
# - All responses are equally frequent in the data, and the list contains all of them. Losses with a minimum at $\pi^*$
#   have it for every sampler that covers all responses. The regrets of the others change.
# - Regrets of losses without a minimum depend on the number of steps. Their order can change with it and with the
#   world. That KTO with the exact KL is behind KTO without is a fact about this one.
# - $z_0$ is measured at the optimum of a random world. Real responses to other prompts share style and length with the
#   right ones, and their log-ratios need not be negative.
# - Labels come from $\sigma(r)$ and rankings from Plackett–Luce. Where labellers follow no reward, see notebook
#   [06](06_upo_and_iupo.ipynb).
# - The survey's Sec. 3.13.1 reports benchmarks: KTO beat DPO, IPO and CPO, and KTO and CPO could skip SFT. A table of
#   probabilities has no pretraining and no benchmark, so it can neither confirm nor refute this.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell, which checks it. Hints and answers are folded below.
#
# **1.** (Pencil.) KTO shall raise only responses that at least 80 % of the people like. Which
# $\frac{\lambda_U}{\lambda_D}$ does that?

# %%
mine = ...  # λ_U/λ_D

if mine is not ...:
    check.close("exercise 1", 0.8 * 1 - 0.2 * mine, 0.0)

# %% [markdown]
# **2.** (Pencil.) How many comparisons is one ranking of 8 equal responses worth? How many of its 28 pairs are that?

# %%
mine = ...  # comparisons

if mine is not ...:
    check.close("exercise 2", mine / 2, sum((m - 1) / m for m in range(2, 9)), tol=1e-3)

# %% [markdown]
# **3.** (Code.) In section 5 let 60 % of the scores be the prompt's lowest score. Which policy, (8, 4) of
# log-probabilities, does L1 with the right $V(x)$ learn?

# %%
mine = ...  # log π

if mine is not ...:
    chances = torch.tensor([0.4, 0.6])[:, None, None, None]
    rewards, zeros, given = (z.expand(2, 4001, 8, 4).flatten() for z in (x, torch.zeros(1), scores[:, None]))
    l1 = METHODS["una-measure"].loss(logps=rewards, ref_logps=zeros, scores=given, measure="l1", beta=1.0)
    median = x.flatten()[(chances * l1.view(2, 4001, 8, 4)).sum(0).argmin(0)]
    check.close("exercise 3", mine.exp(), (ref + median / BETA).softmax(-1), tol=2e-3)

# %% [markdown]
# **4.** (Open.) A product collects thumbs, at most one a prompt. What would you measure to choose between KTO and UNA's
# cross-entropy?
#
# <details>
# <summary>Hints</summary>
#
# **1.** The line is where the two pushes cancel. **2.** Sum $\frac{m-1}{m}$ from 2 to 8, and double it. **3.** What is
# the median of a score that is usually the lowest one? **4.** What decides the order in [notebook
# 04](04_una_losses.ipynb), section 6?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `4`. The line is at $q = \frac{\lambda_U}{\lambda_D + \lambda_U}$.
#
# **2.** `10.564`, which is $2\,(8 - H_8)$, about 38 % of 28.
#
# **3.** `ref`. The median of every response is the lowest score of its prompt, the same for all: nothing is learned.
#
# **4.** The share of good labels, and how much it differs between prompts. KTO needs the line between good and bad to
# be the same everywhere; the cross-entropy needs a number per prompt, which one response cannot give.
#
# </details>
