# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do the papers' tables show what the papers conclude from them?
#
# **Claims.** UNA on scores is better than DPO, KTO and UNA on binary labels (UNA Sec. 4.1, Tables 1–3). Online UNA
# beats RLHF in 8 of 14 tasks (UNA Sec. 4.2, Tables 4–6).
#
# The printed numbers are data of this package. This notebook takes them apart task by task, and compares them with the
# noise of their test sets. Then it shows what of these tables our code has filled so far. The last part compares the
# methods on a real model of 135M parameters.
#
# **Needs.** [Notebooks 20](20_mistral_offline.ipynb) and [21](21_mistral_online.ipynb) make such numbers. Nothing is
# trained here.
#
# **Time.** About 15 minutes to read, without the exercises.

# %%
import json
import math
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from IPython.display import Markdown

import una_ref
from una_ref import METHODS, figures
from una_ref.commands.reporting import text
from una_ref.evaluation.collected import collect
from una_ref.evaluation.printed import printed
from una_ref.evaluation.report import filled
from una_ref.notebook import check
from una_ref.studies import real_report, real_tasks

plt = figures.pyplot()
TABLES = printed()
for table in TABLES.values():
    cells = sum(value is not None for row in table.rows for value in row.cells.values())
    print(f"{table.id:<7} {len(table.rows)} rows, {cells:>3} numbers: {table.title}")

# %% [markdown]
# ## The averages
#
# Tables 1, 2, 4 and 5 end with an average. It is the plain mean of six tasks, whatever their size and chance level,
#
# $$\bar a = \frac16\sum_{t=1}^{6} a_t \quad\Rightarrow\quad \bar a - \bar a' = \sum_{t=1}^6 \frac{a_t - a'_t}{6}.$$
#
# So each lead in the average is a sum of six parts, and we can see which task it is from.

# %%
numbers = {id: TABLES[id].numbers() for id in ("1", "2", "4", "5")}
for id, rows in numbers.items():
    print(f"Table {id}: " + ", ".join(f"{name} {cells[-1]:.2f}" for name, cells in rows.items()))

# %% tags=["check"]
off = max(abs(fmean(cells[:-1]) - cells[-1]) for rows in numbers.values() for cells in rows.values())
check.true("every printed average is the mean of its row, to the printed digits", off < 0.0101, f"within {off:.3f}")
best = {id: max(rows, key=lambda name: rows[name][-1]) for id, rows in numbers.items()}
check.true("UNA has the best average in all four", all(name.startswith("UNA") for name in best.values()), f"{best}")


# %%
def parts(id: str, better: str, worse: str) -> dict[str, float]:
    """Task -> its part of the difference in the average of two rows, in points."""
    tasks = [column.name for column in TABLES[id].columns]
    pairs = zip(numbers[id][better], numbers[id][worse], strict=True)
    return dict(zip(tasks, [(a - b) / 6 for a, b in pairs], strict=False))


SCORE = "UNA-score (MSE)"
leads = {"1": parts("1", SCORE, "Mistral"), "2": parts("2", SCORE, "UNA-binary (MSE)")}
for (id, lead), worse in zip(leads.items(), ("Mistral before training", "the second best"), strict=True):
    print(f"Table {id}, UNA-score over {worse}: {sum(lead.values()):+.2f}")
    print("   " + ", ".join(f"{task} {part:+.2f}" for task, part in lead.items()))

# %% tags=["check"]
rest = {id: sum(lead.values()) - max(lead.values()) for id, lead in leads.items()}
check.differs("Table 1: UNA-score leads its base", sum(leads["1"].values()), 0.0, by=2.0)
check.close("leave ifeval out, and the lead is gone", rest["1"], 0.0, tol=0.05)
check.close("Table 2: leave truthful-qa out, and a tenth of the lead is left", rest["2"], 0.1, tol=0.05)

# %% [markdown]
# ## The noise of a test set
#
# An accuracy $p$ on $n$ items has the standard error $\sqrt{p(1-p)/n}$. Two models on the same items have errors that
# go together. Without the items, which the papers do not publish, their difference has at most
#
# $$\mathrm{se}(p - p') \;\le\; \sqrt{\frac{p(1-p) + p'(1-p')}{n}}$$
#
# if the errors are not opposed. A difference beyond 1.96 of this is more than noise. One below it is open.

