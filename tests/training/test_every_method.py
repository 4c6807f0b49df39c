"""Every method of the registry, from data to trained weights: on ToySteer, on real files, resumed, and as a dry run."""

import gzip
import json
import math
import os
from collections import defaultdict
from itertools import islice
from pathlib import Path

import pytest
import torch

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import Config
from una_ref.training.dryrun import dry_run
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare
from una_ref.training.reading import read_rows
from una_ref.training.run import train
from una_ref.training.settings import resolve
from una_ref.training.trainer import Trainer

SMALL = [
    *("shape.hidden_size=32", "shape.intermediate_size=32", "shape.num_hidden_layers=1", "lora_r=4", "vocabulary=300"),
    *("shape.num_attention_heads=2", "shape.num_key_value_heads=1", "batch=8", "log_every=1", "rows=32"),
]
REAL = os.environ.get("UNA_REF_DATA")
real_data = pytest.mark.skipif(not REAL, reason="UNA_REF_DATA is not set: no real data to read")
every_method = pytest.mark.parametrize("method", METHODS)


def by_length(answers):
    """A reward for any prompt: shorter responses are better."""
    return [-float(len(answer.response)) for answer in answers]


def settings(method, *more):
    """Settings of a short run, which samples few responses if it is online."""
    own = Config(method=method)
    if own.on_policy:
        more = ("samples=4" if own.keep == "rejection" else "samples=2", "max_response=5", *more)
    return [*SMALL, *more]


@pytest.fixture(scope="module")
def toysteer_rows():
    """ToySteer's rated responses, read once."""
    return list(read_rows(Config(method="dpo", rows=64)))


@every_method
def test_every_method_trains_on_the_default_data(method, toysteer_rows):
    job = prepare(resolve(method, settings(method, "held_out=0.2"), steps=2), rows=toysteer_rows)
    start = {name: p.detach().clone() for name, p in job.trainer.trained.items()}
    evaluation = fit(job)
    assert any(not torch.equal(p, start[name]) for name, p in job.trainer.trained.items())
    assert all(torch.isfinite(p).all() for p in job.trainer.trained.values())
    assert evaluation and all(map(math.isfinite, evaluation.values()))


class Killed(Exception):
    """Stands for the end of a process in the middle of a run."""


CASES = [
    *((name, "") for name, method in METHODS.items() if method.source != "dataset" or method.trains == "scorer"),
    *((name, "") for name in ("sft", "dpo", "kto", "dro", "lipo", "tdpo", "tr-dpo", "una-centred")),
    *(("tr-dpo", "refresh_every=2"), ("dpo", "refresh_every=1 refresh_mix=0.5"), ("dpo", "refresh_every=1 lora_r=0")),
    *(("kto", "refresh_every=1"), ("beta-dpo", "refresh_every=2"), ("bco", "pairs"), ("cringe", "pairs")),
    *(("una-score", "baseline=ema"), ("una-centred", "baseline=mean"), ("una-centred", "baseline=learned")),
    *(("una-score", "baseline=network"), ("dro", "baseline=network critic=head"), ("una-score", "form=released")),
    *(("dpo", "losses=dpo:0.8,sft:0.2"), ("dpo", "losses=dpo:0.8,beta-dpo:0.2"), ("dpo", "reference=cache")),
    *(("token-dpo", "reference=cache"), ("tdpo", "reference=cache"), ("aot", "micro_tokens=10"), ("paft", "l1=0.001")),
    *(("grpo", "passes=2 samples=4"), ("grpo", "passes=2 minibatches=2 refresh_every=2"), ("sppo", "passes=2")),
    *(("grpo", "scale_rewards=batch"), ("una-online", "replay=2"), ("nash-md", "mixture=0.5"), ("rso", "samples=8")),
    *(("una-centred", "online=true sample_from=reference"), ("lipo", "online=true"), ("dro", "online=true")),
    *(("best-of-k", "samples=3"), ("ppo", "kl_target=0.1"), ("ppo", "ptx=0.1"), ("rloo", "baseline=mean")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "more"), CASES, ids=lambda case: str(case).replace(" ", "-"))
def test_runs_with_a_state_resume_to_the_same_bytes(method, more, tmp_path, monkeypatch, data):
    words = [word for word in more.split() if "=" in word]
    offline = not Config(method=method).on_policy and "online=true" not in words
    words += [] if offline else [f"reward={__name__}:by_length"]
    file = data("pairs" if "pairs" in more.split() else "scores", prompts=32)
    words = settings(method, f"data={file}", "rows=200", "save_every=1", *words)
    outputs = {}

    def go(name):
        outputs[name] = str(tmp_path / name)
        return train(resolve(method, words, steps=4, output=outputs[name]), progress=False)

    whole = go("whole")
    step = Trainer.step
    with monkeypatch.context() as patch:

        def killed(self, number, *given, **more):
            if number == 2:
                raise Killed
            return step(self, number, *given, **more)

        patch.setattr(Trainer, "step", killed)
        with pytest.raises(Killed):
            go("parts")
    parts = go("parts")
    assert whole["evaluation"] == parts["evaluation"]
    for name in ("metrics.jsonl", *(path.name for path in Path(outputs["whole"]).glob("*.safetensors"))):
        assert Path(outputs["whole"], name).read_bytes() == Path(outputs["parts"], name).read_bytes(), name


