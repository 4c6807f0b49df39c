"""The registered losses that a loss equals, with their hyper-parameters, and the nearest ones."""

import inspect

import pytest

from una_ref.examine.reductions import EQUAL, candidates, reductions
from una_ref.examine.signature import examinee
from una_ref.methods import METHODS


def of(loss, **settings):
    return reductions(examinee(loss).at(**settings))


def named(found, method):
    return next(relation for relation in found.equal if relation.method == method)


def test_dpo_written_again_is_una_pair_at_its_beta(own):
    found = of(own.rewritten_dpo)
    first = found.equal[0]
    assert first.method == "una-pair" and first.settings == pytest.approx({"beta": 0.07}, abs=1e-6)
    assert first.factor == pytest.approx(1, abs=1e-6) and "sdpo" in first.others and first.gap < EQUAL
    assert named(found, "dpop").settings["lam"] == pytest.approx(0, abs=1e-6)
    assert found.sentences()[0].startswith(
        "Its gradient is that of una-pair at beta = 0.07 (the same function as tr-dpo"
    )


def test_a_clamped_margin_differs_beyond_the_clamp(own):
    found = of(own.clamped_dpo)
    assert found.equal[0].method == "una-pair" and found.equal[0].differs_at == (100.0,)
    said = found.sentences()
    assert said[0].startswith("Where log-ratios are at most 40 nats, its gradient is that of una-pair at beta = 0.1")
    assert "They also agree where margins are moved by ±30 and -100 nats." in said
    assert "They differ where margins are moved by +100 nats." in said
    assert of(own.rewritten_dpo).equal[0].differs_at == ()


def test_a_clamped_log_ratio_of_single_responses_differs_beyond_the_clamp():
    def mine(*, logps, ref_logps, scores, beta=0.1):
        return (beta * (logps - ref_logps).clamp(min=-90) - scores) ** 2

    found = named(of(mine), "una-score")
    assert found.differs_at == (-100.0,) and "log-ratios are moved by -100 nats" in " ".join(of(mine).sentences())


def test_a_loss_that_rewards_what_another_punishes_is_said(own):
    def wrong(**given):
        return -own.rewritten_dpo(**given)

    wrong.__signature__ = inspect.signature(own.rewritten_dpo)
    found = of(wrong)
    assert found.equal[0].factor == pytest.approx(-1, abs=1e-6)
    assert "The sign is the opposite: it rewards what that loss punishes." in found.sentences()


def test_a_straight_line_is_no_loss_at_a_pole_of_its_hyper_parameters():
    found = of("una-pair.printed")  # robust-dpo is a straight line where it divides by 0
    assert "robust-dpo" not in {relation.method for relation in (*found.equal, *found.nearest)}


def test_a_multiple_with_the_opposite_sign_is_said(own):
    assert "una-score.printed at beta = 0.1, with the opposite sign" in " ".join(
        of(own.squared_without_values).sentences()
    )


def test_beta_is_found_without_the_same_name_and_with_a_factor():
    def mine(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        from torch.nn.functional import softplus

        return 5 * softplus(-0.23 * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps))

    first = of(mine).equal[0]
    assert first.method == "una-pair" and first.factor == pytest.approx(5, abs=1e-5)
    assert first.settings["beta"] == pytest.approx(0.23, abs=1e-6)


def test_a_hinge_with_a_reference_is_that_of_rso_though_its_gradient_has_steps(own):
    found = named(of(own.hinge), "rso")
    assert found.settings == pytest.approx({"function": "hinge_norm", "beta": 0.2}, abs=1e-6)


def test_a_flipped_sign_is_dpo_with_chosen_and_rejected_exchanged(own):
    found = of(own.flipped_dpo)
    assert found.equal[0].method == "una-pair" and found.equal[0].reversed
    assert "with its feedback the other way round" in found.sentences()[0]


def test_a_forgotten_reference_is_tpo_and_cpo_without_imitation(own):
    found = of(own.forgotten_reference)
    assert found.equal[0].method == "tpo" and named(found, "cpo").settings["lam"] == pytest.approx(0, abs=1e-6)
    assert "una-pair" not in {relation.method for relation in found.equal}


def test_a_length_normalised_dpo_is_sigmoid_norm(own):
    assert of(own.per_token_dpo).equal[0].method == "sigmoid-norm"


def test_a_squared_loss_without_values_is_una_score_and_with_them_twice_dro(own):
    without, with_ = of(own.squared_without_values), of(own.squared_with_values)
    assert without.equal[0].method == "una-score"
    assert named(with_, "dro").factor == pytest.approx(2, abs=1e-6)


def test_a_printed_loss_is_minus_the_corrected_one():
    found = named(of("ipo"), "ipo.printed")
    assert found.factor == pytest.approx(-1, abs=1e-9) and found.settings["beta"] == pytest.approx(0.1)


def test_a_new_loss_has_three_neighbours_and_no_equal():
    def mine(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        return -(0.3 * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)).tanh()

    found = of(mine)
    assert found.equal == () and len(found.nearest) == 3
    assert [r.gap for r in found.nearest] == sorted(r.gap for r in found.nearest) and found.nearest[0].gap > 1e-3
    assert found.sentences()[0] == f"It is none of {len(candidates('pairs'))} registered losses of its kind."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "settings", "method", "expected"),
    [  # what records say of reductions
        ("cdpo", {"label_smoothing": 0.0}, "una-pair", {}),
        ("token-dpo", {}, "una-pair", {"beta": 0.1}),
        ("cpo", {"lam": 0.0}, "tpo", {"beta": 0.1}),
        ("rebel", {}, "rpo", {"beta": 0.1, "eta": 1.0, "distance": "squared"}),
        ("una-measure", {"measure": "mse"}, "una-score", {"beta": 0.03}),
        ("iupo", {"divergence": "reverse_kl"}, "ipo", {"beta": 0.1}),
        ("alpha-po", {"alpha": 0.0}, "simpo", {"beta": 2.0, "gamma": 1.0}),
        ("dro", {}, "una-score", {}),
        ("una-centred", {}, "rloo", {"beta": 0.03}),
    ],
)
def test_reductions_of_records_are_found(loss, settings, method, expected):
    found = named(of(loss, **settings), method)
    rounded = {k: v if isinstance(v, str) else round(v, 6) for k, v in found.settings.items()}
    assert found.gap < EQUAL and expected.items() <= rounded.items()


def test_every_registered_function_is_a_candidate_once():
    names = [name for one in candidates("pairs") for name in (one.name, *one.others)]
    assert len(names) == len(set(names))
    assert {"una-pair", "tr-dpo", "ipo.printed", "iterative-dpo"} <= set(names) and "kto" not in names
    assert {method.name for method in METHODS.values() if "pairs" in method.losses} <= set(names)


def test_a_straight_line_is_no_hinge_and_no_sigmoid_near_0():
    # A hinge whose bend no example of one batch reaches, and a σ at β → 0, have the gradient of a straight line there.
    found = of("una-pair.printed")
    assert not {"gpo", "rso", "apo-zero", "una-pair"} & {relation.method for relation in found.equal}
