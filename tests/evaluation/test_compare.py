"""The comparison: what its entries are taught, what is measured, and that a study goes on where it was."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from una_ref.errors import InputError
from una_ref.evaluation import compare as c
from una_ref.evaluation import report
from una_ref.evaluation import runs as runs_module
from una_ref.methods import METHODS
from una_ref.theory.labelling import labeller_generator

ROOT = Path(__file__).resolve().parents[2]
TINY = c.Settings(rows=32, steps=2, batch=8, seeds=(0,), tuning_seeds=(100,), lrs=(1e-3,), betas=(0.1,), held_out=64)


def test_an_interval_by_hand():
    # Mean 2, sd 1, n = 3: half width t(.975, 2)·1/√3 = 4.302653·0.577350 = 2.484138.
    mean, half = report.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(2.484138, abs=1e-6)
    assert math.isnan(report.interval([1.0])[1])


def test_the_base_has_no_kl_and_the_optimum_no_regret():
    world, next_, ref = c._world(0, TINY.scale)
    base = c.measure(ref, 0, TINY)
    exact = world.world(next_, TINY.beta)
    best = c.measure(exact.optimum, 0, TINY)
    assert abs(base["kl"]) < 1e-12 and base["accuracy"] == 0.5
    assert abs(best["regret"]) < 1e-12 < base["regret"] == pytest.approx(TINY.beta * base["kl_to_optimum"])
    assert best["accuracy"] == 1.0  # its implicit reward is the reward up to a constant of the prompt
    # Lengths and exact answers by summing over the list once more, one response at a time.
    p = ref.exp()
    letters = sum(float(p[x, y]) * len(text) for x in range(8) for y, (text, _) in enumerate(world.responses)) / 8
    assert base["length"] == pytest.approx(letters)
    assert 0.5 < base["exact"] < 0.8


def test_all_entries_of_a_panel_see_the_same_responses():
    for panel in c.PANELS:
        seen = []
        for entry in c.ENTRIES:
            rows = c.feedback(panel, entry, 0, TINY)
            assert sum(len(row.responses) for row in rows) == 2 * TINY.rows
            kind = METHODS[entry.method].kinds[0]
            assert {row.kinds for row in rows} == {("pairs" if kind == "demos" else kind,)}, entry.name
            seen.append([(row.prompt, sorted(row.responses)) for row in rows])
        assert all(s == seen[0] for s in seen)


def test_the_labeller_and_the_sampler_use_different_random_numbers():
    # Fed the same seed, the stream of uniforms that draws responses and the one that labels them share no number.
    drawn, labelled = torch.Generator().manual_seed(5), labeller_generator(5)
    first, second = (torch.rand(4096, generator=g, dtype=torch.float64).tolist() for g in (drawn, labelled))
    assert not set(first) & set(second)


def test_ratings_agree_with_their_pairs_and_thumbs():
    by_name = {e.name: e for e in c.ENTRIES}
    scores, pairs, thumbs = (c.feedback("ratings", by_name[n], 3, TINY) for n in ("una-score", "dpo", "kto"))
    for s, p, t in zip(scores, pairs, thumbs, strict=True):
        ((won, lost),) = p.pairs
        of = dict(zip(s.responses, s.scores, strict=True))
        assert of[p.responses[won]] > of[p.responses[lost]]
        up = dict(zip(t.responses, t.labels, strict=True))
        assert up[p.responses[won]] == 1.0 and up[p.responses[lost]] == 0.0


def test_rewards_of_the_model_panel_are_those_that_judge():
    world, _, _ = c._world(1, TINY.scale)
    entry = next(e for e in c.ENTRIES if e.name == "una-centred")
    index = {(text if text else ""): i for i, (text, ended) in enumerate(world.responses) if ended}
    for row in c.feedback("model", entry, 1, TINY):
        for text, score in zip(row.responses, row.scores, strict=True):
            y = index.get(text.replace(" ", ""))
            if y is not None:
                assert score == pytest.approx(float(world.rewards[world.prompts.index(row.prompt), y]))


def test_the_grid_is_in_the_unit_of_what_is_taught():
    dpo, sft = (next(e for e in c.ENTRIES if e.name == n) for n in ("dpo", "sft"))
    assert c.grid("ratings", dpo, TINY) == [(1e-3, 0.1)]
    assert c.grid("model", dpo, TINY) == [(1e-3, 0.4)]
    assert c.grid("model", sft, TINY) == [(1e-3, None)]


def test_a_run_learns_and_repeats_itself():
    settings = dataclasses.replace(TINY, rows=128, steps=30, batch=16)
    run = c.Run("ratings", "dpo", 0, 1e-3, 1.0)
    first, again = c.one(run, settings), c.one(run, settings)
    base = c.measure(c._world(0, settings.scale)[2], 0, settings)
    assert first["accuracy"] > base["accuracy"] + 0.2 and first["kl"] > 1e-3
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}


def test_another_study_in_the_folder_is_refused(tmp_path):
    c.study(tmp_path, TINY, 1)
    with pytest.raises(InputError, match="choose another output"):
        c.study(tmp_path, dataclasses.replace(TINY, steps=3), 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder, got a file"):
        c.compare(tmp_path / "file")


def test_the_committed_runs_are_those_of_this_study(tmp_path):
    # Opened here, the committed file is taken up as it is, byte for byte, and has every run that the table needs.
    text = (ROOT / "figures" / "runs" / "compare" / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text)
    head = json.loads(text.splitlines()[0])
    runs = runs_module.Runs(tmp_path, c.Settings(), c.one, free=c.FREE, base=head["base"])
    assert (tmp_path / "runs.jsonl").read_text() == text
    chosen = c.committed()["ratings/dpo"]
    assert c.Run("ratings", "dpo", 0, chosen["lr"], chosen["beta"]).key in runs.done and len(runs.done) > 600


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch):
    results = c.compare(tmp_path, settings=TINY, workers=2)
    assert {r["name"] for r in results["rows"]} == {"base", "optimum", *(e.name for e in c.ENTRIES)}
    table = (tmp_path / "table.md").read_text()
    assert (tmp_path / "compare.svg").exists() and json.loads((tmp_path / "results.json").read_text())["rows"]
    # The study is killed while it writes its last line; that run is done again, and no other.
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    done, was = [], c.Runs.of

    def counted(self, runs, what, **options):
        done.extend(r.key for r in runs if r.key not in self.done)
        return was(self, runs, what, **options)

    monkeypatch.setattr(c.Runs, "of", counted)
    c.compare(tmp_path, settings=TINY, workers=2)
    assert done == [json.loads(lines[-1])["key"]]
    assert (tmp_path / "table.md").read_text() == table


def test_the_shipped_settings_are_the_committed_study_s():
    results = json.loads((ROOT / "figures" / "runs" / "compare" / "results.json").read_text())
    assert c.committed() == results["chosen"]
    assert report.table(results) == (ROOT / "figures" / "runs" / "compare" / "table.md").read_text()
    assert results["settings"] == json.loads(json.dumps(dataclasses.asdict(c.Settings())))


def test_the_readme_shows_the_committed_table():
    table = (ROOT / "figures" / "runs" / "compare" / "table.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert table.strip() in readme


def test_the_table_sorts_by_regret_and_shows_intervals():
    def row(name, regret):
        return {"panel": "ratings", "name": name, "title": name, "lr": 1e-3, "beta": None} | {
            m: {"mean": regret, "ci95": 0.01, "values": [regret]} for m in report.MEASURES
        }

    results = {"settings": dataclasses.asdict(TINY), "rows": [row("worse", 0.5), row("better", 0.25)]}
    lines = [line for line in report.table(results).splitlines() if line.startswith(("| worse", "| better"))]
    assert lines[0].startswith("| better | 0.250 ± 0.010 |") and lines[1].startswith("| worse")


def test_the_figure_is_the_same_bytes_for_the_same_numbers(tmp_path):
    results = json.loads((ROOT / "figures" / "runs" / "compare" / "results.json").read_text())
    first, second = (report.draw(results, tmp_path, name).read_bytes() for name in ("a", "b"))
    assert first == second and first.count(b"<path") > 50


def test_a_study_has_one_base_by_its_weights(tmp_path):
    names = []
    for weights in (b"one", b"two"):
        base = tmp_path / weights.decode() / "base"
        base.mkdir(parents=True)
        (base / "model.safetensors").write_bytes(weights)
        names.append(runs_module.name_of(base))
    runs_module.Runs(tmp_path / "study", TINY, c.one, base=names[0])
    runs_module.Runs(tmp_path / "study", TINY, c.one, base=names[0])
    with pytest.raises(InputError, match="choose another output"):
        runs_module.Runs(tmp_path / "study", TINY, c.one, base=names[1])
