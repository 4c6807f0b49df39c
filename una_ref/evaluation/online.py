"""The papers' online comparison where the answer is known: one reward model, the same number of its calls for all.

On ToySteer worlds, one a seed, a method draws responses from its policy, a reward model scores them, and the method
learns: UNA's Tables 4-6 with exact numbers. The reward model is Bradley–Terry's, trained once for each world on pairs
that the base policy wrote. Since its score of every response can be listed too, a policy is judged twice: by the
proxy objective, which is what its method was asked to maximise, and by the true one.

Three axes, each a table and a figure of its own:

- methods: each at its best learning rate, with its gradient noise, seconds, memory and the models that it holds.
- offset: one number added to all scores, which changes nothing about what is best. Eq. 10 and the centred form part
  ways here.
- proxy: reward models of few pairs and of many. True against proxy reward along KL is over-optimisation.

A scorer's own offset is no fact about a response (pairs cannot see it), so scores are shifted to mean 0 under the base
policy before any offset is added.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from una_ref.data import toysteer
from una_ref.data.batch import prefix_tree
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.evaluation import online_report as report
from una_ref.evaluation.memory import Meter
from una_ref.evaluation.proxies import TRUTH, Judge, Shifted, accuracy, judge, source
from una_ref.evaluation.report import over, summary
from una_ref.evaluation.runs import Runs, made, name_of
from una_ref.policies import loading
from una_ref.policies.exact import next_logps
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.theory import optimum
from una_ref.theory.worlds import PrefixTree, SequenceWorld
from una_ref.training.checkpoints import write_text
from una_ref.training.config import Config
from una_ref.training.fit import Job
from una_ref.training.loop import NonFinite
from una_ref.training.run import prepare
from una_ref.training.toysteer_base import toysteer_base


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method in one of its forms, with what of a `Config` makes it that."""

    name: str
    title: str
    method: str
    form: Literal["corrected", "printed", "released"] = "corrected"
    config: Mapping[str, Any] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)


ENTRIES = (
    Entry("ppo", "PPO, a critic of its own, 4 passes", "ppo", config={"passes": 4}),
    Entry("rloo", "RLOO", "rloo"),
    Entry("una-online", "online UNA (Eq. 10)", "una-online"),
    # Passes as in the authors' script. In the first pass its β is a step size only, which the learning rate is already;
    # in later ones it says where the σ saturates. It is not tuned.
    Entry(
        "una-online.released",
        "online UNA, the authors' code, 4 passes",
        "una-online",
        form="released",
        config={"passes": 4},
        hyper={"beta": 1.0},
    ),
    Entry("una-centred", "centred UNA", "una-centred", config={"online": True}),
    Entry(
        "una-centred.replay",
        "centred UNA + replay of 8 rollouts, 4 passes",
        "una-centred",
        config={"online": True, "replay": 7, "passes": 4},
    ),
    Entry("iterative-dpo", "iterative DPO, best and worst of 8", "iterative-dpo"),
)
BY_NAME = {e.name: e for e in ENTRIES}


