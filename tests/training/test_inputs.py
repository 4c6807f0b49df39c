"""A run's files: the same command with other content is refused, and a moved file with the same bytes is not."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.training import inputs
from una_ref.training.checkpoints import claimed
from una_ref.training.config import Config
from una_ref.training.inputs import digests


@pytest.fixture
def command(tmp_path, tiny):
    """command(data, *settings): exit code of the same run of two steps."""

    def run(data, *settings):
        output = ["--output", str(tmp_path / "out")]
        return main(["train", "dpo", "--data", str(data), *output, *tiny, "steps=2", *settings])

    return run


def test_files_of_a_pattern_have_digests_and_missing_files_have_none(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(name)
    found = digests(f"{tmp_path}/*.jsonl,-,{tmp_path}/gone.jsonl,{tmp_path}/gone*.jsonl,org/name")
    assert found == {str(tmp_path / f"{n}.jsonl"): hashlib.sha256(n.encode()).hexdigest() for n in "ab"}


def test_a_folder_has_the_digests_of_its_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.jsonl").write_text("b")
    (tmp_path / "a.jsonl").write_text("a")
    assert [*digests(str(tmp_path))] == [str(tmp_path / "a.jsonl"), str(tmp_path / "in" / "b.jsonl")]


def test_a_finished_run_with_other_data_of_the_same_name_is_refused(command, data, tmp_path, capsys):
    path = data("pairs")
    assert command(path) == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    data("pairs", seed=1)
    capsys.readouterr()
    assert command(path) == 2
    said = capsys.readouterr()
    assert f"{path}: expected the file that the run in it has read" in said.err and said.err.count("\n") == 1
    assert "accuracy" not in said.out and (tmp_path / "out" / "run.json").read_bytes() == before
    data("pairs")
    assert command(path) == 0 and "finished already" in capsys.readouterr().err


def test_a_finished_run_with_a_changed_template_file_is_refused(command, data, tmp_path, capsys):
    template = tmp_path / "chat.jinja"
    text = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    template.write_text(text)
    assert command(data("pairs"), f"template={template}") == 0
    template.write_text(text.replace(": ", "> "))
    assert command(data("pairs"), f"template={template}") == 2
    assert f"{template}: expected the file that the run in it has read" in capsys.readouterr().err


def test_a_moved_file_with_the_same_bytes_is_the_same_data(command, data, tmp_path, capsys):
    path = data("pairs")
    assert command(path) == 0
    os.rename(path, tmp_path / "moved.jsonl")
    assert command(tmp_path / "moved.jsonl") == 0
    assert "finished already" in capsys.readouterr().err
    assert command(f"{tmp_path / 'moved.jsonl'},org/rows") == 2  # a name that stands for no file is never the same


@pytest.mark.parametrize("setting", ["log_every=2", "save_every=1", "micro_tokens=64", "gradient_checkpointing=true"])
def test_logging_and_memory_do_not_block_a_finished_run(setting, command, data, capsys):
    path = data("pairs")
    assert command(path) == 0
    assert command(path, setting) == 0
    assert "finished already" in capsys.readouterr().err


def test_a_resumed_run_records_the_settings_that_it_has_now(tmp_path, data):
    """An unfinished record of a step of a recipe as well, whose keys begin with the step's name."""
    first, second = data("pairs"), str(tmp_path / "moved.jsonl")
    for prefix in ("", "dpo."):
        output = tmp_path / f"out{prefix}"
        with open(second, "wb") as file, open(first, "rb") as source:
            file.write(source.read())
        with claimed(output, {f"{prefix}data": first, f"{prefix}log_every": 10}):
            pass
        now = {f"{prefix}data": second, f"{prefix}log_every": 1}
        with claimed(output, now) as finished:
            assert not finished
        record = json.loads((output / "run.json").read_text())
        assert record["config"] == now and [*record["files"]] == [second]
        with open(second, "a") as file:
            file.write("{}")
        with pytest.raises(InputError, match="moved.jsonl: expected the file that the run"), claimed(output, now):
            pass


def test_free_keys_are_keys_of_a_run():
    from una_ref.training.inputs import FREE

    assert {*FREE} <= {*Config(method="dpo").to_dict()}


