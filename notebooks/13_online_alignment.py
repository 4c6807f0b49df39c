# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does online UNA replace PPO with something simpler, steadier, faster, smaller?
#
# Offline the responses are given. Online a step samples responses from the current policy, and a reward model scores
# them. Then they are rows like any others. RLHF updates on such rows with PPO. UNA proposes its regression.
#
# **Claim** (UNA Sec. 2.3.2 and 4.2). Online UNA "transforms the original unstable RL problem into a stable supervised
# learning problem". It "removes the necessary of value model in PPO" and "will speed up the training process" (8 hours
# become 6.5). It "outperforms RLHF/PPO". In four words: simpler, steadier, faster, smaller.
#
# - Sections 1 and 2 derive the step of online UNA, and section 3 that of the authors' script.
# - Section 4 takes PPO apart.
# - Sections 5 to 7 measure noise, stability, replay and models on worlds where the optimum is known.
#
# **Needs.** [Notebook 04](04_una_losses.ipynb), sections 2 and 4. $\beta\log\frac{\pi}{\pi_\text{ref}} = r_\theta$ is
# the implicit reward, $J = \mathbb{E}_\pi[s - r_\theta]$ what RLHF maximises (UNA Eq. 3), and regret is
# $J(\pi^*) - J(\pi)$.
#
# **Time.** About 40 minutes to read, without the exercises. Next: [notebook 14](14_exact_leaderboard.ipynb).

# %%
import json
from pathlib import Path

import torch
from IPython.display import SVG, Markdown

import una_ref
from una_ref import METHODS
from una_ref.claims import CLAIMS, example_worlds, markdown, online_learning, online_noise, released_online
from una_ref.claims.example_worlds import shifted
from una_ref.claims.sampling import on_policy as sampled_step
from una_ref.evaluation.printed import printed
from una_ref.methods import policy_gradient
from una_ref.methods.rewards import leave_one_out
from una_ref.notebook import check, scale
from una_ref.studies.lesson_figures import draw_noise_and_training, draw_way
from una_ref.studies.online_figures import draw_methods, draw_offset
from una_ref.studies.online_study import ONLINE
from una_ref.studies.summaries import interval
from una_ref.theory import TableWorld, kl, objective, una_regression
from una_ref.training.config import Config
from una_ref.training.table_runs import table_job

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)

BETA = 0.5
WORLD = TableWorld.random(0, prompts=4, responses=5, beta=BETA)  # rewards: mean 0, sd 1 in each prompt


def plus(offset):
    """The world with a constant added to all its rewards: neither π* nor any regret changes."""
    return shifted(WORLD, offset)


# %% [markdown]
# ## 1. The step of online UNA is a policy gradient
#
# Take UNA Eq. 7 with the squared error of Eq. 10, and responses sampled from the policy itself:
#
# $$L = \mathbb{E}_x\,\mathbb{E}_{y\sim\pi_\theta}\,\big(r_\theta(x, y) - s(x, y)\big)^2$$
#
# The sampler is held fixed in the derivative. Then the expected step is, for every policy,
#
# $$\mathbb{E}_{y\sim\pi}\,\nabla (r_\theta - s)^2 = 2\beta\,\mathbb{E}_\pi[(r_\theta - s)\,\nabla\log\pi]
# = -2\beta\,\nabla J .$$
#
# So the supervised problem and the RL problem have the same expected gradient. The cell computes the library's loss on
# every response of every prompt, weighted by $\pi$ without gradient, and compares with autograd's derivative of $J$.


# %%
def expected_step(world, logps):
    """(X, Y) gradient in the logits of online UNA's loss, summed over all responses; the weights π are held."""
    logits = logps.clone().requires_grad_()
    now = logits.log_softmax(-1)
    given = {"ref_logps": world.ref_logps.flatten(), "scores": world.rewards.flatten(), "beta": world.beta}
    losses = METHODS["una-online"].loss(logps=now.flatten(), **given)
    return torch.autograd.grad((now.detach().exp().flatten() * losses).sum(), logits)[0]


def slope_of_j(world, logps):
    """(X, Y) ∇J in the logits."""
    logits = logps.clone().requires_grad_()
    j = objective(logits.log_softmax(-1), world.ref_logps, world.rewards, world.beta).sum()
    return torch.autograd.grad(j, logits)[0]


policies = {"π_ref": WORLD.ref_logps, "π*": WORLD.optimum, "another": WORLD.optimum.flip(-1)}
print("prompt 0   online UNA's step:", expected_step(WORLD, WORLD.ref_logps)[0].numpy().round(4))
print("           −2β·∇J:           ", (-2 * BETA * slope_of_j(WORLD, WORLD.ref_logps))[0].numpy().round(4))

# %% tags=["check"]
for offset in (0.0, 4.0, -4.0):
    for name, at in policies.items():
        step, j = expected_step(plus(offset), at), slope_of_j(plus(offset), at)
        check.close(f"offset {offset:+.0f}, at {name}: the expected step is −2β∇J", step, -2 * BETA * j)
at = policies["another"]
through = sampled_step(plus(4.0), at, through_sampler=True)
check.close("at π* the expected step is 0", expected_step(plus(4.0), WORLD.optimum), 0.0)
held = expected_step(plus(4.0), at)
check.differs("differentiated through the sampler it is another problem (CU6)", through, held, 1.0)

# %% [markdown]
# The training loop of the package does the same with samples. Here is one step of `una-ref train una-online` on this
# table. The gradient that reaches the table is that of the loss on the sampled rows.

# %% tags=["check"]
job = table_job(WORLD, Config(method="una-online", batch=4, samples=3, lora_r=0, loss_kwargs={"beta": BETA}))
table = job.trainer.policy.model.table.weight
with torch.no_grad():
    table.add_(torch.randn(table.shape, generator=torch.Generator().manual_seed(1)))  # so that r_θ is not 0
rows, _ = job.answered(job.examples, 0, record=False)
job.trainer.accumulate(rows)
mine = table.detach().clone().requires_grad_()
x = torch.tensor([row.prompt[0] for row in rows for _ in row.responses])
y = torch.tensor([response[0] for row in rows for response in row.responses])
r = BETA * (mine.log_softmax(-1) - WORLD.ref_logps)[x, y]
by_hand = torch.autograd.grad(((r - WORLD.rewards[x, y]) ** 2).mean(), mine)[0]
print(f"prompts {x.tolist()}\nsampled {y.tolist()}")
check.close("the loop's gradient is that of Eq. 10 on its rows", table.grad, by_hand)

# %% [markdown]
# ## 2. With a baseline it is RLOO
#
# In Eq. 10 the factor of $\nabla\log\pi$ is the whole reward $s - r_\theta$, including its offset. Any number $V(x)$
# may be subtracted without changing the mean. With the mean of $s - r_\theta$ over the prompt's *other* responses this
# is `una-centred`. Its step is RLOO's ([notebook 04](04_una_losses.ipynb), section 4, derives it),
#
# $$\nabla\,\frac1K\sum_k \big(r_\theta + V_{-k} - s\big)^2
# = -2\beta\,\frac1K\sum_k \Big(R_k - \frac{1}{K-1}\sum_{j\neq k} R_j\Big)\nabla\log\pi(y_k), \qquad R = s - r_\theta.$$
#
# sample by sample, not only in the mean. Here the library's losses are compared on all 125 ways to sample three of
# five responses.


