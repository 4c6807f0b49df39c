"""The offline study on a real language model at tiny size: every run from start to end, resumed, reported and lost."""

import dataclasses
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import pytest

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies import loading
from una_ref.studies import real_offline
from una_ref.studies.engine import carry_out, choose
from una_ref.studies.real_data import Size
from una_ref.studies.real_offline import REAL_OFFLINE, candidates, figure, log_loss
from una_ref.studies.real_runs import Training, entry_of
from una_ref.studies.real_settings import ENTRIES, HEADER, TUNED, RealSettings
from una_ref.studies.real_work import measure, start_policy, weights_name, work_folder
from una_ref.studies.run_store import RunStore

TINY = RealSettings(
    sizes={
        "scores": Size(8, 4),
        "pairs": Size(8, 4),
        "tuning": Size(4, 4),
        "reward": Size(8, 4),
        "llmbar": Size(0, 4),
        "hhh": Size(0, 4),
    },
    batch=4,
    tuning_batch=2,
    lora_r=2,
    prompts=3,
    new_tokens=4,
    seeds=(0,),
    lrs=(1e-2, 1e-1),
    tasks={"arc": 5},
    task_seeds=(0,),
)
needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed: una_ref[eval]")


@pytest.fixture
def tiny(real_folders, tmp_path, monkeypatch, threads):
    """The study at tiny size: `tiny(**options)` carries it out in tmp_path/study."""
    data, base = real_folders
    monkeypatch.setenv("UNA_REF_DATA", str(data))
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))

    def run(study=REAL_OFFLINE, settings=TINY, **options):
        return carry_out(study, tmp_path / "study", settings=settings, base=base, workers=1, **options)

    return run


@pytest.fixture
def few(monkeypatch):
    """The study with three entries in the first axis and one in the second."""
    first, second = ENTRIES["scores"], ENTRIES["pairs"]
    chosen = [entry for entry in first if entry.name in ("dpo", "una-score", "una-score.shuffled")]
    monkeypatch.setitem(ENTRIES, "scores", chosen)
    monkeypatch.setitem(ENTRIES, "pairs", [entry for entry in second if entry.name == "dpo.shuffled"])
    monkeypatch.setattr(real_offline, "TUNED", [entry for entry in TUNED if entry.name in ("dpo", "una-score")])


def counting(stop_after=10**6):
    """The study with a measure that counts, and stops after so many runs; and the keys of the runs."""
    keys = []

    def counted(run, settings, base):
        if len(keys) == stop_after:
            raise RuntimeError("the power went off")
        keys.append(run.key)
        return measure(run, settings, base)

    return replace(REAL_OFFLINE, measure=counted), keys


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "study" / "runs.jsonl").read_text().splitlines()[1:]]


# ---- the declaration


def test_entries_are_the_papers_with_a_control_and_a_rate_for_each():
    for entries in ENTRIES.values():
        names = [entry.name for entry in entries]
        assert len({*names}) == len(names) and {"sft", "dpo", "kto", "ipo", "una-binary-mse", "simpo"} <= {*names}
        (control,) = (entry for entry in entries if entry.config.get("shuffle", False))
        assert control.name == f"{control.tuned_as}.shuffled"
        for entry in entries:
            assert (entry.tuned_as or entry.name) in {tuned.name for tuned in TUNED}
    assert {"una-score", "una-score.released", "una-centred"} <= {entry.name for entry in ENTRIES["scores"]}
    assert not any(METHODS[entry.method].kinds[0] == "scores" for entry in ENTRIES["pairs"])


def test_the_grid_is_on_tuning_rows_and_one_seed():
    grid = candidates(RealSettings())
    assert set(grid) == {"dpo", "una-score", "kto", "sft"}
    runs = [run for options in grid.values() for _, runs in options for run in runs]
    assert {(run.part, run.seed) for run in runs} == {("tuning", 0)} and len({run.key for run in runs}) == 12


def test_the_header_names_what_a_run_depends_on_and_no_list_of_runs():
    fields = {*RealSettings.__dataclass_fields__}
    assert fields - {*HEADER} == {"seeds", "lrs", "tasks", "task_seeds", "task_tokens"}
    quick = RealSettings().quick
    assert quick.task_seeds == quick.seeds == (0,)  # tasks need a policy that the study trains


# ---- from start to end


