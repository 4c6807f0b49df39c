"""The report of the online study on a real language model, from lines that are made up here."""

import pytest

from una_ref.studies import real_online_report as report
from una_ref.studies.real_report import drawn, over_items

TITLES = {"base": "base (π_ref)", "rloo": "RLOO", "una-online": "online UNA (Eq. 10)", "ppo": "PPO"}
SETTINGS = {
    "updates": 4,
    "tuning_updates": 2,
    "rollout": 3,
    "samples": 2,
    "new_tokens": 5,
    "prompts": 2,
    "curve_prompts": 1,
    "lora_r": 2,
    "beta": 0.5,
    "lrs": [0.1, 0.2],
    "seeds": [0, 1],
}


def point(update, rewards, held_out=None, kl=(0.0, 0.0)):
    found = {"update": update, "rewards": rewards, "kl": list(kl), "lengths": [4, 5]}
    return found | ({"held_out": held_out} if held_out else {})


def line(seed, *points, failed="", retrained=False, updates=4, memory=100.0):
    took = {name: [2.0, 4.0][: max(updates - 2, 0)] for name in (*report.PHASES, "wall")}
    return {
        "seed": seed,
        "lr": 0.1,
        "failed": failed,
        "retrained": retrained,
        "points": list(points),
        "train_rewards": [0.0] * updates,
        "took": took,
        "memory": {"generation": memory, "scoring": None, "learning": 2 * memory},
        "models": {"policy": 1000, "reference": 0, "reward model": 500},
        "passes": 1,
    }


BASE = [line(0, point(0, [1.0, 2.0], [0.0, 0.0]), updates=0), line(1, point(0, [3.0, 3.0], [1.0, 1.0]), updates=0)]


def made(**trained):
    lines = {"base": BASE} | {name.replace("_", "-"): found for name, found in trained.items()}
    rates = [
        {
            "name": "rloo",
            "title": "RLOO",
            "rates": [report.rate(0.1, None), report.rate(0.2, {"objective": 0.25, "failed": ""})],
        }
    ]
    rows = report.rows(lines, TITLES, 2)
    accuracies = {"training RM": over_items([[1.0, 0.0]])}
    return {
        "rows": rows,
        "rates": rates,
        "accuracies": accuracies,
        "settings": SETTINGS,
        "chosen": {"rloo": {"lr": 0.2}},
    }


def both(*rewards, **more):
    """Two seeds whose last point has these rewards by both reward models, and a first point between."""
    return [
        line(seed, point(2, [2.0, 2.0], [1.0, 1.0], (1.0, 1.0)), point(4, own, own, (2.0, 2.0)), **more)
        for seed, own in enumerate(rewards)
    ]


def test_a_policy_is_compared_with_the_base_and_with_ppo_of_the_same_seed_and_prompt():
    rows = made(rloo=both([2.0, 2.0], [4.0, 2.0]), ppo=both([1.0, 1.0], [1.0, 1.0]))["rows"]
    rloo, ppo = rows[1], rows[3]
    assert rloo["rewards"]["seeds"] == [0.5, 0.0]  # 2 − 1 and 2 − 2; 4 − 3 and 2 − 3
    assert rloo["held_out"]["seeds"] == [2.0, 2.0] and rloo["win_rate"]["mean"] == 1.0
    assert rloo["rewards_ppo"]["seeds"] == [1.0, 2.0] == rloo["held_out_ppo"]["seeds"]
    assert ppo["rewards_ppo"] is None and rows[0]["rewards"] is None
    assert rows[0]["rewards_mean"]["mean"] == 2.25 and rows[2]["finished"] == 0


def test_a_curve_has_the_points_that_every_seed_has():
    first, second = both([2.0, 2.0], [4.0, 2.0])
    second["points"] = [*second["points"][:1], point(3, [2.0, 2.0], [1.0, 1.0])]
    curve = made(rloo=[first, second])["rows"][1]["curve"]
    assert [each["update"] for each in curve] == [2]
    assert curve[0]["kl"]["mean"] == 1.0 and curve[0]["rewards"]["mean"] == -0.25


