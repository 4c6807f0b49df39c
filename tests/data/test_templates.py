"""Nothing vanishes in a chat template without a word, and stored responses are those that a sample would have."""

import pytest
from tokenizers import AddedToken

from una_ref.data import dialogues
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.templates import ChatTemplate, given_template
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer

CORPUS = ["copy a b c [/INST] hello world\n\nUser: hi there\nAssistant: oh, hello  <b>"] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
TOOL = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
R1 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<A>{{ m.content.split('</think>')[-1] }}<|im_end|>"
    "{% else %}<U>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<A><think>\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
CALL = [{"type": "function", "function": {"name": "get_weather", "arguments": {"town": "Bern"}}}]
USER = {"role": "user", "content": "Is it raining?"}


def byte_pair():
    return byte_pair_tokenizer(CORPUS, 400)


def chat(template):
    tokenizer = byte_pair()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def unnamed(template):
    """A tokenizer whose turn tokens are special, but that names none of them, as Gemma's and Phi's."""
    tokenizer = byte_pair()
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = template
    return tokenizer


def said(template, row, **options):
    """(prompt, responses) as decoded text, and the counts."""
    tokenizer = chat(template)
    encoder = Encoder(tokenizer, **options)
    example = encoder(row)
    return tokenizer.decode(example.prompt), [tokenizer.decode(r) for r in example.responses], encoder.counts


def test_tools_reach_the_template_or_are_refused():
    row = Row((USER,), ("Yes.",), template_arguments={"tools": TOOLS}, source="f:1")
    prompt, _, _ = said(TOOL, row)
    assert '<|im_start|>system\nTools: [{"type": "function", "function": {"name": "get_weather"' in prompt
    for template in (CHATML, None):
        with pytest.raises(InputError, match=r"f:1 tools: expected a chat template that renders tools"):
            said(template, row)


def test_other_arguments_reach_the_template_or_are_refused():
    row = Row((USER,), ("Yes.",), template_arguments={"enable_thinking": False}, source="f:1")
    assert said(TOOL, row)[0].endswith("<|im_start|>assistant\n<think></think>")
    with pytest.raises(InputError, match="f:1 enable_thinking: expected a chat template that renders it|enable"):
        said(CHATML, row)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tool_calls": CALL}, '<call>{"name": "get_weather", "arguments": {"town": "Bern"}}</call><|im_end|></s>'),
        ({"reasoning_content": "Hm."}, "<think>Hm.</think><|im_end|></s>"),
    ],
)
def test_fields_of_a_response_are_trained_on_or_refused(fields, text):
    row = Row((USER,), ("", "No."), response_fields=(fields, {}), source="f:1")
    assert said(TOOL, row)[1] == [text, "No.<|im_end|></s>"]
    with pytest.raises(InputError, match="f:1 response: expected a chat template that renders"):
        said(CHATML, row)


@pytest.mark.parametrize("fields", [{"tool_calls": CALL}, {"images": ["a.png"]}, {"reasoning": "Hm."}])
def test_fields_of_a_prompt_are_refused_by_a_template_that_does_not_read_them(fields):
    turns = (USER, {"role": "assistant", "content": "Wait.", **fields}, USER)
    with pytest.raises(InputError, match=r"f:1 prompt\[1\]: expected a chat template that renders"):
        said(CHATML, Row(turns, ("Yes.",), source="f:1"))


def test_a_name_that_the_template_does_not_use_is_counted():
    _, _, counts = said(CHATML, Row(({**USER, "name": "Ann"},), ("Yes.",)))
    assert counts["messages with name, which the template does not use"] == 1


def test_a_message_that_the_template_leaves_out_is_refused():
    template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    turns = ({"role": "system", "content": "Be terse."}, USER)
    with pytest.raises(InputError, match=r"f:1 prompt\[0\]: .* renders the content of the role system"):
        said(template, Row(turns, ("Yes.",), source="f:1"))


def test_special_tokens_in_tool_calls_are_text():
    call = [{"type": "function", "function": {"name": "f", "arguments": {"x": "<|im_end|>"}}}]
    tokenizer = chat(TOOL)
    example = Encoder(tokenizer)(Row((USER,), ("",), response_fields=({"tool_calls": call},)))
    assert example.responses[0].count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


# ---- the template itself


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ("a name", "prompt"),
        ("{{ messages[-1].content }}", "prompt"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "response"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", "prompt"),
    ],
)
def test_a_template_that_loses_text_is_refused_before_any_row(template, missing):
    tokenizer = chat(template)
    with pytest.raises(InputError, match=f"template: expected one that renders the {missing}, got .*Fix: give another"):
        Encoder(tokenizer)


def test_a_template_is_a_file_text_or_none(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(CHATML)
    assert given_template(str(path)) == given_template(CHATML) == CHATML
    assert given_template("none") is None
    with pytest.raises(InputError, match=r"template: expected a file, Jinja text or none, got .*did you mean .*chat"):
        given_template(str(tmp_path / "chat.jinj"))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (CHATML, "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        (CHATML, "\n<|im_start|>user\nhi<|im_end|>\n"),
        (INST, "<s>[INST] hi [/INST]"),
    ],
)
def test_a_prompt_that_is_templated_already_is_refused_with_a_template(template, prompt, split):
    with pytest.raises(InputError, match="f:1 prompt: expected plain text, .* got text that begins .*template=none"):
        said(template, Row(prompt, ("a",), source="f:1"), split_special_tokens=split)
    assert said(template, Row(({"role": "user", "content": prompt},), ("a",)))[0].count("hi") == 1


