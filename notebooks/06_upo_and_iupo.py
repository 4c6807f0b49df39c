# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What protected IPO, and does IUPO keep it?
#
# [Notebook 05](05_f_divergences.ipynb) ended with every divergence's optimum for a *given* reward. Here there is no
# reward, only preferences. $\Psi$PO turns preferences into a reward, and IPO is its safest case. IUPO is the paper's
# attempt to have IPO with any $f$-divergence.
#
# **Claim.** IPO is safe because it asks for a *finite* gap, $\frac{1}{2\beta}$, of a quantity that can reach it. With
# an $f$-divergence that quantity is, by Theorem 3.1,
#
# $$f'\!\left(\frac{\pi_w}{\pi_{\text{ref},w}}\right) - f'\!\left(\frac{\pi_l}{\pi_{\text{ref},l}}\right).$$
#
# The paper uses another quantity in its loss (UPO Eq. 23), "by means of induction". With Jensen–Shannon, the paper's
# choice, the printed quantity has a ceiling. The target $\frac{1}{2\beta}$ lies above the ceiling unless
# $\pi_\text{ref}$ prefers the loser by a factor of more than $e^{1/(2\beta)} - 1$. This factor is 147 at $\beta = 0.1$
# and 1.72 at $\beta = 0.5$. On a pair below that factor whose label is certain, the printed JS-IUPO has no minimum. It
# runs away, as DPO does. IPO was made to prevent this.
#
# **Needs.** Notebook 05. From outside: what DPO is.
#
# **Time.** About 35 minutes to read, without the exercises. Next: [notebook 07](07_gradients.ipynb).

# %%
import math

import sympy as sp
import torch
from IPython.display import Markdown, display

from una_ref import METHODS, figures
from una_ref.claims import CLAIMS, markdown
from una_ref.claims.js_iupo import fit, log_linear
from una_ref.notebook import check
from una_ref.theory import (
    DIVERGENCES,
    TableWorld,
    bradley_terry,
    expected_reward,
    fixed_point,
    multiplier,
    objective,
    optimal_logps,
    preference_rewards,
    regret,
)
from una_ref.theory.populations import over_pairs

torch.set_num_threads(1)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
plt = figures.pyplot()
F64 = torch.float64


def row(*numbers):
    return torch.tensor([numbers], dtype=F64)


# %% [markdown]
# ## 1. Preferences, with and without rewards
#
# Bradley and Terry give each response a rating, and the ratings decide the probability of winning (UPO Eq. 1):
#
# $$P(y_w \succeq y_l) = \frac{e^{R(y_w)}}{e^{R(y_w)} + e^{R(y_l)}}$$
#
# This is a sigmoid of the difference (UPO Eq. 2):
#
# $$P(y_w \succeq y_l) = \frac{1}{1 + e^{-(R(y_w) - R(y_l))}} = \sigma(R(y_w) - R(y_l)).$$

# %% tags=["check"]
R = row(1.0, 0.2, -0.6)
e = R.exp()
eq1 = e[:, :, None] / (e[:, :, None] + e[:, None, :])
check.close("UPO Eq. 1 = UPO Eq. 2", eq1, 1 / (1 + torch.exp(-(R[:, :, None] - R[:, None, :]))))
check.close("bradley_terry()", bradley_terry(R), eq1)

# %% [markdown]
# Labellers need not follow this model. Our three responses beat one another with logits 1 (A over B), 2 (A over C) and
# ½ (B over C). With ratings the logit of A over C would be the sum of the other two, $1 + \frac12$. Here it is 2. The
# opponents come from $\mu$, and $\pi_\text{ref}$ is another policy.

# %% tags=["check"]
P = torch.full((1, 3, 3), 0.5, dtype=F64)
for (winner, loser), logit in {(0, 1): 1.0, (0, 2): 2.0, (1, 2): 0.5}.items():
    P[0, winner, loser] = 1 / (1 + math.exp(-logit))
    P[0, loser, winner] = 1 - P[0, winner, loser]
mu, ref = row(0.2, 0.5, 0.3), row(0.5, 0.3, 0.2)
ref_logps = ref.log()
print("P(row beats column):\n", P[0])
logits = P[0].logit()
check.differs("no ratings give these: A over C is not the sum", logits[0, 2], logits[0, 1] + logits[1, 2], by=0.4)
check.close(
    "with Bradley–Terry it is the sum",
    bradley_terry(R)[0].logit()[0, 2],
    bradley_terry(R)[0].logit()[[0, 1], [1, 2]].sum(),
)

# %% [markdown]
# ## 2. ΨPO: a reward made of preferences
#
# $\Psi$PO maximises (UPO Eq. 6), for a non-decreasing $\Psi$ and opponents $y' \sim \mu$,
#
# $$\mathbb{E}_{y \sim \pi,\; y' \sim \mu}\big[\Psi(p^*(y \succeq y'|x))\big] - \beta\, \text{KL}(\pi \,\|\,
# \pi_\text{ref}).$$
#
# Since $\mu$ is fixed, the inner mean over $y'$ is one number per response, $g(y)$. It is a reward. So the optimum is
# that of [notebook 05](05_f_divergences.ipynb).

# %% tags=["check"]
beta = 0.5
g = (P * mu[:, None, :]).sum(-1)  # Ψ the identity
print("g =", g)
best = ref * (g / beta).exp() / (ref * (g / beta).exp()).sum()
pi = row(0.6, 0.3, 0.1)
direct = (pi[:, :, None] * mu[:, None, :] * P).sum() - beta * (pi * (pi / ref).log()).sum()
check.close("preference_rewards()", preference_rewards(P, mu.log()), g)
check.close("UPO Eq. 6, summed over both = objective with g", objective(pi.log(), ref_logps, g, beta)[0], direct)
check.close("its optimum", optimal_logps(ref_logps, g, beta).exp(), best)

# %% [markdown]
# Take $\Psi = \text{logit}$ and a Bradley–Terry labeller. Then $g$ is the rating itself minus a constant, for all
# opponents (UPO Eq. 7). This makes RLHF and DPO cases of $\Psi$PO:
#
# $$\mathbb{E}_{y' \sim \mu}\big[\Psi(p^*(y \succeq y'|x))\big] = \mathbb{E}_{y' \sim \mu}[R(y) - R(y')] = R(y) +
# \text{const}$$

# %% tags=["check"]
d = sp.symbols("d", real=True)
sigmoid = 1 / (1 + sp.exp(-d))
check.true("logit(σ(d)) = d, symbolically", sp.simplify(sp.exp(sp.log(sigmoid / (1 - sigmoid)) - d)) == 1)
by_logit = preference_rewards(bradley_terry(R), mu.log(), torch.logit)
check.close("UPO Eq. 7: g is R minus its mean under μ", by_logit, R - (mu * R).sum())
by_identity = preference_rewards(bradley_terry(R), mu.log())
check.differs("with the identity g is not R", by_identity - by_identity.mean(), R - R.mean(), by=0.3)

# %% [markdown]
# **The danger.** A preference of 1 has an infinite logit. The identity stays in $[0, 1]$, however certain the labellers
# are. So the KL's optimum moves one log-ratio against another by at most $1/\beta$. This bound is IPO's protection.

