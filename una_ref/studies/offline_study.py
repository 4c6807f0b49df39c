"""The papers' offline comparison where the optimum is known: the same data and steps for all, exact regret.

Two panels, each on ToySteer worlds (one a seed) with the same base policy:

- ratings: rows as the papers have them. Two responses to a prompt with HelpSteer2 ratings. The one with the higher
  combined score is chosen and labelled 1, the other rejected and labelled 0. Scores are the combination in [0, 1].
- model: feedback sampled from the evaluation reward r. Pairs from Bradley–Terry, labels from Bernoulli(σ(r)), scores r.
  Only here is the optimal policy also what DPO aims at.

One β judges every row of the table. A method's own β and learning rate come from one grid: the lowest mean regret on
other seeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from una_ref.data import conversions, toysteer
from una_ref.data.rows import Row
from una_ref.methods import METHODS
from una_ref.studies import offline_report as report
from una_ref.studies.engine import Axis, Candidates, Chosen, Entry, Study
from una_ref.studies.run_store import RunStore
from una_ref.studies.summaries import summary
from una_ref.studies.toysteer_policies import base_in_world, failure, policy_logps, training_job
from una_ref.training.loop import fit

ENTRIES = (
    Entry("sft", "SFT on the better response", "sft"),
    Entry("dpo", "DPO (= UNA on pairs)", "una-pair"),
    Entry("kto", "KTO", "kto"),
    Entry("ipo", "IPO", "ipo"),
    Entry("una-binary-mse", "UNA on binary labels, MSE", "una-binary-mse"),
    Entry("una-binary-bce", "UNA on binary labels, BCE", "una-binary-bce"),
    Entry("una-score", "UNA on scores (Eq. 10)", "una-score"),
    Entry("una-score.released", "UNA on scores, the authors' code", "una-score", form="released"),
    Entry("una-centred", "centred UNA on scores", "una-centred"),
    Entry(
        "una-score.shuffled",
        "UNA on shuffled scores (control)",
        "una-score",
        config={"shuffle": True},
        tuned_as="una-score",
    ),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}


@dataclass(frozen=True)
class OfflineSettings:
    """What every run of the study has in common, and which runs there are.

    Attributes:
        rows: prompts with two responses each, so 2 · rows labelled responses.
        steps, batch: optimizer steps, and rows in each.
        beta: of the evaluation, in reward units; in units of the score it is beta / scale.
        scale: reward units per unit of score.
        seeds: worlds of the table.
        tuning_seeds: worlds on which settings are chosen.
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

    @property
    def quick(self) -> OfflineSettings:
        """Two worlds."""
        return replace(self, seeds=self.seeds[:2])


@dataclass(frozen=True)
class OfflineRun:
    """Train an entry on a world's rows and measure its policy."""

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


def feedback(panel: str, entry: Entry, seed: int, settings: OfflineSettings, base: Path) -> Sequence[Row]:
    """The rows that an entry learns from: the same responses for all entries of a panel and seed."""
    world, _, logps = base_in_world(seed, base, settings.scale)
    kind = METHODS[entry.method].kinds[0]
    samples = world.draw(settings.rows, logps, seed=seed, untied=panel == "ratings")
    if panel == "model":
        return world.feedback(samples, "pairs" if kind == "demos" else kind, seed=seed)
    return as_feedback(world.rated(samples, seed=seed), kind)


def as_feedback(rows: Sequence[Row], kind: str) -> Sequence[Row]:
    """Scored rows, or pairs, as the kind of feedback that a method takes: the same responses for all kinds.

    The response with the higher score is chosen. The chosen response has label 1, and is the demonstration.
    """
    if kind == "scores":
        return rows
    pairs = rows if rows[0].pairs is not None else conversions.scores_to_pairs(rows)[0]
    return conversions.pairs_to_labels(pairs)[0] if kind == "labels" else pairs


def train_and_measure(run: OfflineRun, settings: OfflineSettings, base: Path) -> dict[str, Any]:
    """Train one run and measure its policy exactly.

    A run that is stopped by a non-finite value is measured as it stood, and `failed` says why.
    """
    began = time.perf_counter()
    entry = BY_NAME[run.entry]
    config = entry.run_config(
        {} if run.beta is None else {"beta": run.beta},
        data="toysteer",
        group=False,
        held_out=0.0,
        steps=settings.steps,
        batch=settings.batch,
        lr=run.lr,
        seed=run.seed,
        reference="cache",
        log_every=settings.steps,
    )
    job = training_job(config, feedback(run.panel, entry, run.seed, settings, base), base)
    failed = failure(partial(fit, job))
    logps = policy_logps(job, base_in_world(run.seed, base, settings.scale).world)
    measured = measure(logps, run.seed, settings, base)
    return measured | {"failed": failed, "seconds": round(time.perf_counter() - began, 2)}


