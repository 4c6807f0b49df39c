"""The offline comparison: what its entries learn from, what is measured, and what its records hold."""

import dataclasses
import json

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.studies import offline_study
from una_ref.studies.engine import carry_out
from una_ref.studies.offline_report import PANELS
from una_ref.studies.offline_study import (
    BY_NAME,
    ENTRIES,
    OFFLINE,
    OfflineRun,
    OfflineSettings,
    candidates,
    feedback,
    grid,
    measure,
    train_and_measure,
)
from una_ref.studies.run_store import RunStore
from una_ref.studies.toysteer_policies import base_in_world
from una_ref.theory.labelling import labeller_generator
from una_ref.training.trainer import NonFinite

TINY = OfflineSettings(
    rows=32, steps=2, batch=8, seeds=(0,), tuning_seeds=(100,), lrs=(1e-3,), betas=(0.1,), held_out=64
)


# ---- what is measured


def test_the_base_has_no_kl_and_the_optimum_no_regret(toysteer_base):
    world, next_logps, ref = base_in_world(0, toysteer_base)
    base = measure(ref, 0, TINY, toysteer_base)
    best = measure(world.world(next_logps, TINY.beta).optimum, 0, TINY, toysteer_base)
    assert abs(base["kl"]) < 1e-12 and base["accuracy"] == 0.5
    assert abs(best["regret"]) < 1e-12 < base["regret"] == pytest.approx(TINY.beta * base["kl_to_optimum"])
    assert best["accuracy"] == 1.0  # its implicit reward is the reward up to a constant of the prompt
    # Lengths and exact answers by summing over the list once more, one response at a time.
    p = ref.exp()
    letters = sum(float(p[x, y]) * len(text) for x in range(8) for y, (text, _) in enumerate(world.responses)) / 8
    assert base["length"] == pytest.approx(letters)
    assert 0.5 < base["exact"] < 0.8


# ---- what entries learn from


def test_all_entries_of_a_panel_see_the_same_responses(toysteer_base):
    for panel in PANELS:
        seen = []
        for entry in ENTRIES:
            rows = feedback(panel, entry, 0, TINY, toysteer_base)
            assert sum(len(row.responses) for row in rows) == 2 * TINY.rows
            kind = METHODS[entry.method].kinds[0]
            assert {row.kinds for row in rows} == {("pairs" if kind == "demos" else kind,)}, entry.name
            seen.append([(row.prompt, sorted(row.responses)) for row in rows])
        assert all(responses == seen[0] for responses in seen)


def test_the_labeller_s_random_numbers_are_not_the_sampler_s():
    # With the same seed, the stream of uniforms that samples responses and the one that labels them share no number.
    sampled, labelled = torch.Generator().manual_seed(5), labeller_generator(5)
    first, second = (torch.rand(4096, generator=g, dtype=torch.float64).tolist() for g in (sampled, labelled))
    assert not set(first) & set(second)


def test_ratings_agree_with_their_pairs_and_binary_labels(toysteer_base):
    names = ("una-score", "dpo", "kto")
    scores, pairs, labels = (feedback("ratings", BY_NAME[name], 3, TINY, toysteer_base) for name in names)
    for scored, paired, labelled in zip(scores, pairs, labels, strict=True):
        ((chosen, rejected),) = paired.pairs
        score = dict(zip(scored.responses, scored.scores, strict=True))
        assert score[paired.responses[chosen]] > score[paired.responses[rejected]]
        label = dict(zip(labelled.responses, labelled.labels, strict=True))
        assert label[paired.responses[chosen]] == 1.0 and label[paired.responses[rejected]] == 0.0


def test_scores_of_the_model_panel_are_the_true_rewards(toysteer_base):
    world = base_in_world(1, toysteer_base).world
    index = {text: y for y, (text, _) in enumerate(world.responses)}
    assert len(index) == len(world.responses)  # a response that was cut has a letter more than any that ended
    rows = feedback("model", BY_NAME["una-centred"], 1, TINY, toysteer_base)
    assert len(rows) == TINY.rows
    for row in rows:
        rewards = world.rewards[world.prompts.index(row.prompt)]
        columns = [index[text.replace(" ", "")] for text in row.responses]
        assert list(row.scores) == pytest.approx(rewards[columns].tolist())


# ---- runs


def test_a_run_learns_and_repeats_itself(toysteer_base):
    settings = dataclasses.replace(TINY, rows=128, steps=30, batch=16)
    run = OfflineRun("ratings", "dpo", 0, 1e-3, 1.0)
    first, again = (train_and_measure(run, settings, toysteer_base) for _ in range(2))
    base = measure(base_in_world(0, toysteer_base).logps, 0, settings, toysteer_base)
    assert first["accuracy"] > base["accuracy"] + 0.2 and first["kl"] > 1e-3 and first["failed"] == ""
    assert first | {"seconds": 0} == again | {"seconds": 0}