# %% tags=["check"]
certain = torch.tensor([[[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]]], dtype=F64)
by_id, by_log = (preference_rewards(certain, mu.log(), psi) for psi in (lambda p: p, torch.logit))
print("g of the best and of the worst: identity", by_id[0, [0, 2]], "  logit", by_log[0, [0, 2]])
check.true("logit: infinite", by_log[0, 0] == math.inf and by_log[0, 2] == -math.inf)
bounded = optimal_logps(ref_logps, by_id, beta) - ref_logps
apart = float(bounded.max() - bounded.min())
check.true("identity: log-ratios at most 1/β apart", apart <= 1 / beta, f"{apart:.3f} <= {1 / beta}")

# %% [markdown]
# ## 3. IPO, and who the opponent is
#
# With the identity $\Psi$PO is written as (UPO Eq. 8)
#
# $$\max_\pi\; P^*(\pi \succeq \pi_\text{ref}) - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}),$$
#
# and UPO Eq. 22 says the same of IUPO. Both replace $\mu$ by $\pi_\text{ref}$ without comment (EP6). The objective that
# follows from Eq. 6 has $P^*(\pi \succeq \mu)$. It is another objective if $\mu$ is not $\pi_\text{ref}$:

# %% tags=["check"]
against_ref = preference_rewards(P, ref_logps)
print("g against μ    ", g, "\ng against π_ref", against_ref)
check.close("E_π g is P*(π ≻ μ)", expected_reward(pi.log(), g)[0], (pi[0] @ P[0] @ mu[0]))
check.differs("EP6: another g against π_ref", g, against_ref, by=0.05)

cycle = torch.full((1, 3, 3), 0.5, dtype=F64)
for winner, loser in ((0, 1), (1, 2), (2, 0)):
    cycle[0, winner, loser], cycle[0, loser, winner] = 0.9, 0.1
many_a, many_b = row(0.8, 0.1, 0.1), row(0.1, 0.8, 0.1)
print("A beats B beats C beats A, each with 0.9; π* at β = 0.1:")
for name, opponent in (("μ, mostly A", many_a), ("π_ref, mostly B", many_b)):
    g_cycle = preference_rewards(cycle, opponent.log())
    print(f"    against {name:<16}", optimal_logps(many_b.log(), g_cycle, 0.1).exp()[0])
favourites = [int(preference_rewards(cycle, o.log()).argmax()) for o in (many_a, many_b)]
check.true(
    "EP6: in a cycle the best response differs",
    favourites == [2, 0],
    f"{'ABC'[favourites[0]]} and {'ABC'[favourites[1]]}",
)

# %% [markdown]
# **IPO's loss** needs no $g$. It uses pairs, through the log-ratio of the two responses (UPO Eq. 9):
#
# $$h_\pi(x, y_w, y_l) = \log \frac{\pi(y_w|x)}{\pi(y_l|x)} - \log \frac{\pi_\text{ref}(y_w|x)}{\pi_\text{ref}(y_l|x)}$$
#
# The loss regresses this on a number (UPO Eq. 10; the square is inside the mean):
#
# $$\mathbb{E}_{(x, y_w, y_l) \sim \mathcal{D}}\Big[\Big(h_\pi(x, y_w, y_l) - \frac{1}{2\beta}\Big)^2\Big]$$


# %%
def four(logps, w, l):  # noqa: E741
    """The arguments of a pair loss, for lists of winners and losers of prompt 0."""
    return {
        "chosen_logps": logps[0, w],
        "rejected_logps": logps[0, l],
        "ref_chosen_logps": ref_logps[0, w],
        "ref_rejected_logps": ref_logps[0, l],
    }


def mean_over_pairs(loss, P, mu, **settings):
    """log π -> the loss's mean over pairs sampled from μ and labelled by P, without equal responses."""
    w, l = (~torch.eye(3, dtype=torch.bool)).nonzero(as_tuple=True)  # noqa: E741
    weight = 2 * mu[0, w] * mu[0, l] * P[0, w, l]  # either of the two may come first
    return lambda logps: (weight * loss(**four(logps, w, l), **settings)).sum()


# %% tags=["check"]
drawn = pi.log()
h = (drawn[0, 0] - drawn[0, 2]) - (ref_logps[0, 0] - ref_logps[0, 2])
by_hand = (h - 1 / (2 * beta)) ** 2
ipo = METHODS["ipo"].loss
check.close("UPO Eq. 9, 10: METHODS['ipo'].loss", ipo(**four(drawn, [0], [2]), beta=beta)[0], by_hand)
mine = mean_over_pairs(ipo, P, mu, beta=beta)(drawn)
check.close(
    "over all pairs = the library's over_pairs()", mine, over_pairs(ipo, P, mu.log(), ref_logps, beta=beta)(drawn)
)

# %% [markdown]
# **Why 1/(2β)?** Take both labels of a pair $(y, y')$ together. Up to a constant the mean loss is
#
# $$\mathbb{E}_{y, y' \sim \mu} \Big[ \Big( u(y) - u(y') - \frac{2 p^*(y \succeq y') - 1}{2\beta} \Big)^2 \Big],
# \qquad u = \log \frac{\pi}{\pi_\text{ref}}.$$
#
# This is a least-squares fit of differences. Its solution is the mean over opponents:
#
# $$u(y) = \frac{1}{\beta}\, \mathbb{E}_{y' \sim \mu}\, p^*(y \succeq y') + \text{const} = \frac{g(y)}{\beta}
# + \text{const}.$$
#
# So IPO's minimiser is $\Psi$PO's optimum. It is the optimum of Eq. 8 only if pairs are sampled from $\pi_\text{ref}$.

# %% tags=["check"]
found = fixed_point(mean_over_pairs(ipo, P, mu, beta=beta), ref_logps)
check.close("IPO's minimiser is ΨPO's optimum against μ", found.exp(), best, tol=1e-9)
eq8 = optimal_logps(ref_logps, against_ref, beta).exp()
check.differs("it is not the optimum against π_ref", found.exp(), eq8, by=1e-3)
from_ref = fixed_point(mean_over_pairs(ipo, P, ref, beta=beta), ref_logps)
check.close("pairs from π_ref give the optimum against π_ref", from_ref.exp(), eq8, tol=1e-9)

# %% [markdown]
# ## 4. UPO: any divergence
#
# UPO is Eq. 6 with $D_f$ (UPO Eq. 11). So its optimum is that of [notebook 05](05_f_divergences.ipynb), with $g$ as the
# reward. The difference of two responses to one prompt cancels $\lambda(x)$ (UPO Eq. 17):
#
# $$\mathbb{E}_{y'_w, y'_l \sim \mu}\big[\Psi(p^*(y_w \succeq y'_w|x)) - \Psi(p^*(y_l \succeq y'_l|x))\big]
# = \beta \Big[ f'\!\Big(\frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}\Big)
# {} - f'\!\Big(\frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\Big) \Big]$$

# %% tags=["check"]
js_best = optimal_logps(ref_logps, g, beta, "js")
slope = DIVERGENCES["js"].slope(js_best - ref_logps)
left = g[0][:, None] - g[0][None, :]
check.close("UPO Eq. 17, all nine pairs, JS", left, beta * (slope[0][:, None] - slope[0][None, :]), tol=1e-9)
kl_slope = js_best - ref_logps
check.differs(
    "with the KL's f′ at JS's optimum Eq. 17 fails", left, beta * (kl_slope[0][:, None] - kl_slope[0][None, :]), by=0.2
)

