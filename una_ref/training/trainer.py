"""The trainer: a batch in, one loss for each example, an optimizer step. It serves a table, a tiny LM and a 7B model.

The batch of a step is shared out to the processes and cut into micro-batches by tokens. Each contributes the *sum* of
its losses divided by the number of losses in the whole batch. The gradient is therefore that of the whole batch,
whatever the lengths, the cut and the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from una_ref.data.batch import Batch, Example, collate, microbatches
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.methods.arguments import ARGUMENTS, Need, names, needs, requires
from una_ref.policies.combining import l1_norm
from una_ref.policies.layouts import layouts
from una_ref.policies.logprobs import summed
from una_ref.policies.reference_cache import ReferenceCache
from una_ref.policies.references import Policy
from una_ref.training import distributed, sharding
from una_ref.training.batches import mismatched
from una_ref.training.config import Config
from una_ref.training.losses import Losses, losses_of
from una_ref.training.metrics import NAMES, means, measure


class NonFinite(RuntimeError):
    """A loss or gradient is not finite. The run stops; `examples` are the rows of the batch."""

    def __init__(self, message: str, examples: Sequence[Example]) -> None:
        super().__init__(message)
        self.examples = list(examples)


@dataclass(frozen=True, eq=False)
class Forward:
    """A micro-batch after the forward pass.

    Attributes:
        batch: B responses.
        losses: every loss by kind of feedback, with gradient.
        logps, ref_logps: (B,) log π and log π_ref in nats; None for a scorer, and where no loss asks for the reference.
        rewards: (B,) what the method calls the reward, without gradient; None where it has none.
    """

    batch: Batch
    losses: dict[str, Tensor]
    logps: Tensor | None
    ref_logps: Tensor | None
    rewards: Tensor | None

    @property
    def values(self) -> Tensor:
        """(batch.count,) every loss, kind after kind."""
        return torch.cat(list(self.losses.values()))

    def without(self, kind: str) -> Tensor:
        """Every loss but those of one kind of feedback."""
        return torch.cat([loss for name, loss in self.losses.items() if name != kind] or [self.values[:0]])


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
        values: (prompts,) V(x), or None where none is learned.
        loss_kwargs: the losses' hyper-parameters. An adaptive KL controller changes β.
        needs: what the losses ask of the run.
        layout: of its batches.
        include_last_token: whether batches hold responses to the last token, as a scorer reads them.
        accelerator: the processes and the device.
        sharded: whether the weights are in shards over the processes.
        cache: of the reference's log-probabilities; None where they are computed in every step.

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
        self.config, self.losses, self.method = config, losses, METHODS[config.method]
        self.needs = needs(losses.values())
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
        groups = [{"params": list(self.trained.values()), "peak": config.lr, "weight_decay": config.weight_decay}]
        self.values: nn.Parameter | None = None
        if self._learns_values():
            if prompts < 1:
                raise InputError(f"prompts: expected at least one, to learn a V(x) of each, got {prompts}")
            dtype = next(iter(self.trained.values())).dtype
            start = torch.full((prompts,), value_start, dtype=dtype, device=self.accelerator.device)
            self.values = nn.Parameter(start)
            self.trained["V(x)"] = self.values
            rate = 0.05 if config.value_lr is None else config.value_lr
            groups.append({"params": [self.values], "peak": rate, "weight_decay": 0.0})
        critic = [p for name, p in self.trained.items() if name.startswith("critic.")]
        if critic:
            groups[0]["params"] = [p for name, p in self.trained.items() if not name.startswith(("critic.", "V(x)"))]
            groups.append({"params": critic, "peak": config.value_lr or config.lr, "weight_decay": config.weight_decay})
        self.optimizer = torch.optim.AdamW(groups, foreach=False if self.sharded else None)
        # A separate critic has large gradients, which would scale down the policy's: it has a norm of its own. V(x) and
        # a head on the policy's hidden states share the policy's norm.
        separate = critic if policy.critic and policy.critic.core is not None else []
        ids = {id(p) for p in separate}
        self._clipped = [part for part in ([p for p in self.trained.values() if id(p) not in ids], separate) if part]
        self.loss_kwargs = dict(config.loss_kwargs)
        self.cache: ReferenceCache | None = None

    def _learns_values(self) -> bool:
        """Whether V(x) is learned: the config asks for it, or a loss requires a baseline."""
        if self.config.baseline == "learned":
            if Need.BASELINE not in self.needs:
                raise InputError(f"baseline=learned: the losses of {self.config.method} take no baseline")
            return True
        return any(requires(loss, "baseline") for loss in self.losses.values())

    @property
    def compares_group(self) -> bool:
        """Whether a loss compares a response with the others of its prompt, so that each prompt needs two."""
        return bool(self.needs & {Need.GROUP}) and self.values is None

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step (from 0): linear warm-up, then cosine to 0 or constant."""
        c = self.config
        rise = round(c.warmup * c.steps)
        if step < rise:
            return (step + 1) / (rise + 1)
        if c.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (c.steps - rise)))

    def step(self, step: int, examples: Sequence[Example], *, update: int = 0, record: bool = True) -> dict[str, float]:
        """One optimizer step on a batch; returns its metrics if they are to be recorded.

        Args:
            step: from 0; it determines the learning rate and the dropout masks.
            examples: the whole batch. Every process gets the same examples and takes its share.
            update: which optimizer step within the step.
            record: whether to measure.

        Raises:
            NonFinite: before any weight has changed.
        """
        c, team = self.config, self.accelerator
        if c.lora_dropout:  # the masks depend on seed, step and process, and not on where a run was resumed
            place = c.seed * 1_000_003 + step + update * 1_000_000_007
            torch.manual_seed((place * team.num_processes + team.process_index) % 2**63)
        measured = self.accumulate(examples, record=record)
        if c.l1:  # after the sum over processes, each of which has the whole adapter
            (c.l1 * l1_norm(self.policy.model)).backward()
        norms = [sharding.clip_gradients(part, c.max_grad_norm or math.inf, team) for part in self._clipped]
        norm = math.hypot(*norms)
        if not math.isfinite(norm):
            raise NonFinite(f"the norm of the gradient is {norm:g}", examples)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return measured | {"grad_norm": norm, "lr": c.lr * self.rate(step)} if record else {}

    def accumulate(self, examples: Sequence[Example], *, record: bool = True) -> dict[str, float]:
        """Add the gradient of a batch's mean loss, over all processes; returns its metrics.

        An auxiliary loss has a mean of its own, over its own examples. It is not part of the metric `loss`.
        """
        team = self.accelerator
        kl = self._kl(examples)
        auxiliary = self.method.auxiliary.kind if self.method.auxiliary else ""
        counts = {True: 0, False: 0}  # whether the loss is auxiliary -> number of losses
        for e in examples:
            counts[e.kind == auxiliary] += e.count
        sums = torch.zeros(len(NAMES), 2, dtype=torch.float64, device=team.device)
        bad: NonFinite | None = None
        for micro, mine in self.turns(examples):
            forward = self.forward(micro, kl)
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
        return self._means(sums, kl) if record else {}

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metrics of held-out examples, in eval mode."""
        self.policy.eval()
        kl = self._kl(examples)
        sums = torch.zeros(len(NAMES), 2, dtype=torch.float64, device=self.accelerator.device)
        for micro, mine in self.turns(examples):
            forward = self.forward(micro, kl)
            if mine:
                sums += measure(forward.batch, forward.values, forward.logps, forward.rewards)
        self.policy.train()
        return self._means(sums, kl)

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
            return self.policy.check_start(batch, self._summed(reference, batch))

    def _summed(self, reference: Tensor, batch: Batch) -> Tensor:
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
        """
        team = self.accelerator
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

    def forward(self, examples: Sequence[Example], kl: Tensor | None = None) -> Forward:
        """A micro-batch with its losses, log-probabilities and rewards. `kl` is KTO's estimate, in nats."""
        batch = self.batch(examples)
        with self.autocast():
            known = self.policy.outputs(batch, self.needs)
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
        if (baseline := self.baseline(batch)) is not None:
            known["baseline"] = baseline
        if kl is not None:
            known["kl"] = kl
        losses = losses_of(self.losses, batch, known, self.loss_kwargs)
        return Forward(batch, losses, known.get("logps"), known.get("ref_logps"), self._rewards(known, batch))

    def _references(self, examples: Sequence[Example], batch: Batch) -> dict[str, Tensor]:
        """What the losses ask of the reference, by name."""
        if not self.policy.has_reference:
            return {}
        found: dict[str, Tensor] = {}
        if self.needs & {Need.REFERENCE, Need.REFERENCE_TOKENS}:
            reference = self.reference(examples, batch)
            if Need.REFERENCE_TOKENS in self.needs:
                found["ref_token_logps"] = reference
            found["ref_logps"] = self._summed(reference, batch)
        if Need.REFERENCE_DISTRIBUTIONS in self.needs:
            found["ref_logits"] = self.policy.reference_distributions(batch)
        return found

    @torch.no_grad()
    def _rewards(self, known: dict[str, Tensor], batch: Batch) -> Tensor | None:
        """(B,) what the method calls the reward, in float64, where everything that it is made of is known."""
        function = self.method.reward.function
        if function is None:
            return None
        kwargs = {**self.method.hyperparameters, **self.loss_kwargs}
        given = kwargs | known | {"lengths": batch.lengths}
        if any(requires(function, name) and name not in given for name in names(function)):
            return None
        values = {name: given[name] for name in names(function) & given.keys()}
        return function(**{name: v.double() if isinstance(v, Tensor) else v for name, v in values.items()})

    @torch.no_grad()
    def _kl(self, examples: Sequence[Example]) -> Tensor | None:
        """max(0, mean log π/π_ref of mismatched responses) over the whole batch, if a loss asks for it (KTO's z₀)."""
        if Need.KL not in self.needs:
            return None
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for micro, mine in self.turns(mismatched(examples)):
            batch = self.batch(micro)
            with self.autocast():
                gaps = self.policy(batch).double() - self._summed(self.reference(micro, batch), batch)
            if mine:
                sums += torch.stack([gaps.sum(), gaps.new_tensor(len(gaps))])
        total, count = self.accelerator.reduce(sums)
        return (total / count).clamp(min=0).float()

    def _means(self, sums: Tensor, kl: Tensor | None) -> dict[str, float]:
        return means(self.accelerator.reduce(sums)) | ({} if kl is None else {"kl": float(kl)})