def test_a_study_in_two_halves_computes_every_run_once(tiny, few, tmp_path):
    stopped, first = counting(stop_after=6)
    with pytest.raises(RuntimeError, match="power"):
        tiny(stopped, axes=["scores", "pairs"])
    half = tiny(axes=["scores"], report=True)["scores"]
    assert [row["finished"] for row in half["rows"]] == [1, 1, 0, 0] and half["judge"] is None
    assert "not run" in (tmp_path / "study" / "table.md").read_text() and len(lines(tmp_path)) == 6
    study, second = counting()
    results = tiny(study, axes=["scores", "pairs"])
    assert not {*first} & {*second} and len(first) + len(second) == len(lines(tmp_path))
    again, third = counting()
    assert tiny(again, axes=["scores", "pairs"])["pairs"]["rows"] == results["pairs"]["rows"] and third == []
    for part in ("scores", "pairs"):
        assert all(row["finished"] == 1 and row["kl"]["items"] == 3 for row in results[part]["rows"])
        base, *trained = results[part]["rows"]
        assert base["kl"]["mean"] == 0 and all(row["kl"]["mean"] > 0 for row in trained)
        assert all(row["win_rate"]["items"] == 3 and row["accuracy"]["items"] == 4 for row in trained)
    assert {name: value["items"] for name, value in results["scores"]["judge"].items()} == {
        "hh": 4,
        "ultrafeedback": 4,
        "llmbar": 4,
        "hhh": 4,
    }
    for line in lines(tmp_path):
        assert line["seconds"] >= 0 and line["cpu_seconds"] >= 0 and len(line["date"]) == 10
        assert line["versions"]["torch"] and line["hardware"]


def test_each_entry_has_its_own_steps_at_the_rate_that_was_best_on_the_tuning_rows(tiny, few, tmp_path):
    results = tiny(axes=["scores"])["scores"]
    by_key = {line["key"]: line for line in lines(tmp_path)}
    for name in ("dpo", "una-score"):
        losses = {lr: log_loss(by_key[f"train/tuning/{name}/lr={lr:g}/seed=0"]) for lr in TINY.lrs}
        assert results["chosen"][name]["lr"] == min(losses, key=losses.get)
        assert by_key[f"train/tuning/{name}/lr=0.01/seed=0"]["steps"] == 2 and "kl" not in by_key
    dpo = by_key[f"train/scores/dpo/lr={results['chosen']['dpo']['lr']:g}/seed=0"]
    assert dpo["steps"] == 2 and [point["step"] for point in dpo["curve"]] == [1, 2]
    rates = {row["name"]: row["lr"] for row in results["rows"]}
    assert rates["una-score.shuffled"] == rates["una-score"]
    # The control sees the same scores in another order.
    shuffled = next(line for key, line in by_key.items() if key.startswith("train/scores/una-score.shuffled"))
    assert shuffled["rows"] != next(v for k, v in by_key.items() if k.startswith("train/scores/una-score/"))["rows"]