# %% [markdown]
# **Proposition 3.2.** Take $\Psi = \text{logit}$ and a Bradley–Terry labeller. Theorem 3.1 and Eq. 7 together give the
# rating of the winner (UPO Eq. 18)
#
# $$R(y_w|x) = \beta f'\!\Big(\frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}\Big) + \lambda'$$
#
# and that of the loser, with the same $\lambda'(x) = \lambda(x) + \mathbb{E}_{y' \sim \mu} R(y')$ (UPO Eq. 19):
#
# $$R(y_l|x) = \beta f'\!\Big(\frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\Big) + \lambda'$$

# %% tags=["check"]
upo = optimal_logps(ref_logps, by_logit, beta, "js")
level = multiplier(ref_logps, by_logit, beta, "js") + (mu * R).sum()
rating = beta * DIVERGENCES["js"].slope(upo - ref_logps) + level
print("R =", R, "  β·f′ + λ′ =", rating)
check.close("UPO Eq. 18: the winner's rating", rating[0, 0], R[0, 0], tol=1e-9)
check.close("UPO Eq. 19: the loser's, with the same λ′", rating[0, 1:], R[0, 1:], tol=1e-9)

# %% [markdown]
# The labeller's probability is then a function of the policy alone (UPO Eq. 20),
#
# $$p^*(y_w \succeq y_l|x) = \sigma\Big(\beta f'\!\Big(\frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}\Big)
# {} - \beta f'\!\Big(\frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\Big)\Big),$$
#
# and its negative log-likelihood is f-DPO's loss, UPO Eq. 5 again (UPO Eq. 21):
#
# $$-\mathbb{E}_{\mathcal{D}} \log \sigma\Big(\beta f'\!\Big(\frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}\Big)
# {} - \beta f'\!\Big(\frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\Big)\Big)$$

# %% tags=["check"]
margin = beta * DIVERGENCES["js"].slope(upo - ref_logps)[0]
check.close("UPO Eq. 20", torch.sigmoid(margin[:, None] - margin[None, :]), bradley_terry(R)[0], tol=1e-9)
f_dpo = METHODS["f-dpo"].loss
by_hand = -torch.log(torch.sigmoid(margin[0] - margin[2]))
check.close("UPO Eq. 21 = METHODS['f-dpo'].loss", f_dpo(**four(upo, [0], [2]), beta=beta, divergence="js")[0], by_hand)
for name in ("reverse_kl", "js", "forward_kl", "alpha", "hellinger"):
    end = fixed_point(mean_over_pairs(f_dpo, bradley_terry(R), mu, beta=1.0, divergence=name), ref_logps)
    check.close(
        f"CP3: f-DPO ends at UPO's optimum, {name}",
        end.exp(),
        optimal_logps(ref_logps, by_logit, 1.0, name).exp(),
        1e-7,
    )

# %% [markdown]
# This holds where the optimum gives every response some probability. Where χ² makes zeros, Eq. 18 lacks the $-\eta$ of
# Eq. 15. A pair whose loser is at zero still pulls at its winner. So f-DPO ends at another policy.

# %% tags=["check"]
narrow = optimal_logps(ref_logps, by_logit, 0.25, "chi2").exp()
f_dpo_chi2 = mean_over_pairs(f_dpo, bradley_terry(R), mu, beta=0.25, divergence="chi2")
grid = torch.linspace(0, 1, 401, dtype=F64)[1:-1]
A, B = torch.meshgrid(grid, grid, indexing="ij")
inside = A + B < 1
tables = torch.stack([A[inside], B[inside], 1 - A[inside] - B[inside]], -1).log()
i, j = (~torch.eye(3, dtype=torch.bool)).nonzero(as_tuple=True)
weight = 2 * mu[0, i] * mu[0, j] * bradley_terry(R)[0, i, j]
chi2 = 0.25 * DIVERGENCES["chi2"].slope(tables - ref_logps)
values = -(weight * torch.nn.functional.logsigmoid(chi2[:, i] - chi2[:, j])).sum(-1)  # all policies on a grid
least = tables[values.argmin()]
check.close("f-DPO, χ²: the grid computes the same loss", values[7], f_dpo_chi2(tables[7][None]), tol=1e-12)
print("χ², β = 0.25: UPO's optimum", narrow[0], "  f-DPO's", least.exp())
check.true("UPO's optimum has a zero", narrow[0, 2] == 0)
check.differs("CP3: with zeros f-DPO ends elsewhere", least.exp(), narrow[0], by=0.01)

# %% [markdown]
# ## 5. IUPO: the loss that follows, and the loss that is printed
#
# IUPO is UPO with the identity for $\Psi$ (UPO Eq. 22; $\pi_\text{ref}$ replaces $\mu$ again, EP6):
#
# $$\max_\pi\; P(\pi \succeq \pi_\text{ref}) - \beta\, D_f(\pi, \pi_\text{ref})$$
#
# Its loss follows from Eq. 17 as IPO's did from Eq. 6. The difference $u(y) - u(y')$ becomes $f'(w) - f'(w')$. The same
# least-squares argument gives $f' = g/\beta + \text{const}$, which is Theorem 3.1. In the library this is `iupo`.

# %% tags=["check"]
iupo, iupo_printed = METHODS["iupo"].loss, METHODS["iupo"].printed
slope = DIVERGENCES["js"].slope
by_hand = (slope(drawn - ref_logps)[0, 0] - slope(drawn - ref_logps)[0, 2] - 1 / (2 * beta)) ** 2
check.close(
    "the loss that follows = METHODS['iupo'].loss",
    iupo(**four(drawn, [0], [2]), beta=beta, divergence="js")[0],
    by_hand,
)
for name in ("js", "hellinger", "forward_kl", "alpha"):
    end = fixed_point(mean_over_pairs(iupo, P, mu, beta=beta, divergence=name), ref_logps)
    check.close(
        f"UPO Eq. 22 (against μ): it ends at the optimum, {name}",
        end.exp(),
        optimal_logps(ref_logps, g, beta, name).exp(),
        1e-9,
    )
    other = regret(end, ref_logps, g, beta)
    check.differs(f"    {name}: it is not the KL's optimum", other, 0.0, by=1e-5)

# %% [markdown]
# As with f-DPO, this needs an optimum without zeros. With χ² at $\beta = 0.05$, UPO's optimum deletes two responses.
# The loss has no $\eta$ either, and its minimiser is another policy:

# %% tags=["check"]
deleted = optimal_logps(ref_logps, g, 0.05, "chi2")
prices = DIVERGENCES["chi2"].slope(tables - ref_logps)  # the grid of policies from above
often = 2 * mu[0, i] * mu[0, j] * P[0, i, j]
values = (often * (prices[:, i] - prices[:, j] - 1 / (2 * 0.05)) ** 2).sum(-1)
stops = tables[values.argmin()]
print("χ², β = 0.05: UPO's optimum", deleted.exp()[0], "  IUPO's minimiser", stops.exp())
check.close(
    "IUPO, χ²: the grid computes the same loss",
    values[7],
    mean_over_pairs(iupo, P, mu, beta=0.05, divergence="chi2")(tables[7][None]),
    1e-10,
)
check.differs("with zeros IUPO's minimiser is not the optimum", stops.exp(), deleted.exp()[0], by=0.02)

