"""Whether a loss can be trained at all, and what goes wrong at the edges: shapes, dtypes, extremes, state, gradients.

What is refused and what is a finding: a loss is refused (`InputError`, exit code 2) where its values mean nothing or
cannot be measured again. That is a call that fails, a result that is not one finite number per example at ordinary
inputs, no gradient, state between calls, and arguments that are changed in place. Everything else is a finding, however
bad it is for training: a wrong sign, values that overflow at extremes, a lower precision, a part without gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.examine.signature import Examinee
from una_ref.methods.probe import example_arguments

F64 = torch.float64
SIZE = 6
"""Examples of a batch of probes: three prompts with two responses each, or six pairs or lists."""
ALIKE = 1e-12
"""Relative difference below which two float64 results are the same number."""


@dataclass(frozen=True)
class Soundness:
    """What a loss does with the numbers that it is given.

    Attributes:
        dtypes: dtype -> "kept", the dtype that came instead, or the error.
        infinite_at: extreme inputs at which a value or a gradient is not finite.
        independent: whether the loss of an example depends on no other example, apart from those of its prompt.
        comparing: "each example alone", "the responses of a prompt" or "all examples of a batch".
        padding_ignored: whether values behind the mask change nothing; None without a mask of tokens.
        gradient_gap: largest relative gap between the gradient and differences of the value.
        conservative: whether the gradient is the derivative of the value.
    """

    dtypes: dict[str, str]
    infinite_at: tuple[str, ...]
    independent: bool
    comparing: str
    padding_ignored: bool | None
    gradient_gap: float
    conservative: bool

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        found = [
            "It returns one finite number per example, changes no argument, and gives the same numbers in three calls."
        ]
        wrong = {dtype: result for dtype, result in self.dtypes.items() if result != "kept"}
        kept = [dtype for dtype in self.dtypes if dtype not in wrong]
        if kept:
            found.append(f"It keeps {', '.join(kept)}.")
        found += [f"In {dtype} it gives {result}." for dtype, result in wrong.items()]
        if self.infinite_at:
            found.append(f"A value or a gradient is not finite at {'; '.join(self.infinite_at)}.")
        else:
            found.append("Values and gradients are finite at log-probs of -1,000 and at log-ratios of ±1,000.")
        found.append(
            f"It compares {self.comparing}."
            if self.comparing != ALONE
            else "The loss of an example depends on no other example."
        )
        if self.padding_ignored is not None:
            found.append(f"Values behind the mask {'change nothing' if self.padding_ignored else 'change the loss'}.")
        return found

    def gradient_sentences(self) -> list[str]:
        """The finding of the gradient check."""
        if self.conservative:
            return [f"Its gradient is the derivative of its value, to a relative {self.gradient_gap:.1g}."]
        if self.dtypes.get("float64") == "float32":
            return [
                f"Its gradient and differences of its value agree to {self.gradient_gap:.1g} only; it computes in "
                "float32, so findings below have that precision."
            ]
        return [
            f"Its gradient is not the derivative of its value (relative gap {self.gradient_gap:.2g}).",
            "This is so where a part of the loss is held constant, as by .detach().",
        ]


ALONE, PROMPT, BATCH = "each example alone", "the responses of a prompt", "all examples of a batch"


def probes(examinee: Examinee, size: int = SIZE, *, dtype: torch.dtype = F64, seed: int = 0) -> dict[str, Any]:
    """Ordinary arguments: those that the examination gives."""
    made = example_arguments(examinee.loss, examinee.kind, size, dtype=dtype, seed=seed)
    return {name: made[name] for name in made if name in examinee.given}


def checked(examinee: Examinee) -> None:
    """Refuse a loss that cannot be examined.

    Raises:
        InputError: says what was expected, what came and how to mend it.
    """
    name = examinee.name
    for size in (SIZE, 2):
        given = probes(examinee, size)
        before = {key: value.clone() for key, value in given.items()}
        first = _called(examinee, given)
        for key, value in given.items():
            if not torch.equal(value, before[key]):
                raise InputError(
                    f"{name}: expected arguments that stay as they are, got {key} changed in place. {_OUT}"
                )
        _check_result(name, first, size)
        _check_gradient(examinee, given, size)
    given, other = probes(examinee), probes(examinee, seed=1)
    first = _called(examinee, given).detach().clone()
    _called(examinee, other)
    again = _called(examinee, given).detach()
    if not torch.equal(first, again):
        gap = float((first - again).abs().max())
        raise InputError(
            f"{name}: expected the same loss for the same arguments, got a difference of {gap:.3g} in the third call. "
            "Fix: keep no state between calls and draw no random numbers; take running numbers as arguments, such as "
            "running_gain"
        )


_OUT = "Fix: write x = x - y, not x -= y"


def _called(examinee: Examinee, given: Mapping[str, Any]) -> Tensor:
    try:
        return examinee(given)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function raises
        found = f"{type(error).__name__}: {str(error).rstrip('.')}"
        if _works_in_float32(examinee, given):
            raise InputError(
                f"{examinee.name}: expected a loss that takes float64, which is examined, got {found}; it works in "
                "float32. Fix: give constants the dtype of the arguments, such as logps.new_tensor(0.5)"
            ) from error
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in given.items())
        raise InputError(
            f"{examinee.name}: expected a loss of {shapes}, got {found}. "
            "Fix: write it for tensors of these shapes, or name another feedback with --kind"
        ) from error


def _works_in_float32(examinee: Examinee, given: Mapping[str, Any]) -> bool:
    try:
        examinee({key: x.to(torch.float32) if x.is_floating_point() else x for key, x in given.items()})
    except Exception:  # whatever a user's function raises
        return False
    return True


def _check_result(name: str, values: object, size: int) -> None:
    if not isinstance(values, Tensor):
        raise InputError(f"{name}: expected a tensor of shape ({size},), got {type(values).__name__}. {_ONE_EACH}")
    if values.shape != (size,):
        raise InputError(f"{name}: expected the shape ({size},), got {tuple(values.shape)}. {_ONE_EACH}")
    if not values.isfinite().all():
        bad = int((~values.isfinite()).nonzero()[0])
        raise InputError(
            f"{name}: expected finite losses at ordinary log-probs, got {float(values[bad])} in example {bad}. "
            "Fix: write logsigmoid(x) for log(sigmoid(x)), and keep divisors away from 0"
        )


_ONE_EACH = "Fix: return one number per example, without .mean() or .sum()"


def _check_gradient(examinee: Examinee, given: Mapping[str, Any], size: int) -> None:
    gradients = gradients_of(examinee, given)
    if not gradients:
        raise InputError(
            f"{examinee.name}: expected a gradient in {' or '.join(examinee.trained)}, got none. "
            "Fix: remove .detach(), .item() and torch.no_grad()"
        )
    if not all(gradient.isfinite().all() for gradient in gradients.values()):
        raise InputError(f"{examinee.name}: expected finite gradients at ordinary log-probs, got NaN or infinity")


def gradients_of(examinee: Examinee, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The gradient of the summed loss in each argument that is trained; arguments without one are left out."""
    leaves = {key: given[key].detach().clone().requires_grad_() for key in examinee.trained if key in given}
    values = _called(examinee, {**given, **leaves})
    if not isinstance(values, Tensor) or not values.requires_grad:
        return {}
    found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
    return {key: gradient for key, gradient in zip(leaves, found, strict=True) if gradient is not None}


