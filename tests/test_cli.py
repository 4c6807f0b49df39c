"""The command line: what it prints, and one clear line with exit code 2 for whatever cannot be."""

import gzip
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
RATINGS = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 2)
PAIR = {"prompt": "p", "chosen": " a", "rejected": " b"}
THUMB = {"prompt": "p", "completion": " a", "label": True}
SCORE = {"prompt": "p", "completion": " a", "score": 0.5}


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """refused(*words): the one line that a refused command says."""
    monkeypatch.chdir(tmp_path)

    def line(*words):
        before = {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("una-ref: ")
        assert {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()
        return said.err

    return line


def written(path, rows, opened=open):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    with opened(path, "wt") as file:
        file.write(text)
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


def test_an_unknown_method_has_a_near_one(refused):
    assert "did you mean 'kto'" in refused("methods", "kt0")
    assert "did you mean dpo?" in refused("train", "dpoo")


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


# ---- bad input


def bad(name, method, rows, *parts):
    return pytest.param(method, rows, parts, id=name)


@pytest.mark.parametrize(
    ("method", "rows", "parts"),
    [
        bad("missing column", "dpo", [{"prompt": "p", "chosen": " a"}], ":1: columns: expected", "which lacks"),
        bad(
            "missing in a later row", "dpo", [PAIR, {**PAIR, "rejected": None}], ":2: rejected: expected a value", "got"
        ),
        bad("no columns", "dpo", ["{}\n"], ":1: columns: expected"),
        bad("wrong type of text", "dpo", [PAIR, PAIR, {**PAIR, "chosen": 3}], ":3: chosen: expected text, got 3 (int)"),
        bad(
            "wrong type of score",
            "una-score",
            [{**SCORE, "score": "high"}],
            ":1: score: expected a finite number, got 'high'",
        ),
        bad(
            "wrong type of label",
            "kto",
            [{**THUMB, "label": "up"}],
            ":1: label: expected a boolean or a number in [0, 1]",
        ),
        bad(
            "wrong type of rating",
            "una-score",
            [{"prompt": "p", "response": "a", **RATINGS, "coherence": 2.5}],
            ":1: coherence",
        ),
        bad(
            "wrong type of prompt", "dpo", [{**PAIR, "prompt": 3}], ":1: prompt: expected text or messages, got 3 (int)"
        ),
        bad("not an object", "dpo", ["[1]\n"], ":1: row: expected an object with columns, got [1] (list)"),
        bad(
            "empty response",
            "dpo",
            [PAIR, {**PAIR, "rejected": " "}],
            ":2: rejected: expected text",
            "got an empty ' '",
        ),
        bad("empty prompt", "dpo", [{**PAIR, "prompt": ""}], ":1: prompt: expected text or messages, got an empty"),
        bad("label above 1", "kto", [THUMB, {**THUMB, "label": 1.5}], ":2: label: expected", "got 1.5 (float)"),
        bad("label below 0", "kto", [{**THUMB, "label": -1}], ":1: label: expected", "got -1 (int)"),
        bad(
            "label NaN", "kto", ['{"prompt": "p", "completion": "a", "label": NaN}\n'], ":1: label: expected", "got nan"
        ),
        bad(
            "score NaN",
            "una-score",
            ['{"prompt": "p", "completion": "a", "score": NaN}\n'],
            ":1: score: expected",
            "got nan",
        ),
        bad(
            "score inf",
            "una-score",
            [SCORE, '{"prompt":"p","completion":"a","score":Infinity}\n'],
            ":2: score",
            "got inf",
        ),
        bad(
            "rating out of range",
            "una-score",
            [{"prompt": "p", "response": "a", **RATINGS, "coherence": 5}],
            ":1: coherence: expected",
            "from 0 to 4, got 5",
        ),
        bad(
            "one response for pairs",
            "dpo",
            [SCORE],
            ":1: responses: expected two or more of one prompt",
            "got one response",
        ),
        bad("one thumb for pairs", "dpo", [THUMB], ":1: responses: expected two or more", "got one response"),
        bad(
            "two thumbs up for pairs",
            "dpo",
            [THUMB, THUMB],
            ":1",
            "labels: expected an up and a down",
            "got (1.0, 1.0)",
        ),
        bad("one score for its group", "una-centred", [SCORE], ":1: scores: expected two or more responses", "got one"),
        bad("pairs for scores", "una-score", [PAIR], ":1: feedback: expected scores, got a row of pairs"),
        bad("one prompt for kto", "kto", [THUMB, THUMB], "kto: expected at least two different prompts", "got one"),
        bad("broken JSON", "dpo", [PAIR, '{"prompt": "p", \n'], ":2: line: expected JSON, got broken JSON"),
        bad("not UTF-8", "dpo", [b"\xff\n"], ":1: line: expected UTF-8 text, got byte 0xff"),
        bad("empty file", "dpo", [], "file: expected at least one row, got an empty file"),
    ],
)
def test_bad_rows_are_named_by_file_row_field_expected_and_got(method, rows, parts, refused, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"".join(
            r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r) + "\n").encode() for r in rows
        )
    )
    line = refused("train", method, "--data", str(path), "--output", "out", *TINY)
    assert all(part in line for part in parts), line
    assert method in ("kto",) or str(path) in line


