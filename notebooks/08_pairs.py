# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which part of DPO does each pairwise method change?
#
# About thirty published losses learn from pairs of responses. Almost all of them are DPO with one part replaced.
# The survey of alignment by UNA's authors ("the survey") reviews a dozen, and the TRL library names a dozen more. Here
# we take DPO apart, replace one part at a time, and ask each loss the same question.
#
# **Claim.** DPO has four parts: pairs, a reward, a comparison and a shape.
#
# $$\underbrace{\mathbb{E}_{(y_w, y_l) \sim \mathcal{D}}}_{\text{pairs}} \;
# \underbrace{-\log\sigma}_{\text{shape}} \Big( \underbrace{r_\theta(y_w) - r_\theta(y_l)}_{\text{comparison}} \Big),
# \qquad \underbrace{r_\theta(y) = \beta \log \frac{\pi(y|x)}{\pi_\text{ref}(y|x)}}_{\text{reward}}$$
#
# Give a loss unlimited labels that follow the Bradley–Terry model. Does it learn the optimum $\pi^*$ of RLHF? Of the
# shapes here, those that fall $e^{m}$ times as fast at $-m$ as at $m$ do. Most other replacements do not, at any
# setting that we try.
#
# **Needs.** Notebook [00](00_one_row_to_one_step.ipynb) (the implicit reward) and
# [07](07_gradients.ipynb) (the push of a loss). The
# [table of methods](../docs/methods.md) has every record, and the [ledger](../docs/claims.md) every erratum.
#
# **Time.** About 40 minutes to read, without the exercises. Next: [notebook 09](09_single_responses_and_lists.ipynb).
#
# | symbol | meaning |
# | --- | --- |
# | $u = \log\frac{\pi}{\pi_\text{ref}}$ | log-ratio of a response, in nats |
# | $h = u(y_w) - u(y_l)$ | gap of a pair, in nats |
# | $m = \beta h$ | margin of a pair, in units of reward |
# | $\Delta = r(y) - r(y')$ | true difference of rewards |
# | $p = \sigma(\Delta)$ | probability that $y$ wins |
# | $f$ | shape: a function of the margin |
# | $\mu$ | distribution of the responses in the data |

# %%
import inspect
import math

import torch
from IPython.display import SVG, Markdown, display

from una_ref import METHODS
from una_ref.claims import CLAIMS, markdown
from una_ref.methods.gpo import MARGIN_SHAPES, taylor
from una_ref.notebook import check
from una_ref.studies.survey_figures import draw_shapes, draw_shares
from una_ref.theory import (
    NotConverged,
    TableWorld,
    bradley_terry,
    fixed_point,
    nash_logps,
    optimal_logps,
    preference_rewards,
)
from una_ref.theory.populations import over_pairs
from una_ref.theory.rejection import accepted_logps

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
sigma = torch.sigmoid

# %% [markdown]
# ## 1. One exact world, and DPO on it
#
# The world has 4 prompts with 5 responses each, of 1 to 5 tokens. All probabilities are known, so a loss needs no
# samples. We sum it over all pairs, each with its probability under $\mu$ and Bradley–Terry. That is the loss of
# unlimited data. Its minimiser is what the method learns.

# %%
BETA = 0.5
WORLD = TableWorld.random(0, prompts=4, responses=5, beta=BETA)
REF, REWARDS, LENGTHS = WORLD.ref_logps, WORLD.rewards, torch.arange(1, 6)
P = bradley_terry(REWARDS)  # P[x, i, j] = σ(r_i − r_j)
FIRST, SECOND = (~torch.eye(5, dtype=torch.bool)).nonzero(as_tuple=True)  # 20 ordered pairs: the winner, the loser


def population(loss, *, sampler=REF, labels=P, reference=REF, **settings):
    """log π (4, 5) -> the mean of a pair loss over independent y, y' ~ μ and over who wins."""
    wanted = inspect.signature(loss).parameters
    weights = 2 * sampler.exp()[:, FIRST] * sampler.exp()[:, SECOND] * labels[:, FIRST, SECOND]
    if "beta" in wanted:
        settings = {"beta": BETA, **settings}

    def of_policy(logps):
        w, l = logps[:, FIRST], logps[:, SECOND]  # noqa: E741
        h = w - l - reference[:, FIRST] + reference[:, SECOND]
        mean = (weights * h.detach()).sum() / weights.sum()
        available = {
            "chosen_logps": w,
            "rejected_logps": l,
            "ref_chosen_logps": reference[:, FIRST],
            "ref_rejected_logps": reference[:, SECOND],
            "chosen_rewards": w,  # a reward model: the table holds rewards
            "rejected_rewards": l,
            "chosen_lengths": LENGTHS[FIRST].expand(4, -1),
            "rejected_lengths": LENGTHS[SECOND].expand(4, -1),
            "margins": REWARDS[:, FIRST] - REWARDS[:, SECOND],  # true scores, where a method asks for them
            "batch_gap": mean,
            "running_gap": mean,
            "running_gap_sd": ((weights * (h.detach() - mean) ** 2).sum() / weights.sum()).sqrt(),
        }
        given = {name: x.flatten() if x.ndim else x for name, x in available.items() if name in wanted}
        return (weights.flatten() * loss(**given, **settings)).sum()

    return of_policy


def descend(of_policy, start=REF, steps=300):
    """Adam with a step size that falls to 0: for losses with a kink, or without a minimum."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.002, steps)
    for _ in range(steps):
        (logits.grad,) = torch.autograd.grad(of_policy(logits.log_softmax(-1)), logits)
        optimiser.step()
        schedule.step()
    return logits.detach().log_softmax(-1)


def learn(loss, **settings):
    """log π that a loss learns from unlimited Bradley–Terry pairs."""
    return fixed_point(population(loss, **settings), settings.get("reference", REF), tolerance=1e-10)


def share(logps):
    """The share of π_ref's regret that is left: 0 for π*, 1 for no training."""
    return float(WORLD.regret(logps).mean() / WORLD.regret(REF).mean())


LOSS = {name: METHODS[name].losses["pairs"] for name in METHODS if "pairs" in METHODS[name].losses}
LOSS["dpo"] = LOSS["una-pair"]

# %% [markdown]
# **DPO** starts from the RLHF objective (survey Eq. 5). Its optimum is $\pi^* \propto \pi_\text{ref}\, e^{r/\beta}$
# (survey Eq. 6). So the reward of a response is $\beta u$ plus a number of the prompt, which a difference cancels
# (survey Eq. 7 and 8). Bradley and Terry's likelihood of the labels is then the loss (survey Eq. 9 and 10):
#
# $$L_\text{DPO} = -\mathbb{E} \log \sigma\Big(\beta \log\tfrac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}
# {} - \beta \log\tfrac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\Big) = -\mathbb{E} \log\sigma(m)$$
#
# Its gradient (survey Eq. 11) is in notebook [07](07_gradients.ipynb). The smoothed form (survey Eq. 12) is cDPO.
# Equations stand here without the survey's [misprints](../docs/errata.md).

# %% tags=["check"]
POLICY = learn(LOSS["dpo"])
by_library = over_pairs(LOSS["dpo"], P, REF, REF, beta=BETA)
check.close("our population() is the library's over_pairs()", population(LOSS["dpo"])(POLICY), by_library(POLICY))
check.close("DPO learns π* = π_ref·exp(r/β)/Z", POLICY.exp(), (REF + REWARDS / BETA).softmax(-1), tol=1e-9)
uniform = torch.full_like(REF, 1 / 5).log()
check.close("also from uniform pairs", learn(LOSS["dpo"], sampler=uniform).exp(), WORLD.optimum.exp(), tol=1e-9)
print(f"regret of π_ref {float(WORLD.regret(REF).mean()):.4f}; DPO leaves the share {abs(share(POLICY)):.4f}")

# %% [markdown]
# **The classical way** has two steps. A [reward model](../docs/methods.md#reward-model) is fitted to the same labels,
# and RLHF maximises its reward. The survey prints the first step as (survey Eq. 1)
#
# $$L_\text{RM} = -\frac{1}{\binom{K}{2}}\, \mathbb{E}_{(x, y_w, y_l) \sim \mathcal{D}}
# \big[\log\sigma(r_\phi(x, y_w) - r_\phi(x, y_l))\big].$$
#
# The factor belongs to a *sum* over the $\binom{K}{2}$ pairs of a prompt. An expectation is a mean already, so the
# printed form divides twice ([ES1](../docs/claims.md#es1)). Then a prompt with $K = 9$ responses would count 6 times
# less than one with $K = 4$. On a table, reward model plus RLHF ends exactly at DPO's policy.

