"""The runs of the offline study on a real language model: what each computes, and where it keeps its files.

A run is a line of runs.jsonl. Adapters, samples and the reward model stay in the cache folder, outside the study's own.
Whatever is missing there is made again from its seed; equal versions on equal processors give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from una_ref.cache import cache_folder
from una_ref.data.examples import digest
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies import loading
from una_ref.policies.classifier import Classifier
from una_ref.policies.named_models import CHECKPOINT, SMOLLM2, resolved
from una_ref.studies import real_measures as measures
from una_ref.studies.engine import Chosen, Entry
from una_ref.studies.offline_study import BY_NAME, as_feedback
from una_ref.studies.real_data import Part, data_folder, parts
from una_ref.studies.real_settings import BASE, ENTRIES, HEADER, RealSettings
from una_ref.studies.toysteer_policies import WEIGHTS, base_name, failure
from una_ref.training.card import commit, hardware, versions
from una_ref.training.checkpoints import write_text
from una_ref.training.config import Config
from una_ref.training.job import Job
from una_ref.training.loop import METRICS, fit
from una_ref.training.prepare import prepare
from una_ref.training.run import train

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
        """The run's line. Adapter and samples stay in the cache folder."""
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
            found["margins"] = _rounded(margins)
            found["accuracy"] = _mean(measures.accuracies(margins))
        if self.part != "tuning":
            found |= self._sampled(job, rows, settings, folder)
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

    def _sampled(self, job: Job, rows: Part, settings: RealSettings, folder: Path) -> dict[str, Any]:
        assert job.encoder is not None
        asked = rows.held_out[: settings.prompts]
        prompts = [tuple(job.encoder.prompt_ids(row)) for row in asked]
        samples = measures.sample(job, prompts, max_new=settings.new_tokens, seed=self.seed)
        texts = [job.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in samples]
        stored = [{"response": text, "ended": one.ended} for text, one in zip(texts, samples, strict=True)]
        write_text(folder / ANSWERS, json.dumps(stored, ensure_ascii=False))
        kl = [0.0] * len(samples) if self.entry == BASE else measures.kl(job.trainer.policy, prompts, samples)
        lengths = [len(one.tokens) for one in samples]
        return {"kl": _rounded(kl), "lengths": lengths, "ended": _mean([float(one.ended) for one in samples])}


@dataclass(frozen=True)
class RewardModel:
    """Train the reward model that judges the samples, and measure its accuracy on four sets of pairs."""

    lr: float

    @property
    def key(self) -> str:
        """Its name in runs.jsonl, and its folder in the cache."""
        return f"reward-model/lr={self.lr:g}"

    def measured(self, settings: RealSettings, base: Path) -> dict[str, Any]:
        """The run's line: a 1 for each pair on which the reward model is right."""
        judge = Classifier(str(self.folder(settings, base)))
        tokenizer = judge.tokenizer
        sets = {
            "hh": part_of("reward", settings, tokenizer).held_out,
            "ultrafeedback": as_feedback(part_of("scores", settings, tokenizer).held_out, "pairs"),
            "llmbar": part_of("llmbar", settings, tokenizer).held_out,
            "hhh": part_of("hhh", settings, tokenizer).held_out,
        }
        return {"hits": {name: measures.judged_pairs(judge, rows) for name, rows in sets.items()}}

    def folder(self, settings: RealSettings, base: Path) -> Path:
        """The folder of the trained reward model; it is trained first if it is not there."""
        folder = work_folder(settings, base) / self.key
        size = settings.sizes["reward"]
        file = folder.parent / "pairs.jsonl"
        if not file.exists():
            rows = part_of("reward", settings, loading.load_tokenizer(str(base))).train
            lines = (
                {"prompt": row.prompt, "chosen": row.responses[chosen], "rejected": row.responses[rejected]}
                for row in rows
                for chosen, rejected in row.pairs or ()
            )
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        config = Config(
            method="reward-model",
            data=str(file),
            model=str(base),
            output=str(folder),
            held_out=0.0,
            steps=size.train // settings.batch,
            batch=settings.batch,
            lr=self.lr,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            save_every=8,
        )
        train(config, progress=False)
        return folder


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
        folder = trained_folder(self.run, settings, base)
        rows = part_of(self.run.part, settings, judge.tokenizer).held_out[: settings.prompts]
        rewards = judge(measures.answers(rows, json.loads((folder / ANSWERS).read_text("utf-8"))))
        return {"weights": weights_name(folder), "rewards": _rounded([float(reward) for reward in rewards])}


def measure(run: Any, settings: RealSettings, base: Path) -> dict[str, Any]:
    """Compute any run of the study; its line says where, when and by which versions."""
    began, processor = time.perf_counter(), time.process_time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        **run.measured(settings, base),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
        "code": commit(),
        "hardware": hardware(device, 1),
    }


ANSWERS, ADAPTER, TRAINED = "answers.json", "adapter_model.safetensors", "trained.json"


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


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ------------------------------------------------------------------------------------------------- folders, rows, names


def start_policy(name: str | Path | None) -> Path:
    """The folder of a language model by folder, hub name, GGUF file or ``smollm2`` (the default).

    Raises:
        InputError: it is not there, or its weights are not one file of safetensors.
    """
    from transformers.utils import cached_file

    found = resolved(str(name or SMOLLM2))
    if Path(found).is_dir():
        folder = Path(found)
    else:
        loading.load(found)  # fetches it, or says why not
        folder = Path(str(cached_file(found, WEIGHTS))).parent
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"model {name}: expected weights in {WEIGHTS}, got none in {folder}")
    data_folder()
    return folder


def trained_folder(run: Training, settings: RealSettings, base: Path) -> Path:
    """The folder with a run's adapter and samples; the run is computed again if it is not there."""
    folder = work_folder(settings, base) / run.key
    if not (folder / ANSWERS).exists():
        run.measured(settings, base)
    return folder


def weights_name(folder: Path) -> str:
    """The first 64 bits of the SHA-256 of an adapter; empty for the base. Another one was trained elsewhere."""
    file = folder / ADAPTER
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else ""


@cache
def _base_name(base: Path) -> str:
    return base_name(base)


def work_folder(settings: RealSettings, base: Path) -> Path:
    """Where adapters and samples are kept, in the cache folder; another one for each header and base policy."""
    every = asdict(settings)
    about = json.dumps([{name: every[name] for name in HEADER}, _base_name(base)], sort_keys=True)
    return cache_folder() / "studies" / f"real_offline-{hashlib.sha256(about.encode()).hexdigest()[:12]}"


def part_of(name: str, settings: RealSettings, tokenizer: Any) -> Part:
    """A part of the data; those before it are made too, so that no prompt is in two."""
    wanted = {}
    for each, size in settings.sizes.items():
        wanted[each] = size
        if each == name:
            break
    return parts(wanted, tokenizer, data_folder())[name]


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
