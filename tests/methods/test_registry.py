"""Lookup of methods, and the facts that their records state."""

import inspect
import json

import pytest
import torch

from una_ref.errors import InputError
from una_ref.methods import (
    KINDS,
    METHODS,
    UnknownMethod,
    cringe,
    describe,
    policy_gradient,
    rewards,
    shapes,
    table,
)
from una_ref.methods.arguments import ARGUMENTS, PAIRED, Need, argument, hyperparameters, names, needs, requires, sided
from una_ref.methods.method import HYPERPARAMETERS
from una_ref.methods.tokens import tdpo2_printed

F64 = torch.float64


def both_sides(name):
    """An argument's names in a loss on pairs."""
    return sided(name, "chosen"), sided(name, "rejected")


each_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)


def arguments_of(loss):
    return inspect.signature(loss).parameters


def test_method_is_found_by_name_and_alias():
    assert list(METHODS)[:2] == ["sft", "una-pair"]
    assert len(METHODS) == len(list(METHODS)) == len(table())
    assert METHODS["dpo"] is METHODS["una-pair"]
    assert "dpo" in METHODS and "ppo?" not in METHODS
    with pytest.raises(TypeError):
        METHODS["new"] = METHODS["dpo"]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("una_score", "una-score"), ("DPO", "dpo"), ("una-center", "una-centred"), ("ktoo", "kto")],
)
def test_misspelt_method_name_suggests_the_closest(wrong, near):
    with pytest.raises(UnknownMethod) as error:
        METHODS[wrong]
    assert str(error.value) == f"no method is called {wrong!r}; did you mean {near}?"
    assert isinstance(error.value, KeyError) and isinstance(error.value, InputError)


def test_unknown_method_name_lists_all_methods():
    with pytest.raises(UnknownMethod, match=r"expected one of sft, una-pair, .*, reward-model, .*dpo"):
        METHODS["zzzz"]


@each_method
def test_method_record_has_known_kinds_axes_and_errata(method):
    assert set(method.kinds) <= set(KINDS) and method.loss is method.losses[method.kinds[0]]
    assert all(identifier[:2] in ("EU", "EP", "ES") for identifier in method.errata)
    for function in method.functions:
        assert all(method.meaning(name) for name in hyperparameters(function) if name in method.hyperparameters)
    for form in (method.printed, method.released):
        names = set(arguments_of(form) if form else ())
        # The authors' online loss takes the rollout policy in place of the reference.
        shared = set(arguments_of(method.loss)) - ({"ref_logps", "baseline"} if method.name == "una-online" else set())
        past = {"old_logps", "groups"}  # a form may compare with the sampler, or with the prompt's other responses
        assert form is None or names - past in (shared - past, set(arguments_of(method.loss)) - past)
    with pytest.raises(TypeError):
        method.losses["demos"] = method.loss


@each_method
def test_losses_of_a_method_share_default_hyperparameters(method):
    # Feedback of several kinds in one batch is about one reward, so it needs one β. Other forms are compared with it.
    for form in filter(None, (*method.losses.values(), method.printed, method.released)):
        expected = {**method.hyperparameters, **({"alpha": 1.0} if form is tdpo2_printed else {})}  # Eq. 28 has no α
        for name, parameter in arguments_of(form).items():
            assert name not in expected or parameter.default == expected[name]


def test_scorers_are_the_methods_that_train_no_policy():
    scorers = {method.name for method in METHODS.values() if method.scorer}
    assert scorers == {"reward-model", "reward-model-margin", "soft-reward-model"}


def test_method_needs_a_reference_if_any_of_its_functions_takes_one():
    assert not METHODS["sft"].needs_reference and not METHODS["reward-model"].needs_reference
    assert METHODS["dpo"].needs_reference and METHODS["ppo"].needs_reference  # PPO's advantages name it


def test_paired_argument_is_named_after_its_response():
    assert (
        sided("logps", "chosen") == "chosen_logps"
        and sided("ref_token_logps", "rejected") == "ref_rejected_token_logps"
    )
    assert sided("second_ref_logps", "rejected") == "second_ref_rejected_logps"
    assert PAIRED["ref_chosen_logps"] == ("ref_logps", "chosen") and PAIRED["rejected_mask"] == ("mask", "rejected")
    assert "chosen_margins" not in PAIRED and argument("chosen_token_logps") is ARGUMENTS["token_logps"]
    assert argument("beta") is None


def test_loss_arguments_determine_what_a_run_computes():
    assert needs([METHODS["dpo"].loss]) == {Need.REFERENCE}
    assert needs([METHODS["d2o"].loss]) == {Need.REFERENCE, Need.SECOND_REFERENCE, Need.SCORES}
    assert needs([METHODS["kto"].loss]) == {Need.REFERENCE, Need.KL}
    assert needs([METHODS["rloo"].loss]) == {Need.REFERENCE, Need.SCORES, Need.GROUP, Need.BASELINE}
    assert needs([METHODS["ppo"].loss]) == {Need.TOKENS, Need.ROLLOUT, Need.CRITIC}
    assert needs([METHODS["reward-model"].loss]) == needs([METHODS["sft"].loss]) == frozenset()