# %%
ITEMS = {  # of the test sets that the leaderboards use
    "bbh": 5761,
    "gpqa": 1192,
    "mmlu-pro": 12032,
    "musr": 756,
    "ifeval": 541,
    "math-hard": 1324,
    "gsm8k": 1319,
    "truthful-qa": 817,
    "winograde": 1267,
    "arc": 1172,
    "hellaswag": 10042,
    "mmlu": 14042,
}


def bound(task: str, a: float, b: float) -> float:
    """1.96 standard errors of the difference of two accuracies in percent, if their errors are independent."""
    p, q = a / 100, b / 100
    return 196 * math.sqrt((p * (1 - p) + q * (1 - q)) / ITEMS[task])


def beyond(id: str, better: str, worse: str) -> dict[str, float]:
    """Task -> difference in points, of those beyond the bound."""
    triples = zip(ITEMS if id in "14" else list(ITEMS)[6:], numbers[id][better], numbers[id][worse], strict=False)
    return {task: round(a - b, 2) for task, a, b in list(triples)[:6] if abs(a - b) > bound(task, a, b)}


for id in ("1", "2"):
    for name in list(numbers[id])[1:]:
        print(f"Table {id}, {name:<19} over its base, beyond the bound: {beyond(id, name, 'Mistral') or 'nothing'}")
for id in ("4", "5"):
    for better, worse in (("UNA", "RLHF"), ("UNA", "Mistral-INST")):
        print(f"Table {id}, {better} over {worse:<12}, beyond the bound: {beyond(id, better, worse) or 'nothing'}")

# %% tags=["check"]
check.true("Table 1: of UNA-score's gains ifeval alone is beyond noise", [*beyond("1", SCORE, "Mistral")] == ["ifeval"])
check.true("Table 2: truthful-qa is", "truthful-qa" in beyond("2", SCORE, "Mistral"))
online = [beyond(id, "UNA", worse) for id in ("4", "5") for worse in ("RLHF", "Mistral-INST")]
check.true("Tables 4 and 5: no difference of online UNA is", not any(online))
signs = []
for id in ("4", "5", "6"):
    of = {row.name: row.cells for row in TABLES[id].rows}
    signs += [of["UNA"][column.name] - of["RLHF"][column.name] for column in TABLES[id].columns]
