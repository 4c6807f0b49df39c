"""A reward model: a sequence classifier with one output that reads answers as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path

import torch

from una_ref.data.batch import Example, collate, microbatches
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.specials import Specials
from una_ref.errors import InputError, near_path
from una_ref.policies.anatomy import end_ids
from una_ref.policies.answers import Answer
from una_ref.policies.layouts import hidden_states, layouts
from una_ref.policies.loading import is_missing_path, quiet_transformers
from una_ref.policies.logprobs import check_scorable
from una_ref.policies.scorers import CONFIG_KEY


class Classifier:
    """The reward of an answer: the one logit of a sequence classifier, read with its *own* tokenizer and template.

    The config of a model that `una-ref train reward-model` made says how it was given text. It is given text in that
    way again. Any other model reads a dialogue through its chat template, or prompt and response as one text. BERT and
    DeBERTa, whose head is no `score` at the last token, read prompt and response as a pair of texts.

    Args:
        name: folder or hub name.
        tokens: most tokens in one forward pass, pads included.
        dtype: of the weights; by default the dtype that they were saved in. The reward is fp32 or better.

    Raises:
        InputError: nothing loadable of that name; a policy; weights that lack a tensor, such as the head; more than
            one output; a tokenizer of another model; hidden states that depend on the batch's layout.
    """

    def __init__(self, name: str, *, tokens: int = 16384, dtype: str = "auto") -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        expected = f"reward {name!r}: expected a sequence-classification model"
        if is_missing_path(name):
            raise InputError(f"{expected}, got a path where nothing is{near_path(name)}")
        if "/" not in name and not Path(name).exists():  # names on the hub are org/name, so there is no need to ask it
            known = "(a folder or org/name), toysteer, module:function or judge:MODEL@http://host:port/v1"
            raise InputError(f"{expected} {known}, got a word that is none{near_path(name, 'toysteer')}")
        if policy := _policy_in(Path(name)):
            raise InputError(f"{expected}, got {policy}, a policy; una-ref train reward-model makes one of pairs")
        try:
            with quiet_transformers():
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
        except Exception as error:  # no such folder, no network, damaged weights: each raises its own class
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
        pad = self.tokenizer.pad_token_id
        self.model.config.pad_token_id = pad if pad is not None else self.tokenizer.eos_token_id or 0
        self.reads_pairs = not hasattr(self.model, "score")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens, self.specials = tokens, Specials(self.tokenizer)
        self.encoder: Encoder | None = None
        if self.reads_pairs:
            return
        if self.model.score.weight.dtype in (torch.bfloat16, torch.float16):  # a reward of 8 bits would be coarse
            self.model.score.float()
        check_scorable(self.model)
        self.layout = layouts(self.model)[0]
        limits = getattr(self.model.config, CONFIG_KEY, None)
        ends = end_ids(self.model, self.tokenizer)
        self.encoder = Encoder(self.tokenizer, ends=ends, **limits) if limits else None

    @torch.no_grad()
    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """The logit for each answer. Consecutive answers to one prompt share the forward pass of their common start.

        Raises:
            InputError: a prompt leaves no room for a response (see `ids`), or a pair of texts is longer than the model.
        """
        if self.reads_pairs:
            return [score for answer in answers for score in self._of_pair(answer)]
        core, device = getattr(self.model, self.model.base_model_prefix), self.model.device
        scores = []
        for chunk in microbatches(list(self._examples(answers)), self.tokens, self.layout):
            batch = collate(chunk, self.layout).to(device)
            # transformers finds the last token by looking for pads, which text may contain; here lengths tell.
            last = hidden_states(core, batch)[batch.lengths.cumsum(0) - 1]
            scores += self.model.score(last.to(self.model.score.weight.dtype))[:, 0].tolist()
        return scores

    def _of_pair(self, answer: Answer) -> list[float]:
        """The logit of an encoder, in a list: one answer at a time, and so without pads."""
        asked = _joined(answer)
        # In lists, since a tokenizer takes an empty second text for none at all.
        pair = self.tokenizer([asked], [answer.response], split_special_tokens=True, return_tensors="pt")
        length, most = pair["input_ids"].shape[1], getattr(self.model.config, "max_position_embeddings", None)
        if most and length > most:
            raise InputError(
                f"reward: expected at most {most} tokens of prompt and response, got {length} for {asked!r:.60}. "
                "Fix: set max_prompt and max_response"
            )
        return self.model(**pair.to(self.model.device)).logits[0].float().tolist()

    def ids(self, answer: Answer) -> list[int]:
        """The token ids that the model reads.

        Raises:
            InputError: the prompt leaves no room for a response within the length that the model was trained on.
        """
        if self.encoder:
            return self._ids_as_trained(answer, self.encoder)
        if self.tokenizer.chat_template:
            turns = list(answer.prompt) if not isinstance(answer.prompt, str) else [_turn("user", answer.prompt)]
            hidden = [_turn(turn["role"], self.specials.hidden(turn["content"])) for turn in turns]
            hidden.append(_turn("assistant", self.specials.hidden(answer.response)))
            return self.specials.ids(self.tokenizer.apply_chat_template(hidden, tokenize=False))
        return self.tokenizer(_joined(answer) + answer.response, split_special_tokens=True)["input_ids"]

    def _ids_as_trained(self, answer: Answer, encoder: Encoder) -> list[int]:
        example = encoder(Row(answer.prompt, (answer.response,)))
        if example is None:
            raise InputError(
                f"reward: expected a prompt that leaves room for a response in {encoder.max_length} tokens, got "
                f"{answer.prompt!r:.60}"
            )
        ids = [*example.prompt, *example.responses[0]]
        return ids[:-1] if ids[-1] in encoder.ends and not answer.ended else ids

    def _examples(self, answers: Sequence[Answer]) -> Iterator[Example]:
        """The answers' ids, those to one prompt behind their common start.

        An extra token stands behind each answer: the position that predicts it is the answer's last token.
        """
        for _, same in groupby(answers, key=lambda answer: answer.prompt):
            ids = [self.ids(answer) for answer in same]
            common = [column[0] for column in takewhile(lambda column: len({*column}) == 1, zip(*ids, strict=False))]
            for start, texts in [(common, ids)] if common else [(text, [text]) for text in ids]:
                yield Example(tuple(start), tuple((*text[len(start) :], 0) for text in texts))


def _joined(answer: Answer) -> str:
    """The prompt as one text."""
    return answer.prompt if isinstance(answer.prompt, str) else "\n\n".join(m["content"] for m in answer.prompt)


def _policy_in(folder: Path) -> str:
    """What a folder's config says of its causal LM or adapter; empty for anything else."""
    for file, key, endings in (
        ("config.json", "architectures", ("CausalLM", "LMHeadModel")),
        ("adapter_config.json", "task_type", ("CAUSAL_LM",)),
    ):
        try:
            value = json.loads((folder / file).read_text("utf-8"))[key]
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged: loading reports it
            continue
        for name in [value] if isinstance(value, str) else value or ():
            if name.endswith(endings):
                return name if file == "config.json" else f"an adapter of task {name}"
    return ""


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
