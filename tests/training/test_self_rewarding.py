"""Self-rewarding: the recipe, what its first stage learns from, and what the record of its runs says."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from una_ref.cli import main
from una_ref.data import toysteer
from una_ref.methods import METHODS
from una_ref.policies.answers import Answer
from una_ref.training import stages
from una_ref.training.prepare import prepare
from una_ref.training.reading import read_rows
from una_ref.training.settings import resolve

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
FEW = ["rows=40", "steps=3", "batch=4", "log_every=1"]


def test_the_policy_judges_itself_from_stage_to_stage():
    steps = stages.plan(METHODS["self-rewarding"].recipe).steps
    assert [step.method for step in steps.values()] == ["sft", "self-rewarding", "self-rewarding"]
    assert [steps[name].model for name in ("M2", "M3")] == ["${M1}", "${M2}"]
    assert {steps[name].judge for name in ("M2", "M3")} == {"self:good/bad"}


def test_data_of_others_have_their_own_demonstrations_and_verdicts():
    words = {"data": "prompts.jsonl", "model": "m", "reward": "self:yes/no"}
    steps = stages.plan("self-rewarding", ["M1.data=demonstrations.jsonl"], **words).steps
    assert [(s.data, s.model, s.reward) for s in steps.values()] == [
        ("demonstrations.jsonl", "m", "toysteer"),  # no reward: it does not sample
        ("prompts.jsonl", "${M1}", "self:yes/no"),
        ("prompts.jsonl", "${M2}", "self:yes/no"),
    ]


def test_kinds_of_toysteers_data_are_dealt_in_turn():
    rows = [*read_rows(resolve("sft", ["data=toysteer/demonstrations,toysteer/verdicts", "rows=6"], seed=3))]
    assert rows[::2] == toysteer.demonstrations(6, seed=3) and rows[1::2] == toysteer.verdicts(6, seed=3)
    job = prepare(resolve("sft", ["data=toysteer/demonstrations,toysteer/verdicts", "rows=40", "steps=1"]))
    held = [len(example.prompt) for example in job.held_out]
    assert len(held) == 8 and max(held) > 8 > min(held)  # BOS, task, up to four letters and "=": no more than 7


def test_a_run_on_toysteer_asks_toysteers_question():
    job = prepare(resolve("self-rewarding", ["reward=self:good/bad", "batch=2", "steps=1"]))
    assert job.rollouts.reward.question == toysteer.JUDGING and job.rollouts.reward.policy is job.trainer.policy


def test_a_shuffled_judge_deals_the_scores_of_each_prompt():
    from self_rewarding import Shuffled

    answers = [Answer("p", str(i), group=i // 4) for i in range(40)]
    dealt = Shuffled(lambda some: [float(a.response) for a in some], random.Random(0))(answers)
    assert dealt != sorted(dealt)
    assert all(sorted(dealt[i : i + 4]) == list(range(i, i + 4)) for i in range(0, 40, 4))


@pytest.mark.slow
def test_the_recipe_runs_and_resumes_to_the_same_bytes(tmp_path):
    output = tmp_path / "out"
    words = ["train", "self-rewarding", "--output", str(output), *FEW]

    def weights():
        return {name: next((output / name).glob("*model.safetensors")) for name in ("M1", "M2", "M3")}

    assert main(words) == 0
    first = {name: path.read_bytes() for name, path in weights().items()}
    when = weights()["M1"].stat().st_mtime_ns
    for name in ("M2", "M3"):
        shutil.rmtree(output / name)
    assert main(words) == 0
    assert {name: path.read_bytes() for name, path in weights().items()} == first
    assert weights()["M1"].stat().st_mtime_ns == when  # not trained again
    record = json.loads((output / "run.json").read_text())
    assert record["finished"] and record["result"] == f"{output}/M3"


def test_the_record_is_of_the_present_recipe_and_the_text_says_what_it_says():
    record = json.loads((ROOT / "figures/runs/self_rewarding.json").read_text("utf-8"))
    assert record["settings"] == [] and [run["seed"] for run in record["runs"]] == [0, 1, 2]
    assert {"torch", "transformers"} <= set(record["versions"])
    means = record["mean"]
    for name, keys in means.items():  # the means are those of the runs
        for key, value in keys.items():
            assert value["mean"] == pytest.approx(sum(run[name][key] for run in record["runs"]) / 3, abs=1e-4)
    text = " ".join((ROOT / "docs/online.md").read_text("utf-8").split())
    accuracy = f"{100 * means['M1']['accuracy']['mean']:.0f} % of held-out pairs"
    assert accuracy in text and f"M1 has an exact reward of {means['M1']['reward']['mean']:.2f}." in text
    rows = {"verdict": "the policy's verdicts", "shuffled": "(shuffled control)", "truth": "the true reward"}
    for judge, label in rows.items():
        m2, m3 = (means[f"{name}, {judge}"]["reward"]["mean"] for name in ("M2", "M3"))
        assert f"{label} | {m2:.2f} | {m3:.2f} |" in text
    worse = [run["M3, verdict"]["reward"] < run["M2, verdict"]["reward"] for run in record["runs"]]
    assert sum(worse) == 2 and "in two of three seeds M3 is worse than M2" in text
    assert all(run["M1"]["reward"] < run["M2, verdict"]["reward"] for run in record["runs"])
    assert all(run["M2, shuffled"]["reward"] < run["M2, verdict"]["reward"] for run in record["runs"])
