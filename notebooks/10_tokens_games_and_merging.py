# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What changes when the reward is one of tokens, when there is no reward at all, and when two trainings are merged?
#
# The notebooks before this one have one reward for one response, and one training. The survey of alignment by UNA's
# authors ("the survey") has three groups of methods that leave this frame:
#
# 1. **Tokens.** DPO gives each token a reward (survey Eq. 20–24). TDPO adds a KL for each prefix (survey Eq. 25–28).
#    CRINGE contrasts single tokens (survey Eq. 29 and 30).
# 2. **Games.** Preferences may run in a circle. No reward describes them, and the target is an equilibrium
#    (survey Eq. 55–62).
# 3. **Merging and steps.** SFT and alignment run one after the other, together (survey Eq. 2), or in parallel with a
#    merge at the end (survey Eq. 43). Iterated training needs a rule for when to stop.
#
# **Claims.** DPO's token rewards are exact, but they are not the rewards that someone gave to tokens. TDPO does not
# learn $\pi^*$. Of the three game methods only Nash-MD's *last* policy converges, and to the wrong point as printed.
# With tables, SFT followed by DPO and a merge with weights 1 are the same policy.
#
# **Needs.** [Notebook 00](00_one_row_to_one_step.ipynb) (implicit reward, $\beta$) and
# [notebook 06](06_upo_and_iupo.ipynb), section 3 (preferences, opponents). The survey uses $\alpha$ for five different
# weights. Here it always belongs to the method of its section.
#
# **Time.** About 45 minutes to read, without the exercises. Next: [notebook 11](11_offline_alignment.ipynb).

# %%
import itertools
import math
import warnings

import torch
from IPython.display import SVG

from una_ref import METHODS
from una_ref.notebook import check
from una_ref.policies.combining import slerp_weights, sparse
from una_ref.studies.survey_figures import draw_games, draw_merging, draw_tokens
from una_ref.theory import bradley_terry, entropy, expected_reward, fixed_point, kl, nash_logps, objective
from una_ref.theory.beam_search import beam_search
from una_ref.theory.games import (
    dno_step,
    exploitability,
    mixture_logps,
    nash_md_step,
    nash_md_step_printed,
    oracle_calls,
    play,
    sppo_step,
)
from una_ref.theory.optimum import optimal_logps
from una_ref.theory.populations import over_pairs
from una_ref.theory.preferences import preference_rewards
from una_ref.theory.token_mdp import (
    credits,
    following,
    last_token_rewards,
    one_step_improvement,
    policy_values,
    sequential_kl,
    soft_values,
)
from una_ref.theory.token_populations import over_sequence_pairs
from una_ref.theory.worlds import PrefixTree, SequenceWorld, TableWorld
from una_ref.training.stopping import Patience

warnings.filterwarnings("ignore", message="IProgress not found")  # of a progress bar that nobody asked for
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
torch.manual_seed(0)


def total_variation(a, b):
    return float((a.exp() - b.exp()).abs().sum(-1).max() / 2)


# %% [markdown]
# ## 1. Tokens
#
# ### Soft values
#
# A state is a prefix, and an action is its next token. The objective of the survey's token-level view is (survey
# Eq. 20; equations stand here without the survey's [misprints](../docs/errata.md))
#
# $$\pi^* = \arg\max_\pi\; \mathbb{E}_\pi \sum_{t=0}^{T-1} \big[ r(s_t, a_t) + \beta \log \pi_\text{ref}(a_t|s_t)
# \big] + \beta H(\pi).$$
#
# The sum ends at $T - 1$, the last token. The solution goes backwards from the longest prefixes (survey Eq. 21 and
# survey Eq. 22):
#
# $$Q(s, a) = r(s, a) + \beta \log \pi_\text{ref}(a|s) + V(s'), \qquad V(s) = \beta \log \sum_a e^{Q(s, a)/\beta},
# \qquad Q(s, a) - V(s) = \beta \log \pi^*(a|s)$$
#
# In a tree of prefixes a child has a larger row than its parent. So the recursion is one loop. The world has all
# sequences of at most three tokens; its reward comes with the last token.

# %% tags=["check"]
world = SequenceWorld.random(0, prompts=1, vocabulary=3, length=3, beta=0.5)
tree, ref, beta = world.tree, world.ref_next_logps, world.beta
rewards = last_token_rewards(tree, world.rewards)  # (prompts, prefixes, tokens)

q = (rewards + beta * ref)[0]
v = torch.zeros(len(tree.prefixes))
for n in reversed(range(len(tree.prefixes))):
    v[n] = beta * torch.logsumexp(q[n] / beta, -1)
    if n:
        q[tree.parents[n], tree.last[n]] += v[n]

soft = soft_values(tree, ref, rewards, beta)
check.close("survey Eq. 22: the loop is soft_values()", q, soft.q[0])
check.close("survey Eq. 21: Q − V = β·log π*, a distribution", ((q - v[:, None]) / beta).exp().sum(-1), 1.0)
check.close("survey Eq. 20: its policy is π* over sequences", world.sequence_logps(soft.next_logps), world.optimum)
print(f"{len(tree)} sequences, {len(tree.prefixes)} prefixes, V(s_0) = β·log Z(x) = {v[0]:.4f}")

# %% [markdown]
# ### [token-dpo](../docs/methods.md#token-dpo): DPO's reward of a token
#
# Put Eq. 22 into Eq. 21. Then each token has a reward, $\beta \log \frac{\pi^*}{\pi_\text{ref}} = r + V(s') - V(s)$.
# Along a sequence the values telescope, with $V(s_T) = 0$ (survey Eq. 23). In a pair of one prompt $V(s_0)$ cancels
# (survey Eq. 24):
#
# $$\sum_{t=0}^{T-1} r(s_t, a_t) = V(s_0) + \sum_{t=0}^{T-1} \beta \log \frac{\pi^*(a_t|s_t)}{\pi_\text{ref}(a_t|s_t)},
# \qquad P(y_w \succ y_l) = \sigma\Big[ \sum_t \beta \log \frac{\pi_w}{\pi_{\text{ref},w}}
# {} - \sum_t \beta \log \frac{\pi_l}{\pi_{\text{ref},l}} \Big]$$
#
# The loss is $-\log$ of this. It is DPO in value and gradient: only the reading is new. We call the summand of a token
# its *credit*.

# %% tags=["check"]
credit = credits(soft.next_logps, ref, beta)
total = tree.sequence_logps(credit)  # the sum along each sequence
check.close("a credit is r + V(s') − V(s)", credit, rewards + following(tree, soft.v) - soft.v[..., None])
check.close("survey Eq. 23: credits + V(s_0) = the reward", total + soft.v[:, :1], world.rewards)
check.close("survey Eq. 24: P(y_w ≻ y_l)", torch.sigmoid(total[0, 3] - total[0, 9]),
            torch.sigmoid(world.rewards[0, 3] - world.rewards[0, 9]))  # fmt: skip

preferences = bradley_terry(world.rewards)
sampler = world.ref_logps.exp()


def population(name, form="pairs", **settings):
    """log π over sequences -> the mean loss over all pairs, labelled by Bradley–Terry."""
    loss = METHODS[name].printed if form == "printed" else METHODS[name].losses[form]
    return over_sequence_pairs(loss, world, preferences, sampler, beta=beta, **settings)


def gradient(loss, logps):
    logits = logps.clone().requires_grad_()
    return torch.autograd.grad(loss(logits.log_softmax(-1)), logits)[0]


start = torch.randn_like(world.ref_logps).log_softmax(-1)
check.close("its gradient is DPO's", gradient(population("token-dpo"), start), gradient(population("dpo"), start))

# %% [markdown]
# ### A credit is not the reward that someone gave
#
# Credits depend on $\pi^*$, and $\pi^*$ depends on sums along sequences only. Rewards that move between the tokens of a
# sequence give the same credits. So credits say which token changed the *prospects*. They do not recover who was
# paid where. Take any numbers $\phi(s)$, zero at both ends, and pay $\phi(s') - \phi(s)$ for each token on top:

# %% tags=["check"]
phi = torch.randn(1, len(tree.prefixes)) * (torch.arange(len(tree.prefixes)) > 0)
moved = rewards + following(tree, phi) - phi[..., None]
again = credits(soft_values(tree, ref, moved, beta).next_logps, ref, beta)
check.differs("moved rewards: those of tokens differ", moved, rewards, by=1.0)
check.close("and the credits are the same", again, credit)
check.close("the mean reward of π_ref's own samples is −β·KL(π_ref ‖ π*)",
            (sampler * total).sum(), -beta * kl(world.ref_logps, world.optimum)[0])  # fmt: skip
print(f"E_ref of DPO's reward: {(sampler * total).sum():.4f}. It falls below 0 as training goes on.")

# %% [markdown]
# The last check is the paper's observation that implicit rewards *fall* when the SFT policy is the reference. It
# follows from the sign of a KL.
#
# **An example.** A response is a chain of up to four steps, each right (✓) or wrong (✗), or an early stop. It earns 1
# if all four steps are right, and the verdict comes at the end. $\pi_\text{ref}$ makes a right step with probability
# 0.6 and a wrong one with 0.3. The credit finds the step that broke the chain. Steps after it get 0.

