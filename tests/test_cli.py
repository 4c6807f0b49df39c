"""The command line: what it prints, its exit codes, and one clear line for what it refuses."""

import json
import os
import re
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
        (["train"], ["--data", "--dry-run", "lr=null", "Peak learning rate", "save_every=100", "toysteer/base"]),
        (["train"], ["keys: optimizer", "keys: online", "una-ref train METHOD --help"]),
        (["train", "dpo"], ["--data", "lr=null", "keys: loss of dpo", "beta=0.1"]),
        (["train", "una-online/ppo"], ["keys: loss of ppo", "value_clip=0.2"]),
        (["compare"], ["--quick", "--workers"]),
        (["examine"], ["--kind", "--html", "--board", "module:function"]),
        (["evaluate"], ["--tasks", "--limit", "--against", "open-llm-v1", "--judge"]),
        (["generate"], ["--data", "--max-new", "--temperature"]),
    ],
)
def test_help_lists_options_and_keys(command, parts, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert all(part in said for part in parts)


def test_the_help_of_train_has_every_key_with_its_default_in_its_group(capsys):
    from una_ref.training.settings import key_groups

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    for heading, keys in key_groups().items():
        block = said.partition(f"\nkeys: {heading}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  (\w+=\S*)", block, flags=re.MULTILINE) == [f"{key.name}={key.default}" for key in keys]
        for key in keys:
            assert key.about in " ".join(block.split())


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["train", "dpo", "--help"], ["train", "dpo", "x=1"]]
)
def test_help_and_a_wrong_key_load_no_transformers(words):
    report = "import atexit, sys; atexit.register(lambda: print('transformers' in sys.modules, file=sys.stderr))"
    code = f"{report}; from una_ref.cli import main; main({words!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"una_ref {__version__}\n"