@dataclass(frozen=True)
class Settings:
    """What every run of a study has in common, and which runs there are.

    Attributes:
        steps: rollouts. batch: prompts of each. draws: responses to each prompt.
        beta: of the objective, in reward units, and every method's own.
        every: steps between exact measurements along a run.
        rollouts: at the base policy, for the gradient noise.
        timed: steps that are timed, after a quarter as many to warm up.
        test: pairs on which a reward model is tested.
        reward: of the axes methods and offset: the number of pairs that its reward model learned from, or "truth".
        rewards: of the axis proxy.
        offsets: of the axis offset.
        entries, offset_entries, proxy_entries: of each axis.
        retuned: entries that the axis offset has a second time, at the best learning rate of each offset.
        seeds: worlds of the tables. tuning_seeds: worlds on which learning rates are chosen.
        timed_seeds: worlds on which steps are timed, one run at a time, and on which noise is measured along offsets.
        lrs: the grid.
    """

    steps: int = 32
    batch: int = 8
    draws: int = 8
    beta: float = 0.4
    every: int = 8
    rollouts: int = 32
    timed: int = 16
    test: int = 4096
    reward: str = "1024"
    rewards: tuple[str, ...] = ("64", "1024", TRUTH)
    offsets: tuple[float, ...] = (-4.0, -2.0, 0.0, 2.0, 4.0)
    entries: tuple[str, ...] = tuple(BY_NAME)
    offset_entries: tuple[str, ...] = ("ppo", "rloo", "una-online", "una-centred")
    retuned: tuple[str, ...] = ("una-online",)
    proxy_entries: tuple[str, ...] = ("ppo", "rloo", "una-centred.replay")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    tuning_seeds: tuple[int, ...] = (100, 101)
    timed_seeds: tuple[int, ...] = (0, 1, 2)
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)

    @property
    def quick(self) -> Settings:
        """Two seeds and fewer steps; of the other axes an end each."""
        return replace(
            self,
            steps=min(32, self.steps),
            every=min(16, self.steps),
            rollouts=4,
            timed=4,
            seeds=self.seeds[:2],
            timed_seeds=self.timed_seeds[:1],
            rewards=tuple(dict.fromkeys((self.rewards[0], self.reward))),
            offsets=(0.0, max(self.offsets)),
            offset_entries=("una-online", "una-centred"),
            retuned=(),
            proxy_entries=("rloo",),
        )


RUN = ("steps", "batch", "draws", "beta", "every", "rollouts", "timed", "test")
"""The settings that say what a run is; the others say which there are."""
FREE = tuple(f for f in Settings.__dataclass_fields__ if f not in RUN)


@dataclass(frozen=True)
class Reward:
    """Make a seed's reward model and say what it is worth."""

    reward: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"reward/{self.reward}/seed={self.seed}"


@dataclass(frozen=True)
class Training:
    """Train an entry and measure its policy along the way."""

    entry: str
    reward: str
    offset: float
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"train/{self.entry}/{self.reward}/offset={self.offset:+g}/lr={self.lr:g}/seed={self.seed}"


@dataclass(frozen=True)
class Noise:
    """Measure the noise of an entry's gradient at the base policy."""

    entry: str
    reward: str
    offset: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"noise/{self.entry}/{self.reward}/offset={self.offset:+g}/seed={self.seed}"


@dataclass(frozen=True)
class Cost:
    """Time an entry's steps, see what memory they take, and count the models that are held."""

    entry: str
    reward: str
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in runs.jsonl."""
        return f"cost/{self.entry}/{self.reward}/lr={self.lr:g}/seed={self.seed}"


# ----------------------------------------------------------------------------------------------------------- one run


def one(run: Reward | Training | Noise | Cost, settings: Settings) -> dict[str, Any]:
    """Do a run; but for times and memory a function of the two arguments alone."""
    began = time.perf_counter()
    do: dict[type, Callable[..., dict[str, Any]]] = {Reward: worth, Training: trained, Noise: noise, Cost: cost}
    return do[type(run)](run, settings) | {"seconds": round(time.perf_counter() - began, 2)}


FRONTIER = (4.0, 2.0, 1.2, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""The βs of the policies that are best by a proxy, from near the base to far from it."""


def worth(run: Reward, settings: Settings) -> dict[str, Any]:
    """A proxy's accuracy on its training pairs and on others, and where its best policies are, by both rewards."""
    by = judge(run.seed, run.reward, settings.beta)
    ref, ref_next, table = by.truth.ref_logps, by.truth.ref_next_logps, by.proxy.rewards
    own = settings.test if run.reward == TRUTH else int(run.reward)
    best = {beta: SequenceWorld(ref_next, table, beta, length=toysteer.LENGTH).optimum for beta in FRONTIER}
    return {
        "train_accuracy": accuracy(table, by.world, ref, own, run.seed),
        "test_accuracy": accuracy(table, by.world, ref, settings.test, 10_000 + run.seed),
        "base": by.measure(ref),
        "proxy_optimum": by.measure(by.proxy.optimum),
        "optimum": by.measure(by.truth.optimum),
        "frontier": [{"beta": beta} | by.measure(logps) for beta, logps in best.items()],
    }


