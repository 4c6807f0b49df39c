"""UPO's Figure 1 on a real language model: IPO and JS-IUPO (as printed, and corrected) on HH helpful pairs.

    UNA_REF_DATA=/path/to/data python benchmarks/iupo_on_smollm2.py --output figures/runs/iupo_on_smollm2

SmolLM2-135M-Instruct learns by each loss at β = 0.1, 0.2 and 0.5, with LoRA, from the same pairs in the same order. It
is then measured on held-out pairs, the same for all. The learning rate is the one of 1e-4, 3e-4 and 1e-3 at which IPO
(β = 0.1, seed 7) had the lowest loss on other held-out pairs.

Runs are lines of runs.jsonl; finished ones are not repeated. They hold numbers only, no text.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import records
import torch

from una_ref.cache import cache_folder
from una_ref.data.rows import Row
from una_ref.methods import METHODS
from una_ref.policies import loading
from una_ref.policies.reference_cache import ReferenceCache, fingerprint
from una_ref.studies.engine import provenance
from una_ref.studies.real_data import Part, Size, parts
from una_ref.studies.real_work import measure, start_policy
from una_ref.studies.run_store import RunStore
from una_ref.studies.toysteer_policies import base_name
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.prepare import prepare

LOSSES = {
    # name in the record: (method, form, hyper-parameters)
    "IPO": ("ipo", "corrected", {}),
    "JS-IUPO as printed": ("iupo", "printed", {"divergence": "js"}),
    "JS-IUPO corrected": ("iupo", "corrected", {"divergence": "js"}),
}
SIDES = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")


@dataclass(frozen=True)
class Settings:
    """What all runs have in common, and which runs there are.

    Attributes:
        train, held_out: pairs; as many other held-out pairs choose the learning rate. tokens: most of a prompt, and of
            a response.
        steps, batch: of a run. lora_r: of its adapter.
        betas, seeds: of the runs. lrs: the grid, tried with IPO at `betas[0]` and `tuning_seed`.
    """

    train: int = 256
    held_out: int = 96
    tokens: int = 64
    steps: int = 32
    batch: int = 8
    lora_r: int = 16
    betas: tuple[float, ...] = (0.1, 0.2, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2)
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    tuning_seed: int = 7


HEADER = ("train", "held_out", "tokens", "steps", "batch", "lora_r")
"""The settings that say what a run is."""


@dataclass(frozen=True)
class Run:
    """Train a loss at a β, and measure held-out pairs."""

    loss: str
    beta: float
    seed: int
    lr: float
    tuning: bool = False

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"{'tuning, ' if self.tuning else ''}{self.loss}, beta {self.beta}, lr {self.lr:g}, seed {self.seed}"

    def measured(self, settings: Settings, base: Path) -> dict[str, Any]:
        """The log-probs of the held-out pairs, and the train loss of every step."""
        method, form, hyper = LOSSES[self.loss]
        model, tokenizer = loading.load(str(base))
        part = rows(settings, tokenizer)
        config = Config(
            method=method,
            form=form,
            loss_kwargs={"beta": self.beta, **hyper},
            data="pairs",
            held_out=0.0,
            steps=settings.steps,
            batch=settings.batch,
            lr=self.lr,
            seed=self.seed,
            lora_r=settings.lora_r,
            lora_alpha=float(settings.lora_r),
            reference="cache",
        )
        references = cache_folder() / "references"
        job = prepare(config, rows=part.train, model=model, tokenizer=tokenizer, references=references)
        curve = [round(float(job.step(step, record=True)["loss"]), 4) for step in range(settings.steps)]
        count = settings.held_out
        asked = part.held_out[count:] if self.tuning else part.held_out[:count]
        return {"train_loss": curve, "held_out": logps(job, asked)}


def rows(settings: Settings, tokenizer: Any) -> Part:
    """The pairs: HH helpful dialogues of one turn."""
    size = Size(settings.train, 2 * settings.held_out, prompt=settings.tokens, response=settings.tokens)
    return parts({"pairs": size}, tokenizer, records.data_folder())["pairs"]


@torch.no_grad()
def logps(job: Job, pairs: Sequence[Row]) -> dict[str, list[float]]:
    """log π and log π_ref of both responses of each pair, in nats."""
    trainer, encoder = job.trainer, job.encoder
    assert encoder is not None
    cache = ReferenceCache(cache_folder() / "references", fingerprint(trainer.policy.model, encoder))
    trainer.cache = cache
    trainer.policy.eval()
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for micro in trainer.micro_batches(encoder.encode(pairs)):
        batch = trainer.batch(micro)
        own, ref = trainer.policy(batch).double().cpu(), trainer.reference(micro, batch).double().cpu()
        chosen, rejected = batch.pairs.cpu().T
        for side, values in zip(SIDES, (own[chosen], own[rejected], ref[chosen], ref[rejected]), strict=True):
            found[side] += [round(value, 4) for value in values.tolist()]
    return found


def losses(run: dict[str, Any]) -> list[float]:
    """The run's own loss of each held-out pair."""
    method, form, hyper = LOSSES[run["loss"]]
    pairs = {side: torch.tensor(values, dtype=torch.float64) for side, values in run["held_out"].items()}
    loss = METHODS[method].printed if form == "printed" else METHODS[method].loss
    assert loss is not None
    return loss(**pairs, beta=run["beta"], **hyper).tolist()


def tuned(store: RunStore, settings: Settings) -> tuple[float, list[dict[str, float]]]:
    """The learning rate of all runs, and IPO's held-out loss at each."""
    tried = [Run("IPO", settings.betas[0], settings.tuning_seed, lr, tuning=True) for lr in settings.lrs]
    means = [fmean(losses(line)) for line in store.results(tried, "learning rates")]
    best = min(zip(settings.lrs, means, strict=True), key=lambda each: each[1] if math.isfinite(each[1]) else math.inf)
    return best[0], [{"lr": lr, "loss": mean} for lr, mean in zip(settings.lrs, means, strict=True)]


def main() -> int:
    """Make the missing runs and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/iupo_on_smollm2"))
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    arguments = parser.parse_args()
    settings, base = Settings(), start_policy(None)
    every = asdict(settings)
    header = {"settings": {name: every[name] for name in HEADER}, "base": base_name(base)}
    job = partial(measure, settings=settings, base=base)
    with RunStore(arguments.output, header, job, workers=arguments.workers) as store:
        lr, tried = tuned(store, settings)
        # One seed after the other, so that a record that was stopped early has whole seeds.
        runs = [Run(loss, beta, seed, lr) for seed in settings.seeds for beta in settings.betas for loss in LOSSES]
        store.results(runs, "runs")
        record = {
            "command": f"python benchmarks/iupo_on_smollm2.py --output {arguments.output}",
            "settings": every,
            "base": header["base"],
            "losses": list(LOSSES),
            "lr": lr,
            "tried": tried,
            **provenance(store, 0.0),
        }
    record.pop("seconds_this_time")
    records.write(arguments.output / "results.json", json.loads(json.dumps(record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
