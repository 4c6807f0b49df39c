"""What is left of another template in a text is found before the chat template."""

from collections import Counter

import pytest

from una_ref.data.chat_rows import MARKS, as_chat
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.templates import ChatTemplate
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chatml():
    tokenizer = byte_pair_tokenizer(["What is 2 + 2? It is 4."], 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return ChatTemplate(tokenizer)


@pytest.fixture(scope="module")
def plain():
    return ChatTemplate(byte_pair_tokenizer(["What is 2 + 2? It is 4."], 300))


def said(row, template):
    counts = Counter()
    as_chat(row, template, counts)
    return dict(counts)


def pair(prompt, *responses):
    return Row(prompt, responses or ("4", "5"), pairs=((0, 1),), source="r.jsonl:7")


@pytest.mark.parametrize("start", ["<|im_start|>assistant\n4", " <|im_start|>assistant\n4<|im_end|>"])
def test_a_response_that_has_been_through_the_template_is_refused(chatml, start):
    with pytest.raises(
        InputError, match=r"r.jsonl:7 response: expected plain text, .* got text that begins with '<\|im_"
    ):
        as_chat(pair("What?", "4", start), chatml, Counter())
    for text in ("4 <|im_start|>", "<|im_end|>"):  # a word about the token, and an empty response with its end
        assert as_chat(pair("What?", "4", text), chatml, Counter()).responses == ("4", text)


def test_a_prompt_that_has_been_through_the_template_is_refused(chatml):
    with pytest.raises(InputError, match="r.jsonl:7 prompt: expected plain text"):
        as_chat(pair("<|im_start|>user\nWhat?<|im_end|>\n"), chatml, Counter())


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_another_template_are_counted_wherever_they_stand(chatml, plain, mark):
    own = mark == "<|im_start|>"
    sentence = {f"rows with {mark}, a mark of another chat template, which is text here": 1}
    assert said(pair(f"Say {mark}"), chatml) == ({} if own else sentence)
    for row in (
        pair(f"Say {mark}"),
        pair("Say", f"it: {mark}", "b"),
        pair(({"role": "user", "content": f"a {mark}"},)),
    ):
        assert said(row, plain) == sentence


def test_a_transcript_is_counted_and_a_dialogue_becomes_messages(chatml, plain):
    transcript = {"prompts that end like a transcript (Assistant:), which become one turn of the user": 1}
    for prompt in ("User: What?\nAssistant:", "Q: What?\nBot: ", "AI:"):
        assert said(pair(prompt), chatml) == transcript and said(pair(prompt), plain) == {}
    assert said(pair("Write a play with the line\nAssistant: yes"), chatml) == {}
    counts = Counter()
    row = as_chat(pair("\n\nHuman: What?\n\nAssistant:", " 4", " 5"), chatml, counts)
    assert row.prompt == ({"role": "user", "content": "What?"},) and row.responses == ("4", "5")
    assert list(counts) == ["dialogues (Human: …, Assistant: …) that became messages"]
    assert as_chat(pair("\n\nHuman: What?\n\nAssistant:"), plain, Counter()).prompt == "\n\nHuman: What?\n\nAssistant:"


@pytest.mark.parametrize("system", [(), ({"role": "system", "content": "s"},)])
def test_a_dialogue_in_the_one_user_turn_becomes_messages_behind_the_system(chatml, system):
    row = as_chat(pair((*system, {"role": "user", "content": "\n\nHuman: What?\n\nAssistant:"})), chatml, Counter())
    assert row.prompt == (*system, {"role": "user", "content": "What?"})
    quoted = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "Human: What?\n\nAssistant:"})
    assert as_chat(pair(quoted), chatml, Counter()).prompt == quoted


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" one\n\nAssistant: two", 1),
        ("yes\n\nHuman: and?", 1),
        ("\n\nHuman: What?\n\nAssistant: 4", 1),
        ("Assistant: 4", 1),
        ("The Human: a line\nAssistant: b", 0),
    ],
)
def test_a_turn_inside_of_a_response_is_counted(chatml, plain, text, number):
    what = "responses with the start of a turn (Human:, Assistant:) in them, which is text there"
    for prompt in ("What?", "\n\nHuman: What?\n\nAssistant:"):
        for template in (chatml, plain):
            assert said(pair(prompt, "5", text), template).get(what, 0) == number


def test_earlier_turns_of_a_response_are_looked_at_too(chatml):
    def row(answered, asked):
        prompt = ({"role": "user", "content": "What?"},)
        earlier = ({"role": "assistant", "content": answered}, {"role": "user", "content": asked})
        return Row(prompt, ("4", "5"), pairs=((0, 1),), earlier_turns=(earlier, ()), source="r.jsonl:7")

    assert said(row("2?", "[INST]"), chatml) == {
        "rows with [INST], a mark of another chat template, which is text here": 1
    }
    with pytest.raises(InputError, match="r.jsonl:7 response: expected plain text"):
        as_chat(row("<|im_start|>assistant\n2?", "Yes."), chatml, Counter())


CALLS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] or '' }}"
    "{% for c in m['tool_calls'] or [] %}{{ ARGUMENTS }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
AS_JSON, JOINED, EITHER = (
    "c['function']['arguments'] | tojson",
    "c['function']['name'] + c['function']['arguments']",
    "(c['function']['arguments'] if c['function']['arguments'] is string else c['function']['arguments'] | tojson)",
)


@pytest.mark.parametrize(
    ("arguments", "parsed"), [(AS_JSON, True), (JOINED, False), (EITHER, True), ("c['function'] | tojson", True)]
)
def test_tool_arguments_as_json_text_are_written_once(arguments, parsed):
    tokenizer = byte_pair_tokenizer([], 0)
    tokenizer.chat_template = CALLS.replace("ARGUMENTS", arguments)
    encoder = Encoder(tokenizer)

    def ids(given):
        fields = {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "w", "arguments": given}}]}
        talk = ({"role": "user", "content": "q"}, {"role": "assistant", "content": None, **fields})
        last = {"role": "user", "content": "r"}
        return encoder(Row((*talk, last), ("",), response_fields=(fields,), source="f:1"))

    made = ids('{"c": 1}')
    for part in (made.prompt, made.responses[0]):
        text = tokenizer.decode(part)
        assert '{"c": 1}' in text and "\\" not in text
    note = "rows with tool arguments as JSON text, which the template is given as objects"
    assert encoder.counts[note] == parsed
    if parsed:
        assert made.responses == ids({"c": 1}).responses and encoder.counts[note] == 1