def ready(run: Training | Noise | Cost, settings: Settings, **changes: Any) -> Job:
    """A run that is ready to start, with the reward shifted and offset."""
    entry, offset = BY_NAME[run.entry], 0.0 if isinstance(run, Cost) else run.offset
    by = judge(run.seed, run.reward, settings.beta)
    config = Config(
        method=entry.method,
        form=entry.form,
        held_out=0.0,
        steps=settings.steps,
        batch=settings.batch,
        samples=settings.draws,
        lr=1e-3 if isinstance(run, Noise) else run.lr,
        seed=run.seed,
        log_every=settings.steps,
        loss_kwargs={"beta": settings.beta} | dict(entry.hyper),
        **entry.config,
    )
    model, tokenizer = loading.load(str(toysteer_base()))
    prompts = [Row(prompt, ("",)) for prompt in by.world.prompts]
    reward = Shifted(source(run.seed, run.reward), by.shift + offset)
    return prepare(replace(config, **changes), rows=prompts, model=model, tokenizer=tokenizer, reward=reward)


def policy_logps(job: Job, by: Judge) -> torch.Tensor:
    """(X, S) log-probability of every response under a job's policy as it is."""
    tree = PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH)
    prompts = toysteer.encoded_prompts(by.world, job.tokenizer)
    return tree.sequence_logps(next_logps(job.trainer.policy.model, prompts, tree, toysteer.VOCABULARY))


def trained(run: Training, settings: Settings) -> dict[str, Any]:
    """Train, and measure the policy exactly: at the end, and every few steps (`curve`).

    A run that a number stopped that is none is measured as it stood, and `failed` says so.
    """
    by, it = judge(run.seed, run.reward, settings.beta), ready(run, settings)
    curve = [{"step": 0} | by.measure(policy_logps(it, by))]
    failed = ""
    for step in range(settings.steps):
        try:
            it.step(step, record=False)
        except NonFinite as error:
            failed = f"step {step + 1}: {error}"
        if failed or (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            curve.append({"step": step + 1} | by.measure(policy_logps(it, by)))
        if failed:
            break
    final = {name: value for name, value in curve[-1].items() if name != "step"}
    return final | {"base_regret": curve[0]["regret"], "failed": failed, "curve": curve}


def noise(run: Noise, settings: Settings) -> dict[str, Any]:
    """E‖g − E g‖² / (E g · u)² of the gradient g of a step's first update in the adapter's weights, at the base policy.

    u is the direction of the exact gradient of the objective: what of E g points elsewhere moves the policy, but not
    towards what is asked for, and is no signal. `expected` is E g · u where it is known, 2β‖∇J‖ for UNA's forms and
    ‖∇J‖ for RLOO; elsewhere it is estimated. The expectations are over independent rollouts, `signal` is the mean of
    g · u over them with its standard error. NaN where the signal is not known and below three of these.
    """
    by, it = judge(run.seed, run.reward, settings.beta), ready(run, settings)
    trainer = it.trainer
    trainer.optimizer.zero_grad()
    (-objective(it, by)).backward()
    exact = _gradient(it)
    gradients = []
    for step in range(settings.rollouts):
        rows, _ = it.answered(it.examples, step, record=False)
        trainer.optimizer.zero_grad()
        trainer.accumulate(rows, record=False)
        gradients.append(_gradient(it))
    drawn = torch.stack(gradients)
    variance = float((drawn - drawn.mean(0)).square().sum() / (len(drawn) - 1))
    along = drawn @ exact / exact.norm()
    signal, error = float(along.mean()), float(along.std() / math.sqrt(len(along)))
    expected = UNBIASED.get(run.entry, lambda _: math.nan)(settings.beta) * float(exact.norm())
    if not math.isnan(expected):
        squared = expected**2
    else:
        squared = signal**2 - error**2 if signal > 3 * error else math.nan  # without what chance adds to the square
    return {"noise": variance / squared, "signal": signal, "signal_error": error, "expected": expected}


UNBIASED: Mapping[str, Callable[[float], float]] = {
    "una-online": lambda beta: 2 * beta,
    "una-centred": lambda beta: 2 * beta,
    "una-centred.replay": lambda beta: 2 * beta,
    "rloo": lambda beta: 1.0,
}
"""Of the entries whose expected gradient is one number times −∇J, that number, from β."""


def objective(job: Job, by: Judge) -> torch.Tensor:
    """J of a job's policy as it is by the proxy, exact and differentiable in its weights: the mean over prompts."""
    prompts, tree = (
        toysteer.encoded_prompts(by.world, job.tokenizer),
        PrefixTree.of(len(toysteer.VOCABULARY), toysteer.LENGTH),
    )
    logps = sequence_logprobs(job.trainer.policy.model, prefix_tree(prompts, tree.prefixes, toysteer.VOCABULARY))
    whole = tree.sequence_logps(logps.double().view(len(prompts), len(tree.prefixes), -1))
    return optimum.objective(whole, by.proxy.ref_logps, by.proxy.rewards, by.proxy.beta).mean()


def _gradient(job: Job) -> torch.Tensor:
    """What the last backward pass left on the policy's weights (not a critic's), as one vector."""
    weights = [p for p in job.trainer.policy.model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in weights])