def measure(logps: torch.Tensor, seed: int, settings: OfflineSettings, base: Path) -> dict[str, float]:
    """What a policy (X, S) is worth in a seed's world: exact, except for the accuracy, which is on held-out pairs."""
    world, ref_next, ref = base_in_world(seed, base, settings.scale)
    measured = world.world(ref_next, settings.beta).metrics(logps)
    lengths = torch.tensor([len(text) for text, _ in world.responses], dtype=torch.float64)
    measured["length"] = float((logps.exp() @ lengths).mean())
    exact = world.ratings[..., toysteer.METRICS.index("correctness")] == 4
    measured["exact"] = float((logps.exp() * exact).sum(1).mean())
    held_out = world.draw(settings.held_out, ref, seed=10_000 + seed, untied=True)
    implicit = (logps - ref)[held_out[:, :1], held_out[:, 1:]]
    truth = world.scores[held_out[:, :1], held_out[:, 1:]]
    margin = (implicit[:, 0] - implicit[:, 1]) * (truth[:, 0] - truth[:, 1]).sign()
    measured["accuracy"] = float(((margin > 0).double() + 0.5 * (margin == 0)).mean())
    return measured


# ---------------------------------------------------------------------------------------------------------- the study


def grid(panel: str, entry: Entry, settings: OfflineSettings) -> list[tuple[float, float | None]]:
    """Learning rates and βs that an entry may choose from; β is in the unit of the feedback."""
    if not METHODS[entry.method].needs_reference:
        return [(lr, None) for lr in settings.lrs]
    unit = settings.scale if panel == "model" else 1.0
    return [(lr, beta * unit) for beta in settings.betas for lr in settings.lrs]


def candidates(settings: OfflineSettings) -> Candidates:
    """The grid of each panel's entries, with the runs on the tuning worlds."""
    return {
        f"{panel}/{entry.name}": [
            (
                {"lr": lr, "beta": beta},
                [OfflineRun(panel, entry.name, seed, lr, beta) for seed in settings.tuning_seeds],
            )
            for lr, beta in grid(panel, entry, settings)
        ]
        for panel in report.PANELS
        for entry in ENTRIES
        if not entry.tuned_as
    }


def results(store: RunStore, settings: OfflineSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """The rows of both panels: the base policy, each entry at its setting, the optimum."""
    runs: dict[tuple[str, str], Sequence[OfflineRun]] = {}
    for panel in report.PANELS:
        for entry in ENTRIES:
            setting = chosen[f"{panel}/{entry.tuned_as or entry.name}"]
            runs[panel, entry.name] = [
                OfflineRun(panel, entry.name, seed, setting["lr"], setting["beta"]) for seed in settings.seeds
            ]
    store.results([run for each in runs.values() for run in each], "comparing")
    start, best = [], []
    for seed in settings.seeds:
        world, ref_next, ref = base_in_world(seed, base, settings.scale)
        start.append(measure(ref, seed, settings, base))
        best.append(measure(world.world(ref_next, settings.beta).optimum, seed, settings, base))

    def row(panel: str, name: str, title: str, measured: Sequence[Mapping[str, Any]], **setting: Any) -> dict[str, Any]:
        about = {"panel": panel, "name": name, "title": title, "lr": None, "beta": None}
        return about | setting | summary(measured, start, report.MEASURES)

    rows = []
    for panel in report.PANELS:
        rows.append(row(panel, "base", "base (π_ref)", start))
        for entry in ENTRIES:
            same = runs[panel, entry.name]
            measured = [store.finished[run.key] for run in same]
            rows.append(row(panel, entry.name, entry.title, measured, lr=same[0].lr, beta=same[0].beta))
        rows.append(row(panel, "optimum", "π\\*, the optimum", best))
    return {"rows": rows}


OFFLINE: Study[OfflineSettings] = Study(
    command="una-ref compare",
    settings=OfflineSettings(),
    header=("rows", "steps", "batch", "beta", "scale", "held_out"),
    measure=train_and_measure,
    axes={"compare": Axis(candidates, results, report.table, report.draw)},
    shipped="chosen_offline.json",
)
"""`una-ref compare`: UNA's Tables 1–3."""
