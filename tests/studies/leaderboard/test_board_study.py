"""The study: what is chosen, written, resumed, refused; the same rows whatever the number of processes."""

import json
import math
from dataclasses import replace

import pytest

from una_ref.errors import InputError
from una_ref.studies.engine import carry_out
from una_ref.studies.leaderboard import board_tables
from una_ref.studies.leaderboard.board_rows import compared
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_study import FROZEN, LEADERBOARD, leaders
from una_ref.studies.leaderboard.board_summaries import summed


def lines(folder):
    """The runs in a folder by key, without their times."""
    rows = [json.loads(line) for line in (folder / "runs.jsonl").read_text("utf-8").splitlines()[1:]]
    return {row["key"]: {key: value for key, value in row.items() if key != "seconds"} for row in rows}


def test_the_results_have_the_shape_of_the_docstring(finished, tiny):
    _, results = finished
    board = results["board"]
    assert [(row["name"], row["budget"]) for row in board["rows"]] == [
        (name, budget) for budget in tiny.budgets for name in tiny.entries
    ]
    assert [row["name"] for row in board["references"]] == ["base", "proxy", "proxy", "ascent", "optimum"]
    assert board["about"].keys() == board["efficiency"].keys() == {*tiny.entries}
    assert board["axes"].keys() == FROZEN.keys()
    for row in board["rows"]:
        for name in board["measures"]:
            assert row[name] is None or len(row[name]["values"]) == len(tiny.seeds)
        assert row["to_dpo"]["mean"] == pytest.approx(row["regret"]["mean"] - dpo_at(board, row["budget"]))
    optimum = board["references"][-1]
    assert optimum["regret"]["mean"] == pytest.approx(0.0, abs=1e-12)
    assert (optimum["kl_to_optimum"]["mean"], board["references"][0]["share"]) == (0.0, 1.0)


def dpo_at(board, budget):
    return next(r for r in board["rows"] if (r["name"], r["budget"]) == ("una-pair", budget))["regret"]["mean"]


def test_results_are_json_that_a_browser_reads(finished):
    folder, results = finished
    text = (folder / "results.json").read_text("utf-8")
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) == results


def test_online_rows_have_a_best_checkpoint_and_others_do_not(finished):
    rows = {row["name"]: row for row in finished[1]["board"]["rows"]}
    assert rows["una-pair"]["best_regret"] is None
    assert rows["rloo"]["best_regret"]["mean"] <= rows["rloo"]["regret"]["mean"]


def test_table_and_figures_are_written_for_every_axis(finished):
    folder, results = finished
    assert {path.stem for path in folder.glob("*.svg")} == {*finished[1]}
    table = (folder / "table.md").read_text("utf-8")
    assert table == LEADERBOARD.table(results)
    for heading in ("### Exact regret", "### Reward and KL by β", "### Label noise"):
        assert heading in table


def test_axes_have_the_rows_that_they_act_on(finished):
    _, results = finished
    assert {row["name"] for row in results["positive_share"]["rows"]} == {"una-binary-bce"}
    assert {row["name"] for row in results["sharpness"]["rows"]} <= {"una-pair", "rloo.rm", "sft"}
    assert results["sharpness"]["levels"] == [1.0, 2.0, 8.0, "inf"]
    assert len(results["label_noise"]["base"]) == 4


def test_rows_with_exact_scores_are_tuned_and_measured_with_exact_scores(finished, tiny):
    folder, results = finished
    exact = results["exact_scores"]
    assert {row["name"] for row in exact["rows"]} == {"una-pair", "una-centred", "rloo"}
    found = [line for line in lines(folder).values() if line["axis"] == "score_noise"]
    tuning = [line for line in found if line["seed"] in tiny.tuning_seeds]
    assert {line["level"] for line in found} == {0.0} and {line["budget"] for line in tuning} == {1024}
    for name, setting in exact["chosen"].items():
        best = min((line for line in tuning if line["entry"] == name), key=lambda line: line["regret"])
        assert (setting["lr"], setting["tuning_regret"]) == (best["lr"], best["regret"])


