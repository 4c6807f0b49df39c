"""The runs of the offline study on a real language model: what each computes. A run is a line of runs.jsonl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from una_ref.cache import cache_folder
from una_ref.data.examples import digest
from una_ref.methods import METHODS
from una_ref.policies import loading
from una_ref.policies.classifier import Classifier
from una_ref.policies.named_models import CHECKPOINT
from una_ref.studies import real_measures as measures
from una_ref.studies.engine import Chosen, Entry
from una_ref.studies.offline_study import BY_NAME, as_feedback
from una_ref.studies.real_data import Part
from una_ref.studies.real_rewards import RewardModel
from una_ref.studies.real_settings import BASE, ENTRIES, RealSettings
from una_ref.studies.real_work import (
    ADAPTER,
    SAMPLES,
    keep_samples,
    part_of,
    rounded,
    weights_name,
    work_folder,
)
from una_ref.studies.toysteer_policies import failure
from una_ref.training.checkpoints import write_text
from una_ref.training.job import Job
from una_ref.training.loop import METRICS, fit
from una_ref.training.prepare import prepare

# ------------------------------------------------------------------------------------------------------------ the runs


@dataclass(frozen=True)
class Training:
    """Train an entry on a part's rows and measure its policy. The entry ``base`` is the untrained policy."""

    part: str
    entry: str
    seed: int
    lr: float

    @property
    def key(self) -> str:
        """Its name in runs.jsonl, and its folder in the cache."""
        return f"train/{self.part}/{self.entry}/lr={self.lr:g}/seed={self.seed}"

    def measured(self, settings: RealSettings, base: Path) -> dict[str, Any]:
        """The run's line. Its adapter stays in the cache folder."""
        folder = work_folder(settings, base) / self.key
        folder.mkdir(parents=True, exist_ok=True)
        job, rows = self._job(settings, base)
        failed = "" if self.entry == BASE else _trained(job, folder)
        found: dict[str, Any] = {
            "steps": 0 if self.entry == BASE else job.config.steps,
            "rows": digest(job.examples),
            "notes": list(job.notes),
            "failed": failed,
            "weights": weights_name(folder),
            "curve": _curve(folder / METRICS),
        }
        if self.entry != BASE:
            margins = measures.margins(job, as_feedback(rows.held_out, "pairs"))
            found["margins"] = rounded(margins)
            found["accuracy"] = fmean(measures.accuracies(margins))
        if self.part != "tuning":
            asked = rows.held_out[: settings.prompts]
            sampling: dict[str, Any] = {"max_new": settings.new_tokens, "seed": self.seed}
            sampled, stored = measures.sampled(job, asked, **sampling, trained=self.entry != BASE)
            found |= sampled | {"samples": stored}
            keep_samples(folder, found)
        return found

    def _job(self, settings: RealSettings, base: Path) -> tuple[Job, Part]:
        """The job up to its first step, and the rows of its part."""
        model, tokenizer = loading.load(str(base))
        rows = part_of(self.part, settings, tokenizer)
        entry = entry_of(self.part, self.entry)
        size = settings.sizes[self.part]
        batch = settings.tuning_batch if self.part == "tuning" else settings.batch
        method = METHODS[entry.method]
        config = entry.run_config(
            {"beta": settings.beta} if method.needs_reference else {},
            data=self.part,
            held_out=0.0,
            steps=size.train // batch,
            batch=batch,
            lr=self.lr,
            seed=self.seed,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            reference="cache" if method.needs_reference else "step",
            group=False,
            log_every=4,
            save_every=8,
        )
        feedback = as_feedback(rows.train, method.kinds[0])
        references = cache_folder() / "references"
        return prepare(config, rows=feedback, model=model, tokenizer=tokenizer, references=references), rows


@dataclass(frozen=True)
class Judgement:
    """The rewards of a run's samples, by the reward model."""

    run: Training
    judge: RewardModel

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return self.run.key.replace("train/", "judge/", 1)

    def measured(self, settings: RealSettings, base: Path) -> dict[str, Any]:
        """The run's line: the reward of each sample, in reward units."""
        judge = Classifier(str(self.judge.folder(settings, base)))
        file = work_folder(settings, base) / self.run.key / SAMPLES
        if not file.exists():
            self.run.measured(settings, base)
        kept = json.loads(file.read_text("utf-8"))
        rows = part_of(self.run.part, settings, judge.tokenizer).held_out[: settings.prompts]
        rewards = judge(measures.answers(rows, kept["samples"]))
        return {"weights": kept["weights"], "rewards": rounded([float(reward) for reward in rewards])}


TRAINED = "trained.json"
"""The file in a run's folder that says that its adapter is trained."""


def _trained(job: Job, folder: Path) -> str:
    """Train a job, or load what its folder holds; returns which non-finite value stopped it, empty if none did."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    model = job.trainer.policy.model
    if (folder / TRAINED).exists():
        set_peft_model_state_dict(model, load_file(folder / ADAPTER))
        return json.loads((folder / TRAINED).read_text("utf-8"))["failed"]
    failed = failure(partial(fit, job, output=folder))
    model.save_pretrained(folder)
    write_text(folder / TRAINED, json.dumps({"failed": failed}))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return failed


def _curve(file: Path) -> list[dict[str, float]]:
    """The logged metrics of the training steps, shortened."""
    keys = ("step", "loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "grad_norm")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [{key: round(line[key], 5) for key in keys if key in line} for line in map(json.loads, lines)]


# ------------------------------------------------------------------------------------------------- folders, rows, names


def trained_folder(run: Training, settings: RealSettings, base: Path) -> Path:
    """The folder with a run's adapter; the run is computed again if it is not there."""
    folder = work_folder(settings, base) / run.key
    if not (folder / ADAPTER).exists():
        run.measured(settings, base)
    return folder


def entry_of(part: str, name: str) -> Entry:
    """An entry by its name; the base policy is prepared like SFT and not trained."""
    entries = ENTRIES["pairs" if part == "pairs" else "scores"]
    return BY_NAME["sft"] if name == BASE else next(entry for entry in entries if entry.name == name)


def runs_of(part: str, settings: RealSettings, chosen: Chosen) -> dict[str, list[Training]]:
    """The runs of each row of an axis, one a seed; rows without a chosen learning rate are left out."""
    runs = {BASE: [Training(part, BASE, seed, 0.0) for seed in settings.seeds]}
    for entry in ENTRIES[part]:
        if setting := chosen.get(entry.tuned_as or entry.name):
            runs[entry.name] = [Training(part, entry.name, seed, setting["lr"]) for seed in settings.seeds]
    return runs