# %% tags=["check"]
chain = PrefixTree.of(3, 4)
chain_ref = torch.tensor([0.1, 0.6, 0.3]).log().expand(1, len(chain.prefixes), 3)
verdict = (chain.sequences == 1).all(1).double()[None]
chain_soft = soft_values(chain, chain_ref, last_token_rewards(chain, verdict), 0.25)
chain_credit = credits(chain_soft.next_logps, chain_ref, 0.25)[0]


def along(tokens):
    row = chain.index(tokens)
    return chain_credit[chain.steps[row, : len(tokens)], chain.sequences[row, : len(tokens)]]


print("all right      ", along((1, 1, 1, 1)))
print("third is wrong ", along((1, 1, 2, 1)))
check.close("after the wrong step nothing counts", along((1, 2, 1, 2))[2:], 0.0)
gained = along((1, 1, 2, 1))[:2].sum()
check.close("the wrong step costs the gains so far and V(s_0)", along((1, 1, 2, 1))[2], -gained - chain_soft.v[0, 0])

# %% [markdown]
# ### Beam search by credits
#
# The paper searches for the sequence with the largest sum of credits, with a beam of some width. The credits of a
# prefix sum to $V(s_t) - V(s_0)$, so the search follows the values of prefixes. A wider beam finds better responses.
# With log-probabilities as the guide it does not: it finds likelier responses, not better ones.

# %% tags=["check"]
many = SequenceWorld.random(0, prompts=100, vocabulary=4, length=4)
at_end = last_token_rewards(many.tree, many.rewards)
many_soft = soft_values(many.tree, many.ref_next_logps, at_end, many.beta)
guides = {
    "credits of π*": credits(many_soft.next_logps, many.ref_next_logps, many.beta),
    "log π*": many_soft.next_logps,
}
found = {name: [] for name in guides}
print("beam width        ", "".join(f"{width:>8}" for width in (1, 2, 4, 8, len(many.tree))))
for name, guide in guides.items():
    for width in (1, 2, 4, 8, len(many.tree)):
        rows = beam_search(many.tree, guide, width)[0][:, :1]
        found[name].append(many.rewards.gather(1, rows).mean())
    print(f"reward by {name:<14}", "".join(f"{value:8.3f}" for value in found[name]))
best = many.rewards.amax(1).mean()
check.close("the full beam on credits finds the best response of every prompt", found["credits of π*"][-1], best)
check.true("a beam on log π* gets no better with its width", found["log π*"][-1] < found["log π*"][0] < best)

# %% [markdown]
# ### [tdpo](../docs/methods.md#tdpo): one step of improvement
#
# TDPO starts from plain values of $\pi_\text{ref}$, without a logarithm of a sum. At each prefix it maximises (survey
# Eq. 25)
#
# $$\mathbb{E}_{a \sim \pi} A_\text{ref}(s, a) - \beta\, \text{KL}(\pi(\cdot|s) \,\|\, \pi_\text{ref}(\cdot|s)),$$
#
# whose solution is (survey Eq. 26)
#
# $$Q_\text{ref}(s, a) = \beta \log \frac{\pi(a|s)}{\pi_\text{ref}(a|s)} + \beta \log Z(s), \qquad
# Z(s) = \mathbb{E}_{a \sim \pi_\text{ref}} e^{Q_\text{ref}(s, a)/\beta}.$$
#
# The survey prints $A_\theta$ and $Q_\theta$, the values of the new policy. Then $Z$ would need its own solution
# [[ES12](../docs/claims.md#es12)]. The $Z(s)$ of the prefixes are different, and do not cancel in a pair. With the
# sequential KL (survey Eq. 27) they do (survey Eq. 28):
#
# $$\text{SeqKL}(y; \pi_\text{ref} \| \pi) = \sum_t \text{KL}(\pi_\text{ref}(\cdot|s_t) \,\|\, \pi(\cdot|s_t)), \qquad
# P(y_w \succ y_l) = \sigma(u - \delta),$$
#
# where $u$ is DPO's margin and $\delta = \beta\, \text{SeqKL}(y_l) - \beta\, \text{SeqKL}(y_w)$. **Why it cancels.**
# Take the mean of Eq. 26 under $\pi_\text{ref}$: $V_\text{ref}(s) = -\beta\, \text{KL}_s + \beta \log Z(s)$. Subtract
# it, and $\log Z(s)$ is gone. The sum along a sequence telescopes to $r(y) - V_\text{ref}(s_0)$.
#
# For which policy is that true? A *spread* is the largest difference between responses of (reward − identity). It
# should be 0.

# %% tags=["check"]
plain = policy_values(tree, ref, rewards)
improved = one_step_improvement(plain, beta)


advantage = plain.q - plain.v[..., None]


def step_value(next_logps):  # survey Eq. 25, at each prefix
    return (next_logps.exp() * (advantage - beta * (next_logps - ref))).sum(-1)


most = max(float((step_value(torch.randn_like(ref).log_softmax(-1)) - step_value(improved)).max()) for _ in range(200))
check.true("survey Eq. 25: 200 policies are worse at every prefix", most < 0, f"by at least {-most:.4f}")
beta_log_z = beta * torch.logsumexp(ref + plain.q / beta, -1, keepdim=True)
check.close("survey Eq. 26, with the Q of π_ref", plain.q, credits(improved, ref, beta) + beta_log_z)
own_q = policy_values(tree, improved, rewards).q
check.differs("ES12: with the Q of the new policy it fails", own_q, credits(improved, ref, beta) + beta_log_z, by=0.5)
path_of = tree.steps[9, : int(tree.lengths[9])]  # the prefixes along one sequence
by_hand = (ref[0, path_of].exp() * (ref - improved)[0, path_of]).sum()
check.close("survey Eq. 27, along one sequence", sequential_kl(tree, ref, improved)[0, 9], by_hand)


def spread(next_logps, with_kl):
    identity = tree.sequence_logps(credits(next_logps, ref, beta))
    if with_kl:
        identity = identity + beta * sequential_kl(tree, ref, next_logps)
    left_over = world.rewards - identity
    return float(left_over.amax() - left_over.amin())


print("spread             DPO's identity   TDPO's identity")
for name, policy in (("one step", improved), ("π*", soft.next_logps)):
    print(f"{name:<18} {spread(policy, False):>14.4f} {spread(policy, True):>17.4f}")
check.close("TDPO's identity holds for one step, DPO's for π*",
            torch.tensor([spread(improved, True), spread(soft.next_logps, False)]), 0.0)  # fmt: skip
check.true("each fails for the other", min(spread(improved, False), spread(soft.next_logps, True)) > 0.3)
learned = fixed_point(population("tdpo"), world.ref_logps)
one_step = world.sequence_logps(improved)
check.close("survey Eq. 28: TDPO's minimiser is the one-step improvement", learned, one_step, tol=1e-8)
check.differs("it is not π*", learned.exp(), world.optimum.exp(), by=0.03)

# %% [markdown]
# So TDPO does not correct DPO. It has another target, which looks one step ahead and then trusts $\pi_\text{ref}$. How
# much does that cost? The right panel shows the regret of TDPO's target as a share of the regret of $\pi_\text{ref}$.
# With one token it is DPO. The cost grows with the length, and is larger for a small $\beta$.

# %%
LENGTHS, BETAS = range(1, 7), (0.25, 0.5, 1.0, 2.0)
cost = {own: [] for own in BETAS}
for own, length in itertools.product(BETAS, LENGTHS):
    longer = SequenceWorld.random(0, prompts=50, vocabulary=4, length=length, beta=own)
    table = last_token_rewards(longer.tree, longer.rewards)
    target = one_step_improvement(policy_values(longer.tree, longer.ref_next_logps, table), own)
    regrets = [longer.regret(logps).mean() for logps in (longer.sequence_logps(target), longer.ref_logps)]
    cost[own].append(float(regrets[0] / regrets[1]))

examples = [(1, 1, 1, 1), (1, 1, 2, 1), (1, 2, 1, 1), (2, 1, 1, 1), (1, 1, 1, 0)]
table = torch.stack([along(tokens) for tokens in examples])
SVG(draw_tokens({"examples": examples, "credits": table, "lengths": LENGTHS, "cost": cost}))

# %% tags=["check"]
check.close("with one token TDPO is DPO", torch.tensor([cost[own][0] for own in BETAS]), 0.0)
check.true("the cost grows with the length at every β", all(sorted(c) == c for c in cost.values()),
           f"β = 0.5: {cost[0.5][1]:.3f} with two tokens, {cost[0.5][-1]:.3f} with six")  # fmt: skip

# %% [markdown]
# **Two claims of TDPO's paper.** In DPO the KL is larger along worse responses, and diversity is lost. TDPO should mend
# both. Compare the two targets on 100 prompts, at one $\beta$:

