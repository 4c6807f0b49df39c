"""Names of TRL, of transformers and of earlier versions lead to the key of this package."""

import dataclasses

import pytest

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import field_types
from una_ref.training.hints import HINTS, PEERS, SAME
from una_ref.training.settings import resolve

LOSS_KEYS = {name for method in METHODS.values() for name in method.hyperparameters}
OPTIONS = {"--data", "--model", "--output", "--reward"}


@pytest.mark.parametrize("name", HINTS)
def test_a_hint_names_a_key_that_exists_for_a_name_that_does_not(name):
    assert name not in field_types().keys() | LOSS_KEYS
    key = HINTS[name].use.partition("=")[0]
    assert key in field_types().keys() | LOSS_KEYS | OPTIONS | {""}
    assert key or HINTS[name].note


@pytest.mark.parametrize("name", SAME)
def test_a_name_that_is_the_same_here_is_a_key(name):
    assert name in field_types().keys() | LOSS_KEYS


@pytest.mark.parametrize("peer", PEERS)
def test_every_option_of_a_peer_has_an_answer(peer):
    names = PEERS[peer]
    assert not {*names} - HINTS.keys() - SAME.keys() and len({*names}) == len(names)
    assert not SAME.keys() - {name for others in PEERS.values() for name in others}


def test_every_field_of_trls_configs_is_listed_and_no_other():
    trl = pytest.importorskip("trl")
    transformers = pytest.importorskip("transformers")
    configs = [getattr(trl, f"{name}Config") for name in ("SFT", "Reward", "DPO", "KTO", "GRPO", "RLOO")]
    inherited = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    fields = {field.name for config in configs for field in dataclasses.fields(config)} - inherited
    assert {*PEERS["TRL"]} == fields


@pytest.mark.parametrize("name", HINTS)
def test_a_value_that_a_hint_gives_is_taken(name):
    key, equals, value = HINTS[name].use.partition("=")
    if equals:
        assert str(getattr(resolve("rloo", [f"{key}={value}"]), key)) == value


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("learning_rate", "learning_rate: unknown key of dpo. Fix: use lr"),
        ("per_device_train_batch_size", "Fix: use batch (rows over all processes)"),
        ("gradient_accumulation_steps", "Fix: use micro_tokens (a batch is split by tokens; "),
        ("num_train_epochs", "Fix: use epochs"),
        ("max_steps", "Fix: use steps"),
        ("bf16", "Fix: use dtype=bfloat16"),
        ("optim", "Fix: use optimizer (adamw or adamw8bit)"),
        ("num_generations", "Fix: use samples"),
        ("max_completion_length", "Fix: use max_response"),
        ("loss_type", "Fix: name the method instead"),
        ("f_alpha_divergence_coef", "Fix: use alpha (of the method f-dpo: 1 minus that number)"),
        ("epsilon", "Fix: use ratio_clip (of grpo also ratio_clip_high, unless epsilon_high is set)"),
        ("epsilon_high", "Fix: use ratio_clip_high (with variant=cispo: that number minus 1)"),
        ("clip", "Fix: use max_grad_norm"),
        ("draws", "Fix: use samples"),
        ("hyper", "Fix: use loss_kwargs"),
    ],
)  # fmt: skip
def test_a_foreign_name_is_refused_with_its_hint(name, says, tmp_path, capsys):
    with pytest.raises(InputError) as refused:
        resolve("dpo", [f"{name}=1"])
    assert str(refused.value).startswith(f"{name}: unknown key of dpo. Fix: ") and says in str(refused.value)
    file = tmp_path / "mine.yaml"
    file.write_text(f"method: dpo\n{name}: 1\n")
    assert main(["train", "--config", str(file)]) == 2
    assert f"{file}: {name}: unknown key of dpo. Fix: " in capsys.readouterr().err
    for words in ([f"--{name}", "1"], [f"--{name}=1"]):
        with pytest.raises(SystemExit) as exit_:
            main(["train", "dpo", *words])
        assert exit_.value.code == 2
        assert says.partition("Fix: ")[2] in capsys.readouterr().err


def test_max_grad_norm_is_the_same_key_as_in_trl():
    assert resolve("dpo", ["max_grad_norm=0.5"]).max_grad_norm == 0.5