def test_a_run_of_an_earlier_version_is_finished_although_it_lacks_keys(command, data, tmp_path, capsys):
    path, record = data("pairs"), tmp_path / "out" / "run.json"
    assert command(path) == 0
    before = json.loads(record.read_text())
    for key in ("optimizer", "keep_best", "keep_every", "pairs"):
        del before["config"][key]
    record.write_text(json.dumps(before))
    assert command(path) == 0 and "finished already" in capsys.readouterr().err
    assert command(path, "pairs=all") == 2


def test_other_evaluation_data_and_more_steps_are_refused_for_a_finished_run(command, data, tmp_path, capsys):
    path, other = data("pairs"), tmp_path / "other.jsonl"
    other.write_bytes(Path(path).read_bytes())
    assert command(path, f"eval_data={other}") == 0
    assert command(path, f"eval_data={other}", "steps=4") == 2
    said = capsys.readouterr().err
    assert "steps: expected 2" in said and f"or go on from its result with --model {tmp_path / 'out'}" in said
    other.write_text(other.read_text().replace("now", "never"))
    assert command(path, f"eval_data={other}") == 2
    assert f"{other}: expected the file that the run in it has read" in capsys.readouterr().err


@pytest.fixture
def folder(command, data, tmp_path):
    """A model in a folder, with the adapter of a run on it."""
    assert command(data("pairs"), "lora_r=0", f"output={tmp_path / 'model'}") == 0
    adapted = [f"output={tmp_path / 'adapter'}", f"model={tmp_path / 'model'}", "shape={}"]
    assert command(data("pairs"), *adapted) == 0
    return tmp_path / "model"


def test_a_finished_run_whose_model_has_changed_is_refused(command, folder, data, tmp_path, capsys):
    path, adapter, record = data("pairs"), tmp_path / "adapter", tmp_path / "out" / "run.json"
    keys = {"model": "model", "adapter": "reference_model"}
    settings = [f"{key}={tmp_path / name}" for name, key in keys.items()]
    assert command(path, *settings, "shape={}") == 0
    digests = json.loads(record.read_text())["models"]
    named = {str(Path(file).relative_to(tmp_path)) for file in digests}
    assert {"model/model.safetensors", "model/config.json", "adapter/adapter_model.safetensors"} < named
    assert "adapter/README.md" not in named and len(named) == len(digests)
    (adapter / "notes.txt").write_text("no part of the model")
    before = record.read_bytes()
    for weights in (folder / "model.safetensors", adapter / "adapter_model.safetensors", folder / "tokenizer.json"):
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        capsys.readouterr()
        assert command(path, *settings, "shape={}") == 2
        said = capsys.readouterr().err
        assert f"{weights}: expected the file that the run in it has read" in said and said.count("\n") == 1
        weights.write_bytes(whole)
    assert command(path, *settings, "shape={}") == 0 and "finished already" in capsys.readouterr().err
    assert record.read_bytes() == before


def test_a_moved_model_with_the_same_bytes_is_the_same_model(command, folder, data, tmp_path, capsys):
    path = data("pairs")
    assert command(path, f"model={folder}", "shape={}") == 0
    folder.rename(tmp_path / "elsewhere")
    assert command(path, f"model={tmp_path / 'elsewhere'}", "shape={}") == 0
    assert "finished already" in capsys.readouterr().err
    assert command(path, "model=org/base", "shape={}") == 2


def test_a_large_file_has_the_digest_of_its_size_and_of_blocks_of_it(tmp_path, monkeypatch):
    file, whole = tmp_path / "model.safetensors", bytes(range(256)) * 4
    file.write_bytes(whole)
    assert inputs.digest(file) == hashlib.sha256(whole).hexdigest()
    for name, value in {"WHOLE": 100, "BLOCKS": 5, "BLOCK": 16}.items():
        monkeypatch.setattr(inputs, name, value)
    seen, first = [], inputs.digest(file)
    assert first.startswith("blocks-")
    for place in range(0, 1024, 4):
        file.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
        seen += [place] if inputs.digest(file) != first else []
    assert seen == [start + more for start in (0, 252, 504, 756, 1008) for more in (0, 4, 8, 12)]
    file.write_bytes(whole + b"x")
    assert inputs.digest(file) != first


def test_settings_without_data_name_no_file(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("not data")
    monkeypatch.chdir(tmp_path)
    assert inputs.of_settings({"lr": 1.0}) == inputs.digests("", "") == {}