# %% tags=["check"]
scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
losses = torch.stack([-torch.log(sigma(scores[0, i] - scores[0, j])) for i in range(4) for j in range(i + 1, 4)])
of_list = METHODS["reward-model"].losses["lists"](rewards=scores, scores=scores, mask=torch.ones(1, 4, dtype=bool))
check.close("survey Eq. 1 as a mean over the 6 pairs of K = 4 responses", of_list[0], losses.mean())
check.differs("survey Eq. 1 as printed divides twice", losses.mean() / 6, of_list[0], by=0.1)
fitted = learn(LOSS["reward-model"])  # a table of rewards, up to a number for each prompt
by_rlhf = optimal_logps(REF, fitted, BETA)
check.close("reward model, then RLHF: DPO's policy", by_rlhf.exp(), POLICY.exp(), tol=1e-9)

# %% [markdown]
# ## 2. Another shape
#
# **[GPO](../docs/methods.md#gpo)** replaces $-\log\sigma$ by any falling function of the margin (survey Eq. 18):
#
# $$L_\text{GPO} = \mathbb{E}\, f\Big(\beta \log\tfrac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}
# {} - \beta \log\tfrac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\Big) = \mathbb{E} f(m)$$
#
# **Which shapes learn $\pi^*$?** Take two responses, the first of which wins with probability $p$. The mean loss is
# $p f(m) + (1 - p) f(-m)$. Its derivative is zero where
#
# $$\frac{f'(m)}{f'(-m)} = \frac{1 - p}{p} = e^{-\Delta}.$$
#
# The learned margin is the true difference, $m = \Delta$, for every $p$ exactly if $f'(m)/f'(-m) = e^{-m}$. Then all
# pairs of a prompt agree, and the policy is $\pi^*$. For six shapes the equation can be solved by hand:
#
# | shape | $f(m)$ | $f'(m)/f'(-m)$ | learned margin |
# | --- | --- | --- | --- |
# | logistic: DPO | $-\log\sigma(m)$ | $e^{-m}$ | $\Delta$ |
# | Savage | $\sigma(-m)^2$ | $e^{-m}$ | $\Delta$ |
# | exponential | $e^{-m}$ | $e^{-2m}$ | $\Delta/2$ |
# | squared | $(m - 1)^2$ | $(1 - m)/(1 + m)$ | $\tanh(\Delta/2)$ |
# | IPO | $(h - \frac{1}{2\beta})^2$, $m = \beta h$ | $(\frac12 - m)/(\frac12 + m)$ | $\frac12\tanh(\Delta/2)$ |
# | hinge | $\max(0, 1 - m)$ | a step | $\pm 1$ |
#
# The last three saturate. However sure the labels are, they ask for no more than a fixed margin.

# %% tags=["check"]
MARGINS = torch.linspace(-6, 6, 12_001)
DELTA = torch.linspace(-4, 4, 161)


def of_margin(loss, m, **settings):
    """A pair loss as a function of the margin, at β = 1 and equal references."""
    zero = torch.zeros_like(m)
    sides = {"chosen_logps": m / 2, "rejected_logps": -m / 2, "ref_chosen_logps": zero, "ref_rejected_logps": zero}
    return loss(**sides, **{"beta": 1.0, **settings})


def learned_margin(values, delta):
    """The margin of least mean loss for each true difference, by search over MARGINS; `values` are f(MARGINS)."""
    p = sigma(torch.as_tensor(delta)).reshape(-1, 1)
    return MARGINS[(p * values + (1 - p) * values.flip(0)).argmin(-1)]


SHAPES = {name: of_margin(LOSS["gpo"], MARGINS, function=name) for name in MARGIN_SHAPES}
SHAPES["IPO"] = of_margin(LOSS["ipo"], MARGINS)
PREDICTED = {
    "logistic": DELTA,
    "savage": DELTA,
    "exponential": DELTA / 2,
    "squared": (DELTA / 2).tanh(),
    "IPO": (DELTA / 2).tanh() / 2,
}
check.close("survey Eq. 18: the library's loss is f of DPO's margin", SHAPES["savage"], sigma(-MARGINS) ** 2)
for name, predicted in PREDICTED.items():
    check.close(f"{name}: learned margin", learned_margin(SHAPES[name], DELTA), predicted, tol=2e-3)
sure = DELTA.abs() > 0.05
check.close("hinge: ±1, for every p", learned_margin(SHAPES["hinge"], DELTA[sure]), DELTA[sure].sign(), tol=1e-3)
check.differs("squared: not Δ", learned_margin(SHAPES["squared"], DELTA), DELTA, by=3)
for name, scale in (("logistic", 1), ("savage", 1), ("exponential", 0.5)):
    end = learn(LOSS["gpo"], function=name, beta=BETA * scale)
    check.close(f"{name} at {scale}·β: π*", end.exp(), WORLD.optimum.exp(), tol=1e-7)

# %% [markdown]
# The exponential at half the $\beta$ learns $\pi^*$ too. A wrong *scale* can be tuned away, a wrong *curve* cannot.
# Convexity, which GPO asks for, does not decide: Savage's function is not convex, and the hinge is.
#
# **The Taylor expansion** of any such shape (survey Eq. 19) is
#
# $$\mathbb{E} f(m) \approx f(0) + f'(0)\, \mathbb{E}\, m + \frac{f''(0)}{2}\, \mathbb{E}\, m^2.$$
#
# The second term raises margins. The third keeps them small, which the survey compares with the KL divergence. Three
# limits: the expansion is good for margins below about 1 ([CS22](../docs/claims.md#cs22)). The hinge has no third term.
# And the third term sees pairs of the data only, so a policy may leave $\pi_\text{ref}$ elsewhere at no cost
# ([ES10](../docs/claims.md#es10)).

# %% tags=["check"]
print("f(0), f'(0), f''(0):", {name: tuple(round(x, 4) + 0.0 for x in taylor(name)) for name in MARGIN_SHAPES})
value, slope, curvature = taylor("logistic")
at = torch.tensor([0.5, 1.0, 2.0, 4.0])
error = (value + slope * at + curvature * at**2 / 2 - of_margin(LOSS["dpo"], at)).abs()
print("logistic, error of the expansion at margins", at.tolist(), ":", error)
check.true("survey Eq. 19: small at a margin of 1", error[1] < 0.01, f"{error[1]:.4f}")
check.true("survey Eq. 19: useless at a margin of 4", error[3] > 0.5, f"{error[3]:.4f}")
u = (torch.tensor([0.45, 0.45, 0.1]) / torch.tensor([0.2, 0.2, 0.6])).log()  # the third response is in no pair
check.close("ES10: no cost, E m² = 0 on the data", (u[0] - u[1]) ** 2, 0.0)
check.true("ES10: although π has left π_ref", (u.exp() * torch.tensor([0.2, 0.2, 0.6]) * u).sum() > 0.5)

# %% [markdown]
# **[IPO](../docs/methods.md#ipo)** comes from an objective of its own, which is the subject of notebook
# [06](06_upo_and_iupo.ipynb). The general form is (survey Eq. 15)
#
# $$\pi^* = \arg\max_\pi \mathbb{E}_{y \sim \pi,\, y' \sim \pi'}\, \Psi\big(P(y \succ y'|x)\big)
# {} - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}).$$
#
# With $\Psi = \text{logit}$ it has DPO's optimum. With the identity it is IPO's (survey Eq. 16), and its loss is
# survey Eq. 17. The opponents $y'$ must come from a fixed $\mu$. If they came from the policy itself, the solution
# would be a Nash equilibrium ([ES7](../docs/claims.md#es7)).

# %% tags=["check"]
best = {psi: optimal_logps(REF, preference_rewards(P, REF, f), BETA) for psi, f in
        (("logit", torch.logit), ("identity", lambda p: p))}  # fmt: skip
check.close("survey Eq. 15 with Ψ = logit: π*", best["logit"].exp(), WORLD.optimum.exp(), tol=1e-12)
check.close(
    "survey Eq. 16: IPO's loss (survey Eq. 17) learns it", learn(LOSS["ipo"]).exp(), best["identity"].exp(), 1e-8
)
check.differs("ES7: the Nash policy is another one", nash_logps(P, REF, BETA).exp(), best["identity"].exp(), by=5e-3)
check.differs("IPO's optimum is not π*", best["identity"].exp(), WORLD.optimum.exp(), by=0.1)

