"""The config: every key has a type with a range, and what could not run is refused before anything begins."""

from dataclasses import FrozenInstanceError, fields
from typing import Annotated, get_args, get_origin

import pytest

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import Config, field_types
from una_ref.training.exclusions import ONLINE
from una_ref.training.settings import GROUPS, key_groups, resolve

LOWEST = {
    "rows": 1,
    "vocabulary": 1,
    "steps": 1,
    "epochs": 0,
    "seed": 0,
    "batch": 1,
    "micro_tokens": 1,
    "lr": 0,
    "warmup": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "lora_r": 0,
    "lora_alpha": 0,
    "lora_dropout": 0,
    "l1": 0,
    "max_length": 2,
    "max_response": 1,
    "max_prompt": 1,
    "samples": 1,
    "passes": 1,
    "minibatches": 1,
    "replay": 0,
    "replay_batch": 0,
    "temperature": 0.01,
    "missing_eos_penalty": 0,
    "kl_target": 0,
    "kl_horizon": 1,
    "patience": 0,
    "value_lr": 0,
    "decay": 0,
    "refresh_every": 0,
    "refresh_mix": 0,
    "log_every": 1,
    "eval_every": 0,
    "save_every": 0,
    "held_out": 0,
    "mixture": 0,
}
"""The lowest value that each number takes."""


def method_of(key):
    """A method with which a key may differ from its default."""
    if key.startswith("kl_"):
        return "ppo"
    if key == "mixture":
        return "nash-md"
    return {"samples": "una-online", "refresh_mix": "tr-dpo"}.get(key, "iterative-dpo" if key in ONLINE else "dpo")


@pytest.mark.parametrize("key", LOWEST)
def test_every_number_has_a_lowest_value(key):
    low = LOWEST[key]
    Config(method=method_of(key), **{key: low})
    for bad in (low - 1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"^{key}: expected .*number at least {low}"):
            Config(method=method_of(key), **{key: bad})


@pytest.mark.parametrize(("key", "high"), [("warmup", 1), ("lora_dropout", 1), ("seed", 2**32 - 1)])
def test_some_numbers_have_a_highest_value(key, high):
    Config(method="dpo", **{key: high})
    with pytest.raises(InputError, match=f"^{key}: expected .* and at most {high}, got"):
        Config(method="dpo", **{key: high + 1})


def test_something_is_left_to_train_on():
    Config(method="dpo", held_out=0.99)
    with pytest.raises(InputError, match=r"held_out: expected a number at least 0 and below 1, got 1"):
        Config(method="dpo", held_out=1)


def test_no_number_is_left_without_a_range():
    def unbounded(kind):
        parts = () if get_origin(kind) is Annotated else get_args(kind)
        return kind in (int, float) or any(map(unbounded, parts))

    assert {name for name, kind in field_types().items() if unbounded(kind)} == {"threshold", "loss_kwargs"}
    # 0 itself is not allowed for rejection_beta.
    assert {f.name for f in fields(Config) if type(f.default) in (int, float)} <= LOWEST.keys() | {"rejection_beta"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("schedule", "polynomial", "one of cosine, linear, constant"),
        ("group", 1, "true or false"),
        ("model", None, "text"),
        ("batch", 2.5, "a whole number at least 1"),
        ("shape", {"hidden_size": "x"}, "names with values, each a whole number at least 1"),
        ("threshold", "high", "a finite number or median"),
    ],
)
def test_a_config_made_in_python_has_its_types_checked_too(key, value, expected):
    with pytest.raises(InputError, match=f"^{key}: expected {expected}, got"):
        Config(method="dpo", **{key: value})


def test_every_key_has_a_group_and_one_line_of_explanation():
    groups = key_groups()
    assert list(groups) == list(GROUPS.values())
    keys = [key for keys in groups.values() for key in keys]
    assert [key.name for key in keys] == [f.name for f in fields(Config) if f.name not in ("method", "loss_kwargs")]
    for key in keys:
        assert key.about.strip(), key.name
        assert key.about[-1] == "." and "\n" not in key.about, key.name


def test_a_config_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Config(method="dpo").steps = 3


@pytest.mark.parametrize("name", [*METHODS, "dpo"])
def test_every_method_has_a_loss_for_each_of_its_kinds(name):
    config = Config(method=name, loss_kwargs={"ptx": 0.1} if name == "ppo" else {})
    assert config.losses_by_kind == dict(METHODS[name].losses)
    for form in ("printed", "released"):
        other = getattr(METHODS[name], form)
        if other is None:
            with pytest.raises(InputError, match=f"{name} has no {form} form"):
                Config(method=name, form=form)
        else:
            assert Config(method=name, form=form).losses_by_kind == {METHODS[name].kinds[0]: other}


def test_no_loss_has_a_key_of_the_run_s_name():
    # One of the two could not be set.
    own = {f.name for f in fields(Config)}
    assert [(name, key) for name, method in METHODS.items() for key in method.hyperparameters if key in own] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dpo", "load_in_4bit=true"], "got no model"),
        (["dpo", "load_in_4bit=true", "model=x/y", "lora_r=0"], "got lora_r=0"),
        (["reward-model", "load_in_4bit=true", "model=x/y"], "than reward-model"),
        (["ppo", "load_in_4bit=true", "model=x/y"], "critic is a copy"),
        (["rloo", "load_in_4bit=true", "model=x/y", "engine=vllm"], "expected engine=hf, got vllm"),
        (["sft", "reference_model=x/y"], "sft has no reference"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        resolve(given[0], given[1:])
