"""The online comparison: its axes, what is counted, and what its records hold."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from una_ref import cli
from una_ref.errors import InputError
from una_ref.studies.engine import carry_out, choose
from una_ref.studies.online_runs import HEADER, OnlineSettings, TrainingRun
from una_ref.studies.online_study import ONLINE, candidates, entry_row, point_at, row_name
from una_ref.studies.online_tables import MEASURES
from una_ref.studies.run_store import RunStore


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(tmp_path, tiny_online):
    results = carry_out(ONLINE, tmp_path, settings=tiny_online, workers=2)
    assert tuple(results) == ("methods", "offset", "proxy")
    for axis, result in results.items():
        assert (tmp_path / f"{axis}.svg").exists()
        assert result["command"] == f"una-ref compare --online --axis {axis} --output {tmp_path}"
    assert json.loads((tmp_path / "results.json").read_text()) == results
    table, file = (tmp_path / "table.md").read_text(), tmp_path / "runs.jsonl"
    # The study is killed while it writes its last line: that run is computed again, and no other.
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    # One axis alone; the results of the others stay.
    again = carry_out(ONLINE, tmp_path, axes=("proxy",), settings=tiny_online, workers=2)
    resumed = file.read_text().splitlines()
    assert resumed[:-1] == lines[:-1] and json.loads(resumed[-1])["key"] == json.loads(lines[-1])["key"]
    assert tuple(again) == tuple(results) and (tmp_path / "table.md").read_text() == table
    with pytest.raises(InputError, match="choose another output"):
        carry_out(ONLINE, tmp_path, settings=dataclasses.replace(tiny_online, steps=3))


def test_quick_is_less_of_the_same():
    full = OnlineSettings()
    quick = full.quick
    for name in (field.name for field in dataclasses.fields(full) if field.name not in HEADER):
        fewer, all_of_them = getattr(quick, name), getattr(full, name)
        assert fewer == all_of_them or set(fewer) <= set(all_of_them), name
    assert all(getattr(quick, name) <= getattr(full, name) for name in HEADER if name != "every")
    assert (quick.beta, quick.batch, quick.draws) == (full.beta, full.batch, full.draws)
    assert quick.steps in range(0, quick.steps + 1, quick.every)
    chosen = ONLINE.chosen()
    needed = {name for axis in ONLINE.axes.values() for name in axis.candidates(quick)}
    assert needed <= set(chosen) and {setting["lr"] for setting in chosen.values()} <= set(full.lrs)


def test_an_entry_is_tuned_at_an_offset_of_its_own(tiny_online):
    assert set(ONLINE.axes["offset"].candidates(tiny_online)) == {"una-online", "una-centred", "una-online/offset=+2"}
    assert set(ONLINE.axes["methods"].candidates(tiny_online)) == {"rloo", "una-online"}
    assert set(ONLINE.axes["proxy"].candidates(tiny_online)) == {"rloo"}
    [(setting, runs), _] = ONLINE.axes["offset"].candidates(tiny_online)["una-online/offset=+2"]
    assert setting == {"lr": 3e-3}
    assert [run.key for run in runs] == ["train/una-online/truth/offset=+2/lr=0.003/seed=100"]


def test_the_learning_rate_with_the_lowest_regret_is_chosen():
    settings = OnlineSettings(lrs=(1e-3, 1e-2, 1e-1))
    options = candidates(settings, [("rloo", 0.0)])
    regret = {1e-3: 0.3, 1e-2: 0.1, 1e-1: 0.9}
    finished = {run.key: {"regret": regret[run.lr]} for _, runs in options["rloo"] for run in runs}
    store = SimpleNamespace(finished=finished, results=lambda *_: [])
    assert choose(store, options) == {"rloo": {"lr": 1e-2, "tuning_regret": 0.1}}


def test_runs_worse_than_the_base_are_counted_by_the_proxy_and_by_the_truth():
    runs = [TrainingRun("rloo", "truth", 0.0, 1e-2, seed) for seed in range(3)]
    ended = [(0.1, 0.5, ""), (0.5, 0.5, ""), (0.1, 0.1, "step 3: a loss is nan")]
    measured = [
        dict.fromkeys(MEASURES, 0.0) | {"regret": regret, "true_regret": true, "failed": why}
        for regret, true, why in ended
    ]
    store = SimpleNamespace(finished={run.key: row for run, row in zip(runs, measured, strict=True)})
    row = entry_row(store, runs, [dict.fromkeys(MEASURES, 0.3)] * 3)
    assert (row["worse_than_base"]["count"], row["truly_worse_than_base"]["count"]) == (2, 3)
    assert row["regret_against_base"]["values"] == pytest.approx([-0.2, 0.2, -0.2])
    assert row["regret"]["median"] == 0.1 and row["title"] == "RLOO"


def test_a_curve_stays_level_after_its_run_failed():
    curve = [{"step": 0, "kl": 0.0}, {"step": 3, "kl": 1.0}]
    assert [point_at(curve, step)["kl"] for step in (0, 2, 3, 9)] == [0.0, 0.0, 1.0, 1.0]


def test_a_row_is_named_by_its_entry_and_offset():
    assert row_name("rloo") == "rloo" and row_name("rloo", -2.0) == "rloo/offset=-2"


# ---- records


def no_run(run):
    raise AssertionError(f"expected no run to be computed, got {run}")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["methods", "offset", "proxy"])
def test_the_committed_results_are_summed_up_from_the_committed_runs(name, records, tmp_path, toysteer_base):
    text = (records / "compare_online" / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text)
    header = json.loads(text.splitlines()[0])
    assert header["settings"] == {key: getattr(ONLINE.settings, key) for key in HEADER}
    committed = json.loads((records / "compare_online" / "results.json").read_text())[name]
    settings = dataclasses.replace(ONLINE.settings, seeds=tuple(committed["settings"]["seeds"]))
    axis = ONLINE.axes[name]
    with RunStore(tmp_path, header, no_run) as store:
        store.results(axis.groundwork(settings), "groundwork")
        chosen = choose(store, axis.candidates(settings))
        found = axis.results(store, settings, toysteer_base, chosen)
    assert chosen == committed["chosen"]
    found = json.loads(json.dumps(found))
    assert found == {key: committed[key] for key in found}
    assert (tmp_path / "runs.jsonl").read_text() == text


def test_the_shipped_settings_are_the_committed_study_s(records):
    results = json.loads((records / "compare_online" / "results.json").read_text())
    assert ONLINE.chosen() == {name: each for result in results.values() for name, each in result["chosen"].items()}
    assert ONLINE.table(results) == (records / "compare_online" / "table.md").read_text()
    for result in results.values():
        worlds = result["settings"].pop("seeds")
        own = json.loads(json.dumps(dataclasses.asdict(ONLINE.settings)))
        assert worlds == own.pop("seeds")[: len(worlds)] and result["settings"] == own


def test_another_base_is_looked_at_before_anything_runs(tmp_path, capsys):
    for axis in ([], ["--online"]):
        words = ["compare", *axis, "--base", str(tmp_path / "nowhere"), "--output", str(tmp_path / "study")]
        assert cli.main(words) == 2
        assert f"base {tmp_path}/nowhere: expected a folder with model.safetensors" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_axis_belongs_to_the_online_study(capsys):
    assert cli.main(["compare", "--axis", "offset"]) == 2
    assert "Fix: add --online" in capsys.readouterr().err
