"""Rows become the right ids, whatever the tokenizer and its template."""

import json
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from una_ref.data import toysteer
from una_ref.data.batch import collate
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer

CORPUS = ["copy a b c = a b c [/INST] hello world\n\nUser: hi there\nAssistant: oh, hello  <b>"] * 20

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


def byte_pair():
    return byte_pair_tokenizer(CORPUS, 400)


def like_llama():
    """A space in front of whatever is tokenised, as Llama's and Mistral's tokenizers put it."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    texts = [text.replace("\n", " ") for text in CORPUS]  # a line break is a byte there, and never merges
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def like_gpt2():
    tokenizer = byte_pair()
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.pad_token = "</s>"
    return tokenizer


def chat(template, **special):
    tokenizer = byte_pair()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], **special})
    tokenizer.chat_template = template
    return tokenizer


def one(tokenizer, prompt, *responses, **options):
    return Encoder(tokenizer, **options)(Row(prompt, responses, source="f:1"))


TEXT = st.text(alphabet="ab cdehilorst=\n[]/:é≠", min_size=1, max_size=12)  # it cannot spell a special token
TOKENIZERS = {"byte-pair": byte_pair(), "llama": like_llama(), "gpt2": like_gpt2()}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=TEXT.filter(str.strip), response=TEXT, end=st.sampled_from(["", " ", "\n", " \n\n", "\t"]))
@settings(max_examples=150, deadline=None)
def test_no_token_spans_the_boundary(name, prompt, response, end):
    tokenizer, prompt = TOKENIZERS[name], prompt + end
    example = one(tokenizer, prompt, response)
    bos = [] if name == "gpt2" else [tokenizer.bos_token_id]
    assert list(example.prompt) == bos + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    body = example.prompt[len(bos) :] + example.responses[0][:-1]
    assert tokenizer.decode(body, clean_up_tokenization_spaces=False) == prompt + response
    assert example.responses[0][-1] == tokenizer.eos_token_id


def test_tokenising_prompt_and_response_together_would_merge_tokens():
    # These tokenizers do merge across the boundary if prompt and response are tokenised together.
    for name, prompt, response in (("byte-pair", "hel", "lo"), ("llama", "a = ", "a b"), ("gpt2", "Ass", "ist")):
        ids = TOKENIZERS[name](prompt + response, add_special_tokens=False)["input_ids"]
        context = TOKENIZERS[name](prompt, add_special_tokens=False)["input_ids"]
        assert ids[: len(context)] != context


@given(prompt=st.lists(st.sampled_from("abcde"), min_size=1, max_size=4), response=st.text("abcde", max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_word_level_tokenizer_gives_the_words(prompt, response):
    tokenizer = toysteer.tokenizer()
    example = one(tokenizer, f"copy {' '.join(prompt)} = ", " ".join(response))
    assert tokenizer.convert_ids_to_tokens(example.prompt) == ["<s>", "copy", *prompt, "="]
    assert tokenizer.convert_ids_to_tokens(example.responses[0]) == [*response, "</s>"]


def test_a_response_is_tokenised_as_after_its_prompt():
    # Alone, " hello" would begin with two spaces, and so would "hello" after "a = ".
    tokenizer = TOKENIZERS["llama"]
    behind = tokenizer("[/INST] hello", add_special_tokens=False)["input_ids"]
    example = one(tokenizer, "[/INST]", " hello")
    assert [*example.prompt[1:], *example.responses[0][:-1]] == behind
    assert tokenizer.convert_ids_to_tokens(one(tokenizer, "a = ", "hello").responses[0])[0][0] != "▁"


def test_bos_and_eos_occur_once():
    tokenizer = byte_pair()
    for prompt, response in (("hello", "world"), ("<s>hello", "world</s>"), ("<s><s>hello", "world</s></s>")):
        example = one(tokenizer, prompt, response)
        assert tokenizer.decode(example.prompt) == "<s>hello"
        assert tokenizer.decode(example.responses[0]) == "world</s>"


@pytest.mark.parametrize("prompt", ["hi [a] there", [{"role": "user", "content": "hi [a] there"}]])
def test_a_template_with_its_own_bos_and_eos(prompt):
    tokenizer = chat(INST)
    tokenizer.pad_token = tokenizer.eos_token  # so a mask made from ids would lose the EOS
    example = one(tokenizer, prompt, "hello", "")
    assert tokenizer.decode(example.prompt) == "<s>[INST] hi [a] there [/INST]"  # verbatim: no markup was escaped
    assert [tokenizer.decode(r) for r in example.responses] == [" hello</s>", " </s>"]
    batch = collate([example])
    assert batch.lengths.tolist() == [len(r) for r in example.responses]
    assert batch.target[batch.lengths.cumsum(0) - 1].tolist() == [tokenizer.eos_token_id] * 2


def test_chatml_ends_at_its_end_of_turn():
    tokenizer = chat(CHATML, eos_token="<|im_end|>")
    example = one(tokenizer, "hi", "hello", "hello\n", "")
    assert tokenizer.decode(example.prompt) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    said = ["hello<|im_end|>", "hello\n<|im_end|>", "<|im_end|>"]  # a line break of the response stays
    assert [tokenizer.decode(r) for r in example.responses] == said
    markers = {i for i in example.prompt if tokenizer.decode(i).startswith("<|")}
    assert markers == set(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))  # one id each


def test_a_template_with_another_end_of_turn_still_ends_with_eos():
    tokenizer = chat(CHATML)
    assert tokenizer.decode(one(tokenizer, "hi", "hello").responses[0]) == "hello<|im_end|></s>"


def test_the_template_decides_whether_a_chat_begins_with_bos():
    assert chat(CHATML).decode(one(chat(CHATML), "hi", "hello").prompt).startswith("<|im_start|>")
    tokenizer = like_gpt2()
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    assert one(tokenizer, "hi", "hello").prompt.count(tokenizer.bos_token_id) == 1


def test_messages_without_a_template_go_through_the_plain_one():
    tokenizer, messages = byte_pair(), [{"role": "system", "content": "oh"}, {"role": "user", "content": "hi"}]
    example = one(tokenizer, messages, "hello")
    assert tokenizer.decode(example.prompt) == "<s>System: oh\n\nUser: hi\n\nAssistant: "
    assert tokenizer.decode(example.responses[0]) == "hello</s>"


def test_messages_that_the_template_refuses_are_named():
    with pytest.raises(InputError, match=r"f:1 prompt: .*\['system'\]: only user and assistant"):
        one(chat(INST), [{"role": "system", "content": "oh"}], "hello")


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(InputError, match="EOS"):
        Encoder(PreTrainedTokenizerFast(tokenizer_object=byte_pair().backend_tokenizer))


def test_a_cut_response_has_no_eos():
    words = toysteer.tokenizer()
    encoder = Encoder(words, max_length=6)
    example = encoder(Row("copy a =", ("a b", "a", "a b c d")))  # <s> copy a = leaves room for two
    assert [words.decode(r) for r in example.responses] == ["a b", "a </s>", "a b"]
    assert encoder.counts == {"rows": 1, "responses cut (they end without EOS)": 2}
    assert [len(r) for r in one(words, "copy a =", "a b c", "a", max_response=3).responses] == [3, 2]


def test_a_prompt_that_leaves_no_room_is_dropped_and_counted():
    encoder = Encoder(toysteer.tokenizer(), max_length=4)
    rows = [Row("copy a =", ("a",)), Row("copy =", ("",), scores=(1.0,))]
    (example,) = encoder.encode(rows)
    assert example.scores == (1.0,) and example.responses == ((0,),)
    assert encoder.counts == {"rows dropped: prompt too long": 1, "rows": 1}
    with pytest.raises(InputError, match=r"max_length=4, got .*too long': 2"):
        encoder.encode(rows[:1])


def test_prompts_longer_than_max_prompt_are_dropped():
    tokenizer = toysteer.tokenizer()
    short, long = Row("copy a b =", ("a b",)), Row("copy a b c =", ("a b c",))
    assert [len(Encoder(tokenizer).prompt_ids(row)) for row in (short, long)] == [5, 6]
    encoder = Encoder(tokenizer, max_prompt=5)
    assert encoder(short) is not None and encoder(long) is None
    assert encoder.prompt(short, 5) is not None and encoder.prompt(long, 5) is None
    counts = {"rows": 1, "rows dropped: prompt too long": 1, "prompts": 1, "prompts dropped: too long": 1}
    assert encoder.counts == counts
    assert Encoder(tokenizer, max_prompt=6).prompt(long, 5) is not None


def test_a_prompt_needs_a_token_to_predict_from():
    tokenizer = toysteer.tokenizer()
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(InputError, match="f:1 prompt: expected at least one token"):
        one(tokenizer, "x", "a")


def test_equal_prompts_have_one_index():
    encoder = Encoder(toysteer.tokenizer())
    examples = encoder.encode([Row(f"copy {w} =", ("a",)) for w in "abac"])
    assert [e.prompt_index for e in examples] == [0, 1, 0, 2] and encoder.prompt_count == 3


# ---- responses of several messages

USER, ASSISTANT, TOOL = "user", "assistant", "tool"


def message(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = ({"type": "function", "function": {"name": "f", "arguments": {}}},)
WITH_CALLS = CHATML.replace(
    "{{ m['content'] }}", "{{ m['content'] }}{{ m.tool_calls | tojson if m.tool_calls else '' }}"
)
TALKS = {
    "two turns": [message(ASSISTANT, "hi there"), message(USER, "again"), message(ASSISTANT, "oh, hello")],
    "a tool": [
        message(ASSISTANT, "", tool_calls=CALL),
        message(TOOL, "42 </s> [/INST]"),
        message(ASSISTANT, "It is 42."),
        message(USER, "thanks"),
        message(ASSISTANT, "hello  world"),
    ],
}


def talk(template, turns, **options):
    tokenizer = chat(template)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    prompt = (message(USER, "hello"),)
    *earlier, last = turns
    row = Row(prompt, (last["content"],), source="f:1", earlier_turns=(tuple(earlier),))
    return tokenizer, Encoder(tokenizer, ends=ends, **options), row


@pytest.mark.parametrize("name", TALKS)
def test_the_mask_of_several_turns_is_what_the_assistant_says_and_the_tokens_are_the_templates(name):
    turns = TALKS[name]
    tokenizer, encoder, row = talk(WITH_CALLS, turns)
    example = encoder(row)
    (ids,), (mask,) = example.responses, example.trained
    whole = Encoder(tokenizer).chat_template.render([*row.prompt, *turns], opened=False)
    assert tokenizer.decode([*example.prompt, *ids]) == whole.removesuffix("\n")
    runs = [tokenizer.decode([i for i, of in run]) for own, run in groups(ids, mask) if own]
    said = [turn["content"] + (json.dumps([*CALL]) if "tool_calls" in turn else "") for turn in turns]
    said = [text for text, turn in zip(said, turns, strict=True) if turn["role"] == ASSISTANT]
    assert [json_free(run) for run in runs] == [json_free(text + "<|im_end|>") for text in said]
    assert encoder.counts["responses of several turns: the assistant's are trained on, others are context (turns=all)"]


def groups(ids, mask):
    return ((own, [*run]) for own, run in groupby(zip(ids, mask, strict=True), key=lambda both: both[1]))


def json_free(text):
    """A text without blanks, which two writers of JSON set differently."""
    return text.replace(" ", "")


def test_every_turn_is_predicted_from_what_the_model_is_given_there():
    _, encoder, row = talk(CHATML, TALKS["two turns"])
    example = encoder(row)
    first, between, last = ([i for i, _ in run] for _, run in groups(example.responses[0], example.trained[0]))
    seen = Row((*row.prompt, *row.earlier[0]), row.responses)
    alone = encoder(seen)
    assert [*example.prompt, *first, *between] == [*alone.prompt] and tuple(last) == alone.responses[0]
    assert tuple(first) == encoder(Row(row.prompt, (row.earlier[0][0]["content"],))).responses[0]


def test_a_template_that_renders_an_earlier_turn_otherwise_than_it_was_answered_is_refused():
    # As Qwen3's, which leaves thoughts out of earlier turns.
    forgets = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}"
    )
    turns = [message(ASSISTANT, "<think>so</think>hi"), *TALKS["two turns"][1:]]
    _, encoder, row = talk(forgets, turns)
    with pytest.raises(
        InputError, match=r"f:1 response: expected a chat template that renders earlier turns .*turns=last"
    ):
        encoder(row)


@pytest.mark.parametrize(
    ("template", "got", "fix"),
    [
        (
            CHATML,
            "'<|im_end|>', which is none",
            "add {im_end} ('<|im_end|>') to eos_token_id in the model's generation",
        ),
        (CHATML.replace("<|im_end|>", "###end"), "'###end', which is none", "turns=last, or template=FILE with '</s>'"),
        (CHATML.replace("<|im_end|>", ""), "one without an end of turns", "turns=last, or template=FILE with '</s>'"),
        (None, "one without an end of turns", "turns=last, or template=FILE with '</s>'"),
    ],
)
def test_an_end_of_a_turn_at_which_generation_goes_on_is_named(template, got, fix):
    tokenizer = chat(template)
    row = talk(CHATML, TALKS["two turns"])[2]
    with pytest.raises(InputError) as caught:
        Encoder(tokenizer)(row)
    expected = "f:1 response: expected a chat template that ends a turn with a token at which generation stops, got "
    fix = fix.format(im_end=tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert str(caught.value).startswith(f"{expected}{got}. Fix: {fix}")
    one_turn = Row(row.prompt, row.responses)
    assert tokenizer.decode(Encoder(tokenizer)(one_turn).responses[0]).endswith("</s>")


def test_a_response_that_ends_beyond_the_templates_end_of_a_turn_is_counted():
    encoder = Encoder(chat(CHATML))
    encoder(Row("hi", ("a", "b")))
    what = "responses that end with '</s>' after '<|im_end|>', the template's end of a turn"
    assert encoder.counts[f"{what}: generation does not stop there"] == 2
    _, stops, row = talk(CHATML, TALKS["two turns"])
    assert stops(row) and not any("generation" in what for what in stops.counts)


def test_what_is_said_of_several_turns_is_said_once_a_response_and_of_a_message_once():
    # The template opens a thought, which no turn has, and does not read names. Three turns, four messages with a name.
    thinks = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}").replace(
        "{{ m['content'] }}", "{{ '<think>' if m.role == 'assistant' }}{{ m['content'] }}"
    )
    turns = [message(ASSISTANT, "hi there", name="x"), message(USER, "again", name="y"), message(ASSISTANT, "oh")]
    turns += [message(USER, "</s> again", name="z"), message(ASSISTANT, "hello")]
    _, encoder, row = talk(thinks, turns)
    row = Row((message(USER, "hello", name="w"),), row.responses, earlier_turns=row.earlier)
    assert encoder(row) is not None
    assert encoder.counts == {
        "rows": 1,
        "rows that spell a special token, which is text there": 1,
        "messages with name, which the template does not use": 4,
        "responses of several turns: the assistant's are trained on, others are context (turns=all)": 1,
        "responses without a thought, inside the <think> that the template opens": 1,
    }


def test_a_name_alone_is_no_answer():
    named = Row("hi", ("",), response_fields=({"name": "x"},))
    called = Row("hi", ("",), response_fields=({"tool_calls": CALL},))
    assert named.has_empty_response and not called.has_empty_response


def test_a_dropped_row_counts_as_nothing_else():
    forgets = CHATML.replace("{{ m['content'] }}", "{{ m['content'] if loop.index < 3 else '' }}")
    named = (message(USER, "hello", name="w"), message(ASSISTANT, "hi"), message(USER, "again"))
    encoder = Encoder(chat(forgets), bad_rows="drop")
    encoder.fitting([Row(named, ("a",), source=f"f:{i}") for i in range(3)])
    ((what, number),) = encoder.counts.items()
    assert what.startswith("rows dropped: the template does not take them (the first: f:0 ") and number == 3


def test_a_response_of_several_turns_that_is_cut_ends_with_a_token_of_the_assistant():
    _, encoder, row = talk(CHATML, TALKS["two turns"])
    (mask,) = encoder(row).trained
    first, between = mask.index(False), mask.count(False)
    for room in range(1, len(mask)):
        _, short, _ = talk(CHATML, TALKS["two turns"], max_response=room)
        example = short(row)
        own = len(example.responses[0])
        assert own == (min(room, first) if room <= first + between else room)
        assert example.trained is None if own <= first else example.trained[0][-1]


def test_turns_of_the_assistant_in_a_prompt_are_said_to_be_context():
    _, encoder, row = talk(CHATML, TALKS["two turns"])
    encoder(Row((*row.prompt, *row.earlier[0]), row.responses))
    assert encoder.counts["prompts with turns of the assistant, which are context and not trained on"] == 1


def refuses(text):
    return (
        CHATML
        + "{% for m in messages %}{% if '"
        + text
        + "' in m['content'] %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )


def test_a_bad_response_is_dropped_alone_and_counted_by_itself():
    encoder = Encoder(chat(refuses("bad")), bad_rows="drop")
    demos = Row("q", ("good one", "bad", "bad too"), source="f:1 (+2 rows)")
    scored = Row("q", ("bad", "fine"), scores=(1, 0.5), source="f:4 (+1 rows)")
    pairs = {"pairs": ((0, 1), (2, 3)), "weights": (1.0, 2.0), "margins": (0.5, 0.25)}
    paired = Row("r", ("fine", "bad", "a", "b"), source="f:6 (+1 rows)", **pairs)
    ranked = Row("r", ("bad", "fine"), scores=(1, 0), as_list=True, source="f:8")
    one, two, three = encoder.fitting([demos, scored, paired, ranked])
    clean = Encoder(chat(refuses("bad")))
    assert one.responses == clean(Row("q", ("good one",))).responses and two.scores == (0.5,)
    assert three.responses == clean(Row("r", ("a", "b"))).responses
    assert (three.pairs, three.weights, three.margins) == (((0, 1),), (2.0,), (0.25,))
    dropped = {what.partition(" dropped")[0]: n for what, n in encoder.counts.items() if "dropped" in what}
    assert dropped == {"responses": 3, "pairs": 1, "rows": 1} and encoder.counts["rows"] == 3
    assert any("(the first: f:1 (+2 rows) " in what for what in encoder.counts)
