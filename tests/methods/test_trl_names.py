"""Every loss that a trainer of the installed TRL can be told to use is named by a record, or left out for a reason."""

import dataclasses
import inspect
import re

import pytest

from una_ref.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore")

LEFT_OUT = {
    ("SFTTrainer", "dft"): "no preference loss: imitation weighted by the probability of each token",
    ("SFTTrainer", "chunked_nll"): "deprecated: nll computed in parts",
    ("GRPOTrainer", "vespo"): "a weight for the whole response with four constants of its own",
    ("CPOTrainer", "ipo"): "IPO without a reference: in no paper",
    ("TPOTrainer", "ipo"): "IPO without a reference: in no paper",
    ("TPOTrainer", "hinge"): "slic without its imitation of the chosen response",
    ("OnlineDPOTrainer", "ipo"): "ipo on rollouts: iterative-dpo with another loss",
}
"""What has no record here, and why."""

TRAINERS_LEFT_OUT = {
    "AsyncGRPOTrainer": "grpo with sampling in another process",
    "AsyncDistillationTrainer": "distillation",
    "DistillationTrainer": "distillation",
    "GKDTrainer": "distillation: a divergence from a teacher's tokens",
    "GMPOTrainer": "grpo with ratio=sequence, each token's ratio clipped before the mean",
    "GOLDTrainer": "distillation between tokenizers",
    "IWOPDTrainer": "distillation on the policy's samples",
    "SDFTTrainer": "distillation from the policy's own answers to another prompt",
    "SDPOTrainer": "distillation from the policy's own answers after feedback",
    "ServerDistillationTrainer": "distillation",
}
"""Trainers whose losses learn from no preference, label or score, or that change how grpo runs."""


def choices(config):
    """The values of loss_type that a config offers in its metadata; () where it lists none."""
    return tuple(next(f for f in dataclasses.fields(config) if f.name == "loss_type").metadata.get("choices", ()))


def compared(trainer):
    """The values that a trainer's source compares its loss type with."""
    source = inspect.getsource(trainer)
    single = re.findall(r'loss_type == "([\w-]+)"', source)
    listed = re.findall(r"loss_type in \[([^\]]+)\]", source)
    return {*single, *(name for names in listed for name in re.findall(r'"([\w-]+)"', names))}


def offered():
    """(trainer, loss type) of every trainer of the installed TRL that has loss types."""
    import trl
    from trl.experimental import cpo, online_dpo, tpo

    found = {("DPOTrainer", name) for name in compared(trl.DPOTrainer)}
    found |= {("GRPOTrainer", name) for name in compared(trl.GRPOTrainer)}
    for trainer, config in (
        ("KTOTrainer", trl.KTOConfig),
        ("SFTTrainer", trl.SFTConfig),
        ("CPOTrainer", cpo.CPOConfig),
        ("TPOTrainer", tpo.TPOConfig),
        ("OnlineDPOTrainer", online_dpo.OnlineDPOConfig),
    ):
        assert choices(config)
        found |= {(trainer, name) for name in choices(config)}
    return found


def named():
    """(trainer, loss type) of every record, from its `trl`."""
    found = set()
    for method in METHODS.values():
        for part in method.trl.split("; "):
            trainer, _, setting = part.partition(", loss_type=")
            words = re.match(r"[\w-]+(?:(?:, | or )[\w-]+)*", setting)
            found |= {(trainer, word) for word in re.split(r", | or ", words[0])} if words else set()
    return found


def test_every_loss_type_of_trl_has_a_record_or_a_reason():
    missing = offered() - named() - set(LEFT_OUT)
    assert not missing
    assert {name for trainer, name in offered() if trainer == "DPOTrainer"} >= {"sigmoid", "aot_unpaired", "discopop"}
    assert len(offered()) > 35


def test_no_reason_is_given_for_a_loss_that_has_a_record_or_that_trl_does_not_have():
    assert offered() >= set(LEFT_OUT)
    assert not named() & set(LEFT_OUT)


def test_every_trainer_of_trl_has_a_record_or_a_reason():
    import pkgutil

    import trl
    from trl import experimental

    core = {name for name in dir(trl) if name.endswith("Trainer")}
    # Folders without a module of that name are aliases of core trainers.
    extra = set()
    for module in pkgutil.iter_modules(experimental.__path__):
        folder = experimental.__path__[0] + f"/{module.name}"
        for file in pkgutil.iter_modules([folder]):
            if file.name.endswith("_trainer"):
                with open(f"{folder}/{file.name}.py") as source:
                    extra |= set(re.findall(r"^class ([A-Z]\w*Trainer)\(", source.read(), re.M))
    written = " ".join(method.trl for method in METHODS.values())
    pending = {"KTOTrainer", "RewardTrainer", "ORPOTrainer"}
    missing = {name for name in core | extra if name not in written} - set(TRAINERS_LEFT_OUT) - pending
    assert not missing
    assert set(TRAINERS_LEFT_OUT) <= core | extra and {"DPOTrainer", "CPOTrainer"} <= core | extra


def test_f_divergences_of_trl_are_those_of_f_dpo():
    import trl

    source = inspect.getsource(trl.DPOTrainer)
    names = set(re.findall(r'f_divergence_type == "(\w+)"', source))
    assert names == {"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"}
    assert all(name in METHODS["f-dpo"].trl for name in names - {"reverse_kl"})


def test_defaults_are_those_of_trl_or_of_the_paper():
    import trl
    from trl.experimental import tpo

    config = {f.name: f.default for f in dataclasses.fields(trl.DPOConfig)}
    by_trl = [name for name, method in METHODS.items() if method.trl.startswith("DPOTrainer, loss_type=")]
    own = {"sigmoid-norm": 5.0, "una-binary-bce": 0.01}  # of Tülu 3, and of UNA
    assert len(by_trl) > 10
    for name in by_trl:
        assert METHODS[name].hyperparameters["beta"] == own.get(name, config["beta"])
    assert METHODS["discopop"].hyperparameters["tau"] == config["discopop_tau"]
    assert METHODS["exo-pair"].hyperparameters["label_smoothing"] == 1e-3  # as the paper and TRL recommend
    assert METHODS["robust-dpo"].hyperparameters["label_smoothing"] == 0.1
    triples = {f.name: f.default for f in dataclasses.fields(tpo.TPOConfig)}
    assert METHODS["tpo"].hyperparameters == {"beta": triples["beta"], "gold_weight": triples["tpo_alpha"]}
    grpo = {f.name: f.default for f in dataclasses.fields(trl.GRPOConfig)}
    ours = METHODS["grpo"].hyperparameters
    assert ours["ratio_clip"] == grpo["epsilon"] and ours["ratio"] == grpo["importance_sampling_level"]
    assert ours["scale_rewards"] == grpo["scale_rewards"] and ours["kl_estimate"] == "weighted"
    assert (ours["temperature_positive"], ours["temperature_negative"]) == (
        grpo["sapo_temperature_pos"],
        grpo["sapo_temperature_neg"],
    )
    assert ours["beta"] == 0.04  # the GRPO paper; TRL's default is 0, here kl_estimate=none
