"""What a loss ignores is what its record says, for every method; and what is known of a few losses by hand."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from una_ref.examine.enumeration import at_examined_beta
from una_ref.examine.invariances import invariances
from una_ref.examine.signature import examinee
from una_ref.methods import METHODS


def measured(loss):
    return invariances(at_examined_beta(examinee(loss)))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_offset_per_prompt_is_ignored_as_the_record_says(method):
    found = measured(method)
    # "In expectation" is about samples of the current policy; data of a fixed set have no such expectation.
    claimed = {"yes": "every batch", "in expectation": "in expectation", "no": "no"}[method.invariance]
    assert (found.offset if method.on_policy_only or found.offset == "every batch" else "no") == claimed


def test_order_and_copies_of_a_batch_change_no_registered_loss(registered):
    found = invariances(at_examined_beta(registered))
    assert found.permutation and found.duplication


LINEAR = ("β·log(π/π_ref)", "log(π/π_ref)", "β·log π", "log(π/π_ref)/η", "β·log(π/π_t)", "a scalar head")


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.kinds[0] == "pairs"], ids=lambda m: m.name)
def test_a_composition_of_two_responses_acts_through_one_margin(method):
    found = measured(method)
    if method.composes and method.comparison == "two responses of a prompt" and method.formula in LINEAR:
        regulariser = method.regulariser if method.name != "reward-model-margin" else "none"  # its weight is 0
        assert found.one_margin == (regulariser == "none")
    if method.comparison.startswith("each response of a pair"):
        assert not found.one_margin


def test_dpo_and_ipo_by_hand():
    dpo, ipo = measured("dpo"), measured("ipo")
    assert dpo.one_margin and dpo.swap == ipo.swap == "a line in the margin"
    assert (
        dpo.ratio_degree == 0 and ipo.ratio_degree == -2
    )  # (u − 1/(2β))² with half the u and twice the β is a quarter
    assert dpo.raises_margin == 1.0 and ipo.raises_margin < 1  # IPO lowers a margin above 1/(2β)


def test_score_and_beta_together_scale_the_squared_loss_by_their_square():
    assert measured("una-score").degree == 2 and measured("reinforce").degree == 1


def test_a_flipped_sign_favours_the_worse_response(own):
    found = measured(own.flipped_dpo)
    assert found.raises_margin == 0.0
    assert "A step favours the better response in 0% of random examples." in found.sentences()
    assert "It always favours the worse response, so its sign or its sides may be exchanged." in found.sentences()


def test_a_sum_in_place_of_a_margin_favours_neither_response():
    def loss(*, chosen_logps, rejected_logps):
        return -logsigmoid(chosen_logps + rejected_logps)

    found = measured(loss)
    assert (found.raises_margin, found.lowers_margin) == (0.0, 0.0)
    said = " ".join(found.sentences())
    assert "It favours neither response" in said and "favours the worse response" not in said


def test_labels_read_the_wrong_way_round_favour_the_worse_response():
    def loss(*, logps, labels):
        return -logsigmoid(torch.where(labels > 0.5, -logps, logps))

    assert measured(loss).raises_margin == 0.0
    assert measured("kto").raises_margin == 1.0


def test_a_length_normalised_loss_counts_log_probs_per_token(own):
    found = measured(own.per_token_dpo)
    assert found.per_token and found.reads_length > 0.1
    assert found.offset == "no"  # β·log Z(x) does not cancel between responses of different length


def test_a_loss_without_the_reference_takes_the_offset_in_log_pi(own):
    found = measured(own.forgotten_reference)
    assert (found.offset, found.offset_added_to) == ("every batch", "log π")


def test_a_missing_value_shows_in_every_batch_but_not_in_the_expected_step(own):
    assert measured(own.squared_without_values).offset == "in expectation"
    assert measured(own.squared_with_values).offset == "every batch"


def test_an_offset_that_moves_the_expected_step_too_is_not_ignored():
    def quartic(*, logps, ref_logps, scores, beta=0.1):
        return (beta * (logps - ref_logps) - scores) ** 4

    found = measured(quartic)
    assert found.offset == "no" and found.sentences()[0].endswith("%.")


def test_examples_without_a_gradient_favour_nobody():
    def hinge(*, logps, labels):
        return torch.where(labels > 0.5, (-3 - logps).relu(), logps)

    assert measured(hinge).raises_margin == 1.0


def test_a_loss_that_does_not_read_who_won_is_found():
    def loss(*, chosen_logps, rejected_logps):
        return (chosen_logps - rejected_logps) ** 2

    assert measured(loss).swap == "ignored"


def test_row_order_inside_a_batch_is_found():
    def loss(*, logps):
        return -logps * torch.arange(len(logps)).add(1)

    found = measured(loss)
    assert not found.permutation and not found.duplication


def test_the_reward_function_of_a_method_is_put_back():
    before = METHODS["simpo"].loss.__globals__["length_normalised"]
    assert measured("simpo").offset_added_to == "the reward"
    assert METHODS["simpo"].loss.__globals__["length_normalised"] is before