wins, losses = sum(d > 0 for d in signs), sum(d < 0 for d in signs)
p = min(1.0, 2 * sum(math.comb(wins + losses, k) for k in range(wins, wins + losses + 1)) / 2 ** (wins + losses))
check.true("8 wins and 4 losses are no evidence (sign test)", (wins, losses) == (8, 4) and p > 0.05, f"p = {p:.2f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10.4, 4.2))
TRAINED = list(numbers["1"])[1:]
ROWS = ("dpo", "kto", "una-binary-mse", "una-binary-bce", "una-score")
named = zip(TRAINED, ROWS, strict=True)
LOOKS = {name: figures.look(row) | {"label": name, "linestyle": "none"} for name, row in named}
for ax, (id, base) in zip(axes, (("1", "Mistral"), ("2", "Mistral")), strict=True):
    for y, task in enumerate(column.name for column in TABLES[id].columns):
        start = numbers[id][base][y]
        ax.barh(y, 2 * bound(task, start, start), left=-bound(task, start, start), color=figures.FAINT, height=0.8)
        for k, name in enumerate(TRAINED):
            ax.plot(numbers[id][name][y] - start, y + 0.12 * (k - 2), **LOOKS[name] | {"label": ""})
    ax.axvline(0, color=figures.INK, linewidth=0.8)
    ax.set_yticks(range(6), [column.name for column in TABLES[id].columns])
    ax.set_xlim(-5.5, 15.5)
    ax.invert_yaxis()
    ax.set_title(f"UNA Table {id}: points over Mistral-7B")
for name in TRAINED:
    axes[0].plot([], [], **LOOKS[name])
axes[0].bar(0, 0, color=figures.FAINT, label="noise of the test set, 95 %")
fig.legend(loc="outside lower center", ncols=3)
figures.save(fig, "22_the_papers_tables")
plt.show()

# %% [markdown]
# ## What our code has filled
#
# `una-ref report` prints all tables with our numbers, and the commands that would fill the rest. It reads the folders
# `runs`, `evaluations` and `figures/runs`. Here it reads what is committed.

# %%
committed = Path(una_ref.__file__).parents[1] / "figures" / "runs"
measured = collect([committed])
reports = {id: filled(table, measured) for id, table in TABLES.items()}
for id, report in reports.items():
    ours = sum(bool(row.lines) for row in report.rows)
    print(f"{id:<7} {ours} of {len(report.rows)} rows have a number of ours")
print(text(reports["3"]))

# %% tags=["check"]
open_rows = [row for report in reports.values() for row in report.rows if row.printed and not row.lines]
named = all(row.commands or row.needs for row in open_rows)
check.true("a row without our number names its commands, or what is lacking", named, f"{len(open_rows)} rows")
row = reports["1"].rows[-1]
print(row.name, *row.commands, sep="\n  ")

# %% [markdown]
# ## The study of the methods on a real model
#
# The offline tables are repeated at 135M parameters: eleven methods on the same responses, with SmolLM2. Learning rates
# are chosen from one grid. The study resumes, and every finished run is committed. The cells read the committed part.
#
# Two rows need a word. The authors' form is their code, which puts $\sigma$ on the implicit reward
# ([notebook 20](20_mistral_offline.ipynb)). The control is Eq. 10 on shuffled scores.
#
# > **Guess first:** UltraFeedback has two responses to each prompt, with scores from 0 to 1. Which losses learn to
# > order such pairs?

# %%
folder = committed / "real_offline"
study = json.loads((folder / "results.json").read_text("utf-8"))
AXES = {"scores": "UltraFeedback, by scores", "pairs": "HH helpful, by pairs"}
tried = [rate for row in study["rates"]["rows"] for rate in row["rates"]]
state = {"learning rates": (sum(rate["log_loss"] is not None for rate in tried), len(tried))}
for axis, title in AXES.items():
    rows, every_seed = study[axis]["rows"], study[axis]["settings"]["seeds"]
    state[title] = (sum(row["finished"] for row in rows), len(rows) * len(every_seed))
state["leaderboard tasks"] = (
    sum(len(row["scores"]) for row in study["tasks"]["rows"]),
    len(study["tasks"]["rows"]) * len(study["tasks"]["settings"]["tasks"]),
)
for part, (done, of) in state.items():
    print(f"{part:<26} {done:>3} of {of} are finished")

# %%
Markdown("\n".join(real_report.table(study["scores"])))

# %%
lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text("utf-8").splitlines()[1:]]
of_run = {(line["entry"], line["seed"]): line for line in lines if line.get("part") == "scores" and line.get("margins")}
OPPOSED = ("dpo", "ipo", "kto", "una-binary-bce", "una-binary-mse", "una-centred")
IMITATING = ("sft", "una-score", "una-score.released", "una-score.shuffled")
ORDER = (*OPPOSED, *IMITATING, "simpo")
seeds = [seed for seed in study["scores"]["settings"]["seeds"] if all((name, seed) in of_run for name in ORDER)]
margins = {name: np.mean([of_run[name, seed]["margins"] for seed in seeds], axis=0) for name in ORDER}


def paired(differences) -> tuple[float, float]:
    """Mean of the differences over pairs, and half of its 95 % interval."""
    return differences.mean(), 1.96 * differences.std(ddof=1) / math.sqrt(len(differences))


right = {name: np.mean([np.array(of_run[name, seed]["margins"]) > 0 for seed in seeds], axis=0) for name in ORDER}
print(f"{len(margins['dpo'])} held-out pairs, seeds {seeds}; the last two columns are paired differences")
print(f"{'':<19}   pairs in the right order   minus Eq. 10's      minus the control's")
for name in ORDER:
    shown = [
        paired(right[name]),
        *(paired(right[name] - right[other]) for other in ("una-score", "una-score.shuffled")),
    ]
    print("{:<19}   {:>8.3f} ± {:.3f}          {:+.3f} ± {:.3f}     {:+.3f} ± {:.3f}".format(name, *sum(shown, ())))