# %%
def of_triples(loss, **more):
    """(125, Y) gradient in the logits of a loss's mean over each group of three responses of prompt 0."""
    logits = WORLD.optimum[1].expand(125, -1).clone().requires_grad_()  # some policy, the same for all groups
    own = logits.log_softmax(-1).gather(1, drawn)
    losses = loss(logps=own.flatten(), **given, **more, beta=BETA).view(125, 3).mean(1)
    return torch.autograd.grad(losses.sum(), logits)[0]


drawn = torch.cartesian_prod(*[torch.arange(5)] * 3)
group = torch.arange(125).repeat_interleave(3)
given = {"ref_logps": WORLD.ref_logps[0, drawn].flatten(), "scores": WORLD.rewards[0, drawn].flatten()}
centred, rloo = (of_triples(METHODS[name].loss, groups=group) for name in ("una-centred", "rloo"))
raw, reinforce = (of_triples(METHODS[name].loss) for name in ("una-online", "reinforce"))
print(f"{drawn[37].tolist()} sampled: centred UNA {centred[37].numpy().round(4)}")
print(f"                   2β·RLOO     {(2 * BETA * rloo[37]).numpy().round(4)}")

# %% tags=["check"]
check.close("125 triples: una-centred = 2β·rloo", centred, 2 * BETA * rloo)
check.close("125 triples: una-online = 2β·reinforce", raw, 2 * BETA * reinforce)
p = WORLD.optimum[1][drawn].sum(1).exp()[:, None]
check.close("in the mean the baseline has no effect", (p * centred).sum(0), (p * raw).sum(0))
check.differs("sample by sample the baseline has an effect", centred, raw, by=0.1)
s_alone = leave_one_out(given["scores"], group)
of_s_alone = of_triples(METHODS["una-online"].loss, baseline=s_alone)
check.differs("a baseline of s alone, without −r_θ, is not RLOO", of_s_alone, 2 * BETA * rloo, by=0.1)

# %% [markdown]
# ## 3. What the authors' script does
#
# The released online script does not use the log-ratio to $\pi_\text{ref}$. It uses the log-ratio to the policy *that
# sampled the rollout*, with a $\sigma$ on both sides:
#
# $$\Big[\sigma\Big(k\log\frac{\pi_\theta}{\pi_\text{rollout}}\Big) - \sigma(s)\Big]^2$$
#
# The script computes and logs $\pi_\text{ref}$, but its loss does not contain it. In the first pass over a rollout the
# log-ratio is 0, so
#
# $$\mathbb{E}_\pi\,\nabla L = -\frac{k}{2}\,\mathbb{E}_\pi\Big[\big(\sigma(s) - \tfrac12\big)\nabla\log\pi\Big]
# = -\frac{k}{2}\,\nabla\,\mathbb{E}_\pi\,\sigma(s) .$$
#
# This is REINFORCE on the squashed score with the baseline ½, and it has no KL. $k$ is a factor in front, so it acts as
# a step size. In later passes a log-ratio of a few $1/k$ saturates the $\sigma$, which bounds the step.

# %% tags=["check"]
at = WORLD.optimum.flip(-1)
squashed = WORLD.rewards.sigmoid() - 0.5
by_hand = -BETA / 2 * at.exp() * (squashed - (at.exp() * squashed).sum(-1, keepdim=True))
each = online_noise.response_gradients(METHODS["una-online"].released, WORLD, at, old_logps=at, scores=WORLD.rewards)
check.close("the first pass: −k/2·∇E σ(s)", (at.exp()[..., None] * each).sum(1), by_hand)
other_ref = TableWorld(WORLD.optimum, WORLD.rewards, BETA)
script = METHODS["una-online"].released
again = online_noise.response_gradients(script, other_ref, at, old_logps=at, scores=WORLD.rewards)
check.close("with another π_ref the step is the same", again, each)
small, large = (released_online.released_descent(WORLD, 30, 4.0, beta=k)[-1] for k in (1.0, 30.0))
check.close("k = 1 and k = 30, each with its own rate: the same policy", small, large)
here, there = expected_step(WORLD, at), expected_step(other_ref, at)
check.differs("Eq. 10: another π_ref gives another step", there, here, by=0.1)

# %% [markdown]
# With unlimited samples only the losses differ, and both move towards good responses at first.
#
# > **Guess first:** no term of the script's loss limits the total distance from $\pi_\text{ref}$. Where does each end?

# %%
world = online_learning.world_of(0)  # 8 prompts × 6 responses
script = released_online.released_descent(world, 400, 4.0)
eq10, logits = [world.ref_logps], world.ref_logps
for _ in range(400):
    logits = logits - expected_step(world, logits.log_softmax(-1))
    eq10.append(logits.log_softmax(-1))
paths = {"online UNA": eq10, "online UNA, authors' code": script}
kls = {name: [kl(policy, world.ref_logps).mean().item() for policy in path] for name, path in paths.items()}
regret = {name: [world.regret(policy).mean().item() for policy in path] for name, path in paths.items()}
best_kl = kl(world.optimum, world.ref_logps).mean().item()

SVG(draw_way({"kl": kls, "regret": regret, "best_kl": best_kl}))

# %% tags=["check"]
end, went, cost = script[-1], kls["online UNA, authors' code"], regret["online UNA, authors' code"]
check.true("the script: KL past π*'s", went[-1] > 1.5 * best_kl, f"{went[-1]:.2f} nats, π* has {best_kl:.2f}")
mass = end.exp().amax(-1).mean()
check.true("the script ends at a single response", mass > 0.98, f"{mass:.3f} of the mass")
likely = (end.argmax(-1) != world.rewards.argmax(-1)).sum()
check.true("the script: not always the best response", likely > 0, f"in {likely} of 8 prompts one likelier under π_ref")
shown = f"regret {min(cost):.3f}, then {cost[-1]:.3f}"
check.true("the script: its best policy was on the way", min(cost) < 0.5 * cost[-1], shown)
check.close("Eq. 10 ends at π*", eq10[-1].exp(), world.optimum.exp(), tol=1e-2)

# %% [markdown]
# ## 4. PPO, part by part
#
# PPO has the same objective and five parts around it: the KL in the reward, a critic, generalised advantages, whitening
# and clipping. The world is the smallest one that has tokens: two words, two positions and four responses, all listed.

# %%
g = torch.Generator().manual_seed(3)
first, second = torch.randn(2, generator=g).requires_grad_(), torch.randn(2, 2, generator=g).requires_grad_()
ref_first, ref_second = torch.randn(2, generator=g).log_softmax(-1), torch.randn(2, 2, generator=g).log_softmax(-1)
scores, mask = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.ones(4, 2, dtype=torch.bool)


def laid_out(a, b):
    """(4, 2) log-probs of both tokens of the responses 00, 01, 10, 11."""
    return torch.stack([a[:, None].expand(2, 2), b], -1).view(4, 2)


def token_logps():
    return laid_out(first.log_softmax(-1), second.log_softmax(-1))