@needs_harness
def test_tasks_are_paired_with_the_base_and_a_lost_adapter_is_trained_again(tiny, few, tmp_path, real_folders):
    tiny(axes=["scores"])
    before = {line["key"]: line for line in lines(tmp_path)}
    folder = work_folder(TINY, real_folders[1])
    key = next(key for key in before if key.startswith("train/scores/dpo/"))
    weights = (folder / key / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(folder / key)
    tasks = tiny(axes=["tasks"])["tasks"]
    assert tasks["retrained"] == 0 and before[key]["weights"] == weights_name(folder / key) != ""
    assert (folder / key / "adapter_model.safetensors").read_bytes() == weights
    base, dpo, *_ = tasks["rows"]
    assert base["scores"]["arc"]["items"] == 5 and base["differences"] == {}
    assert dpo["differences"]["arc"]["mean"] == pytest.approx(
        dpo["scores"]["arc"]["mean"] - base["scores"]["arc"]["mean"]
    )
    assert "4 of 4 evaluations are finished" in (tmp_path / "study" / "table.md").read_text()
    assert sum(line["key"].startswith("task/arc-5/") for line in lines(tmp_path)) == 4


def test_samples_are_judged_where_their_adapter_is_not(tiny, few, tmp_path, real_folders):
    tiny(axes=["scores"])
    file, folder = tmp_path / "study" / "runs.jsonl", work_folder(TINY, real_folders[1])
    before, header = lines(tmp_path), json.loads(file.read_text().splitlines()[0])
    judged = [line for line in before if line["key"].startswith("judge/")]
    file.write_text("".join(json.dumps(line) + "\n" for line in [header, *before] if line not in judged))
    shutil.rmtree(folder / "train")
    tiny(axes=["scores"])
    again = {line["key"]: line for line in lines(tmp_path)}
    assert len(judged) == 4
    for line in judged:
        assert again[line["key"]]["rewards"] == line["rewards"] and again[line["key"]]["weights"] == line["weights"]
    assert not [*folder.rglob("adapter_model.safetensors")]


@pytest.mark.slow
def test_every_entry_of_the_study_trains(tiny):
    results = tiny(axes=["scores", "pairs"])
    for part, found in results.items():
        assert [row["name"] for row in found["rows"]] == ["base", *(entry.name for entry in ENTRIES[part])]
        assert all(row["finished"] == 1 and not row["failed"] for row in found["rows"])


# ---- what is refused


def test_a_run_of_another_base_or_header_is_refused(tiny, few, tmp_path, real_folders):
    stopped, _ = counting(stop_after=1)
    with pytest.raises(RuntimeError):
        tiny(stopped)
    with pytest.raises(InputError, match="expected runs of .* choose another output"):
        tiny(settings=replace(TINY, beta=0.2))
    assert work_folder(TINY, real_folders[1]) != work_folder(replace(TINY, beta=0.2), real_folders[1])
    assert work_folder(TINY, real_folders[1]) == work_folder(replace(TINY, seeds=(5,)), real_folders[1])


def test_a_model_is_found_by_its_folder_and_needs_its_weights_in_one_file(real_folders, tmp_path, monkeypatch):
    data, base = real_folders
    monkeypatch.setenv("UNA_REF_DATA", str(data))
    assert start_policy(base) == base
    with pytest.raises(InputError, match=r"expected weights in model.safetensors, got none"):
        start_policy(tmp_path)
    monkeypatch.delenv("UNA_REF_DATA")
    with pytest.raises(InputError, match="UNA_REF_DATA"):
        start_policy(base)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report"], "report: expected the study of a real model"),
        (["--model", "x", "--base", "y"], "model: expected no --base"),
        (["--axis", "scores"], "axis scores: expected a study with axes"),
        (["--axis", "scores", "--online"], "axis scores: expected methods, offset, proxy"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, message, capsys, tmp_path):
    assert main(["compare", *options, "--output", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "study").exists()


def test_a_run_s_adapter_loads_as_a_model(tiny, few, tmp_path, real_folders):
    stopped, keys = counting(stop_after=1)
    with pytest.raises(RuntimeError):
        tiny(stopped)
    model, _ = loading.load(str(work_folder(TINY, real_folders[1]) / keys[0]))
    base, _ = loading.load(str(real_folders[1]))
    changed = [name for name, weight in model.named_parameters() if not weight.equal(base.get_parameter(name))]
    assert any("q_proj" in name for name in changed) and not any("norm" in name for name in changed)
    assert keys == [Training("tuning", "dpo", 0, 1e-2).key]


# ---- records


def no_run(run):
    raise AssertionError(f"expected no run to be computed, got {run}")


def test_the_committed_runs_are_those_of_this_study(records, tmp_path):
    text = (records / "real_offline" / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text)
    settings = json.loads(json.dumps(dataclasses.asdict(REAL_OFFLINE.settings)))
    base = json.loads(text.splitlines()[0])["base"]
    store = RunStore(tmp_path, {"settings": {name: settings[name] for name in HEADER}, "base": base}, no_run)
    assert base.startswith("SmolLM2-135M-Instruct") and (tmp_path / "runs.jsonl").read_text() == text
    grid = {run.key for options in candidates(RealSettings()).values() for _, runs in options for run in runs}
    assert store.finished and {key for key in store.finished if key.startswith("train/tuning/")} <= grid
    rows = {(line["part"], line["entry"]): line["rows"] for line in store.finished.values() if "part" in line}
    # The same rows for all methods of one kind of feedback, whatever the session that ran them.
    for (part, entry), digest in rows.items():
        if METHODS[entry_of(part, entry).method].kinds[0] == "labels":
            assert digest == rows.get((part, "kto"), digest)


def test_the_committed_table_and_figure_are_drawn_again_from_the_committed_runs(records, tmp_path):
    folder = records / "real_offline"
    committed = json.loads((folder / "results.json").read_text())
    assert REAL_OFFLINE.table(committed) == (folder / "table.md").read_text()
    (tmp_path / "runs.jsonl").write_text((folder / "runs.jsonl").read_text())
    header = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    settings = REAL_OFFLINE.settings
    store = RunStore(tmp_path, header, no_run, compute=False)
    for name, axis in REAL_OFFLINE.axes.items():
        chosen = choose(store, axis.candidates(settings), REAL_OFFLINE.criterion)
        assert chosen == committed[name]["chosen"]
        found = json.loads(json.dumps(axis.results(store, settings, tmp_path, chosen)))
        assert found["rows"] == committed[name]["rows"]
    assert figure(committed, tmp_path, "again").read_bytes() == (records.parent / "real_offline.svg").read_bytes()
    page = (records.parents[1] / "docs" / "studies.md").read_text("utf-8")
    assert (folder / "table.md").read_text().strip() in page
