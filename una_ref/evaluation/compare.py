"""The papers' offline comparison where the answer is known: every method, the same data and steps, its exact regret.

Two panels, each on ToySteer worlds (one a seed) with the same base policy:

- ratings: rows as the papers have them. Two responses of a prompt with HelpSteer2 ratings; the higher combined score is
  chosen and labelled 1, the other rejected and labelled 0; scores are the combination in [0, 1].
- model: feedback drawn from the evaluation reward r. Pairs from Bradley–Terry, labels from Bernoulli(σ(r)), scores r.
  Only here is the optimal policy also what DPO aims at.

Every row of the table is judged by one β; a method's own β and its learning rate come from one grid, by mean exact
regret on other seeds.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch

from una_ref.data import conversions, toysteer
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.evaluation.report import PANELS, draw, summary, table
from una_ref.evaluation.runs import Runs, made, name_of
from una_ref.methods import METHODS
from una_ref.policies import loading
from una_ref.policies.exact import next_logps
from una_ref.theory.worlds import PrefixTree
from una_ref.training.checkpoints import write_text
from una_ref.training.config import Config
from una_ref.training.loop import NonFinite
from una_ref.training.run import fit, prepare
from una_ref.training.toysteer_base import reference_logps, toysteer_base


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method in one of its forms; `tuned_as` takes another row's settings (the control)."""

    name: str
    title: str
    method: str
    form: Literal["corrected", "printed", "released"] = "corrected"
    shuffle: bool = False
    tuned_as: str = ""


ENTRIES = (
    Entry("sft", "SFT on the better response", "sft"),
    Entry("dpo", "DPO (= UNA on pairs)", "una-pair"),
    Entry("kto", "KTO", "kto"),
    Entry("ipo", "IPO", "ipo"),
    Entry("una-binary-mse", "UNA on thumbs, MSE", "una-binary-mse"),
    Entry("una-binary-bce", "UNA on thumbs, BCE", "una-binary-bce"),
    Entry("una-score", "UNA on scores (Eq. 10)", "una-score"),
    Entry("una-score.released", "UNA on scores, the authors' code", "una-score", form="released"),
    Entry("una-centred", "centred UNA on scores", "una-centred"),
    Entry("una-score.shuffled", "UNA on shuffled scores (control)", "una-score", shuffle=True, tuned_as="una-score"),
)


@dataclass(frozen=True)
class Settings:
    """What every run of a study has in common.

    Attributes:
        rows: prompts with two responses each, so 2 · rows labelled responses.
        steps, batch: optimizer steps, and rows in each.
        beta: the evaluation's, in units of the reward; in units of the score it is beta / scale.
        scale: reward units per unit of score.
        seeds: worlds of the table.
        tuning_seeds: worlds that the settings are chosen on.
        lrs, betas: the grid; betas in units of the score, times `scale` where a method sees rewards.
        held_out: rows on which pair accuracy is measured.
    """

    rows: int = 1024
    steps: int = 100
    batch: int = 32
    beta: float = 0.4
    scale: float = 4.0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    tuning_seeds: tuple[int, ...] = (100, 101)
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    betas: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    held_out: int = 2048


@dataclass(frozen=True)
class Run:
    """One training run of a study."""

    panel: str
    entry: str
    seed: int
    lr: float
    beta: float | None

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"{self.panel}/{self.entry}/lr={self.lr:g}/beta={self.beta}/seed={self.seed}"


# ----------------------------------------------------------------------------------------------------------- one run


@cache
def _world(seed: int, scale: float) -> tuple[toysteer.ToySteer, torch.Tensor, torch.Tensor]:
    """A world with its reference: next-token log-probs (X, N, V) and sequence log-probs (X, S)."""
    world = toysteer.ToySteer(seed=seed, scale=scale)
    model, _ = loading.load(str(toysteer_base()))
    next_ = reference_logps(model, world)
    return world, next_, PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH).sequence_logps(next_)


def feedback(panel: str, entry: Entry, seed: int, settings: Settings) -> list[Row]:
    """The rows that an entry learns from: the same responses for all entries of a panel and seed."""
    world, _, logps = _world(seed, settings.scale)
    kinds = METHODS[entry.method].kinds
    drawn = world.draw(settings.rows, logps, seed=seed, untied=panel == "ratings")
    if panel == "model":
        return world.feedback(drawn, "pairs" if kinds[0] == "demos" else kinds[0], seed=seed)
    rated = world.rated(drawn, seed=seed)
    pairs, _ = conversions.scores_to_pairs(rated)
    if kinds[0] == "labels":
        return conversions.pairs_to_labels(pairs)[0]
    return rated if kinds[0] == "scores" else pairs


def one(run: Run, settings: Settings) -> dict[str, Any]:
    """Train one run and measure its policy exactly."""
    began = time.perf_counter()
    entry = next(e for e in ENTRIES if e.name == run.entry)
    world, _, _ = _world(run.seed, settings.scale)
    config = Config(
        method=entry.method,
        form=entry.form,
        shuffle=entry.shuffle,
        data="toysteer",
        group=False,
        held_out=0.0,
        steps=settings.steps,
        batch=settings.batch,
        lr=run.lr,
        seed=run.seed,
        reference="cache",
        log_every=settings.steps,
        loss_kwargs={} if run.beta is None else {"beta": run.beta},
    )
    model, tokenizer = loading.load(str(toysteer_base()))
    job = prepare(config, rows=feedback(run.panel, entry, run.seed, settings), model=model, tokenizer=tokenizer)
    failed = ""
    try:
        fit(job)
    except NonFinite as error:  # measured as it stood
        failed = str(error)
    prompts = toysteer.encoded_prompts(world, tokenizer)
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    logps = tree.sequence_logps(next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY))
    return measure(logps, run.seed, settings) | {"failed": failed, "seconds": round(time.perf_counter() - began, 2)}


