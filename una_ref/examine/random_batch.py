"""One random batch that every loss of a kind can be given, so that their gradients in the policy can be compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from una_ref.examine.enumeration import Enumeration, Feedback, small_world
from una_ref.examine.signature import Examinee
from una_ref.methods.arguments import PAIRED


class RandomBatch:
    """One random batch with everything that a loss of a kind may name, as functions of the policy's logits.

    Args:
        examinee: the loss whose kind of feedback it has.
        wanted: names of its arguments.
        seed: of the random numbers.
        spread: standard deviation of the policy's logits, in nats.

    Attributes:
        reach: largest |log π/π_ref| of a response, in nats.
    """

    def __init__(self, examinee: Examinee, wanted: frozenset[str], seed: int, spread: float) -> None:
        self.kind = examinee.kind
        world, sampler = small_world(100 + seed, prompts=16)
        generator = torch.Generator().manual_seed(seed)
        shape = world.rewards.shape
        tables = spread * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        self.logits = tables[0].requires_grad_()
        self.jacobians: dict[int, Tensor] = {}
        self.reach = float((tables[0].log_softmax(-1) - world.ref_logps).detach().abs().max())
        feedback = Feedback.of(world.rewards)
        # Two responses of a prompt where any loss of the kind compares them.
        union = replace(examinee, loss=_naming(wanted), settings={})
        enumeration = Enumeration(union, world, feedback, sampler, second_ref=tables[1].log_softmax(-1))
        rows = torch.randperm(len(enumeration.x), generator=generator)
        if examinee.kind == "lists":  # the best response comes first
            ordered = (world.rewards[enumeration.x[:, None], enumeration.y].diff(dim=-1) < 0).all(-1)
            rows = rows[ordered[rows]]
        enumeration = enumeration.subset(rows[:48])
        values = torch.randn(len(world.rewards), generator=generator, dtype=torch.float64)
        self.arguments = enumeration.arguments(self.logits.log_softmax(-1), values, wanted)
        if examinee.kind == "lists":
            scores = world.rewards[enumeration.x[:, None], enumeration.y]
            self.arguments["scores"] = scores.sigmoid()
        statistics = ("kl", "running_gap", "running_gap_sd", "batch_gap", "running_gain", "score_sd")
        for number, name in enumerate(statistics, 1):
            if name in wanted:
                self.arguments[name] = torch.tensor(0.2 * number, dtype=torch.float64)

    @cached_property
    def turned(self) -> dict[str, Tensor]:
        """The arguments with the feedback reversed."""
        turned = {
            n.replace("chosen", "?").replace("rejected", "chosen").replace("?", "rejected"): x
            for n, x in self.arguments.items()
        }
        return (
            turned
            | {n: 1 - x for n, x in turned.items() if n in ("labels", "win_rates")}
            | {n: -x for n, x in turned.items() if n in ("margins", "scores")}
        )

    def moved(self, nats: float) -> RandomBatch | None:
        """The batch with margins (single responses: log-ratios) moved by so many nats; None where nothing moves them.

        Only log-probs fall, so that they stay below 0. Of pairs and lists a response of the policy loses log-prob: the
        rejected one and all but the best, or, for a negative number, the chosen and the best one. Of single responses
        the reference loses it, or, for a negative number, the policy. Outputs of scorers move by the same rule.
        """
        moved = copy(self)
        moved.arguments = {name: self._moved(name, x, nats) for name, x in self.arguments.items()}
        moved.__dict__.pop("turned", None)
        moved.jacobians = {}
        same = all(moved.arguments[name] is x for name, x in self.arguments.items())
        return None if same else moved

    def _moved(self, name: str, x: Tensor, nats: float) -> Tensor:
        base, side = PAIRED.get(name, (name, None))
        if base not in ("logps", "token_logps", "rewards", "ref_logps", "ref_token_logps"):
            return x
        if side is not None or self.kind == "lists":
            if base.startswith("ref_"):
                return x
            falls = (side == "rejected") == (nats > 0)
        else:
            falls = base.startswith("ref_") == (nats > 0)
        if self.kind == "lists" and x.dim() == 2:
            lowered = torch.arange(x.shape[1]) > 0 if nats > 0 else torch.arange(x.shape[1]) == 0
            return x - abs(nats) * lowered
        if not falls:
            return x
        if base.endswith("token_logps"):  # the first token takes all of it
            return torch.cat([x[..., :1] - abs(nats), x[..., 1:]], -1)
        return x - abs(nats)

    def values(self, loss: Examinee, given: frozenset[str], *, turned: bool = False) -> Tensor | None:
        """The loss of each example; None where the loss refuses its arguments."""
        tables = self.turned if turned else self.arguments
        try:
            values = loss({name: tables[name].detach() for name in given})
        except (ValueError, RuntimeError):
            return None
        return values if values.isfinite().all() else None

    def gradient(self, loss: Examinee, given: frozenset[str], *, turned: bool = False) -> Tensor | None:
        """The gradient of the summed loss in the logits, as one row; None where the loss refuses its arguments."""
        tables = self.turned if turned else self.arguments
        arguments = {name: tables[name] for name in given}
        trained = [name for name in loss.trained if name in arguments]
        leaves = {name: arguments[name].detach().requires_grad_() for name in trained}
        try:
            values = loss({**arguments, **leaves})
        except (ValueError, RuntimeError):
            return None
        slopes = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
        used = [(name, slope) for name, slope in zip(leaves, slopes, strict=True) if slope is not None]
        if not used:
            return None
        parts = [slope.flatten() @ self._jacobian(tables[name]) for name, slope in used]
        gradient = torch.stack(parts).sum(0)
        return gradient if gradient.isfinite().all() else None

    def _jacobian(self, argument: Tensor) -> Tensor:
        """The derivative of one argument in the logits, a row for each of its numbers; the same at every loss."""
        if id(argument) not in self.jacobians:
            rows = torch.eye(argument.numel(), dtype=torch.float64).view(-1, *argument.shape)
            (found,) = torch.autograd.grad(argument, self.logits, rows, retain_graph=True, is_grads_batched=True)
            self.jacobians[id(argument)] = found.flatten(1)
        return self.jacobians[id(argument)]


def _naming(wanted: frozenset[str]) -> Callable[..., Tensor]:
    """A function whose signature has these names."""

    def union(**given: Tensor) -> Tensor:
        raise NotImplementedError

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in sorted(wanted)]
    union.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return union
