"""From a file to a finished folder: every kind of data and of start model, the result, and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies.loading import load
from una_ref.training.prepare import prepare
from una_ref.training.run import train
from una_ref.training.settings import resolve
from una_ref.training.toysteer_base import toysteer_base

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, tiny):
    """run(method, data, *settings): the folder of a run of two steps through the command line."""

    def command(method, path, *settings, output="out", code=0):
        folder = tmp_path / output
        data = ["--data", path] if path else []
        assert main(["train", method, *data, "--output", str(folder), *tiny, "steps=2", *settings]) == code
        return folder

    return command


def record(folder):
    return json.loads((folder / "run.json").read_text())


# ---- data


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "una-score", "una-centred", "dro"])
@pytest.mark.parametrize("kind", ["pairs", "labels", "scores", "helpsteer2", "messages"])
def test_every_method_trains_on_every_file_that_can_be_converted(kind, method, run, data, capsys):
    native = {"helpsteer2": "scores", "messages": "demos"}.get(kind, kind)
    own = METHODS[method].kinds
    conversions = {
        *(("pairs", "labels"), ("pairs", "demos"), ("labels", "pairs"), ("labels", "demos")),
        *(("scores", "pairs"), ("scores", "labels"), ("scores", "demos")),
    }
    possible = native in own or any((native, kind) in conversions for kind in own)
    folder = run(method, data(kind), code=0 if possible else 2)
    said = capsys.readouterr().err
    if not possible:
        assert f"{kind}.jsonl:1" in said and "feedback: expected" in said and f" for {method}, got" in said
        assert not folder.exists()
        return
    converted = [note for note in record(folder)["notes"] if " -> " in note]
    assert bool(converted) == (native not in own)
    assert all(note in said for note in converted)
    assert (folder / "adapter_model.safetensors").exists()


def test_a_divergence_is_trained_with_and_saved(run, data):
    folder = run("f-dpo", data("pairs"), "divergence=js")
    assert record(folder)["config"]["loss_kwargs"] == {"divergence": "js"}
    assert "divergence = js" in (folder / "README.md").read_text()


def test_an_unknown_divergence_is_refused_before_anything_begins(run, data, capsys):
    folder = run("f-dpo", data("pairs"), "divergence=jens", code=2)
    assert "divergence: expected one of reverse_kl, " in capsys.readouterr().err
    assert not folder.exists()


def test_the_defaults_suit_a_small_file(data, tmp_path, capsys):
    words = ["--data", data("pairs", 30), "--output", str(tmp_path / "out"), "steps=5", "batch=4"]
    assert main(["train", "dpo", *words]) == 0
    said = capsys.readouterr()
    assert "rows: 30" in said.err and "rewards/accuracies" in said.out
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 5 and lines[-1]["eval_loss"] != lines[0]["eval_loss"]


def test_files_of_different_kinds_mix(run, data):
    files = ",".join(data(kind) for kind in ("pairs", "labels", "scores", "helpsteer2"))
    folder = run("una-centred", files, "batch=40")
    assert not [note for note in record(folder)["notes"] if " -> " in note]
    notes = record(run("dpo", files, "batch=40", output="dpo"))["notes"]
    assert [note for note in notes if note.startswith("scores -> pairs (best-worst): 24 pairs")]
    assert [note for note in notes if note.startswith("labels -> pairs")]


def test_files_of_a_pattern_may_have_different_columns(run, data, tmp_path):
    for kind in ("pairs", "labels", "scores"):
        data(kind)
    notes = record(run("una-centred", f"{tmp_path}/*.jsonl", "batch=40"))["notes"]
    assert "rows: 36" in notes, "pairs, and labels and scores gathered by prompt"
    run("una-centred", f"{tmp_path}/*.parquet", output="none", code=2)


def test_rows_are_read_from_standard_input(data, tiny, tmp_path):
    words = [sys.executable, "-m", "una_ref", "train", "dpo", "--data", "-", "--output", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def piped(text):
        options = {"capture_output": True, "text": True, "check": False, "env": environment}
        return subprocess.run([*words, *tiny, "steps=2", "save_every=1"], input=text, **options)

    done = piped(Path(data("pairs")).read_text())
    assert done.returncode == 0, done.stderr
    assert "rows: 12" in record(tmp_path / "out")["notes"]
    bad = '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "chosen": 3, "rejected": "b"}\n'
    words[-1] = str(tmp_path / "new")
    done = piped(bad)
    assert done.returncode == 2 and "stdin:2 chosen: expected text, got 3 (int)" in done.stderr
    assert not (tmp_path / "new").exists()


def test_no_data_is_toysteer(run):
    shapes = ["shape={}"]
    folder = run("dpo", None, "rows=40", *shapes)
    assert record(folder)["config"]["data"] == "toysteer"
    assert "ToySteer's base policy" in (folder / "README.md").read_text()
    own, shipped = (load_file(path / "model.safetensors") for path in (folder / "base", toysteer_base()))
    assert own.keys() == shipped.keys() and all(torch.equal(own[name], shipped[name].float()) for name in own)
    for kind in ("pairs", "labels", "scores", "demonstrations"):
        run("sft", None, f"data=toysteer/{kind}", "rows=40", *shapes, output=kind)


def test_all_rows_too_long_are_refused(run, data, capsys):
    folder = run("sft", data("messages"), "max_length=3", code=2)
    assert "expected at least one row that fits max_length=3" in capsys.readouterr().err
    assert not folder.exists()


# ---- the model


def test_the_saved_base_is_the_model_that_was_made(run, data, tiny):
    settings = ["dtype=bfloat16", "steps=1", "lora_targets=q_proj"]
    made = prepare(resolve("dpo", [*tiny, *settings], data=data("pairs"))).trainer.policy.model.get_base_model()
    loaded, _ = load(str(run("dpo", data("pairs"), *settings) / "base"), "bfloat16")
    own, other = (dict(model.named_buffers()) | model.state_dict() for model in (made, loaded))
    for name, value in other.items():
        one = own[name.replace("q_proj.", "q_proj.base_layer.")]
        assert one.dtype == value.dtype and torch.equal(one, value), name


def test_a_fresh_run_begins_with_rewards_of_zero(run, data):
    folder = run("dpo", data("pairs"), "held_out=0.3")
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval_rewards/chosen"] == first["eval_rewards/rejected"] == 0
    assert any("implicit rewards at step 0" in note for note in record(folder)["notes"])


# ---- the reference


def counted(monkeypatch):
    """How often a reference has been computed since."""
    from una_ref.policies.references import Policy

    calls, true = [], Policy.reference
    monkeypatch.setattr(Policy, "reference", lambda self, batch: calls.append(1) or true(self, batch))
    return calls


@pytest.mark.parametrize(("method", "kind"), [("dpo", "pairs"), ("kto", "labels")])
@pytest.mark.parametrize("rank", [4, 0])
def test_a_second_run_on_the_same_model_and_data_computes_no_reference(
    method, kind, rank, run, data, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))
    calls = counted(monkeypatch)
    settings = ["reference=cache", "held_out=0.3", f"lora_r={rank}", "steps=3"]
    first = run(method, data(kind), *settings, output="first")
    computed = len(calls)
    second = run(method, data(kind), *settings, output="second")
    assert computed > 0 == len(calls) - computed
    weights = "adapter_model.safetensors" if rank else "model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    assert (first / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()
    said = [next(n for n in record(f)["notes"] if n.startswith("reference log-probs")) for f in (first, second)]
    assert " 0 computed" not in said[0] and " 0 computed" in said[1]
    run(method, data(kind), *settings, "seed=1", output="third")  # another small Mistral has another file in the cache
    assert len(calls) > computed and len(list((tmp_path / "cache" / "references").iterdir())) == 2


def test_another_rank_or_rate_finds_the_same_reference(run, data, tmp_path, monkeypatch):
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))
    calls = counted(monkeypatch)
    run("dpo", data("pairs"), "reference=cache", output="first")
    before = len(calls)
    run("dpo", data("pairs"), "reference=cache", "lora_r=2", "lr=0.1", "beta=0.5", "layout=padded", output="second")
    assert len(calls) == before


def test_a_second_model_may_be_the_reference(run, data):
    from transformers import AutoModelForCausalLM

    sft = run("sft", data("messages"), "steps=5", "lr=0.05", "lora_r=0", output="sft")
    folder = run("dpo", data("pairs"), f"model={sft}", f"reference_model={sft}", "held_out=0.3", "shape={}")
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval_rewards/chosen"] == first["eval_rewards/rejected"] == 0
    other = run("sft", data("messages"), "steps=9", "lr=0.05", "lora_r=0", f"model={sft}", "shape={}", output="other")
    for name in ("step", "cache"):
        folder = run(
            *("dpo", data("pairs"), f"model={sft}", f"reference_model={other}", "held_out=0.3", "shape={}"),
            *(f"reference={name}",),
            output=name,
        )
        first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        assert abs(first["eval_rewards/chosen"]) > 1e-3
        assert any(note.startswith(f"the reference is {other}: ") for note in record(folder)["notes"])
    job = prepare(resolve("dpo", [f"reference_model={other}"], data=data("pairs"), model=str(sft)))
    expected = AutoModelForCausalLM.from_pretrained(other).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in job.trainer.policy.copy[0].state_dict().items())


def test_a_second_model_of_another_vocabulary_is_refused(run, data, capsys):
    sft = run("sft", data("messages"), output="sft", code=0)
    other = run("sft", data("messages", 13), "lora_r=0", "vocabulary=280", output="other")
    said = capsys.readouterr()
    folder = run("dpo", data("pairs"), f"model={sft}", f"reference_model={other}", "shape={}", code=2)
    said = capsys.readouterr().err
    assert "reference_model" in said and "expected the policy's vocabulary, where" in said
    assert not folder.exists()


def test_a_method_without_a_reference_takes_no_second_model(run, data, capsys):
    run("sft", data("messages"), "reference_model=x", code=2)
    assert "reference_model: expected none, since sft has no reference" in capsys.readouterr().err


# ---- several processes


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(run, data, tiny, tmp_path, monkeypatch):
    one = run("kto", data("labels"), "steps=6", "held_out=0.3")
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "una_ref"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def two(*settings):
        words = ["train", "kto", "--data", data("labels"), "--output", str(tmp_path / "two"), *tiny, *settings]
        return subprocess.run([*launch, *words], env=environment, capture_output=True, text=True, check=False)

    done = two("steps=6", "held_out=0.3", "reference=cache")  # one file, and each process fills a part of it
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache" / "references").glob("*.sqlite3"))) == 1
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (one, tmp_path / "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-5)
    metrics = [(f / "metrics.jsonl").read_text().splitlines() for f in (one, tmp_path / "two")]
    for alone, both in zip(*metrics, strict=True):
        assert json.loads(both) == pytest.approx(json.loads(alone), rel=1e-3, abs=1e-5)
    assert "finished already" in two("steps=6", "held_out=0.3", "reference=cache").stderr
    assert "batch: expected at least one row for each of 2 processes" in two("steps=6", "batch=1", "output=new").stderr


# ---- the result


def test_stock_libraries_load_the_result_and_give_the_policys_log_probs(run, data, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from una_ref.training import result

    jobs, save = [], result.save
    monkeypatch.setattr(result, "save", lambda job, *rest: jobs.append(job) or save(job, *rest))
    folder = run("dpo", data("pairs"), "steps=5", "lr=0.05")
    (job,) = jobs
    row = json.loads(Path(data("pairs")).read_text().splitlines()[0])
    with torch.no_grad():
        batch = job.trainer.batch(job.examples)
        first = next(i for i, e in enumerate(job.examples) if e.source.endswith("pairs.jsonl:1"))
        at = sum(len(e.responses) for e in job.examples[:first])
        logp, ref_logp = (
            float(scores[at]) for scores in (job.trainer.policy(batch), job.trainer.policy.reference(batch))
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(tokenizer.bos_token + row["prompt"])["input_ids"]
    ids = torch.tensor([prompt + tokenizer(row["chosen"] + tokenizer.eos_token)["input_ids"]])

    def score(model):
        with torch.no_grad():
            logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        return float(logps[len(prompt) - 1 :].sum())

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder).eval()
    assert score(model) == pytest.approx(logp, abs=1e-4)
    with model.disable_adapter():
        assert score(model) == pytest.approx(ref_logp, abs=1e-4)
    assert abs(logp - ref_logp) > 1e-2
    assert score(AutoModelForCausalLM.from_pretrained(folder)) == pytest.approx(logp, abs=1e-4)  # it finds its base


def test_a_run_starts_from_an_earlier_output_with_rewards_of_zero(run, data):
    from transformers import AutoModelForCausalLM

    first = run("sft", data("messages"), "steps=5", "lr=0.05", output="sft")
    second = run("dpo", data("pairs"), f"model={first}", "held_out=0.3", "shape={}", output="dpo")
    start = json.loads((second / "metrics.jsonl").read_text().splitlines()[0])
    assert start["eval_rewards/chosen"] == start["eval_rewards/rejected"] == 0
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        sft = AutoModelForCausalLM.from_pretrained(first)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(second / "base")(ids).logits
    torch.testing.assert_close(base, sft, rtol=1e-5, atol=1e-5)  # the second adapter's base is the first run's policy
    assert f"`{first}`" in (second / "README.md").read_text()


def test_full_fine_tuning_saves_the_whole_model(run, data):
    from transformers import AutoModelForCausalLM

    folder = run("sft", data("messages"), "lora_r=0", "lr=0.01")
    assert not (folder / "adapter_model.safetensors").exists() and not (folder / "base").exists()
    job = prepare(resolve("dpo", ["lora_r=0"], data=data("pairs"), model=str(folder)))
    saved, own = AutoModelForCausalLM.from_pretrained(folder), job.trainer.policy.model
    assert all(torch.equal(own.state_dict()[name], weights) for name, weights in saved.state_dict().items())
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        torch.testing.assert_close(own(ids).logits, saved(ids).logits, rtol=1e-5, atol=1e-6)


def test_a_finished_run_says_so_and_is_not_trained_again(run, data, capsys, monkeypatch):
    folder = run("dpo", data("pairs"), "held_out=0.3")
    adapter = folder / "adapter_model.safetensors"
    before, said = adapter.stat(), capsys.readouterr().out
    monkeypatch.setattr("una_ref.training.run.prepare", lambda config: pytest.fail("prepared again"))
    run("dpo", data("pairs"), "held_out=0.3")
    again = capsys.readouterr()
    assert "finished already; nothing was trained" in again.err and again.out == said
    assert adapter.stat() == before


def test_a_finished_run_by_epochs_is_not_trained_again(run, data, capsys):
    run("dpo", data("pairs"), "epochs=1")
    run("dpo", data("pairs"), "epochs=1")
    assert "finished already" in capsys.readouterr().err


def test_another_config_is_refused(run, data, capsys):
    folder = run("dpo", data("pairs"))
    before = record(folder)
    run("dpo", data("pairs"), "lr=0.5", code=2)
    assert "lr: expected 0.001 as in the run that it holds, got 0.5" in capsys.readouterr().err
    assert record(folder) == before


def test_an_output_is_needed(data):
    with pytest.raises(InputError, match="output: expected a folder"):
        train(resolve("dpo", data=data("pairs")))


def test_a_template_replaces_the_tokenizers_and_is_saved_with_it(run, data):
    from transformers import AutoTokenizer

    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    folder = run("dpo", data("pairs"), f"template={template}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == template == record(folder)["template"]
    job = prepare(resolve("dpo", ["lora_r=0"], data=data("pairs"), model=str(folder)))
    assert tokenizer.decode(job.examples[0].prompt).startswith("<user>")


def test_a_run_that_was_moved_is_the_model_of_the_next_one(run, data, tmp_path):
    """Its base lies in its folder. Where it lay before there may be another run by now."""
    first = run("dpo", data("pairs"), output="first")
    expected = load(str(first))[0].state_dict()
    first.rename(tmp_path / "moved")
    for replaced in (False, True):
        if replaced:
            run("dpo", data("pairs"), "seed=5", output="first")
        own = load(str(tmp_path / "moved"))[0].state_dict()
        assert all(torch.equal(own[name], value) for name, value in expected.items())
        next_one = run("dpo", data("pairs"), f"model={tmp_path / 'moved'}", output=f"next-{replaced}")
        base = load(str(next_one / "base"))[0].state_dict()
        assert all(torch.equal(base[name], value) for name, value in expected.items())
    merged = tmp_path / "merged"
    assert main(["merge", str(tmp_path / "moved"), "--output", str(merged)]) == 0
    own = load(str(merged))[0].state_dict()
    assert all(torch.allclose(own[name], value, atol=1e-6) for name, value in expected.items())