def measure(logps: torch.Tensor, seed: int, settings: Settings) -> dict[str, float]:
    """What a policy (X, S) is worth in a seed's world: exact but for the accuracy, which is on held-out pairs."""
    world, ref_next, ref = _world(seed, settings.scale)
    out = world.world(ref_next, settings.beta).metrics(logps)
    lengths = torch.tensor([len(y) for y, _ in world.responses], dtype=torch.float64)
    out["length"] = float((logps.exp() @ lengths).mean())
    exact = world.ratings[..., toysteer.METRICS.index("correctness")] == 4
    out["exact"] = float((logps.exp() * exact).sum(1).mean())
    held = world.draw(settings.held_out, ref, seed=10_000 + seed, untied=True)
    implicit = (logps - ref)[held[:, :1], held[:, 1:]]
    truth = world.scores[held[:, :1], held[:, 1:]]
    margin = (implicit[:, 0] - implicit[:, 1]) * (truth[:, 0] - truth[:, 1]).sign()
    out["accuracy"] = float(((margin > 0).double() + 0.5 * (margin == 0)).mean())
    return out


# ---------------------------------------------------------------------------------------------------------- the study


FREE = ("seeds", "tuning_seeds", "lrs", "betas")
"""Settings that say which runs there are, and not what a run is."""


def study(folder: Path, settings: Settings, workers: int) -> Runs:
    """The runs in a folder. Raises InputError where they are of other settings or another base policy."""
    return Runs(folder, settings, one, free=FREE, base=name_of(toysteer_base()), workers=workers)


def grid(panel: str, entry: Entry, settings: Settings) -> list[tuple[float, float | None]]:
    """Learning rates and βs that an entry may choose from; β is in the unit of what the entry is taught."""
    betas: Iterable[float | None] = [None]
    if METHODS[entry.method].needs_reference:
        betas = [b * (settings.scale if panel == "model" else 1.0) for b in settings.betas]
    return [(lr, beta) for beta in betas for lr in settings.lrs]


def tune(runs: Runs) -> dict[str, dict[str, Any]]:
    """The setting of each panel's entries with the lowest mean regret on the tuning seeds."""
    s = runs.settings
    asked = [
        Run(panel, e.name, seed, lr, beta)
        for panel in PANELS
        for e in ENTRIES
        if not e.tuned_as
        for lr, beta in grid(panel, e, s)
        for seed in s.tuning_seeds
    ]
    runs.of(asked, "tuning")
    chosen: dict[str, dict[str, Any]] = {}
    for panel in PANELS:
        for e in ENTRIES:
            if e.tuned_as:
                continue
            regret = {
                (lr, beta): statistics.fmean(
                    runs.done[Run(panel, e.name, seed, lr, beta).key]["regret"] for seed in s.tuning_seeds
                )
                for lr, beta in grid(panel, e, s)
            }
            lr, beta = min(regret, key=lambda at: regret[at] if math.isfinite(regret[at]) else math.inf)
            chosen[f"{panel}/{e.name}"] = {"lr": lr, "beta": beta, "tuning_regret": regret[lr, beta]}
    return chosen


def committed() -> dict[str, dict[str, Any]]:
    """The settings that the full study chose, as shipped with the package."""
    return json.loads((resources.files("una_ref.evaluation") / "chosen.json").read_text())


def compare(
    output: str | Path, *, quick: bool = False, workers: int | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Run the study (or go on with it) and write runs.jsonl, results.json, table.md and compare.svg.

    Args:
        output: the study's folder.
        quick: two seeds, with the settings that the full study chose.
        workers: processes; by default one a core.
        settings: of the study; for tests.

    Raises:
        InputError: the folder holds another study.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder}: expected a folder, got a file")
    s = settings or Settings()
    if quick:
        s = replace(s, seeds=s.seeds[:2])
    began = time.time()
    with study(folder, s, workers or torch.multiprocessing.cpu_count()) as runs:
        chosen = committed() if quick else tune(runs)
        asked = {}
        for panel in PANELS:
            for e in ENTRIES:
                at = chosen[f"{panel}/{e.tuned_as or e.name}"]
                asked[panel, e.name] = [Run(panel, e.name, seed, at["lr"], at["beta"]) for seed in s.seeds]
        runs.of([r for several in asked.values() for r in several], "comparing")
    rows: list[dict[str, Any]] = []
    for panel in PANELS:
        base = [measure(_world(seed, s.scale)[2], seed, s) for seed in s.seeds]
        best = [
            measure(_world(seed, s.scale)[0].world(_world(seed, s.scale)[1], s.beta).optimum, seed, s)
            for seed in s.seeds
        ]
        rows.append(
            {"panel": panel, "name": "base", "title": "base (π_ref)", "lr": None, "beta": None} | summary(base, base)
        )
        for e in ENTRIES:
            measured = [runs.done[r.key] for r in asked[panel, e.name]]
            at = {"lr": asked[panel, e.name][0].lr, "beta": asked[panel, e.name][0].beta}
            rows.append({"panel": panel, "name": e.name, "title": e.title} | at | summary(measured, base))
        rows.append(
            {"panel": panel, "name": "optimum", "title": "π\\*, the optimum", "lr": None, "beta": None}
            | summary(best, base)
        )
    results = {
        "command": f"una-ref compare{' --quick' if quick else ''} --output {output}",
        "settings": asdict(s),
        "chosen": chosen,
        "rows": rows,
    } | made(runs, began)
    write_text(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "table.md", table(results))
    draw(results, folder)
    return results
