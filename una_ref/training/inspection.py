"""What a loss sees of a row, token by token: the texts, what is trained, log-probs, and where the gradient goes.

The gradient of a loss L reaches the model at the hidden state h_t that predicts token y_t. Its norm there is
|∂L/∂log π(y_t)| times a factor that is small where the model is already certain of y_t. The share of a token is its
part of the sum of these norms over the row. A sequence loss gives all tokens of a response the same ∂L/∂log π(y_t), and
still their shares differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from una_ref.data.batch import Example
from una_ref.errors import InputError
from una_ref.policies.anatomy import parts
from una_ref.policies.layouts import hidden_states
from una_ref.training.job import Job
from una_ref.training.statistics import at_start


@dataclass(frozen=True)
class Token:
    """A token and its text. Of context that is all: the prompt, and turns of a user or a tool within a response."""

    id: int
    text: str


@dataclass(frozen=True)
class Trained(Token):
    """A token of a response that the model writes.

    Attributes:
        logp, ref_logp: log π and log π_ref in nats; `ref_logp` is None without a reference.
        push: −∂L/∂log π of the token, for the sum of the row's losses: a step raises the token where it is positive.
        share: of the gradient that reaches the model, in [0, 1]; the shares of a row add up to 1, or are all 0.
    """

    logp: float
    ref_logp: float | None
    push: float
    share: float


@dataclass(frozen=True)
class Response:
    """A response as the loss sees it: its part in the feedback as text, and its tokens with the context in it."""

    feedback: str
    tokens: tuple[Token, ...]

    @property
    def trained(self) -> tuple[Trained, ...]:
        """The tokens that the model writes."""
        return tuple(token for token in self.tokens if isinstance(token, Trained))


@dataclass(frozen=True)
class Inspected:
    """A row as the loss sees it.

    Attributes:
        source: file and line.
        kind: of feedback.
        prompt: its tokens, with what the template adds.
        responses: what is trained.
        losses: each loss of the row; a pair has one, a response with a label or a score has one.
    """

    source: str
    kind: str
    prompt: tuple[Token, ...]
    responses: tuple[Response, ...]
    losses: tuple[float, ...]


def inspected(job: Job, count: int) -> Iterator[Inspected]:
    """The first rows of a job, at the start policy. An online run samples the responses first.

    Args:
        job: not trained yet.
        count: rows to show.

    Raises:
        InputError: the method trains a scorer, which has no log-probs.
    """
    trainer = job.trainer
    if trainer.policy.output != "logps":
        raise InputError(f"inspect: expected a method that trains a policy, got {job.config.method}, a reward model")
    picked = job.examples[:count]
    rows = job.answered(picked, 0, record=False)[0] if job.rollouts else cast(Sequence[Example], picked)
    statistics = at_start(trainer.statistics, rows) if rows else {}
    trainer.policy.eval()
    for example in rows:
        batch = trainer.batch([example])
        core = parts(trainer.policy.model)[0]
        with torch.no_grad(), trainer.autocast():
            hidden = hidden_states(core, batch)
            reference = trainer.policy.reference_tokens(batch).tolist() if trainer.policy.has_reference else None
        hidden = hidden.detach().requires_grad_()
        with trainer.autocast():
            known = trainer.policy.outputs_at(hidden, batch, trainer.needs)
        losses = trainer.evaluated([example], batch, known, statistics).values
        logps = known["token_logps"]
        push, reaching = torch.autograd.grad(losses.sum(), (logps, hidden), allow_unused=True)
        push = torch.zeros_like(logps) if push is None else -push
        norms = torch.zeros(len(logps)) if reaching is None else reaching.double().norm(dim=-1).cpu()
        shares = norms / norms.sum() if norms.sum() > 0 else norms
        numbers = logps.tolist(), reference or [None] * len(norms), push.tolist(), shares.tolist()
        ids = batch.target.tolist()
        tokens = [Trained(*of) for of in zip(ids, pieces(job.tokenizer, ids), *numbers, strict=True)]
        yield _row(job, example, losses.tolist(), tokens)


def _row(job: Job, example: Example, losses: list[float], tokens: list[Trained]) -> Inspected:
    def known(ids: Sequence[int]) -> tuple[Token, ...]:
        return tuple(Token(i, text) for i, text in zip(ids, pieces(job.tokenizer, ids), strict=True))

    written = iter(tokens)
    responses = []
    for k, ids in enumerate(example.responses):
        mask = example.trained[k] if example.trained else [True] * len(ids)
        line = tuple(next(written) if own else token for token, own in zip(known(ids), mask, strict=True))
        responses.append(Response(_feedback(example, k), line))
    prompt = known(example.prompt)
    return Inspected(example.source, example.kind, prompt, tuple(responses), tuple(losses))


def _feedback(example: Example, k: int) -> str:
    """What the feedback says of a response."""
    said = []
    for number, (chosen, rejected) in enumerate(example.pairs or (), 1):
        which = f" of pair {number}" if len(example.pairs or ()) > 1 else ""
        said += [f"chosen{which}"] if k == chosen else [f"rejected{which}"] if k == rejected else []
        if k == chosen:
            both = {"weight": example.weights, "margin": example.margins}
            said += [f"{name} {values[number - 1]:g}" for name, values in both.items() if values]
    said += [f"score {example.scores[k]:g}"] if example.scores else []
    said += [f"label {example.labels[k]:g}"] if example.labels else []
    return ", ".join(said) or "demonstration"


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token. A character of several tokens is cut into bytes, shown as �."""
    return [tokenizer.decode([i]) for i in ids]
