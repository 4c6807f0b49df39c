"""The engine on a study of its own: what is chosen, what is written, what is computed again, what is refused."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from una_ref.errors import InputError
from una_ref.studies import engine
from una_ref.studies.engine import Axis, Entry, Study, carry_out, choose
from una_ref.studies.summaries import summary
from una_ref.studies.toysteer_policies import base_name
from una_ref.training.toysteer_base import toysteer_base


@dataclass(frozen=True)
class ToySettings:
    steps: int = 2
    entries: tuple[str, ...] = ("near", "far")
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_seeds: tuple[int, ...] = (100, 101)
    lrs: tuple[float, ...] = (0.1, 0.2, 0.4)

    @property
    def quick(self):
        return replace(self, seeds=self.seeds[:2])


@dataclass(frozen=True)
class ToyRun:
    entry: str
    lr: float
    seed: int

    @property
    def key(self):
        return f"{self.entry}/lr={self.lr:g}/seed={self.seed}"


class Laboratory:
    """A study whose regret is smallest at a learning rate of 0.2, and a list of the runs that were computed."""

    def __init__(self):
        self.computed, self.bases, self.drawn = [], set(), []

    def measure(self, run, settings, base):
        self.computed.append(run.key)
        self.bases.add(base)
        regret = (run.lr - 0.2) ** 2 + run.seed / 1000 + (1.0 if run.entry == "far" else 0.0)
        return {"regret": regret * settings.steps, "failed": "", "seconds": 1.0}

    def candidates(self, settings):
        return {
            entry: [({"lr": lr}, [ToyRun(entry, lr, seed) for seed in settings.tuning_seeds]) for lr in settings.lrs]
            for entry in settings.entries
        }

    def results(self, store, settings, base, chosen):
        rows = []
        for entry in settings.entries:
            runs = [ToyRun(entry, chosen[entry]["lr"], seed) for seed in settings.seeds]
            start = [{"regret": 1.0}] * len(runs)
            rows.append({"name": entry, **summary(store.results(runs, "comparing"), start, ("regret",))})
        return {"rows": rows}

    def table(self, axis, results):
        return [f"## {axis}", *(f"{row['name']} {row['regret']['mean']:.4f}" for row in results["rows"])]

    def draw(self, results, folder, name):
        self.drawn.append(name)
        (folder / f"{name}.svg").write_text(json.dumps(results["rows"]))
        return folder / f"{name}.svg"

    def study(self, *axes):
        made = {
            name: Axis(self.candidates, self.results, partial(self.table, name), self.draw)
            for name in axes or ("only",)
        }
        return Study("una-ref toy", ToySettings(), ("steps",), self.measure, made, "chosen_offline.json")


@pytest.fixture
def laboratory(threads):
    return Laboratory()


def store_of(regrets):
    """Finished runs with these regrets, by key."""
    return SimpleNamespace(finished={key: {"regret": r} for key, r in regrets.items()}, results=lambda *_: [])


def options(regrets):
    """A setting for each list of regrets on the tuning worlds, and the store that holds them."""
    runs = {lr: [SimpleNamespace(key=f"{lr}/{i}") for i in range(len(each))] for lr, each in regrets.items()}
    finished = {run.key: r for lr in regrets for run, r in zip(runs[lr], regrets[lr], strict=True)}
    return store_of(finished), {"row": [({"lr": lr}, runs[lr]) for lr in regrets]}


# ---- settings


@pytest.mark.parametrize(
    ("regrets", "best"),
    [
        ({1: [0.5, 0.5], 2: [0.1, 0.3], 3: [0.9, 0.9]}, 2),  # neither the first, the last nor the worst
        ({1: [0.0, 0.5], 2: [0.2, 0.2]}, 2),  # by the mean, not the best world
        ({1: [0.2, 0.2], 2: [0.2, 0.2]}, 1),  # of equal ones the first
        ({1: [float("nan"), 0.0], 2: [float("inf"), 0.0], 3: [7.0, 7.0]}, 3),  # none that is not finite
    ],
)
def test_the_setting_with_the_lowest_mean_regret_is_chosen(regrets, best):
    store, candidates = options(regrets)
    mean = sum(regrets[best]) / len(regrets[best])
    assert choose(store, candidates) == {"row": {"lr": best, "tuning_regret": pytest.approx(mean)}}


def test_a_study_may_choose_by_another_criterion():
    store, candidates = options({1: [0.1], 2: [0.2]})

    def minus_regret(line):
        return -line["regret"]

    assert choose(store, candidates, minus_regret) == {"row": {"lr": 2, "tuning_minus_regret": -0.2}}


def test_a_search_is_asked_for_more_settings_until_it_has_none():
    store, candidates = options({1: [0.5], 2: [0.4], 3: [0.1]})
    first, *others = candidates["row"]
    asked = []

    def further(means):
        asked.append([mean for _, mean in means["row"]])
        return {"row": [others.pop(0)] if others else []}

    assert choose(store, {"row": [first]}, further=further)["row"]["lr"] == 3
    assert asked == [[0.5], [0.5, 0.4], [0.5, 0.4, 0.1]]


def test_a_row_whose_grid_is_not_finished_has_no_setting():
    store, candidates = options({1: [0.5], 2: [0.1]})
    del store.finished["2/0"]
    assert choose(store, candidates) == {}


def test_a_quick_study_needs_the_settings_of_a_full_one(laboratory, tmp_path):
    study = replace(laboratory.study(), shipped="chosen_nowhere.json")
    with pytest.raises(InputError, match="quick: expected a study whose full size has been carried out"):
        carry_out(study, tmp_path / "study", quick=True)
    assert not (tmp_path / "study").exists()


def test_an_entry_s_own_keys_come_before_a_study_s():
    entry = Entry("x", "X", "una-online", form="released", config={"passes": 4}, loss_kwargs={"beta": 1.0})
    config = entry.run_config({"beta": 0.4}, steps=3, lr=0.01)
    assert (config.method, config.form, config.passes, config.steps) == ("una-online", "released", 4, 3)
    assert config.loss_kwargs == {"beta": 1.0}
    assert Entry("y", "Y", "una-online").run_config({"beta": 0.4}, steps=3).loss_kwargs == {"beta": 0.4}


# ---- a study from start to end


def test_a_study_chooses_on_tuning_worlds_and_compares_on_others(laboratory, tmp_path):
    results = carry_out(laboratory.study(), tmp_path)
    assert {name: chosen["lr"] for name, chosen in results["chosen"].items()} == {"near": 0.2, "far": 0.2}
    assert sorted(laboratory.computed) == sorted(
        [f"{e}/lr={lr}/seed={seed}" for e in ("near", "far") for lr in (0.1, 0.2, 0.4) for seed in (100, 101)]
        + [f"{e}/lr=0.2/seed={seed}" for e in ("near", "far") for seed in (0, 1, 2)]
    )
    near, far = results["rows"]
    assert near["regret"]["values"] == pytest.approx([0, 0.002, 0.004])
    assert near["regret"]["median"] == pytest.approx(0.002)
    assert (near["worse_than_base"]["count"], far["worse_than_base"]["count"]) == (0, 3)


def test_a_study_leaves_its_runs_numbers_table_and_figure(laboratory, tmp_path):
    study = laboratory.study()
    results = carry_out(study, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs.jsonl", "results.json", "table.md", "only.svg"}
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "table.md").read_text() == study.table(results) == "## only\nnear 0.0020\nfar 2.0020\n"
    head = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    assert head == {"settings": {"steps": 2}, "base": results["base_policy"]}
    assert results["command"] == f"una-ref toy --output {tmp_path}"
    assert results["seconds_of_runs"] == 18 and results["versions"]["una_ref"]


def test_a_finished_study_computes_nothing_again(laboratory, tmp_path):
    first = carry_out(laboratory.study(), tmp_path)
    laboratory.computed.clear()
    again = carry_out(laboratory.study(), tmp_path)
    assert laboratory.computed == [] and again["rows"] == first["rows"]


def test_a_study_that_was_killed_goes_on_with_the_unfinished_line_alone(laboratory, tmp_path):
    carry_out(laboratory.study(), tmp_path)
    table, file = (tmp_path / "table.md").read_text(), tmp_path / "runs.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    laboratory.computed.clear()
    carry_out(laboratory.study(), tmp_path)
    assert laboratory.computed == [json.loads(lines[-1])["key"]]
    assert (tmp_path / "table.md").read_text() == table


def test_results_of_other_axes_stay(laboratory, tmp_path):
    study = laboratory.study("first", "second")
    assert tuple(carry_out(study, tmp_path, axes=["second"])) == ("second",)
    both = carry_out(study, tmp_path, axes=["first"])
    assert tuple(both) == ("first", "second")  # in the study's order
    assert both["first"]["command"] == f"una-ref toy --axis first --output {tmp_path}"
    assert (tmp_path / "table.md").read_text().startswith("## first\n") and laboratory.drawn == ["second", "first"]
    assert "## second\n" in (tmp_path / "table.md").read_text()


def test_groundwork_is_computed_before_tuning(laboratory, tmp_path):
    study = laboratory.study()
    ground = replace(study.axes["only"], groundwork=lambda settings: [ToyRun("ground", 0.1, 7)])
    carry_out(replace(study, axes={"only": ground}), tmp_path)
    assert laboratory.computed[0] == "ground/lr=0.1/seed=7"


def test_a_quick_study_takes_the_shipped_settings_and_tunes_nothing(laboratory, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.Study, "chosen", lambda self: {"near": {"lr": 0.4}, "far": {"lr": 0.1}})
    results = carry_out(laboratory.study(), tmp_path, quick=True)
    assert sorted(laboratory.computed) == [f"{e}/seed={seed}" for e in ("far/lr=0.1", "near/lr=0.4") for seed in (0, 1)]
    assert "--quick" in results["command"]


def test_worlds_may_be_added_to_a_study(laboratory, tmp_path):
    carry_out(laboratory.study(), tmp_path)
    laboratory.computed.clear()
    carry_out(laboratory.study(), tmp_path, settings=ToySettings(seeds=(0, 1, 2, 3)))
    assert sorted(laboratory.computed) == ["far/lr=0.2/seed=3", "near/lr=0.2/seed=3"]


# ---- the base policy


def test_runs_are_given_the_base_and_the_header_names_it(laboratory, tmp_path, other_base):
    results = carry_out(laboratory.study(), tmp_path / "study", base=str(other_base))
    assert laboratory.bases == {other_base}
    head = json.loads((tmp_path / "study" / "runs.jsonl").read_text().splitlines()[0])
    assert head["base"] == results["base_policy"] == base_name(other_base)
    assert head["base"].startswith("other, weights ")
    assert results["command"] == f"una-ref toy --base {other_base} --output {tmp_path / 'study'}"


def test_a_study_has_one_base_by_its_weights(laboratory, tmp_path, other_base):
    carry_out(laboratory.study(), tmp_path / "study")
    assert laboratory.bases == {toysteer_base()}
    with pytest.raises(InputError, match=r"expected runs of .*other, weights .* choose another output"):
        carry_out(laboratory.study(), tmp_path / "study", base=other_base)


# ---- refused


def test_runs_with_other_settings_are_refused(laboratory, tmp_path):
    carry_out(laboratory.study(), tmp_path)
    with pytest.raises(InputError, match="choose another output"):
        carry_out(laboratory.study(), tmp_path, settings=ToySettings(steps=3))


def test_results_of_another_version_are_refused_unless_they_are_replaced(laboratory, tmp_path):
    study = laboratory.study("first", "second")
    results = carry_out(study, tmp_path)
    for row in results["second"]["rows"]:
        del row["regret"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"results.json: expected results of this version, got others \(KeyError"):
        carry_out(study, tmp_path, axes=["first"])
    assert carry_out(study, tmp_path)["second"]["rows"][0]["regret"]["median"] == pytest.approx(0.002)


def test_an_output_that_is_a_file_is_refused(laboratory, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder, got a file"):
        carry_out(laboratory.study(), tmp_path / "file")


def test_an_unknown_axis_is_refused_before_anything_runs(laboratory, tmp_path):
    with pytest.raises(InputError, match="axis third: expected first, second"):
        carry_out(laboratory.study("first", "second"), tmp_path, axes=["first", "third"])
    assert laboratory.computed == [] and list(Path(tmp_path).iterdir()) == []
