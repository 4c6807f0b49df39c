"""The trainer: a batch in, one loss for each example, an optimizer step. It serves a table, a tiny LM and a 7B model.

The batch of a step is shared out to the processes and cut into micro-batches by tokens. Each contributes the *sum* of
its losses divided by the number of losses in the whole batch. The gradient is therefore that of the whole batch,
whatever the lengths, the cut and the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from una_ref.data.batch import Batch, Example, collate, microbatches
from una_ref.errors import InputError
from una_ref.methods.arguments import ARGUMENTS, Need, names, needs, requires
from una_ref.policies.combining import l1_norm
from una_ref.policies.layouts import layouts
from una_ref.policies.logprobs import summed
from una_ref.policies.reference_cache import ReferenceCache
from una_ref.policies.references import Policy
from una_ref.training import distributed, sharding
from una_ref.training.config import Config
from una_ref.training.forward import Forward
from una_ref.training.losses import Losses, losses_of, rewards_of
from una_ref.training.metrics import NAMES, means, measure
from una_ref.training.optimizer import CRITIC, VALUES, optimizer_of, rate
from una_ref.training.statistics import Statistics
from una_ref.training.values import RunningValues


class NonFinite(RuntimeError):
    """A loss or gradient is not finite. The run stops; `examples` are the rows of the batch."""

    def __init__(self, message: str, examples: Sequence[Example]) -> None:
        super().__init__(message)
        self.examples = list(examples)


class Trainer:
    """A policy, its losses and its optimizer.

    Args:
        policy: the model with its reference.
        losses: the loss of each kind of feedback in the data.
        config: the run.
        prompts: number of prompts in the training data, for a learned V(x).
        value_start: start value of a learned V(x), in reward units.

    Attributes:
        trained: name -> parameter, all that a step changes.
        values: (prompts,) V(x), or None where there is none. running: what moves it, for baseline=mean.
        loss_kwargs: the losses' hyper-parameters. An adaptive KL controller changes β.
        network: whether V(x) is a critic's value of the prompt.
        needs: what the losses ask of the run.
        layout: of its batches.
        include_last_token: whether batches hold responses to the last token, as a scorer reads them.
        accelerator: the processes and the device.
        sharded: whether the weights are in shards over the processes.
        cache: of the reference's log-probabilities; None where they are computed in every step.
        statistics: numbers of the whole batch that the losses ask for.

    Raises:
        InputError: the config asks for what these losses or processes cannot do.
    """

    def __init__(
        self, policy: Policy, losses: Losses, config: Config, *, prompts: int = 0, value_start: float = 0.0
    ) -> None:
        self.accelerator = distributed.processes()
        if config.batch < self.accelerator.num_processes:
            raise InputError(
                f"batch: expected at least one row for each of {self.accelerator.num_processes} "
                f"processes, got {config.batch}"
            )
        if config.whole_batch and self.accelerator.num_processes > 1:
            raise InputError(
                f"processes: {config.method}: expected one, since its loss compares all examples of a batch, got "
                f"{self.accelerator.num_processes}. Fix: start the run without a launcher"
            )
        self.config, self.losses, self.method = config, losses, config.record
        self.network = config.baseline == "network"
        self.needs = needs(losses.values()) | ({Need.CRITIC} if self.network else set())
        self.statistics = Statistics(losses, decay=config.decay, baseline=config.baseline == "ema")
        self.policy = policy.train()
        self.sharded = sharding.shard(self.policy, config, self.accelerator)  # before the move: whole it may not fit
        if self.sharded and config.l1:
            raise InputError("l1: expected whole weights in each process, got shards")
        self.policy.to(self.accelerator.device)
        self.layout = policy.layout if config.layout == "auto" else config.layout
        if self.layout not in layouts(policy.model):
            raise InputError(
                f"layout={self.layout}: expected one of {', '.join(layouts(policy.model))}, which this model takes"
            )
        self.include_last_token = policy.output == "rewards"
        self.trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        self.values: Tensor | None = None
        self.running: RunningValues | None = None
        if self.network and policy.critic:
            nn.init.constant_(policy.critic.head.bias, value_start)
        if how := self._values():
            if prompts < 1:
                raise InputError(f"prompts: expected at least one, to learn a V(x) of each, got {prompts}")
            dtype = next(iter(self.trained.values())).dtype
            self.values = torch.full((prompts,), value_start, dtype=dtype, device=self.accelerator.device)
            if how == "mean":
                self.running = RunningValues(self.values, decay=config.decay)
            else:
                self.values = self.trained[VALUES] = nn.Parameter(self.values)
        self.optimizer = optimizer_of(config, self.trained, sharded=self.sharded)
        # A separate critic has large gradients, which would scale down the policy's: it has a norm of its own. V(x) and
        # a head on the policy's hidden states share the policy's norm.
        own_norm = CRITIC if policy.critic and policy.critic.core is not None else ()
        rest = [p for name, p in self.trained.items() if not name.startswith(own_norm)]
        apart = [p for name, p in self.trained.items() if name.startswith(own_norm)]
        self._clipped = [part for part in (rest, apart) if part]
        self.loss_kwargs = dict(config.loss_kwargs)
        self.cache: ReferenceCache | None = None

    def _values(self) -> Literal["", "learned", "mean"]:
        """How V(x) comes about, if there is one for each prompt: the config asks for it, or a loss requires it."""
        how, method = self.config.baseline, self.config.method
        if how != "default" and Need.BASELINE not in self.needs:
            raise InputError(f"baseline={how}: the losses of {method} take no baseline")
        if how in ("ema", "mean"):
            for kind, loss in self.losses.items():
                if kind != "scores" and "baseline" in names(loss):
                    raise InputError(
                        f"baseline={how}: expected scores, since it is a mean of s − r_θ, got {kind}. "
                        "Fix: baseline=learned"
                    )
            return "mean" if how == "mean" else ""
        if how == "network":
            return ""
        asked = how == "learned" or any(requires(loss, "baseline") for loss in self.losses.values())
        return "learned" if asked else ""

    @property
    def kept(self) -> dict[str, Tensor]:
        """Name -> tensor, all that a checkpoint holds: what is trained, running means, a reference that moves."""
        means = {VALUES: self.running.values, "V(x) visits": self.running.visits} if self.running else {}
        moving = {f"reference.{name}": value for name, value in self.policy.moving.items()}
        return {**self.trained, **means, **moving}

    @property
    def compares_group(self) -> bool:
        """Whether a loss compares a response with the others of its prompt, so that each prompt needs two."""
        alone = self.values is not None or self.config.baseline in ("ema", "network")
        return Need.GROUP in self.needs and not alone

    def step(self, step: int, examples: Sequence[Example], *, update: int = 0, record: bool = True) -> dict[str, float]:
        """One optimizer step on a batch; returns its metrics if they are to be recorded.

        Args:
            step: from 0; it determines the learning rate and the random numbers.
            examples: the whole batch. Every process gets the same examples and takes its share.
            update: which optimizer step within the step.
            record: whether to measure.

        Raises:
            NonFinite: before any weight has changed.
        """
        c, team = self.config, self.accelerator
        # Dropout, and a loss that samples, depend on seed, step and process, and not on where a run was resumed.
        self._seed(step + update * 1_000_000_007)
        measured = self.accumulate(examples, record=record)
        if c.l1:  # after the sum over processes, each of which has the whole adapter
            (c.l1 * l1_norm(self.policy.model)).backward()
        norms = [sharding.clip_gradients(part, c.max_grad_norm or math.inf, team) for part in self._clipped]
        norm = math.hypot(*norms)
        if not math.isfinite(norm):
            raise NonFinite(f"the norm of the gradient is {norm:g}", examples)
        share = rate(c, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.statistics.keep()
        if self.running:
            self.running.keep(team)
        return measured | {"grad_norm": norm, "lr": c.learning_rate * share} if record else {}

    def accumulate(self, examples: Sequence[Example], *, record: bool = True) -> dict[str, float]:
        """Add the gradient of a batch's mean loss, over all processes; returns its metrics.

        An auxiliary loss has a mean of its own, over its own examples. It is not part of the metric `loss`.
        """
        team = self.accelerator
        statistics = self.statistics(self, examples, training=True)
        auxiliary = self.method.auxiliary.kind if self.method.auxiliary else ""
        counts = {True: 0, False: 0}  # whether the loss is auxiliary -> number of losses
        for e in examples:
            counts[e.kind == auxiliary] += e.count
        sums = torch.zeros(len(NAMES), 2, dtype=torch.float64, device=team.device)
        bad: NonFinite | None = None
        for micro, mine in self.turns(examples):
            forward = self.forward(micro, statistics)
            values = forward.values
            if mine and not torch.isfinite(values).all():
                bad = bad or NonFinite(f"a loss is {values[~torch.isfinite(values)][0].item()}", micro)
                if not self.sharded:  # with shards the other processes wait for this one's part of the weights
                    break
            means_of = [
                torch.cat(parts).sum() / counts[extra]
                for extra in (False, True)
                if (parts := [loss for kind, loss in forward.losses.items() if (kind == auxiliary) == extra])
            ]
            total = torch.stack(means_of).sum()
            (total if mine else 0 * total).backward()
            if self.running and mine and forward.rewards is not None:
                self.running.note(forward.batch, forward.rewards)
            if record and mine:
                sums += measure(forward.batch, forward.without(auxiliary), forward.logps, forward.rewards)
        if distributed.any_process(team, bad is not None):  # no process may wait for one that has stopped
            stopped = distributed.from_all(team, [(str(bad), bad.examples)] if bad else [])
            raise NonFinite(*stopped[0])
        if team.num_processes > 1:
            for parameter in self.trained.values():
                if sharding.is_shard(parameter):  # summed when it was computed
                    continue
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = team.reduce(gradient)
        return self._means(sums, statistics) if record else {}

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metrics of held-out examples, in eval mode."""
        self.policy.eval()
        self._seed(-1)  # a loss that samples has the same random numbers in every evaluation
        statistics = self.statistics(self, examples, training=False)
        sums = torch.zeros(len(NAMES), 2, dtype=torch.float64, device=self.accelerator.device)
        for micro, mine in self.turns(examples):
            forward = self.forward(micro, statistics)
            if mine:
                sums += measure(forward.batch, forward.values, forward.logps, forward.rewards)
        self.policy.train()
        return self._means(sums, statistics)

    def _seed(self, place: int) -> None:
        """Seed torch by the run's seed, a place in the run and the process."""
        team = self.accelerator
        place += self.config.seed * 1_000_003
        seed = (place * team.num_processes + team.process_index) % 2**63
        # On a CPU this alone: torch.manual_seed also notes the call stack for GPUs, which takes a millisecond.
        seeded = torch.default_generator.manual_seed if team.device.type == "cpu" else torch.manual_seed
        seeded(seed)

    @torch.no_grad()
    def logps(self, examples: Sequence[Example]) -> Tensor:
        """(B,) log π of every response of some examples, in eval mode, as they are sampled."""
        self.policy.eval()
        with self.autocast():
            out = torch.cat([self.policy(self.batch(micro)) for micro in self.micro_batches(examples)])
        self.policy.train()
        return out

    def remember_reference(self, examples: Iterable[Example]) -> None:
        """Put the reference's log-probabilities of these examples into the cache (in memory if there is none yet)."""
        self.cache = self.cache or ReferenceCache()
        team = self.accelerator
        for micro in islice(self.runs(examples), team.process_index, None, team.num_processes):
            self.reference(micro, self.batch(micro))
        team.wait_for_everyone()

    @torch.no_grad()
    def reference(self, examples: Sequence[Example], batch: Batch) -> Tensor:
        """(B,) log π_ref of a micro-batch, from the cache if there is one; (N,) of its tokens where a loss asks."""
        per_token = Need.REFERENCE_TOKENS in self.needs

        def compute() -> Tensor:
            with self.autocast():
                return self.policy.reference_tokens(batch) if per_token else self.policy.reference(batch)

        if self.cache is None:
            return compute()
        return self.cache(examples, compute, per_token=per_token).to(self.accelerator.device)

    def check_start(self, examples: Sequence[Example]) -> float:
        """`Policy.check_start` of the first micro-batch of some examples, with the reference used in training."""
        first = self.micro_batches(examples)[0]
        batch = self.batch(first)
        reference = self.reference(first, batch)
        with self.autocast():
            return self.policy.check_start(batch, self.summed(reference, batch))

    def summed(self, reference: Tensor, batch: Batch) -> Tensor:
        """(B,) from what `reference` returns."""
        return summed(reference, batch) if Need.REFERENCE_TOKENS in self.needs else reference

    @property
    def arithmetic(self) -> str:
        """The dtype of autocast, where it is not the weights' own; else empty."""
        return "bfloat16" if self._casts else ""

    def micro_batches(self, examples: Iterable[Example]) -> list[list[Example]]:
        """Examples cut into micro-batches of at most `micro_tokens`."""
        return list(self.runs(examples))

    def runs(self, examples: Iterable[Example]) -> Iterator[list[Example]]:
        """The same, one after the other."""
        return microbatches(examples, self.config.micro_tokens, self.layout, include_last_token=self.include_last_token)

    def turns(self, examples: Iterable[Example]) -> Iterator[tuple[list[Example], bool]]:
        """The share of some examples that this process takes, as micro-batches, and whether each counts.

        With sharded weights all processes must compute equally often: then some micro-batches are there for that alone.
        A loss of the whole batch gets `batch` rows at once, whatever `micro_tokens`.
        """
        team = self.accelerator
        if self.config.whole_batch:
            rows = iter(examples)
            yield from ((whole, True) for whole in iter(lambda: list(islice(rows, self.config.batch)), []))
            return
        if not self.sharded:
            mine = islice(examples, team.process_index, None, team.num_processes)
            yield from ((micro, True) for micro in self.runs(mine))
            return
        every = list(examples)
        own = self.micro_batches(distributed.share(team, every))
        most = max(distributed.from_all(team, [len(own)]))  # before the first one: all processes ask at the same time
        yield from ((micro, True) for micro in own)
        yield from [([every[0]], False)] * (most - len(own))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Examples laid out as the model takes them, on its device."""
        return collate(examples, self.layout, include_last_token=self.include_last_token).to(self.accelerator.device)

    def baseline(self, batch: Batch) -> Tensor | None:
        """(B,) the learned V(x) of each response, or None; a prompt that is not trained on has the mean V."""
        if self.values is None:
            return None
        prompts = batch.prompts[batch.groups]
        known = prompts < len(self.values)
        return torch.where(known, self.values[prompts.clamp(max=len(self.values) - 1)], self.values.mean().detach())

    def autocast(self) -> torch.autocast:
        """In bfloat16 without adapters the weights stay float32 and the arithmetic is cast."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self._casts)

    @property
    def _casts(self) -> bool:
        return self.config.dtype == "bfloat16" and not self.config.lora_r

    def forward(self, examples: Sequence[Example], statistics: Mapping[str, Tensor] = MappingProxyType({})) -> Forward:
        """A micro-batch with its losses, log-probabilities and rewards, given the statistics of the whole batch."""
        batch = self.batch(examples)
        with self.autocast():
            known = self.policy.outputs(batch, self.needs)
        return self.evaluated(examples, batch, known, statistics)

    def evaluated(
        self, examples: Sequence[Example], batch: Batch, known: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> Forward:
        """Losses and rewards of a micro-batch from the policy's outputs, see `Policy.outputs`."""
        known = dict(known)
        with self.autocast():
            output = known[self.policy.output]
            known |= {name: value.to(output) for name, value in self._references(examples, batch).items()}
            known |= {name: value.to(output) for name, value in batch.experience.items()}
        if Need.TOKENS in self.needs:
            known["token_ids"] = batch.target
        if "old_token_logps" in known:
            known["old_logps"] = summed(batch.experience["old_token_logps"], batch).to(output)
        of_tokens = [name for name in known if ARGUMENTS[name].kind in ("token", "distribution")]
        known |= {name: batch.by_response(known[name]) for name in of_tokens}
        if of_tokens:
            known["mask"] = batch.by_response(torch.ones_like(batch.target, dtype=torch.bool))
        if (baseline := known["values"][:, 0] if self.network else self.baseline(batch)) is not None:
            known["baseline"] = baseline  # the first token's value is that of the prompt: no token of y has been read
        known |= {name: value.to(output) for name, value in statistics.items()}
        losses = losses_of(self.losses, batch, known, self.loss_kwargs)
        rewards = rewards_of(self.method, batch, known, self.loss_kwargs)
        return Forward(batch, losses, known.get("logps"), known.get("ref_logps"), rewards)

    def _references(self, examples: Sequence[Example], batch: Batch) -> dict[str, Tensor]:
        """What the losses ask of the reference, by name."""
        if not self.policy.has_reference:
            return {}
        found: dict[str, Tensor] = {}
        if self.needs & {Need.REFERENCE, Need.REFERENCE_TOKENS}:
            reference = self.reference(examples, batch)
            if Need.REFERENCE_TOKENS in self.needs:
                found["ref_token_logps"] = reference
            found["ref_logps"] = self.summed(reference, batch)
        if Need.SECOND_REFERENCE in self.needs:
            own = self.policy.references_differ or "ref_logps" not in found
            found["second_ref_logps"] = self.policy.second_reference(batch) if own else found["ref_logps"]
        if Need.REFERENCE_DISTRIBUTIONS in self.needs:
            found["ref_logits"] = self.policy.reference_distributions(batch)
        return found

    def _means(self, sums: Tensor, statistics: Mapping[str, Tensor]) -> dict[str, float]:
        return means(self.accelerator.reduce(sums)) | {name: float(value) for name, value in statistics.items()}
