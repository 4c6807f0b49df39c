"""Numbers of a whole batch that losses take as arguments: over all processes and micro-batches, without gradient.

They are computed before the gradients of the batch. `mean_length` and `score_sd` cost nothing. All others but `kl`
share one more forward pass of policy and reference over the batch; `kl` costs one over mismatched responses.

A running statistic is an exponential moving average over training batches, the current one included. It starts at the
value of the first batch: a start at 0 would pull it to 0. (β-DPO's code starts at 0, has n − 1 in the deviation, and
moves the averages in evaluations as well.) An evaluation uses the average as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from una_ref.data.batch import Example
from una_ref.methods.arguments import argument, names
from una_ref.methods.method import KINDS
from una_ref.training.batches import mismatched
from una_ref.training.losses import Losses, rewards_of

if TYPE_CHECKING:
    from una_ref.training.trainer import Trainer


class WholeBatch:
    """The numbers of this process about some examples of a batch, each (n,) float64."""

    def __init__(self, trainer: Trainer, examples: Sequence[Example]) -> None:
        self.trainer, self.examples = trainer, examples

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each response."""
        own = (e for micro, mine in self.trainer.turns(self.examples) if mine for e in micro)
        return self._tensor([len(response) for e in own for response in e.scored])

    @cached_property
    def scores(self) -> Tensor:
        """The score of each scored response, in reward units."""
        own = (e for micro, mine in self.trainer.turns(self.examples) if mine for e in micro)
        return self._tensor([score for e in own for score in e.scores or ()])

    @cached_property
    def gains(self) -> Tensor:
        """The log-ratio u of each response, in nats."""
        return self._joined([u for _, u, _ in self._known])

    @cached_property
    def gaps(self) -> Tensor:
        """u(y_w) − u(y_l) of each pair, in nats."""
        return self._joined([u[c : c + 1] - u[r : r + 1] for e, u, _ in self._known for c, r in e.pairs or ()])

    @cached_property
    def residuals(self) -> Tensor:
        """s − r_θ of each scored response, in reward units."""
        return self._joined([self._tensor(e.scores or ()) - rewards for e, _, rewards in self._known])

    @cached_property
    def mismatched_gains(self) -> Tensor:
        """The log-ratio of each response after the prompt of another example, in nats."""
        return self._joined([u for _, u, _ in self._forward(mismatched(self.examples))])

    @cached_property
    def _known(self) -> list[tuple[Example, Tensor, Tensor]]:
        return list(self._forward(self.examples))

    def _forward(self, examples: Iterable[Example]) -> Iterator[tuple[Example, Tensor, Tensor]]:
        """Each of this process's examples with the log-ratios (K,) and the rewards (K,) of its responses."""
        trainer = self.trainer
        for micro, mine in trainer.turns(examples):
            batch = trainer.batch(micro)
            with trainer.autocast():
                logps = trainer.policy(batch).double()
                ref_logps = trainer.summed(trainer.reference(micro, batch), batch).double()
            if mine:
                gains, sizes = logps - ref_logps, [len(e.responses) for e in micro]
                rewards = rewards_of(
                    trainer.method, batch, {"logps": logps, "ref_logps": ref_logps}, trainer.loss_kwargs
                )
                yield from zip(
                    micro, gains.split(sizes), (gains if rewards is None else rewards).split(sizes), strict=True
                )

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.trainer.accelerator.device)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._tensor(()), *parts])


