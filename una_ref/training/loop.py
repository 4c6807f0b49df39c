"""The one loop: a batch in, per-example losses, an optimizer step; for a table, a tiny LM and a 7B model alike.

A step's batch is shared out to the processes and cut into micro-batches by tokens. Each contributes the *sum* of
its losses over the number of losses in the whole batch, so the gradient is the big batch's, whatever the lengths,
the cut and the number of processes.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from una_ref.data.batch import Batch, Example, collate, microbatches
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.policies.logprobs import summed
from una_ref.policies.reference_cache import ReferenceCache
from una_ref.policies.references import Policy
from una_ref.training import sharding
from una_ref.training.config import Config
from una_ref.training.metrics import NAMES, means, measure

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where torchrun, the MPIs and srun say how many processes they have started."""
Losses = Mapping[str, Callable[..., Tensor]]


class NonFinite(RuntimeError):
    """A loss or gradient that is not a number: the run stops, and `examples` are the rows it came from."""

    def __init__(self, message: str, examples: Sequence[Example]) -> None:
        super().__init__(message)
        self.examples = list(examples)


def processes() -> Accelerator:
    """The processes of this run and their device: CUDA where there is one, else the CPU.

    Raises:
        InputError: started as one of several processes that would each train alone, without a word.
    """
    from accelerate import Accelerator

    try:
        team = Accelerator(cpu=not torch.cuda.is_available())
    except ValueError as error:  # numbers of processes in the environment, and not where they meet
        raise InputError(f"processes: expected them started by torchrun or accelerate launch, got: {error}") from error
    for name in LAUNCHED:
        launched = int(os.environ.get(name) or "1")
        # srun and mpirun may start one torchrun a node, which has several processes.
        whole = team.num_processes == launched if name == "WORLD_SIZE" else team.num_processes % launched == 0
        if not whole:
            raise InputError(
                f"processes: expected the {launched} that {name} names to train together, got "
                f"{team.num_processes}; start them with torchrun or accelerate launch"
            )
    return team


@cache
def arguments(loss: Callable[..., Tensor]) -> frozenset[str]:
    """The arguments that a loss names."""
    return frozenset(inspect.signature(loss).parameters)


def losses_of(
    losses: Losses,
    batch: Batch,
    logps: Tensor,
    ref_logps: Tensor | None,
    hyper: Mapping[str, Any],
    *,
    tokens: Mapping[str, Tensor] | None = None,
    baseline: Tensor | None = None,
    kl: Tensor | None = None,
    gives: str = "logps",
) -> Tensor:
    """(batch.count,) every loss of a batch: pairs, scored, labelled and imitated responses, in this order.

    A loss is given exactly those arguments that its signature names.

    Args:
        losses: the loss for each kind of feedback.
        batch: B responses.
        logps: (B,) what the model gives: log π, or a scorer's rewards.
        ref_logps: (B,) log π_ref; None where no loss needs it.
        hyper: the losses' hyper-parameters.
        tokens: (N,) each, what is known of the scored tokens; a loss that names it gets it as (B, T), with its `mask`.
        baseline: (B,) V(x) of each response's prompt, where it is learned.
        kl: KTO's estimate of KL(π ‖ π_ref) in nats.
        gives: the name that losses have for what the model gives.
    """

    def responses(index: Tensor) -> dict[str, Any]:
        own = {
            gives: logps,
            "ref_logps": ref_logps,
            "lengths": batch.lengths,
            "groups": batch.groups,
            "baseline": baseline,
            **lines,
        }
        return {name: value[index] for name, value in own.items() if value is not None}

    lines = {name: batch.by_response(value) for name, value in (tokens or {}).items()}
    if "old_token_logps" in batch.experience:
        lines["old_logps"] = summed(batch.experience["old_token_logps"], batch).to(logps)
    if lines:
        lines["mask"] = batch.by_response(torch.ones_like(batch.target, dtype=torch.bool))

    def loss(kind: str, **available: Any) -> Tensor:
        available = {**hyper, **({} if kl is None else {"kl": kl}), **available}
        return losses[kind](**{name: available[name] for name in arguments(losses[kind]) & available.keys()})

    parts = []
    if len(batch.pairs):
        sides = {"chosen": responses(batch.pairs[:, 0]), "rejected": responses(batch.pairs[:, 1])}
        pairs = {_sided(side, name): value for side, own in sides.items() for name, value in own.items()}
        parts.append(loss("pairs", **pairs))
    if len(batch.scored):
        parts.append(loss("scores", **responses(batch.scored), scores=batch.scores.to(logps)))
    if len(batch.labelled):
        parts.append(loss("labels", **responses(batch.labelled), labels=batch.labels.to(logps)))
    if len(batch.demos):
        parts.append(loss("demos", **responses(batch.demos)))
    return torch.cat(parts)