# %% [markdown]
# The paper goes another way. It starts from $h_\pi$ as in Eq. 9, a ratio of *policies* minus a ratio of *references*.
# It then puts $f'$ in place of the logarithms (UPO Eq. 23):
#
# $$\mathcal{U}h_\pi(x, y_w, y_l) = f'\!\Big(\frac{\pi(y_w|x)}{\pi(y_l|x)}\Big)
# {} - f'\!\Big(\frac{\pi_\text{ref}(y_w|x)}{\pi_\text{ref}(y_l|x)}\Big)$$
#
# The loss regresses this on the same number (UPO Eq. 24):
#
# $$\mathbb{E}_{(x, y_w, y_l) \sim \mathcal{D}}\Big[\Big(\mathcal{U}h_\pi(x, y_w, y_l) - \frac{1}{2\beta}\Big)^2\Big]$$

# %% tags=["check"]
won, lost, ref_won, ref_lost = (torch.tensor(p, dtype=F64).log() for p in (0.6, 0.2, 0.3, 0.4))
printed_uh, right_uh = slope(won - lost) - slope(ref_won - ref_lost), slope(won - ref_won) - slope(lost - ref_lost)
print(f"JS, π = (0.6, 0.2), π_ref = (0.3, 0.4): Eq. 23 {printed_uh:.4f}, from Theorem 3.1 {right_uh:.4f}")
check.differs("EP7: Eq. 23 is another quantity", printed_uh, right_uh, by=0.1)
by_hand = (slope(drawn[0, 0] - drawn[0, 2]) - slope(ref_logps[0, 0] - ref_logps[0, 2]) - 1 / (2 * beta)) ** 2
printed_loss = iupo_printed(**four(drawn, [0], [2]), beta=beta, divergence="js")[0]
check.close("UPO Eq. 23, 24 = METHODS['iupo'].printed", printed_loss, by_hand)

# %% [markdown]
# **When do the two agree?** Write $\varphi(s) = f'(e^s)$ and $a, b, c, d$ for the four log-probabilities. Agreement
# for all policies says $\varphi(a - b) - \varphi(c - d) = \varphi(a - c) - \varphi(b - d)$. The derivative in $a$ is
#
# $$\varphi'(a - b) = \varphi'(a - c) \quad \text{for all } b, c.$$
#
# So $\varphi'$ is constant and $f' = k \log w + \text{const}$, which is the reverse KL alone. For the reverse KL the
# agreement is Proposition 4.1 (UPO Eq. 25), with the paper's $f' = \log w + 1$:
#
# $$\mathcal{U}h_\pi = \log \frac{\pi(y_w|x)}{\pi(y_l|x)} + 1 - \log
# \frac{\pi_\text{ref}(y_w|x)}{\pi_\text{ref}(y_l|x)} - 1
# = h_\pi(x, y_w, y_l)$$

# %% tags=["check"]
a, b, c, d4 = sp.symbols("a b c d", positive=True)


def disagreement(f_slope):
    """Eq. 23 minus what Theorem 3.1 gives, for π = (a, b) and π_ref = (c, d)."""
    return sp.expand_log(f_slope(a / b) - f_slope(c / d4) - f_slope(a / c) + f_slope(b / d4), force=True)


kl_slope = lambda w: sp.log(w) + 1  # noqa: E731
js_slope = lambda w: sp.log(2 * w / (1 + w))  # noqa: E731
check.true("UPO Eq. 25: for the reverse KL they agree, symbolically", sp.simplify(disagreement(kl_slope)) == 0)
check.true("for JS they do not agree, symbolically", sp.simplify(disagreement(js_slope)) != 0)
as_ipo = iupo_printed(**four(drawn, [0, 1], [2, 2]), beta=beta, divergence="reverse_kl")
check.close("CP4: with the reverse KL IUPO's loss is IPO's", as_ipo, ipo(**four(drawn, [0, 1], [2, 2]), beta=beta))
bend = {
    name: float(f.slope(torch.linspace(-3, 3, 61, dtype=F64)).diff().diff().abs().max())
    for name, f in DIVERGENCES.items()
}
straight = [name for name, value in bend.items() if value < 1e-12]
check.true("φ is straight for one divergence only", straight == ["reverse_kl"], str(straight))

# %% [markdown]
# **Where the printed loss ends.** We use our three responses with uncertain labellers. The cost is the share of
# $\pi_\text{ref}$'s regret that is left (CP5). A share above 1 is worse than no training.

# %%
shares = {}
print(f"{'':<12}{'β':<5}{'UPO optimum':<26}{'printed form ends at':<26}share of regret left")
for name in ("reverse_kl", "js", "hellinger", "forward_kl"):
    for own in (0.5, 0.1):
        target = optimal_logps(ref_logps, g, own, name)
        end = fixed_point(mean_over_pairs(iupo_printed, P, mu, beta=own, divergence=name), ref_logps)
        left = regret(end, ref_logps, g, own, name) / regret(ref_logps, ref_logps, g, own, name)
        shares[name, own] = float(left)
        shown = ("  ".join(f"{p:.4f}" for p in table.exp()[0]) for table in (target, end))
        print(f"{name:<12}{own:<5}" + "".join(f"{text:<26}" for text in shown) + f"{abs(float(left)):.2f}")

# %% tags=["check"]
check.close("CP5: no regret left for the reverse KL", [shares["reverse_kl", own] for own in (0.5, 0.1)], 0.0, tol=1e-9)
rest = [share for (name, _), share in shares.items() if name != "reverse_kl"]
check.true("CP5: the others leave over 0.4 of the regret", min(rest) > 0.4, f"{min(rest):.2f} to {max(rest):.2f}")
check.true("forward KL, β = 0.5: the printed form is worse than π_ref", shares["forward_kl", 0.5] > 1)

# %% [markdown]
# ## 6. The printed JS-IUPO has a ceiling
#
# With the paper's divergence the loss is (UPO Eq. 26)
#
# $$\mathbb{E}_{\mathcal{D}}\left[\left(\log \frac{2 \frac{\pi(y_w|x)}{\pi(y_l|x)}}{\frac{\pi(y_w|x)}{\pi(y_l|x)} + 1}
# {} - \log \frac{2 \frac{\pi_\text{ref}(y_w|x)}{\pi_\text{ref}(y_l|x)}}
# {\frac{\pi_\text{ref}(y_w|x)}{\pi_\text{ref}(y_l|x)} + 1}
# {} - \frac{1}{2\beta}\right)^2\right]$$

# %% tags=["check"]
q, q_ref = (drawn[0, 0] - drawn[0, 2]).exp(), (ref_logps[0, 0] - ref_logps[0, 2]).exp()
eq26 = (torch.log(2 * q / (q + 1)) - torch.log(2 * q_ref / (q_ref + 1)) - 1 / (2 * beta)) ** 2
check.close(
    "UPO Eq. 26 = METHODS['iupo'].printed with JS",
    iupo_printed(**four(drawn, [0], [2]), beta=beta, divergence="js")[0],
    eq26,
)