def mean(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """The mean, from count, sum and sum of squares."""
    return total / count


def positive_mean(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """The mean, and 0 where it is negative: KTO's estimate of a KL."""
    return (total / count).clamp(min=0)


def deviation(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """The standard deviation with n: that of a batch does not change when the batch is repeated."""
    return (squares / count - (total / count).square()).clamp(min=0).sqrt()


def sample_deviation(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """The standard deviation with n − 1, as TRL has it; 0 for one number."""
    return ((squares - total.square() / count) / (count - 1).clamp(min=1)).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Statistic:
    """How a number of the batch is computed.

    Attributes:
        values: what it is a number of.
        number: from count, sum and sum of squares over all processes.
        running: whether losses get its moving average.
        everything: whether it is of all examples, and not only of those whose loss asks for it.
    """

    values: Callable[[WholeBatch], Tensor]
    number: Callable[[Tensor, Tensor, Tensor], Tensor] = mean
    running: bool = False
    everything: bool = False


STATISTICS: Mapping[str, Statistic] = {
    "kl": Statistic(lambda batch: batch.mismatched_gains, positive_mean, everything=True),
    "mean_length": Statistic(lambda batch: batch.lengths),
    "score_sd": Statistic(lambda batch: batch.scores, sample_deviation),
    "batch_gap": Statistic(lambda batch: batch.gaps),
    "running_gap": Statistic(lambda batch: batch.gaps, running=True),
    "running_gap_sd": Statistic(lambda batch: batch.gaps, deviation, running=True),
    "running_gain": Statistic(lambda batch: batch.gains, running=True),
    "baseline": Statistic(lambda batch: batch.residuals, running=True),
}
"""Every batch argument of a loss, and the `baseline` of a run with baseline=ema."""


class Statistics:
    """The statistics that the losses of a run ask for, and their moving averages.

    Args:
        losses: the loss of each kind of feedback.
        decay: share of the old value that a moving average keeps in a step.
        baseline: whether `baseline` is the moving average of s − r_θ.

    Attributes:
        kinds: name -> the kinds of feedback whose losses ask for it. But for `kl`, it is a number of their examples.
        averages: name -> moving average; empty before the first training step.
    """

    def __init__(self, losses: Losses, *, decay: float, baseline: bool = False) -> None:
        self.decay = decay
        self.averages: dict[str, float] = {}
        self.kinds: dict[str, set[str]] = {}
        self._next: dict[str, float] = {}
        for kind, loss in losses.items():
            for name in sorted(names(loss)):
                entry = argument(name)
                if entry is not None and (entry.kind == "batch" or (baseline and name == "baseline")):
                    self.kinds.setdefault(name, set()).add(kind)

    @torch.no_grad()
    def __call__(self, trainer: Trainer, examples: Sequence[Example], *, training: bool) -> dict[str, Tensor]:
        """Each statistic of a batch, () float64. It is left out where no example asks for it.

        In training the moving averages include this batch; `keep` keeps them.
        """

        @cache
        def batch(kinds: frozenset[str]) -> WholeBatch:
            return WholeBatch(trainer, [e for e in examples if e.kind in kinds])

        found: dict[str, Tensor] = {}
        for name, kinds in self.kinds.items():
            statistic = STATISTICS[name]
            asked = batch(frozenset({*KINDS} if statistic.everything else kinds))
            old = self.averages.get(name) if statistic.running else None
            if not asked.examples:
                continue
            if old is not None and not training:
                found[name] = torch.tensor(old, dtype=torch.float64, device=trainer.accelerator.device)
                continue
            values = statistic.values(asked)
            sums = torch.stack([values.new_tensor(len(values)), values.sum(), values.square().sum()])
            new = statistic.number(*trainer.accelerator.reduce(sums))
            found[name] = new if old is None else self.decay * old + (1 - self.decay) * new
        if training:
            self._next = {name: float(value) for name, value in found.items() if STATISTICS[name].running}
        return found

    def keep(self) -> None:
        """Take over the moving averages of the last training batch, once its step is done."""
        self.averages = self.averages | self._next


def at_start(statistics: Statistics, examples: Sequence[Example]) -> dict[str, Tensor]:
    """The statistics of a batch while the policy is equal to its reference, () float64: all log-ratios are 0."""
    scores = torch.tensor([score for e in examples for score in e.scores or ()], dtype=torch.float64)
    sizes = torch.tensor([len(response) for e in examples for response in e.scored], dtype=torch.float64)
    known = {"mean_length": sizes.mean(), "baseline": scores.mean() if len(scores) else scores.new_zeros(())}
    known["score_sd"] = scores.std() if len(scores) > 1 else scores.new_zeros(())
    return {name: known.get(name, sizes.new_zeros(())) for name in statistics.kinds}
