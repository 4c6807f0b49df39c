"""The curves of a run's folder, and what is derived from its loss."""

import json
import math

import pytest

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import Config
from una_ref.training.curves import (
    falls_without_end,
    loss_at_start,
    quarters,
    read_curves,
    reward_is_zero_at_start,
)


def folder(path, lines, **config):
    path.mkdir(exist_ok=True)
    config = Config(method="dpo", **config).recorded()
    (path / "run.json").write_text(json.dumps({"config": config, "finished": False}))
    texts = (line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text("".join(texts))
    return path


def test_evaluations_and_steps_are_told_apart(tmp_path):
    lines = [{"step": 0, "eval_loss": 1.0}, {"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.8, "eval_loss": 0.7}]
    curves = read_curves(folder(tmp_path / "run", [*lines, '{"step": 3, "lo']))
    assert curves.values("loss") == [0.9, 0.8]
    assert curves.held_out("loss") == [1.0, 0.7]
    assert curves.first == {"step": 0, "loss": 1.0}
    assert curves.ends("loss") == (1.0, 0.7)


def test_without_evaluations_the_ends_are_quarters_of_the_log(tmp_path):
    lines = [{"step": n, "loss": float(n)} for n in range(1, 9)]
    curves = read_curves(folder(tmp_path / "run", lines))
    assert curves.ends("loss") == (1.5, 7.5)
    assert curves.first == lines[0]
    assert quarters([1.0, 2.0, 3.0]) is None


def test_a_log_that_begins_later_has_no_first_step(tmp_path):
    assert read_curves(folder(tmp_path / "run", [{"step": 5, "loss": 1.0}])).first is None


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a run's folder"):
        read_curves(tmp_path)
    with pytest.raises(InputError, match="expected a logged step"):
        read_curves(folder(tmp_path / "run", []))


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("dpo", math.log(2)),
        ("ipo", 1 / (2 * 0.1) ** 2),  # (0 − 1/(2β))²
        ("kto", 0.5),  # 1 − σ(0)
        ("apo-zero", 1.0),  # 1 − σ(0) + σ(0)
        ("una-score", None),  # s²
        ("sft", None),
    ],
)
def test_the_loss_at_the_start_is_that_of_reward_0(method, value):
    assert loss_at_start(Config(method=method)) == (value if value is None else pytest.approx(value, abs=1e-8))


def test_the_loss_at_the_start_follows_the_hyperparameters():
    assert loss_at_start(Config(method="ipo", loss_kwargs={"beta": 0.5})) == pytest.approx(1.0)
    assert loss_at_start(Config(method="dpo", reference_model="other")) is None


def test_only_rewards_with_a_reference_are_0_at_the_start():
    zero = {name for name in METHODS if reward_is_zero_at_start(Config(method=name))}
    assert {"una-pair", "una-score", "kto", "rloo"} <= zero
    assert not {"sft", "simpo", "reward-model"} & zero


def test_losses_with_a_finite_minimum_do_not_fall_without_end():
    endless = {name for name in METHODS if falls_without_end(Config(method=name))}
    assert {"una-pair", "dpop"} <= endless
    assert not {"ipo", "cdpo", "exo-pair", "sppo-hard", "kto"} & endless