# %% [markdown]
# Let $\pi_w / \pi_l$ grow. The first logarithm tends to $\log 2$ and stays below it, because the price of JS has a
# ceiling ([notebook 05](05_f_divergences.ipynb)). So, with $\rho = \pi_{\text{ref},w} / \pi_{\text{ref},l}$,
#
# $$\mathcal{U}h_\pi < \log \frac{1 + \rho}{\rho}.$$
#
# For equal references the ceiling is $\log 2 = 0.69$. The target is $\frac{1}{2\beta}$. A pair can reach it only if
# $\frac{1}{\rho} > e^{1/(2\beta)} - 1$, so only if $\pi_\text{ref}$ prefers the loser by more than that factor:
#
# | $\beta$ | target $\frac{1}{2\beta}$ | smallest factor $\pi_{\text{ref},l} / \pi_{\text{ref},w}$ |
# | --- | --- | --- |
# | 0.1 | 5 | 147 |
# | 0.2 | 2.5 | 11.2 |
# | 0.5 | 1 | 1.72 |
#
# So some pairs can reach the target and others cannot. In a language model the log-ratios of the reference are wide,
# and many pairs can. Suppose that they are normal around 0 with an sd of 20 nats. Then 40 % of the pairs can reach the
# target at $\beta = 0.1$, 45 % at $\beta = 0.2$ and 49 % at $\beta = 0.5$. For every other pair the loss falls forever.
#
# In $f'(\pi_w/\pi_{\text{ref},w}) - f'(\pi_l/\pi_{\text{ref},l})$ the ceiling does no harm: the loser's price has no
# floor.

# %% tags=["check"]
rho, ratio = sp.symbols("rho q", positive=True)
printed_form = js_slope(ratio) - js_slope(rho)
ceiling = sp.limit(js_slope(ratio), ratio, sp.oo) - js_slope(rho)
check.true(
    "EP8: the limit is log((1 + ρ)/ρ)", sp.simplify(sp.expand_log(ceiling - sp.log((1 + rho) / rho), force=True)) == 0
)
check.true("EP8: the limit is approached from below", sp.simplify(sp.diff(printed_form, ratio)).is_positive)
check.close("EP8: the limit is 5 at ρ = 1/(e⁵ − 1)", float(ceiling.subs(rho, 1 / (sp.exp(5) - 1))), 5.0)
s = sp.symbols("s", positive=True)  # two responses, equal references: π_w = s/(1 + s), so w = 2s/(1 + s)
right_form = js_slope(2 * s / (1 + s)) - js_slope(2 / (1 + s))
check.true("the corrected form has no ceiling", sp.limit(right_form, s, sp.oo) == sp.oo)

TARGET = 5.0  # 1/(2β) at β = 0.1


def on_a_pair(loss, gap, beta=0.1, **settings):
    """The loss at log-ratio h = `gap`, two responses, π_ref = (½, ½)."""
    gap = torch.as_tensor(gap, dtype=F64).reshape(-1)
    half = torch.full_like(gap, math.log(0.5))
    logps = torch.nn.functional.logsigmoid(gap), torch.nn.functional.logsigmoid(-gap)
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    return loss(**dict(zip(names, (*logps, half, half), strict=True)), beta=beta, **settings)


factors = {own: math.expm1(1 / (2 * own)) for own in (0.1, 0.2, 0.5)}
check.close("the smallest factors: 147, 11.2 and 1.72", list(factors.values()), [147.413, 11.182, 1.718], tol=1e-3)
share = {own: float(torch.special.ndtr(torch.tensor(-math.log(f) / 20))) for own, f in factors.items()}
gaps = 20 * torch.randn(200_000, dtype=F64, generator=torch.Generator().manual_seed(0))  # log ref_w/ref_l
for own, expected in share.items():
    reach = (torch.log1p(torch.exp(-gaps)) > 1 / (2 * own)).double().mean()  # the ceiling, log((1 + ρ)/ρ)
    check.close(f"β = {own}: {expected:.0%} of the pairs can reach the target", reach, expected, tol=0.005)
for own, f in factors.items():
    for times in (1.01, 0.99):  # a reference that prefers the loser by a little more, and by a little less
        ends = {
            "ref_chosen_logps": torch.zeros(1, dtype=F64),
            "ref_rejected_logps": torch.tensor([math.log(times * f)]),
        }
        a = torch.linspace(-10, 40, 50_001, dtype=F64)  # log π_w/π_l
        one = {k: v.double().expand_as(a) for k, v in ends.items()}
        least = iupo_printed(chosen_logps=a, rejected_logps=0 * a, **one, beta=own, divergence="js")
        reached = float(least.min()) < 1e-6
        outcome = "reached" if times > 1 else "not reached"
        check.true(f"β = {own}, loser preferred {times * f:.3g} times: the target is {outcome}",
                   reached == (times > 1), f"least loss {float(least.min()):.1e}")  # fmt: skip

floor = (TARGET - math.log(2)) ** 2
values = on_a_pair(iupo_printed, [0, 1, 5, 50], divergence="js")
print("loss of Eq. 26 at log-ratio 0, 1, 5, 50:", values, f"  floor {floor:.4f}")
check.true(
    "EP8: the printed loss falls all the way",
    (on_a_pair(iupo_printed, torch.linspace(-10, 20, 3001), divergence="js").diff() < 0).all(),
)
check.close("EP8: the printed loss tends to its floor", values[-1], floor, tol=1e-9)
h_right = sp.nsolve(right_form.subs(s, sp.exp(sp.Symbol("h"))) - TARGET, 6)
check.close(
    "the corrected form is 0 at a finite log-ratio", on_a_pair(iupo, float(h_right), divergence="js"), 0.0, tol=1e-12
)
check.close("IPO's loss is 0 at a finite log-ratio", on_a_pair(ipo, TARGET), 0.0)
print(f"IPO stops at log-ratio {TARGET}, corrected JS-IUPO at {float(h_right):.3f}")

# %% [markdown]
# **A gate on the wrong pairs.** The derivative of $\log \frac{2q}{1 + q}$ in $\log q$ is $\frac{1}{1 + q}$. Every
# pair's push has that factor, with $q = \pi_w/\pi_l$. In a language model $\log q$ is tens of nats in either
# direction, by length alone. Where $q$ is large there is almost no gradient, and neither $\pi_\text{ref}$ nor the
# labels change that (CP7).

# %% tags=["check"]
gate = sp.simplify(sp.diff(js_slope(ratio), ratio) * ratio)
check.true("CP7: the factor is 1/(1 + q)", sp.simplify(gate - 1 / (1 + ratio)) == 0)
gap = torch.linspace(-8, 8, 33, dtype=F64, requires_grad=True)
(push,) = torch.autograd.grad(on_a_pair(iupo_printed, gap, divergence="js").sum(), gap)
residual = slope(gap.detach()) - TARGET
check.close("CP7: autograd gives the same push", push, 2 * residual / (1 + gap.detach().exp()), tol=1e-10)
normal = torch.distributions.Normal(0.0, 1.0)
for sd in (5, 20, 50):
    dead = float(normal.cdf(torch.tensor(-math.log(99) / sd)))
    print(f"log π_w/π_l with sd {sd:>2} nats: {dead:.0%} of the pairs keep less than 1 % of their gradient")

# %% [markdown]
# ## 7. Preferences that nobody disagrees about
#
# There is one pair with the same winner every time, $\pi_\text{ref} = (\frac12, \frac12)$ and $\beta = 0.1$. Adam
# trains the two logits. The five losses are DPO, cDPO (DPO that allows for 10 % wrong labels), IPO, and both forms of
# JS-IUPO. The dashed ends were computed above, before any step. The end of cDPO is where $\sigma(\beta h) = 0.9$.
#
# > **Guess first:** which of the five stop?