# %% tags=["check"]
plain_many = policy_values(many.tree, many.ref_next_logps, at_end)
targets = {"DPO": many_soft.next_logps, "TDPO": one_step_improvement(plain_many, many.beta)}
mu = many.ref_logps.exp()
chances = 2 * mu[:, :, None] * mu[:, None, :] * bradley_terry(many.rewards)  # (prompts, chosen, rejected)
facts, entropies = {}, {}
print("target   entropy   reward   SeqKL of chosen   of rejected")
for name, policy in targets.items():
    seq_kl, logps = sequential_kl(many.tree, many.ref_next_logps, policy), many.sequence_logps(policy)
    sides = [float((chances.sum(dim) * seq_kl).sum() / chances.sum()) for dim in (2, 1)]
    facts[name] = float(entropy(logps).mean()), float(expected_reward(logps, many.rewards).mean()), *sides
    print(f"{name:<8} {facts[name][0]:7.3f} {facts[name][1]:8.3f} {sides[0]:17.3f} {sides[1]:13.3f}")
check.true("the KL is larger along rejected responses, for both", all(f[3] > f[2] for f in facts.values()))
for own in BETAS:
    narrow = SequenceWorld.random(0, prompts=100, vocabulary=4, length=4, beta=own)
    of_ref = policy_values(narrow.tree, narrow.ref_next_logps, at_end)
    entropies[own] = [
        float(entropy(logps).mean())
        for logps in (narrow.optimum, narrow.sequence_logps(one_step_improvement(of_ref, own)))
    ]
    print(f"β = {own:<5} entropy of DPO's target {entropies[own][0]:.3f}, of TDPO's {entropies[own][1]:.3f} nats")
check.true("TDPO's target is less diverse than DPO's at every β", all(one < dpo for dpo, one in entropies.values()))

# %% [markdown]
# The first observation holds for both targets, so TDPO does not remove it. TDPO's target has less entropy *and* less
# reward. What the paper measures on text may come from the way there.
#
# ### [tdpo2](../docs/methods.md#tdpo2): the stopped gradient
#
# TDPO2 weights $\delta$ with $\alpha$ and holds $\text{SeqKL}(y_w)$ constant. The survey says below Eq. 28 that "the
# gradient of $y_w$" is stopped, and prints no $\alpha$ [[ES13](../docs/claims.md#es13)]. Taken literally, nothing
# raises a chosen response any more:
#
# $$L = -\log \sigma(u - \alpha\, \delta_2), \qquad \delta_2 = \beta\, \text{SeqKL}(y_l) - \text{sg}[\beta\,
# \text{SeqKL}(y_w)]$$

# %% tags=["check"]
names = ("chosen_logps", "rejected_logps", "chosen_logits", "rejected_logits")
pair = {"chosen_logps": torch.tensor([-2.0]), "rejected_logps": torch.tensor([-2.5]),
        "chosen_logits": torch.tensor([[[0.6, 0.3, 0.1]]]).log(),
        "rejected_logits": torch.tensor([[[0.2, 0.3, 0.5]]]).log()}  # fmt: skip
fixed = {"ref_chosen_logps": torch.tensor([-2.3]), "ref_rejected_logps": torch.tensor([-2.3]),
         "ref_chosen_logits": torch.full((1, 1, 3), -math.log(3)), "chosen_mask": torch.ones(1, 1, dtype=torch.bool),
         "ref_rejected_logits": torch.full((1, 1, 3), -math.log(3)),
         "rejected_mask": torch.ones(1, 1, dtype=torch.bool)}  # fmt: skip
slopes = {}
for name, loss in (("tdpo", METHODS["tdpo"].loss), ("tdpo2", METHODS["tdpo2"].loss),
                   ("tdpo2, printed", METHODS["tdpo2"].printed)):  # fmt: skip
    inputs = {key: pair[key].clone().requires_grad_() for key in names}
    found_slopes = torch.autograd.grad(loss(**inputs, **fixed).sum(), inputs.values(), allow_unused=True)
    slopes[name] = [0.0 if slope is None else float(slope.abs().max()) for slope in found_slopes]
    sizes = ", ".join(f"{key} {size:.4f}" for key, size in zip(names, slopes[name], strict=True))
    print(f"{name:<15} size of the slope in {sizes}")
check.true("tdpo2 stops SeqKL(y_w) and nothing else", slopes["tdpo2"][2] == 0 < min(slopes["tdpo2"][:2]))
check.true("as printed, log π(y_w) has no gradient", slopes["tdpo2, printed"][0] == 0)

# %% [markdown]
# ### [cringe](../docs/methods.md#cringe): contrast with a rival
#
# CRINGE imitates good responses. In a bad one, each token has to lose against a rival: a sample among the $k$ best
# *other* tokens, with score $s^*$ (survey Eq. 29). For pairs a gate is put in front (survey Eq. 30):
#
# $$L_\text{Bin} = -\log P(y^+|x) - \alpha \sum_t \log \frac{e^{s^*_t}}{e^{s^*_t} + e^{s_t[y^-_t]}}, \qquad
# L_\text{Pair} = \sigma\Big(\frac{b - (\log P(y_w|x) - \log P(y_l|x))}{\tau}\Big)\, L_\text{Bin}$$
#
# The survey prints $P([x^+, y^+])$ in the place of $P(y^+|x)$, which also trains the policy to write prompts
# [[ES14](../docs/claims.md#es14)]. Its example takes the $k$ best *with* the bad token and leaves that one out: $k - 1$
# rivals [[ES15](../docs/claims.md#es15)]. The library computes the mean over rivals instead of a sample. With
# $\alpha = 0$ it is SFT on the good responses. The survey's Table 1 lists a reference and a KL; the loss has neither.

# %% tags=["check"]
scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])


def contrast(rivals, bad=0):
    weights = scores[rivals].softmax(0)
    return -(weights * torch.nn.functional.logsigmoid(scores[rivals] - scores[bad])).sum()


cringe = METHODS["cringe"].losses["labels"]
logits = scores.log_softmax(0).view(1, 1, 5).requires_grad_()
bad = {"logps": logits[:, 0, 0], "token_ids": torch.zeros(1, 1, dtype=torch.int64), "labels": torch.zeros(1),
       "mask": torch.ones(1, 1, dtype=torch.bool)}  # fmt: skip
loss = cringe(logits=logits, **bad, top_k=4)
check.close("survey Eq. 29, a bad token, k = 4", loss[0], contrast([1, 2, 3, 4]))
check.differs("ES15: the example in the survey has three rivals", loss[0], contrast([1, 2, 3]), by=0.05)
push = -torch.autograd.grad(loss.sum(), logits)[0].flatten()
print("push on the scores:", push, f"  loss {loss.item():.4f}, with three rivals {contrast([1, 2, 3]):.4f}")
check.true("the bad token goes down, its rivals up, most of all the best", push[0] < 0 < push[4] < push[1])
gaps = torch.tensor([-30.0, 0.0, 30.0])  # log P(y_w|x) − log P(y_l|x)
gated = METHODS["cringe"].losses["pairs"](
    chosen_logps=gaps - 50,
    rejected_logps=torch.full((3,), -50.0),
    rejected_logits=logits.detach().expand(3, 1, 5),
    rejected_token_ids=bad["token_ids"].expand(3, 1),
    rejected_mask=bad["mask"].expand(3, 1),
    top_k=4,
)
by_hand = torch.sigmoid(-gaps / 10) * (50 - gaps + contrast([1, 2, 3, 4]))  # b = 0, τ = 10
check.close("survey Eq. 30: the gate closes as y_w gets likelier", gated, by_hand)
print("loss of the pair at gaps of −30, 0 and 30 nats:", gated)

# %% [markdown]
# ### Two relatives, and who rests at $\pi^*$
#
# [ld-dpo](../docs/methods.md#ld-dpo) counts the tokens beyond the shorter response's length with a weight $\alpha$
# below 1. A response's reward then depends on its partner, so no policy fits all pairs.
# [wpo](../docs/methods.md#wpo) multiplies DPO's loss by how likely the policy is to sample the pair. The weight is the
# same for both labels of a pair, so $\pi^*$ stays at rest.
#
# One table answers for all methods on token pairs. It shows the largest gradient over all pairs with their
# Bradley–Terry labels, at $\pi^*$ and at the one-step improvement.

# %% tags=["check"]
ends = {"π*": world.optimum, "one step": world.sequence_logps(improved)}
rest = {}
for name in ("token-dpo", "wpo", "ld-dpo", "tdpo", "tdpo2"):
    rest[name] = [float(gradient(population(name), policy).abs().max()) for policy in ends.values()]
    print(f"{name:<10} gradient at π* {rest[name][0]:.4f}, at one step {rest[name][1]:.4f}")
check.true("at rest at π*: token-dpo and wpo", max(rest["token-dpo"][0], rest["wpo"][0]) < 1e-14)
check.true("at rest at one step: tdpo", rest["tdpo"][1] < 1e-14)
check.true("elsewhere: ld-dpo and tdpo2", min(rest["ld-dpo"] + rest["tdpo2"]) > 1e-3)