# %% [markdown]
# **Further shapes that TRL names.** All are functions of DPO's margin, so one picture holds them.
#
# | method | shape |
# | --- | --- |
# | [cDPO](../docs/methods.md#cdpo) | $-(1 - \epsilon)\log\sigma(m) - \epsilon\log\sigma(-m)$ |
# | [robust-dpo](../docs/methods.md#robust-dpo) | $-\log\sigma(m) - \frac{\epsilon}{1 - 2\epsilon} m$ |
# | [exo-pair](../docs/methods.md#exo-pair) | KL of $(\sigma(m), \sigma(-m))$ from $(1 - \epsilon, \epsilon)$ |
# | [discopop](../docs/methods.md#discopop) | logistic below 0, exponential above |
#
# cDPO expects that a share $\epsilon$ of the labels is wrong. robust-dpo expects the same and is unbiased. exo-pair is
# cDPO's divergence the other way round. A language model found discopop in a search over programs.
#
# Two need care. *robust-dpo* divides the noise out: it learns $\pi^*$ if a share $\epsilon$ of the labels is
# wrong. If none is wrong, it has no minimum on pairs with $p > 1 - \epsilon$. *discopop* rises at $m = 0$, where every
# run starts. Its first step goes against the label, and GPO asks for $f'(0) < 0$.

# %% tags=["check"]
OTHERS = {
    "cDPO": of_margin(LOSS["cdpo"], MARGINS, label_smoothing=0.1),
    "robust-dpo": of_margin(LOSS["robust-dpo"], MARGINS, label_smoothing=0.1),
    "exo-pair": of_margin(LOSS["exo-pair"], MARGINS, label_smoothing=0.1),
    "discopop": of_margin(LOSS["discopop"], MARGINS),
}
smoothed = 0.9 * sigma(DELTA) + 0.1 * sigma(-DELTA)
check.close("cDPO: logit of the smoothed p", learned_margin(OTHERS["cDPO"], DELTA), smoothed.logit(), tol=2e-3)
by_exo = math.log(9) * (DELTA / 2).tanh()
check.close("exo-pair: log((1 − ε)/ε)·tanh(Δ/2)", learned_margin(OTHERS["exo-pair"], DELTA), by_exo, tol=2e-3)
flipped = 0.9 * P + 0.1 * P.transpose(1, 2)
robust = learn(LOSS["robust-dpo"], labels=flipped, label_smoothing=0.1)
check.close("robust-dpo: π* from labels of which 10 % are flipped", robust.exp(), WORLD.optimum.exp(), tol=1e-7)
check.differs("DPO on the same labels: not π*", learn(LOSS["dpo"], labels=flipped).exp(), WORLD.optimum.exp(), by=0.02)
p = 0.95
far = torch.tensor([10.0, 100.0, 1000.0])
ends = p * of_margin(LOSS["robust-dpo"], far) + (1 - p) * of_margin(LOSS["robust-dpo"], -far)
print(f"robust-dpo, ε = 0.1, p = {p}: mean loss at margins 10, 100, 1000:", ends)
check.true("robust-dpo: it falls without end", ends[0] > ends[1] > ends[2] and ends[2] < -50)
certain = {name: float(MARGINS[values.argmin()]) for name, values in {**SHAPES, **OTHERS}.items()}  # p = 1
print("margin of a certain label (6 is the end of the search):", {name: round(m, 2) for name, m in certain.items()})
check.close("certain labels: IPO, hinge, squared, cDPO, exo-pair stop",
            [certain[name] for name in ("IPO", "hinge", "squared", "cDPO", "exo-pair")],
            [0.5, 1.0, 1.0, math.log(9), math.log(9)], tol=2e-3)  # fmt: skip
check.true("certain labels: DPO does not stop", certain["logistic"] == 6)
zero = torch.zeros(1, requires_grad=True)
(rise,) = torch.autograd.grad(of_margin(LOSS["discopop"], zero).sum(), zero)
check.true("discopop rises at 0: the first step goes against the label", rise > 0, f"f'(0) = {float(rise):+.3f}")

# %%
NAMED = {"DPO": SHAPES["logistic"], "Savage": SHAPES["savage"], **SHAPES, **OTHERS}
asked = {name: learned_margin(values, DELTA) for name, values in NAMED.items()}
asked = {name: margin.where(margin.abs() < 5.9, torch.nan) for name, margin in asked.items()}
SVG(draw_shapes({"margins": MARGINS, "values": NAMED, "deltas": DELTA, "learned": asked}))

# %% [markdown]
# Left: below the line a pair pushes against its label. Right: only DPO and Savage's function lie on the diagonal. The
# right ends of the curves say what happens when nobody disagrees ($p \to 1$). DPO's margin grows without bound; the
# margins of IPO, cDPO, exo-pair and the hinge end. This is the sense in which IPO overfits less (survey Sec. 3.3.6,
# [CS1](../docs/claims.md#cs1), with runs in notebook [06](06_upo_and_iupo.ipynb)). cDPO stops as well, as the survey
# guesses. The price is on the same picture: where labels *are* uncertain, these shapes miss the reward.
#
# ## 3. One more term in the margin
#
# **[DPOP](../docs/methods.md#dpop)** (Smaug). DPO asks for a difference only. Both responses of a pair may become less
# likely, as long as the rejected one falls faster. DPOP charges for a chosen response that is less likely than under
# $\pi_\text{ref}$. The survey prints the penalty outside of $\sigma$ (survey Eq. 13):
#
# $$L_\text{DPOP} = -\mathbb{E}\Big\{\log\sigma(\beta h)
# {} - \lambda \max\Big(0, \log\tfrac{\pi_\text{ref}(y_w|x)}{\pi(y_w|x)}\Big)\Big\}$$
#
# In Smaug's paper it is inside, $-\log\sigma(\beta[h - \lambda\max(0, \cdot)])$ ([ES5](../docs/claims.md#es5)). The
# push on the chosen response is then $1 + \lambda$ times the push on the rejected one, and both fade. Outside, the
# push $\lambda$ never fades.
#
# Does DPO lower chosen responses? Take a pair of near-duplicates, such as "2 + 2 = 4" and "2 + 3 = 4", and two other
# responses. The four share two features. We descend on one pair, with and without shared features.

# %% tags=["check"]
SHARED = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 2.0], [0.0, -2.0]])  # chosen, rejected, two that are in no pair
TABLE = torch.eye(4)


RATE, STEPS = 0.1, 600


def one_pair(loss, features, **settings):
    """log π (4,) of softmax(features·θ) after gradient descent on one pair, from the uniform reference."""
    theta = torch.zeros(features.shape[1], requires_grad=True)
    start = torch.full((1,), 0.25).log()
    for _ in range(STEPS):
        logps = (features @ theta).log_softmax(0)
        sides = {"chosen_logps": logps[:1], "rejected_logps": logps[1:2]}
        value = loss(**sides, ref_chosen_logps=start, ref_rejected_logps=start, beta=BETA, **settings)
        theta = (theta - RATE * torch.autograd.grad(value.sum(), theta)[0]).detach().requires_grad_()
    return (features @ theta).log_softmax(0).detach()


RUNS = {(name, kind): one_pair(LOSS[name], features, **({"lam": 5.0} if name == "dpop" else {}))
        for name in ("dpo", "dpop") for kind, features in (("shared", SHARED), ("table", TABLE))}  # fmt: skip
h, short = torch.tensor([-1.0]), 1.0  # a pair with h = −1 whose chosen response is 1 nat below π_ref
sides = {"chosen_logps": torch.tensor([-3.0]), "ref_chosen_logps": torch.tensor([-2.0])}
sides |= {"rejected_logps": torch.tensor([-4.0]), "ref_rejected_logps": torch.tensor([-4.0])}
inside, outside = (form(**sides, beta=0.3, lam=5.0) for form in (LOSS["dpop"], METHODS["dpop"].printed))
check.close("DPOP's paper: the penalty inside", inside, -torch.log(sigma(0.3 * (h - 5 * short))))
check.close("survey Eq. 13: the penalty outside", outside, -torch.log(sigma(0.3 * h)) + 5 * short)
print("                 u(chosen)   u(rejected)   mass of the two unseen responses (0.5 at the start)")
for (name, kind), logps in RUNS.items():
    u = logps - math.log(0.25)
    print(f"{name:<5} {kind:<8} {u[0]:+12.4f} {u[1]:+13.4f} {logps[2:].exp().sum():12.4f}")