# %% tags=["check"]
half_right = {name for name in ORDER if np.subtract(*paired(right[name])) > 0.5}
check.true("six losses order more than half of the pairs right", half_right == {*OPPOSED}, f"{sorted(half_right)}")
ahead = {name for name in ORDER if np.subtract(*paired(right[name] - right["una-score"])) > 0}
expected = {*OPPOSED, "una-score.released"}
check.true("they and the authors' form order more pairs right than Eq. 10", ahead == expected, f"{sorted(ahead)}")
losses = {row["name"]: row["log_loss"] for row in study["scores"]["rows"] if row["log_loss"]}
better = [name for name, loss in losses.items() if loss["mean"] + loss["ci95"] < math.log(2)]
check.true("no log loss is shown to be below the base's", len(losses) == len(ORDER) and not better)

# %% [markdown]
# The log loss is $-\log\sigma(m)$ of the margin $m$, which is $\log\frac{\pi_\theta}{\pi_\text{ref}}$ of the chosen
# response minus that of the rejected one. It punishes large margins of the wrong sign.
#
# ## Which of these losses learn the same?
#
# Most of these losses see a pair as two numbers, the log-probs of its responses. Their gradient puts a weight on each,
# and a negative weight raises the response. We compute the weights where training begins, at
# $\pi_\theta=\pi_\text{ref}$. AdamW removes the scale that all pairs share, so the larger weight is printed as 1.

# %%
zero, y = torch.zeros(1, dtype=torch.float64), torch.tensor([1.0, 0.0]).double()
BETA = study["scores"]["settings"]["beta"]
apart = {"ref_chosen_logps": zero, "ref_rejected_logps": zero, "beta": BETA}
beside = {"ref_logps": torch.zeros_like(y), "beta": BETA}


def weights(loss, scale: bool = True, **inputs) -> list[float]:
    """The gradient in the log-probs of the chosen and the rejected response; scaled, the larger is 1."""
    logps = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    pair = "ref_chosen_logps" in inputs
    own = {"chosen_logps": logps[:1], "rejected_logps": logps[1:]} if pair else {"logps": logps}
    (gradient,) = torch.autograd.grad(loss(**own, **inputs).sum(), logps)
    return (gradient / gradient.abs().max() if scale else gradient).tolist()


def at_start(*scores: float) -> dict[str, list[float]]:
    """The weights of the losses for a pair with these scores."""
    s = torch.tensor(scores, dtype=torch.float64)
    return {
        "dpo": weights(METHODS["dpo"].loss, **apart),
        "ipo": weights(METHODS["ipo"].loss, **apart),
        "kto": weights(METHODS["kto"].loss, **beside, labels=y, kl=0.0),
        "una-binary-bce": weights(METHODS["una-binary-bce"].loss, **beside, labels=y),
        "una-binary-mse": weights(METHODS["una-binary-mse"].loss, **beside, labels=y),
        "una-centred": weights(METHODS["una-centred"].loss, **beside, scores=s, groups=torch.tensor([0, 0])),
        "una-score.released": weights(METHODS["una-score"].released, **beside, scores=s),
        "una-score": weights(METHODS["una-score"].loss, **beside, scores=s),
    }


near, wide = at_start(0.8, 0.6), at_start(0.8, 0.4)
print(f"{'scores':<19}   0.8 and 0.6     0.8 and 0.4")
for name in near:
    print("{:<19}  {:+.2f}   {:+.2f}    {:+.2f}   {:+.2f}".format(name, *near[name], *wide[name]))

# %% tags=["check"]
for name in OPPOSED:
    check.close(f"{name} raises the chosen and lowers the rejected response", near[name], [-1.0, 1.0], tol=1e-9)
bce, mse = (weights(METHODS[f"una-binary-{name}"].loss, False, **beside, labels=y) for name in ("bce", "mse"))
check.close("UNA's BCE has twice the gradient of its MSE", bce, [2 * weight for weight in mse])
check.true("Eq. 10 raises both", max(near["una-score"] + wide["una-score"]) < 0)
form = "una-score.released"
check.true("the authors' form raises scores above 0.5 and lowers those below", near[form][1] < 0 < wide[form][1])