# %% [markdown]
# ### [grpo](../docs/methods.md#grpo): a reward that becomes a game
#
# GRPO came after the survey. It samples $K$ responses of a prompt and needs no critic. The advantage of a response is
# its score minus the group's mean, divided by the group's standard deviation:
#
# $$A_k = \frac{s_k - \bar s}{\text{sd}(s_1, \dots, s_K)}$$
#
# Without the division its gradient is $\frac{K-1}{K}$ of [rloo](../docs/methods.md#rloo)'s. With it and $K = 2$ the
# advantage is $\pm\frac{1}{\sqrt 2}$, whatever the difference. Only *who scored more* is left. The direction is that of
# a win rate against the sampler, $\sqrt 2\, \nabla P(\pi \succ \pi_t) - \beta \nabla \text{KL}(\pi \| \pi_\text{ref})$.
# It is at rest at the Nash policy of the game "the higher score wins", at $\beta/\sqrt 2$. It is not at rest at
# $\pi^*$.

# %% tags=["check"]
arena = TableWorld.random(0, prompts=1, responses=5, beta=0.4)
score = arena.rewards[0]
higher = (score[:, None] > score).double()[None] + 0.5 * torch.eye(5)


def expected_gradient(loss, logps, **settings):
    """The exact gradient of a loss on all pairs of samples (K = 2) of one prompt, in the logits."""
    logits = logps.clone().requires_grad_()
    policy = logits.log_softmax(-1)
    drawn = torch.tensor(list(itertools.product(range(5), repeat=2)))
    flat, chance = drawn.flatten(), policy.detach()[drawn].sum(1).exp()
    common = {"scores": score[flat], "groups": torch.arange(25).repeat_interleave(2)}
    losses = loss(policy[flat], arena.ref_logps[0, flat], **common, **settings)
    return torch.autograd.grad((losses.view(-1, 2).mean(1) * chance).sum(), logits)[0]


def grpo(logps, ref_logps, **given):
    tokens = {"token_logps": logps[:, None], "old_token_logps": logps.detach()[:, None]}
    shape = {"mask": torch.ones(len(logps), 1, dtype=torch.bool), "mean_length": torch.ones(())}
    return METHODS["grpo"].loss(**tokens, ref_token_logps=ref_logps[:, None], **shape, **given)


def rloo(logps, ref_logps, **given):
    return METHODS["rloo"].loss(logps=logps, ref_logps=ref_logps, **given)


some = torch.randn(5).log_softmax(-1)
unscaled = expected_gradient(grpo, some, scale_rewards="none", kl_estimate="none")
check.close("without sd: (K − 1)/K of rloo", unscaled, 0.5 * expected_gradient(rloo, some, beta=1e-12), tol=1e-9)
nash = nash_logps(higher, arena.ref_logps, 0.4 / math.sqrt(2))[0]
print("the Nash policy", nash.exp(), "\nπ*             ", arena.optimum[0].exp())
at_nash = expected_gradient(grpo, nash, beta=0.4)
check.close("with sd: at rest at the Nash policy of 'more wins'", at_nash, 0.0, tol=1e-4)
check.differs("with sd: not at rest at π*", expected_gradient(grpo, arena.optimum[0], beta=0.4), 0.0, by=0.05)

# %% [markdown]
# The 1e-4 comes from a small number that GRPO adds to the standard deviation. With more samples the advantage is a
# mixture of rank and size.

# %% [markdown]
# ## 2. Games
#
# ### Preferences in a circle
#
# Three responses beat one another: A beats B with 0.9, B beats C with 0.6, C beats A with 0.7. No rewards give these
# preferences. What can be maximised is the win rate of one policy against another (survey Eq. 55):
#
# $$P(\pi \succ \pi') = \mathbb{E}_{y \sim \pi,\, y' \sim \pi'}\, P(y \succ y')$$
#
# The target is the policy whose worst opponent wins least (survey Eq. 56). With a price for leaving
# $\pi_\text{ref}$, both players pay (survey Eq. 57):
#
# $$\pi^* = \arg\max_\pi \min_{\pi'} P(\pi \succ \pi'), \qquad
# P_\beta(\pi \succ \pi') = P(\pi \succ \pi') - \beta\, \text{KL}(\pi \| \pi_\text{ref})
# {} + \beta\, \text{KL}(\pi' \| \pi_\text{ref})$$
#
# Nobody can win more than ½ against a Nash policy. In Eq. 56 all three responses win exactly ½ against it. By hand it
# is proportional to (margin of B over C, of C over A, of A over B) = (0.1, 0.2, 0.4). In Eq. 57 it solves
# $\pi \propto \pi_\text{ref}\, e^{P(y \succ \pi)/\beta}$, the optimum of [notebook 06](06_upo_and_iupo.ipynb) with
# *itself* as the opponent. `nash_logps` finds it by Newton's method and is our yardstick.

# %% tags=["check"]
P = torch.tensor([[[0.5, 0.9, 0.3], [0.1, 0.5, 0.6], [0.7, 0.4, 0.5]]])  # row beats column
pi_ref = torch.tensor([[0.6, 0.3, 0.1]]).log()
free = torch.tensor([[1.0, 2.0, 4.0]]).log().log_softmax(-1)  # Eq. 56


def win_rate(logps, other):  # survey Eq. 55
    return logps.exp()[0] @ P[0] @ other.exp()[0]


grid = [(i / 40, j / 40, 1 - (i + j) / 40) for i in range(1, 40) for j in range(1, 40 - i)]
worst = [float((torch.tensor(p) @ P[0]).min()) for p in grid]  # the opponents' best reply is a single response
check.close("survey Eq. 56: every response wins ½ against it", preference_rewards(P, free), 0.5)
shown = f"the best of {len(grid)}: {max(worst):.4f}"
check.true("all policies of a grid have a worse opponent", max(worst) < 0.5, shown)

game_beta = 0.2
nash = nash_logps(P, pi_ref, game_beta)
check.close("survey Eq. 57: it is the optimum against itself", nash,
            optimal_logps(pi_ref, preference_rewards(P, nash), game_beta))  # fmt: skip
others = torch.randn(500, 1, 3).log_softmax(-1)
beaten = [win_rate(o, nash) - game_beta * (kl(o, pi_ref) - kl(nash, pi_ref))[0] for o in others]
check.true("500 opponents: P_β at most ½", max(beaten) <= 0.5, f"the best of them {max(beaten):.4f}")
fit = dno_step(pi_ref, P, game_beta)  # the Bradley–Terry fit to the same preferences, which is DPO's optimum
print("Nash policy", nash.exp()[0], " DPO's optimum", fit.exp()[0])
for name, policy in (("Nash", nash), ("DPO", fit)):
    gap = float(exploitability(policy, P, pi_ref, game_beta)[0])
    print(f"an opponent can win {gap:.4f} more than ½ against {name}")
check.differs("DPO's optimum is not the Nash policy", fit.exp(), nash.exp(), by=0.1)

# %% [markdown]
# ### [nash-md](../docs/methods.md#nash-md): mirror descent against a mixture
#
# The opponent is a geometric mixture of the policy and $\pi_\text{ref}$ (survey Eq. 58). The update is a step with rate
# $\alpha_t$ from that mixture (survey Eq. 59):
#
# $$\pi_\text{mix} \propto \pi_t^{1 - \alpha_t \beta}\, \pi_\text{ref}^{\alpha_t \beta}, \qquad
# \pi_{t+1} = \arg\max_\pi \big[ \alpha_t P(\pi \succ \pi_\text{mix}) - \text{KL}(\pi \| \pi_\text{mix}) \big]
# \;\propto\; \pi_\text{mix}\, e^{\alpha_t P(y \succ \pi_\text{mix})}$$
#
# The survey has $P_\beta$ of Eq. 57 inside the arg max [[ES32](../docs/claims.md#es32)]. The mixture pulls to
# $\pi_\text{ref}$ already. Paid twice, the fixed point is the Nash policy of $2\beta$. The last policy converges, up to
# an error of the order of a constant rate [[CS12](../docs/claims.md#cs12)]. On samples the method is
# [reinforce](../docs/methods.md#reinforce) with win rates as scores.

# %% tags=["check"]
mix = mixture_logps(nash, pi_ref, 0.3 * game_beta)
by_hand = (nash.exp() ** (1 - 0.3 * game_beta) * pi_ref.exp() ** (0.3 * game_beta))[0]
check.close("survey Eq. 58", mix.exp()[0], by_hand / by_hand.sum())
check.close("survey Eq. 59", nash_md_step(nash, P, pi_ref, game_beta, 0.3),
            (mix + 0.3 * preference_rewards(P, mix)).log_softmax(-1))  # fmt: skip