start = math.log(0.25)
check.true("DPO with shared features lowers the chosen response", RUNS["dpo", "shared"][0] < start - 3)
check.true("DPOP does not lower it", RUNS["dpop", "shared"][0] > start - 0.05)
check.true("DPO on a table raises it", RUNS["dpo", "table"][0] > start + 0.3)

# %% [markdown]
# The claim is true where parameters are shared, and false on a table ([CS2](../docs/claims.md#cs2)). The penalty has a
# price with real labels. Every response is sometimes the chosen one, so lowering *any* response costs. At the paper's
# $\lambda = 50$ the policy hardly leaves $\pi_\text{ref}$ (section 7).
#
# **[R-DPO](../docs/methods.md#r-dpo)** charges $\alpha$ for each token (survey Eq. 44):
#
# $$\max_\pi \mathbb{E}_{y \sim \pi}\big[r(x, y) - \alpha|y|\big] - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref})$$
#
# Its optimum is $\pi \propto \pi_\text{ref}\, e^{(r - \alpha|y|)/\beta}$. Solved for the reward this is
#
# $$r(x, y) = \beta\log\frac{\pi(y|x)}{\pi_\text{ref}(y|x)} + \beta\log Z(x) + \alpha|y|.$$
#
# The survey has $-\alpha|y|$ here (survey Eq. 45, [ES22](../docs/claims.md#es22)). The sign goes into the loss, whose
# correct form is $-\log\sigma(\beta h + \alpha|y_w| - \alpha|y_l|)$ (survey Eq. 46, [ES23](../docs/claims.md#es23)). As
# printed, the loss *lengthens* responses.

# %% tags=["check"]
ALPHA = 0.3
shorter = optimal_logps(REF, REWARDS - ALPHA * LENGTHS, BETA)  # survey Eq. 44
log_z = (REF + (REWARDS - ALPHA * LENGTHS) / BETA).logsumexp(-1, keepdim=True)
side = BETA * (shorter - REF) + BETA * log_z
check.close("survey Eq. 45 with + α|y|", side + ALPHA * LENGTHS, REWARDS)
check.differs("survey Eq. 45 as printed", side - ALPHA * LENGTHS, REWARDS, by=2.9)
ends = {"DPO": POLICY, "R-DPO": learn(LOSS["r-dpo"], alpha=ALPHA),
        "R-DPO as printed": learn(METHODS["r-dpo"].printed, alpha=ALPHA)}  # fmt: skip
check.close(
    "survey Eq. 46 with the sign of Eq. 44 learns Eq. 44's optimum", ends["R-DPO"].exp(), shorter.exp(), tol=1e-8
)
mean_length = {name: float((logps.exp() * LENGTHS).sum(-1).mean()) for name, logps in ends.items()}
print("mean length in tokens:", {name: round(value, 2) for name, value in mean_length.items()})
check.true("survey Eq. 46 as printed lengthens", mean_length["R-DPO as printed"] > mean_length["DPO"] + 0.3)

# %% [markdown]
# **[β-DPO](../docs/methods.md#beta-dpo)** takes another $\beta$ for each batch (survey Eq. 14), from the gaps $M_i$ of
# its pairs and their moving average $M_0$. Pairs far from $M_0$ count less:
#
# $$\beta_\text{batch} = \big[1 + \alpha\, (\mathbb{E}_{i \sim \text{batch}} M_i - M_0)\big]\, \beta_0$$
#
# As printed, $\beta_\text{batch}$ is negative for a batch with a low mean. Then the loss prefers the rejected responses
# ([ES6](../docs/claims.md#es6)); the authors' code, and ours, stop at 0.001. At rest the batch's mean is $M_0$, so
# $\beta_\text{batch} = \beta_0$, and without filtering the optimum is $\pi^*$. Filtering moves it: pairs with an
# unexpected label are those with small or negative gaps, and the filter removes them.

# %% tags=["check"]
printed_beta = (1 + 0.6 * (-2.0 - 0.0)) * 0.1
check.true("survey Eq. 14: negative at α = 0.6, M₀ = 0, mean gap −2", printed_beta < 0, f"β = {printed_beta:.2f}")
statistics = {"batch_gap": torch.tensor(-2.0), "running_gap": torch.tensor(0.0), "running_gap_sd": torch.tensor(1.0)}
gap = torch.tensor([1.0, 2.0])
clamped = of_margin(LOSS["beta-dpo"], gap, beta=0.1, alpha=0.6, filtering=0.0, **statistics)
check.close("the library's β is then 0.001", clamped, -torch.log(sigma(0.001 * gap)))
unfiltered, filtered = (learn(LOSS["beta-dpo"], filtering=x) for x in (0.0, 1.0))
check.close("β-DPO without filtering: π*", unfiltered.exp(), WORLD.optimum.exp(), tol=1e-7)
check.differs("β-DPO with filtering: not π*", filtered.exp(), WORLD.optimum.exp(), by=0.05)

# %% [markdown]
# ## 4. Another reward
#
# Without $\pi_\text{ref}$ a method needs half the memory. Four methods replace the implicit reward $\beta u$ by a
# quantity of the policy alone.
#
# **[SLiC-HF](../docs/methods.md#slic)** is the oldest, and compares log-likelihoods with a hinge (survey Eq. 3):
#
# $$L = \max\big(0,\; \delta - \log\pi(y_w|x) + \log\pi(y_l|x)\big) - \lambda \log\pi(y_\text{ref}|x)$$
#
# $y_\text{ref}$ is a response of the supervised data; pairs have none, so the chosen one stands in. The second term is
# all that keeps the policy near the data. It makes SLiC no HALO, since no $\pi_\text{ref}$ appears
# ([ES17](../docs/claims.md#es17)).
#
# **[CPO](../docs/methods.md#cpo)** keeps DPO's shape and imitates the chosen response (survey Eq. 54):
#
# $$L_\text{CPO} = -\mathbb{E}\big\{\log\sigma\big(\beta\log\pi(y_w|x) - \beta\log\pi(y_l|x)\big)
# {} + \log\pi(y_w|x)\big\}$$
#
# The survey says that a
# uniform prior cancels $\pi_\text{ref}$. It does, if $\pi_\text{ref}$ *is* uniform. Otherwise the first term learns
# $\pi \propto e^{r/\beta}$ ([CS19](../docs/claims.md#cs19)).

# %% tags=["check"]
logits = torch.linspace(-6, 6, 12_001)  # log π(y_w)/π(y_l) of two responses
two = {"chosen_logps": -torch.log1p((-logits).exp()), "rejected_logps": -torch.log1p(logits.exp())}
by_hand = (1 - logits).clamp(min=0) - 0.1 * two["chosen_logps"]
check.close("survey Eq. 3 by hand", LOSS["slic"](**two, delta=1.0, lam=0.1), by_hand)
for p in (0.6, 0.9):
    mean = p * LOSS["slic"](**two, delta=1.0, lam=0.1) + (1 - p) * LOSS["slic"](**two, delta=1.0, lam=0.1).flip(0)
    check.close(f"survey Eq. 3: two responses, p = {p}: a log-ratio of δ = 1", logits[mean.argmin()], 1.0, tol=2e-3)
preference_only = learn(LOSS["cpo"], lam=0.0)
check.close("survey Eq. 54, first term: softmax(r/β)", preference_only.exp(), (REWARDS / BETA).softmax(-1), tol=1e-8)
flat = TableWorld(uniform, REWARDS, BETA)
check.close("CS19: π* of a uniform π_ref", preference_only.exp(), flat.optimum.exp(), tol=1e-8)
check.differs("CS19: not π* of this π_ref", preference_only.exp(), WORLD.optimum.exp(), by=0.1)

# %% [markdown]
# **[ORPO](../docs/methods.md#orpo)** compares odds (survey Eq. 40) by their ratio (survey Eq. 41), and imitates
# (survey Eq. 42, printed):
#
# $$\text{odds}(y|x) = \frac{P(y|x)}{1 - P(y|x)}, \qquad
# OR = \frac{\text{odds}(y_w|x)}{\text{odds}(y_l|x)}, \qquad
# L_\text{ORPO} = \mathbb{E}\big\{L_\text{SFT} + \lambda\,[-\log\sigma(OR)]\big\}$$
#
# The logarithm of $OR$ is missing ([ES20](../docs/claims.md#es20)). An odds ratio is never negative, so the printed
# term is at most $\log 2$. A pair in the wrong order then gets almost no push ([CS18](../docs/claims.md#cs18)). With
# the logarithm, $-\log\sigma(\log OR) = \log(1 + 1/OR)$. $P$ is the likelihood per token,
# $\log P = \frac{1}{|y|}\log\pi$, which the survey does not say.