def test_a_transformer_is_tuned_and_measured_beside_the_mlp_on_the_same_worlds(finished, tiny):
    folder, results = finished
    tiny_lm, board = results["tiny_lm"], results["board"]
    assert {row["name"] for row in tiny_lm["rows"]} == {"una-pair", "una-centred", "rloo"}
    found = [line for line in lines(folder).values() if line["axis"] == "layers"]
    assert {line["level"] for line in found} == {2} and {line["budget"] for line in found} == {0, 32}
    assert {line["seed"] for line in found} == {*tiny.tuning_seeds, *tiny.axis_seeds}
    on_board = {row["name"]: row["regret"]["values"][:1] for row in board["rows"] if row["budget"] == 32}
    for row, mlp in zip(tiny_lm["rows"], tiny_lm["mlp"], strict=True):
        assert row["name"] == mlp["name"]
        assert mlp["regret"]["values"] == on_board[row["name"]] != row["regret"]["values"]
    assert -1 <= tiny_lm["order"] <= 1


def test_differences_to_replay_are_paired_by_world(tiny, tmp_path):
    fewer = replace(tiny, entries=("una-centred.replay", "rloo"))
    exact = carry_out(LEADERBOARD, tmp_path, settings=fewer, workers=1, axes=("exact_scores",))["exact_scores"]
    of = {row["name"]: row["regret"]["values"] for row in exact["rows"]}
    gaps = {row["name"]: row["to_replay"]["values"] for row in exact["rows"]}
    replayed = of["una-centred.replay"]
    assert gaps["una-centred.replay"] == [0.0, 0.0]
    assert gaps["rloo"] == [of["rloo"][0] - replayed[0], of["rloo"][1] - replayed[1]] != [0.0, 0.0]


def test_an_axis_has_the_rows_of_the_board_at_its_level(finished):
    _, results = finished
    for name in results["board"]["leaders"]:
        on_axis = next(r for r in results["label_noise"]["rows"] if r["name"] == name and r["level"] == 0.0)
        on_board = next(r for r in results["board"]["rows"] if r["name"] == name and r["budget"] == 32)
        assert on_axis["regret"]["values"] == on_board["regret"]["values"][:1]