logits = nash.clone().requires_grad_()
policy = logits.log_softmax(-1)[0]
rated = {"ref_logps": pi_ref[0], "scores": preference_rewards(P, nash)[0], "beta": game_beta}
losses = METHODS["nash-md"].loss(logps=policy, **rated)
slope = torch.autograd.grad((nash.exp()[0] * losses).sum(), logits)[0]
check.close("the library's loss, a policy gradient, rests at Nash if the opponent is π", slope, 0.0)
twice = nash_logps(P, pi_ref, 2 * game_beta)
print(f"{'':<26} distance to Nash of β   of 2β")
away = {}
for name, step in (("corrected", nash_md_step), ("as printed", nash_md_step_printed)):
    for rate in (0.2, 0.02):
        last = pi_ref
        for _ in range(round(40 / rate)):
            last = step(last, P, pi_ref, game_beta, rate)
        away[name, rate] = total_variation(last, nash), total_variation(last, twice)
        print(f"{name + f', rate {rate:g}':<26} {away[name, rate][0]:>17.4f} {away[name, rate][1]:>11.4f}")
check.true("corrected: Nash of β, and the error falls with the rate",
           away["corrected", 0.02][0] < 0.15 * away["corrected", 0.2][0] < 1e-3)  # fmt: skip
check.true("as printed: Nash of 2β, not of β", away["as printed", 0.02][1] < 1e-3 < 0.05 < away["as printed", 0.02][0])

# %% [markdown]
# ### [sppo](../docs/methods.md#sppo): multiplicative weights
#
# SPPO has no reference. Each round multiplies a response's probability by a power of its win rate (survey Eq. 60), and
# learns that by least squares on samples (survey Eq. 61):
#
# $$\pi_{t+1} = \frac{\pi_t\, e^{P(y \succ \pi_t)/\beta}}{Z_{\pi_t}(x)}, \qquad
# L = \Big( \log \frac{\pi}{\pi_t} - \Big[ \frac1\beta P(y \succ \pi_t) - \log Z_{\pi_t}(x) \Big] \Big)^2$$
#
# Below Eq. 61 a win rate is printed as a *sum* over samples, and $\log Z$ as $\hat Z$ [[ES33](../docs/claims.md#es33)].
# It is a mean, and the logarithm. The paper, and the library, take $\frac{1}{2\beta}$ for $\log Z$. The error is one
# number for each prompt.

# %% tags=["check"]
sppo_beta = 1.0
rates, after = preference_rewards(P, pi_ref), sppo_step(pi_ref, P, sppo_beta)
log_z = torch.logsumexp(pi_ref + rates / sppo_beta, -1)
check.close("survey Eq. 60", after, pi_ref + rates / sppo_beta - log_z[:, None])
residual = METHODS["sppo"].loss(logps=after[0], old_logps=pi_ref[0], scores=rates[0], beta=sppo_beta).sqrt()
left = (log_z - 1 / (2 * sppo_beta)).abs().item()
check.close("survey Eq. 61 at Eq. 60: only log Z − 1/(2β) is left", residual, left)
samples = torch.tensor([0.65, 0.45, 0.55, 0.35])  # win rates of four responses against four samples
z_hat = (samples / 0.5).exp().mean()
check.differs("ES33: as printed the win rates are no probabilities", 4 * samples, 1.0, by=1.0)
check.close("ES33: log Ẑ is near 1/(2β), Ẑ is not", z_hat.log(), 1.0, tol=0.03)
print(f"four win rates, β = 0.5: sums up to {4 * samples.max():.1f}, Ẑ = {z_hat:.4f}, log Ẑ = {z_hat.log():.4f}")

# %% [markdown]
# ### [dno](../docs/methods.md#dno): DPO from where you stand
#
# DNO is DPO with the last policy as the reference (survey Eq. 62):
#
# $$\pi_{t+1} = \arg\max_\pi \mathbb{E}_{(y_w, y_l) \sim \pi_t} \log \sigma\Big( \beta \log
# \frac{\pi(y_w)}{\pi_t(y_w)} - \beta \log \frac{\pi(y_l)}{\pi_t(y_l)} \Big)$$
#
# On unlimited pairs a round is $\pi_t\, e^{r_t/\beta}$, with $r_t$ the Bradley–Terry fit under $\pi_t$. The fit changes
# with $\pi_t$, so the rounds can circle as well. (The practical version keeps the best and the worst of $K$ samples.
# Then the greater win rate always wins, and the loss has no finite minimum.)


# %% tags=["check"]
def dno(ref_chosen_logps, ref_rejected_logps, **given):  # its anchor is the last policy
    return METHODS["dno"].loss(chosen_old_logps=ref_chosen_logps, rejected_old_logps=ref_rejected_logps, **given)


loss = over_pairs(dno, P, pi_ref, pi_ref, beta=1.0)
check.close("survey Eq. 62: one round from π_t = π_ref", dno_step(pi_ref, P, 1.0), fixed_point(loss, pi_ref), tol=1e-7)
check.close("it rests at the Nash policy of Eq. 56", dno_step(free, P, 1.0), free, tol=1e-8)

# %% [markdown]
# ### Last policy or average? And how many questions?
#
# Section 4.5 of the survey asks how Nash learning can be faster. An *oracle call* is one question "which of these two
# is better?". A round with three responses asks three. The yardstick is what the best opponent wins beyond ½ in the
# game of Eq. 56. Each method has its best rate of a small grid.
#
# One more candidate is not in the survey. *Optimistic* multiplicative weights (Daskalakis and Panageas 2018,
# [arXiv:1807.04252](https://arxiv.org/abs/1807.04252)) is SPPO with a forecast. It counts the newest win rates twice
# and takes the previous ones back:
#
# $$\pi_{t+1} \propto \pi_t\, e^{\eta\,[2 P(y \succ \pi_t) - P(y \succ \pi_{t-1})]}$$

# %%
TARGETS, ROUNDS = (0.1, 0.03, 0.01, 0.003), 300


def optimistic(preferences, rate):
    """A step that remembers the win rates of the round before."""
    before = []

    def step(logps):
        before.append(preference_rewards(preferences, logps))
        now, last = before[-1], before[max(0, len(before) - 2)]
        return (logps + rate * (2 * now - last)).log_softmax(-1)

    return step


def plays(preferences, ref_logps):
    """Method and setting -> its self-play."""
    steps = {("SPPO", eta): lambda p, eta=eta: sppo_step(p, preferences, 1 / eta) for eta in (1.0, 2.0, 4.0)}
    steps |= {("DNO", own): lambda p, own=own: dno_step(p, preferences, own) for own in (0.5, 1.0)}
    steps |= {("Nash-MD, β = 0.02", rate): lambda p, rate=rate: nash_md_step(p, preferences, ref_logps, 0.02, rate)
              for rate in (0.5, 1.0, 2.0)}  # fmt: skip
    steps |= {("optimistic", eta): optimistic(preferences, eta) for eta in (1.0, 2.0, 4.0)}
    return {key: play(step, ref_logps, lambda p: exploitability(p, preferences), ROUNDS) for key, step in steps.items()}


def rounds_to(gaps, target):
    """The round from which on every gap is at most the target; infinite if it holds for fewer than 50 rounds."""
    first = max((n for n, gap in enumerate(gaps) if gap > target), default=-1) + 1
    return first if first <= len(gaps) - 50 else math.inf


def table_of(games, responses):
    """Print calls until the gap stays small, for each method at its best setting; return that setting's gaps."""
    curves = {}
    print(f"{'oracle calls until the gap stays below':<42}", "".join(f"{gap:>8}" for gap in TARGETS))
    for name in dict.fromkeys(name for name, _ in games):
        for kind in ("last", "average"):
            settings = {s: g.gaps if kind == "last" else g.average_gaps for (n, s), g in games.items() if n == name}
            best = min(settings, key=lambda s: [rounds_to(settings[s], gap) for gap in TARGETS[::-1]])
            curves[name, kind] = settings[best]
            rounds = [rounds_to(settings[best], gap) for gap in TARGETS]
            calls = ["never" if n == math.inf else oracle_calls(n, responses) for n in rounds]
            print(f"{f'{name}, {kind} (rate or β {best:g})':<42}", "".join(f"{c:>8}" for c in calls))
    return curves


circle = plays(P, pi_ref)
curves = table_of(circle, 3)

# %% [markdown]
# > **Guess first:** with eight responses, which last policies still settle?
#
# "Never" means not within 300 rounds. On its way a last policy may pass near the equilibrium. So a gap counts only if
# it stays below the target to the end, for 50 rounds at least. The same on ten games of eight responses with random
# preferences, as the mean gap over games. A round asks 28 questions there.

# %%
torch.manual_seed(1)
noise = torch.randn(10, 8, 8)
random_games = plays((noise - noise.mT).sigmoid(), torch.randn(10, 8).log_softmax(-1))
random_curves = table_of(random_games, 8)

# %% [markdown]
# Nash-MD needs a small $\beta$ only because it is judged in a game without a reference. In its own game, Eq. 57, the
# mixture shrinks the distance by about $1 - \alpha\beta$ in each round. That gives at least
# $\frac{1}{\alpha\beta} \log\frac{1}{\epsilon}$ rounds, up to a constant. Circling adds to it. So the price of Nash
# learning is the price of a small $\beta$.