# %% tags=["check"]
P_w, P_l = torch.tensor([0.3, 0.001]), torch.tensor([0.2, 0.999])
odds = [x / (1 - x) for x in (P_w, P_l)]  # survey Eq. 40
ratio = odds[0] / odds[1]  # survey Eq. 41
one = torch.ones(2)
sides = {"chosen_logps": P_w.log(), "rejected_logps": P_l.log(), "chosen_lengths": one, "rejected_lengths": one}
right, wrong = (form(**sides, lam=1.0) + P_w.log() for form in (LOSS["orpo"], METHODS["orpo"].printed))
print("OR =", ratio, " corrected", right, " printed", wrong)
check.close("survey Eq. 42, corrected: log(1 + 1/OR)", right, torch.log1p(1 / ratio))
check.close("survey Eq. 42, printed: −log σ(OR)", wrong, -torch.log(sigma(ratio)))
z = torch.tensor(math.log(0.01), requires_grad=True)  # log OR of a pair in the wrong order
push = [float(torch.autograd.grad(-torch.log(sigma(x)), z)[0]) for x in (z, z.exp())]
print(f"slope in log OR at OR = 0.01: corrected {push[0]:.4f}, printed {push[1]:.4f}")
check.true("CS18: the printed push is 100 times weaker", push[0] < 100 * push[1] < 0)

# %% [markdown]
# ORPO trains imitation and preference in one loss. [PAFT](../docs/methods.md#paft) trains two adapters in parallel and
# merges them (survey Eq. 43). There $\pi_\delta = \pi_\theta - \pi_\text{pre}$ must be a difference of *weights*:
#
# $$\pi^\text{merge} = f(\pi^\text{pre}, \pi_\delta^\text{DPO}, \pi_\delta^\text{SFT})$$
#
# A difference of probabilities adds up to 0, and the merged one need not be a distribution
# ([ES21](../docs/claims.md#es21)).

# %% tags=["check"]
chosen = (REF + (P * REF.exp()[:, None, :]).sum(-1).log()).log_softmax(-1)  # SFT on chosen responses, with ties
by_weights = (POLICY + chosen - REF).log_softmax(-1)  # a table's weights are its logits
by_probabilities = POLICY.exp() + chosen.exp() - REF.exp()
check.close("survey Eq. 43: differences of probabilities add up to 0", (POLICY.exp() - REF.exp()).sum(-1), 0.0)
check.close("ES21: merged weights are a distribution", by_weights.exp().sum(-1), 1.0)
check.true("ES21: merged probabilities are not", by_probabilities.min() < -0.01, f"{by_probabilities.min():.3f}")
print("share of regret: DPO 0, SFT", round(share(chosen), 3), "  merged", round(share(by_weights), 3))

# %% [markdown]
# **[SimPO](../docs/methods.md#simpo)** takes the mean log-probability of a token, as decoding does, and asks for a
# target margin $\gamma$ (survey Eq. 47):
#
# $$L_\text{SimPO} = -\mathbb{E}\log\sigma\Big(\frac{\beta}{|y_w|}\log\pi(y_w|x) - \frac{\beta}{|y_l|}\log\pi(y_l|x)
# {} - \gamma\Big)$$
#
# The survey remarks that SimPO states no objective of reinforcement learning. The loss implies one all the same. At
# $\gamma = 0$ Bradley–Terry pairs teach
#
# $$\frac{\beta}{|y|}\log\pi(y|x) = r(x, y) - c(x) \quad\Longleftrightarrow\quad
# \pi(y|x) = e^{|y|\,(r - c(x))/\beta}, \qquad c(x) \text{ such that } \textstyle\sum_y \pi = 1.$$
#
# A response is as likely as its length and reward say, whatever $\pi_\text{ref}$ was. With $\gamma > 0$ no reward fits
# ([CS15](../docs/claims.md#cs15)).

# %% tags=["check"]
residual = {}
for gamma in (0.0, 1.0):
    end = learn(LOSS["simpo"], beta=2.0, gamma=gamma)
    c = REWARDS - 2.0 * end / LENGTHS
    residual[gamma] = float((c - c.mean(-1, keepdim=True)).abs().max())
print("deviation of r − β·log π/|y| from one c(x):", {gamma: round(value, 4) for gamma, value in residual.items()})
check.true("survey Eq. 47 at γ = 0: one c(x) for each prompt", residual[0.0] < 1e-6)
check.true("survey Eq. 47 at γ = 1: no c(x)", residual[1.0] > 0.3)
normed = learn(LOSS["sigmoid-norm"], beta=2.0)
c = REWARDS - 2.0 * (normed - REF) / LENGTHS
check.close("sigmoid-norm: the same with u for log π", c - c.mean(-1, keepdim=True), 0.0, tol=1e-6)
check.close("tpo is CPO's preference term", learn(LOSS["tpo"], beta=BETA).exp(), preference_only.exp(), tol=1e-8)
lengths = {"chosen_lengths": torch.tensor([2.0]), "rejected_lengths": torch.tensor([5.0])}
sides = {"chosen_logps": torch.tensor([-4.0]), "rejected_logps": torch.tensor([-6.0])} | lengths
simpo = LOSS["simpo"](**sides, beta=2.0, gamma=0.5)
by_hand = -torch.log(sigma(2.0 * sides["chosen_logps"] / 2 - 2.0 * sides["rejected_logps"] / 5 - 0.5))
check.close("survey Eq. 47 by hand", simpo, by_hand)
check.close("alpha-po at α → 0 is simpo", LOSS["alpha-po"](**sides, beta=2.0, gamma=0.5, alpha=1e-9), simpo, tol=1e-7)

# %% [markdown]
# Three methods of TRL are variations:
# [sigmoid-norm](../docs/methods.md#sigmoid-norm) is SimPO with $u$ in place of $\log\pi$ (Tülu 3).
# [alpha-po](../docs/methods.md#alpha-po) bends SimPO's logarithm into a power.
# [tpo](../docs/methods.md#tpo) is CPO whose imitation takes a third, gold response.
#
# ## 5. Another comparison
#
# Four losses judge a response by itself, at least in part. Then $\beta\log Z(x)$ does not cancel. This is the problem
# of UNA without a baseline (notebook [04](04_una_losses.ipynb)).
#
# | method | chosen response | rejected response |
# | --- | --- | --- |
# | nca-pair | $-\log\sigma(r_w) - \frac12\log\sigma(-r_w)$ | $-\frac12\log\sigma(-r_l)$ |
# | sppo-hard | $(u_w - \frac{1}{2\beta})^2$ | $(u_l + \frac{1}{2\beta})^2$ |
# | apo-zero | $-\sigma(r_w)$ | $+\sigma(r_l)$ |
# | apo-down | $+\sigma(r_w)$ | $-\sigma(r_w - r_l)$, of both |
#
# - [nca-pair](../docs/methods.md#nca-pair) at $\beta = 1$ learns win rates, $\pi = 2\pi_\text{ref}\, P(y \succ y')$,
#   and not $\pi_\text{ref}\, e^{r}$.
# - [sppo-hard](../docs/methods.md#sppo-hard) regresses $\beta u$ on win rates, each label taken as certain.
# - [apo-zero](../docs/methods.md#apo-zero) is linear in $\sigma$, so a response that wins less than half of its pairs
#   loses all its mass.
# - [apo-down](../docs/methods.md#apo-down) lowers both responses. Its infimum is a policy that gives neither.
#
# [aot](../docs/methods.md#aot) sorts the margins of a batch and compares the $k$-th smallest with that of
# $\pi_\text{ref}$. Which pair a margin belongs to is lost. [aot-unpaired](../docs/methods.md#aot-unpaired) sorts chosen
# and rejected responses apart, so that even the pairs are lost.

# %% tags=["check"]
wins = (REF.exp()[:, None, :] * P).sum(-1)  # P(y beats another sample of π_ref)


def with_ties(loss, **settings):
    """The population with y and y' independent, a pair of equal responses included: half a win, half a loss each."""
    of_others = population(loss, **settings)

    def of_policy(logps):
        same = {"chosen_logps": logps.flatten(), "rejected_logps": logps.flatten()}
        refs = {"ref_chosen_logps": REF.flatten(), "ref_rejected_logps": REF.flatten()}
        return of_others(logps) + (REF.exp().flatten() ** 2 * loss(**same, **refs, **settings)).sum()

    return of_policy


