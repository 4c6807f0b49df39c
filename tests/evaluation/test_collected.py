"""Runs and evaluations are found at any depth, with the method and model of their run."""

import json

import pytest

from una_ref.errors import InputError
from una_ref.evaluation.collected import HELD_OUT, collect
from una_ref.evaluation.store import Results, Score
from una_ref.training.config import Config


def write_run(folder, method, *, evaluation=None, finished=True, **keys):
    """The record of a run, as `una_ref.training.result.save` leaves it."""
    folder.mkdir(parents=True)
    config = Config(method=method, model="smollm2", **keys).to_dict()
    record = {"config": config, "finished": finished, "rows": {"trained": 400, "held_out": 100}}
    (folder / "run.json").write_text(json.dumps(record | {"evaluation": evaluation or {}}))
    return folder


def write_evaluation(folder, task, value, *, stderr=0.02, items=300, metric="acc_norm", shots=25, **more):
    score = Score(task, metric, value, stderr, items)
    about = {"model": "smollm2", "limit": 300, "chat": False} | more
    Results(folder).finish(task, [score], {"shots": shots, "judge": "small-judge"}, **about)


def test_an_evaluation_has_the_method_and_model_of_its_run(tmp_path):
    run = write_run(tmp_path / "study" / "a", "dpo", loss_kwargs={"beta": 0.2}, seed=3)
    write_evaluation(run / "evaluation", "arc", 0.3)
    [found] = collect([tmp_path])
    assert (found.method, found.online, found.model, found.beta, found.seed) == ("una-pair", False, "smollm2", 0.2, 3)
    assert (found.task, found.shots, found.limit, found.chat) == ("arc", 25, 300, False)
    assert found.judge == "small-judge"
    assert found.scores == (Score("arc", "acc_norm", 0.3, 0.02, 300),)


def test_a_model_without_a_run_is_the_base(tmp_path):
    write_evaluation(tmp_path / "smollm2", "arc", 0.3)
    [found] = collect([tmp_path])
    assert (found.method, found.online, found.model, found.setting) == ("base", None, "smollm2", "")


@pytest.mark.parametrize(
    ("method", "keys", "name", "online"),
    [
        ("una-score", {"form": "released"}, "una-score.released", False),
        ("una-score", {"shuffle": True}, "una-score.shuffled", False),
        ("una-centred", {"online": True}, "una-centred", True),
        ("ppo", {}, "ppo", True),
    ],
)
def test_form_control_and_sampling_are_part_of_the_method(tmp_path, method, keys, name, online):
    write_evaluation(write_run(tmp_path / "a", method, **keys) / "evaluation", "arc", 0.3)
    [found] = collect([tmp_path])
    assert (found.method, found.online) == (name, online)


def test_two_seeds_have_one_setting_and_two_learning_rates_have_two(tmp_path):
    for name, keys in {"a": {"seed": 0}, "b": {"seed": 1}, "c": {"seed": 0, "lr": 1e-4}}.items():
        write_evaluation(write_run(tmp_path / name, "kto", **keys) / "evaluation", "arc", 0.3)
    first, second, third = collect([tmp_path])
    assert first.setting == second.setting != third.setting


def test_a_finished_run_has_its_held_out_accuracy_with_the_error_of_a_share(tmp_path):
    write_run(tmp_path / "a", "ipo", evaluation={"rewards/accuracies": 0.6, "loss": 1.0})
    write_run(tmp_path / "b", "ipo", evaluation={"rewards/accuracies": 0.9}, finished=False)
    [found] = collect([tmp_path])
    score = found.score("accuracy")
    assert found.task == HELD_OUT and score.items == 100
    assert score.stderr == pytest.approx((0.6 * 0.4 / 100) ** 0.5)


def test_lines_of_a_study_have_the_method_of_their_entry_and_the_mean_over_items(tmp_path):
    def line(entry, seed, values):
        run = {"part": "scores", "entry": entry, "seed": seed, "lr": 3e-4}
        measured = {"metric": "acc_norm", "shots": 0, "chat": False, "items_by_name": ["0", "1", "2", "3"]}
        key = f"task/arc-4/scores/{entry}/seed={seed}"
        return {"key": key, "run": run, "task": "arc", "items": 4, **measured, "values": values, "date": "2026-01-02"}

    header = {"settings": {"beta": 0.1}, "base": "SmolLM2-135M-Instruct.Q4_1-b179c9523d0e, weights a672150fb4f99d7c"}
    trained = {"key": "train/scores/dpo", "entry": "dpo", "accuracy": 0.6}
    lines = [header, trained, line("base", 0, [1, 0, 0, 0]), line("dpo", 1, [1, 1, 1, 0])]
    lines += [line("una-score.released", 0, [0, 0, 0, 1])]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines) + '{"key": "cut')
    base, dpo, released = collect([tmp_path])
    assert (base.method, base.online, base.setting, base.beta) == ("base", None, "", None)
    assert (dpo.method, dpo.online, dpo.seed, dpo.beta) == ("una-pair", False, 1, 0.1)
    assert released.method == "una-score.released" and released.model == "SmolLM2-135M-Instruct.Q4_1"
    assert (dpo.shots, dpo.limit, dpo.chat, dpo.date) == (0, 4, False, "2026-01-02")
    score = dpo.score("acc_norm")
    assert (score.value, score.items) == (0.75, 4) and score.stderr == pytest.approx(0.25)  # sd 0.5 over root 4


def test_other_json_files_are_passed_over(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{not JSON")
    (tmp_path / "results.json").write_text(json.dumps({"rows": []}))
    assert collect([tmp_path]) == []


def test_a_record_that_is_cut_off_is_refused_with_its_name(tmp_path):
    (tmp_path / "arc.json").write_text('{\n "task": "arc", "scores": [')
    with pytest.raises(InputError, match=r"arc\.json: expected JSON"):
        collect([tmp_path])
    (tmp_path / "arc.json").write_text('{\n "task": "arc"}')
    with pytest.raises(InputError, match=r"arc\.json: expected the record of an evaluation, got .*KeyError"):
        collect([tmp_path])


def test_a_folder_that_is_not_there_is_refused_with_the_nearest_name(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="expected a folder with runs or evaluations.*did you mean .*runs"):
        collect([tmp_path / "run"])
