"""What the online study on a real language model consists of: its entries, its settings, and what each run computes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from una_ref.data.rows import Row
from una_ref.policies import loading
from una_ref.policies.classifier import Classifier
from una_ref.studies import offline_study, online_runs
from una_ref.studies import real_measures as measures
from una_ref.studies.engine import Chosen, Entry
from una_ref.studies.online_measures import models_held
from una_ref.studies.online_tables import PHASES
from una_ref.studies.peak_memory import PeakMeter
from una_ref.studies.proxies import Shifted
from una_ref.studies.real_data import Part, Size
from una_ref.studies.real_rewards import RewardModel
from una_ref.studies.real_settings import BASE, SIZES
from una_ref.studies.real_work import SAMPLES, keep_samples, part_of, rounded, weights_name, work_folder
from una_ref.studies.toysteer_policies import failure
from una_ref.training.checkpoints import write_text
from una_ref.training.job import Job
from una_ref.training.prepare import prepare

PROMPTS, PROXY_PAIRS = "pairs", "proxy"
"""The parts of the data that the prompts come from, and the pairs of the training reward model."""
METERED = 2
"""Updates of a run whose memory is measured. They are slower, and their time does not count."""

ENTRIES = (
    online_runs.BY_NAME["rloo"],
    online_runs.BY_NAME["una-online"],
    replace(online_runs.BY_NAME["una-centred"], tuned_as="rloo"),
    online_runs.BY_NAME["una-online.released"],
    Entry("ppo", "PPO, a value head, 4 passes", "ppo", config={"passes": 4, "critic": "head"}),
    Entry(
        "una-centred.replay",
        "centred UNA with replay, 2 updates of 32 samples",
        "una-centred",
        config={"online": True, "replay": 1024, "replay_batch": 8, "passes": 2},
    ),
)
"""The rows of the tables, in the order in which they are computed. RLOO and centred UNA have one gradient up to scale,
which AdamW removes, and share a learning rate. Replay learns from 64 samples after each rollout, as PPO does."""
BY_NAME = {entry.name: entry for entry in ENTRIES}

HEADER = (
    "sizes",
    "batch",
    "lora_r",
    "lora_alpha",
    "reward_lr",
    "beta",
    "updates",
    "tuning_updates",
    "rollout",
    "samples",
    "new_tokens",
    "points",
    "prompts",
    "curve_prompts",
)
"""The settings that say what a run is; the others only say which runs there are."""


@dataclass(frozen=True)
class RealOnlineSettings:
    """What every run of the study has in common, and which runs there are.

    Attributes:
        sizes: rows and tokens of each part of the data.
        batch: rows a step, of the reward models.
        lora_r, lora_alpha: of all adapters.
        reward_lr: learning rate of the reward models; not tuned.
        beta: of the objective, in units of the reward, and every method's own except the released form's.
        updates: rollouts of a run. tuning_updates: of a run that a learning rate is chosen by.
        rollout: prompts of a rollout. samples: responses to each.
        new_tokens: most tokens of a response.
        points: measurements along a run, at equal distances, the last one at its end.
        prompts: held-out prompts that a policy is measured on at its end, and others for the tuning runs.
        curve_prompts: the first so many of them, for the measurements before the end.
        seeds: of adapters, data order and samples. tuning_seed: another one.
        lrs: the grid of learning rates.
    """

    study = "real_online"
    header = HEADER
    sizes: Mapping[str, Size] = field(
        default_factory=lambda: (
            {name: SIZES[name] for name in ("scores", "pairs", "tuning", "reward")} | {PROXY_PAIRS: Size(600, 0)}
        )
    )
    batch: int = 8
    lora_r: int = 16
    lora_alpha: float = 16.0
    reward_lr: float = 3e-4
    beta: float = 0.05
    updates: int = 16
    tuning_updates: int = 6
    rollout: int = 4
    samples: int = 4
    new_tokens: int = 48
    points: int = 4
    prompts: int = 64
    curve_prompts: int = 24
    seeds: tuple[int, ...] = (0, 1)
    tuning_seed: int = 100
    lrs: tuple[float, ...] = (3e-4, 1e-3)

    @property
    def quick(self) -> RealOnlineSettings:
        """One seed."""
        return replace(self, seeds=self.seeds[:1])

    @property
    def proxy(self) -> Proxy:
        """What the methods are asked to maximise."""
        return Proxy(self.reward_lr)

    @property
    def judge(self) -> RewardModel:
        """The reward model that no method sees: the offline study's."""
        return RewardModel(self.reward_lr, sets=("hh",))