# %% [markdown]
# Six losses raise one response and lower the other. Five of them weigh all pairs alike. Centred UNA weighs a pair by
# its difference of scores. Eq. 10 raises both responses. SFT raises the chosen one. SimPO compares as well, but divides
# log-probs by lengths.
#
# Do methods that begin alike end alike? We correlate their margins over pairs that no method has trained on.

# %%
correlation = np.corrcoef([margins[name] for name in ORDER])
like = {name: dict(zip(ORDER, row, strict=True)) for name, row in zip(ORDER, correlation.tolist(), strict=True)}

fig, ax = plt.subplots(figsize=(8.4, 4.2))
for name, shown in figures.looks({row["name"]: row["title"] for row in study["scores"]["rows"]}).items():
    if name in like:
        at = (like[name]["dpo"], like[name]["una-score.shuffled"])
        ax.plot(*at, **shown | {"linestyle": "none", "markersize": 9, "alpha": 0.8})
ax.set_title("Correlation of margins over held-out pairs")
ax.set_xlabel("with DPO's margins")
ax.set_ylabel("with the control's (shuffled scores)")
ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
figures.save(fig, "22_margins")
plt.show()

kl = {name: np.mean([of_run[name, seed]["kl"] for seed in seeds]) for name in ORDER}
clipped = {name: np.mean([step["grad_norm"] > 1 for step in of_run[name, seeds[0]]["curve"]]) for name in ORDER}
print(f"{'':<19} correlation with DPO   spread of margins, nats   KL to π_ref, nats   gradients above norm 1")
for name in ORDER:
    numbers_of = (like[name]["dpo"], margins[name].std(), kl[name], clipped[name])
    print("{:<19} {:>20.3f} {:>25.2f} {:>19.2f} {:>24.2f}".format(name, *numbers_of))

draws = np.random.default_rng(0).integers(0, len(margins["dpo"]), (1000, len(margins["dpo"])))
print("\n95 % of resampled correlations:")
for a, b in (("kto", "ipo"), ("una-centred", "dpo"), ("una-score", "una-score.shuffled"), ("una-score", "dpo")):
    resampled = [np.corrcoef(margins[a][draw], margins[b][draw])[0, 1] for draw in draws]
    print("  {} and {}: {:.2f} to {:.2f}".format(a, b, *np.percentile(resampled, [2.5, 97.5])))

# %% tags=["check"]
least = min(like[a][b] for a in OPPOSED[:5] for b in OPPOSED[:5])
check.true("DPO, IPO, KTO and UNA on labels agree on held-out pairs", least > 0.93, f"correlation at least {least:.3f}")
texts = {name: [each["response"] for each in of_run[name, 0]["samples"]] for name in OPPOSED}
equal = sum(a == b for a, b in zip(texts["una-binary-mse"], texts["una-binary-bce"], strict=True))
check.true("MSE and BCE give the same samples", equal == len(texts["dpo"]), f"{equal} of {len(texts['dpo'])}")
spread = margins["kto"].std() / margins["ipo"].std()
check.true(
    "but they go to different distances: KTO's margins are larger than IPO's", spread > 1.2, f"factor {spread:.2f}"
)
same = {name: like["una-score"][name] for name in ("una-score.shuffled", "sft", "dpo")}
shown = ", ".join(f"{name} {value:.3f}" for name, value in same.items())
check.true("Eq. 10 is closer to its control and to SFT than to DPO", min(same, key=same.get) == "dpo", shown)
check.true("with the control it nearly agrees", same["una-score.shuffled"] > 0.93)
mean, half = paired(margins["una-score"] - margins["una-score.shuffled"])
check.true("true scores add to its margins", mean > half, f"{mean:.2f} ± {half:.2f} nats")
mean, half = paired(right["una-score"] - right["una-score.shuffled"])
check.true("more pairs in the right order are not shown", abs(mean) < half, f"{mean:+.3f} ± {half:.3f}")

# %% [markdown]
# **Answer.** Those that raise one response and lower the other. DPO, IPO, KTO and UNA on labels nearly agree in
# direction, and differ in how far they go. Centred UNA is a little apart. UNA's two losses of labels are nearly one:
# their gradients begin with a factor of 2 between them, which AdamW removes.
#
# Most of what Eq. 10 learns is in its control too. Its scores add little, since it raises every response at first, up
# to $\log\frac{\pi_\theta}{\pi_\text{ref}} = s/\beta$. Centring the scores turns it into a comparison.