# %%
RUNS = {
    "DPO": (METHODS["dpo"].loss, {}),
    "cDPO": (METHODS["cdpo"].loss, {"label_smoothing": 0.1}),
    "JS-IUPO as printed": (iupo_printed, {"divergence": "js"}),
    "JS-IUPO, corrected": (iupo, {"divergence": "js"}),
    "IPO": (ipo, {}),
}
ENDS = {"cDPO": math.log(9) / 0.1, "JS-IUPO, corrected": float(h_right), "IPO": TARGET}
STEPS = 1200
logits = torch.zeros(len(RUNS), 2, dtype=F64, requires_grad=True)
optimiser = torch.optim.Adam([logits], lr=0.05)
path = torch.zeros(STEPS + 1, len(RUNS), dtype=F64)
for step in range(1, STEPS + 1):
    gaps = logits[:, 0] - logits[:, 1]
    losses = [on_a_pair(loss, gaps[i], **more) for i, (loss, more) in enumerate(RUNS.values())]
    (logits.grad,) = torch.autograd.grad(torch.cat(losses).sum(), logits)
    optimiser.step()
    path[step] = (logits[:, 0] - logits[:, 1]).detach()
for i, name in enumerate(RUNS):
    at = "  ".join(f"{path[k, i]:6.2f}" for k in (100, 300, 600, 1200))
    print(f"{name:<20} log-ratio after 100, 300, 600, 1200 steps: {at}")

# %% tags=["check"]
index = {name: i for i, name in enumerate(RUNS)}
for name in ("IPO", "JS-IUPO, corrected"):
    check.close(f"CP6: {name} stops where it should", path[-1, index[name]], ENDS[name], tol=1e-3)
for name in ("DPO", "JS-IUPO as printed"):
    i = index[name]
    check.true(f"CP6: {name} rises all the way", (path[:, i].diff() > 0).all() and path[-1, i] > path[-601, i] + 0.5)
check.true("the printed form is past IPO's end and still moving", path[-1, index["JS-IUPO as printed"]] > 5)

# %%
OF = {"DPO": "dpo", "cDPO": "cdpo", "JS-IUPO as printed": "iupo", "JS-IUPO, corrected": "iupo", "IPO": "ipo"}
LOOK = {name: figures.look(method)["color"] for name, method in OF.items()}
fig, (seen, run) = plt.subplots(1, 2, figsize=(11.2, 4.5), width_ratios=(1, 1.05))
h_axis = torch.linspace(0, 9, 361, dtype=F64)
w_won, w_lost = (torch.nn.functional.logsigmoid(sign * h_axis) - math.log(0.5) for sign in (1, -1))
SEEN = {"IPO": h_axis, "JS-IUPO, corrected": slope(w_won) - slope(w_lost), "JS-IUPO as printed": slope(h_axis)}
seen.axhline(TARGET, color=figures.INK, linewidth=1, linestyle="--")
seen.text(0.12, TARGET + 0.12, r"the target:  $1/(2\beta) = 5$", fontsize=9.5, va="bottom")
for name, values in SEEN.items():
    seen.plot(h_axis, values, "--" if "printed" in name else "-", color=LOOK[name], linewidth=1.9)
for name in ("IPO", "JS-IUPO, corrected"):
    seen.plot(ENDS[name], TARGET, "o", color=LOOK[name], markersize=8, zorder=4, markeredgecolor=figures.CARD)
seen.text(4.05, 4.35, "IPO", color=LOOK["IPO"], ha="right", fontsize=10)
seen.text(4.95, 3.75, "JS-IUPO, corrected", color=LOOK["JS-IUPO, corrected"], ha="left", va="top", fontsize=10)
seen.text(
    8.95, 0.86, "JS-IUPO as printed: below log 2 = 0.69", color=LOOK["JS-IUPO as printed"], ha="right", fontsize=10
)
seen.annotate(
    "",
    (7.1, TARGET - 0.08),
    (7.1, 1.35),
    arrowprops={"arrowstyle": "<->", "color": LOOK["JS-IUPO as printed"], "lw": 1.1},
)
seen.text(
    7.25, 3.05, "never closer\nthan 4.31:\nloss ≥ 18.55", color=LOOK["JS-IUPO as printed"], fontsize=9, va="center"
)
seen.set_xlim(0, 9)
seen.set_ylim(0, 6.6)
seen.set_xlabel(r"log-ratio  $h = \log\, \pi_w/\pi_l - \log\, \pi_{\mathrm{ref},w}/\pi_{\mathrm{ref},l}$  (nats)")
seen.set_ylabel("the quantity compared with 5")
seen.set_title("The quantity that each loss regresses")

steps = torch.arange(1, STEPS + 1)
for name, i in index.items():
    run.plot(steps, path[1:, i], "--" if "printed" in name else "-", color=LOOK[name], linewidth=1.9, zorder=3)
    if name in ENDS:
        run.axhline(ENDS[name], color=LOOK[name], linewidth=1, linestyle=":", zorder=1)
run.set_xscale("log")
run.set_xlim(8, STEPS)
run.set_ylim(0, 13)
run.set_xticks((10, 100, 1000), ("10", "100", "1,000"))
run.minorticks_off()
run.set_xlabel("steps of Adam")
run.set_ylabel("log-ratio $h$ (nats)")
run.set_title("Training on one certain pair, β = 0.1")
end_text = {"color": LOOK["JS-IUPO as printed"], "fontsize": 10, "va": "center"}
run.text(STEPS * 1.06, float(path[-1, index["JS-IUPO as printed"]]), "JS-IUPO\nas printed:\nno end", **end_text)
run.text(
    STEPS * 1.06,
    ENDS["JS-IUPO, corrected"] + 0.1,
    "JS-IUPO, corrected",
    **end_text | {"color": LOOK["JS-IUPO, corrected"]},
)
run.text(STEPS * 1.06, TARGET - 0.1, "IPO", **end_text | {"color": LOOK["IPO"]})
leaves = {name: int((path[:, index[name]] > 12.4).nonzero()[0]) for name in ("DPO", "cDPO")}
run.text(leaves["DPO"] * 0.9, 12.4, "DPO: no end", **end_text | {"color": LOOK["DPO"], "ha": "right"})
run.text(leaves["cDPO"] * 1.15, 12.4, "cDPO: to 22", **end_text | {"color": LOOK["cDPO"]})
figures.save(fig, "06_upo_and_iupo")
plt.show()

# %% [markdown]
# The printed form is slow, because its gradient vanishes as $\frac{1}{1 + q}$. In a short run this looks like
# restraint. But it never stops, because its loss falls at every log-ratio. How far it goes depends on steps and
# learning rate, no longer on $\beta$ alone.
#
# **Three responses** have an order that nobody disagrees about, and the reference prefers the opposite order. IPO, the
# corrected IUPO and cDPO have minima. The first two are the optima of $\Psi$PO and UPO. Along a ray of growing gaps,
# the printed loss falls towards a floor. The corrected loss rises again.

# %% tags=["check"]
rare, uniform = row(0.2, 0.3, 0.5), row(1 / 3, 1 / 3, 1 / 3)
g_certain = preference_rewards(certain, uniform.log())


