# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which offline method comes closest to the optimum?
#
# **Claim** (UNA Sec. 4.1, Tables 1–3). On the same responses, scores teach more than binary labels ("thumbs"), and
# binary labels more than pairs. UNA-score is ahead of UNA-binary, and UNA-binary is ahead of DPO and KTO.
#
# The paper measures this by benchmarks of a 7B model, one run per method. Here the same comparison runs on ToySteer, a
# world in which every response to a prompt can be listed. The optimal policy is known there, and "better" is a number:
#
# $$\text{regret} = J(\pi^*) - J(\pi), \qquad
# J(\pi) = \mathbb E_{y\sim\pi}\,r(x, y) - \beta\,\mathrm{KL}(\pi \,\|\, \pi_\text{ref}). \tag{UNA Eq. 3}$$
#
# **Needs.** [Notebook 00](00_one_row_to_one_step.ipynb); [notebook 04](04_una_losses.ipynb) derives what is used of it
# here. The tables come from committed runs, and two of these runs are repeated live. In Colab or Kaggle:
# `%pip install una_ref` first.
#
# **Time.** About 15 minutes to read, without the exercises. Next: [notebook 12](12_iupo_on_text.ipynb).

# %%
import json

import torch
from IPython.display import Markdown

from una_ref import METHODS, figures
from una_ref.data import toysteer
from una_ref.notebook import check
from una_ref.studies.offline_report import PANELS, draw
from una_ref.studies.offline_study import BY_NAME, OFFLINE, OfflineRun, feedback
from una_ref.studies.summaries import interval
from una_ref.studies.toysteer_policies import base_in_world
from una_ref.theory import optimum
from una_ref.theory.fixed_points import fixed_point, una_regression
from una_ref.theory.worlds import TableWorld
from una_ref.training.settings import resolve
from una_ref.training.toysteer_base import toysteer_base

torch.set_num_threads(1)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
committed = figures.records("compare")
study = json.loads((committed / "results.json").read_text())
runs = [json.loads(line) for line in (committed / "runs.jsonl").read_text().splitlines()[1:]]
settings, base = OFFLINE.settings, toysteer_base()
print(f"{len(runs)} runs on {study['date']}, torch {study['versions']['torch']}, {study['hardware']}")

# %% [markdown]
# ## The world
#
# A world has eight prompts. Each has 3,906 possible responses of at most five tokens. A program rates them in
# HelpSteer2's five columns. The score $s$ is HelpSteer2's combination over its largest value 7.6: 0.65 times
# helpfulness, 0.8 times correctness and 0.45 times coherence. The reward for evaluation is $r = 4\,(s - \tfrac12)$,
# with $\beta = 0.4$. The base policy is a tiny Mistral that has imitated demonstrations with mistakes. It ships with
# the package, so every machine starts from the same weights.

# %%
world, ref_next, ref = base_in_world(0, base)
for prompt, row in zip(world.prompts[:3], ref[:3], strict=True):
    top = row.topk(3).indices.tolist()
    shown = ", ".join(f"{world.text(y) or '(nothing)'} {row[y].exp():.2f}" for y in top)
    print(f"{prompt:<20} right: {' '.join(toysteer.answer(prompt)):<10} the base says: {shown}")

# %% [markdown]
# Regret is a sum over a list, not an estimate. It is the same number as $\beta\,\mathrm{KL}(\pi\,\|\,\pi^*)$:

# %% tags=["check"]
exact = world.world(ref_next, settings.beta)
regret = exact.regret(ref)
kl = optimum.kl(ref, exact.optimum)
check.close("regret of the base = β·KL(π_ref‖π*), in float32", regret, settings.beta * kl, tol=1e-5)
check.close("regret of the optimum", exact.regret(exact.optimum), torch.zeros(8).double(), tol=1e-5)
check.differs(
    "without the KL term regret is another number",
    regret,
    (exact.optimum.exp() - ref.exp()).mul(exact.rewards).sum(1),
    by=0.01,
)
print(f"mean regret of the base: {float(regret.mean()):.3f}")

