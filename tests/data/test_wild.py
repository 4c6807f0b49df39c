"""The folder of inputs from the wild: each is read as it is meant, or refused by the real cause."""

import os
from pathlib import Path

import pytest

from una_ref.data.conversions import conform
from una_ref.data.encoder import Encoder
from una_ref.data.sources import read
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer

WILD = os.environ.get("UNA_REF_WILD")
pytestmark = pytest.mark.skipif(not WILD, reason="UNA_REF_WILD is not set: no folder of wild inputs")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

REFUSED = {
    "01_tools_column": "expected a chat template that renders tools",
    "01b_tool_calls_in_chosen": "renders tool_calls",
    "01c_tool_calls_null_content": "renders tool_calls",
    "01d_tool_calls_prompt_empty_content": "renders tool_calls",
    "01e_tool_call_only_chosen": "renders tool_calls",
    "03_rejected_role_user": "rejected: expected text, or messages that begin and end with the assistant's",
    "04_pretemplated_prompt": "template=none",
    "06_content_parts": "content: expected text",
    "11_rejected_empty_list": ":2 rejected: expected text, or messages that begin and end with the assistant's, got an",
    "11b_rejected_none": ":2 rejected: expected a value",
    "13_labels_strings": "label: expected a boolean",
    "13b_labels_column": "did you mean label?",
    "13c_label_minus_one": ":2 label: expected a boolean or a number in [0, 1], got -1",
    "13d_score_strings": "score: expected a finite number",
    "13f_typo_score_column": "did you mean score?",
    "15_surrogate": "valid Unicode",
    "15c_nan_score": "score: expected a finite number, got nan",
    "17c_alpaca": "columns chosen and rejected",
    "17d_unpaired_lists": "a list of texts",
    "26_chat_template_kwargs": "renders enable_thinking",
    "31_extra_score_null": ":2 score: expected no value",
    "31b_score_null_later": ":2 score: expected a value",
}
"""Folder -> what the refusal says with a plain ChatML template; all others are encoded."""
TEMPLATES = {"01": "tool.jinja", "26": "qwen3like.jinja"}
"""Beginning of a folder's name -> the template with which its rows are encoded after all."""


def inputs():
    return sorted(path for path in Path(WILD).glob("*/data.*")) if WILD else []


def encoded(path, template):
    tokenizer = byte_pair_tokenizer(["some text to learn from"] * 20, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    rows = list(read(path))
    kinds = [kind for kind in ("pairs", "labels", "scores", "demos") if any(kind in row.kinds for row in rows)]
    kept, _ = conform(rows, kinds)
    encoder = Encoder(tokenizer, max_length=2048, ends=(tokenizer.convert_tokens_to_ids("<|im_end|>"),))
    return tokenizer, rows, encoder.encode(kept)


@pytest.mark.parametrize("path", inputs(), ids=lambda path: path.parent.name)
def test_every_wild_input_is_encoded_or_refused_in_one_short_line(path):
    name = path.parent.name
    if name in REFUSED:
        with pytest.raises(InputError) as caught:
            encoded(path, CHATML)
        message = str(caught.value).replace(str(path), path.name)
        assert REFUSED[name] in message and len(message) <= 300, message
        template = next((file for start, file in TEMPLATES.items() if name.startswith(start)), None)
        if template is None:
            return
        used = (Path(WILD) / template).read_text()
    else:
        used = CHATML
    tokenizer, rows, examples = encoded(path, used)
    assert len(examples) >= 1
    example = examples[0]
    texts = " ".join(tokenizer.decode(ids) for ids in (example.prompt, *example.responses))
    said = [text.strip() for text in rows[0].responses if "Human:" not in str(rows[0].prompt)]
    assert all(text in texts for text in said)
    assert all(response[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") for response in example.responses)