def test_a_killed_study_resumes_to_the_same_rows(finished, tiny, tmp_path):
    folder, results = finished
    whole = (folder / "runs.jsonl").read_text("utf-8")
    half = whole[: len(whole) // 2]  # the last line is cut in the middle, as a killed process leaves it
    (tmp_path / "runs.jsonl").write_text(half)
    again = carry_out(LEADERBOARD, tmp_path, settings=tiny, workers=1, axes=tuple(finished[1]))
    assert lines(tmp_path) == lines(folder)
    assert again["board"]["rows"] == results["board"]["rows"]


def test_two_processes_compute_the_rows_of_one(finished, tiny, tmp_path):
    folder, _ = finished
    fewer = replace(tiny, entries=("una-pair", "rloo"), seeds=(0,), budgets=(32,))
    carry_out(LEADERBOARD, tmp_path, settings=fewer, workers=2, axes=("board",))
    known = lines(folder)
    found = lines(tmp_path)
    assert len(found) > 4 and found == {key: known[key] for key in found}


# ---- leaders and differences


def rows_of(tiny, **means):
    made = [{"name": name, "budget": 32, "regret": summed([mean, mean + 0.5])} for name, mean in means.items()]
    return made


def chosen_of(**regrets):
    return {name: {"lr": 1e-3, "factors": [1.0], "tuning_regret": regret} for name, regret in regrets.items()}


def led(tiny, leaders_, **regrets):
    return leaders(chosen_of(**regrets), replace(tiny, leaders=leaders_, entries=tuple(regrets)))


def test_leaders_are_the_best_row_the_known_ones_and_the_best_of_each_kind(tiny):
    regrets = {"una-pair": 0.9, "cdpo": 0.8, "ipo": 0.85, "kto": 0.95, "una-binary-bce": 0.7, "rloo": 0.1, "dro": 0.3}
    assert led(tiny, 8, **regrets) == ["rloo", "dro", "una-binary-bce", "cdpo", "ipo", "una-pair", "kto"]
    assert led(tiny, 5, **regrets) == ["rloo", "dro", "una-binary-bce", "cdpo", "una-pair"]
    assert led(tiny, 3, **regrets) == ["rloo", "dro", "una-pair"]


def test_a_control_is_no_leader(tiny):
    assert led(tiny, 2, **{"una-centred.large": 0.1, "una-centred": 0.5, "una-pair": 0.6}) == [
        "una-centred",
        "una-pair",
    ]


def test_the_best_row_leads_whatever_its_kind(tiny):
    """With all kinds of feedback there are more best rows than places."""
    known = {"una-pair": 0.5, "una-centred": 0.51, "ppo": 0.52, "kto": 0.53, "una-score": 0.54, "rebel": 0.55}
    assert led(tiny, 3, **known, **{"lipo": 0.56, "rloo.rm": 0.1})[0] == "rloo.rm"


def test_methods_with_the_same_regret_are_one_leader(tiny):
    assert led(tiny, 3, **{"una-pair": 0.9, "f-dpo": 0.9, "token-dpo": 0.9, "kto": 0.95}) == ["una-pair", "kto"]


def test_differences_are_to_the_best_row_and_to_dpo(tiny):
    rows = rows_of(tiny, **{"una-pair": 0.9, "kto": 0.7, "ipo": 0.8})
    compared(rows)
    assert [round(row["to_best"]["mean"], 9) for row in rows] == [0.2, 0.0, 0.1]
    assert [round(row["to_dpo"]["mean"], 9) for row in rows] == [0.0, -0.2, -0.1]


def test_a_row_that_failed_is_compared_with_none(tiny):
    rows = [*rows_of(tiny, **{"una-pair": 0.9}), {"name": "kto", "budget": 32, "regret": summed([math.nan, 0.1])}]
    compared(rows)
    assert rows[0]["to_dpo"]["mean"] == 0.0
    assert rows[1]["to_best"] is rows[1]["to_dpo"] is None
    assert [row["name"] for row in board_tables.by_regret(rows)] == ["una-pair", "kto"]


# ---- what is refused


@pytest.mark.parametrize("name", ["seeds", "lrs", "factors", "budgets", "entries", "tuning_seeds"])
def test_an_empty_grid_is_refused(name):
    with pytest.raises(InputError, match=f"leaderboard: {name}: expected at least one value, got none"):
        replace(LeaderboardSettings(), **{name: ()})


def test_a_budget_below_two_rollouts_is_refused():
    with pytest.raises(InputError, match="budgets: expected at least 128, two rollouts, got 64"):
        replace(LeaderboardSettings(), budgets=(64, 1024))


def test_an_unknown_axis_is_refused_before_anything_runs(tiny, tmp_path):
    with pytest.raises(InputError, match="axis noise: expected board, exact_scores, tiny_lm, alarms, frontier"):
        carry_out(LEADERBOARD, tmp_path / "new", settings=tiny, axes=("noise",))
    assert not (tmp_path / "new").exists()


def test_a_base_policy_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="base toysteer: expected none"):
        carry_out(LEADERBOARD, tmp_path / "new", settings=tiny, base="toysteer")


def test_runs_of_another_protocol_are_refused(finished, tiny):
    folder, _ = finished
    with pytest.raises(InputError, match="expected runs of"):
        carry_out(LEADERBOARD, folder, settings=replace(tiny, protocol=0), axes=("board",))


def test_results_of_another_version_are_refused(tiny, tmp_path):
    (tmp_path / "results.json").write_text('{"frontier": {"rows": [{"name": "old"}]}}')
    with pytest.raises(InputError, match="expected results of this version"):
        carry_out(LEADERBOARD, tmp_path, settings=tiny, axes=("board",))
