"""``una-ref explain``: text and JSON."""

import json

import pytest

from una_ref.cli import main
from una_ref.training.config import Config


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"config": Config(method="dpo").recorded(), "finished": False}))
    lines = [{"step": 1, "loss": 0.6931, "grad_norm": 9.0}, {"step": 2, "loss": 0.6, "grad_norm": 9.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path)


def test_what_deserves_a_look_comes_first_with_its_evidence(run, capsys):
    assert main(["explain", run]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{run}: dpo, 2 steps; 2 rules apply, 1 deserve a look\n\nlook  clipped gradients: ")
    assert "Shown in notebooks/07_gradients.ipynb" in said
    assert said.index("look  clipped") < said.index("ok    loss at the start") < said.index("CS20, survey Sec. 3.3.7")


def test_json_has_a_record_for_each_rule(run, capsys):
    assert main(["explain", run, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    first, second = record["rules"]
    assert record["kl"] is None  # the run is not finished
    assert [first["verdict"], second["verdict"]] == ["look", "ok"]
    assert {*first} == {"name", "verdict", "seen", "reason", "evidence", "fix"}


def test_a_folder_without_a_run_gives_exit_code_2(tmp_path, capsys):
    assert main(["explain", str(tmp_path)]) == 2
    assert "expected a run's folder" in capsys.readouterr().err
