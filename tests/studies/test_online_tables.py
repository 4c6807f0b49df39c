"""The online study's tables and figures, of made-up numbers."""

import dataclasses
import json
import math

import pytest

from una_ref.studies import online_figures
from una_ref.studies.online_runs import ENTRIES, OnlineSettings
from una_ref.studies.online_study import ONLINE
from una_ref.studies.online_tables import MEASURES, PHASES
from una_ref.studies.summaries import over_worlds


def counted(count):
    return {"count": count, "of": 6, "share": count / 6}


def row(name, level, **more):
    """A row whose measures are all around one number."""
    measures = {measure: over_worlds([level, level + 0.1, level + 0.2]) for measure in MEASURES}
    worse = {"worse_than_base": counted(1), "truly_worse_than_base": counted(2)}
    about = {"name": name, "title": f"the {name}", "lr": 1e-2, "noise": over_worlds([level, 2 * level])}
    return about | measures | worse | more


def point(x):
    return {
        "kl": over_worlds([x, x]),
        "true_gain": over_worlds([x, 2 * x]),
        "proxy_gain": over_worlds([2 * x, 3 * x]),
    }


@pytest.fixture
def results():
    """Results of all three axes."""
    s = json.loads(json.dumps(dataclasses.asdict(OnlineSettings())))
    cost = {
        "seconds": {phase: over_worlds([0.1, 0.2]) for phase in PHASES},
        "memory": {phase: over_worlds([5.0, 6.0]) for phase in PHASES},
        "models": {"policy": 100, "reference": 0, "critic": 90},
        "updates": 4,
    }
    base = row("base", 0.3)
    del base["lr"], base["noise"]
    offsets = [
        row(entry, 0.1, offset=offset, retuned=retuned)
        for retuned, entries in ((False, s["offset_entries"]), (True, s["retuned"]))
        for entry in entries
        for offset in s["offsets"]
    ]
    curve = [{"step": step} | point(step / 100) for step in (0, 8, 16)]
    best = row("optimum", 0.2) | point(0.2)
    rewards = [
        {
            "reward": reward,
            "train_accuracy": over_worlds([0.9]),
            "test_accuracy": over_worlds([0.7]),
            "optimum": best,
            "frontier": [point(0.1), point(0.3)],
        }
        for reward in s["rewards"]
    ]
    proxies = [row(e, 0.1, reward=reward, curve=curve) for reward in s["rewards"] for e in s["proxy_entries"]]
    methods = [row(entry.name, 0.05 * (i + 1), **cost) for i, entry in enumerate(ENTRIES)]
    return {
        "methods": {"settings": s, "rows": [base, *methods]},
        "offset": {"settings": s, "base": base, "rows": offsets},
        "proxy": {"settings": s, "rows": proxies, "rewards": rewards},
    }


def test_methods_are_ordered_by_regret_and_costs_by_time(results):
    text = ONLINE.table(results)
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| the "))
    assert lines[first].startswith("| the ppo | 0.150 ± 0.248 | 0.150 | 1 of 6 | 0.150 ± 0.248 |")
    assert lines[first + 1].startswith("| the rloo | 0.200 ± 0.248 | 0.200 | 1 of 6 |")
    assert "| the base | 0.400 ± 0.248 | 0.400 |  |" in text  # it is not a run
    assert "| 2: policy = reference, critic | 190 | 4 | 150 ± 635 | 150 ± 635 | 150 ± 635 | 450 | 5.5 ± 6.4 |" in text
    assert "2,048 reward calls for each method; a reward model of 1,024 pairs" in text


def test_offsets_have_medians_and_all_their_runs_worse_than_the_base(results):
    text = ONLINE.table(results)
    assert "| regret (proxy) at offset | -4 | -2 | 0 | +2 | +4 | worse than π_ref |" in text
    cell = "0.200 ± 0.248 (0.200)"
    assert f"| the una-online, lr chosen at each offset |{f' {cell} |' * 5} 5 of 30 |" in text


def test_proxies_show_what_is_truly_worse(results):
    text = ONLINE.table(results)
    assert "| the truth | 0.900 | 0.700 | π̂\\*, its optimum |" in text
    assert "| the ppo | 0.400 ± 1.016 | 0.240 ± 1.016 | 0.160 ± 0.000 | 0.200 ± 0.248 | 0.200 | 2 of 6 |" in text
    assert text.count("| 0.240 at step 16 |") == 9


def test_rows_of_a_table_have_as_many_cells_as_its_head(results):
    lines = ONLINE.table(results).splitlines()
    pairs = [(a, b) for a, b in zip(lines, lines[1:], strict=False) if a.startswith("|") and b.startswith("|")]
    assert len(pairs) > 40 and all(a.count("|") == b.count("|") for a, b in pairs)


@pytest.mark.parametrize("axis", ["methods", "offset", "proxy"])
def test_a_figure_is_the_same_bytes_for_the_same_numbers(axis, results, tmp_path):
    draw = ONLINE.axes[axis].draw
    first, second = (draw(results[axis], tmp_path, name).read_bytes() for name in ("a", "b"))
    assert first == second and first.count(b"<path") > 50


def test_a_figure_has_its_axis_s_name(results, tmp_path):
    assert online_figures.draw_offset(results["offset"], tmp_path).name == "offset.svg"


def test_an_infinite_noise_is_drawn_and_shown(results, tmp_path):
    results["offset"]["rows"][0]["noise"] = over_worlds([math.inf, 1.0])
    assert online_figures.draw_offset(results["offset"], tmp_path).exists()
    assert "| inf |" in ONLINE.table({"offset": results["offset"]})