# %% [markdown]
# ## Do leaderboard tasks notice?
#
# The paper judges by such tasks. Every policy answers the same items as its start, so we pair them. That makes an
# interval of a difference much narrower than the bound above.

# %%
Markdown("\n".join(real_tasks.table(study["tasks"])))

# %% tags=["check"]
changed = {row["name"]: row["differences"] for row in study["tasks"]["rows"] if row["differences"]}
every = [(abs(each["mean"]), each["ci95"]) for of_task in changed.values() for each in of_task.values()]
check.true("no task is shown to change", all(mean <= half for mean, half in every), f"{len(every)} differences")

# %% [markdown]
# None of the finished methods is shown to change any of the five tasks. So on this model 31 steps show in pairs and
# samples, and not in tasks.

# %% [markdown]
# ## What we learned
#
# - **Each lead of UNA-score is from one task.** In Table 1 it is ifeval (*leave ifeval out, and the lead is gone*). In
#   Table 2 it is truthful-qa (*a tenth of the lead is left*). These two gains are more than noise (*of UNA-score's
#   gains ifeval alone is beyond noise*).
# - **UNA-score has six times the learning rate of the others** ([notebook 20](20_mistral_offline.ipynb)). The tables
#   cannot tell the two apart.
# - **No difference between online UNA and RLHF exceeds the bound** (*no difference of online UNA is*). Nor does one
#   between online UNA and its start. Its 8 wins and 4 losses are no evidence (*sign test*; CU26).
# - **A plain mean of six tasks hides this.** The printed averages are right (*every printed average is the mean of its
#   row*), and they add up tasks of very different size.
# - **On a real model, with one seed, six losses order pairs** (*six losses order more than half of the pairs right*).
#   Each raises one response and lowers the other. DPO, IPO, KTO and UNA on labels nearly agree (*agree on held-out
#   pairs*). UNA's MSE and BCE give the same samples.
# - **Eq. 10 imitates both responses of a pair** (*Eq. 10 raises both*). It nearly agrees with its control (*with the
#   control it nearly agrees*). True scores add a little (*true scores add to its margins*).
# - **31 steps show in pairs and samples, not in tasks** (*no task is shown to change*), for the methods
#   evaluated so far.
# - **Our own tables are mostly empty so far.** The printout above counts the finished runs. Every open row names its
#   commands.
#
# ## Limits
#
# - The bound is for independent errors, so it is too wide for two models on the same items. Notebook 20 pairs them.
# - Normal intervals are rough for accuracies near 0, as in math-hard. `truthful-qa` has shares, not hits.
# - The counts of items are those of the leaderboards. The papers do not state theirs.
# - Our study has 31 steps at $\beta = 0.1$ on 248 rows, and the learning rate was chosen on 48. More steps or a larger
#   $\beta$ can separate losses that agree here. With one seed, all methods share data order and first adapter.
# - Gradients are clipped at norm 1, which acts on some methods at every logged step and on others at none
#   (last column above).
# - Log-ratios grow with a response's length, so part of each correlation may be length.
# - One training run stands behind each printed row. The noise between seeds is in none of these intervals.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell. The answers are folded below.
#
# **1.** Leave ifeval out of Table 1. Which row has the best mean of the five other tasks?

# %%
row_name = ...  # a string

if row_name is not ...:
    means = {name: fmean(c for k, c in enumerate(cells[:-1]) if k != 4) for name, cells in numbers["1"].items()}
    check.true("exercise 1", row_name == max(means, key=means.get))

# %% [markdown]
# **2.** How many items would make a difference of 0.38 points between two accuracies near 58 % exceed the bound?

# %%
items = ...  # a number

if items is not ...:
    share = torch.tensor(0.58, dtype=torch.float64)
    check.close("exercise 2", items / (2 * share * (1 - share) * (1.96 / 0.0038) ** 2), 1.0, tol=0.01)

# %% [markdown]
# <details>
# <summary>Answers</summary>
#
# **1.** `"Mistral"`, the model before training: 29.69 against 29.66 of UNA-score.
#
# **2.** About 129,600, from $n = 2p(1-p)\,(1.96/0.0038)^2$.
#
# </details>
