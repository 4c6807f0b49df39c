"""The recipes of the papers' Mistral-7B with Mistral's own tokenizer, and a tiny model behind it.

The tokenizer is a file in the package mistral-common, whose code is never imported: where it can be, transformers reads
every Mistral's tokenizer with it. So it lies in a folder of its own (see the Makefile). sentencepiece reads it too.
"""

import math
import os
import shutil
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.sources import read
from una_ref.policies.loading import small_mistral
from una_ref.training.prepare import prepare
from una_ref.training.settings import recipes, resolve

FILE = Path(sys.prefix, "share", "mistral-common", "mistral_common", "data", "tokenizer.model.v1")
pytestmark = pytest.mark.skipif(
    not FILE.is_file() or find_spec("sentencepiece") is None, reason="mistral-common or sentencepiece is not installed"
)
real_data = pytest.mark.skipif("UNA_REF_DATA" not in os.environ, reason="UNA_REF_DATA is not set: no real data to read")

RECIPES = [name for name in recipes() if name.startswith(("una-offline/", "una-online/"))]
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""The chat template in tokenizer_config.json of mistralai/Mistral-7B-Instruct-v0.1."""
HARD = (
    " a space in front",
    "two\n\nlines",
    "\n",
    "naïve café, 日本語 \U0001f600",
    "tab\there  two spaces",
    "</s> and <s>",
    "[INST]",
    "e\u0301 \u00a0½ ﬁ \x00 \r\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder with Mistral-7B-v0.1's sentencepiece model, under the name that transformers looks for."""
    path = tmp_path_factory.mktemp("mistral")
    shutil.copy(FILE, path / "tokenizer.model")
    return path


@pytest.fixture(scope="module")
def pieces(folder):
    """Ids of a text by sentencepiece itself, without BOS and EOS, and back."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@cache
def loaded(folder):
    """Mistral's tokenizer as transformers reads it."""
    from transformers import LlamaTokenizer

    return LlamaTokenizer.from_pretrained(str(folder))


def tokenizer_for(name, folder):
    """The tokenizer with the template that the recipe's model has."""
    tokenizer = loaded(folder)
    tokenizer.chat_template = resolve(name).template or INSTRUCT
    return tokenizer


def text_of(row, response=""):
    """The whole conversation as text, with its special tokens."""
    return f"<s>[INST] {row.prompt} [/INST]{response}{'</s>' if response else ''}"


def test_the_tokenizer_has_mistral_s_words(folder, pieces):
    tokenizer = tokenizer_for("una-offline/dpo", folder)
    assert len(tokenizer) == pieces.vocab_size() == 32000
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (pieces.bos_id(), pieces.eos_id()) == (1, 2)
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(300, 32000, 997)] == [
        pieces.id_to_piece(i) for i in range(300, 32000, 997)
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_has_one_bos_one_eos_and_loses_nothing(name, folder):
    tokenizer = tokenizer_for(name, folder)
    encoder = Encoder(tokenizer, max_length=resolve(name).max_length)
    for hard in HARD:
        row = Row(f"What is {hard}?", (f"It is {hard}.", "A"))
        example = encoder(row)
        assert tokenizer.decode(example.prompt) == text_of(row)
        for text, ids in zip(row.responses, example.responses, strict=True):
            whole = [*example.prompt, *ids]
            assert whole.count(1) == whole.count(2) == 1 and (whole[0], whole[-1]) == (1, 2)
            assert 0 not in whole
            assert tokenizer.decode(whole) == text_of(row, text)


@real_data
@pytest.mark.parametrize("file", ["alpaca_eval_scores.jsonl.gz", "preferences/helpsteer2/preference_100.jsonl.gz"])
def test_real_rows_have_sentencepiece_s_tokens(file, folder, pieces):
    """transformers 5.23 differs from sentencepiece in two places, which the test leaves out or names.

    It puts no space between BOS and the first word, so the first token is ``[`` and not ``▁[``. It merges two spaces
    before a word into one token, where sentencepiece leaves one of them to the word.
    """
    tokenizer = tokenizer_for("una-offline/dpo", folder)
    encoder = Encoder(tokenizer, max_length=10**6)
    compared, counts = 0, [0, 0]
    for row in read(f"{os.environ['UNA_REF_DATA']}/{file}", limit=100):
        asked = f"[INST] {plain(row)} [/INST]"
        example = encoder(row)
        for text, ids in zip(row.responses, example.responses, strict=True):
            expected, found = pieces.encode(asked + text), [*example.prompt[1:], *ids[:-1]]
            counts = [counts[0] + len(expected), counts[1] + len(found)]
            assert tokenizer.decode([*example.prompt, *ids]) == f"<s>{asked}{text}</s>"
            if "  " not in asked + text:
                compared += 1
                assert found[1:] == expected[1:]
                assert (tokenizer.convert_ids_to_tokens(found[0]), pieces.id_to_piece(expected[0])) == ("[", "▁[")
    assert compared > 50
    assert abs(counts[0] - counts[1]) < 0.01 * counts[0]


def plain(row):
    """The text of a prompt of one turn."""
    return row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]


def length(answers):
    """A reward for the online recipes."""
    return [float(len(answer.response)) for answer in answers]


@pytest.mark.parametrize("name", RECIPES)
def test_a_tiny_model_of_mistral_s_words_trains_a_step_of_the_recipe(name, folder):
    online = name.startswith("una-online/")
    small = ["batch=2", "epochs=null", "steps=1", "held_out=0", "lora_r=2", "dtype=float32"]
    small += ["gradient_checkpointing=false", "eval_every=0", *(["max_response=6", "max_length=600"] if online else [])]
    config = resolve(name, small)
    rows = [Row(f"What is {i}?", (f"It is {i}.", "No\nidea"), scores=(0.9, 0.2), source="row") for i in range(4)]
    tokenizer = tokenizer_for(name, folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = small_mistral(tokenizer, num_key_value_heads=1, **sizes)
    assert model.get_input_embeddings().weight.shape == (32000, 32)
    job = prepare(config, rows=rows, model=model, tokenizer=tokenizer, reward=length if online else None)
    before = {name: value.detach().clone() for name, value in job.trainer.trained.items()}
    values = job.step(0, record=True)
    assert math.isfinite(values["loss"]) and values["grad_norm"] > 0
    assert any(not value.equal(before[name]) for name, value in job.trainer.trained.items())
