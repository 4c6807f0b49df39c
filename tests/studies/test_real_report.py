"""The report of the study on a real language model, from lines that are made up here."""

import math

import pytest

from una_ref.studies import real_report as report

HITS = {name: [1.0, 1.0, 0.0, 1.0] for name in report.JUDGED}
SETTINGS = {
    "sizes": {"scores": {"train": 8, "held_out": 2}, "tuning": {"train": 4, "held_out": 4}},
    "prompts": 3,
    "new_tokens": 5,
    "batch": 4,
    "lora_r": 2,
    "beta": 0.5,
    "lrs": [0.1, 0.2],
    "seeds": [0, 1],
}


def line(seed, rewards, margins=None, kl=(0.0, 0.0, 0.0), failed=""):
    found = {"seed": seed, "lr": 0.1, "failed": failed, "kl": list(kl), "lengths": [4, 5, 3], "rewards": rewards}
    found["retrained"] = seed == 1 and rewards == [7.0, 7.0, 7.0]
    return found | ({"margins": margins} if margins else {})


def made(dpo, judged=HITS):
    base = [line(0, [1.0, 2.0, 3.0]), line(1, [0.0, 0.0, 0.0])]
    rows = [
        report.row("base", "base (π_ref)", base),
        report.row("dpo", "DPO", dpo),
        report.row("kto", "KTO", [None, None]),
    ]
    report.against_base(rows)
    judge = report.judge(judged) if judged else None
    return {"part": "scores", "rows": rows, "judge": judge, "settings": SETTINGS}


def test_an_interval_is_over_items_whose_values_are_averaged_over_seeds():
    found = report.over_items([[0.0, 1.0], [1.0, 2.0]])  # items 0.5 and 1.5: standard deviation √½
    assert found["mean"] == 1.0 and found["seeds"] == [0.5, 1.5] and found["items"] == 2
    assert found["ci95"] == pytest.approx(1.96 * math.sqrt(0.5) / math.sqrt(2))
    assert math.isnan(report.over_items([[3.0]])["ci95"])


def test_samples_are_compared_with_the_base_s_of_the_same_seed():
    results = made([line(0, [2.0, 2.0, 2.0], [1.0, -1.0]), line(1, [1.0, -1.0, 1.0], [1.0, 1.0])])
    dpo = results["rows"][1]
    # Seed 0: a win, a tie, a loss; seed 1: a win, a loss, a win.
    assert dpo["win_rate"]["seeds"] == pytest.approx([0.5, 2 / 3]) and dpo["win_rate"]["mean"] == pytest.approx(7 / 12)
    assert dpo["reward"]["seeds"] == pytest.approx([0.0, 1 / 3])
    assert dpo["accuracy"]["seeds"] == [0.5, 1.0] and dpo["margin"]["mean"] == 0.5
    assert "rewards" not in dpo and results["rows"][0]["win_rate"] is None


def test_a_table_of_half_a_study_says_what_is_not_run():
    results = made([line(0, None, [1.0, -1.0], kl=(1.0, 2.0, 3.0)), None], judged=None)
    text = "\n".join(report.table(results))
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert "not run" in rows["KTO"] and "not run" not in rows["DPO"]
    assert rows["DPO"].split("|")[-2].strip() == "1" and rows["base (π_ref)"].split("|")[-2].strip() == "2"
    assert "2.00 ±" in rows["DPO"] and "3 of 6 runs are finished" in text
    assert "The reward model is not trained yet" in text
    assert results["rows"][1]["win_rate"] is None


def test_a_whole_table_names_the_judge_s_own_accuracy_and_runs_that_stopped():
    results = made([line(0, [2.0, 2.0, 2.0], [1.0, -1.0], failed="step 3: a loss is nan"), None])
    text = "\n".join(report.table(results))
    assert "LLMBar 0.750 ± 0.490" in text and "DPO (stopped: not finite)" in text
    assert "0.500 ±" in text and "reward model is not trained" not in text


def test_a_win_rate_of_an_adapter_trained_to_other_bytes_is_marked():
    again, same = ([line(0, [2.0] * 3, [1.0, -1.0]), line(1, [reward] * 3, [1.0, 1.0])] for reward in (7.0, 6.0))
    assert report.table(made(again))[-1].startswith("1 of the win rates are of an adapter that was trained again")
    assert "trained again" not in "\n".join(report.table(made(same)))


def test_the_figure_shows_finished_rows_and_is_the_same_each_time(tmp_path):
    results = made([line(0, [2.0, 2.0, 2.0], [1.0, -1.0]), None])
    first = report.drawn(report.panels)(results, tmp_path, "one").read_bytes()
    assert first == report.drawn(report.panels)(results, tmp_path, "two").read_bytes()
    fewer = made([None, None])
    assert first != report.drawn(report.panels)(fewer, tmp_path, "three").read_bytes()