@dataclass(frozen=True)
class Proxy:
    """The training reward model with a number that is added to its rewards.

    Pairs do not fix the offset of a reward, and Eq. 10 depends on it. So the mean reward of the base policy's
    responses to training prompts is made 0.
    """

    lr: float

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"proxy/lr={self.lr:g}"

    @property
    def model(self) -> RewardModel:
        """The reward model, of other pairs than the judge's and with another seed."""
        return RewardModel(self.lr, PROXY_PAIRS, seed=1, sets=("hh",))

    def measured(self, settings: RealOnlineSettings, base: Path) -> dict[str, Any]:
        """The run's line: the reward model's, and the number that is added."""
        return self.model.measured(settings, base) | {"shift": self.source(settings, base).by}

    def source(self, settings: RealOnlineSettings, base: Path) -> Shifted:
        """What scores the responses; whatever is missing is made first."""
        classifier = Classifier(str(self.model.folder(settings, base)))
        file = work_folder(settings, base) / "shift.json"
        if not file.exists():
            job, part = base_job(settings, base)
            rows = part.train[: settings.prompts]
            _, stored = measures.sampled(job, rows, max_new=settings.new_tokens, seed=0, trained=False)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(-fmean(classifier(measures.answers(rows, stored)))))
        return Shifted(classifier, json.loads(file.read_text("utf-8")))


@dataclass(frozen=True)
class OnlineTraining:
    """Train an entry on its own samples and measure its policy along the way. The entry ``base`` is not trained."""

    entry: str
    seed: int
    lr: float
    tuning: bool = False

    @property
    def key(self) -> str:
        """Its name in runs.jsonl, and its folder in the cache."""
        return f"{'tuning' if self.tuning else 'train'}/{self.entry}/lr={self.lr:g}/seed={self.seed}"

    def measured(self, settings: RealOnlineSettings, base: Path) -> dict[str, Any]:
        """The run's line. Its adapter stays in the cache folder.

        A run that is stopped by a non-finite value is measured as it stood, and `failed` says why.
        """
        folder = work_folder(settings, base) / self.key
        folder.mkdir(parents=True, exist_ok=True)
        meter = PeakMeter()
        source = settings.proxy.source(settings, base)
        job, part = base_job(settings, base) if self.entry == BASE else self._job(settings, base, source)
        rows, last = self.asked(part, settings), 0 if self.entry == BASE else job.config.steps
        at = measured_at(last, 1 if self.tuning else settings.points)
        points, stored, log, failed = [], {}, [], ""
        for update in range(last + 1):
            if update > 0:
                failed, took = do_update(job, update - 1, meter)
                log.append(took)
            if failed or update in at:
                some = rows if failed or update == last else rows[: settings.curve_prompts]
                sampling: dict[str, Any] = {"max_new": settings.new_tokens, "seed": self.seed}
                sampled, texts = measures.sampled(job, some, **sampling, trained=update > 0)
                stored[str(update)] = texts
                rewards = [float(reward or 0.0) for reward in source(measures.answers(some, texts))]
                points.append({"update": update, **sampled, "rewards": rounded(rewards)})
            if failed:
                failed = f"update {update}: {failed}"
                break
        if last:
            job.trainer.policy.model.save_pretrained(folder)
        timed = log[METERED:]
        found = {
            "failed": failed,
            "weights": weights_name(folder),
            "samples": stored,
            "notes": list(job.notes),
            "points": points,
            "objective": fmean(points[-1]["rewards"]) - settings.beta * fmean(points[-1]["kl"]),
            "train_rewards": rounded([took["reward"] for took in log]),
            "took": {name: rounded([took[name] for took in timed]) for name in (*PHASES, "wall")},
            "memory": meter.peaks,
            "models": models_held(job),
            "passes": job.config.updates[0],
        }
        keep_samples(folder, found)
        return found

    def asked(self, part: Part, settings: RealOnlineSettings) -> Sequence[Row]:
        """The held-out rows whose prompts are answered at the end; those before take the first ones."""
        count = settings.prompts
        return part.held_out[count : 2 * count] if self.tuning else part.held_out[:count]

    def _job(self, settings: RealOnlineSettings, base: Path, source: Shifted) -> tuple[Job, Part]:
        """The job up to its first update, and the rows of its prompts."""
        model, tokenizer = loading.load(str(base))
        part = part_of(PROMPTS, settings, tokenizer)
        config = BY_NAME[self.entry].run_config(
            {"beta": settings.beta},
            data=PROMPTS,
            held_out=0.0,
            steps=settings.tuning_updates if self.tuning else settings.updates,
            batch=settings.rollout,
            samples=settings.samples,
            max_response=settings.new_tokens,
            lr=self.lr,
            seed=self.seed,
            lora_r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
        )
        rows = [Row(row.prompt, ("",)) for row in part.train]
        return prepare(config, rows=rows, model=model, tokenizer=tokenizer, reward=source), part