@pytest.mark.parametrize("words", [[], ["trian"], ["methods", "dpo", "beta=1"], ["train", "dpo", "--beta", "1"]])
def test_unknown_commands_and_options_are_refused(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "usage: una-ref" in capsys.readouterr().err


def test_an_unknown_option_of_train_says_how_keys_are_written(capsys):
    for option, fix in (("--beta", "write keys as key=value, such as lr=1e-4"), ("--learning_rate=1", "use lr")):
        with pytest.raises(SystemExit):
            main(["train", option, "1", "dpo"])
        said = capsys.readouterr().err
        assert f"una-ref train: error: unrecognized arguments: {option}" in said and said.endswith(f". Fix: {fix}\n")


def test_methods_are_a_table(capsys):
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith("  ")]
    assert sorted(row[0] for row in rows) == sorted(METHODS)
    groups = dict(part.split("\n", 1) for part in said.split("learns from ")[1:])
    assert "  kto  " in groups["binary labels of responses"] and "  rso  " not in groups["pairs of responses"]
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
        assert f"{argument}={default}: " in said  # with its meaning
    assert ("printed: " in said, "released: " in said) == (method.printed is not None, method.released is not None)
    assert main(["methods", name, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["arguments"]) >= set(method.kinds)
    lines = [line for line in said.splitlines() if not line.startswith(" ")]
    assert all(len(line.split("  ")) > 1 for line in lines), "a field without a value"


# ---- train


def test_method_and_settings_may_stand_anywhere_among_options(tmp_path, capsys):
    path, out = written(tmp_path / "pairs.jsonl", [PAIR] * 4), str(tmp_path / "out")
    for number, words in enumerate(
        (
            ["dpo", "steps=1", *TINY, "--data", path, "--output", out],
            ["dpo", "--data", path, "--output", out, *TINY, "steps=1"],
            ["--data", path, "dpo", *TINY, "--output", out, "steps=1"],
        )
    ):
        assert main(["train", *words]) == 0
        assert ("finished already" in capsys.readouterr().err) == (number > 0)


def test_a_word_with_an_equals_sign_after_an_option_is_its_value(tmp_path):
    folder = tmp_path / "year=2024"
    folder.mkdir()
    path = written(folder / "pairs.jsonl", [PAIR] * 4)
    assert main(["train", "dpo", "--output", str(folder / "steps=9"), "--data", path, "steps=1", *TINY]) == 0
    assert json.loads((folder / "steps=9" / "run.json").read_text())["steps"] == 1


def test_a_file_of_one_s_own_is_trained_with_settings_on_top(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written("pairs.jsonl", [PAIR] * 4)
    lines = ["method: dpo", "data: pairs.jsonl", "steps: 9", "beta: 0.5", "vocabulary: 300", "lora_r: 2"]
    lines.append("shape: {hidden_size: 16, num_hidden_layers: 1, intermediate_size: 16}")
    written("mine.yaml", ["\n".join(lines)])
    for words in (["--config", "mine.yaml", "steps=1"], ["steps=1", "--config", "mine.yaml"], ["mine.yaml", "steps=1"]):
        assert main(["train", *words]) == 0
    record = json.loads(Path("runs/mine/run.json").read_text())
    assert (record["config"]["steps"], record["config"]["loss_kwargs"]) == (1, {"beta": 0.5})
    assert main(["train", "ipo", "--config", "mine.yaml"]) == 2  # two methods
    written("mine.yaml", ["\n".join([*lines[1:], "output: here"])])
    assert main(["train", "ipo", "--config", "mine.yaml", "steps=1"]) == 0
    assert json.loads(Path("here/run.json").read_text())["config"]["method"] == "ipo"


def test_data_may_be_repeated_and_the_record_printed(tmp_path, capsys):
    pairs, scores = written(tmp_path / "pairs.jsonl", [PAIR]), written(tmp_path / "scores.jsonl", [SCORE, SCORE])
    words = ["train", "una-centred", "--data", pairs, "--data", scores, "--output", str(tmp_path / "out"), "--json"]
    assert main([*words, "--steps", "2", "--seed", "3", *TINY, "beta=0.2"]) == 0
    record = json.loads(capsys.readouterr().out)
    config = record["config"]
    assert (config["data"], config["steps"], config["seed"]) == (f"{pairs},{scores}", 2, 3)
    assert config["loss_kwargs"] == {"beta": 0.2} and record["finished"]


def test_the_default_output_is_named_after_the_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "dpo", "--data", written("pairs.jsonl", [PAIR]), "steps=1", *TINY]) == 0
    assert Path("runs/dpo/adapter_model.safetensors").exists()


def test_a_run_prints_notes_progress_and_result_and_nothing_else(tmp_path):
    path = written(tmp_path / "scores.jsonl", [SCORE, SCORE | {"score": 1.0}] * 3)
    words = ["train", "dpo", "--data", path, "--output", "out", "steps=1", "gradient_checkpointing=true", *TINY]
    command = [sys.executable, "-m", "una_ref", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0
    assert done.stdout == "finished after 1 steps: out\n"
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
    step = "dpo: step 1 of 1, loss 0.6931, 0:00:00 left"  # a line instead of a progress bar
    assert done.stderr.splitlines() == [*notes, step]
    assert notes[0] == "data (completion): columns used: prompt, completion, score; not used: none"
    assert notes[1] == "rows: 1 to train on, 0 held out for evaluation"
    assert notes[2] == "scores -> pairs (best-worst): 1 pairs, 0 ties dropped"


def test_only_known_warnings_of_libraries_are_silenced():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        main(["methods", "--json"])
        warnings.warn("The attribute is_gradient_checkpointing is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("something else", FutureWarning, stacklevel=1)
        warnings.warn("is_gradient_checkpointing", UserWarning, stacklevel=1)
    assert [str(w.message) for w in heard] == ["something else", "is_gradient_checkpointing"]


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the pipe breaks while printing, or at the last flush
def test_a_closed_pipe_ends_the_command_quietly(unbuffered):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "una_ref", "methods"]
    environment = _environment() | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}
