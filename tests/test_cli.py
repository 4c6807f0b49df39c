"""The command line: what it prints, and one clear line with exit code 2 for whatever cannot be."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from una_ref import __version__
from una_ref.cli import main
from una_ref.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
TINY = ["shape.hidden_size=16", "shape.num_hidden_layers=1", "shape.intermediate_size=16", "vocabulary=300", "lora_r=2"]
PAIR = {"prompt": "p", "chosen": " a", "rejected": " b"}
SCORE = {"prompt": "p", "completion": " a", "score": 0.5}


def written(path, rows):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    Path(path).write_text(text)
    return str(path)


# ---- help and tables


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ([], ["methods", "train", "compare"]),
        (["methods"], ["--json"]),
        (["train"], ["--data", "--dry-run", "lr=0.001", "peak learning rate", "save_every=100", "toysteer/base"]),
        (["compare"], ["--quick", "--workers"]),
    ],
)
def test_help(command, parts, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert all(part in said for part in parts)


def test_every_key_of_a_run_is_explained(capsys):
    from dataclasses import fields

    from una_ref.training.config import GROUPS, Config

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    groups = [line[:-1] for line in lines if line.endswith(":") and line[0] != " "]
    assert set(GROUPS.values()) <= set(groups)
    for f in fields(Config):
        if f.name not in ("method", "hyper"):
            line = next(line for line in lines if line.startswith(f"  {f.name}="))
            assert len(line.split(maxsplit=1)) == 2


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"una_ref {__version__}\n"


@pytest.mark.parametrize("words", [[], ["trian"], ["methods", "dpo", "beta=1"], ["train", "dpo", "--beta", "1"]])
def test_words_that_are_no_command_are_refused(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "usage: una-ref" in capsys.readouterr().err


def test_methods_are_a_table(capsys):
    assert main(["methods"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "name"
    assert [row.split()[0] for row in rows] == list(METHODS)
    assert main(["methods", "--json"]) == 0
    assert [row["name"].split(" = ")[0] for row in json.loads(capsys.readouterr().out)] == list(METHODS)


@pytest.mark.parametrize("name", [*METHODS, "dpo"])
def test_one_method_has_arguments_defaults_equation_erratum_notebook_and_reductions(name, capsys):
    assert main(["methods", name]) == 0
    said = capsys.readouterr().out
    method = METHODS[name]
    for part in (method.equation, method.reductions, *method.errata, method.notebook or ""):
        assert part in said
    for argument, default in method.hyperparameters.items():
        assert f"{argument}={default}: " in said  # what it means is said too
    assert ("printed: " in said, "released: " in said) == (method.printed is not None, method.released is not None)
    assert main(["methods", name, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["arguments"]) >= set(method.kinds)


# ---- train


def test_settings_may_stand_anywhere(tmp_path, capsys):
    path, out = written(tmp_path / "pairs.jsonl", [PAIR] * 4), str(tmp_path / "out")
    for words in (
        ["steps=1", *TINY, "--data", path, "--output", out],
        ["--data", path, "--output", out, *TINY, "steps=1"],
    ):
        assert main(["train", "dpo", *words]) == 0
    assert "finished already" in capsys.readouterr().err


def test_data_may_be_repeated_and_the_record_printed(tmp_path, capsys):
    pairs, scores = written(tmp_path / "pairs.jsonl", [PAIR]), written(tmp_path / "scores.jsonl", [SCORE, SCORE])
    words = ["train", "una-centred", "--data", pairs, "--data", scores, "--output", str(tmp_path / "out"), "--json"]
    assert main([*words, "--steps", "2", "--seed", "3", *TINY, "beta=0.2"]) == 0
    record = json.loads(capsys.readouterr().out)
    config = record["config"]
    assert (config["data"], config["steps"], config["seed"]) == (f"{pairs},{scores}", 2, 3)
    assert config["hyper"] == {"beta": 0.2} and record["finished"]


def test_the_default_output_is_named_after_the_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "dpo", "--data", written("pairs.jsonl", [PAIR]), "steps=1", *TINY]) == 0
    assert Path("runs/dpo/adapter_model.safetensors").exists()


def test_libraries_keep_quiet_and_a_process_says_only_what_it_did(tmp_path):
    path = written(tmp_path / "scores.jsonl", [SCORE, SCORE | {"score": 1.0}] * 3)
    words = ["train", "dpo", "--data", path, "--output", "out", "steps=1", "gradient_checkpointing=true", *TINY]
    command = [sys.executable, "-m", "una_ref", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0
    assert done.stdout == "finished after 1 steps: out\n"
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
    assert done.stderr.splitlines() == [*notes, "dpo: step 1 of 1, loss 0.6931"]  # no terminal: lines, and no bar
    assert notes[0] == "scores -> pairs (best-worst): 1 pairs, 0 ties dropped"


def test_only_what_libraries_say_of_themselves_is_silenced():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        main(["methods", "--json"])
        warnings.warn("The attribute is_gradient_checkpointing is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("something else", FutureWarning, stacklevel=1)
        warnings.warn("is_gradient_checkpointing", UserWarning, stacklevel=1)
    assert [str(w.message) for w in heard] == ["something else", "is_gradient_checkpointing"]


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the pipe breaks while printing, or at the last flush
def test_whoever_reads_may_stop_reading(unbuffered):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "una_ref", "methods"]
    environment = _environment() | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}