def test_a_run_starts_from_the_base_that_it_is_given(toysteer_base, other_base):
    still = dataclasses.replace(TINY, steps=1)
    run = OfflineRun("ratings", "dpo", 0, 1e-9, 1.0)
    for base in (toysteer_base, other_base):
        start = measure(base_in_world(0, base).logps, 0, still, base)
        assert train_and_measure(run, still, base)["regret"] == pytest.approx(start["regret"], abs=1e-5)
    regrets = [measure(base_in_world(0, base).logps, 0, still, base)["regret"] for base in (toysteer_base, other_base)]
    assert abs(regrets[0] - regrets[1]) > 0.01


def test_a_run_stopped_by_a_non_finite_value_is_measured_as_it_stood(toysteer_base, monkeypatch):
    def fails(job):
        raise NonFinite("a loss is nan", [])

    monkeypatch.setattr(offline_study, "fit", fails)
    failed = train_and_measure(OfflineRun("ratings", "dpo", 0, 1e-3, 1.0), TINY, toysteer_base)
    assert failed["failed"] == "a loss is nan" and abs(failed["kl"]) < 1e-6 < failed["regret"]


def test_beta_is_in_the_unit_of_the_feedback():
    assert grid("ratings", BY_NAME["dpo"], TINY) == [(1e-3, 0.1)]
    assert grid("model", BY_NAME["dpo"], TINY) == [(1e-3, 0.4)]
    assert grid("model", BY_NAME["sft"], TINY) == [(1e-3, None)]


def test_candidates_are_the_whole_grid_on_the_tuning_worlds():
    options = candidates(OFFLINE.settings)
    assert set(options) == {f"{panel}/{e.name}" for panel in PANELS for e in ENTRIES if not e.tuned_as}
    assert len(options["ratings/sft"]) == 3 and len(options["model/kto"]) == 15
    setting, runs = options["model/kto"][0]
    assert setting == {"lr": 0.001, "beta": 0.12}
    assert [run.key for run in runs] == [f"model/kto/lr=0.001/beta=0.12/seed={seed}" for seed in (100, 101)]


# ---- the study


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(tmp_path):
    results = carry_out(OFFLINE, tmp_path, settings=TINY, workers=2)
    assert {row["name"] for row in results["rows"]} == {"base", "optimum", *BY_NAME}
    control, plain = (next(r for r in results["rows"] if r["name"] == n) for n in ("una-score.shuffled", "una-score"))
    assert (control["lr"], control["beta"]) == (plain["lr"], plain["beta"])
    assert control["regret"]["values"] != plain["regret"]["values"]
    assert (tmp_path / "compare.svg").exists() and (tmp_path / "table.md").read_text() == OFFLINE.table(results)
    # The study is killed while it writes its last line: that run is computed again, and no other.
    file = tmp_path / "runs.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    again = carry_out(OFFLINE, tmp_path, settings=TINY, workers=2)
    resumed = file.read_text().splitlines()
    assert resumed[:-1] == lines[:-1] and json.loads(resumed[-1])["key"] == json.loads(lines[-1])["key"]
    assert json.dumps(again["rows"]) == json.dumps(results["rows"])


# ---- records


def no_run(run):
    raise AssertionError(f"expected no run to be computed, got {run}")


@pytest.mark.parametrize(("name", "count"), [("compare", 612), ("another_base", 78)])
def test_the_committed_runs_are_those_of_this_study(name, count, records, tmp_path):
    text = (records / name / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text)
    base = json.loads(text.splitlines()[0])["base"]
    header = {"settings": {key: getattr(OFFLINE.settings, key) for key in OFFLINE.header}, "base": base}
    store = RunStore(tmp_path, header, no_run)
    assert (tmp_path / "runs.jsonl").read_text() == text and len(store.finished) == count
    settings = {"compare": OFFLINE.chosen()["ratings/dpo"], "another_base": {"lr": 0.003, "beta": 3.0}}[name]
    assert OfflineRun("ratings", "dpo", 0, settings["lr"], settings["beta"]).key in store.finished


@pytest.mark.usefixtures("threads")
def test_the_committed_table_is_drawn_again_from_the_committed_runs(records, tmp_path, toysteer_base):
    (tmp_path / "runs.jsonl").write_text((records / "compare" / "runs.jsonl").read_text())
    committed = json.loads((records / "compare" / "results.json").read_text())
    header = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    with RunStore(tmp_path, header, no_run) as store:
        rows = offline_study.results(store, OFFLINE.settings, toysteer_base, committed["chosen"])["rows"]
    assert [(row["panel"], row["name"]) for row in rows] == [(row["panel"], row["name"]) for row in committed["rows"]]
    for row, expected in zip(rows, committed["rows"], strict=True):
        if row["lr"]:  # the base and the optimum are measured anew, on the base of today
            assert row["regret"] == expected["regret"] and row["lr"] == expected["lr"]


def test_the_shipped_settings_are_the_committed_study_s(records):
    results = json.loads((records / "compare" / "results.json").read_text())
    assert OFFLINE.chosen() == results["chosen"]
    assert OFFLINE.table(results) == (records / "compare" / "table.md").read_text()
    assert results["settings"] == json.loads(json.dumps(dataclasses.asdict(OFFLINE.settings)))


def test_the_readme_or_the_docs_show_the_committed_table(records):
    root = records.parents[1]
    table = (records / "compare" / "table.md").read_text().strip()
    assert any(table in page.read_text("utf-8") for page in (root / "README.md", *root.glob("docs/**/*.md")))