by_nca = fixed_point(with_ties(LOSS["nca-pair"], beta=1.0), REF, tolerance=1e-10)
check.close("nca-pair, β = 1, pairs from π_ref: 2·π_ref·P", by_nca.exp(), 2 * REF.exp() * wins, tol=1e-8)
by_sppo = learn(LOSS["sppo-hard"])
check.differs("sppo-hard: not IPO's optimum", by_sppo.exp(), best["identity"].exp(), by=0.01)
zeroed = descend(population(LOSS["apo-zero"]))
against = REF.exp()[:, None, :] * (1 - torch.eye(5))
left = zeroed.exp()[(P * against).sum(-1) < (P.transpose(1, 2) * against).sum(-1)].max()
check.true("apo-zero: losers lose all mass", left < 1e-2, f"at most {left:.1e}")

# %% [markdown]
# ## 6. Other pairs, another reference
#
# **[RSO](../docs/methods.md#rso)** changes the pairs. It samples from $\pi_\text{ref}$ and accepts a response with
# probability (survey Eq. 4)
#
# $$P_\text{accept}(x, y) = e^{(r(x, y) - r_\text{max})/\beta}.$$
#
# The accepted ones have density $\propto \pi_\text{ref}\, e^{r/\beta}$, so they *are* samples of $\pi^*$. The rate of
# acceptance is $Z(x)\, e^{-r_\text{max}/\beta}$. This needs the largest reward of *all* responses. The survey takes
# it from the samples at hand, and then the best ones are accepted too rarely ([CS21](../docs/claims.md#cs21)). Its step
# 2 chooses one $M$ for each $y$, which would accept everything ([ES3](../docs/claims.md#es3)).
#
# For DPO's shape the source of pairs does not matter, as section 1 showed. Where the curve is wrong, it does: a hinge
# or a square compromises between pairs, and $\mu$ says which of them count.

# %% tags=["check"]
accepted, rate = accepted_logps(REF, REWARDS, BETA)
check.close("survey Eq. 4: accepted responses are samples of π*", accepted.exp(), WORLD.optimum.exp())
check.close("survey Eq. 4: the rate is Z·exp(−r_max/β)", rate, (WORLD.log_partition - REWARDS.amax(-1) / BETA).exp())
others = torch.cartesian_prod(*[torch.arange(5)] * 3)  # three further candidates of a group of 4
chance = REF[:, others].sum(-1).exp()  # (4, 125)
at_hand = torch.maximum(REWARDS[:, others].amax(-1)[:, None, :], REWARDS[:, :, None])  # r_max of the group
kept = REF.exp() * (chance[:, None, :] * ((REWARDS[:, :, None] - at_hand) / BETA).exp()).sum(-1)
kept = kept / kept.sum(-1, keepdim=True)
check.differs("CS21: r_max of 4 candidates: not π*", kept, WORLD.optimum.exp(), by=0.02)
ratio = (WORLD.optimum - REF).exp()
with_one = REF.exp() * ratio / ratio.amax(-1, keepdim=True)  # step 2 with M = max_y π*/π_ref
with_each = REF.exp() * ratio / ratio  # as printed: M = π*(y)/π_ref(y) for the sampled y
check.close("ES3: one M: samples of π*", with_one / with_one.sum(-1, keepdim=True), WORLD.optimum.exp())
check.differs("ES3: an M for each y: samples of π_ref", with_each, WORLD.optimum.exp(), by=0.1)
moved = [learn(LOSS["ipo"], sampler=mu) for mu in (REF, WORLD.optimum)]
check.close("DPO from pairs of π*: still π*", learn(LOSS["dpo"], sampler=accepted).exp(), WORLD.optimum.exp(), tol=1e-7)
check.differs("IPO's optimum moves with μ", moved[0].exp(), moved[1].exp(), by=0.01)
print("rate of acceptance for each prompt:", rate)

# %% [markdown]
# **[TR-DPO](../docs/methods.md#tr-dpo)** and **[sDPO](../docs/methods.md#sdpo)** move the reference: from time to time
# the policy becomes the new $\pi_\text{ref}$. If each stage converges, each adds another $r/\beta$:
#
# $$\pi_n \propto \pi_{n-1}\, e^{r/\beta} = \pi_\text{ref}\, e^{n r/\beta}.$$
#
# So $n$ stages are one run of DPO at $\beta/n$. The anchor to the first $\pi_\text{ref}$ gets weaker with each.
#
# sDPO's paper reports that starting the policy at the new reference gives a lower initial loss (survey Sec. 3.3.7). A
# policy that equals its reference has the loss $\log 2$ whatever it is ([CS20](../docs/claims.md#cs20)). So the initial
# loss says nothing about the quality of either.

# %% tags=["check"]
stages = [REF]
for n in (1, 2, 3):
    stages.append(learn(LOSS["dpo"], reference=stages[-1]))
    target = optimal_logps(REF, REWARDS, BETA / n)
    check.close(f"{n} stages: DPO at β/{n}", stages[-1].exp(), target.exp(), tol=1e-7)
first = learn(LOSS["dpo"], beta=2 * BETA)
twice = learn(LOSS["dpo"], reference=first, beta=2 * BETA)
check.close("2 stages at 2·β: π*", twice.exp(), WORLD.optimum.exp(), tol=1e-7)
check.differs("two stages are not one", stages[2].exp(), stages[1].exp(), by=0.02)
print("share of π_ref's regret at β after 0 to 3 stages:", [round(abs(share(logps)), 4) for logps in stages])
pair_mass = population(lambda chosen_logps: torch.ones_like(chosen_logps))(REF)
initial = {(a, b): float(population(LOSS["dpo"], reference=stages[b])(stages[a]) / pair_mass)
           for a, b in ((1, 1), (0, 1), (1, 0))}  # fmt: skip
print("loss at the start of stage 2:")
print(f"    policy new, reference new {initial[1, 1]:.4f}   (log 2)")
print(f"    policy old, reference new {initial[0, 1]:.4f}   (what sDPO compares with)")
print(f"    policy new, reference old {initial[1, 0]:.4f}   (DPO goes on)")
check.close("CS20: log 2 for any policy that is its reference", initial[1, 1], math.log(2))
check.true("the order of the three", initial[1, 0] < initial[1, 1] < initial[0, 1])

# %% [markdown]
# The sentence is true against an old policy with a new reference. Against DPO that goes on, it is false.
#
# **[RPO](../docs/methods.md#rpo)** and **[REBEL](../docs/methods.md#rebel)** change what a pair says. Both responses
# have scores, and the margin is compared with the difference $\Delta s$ of the scores. No label is needed, and certain
# preferences are no danger. They are zero, and least, at $\pi \propto \pi_\text{ref}\, e^{\eta s/\beta}$ for RPO and
# $\pi_\text{ref}\, e^{\eta s}$ for REBEL. RPO's squared form is centred UNA on pairs (notebook
# [04](04_una_losses.ipynb)).

# %% tags=["check"]
for distance in ("squared", "backward_kl", "forward_kl"):
    end = learn(LOSS["rpo"], distance=distance)
    check.close(f"rpo, {distance}: π*", end.exp(), WORLD.optimum.exp(), tol=1e-7)
check.close("rebel at η = 1/β: π*", learn(LOSS["rebel"], eta=1 / BETA).exp(), WORLD.optimum.exp(), tol=1e-7)

# %% [markdown]
# ## 7. All of them on one world
#
# > **Guess first:** which parts of DPO can be changed so that a method still finds $\pi^*$ at some setting?
#
# Each method learns from the same unlimited Bradley–Terry pairs, sampled from $\pi_\text{ref}$. The measure is the
# share of $\pi_\text{ref}$'s regret that is left: 0 is $\pi^*$, 1 is no training. Methods have scales of their own, so
# each is run at several settings, and the best one counts. A method that cannot reach 0 at any setting has another
# optimum. That need not be a fault: R-DPO wants short responses, and IPO has an objective of its own.

