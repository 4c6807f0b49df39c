"""A base policy: what it is called, and what cannot be one."""

import shutil

import pytest
import torch

from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.studies.toysteer_policies import base_in_world, base_name, checked_base, failure, response_tree
from una_ref.training.trainer import NonFinite


def test_a_base_is_called_by_its_folder_and_its_weights(tmp_path):
    names = []
    for weights in (b"one", b"two"):
        base = tmp_path / weights.decode() / "base"
        base.mkdir(parents=True)
        (base / "model.safetensors").write_bytes(weights)
        names.append(base_name(base))
    # SHA-256 of "one" begins with 7692c3ad3540bb80.
    assert names[0] == "base, weights 7692c3ad3540bb80" and names[0] != names[1]


def test_the_base_in_a_world_gives_every_response_a_probability(toysteer_base):
    world, next_logps, logps = base_in_world(0, toysteer_base)
    assert torch.allclose(logps.exp().sum(1), torch.ones(world.size).double(), atol=1e-12)
    assert torch.equal(logps, response_tree().sequence_logps(next_logps))
    assert base_in_world(0, toysteer_base, 2.0).world.rewards.std() == pytest.approx(float(world.rewards.std()) / 2)


def test_the_shipped_base_is_one(toysteer_base):
    assert checked_base(toysteer_base) == toysteer_base


def test_a_folder_without_weights_is_no_base(tmp_path):
    with pytest.raises(InputError, match="base .*: expected a folder with model.safetensors, got none"):
        checked_base(tmp_path)


def test_a_base_with_another_tokenizer_is_refused(tmp_path, toysteer_base):
    base = shutil.copytree(toysteer_base, tmp_path / "base")
    words = base / "tokenizer.json"
    words.write_text(words.read_text("utf-8").replace('"sort"', '"order"'), "utf-8")
    with pytest.raises(InputError, match="expected ToySteer's tokenizer, got another one"):
        checked_base(base)


def test_a_base_that_may_emit_words_of_the_prompt_is_refused(tmp_path, toysteer_base):
    base = shutil.copytree(toysteer_base, tmp_path / "base")
    model, _ = loading.load(str(base))
    model.generation_config.suppress_tokens = [6]
    model.save_pretrained(base)
    with pytest.raises(InputError, match=r"expected a generation config that suppresses .* got \(6,\)"):
        checked_base(base)


def test_a_failure_is_what_was_not_finite():
    def fails():
        raise NonFinite("a loss is nan", [])

    assert failure(fails) == "a loss is nan" and failure(lambda: None) == ""
