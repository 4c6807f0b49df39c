"""What scores a response: text in, number out.

A source is called with `Answer`s and returns a number for each, in its own unit, or None for one that it has no answer
for: a response without a score is left out and counted, never scored 0. It sees text, never the policy's token ids: a
reward model has its own tokenizer and template.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import Any

import torch

from una_ref.data.batch import Example, collate, microbatches
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.specials import Specials
from una_ref.data.toysteer import ToySteer
from una_ref.errors import InputError, near_path
from una_ref.policies.layouts import hidden_states, layouts
from una_ref.policies.loading import missing, quietly
from una_ref.policies.logprobs import check_scorable
from una_ref.policies.scorers import READS

Prompt = str | tuple[dict, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt (text, or messages), a response to it as text, and whether the response ended or was cut.

    Those of one `group` and prompt are alternatives, to be compared by a source that compares.
    """

    prompt: Prompt
    response: str
    ended: bool = True
    group: int = 0


RewardSource = Callable[[Sequence[Answer]], Sequence[float | None]]


@dataclass(frozen=True)
class Truth:
    """A ToySteer world's own reward, exact: r = scale·(score − ½) + offset."""

    world: ToySteer

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """In reward units. Raises InputError for a prompt that is not of the world."""
        prompts = {prompt: x for x, prompt in enumerate(self.world.prompts)}
        responses = {response: y for y, response in enumerate(self.world.responses)}
        scores = []
        for answer in answers:
            if answer.prompt not in prompts:
                raise InputError(f"reward toysteer: expected a prompt of the world, got {answer.prompt!r:.60}")
            letters = answer.response.replace(" ", "")
            scores.append(float(self.world.rewards[prompts[answer.prompt], responses[letters, answer.ended]]))
        return scores


