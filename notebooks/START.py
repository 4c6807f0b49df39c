# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # START: one idea in thirty minutes
#
# A language model $\pi$ answers a prompt $x$ with a response $y$. A reward $r(x, y)$ says how good the response is.
# *Alignment* makes good responses more likely, and keeps $\pi$ close to the model $\pi_\text{ref}$ it started from.
#
# **Question.** A policy that is trained on feedback: where does it end, and is that where it should?
#
# **The idea.** Every policy that gives each response some probability is the best one for some reward. That reward is
# $\beta \log \frac{\pi}{\pi_\text{ref}}$, up to one number for each prompt. DPO and UNA train this *implicit reward*.
# They differ in what they do about the one number. This decides where they end.
#
# **Needs.** Softmax, gradients, and what a KL divergence is. **Time.** 30 minutes with the exercises, 15 to read, 10
# seconds to run. The code is plain torch. Nothing of this package is imported, so that nothing has to be believed.
#
# ## 1. The smallest model
#
# One prompt, three responses. Then a policy is three probabilities, and everything can be computed.

# %%
import matplotlib.pyplot as plt
import torch

torch.set_default_dtype(torch.float64)
beta = 0.5
ref = torch.tensor([0.5, 0.3, 0.2])  # π_ref(y|x)
r = torch.tensor([0.0, 1.0, 2.0])  # r(x, y): the rarest response is the best


def J(pi, r):
    """Expected reward minus β times KL(π ‖ π_ref): what alignment is to make large."""
    return (pi * (r - beta * (pi / ref).log())).sum(-1)


print(f"J(π_ref) = {J(ref, r):.3f}")
print(f"J of always the best response, almost = {J(torch.tensor([1e-9, 1e-9, 1 - 2e-9]), r):.3f}")

# %% [markdown]
# The objective $J(\pi) = \mathbb{E}_\pi\, r - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref})$ is that of RLHF. The weight
# $\beta$ is the price of moving away.
#
# > **Guess first:** Is "always the best response" the best policy? If not, how likely should the worst response stay?
#
# ## 2. The best policy, in one line
#
# $$\pi^*(y \mid x) = \frac{1}{Z(x)}\, \pi_\text{ref}(y \mid x)\, e^{r(x, y) / \beta}, \qquad
# Z(x) = \sum_y \pi_\text{ref}(y \mid x)\, e^{r(x, y) / \beta}.$$
#
# Why: solved for $r$ it says $r = \beta \log \frac{\pi^*}{\pi_\text{ref}} + \beta \log Z$. With this $r$,
# $J(\pi) = \beta \log Z - \beta\, \text{KL}(\pi \,\|\, \pi^*)$. The KL is 0 at $\pi^*$ and positive elsewhere.
# So the *regret* $J(\pi^*) - J(\pi)$ is $\beta\, \text{KL}(\pi \,\|\, \pi^*)$: how far a policy is from the best.

# %%
Z = (ref * (r / beta).exp()).sum()
best = ref * (r / beta).exp() / Z


def regret(pi):
    return J(best, r) - J(pi, r)


def train(loss, shape=(3,), steps=1000):
    """Minimise a loss of the policy by Adam, from π_ref: one policy, or many at once."""
    logits = ref.log().expand(shape).clone().requires_grad_()
    numbers = torch.zeros(shape[:-1], requires_grad=True)  # one V(x) for each policy; only the loss with V(x) uses it
    adam = torch.optim.Adam([logits, numbers], lr=0.05)
    for _ in range(steps):
        adam.zero_grad()
        loss(logits.softmax(-1), numbers).sum().backward()
        adam.step()
    return logits.softmax(-1).detach()


print("π*                      ", best.numpy().round(4))
print("gradient ascent on J    ", train(lambda pi, _: -J(pi, r)).numpy().round(4))
print(f"J(π*) = {J(best, r):.4f}, β·log Z = {beta * Z.log():.4f}, regret of π_ref = {regret(ref):.4f}")

# %% [markdown]
# The worst response keeps 4 %. The formula needs $Z$, a sum over *all* responses. A language model has too many of
# them. So methods differ in how they get around $Z$. ([Notebook 02](02_partition_function.ipynb): what $Z$ costs.)
#
# ## 3. Read it backwards
#
# Solve the formula for the reward:
#
# $$r(x, y) =
# \underbrace{\beta \log \frac{\pi^*(y \mid x)}{\pi_\text{ref}(y \mid x)}}_{\text{implicit reward of } \pi^*}
# + \underbrace{\beta \log Z(x)}_{\text{one number}}.$$
#
# A policy *contains* a reward. To learn the policy is to learn a reward, and no reward model is needed.
# This is the idea of [DPO](https://arxiv.org/abs/2305.18290) and of [UNA](https://arxiv.org/abs/2408.15339).