def slope(value):
    """(6,) its gradient in the six logits."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, (first, second))])


ref = laid_out(ref_first, ref_second)
old = token_logps().detach()
chance = old.sum(1).exp()
whole = token_logps().sum(1)
grad_j = slope((whole.exp() * (scores - BETA * (whole - ref.sum(1)))).sum())
print("responses 00 01 10 11, π:", chance.numpy().round(3), " s:", scores.numpy())

# %% [markdown]
# **The KL is part of the reward.** Each token is charged $-\beta\log\frac{\pi}{\pi_\text{ref}}$, the last one also
# receives the score, and the sum is $s - r_\theta$. Why not add an estimate of the KL to the loss? The gradient of an
# estimate is not an estimate of the gradient. For the two usual estimates, with
# $u = \log\frac{\pi}{\pi_\text{ref}}$:
#
# $$k_1 = u:\quad \mathbb{E}_\pi\nabla k_1 = 0, \qquad\qquad
# k_3 = e^{-u} - 1 + u:\quad \mathbb{E}_\pi\nabla k_3 = \nabla\,\mathrm{KL}(\pi_\text{ref}\,\|\,\pi).$$
#
# Four lines show it:
#
# 1. $\mathbb{E}_\pi \nabla k_1 = \sum_y \pi\, \nabla \log \pi = \nabla \sum_y \pi = 0$.
# 2. $\nabla k_3 = -e^{-u}\, \nabla \log \pi + \nabla \log \pi$, and $\pi\, e^{-u} = \pi_\text{ref}$. So
#    $\mathbb{E}_\pi \nabla k_3 = -\sum_y \pi_\text{ref}\, \nabla \log \pi + 0$.
# 3. That is the gradient of
#    $\mathrm{KL}(\pi_\text{ref} \,\|\, \pi) = \sum_y \pi_\text{ref} (\log \pi_\text{ref} - \log \pi)$.
# 4. The gradient of $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$ is $\sum_y \pi\, u\, \nabla \log \pi$, another sum.
#
# Two responses with $\pi = (\frac12, \frac12)$ and $\pi_\text{ref} = (0.8, 0.2)$, in the first logit: $\nabla \log \pi$
# is $(\frac12, -\frac12)$. So $k_3$ gives $-(0.8 - 0.2) \cdot \frac12 = -0.3$, and the KL gives
# $\frac14 (\log \frac{0.5}{0.8} - \log \frac{0.5}{0.2}) = -\frac14 \log 4 = -0.347$.
#
# The first does not regularise, and the second regularises towards another divergence. A KL that is charged only to its
# own token has another fault. The responses form a tree, and a token decides which tokens can follow:
#
# ```
#               first word              second word
#              ,-- 0 ----------------- 00 or 01      log-ratio of the first word + of 00 or 01
#     prompt --|
#              `-- 1 ----------------- 10 or 11      log-ratio of the first word + of 10 or 11
# ```
#
# The KL is the mean of the sum along a path. A first word has to be charged for the log-ratios that come after it,
# since it leads there. "Own token only" drops this part.

# %% tags=["check"]
rewards = -BETA * (old - ref)
rewards[:, -1] += scores
check.close("the library's token_rewards", policy_gradient.token_rewards(old, ref, scores, mask, BETA), rewards)
check.close("the token rewards add up to s − r_θ", rewards.sum(1), scores - BETA * (old - ref).sum(1))

whole = token_logps().sum(1)
grad_kl = slope((whole.exp() * (whole - ref.sum(1))).sum())
u = token_logps().sum(1) - ref.sum(1)
k1 = slope((chance * u).sum())
u = token_logps().sum(1) - ref.sum(1)
k3 = slope((chance * ((-u).exp() - 1 + u)).sum())
forward = slope((ref.sum(1).exp() * (ref.sum(1) - token_logps().sum(1))).sum())
to_go = (old - ref).flip(1).cumsum(1).flip(1)
in_reward = slope((chance[:, None] * to_go * token_logps()).sum())
own_token = slope((chance[:, None] * (old - ref) * token_logps()).sum())
z = torch.zeros(2, requires_grad=True)  # the two responses worked out by hand
now, of_ref = z.log_softmax(-1), torch.tensor([0.8, 0.2]).log()
ratio = now - of_ref
held = now.detach().exp()
by_k3 = torch.autograd.grad((held * ((-ratio).exp() - 1 + ratio)).sum(), z, retain_graph=True)[0][0]
by_kl = torch.autograd.grad((now.exp() * ratio).sum(), z)[0][0]
by_hand = [-0.3, -torch.tensor(4.0).log() / 4]
check.close("two responses by hand: k3 gives −0.3, the KL −¼·log 4", [by_k3, by_kl], by_hand)
check.close("k1 in the loss: no gradient", k1, 0.0)
check.close("k3 in the loss: the other KL", k3, forward)
check.differs("k3's gradient is not that of the KL", k3, grad_kl, by=0.05)
check.close("the KL in the reward: its own gradient", in_reward, grad_kl)
check.differs("each token's own term alone is not", own_token, grad_kl, by=0.05)

# %% [markdown]
# **The critic and its advantages.** $V$ predicts the value of the rest of a response.
# $\delta_t = r_t + V_{t+1} - V_t$ measures how much better a step was than predicted, and
#
# $$A_t = \delta_t + \gamma\lambda\, A_{t+1} \qquad\text{(generalised advantage estimation)}.$$
#
# It runs from the last token to the first. Two tokens with rewards $(0, 1)$, values $(0.5, 0.8)$ and $\gamma = 1$:
#
# ```
# token                   1                        2              end
# reward                  0                        1
# V                       0.5                      0.8             0
# δ = r + next V − V      0 + 0.8 − 0.5 = 0.3      1 + 0 − 0.8 = 0.2
# A = δ + λ·next A        0.3 + λ·0.2     <------  0.2
# ```
#
# With $\lambda = 1$ the sum telescopes: $V_2$ cancels, and $A_1 = 0 + 1 - 0.5$. With $\lambda = 0$ it is $\delta_1$, in
# which $V_2$ stands for the reward that is still to come.
#
# With $\lambda = 1$ the advantage is the remaining reward minus $V_t$, which is a baseline. The expected update is then
# $-\nabla J$ for every critic. With $\lambda < 1$ the critic's prediction replaces part of the reward. This reduces
# noise and adds a bias that comes from the critic's error.


# %%
def gae(rewards, values, lam):
    """(B, T) advantages at γ = 1, for responses of full length."""
    advantages, after, following = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        after = rewards[:, t] + following - values[:, t] + lam * after
        following, advantages[:, t] = values[:, t], after
    return advantages


def updates(advantages):
    """(4, 6) PPO's gradient on each response alone, at ratio 1."""
    held = {"values": 0 * old, "old_values": 0 * old, "returns": 0 * old, "mask": mask, "value_weight": 0.0}
    held |= {"old_token_logps": old, "advantages": advantages}
    return torch.stack([slope(METHODS["ppo"].loss(token_logps=token_logps(), **held)[k]) for k in range(4)])