@dataclass(frozen=True)
class HeldOutReward:
    """The rewards of a run's samples, by the reward model that no method sees."""

    run: OnlineTraining
    judge: RewardModel

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"judge/{self.run.key}"

    def measured(self, settings: RealOnlineSettings, base: Path) -> dict[str, Any]:
        """The run's line: the reward of each sample of each measurement, by update."""
        judge = Classifier(str(self.judge.folder(settings, base)))
        file = work_folder(settings, base) / self.run.key / SAMPLES
        if not file.exists():
            self.run.measured(settings, base)
        kept = json.loads(file.read_text("utf-8"))
        rows = self.run.asked(part_of(PROMPTS, settings, judge.tokenizer), settings)
        rewards = {
            update: rounded(judge(measures.answers(rows[: len(texts)], texts)))
            for update, texts in kept["samples"].items()
        }
        return {"weights": kept["weights"], "rewards": rewards}


def base_job(settings: RealOnlineSettings, base: Path) -> tuple[Job, Part]:
    """The base policy, prepared like SFT and not trained, and the rows of the prompts."""
    model, tokenizer = loading.load(str(base))
    part = part_of(PROMPTS, settings, tokenizer)
    adapters = {"lora_r": settings.lora_r, "lora_alpha": settings.lora_alpha}
    config = offline_study.BY_NAME["sft"].run_config({}, data=PROMPTS, held_out=0.0, group=False, **adapters)
    return prepare(config, rows=part.train, model=model, tokenizer=tokenizer), part


def do_update(job: Job, step: int, meter: PeakMeter) -> tuple[str, dict[str, float]]:
    """A rollout and the learning from it.

    Args:
        job: of an online method.
        step: from 0.
        meter: gets the memory of the first `METERED` updates.

    Returns:
        Which non-finite value stopped it, empty if none did; the mean reward of its samples, the processor's seconds of
        each phase, and the seconds on the clock (`wall`).
    """
    before, rollouts, began = dict(job.seconds), job.rollouts, time.perf_counter()
    metered = step < METERED
    if metered:
        meter.attach(job)
    with meter.phase("learning") if metered else nullcontext():
        failed = failure(partial(job.step, step, record=False))
    job.rollouts = rollouts
    took = {phase: job.seconds[phase] - before.get(phase, 0.0) for phase in PHASES}
    scores = [score for example in job.pool.rollouts[-1] for score in example.scores or ()]
    return failed, took | {"wall": time.perf_counter() - began, "reward": fmean(scores)}


def measured_at(last: int, points: int) -> set[int]:
    """The updates after which a run is measured; the base policy, which has none, is measured once."""
    return {round(last * i / points) for i in range(1, points + 1)}


def runs_of(settings: RealOnlineSettings, chosen: Chosen) -> dict[str, list[OnlineTraining]]:
    """The runs of each row, one a seed; rows without a chosen learning rate are left out."""
    runs = {BASE: [OnlineTraining(BASE, seed, 0.0) for seed in settings.seeds]}
    for entry in ENTRIES:
        if setting := chosen.get(entry.tuned_as or entry.name):
            runs[entry.name] = [OnlineTraining(entry.name, seed, setting["lr"]) for seed in settings.seeds]
    return runs