# %%
def implicit(pi):
    return beta * (pi / ref).log()


print("reward                  ", r.numpy())
print("implicit reward of π*   ", implicit(best).numpy().round(4))
print("difference              ", (r - implicit(best)).numpy().round(4), "= β·log Z each time")

# %% [markdown]
# ## 4. DPO: the number cancels
#
# DPO sees pairs. Someone prefers $y_1$ to $y_2$ with probability $\sigma(r_1 - r_2)$, the model of Bradley and Terry.
# The loss is $-\log \sigma$ of the *difference* of two implicit rewards. In a difference between two responses to one
# prompt, $\beta \log Z$ is gone.
#
# > **Guess first:** Add 5 to all rewards of the prompt. What happens to $\pi^*$? What happens to DPO?


# %%
def dpo(pi, r):
    """The expected loss: two samples from π_ref, and either may win (hence the 2)."""
    u = implicit(pi)
    margin = u[..., :, None] - u[..., None, :]  # of the first response over the second
    wins = (r[..., :, None] - r[..., None, :]).sigmoid()
    return -(ref[:, None] * ref * 2 * wins * torch.nn.functional.logsigmoid(margin)).sum((-1, -2))


learned = train(lambda pi, _: dpo(pi, r))
print("DPO ends at             ", learned.numpy().round(4), " regret below 1e-8")
assert regret(learned) < 1e-8

# %% [markdown]
# DPO ends at $\pi^*$ exactly, and at the same place if 5 is added to all rewards: neither $\pi^*$ nor a difference
# changes. ([Notebook 08](08_pairs.ipynb): which part of DPO each pairwise method changes.)
#
# ## 5. UNA's Eq. 10: the number is forgotten
#
# Often there are no pairs, but *scores*: a rating $s$ for each response. UNA proposes regression. Make the implicit
# reward equal to the score:
#
# $$\text{Eq. 10:} \quad
# \mathbb{E}_{y \sim \pi_\text{ref}} \Big(\beta \log \frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)}
# - s(x, y)\Big)^2.$$
#
# > **Guess first:** Scores are the true rewards, and the data is unlimited. Does Eq. 10 end at $\pi^*$?


# %%
def eq10(pi, s, v=0.0):
    return (ref * (implicit(pi) + v - s) ** 2).sum(-1)


learned = train(lambda pi, _: eq10(pi, r))
print("π*                      ", best.numpy().round(4))
print("Eq. 10 ends at          ", learned.numpy().round(4), f" regret {regret(learned):.4f}")
assert regret(learned) > 0.1

# %% [markdown]
# It does not. The implicit reward of $\pi^*$ is $r - \beta \log Z$, and $\beta \log Z$ is 1.306 here. Eq. 10 asks for
# $r$ itself. No policy has that implicit reward: its probabilities would add up to $Z$ and not to 1. So the loss ends
# at a compromise. It matters what is added to the scores:

# %%
offsets = torch.linspace(-2.5, 4, 27)
scores = r + offsets[:, None]  # 27 raters: each adds a number of its own to all ratings
many = (27, 3)
ends = {
    "Eq. 10": regret(train(lambda pi, _: eq10(pi, scores), many)),
    "DPO": regret(train(lambda pi, _: dpo(pi, scores), many)),
    "Eq. 10 with V(x)": regret(train(lambda pi, v: eq10(pi, scores, v[:, None]), many)),
}
fig, ax = plt.subplots(figsize=(6.4, 3.6), constrained_layout=True)
for (name, line), style in zip(ends.items(), ("-", "--", ":"), strict=True):
    ax.plot(offsets, line, style, linewidth=2.5, label=name)
ax.axhline(regret(ref), color="grey", linewidth=1)
ax.text(4, float(regret(ref)) - 0.01, "π_ref: nothing learned", ha="right", va="top", color="grey")
ax.set(xlabel="number added to all scores", ylabel="regret: β·KL(π ‖ π*)", title="Where training ends")
ax.legend(loc="center left")
plt.show()

# %% [markdown]
# "3 stars of 5" and "0.5 of 1" are conventions. For Eq. 10 the convention decides what is learned. Large scores hold
# the policy near $\pi_\text{ref}$. Small ones drive it to a single response. Only at the offset $-\beta \log Z$ does it
# find $\pi^*$. (Further to the left, below about $-2.7$, the loss has several minima:
# [notebook 04](04_una_losses.ipynb).)
#
# ## 6. V(x): learn the number
#
# The missing number can be learned beside the policy: replace $\beta \log \frac{\pi}{\pi_\text{ref}}$ by
# $\beta \log \frac{\pi}{\pi_\text{ref}} + V(x)$, with one $V$ for each prompt. That is the dotted line above: regret 0
# at every offset. At the optimum $V(x) = \beta \log Z(x) +$ the offset.
#
# With two responses to a prompt no $V$ has to be stored. The best $V$ for both is the mean of $s - \beta \log
# \frac{\pi}{\pi_\text{ref}}$. What is left of their squared errors is half of
# $\big(\beta \log \frac{\pi_1}{\pi_{\text{ref},1}} - \beta \log \frac{\pi_2}{\pi_{\text{ref},2}} -
# (s_1 - s_2)\big)^2$: a difference again, as in DPO. This package calls it *centred UNA*.