# ---- findings


def sound(examinee: Examinee) -> Soundness:
    """The findings about a loss that `checked` let through."""
    grouped = "groups" in examinee.given
    independent = _independent(examinee)
    gap = _gradient_gap(examinee)
    return Soundness(
        dtypes={str(dtype).removeprefix("torch."): _kept(examinee, dtype) for dtype in _DTYPES},
        infinite_at=tuple(_infinite(examinee)),
        independent=independent,
        comparing=BATCH if not independent else PROMPT if grouped else ALONE,
        padding_ignored=_padding_ignored(examinee),
        gradient_gap=gap,
        conservative=gap < 1e-6,
    )


_DTYPES = (F64, torch.float32, torch.bfloat16)


def _kept(examinee: Examinee, dtype: torch.dtype) -> str:
    try:
        values = examinee(probes(examinee, dtype=dtype))
    except Exception as error:  # whatever a user's function raises
        return f"{type(error).__name__}: {error}"
    if not values.isfinite().all():
        return "values that are not finite"
    return "kept" if values.dtype == dtype else str(values.dtype).removeprefix("torch.")


def _infinite(examinee: Examinee) -> list[str]:
    """The extreme inputs at which a value or a gradient is not finite."""
    found = []
    for words, given in extremes(examinee):
        try:
            values, gradients = examinee(given), gradients_of(examinee, given)
        except Exception as error:  # whatever a user's function raises
            found.append(f"{words}, where it raises {type(error).__name__}")
            continue
        if not values.isfinite().all() or not all(g.isfinite().all() for g in gradients.values()):
            found.append(words)
    return found


