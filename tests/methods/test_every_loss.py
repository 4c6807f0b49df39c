"""Properties of every loss, printed and released forms included: gradients, range, order, shapes, dtypes."""

import inspect

import pytest
import torch

from una_ref.errors import InputError
from una_ref.methods import METHODS

F64 = torch.float64

HELD_CONSTANT_IN_PART = (
    METHODS["tdpo2"].loss,
    METHODS["tdpo2"].printed,
    METHODS["wpo"].loss,
    *METHODS["cringe"].losses.values(),
)
"""Losses with a factor or a term without gradient. test_tokens and test_cringe check their gradients."""


def per_example(arguments):
    """The floating-point tensors with one entry per example, by name."""
    return {name: x for name, x in arguments.items() if torch.is_tensor(x) and x.is_floating_point() and x.dim()}


def test_loss_is_a_documented_keyword_only_function(loss):
    parameters = inspect.signature(loss).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert loss.__doc__


def test_docstring_names_where_the_source_can_be_read(loss):
    assert "https://" in loss.__doc__


def test_loss_gradient_is_the_derivative_of_its_value(loss, random_arguments):
    # The baseline is given, because a leave-one-out baseline has no gradient by design.
    if loss in HELD_CONSTANT_IN_PART:
        return
    arguments = random_arguments(loss, groups=False)
    values = per_example(arguments)
    if "filtering" in inspect.signature(loss).parameters:
        arguments["filtering"] = 0.0  # the weight of a pair has no gradient by design
    of_constants = [METHODS[name].loss for name in ("reinforce", "rloo", "nash-md")]
    if loss in (*of_constants, METHODS["nash-md"].printed):  # the value is log π times a constant
        logps = arguments["logps"].requires_grad_()
        value = loss(**arguments)
        torch.testing.assert_close(torch.autograd.grad(value.sum(), logps)[0], (value / logps).detach())
        return

    def of_values(*tensors):
        return loss(**arguments | dict(zip(values, tensors, strict=True)))

    assert torch.autograd.gradcheck(of_values, tuple(x.requires_grad_() for x in values.values()))


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_loss_and_gradient_are_finite_at_extreme_inputs(loss, random_arguments, scale, dtype):
    arguments = random_arguments(loss, dtype=dtype)
    for name in per_example(arguments):
        if name in ("logps", "chosen_logps", "token_logps", "chosen_token_logps", "rewards", "chosen_rewards"):
            arguments[name] = torch.full_like(arguments[name], scale).requires_grad_()
        elif name.endswith(("logps", "rewards")):
            arguments[name] = torch.full_like(arguments[name], -scale)
        elif name.endswith("logits"):  # log-probabilities of whole distributions stay normalised
            arguments[name] = (scale * arguments[name]).log_softmax(-1).detach().requires_grad_()
    values = loss(**arguments)
    values.sum().backward()
    assert values.isfinite().all()
    trained = [x for x in arguments.values() if torch.is_tensor(x) and x.requires_grad]
    gradients = [x.grad for x in trained if x.grad is not None]  # a term that is held constant gives none
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_loss_has_one_value_per_example(loss, random_arguments, size):
    assert loss(**random_arguments(loss, size, groups=False)).shape == (size,)


@pytest.mark.parametrize("size", [1, 4])
def test_mismatched_shapes_are_refused_even_if_they_broadcast(loss, random_arguments, size):
    arguments = random_arguments(loss, size, groups=False)
    for name, x in per_example(arguments).items():
        square = () if x.dim() > 1 else (x[:, None].expand(size, size),)
        for wrong in (x[:, None], x[None, :], *square, torch.cat([x, x])):
            changed = arguments | {name: wrong}
            if len(per_example(arguments)) == 1 and wrong.dim() == 1:
                continue  # sft and ptx then see a batch of another size
            with pytest.raises(
                ValueError,
                match=rf"must share one shape, got .*'{name}': \({', '.join(map(str, wrong.shape))}",
            ):
                loss(**changed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_mask_that_is_not_bool_is_refused_by_name(loss, random_arguments, dtype):
    arguments = random_arguments(loss)
    for name in [name for name in arguments if name.endswith("mask")]:
        with pytest.raises(InputError, match=f"^{name}: expected bool, .* got {str(dtype)[6:]}. Fix: {name}.bool"):
            loss(**arguments | {name: arguments[name].to(dtype)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_loss_keeps_the_input_dtype_and_matches_float64(loss, random_arguments, dtype):
    low = random_arguments(loss, dtype=dtype)
    exact = {name: x.to(F64) if torch.is_tensor(x) and x.is_floating_point() else x for name, x in low.items()}
    values = loss(**low)
    assert values.dtype == dtype
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(values.to(F64), loss(**exact), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("beta", [0, -0.1, float("nan")])
def test_non_positive_beta_is_refused(loss, random_arguments, beta):
    arguments = random_arguments(loss)
    names = inspect.signature(loss).parameters
    if "beta" not in names:
        # β is the weight of the reference; REBEL's η is 1/β, and GRPO's kl_weight may be 0.
        assert {"eta", "kl_weight"} & {*names} or not any(name.startswith("ref_") for name in names)
        return
    with pytest.raises(ValueError, match="beta must be positive"):
        loss(**arguments | {"beta": beta})
