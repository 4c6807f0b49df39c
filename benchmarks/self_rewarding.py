"""Self-rewarding on ToySteer: how well M1 judges, and what M2 and M3 gain by it.

    python benchmarks/self_rewarding.py --output figures/runs/self_rewarding.json

Runs the recipe `self-rewarding` for some seeds. A seed gives the world, the verdicts that M1 learns and the samples. M2
and M3 are made three times from the same M1, and only the judge differs:

- verdict: the policy's own log-odds of a good verdict, as the recipe has it;
- shuffled: the same scores, dealt to the answers of a prompt at random (control: a judge that knows nothing);
- truth: ToySteer's true reward.

Reward and regret are exact: sums over all 3,906 responses to each prompt. Judging accuracy is the share of pairs of
sampled answers, of different true rewards, that a policy's verdicts order as the true reward does. M1 has learnt no
verdict about the prompts of these pairs.

The labeller of M1's verdicts was made strict after a first try. With `verdicts(sharpness=4, bar=0.5)`, whose log-odds
are the true reward itself, M1 ordered 77 and 82 % of the pairs of seeds 0 and 1. It did not tell right answers from
nearly right ones of the same length, and M2 and M3 were worse than M1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import records
import torch

from una_ref.data.encoder import Encoder
from una_ref.data.toysteer import ToySteer
from una_ref.policies import loading
from una_ref.policies.answers import Answer, RewardSource
from una_ref.policies.references import Policy
from una_ref.policies.reward_sources import bound, reward_source
from una_ref.studies.toysteer_policies import base_in_world, response_tree
from una_ref.training import result, stages
from una_ref.training.checkpoints import RECORD
from una_ref.training.config import Config
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare
from una_ref.training.toysteer_base import reference_logps, toysteer_base

RECIPE = "self-rewarding"
VERDICT = "self:good/bad"
JUDGES = {"verdict": VERDICT, "shuffled": VERDICT, "truth": "toysteer"}
"""How the record names a judge, and what the recipe's `reward` is then."""
BETA = 0.1
"""Of the regret, with ToySteer's base as π_ref; the method's default."""
PAIRS = 2000


@dataclass(frozen=True)
class Shuffled:
    """A source whose scores are dealt to the answers of a prompt at random."""

    source: RewardSource
    rng: random.Random

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """The scores of the source, with those of each prompt permuted."""
        scores, places = list(self.source(answers)), defaultdict(list)
        for place, answer in enumerate(answers):
            places[answer.group].append(place)
        for own in places.values():
            dealt = [scores[place] for place in own]
            self.rng.shuffle(dealt)
            for place, score in zip(own, dealt, strict=True):
                scores[place] = score
        return scores


def main() -> int:
    """Make all runs and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("figures/runs/self_rewarding.json"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--judges", nargs="*", default=[*JUDGES], help="which judges")
    parser.add_argument("--settings", nargs="*", default=[], help="settings of the recipe, such as M1.steps=100")
    parser.add_argument("--work", type=Path, help="folder that keeps the runs (default: a temporary one)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # more threads do not help matrices this small
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for seed in arguments.seeds:
            runs.append({"seed": seed, **of_seed(seed, work / str(seed), arguments.judges, arguments.settings)})
    record = {
        "command": "python benchmarks/self_rewarding.py",
        "recipe": RECIPE,
        "settings": arguments.settings,
        "judges": {judge: JUDGES[judge] for judge in arguments.judges},
        "beta": BETA,
        "pairs": PAIRS,
        "mean": summary(runs),
        "runs": runs,
        **records.provenance(),
    }
    records.write(arguments.output, record)
    return 0


def of_seed(seed: int, work: Path, judges: Sequence[str], settings: Sequence[str]) -> dict[str, Any]:
    """The measures of the base, M1, and each judge's M2 and M3."""
    first = stages.plan(RECIPE, settings, output=str(work), seed=seed).ready("M1")
    assert isinstance(first, Config)
    trained(first)
    measures = {
        "base": kept(work / "base.json", toysteer_base(), seed),
        "M1": kept(work / "M1.json", work / "M1", seed),
    }
    for judge in judges:
        model = str(work / "M1")
        for name in ("M2", "M3"):
            made = stages.plan(RECIPE, settings, output=str(work), seed=seed).ready(name)
            assert isinstance(made, Config)
            folder = work / f"{name}-{judge}"
            trained(replace(made, model=model, reward=JUDGES[judge], output=str(folder)), judge == "shuffled")
            measures[f"{name}, {judge}"] = kept(work / f"{name}-{judge}.json", folder, seed)
            model = str(folder)
    return measures


