"""What can be evaluated: runs, adapters and models; its digest; and the folder of its results."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.evaluation.subject import results_folder, subject
from una_ref.policies.loading import byte_pair_tokenizer, load, small_mistral

TINY = ["shape.hidden_size=16", "shape.num_hidden_layers=1", "shape.intermediate_size=16", "vocabulary=300", "lora_r=2"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that made its own base and trained an adapter."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"prompt": f"say {n}", "completion": f" {n} and {n + 1}"} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--data", str(folder / "rows.jsonl"), "--output", str(folder / "run"), *TINY, "steps=2", "lr=0.05"]
    assert main(["train", "sft", *words]) == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, and no original: the adapter names its base by a path that is gone."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/gone/base"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).logits


def test_a_run_is_its_adapter_merged_into_its_base(trained):
    found = subject(str(trained))
    assert found.folder == trained / "evaluation"
    assert not found.model.training
    torch.testing.assert_close(logits(found.model), logits(load(str(trained))[0].eval()), rtol=0, atol=0)
    gap = (logits(found.model) - logits(load(str(trained / "base"))[0].eval())).abs().max()
    assert gap > 1e-3  # the adapter counts


def test_a_run_that_has_moved_uses_its_own_copy_of_the_base(trained, run):
    torch.testing.assert_close(logits(subject(str(run)).model), logits(subject(str(trained)).model), rtol=0, atol=0)


def test_an_adapter_without_its_base_is_refused(run):
    shutil.rmtree(run / "base")
    with pytest.raises(InputError, match="expected the base of its adapter at /gone/base, got nothing there"):
        subject(str(run))


def test_an_unfinished_run_is_refused_and_says_how_to_finish(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"finished": False}))
    with pytest.raises(InputError, match=r"expected a finished run, got one that was interrupted. Fix: repeat its"):
        subject(str(run))


def test_a_run_of_several_steps_is_its_last_step(run, tmp_path):
    shutil.copytree(run, tmp_path / "steps" / "dpo")
    record = {"finished": True, "config": {}, "last": {}, "result": "elsewhere/steps/dpo"}
    (tmp_path / "steps" / "run.json").write_text(json.dumps(record))
    found = subject(str(tmp_path / "steps"))
    assert found.folder == tmp_path / "steps" / "evaluation"
    assert found.digest == subject(str(run)).digest


def test_digest_is_of_adapter_and_base_and_not_of_the_name(run, tmp_path):
    before = subject(str(run)).digest
    assert subject(str(run)).digest == before
    shutil.copytree(run, tmp_path / "other")
    assert subject(str(tmp_path / "other")).digest == before
    for file in ("adapter_model.safetensors", "base/model.safetensors"):
        kept = (run / file).read_bytes()
        (run / file).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))  # the last bit of the last weight
        assert subject(str(run)).digest != before
        (run / file).write_bytes(kept)


def test_template_can_be_replaced_and_is_part_of_the_identity(trained):
    plain, other = subject(str(trained)), subject(str(trained), template=TEMPLATE, dtype="bfloat16")
    assert plain.template == "" and plain.identity["template"] == ""
    assert other.template == TEMPLATE == other.tokenizer.chat_template
    assert {key for key in plain.identity if plain.identity[key] != other.identity[key]} == {"template", "dtype"}
    assert other.model.dtype == torch.bfloat16


def test_a_model_folder_and_a_name_have_results_of_their_own(tmp_path):
    tokenizer = byte_pair_tokenizer(["a b c"], 260)
    small_mistral(tokenizer, hidden_size=16, num_hidden_layers=1, intermediate_size=16).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert subject(str(tmp_path / "m"), output=str(tmp_path / "out")).folder == tmp_path / "out"
    assert results_folder("smollm2") == Path("evaluations/smollm2")
    assert results_folder("org/model-7B") == Path("evaluations/org-model-7B")


def test_nothing_loadable_is_refused():
    with pytest.raises(InputError, match="expected a folder or hub name"):
        subject("./nowhere")