def test_toysteer_refuses_longer_responses_than_its_world_has():
    with pytest.raises(InputError, match="max_response: expected at most 5, the longest response of ToySteer, got 6"):
        prepare(resolve("rloo", ["max_response=6", "rows=8"]))


@every_method
def test_every_method_has_a_dry_run(method, data):
    words = settings(method, f"data={data('scores', prompts=24)}", "rows=200")
    words += [f"reward={__name__}:by_length"] if Config(method=method).on_policy else []
    report = dry_run(resolve(method, words, steps=2))
    assert "the first row through model and loss" in report and "nan" not in report.split("the first row")[1]


# ---- hyper-parameters


def out_of_range():
    """(method, name, value, whether it is refused), for the numbers that no method takes."""
    anything = {("alpha-po", "alpha"), ("cringe", "margin")}  # every finite number has a meaning
    for method, record in METHODS.items():
        for name, default in record.hyperparameters.items():
            if isinstance(default, str):
                yield method, name, "nonsense"
                continue
            yield method, name, math.nan
            if (method, name) not in anything:
                yield method, name, -1.0


@pytest.mark.parametrize(("method", "name", "value"), out_of_range())
def test_every_hyperparameter_out_of_range_is_refused_by_name(method, name, value):
    more = ["divergence=alpha"] if name == "alpha" and "divergence" in METHODS[method].hyperparameters else []
    with pytest.raises(InputError, match=rf"\b{name}\b.*(expected|must be).*, got") as refused:
        resolve(method, [*more, f"{name}={value}"])
    assert str(value) in str(refused.value)


@every_method
def test_every_default_and_a_larger_weight_are_taken(method):
    """DPOP's default weight is 50: one range for every hyper-parameter of a name would refuse it."""
    known = METHODS[method].hyperparameters
    given = {name: default for name, default in known.items() if name != "alpha" or "divergence" not in known}
    assert Config(method=method, loss_kwargs=given).loss_kwargs == given
    if "lam" in known and method != "ppo":
        resolve(method, ["lam=5"])


# ---- real files


def real_rows(name):
    with gzip.open(Path(REAL, "preferences", name), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ultrafeedback():
    """Pairs with their scores, the shortest 40 of them."""
    rows = real_rows("ultrafeedback/overall_train.jsonl.gz")
    rows.sort(key=lambda row: len(row["prompt"] + row["chosen"] + row["rejected"]))
    for row in islice(rows, 24):
        yield {name: row[name] for name in ("prompt", "chosen", "rejected")} | row["metadata"]


def oasst():
    """Ranked lists of people's rankings; the prompt is a conversation."""
    roles = {"prompter": "user", "assistant": "assistant"}
    rows = real_rows("oasst_ranked/en_100_trees.jsonl.gz")
    rows.sort(key=lambda row: len(json.dumps(row)))
    for row in islice(rows, 24):
        prompt = [{"role": roles[turn["role"]], "content": turn["text"]} for turn in row["conversation"]]
        texts, ranks = zip(*((reply["text"], reply["rank"]) for reply in row["replies"]), strict=True)
        yield {"prompt": prompt, "completions": texts, "scores": [-float(rank) for rank in ranks]}


def pandalm():
    """Ranked lists: the share of people's votes that an answer won."""
    votes = defaultdict(lambda: defaultdict(list))
    for row in real_rows("pandalm/human_testset_v1.jsonl.gz"):
        people = [row[f"annotator{i}"] for i in (1, 2, 3)]
        for place in (1, 2):
            won = [1.0 if vote == place else 0.5 if vote == 0 else 0.0 for vote in people]
            votes[f"{row['instruction']}\n{row['input']}"][row[f"response{place}"].strip()] += won
    for prompt, answers in islice(votes.items(), 24):
        answers = {text: won for text, won in answers.items() if text}
        if len(answers) > 1:
            yield {
                "prompt": prompt,
                "completions": list(answers),
                "scores": [sum(won) / len(won) for won in answers.values()],
            }


@pytest.fixture(scope="module")
def real_files(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("real"), {}
    for make in (ultrafeedback, oasst, pandalm):
        files[make.__name__] = str(folder / f"{make.__name__}.jsonl")
        Path(files[make.__name__]).write_text("".join(json.dumps(row) + "\n" for row in make()), encoding="utf-8")
    return files


@pytest.mark.slow
@real_data
@every_method
def test_every_method_trains_on_real_files(method, real_files, tmp_path):
    online = [f"reward={__name__}:by_length"] if Config(method=method).on_policy else []
    files = ["oasst", "pandalm"] if METHODS[method].kinds[0] == "lists" else ["ultrafeedback"]
    for name in [*files, *(["pandalm"] if METHODS[method].kinds[0] in ("scores", "labels") else [])]:
        words = settings(method, f"data={real_files[name]}", "max_length=512", *online)
        record = train(resolve(method, words, steps=2, output=str(tmp_path / name)), progress=False)
        assert record["steps"] == 2 and all(map(math.isfinite, record["evaluation"].values()))