def kept(file: Path, folder: Path, seed: int) -> dict[str, float]:
    """The measures of a policy, from the file if it is there."""
    if not file.exists():
        file.write_text(json.dumps(measured(folder, seed)), encoding="utf-8")
    measures = json.loads(file.read_text("utf-8"))
    print(seed, file.stem, measures, file=sys.stderr, flush=True)
    return measures


def trained(config: Config, shuffled: bool = False) -> None:
    """Run a config into its folder, unless that has been done."""
    output = Path(config.output)
    if (output / RECORD).exists():
        return
    # The truth cannot be named: for this method the default `reward`, toysteer, stands for self (`Config.judge`).
    source = reward_source("toysteer", world=ToySteer(seed=config.seed)) if config.reward == "toysteer" else None
    job = prepare(config, reward=source if config.on_policy else None)
    if shuffled:
        assert job.rollouts is not None
        job.rollouts = replace(job.rollouts, reward=Shuffled(job.rollouts.reward, random.Random(config.seed)))
    output.mkdir(parents=True, exist_ok=True)
    evaluation = fit(job, output=output)
    result.save(job, config.to_dict(), output, evaluation, result.whole_state(job))


def measured(folder: Path, seed: int) -> dict[str, float]:
    """Exact reward and regret of a policy, its entropy in nats, and how well its verdicts order held-out pairs."""
    model, tokenizer = loading.load(str(folder))
    world = base_in_world(seed, toysteer_base()).world
    exact = world.world(base_in_world(seed, toysteer_base()).next_logps, BETA)
    metrics = exact.metrics(response_tree().sequence_logps(reference_logps(model, world)))
    answers, truth = held_out_pairs(seed)
    judge = bound(reward_source(VERDICT, world=world), Policy(model, has_reference=False), Encoder(tokenizer))
    verdicts = torch.tensor(judge(answers), dtype=torch.float64).view(-1, 2)
    ordered = (verdicts[:, 0] > verdicts[:, 1]) == (truth[:, 0] > truth[:, 1])
    return {
        "reward": round(metrics["reward"], 4),
        "regret": round(metrics["regret"], 4),
        "entropy": round(metrics["entropy"], 4),
        "accuracy": round(float(ordered.double().mean()), 4),
        "correlation": round(float(torch.corrcoef(torch.stack([verdicts.flatten(), truth.flatten()]))[0, 1]), 4),
    }


@cache
def held_out_pairs(seed: int) -> tuple[list[Answer], torch.Tensor]:
    """Two answers of the base to each of many prompts of the world, and (pairs, 2) their true rewards, which differ."""
    base = base_in_world(seed, toysteer_base())
    drawn = base.world.draw(PAIRS, base.logps, seed=10_000 + seed, untied=True)
    world = base.world
    answers = [
        Answer(world.prompts[x], world.text(y), world.responses[y][1], group=i)
        for i, (x, *ys) in enumerate(drawn.tolist())
        for y in ys
    ]
    return answers, world.rewards[drawn[:, :1], drawn[:, 1:]]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard error over seeds of every measure."""
    names = [name for name in runs[0] if name != "seed"]
    return {name: {key: _mean([run[name][key] for run in runs]) for key in runs[0][name]} for name in names}


def _mean(values: Sequence[float]) -> dict[str, float]:
    se = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {"mean": round(fmean(values), 4), "se": round(se, 4)}


if __name__ == "__main__":
    sys.exit(main())