def cost(run: Cost, settings: Settings) -> dict[str, Any]:
    """Seconds and peak memory of a step by its phases, and the models held.

    Seconds are medians over steps. Memory is what a phase takes at its peak beyond a process that has the libraries
    loaded and nothing else, in MiB; None where the system does not say.
    """
    warm = max(1, settings.timed // 4)
    it = ready(run, settings, steps=warm + settings.timed)
    marks = []
    for step in range(it.config.steps):
        marks.append(dict(it.seconds))
        it.step(step, record=False)
    marks = [*marks[warm:], dict(it.seconds)]
    seconds = {
        phase: statistics.median(after[phase] - before[phase] for before, after in pairwise(marks))
        for phase in marks[0]
    }
    held, updates = models(it), math.prod(it.config.updates)
    del it
    meter = Meter()
    it = ready(run, settings, steps=warm)
    meter.attach(it)
    for step in range(warm):
        with meter.phase("learning"):
            it.step(step, record=False)
    return {"seconds_a_step": seconds, "memory": meter.peaks, "models": held, "updates": updates}


def models(job: Job) -> dict[str, int]:
    """Parameters of each model that a job holds; the reference has none of its own if it is the policy unadapted."""
    policy = job.trainer.policy
    held = {"policy": _size(policy.model)}
    if policy.anchored:
        held["reference"] = sum(map(_size, policy.copy))
    if policy.critic:
        held["critic"] = _size(policy.critic)
    shifted = job.rollouts.reward if job.rollouts else None
    scorer = getattr(getattr(shifted, "source", None), "model", None)
    if scorer is not None:
        held["reward model"] = _size(scorer)
    return held


def _size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------------------------------------------------- the study


def study(folder: Path, settings: Settings, workers: int) -> Runs:
    """The runs in a folder. Raises InputError where they are of other settings or another base policy."""
    return Runs(folder, settings, one, free=FREE, base=name_of(toysteer_base()), workers=workers)


def named(entry: str, offset: float = 0.0) -> str:
    """How an entry at an offset stands among the chosen settings."""
    return entry if offset == 0 else f"{entry}/offset={offset:+g}"


def tune(runs: Runs, wanted: Iterable[tuple[str, float]]) -> dict[str, dict[str, float]]:
    """For entries at offsets the learning rate with the lowest mean regret on the tuning seeds, by the proxy."""
    s, wanted = runs.settings, list(wanted)
    asked = {
        at: {lr: [Training(at[0], s.reward, at[1], lr, x) for x in s.tuning_seeds] for lr in s.lrs} for at in wanted
    }
    runs.of([Reward(s.reward, seed) for seed in s.tuning_seeds], "reward models")
    runs.of([run for rates in asked.values() for some in rates.values() for run in some], "tuning")
    chosen = {}
    for at, rates in asked.items():
        regret = {lr: statistics.fmean(runs.done[run.key]["regret"] for run in some) for lr, some in rates.items()}
        lr = min(regret, key=lambda lr: regret[lr])
        chosen[named(*at)] = {"lr": lr, "tuning_regret": regret[lr]}
    return chosen


def committed() -> dict[str, dict[str, float]]:
    """The settings that the full study chose, as shipped with the package."""
    return json.loads((resources.files("una_ref.evaluation") / "chosen_online.json").read_text())


Chosen = Mapping[str, Mapping[str, float]]


def methods(runs: Runs, chosen: Chosen) -> dict[str, Any]:
    """The axis methods: UNA's Tables 4-6."""
    s = runs.settings
    rewards = runs.of([Reward(s.reward, seed) for seed in s.seeds], "reward models")
    asked = {e: [Training(e, s.reward, 0.0, chosen[e]["lr"], seed) for seed in s.seeds] for e in s.entries}
    noises = {e: [Noise(e, s.reward, 0.0, seed) for seed in s.seeds] for e in s.entries}
    runs.of([*chain(*asked.values()), *chain(*noises.values())], "comparing")
    costs = {e: [Cost(e, s.reward, chosen[e]["lr"], seed) for seed in s.timed_seeds] for e in s.entries}
    runs.of([*chain(*costs.values())], "timing", alone=True)
    base = [r["base"] for r in rewards]
    known = {"base": "base (π_ref)", "proxy_optimum": "π̂\\*, the proxy's optimum", "optimum": "π\\*, the optimum"}
    rows = [
        {"name": name, "title": title} | summary([r[name] for r in rewards], base, report.MEASURES)
        for name, title in known.items()
    ]
    for e in s.entries:
        timed = [runs.done[run.key] for run in costs[e]]
        seconds, memory = (
            {
                phase: over([t[what][phase] for t in timed])
                for phase in timed[0][what]
                if timed[0][what][phase] is not None
            }
            for what in ("seconds_a_step", "memory")
        )
        cost = {"seconds": seconds, "memory": memory, "models": timed[0]["models"], "updates": timed[0]["updates"]}
        rows.append(_row(runs, e, asked[e], base) | _noise(runs, noises[e]) | cost)
    return {"rows": rows}


def offset(runs: Runs, chosen: Chosen) -> dict[str, Any]:
    """The axis offset: a number added to all scores."""
    s = runs.settings
    rewards = runs.of([Reward(s.reward, seed) for seed in s.seeds], "reward models")
    base = [r["base"] for r in rewards]
    asked = {
        (e, by, again): [
            Training(e, s.reward, by, chosen[named(e, by if again else 0.0)]["lr"], seed) for seed in s.seeds
        ]
        for again, entries in ((False, s.offset_entries), (True, s.retuned))
        for e in entries
        for by in s.offsets
    }
    noises = {
        (e, by): [Noise(e, s.reward, by, seed) for seed in s.timed_seeds] for e in s.offset_entries for by in s.offsets
    }
    runs.of([*chain(*asked.values()), *chain(*noises.values())], "comparing")
    rows = [
        _row(runs, e, some, base) | {"offset": by, "retuned": again} | _noise(runs, noises[e, by])
        for (e, by, again), some in asked.items()
    ]
    return {"base": summary(base, base, report.MEASURES), "rows": rows}


def proxy(runs: Runs, chosen: Chosen) -> dict[str, Any]:
    """The axis proxy: reward models from few pairs to many, and the truth."""
    s = runs.settings
    models = {reward: runs.of([Reward(reward, seed) for seed in s.seeds], "reward models") for reward in s.rewards}
    asked = {
        (e, reward): [Training(e, reward, 0.0, chosen[e]["lr"], seed) for seed in s.seeds]
        for reward in s.rewards
        for e in s.proxy_entries
    }
    runs.of([*chain(*asked.values())], "comparing")
    rows = []
    for (e, reward), some in asked.items():
        base = [r["base"] for r in models[reward]]
        curves = [runs.done[run.key]["curve"] for run in some]
        steps = sorted({point["step"] for curve in curves for point in curve})
        curve = [{"step": at} | _gains([_at(c, at) for c in curves], base) for at in steps]
        rows.append(_row(runs, e, some, base) | {"reward": reward, "curve": curve})
    said = []
    for reward, several in models.items():
        base, best = [r["base"] for r in several], [r["proxy_optimum"] for r in several]
        frontier = [_gains(points, base) for points in zip(*(r["frontier"] for r in several), strict=True)]
        accuracies = {what: over([r[what] for r in several]) for what in ("train_accuracy", "test_accuracy")}
        optimum = summary(best, base, report.MEASURES) | _gains(best, base)
        said.append({"reward": reward} | accuracies | {"optimum": optimum, "frontier": frontier})
    return {"rows": rows, "rewards": said}


def _row(runs: Runs, entry: str, some: Sequence[Training], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row of a table from its runs, one a seed. Diverged: it ended below the base, or at a number that is none."""
    measured = [runs.done[run.key] for run in some]
    diverged = sum(bool(r["failed"]) or r["regret"] > b["regret"] for r, b in zip(measured, base, strict=True))
    about = {"name": entry, "title": BY_NAME[entry].title, "lr": some[0].lr, "diverged": diverged}
    return about | summary(measured, base, report.MEASURES)


def _noise(runs: Runs, some: Sequence[Noise]) -> dict[str, Any]:
    return {"noise": over([runs.done[run.key]["noise"] for run in some])}


def _gains(points: Sequence[dict[str, float]], base: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Policies, one a seed, by their KL and by what they gain over the base, truly and by the proxy."""
    of = {"true_gain": "reward", "proxy_gain": "proxy_reward"}
    gains = {gain: over([p[m] - b[m] for p, b in zip(points, base, strict=True)]) for gain, m in of.items()}
    return {"kl": over([p["kl"] for p in points])} | gains


def _at(curve: Sequence[dict[str, float]], step: int) -> dict[str, float]:
    """Where a run was at a step: its last point until then."""
    return [point for point in curve if point["step"] <= step][-1]


AXES: dict[str, Callable[[Runs, Chosen], dict[str, Any]]] = {"methods": methods, "offset": offset, "proxy": proxy}


def _tuned(axis: str, s: Settings) -> list[tuple[str, float]]:
    """The entries and offsets whose learning rates an axis needs."""
    if axis != "offset":
        return [(e, 0.0) for e in (s.entries if axis == "methods" else s.proxy_entries)]
    again = [(e, by) for e in s.retuned for by in s.offsets if by]
    return [*((e, 0.0) for e in s.offset_entries), *again]


def compare(
    output: str | Path,
    *,
    axes: Iterable[str] = tuple(AXES),
    quick: bool = False,
    workers: int | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Run axes of the study (or go on with them) and write runs.jsonl, results.json, table.md and a figure for each.

    What results.json has of other axes stays in it.

    Args:
        output: the study's folder.
        axes: which.
        quick: two seeds and less of each axis, with the settings that the full study chose.
        workers: processes; by default one a core.
        settings: of the study; for tests.

    Raises:
        InputError: the folder holds another study.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {folder}: expected a folder, got a file")
    s = settings or Settings()
    s = s.quick if quick else s
    file = folder / "results.json"
    results: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    with study(folder, s, workers or torch.multiprocessing.cpu_count()) as runs:
        for axis in axes:
            began = time.time()
            runs.asked.clear()
            chosen = committed() if quick else tune(runs, _tuned(axis, s))
            words = f"una-ref compare --online --axis {axis}{' --quick' if quick else ''} --output {output}"
            about = {"command": words, "settings": asdict(s), "chosen": chosen}
            # As JSON has it, lists for tuples, so that what is drawn now is what is drawn from the file.
            results[axis] = json.loads(json.dumps(about | AXES[axis](runs, chosen) | made(runs, began)))
            results = {name: results[name] for name in AXES if name in results}
            write_text(file, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            write_text(folder / "table.md", report.table(results))
            report.draw(axis, results[axis], folder)
    return results
