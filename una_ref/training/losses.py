"""From a batch to the arguments of a loss, by the names in the loss's signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from una_ref.data.batch import Batch
from una_ref.methods.arguments import PAIRED, names, requires
from una_ref.methods.method import Method

Losses = Mapping[str, Callable[..., Tensor]]
"""Kind of feedback -> loss."""


def losses_of(
    losses: Losses, batch: Batch, known: Mapping[str, Tensor], loss_kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The losses of a batch by kind of feedback, each (number of its pairs, responses or lists,).

    A loss is given the arguments that its signature names. The loss of a pair is multiplied by its weight. The mean is
    over the number of pairs and not over the sum of the weights: it then estimates E[w·l] whatever the batch, and a
    pair counts the same whichever others are beside it.

    Args:
        losses: the loss of each kind of feedback in the batch.
        batch: B responses.
        known: arguments of single responses by name, (B,), (B, T) or (B, T, V), and numbers of the whole batch, ().
        loss_kwargs: hyper-parameters by name.
    """
    wanted = {PAIRED[name][0] if name in PAIRED else name for loss in losses.values() for name in names(loss)}
    wanted |= {"groups", *(("scores",) if "margins" in wanted else ())}
    output = known["rewards"] if "rewards" in known else known["logps"]
    batched = {"lengths": batch.lengths, "groups": batch.groups, "scores": batch.scores.to(output)}
    available = {name: value for name, value in (batched | dict(known)).items() if name in wanted}
    if "win_rates" in wanted:
        available["win_rates"] = win_rates(batch).to(output)
    whole = {name: available.pop(name) for name, value in list(available.items()) if value.dim() == 0}

    def responses(index: Tensor) -> dict[str, Tensor]:
        return {name: value[index] for name, value in available.items()}

    def call(kind: str, arguments: Mapping[str, Any]) -> Tensor:
        given = {**loss_kwargs, **whole, **arguments}
        return losses[kind](**{name: given[name] for name in names(losses[kind]) & given.keys()})

    found: dict[str, Tensor] = {}
    if len(batch.pairs):
        sides = {"chosen": responses(batch.pairs[:, 0]), "rejected": responses(batch.pairs[:, 1])}
        pairs = {name: sides[side][base] for name, (base, side) in PAIRED.items() if base in sides[side]}
        if "margins" in wanted:
            by_scores = pairs["chosen_scores"] - pairs["rejected_scores"]
            pairs["margins"] = torch.where(batch.margins.isnan(), by_scores, batch.margins.to(by_scores))
        losses_of_pairs = call("pairs", pairs)
        found["pairs"] = losses_of_pairs * batch.weights.to(losses_of_pairs)
    if len(batch.scored):
        found["scores"] = call("scores", responses(batch.scored))
    if len(batch.listed):
        found["lists"] = call("lists", _lists(responses(batch.listed)))
    if len(batch.labelled):
        found["labels"] = call("labels", responses(batch.labelled) | {"labels": batch.labels.to(output)})
    if len(batch.demos):
        found["demos"] = call("demos", responses(batch.demos))
    return found


@torch.no_grad()
def rewards_of(
    method: Method, batch: Batch, known: Mapping[str, Tensor], loss_kwargs: Mapping[str, Any]
) -> Tensor | None:
    """(B,) what a method calls the reward, in float64; None unless everything that it is made of is known.

    Args:
        method: of the run.
        batch: B responses.
        known: arguments of single responses by name.
        loss_kwargs: hyper-parameters by name.
    """
    function = method.reward.function
    if function is None:
        return None
    given = {**method.hyperparameters, **loss_kwargs, **known, "lengths": batch.lengths}
    if any(requires(function, name) and name not in given for name in names(function)):
        return None
    values = {name: given[name] for name in names(function) & given.keys()}
    return function(**{name: _exact(value) for name, value in values.items()})


def _exact(value: object) -> object:
    """A tensor of floating-point numbers in float64; anything else, a mask too, as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _lists(responses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arguments with one number a response, (S,) -> (G, K): a line for each prompt, 0 after its last response."""
    _, line, sizes = torch.unique_consecutive(responses["groups"], return_inverse=True, return_counts=True)
    place = torch.arange(len(line), device=line.device) - (sizes.cumsum(0) - sizes)[line]
    shape = len(sizes), int(sizes.max())

    def padded(values: Tensor) -> Tensor:
        return values.new_zeros(shape).index_put((line, place), values)

    lists = {name: padded(values) for name, values in responses.items() if values.dim() == 1 and name != "groups"}
    return lists | {"mask": padded(torch.ones_like(line, dtype=torch.bool))}


def win_rates(batch: Batch) -> Tensor:
    """(B,) share of the prompt's other scored responses that each beats, a tie counted half; NaN without a score."""
    out = torch.full_like(batch.scores, torch.nan)
    for index in (batch.scored, batch.listed):
        scores, groups = batch.scores[index], batch.groups[index]
        others = (groups[:, None] == groups) & ~torch.eye(len(index), dtype=torch.bool, device=index.device)
        wins = (scores[:, None] > scores).double() + 0.5 * (scores[:, None] == scores).double()
        out[index] = (wins * others).sum(1) / others.sum(1)
    return out
