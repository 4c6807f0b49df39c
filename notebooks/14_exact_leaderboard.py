# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which method, for which feedback?
#
# Papers compare a few methods on benchmarks, each with its own data and tuning. No benchmark knows the right answer.
# On the worlds of this notebook the right answer is a sum. Every method of the registry that can run there gets the
# same labels, at most the same updates and the same search of its settings. It is judged by exact regret:
#
# $$\text{regret} = J(\pi^*) - J(\pi), \qquad
# J(\pi) = \mathbb E_{y\sim\pi}\,r(x, y) - \beta\,\mathrm{KL}(\pi \,\|\, \pi_\text{ref}). \tag{UNA Eq. 3}$$
#
# - Section 1 says how the board is made, and section 2 shows it.
# - Sections 3 and 4 ask which published orderings hold, and which turn when a condition changes.
# - Section 5 asks what can be done with few labels, and section 6 when to stop.
# - Section 7 puts a loss of your own on the board, and section 8 has a transformer as the policy.
# - Section 9 says which method to use when.
#
# **Needs.** [Notebook 11](11_offline_alignment.ipynb) and [notebook 13](13_online_alignment.ipynb). The numbers come
# from committed runs of `una-ref leaderboard`. One of these runs is repeated live.
#
# **Time.** About 20 minutes to read, without the exercises. Next: [notebook 20](20_mistral_offline.ipynb).

# %%
import json
from itertools import combinations
from pathlib import Path

import torch
from IPython.display import SVG, Markdown
from scipy.stats import spearmanr

from una_ref import METHODS, figures
from una_ref.claims import CLAIMS, markdown
from una_ref.notebook import check
from una_ref.studies.leaderboard import board_tables as tables
from una_ref.studies.leaderboard.board_figures import draw_board
from una_ref.studies.leaderboard.board_runs import BoardRun, board_world, measure_run
from una_ref.studies.leaderboard.board_study import LEADERBOARD
from una_ref.studies.leaderboard.board_summaries import difference
from una_ref.studies.leaderboard.board_worlds import BASES
from una_ref.studies.leaderboard.conditions import Conditions
from una_ref.studies.leaderboard.placing import place
from una_ref.theory import optimum

torch.set_num_threads(1)
study = json.loads((figures.records("leaderboard") / "results.json").read_text("utf-8"))
board, settings = study["board"], LEADERBOARD.settings
at = board["main_budget"]
rows = {row["name"]: row for row in board["rows"] if row["budget"] == at}
names = {name: about["title"] for name, about in board["about"].items()}
PAIR = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
print(f"{len(rows)} rows, {len(settings.seeds)} worlds, {at:,} labels")

# %% [markdown]
# ## 1. A board that the author of a losing method would accept
#
# A world has eight prompts with 3,906 possible responses each. The policy is a small MLP that starts at
# $\pi_\text{ref}$ and trains through the same loop as a 7B model. This is the whole protocol:

# %%
Markdown("\n".join(f"- {sentence}" for sentence in board["protocol"]))

# %% [markdown]
# The regret is exact. That of $\pi^*$ is 0, and that of any policy is $\beta\,\mathrm{KL}(\pi\,\|\,\pi^*)$. Samples
# give the same number within their error:

# %% tags=["check"]
world = board_world(0, settings, Conditions()).world
check.close("regret of π*", world.regret(world.optimum), torch.zeros(8).double())
divergence = settings.beta * optimum.kl(world.ref_logps, world.optimum)
check.close("regret of π_ref is β·KL(π_ref‖π*)", world.regret(world.ref_logps), divergence)
draws = torch.multinomial(world.ref_logps.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
gaps = settings.beta * (world.ref_logps - world.optimum).gather(1, draws)
error = (gaps.mean(1) - world.regret(world.ref_logps)).abs() / (gaps.std(1) / 20_000**0.5)
check.true("20,000 samples agree within 5 standard errors", error.max() < 5, f"{float(error.max()):.1f}")

# %% [markdown]
# A run is a function of its arguments. So this one repeats the record, up to the rounding of another processor:

# %% tags=["check"]
about = board["about"]["una-centred"]
again = measure_run(BoardRun("una-centred", at, 0, about["lr"], tuple(about["factors"])), settings, Path())
recorded = rows["una-centred"]["regret"]["values"][0]
check.close("centred UNA in world 0, live and in the record", again["regret"], recorded, tol=0.02)

# %% [markdown]
# ## 2. The board
#
# > **Guess first:** of DPO, KTO, centred UNA on scores, PPO on a reward model and RLOO, which is best at 4,096 labels?
# > And which of them is worse than $\pi_\text{ref}$ in some world?
#
# What a comparison is worth in scores is a convention. So rows are ordered within a kind of feedback. A difference
# between kinds holds for this convention only.

# %%
SVG(draw_board(board, name="14_exact_leaderboard"))

# %%
head = "| method | regret | minus DPO's | worse than π_ref | KL | updates |\n| --- | --- | --- | --- | --- | --- |"
lines = []
for kind, own in tables.by_kind(list(rows.values()), board["about"]).items():
    lines += ["", f"**{kind}**", "", head]
    for row in own:
        worse = row["worse_than_base"]
        cells = [row["title"], tables.interval(row["regret"]), tables.interval(row["to_dpo"])]
        cells += [f"{worse['count']} of {worse['of']}", f"{row['kl']['mean']:.2f}", f"{row['updates']['mean']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
Markdown("\n".join(lines))

# %% [markdown]
# Settings are chosen at 4,096 labels and kept at the other budgets. The best row of each kind of feedback there:

# %%
KINDS = ("pairs", "labels", "scores", "calls", "reward model")
head = ["labels", *KINDS, "rows worse than π_ref"]
lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
start = next(row for row in board["references"] if row["name"] == "base")["regret"]["mean"]
for budget in settings.budgets:
    found = [row for row in board["rows"] if row["budget"] == budget and not board["about"][row["name"]]["control"]]
    best = {kind: own[0] for kind, own in tables.by_kind(found, board["about"]).items()}
    cells = [f"{names[best[kind]['name']]}: {best[kind]['regret']['mean']:.3f}" for kind in KINDS]
    worse = sum(row["regret"]["mean"] > start for row in found)
    lines.append("| " + " | ".join([f"{budget:,}", *cells, f"{worse} of {len(found)}"]) + " |")
Markdown("\n".join(lines))

# %% [markdown]
# ## 3. Which published orderings hold here?
#
# Each line compares two rows, world by world, at their own best settings. "Yes" and "no" mean that the 95 % interval of
# the difference lies on one side of 0. "Open" means that it contains 0. With this many intervals, one in twenty misses.
#
# > **Guess first:** does UNA on binary labels beat KTO, does iterative DPO beat DPO, and does PPO beat both?


# %%
def gain(better, worse):
    """The paired reduction of regret, and whether its interval has a sign."""
    found = difference(rows[worse]["regret"]["values"], rows[better]["regret"]["values"])
    return found, "yes" if found["low"] > 0 else "no" if found["high"] < 0 else "open"


STATEMENTS = {
    "UNA on scores beats UNA on binary labels (UNA, Tables 1-3)": ("una-score", "una-binary-mse"),
    "UNA on binary labels beats DPO (UNA, Tables 1-3)": ("una-binary-mse", "una-pair"),
    "UNA on binary labels beats KTO (UNA, Tables 1-3)": ("una-binary-mse", "kto"),
    "online UNA beats PPO on as many calls (UNA, Table 5)": ("una-online", "ppo"),
    "UNA on scores beats UNA on shuffled scores": ("una-score", "una-score.shuffled"),
    "centring improves UNA on scores": ("una-centred", "una-score"),
    "replay improves centred UNA online": ("una-centred.replay", "una-centred.online"),
    "IPO beats DPO": ("ipo", "una-pair"),
    "SimPO beats DPO": ("simpo", "una-pair"),
    "KTO on labels beats DPO on pairs": ("kto", "una-pair"),
    "TR-DPO beats DPO": ("tr-dpo", "una-pair"),
    "DPO with a β for each batch beats DPO": ("beta-dpo", "una-pair"),
    "WPO beats DPO": ("wpo", "una-pair"),
    "TDPO2 beats DPO": ("tdpo2", "una-pair"),
    "ORPO beats SFT": ("orpo", "sft"),
    "ORPO beats DPO": ("orpo", "una-pair"),
    "RLOO beats PPO": ("rloo", "ppo"),
    "GRPO beats PPO": ("grpo", "ppo"),
    "iterative DPO beats DPO": ("iterative-dpo", "una-pair"),
    "PPO beats iterative DPO": ("ppo", "iterative-dpo"),
    "PPO on a reward model beats DPO on the same pairs": ("ppo.rm", "una-pair"),
    "online responses beat given ones, centred UNA": ("una-centred.online", "una-centred"),
    "maximum likelihood beats the paper's recipe on mixed feedback": ("una-centred.mixed", "una-score.mixed"),
    "scores alone beat mixed feedback, centred UNA": ("una-centred", "una-centred.mixed"),
}
verdicts = {}
for statement, (better, worse) in STATEMENTS.items():
    found, verdicts[statement] = gain(better, worse)
    print(f"{statement:<63} {tables.interval(found):<24} {verdicts[statement]}")

# %% [markdown]
# - None of the changes to DPO in this list improves it. DPO and its relatives fit one implicit reward to one set of
#   comparisons, so there is little to gain.
# - PPO on a reward model does improve on DPO, from the same pairs. Its reward model has the right class here, and it
#   asks that model as often as it likes.
# - A score holds more than a label: UNA on scores beats UNA on labels. It beats DPO only with a $V(x)$ for each prompt.
#
# RLOO is centred UNA online with the mean of the other responses as $V(x)$ ([notebook 13](13_online_alignment.ipynb)).
# So these two rows are not compared. Rows that are DPO by construction agree to the last digit:

# %% tags=["check"]
for name in ("f-dpo", "token-dpo"):
    found, _ = gain(name, "una-pair")
    gap = max(map(abs, found["values"]))
    check.close(f"{names[name]} is DPO", gap, 0.0, tol=1e-6)
check.true("shuffled scores teach nothing", verdicts["UNA on scores beats UNA on shuffled scores"] == "yes")
shuffled = rows["una-score.shuffled"]["worse_than_base"]
check.true("they are worse than π_ref in most worlds", shuffled["share"] > 0.5, f"{shuffled['count']}")

# %% [markdown]
# ## 4. Which orderings turn on a condition?
#
# Fourteen conditions are varied, one at a time, for up to eight rows in five worlds. An ordering turns where one row is
# better at one level and the other at another level, both beyond the 95 % interval. The rows are the leaders of section
# 2. IPO, cDPO and robust DPO are none, so nothing here tests them on certain or flipped labels.
#
# > **Guess first:** PPO on a reward model beats DPO on the same pairs. Under which conditions does DPO win?


# %%
def signs(axis, first, second):
    """level -> +1 where the first row is better beyond the interval, −1 where the second is, 0 where it is open."""
    found = {}
    for level, label in zip(axis["levels"], axis["labels"], strict=True):
        of = {row["name"]: row["regret"]["values"] for row in axis["rows"] if row["level"] == level}
        if first in of and second in of and None not in (*of[first], *of[second]):
            gap = difference(of[second], of[first])
            found[label] = 1 if gap["low"] > 0 else -1 if gap["high"] < 0 else 0
    return found


turned = {}
for name, known in board["axes"].items():
    axis = study[name]
    for first, second in combinations(dict.fromkeys(row["name"] for row in axis["rows"]), 2):
        sign = signs(axis, first, second)
        if {1, -1} <= set(sign.values()):
            first_better = ", ".join(label for label, s in sign.items() if s > 0)
            second_better = ", ".join(label for label, s in sign.items() if s < 0)
            line = f"   {names[first]} at {first_better}; {names[second]} at {second_better}"
            turned.setdefault(known["title"], []).append(line)
for title, found in turned.items():
    print(f"{title}: {len(found)}", *found[:4], *(["   ..."] if len(found) > 4 else []), sep="\n")


# %%
def regret_by_level(name):
    """A table of the axis: mean regret of each row at each level."""
    axis = study[name]
    head = ["method", *axis["labels"]]
    out = [f"**{axis['title']}**", "", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in dict.fromkeys(row["name"] for row in axis["rows"]):
        own = {r["level"]: tables.mean(r["regret"], 3) for r in axis["rows"] if r["name"] == row}
        out.append("| " + " | ".join([names[row], *(own.get(level, "") for level in axis["levels"])]) + " |")
    return "\n".join(out)


SHOWN = ("score_noise", "label_noise", "sharpness", "trap", "offset", "proxy_pairs", "proxy_tokens")
Markdown("\n\n".join(regret_by_level(name) for name in SHOWN))

# %% [markdown]
# - **Noise of the scores** decides between replay and PPO. Replay is best with exact scores, and at four times the
#   board's noise it is worse than $\pi_\text{ref}$. It learns from the same noisy scores again and again.
# - **Certainty of the labeller** decides between DPO and PPO on a reward model. Where the better response always wins,
#   PPO on a reward model has no gain on $\pi_\text{ref}$ left, and DPO has.
# - **A trap** that the labeller overrates turns most of the order. PPO on a reward model and replay, the first two
#   without a trap, are then the last two.
# - **An offset** of each prompt changes nothing in the optimum of centred UNA. Online it subtracts the mean of the
#   other responses and does not see the offset. Offline its $V(x)$ is learned, and its regret grows. Eq. 10 has
#   no gain on $\pi_\text{ref}$ at the first level, and is worse than it at the others.
# - **A reward model** from 256 pairs or fewer is worth nothing here, at settings chosen for 4,096 pairs. One that sees
#   single tokens, and no neighbours, loses what PPO had gained on DPO.

# %% [markdown]
# ## 5. Few labels, and scores that are exact
#
# A reward model that is taken for the truth gives exact scores, and they cost time. Here 1,024 of them are all there
# is, and every row is tuned for that.
#
# > **Guess first:** RLOO learns from each sample once, and PPO from each of them four times. Centred UNA is right for
# > any sampler, so it may learn from all its samples so far. How much does that gain?

# %%
exact = study["exact_scores"]
Markdown("\n".join(tables.exact_scores(exact)))

# %% [markdown]
# Replay beats PPO, RLOO, DPO and UNA, each beyond the interval. It costs compute: an update takes 256 responses, and
# PPO's takes 16. Rows on given responses with steps as large do not get there. The 256 were chosen on the tuning
# worlds. DPO's comparisons are as noisy as before, since only scores are exact here.
#
# The main board has noisy scores and four times as many of them. There the same row is compared with its rivals, over
# all worlds and for each kind of base policy: vague, middle and certain.

# %%
RIVALS = ("una-pair", "una-score", "una-centred", "una-online", "rloo", "ppo", "grpo", "ppo.rm")
print(f"{'reduction of regret against':<32} {'all worlds':<24} sd of π_ref's logits: " + ", ".join(map(str, BASES)))
for rival in RIVALS:
    found, verdict = gain("una-centred.replay", rival)
    by_base = [found["values"][i :: len(BASES)] for i in range(len(BASES))]
    means = "  ".join(f"{sum(values) / len(values):.3f}" for values in by_base)
    print(f"{names[rival]:<32} {tables.interval(found):<24} {means}   {verdict}")
print()
for budget in settings.budgets:
    of = {row["name"]: row["regret"]["values"] for row in board["rows"] if row["budget"] == budget}
    found = difference(of["ppo"], of["una-centred.replay"])
    print(f"reduction of regret against PPO at {budget:>6,} calls: {tables.interval(found)}")

# %% [markdown]
# With noise the number of calls decides. With few, replay fits the noise and is behind PPO. At the largest number it is
# ahead. At 4,096 calls the difference is not significant for this policy. Section 8 repeats it with a transformer.
#
# ## 6. When to stop
#
# Here the reward model is wrong in a known way, and β is an eighth of the chosen one. A checkpoint is *hacked* where
# the true gain is 5 % below its largest value before. Six monitors that people watch are measured along the run. A
# threshold for each is chosen on other worlds.
#
# > **Guess first:** which monitor tells hacked checkpoints from others, and does stopping at its alarm keep more than a
# > fixed number of steps does?

# %%
Markdown("\n".join(tables.alarms(study["alarms"])))

# %% [markdown]
# - With few pairs most of the gain is kept without a stop, and no rule keeps more. Most monitors have no useful
#   threshold. Of the others none rings in half of the hacked runs.
# - With a trap nearly every run is hacked, and in most worlds it ends below $\pi_\text{ref}$. The best rule without a
#   monitor is to stop at the first checkpoint. The alarm on the KL does exactly that, and no monitor gains more beyond
#   the interval.
# - The fall of the entropy orders the checkpoints of a trap best. But time passes, too: the number of the checkpoint
#   orders them nearly as well as the KL does. The disagreement of two reward models points the wrong way.
# - A labeller who likes length hardly hurts here. A response has at most five tokens.
#
# ## 7. A loss of your own
#
# A loss is a function of the arguments that it names ([their list](../docs/arguments.md)). `place` trains it by the
# board's protocol. With `tune=False` it takes DPO's settings, which needs twelve runs. By default the search of
# section 1 is repeated for it, in some forty runs of two seconds.


# %%
def squared_hinge(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margin = beta * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
    return (1 - margin).clamp(min=0) ** 2


placed = place(squared_hinge, "pairs", board=board, name="squared-hinge", tune=False)
print(f"rank {placed['rank']} of {placed['of']} on pairs: regret {placed['row']['regret']['mean']:.2f}")

# %% tags=["check"]
check.true("it is better than no training", placed["row"]["worse_than_base"]["count"] == 0)
check.true("the row is one of those on pairs", 1 <= placed["rank"] <= placed["of"], f"{placed['of']} rows")

# %% [markdown]
# ## 8. Does a transformer agree?
#
# The same worlds, labels and search, with one change: a small Mistral of two layers stands in the MLP's place. It also
# starts at $\pi_\text{ref}$. The rows are the leaders of the board, with RLOO and GRPO.
#
# > **Guess first:** is the order of the rows the same, and does the transformer have more regret or less?

# %%
tiny = study["tiny_lm"]
Markdown("\n".join(tables.tiny_lm(tiny)))

# %%
of = {row["name"]: row["regret"]["values"] for row in tiny["rows"]}
for rival in ("ppo", "ppo.rm", "rloo", "grpo", "una-pair"):
    found = difference(of[rival], of["una-centred.replay"])
    print(f"transformer, reduction of regret by replay against {names[rival]:<24} {tables.interval(found)}")

# %% [markdown]
# The offline rows have less regret than with the MLP. Centred UNA is first of them and DPO last, as there. Online it
# matters how many samples an update has. RLOO has 16, GRPO and PPO have 64, and all three are worse than with the MLP.
# Replay has 256 and is far better. It ties with PPO in section 5, and is ahead of all three here, on as many noisy
# calls.

# %% tags=["check"]
mlp = {row["name"]: row["regret"]["mean"] for row in tiny["mlp"]}
means = {row["name"]: row["regret"]["mean"] for row in tiny["rows"]}
worse = {name for name in means if means[name] > mlp[name]}
check.true("worse with a transformer: RLOO, GRPO and PPO alone", worse == {"rloo", "grpo", "ppo"}, f"{sorted(worse)}")
given = [name for name in means if board["about"][name]["feedback"] not in ("calls", "reward model")]
by_both = [sorted(given, key=regret.get) for regret in (mlp, means)]
check.true("first and last offline", {(o[0], o[-1]) for o in by_both} == {("una-centred", "una-pair")}, f"{by_both}")
leads = [difference(of[rival], of["una-centred.replay"])["low"] for rival in ("ppo", "rloo", "grpo")]
check.true("replay is ahead of PPO, RLOO and GRPO beyond the interval", min(leads) > 0)

# %% [markdown]
# ### Other worlds
#
# [Notebook 11](11_offline_alignment.ipynb) trains a transformer on text of ToySteer, with other rewards, other tuning
# and six worlds. The rows below are in both studies. Spearman's rank correlation compares their orders.

# %%
compared = json.loads((figures.records("compare") / "results.json").read_text("utf-8"))
text = {row["name"]: row["regret"]["mean"] for row in compared["rows"] if row["panel"] == "model"}
both = {
    name: (rows[other]["regret"]["mean"], text[name])
    for name in text
    if (other := {"dpo": "una-pair"}.get(name, name)) in rows
}
for name, (here, there) in sorted(both.items(), key=lambda pair: pair[1]):
    print(f"{name:<20} board {here:.3f}   ToySteer {there:.3f}")
agreement = spearmanr(*zip(*both.values(), strict=True))
print(f"Spearman {agreement.statistic:.2f} over {len(both)} rows")

# %% [markdown]
# The agreement is weak: over ten rows such a number is no different from chance. KTO is first there and eighth here,
# and the shuffled control is among the last in both. So an order of methods does not even carry over from one tiny
# world to another. Orders that turn on a condition will not carry over to a 7B model either, unless the condition is
# known.

# %% [markdown]
# ## 9. Which method, when
#
# For each kind of feedback: the best row, and every row without a significant difference to it. Controls are left out.

# %%
Markdown("\n".join(tables.best_rows(board)))

# %% [markdown]
# ## What we learned
#
# | you have | use | because |
# | --- | --- | --- |
# | pairs | `dpo` | none of some thirty pairwise losses is better beyond the interval |
# | many pairs, from an uncertain labeller | a reward model and `ppo` | the largest gain on DPO, if its class is right |
# | pairs from a labeller who is always certain | `dpo` | PPO on a reward model falls behind |
# | binary labels | `una-binary-mse`, `una-centred` or `kto` | no significant difference |
# | scores of given responses | `una-centred` or `dro` | better than DPO, unless offsets are large |
# | a reward that is noisy, few calls | `ppo`, `rloo` or `grpo` | no significant difference to PPO; replay fits noise |
# | a reward that is noisy, many calls | centred UNA with replay | ahead of PPO, RLOO and GRPO at 16,384 calls |
# | a reward that is exact and slow | centred UNA with replay | section 5 |
# | all kinds at once | `una-centred` | one $V(x)$ for the three likelihoods beats the paper's recipe |
#
# - Centred UNA with replay has the least regret of its rivals where scores are exact, or noisy and many. Where they are
#   noisy and few it is worse than PPO, and can be worse than $\pi_\text{ref}$.
# - With a transformer as the policy it is far ahead of PPO, RLOO and GRPO on 4,096 noisy calls. The MLP has a tie
#   there.
# - UNA's own order, scores before labels before pairs, does not hold: labels are behind as many pairs. With four times
#   as many labels the difference to DPO is not significant.
#
# The ledger's entries:

# %%
Markdown(markdown([entry for entry in CLAIMS.values() if entry.notebook == "14_exact_leaderboard"]))

# %% [markdown]
# ## Limits
#
# - The worlds are tiny, rewards depend on neighbouring tokens, and a score's noise has the sd of the rewards. With less
#   noise scores are worth more, and with more noise less (section 4).
# - The reward model of the rows on a reward model is linear in the true features. No row of section 2 says what a wrong
#   class costs; the condition `proxy_tokens` does.
# - Settings are the best of one pattern search on three worlds. It can end in a local minimum, and some rows end at an
#   end of their grid: details of a row on the page name such values.
# - Settings are chosen at 4,096 labels and frozen. At 256 labels many rows are worse than $\pi_\text{ref}$, which other
#   settings might prevent.
# - Passes over a rollout, responses to a prompt and labels in a step are not tuned. At 16,384 calls PPO has one pass,
#   since 256 updates are the limit. What authors could object stands on [the page](../docs/leaderboard.md).
# - On SmolLM2 with 256 calls neither replay nor another method is shown to gain by a reward model that it never saw
#   ([notebook 21](21_mistral_online.ipynb)).
# - Nothing here is known about a 7B model. Its data are not samples of the base policy, its prompts share structure,
#   and it is trained for less than one epoch.
#
# ## Exercises
#
# Replace `...` by your answer and run the cell, which checks it. Hints and answers are folded below.
#
# **1.** (Pencil.) RLOO's mean regret stands in section 2, and β is 0.4. What is its mean
# $\mathrm{KL}(\pi\,\|\,\pi^*)$ in nats? (One number.)

# %%
mine = ...  # a number

if mine is not ...:
    check.close("exercise 1", mine, rows["rloo"]["kl_to_optimum"]["mean"], tol=0.01)

# %% [markdown]
# **2.** (Pencil.) A difference of two rows has the standard deviation $s$ over the twelve worlds. How wide is half of
# its 95 % interval? (A function of $s$. The 97.5 % quantile of Student's $t$ with 11 degrees of freedom is 2.201.)

# %%
mine = ...  # a function of s

if mine is not ...:
    found = difference(rows["kto"]["regret"]["values"], rows["una-pair"]["regret"]["values"])
    spread = float(torch.tensor(found["values"]).double().std())
    check.close("exercise 2", mine(spread), found["high"] - found["mean"], tol=1e-4)

# %% [markdown]
# **3.** (Code.) Implement IPO, $\big(u_w - u_l - \tfrac{1}{2\beta}\big)^2$ with $u = \log\frac{\pi}{\pi_\text{ref}}$,
# as a loss that `place` takes. The check compares its gradient with that of the registered loss.

# %%
mine = ...  # a function

if mine is not ...:
    given = {name: torch.linspace(-3 - i, -1, 4).double() for i, name in enumerate(PAIR)}
    given["chosen_logps"].requires_grad_()
    both = [
        torch.autograd.grad(loss(**given, beta=0.3).sum(), given["chosen_logps"])[0]
        for loss in (mine, METHODS["ipo"].loss)
    ]
    check.close("exercise 3", *both)

# %% [markdown]
# **4.** (Open.) A colleague finds on a benchmark that KTO beats DPO. Which three conditions of section 4 would you ask
# about first?
#
# <details>
# <summary>Hints</summary>
#
# **1.** Which identity for the regret stands in section 1? **2.** The standard error of a mean is the sd over a root.
# **3.** The arguments are those of section 7.
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** `rows["rloo"]["regret"]["mean"] / 0.4`: regret is $\beta$ times this divergence.
#
# **2.** `lambda s: 2.201 * s / 12**0.5`.
#
# **3.** The margin of the pair, in nats, is pulled to $1/(2\beta)$:
#
# ```python
# def mine(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
#     return (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps - 1 / (2 * beta)) ** 2
# ```
#
# **4.** How many labels each had, since a pair is split into two labels for KTO. How the labels were made, and how many
# are positive. Whether each had its own learning rate and β.
#
# </details>