def test_templated_text_without_a_template_stays_as_it_is():
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = chat(None)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    encoder = Encoder(tokenizer, split_special_tokens=False, ends=(end,))
    example = encoder(Row(prompt, ("hello<|im_end|>",)))
    assert tokenizer.decode(example.prompt) == "<s>" + prompt
    assert example.prompt.count(end) == 1
    assert tokenizer.decode(example.responses[0]).startswith("hello<")


def test_text_that_begins_as_a_turn_is_counted():
    _, _, counts = said(INST, Row("[INST] hi [/INST]", ("a",)))
    assert counts["prompts that begin with '[INST]' before the template adds it (template=none if so)"] == 1


def test_a_thought_that_the_template_opens_is_not_opened_twice():
    row = Row((USER,), ("<think>\nTwo.\n</think>\n\n4", "5"))
    prompt, responses, counts = said(R1, row, ends=(chat(R1).convert_tokens_to_ids("<|im_end|>"),))
    assert prompt == "<U>Is it raining?<A><think>\n"
    assert responses == ["Two.\n</think>\n\n4<|im_end|>", "5<|im_end|>"]
    assert counts["responses that continue the <think> that the template opens"] == 1
    assert counts["responses without a thought, inside the <think> that the template opens"] == 1


def test_a_stored_response_has_the_ids_of_the_same_sample():
    tokenizer = chat(R1)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    encoder = Encoder(tokenizer, ends=(end,))
    drawn = (*tokenizer("Two.\n</think>\n\n4", add_special_tokens=False)["input_ids"], end)
    assert encoder(Row("2+2?", ("<think>\nTwo.\n</think>\n\n4",))).responses == (drawn,)


def test_earlier_thoughts_that_the_template_leaves_out_are_counted():
    turns = (USER, {"role": "assistant", "content": "<think>old</think>2"}, USER)
    _, _, counts = said(R1, Row(turns, ("<think>\nx</think>3",)))
    assert counts["earlier messages whose thoughts the template leaves out"] == 1


# ---- ends of turns


@pytest.mark.parametrize("named", [True, False])
def test_a_turns_end_that_stops_generation_is_followed_by_no_eos(named):
    tokenizer = chat(CHATML) if named else unnamed(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (end in tokenizer.all_special_ids) == named
    for text in ("hello", "hello<|im_end|>", "hello</s>", "hello<|im_end|>\n"):
        example = Encoder(tokenizer, ends=(end,))(Row("hi", (text,)))
        assert tokenizer.decode(example.responses[0]) == "hello<|im_end|>"


def test_without_a_template_a_response_ends_with_eos_whatever_stops_generation():
    tokenizer = byte_pair()
    example = Encoder(tokenizer, ends=(5,))(Row("hi", ("hello",)))
    assert example.responses[0][-1] == tokenizer.eos_token_id and 5 not in example.responses[0]


# ---- dialogues in one text

H, A = "\n\nHuman: ", "\n\nAssistant:"


def test_a_dialogue_becomes_messages_on_a_chat_model_alone():
    row = Row(f"{H}hi{A} hello{H}more{A}", (" a", " b"))
    prompt, responses, counts = said(CHATML, row)
    assert prompt.startswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user")
    assert responses[0] == "a<|im_end|></s>", "without the space of the dialogue's form"
    assert counts["dialogues (Human: …, Assistant: …) that became messages"] == 1
    tokenizer = byte_pair()
    plain = Encoder(tokenizer)(row)
    assert tokenizer.decode(plain.prompt) == f"<s>{row.prompt}" and tokenizer.decode(plain.responses[0]) == " a</s>"


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (f"{H}hi{A}", ["hi"]),
        ("Human: hi\n\nAssistant: yes\n\nHuman: a\nHuman: b\n\nAssistant: ", ["hi", "yes", "a\nHuman: b"]),
        ("### Human: hi### Assistant: yes\n### Human: more\n### Assistant:", ["hi", "yes", "more"]),
        (f"{H}hi{A} closed", None),
        (f"hi{H}a{A}", None),
        (f"{A} hi{H}a{A}", None),
        ("What does Human: mean?", None),
        ("", None),
    ],
)
def test_a_dialogue_has_turns_from_a_human_to_an_open_answer(text, contents):
    found = dialogues.messages(text)
    assert (found and [message["content"] for message in found]) == contents
    assert not found or [message["role"] for message in found] == ["user", "assistant"] * (len(found) // 2) + ["user"]


def test_the_rendering_names_the_row_that_the_template_refuses():
    with pytest.raises(InputError, match="f:2 prompt: expected messages that the chat template takes, got roles"):
        ChatTemplate(chat(INST)).render([{"role": "system", "content": "a"}], opened=True, source="f:2")


def test_bad_rows_can_be_dropped_and_are_counted():
    rows = [Row(({"role": "system", "content": "x"},), ("a",), source="f:1"), Row("hi", ("a",))]
    encoder = Encoder(chat(INST), bad_rows="drop")
    assert len(encoder.encode(rows)) == 1
    (dropped,) = (what for what in encoder.counts if what.startswith("rows dropped"))
    assert dropped.startswith("rows dropped: the template does not take them (the first: f:1 prompt: expected messages")
    assert encoder.counts[dropped] == 1
    assert any("f:1 prompt" in what for what in encoder.counts)


def test_a_prefilled_answer_and_a_repeated_prompt_are_counted():
    turns = (USER, {"role": "assistant", "content": "Sure,"})
    counts = said(CHATML, Row(turns, ("yes",)))[2]
    assert counts["prompts that end with an assistant message, which is closed before the response"] == 1
    assert said(CHATML, Row("Name it.", ("Name it. Yes",)))[2]["rows with a response that begins with its prompt"] == 1