total = rewards.sum(1)
rest = torch.stack([(chance * total)[i : i + 2].sum() / chance[i : i + 2].sum() for i in (0, 2)])  # after each word
right = torch.stack([(chance * total).sum().expand(4), rest.repeat_interleave(2) - rewards[:, 0]], 1)
critics = {"no critic": 0 * old, "a wrong one": right + torch.tensor([[1.0, 2.0], [1, 2], [1, -1], [1, -1]])}
critics["the right one"] = right
found = {}
for name, values in critics.items():
    for lam in (1.0, 0.95, 0.0):
        each = updates(policy_gradient.gae(rewards, values, mask, gamma=1.0, lam=lam))
        mean = (chance[:, None] * each).sum(0)
        bias, variance = (mean + grad_j).norm(), (chance[:, None] * (each - mean) ** 2).sum()
        found[name, lam] = bias.item(), variance.item()
        print(f"{name:<14} λ = {lam:<4}  bias {bias:.4f}   variance of one response's gradient {variance:.3f}")

# %% tags=["check"]
for lam in (1.0, 0.95, 0.0):
    values = critics["a wrong one"]
    check.close(f"gae, λ = {lam}", gae(rewards, values, lam), policy_gradient.gae(rewards, values, mask, 1.0, lam))
of_two = [gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.8]]), lam)[0] for lam in (1.0, 0.0)]
check.close("two tokens by hand: A₁ is 0.5 at λ = 1, 0.3 at λ = 0", torch.stack(of_two), [[0.5, 0.2], [0.3, 0.2]])
check.close("λ = 1: no bias for any critic", [found[name, 1.0][0] for name in critics], 0.0)
check.differs("λ = 0.95 with a wrong critic: biased", found["a wrong one", 0.95][0], 0.0, by=0.02)
check.true("the right critic: less noise", found["the right one", 1.0][1] < found["no critic", 1.0][1])

# %% [markdown]
# **Whitening** brings a rollout's advantages to mean 0 and variance 1. The mean that it subtracts is *one* baseline for
# all prompts, the constant $c$ of UNA's Discussion 3, estimated anew in every rollout. The unit of the rewards cancels.
#
# **Clipping** ends the push on a response whose probability has changed by more than a factor $1 \pm \epsilon$:
#
# $$-\min\big(\rho A,\ \text{clip}(\rho, 1 - \epsilon, 1 + \epsilon)\,A\big), \qquad
# \rho = \frac{\pi}{\pi_\text{old}}.$$
#
# It matters when a rollout is used more than once. The cell below has 200 small rollouts, with four responses of each
# of the four prompts. Each rollout is used up to 200 times, without a critic. Without clipping a few uses help; with
# more, the policy moves to the best of the four sampled responses. Clipping makes further uses harmless here.