def test_times_leave_out_the_updates_whose_memory_was_measured():
    row = made(rloo=both([2.0, 2.0], [4.0, 2.0]))["rows"][1]
    assert row["took"]["learning"]["mean"] == 3.0 and row["took"]["learning"]["items"] == 2
    assert row["memory"] == {"generation": 100.0, "learning": 200.0}
    cells = next(text for text in report.table(made(rloo=both([2.0, 2.0], [4.0, 2.0]))) if "| 1,500 |" in text)
    assert "2: policy = reference, reward model" in cells and "| 9.0 |" in cells and "| 100 |  | 200 |" in cells


def test_costs_are_those_of_the_last_run_so_that_they_are_of_one_code():
    first, last = both([2.0, 2.0], [4.0, 2.0])
    first["memory"] = {"generation": 7.0, "scoring": 7.0, "learning": 7.0}
    first["took"] = {name: [9.0, 9.0] for name in first["took"]}
    row = made(rloo=[first, last])["rows"][1]
    assert row["memory"] == {"generation": 100.0, "learning": 200.0}
    assert row["took"]["learning"]["mean"] == 3.0 and row["took"]["learning"]["items"] == 2


def test_a_table_of_half_a_study_says_what_is_not_run():
    unjudged = [line(0, point(4, [2.0, 2.0], kl=(1.0, 3.0)))]
    text = "\n".join(report.table(made(rloo=unjudged)))
    rows = [row.split("|")[1:-1] for row in text.splitlines() if row.startswith("| RLOO ")]
    assert rows[0][1].strip() == "0.500 ± 0.980" and rows[0][2].strip() == "" and rows[0][4].strip() == "2.00 ± 1.96"
    assert text.count("| not run |") == 5  # una-online and PPO in two tables, and a learning rate
    assert "3 of 8 runs are finished" in text and "24 reward calls for each method" in text
    assert "| RLOO | 0.2 | 0.250 | ✓ |" in text and "The reward models are not trained yet" not in text


def test_runs_that_stopped_or_were_trained_again_are_marked():
    results = made(rloo=both([2.0, 2.0], [4.0, 2.0], failed="update 3: a loss is nan", retrained=True))
    text = "\n".join(report.table(results))
    assert "RLOO (stopped: not finite)" in text
    assert "2 of the rewards are of an adapter that was trained again" in text


def test_nothing_finished_is_a_table_and_a_figure(tmp_path):
    results = {"rows": report.rows({"base": []}, TITLES, 2), "rates": [], "accuracies": {}, "settings": SETTINGS}
    text = "\n".join(report.table(results | {"chosen": {}}))
    assert "0 of 8 runs are finished" in text and "The reward models are not trained yet" in text
    assert drawn(report.panels, (6.0, 5.0))(results, tmp_path, "empty").stat().st_size > 0


def test_the_figure_shows_finished_rows_and_is_the_same_each_time(tmp_path):
    draw = drawn(report.panels, (6.0, 5.0))
    results = made(rloo=both([2.0, 2.0], [4.0, 2.0]))
    first = draw(results, tmp_path, "one").read_bytes()
    assert first == draw(results, tmp_path, "two").read_bytes()
    more = made(rloo=both([2.0, 2.0], [4.0, 2.0]), ppo=both([1.0, 1.0], [1.0, 1.0]))
    assert first != draw(more, tmp_path, "three").read_bytes()


@pytest.mark.parametrize("held_out", [True, False])
def test_held_out_rewards_of_some_seeds_are_not_a_mean_of_all(held_out):
    first, second = both([2.0, 2.0], [4.0, 2.0])
    if not held_out:
        for each in second["points"]:
            del each["held_out"]
    row = made(rloo=[first, second])["rows"][1]
    assert len(row["held_out"]["seeds"]) == (2 if held_out else 1) and len(row["rewards"]["seeds"]) == 2