class Classifier:
    """A sequence-classification model with one output, read with its *own* tokenizer and chat template.

    One that `una-ref train reward-model` made says in its config how it was given text, and reads it so again.

    Args:
        name: folder or hub name.
        tokens: most tokens, pads included, in one forward pass.
        dtype: of its weights; by default what they were saved in. The output is fp32 or better in any case.

    Raises:
        InputError: nothing loadable there, it is a policy or lacks weights (its head, say), it has more than one
            output, or its hidden states are not to be had in a batch's layout.
    """

    def __init__(self, name: str, *, tokens: int = 16384, dtype: str = "auto") -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        expected = f"reward {name!r}: expected a sequence-classification model"
        if missing(name):
            raise InputError(f"{expected}, got a path where nothing is{near_path(name)}")
        if "/" not in name and not Path(name).exists():  # the hub's names are org/name; nobody need be asked
            known = "(a folder or org/name), toysteer, module:function or judge:MODEL@http://host:port/v1"
            raise InputError(f"{expected} {known}, got a word that is none{near_path(name, 'toysteer')}")
        if policy := _policy_in(Path(name)):
            raise InputError(f"{expected}, got {policy}, a policy; una-ref train reward-model makes one of pairs")
        try:
            with quietly():
                self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
                self.model, report = AutoModelForSequenceClassification.from_pretrained(
                    name,
                    dtype=getattr(torch, dtype, dtype),
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
            if report["missing_keys"]:
                raise ValueError(f"weights without {', '.join(sorted(report['missing_keys'])[:3])}")
            self.model.eval()
        except Exception as error:  # no such folder, no network, damaged weights: each has a class of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{expected}, got: {reason:.200}{near_path(name)}") from error
        if self.model.config.num_labels != 1:
            raise InputError(f"reward {name!r}: expected one output, got {self.model.config.num_labels}")
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            raise InputError(
                f"reward {name!r}: expected a tokenizer of at most {rows} ids, the rows of its embedding, got "
                f"{len(self.tokenizer)}"
            )
        self.model.config.pad_token_id = self._pad()
        if self.model.score.weight.dtype in (torch.bfloat16, torch.float16):  # one number of 8 bits would be coarse
            self.model.score.float()
        check_scorable(self.model)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens, self.layout = tokens, layouts(self.model)[0]
        limits = getattr(self.model.config, READS, None)
        self.encoder = Encoder(self.tokenizer, **limits) if limits else None
        self.specials = Specials(self.tokenizer)

    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id or 0

    def text(self, answer: Answer) -> list[int]:
        """The ids that the model reads: as in its training, if that was here; else prompt and response as a dialogue
        through its template, or one text.

        Raises:
            InputError: the prompt leaves no room for a response within what the model was trained on.
        """
        if self.encoder:
            return self._as_trained(answer, self.encoder)
        if self.tokenizer.chat_template:
            turns = list(answer.prompt) if not isinstance(answer.prompt, str) else [_turn("user", answer.prompt)]
            hidden = [_turn(t["role"], self.specials.hidden(t["content"])) for t in turns]
            hidden.append(_turn("assistant", self.specials.hidden(answer.response)))
            return self.specials.ids(self.tokenizer.apply_chat_template(hidden, tokenize=False))
        prompt = answer.prompt if isinstance(answer.prompt, str) else "\n\n".join(m["content"] for m in answer.prompt)
        return self.tokenizer(prompt + answer.response, split_special_tokens=True)["input_ids"]

    def _as_trained(self, answer: Answer, encoder: Encoder) -> list[int]:
        example = encoder(Row(answer.prompt, (answer.response,)))
        if example is None:
            raise InputError(
                f"reward: expected a prompt that leaves room for a response in {encoder.max_length} tokens, got "
                f"{answer.prompt!r:.60}"
            )
        ids = [*example.prompt, *example.responses[0]]
        eos = self.tokenizer.eos_token_id
        return ids[:-1] if ids[-1] == eos and not answer.ended else ids

    @torch.no_grad()
    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """The model's one logit for each answer. What answers to one prompt open with is read once."""
        core, device = getattr(self.model, self.model.base_model_prefix), self.model.device
        scores = []
        for some in microbatches(list(self._examples(answers)), self.tokens, self.layout):
            batch = collate(some, self.layout).to(device)
            # The model's own way to find the last token looks for pads by value; a hidden state is read here by length.
            last = hidden_states(core, batch)[batch.lengths.cumsum(0) - 1]
            scores += self.model.score(last.to(self.model.score.weight.dtype))[:, 0].tolist()
        return scores

    def _examples(self, answers: Sequence[Answer]) -> Iterator[Example]:
        """The answers' ids, with a token more, which their last one predicts; answers to one prompt are together."""
        for _, same in groupby(answers, key=lambda answer: answer.prompt):
            ids = [self.text(answer) for answer in same]
            opening = [column[0] for column in takewhile(lambda column: len({*column}) == 1, zip(*ids, strict=False))]
            for start, texts in [(opening, ids)] if opening else [(own, [own]) for own in ids]:
                yield Example(tuple(start), tuple((*text[len(start) :], 0) for text in texts))


def _policy_in(folder: Path) -> str:
    """What a folder's config says that it holds, if that is a causal LM or an adapter of one; else nothing."""
    for file, key, mark in (
        ("config.json", "architectures", ("CausalLM", "LMHeadModel")),
        ("adapter_config.json", "task_type", ("CAUSAL_LM",)),
    ):
        try:
            found = json.loads((folder / file).read_text("utf-8"))[key]
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged: loading says so
            continue
        for name in [found] if isinstance(found, str) else found or ():
            if name.endswith(mark):
                return name if file == "config.json" else f"an adapter of task {name}"
    return ""


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@dataclass(frozen=True)
class Ensemble:
    """The mean of several sources, each with its name."""

    sources: tuple[tuple[str, RewardSource], ...]

    @property
    def pairwise(self) -> bool:
        """Whether any of them compares the answers to a prompt."""
        return any(getattr(source, "pairwise", False) for _, source in self.sources)

    def __call__(self, answers: Sequence[Answer]) -> list[float | None]:
        """The mean over sources, in their common unit; None where any of them has no answer.

        Raises:
            InputError: names the source whose answer is not one finite number, or None, for each.
        """
        columns = [asked(source, answers, name) for name, source in self.sources]
        return [_mean(row) for row in zip(*columns, strict=True)]


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def named(name: str, *, world: ToySteer | None = None) -> RewardSource:
    """The source that a run's `reward` names; several, separated by commas, are averaged.

    Args:
        name: "toysteer" (the truth of `world`), "module:function" (a Python function that takes a list of `Answer` and
            returns as many numbers; the module may lie in the current folder), "judge:MODEL@http://host:port/v1" (an
            LLM, see `una_ref.policies.judge`), or a folder or hub name of a sequence-classification model.
        world: ToySteer's, where that is the data.

    Raises:
        InputError: nothing of that name, or no world for its truth.
    """
    from una_ref.policies.judge import judge

    if "," in name:
        return Ensemble(tuple((part.strip(), named(part.strip(), world=world)) for part in name.split(",")))
    if name == "toysteer":
        if world is None:
            raise InputError("reward toysteer: expected ToySteer's prompts, got other data; name a reward source")
        return Truth(world)
    if found := judge(name):
        return found
    module, colon, function = name.partition(":")
    if colon and not Path(name).exists():
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # a console script's own folder stands there in its place
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: ./file.py:f, :f
            expected = "judge:MODEL@http://host:port/v1" if module == "judge" else "module:function"
            raise InputError(f"reward {name!r}: expected {expected}, got: {error}") from error
    return Classifier(name)


def scored(
    rows: Iterable[Row], source: RewardSource, name: str, *, batch: int = 64, counts: Counter[str] | None = None
) -> Iterator[Row]:
    """Rows with the source's scores for their responses in the place of whatever was known of them.

    So stored responses become UNA's offline distillation of a reward model. Streams, `batch` rows at a time. A response
    without an answer is left out, and a row that has no other; `counts` says how many.

    Raises:
        InputError: a row without responses, or the source's answer is not one finite number, or None, for each.
    """
    rows, counts = iter(rows), Counter() if counts is None else counts
    while some := list(islice(rows, batch)):
        for row in some:
            if not row.responses:
                raise InputError(f"{row.source}: responses: expected at least one to score, got a prompt alone")
        answers = [Answer(row.prompt, response, group=i) for i, row in enumerate(some) for response in row.responses]
        scores = iter(asked(source, answers, name))
        for row in some:
            own = islice(scores, len(row.responses))
            given = [(r, s) for r, s in zip(row.responses, own, strict=True) if s is not None]
            counts["responses dropped: no answer"] += len(row.responses) - len(given)
            if given:
                responses, known = zip(*given, strict=True)
                yield replace(row, responses=responses, scores=known, labels=None, pairs=None)
            else:
                counts["rows dropped: no answer for any response"] += 1


def asked(source: RewardSource, answers: Sequence[Answer], name: str) -> list[float | None]:
    """The source's scores, checked.

    Raises:
        InputError: it raises something, of whatever class; or see `checked`.
    """
    try:
        scores = source(answers)
    except InputError:
        raise
    except Exception as error:  # of the user's own function, of a service
        raise InputError(f"reward {name}: raised {type(error).__name__}: {error}") from error
    return checked(answers, scores, name)


def checked(answers: Sequence[Answer], scores: Sequence[Any], name: str) -> list[float | None]:
    """The scores as floats, None where there is no answer.

    Raises:
        InputError: there is not one for each answer, or one is neither None nor a finite number.
    """
    try:
        out = [None if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise InputError(f"reward {name}: expected a list of {len(answers)} numbers, got: {error}") from None
    if len(out) != len(answers):
        raise InputError(f"reward {name}: expected {len(answers)} numbers, got {len(out)}")
    for answer, score in zip(answers, out, strict=True):
        if score is not None and not math.isfinite(score):
            raise InputError(
                f"reward {name}: expected a finite number, got {score} for the response {answer.response!r:.60} "
                f"to {answer.prompt!r:.60}"
            )
    return out