# %% tags=["check"]
own_rounds = {}
print("Nash-MD, rate 0.3: rounds to a gap of 0.003 in its own game; gap of its Nash policy in the game of Eq. 56")
for own in (0.4, 0.2, 0.1, 0.05):
    game = play(lambda p, b=own: nash_md_step(p, P, pi_ref, b, 0.3), pi_ref,
                lambda p, b=own: exploitability(p, P, pi_ref, b), 220)  # fmt: skip
    own_rounds[own] = rounds_to(game.gaps, 0.003)
    print(f"β = {own:<5} {own_rounds[own]:>5} rounds   {float(exploitability(nash_logps(P, pi_ref, own), P)[0]):.4f}")
check.true("half the β costs more than twice the rounds", own_rounds[0.1] > 2 * own_rounds[0.2] > 4 * own_rounds[0.4])
check.true("SPPO's and DNO's last policies never get there",
           min(max(curves[name, "last"][-100:]) for name in ("SPPO", "DNO")) > 0.1)  # fmt: skip
settled = [curves[key][-1] for key in (("SPPO", "average"), ("DNO", "average"), ("optimistic", "last"))]
check.true("their averages do, and the optimistic last policy does", max(settled) < 0.01)


# %%
def way(step, rounds, average=False):
    """(rounds + 1, 3) the policies of a self-play from π_ref."""
    points = [pi_ref]
    for _ in range(rounds):
        points.append(step(points[-1]))
    table = torch.stack(points)[:, 0].exp()
    return table.cumsum(0) / torch.arange(1, rounds + 2)[:, None] if average else table


def by_sppo(logps):
    return sppo_step(logps, P, 1.0)


ways = {"SPPO, last": way(by_sppo, 200), "SPPO, average": way(by_sppo, 400, average=True)}
for name, step in (("Nash-MD, β = 0.2", nash_md_step), ("Nash-MD as printed", nash_md_step_printed)):
    ways[name] = way(lambda p, step=step: step(p, P, pi_ref, game_beta, 0.3), 200)
marks = {"Nash, no reference": free, "Nash of β": nash, "Nash of 2β": twice, "π_ref": pi_ref}
SVG(draw_games({"ways": ways, "marks": {name: p.exp()[0] for name, p in marks.items()}, "curves": curves}))

# %% [markdown]
# - Left: SPPO's last policy moves outwards along the edges, and its average comes in. Nash-MD stops at the Nash policy
#   of $\beta$, and at that of $2\beta$ as printed.
# - Right: dotted last policies never settle. Averages come near 0.01 and then hardly improve, since the rates are
#   constant. The optimistic last policy goes to zero. Nash-MD settles at the gap of its own equilibrium, which is not
#   zero in a game without a reference.
#
# ## 3. Merging and steps
#
# ### What is asked of a policy that is trained twice?
#
# SFT wants the policy near demonstrations $q$. Alignment wants reward near the pretrained policy $\pi_\text{pre}$. One
# objective has both (survey Eq. 2, with $\arg\max$; there the second term is on pretraining text):
#
# $$\arg\max_\pi\; \mathbb{E}_\pi\, r - \beta\, \text{KL}(\pi \| \pi_\text{pre}) + \gamma\, \mathbb{E}_{y \sim q}
# \log \pi(y)$$
#
# On a table both sides are numbers: the regret of the first two terms, and $\text{KL}(q \| \pi)$, what SFT has left.
# As $\gamma$ grows, the optimum of Eq. 2 runs along the *frontier*. No policy is better in both. So every recipe of the
# survey's Sec. 4.7 has a distance from that frontier.
#
# ### [paft](../docs/methods.md#paft): merge two differences
#
# PAFT trains SFT and DPO in parallel from $\pi_\text{pre}$ and merges what they changed (survey Eq. 43):
#
# $$\pi_\text{merge} = f(\pi_\text{pre}, \delta_\text{DPO}, \delta_\text{SFT}), \qquad
# \delta = \theta - \theta_\text{pre}$$
#
# The survey prints differences of *probabilities* [[ES21](../docs/claims.md#es21)]. They sum to 0, and their sum with
# $\pi_\text{pre}$ can be negative. What is merged are weights. In a table the weights are logits, one row for each
# prompt. Then a linear merge has a closed form, a product of powers:
#
# $$\pi_\text{merge} \propto \pi_\text{pre} \Big(\frac{\pi_\text{DPO}}{\pi_\text{pre}}\Big)^{w_1}
# \Big(\frac{q}{\pi_\text{pre}}\Big)^{w_2}, \qquad \text{for } w_1 = w_2 = 1:\quad \propto q\, e^{r/\beta}$$
#
# The right side is DPO *after* SFT, with the SFT policy as its reference. So with tables and unlimited data, parallel
# and sequential training are the same.

# %% tags=["check"]
before, by_dpo, by_sft = (torch.tensor(p) for p in ((0.5, 0.5), (0.95, 0.05), (0.9, 0.1)))
added = before + (by_dpo - before) + (by_sft - before)
check.true("ES21: probabilities add up to a negative one", added.min() < 0, f"({added[0]:.2f}, {added[1]:.2f})")

table_world = TableWorld.random(3, prompts=6, responses=6, beta=0.5)
pre, reward, table_beta = table_world.ref_logps, table_world.rewards, table_world.beta
torch.manual_seed(13)
demos = (pre + torch.randn(6, 6)).log_softmax(-1)  # log q
labels = bradley_terry(reward)


def both(logps):
    """KL(q ‖ π) in nats and the regret in reward, means over prompts."""
    return float(kl(demos, logps).mean()), float(table_world.regret(logps).mean())


def sft_loss(logps):
    return -(demos.exp() * logps).sum()


def dpo_loss(reference):
    return over_pairs(METHODS["dpo"].loss, labels, pre, reference, beta=table_beta)


parallel = {"SFT": fixed_point(sft_loss, pre), "DPO": fixed_point(dpo_loss(pre), pre)}
for name, end in {"SFT": demos, "DPO": table_world.optimum}.items():
    check.close(f"{name} ends where it should: SFT at q, DPO at π*", parallel[name], end, 1e-7)
merged = (pre + (parallel["DPO"] - pre) + (parallel["SFT"] - pre)).log_softmax(-1)
sequential = fixed_point(dpo_loss(parallel["SFT"]), parallel["SFT"])
check.close("survey Eq. 43, weights 1 and 1: the merge is SFT, then DPO", merged, sequential, tol=1e-7)
halves = (pre + 0.5 * (parallel["DPO"] - pre) + 0.5 * (parallel["SFT"] - pre)).log_softmax(-1)
check.differs("with weights ½ and ½ it is not", halves.exp(), sequential.exp(), by=0.2)

# %% [markdown]
# The other order forgets. SFT after DPO, with as many steps as it likes, ends at $q$, whatever DPO had learned. In DPO
# after SFT the reference *remembers* $q$. That is the survey's "catastrophic forgetting" in its purest form.
#
# ### Ways to merge
#
# *Linear* adds. *slerp* goes along the circle between two differences, which keeps their length. *TIES* keeps the
# largest entries of each, lets the larger side choose the sign, and averages entries of that sign. *DARE* drops entries
# at random and enlarges the rest. PAFT adds an $\ell_1$ norm to SFT, so that its difference is sparse as well. On two
# small matrices:

# %% tags=["check"]
first = torch.tensor([[3.0, -2.0, 0.1], [0.2, 1.0, -0.5]])
second = torch.tensor([[2.0, 1.0, 0.3], [-0.1, 3.0, 0.2]])
adapters = [{"W": (torch.eye(3), first)}, {"W": (torch.eye(3), second)}]  # ΔW = B·A with A the identity
((_, ties),) = sparse(adapters, [1.0, 1.0], "ties", density=0.5)
((_, dare),) = sparse(adapters, [0.5, 0.5], "dare", density=0.5, seed=1)
linear = (first + second) / 2
a, b = slerp_weights(first, second, 0.5)
merges = {"linear, ½ and ½": linear, "slerp, halfway": a * first + b * second, "TIES": ties, "DARE": dare}
for name, matrix in merges.items():
    rows = "   ".join(" ".join(f"{x:6.2f}" for x in row) for row in matrix)
    print(f"{name:<16}{rows}    norm {matrix.norm():.2f}")
check.close("TIES by hand: 3 of 6 are kept, −2 outvotes 1, equal signs are averaged", ties,
            torch.tensor([[2.5, -2.0, 0.0], [0.0, 2.0, 0.0]]))  # fmt: skip
trials = torch.stack([next(sparse(adapters, [0.5, 0.5], "dare", density=0.5, seed=s))[1] for s in range(200)])
check.close("DARE is linear on average", trials.mean(0), linear, tol=0.4)
check.differs("in a single draw it is not", dare, linear, by=0.9)

# %% [markdown]
# ### One step or two? (Sec. 4.7 of the survey)
#
# Now all recipes on the table. `losses=dpo:0.8,sft:0.2` adds two losses in one step. [orpo](../docs/methods.md#orpo)
# has no reference and no demonstrations. It imitates the winners of its pairs, here pairs of responses from $q$.


# %%
def orpo_loss(lam):
    ones = torch.ones(6 * 30)  # all responses count as one token

    def loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        sides = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
        return METHODS["orpo"].loss(**sides, chosen_lengths=ones, rejected_lengths=ones, lam=lam)

    return over_pairs(loss, labels, demos, pre)