# %%
PARTS = {
    "nothing": [("dpo", {}), ("reward-model", {})],
    "the shape": [
        ("gpo: logistic, Savage", {"function": ("logistic", "savage")}),
        ("gpo: exponential", {"beta": (0.1, 0.25, 0.5), "function": "exponential"}),
        ("gpo: squared", {"beta": (0.1, 0.175, 0.25, 0.5), "function": "squared"}),
        ("ipo", {"beta": (0.05, 0.1, 0.2, 0.5)}),
        ("cdpo", {"label_smoothing": (0.01, 0.1, 0.2)}),
        ("exo-pair", {"label_smoothing": (0.001, 0.01, 0.07, 0.2)}),
        ("robust-dpo: no label wrong", {"label_smoothing": (0.01, 0.1)}),
        ("robust-dpo: 10 % wrong", {"label_smoothing": 0.1, "labels": flipped}),
        ("discopop", {"beta": (0.1, 0.5, 2.0)}),
        ("reward-model-margin", {"centring": 0.0}),
    ],
    "a term in the margin": [
        ("dpop", {"lam": (0.1, 1.0, 50.0)}),
        ("r-dpo", {"alpha": (0.01, 0.1, 0.3)}),
        ("beta-dpo", {"filtering": (0.0, 0.1, 1.0)}),
    ],
    "the reward": [
        ("f-dpo: js", {"beta": (0.2, 0.5, 1.0, 2.0), "divergence": "js"}),
        ("iupo: js", {"beta": (0.1, 0.2, 0.5), "divergence": "js"}),
        ("slic", {"lam": (0.5, 2.0, 8.0)}),
        ("cpo", {"lam": (0.0, 0.1, 1.0)}),
        ("tpo", {"beta": (0.25, 0.4, 0.5, 1.0)}),
        ("orpo", {"lam": (0.1, 1.0, 10.0)}),
        ("simpo", {"beta": (0.4, 0.6, 1.0, 2.0), "gamma": 0.0}),
        ("alpha-po", {"beta": (0.25, 0.5, 1.0, 2.0), "gamma": 0.0}),
        ("sigmoid-norm", {"beta": (0.5, 1.0, 1.5, 5.0)}),
    ],
    "the comparison": [
        ("nca-pair", {"beta": (0.1, 0.2, 0.5, 1.0)}),
        ("sppo-hard", {"beta": (0.05, 0.1, 0.2, 0.5)}),
        ("apo-zero", {}),
        ("apo-down", {}),
        ("aot", {"beta": (0.35, 0.5)}),
        ("aot-unpaired", {}),
    ],
    "the pairs or the reference": [
        ("rso: hinge", {"beta": (0.25, 0.5), "sampler": accepted}),
        ("rso: sigmoid", {"function": "sigmoid_norm", "sampler": accepted}),
        ("tr-dpo, sdpo: 2 stages", {"beta": (BETA, 2 * BETA), "reference": learn(LOSS["dpo"], beta=2 * BETA)}),
        ("rpo", {"distance": ("squared", "backward_kl")}),
        ("rebel", {"eta": (1.0, 2.0, 4.0)}),
        ("soft-reward-model", {}),
    ],
}


def in_proportion(loss, size=300, **settings):
    """For losses that sort a batch: `size` pairs a prompt, each ordered pair as often as the population has it."""
    weights = 2 * REF.exp()[:, FIRST] * REF.exp()[:, SECOND] * P[:, FIRST, SECOND]
    rows = torch.arange(weights.numel()).repeat_interleave((size * weights).round().long().flatten())

    def of_policy(logps):
        tables = {"logps": logps, "ref_logps": REF}
        sides = {"chosen_logps": ("logps", FIRST), "rejected_logps": ("logps", SECOND),
                 "ref_chosen_logps": ("ref_logps", FIRST), "ref_rejected_logps": ("ref_logps", SECOND)}  # fmt: skip
        batch = {side: tables[table][:, column].flatten()[rows] for side, (table, column) in sides.items()}
        return loss(**batch, **{"beta": BETA, **settings}).mean()

    return of_policy


def grid(options):
    """One dictionary of settings for each value of the option that has several."""
    several = [name for name, value in options.items() if isinstance(value, tuple)]
    return [{**options, several[0]: value} for value in options[several[0]]] if several else [options]


KINKS = ("dpop", "slic", "rso: hinge", "aot")  # a minimum with a kink, where Newton's method does not help
ENDLESS = ("apo-zero", "apo-down", "aot-unpaired")  # no minimum: section 5


def end_of(name, settings):
    """(the policy, whether `fixed_point` certifies a smooth minimum)."""
    method = name.split(":")[0].split(",")[0]
    loss = LOSS[method]
    if METHODS[method].whole_batch:
        return descend(in_proportion(loss, **settings)), False
    if name in KINKS + ENDLESS:
        return descend(population(loss, **settings)), False
    try:
        end, certain = learn(loss, **settings), True
    except NotConverged:
        end, certain = descend(population(loss, **settings)), False
    return (optimal_logps(REF, end, BETA) if METHODS[method].scorer else end), certain


RESULTS = {}
for rows in PARTS.values():
    for name, options in rows:
        tried = [(settings, *end_of(name, settings)) for settings in grid(options)]
        RESULTS[name] = [(settings, max(share(logps), 0.0), certain) for settings, logps, certain in tried]

RESULTS = {name: sorted(found, key=lambda one: one[1]) for name, found in RESULTS.items()}
for part, rows in PARTS.items():
    print(f"{part} changes:")
    for name, _ in rows:
        settings, left, certain = RESULTS[name][0]
        shown = ", ".join(f"{k} {v}" for k, v in settings.items() if isinstance(v, int | float | str))
        note = "" if certain or name in KINKS else "  no minimum: the end of 300 steps"
        print(f"    {name:<27}{left:6.3f}  {shown}{note}")

# %% tags=["check"]
FINDS = {name for name, found in RESULTS.items() if found[0][1] < 1e-6}
print("learn π* at some setting:", ", ".join(sorted(FINDS)))
check.true("rows that reach π*", len(FINDS) == 11, f"{len(FINDS)} of {len(RESULTS)}")
never = ["ipo", "gpo: squared", "exo-pair", "dpop", "cpo", "simpo", "orpo", "slic"]
never += ["nca-pair", "sppo-hard", "rso: hinge"]
shown = ", ".join(f"{name} {RESULTS[name][0][1]:.3f}" for name in never)
check.true("not at any of their settings", all(RESULTS[name][0][1] > 1e-3 for name in never), shown)
check.true("discopop ends below π_ref", RESULTS["discopop"][0][1] > 1, f"best share {RESULTS['discopop'][0][1]:.3f}")
own = {name for name, method in METHODS.items() if method.notebook == "08_pairs"}
covered = {part.strip() for name in RESULTS for part in name.split(":")[0].split(",")}
check.true("every method of this notebook has a row", own - {"tpo-l"} <= covered, f"{len(own)} methods; tpo-l is simpo")

# %%
rows_of = {part: {name: RESULTS[name] for name, _ in rows} for part, rows in PARTS.items()}
SVG(draw_shares({part: {
    name: {"shares": [left for _, left, _ in found], "open": not found[0][2] and name not in KINKS}
    for name, found in rows.items()} for part, rows in rows_of.items()}))  # fmt: skip

# %% [markdown]
# Large dot: the best setting. Small dots: the others. Open dot: no minimum, the end of 300 steps. The optimum of
# *aot* and of a hinge has a kink, so it was found by descent as well.
#
# - The rows at 0 keep DPO's reward and a curve with $f'(m)/f'(-m) = e^{-m}$. They change the scale, the pairs, the
#   reference or the labels.
# - cDPO, DPOP, R-DPO, β-DPO and robust-dpo are best at their smallest setting, where they are almost DPO. Their idea is
#   to pay regret here for safety elsewhere.
# - A saturating curve costs little at its best scale: about 2 % of the regret for IPO, less than 1 % for exo-pair.
# - SLiC, ORPO, SimPO and alpha-po leave most. They must: their optimum does not know $\pi_\text{ref}$. *sigmoid-norm*,
#   which is SimPO with $\pi_\text{ref}$, leaves 3 %.
# - *discopop* has two minima. From $\pi_\text{ref}$ every first step goes against the label, and the run ends in the
#   worse one. From $\pi^*$ it ends near $\pi^*$ (exercise 2).
# - R-DPO, f-DPO and IUPO aim at another optimum, so their rows are no fault.
#
# ## 8. What pairs do not say
#
# "DPO tends to favour unseen responses" is a finding that the survey reports (survey Sec. 3.13.2), with iterative DPO
# and PPO as the better methods. In section 3 we saw both sides. On a table the mass of unseen responses only shrinks by
# what the pair gains: their logits get no gradient. With shared features nearly all mass went there
# ([CS3](../docs/claims.md#cs3)).
#
# Is it DPO's fault? Fit a *reward model* with the same features to the same pair. Take the exact optimum of RLHF, the
# end of PPO. Then let DPO have new labels, for pairs of its own samples. The true rewards are 1, 0, −1, −1.