def _sided(side: str, name: str) -> str:
    return f"ref_{side}_logps" if name == "ref_logps" else f"{side}_{name}"


def mismatched(examples: Sequence[Example]) -> Iterator[Example]:
    """Each prompt with the responses of the next example that has another prompt: what KTO estimates its KL on.

    Raises:
        InputError: there is no other prompt, so that responses would meet their own.
    """
    n = len(examples)
    for i, example in enumerate(examples):
        following = (examples[(i + k) % n] for k in range(1, n))
        other = next((e for e in following if e.prompt != example.prompt), None)
        if other is None:
            raise InputError(
                "kto: expected at least two different prompts in a batch to estimate its KL, got one; "
                "raise batch, or give more prompts"
            )
        yield Example(example.prompt, other.responses, source=example.source)


class Trainer:
    """A policy, what it learns by, and its optimizer.

    Args:
        policy: the model with its reference.
        losses: per kind of feedback.
        config: the run.
        prompts: number of prompts in the training data; 1 at least where V(x) is learned.
        value_start: where a learned V(x) starts.

    Attributes:
        trained: name -> parameter, all that a step changes.
        values: (prompts,) V(x), or None where none is learned.
        hyper: the losses' hyper-parameters; β may be steered.
        layout: of its batches.
        whole: whether they hold responses to the last token, as a scorer reads them.
        accelerator: the processes and the device.
        sharded: whether the weights are in shards over the processes.
        cache: of the reference's log-probs, or None: then they are computed in every step.

    Raises:
        InputError: the config asks for what these losses or processes cannot do.
    """

    def __init__(
        self, policy: Policy, losses: Losses, config: Config, *, prompts: int = 0, value_start: float = 0.0
    ) -> None:
        self.accelerator = processes()
        if config.batch < self.accelerator.num_processes:
            raise InputError(
                f"batch: expected at least one row for each of {self.accelerator.num_processes} "
                f"processes, got {config.batch}"
            )
        self.config, self.losses = config, losses
        self.policy = policy.train()
        self.sharded = sharding.shard(self.policy, config, self.accelerator)  # layer by layer: whole it may not fit
        self.policy.to(self.accelerator.device)
        self.layout = policy.layout if config.layout == "auto" else config.layout
        self.whole = policy.gives == "rewards"
        self.trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        groups = [{"params": list(self.trained.values()), "peak": config.lr, "weight_decay": config.weight_decay}]
        self.values: nn.Parameter | None = None
        if self._learns_values():
            if prompts < 1:
                raise InputError(f"prompts: expected their number, to learn a V(x) of each, got {prompts}")
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
        # A critic of its own has large gradients of its own, by which the policy's would be cut; V(x) has always
        # been measured together with the policy, and so is a head on the policy's hidden states.
        own = critic if policy.critic and policy.critic.core is not None else []
        held = {id(p) for p in own}
        self._clipped = [part for part in ([p for p in self.trained.values() if id(p) not in held], own) if part]
        self.hyper = dict(config.loss_kwargs)
        self.cache: ReferenceCache | None = None

    def _learns_values(self) -> bool:
        """Whether V(x) is learned: asked for, or in the method's reward and not to be had from the group."""
        takes = [arguments(loss) for loss in self.losses.values()]
        if self.config.baseline == "learned":
            if not any("baseline" in names for names in takes):
                raise InputError(f"baseline=learned: the losses of {self.config.method} take no baseline")
            return True
        centred = METHODS[self.config.method].reward.endswith("V(x)")
        return centred and any("baseline" in names and "groups" not in names for names in takes)

    def takes(self, argument: str) -> bool:
        """Whether any of the losses names an argument."""
        return any(argument in arguments(loss) for loss in self.losses.values())

    @property
    def takes_reference(self) -> bool:
        """Whether any of the losses asks for log π_ref; PPO's rewards hold it before the first update."""
        return any(name.startswith("ref_") for loss in self.losses.values() for name in arguments(loss))

    @property
    def remembers(self) -> bool:
        """Whether any of the losses asks for what was known of the tokens when they were drawn."""
        return any("old_" in name or name == "advantages" for loss in self.losses.values() for name in arguments(loss))

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step (from 0): linear warm-up, then cosine to 0, or constant."""
        c = self.config
        rise = round(c.warmup * c.steps)
        if step < rise:
            return (step + 1) / (rise + 1)
        if c.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (c.steps - rise)))

    def step(self, step: int, examples: Sequence[Example], *, update: int = 0, record: bool = True) -> dict[str, float]:
        """One optimizer step, counted from 0, on a batch; returns its metrics if they are to be recorded.

        Args:
            step: which, and so the learning rate and the dropout.
            examples: the whole batch; every process is given the same and takes its share.
            update: which of the step's optimizer steps.
            record: whether to measure.

        Raises:
            NonFinite: before any weight has changed.
        """
        c, team = self.config, self.accelerator
        if c.lora_dropout:  # the masks depend on the seed, the step and the process, not on where a run was resumed
            place = c.seed * 1_000_003 + step + update * 1_000_000_007
            torch.manual_seed((place * team.num_processes + team.process_index) % 2**63)
        measured = self.accumulate(examples, record=record)
        norms = [sharding.clip(part, c.max_grad_norm or math.inf, team) for part in self._clipped]
        norm = math.hypot(*norms)
        if not math.isfinite(norm):
            raise NonFinite(f"the gradient's norm is {norm:g}", examples)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return measured | {"grad_norm": norm, "lr": c.lr * self.rate(step)} if record else {}

    def accumulate(self, examples: Sequence[Example], *, record: bool = True) -> dict[str, float]:
        """Add the gradient of the mean loss of a batch, over all processes; returns its metrics."""
        team = self.accelerator
        count = sum(e.count for e in examples)
        kl = self._kl(examples)
        sums = torch.zeros(len(NAMES), 2, dtype=torch.float64, device=team.device)
        bad: NonFinite | None = None
        for micro, own in self.turns(examples):
            batch, losses, logps, ref_logps = self.forward(micro, kl)
            if own and not torch.isfinite(losses).all():
                bad = bad or NonFinite(f"a loss is {losses[~torch.isfinite(losses)][0].item()}", micro)
                if not self.sharded:  # else the others wait for this one's part of their weights
                    break
            ((losses.sum() if own else 0 * losses.sum()) / count).backward()
            if record and own:
                sums += measure(batch, losses, logps, ref_logps, self.config.beta, gives=self.policy.gives)
        if self.anyone(bad is not None):  # none of the processes may wait for one that has stopped
            found = self.from_all([(str(bad), bad.examples)] if bad else [])
            raise NonFinite(*found[0])
        if team.num_processes > 1:
            for parameter in self.trained.values():
                if sharding.is_shard(parameter):  # summed as it was computed
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
        for micro, own in self.turns(examples):
            found = self.forward(micro, kl)
            if own:
                sums += measure(*found, self.config.beta, gives=self.policy.gives)
        self.policy.train()
        return self._means(sums, kl)

    @torch.no_grad()
    def logps(self, examples: Sequence[Example]) -> Tensor:
        """(B,) log π of every response of some examples, by the forward that trains."""
        self.policy.eval()  # as it draws
        with self._autocast():
            out = torch.cat([self.policy(self.batch(micro)) for micro in self.micro_batches(examples)])
        self.policy.train()
        return out

    @torch.no_grad()
    def experience(self, examples: Sequence[Example]) -> tuple[list[Example], float]:
        """A rollout with what its losses will ask of its tokens, and the mean log π/π_ref of its responses in nats.

        Log-probs, values and, by the method's `advantages`, the rest, all of the policy as it is; in eval mode, each
        process for its share. The mean is NaN where no reference is asked for.
        """
        advantages = METHODS[self.config.method].advantages
        found: list[dict[str, list[Tensor]]] = []
        self.policy.eval()
        for micro in self.micro_batches(self.share(examples)):
            batch = self.batch(micro)
            with self._autocast():
                logps, values = self.policy.tokens(batch)
                own = {"old_token_logps": logps}
                if advantages:
                    own["ref_token_logps"] = self.policy.reference_tokens(batch)
                    own["old_values"] = torch.zeros_like(logps) if values is None else values
            sizes = batch.lengths.tolist()
            lines = {name: list(value.cpu().split(sizes)) for name, value in own.items()}
            for e in micro:
                k = len(e.responses)
                found.append({name: value[:k] for name, value in lines.items()})
                lines = {name: value[k:] for name, value in lines.items()}
        self.policy.train()
        found = self.gathered(found, len(examples))
        known = {name: [line for one in found for line in one[name]] for name in found[0]}
        kl = math.nan
        if advantages:
            padded = {name: nn.utils.rnn.pad_sequence(lines, batch_first=True) for name, lines in known.items()}
            sizes = [len(line) for line in known["old_token_logps"]]
            mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
            scores = torch.tensor([score for e in examples for score in e.scores or ()], dtype=torch.float64)
            names = arguments(advantages)
            hyper = {name: value for name, value in self.hyper.items() if name in names}
            made = advantages(**padded, scores=scores, mask=mask, **hyper)
            for name, value in zip(("advantages", "returns"), made, strict=True):
                known[name] = [line[:size] for line, size in zip(value, sizes, strict=True)]
            gaps = known["old_token_logps"], known.pop("ref_token_logps")
            kl = float(torch.stack([(new - ref).double().sum() for new, ref in zip(*gaps, strict=True)]).mean())
        out, at = [], 0
        for e in examples:
            span = slice(at, at := at + len(e.responses))
            lived = {name: tuple(tuple(line.tolist()) for line in lines[span]) for name, lines in known.items()}
            out.append(replace(e, experience=lived))
        return out, kl

    def gathered(self, own: Sequence[T], total: int) -> list[T]:
        """What every process has of its `share` of a whole of so many, in the order of the whole."""
        n, every = self.accelerator.num_processes, self.from_all(own)
        starts = [0]
        for rank in range(n):
            starts.append(starts[-1] + len(range(rank, total, n)))
        return [every[starts[i % n] + i // n] for i in range(total)]

    def from_all(self, own: Sequence[T]) -> list[T]:
        """What every process has, the first one's first."""
        if self.accelerator.num_processes == 1:
            return list(own)
        from accelerate.utils import gather_object

        return gather_object(list(own))

    def remember_reference(self, examples: Iterable[Example]) -> None:
        """Have the reference's log-probs of these examples in the cache (without one, in memory), cut the same way
        wherever a run is resumed.
        """
        self.cache = self.cache or ReferenceCache()
        team = self.accelerator
        for micro in islice(self.runs(examples), team.process_index, None, team.num_processes):
            self.reference(micro, self.batch(micro))
        team.wait_for_everyone()

    @torch.no_grad()
    def reference(self, examples: Sequence[Example], batch: Batch) -> Tensor:
        """(B,) log π_ref of a micro-batch: out of the cache where there is one, and in it from then on."""

        def compute() -> Tensor:
            with self._autocast():
                return self.policy.reference(batch)

        return self.cache(examples, compute).to(self.accelerator.device) if self.cache else compute()

    def check_start(self, examples: Sequence[Example]) -> float:
        """`Policy.check_start` of the first micro-batch of some examples, by the reference that trains."""
        first = self.micro_batches(examples)[0]
        batch = self.batch(first)
        with self._autocast():
            return self.policy.check_start(batch, self.reference(first, batch))

    @property
    def arithmetic(self) -> str:
        """What computes, where it is not the weights' own dtype."""
        return "bfloat16" if self._casts else ""

    def micro_batches(self, examples: Iterable[Example]) -> list[list[Example]]:
        """Examples cut into runs of at most `micro_tokens`."""
        return list(self.runs(examples))

    def runs(self, examples: Iterable[Example]) -> Iterator[list[Example]]:
        """The same, one after the other."""
        return microbatches(examples, self.config.micro_tokens, self.layout, whole=self.whole)

    def turns(self, examples: Iterable[Example]) -> Iterator[tuple[list[Example], bool]]:
        """The share that this process has of some examples as micro-batches, each its own (True).

        Where weights are in shards, all processes have to compute as often: then also some that are not, and count 0.
        """
        team = self.accelerator
        if not self.sharded:
            own = islice(examples, team.process_index, None, team.num_processes)
            yield from ((micro, True) for micro in self.runs(own))
            return
        every = list(examples)
        mine = self.micro_batches(self.share(every))
        most = max(self.from_all([len(mine)]))  # before the first of them: all ask at the same time
        yield from ((micro, True) for micro in mine)
        yield from [([every[0]], False)] * (most - len(mine))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Examples laid out as the model takes them, on its device."""
        return collate(examples, self.layout, whole=self.whole).to(self.accelerator.device)

    def baseline(self, batch: Batch) -> Tensor | None:
        """(B,) the learned V(x) of each response; prompts that are not trained on have the others' mean."""
        if self.values is None:
            return None
        prompts = batch.prompts[batch.groups]
        known = prompts < len(self.values)
        return torch.where(known, self.values[prompts.clamp(max=len(self.values) - 1)], self.values.mean().detach())

    def anyone(self, flag: bool) -> bool:
        """Whether any of the processes says so."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)))

    def share(self, examples: Sequence[T]) -> Sequence[T]:
        """The part of something that this process takes: every n-th, n being the processes."""
        return examples[self.accelerator.process_index :: self.accelerator.num_processes]

    def _autocast(self) -> torch.autocast:
        """In bfloat16 without adapters the weights stay float32 and the arithmetic is cast."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self._casts)

    @property
    def _casts(self) -> bool:
        return self.config.dtype == "bfloat16" and not self.config.lora_r

    def forward(
        self, examples: Sequence[Example], kl: Tensor | None = None
    ) -> tuple[Batch, Tensor, Tensor, Tensor | None]:
        """A micro-batch with its losses, log π and log π_ref (None where no loss needs it)."""
        batch = self.batch(examples)
        tokens = dict(batch.experience)
        with self._autocast():
            if self.takes("token_logps"):
                tokens["token_logps"], values = self.policy.tokens(batch)
                tokens |= {} if values is None else {"values": values}
                logps = summed(tokens["token_logps"], batch)
            else:
                logps = self.policy(batch)
            if not self.policy.anchored or not self.takes_reference:
                ref_logps = None
            else:
                ref_logps = self.reference(examples, batch).to(logps)
        tokens = {name: value.to(logps) for name, value in tokens.items()}
        more: dict[str, Any] = {"tokens": tokens, "baseline": self.baseline(batch), "gives": self.policy.gives}
        losses = losses_of(self.losses, batch, logps, ref_logps, self.hyper, kl=kl, **more)
        return batch, losses, logps, ref_logps

    @torch.no_grad()
    def _kl(self, examples: Sequence[Example]) -> Tensor | None:
        """max(0, mean log π/π_ref of mismatched responses) over the whole batch, if a loss asks for it (KTO's z₀)."""
        if not self.takes("kl"):
            return None
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for micro, own in self.turns(mismatched(examples)):
            batch = self.batch(micro)
            with self._autocast():
                gaps = self.policy(batch).double() - self.reference(micro, batch)
            if own:
                sums += torch.stack([gaps.sum(), gaps.new_tensor(len(gaps))])
        total, count = self.accelerator.reduce(sums)
        return (total / count).clamp(min=0).float()

    def _means(self, sums: Tensor, kl: Tensor | None) -> dict[str, float]:
        return means(self.accelerator.reduce(sums)) | ({} if kl is None else {"kl": float(kl)})


def order(examples: int, step: int, batch: int, seed: int) -> list[int]:
    """Which examples step `step` (from 0) takes: every epoch in a fresh order, a function of seed and step alone."""
    places = range(step * batch, (step + 1) * batch)
    return [int(_epoch(examples, place // examples, seed)[place % examples]) for place in places]


@lru_cache(maxsize=4)
def _epoch(examples: int, epoch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(examples, generator=generator)