def added_losses(share):
    return lambda p: (1 - share) * dpo_loss(pre)(p) + share * sft_loss(p)


def eq2(gamma):  # survey Eq. 2
    return lambda p: -objective(p, pre, reward, table_beta).sum() + gamma * sft_loss(p)


def centred(logits):
    return logits - logits.mean(-1, keepdim=True)  # a row's mean changes no policy


def sparsely(how, weights, density):
    ((_, delta),) = sparse([{"W": (torch.eye(6), d)} for d in differences], weights, how, density=density)
    return (pre + delta).log_softmax(-1)


differences = [centred(parallel[name] - pre) for name in ("DPO", "SFT")]
shares = torch.linspace(0, 1, 11)
GAMMAS = (0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.1, 1.5, 2, 3, 5, 10)
curves_of = {
    "frontier (survey Eq. 2)": [both(fixed_point(eq2(g), pre)) for g in GAMMAS] + [both(parallel["SFT"])],
    "PAFT, linear": [both((pre + (1 - w) * differences[0] + w * differences[1]).log_softmax(-1)) for w in shares],
    "PAFT, slerp": [
        both((pre + a * differences[0] + b * differences[1]).log_softmax(-1))
        for a, b in (slerp_weights(*differences, float(w)) for w in shares)
    ],
    "dpo + sft": [both(fixed_point(added_losses(s), pre)) for s in (0.01, 0.03, 0.06, 0.1, 0.2, 0.5)],
    "SFT, then DPO": [both(optimal_logps(demos, reward, own)) for own in (20, 5, 2, 1.4, 1, 0.8, 0.65, 0.5)],
    "orpo": [both(fixed_point(orpo_loss(lam), pre)) for lam in (0.1, 1.0, 3.0, 10.0, 30.0)],
}
points = {
    "π_pre": both(pre),
    "SFT, also after DPO": both(parallel["SFT"]),
    "DPO": both(parallel["DPO"]),
    "SFT, then DPO, same β": both(sequential),
    "dpo:0.8,sft:0.2": both(fixed_point(added_losses(0.2), pre)),
    "TIES, 20 %": both(sparsely("ties", [1.0, 1.0], 0.2)),
    "TIES, 50 %": both(sparsely("ties", [1.0, 1.0], 0.5)),
    "DARE, 50 %": both(sparsely("dare", [0.5, 0.5], 0.5)),
}
frontier = torch.tensor(curves_of["frontier (survey Eq. 2)"]).flip(0)


def above(point):
    """Regret of a policy minus that of the frontier (between its points a straight line) at the same KL(q ‖ π)."""
    kl_to_demos, regret = point
    i = int(torch.searchsorted(frontier[:, 0].contiguous(), torch.tensor(kl_to_demos)).clamp(1, len(frontier) - 1))
    (x0, y0), (x1, y1) = frontier[i - 1].tolist(), frontier[i].tolist()
    return regret - (y0 + (y1 - y0) * min(1.0, (kl_to_demos - x0) / (x1 - x0)))


halfway = {"PAFT, linear, ½ and ½": curves_of["PAFT, linear"][5], "PAFT, slerp, halfway": curves_of["PAFT, slerp"][5]}
recipes = points | halfway | {"orpo, λ = 1": curves_of["orpo"][1]}
print(f"{'recipe':<24} KL(q ‖ π)   regret   above the frontier")
for name, point in recipes.items():
    print(f"{name:<24} {point[0]:9.3f} {point[1]:8.3f} {above(point):12.3f}")

# %% tags=["check"]
heights = {name: [above(p) for p in points if 0.1 < p[0] < 0.8] for name, points in curves_of.items()}
means = {name: sum(h) / len(h) for name, h in heights.items()}
print("mean height above the frontier, for KL(q ‖ π) from 0.1 to 0.8 nats")
for name, mean in means.items():
    print(f"{name:<24} {mean:7.4f}   ({len(heights[name])} policies)")
check.true("no recipe is below the frontier", min(above(point) for point in recipes.values()) > -1e-3)
check.true("the linear merge is nearer to it than added losses and orpo",
           means["PAFT, linear"] < min(means["dpo + sft"], means["orpo"]))  # fmt: skip
sparse_heights = [above(points[name]) for name in ("TIES, 20 %", "TIES, 50 %", "DARE, 50 %")]
check.true("TIES and DARE are further away than the linear merge", min(sparse_heights) > 2 * means["PAFT, linear"])

# %% [markdown]
# On the table a linear merge with weights that sum to 1 costs little against the best possible. Adding the two losses
# costs more, and one after the other still more. PAFT's paper puts parallel training before sequential training and
# ORPO on text. ORPO's lower results (Sec. 3.7.1 and 4.7 of the survey) are here too: its one weight has to serve two
# aims. TIES and DARE remove entries, and on a table every entry is a response that somebody asked for.
#
# SFT followed by DPO stays near $q$ and not near $\pi_\text{pre}$. By this yardstick it pays twice. With the SFT policy
# as the reference of the yardstick it would be optimal.
#
# ### When to stop iterating (Sec. 4.6 of the survey)
#
# [iterative-dpo](../docs/methods.md#iterative-dpo) labels fresh samples with a proxy reward $\hat r$ and trains again.
# Two cases differ.
#
# 1. **The reference stays.** Then every round has the same optimum, $\pi_\text{ref}\, e^{\hat r/\beta}$. Fresh samples
#    change coverage and nothing else. In the population there is nothing to stop.
# 2. **The reference follows** ([sdpo](../docs/methods.md#sdpo), [dno](../docs/methods.md#dno)). After $t$ rounds the
#    policy is $\pi_t \propto \pi_\text{ref}\, e^{t \hat r/\beta}$: $\beta$ shrinks to $\beta/t$. For the *true* reward,
#
# $$\frac{d}{dt}\, \mathbb{E}_{\pi_t} r = \frac1\beta\, \text{Cov}_{\pi_t}(r, \hat r).$$
#
# This is an exact stopping rule. **Go on as long as proxy and truth have a positive covariance on fresh samples of the
# current policy.** It can be estimated: the covariance is half the mean of $(r - r')(\hat r - \hat r')$ over pairs of
# samples.
#
# The world has 200 prompts and 8 responses. The proxy has noise of sd 0.5. It also overrates one rare, bad response per
# prompt by 4 (the *trap*). $\pi_\text{ref}$ gives the trap 0.03 %.

# %% tags=["check"]
for_both = dpo_loss(pre)
resampled = over_pairs(METHODS["dpo"].loss, labels, table_world.optimum, pre, beta=table_beta)  # fresh samples
check.close("1. the reference stays: the second round ends where the first did",
            fixed_point(resampled, pre), fixed_point(for_both, pre), tol=1e-7)  # fmt: skip

PROMPTS, ROUND_BETA = 200, 2.0
torch.manual_seed(0)
base, truth = torch.randn(2, PROMPTS, 8)
base[:, 0], truth[:, 0] = -6.0, truth[:, 0] - 1.5  # the trap is rare and bad
base = base.log_softmax(-1)
noises = 0.5 * torch.randn(2, PROMPTS, 8)
trap = torch.tensor([4.0] + 7 * [0.0])
proxy = truth + noises[0] + trap
held_out = {"held-out proxy": truth + noises[1], "held-out proxy, same trap": truth + noises[1] + trap}


def after_rounds(t):
    return (base + t * proxy / ROUND_BETA).log_softmax(-1)


def mean_of(values, t):
    return float(expected_reward(after_rounds(t), values).mean())


def covariance(t):
    p = after_rounds(t).exp()
    return float(((p * truth * proxy).sum(-1) - (p * truth).sum(-1) * (p * proxy).sum(-1)).mean())


def estimated_covariance(t):
    """From one pair of fresh samples per prompt: the estimate and its standard error."""
    one, other = after_rounds(t).exp().multinomial(2, replacement=True).T
    rows = torch.arange(PROMPTS)
    products = (truth[rows, one] - truth[rows, other]) * (proxy[rows, one] - proxy[rows, other]) / 2
    return float(products.mean()), float(products.std() / math.sqrt(PROMPTS))


check.close("2. the reference follows: two rounds are one at β/2",
            optimal_logps(optimal_logps(base, proxy, ROUND_BETA), proxy, ROUND_BETA), after_rounds(2))  # fmt: skip
points_in_time = (1.0, 4.0, 8.0)
slopes_of_truth = torch.tensor([(mean_of(truth, t + 1e-5) - mean_of(truth, t - 1e-5)) / 2e-5 for t in points_in_time])
by_rule = torch.tensor([covariance(t) / ROUND_BETA for t in points_in_time])
check.close("d/dt E r = Cov(r, proxy)/β at t = 1, 4 and 8", slopes_of_truth, by_rule, tol=1e-8)

# %%
t_range = range(13)
series = {"proxy": proxy, "truth": truth} | held_out
values_of = {name: [mean_of(values, t) for t in t_range] for name, values in series.items()}
print("round      ", "".join(f"{t:>7}" for t in t_range))
for name, values in values_of.items():
    print(f"{name[-11:]:<11}", "".join(f"{value:7.2f}" for value in values))