def extremes(examinee: Examinee) -> list[tuple[str, dict[str, Any]]]:
    """Extreme inputs, each with words for it: log-probs of −1,000, log-ratios and margins of ±1,000, empty masks."""
    given = probes(examinee)
    policy = [n for n in examinee.trained if n in given and not n.endswith("logits")]
    cases = []
    far = {n: x - 1e3 for n, x in given.items() if n.endswith("logps")}
    if far:
        cases.append(("log-probs of -1,000", {**given, **far}))
    for sign in (1, -1):
        moved = {n: given[n] + (-1e3 if n.startswith("rejected") else 1e3) * sign for n in policy}
        if moved:
            cases.append(
                (f"{'margins' if examinee.kind == 'pairs' else 'log-ratios'} of {sign * 1000:+,}", given | moved)
            )
    if logits := {n: (1e3 * x).log_softmax(-1) for n, x in given.items() if n.endswith("logits")}:
        cases.append(("next-token distributions with one certain token", given | logits))
    for name in [n for n in given if n.endswith("mask") and examinee.kind != "lists"]:
        empty = given[name].clone()
        empty[0] = False
        cases.append((f"an example whose {name} is empty", given | {name: empty}))
    return cases


def _independent(examinee: Examinee) -> bool:
    """Whether changing the last two examples, which share a prompt, leaves the losses of all others as they are."""
    given, other = probes(examinee), probes(examinee, seed=5)
    before = examinee(given).detach()
    for first in range(0, SIZE, 2):
        changed = {}
        rows = torch.tensor([first, first + 1])
        rest = [row for row in range(SIZE) if row not in (first, first + 1)]
        for name, value in given.items():
            keeps = not value.dim() or name == "groups"
            changed[name] = value if keeps else value.index_copy(0, rows, other[name][rows])
        if not torch.allclose(examinee(changed).detach()[rest], before[rest], rtol=ALIKE, atol=ALIKE):
            return False
    return True


def _padding_ignored(examinee: Examinee) -> bool | None:
    """Whether values behind a mask change nothing. The mask of a list is one of responses."""
    given = probes(examinee)
    masks = {name: given[name] for name in given if name.endswith("mask")}
    if not masks:
        return None
    changed = dict(given)
    for name, value in given.items():
        if not value.is_floating_point() or value.dim() < 2:
            continue
        side = next((part for part in ("chosen", "rejected") if part in name), "")
        mask = next((mask for key, mask in masks.items() if side in key), None)
        if mask is not None:
            behind = ~mask.view(*mask.shape, *(1,) * (value.dim() - mask.dim()))
            changed[name] = torch.where(behind, value - 7.0, value)
    return bool(torch.allclose(examinee(changed), examinee(given), rtol=ALIKE, atol=ALIKE))


def _gradient_gap(examinee: Examinee, width: float = 1e-5) -> float:
    """The largest relative gap between the gradient and central differences of the value, along random directions."""
    worst = 0.0
    generator = torch.Generator().manual_seed(2)
    for seed in range(3):
        given = probes(examinee, seed=seed)
        gradients = gradients_of(examinee, given)
        for name in [name for name in examinee.trained if name in given]:
            gradient = gradients.get(name, torch.zeros_like(given[name]))
            direction = torch.randn(given[name].shape, generator=generator, dtype=F64)
            if name.endswith("logits"):  # whole distributions stay normalised
                direction = direction - (given[name].exp() * direction).sum(-1, keepdim=True)
            up, down = (examinee({**given, name: given[name] + s * width * direction}).sum() for s in (1, -1))
            difference = float((up - down).detach()) / (2 * width)
            size = max(abs(difference), float((gradient * direction).abs().sum()), 1e-12)
            worst = max(worst, abs(difference - float((gradient * direction).sum())) / size)
    return worst