# %% [markdown]
# ## The feedback
#
# The study has two panels, which differ in the feedback.
#
# - **ratings**: rows are as in the papers. Of two responses the one with the higher score is chosen (label 1), and the
#   other is rejected (label 0). Two equal scores are sampled again. Scores are $s$. A unit of $s$ is four of $r$, so
#   $\beta = 0.4$ is 0.1 on this scale.
# - **model**: feedback is sampled from the reward itself. Pairs come from Bradley–Terry, $P(w \succ l) = \sigma(r_w -
#   r_l)$ (UNA Eq. 1). Binary labels are positive with probability $\sigma(r)$. Scores are $s = r$.
#
# Only in the second panel is $\pi^*$ the minimum of DPO. All methods of a panel see the same 2,048 responses.

# %%
for name in ("dpo", "kto", "una-centred"):
    row = feedback("ratings", BY_NAME[name], 0, settings, base)[0]
    print(f"{name:<12} {row.prompt!r}: {row.responses}  pairs {row.pairs}  labels {row.labels}  scores {row.scores}")

# %% [markdown]
# ## The result
#
# > **Guess first:** which method comes closest to $\pi^*$? Does the shuffled control, UNA-score on
# > shuffled scores, gain anything?
#
# In the table, *pair accuracy* is how often the implicit reward ranks a held-out pair as the scores do; *letters* is
# the mean length. In the figure a dot is a world, and the dashed line is π_ref.

# %%
Markdown(OFFLINE.table(study))

# %%
figure = draw(study, name="11_offline_alignment")
from IPython.display import SVG

SVG(figure)

# %% [markdown]
# Two of these runs are repeated live. A run is a function of its seed and of the base policy, and the base is fixed. So
# the numbers below repeat the record's, up to the rounding of another processor. The check compares both methods with
# the policy they started from.

# %% tags=["check"]
again = {}
for name in ("una-centred", "una-score"):
    row = next(r for r in study["rows"] if r["panel"] == "ratings" and r["name"] == name)
    again[name] = OFFLINE.measure(OfflineRun("ratings", name, 0, row["lr"], row["beta"]), settings, base)["regret"]
    print(f"{name:<12} world 0: regret {again[name]:.3f}, in the study {row['regret']['values'][0]:.3f}")
began = float(regret.mean())
evidence = f"{again['una-centred']:.3f} < {began:.3f} < {again['una-score']:.3f}"
apart = again["una-centred"] < began < again["una-score"]
check.true("live: centred UNA ahead of its base, una-score behind it", apart, evidence)

# %% [markdown]
# ## Which parts of the paper's order hold here
#
# Differences are paired: the same world and the same responses, with both methods at their best setting. A positive
# number says that the first method has less regret. "Yes" means that the 95 % interval lies above 0, "no" below it.
# "Open" means that it contains 0.