# %%
g = torch.Generator().manual_seed(0)
chance_of = WORLD.ref_logps.exp().repeat(200, 1)  # (800, 5): π_old = π_ref
drawn_y = chance_of.multinomial(4, replacement=True, generator=g)
ratings = WORLD.rewards.repeat(200, 1).gather(1, drawn_y)
flat = {"advantages": (ratings - ratings.mean(1, keepdim=True)).view(-1, 1), "mask": ratings.view(-1, 1) < 99}
flat["old_token_logps"] = chance_of.log().gather(1, drawn_y).view(-1, 1)
flat |= dict.fromkeys(("values", "old_values", "returns"), torch.zeros(ratings.numel(), 1))
reused, far = {}, {}
for name, clip in (("clipped at 0.2", 0.2), ("not clipped", 1e9)):
    logits = chance_of.log().requires_grad_()
    for use in range(1, 201):
        now = logits.log_softmax(-1).gather(1, drawn_y).view(-1, 1)
        loss = METHODS["ppo"].loss(token_logps=now, **flat, ratio_clip=clip).sum() / 4
        logits = (logits - 0.2 * torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
        if use in (5, 20, 100, 200):
            policy = logits.detach().log_softmax(-1)
            reused[name, use] = sum(WORLD.regret(one).mean().item() for one in policy.view(200, 4, 5)) / 200
            far[name] = (policy.gather(1, drawn_y) - flat["old_token_logps"].view(-1, 4)).exp().amax().item()
    uses = "  ".join(f"{reused[name, use]:.3f}" for use in (5, 20, 100, 200))
    print(f"{name:<15} regret after 5, 20, 100, 200 uses: {uses}   largest π/π_old {far[name]:5.2f}")
print(f"π_ref {WORLD.regret(WORLD.ref_logps).mean():31.3f}")

# %% tags=["check"]
A = WORLD.rewards - (WORLD.ref_logps.exp() * WORLD.rewards).sum(-1, keepdim=True)
white = policy_gradient.whitened(A, A < 99)
check.close("whitened: mean 0, variance 1", white, (A - A.mean()) / A.std(), tol=1e-7)
check.close("whitening: an offset and the unit cancel", policy_gradient.whitened(10 * A + 4, A < 99), white, tol=1e-7)
per_prompt = policy_gradient.whitened(A + torch.arange(4)[:, None], A < 99)
check.differs("whitening: an offset of each prompt remains", per_prompt, white, by=0.5)
rho = torch.linspace(0.4, 1.8, 29)
for a in (2.0, -2.0):
    mine = -torch.minimum(rho * a, rho.clamp(0.8, 1.2) * a)
    one = {"token_logps": rho.log()[:, None], "advantages": torch.full((29, 1), a), "mask": rho[:, None] > 0}
    none = dict.fromkeys(("old_token_logps", "values", "old_values", "returns"), torch.zeros(29, 1))
    check.close(f"the clipped ratio, A = {a:+.0f}", METHODS["ppo"].loss(**one, **none), mine)
still = [reused["clipped at 0.2", use] for use in (20, 200)]
spoilt = [reused["not clipped", use] for use in (20, 200)]
shown = [f"regret {a:.3f}, then {b:.3f}" for a, b in (still, spoilt)]
check.true("clipped: more uses change little", abs(still[0] - still[1]) < 0.03, shown[0])
check.true("not clipped: the rollout is overfitted", spoilt[1] > 1.3 * spoilt[0], shown[1])
check.true("not clipped: ratios ten times as large", far["not clipped"] > 10 * far["clipped at 0.2"])

# %% [markdown]
# So PPO is $\nabla J$ with two guards against noise (critic, whitening) and one against repeated use of samples
# (clipping). Online UNA has none of the three. The next sections measure whether that matters.
#
# ## 5. How noisy is a step?
#
# The expected step of Eq. 10, of centred UNA and of PPO's start is $\nabla J$, up to a factor. The authors' script is
# different: its expected step is $\nabla\,\mathbb{E}_\pi\,\sigma(s)$ (section 3). For each of them we compare the noise
# with its own mean. For one response of each prompt,
#
# $$\frac{\text{noise}}{\text{signal}}
# = \frac{\sum_x \text{Var}_{y\sim\pi}(g)}{\sum_x \|\mathbb{E}_{y\sim\pi}\,g\|^2}.$$
#
# At this number of responses per prompt, the noise of their mean is as large as the mean. The ratio is computed by
# enumeration at $\pi_\text{ref}$, for a constant added to the rewards (40 prompts × 8 responses):

# %%
OFFSETS = [-8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8]
HOW = {
    "eq10": "online UNA",
    "released": "online UNA, authors' code",
    "whitened": "whitened, no critic (PPO's start)",
    "v": "with V(x) (centred UNA, PPO's critic)",
}
wide = example_worlds.WORLD
pi = wide.ref_logps.exp()  # at π_ref r_θ = 0, so the residual is −(s − baseline)
FACTORS = {  # what multiplies ∇log π(y): one number for each response
    "eq10": lambda s: -2 * BETA * s,
    "released": lambda s: -BETA / 2 * (s.sigmoid() - 0.5),
    "whitened": lambda s: -2 * BETA * (s - (pi * s).sum(-1).mean()),
    "v": lambda s: -2 * BETA * (s - (pi * s).sum(-1, keepdim=True)),
}
directions = torch.eye(8) - pi[:, None, :]  # ∇ log π(y) in the logits, for each y


def mean_and_ratio(how, offset):
    """(X, Y) the expected step of one response a prompt, and its variance over its square."""
    g = FACTORS[how](wide.rewards + offset)[..., None] * directions
    mean = (pi[..., None] * g).sum(1)
    return mean, ((pi * (g**2).sum(-1)).sum() - (mean**2).sum()) / (mean**2).sum()


noise = {how: [mean_and_ratio(how, o)[1].item() for o in OFFSETS] for how in HOW}
print("offset " + "".join(f"{o:>9}" for o in OFFSETS[::2]))
for how in HOW:
    print(f"{how:<9}" + "".join(f"{value:9.3g}" for value in noise[how][::2]))

# %% tags=["check"]
library = {how: [online_noise.noise(shifted(wide, o), how) for o in (-8, 0, 4)] for how in HOW}
for how, values in library.items():
    mine = [noise[how][OFFSETS.index(o)] / value for o, value in zip((-8, 0, 4), values, strict=True)]
    check.close(f"{how}: the noise by hand = the ledger's", mine, 1.0, tol=1e-9)
straight = -slope_of_j(wide, wide.ref_logps)
for offset in (0.0, 8.0):
    means = {how: mean_and_ratio(how, offset)[0].flatten() for how in HOW}
    cosines = {how: torch.cosine_similarity(mean, straight.flatten(), 0) for how, mean in means.items()}
    for how in ("eq10", "whitened", "v"):
        check.close(f"offset {offset:.0f}, {how}: the mean step is along ∇J", cosines[how], 1.0)
    check.true(f"offset {offset:.0f}, the script: its mean step is not along ∇J", cosines["released"] < 0.999,
               f"cosine {cosines['released']:.3f}")  # fmt: skip
at0, at4, at8 = (noise["eq10"][OFFSETS.index(o)] for o in (0, 4, 8))
growth = (at8 - at4) / (at4 - at0)  # (8² − 4²)/4² = 3
check.true("Eq. 10: noise grows with the square of the offset", 2.5 < growth < 3.5, f"{at0:.1f}, {at4:.0f}, {at8:.0f}")
script4, script8 = (noise["released"][OFFSETS.index(o)] for o in (4, 8))
check.true("the script: noise grows with its exponential", script8 > 1000 * script4, f"{script4:.0f}, {script8:.1e}")
check.close("with V(x): no change", noise["v"], noise["v"][0], tol=1e-9)
check.close("whitened: no change, if all prompts share the offset", noise["whitened"], noise["whitened"][0], tol=1e-9)
own = 4 * torch.randn(40, 1, generator=torch.Generator().manual_seed(1))
apart = {how: online_noise.noise(shifted(example_worlds.WORLD, own), how) for how in HOW}
check.true("an offset per prompt (sd 4): whitening does not help", apart["whitened"] > 10 * apart["v"],
           ", ".join(f"{how} {apart[how]:.0f}" for how in HOW))  # fmt: skip
at_optimum = online_noise.noise_at_optimum()
check.close("at π* centred UNA has no noise: every residual is 0", at_optimum["centred"], 0.0)
check.differs("at π* Eq. 10 has noise: its residual is −β·log Z(x)", at_optimum["eq10"], 0.0, by=0.4)
check.differs("at π* PPO has noise: a critic off by 0.01, whitened", at_optimum["ppo_whitened"], 0.0, by=0.9)

# %% [markdown]
# ### And in training?
#
# The package's own loop runs on tables of 8 prompts × 6 responses, with 4 responses of each prompt a step. Each method
# has the same number of steps and of reward calls. PPO has a critic of its own and one pass. Every method runs at four
# learning rates in three conditions:
#
# - rewards around 0;
# - all rewards 4 higher;
# - each prompt's rewards shifted by a number of its own (sd 4).
#
# The numbers are means over worlds with 95 % intervals.

# %%
SEEDS, STEPS = scale(full=(range(10), 200), ci=(range(4), 50))
RATES = (0.05, 0.1, 0.2, 0.5)
CONDITIONS = {"around 0": {}, "all + 4": {"offset": 4.0}, "each prompt its own": {"spread": 4.0}}
NAMES = {"eq10": "online UNA", "released": "online UNA, authors' code", "ppo": "PPO", "centred": "centred UNA = RLOO"}
grid = {}
for name in NAMES:
    for condition, more in CONDITIONS.items():
        for rate in RATES:
            # An offset does not change centred UNA's run: checked below, not run again.
            own = {} if name == "centred" else more
            grid[name, condition, rate] = online_learning.regret_over_seeds(name, rate, SEEDS, **own, steps=STEPS)
worlds = [online_learning.world_of(seed) for seed in SEEDS]
at_ref = sum(world.metrics(world.ref_logps)["regret"] for world in worlds) / len(SEEDS)
print(f"regret after {STEPS} steps of 32 responses, {len(SEEDS)} worlds; π_ref {at_ref:.3f}")
for condition in CONDITIONS:
    print(f"{f'rewards {condition}':<30}" + "".join(f"lr {rate:<14}" for rate in RATES).rstrip())
    for name, title in NAMES.items():
        cells = (grid[name, condition, rate] for rate in RATES)
        print(f"    {title:<26}" + "    ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in cells))

# %% tags=["check"]
for more in ({"offset": 4.0}, {"spread": 4.0}):
    pair = [online_learning.run("centred", 0.1, 0, **own, steps=STEPS) for own in ({}, more)]
    check.close(f"centred UNA, {more}: the same run", *pair, tol=1e-9)
best = {(n, c): min(grid[n, c, rate] for rate in RATES) for n in NAMES for c in CONDITIONS}
for condition in ("all + 4", "each prompt its own"):
    (una, una_ci), (ppo, ppo_ci) = best["eq10", condition], best["ppo", condition]
    behind = una - una_ci > ppo + ppo_ci
    check.true(f"{condition}: at its best rate Eq. 10 is behind PPO", behind, f"{una:.3f}, {ppo:.3f}")
usable = {(n, c): sum(grid[n, c, rate][0] < 0.1 for rate in RATES) for n in NAMES for c in CONDITIONS}
for name, title in NAMES.items():
    print(f"{title:<26} rates of 4 with a regret below 0.1: {[usable[name, c] for c in CONDITIONS]}")
check.true("all + 4: no rate works for Eq. 10", usable["eq10", "all + 4"] == 0)
rest = [usable[n, "all + 4"] for n in ("ppo", "centred")]
check.true("all + 4: two rates or more work for PPO and centred UNA", min(rest) >= 2, f"{rest} of 4")

# %%
trained_at = {c: {name: [grid[name, c, rate] for rate in RATES] for name in NAMES} for c in ("around 0", "all + 4")}
curves = {"offsets": OFFSETS, "noise": noise | {"centred": noise["v"]}, "names": NAMES, "rates": RATES}
SVG(draw_noise_and_training(curves | {"regret": trained_at, "reference": at_ref, "steps": STEPS}))

# %% [markdown]
# ## 6. Replay
#
# Samples are expensive, so one would like to reuse them. PPO can reuse them only for a few passes, because its gradient
# is that of the policy that sampled. Centred UNA is a regression with $\pi^*$ as its minimiser for *every* sampler that
# gives each response ([notebook 04](04_una_losses.ipynb), section 4). So old rollouts remain valid. Eq. 10 without
# $V(x)$ is valid on-policy only. On old rows it is the offline regression, whose minimum moves with the offset of the
# rewards.

# %%
replay = {}
for name in ("replay", "eq10 replay"):
    for offset in (0.0, 4.0):
        replay[name, offset] = online_learning.regret_over_seeds(name, 0.1, SEEDS, offset, steps=scale(full=100, ci=25))
        print(f"{name:<12} offset {offset:.0f}: regret {replay[name, offset][0]:.3f} ± {replay[name, offset][1]:.3f}")

# %% tags=["check"]
at0, at4, raw4 = replay["replay", 0.0][0], replay["replay", 4.0][0], replay["eq10 replay", 4.0][0]
check.close("centred UNA with replay: the offset has no effect", at0, at4, tol=1e-9)
check.true("Eq. 10 with replay: the offset decides", raw4 > 4 * at4, f"{raw4:.3f}, centred {at4:.3f}")

# %% [markdown]
# This needs a class of policies that contains $\pi^*$. Take a class with three parameters for eight prompts, which
# cannot be right everywhere. Then the *weights* of the errors decide where the regression ends, and the sampler chooses
# the weights. On-policy it stops where $\nabla J = 0$ (section 1). On other rows it stops at another member (CU9).
#
# $\nabla J = 0$ is not yet the largest $J$. Take three responses with $\pi_\text{ref} = (0.3, 0.6, 0.1)$, rewards
# $(1, -1, 3)$, $\beta = \frac12$, and one parameter: $\pi \propto \pi_\text{ref}\, (e^{-\theta}, 1, e^{\theta})$. At
# $\theta = 0$ the slope is the covariance of $(-1, 0, 1)$ and the rewards, $0 - (-0.2) \cdot 0 = 0$, and $J = 0$ is a
# minimum. On-policy steps from the left of 0 end near the first response. From the right they end near the third, with
# a larger $J$. The cell prints both.
#
# A replay buffer is filled by the policy itself. Where the policy comes to rest, the whole buffer was sampled from it,
# and
#
# $$\pi_\text{buffer} = \pi_\theta \quad\Rightarrow\quad \mathbb{E}\,\nabla L = -2\beta\,\nabla J = 0 .$$
#
# So a buffer that *forgets* rests where on-policy training does, after some delay. Rows that stay do not: a fixed data
# set, or a part of the buffer that is never removed. With unlimited samples:

# %%
narrow = shifted(TableWorld.random(0, prompts=8, responses=6, beta=BETA), 1.0)
features = torch.randn(8, 6, 3, generator=torch.Generator().manual_seed(5))


def member(theta):
    """log π of the class's member (3,) -> (8, 6)."""
    return (narrow.ref_logps + features @ theta).log_softmax(-1)


def trained(keep, steps, fixed=0.0):
    """θ after steps of centred UNA on the last `keep` rollouts, with a share `fixed` of all rows always from π_ref."""
    theta, past = torch.zeros(3), []
    for _ in range(steps):
        past = [*past, member(theta).exp()][-keep:]
        sampler = (1 - fixed) * torch.stack(past).mean(0) + fixed * narrow.ref_logps.exp()
        at = theta.clone().requires_grad_()
        loss = una_regression(narrow.ref_logps, narrow.rewards, BETA, sampler_logps=sampler.log(), baseline="prompt")
        theta = theta - torch.autograd.grad(loss(member(at)), at)[0]
    return theta


def j_of(theta):
    return objective(member(theta), narrow.ref_logps, narrow.rewards, BETA).mean().item()


def on_policy_end(theta, steps):
    """θ, J and ∇J after exact on-policy steps of centred UNA in the class with one parameter."""
    given_ref, given_r = torch.tensor([[0.3, 0.6, 0.1]]).log(), torch.tensor([[1.0, -1.0, 3.0]])
    theta = torch.tensor(theta)
    for step in range(steps + 1):
        at = theta.clone().requires_grad_()
        logps = (given_ref + at * torch.tensor([-1.0, 0.0, 1.0])).log_softmax(-1)
        if step < steps:
            loss = una_regression(given_ref, given_r, BETA, sampler_logps=logps.detach(), baseline="prompt")
            theta = theta - torch.autograd.grad(loss(logps), at)[0]
    j = objective(logps, given_ref, given_r, BETA).mean()
    return theta.item(), j.item(), torch.autograd.grad(j, at)[0].item()


stops = {start: on_policy_end(start, steps) for start, steps in ((-0.5, 1000), (0.0, 0), (0.5, 1000))}
for start, (end_theta, end_j, slope_there) in stops.items():
    print(f"one parameter, from θ = {start:+.1f}: θ {end_theta:+.2f}, J {abs(end_j):.3f}, ∇J {abs(slope_there):.3f}")

on_policy = trained(1, 600)
best_j = j_of(on_policy)
behind = {}
for name, asked in {
    "on-policy": {"keep": 1},
    "the last 20 rollouts": {"keep": 20},
    "all rollouts": {"keep": 10_000},
    "half of the rows always from π_ref": {"keep": 20, "fixed": 0.5},
    "all rows from π_ref (offline)": {"keep": 1, "fixed": 1.0},
}.items():
    behind[name] = [best_j - j_of(trained(steps=steps, **asked)) for steps in (30, 100, 600)]
    print(f"{name:<38} J behind the on-policy end after 30, 100, 600 steps: "
          + "  ".join(f"{abs(gap):.5f}" for gap in behind[name]))  # fmt: skip

# %% tags=["check"]
at = on_policy.clone().requires_grad_()
j = objective(member(at), narrow.ref_logps, narrow.rewards, BETA).mean()
check.close("on-policy: ∇J = 0 there", torch.autograd.grad(j, at)[0], 0.0, tol=1e-7)
check.close("one parameter: ∇J = 0 at all three points", [one[2] for one in stops.values()], 0.0, tol=1e-3)
check.true("one parameter: on-policy ends at a smaller J from the left", stops[-0.5][1] < stops[0.5][1] - 1)
nearby = [on_policy_end(near, 0)[1] for near in (-0.1, 0.1)]
check.true("one parameter: θ = 0 is a minimum of J", min(nearby) > abs(stops[0.0][1]))
far = narrow.regret(member(on_policy)).mean()
check.true("on-policy: the end is not π*", far > 0.3, f"regret {far:.3f}")
check.close("a buffer that forgets: the same J as on-policy", behind["the last 20 rollouts"][-1], 0.0, tol=1e-7)
check.true("a buffer that forgets: later", behind["the last 20 rollouts"][0] > 3 * behind["on-policy"][0])
check.differs("offline: another member", behind["all rows from π_ref (offline)"][-1], 0.0, by=0.01)
kept = behind["half of the rows always from π_ref"][-1]
check.differs("half of the rows from π_ref: not the on-policy end", kept, 0.0, by=0.001)

# %% [markdown]
# ## 7. Which models are held
#
# A model is counted if a step runs it. "Reward" is the reward model, which every method needs. The reference costs one
# forward pass, and with LoRA it needs no further weights.

# %%
print(f"{'':<26} policy  reference  reward  value   parameters trained on this table")
held = {}
for title, asked in {
    "PPO, its own critic": ("ppo", {}),
    "PPO, a value head": ("ppo", {"critic": "head"}),
    "online UNA (Eq. 10)": ("eq10", {}),
    "centred UNA = RLOO": ("centred", {}),
}.items():
    held[title] = online_learning.models(asked[0], **asked[1])
    of = held[title]
    print(f"{title:<26} {of['policy']:>6} {of['reference']:>10} {of['reward']:>7} {of['value']:>6} {of['trained']:>8}")

# %% tags=["check"]
values = [of["value"] for of in held.values()]
check.true("PPO with its own critic: one model more; with a head: as many as UNA", values == [1, 0, 0, 0])
check.true("centred UNA needs no more than Eq. 10", held["centred UNA = RLOO"] == held["online UNA (Eq. 10)"])

# %% [markdown]
# ## 8. On language: the committed comparison
#
# Tables favour PPO: every response has its own parameter, and a critic that has seen a prompt knows it. So the same
# methods run on ToySteer, with a tiny Mistral under LoRA. Each world has one reward model, trained on 1,024 pairs. Each
# method has 2,048 reward calls and its best learning rate of one grid, chosen on other worlds. The command
# `una-ref compare --online` made the record that this section reads.
#
# The reward model can be listed as well, so there are two exact regrets. One is measured by the proxy, which is the
# reward model that the methods optimise. The other is measured by the true reward.

# %%
committed = Path(una_ref.__file__).parents[1] / "figures" / "runs" / "compare_online"
study = json.loads((committed / "results.json").read_text(encoding="utf-8"))
Markdown(ONLINE.table({"methods": study["methods"]}))

# %%
SVG(draw_methods(study["methods"], name="13_online_methods"))

# %% [markdown]
# A reward model does not determine its own zero, because pairs cannot show it. The next table adds a constant to all
# scores:

# %%
Markdown(ONLINE.table({"offset": study["offset"]}))

# %%
SVG(draw_offset(study["offset"], name="13_online_offset"))


# %%
def lead(better, worse, measure="regret"):
    """Mean and half width of the 95 % interval of worse − better, paired by world."""
    values = {row["name"]: row[measure]["values"] for row in study["methods"]["rows"]}
    return interval([b - a for a, b in zip(values[better], values[worse], strict=True)])


# Centred UNA and RLOO are one step up to a factor (section 2), so no line compares them.
STATEMENTS = {
    "online UNA (Eq. 10) beats PPO": ("una-online", "ppo"),
    "the authors' code beats PPO": ("una-online.released", "ppo"),
    "centred UNA beats PPO": ("una-centred", "ppo"),
    "centred UNA with replay beats PPO": ("una-centred.replay", "ppo"),
    "centred UNA beats iterative DPO": ("una-centred", "iterative-dpo"),
    "centred UNA beats the base": ("una-centred", "base"),
}
for statement, pair in STATEMENTS.items():
    mean, half = lead(*pair)
    verdict = "yes" if mean > half else "no" if mean < -half else "open"
    print(f"{statement:<36} {mean:+.3f} ± {half:.3f}  {verdict}")
of = {row["name"]: row for row in study["methods"]["rows"]}
learning = {name: of[name]["seconds"]["learning"]["mean"] / of[name]["updates"] for name in ("ppo", "una-online")}
print(f"learning, ms an update: PPO {1e3 * learning['ppo']:.0f}, online UNA {1e3 * learning['una-online']:.0f}")
print(f"parameters held: PPO {sum(of['ppo']['models'].values()):,}, UNA {sum(of['una-online']['models'].values()):,}")

# %% tags=["check"]
rows = study["offset"]["rows"]
by = {(row["name"], row["offset"]): row["regret"]["mean"] for row in rows if not row["retuned"]}
offsets = sorted({offset for _, offset in by})
for name in ("rloo", "una-centred"):
    same = [abs(by[name, offset] - by[name, 0.0]) for offset in offsets]
    check.true(f"{name}: no offset changes the regret", max(same) < 1e-3, f"by {max(same):.1g} at most")
spread = [by["una-online", offset] for offset in (-4.0, 0.0, 4.0)]
shown = f"{[round(x, 3) for x in spread]}"
check.true("Eq. 10: an offset of 4 raises the regret", min(spread[0], spread[2]) > 1.3 * spread[1], shown)
twins = {"una-centred", "rloo"}
check.true("no statement compares centred UNA with RLOO", all(set(pair) != twins for pair in STATEMENTS.values()))
rates = [of[name]["lr"] for name in ("una-centred", "rloo")]
both = [torch.tensor(of[name]["regret"]["values"]) for name in ("una-centred", "rloo")]
gap = (both[0] - both[1]).abs().max().item()
spread_of_worlds = both[1].std().item()
check.true("the record: they differ by what clipping makes of the factor", rates[0] == rates[1] and gap < 0.005,
           f"by {gap:.4f} at most in a world; worlds differ by an sd of {spread_of_worlds:.3f}")  # fmt: skip
check.true("the record: PPO holds one model more", len(of["ppo"]["models"]) == len(of["una-online"]["models"]) + 1)
mine, theirs = of["ppo"]["regret"]["mean"], of["una-online.released"]["regret"]["mean"]
check.true("the record: the authors' code is behind PPO", theirs > 1.5 * mine, f"{theirs:.3f}, PPO {mine:.3f}")

# %% [markdown]
# ## 9. What of simpler, steadier, faster, smaller holds?
#
# - **Simpler: yes.** It is one squared error against five parts with eight settings. But it is as simple as REINFORCE,
#   which it is (section 1). The parts that it leaves out have effects (section 4).
# - **Steadier: not as printed.** An offset in the rewards adds noise to Eq. 10 and not to PPO with its critic (section
#   5). In the record an offset changes Eq. 10's regret, and not centred UNA's (section 8). With a leave-one-out
#   baseline it is steady at any offset, and it has no noise at the optimum. This is RLOO.
# - **Faster: per update, read section 8.** It prints the time per update of PPO and of online UNA. At an equal number
#   of reward calls, the table of section 8 gives the regrets. The verdicts below it say which differences exceed their
#   interval. The paper's 8 hours against 6.5 are one run each.
# - **Smaller: by the value model**, if that is a separate model: three models instead of four. RLOO saves as much, and
#   so does a value head on the policy.
#
# The fifth word is "outperforms". The paper's Tables 4 and 5 have 12 tasks, 6 wins and 2 ties. With Table 6 the paper
# counts 8 wins of 14 (CU26). The script behind these tables trains another loss (section 3).

# %% tags=["check"]
wins, ties, tasks = {}, {}, {}
for name in ("4", "5", "6"):
    rows_of = printed()[name].numbers()
    last = None if name == "6" else -1  # Tables 4 and 5 end with an average
    signs = [(a > b) - (a < b) for a, b in zip(rows_of["UNA"][:last], rows_of["RLHF"][:last], strict=True)]
    wins[name], ties[name], tasks[name] = signs.count(1), signs.count(0), len(signs)
two_tables = [sum(count[name] for name in "45") for count in (tasks, wins, ties)]
check.true("Tables 4 and 5: 12 tasks, 6 wins, 2 ties", two_tables == [12, 6, 2], f"{two_tables}")
check.true("with Table 6: 8 wins of 14", (sum(wins.values()), sum(tasks.values())) == (8, 14))

# %% [markdown]
# ## What we learned
#
# - The expected step of online UNA is the policy gradient, at any policy and offset: *the expected step is −2β∇J*.
#   Through the sampler it is another problem: *differentiated through the sampler*.
# - With the leave-one-out baseline it is RLOO, sample by sample: *una-centred = 2β·rloo*. The baseline has to contain
#   $-r_\theta$ too: *a baseline of s alone*.
# - The loss of the authors' script does not contain $\pi_\text{ref}$: *with another π_ref the step is the same*. It
#   goes past π\* (*KL past π\*'s*) to a single response, and its $k$ is a step size: *k = 1 and k = 30*.
# - The KL belongs in the reward: *k1 in the loss: no gradient*, *k3 in the loss: the other KL*, *each token's own term
#   alone is not*.
# - PPO's critic is a baseline at λ = 1 (*no bias for any critic*) and a bias below (*λ = 0.95 with a wrong critic*).
# - Whitening subtracts one constant for all prompts (*an offset of each prompt remains*). Clipping is for repeated use
#   of samples (*not clipped: the rollout is overfitted*).
# - Eq. 10's noise grows with the square of the offset, and the script's with its exponential. Centred UNA's does not
#   grow: *with the square*, *with its exponential*, *with V(x): no change*.
# - In training at an offset Eq. 10 falls behind PPO: *at its best rate Eq. 10 is behind PPO*.
# - Centred UNA allows replay, and Eq. 10 does not: *the offset has no effect*, *the offset decides*.
# - If the class does not contain π\*, a buffer that forgets ends where on-policy training does. Rows that stay do not:
#   *a buffer that forgets*, *offline: another member*. That end is a point with $\nabla J = 0$, not always the largest
#   $J$ of the class: *one parameter*.
# - UNA saves the value model, and so does every method without a critic: *with a head: as many as UNA*.
#
# The ledger's entries, without [misprints](../docs/errata.md):

# %%
Markdown(
    markdown([entry for entry in CLAIMS.values() if entry.notebook == "13_online_alignment" and not entry.misprint])
)

# %% [markdown]
# ## Limits
#
# - In tables every response has its own parameter, so nothing generalises. A critic of a table is exact once it has
#   seen a prompt often enough, which favours PPO.
# - The language of section 8 is tiny as well: a few worlds of eight prompts (see its table), and learning rates chosen
#   on two others.
# - Rewards have sd 1 in each prompt, and β is ½. The size of an offset counts in these units. With a reward model whose
#   outputs have mean 0 per prompt, Eq. 10 and the centred form would differ less.
# - There are few worlds at the scale of this page; `UNA_REF_SCALE=full` takes ten.
# - PPO runs in section 5 with one pass, so that all methods have equally many updates.
# - The authors' script is represented by its loss. Its other parts, such as its length penalty, are not included.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell, which checks it. Hints and answers are folded below.
#
# **1.** (Code.) Take `example_worlds.WORLD` with all rewards 3 higher. Which constant $c$, subtracted from all
# rewards, makes Eq. 10's noise over signal at $\pi_\text{ref}$ smallest? (One number; the check computes the noise.)

# %%
mine = ...  # a number

if mine is not ...:
    around = [online_noise.noise(shifted(example_worlds.WORLD, 3.0 - mine + d), "eq10") for d in (-0.2, 0.0, 0.2)]
    check.true("exercise 1", around[1] == min(around), f"{around[1]:.4f}")

# %% [markdown]
# **2.** (Pencil.) PPO's clipped ratio with $A > 0$: between which two values of $\rho$ does the response still get a
# push? And with $A < 0$? Write both intervals for $\epsilon = 0.2$, with `float("inf")` or 0 for an open end.

# %%
mine = ...  # ((low, high) for A > 0, (low, high) for A < 0)

if mine is not ...:
    for a, (low, high) in zip((1.0, -1.0), mine, strict=True):
        rho = torch.linspace(0.07, 2.97, 59)  # no value lies on an end of an interval
        at = rho.log()[:, None].requires_grad_()
        none = dict.fromkeys(("old_token_logps", "values", "old_values", "returns"), torch.zeros(59, 1))
        loss = METHODS["ppo"].loss(token_logps=at, advantages=torch.full((59, 1), a), mask=rho[:, None] > 0, **none)
        pushed = torch.autograd.grad(loss.sum(), at)[0][:, 0] != 0
        check.true(f"exercise 2, A = {a:+.0f}", torch.equal(pushed, (rho > low) & (rho < high)))

# %% [markdown]
# **3.** (Pencil.) Take a baseline that includes the response's own term: the mean of a group of $K$ responses. By
# which factor is the expected step then too small? Give it as a function of $K$.

# %%
mine = ...  # a function of K

if mine is not ...:
    policy = WORLD.optimum[1]
    e = given["scores"].view(125, 3) - BETA * (policy[drawn] - given["ref_logps"].view(125, 3))
    advantage = e - e.mean(1, keepdim=True)
    grads = (advantage[..., None] * (torch.nn.functional.one_hot(drawn, 5) - policy.exp())).mean(1)
    check.close("exercise 3", (p * grads).sum(0), mine(3) * (p * (-centred / (2 * BETA))).sum(0))

# %% [markdown]
# **4.** (Open.) A reward model's scores drift upwards while the policy trains. Which of the methods here would you
# trust, and which number would you plot to see the drift?
#
# <details>
# <summary>Hints</summary>
#
# **1.** Which part of the reward is noise at every response? **2.** Draw both arguments of the minimum over $\rho$.
# **3.** How much of a group's mean is the response itself? **4.** Which methods subtract what drifts?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `3.0`, or about that. The remaining rewards then have mean 0 in each prompt, up to the weights of
# $\pi_\text{ref}$. It is the whitening of PPO's first rollout, not a number per prompt.
#
# **2.** `((0, 1.2), (0.8, float("inf")))`: a response that has already moved the right way by more than ε gets no push.
# One that moved the wrong way still does.
#
# **3.** `lambda k: (k - 1) / k`: the mean contains a $K$-th of the response's own term.
#
# **4.** Those with a baseline from the same rollout: RLOO, centred UNA, PPO's whitening. Plot the mean score of fixed
# responses, for instance of $\pi_\text{ref}$.
#
# </details>