def certain_pairs(loss, **settings):
    return over_pairs(loss, certain, uniform.log(), rare.log(), **settings)


for own in (0.5, 0.1):
    ends = {
        "IPO": fixed_point(certain_pairs(ipo, beta=own), rare.log()),
        "corrected JS-IUPO": fixed_point(certain_pairs(iupo, beta=own, divergence="js"), rare.log()),
        "cDPO": fixed_point(certain_pairs(METHODS["cdpo"].loss, beta=own), rare.log()),
    }
    print(
        f"β = {own}, log(π_best/π_worst) at the minimum:",
        {name: round(float(e[0, 0] - e[0, 2]), 2) for name, e in ends.items()},
    )
    for name, divergence in (("IPO", "reverse_kl"), ("corrected JS-IUPO", "js")):
        aim = optimal_logps(rare.log(), g_certain, own, divergence)
        check.close(f"β = {own}: {name}'s minimum is the optimum", ends[name].exp(), aim.exp(), tol=1e-9)

ray = [(rare.log() + k * row(2.0, 1.0, 0.0)).log_softmax(-1) for k in range(0, 31, 5)]
along = {
    form: torch.stack([certain_pairs(loss, beta=0.1, divergence="js")(x) for x in ray])
    for form, loss in (("printed", iupo_printed), ("corrected", iupo))
}
print("along a ray, printed:", along["printed"])
print("           corrected:", along["corrected"])
by_pair = [(0, 1), (0, 2), (1, 2)]
bottom = sum(2 / 9 * (TARGET - math.log(1 + float(rare[0, l] / rare[0, w]))) ** 2 for w, l in by_pair)  # noqa: E741
check.true("printed: lower with every step", (along["printed"].diff() < 0).all())
check.close("printed: its infimum", along["printed"][-1], bottom, tol=1e-8)
check.true("corrected: rises again", along["corrected"][-1] > along["corrected"].min() + 1)
dpo_along = torch.stack([certain_pairs(METHODS["dpo"].loss, beta=0.1)(x) for x in ray])
check.true("DPO: lower with every step", (dpo_along.diff() < 0).all(), f"down to {dpo_along[-1]:.4f}, infimum 0")

# %% [markdown]
# ## 8. What the curves of the experiment can say
#
# The paper finds JS-IUPO's loss curves below IPO's, and its accuracy and margin above. It concludes that JS-IUPO is
# better (Sec. 5.2; GPT-2, no seeds or intervals given).
#
# **Losses.** The two are different functions of a policy. Below is *one* policy, $\pi^*$ of a table world, and both of
# its losses (EP9, CP8). The order of the losses changes with $\beta$, and the policy is the same.

# %% tags=["check"]
world = TableWorld.random(0, prompts=8, responses=6, beta=0.5)
labels = bradley_terry(world.rewards)
ones = over_pairs(lambda chosen_logps, **_: torch.ones_like(chosen_logps), labels, world.ref_logps, world.ref_logps)
table = {}
for own in (0.1, 0.2, 0.5):
    both = ((ipo, {}), (iupo_printed, {"divergence": "js"}))
    table[own] = [
        float(
            over_pairs(loss, labels, world.ref_logps, world.ref_logps, beta=own, **more)(world.optimum)
            / ones(world.optimum)
        )
        for loss, more in both
    ]
    print(f"β = {own}: the same policy has IPO loss {table[own][0]:6.2f} and JS-IUPO loss {table[own][1]:6.2f}")
check.true("CP8: β = 0.1: IPO's loss is lower", table[0.1][0] < table[0.1][1])
check.true("CP8: β = 0.5: JS-IUPO's loss is lower", table[0.5][0] > table[0.5][1])
one_gap = [float(on_a_pair(loss, 1.0, **more)) for loss, more in ((ipo, {}), (iupo_printed, {"divergence": "js"}))]
check.close("EP9: log-ratio 1 at β = 0.1: IPO's loss is 16", one_gap[0], 16.0)
check.differs("EP9: JS-IUPO's loss is another number", one_gap[1], one_gap[0], by=5)

# %% [markdown]
# **Accuracy.** Accuracy can be compared. Take the class $\pi_\theta \propto \pi_\text{ref}\, e^{\theta \cdot \phi}$
# with 20 features. There are 300 training pairs labelled by Bradley–Terry, 4,000 test pairs and ten seeds. Both losses
# are at their exact minimum. A language model adds one thing: the reference already prefers one of the two responses,
# by many nats.
#
# A pair enters as $x = \phi_w - \phi_l$, because $\log \frac{\pi_w}{\pi_l} = \theta \cdot x + \log
# \frac{\pi_{\text{ref},w}}{\pi_{\text{ref},l}}$. So the implicit margin is $\theta \cdot x$, and IPO's loss is
# $(\theta \cdot x - \frac{1}{2\beta})^2$: least squares with the same target on every row. The printed loss puts the
# whole log-ratio into $f'$. One seed by hand:

# %%
train, ref_gap, _ = log_linear(0, 5.0)
by_hand = torch.linalg.lstsq(train, torch.full((300, 1), TARGET, dtype=F64)).solution[:, 0]
by_fit = fit(ipo, train, ref_gap, beta=0.1)
theta = fit(iupo_printed, train, ref_gap, beta=0.1, divergence="js").requires_grad_()
ratio_now, ratio_ref = train @ theta + ref_gap, ref_gap
printed_by_hand = ((slope(ratio_now) - slope(ratio_ref) - TARGET) ** 2).mean()
(at_rest,) = torch.autograd.grad(printed_by_hand, theta)
margins = {"IPO, by least squares": train @ by_hand, "JS-IUPO as printed": train @ theta.detach()}
for name, margin in margins.items():
    print(f"{name:<22} mean margin of the training pairs {margin.mean():6.3f} nats, target {TARGET:g}")

SPREADS = (0.0, 1.0, 5.0)
accuracy = {sd: [] for sd in SPREADS}
for sd in SPREADS:
    for seed in range(10):
        train, ref_gap, test = log_linear(seed, sd)
        thetas = fit(ipo, train, ref_gap, beta=0.1), fit(iupo_printed, train, ref_gap, beta=0.1, divergence="js")
        accuracy[sd].append([float((test @ theta > 0).double().mean()) for theta in thetas])
gain = {sd: torch.tensor(rows).diff(dim=1)[:, 0] for sd, rows in accuracy.items()}
for sd, rows in accuracy.items():
    mean = torch.tensor(rows).mean(0)
    ci = 2.262 * gain[sd].std() / math.sqrt(10)
    print(
        f"log ref_w/ref_l of sd {sd:.0f}: IPO {mean[0]:.3f}, JS-IUPO {mean[1]:.3f}, "
        f"difference {gain[sd].mean():+.4f} ± {ci:.4f}"
    )

# %% tags=["check"]
check.close("IPO in the class is least squares", by_hand, by_fit, tol=1e-5)
check.close("Eq. 26 written out has no slope at its fit", at_rest, 0.0, tol=1e-6)
half_width = {sd: float(2.262 * values.std() / math.sqrt(10)) for sd, values in gain.items()}
check.true(
    "CP9: equal references, a difference below its interval",
    gain[0.0].mean().abs() < half_width[0.0],
    f"{gain[0.0].mean():+.4f} ± {half_width[0.0]:.4f}",
)
check.true(
    "CP9: unequal references, a loss",
    gain[5.0].mean() < -half_width[5.0],
    f"{gain[5.0].mean():+.4f} ± {half_width[5.0]:.4f}",
)