# %%
def gap(panel: str, better: str, worse: str) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of regret(worse) − regret(better), over worlds."""
    by_name = {r["name"]: r for r in study["rows"] if r["panel"] == panel}
    pairs = zip(by_name[worse]["regret"]["values"], by_name[better]["regret"]["values"], strict=True)
    return interval([w - b for w, b in pairs])


statements = {
    "UNA-score (Eq. 10) beats DPO": ("una-score", "dpo"),
    "UNA-score, the authors' code, beats DPO": ("una-score.released", "dpo"),
    "UNA-score beats UNA on binary labels (MSE)": ("una-score", "una-binary-mse"),
    "UNA on binary labels (MSE) beats DPO": ("una-binary-mse", "dpo"),
    "UNA on binary labels (BCE) beats KTO": ("una-binary-bce", "kto"),
    "UNA-score beats its own shuffled scores": ("una-score", "una-score.shuffled"),
    "centred UNA beats UNA-score": ("una-centred", "una-score"),
    "centred UNA beats DPO": ("una-centred", "dpo"),
}
verdicts = {}
for statement, (better, worse) in statements.items():
    line = []
    for panel in PANELS:
        mean, half = gap(panel, better, worse)
        verdict = "yes" if mean > half else "no" if mean < -half else "open"
        verdicts[statement, panel] = verdict
        line.append(f"{panel}: {mean:+.3f} ± {half:.3f} {verdict:<5}")
    print(f"{statement:<42} {'   '.join(line)}")

# %% [markdown]
# ## Why raw scores mislead, without any training
#
# UNA-score regresses $r_\theta = \beta\log\frac{\pi}{\pi_\text{ref}}$ on $s$ (UNA Eq. 10). The optimum obeys another
# equation, $r_\theta = s - \beta\log Z(x)$ (UNA Eq. 4). Scores in $[0, 1]$ make $\beta\log Z(x)$ positive. So Eq. 10
# asks *every* response to become more likely, and not all of them can. The frequency of each response in the data
# decides the result. The larger the scores, the closer the minimiser comes to the distribution of the data
# ([notebook 04](04_una_losses.ipynb), section 3).
#
# We take one prompt of this world, cut to its forty most likely responses. There the minimiser of each expected loss
# can be computed. Its regret is in units of the score, a quarter of those above. The responses are sampled in two ways.
#
# - **From π_ref**, as in the second panel.
# - **Untied**, as in the first panel: pairs whose scores differ. So half of all
#   responses are worse than their partner, and the right answer is rarer than under the base.

# %%
BETA = settings.beta / settings.scale
top = ref[0].topk(40).indices
small = TableWorld(ref[0, top].log_softmax(0)[None], world.scores[0, top][None], BETA)
from_ref = small.ref_logps.exp()
same_score = (small.rewards[0, :, None] - small.rewards[0, None, :]).abs() < 1e-9
untied = from_ref * (1 - from_ref @ same_score.double())
SAMPLERS = {"from π_ref": from_ref, "untied": untied / untied.sum()}


def learned(sampler: str, shift: float, centred: bool) -> torch.Tensor:
    """(1, 40) log-probs where the squared loss on scores s + shift is smallest."""
    weights, scores = SAMPLERS[sampler], small.rewards + shift

    def population(logps: torch.Tensor) -> torch.Tensor:
        residual = BETA * (logps - small.ref_logps) - scores
        if centred:  # V(x), the best number for the prompt
            residual = residual - (weights * residual).sum()
        return (weights * residual**2).sum()

    return fixed_point(population, small.ref_logps, tolerance=1e-9)


print(f"regret of π_ref {float(small.regret(small.ref_logps)):.4f}")
ends = {}
for sampler in SAMPLERS:
    for shift in (-0.8, 0.0, 0.4):
        raw, centred = (float(small.regret(learned(sampler, shift, c))) for c in (False, True))
        ends[sampler, shift] = raw, centred
        print(f"{sampler:<11} scores {shift:+.1f}:  una-score {raw:.4f}   una-centred {centred:.4f}")

# %% tags=["check"]
centred = [v for _, v in ends.values()]
check.close("centred UNA learns π*, for every sampler and constant", centred, torch.zeros(6), tol=1e-8)
check.differs("una-score does not (from π_ref, constant 0)", ends["from π_ref", 0.0][0], 0.0, by=0.01)
start = float(small.regret(small.ref_logps))
raw = ends["from π_ref", 0.0][0], ends["untied", 0.0][0]
check.true(
    "una-score is ahead of π_ref from π_ref, behind it untied", raw[0] < start < raw[1], f"{raw[0]:.3f}, {raw[1]:.3f}"
)
towards = optimum.kl(learned("untied", 50.0, centred=False), SAMPLERS["untied"].log())
check.close("una-score, constant 50: it learns the sampler (KL)", towards, torch.zeros(1), tol=1e-3)
loss = METHODS["una-score"].loss(
    logps=small.optimum[0],
    ref_logps=small.ref_logps[0],
    scores=small.rewards[0],
    beta=BETA,
    baseline=float(BETA * small.log_partition),
)
check.close("Eq. 10 with β·log Z(x) as baseline is 0 at π*", loss, torch.zeros(40).double())
check.true("β·log Z(x) is not 0 here", BETA * small.log_partition > 0.5, f"{float(BETA * small.log_partition):.3f}")

# %% [markdown]
# ## The authors' form has a greedy minimum
#
# The authors' code puts $\sigma$ around $r_\theta$. In the second panel the targets are rewards between −2 and 2, and
# $\sigma$ lies between 0 and 1. A target above 1 or below 0 cannot be reached. So every such response is pushed
# forever, up or down:
#
# $$\big[\sigma(\beta\log\tfrac{\pi}{\pi_\text{ref}}) - r\big]^2, \qquad r \notin [0, 1].$$
#
# Only the sum of the probabilities limits these pushes. For this prompt only the best response has a reward above 1.
# The *greedy policy* always gives it. A probability $\varepsilon$ on a response with a positive reward
# lowers its error by the order of $\sigma(\beta \log \varepsilon) \approx \varepsilon^\beta$, and costs the best
# response the order of $\varepsilon$. So if the $\beta$ of the loss is above 1, the greedy policy is a local minimum,
# and the minimiser below stops there. At $\beta = 4$, which the study chose, no $\varepsilon$ on another response has a
# smaller loss. At 1.2 and at 12 about 1 % on another response has one.
#
# The regret of the greedy policy is $-\beta\log\pi^*(\text{best})$, with the $\beta$ of the objective. In this world
# $\pi^*$ is nearly greedy, so this minimum has little regret.
#
# It is a minimum over all policies, not the end of a training run. The table above has the trained runs: compare
# their regret and their KL to π_ref with the optimum's.

# %%
paid = TableWorld(small.ref_logps, world.rewards[0, top][None], settings.beta)
best = int(paid.rewards.argmax())
greedy = {}
for own_beta in (1.2, 4.0, 12.0):
    released = una_regression(paid.ref_logps, paid.rewards, own_beta, normaliser="sigmoid")
    greedy[own_beta] = fixed_point(released, paid.ref_logps, tolerance=1e-8)
    print(f"β {own_beta:>4}: P(best response) {float(greedy[own_beta][0, best].exp()):.6f}", end="   ")
    print(f"regret {float(paid.regret(greedy[own_beta])):.4f}")
print(f"π*:      P(best response) {float(paid.optimum[0, best].exp()):.6f}")
print("judged at another β (regret of the authors' form, of π_ref):")
elsewhere = {}
for beta in (0.4, 1.0, 2.0, 4.0):
    judge = TableWorld(paid.ref_logps, paid.rewards, beta)
    elsewhere[beta] = float(judge.regret(greedy[4.0])), float(judge.regret(paid.ref_logps))
    print(f"  β {beta:.1f}: {elsewhere[beta][0]:.3f}, {elsewhere[beta][1]:.3f}")

# %% tags=["check"]
sure = [float(policy[0, best].exp()) for policy in greedy.values()]
check.close("the authors' form: the greedy policy is a minimum at β 1.2, 4 and 12", sure, [1.0] * 3, tol=1e-6)
cost = -settings.beta * float(paid.optimum[0, best])
check.close(
    "the greedy policy's regret is −β·log π*(best)",
    [float(paid.regret(p)) for p in greedy.values()],
    [cost] * 3,
    tol=1e-5,
)
share = torch.cat([torch.zeros(1), torch.logspace(-4, -1, 61)]).double()[:, None, None]  # of one other response
spread = share * torch.eye(40).double()[torch.arange(40) != best]  # (shares, other responses, 40)
spread[..., best] = 1 - share[..., 0]
change = {}
for own_beta in greedy:
    error = (own_beta * (spread.log() - paid.ref_logps)).sigmoid() - paid.rewards
    of_loss = (paid.ref_logps.exp() * error**2).sum(-1)
    change[own_beta] = float((of_loss[1:] - of_loss[0]).min())  # share 0 is the greedy policy
evidence = ", ".join(f"β {own_beta}: {least:+.4f}" for own_beta, least in change.items())
lower = [own_beta for own_beta, least in change.items() if least < 0]
check.true("a share on one other response: less loss at β 1.2 and 12, more at 4", lower == [1.2, 12.0], evidence)
within = una_regression(paid.ref_logps, paid.rewards.sigmoid(), 1.0, normaliser="sigmoid")
mild = float(fixed_point(within, paid.ref_logps, tolerance=1e-8)[0, best].exp())
check.differs("with targets σ(r) in its range it is not greedy (β 1)", mild, 1.0, by=0.05)
check.true(
    "judged at β = 2 the greedy policy is behind π_ref", elsewhere[2.0][0] > elsewhere[2.0][1], f"{elsewhere[2.0]}"
)

# %% [markdown]
# ## The same call trains Mistral-7B
#
# A run of the study and the paper's run are one configuration with other values:

# %%
toy = resolve("una-centred", ["beta=0.1", "lr=3e-3", "batch=32"], steps=100)
paper = resolve(
    "una-centred",
    ["beta=0.03", "lr=5e-6", "batch=32", "epochs=2", "dtype=bfloat16"],
    data="nvidia/HelpSteer2",
    model="mistralai/Mistral-7B-v0.1",
    output="runs/una-centred-7b",
)
for key, value in paper.to_dict().items():
    if value != toy.to_dict()[key]:
        print(f"{key:<8} {toy.to_dict()[key]!s:<14} → {value}")

# %% [markdown]
# On the command line:
#
# ```sh
# una-ref train una-centred --data nvidia/HelpSteer2 --model mistralai/Mistral-7B-v0.1 \
#     --output runs/una-centred-7b beta=0.03 lr=5e-6 batch=32 epochs=2 dtype=bfloat16
# ```
#
# `--dry-run` shows the effect on your first row. This repository has not run it at 7B.

# %% [markdown]
# ## Another base
#
# The study has one base policy, so its intervals do not cover other bases. One earlier record,
# `figures/runs/another_base`, has the first panel's worlds on another base of the same recipe. Its learning rates and
# values of β are those of an earlier study. `una-ref compare --base FOLDER` runs the whole study on another base.

# %%
other = json.loads((figures.records("another_base") / "results.json").read_text())
earlier = {r["name"]: torch.tensor(r["regret"]["values"]) for r in other["rows"]}
earlier |= {f"una-centred, β {r['beta']}": torch.tensor(r["regret"]["values"]) for r in other["centred"]}
present = {r["name"]: torch.tensor(r["regret"]["values"]) for r in study["rows"] if r["panel"] == "ratings"}
print(f"{'regret, ratings':<20} earlier record: mean   worst world    this study: mean   worst world")
for name, values in earlier.items():
    here = f"{present[name].mean():20.3f} {present[name].max():13.3f}" if name in present else ""
    print(f"{name:<20} {values.mean():20.3f} {values.max():13.3f}{here}")

# %% [markdown]
# The results move with the base. In the earlier record one run of KTO ends far from all others. Centred UNA at β = 0.1
# has two runs with high regret, and at β = 0.3 none. A mean over six worlds does not say how often this happens.

# %% tags=["check"]
most, middle = float(earlier["kto"].max()), float(earlier["kto"].median())
check.true("earlier record: one run of KTO ends far off", most > 1 > 0.1 > middle, f"{most:.3f}, median {middle:.3f}")
off, steady = (int((earlier[f"una-centred, β {beta}"] > 0.15).sum()) for beta in (0.1, 0.3))
check.true("earlier record: centred UNA above 0.15", (off, steady) == (2, 0), f"β 0.1: {off} runs, β 0.3: {steady}")
least = float((earlier["una-score"] - earlier["base"]).min())
check.true("earlier record: UNA-score is behind its base in every world", least > 0, f"by {least:.3f} at least")

# %% [markdown]
# ## What we learned
#
# Each interval stands alone, and sixteen are shown. One interval near 0 decides little, and one that contains 0 decides
# nothing. The checks below name differences whose interval lies above 0, and one that is open.

# %% tags=["check"]


def ahead(name: str, panel: str, better: str, worse: str) -> None:
    """Check that the interval of regret(worse) − regret(better) lies above 0."""
    mean, half = gap(panel, better, worse)
    check.true(f"{panel}: {name}", mean > half, f"{mean:.3f} ± {half:.3f}")


ahead("UNA-score is behind DPO", "ratings", "dpo", "una-score")
ahead("the authors' form is behind DPO", "ratings", "dpo", "una-score.released")
ahead("UNA-score is behind its own base", "ratings", "base", "una-score")
ahead("the shuffled control is behind UNA-score", "ratings", "una-score", "una-score.shuffled")
ahead("centred UNA is ahead of UNA-score", "ratings", "una-centred", "una-score")
ahead("UNA-score is ahead of UNA on binary labels (MSE)", "model", "una-score", "una-binary-mse")
ahead("UNA-score is ahead of its shuffled control", "model", "una-score", "una-score.shuffled")
ahead("KTO is ahead of UNA on binary labels (BCE)", "model", "kto", "una-binary-bce")
mean, half = gap("ratings", "una-centred", "una-binary-mse")
check.true("ratings: centred UNA and UNA on labels (MSE) are level", abs(mean) < half, f"{mean:.3f} ± {half:.3f}")
up = float((ref.exp() * world.rewards.sigmoid()).sum(1).mean())
check.true("model: most labels are positive (world 0)", up > 0.7, f"{up:.2f} of them")
chosen = [study["chosen"][f"{panel}/una-centred"]["beta"] for panel in PANELS]
theory = [settings.beta / settings.scale, settings.beta]
check.close("centred UNA chose the β that theory names", chosen, theory)

# %% [markdown]
# - **With ratings, scores as Eq. 10 uses them do not help.** UNA-score ends behind DPO and *behind its own base*. The
#   authors' form, with σ on the implicit reward, is *behind DPO* too. The sampling explains this. UNA-score improves on
#   π_ref with samples from π_ref, and not with untied samples (*ahead of π_ref from π_ref, behind it untied*).
# - **Part of the paper's order holds.** With feedback sampled from the reward, *UNA-score is ahead of UNA on binary
#   labels (MSE)*. The other verdicts, for both panels, are in the list above.
# - **Centring corrects the first panel.** One number per prompt makes π\* the minimiser for every sampler that gives
#   each response a positive probability (*centred UNA learns π\**). Centred UNA is *ahead of UNA-score* there, and its
#   difference from UNA on binary labels (MSE) is within the interval. Of five values of β it chose the one that theory
#   names.
# - **The authors' form has a greedy minimum in the second panel** at the β that it chose (*more at 4*). If staying
#   close to π_ref matters more, that minimum is worse than π_ref (*judged at β = 2*).
# - **UNA against KTO on binary labels.** In the second panel *KTO is ahead of UNA on binary labels (BCE)*. There most
#   labels are positive, and plain UNA-binary has no number that takes up their mean. The list above has the verdict for
#   the balanced labels of the first panel.
# - **The shuffled control matters.** Real scores beat shuffled ones in both panels, so UNA-score does read them. With
#   ratings both leave the policy worse than it was.
#
# ## Limits
#
# - Each world has eight prompts. There are six worlds, one base policy, three passes over the data and a grid of three
#   learning rates and five values of β.
# - Some methods chose a value at the edge of the grid (see the table). A wider grid may change their results.
# - The shuffled control runs at UNA-score's setting. SFT sees only the better half of the responses.
# - Regret measures the RLHF objective. IPO, KTO and SFT have other objectives.
# - The study does not say how a 7B model scores on a benchmark.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell. Hints and answers are folded below.
#
# **1.** (Code.) Which number, added to all scores of the small world, makes UNA-score need no baseline at all?

# %%
shift = ...  # a number

if shift is not ...:
    check.close("exercise 1", float(small.regret(learned("from π_ref", shift, centred=False))), 0.0, tol=1e-8)

# %% [markdown]
# **2.** (Pencil.) DPO's target is the difference of two implicit rewards. Write the loss of *una-centred* for two
# scored responses as a function of differences only.

# %%
du, ds = (
    torch.tensor([0.3]),
    torch.tensor([0.1]),
)  # β·log-ratio and score of the first response minus those of the second
mine = ...  # a tensor (1,)

if mine is not ...:
    from una_ref.methods.pairs import una_centred_pairwise

    zero = torch.zeros(1)
    truth = una_centred_pairwise(
        chosen_logps=du,
        rejected_logps=zero,
        ref_chosen_logps=zero,
        ref_rejected_logps=zero,
        chosen_scores=ds,
        rejected_scores=zero,
        beta=1.0,
    )
    check.close("exercise 2", mine, truth, tol=1e-7)

# %% [markdown]
# **3.** (Open.) Which result of the table would you expect to change first on a real model with one response per
# prompt, and why?
#
# <details>
# <summary>Hints</summary>
#
# **1.** What does an offset do to $\log Z$? **2.** The mean over the *other* response is that response.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `-float(BETA * small.log_partition)`: then $\log Z(x) = 0$, and Eq. 10 is true of π\*.
#
# **2.** `(du - ds) ** 2`. With two responses it has the gradient of the leave-one-out form.
#
# **3.** That of `una-centred`: without a second response of the prompt its $V(x)$ has to be fitted or shared, so an
# offset between prompts comes back.
#
# </details>
