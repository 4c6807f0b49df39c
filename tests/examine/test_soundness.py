"""What is refused before anything is measured, and what a loss does with extreme numbers."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from una_ref.errors import InputError
from una_ref.examine.enumeration import at_examined_beta
from una_ref.examine.signature import examinee
from una_ref.examine.soundness import BATCH, PROMPT, checked, sound
from una_ref.methods import METHODS, tokens


def refuse(loss, *parts):
    with pytest.raises(InputError) as error:
        checked(examinee(loss))
    for part in parts:
        assert part in str(error.value)


def test_a_mean_over_examples_is_refused(own):
    refuse(own.mean_dpo, "mean_dpo: expected the shape (6,), got ()", "without .mean() or .sum()")


def test_a_matrix_by_broadcasting_is_refused():
    def loss(*, logps, scores):
        return logps[:, None] * scores

    refuse(loss, "expected the shape (6,), got (6, 6)")


def test_a_number_is_refused():
    def loss(*, logps):
        return 1.0

    refuse(loss, "expected a tensor of shape (6,), got float")


def test_a_detached_loss_is_refused(own):
    refuse(own.detached, "expected a gradient in chosen_logps or rejected_logps, got none", "remove .detach()")


def test_values_that_are_not_finite_at_ordinary_inputs_are_refused():
    def loss(*, chosen_logps, rejected_logps):
        return -(chosen_logps - rejected_logps).log()

    refuse(loss, "expected finite losses at ordinary log-probs, got nan", "logsigmoid")


def test_gradients_that_are_not_finite_are_refused():
    def loss(*, logps):
        return (logps - logps.detach()).abs().sqrt()

    refuse(loss, "expected finite gradients at ordinary log-probs")


def test_state_between_calls_is_refused():
    def loss(*, logps, scores):
        loss.mean = 0.9 * loss.mean + 0.1 * scores.mean().item()
        return (logps - scores + loss.mean) ** 2

    loss.mean = 0.0
    refuse(loss, "expected the same loss for the same arguments", "running_gain")


def test_random_numbers_are_refused():
    def loss(*, logps):
        return -logps * torch.rand_like(logps)

    refuse(loss, "draw no random numbers")


def test_arguments_that_change_in_place_are_refused():
    def loss(*, logps, scores):
        scores -= scores.mean()
        return -logps * scores

    refuse(loss, "expected arguments that stay as they are, got scores changed in place", "x = x - y")


def test_an_exception_of_the_loss_is_refused_with_its_words():
    def loss(*, logps, lengths):
        return logps @ lengths[None, :, None]

    refuse(loss, "expected a loss of logps (6,), lengths (6,)", "RuntimeError", "another feedback with --kind")


def test_a_loss_that_takes_float32_only_is_refused_with_the_dtype_as_the_reason():
    def loss(*, logps, labels):
        return -torch.stack([logps, labels], 1) @ torch.tensor([1.0, 0.5])

    refuse(loss, "expected a loss that takes float64", "it works in float32", "logps.new_tensor(0.5)")


def test_a_loss_that_computes_in_float32_is_not_called_one_with_a_constant_part():
    def loss(*, chosen_logps, rejected_logps):
        return -logsigmoid((chosen_logps - rejected_logps).float())

    said = " ".join(sound(examinee(loss)).gradient_sentences())
    assert "computes in float32" in said and "held constant" not in said


def test_no_registered_loss_is_refused_but_one_that_overflows_at_its_default_beta(registered):
    if registered.loss is METHODS["sppo"].printed:  # e^(η·P̂) with η = 1/β = 1,000
        with pytest.raises(InputError, match="expected finite losses at ordinary log-probs"):
            checked(registered)
        registered = registered.at(beta=1.0)
    checked(registered)


@pytest.mark.parametrize(("first", "second"), [(0, -1), (-1, 0), (2, 0)])
def test_an_example_that_reads_another_one_is_found_wherever_it_stands(first, second):
    def loss(*, logps):
        values = -logps.clone()
        values[first] = values[first] - 0.1 * logps[second]
        return values

    found = sound(examinee(loss))
    assert not found.independent and found.comparing == BATCH


def test_log_of_sigmoid_overflows_at_margins_of_a_thousand():
    def loss(*, chosen_logps, rejected_logps):
        return -(chosen_logps - rejected_logps).sigmoid().log()

    found = sound(examinee(loss))
    assert found.infinite_at == ("margins of -1,000",)
    assert any("not finite at margins of -1,000" in sentence for sentence in found.sentences())


def test_a_mean_over_no_token_is_reported():
    def loss(*, token_logps, mask):
        return -(token_logps * mask).sum(1) / mask.sum(1)

    assert sound(examinee(loss)).infinite_at == ("an example whose mask is empty",)


def test_every_registered_loss_is_finite_at_extremes_and_keeps_dtypes(of_method):
    found = sound(of_method)
    assert found.infinite_at == () and set(found.dtypes.values()) == {"kept"}
    assert found.padding_ignored is not False


def test_float32_inside_a_loss_is_reported():
    def loss(*, logps):
        return -logps.float()

    found = sound(examinee(loss))
    assert found.dtypes == {"float64": "float32", "float32": "kept", "bfloat16": "float32"}
    assert "In float64 it gives float32." in found.sentences()


def test_padding_that_counts_is_reported():
    def loss(*, token_logps, mask):
        return -token_logps.sum(1)

    assert sound(examinee(loss)).padding_ignored is False


def test_what_a_loss_compares_agrees_with_the_record(of_method):
    found = sound(of_method)
    assert (found.comparing == BATCH) == of_method.record.whole_batch
    assert (found.comparing == PROMPT) == ("groups" in of_method.given)
    assert not (of_method.record.composes and found.comparing == BATCH)


def test_a_batch_mean_is_found():
    def loss(*, chosen_logps, rejected_logps):
        gap = chosen_logps - rejected_logps
        return -logsigmoid(gap - gap.mean().detach())

    found = sound(examinee(loss))
    assert not found.independent and "It compares all examples of a batch." in found.sentences()


HELD_CONSTANT_IN_PART = {tokens.tdpo2, tokens.tdpo2_printed, *METHODS["cringe"].losses.values()}
OF_CONSTANTS = {METHODS[name].loss for name in ("reinforce", "rloo", "nash-md", "una-centred", "beta-dpo")}


def test_gradient_is_that_of_the_value_unless_a_part_is_held_constant(registered):
    # Score functions, leave-one-out means, β-DPO's weights, and the held-constant terms of TDPO₂ and CRINGE.
    constant = registered.loss in HELD_CONSTANT_IN_PART | OF_CONSTANTS | {METHODS["nash-md"].printed}
    constant |= registered.loss is METHODS["wpo"].loss
    assert sound(at_examined_beta(registered)).conservative == (not constant)