# %% [markdown]
# With equal references the two accuracies differ by less than the interval. The factor $\frac{1}{1 + q}$ switches off
# pairs whose winner the reference prefers. With an sd of 5 nats, JS-IUPO has the lower accuracy.
#
# **Which β?** The paper finds $\beta = 0.1$ best. In this class IPO's loss is a least-squares problem with the target
# $\frac{1}{2\beta}$ on every row. So its minimiser is proportional to $1/\beta$, and *the order it gives to responses
# is the same at every $\beta$* (CP10). On GPT-2 a difference between values of $\beta$ must come from the network or
# from the training.

# %% tags=["check"]
train, ref_gap, test = log_linear(0, 1.0)
fits = {own: fit(ipo, train, ref_gap, beta=own) for own in (0.1, 0.2, 0.5, 1.0)}
for own, theta in fits.items():
    print(
        f"β = {own}: accuracy {float((test @ theta > 0).double().mean()):.4f}, "
        f"mean margin {float((test @ theta).mean()):.3f} nats"
    )
scaled = torch.stack([own * theta for own, theta in fits.items()])
closed = torch.linalg.lstsq(train, torch.full((len(train), 1), 0.5, dtype=F64)).solution[:, 0]
check.close("CP10: β·θ is least squares on the target ½", scaled, closed.expand(4, -1), tol=1e-5)
js_fits = [own * fit(iupo_printed, train, ref_gap, beta=own, divergence="js") for own in (0.1, 1.0)]
check.differs("JS-IUPO as printed: β·θ depends on β", js_fits[0], js_fits[1], by=0.05)

# %% [markdown]
# ## What we learned
#
# - $\Psi$PO and UPO are the objective of [notebook 05](05_f_divergences.ipynb) with the reward
#   $g(y) = \mathbb{E}_{y' \sim \mu} \Psi(p^*(y \succeq y'))$: *UPO Eq. 6, summed over both*, *UPO Eq. 17, all nine
#   pairs*. The opponents are $\mu$, not $\pi_\text{ref}$ (*EP6*).
# - With $\Psi = \text{logit}$ UPO is f-DPO, if no response is deleted: *CP3: f-DPO ends at UPO's optimum*. With zeros
#   f-DPO *ends elsewhere*.
# - The corrected IUPO compares $f'(\pi/\pi_\text{ref})$ of two responses. It ends at UPO's optimum for every
#   divergence, if that has no zeros: *it ends at the optimum*. Eq. 23 is the same quantity for the reverse KL alone:
#   *φ is straight for one divergence only*.
# - The printed JS-IUPO regresses a quantity below $\log(1 + 1/\rho)$ on a target of $\frac{1}{2\beta}$ (*EP8*). For
#   equal references the ceiling is $\log 2$. Pairs below the ceiling's factor lose IPO's protection: *JS-IUPO as
#   printed rises all the way*, and *IPO stops where it should*.
# - It ignores pairs whose winner is already much more likely: *CP7*. In the log-linear world that costs accuracy: *CP9:
#   unequal references, a loss*.
# - Loss curves of two losses do not compare: *CP8*. IPO's objective does not explain why $\beta = 0.1$ is best: *CP10*.
#
# In the ledger:

# %%
HERE = [entry for entry in CLAIMS.values() if entry.notebook == "06_upo_and_iupo" and not entry.misprint]
display(Markdown(markdown(HERE)))

# %% tags=["check"]
ids = {entry.id for entry in HERE}
expected = {"EP6", "EP7", "EP8", "EP9", "CP3", "CP4", "CP5", "CP6", "CP7", "CP8", "CP9", "CP10"}
check.true("the ledger has the claims of notebook 06", expected <= ids, f"{len(ids)} entries")

# %% [markdown]
# ## Limits
#
# - Section 7 is about certain preferences. With labellers who disagree, the printed loss has a finite minimiser. It is
#   not the one that the paper states (section 5).
# - The log-linear world is not GPT-2. It shows what is *not* in the objective. The printed form may train better on
#   text for another reason, such as its small gradients. Only runs with several seeds can show that.
# - Section 7 uses Adam and one learning rate. Both decide how fast the printed form drifts. They do not decide whether
#   it stops.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell. Hints and answers are folded below.
#
# **1.** (Pencil.) Take a pair with equal references and one certain winner. Above which $\beta$ does the printed
# JS-IUPO have a finite minimiser?

# %%
mine = ...  # β

if mine is not ...:
    far = torch.tensor([40.0], dtype=F64)
    reached = [float(slope(far)) - 1 / (2 * mine * k) for k in (0.999, 1.001)]
    check.true("exercise 1", reached[0] < 0 < reached[1])

# %% [markdown]
# **2.** (Pencil.) Where does the corrected IUPO with the *forward KL* stop on the same pair at $\beta = 0.1$? Solve
# $f'(w_w) - f'(w_l) = 5$ with $f'(w) = 1 - 1/w$ by hand.

# %%
mine = ...  # the log-ratio

if mine is not ...:
    check.close("exercise 2", on_a_pair(iupo, float(mine), divergence="forward_kl"), 0.0, tol=1e-8)

# %% [markdown]
# **3.** (Pencil.) A labeller prefers the winner with probability $p$, and pairs come with both labels. At which
# log-ratio does IPO stop? At which does cDPO without smoothing stop, which is DPO? Give both for $p = 0.9$, $\beta =
# 0.1$.

# %%
mine = ...  # (IPO, DPO)

if mine is not ...:
    for loss, h0 in ((ipo, mine[0]), (METHODS["dpo"].loss, mine[1])):
        h1 = torch.tensor([float(h0)], dtype=F64, requires_grad=True)
        mean = 0.9 * on_a_pair(loss, h1) + 0.1 * on_a_pair(loss, -h1)
        check.close("exercise 3: no slope there", torch.autograd.grad(mean.sum(), h1)[0], 0.0, tol=1e-6)

# %% [markdown]
# **4.** (Open.) A run with the printed JS-IUPO looks stable after one epoch. Which two numbers would you log to see
# whether it will stop?
#
# <details>
# <summary>Hints</summary>
#
# **1.** Compare $\frac{1}{2\beta}$ with the ceiling. **2.** $w_w = 2\sigma(h)$ and $w_l = 2\sigma(-h)$. **3.** Set the
# derivative of the mean over both labels to zero.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `1 / (2 * math.log(2))`, 0.721: then $\log 2 = \frac{1}{2\beta}$. The paper tried 0.1, 0.2 and 0.5.
#
# **2.** With $w_w = 2\sigma(h)$, $w_l = 2\sigma(-h)$: $\frac{1}{w_l} - \frac{1}{w_w} = \frac{1 + e^h}{2} - \frac{1 +
# e^{-h}}{2} = \sinh h = 5$, so `math.asinh(5)`, 2.312.
#
# **3.** `((2 * 0.9 - 1) / 0.2, math.log(9) / 0.1)`: 4 and 21.97.
#
# **4.** The share of pairs with $\mathcal{U}h$ above its target, and the mean log-ratio $h$ over epochs. If no pair is
# above the target, every pair still pushes.
#
# </details>