# %% tags=["check"]
TRUE = torch.tensor([1.0, 0.0, -1.0, -1.0])
EVEN = torch.full((4,), 0.25).log()
START = torch.zeros(2, requires_grad=True)


def fit(loss_of, theta, rate=RATE):
    """Gradient descent on a loss of θ."""
    for _ in range(STEPS):
        theta = (theta - rate * torch.autograd.grad(loss_of(theta), theta)[0]).detach().requires_grad_()
    return theta


def rm_loss(w):
    rewards = SHARED @ w
    return LOSS["reward-model"](chosen_rewards=rewards[:1], rejected_rewards=rewards[1:2]).sum()


learned_rewards = SHARED @ fit(rm_loss, START, rate=RATE * BETA**2).detach()
by_reward_model = optimal_logps(EVEN[None], learned_rewards[None], BETA)[0]
check.close(
    "RLHF on a reward model of the same pair: DPO's policy", by_reward_model.exp(), RUNS["dpo", "shared"].exp(), 1e-10
)

ONE, TWO = (~torch.eye(4, dtype=torch.bool)).nonzero(as_tuple=True)
theta = START
for _ in range(5):  # iterative DPO: 5 rounds of pairs of two different samples of the current policy
    sampler = (SHARED @ theta).softmax(0).detach()
    weight = sampler[ONE] * sampler[TWO] / (sampler[ONE] * sampler[TWO]).sum() * sigma(TRUE[ONE] - TRUE[TWO]) * 2

    def dpo_loss(theta, weight=weight):
        logps = (SHARED @ theta).log_softmax(0)
        sides = {"chosen_logps": logps[ONE], "rejected_logps": logps[TWO]}
        refs = {"ref_chosen_logps": EVEN[ONE], "ref_rejected_logps": EVEN[TWO]}
        return (weight * LOSS["dpo"](**sides, **refs, beta=BETA)).sum()

    theta = fit(dpo_loss, theta)
ENDS = {
    "π_ref": EVEN,
    "DPO, one pair": RUNS["dpo", "shared"],
    "RLHF on a reward model of that pair": by_reward_model,
    "iterative DPO, labels for its samples": (SHARED @ theta).log_softmax(0).detach(),
    "RLHF on the true reward (π*)": optimal_logps(EVEN[None], TRUE[None], BETA)[0],
}
print(f"{'':<40}unseen mass   true reward")
for name, logps in ENDS.items():
    print(f"{name:<40}{logps[2:].exp().sum():11.4f} {(logps.exp() * TRUE).sum():+13.4f}")
unseen = {name: float(logps[2:].exp().sum()) for name, logps in ENDS.items()}
back = unseen["iterative DPO, labels for its samples"]
check.true("new labels bring the mass back", back < 0.2 < 0.95 < unseen["DPO, one pair"])

# %% [markdown]
# A reward model extrapolates like DPO, and RLHF then ends at exactly the same policy. What helps is labels for what the
# policy now says, not the algorithm ([CS24](../docs/claims.md#cs24), with seeds and a table).
#
# Related: the mean implicit reward under $\pi_\text{ref}$ is exactly $-\beta\, \text{KL}(\pi_\text{ref} \,\|\, \pi)$.
# So falling implicit rewards during DPO are no defect; no training can make this mean positive
# ([CS23](../docs/claims.md#cs23)).

# %% tags=["check"]
mean_reward = (REF.exp() * BETA * (POLICY - REF)).sum(-1)
kl_forward = (REF.exp() * (REF - POLICY)).sum(-1)
check.close("CS23: E_ref r_θ = −β·KL(π_ref ‖ π)", mean_reward, -BETA * kl_forward)
check.true("CS23: negative for every prompt", (mean_reward < 0).all(), f"mean {mean_reward.mean():.3f}")
margins = torch.tensor([50.0])
check.true("ES38: 1 − σ(50) is 0 in float64", (1 - sigma(margins)).item() == 0.0, "its log is −∞")
check.close("ES38: log σ(−50)", torch.nn.functional.logsigmoid(-margins), -50.0)

# %% [markdown]
# ## The ledger
#
# What the survey says of these methods, with verdicts. `una-ref claims ES5 --check` recomputes one.

# %%
display(Markdown(markdown(entry for entry in CLAIMS.values() if entry.notebook == "08_pairs" and not entry.misprint)))

# %% [markdown]
# ## What we learned
#
# - DPO has four parts. A method keeps $\pi^*$ if it keeps the reward $\beta u$ and a shape with $f'(m)/f'(-m) =
#   e^{-m}$: *logistic: learned margin*, *savage: learned margin*.
# - A wrong scale can be tuned away: *exponential at 0.5·β*. A wrong curve cannot: *not at any of their settings*.
# - Saturation is what protects IPO, cDPO and exo-pair from certain labels. It is also what keeps them from $\pi^*$.
# - robust-dpo needs the noise that it assumes: *robust-dpo: it falls without end*. discopop's first step goes against
#   the label: *discopop rises at 0*.
# - Five formulas of the survey need a correction that changes what is learned: Eq. 1 ([ES1](../docs/claims.md#es1)),
#   13 ([ES5](../docs/claims.md#es5)), 42 ([ES20](../docs/claims.md#es20)), 45 and 46
#   ([ES22](../docs/claims.md#es22), [ES23](../docs/claims.md#es23)). Eq. 4 and 14 need a condition
#   ([ES3](../docs/claims.md#es3), [ES6](../docs/claims.md#es6)).
# - DPOP does what it claims where responses share features ([CS2](../docs/claims.md#cs2)). A large $\lambda$ keeps the
#   policy at $\pi_\text{ref}$.
# - Without a reference a loss has another optimum: $e^{r/\beta}$ for CPO ([CS19](../docs/claims.md#cs19)),
#   $e^{|y|(r - c)/\beta}$ for SimPO ([CS15](../docs/claims.md#cs15)).
# - A moving reference is DPO at $\beta/n$: *2 stages: DPO at β/2*. Its lower initial loss is an identity
#   ([CS20](../docs/claims.md#cs20)).
# - DPO and RLHF on a reward model of the same pairs favour the same unseen responses ([CS3](../docs/claims.md#cs3),
#   [CS24](../docs/claims.md#cs24)). New labels help.
#
# ## Limits
#
# - Data are unlimited and labels follow Bradley–Terry. With few or certain labels a saturating shape may win (notebook
#   [06](06_upo_and_iupo.ipynb)).
# - The world is one table of 4 prompts and 5 responses. Shares depend on it. The same eleven rows are 0 in the world of
#   seed 1.
# - Policies are tables. Shared parameters change what is learned, as sections 3 and 8 show.
# - Regret is measured by RLHF's objective at $\beta = 0.5$. Methods with another objective are not bad at their own.
# - The best setting was chosen by that regret, which nobody can compute for a language model.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell, which checks it. Hints and answers are folded below.
#
# **1.** (Pencil.) Which margin does the *truncated quadratic* $f(m) = \max(0, 1 - m)^2$ learn on two responses, as a
# function of $\Delta$?

# %%
mine = ...  # a function of Δ

if mine is not ...:
    found = learned_margin(SHAPES["truncated_quadratic"], DELTA)
    check.close("exercise 1", found, mine(DELTA), tol=2e-3)

# %% [markdown]
# **2.** (Code.) From $\pi_\text{ref}$, discopop at $\beta = 0.5$ ends at a share of 1.22. Start from $\pi^*$ instead.
# Which share is left?

# %%
mine = ...  # the share, 2 digits

if mine is not ...:
    nearby = fixed_point(population(LOSS["discopop"]), WORLD.optimum, tolerance=1e-10)
    check.close("exercise 2", share(nearby), mine, tol=0.006)

# %% [markdown]
# **3.** (Open.) Your labels are certain, and you fear over-optimisation. Which row of section 7 would you take, and
# what would it cost where labels are uncertain?
#
# <details>
# <summary>Hints</summary>
#
# **1.** Where does the square reach zero? **2.** `learn` starts at `REF`; `fixed_point` takes another start. **3.**
# Which shapes stop at a certain label?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `lambda d: (d / 2).tanh()`. Inside $|m| \le 1$ it is the squared function, and no learned margin is outside.
#
# **2.** `0.03`. The better minimum exists, but no run that starts at $\pi_\text{ref}$ with small steps finds it.
#
# **3.** One that saturates, such as IPO or cDPO. It costs a few per cent of the regret here, since its curve leaves the
# diagonal.
#
# </details>