# %% tags=["check"]
u1, u2, s1, s2 = torch.randn(4, generator=torch.Generator().manual_seed(0))
v = (s1 + s2 - u1 - u2) / 2  # the best V for these two
assert torch.isclose((u1 + v - s1) ** 2 + (u2 + v - s2) ** 2, (u1 - u2 - s1 + s2) ** 2 / 2)
assert ends["DPO"].max() < 1e-8 and ends["Eq. 10 with V(x)"].max() < 1e-8
assert ends["Eq. 10"].max() > 0.4 and ends["Eq. 10"].argmin() == (offsets + beta * Z.log()).abs().argmin()
print(f"largest regret: Eq. 10 {ends['Eq. 10'].max():.3f}; DPO and Eq. 10 with V(x) below 1e-8")

# %% [markdown]
# [The playground](../docs/playground.html) has this figure with sliders. It is one file: open it in a browser.
#
# ## What we learned
#
# - The best policy is $\pi_\text{ref}\, e^{r / \beta} / Z$, and regret is $\beta\, \text{KL}(\pi \,\|\, \pi^*)$.
# - A policy contains a reward: $\beta \log \frac{\pi}{\pi_\text{ref}}$, up to one number for each prompt.
# - Differences of two responses cancel the number; a single score does not. Eq. 10 ends at $\pi^*$ only if the scores
#   happen to have the right offset.
# - One learned number $V(x)$ for each prompt repairs this: scores then end at $\pi^*$ at every offset, as pairs do.
#
# ## Limits
#
# Three responses, one prompt, unlimited data, and a policy that can be anything. Real data is finite, and a network
# shares its weights among prompts. The other notebooks remove these limits one by one.
#
# ## Where next
#
# | you want to | read |
# | --- | --- |
# | see one row of a file become one step | [00](00_one_row_to_one_step.ipynb), then [07](07_gradients.ipynb) |
# | know what all UNA losses learn | [04](04_una_losses.ipynb) |
# | see it on data, with nine methods | [11](11_offline_alignment.ipynb), [13](13_online_alignment.ipynb) |
# | follow the theory from its first line | [01](01_log_sum_inequality.ipynb) to [06](06_upo_and_iupo.ipynb) |
# | train Mistral-7B | [20](20_mistral_offline.ipynb) |
# | train on your own file | [the training guide](../docs/training.md) |
#
# ## Exercises
#
# **1, with a pencil.** Two responses with $\pi_\text{ref} = (\frac12, \frac12)$ and $r = (0, \beta \log 3)$. What are
# $Z$, $\pi^*$ and $V$? What does DPO's margin become?
#
# **2, in code.** Labels instead of scores: a response is called good with probability $\sigma(r)$. Write the loss that
# ends at $\pi^*$, from `implicit(pi)` and one number `v`. Put it in place of `...`; the cell tests it at three offsets.

# %%
mine = ...  # a function of (pi, v, good): implicit rewards, one number, P(good) of each response -> the loss

if mine is not ...:
    for offset in (-1.0, 0.0, 1.0):
        good = (r + offset).sigmoid()
        learned = train(lambda pi, v, good=good: mine(pi, v, good))
        assert regret(learned) < 1e-4, f"offset {offset}: regret {regret(learned):.4f}"

# %% [markdown]
# **3, open.** Draw responses from $\pi_\text{ref}$, ten of them, and run section 5 on these alone. How far does
# each method end from $\pi^*$? Which would you use with ten scores, and which with ten pairs?
#
# <details>
# <summary>Hints</summary>
#
# **1.** $Z$ is the mean of $e^{0}$ and $e^{\log 3}$. **2.** The log-odds of a label are $r$. What are they for the
# policy? **3.** Weigh each response by how often it was drawn, in place of `ref`.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** $Z = 2$, $\pi^* = (\frac14, \frac34)$, $V = \beta \log 2$. The margin is $\beta \log 3$, the difference of the
# rewards.
#
# **2.** `lambda pi, v, good: -(ref * (good * F.logsigmoid(implicit(pi) + v) + (1 - good) *
# F.logsigmoid(-implicit(pi) - v))).sum()` with `F = torch.nn.functional`. Without `v` it is UNA's loss on binary
# labels.
#
# **3.** There is no one answer: it depends on the draws. [Notebook 11](11_offline_alignment.ipynb) asks the question
# with 1,024 rows and nine methods.
#
# </details>