def test_loss_with_an_unknown_argument_is_refused():
    def loss(*, logps, weights, beta=0.1):
        return logps

    with pytest.raises(TypeError, match=r"loss: expected arguments out of logps, .* got 'weights'"):
        hyperparameters(loss)


@each_method
def test_method_record_baseline_matches_its_loss(method):
    default = arguments_of(method.loss).get("baseline")
    if default is None:
        assert method.baseline == "none"
    else:
        assert method.baseline == ("constant" if default.default == 0.0 else "prompt")
    assert all(method.baseline == "prompt" for loss in method.losses.values() if requires(loss, "baseline"))


@each_method
def test_method_reward_takes_only_known_arguments(method):
    function = method.reward.function
    known = {*ARGUMENTS, *method.hyperparameters}
    assert function is None or names(function) <= known


def test_invariance_is_of_every_batch_or_of_the_expected_step_or_neither():
    names = ("una-centred", "rloo", "una-online", "reinforce", "una-score", "ppo", "kto")
    assert [METHODS[name].invariance for name in names] == ["yes", "yes", *["in expectation"] * 2, *["no"] * 3]
    assert not any(method.shift_invariant and method.invariant_in_expectation for method in METHODS.values())


OF_TRL = {"beta": 0.1}
"""Of TRL's trainers for pairs, labels and odds ratios; DPO's paper has it, too."""
OF_UNA, OF_UNA_LABELS = {"beta": 0.03}, {"beta": 0.01}
"""Of UNA's code (CU14)."""
DEFAULTS = {
    **dict.fromkeys(("una-pair", "ipo", "tr-dpo", "sdpo", "paft", "iterative-dpo", "self-rewarding"), OF_TRL),
    **dict.fromkeys(("nca-pair", "sppo-hard", "apo-zero", "apo-down", "bco", "npo", "nash-md", "dno"), OF_TRL),
    **dict.fromkeys(("token-dpo", "tdpo", "wpo"), OF_TRL),
    **dict.fromkeys(("una-score", "una-centred", "una-online", "reinforce", "rloo"), OF_UNA),
    **dict.fromkeys(("una-binary-mse", "una-binary-bce"), OF_UNA_LABELS),
    **dict.fromkeys(("kto", "apo-zero-unpaired"), OF_TRL | {"desirable_weight": 1.0, "undesirable_weight": 1.0}),
    **dict.fromkeys(("cdpo", "robust-dpo"), OF_TRL | {"label_smoothing": 0.1}),  # Mitchell 2023
    **dict.fromkeys(("aot", "aot-unpaired"), OF_TRL | {"label_smoothing": 0.0}),  # TRL
    "exo-pair": OF_TRL | {"label_smoothing": 0.001},  # TRL
    "f-dpo": OF_TRL | {"divergence": "reverse_kl", "alpha": 0.5},  # TRL: f_alpha_divergence_coef
    "iupo": OF_TRL | {"divergence": "js", "alpha": 0.5},  # UPO's divergence
    "discopop": OF_TRL | {"tau": 0.05},  # TRL: discopop_tau
    "dpop": {"beta": 0.3, "lam": 50.0},  # Pal et al. 2024
    "beta-dpo": OF_TRL | {"alpha": 0.6, "filtering": 1.0},  # Wu et al. 2024: α
    "gpo": OF_TRL | {"function": "logistic"},  # DPO
    "rso": OF_TRL | {"function": "hinge_norm"},  # Liu et al. 2023: the loss
    "r-dpo": OF_TRL | {"alpha": 0.01},
    "rpo": OF_TRL | {"eta": 1.0, "distance": "backward_kl"},
    "simpo": {"beta": 2.0, "gamma": 1.0},  # the authors' README: β = 2, γ/β = 0.5
    "alpha-po": {"beta": 2.0, "gamma": 1.0, "alpha": 0.25},  # SimPO's β and γ
    "tpo": {"beta": 0.01, "gold_weight": 1.0},  # Saeidi et al. 2024
    "tpo-l": {"beta": 2.0, "gamma": 1.0, "gold_weight": 1.0},  # SimPO's β and γ
    "cpo": OF_TRL | {"lam": 1.0},  # TRL: cpo_alpha
    "orpo": {"lam": 0.1},  # TRL: its beta
    "slic": {"delta": 1.0, "lam": 0.5},
    "odpo": {"beta": 0.1, "eta": 1.0},
    "rebel": {"eta": 10.0},  # 1/η = 0.1 in the place of β
    "sigmoid-norm": {"beta": 5.0},  # Tülu 3
    "lipo": OF_TRL | {"ranking": "lambda"},  # Liu et al. 2024
    "rrhf": {"alpha": 1.0},  # Yuan et al. 2023: no weight
    "pro": {"alpha": 1.0, "distances": "scores"},
    "d2o": OF_TRL | {"alpha": 1.0},
    "tdpo2": OF_TRL | {"alpha": 0.5},  # Zeng et al. 2024
    "ld-dpo": OF_TRL | {"alpha": 0.5},
    "cringe": {"alpha": 1.0, "top_k": 5, "margin": 0.0, "tau": 10.0},  # ParlAI: α; margin and τ are this project's
    "dro": {"beta": 1.0},
    "una-measure": OF_UNA | {"measure": "huber", "width": 0.1},
    "sppo": {"beta": 0.001},  # Wu et al. 2024: η = 1000
    "reward-model-margin": {"centring": 0.0},  # TRL: off
    "grpo": {
        "variant": "grpo",
        "ratio": "token",
        "scale_rewards": "group",
        "ratio_clip": 0.2,  # TRL, as PPO
        "ratio_clip_high": 0.2,
        "beta": 0.04,  # Shao et al. 2024
        "kl_estimate": "weighted",
        "length_scale": 1.0,
        "temperature_positive": 1.0,  # TRL: sapo_temperature_pos and _neg
        "temperature_negative": 1.05,
    },
    "ppo": OF_UNA
    | {"ratio_clip": 0.2, "value_clip": 0.2, "value_weight": 0.1}  # TRL's former PPO trainer
    | {"gamma": 1.0, "lam": 0.95, "whiten": 1.0, "ptx": 0.0},
}
"""Method -> its hyper-parameters. Without a source beside them, they are this project's choice."""