estimates = [estimated_covariance(t) for t in t_range]
print("Cov        ", "".join(f"{covariance(t):7.2f}" for t in t_range))
print("200 pairs  ", "".join(f"{mean:7.2f}" for mean, _ in estimates))
print("± 2 se     ", "".join(f"{2 * se:7.2f}" for _, se in estimates))


def stop(values, patience=2):
    """The best round known when values have not risen for `patience` rounds; the last round if that never happens."""
    rule = Patience(patience, metric="value", rising=True)
    seen = []
    for value in values:
        seen.append(value)
        if rule({"value": value}):
            break
    return max(range(len(seen)), key=seen.__getitem__)


# %% tags=["check"]
best_round = max(t_range, key=values_of["truth"].__getitem__)
stops = {name: stop(values) for name, values in values_of.items()}
stops["covariance"] = next(t for t in t_range if covariance(t) < 0)
stops["200 pairs"] = next(t for t in t_range if estimates[t][0] < 0)
for name, t in stops.items():
    print(f"stop by {name:<26} round {t:>2}, true reward {values_of['truth'][t]:.3f}")
check.true("a held-out proxy with its own errors stops in time", abs(stops["held-out proxy"] - best_round) <= 1)
check.true("the covariance stops in time", abs(stops["covariance"] - best_round) <= 1, f"best round {best_round}")
check.true("the proxy itself never stops, nor does a held-out one with the same trap",
           stops["proxy"] == stops["held-out proxy, same trap"] == t_range[-1])  # fmt: skip
noise_only = [float(expected_reward((base + t * (proxy - trap) / ROUND_BETA).log_softmax(-1), truth).mean())
              for t in t_range]  # fmt: skip
check.true("without the trap, with noise alone, no round hurts", noise_only == sorted(noise_only))

# %% [markdown]
# So noise is not what makes iteration hurt. Errors that grow where the policy is going do: a response that is rare
# enough to have escaped the labellers. A held-out proxy helps only if its errors are its own. Two reward models of one
# data set share their trap.
#
# [self-rewarding](../docs/methods.md#self-rewarding) takes the policy itself as the judge. If its judgement is its own
# implicit reward (the recipe reads the odds of a good verdict instead), a round doubles every log-ratio, and no new
# information enters:

# %% tags=["check"]
first_round = optimal_logps(pre, reward, table_beta)
own_verdict = table_beta * (first_round - pre)
second_round = optimal_logps(first_round, own_verdict, table_beta)
check.close("a self-judged round is DPO at β/2", second_round, optimal_logps(pre, reward, table_beta / 2))

# %%
stopping = {"rounds": t_range, "values": values_of, "estimates": estimates, "best_round": best_round}
SVG(draw_merging({"curves": curves_of, "points": points, **stopping}))

# %% [markdown]
# - Left: the grey frontier is survey Eq. 2. The linear merge runs closest to it.
# - Right: the proxy rises in every round. The truth turns when the policy reaches the trap. The sign of the covariance
#   on 200 fresh pairs shows it at that moment.
#
# ## What we learned
#
# - **Tokens.** DPO's token rewards are $r + V(s') - V(s)$ for soft values $V$: *a credit is r + V(s') − V(s)*. They
#   find the token that decides, and steer a beam search: *the full beam on credits*. They do not recover who was paid
#   where: *and the credits are the same*.
# - TDPO learns one step of improvement over $\pi_\text{ref}$, not $\pi^*$ ([ES12](../docs/claims.md#es12),
#   [CS4](../docs/claims.md#cs4)): *TDPO's minimiser is the one-step improvement*. Its regret grows with the length. Its
#   target is not the more diverse one. TDPO2 as described in the survey raises no chosen response
#   ([ES13](../docs/claims.md#es13)).
# - CRINGE contrasts tokens with likely rivals ([ES14](../docs/claims.md#es14), [ES15](../docs/claims.md#es15)). Of the
#   losses on token pairs, token-dpo and wpo rest at $\pi^*$: *at rest at π\**.
# - **Games.** GRPO with two samples is Nash learning for "the higher score wins": *at rest at the Nash policy*.
# - Nash-MD's last policy converges to the Nash policy of $\beta$; as printed, to that of $2\beta$
#   ([ES32](../docs/claims.md#es32), [CS12](../docs/claims.md#cs12)). SPPO's and DNO's last policies circle, and their
#   averages come near an equilibrium ([CS10](../docs/claims.md#cs10)). SPPO needs means and a logarithm
#   ([ES33](../docs/claims.md#es33); the bias with few samples is [CS11](../docs/claims.md#cs11)).
# - Nash learning is slow where $\beta$ is small. In the circle a forecast of the win rates makes the last policy
#   converge, at no extra question: *the optimistic last policy does*. With eight responses 300 rounds are not enough.
# - **Merging.** Weights are merged, not probabilities ([ES21](../docs/claims.md#es21)). On a table a merge with weights
#   1 *is* SFT followed by DPO. The linear merge is close to the frontier of survey Eq. 2.
# - **Stopping.** Iterating helps exactly as long as the proxy and the truth have a positive covariance on fresh
#   samples. Two hundred labelled pairs are enough to see it here. A second proxy works only with errors of its own.
#
# ## Limits
#
# - Tables and unlimited data. A network shares parameters between responses, and merged weights are not merged logits
#   there. The equality of parallel and sequential training is then lost.
# - The games have three and eight responses. An oracle call here is an exact probability. A person gives one answer of
#   it, and the number of calls rises by the number of answers per probability.
# - The order of the recipes in section 3 is that of one world, with demonstrations that know nothing of the reward.
# - The trap was put there. Where a real proxy is wrong is not known in advance, which is why the rule asks for fresh
#   labels.
# - ORPO and CRINGE are trained here on the shortest of responses.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell. Hints and answers are folded below.
#
# **1.** (Pencil.) $\pi_\text{ref}$ takes each of $n$ first tokens with probability $1/n$. One of them earns 1, whatever
# follows. What is its credit, as a function of $\beta$ and $n$? What does it tend to for $\beta \to 0$?

# %%
mine = ...  # a function of β and n

if mine is not ...:
    for n in (3, 5):
        one_of_n = PrefixTree.of(n, 2)
        even = torch.full((1, len(one_of_n.prefixes), n), -math.log(n))
        starts_with_1 = (one_of_n.sequences[:, 0] == 1).double()[None]
        answer = soft_values(one_of_n, even, last_token_rewards(one_of_n, starts_with_1), 0.3)
        check.close("exercise 1", credits(answer.next_logps, even, 0.3)[0, 0, 1], mine(0.3, n))

# %% [markdown]
# **2.** (Pencil.) Nash-MD allows rates up to $1/\beta$. At $\alpha = \frac1\beta$ one step gives the optimum of another
# method of the survey, on pairs from $\pi_\text{ref}$. Which one?

# %%
mine = ...  # its name, as in `una-ref methods`

if mine is not ...:
    its_optimum = fixed_point(over_pairs(METHODS[mine].loss, P, pi_ref, pi_ref, beta=game_beta), pi_ref)
    check.close("exercise 2", nash_md_step(free, P, pi_ref, game_beta, 1 / game_beta), its_optimum, tol=1e-8)

# %% [markdown]
# **3.** (Code.) With which weights of DPO's and of SFT's difference is PAFT's merge the same as SFT followed by DPO
# with *twice* the $\beta$?

# %%
mine = ...  # (weight of DPO, weight of SFT)

if mine is not ...:
    merge = (pre + mine[0] * differences[0] + mine[1] * differences[1]).log_softmax(-1)
    check.close("exercise 3", merge, optimal_logps(demos, reward, 2 * table_beta), tol=1e-7)

# %% [markdown]
# **4.** (Open.) A team wants to run five rounds of DPO with one reward model. Which data would you hold back, and when
# would you stop?
#
# <details>
# <summary>Hints</summary>
#
# **1.** $V(s_0) = \beta \log Z$. **2.** What is the mixture when $\alpha\beta = 1$? **3.** Compare the exponents of
# $q$ and of $e^{r/\beta}$. **4.** What does the stopping rule need from each round?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `lambda beta, n: 1 - beta * math.log(1 + (math.exp(1 / beta) - 1) / n)`: the reward minus $V(s_0) = \beta \log
# Z$. For $\beta \to 0$ it is $\beta \log n$ and tends to 0. A sharp policy takes the token for granted.
#
# **2.** `"ipo"`. With $\alpha\beta = 1$ the mixture is $\pi_\text{ref}$, and the step
# $\pi_\text{ref}\, e^{P(y \succ \pi_\text{ref})/\beta}$ is the optimum of [notebook 06](06_upo_and_iupo.ipynb).
#
# **3.** `(0.5, 1.0)`: half of $r/\beta$, and all of $q$.
#
# **4.** Labels by people for some samples of each round's policy. Stop when their covariance with the reward model is
# no longer positive.
#
# </details>
