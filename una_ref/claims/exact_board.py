"""What UNA and the survey say of methods against each other, on the exact leaderboard (notebook 14)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from una_ref import figures
from una_ref.claims.ledger import FAILS, HOLDS, OPEN, SURVEY, UNA, Evidence, claim
from una_ref.studies.leaderboard.board_summaries import difference


@cache
def study() -> dict[str, Any]:
    """results.json of `una-ref leaderboard`: twelve worlds, each row with its own best settings."""
    return json.loads((figures.records("leaderboard") / "results.json").read_text("utf-8"))


def regrets(name: str, budget: int | None = None) -> list[float]:
    """A row's exact regret in each world, at a budget of labels or at the board's main one."""
    board = study()["board"]
    at = budget or board["main_budget"]
    return next(row for row in board["rows"] if (row["name"], row["budget"]) == (name, at))["regret"]["values"]


def lead(better: str, worse: str, budget: int | None = None) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of regret(worse) − regret(better), paired by world."""
    return half(difference(regrets(worse, budget), regrets(better, budget)))


def half(found: dict[str, Any]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of a summary."""
    return found["mean"], found["high"] - found["mean"]


def leads(**pairs: tuple[str, str]) -> dict[str, float]:
    """By name the mean of `lead`, and as NAME_ci its half width."""
    numbers = {}
    for name, (better, worse) in pairs.items():
        numbers[name], numbers[f"{name}_ci"] = lead(better, worse)
    return numbers


def above(numbers: dict[str, float], name: str) -> bool:
    """Whether the interval lies above 0."""
    return numbers[name] > numbers[f"{name}_ci"]


@claim(
    "CU30",
    paper=UNA,
    place="Sec. 6",
    says="with binary labels UNA improves over KTO",
    verdict=OPEN,
    instead="neither UNA on binary labels nor centred UNA differs significantly from KTO, each at its best settings",
    shows="twelve worlds, 4,096 labels, reduction of regret against KTO: UNA on labels (MSE) {una:+.3f} ± "
    "{una_ci:.3f}, centred UNA {centred:+.3f} ± {centred_ci:.3f}",
    notebook="14_exact_leaderboard",
)
def _cu30() -> Evidence:
    numbers = leads(una=("una-binary-mse", "kto"), centred=("una-centred.labels", "kto"))
    return Evidence(
        numbers,
        {f"{name}: the interval contains 0": abs(numbers[name]) < numbers[f"{name}_ci"] for name in ("una", "centred")},
    )


@claim(
    "CU31",
    paper=UNA,
    place="Sec. 6",
    says="with scores UNA outperforms methods without scores, DPO and KTO among them",
    verdict="holds if the scores are centred for each prompt",
    instead="Eq. 10 on scores is better than KTO on labels and not significantly different from DPO on pairs; centred "
    "UNA is better than both. A score has the noise of one sd of the rewards here",
    shows="twelve worlds, 4,096 labels, reduction of regret: Eq. 10 against KTO {kto:+.3f} ± {kto_ci:.3f} and DPO "
    "{dpo:+.3f} ± {dpo_ci:.3f}; centred UNA against KTO {centred_kto:+.3f} ± {centred_kto_ci:.3f} and DPO "
    "{centred_dpo:+.3f} ± {centred_dpo_ci:.3f}",
    notebook="14_exact_leaderboard",
)
def _cu31() -> Evidence:
    numbers = leads(
        kto=("una-score", "kto"),
        dpo=("una-score", "una-pair"),
        centred_kto=("una-centred", "kto"),
        centred_dpo=("una-centred", "una-pair"),
    )
    return Evidence(
        numbers,
        {
            "Eq. 10 is better than KTO": above(numbers, "kto"),
            "Eq. 10 and DPO do not differ significantly": abs(numbers["dpo"]) < numbers["dpo_ci"],
            "centred UNA is better than KTO": above(numbers, "centred_kto"),
            "centred UNA is better than DPO": above(numbers, "centred_dpo"),
        },
    )


@claim(
    "CU32",
    paper=UNA,
    place="Sec. 7, item 3",
    says="a suitable f(x) in the implicit reward can improve UNA",
    verdict=HOLDS,
    instead="",
    shows="f(x) = V(x), learned (centred UNA), against f = 0 (Eq. 10): twelve worlds, 4,096 scores with mean 0 a "
    "prompt, reduction of regret {centred:+.3f} ± {centred_ci:.3f}; on mixed feedback {mixed:+.3f} ± {mixed_ci:.3f}",
    notebook="14_exact_leaderboard",
)
def _cu32() -> Evidence:
    numbers = leads(centred=("una-centred", "una-score"), mixed=("una-centred.mixed", "una-score.mixed"))
    return Evidence(numbers, {f"{name} is better": above(numbers, name) for name in ("centred", "mixed")})


@claim(
    "CU33",
    paper=UNA,
    place="Sec. 7, item 4",
    says="another measure of the difference than MSE and BCE improves UNA",
    verdict=OPEN,
    instead="Huber's loss, the one that was tried, is not better than MSE on scores with Gaussian noise; its tuned "
    "width is the largest of the grid, where it is nearly MSE",
    shows="twelve worlds, 4,096 labels, reduction of regret: Huber against MSE on scores {huber:+.3f} ± "
    "{huber_ci:.3f}; MSE against BCE on labels {mse:+.4f} ± {mse_ci:.4f}",
    notebook="14_exact_leaderboard",
)
def _cu33() -> Evidence:
    numbers = leads(huber=("una-measure", "una-score"), mse=("una-binary-mse", "una-binary-bce"))
    width = study()["board"]["about"]["una-measure"]["at_edge"]
    return Evidence(
        numbers,
        {
            "Huber is not better": numbers["huber"] < numbers["huber_ci"],
            "its width ends at an end of the grid": "width" in width,
            "MSE and BCE differ by less than 0.01": abs(numbers["mse"]) < 0.01,
        },
    )


@claim(
    "CU34",
    paper=UNA,
    place="Sec. 6 and 7, item 4 of the achievements",
    says="UNA can learn from pairs, binary labels and scores in one framework",
    verdict="holds if the three losses share a V(x)",
    instead="a third of each kind with the paper's losses does not differ significantly from DPO on pairs alone; "
    "centred UNA, the likelihood of all three with one V(x), is better than the paper's losses, and scores alone "
    "are better",
    shows="twelve worlds, 4,096 labels, reduction of regret: centred UNA against the paper's losses {recipe:+.3f} ± "
    "{recipe_ci:.3f}; DPO on pairs alone against the paper's losses {dpo:+.3f} ± {dpo_ci:.3f}; centred UNA on scores "
    "alone against mixed feedback {scores:+.3f} ± {scores_ci:.3f}; mixed feedback against labels alone {labels:+.3f} ± "
    "{labels_ci:.3f}",
    notebook="14_exact_leaderboard",
)
def _cu34() -> Evidence:
    numbers = leads(
        recipe=("una-centred.mixed", "una-score.mixed"),
        dpo=("una-pair", "una-score.mixed"),
        scores=("una-centred", "una-centred.mixed"),
        labels=("una-centred.mixed", "una-centred.labels"),
    )
    return Evidence(
        numbers,
        {
            "centred UNA is better than the paper's losses": above(numbers, "recipe"),
            "the paper's losses and DPO do not differ significantly": abs(numbers["dpo"]) < numbers["dpo_ci"],
            "scores alone are better than mixed feedback": above(numbers, "scores"),
            "mixed feedback is better than labels alone": above(numbers, "labels"),
        },
    )


@claim(
    "CS25",
    paper=SURVEY,
    place="Sec. 3.13.1",
    says="KTO outperforms DPO, IPO and CPO",
    verdict=FAILS,
    instead="with as many labels as DPO and IPO have comparisons, KTO is behind both and close to CPO; with four times "
    "as many, where a pair would give it twice as many, it does not differ significantly from DPO and IPO",
    shows="twelve worlds, 4,096 labels, reduction of regret by KTO: against DPO {dpo:+.3f} ± {dpo_ci:.3f}, IPO "
    "{ipo:+.3f} ± {ipo_ci:.3f}, CPO {cpo:+.3f} ± {cpo_ci:.3f}; KTO with 16,384 labels against DPO {dpo4:+.3f} ± "
    "{dpo4_ci:.3f}, IPO {ipo4:+.3f} ± {ipo4_ci:.3f}",
    notebook="14_exact_leaderboard",
)
def _cs25() -> Evidence:
    numbers = leads(dpo=("kto", "una-pair"), ipo=("kto", "ipo"), cpo=("kto", "cpo"))
    for name, other in {"dpo4": "una-pair", "ipo4": "ipo"}.items():
        numbers[name], numbers[f"{name}_ci"] = half(difference(regrets(other), regrets("kto", 16384)))
    return Evidence(
        numbers,
        {
            "worse than DPO": numbers["dpo"] < -numbers["dpo_ci"],
            "worse than IPO": numbers["ipo"] < -numbers["ipo_ci"],
            **{
                f"{name}: no significant difference": abs(numbers[name]) < numbers[f"{name}_ci"]
                for name in ("cpo", "dpo4", "ipo4")
            },
        },
    )


@claim(
    "CS26",
    paper=SURVEY,
    place="Sec. 3.13.1",
    says="alignment methods perform best on smaller subsets of the data",
    verdict=FAILS,
    instead="DPO, KTO and IPO have less regret with every fourfold increase of the labels, and CPO up to 4,096, at one "
    "number of updates and one setting",
    shows="twelve worlds, mean regret at 256, 1,024, 4,096 and 16,384 labels: DPO {dpo256:.3f}, {dpo1024:.3f}, "
    "{dpo4096:.3f}, {dpo16384:.3f}; KTO {kto256:.3f}, {kto1024:.3f}, {kto4096:.3f}, {kto16384:.3f}; IPO {ipo256:.3f}, "
    "{ipo1024:.3f}, {ipo4096:.3f}, {ipo16384:.3f}; CPO {cpo256:.3f}, {cpo1024:.3f}, {cpo4096:.3f}, {cpo16384:.3f}",
    notebook="14_exact_leaderboard",
)
def _cs26() -> Evidence:
    numbers, stands = {}, {}
    budgets = study()["board"]["settings"]["budgets"]
    for key, name in {"dpo": "una-pair", "kto": "kto", "ipo": "ipo", "cpo": "cpo"}.items():
        for budget in budgets:
            numbers[f"{key}{budget}"] = sum(regrets(name, budget)) / len(regrets(name, budget))
        steps = [difference(regrets(name, a), regrets(name, b)) for a, b in zip(budgets, budgets[1:], strict=False)]
        known = steps[:-1] if key == "cpo" else steps
        stands[f"{key}: more labels, less regret"] = all(step["low"] > 0 for step in known)
    return Evidence(numbers, stands)


@claim(
    "CS27",
    paper=SURVEY,
    place="Sec. 4.7",
    says="merging SFT and alignment as ORPO does costs performance",
    verdict=HOLDS,
    instead="",
    shows="twelve worlds, 4,096 pairs, reduction of regret by ORPO: against SFT {sft:+.3f} ± {sft_ci:.3f}, against DPO "
    "{dpo:+.3f} ± {dpo_ci:.3f}",
    notebook="14_exact_leaderboard",
)
def _cs27() -> Evidence:
    numbers = leads(sft=("orpo", "sft"), dpo=("orpo", "una-pair"))
    return Evidence(
        numbers,
        {"better than SFT": above(numbers, "sft"), "worse than DPO": numbers["dpo"] < -numbers["dpo_ci"]},
    )


def rules(scenario: str) -> dict[str, dict[str, Any]]:
    """The stopping rules of a scenario by name, see `una_ref.studies.leaderboard.alarms.rules`."""
    found = next(each for each in study()["alarms"]["scenarios"] if each["title"] == scenario)
    return {rule["name"]: rule for rule in found["rules"]}


@claim(
    "CS28",
    paper=SURVEY,
    place="Sec. 4.6",
    says="online training degrades the model after a while, so it has to be stopped in time",
    verdict="holds if the labeller overrates what the true reward punishes",
    instead="where the reward model has only learned from few pairs, not stopping keeps most of the gain, and none of "
    "seven rules keeps more beyond the interval",
    shows="share of the largest true gain that is kept without a stop: {few:.2f} with 64 pairs, {more:.2f} with 256; "
    "with an overrated trap {hacked:.0%} of the runs are hacked, the mean true gain at the end is {trap:+.2f} reward "
    "units, and a stop at the first of 32 checkpoints adds {gain:.2f} ± {gain_ci:.2f}; no monitor adds more beyond the "
    "interval",
    notebook="14_exact_leaderboard",
)
def _cs28() -> Evidence:
    few, more = rules("a reward model from 64 pairs"), rules("a reward model from 256 pairs")
    trap = rules("a labeller that overrates a trap")
    first = trap["fixed"]
    gain, gain_ci = half(first["gain_to_never"])
    others = [rule for found in (few, more) for name, rule in found.items() if name != "never"]
    beyond = [difference(rule["gain"]["values"], first["gain"]["values"]) for rule in trap.values()]
    return Evidence(
        {
            "few": few["never"]["kept"]["mean"],
            "more": more["never"]["kept"]["mean"],
            "hacked": first["hacked_runs"]["share"],
            "trap": trap["never"]["gain"]["mean"],
            "gain": gain,
            "gain_ci": gain_ci,
        },
        {
            "few pairs: no rule keeps more than no stop": all(
                rule[key]["low"] <= 0 for rule in others for key in ("to_never", "gain_to_never")
            ),
            "few pairs: most is kept": min(few["never"]["kept"]["low"], more["never"]["kept"]["low"]) > 0.8,
            "a trap: nearly all runs are hacked": first["hacked_runs"]["share"] > 0.9,
            "a trap: the first checkpoint is the best one to stop at": first["title"].startswith(
                "stop at checkpoint 1 "
            ),
            "a trap: stopping there gains": gain > gain_ci,
            "a trap: no monitor gains more than that": all(found["low"] <= 0 for found in beyond),
        },
    )