def test_a_truncated_gzip_is_named(refused, tmp_path):
    path = Path(written(tmp_path / "rows.jsonl.gz", [PAIR] * 1000, gzip.open))
    path.write_bytes(path.read_bytes()[:-20])
    line = refused("train", "dpo", "--data", str(path), "--output", "out", *TINY)
    assert f"{path}:" in line and "file: expected a whole, readable file, got" in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["dpo", "--data", "nowhere.jsonl"], "nowhere.jsonl: data: expected a file, a folder or a hub name"),
        (["dpo", "--data", "no/where"], "no/where: data: expected a data set that loads"),
        (["dpo", "--data", "toysteer/pair"], "data toysteer/pair: unknown; did you mean toysteer/pairs?"),
        (["dpo", "--model", "nowhere"], "model 'nowhere': expected a folder or hub name with config"),
        (["dpo", "betta=1"], "betta: unknown key; did you mean beta?"),
        (["dpo", "steps=x"], "steps: expected int, got 'x'"),
        (["una-scor"], "did you mean una-score?"),
        (["dpo", "lora_targets=nothing"], "lora_targets: expected modules of the model, got 'nothing'"),
        (["dpo", "shape.num_attention_heads=3"], "shape: expected sizes of a Mistral"),
    ],
)
def test_unknown_data_models_keys_and_methods_are_named(words, part, refused, tmp_path):
    path = written(tmp_path / "pairs.jsonl", [PAIR])
    data = [] if "--data" in words else ["--data", path]
    assert part in refused(
        "train", *words, *data, "--output", "out", *[s for s in TINY if s.split("=")[0] not in str(words)]
    )


def test_an_output_in_use_or_of_another_run_is_refused_and_left_alone(tmp_path, capsys, monkeypatch):
    from una_ref.training.checkpoints import claimed

    path, out = written(tmp_path / "pairs.jsonl", [PAIR]), tmp_path / "taken"
    words = ["train", "dpo", "--data", path, "--output", str(out), "steps=1", *TINY]
    with claimed(out, {}):
        assert main(words) == 2
        assert f"output {out}: expected to be alone there, got a live run" in capsys.readouterr().err
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"output {out}: " in said and "expected None as in the run that it holds, got" in said
    (out / "run.json").unlink()
    (out / "thesis.txt").write_text("mine")
    assert main(words) == 2
    assert f"output {out}: expected an empty folder or an earlier run's" in capsys.readouterr().err
    assert {p.name for p in out.iterdir()} == {"thesis.txt", ".lock"}