def test_default_hyperparameters_are_those_of_their_sources():
    found = {method.name: dict(method.hyperparameters) for method in METHODS.values() if method.hyperparameters}
    assert found == DEFAULTS


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (shapes.smoothed_logistic, "cdpo"),
        (rewards.f_slope, "f-dpo"),
        (rewards.f_reward, "f-dpo"),
        (rewards.divergence_of, "f-dpo"),
        (rewards.centred_reward, "una-centred"),
        (policy_gradient.gae, "ppo"),
        (cringe.cringe_sampled, "cringe"),
    ],
)
def test_part_of_a_loss_has_the_defaults_of_its_method(part, name):
    defaults = {key: p.default for key, p in arguments_of(part).items() if key in DEFAULTS[name]}
    given = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
    assert given and given.items() <= DEFAULTS[name].items()


def test_method_table_cells_are_text():
    for row in table():
        assert all(isinstance(cell, str) for cell in row.values())
    rows = {row["name"]: row for row in table()}
    assert rows["una-pair = dpo"]["feedback"] == "pairs"
    assert rows["una-centred"]["feedback"] == "scores, labels, pairs"
    assert rows["una-score"]["unchanged by r → r + g(x)"] == "no"


@each_method
def test_method_description_survives_json(method):
    assert json.loads(json.dumps(describe(method))) == describe(method)


def test_method_description_has_the_arguments_of_every_form():
    record = describe(METHODS["una-score"])
    arguments = ["logps", "ref_logps", "scores", "baseline=0.0", "beta=0.03"]
    assert record["arguments"] == {"scores": arguments, "printed": arguments, "released": arguments}
    assert record["errata"].split(", ")[-1] == "EU14" and record["equation"] == "UNA Eq. 10"
    assert describe(METHODS["kto"])["axes"]["F1"] == "Binary"


def test_description_says_what_a_run_does_by_default():
    assert describe(METHODS["sdpo"])["recipe of several steps"] == "sdpo"
    rso, judged = describe(METHODS["rso"]), describe(METHODS["self-rewarding"])
    assert rso["recipe of several steps"] == "" and METHODS["rso"].samples_per_prompt == 8
    assert rso["defaults of a run"] == ["samples=8: responses per prompt in a step, from accepted samples of π_ref"]
    assert judged["defaults of a run"][0].startswith("samples=4: ")
    assert judged["defaults of a run"][1:] == ["reward=self: the policy scores its own samples"]
    moving = METHODS["tr-dpo"].refresh
    assert describe(METHODS["tr-dpo"])["defaults of a run"][0].startswith(f"refresh_every={moving}: ")
    assert describe(METHODS["dpo"])["defaults of a run"] == []


def test_method_record_says_where_responses_come_from():
    assert all(METHODS[name].on_policy_only for name in ("una-online", "reinforce", "rloo", "ppo"))
    assert not any(METHODS[name].on_policy_only for name in ("dpo", "una-centred", "iterative-dpo"))
    assert METHODS["iterative-dpo"].samples == "the best and the worst of K"
    assert METHODS["reinforce"].reuse == METHODS["rloo"].reuse == "none" and METHODS["ppo"].reuse == "passes"


def test_every_hyperparameter_has_a_description():
    general = {n for method in METHODS.values() for n in method.hyperparameters if n not in method.meanings}
    assert set(HYPERPARAMETERS) == general


@each_method
def test_meanings_of_a_method_are_of_its_own_hyperparameters(method):
    assert set(method.meanings) <= set(method.hyperparameters)
