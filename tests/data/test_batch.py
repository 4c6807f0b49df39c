"""Rows become the right ids, and batches show every predicted token exactly its prompt and its past."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from una_ref.data import toysteer
from una_ref.data.batch import Encoder, Example, collate, microbatches, prefix_tree
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer
from una_ref.theory import PrefixTree

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
    texts = [text.replace("\n", " ") for text in CORPUS]  # a line break is a byte there, and merges with nothing
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


# ------------------------------------------------------------------------------------------------------- text to ids

TEXT = st.text(alphabet="ab cdehilorst=\n[]/:é≠", min_size=1, max_size=12)  # no special token can be spelled
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


def test_tokenised_together_they_would_merge():
    # What the test above guards against does happen: with these tokenizers, and the simplest way to tokenise.
    for name, prompt, response in (("byte-pair", "hel", "lo"), ("llama", "a = ", "a b"), ("gpt2", "Ass", "ist")):
        ids = TOKENIZERS[name](prompt + response, add_special_tokens=False)["input_ids"]
        context = TOKENIZERS[name](prompt, add_special_tokens=False)["input_ids"]
        assert ids[: len(context)] != context


@given(prompt=st.lists(st.sampled_from("abcde"), min_size=1, max_size=4), response=st.text("abcde", max_size=4))
@settings(max_examples=50, deadline=None)
def test_words_are_words(prompt, response):
    tokenizer = toysteer.tokenizer()
    example = one(tokenizer, f"copy {' '.join(prompt)} = ", " ".join(response))
    assert tokenizer.convert_ids_to_tokens(example.prompt) == ["<s>", "copy", *prompt, "="]
    assert tokenizer.convert_ids_to_tokens(example.responses[0]) == [*response, "</s>"]


def test_a_response_is_tokenised_as_it_stands():
    # Alone, " hello" would begin with two spaces, and "hello" behind "a = " as well.
    tokenizer = TOKENIZERS["llama"]
    behind = tokenizer("[/INST] hello", add_special_tokens=False)["input_ids"]
    example = one(tokenizer, "[/INST]", " hello")
    assert [*example.prompt[1:], *example.responses[0][:-1]] == behind
    assert tokenizer.convert_ids_to_tokens(one(tokenizer, "a = ", "hello").responses[0])[0][0] != "▁"


def test_bos_and_eos_stand_once():
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
    said = ["hello<|im_end|>", "hello\n<|im_end|>", "<|im_end|>"]  # the line break that was said stays
    assert [tokenizer.decode(r) for r in example.responses] == said
    markers = {i for i in example.prompt if tokenizer.decode(i).startswith("<|")}
    assert markers == set(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))  # one id each


def test_a_template_with_another_end_of_turn_still_ends_with_eos():
    tokenizer = chat(CHATML)
    assert tokenizer.decode(one(tokenizer, "hi", "hello").responses[0]) == "hello<|im_end|></s>"


def test_whether_a_chat_begins_with_bos_is_the_templates_business():
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
    with pytest.raises(InputError, match=r"f:1: prompt: .*\['system'\]: only user and assistant"):
        one(chat(INST), [{"role": "system", "content": "oh"}], "hello")


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(InputError, match="EOS"):
        Encoder(PreTrainedTokenizerFast(tokenizer_object=byte_pair().backend_tokenizer))


def test_a_response_that_is_cut_does_not_end():
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


def test_prompts_of_more_tokens_than_asked_for_are_left_out():
    tokenizer = toysteer.tokenizer()
    short, long = Row("copy a b =", ("a b",)), Row("copy a b c =", ("a b c",))
    assert [len(Encoder(tokenizer).prompt(row)) for row in (short, long)] == [5, 6]
    encoder = Encoder(tokenizer, max_prompt=5)
    assert encoder(short) is not None and encoder(long) is None
    assert encoder.question(short, 5) is not None and encoder.question(long, 5) is None
    counts = {"rows": 1, "rows dropped: prompt too long": 1, "prompts": 1, "prompts dropped: too long": 1}
    assert encoder.counts == counts
    assert Encoder(tokenizer, max_prompt=6).question(long, 5) is not None


def test_a_prompt_needs_a_token_to_predict_from():
    tokenizer = toysteer.tokenizer()
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(InputError, match="f:1: prompt: expected a token"):
        one(tokenizer, "x", "a")


def test_equal_prompts_have_one_index():
    encoder = Encoder(toysteer.tokenizer())
    examples = encoder.encode([Row(f"copy {w} =", ("a",)) for w in "abac"])
    assert [e.prompt_index for e in examples] == [0, 1, 0, 2] and encoder.prompts == 3


# ---------------------------------------------------------------------------------------------------- ids to a batch

IDS = st.lists(st.integers(0, 99), min_size=1, max_size=5).map(tuple)
EXAMPLES = st.lists(
    st.builds(Example, prompt=IDS, responses=st.lists(IDS, min_size=1, max_size=4).map(tuple)), min_size=1, max_size=6
)


def past(batch):
    """Of every scored token: the token ids and positions that its predictor sees, in order of place."""
    visible = batch.visible()
    for at in batch.predictor.tolist():
        row, place = divmod(at, batch.tokens.shape[1])
        sees = visible[row, place]
        yield batch.tokens[row][sees].tolist(), batch.positions[row][sees].tolist()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@given(examples=EXAMPLES)
@settings(max_examples=60, deadline=None)
def test_every_token_is_predicted_from_its_prompt_and_its_past(layout, examples):
    batch = collate(examples, layout)
    expected = [([*e.prompt, *r[:t]], r[t]) for e in examples for r in e.responses for t in range(len(r))]
    assert batch.target.tolist() == [token for _, token in expected]
    for (tokens, positions), (before, _) in zip(past(batch), expected, strict=True):
        assert tokens == before
        assert positions == list(range(len(before)))
    count = sum(len(e.responses) for e in examples)
    assert torch.bincount(batch.response, minlength=count).tolist() == batch.lengths.tolist()
    assert (batch.response.diff() >= 0).all()
    assert batch.groups.tolist() == [g for g, e in enumerate(examples) for _ in e.responses]


@given(examples=EXAMPLES)
@settings(max_examples=30, deadline=None)
def test_packed_rows_hold_a_prompt_once_and_few_pads(examples):
    tokens = collate(examples).tokens
    longest = max(e.tokens for e in examples)
    assert longest <= tokens.shape[1] <= 5 * longest
    assert tokens.numel() < 2 * sum(e.tokens for e in examples) + longest


def test_blocks_of_which_no_two_fit_beside_the_longest_share_longer_rows():
    blocks = [Example((1,) * n, ((2,),)) for n in (300, 260, 230, 200)]
    assert collate(blocks[:1] * 4).tokens.shape == (4, 300)  # no pads: as narrow as can be
    assert collate(blocks).tokens.shape == (2, 500)
    assert [len(run) for run in microbatches(blocks, 1000)] == [4]
    assert [len(run) for run in microbatches(blocks, 999)] == [3, 1]


def test_feedback_of_every_kind_in_one_batch():
    rows = {
        "pairs": Example((1,), ((2, 0), (3, 0), (4, 0)), pairs=((2, 0), (1, 0)), prompt_index=5, source="a:1"),
        "scores": Example((1, 2), ((2,), (3,)), scores=(0.5, -2.0), prompt_index=6, source="b:2"),
        "demos": Example((3,), ((4, 4, 0),), prompt_index=7, source="c:3"),
        "labels": Example((4,), ((5, 0), (0,)), labels=(1.0, 0.25), prompt_index=5, source="d:4"),
    }
    assert [e.kind for e in rows.values()] == list(rows)
    assert [e.count for e in rows.values()] == [2, 2, 1, 2]
    batch = collate(list(rows.values()))
    assert batch.pairs.tolist() == [[2, 0], [1, 0]]
    assert batch.scored.tolist() == [3, 4] and batch.scores.tolist() == [0.5, -2.0]
    assert batch.demos.tolist() == [5]
    assert batch.labelled.tolist() == [6, 7] and batch.labels.tolist() == [1.0, 0.25]
    assert batch.groups.tolist() == [0, 0, 0, 1, 1, 2, 3, 3] and batch.prompts.tolist() == [5, 6, 7, 5]
    assert batch.lengths.tolist() == [2, 2, 2, 1, 1, 3, 2, 1]
    assert batch.sources == ("a:1", "b:2", "c:3", "d:4") and batch.count == 7
    moved = batch.to("meta")
    assert moved.tokens.device.type == moved.labels.device.type == "meta" and moved.layout == "packed"


def test_pairs_of_a_later_row_are_moved_along():
    rows = [Example((1,), ((2,), (3,)), pairs=((1, 0),)), Example((2,), ((2,), (3,)), pairs=((0, 1),))]
    assert collate(rows).pairs.tolist() == collate(rows, "padded").pairs.tolist() == [[1, 0], [2, 3]]


def test_an_example_without_tokens_is_refused():
    for prompt, responses in (((), ((1,),)), ((1,), ()), ((1,), ((1,), ()))):
        with pytest.raises(InputError, match="at least one token"):
            Example(prompt, responses)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@given(examples=EXAMPLES, budget=st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_microbatches_keep_order_and_budget(layout, examples, budget):
    runs = list(microbatches(examples, budget, layout))
    assert [e for run in runs for e in run] == examples
    held = [collate(run, layout).tokens.numel() for run in runs]  # what goes through the model, pads included
    assert all(len(run) == 1 or size <= budget for run, size in zip(runs, held, strict=True))
    for run, following in zip(runs, runs[1:], strict=False):  # as few as there can be, in this order
        assert collate([*run, following[0]], layout).tokens.numel() > budget


def test_many_long_responses_stand_behind_their_prompt_in_several_rows(monkeypatch):
    given = [Example((1, 2), ((3,) * 5,) * 5), Example((1,) * 20, ((4,) * 9,) * 4), Example((1,), ((5,) * 30,))]
    monkeypatch.setattr("una_ref.data.batch.ROOM", 8)
    monkeypatch.setattr("una_ref.data.batch.LINEAR", 0)  # in rows this short attention would count for nothing
    batch = collate(given)
    # Behind the short prompt two, two and one of four tokens; behind the long one, as many tokens as it has: twice
    # two of eight; and one that alone is too long. Blocks of 36, 36, 30 + 6, 10 + 10.
    assert batch.tokens.shape == (4, 36)
    expected = [([*e.prompt, *r[:t]], r[t]) for e in given for r in e.responses for t in range(len(r))]
    for (tokens, positions), (before, _) in zip(past(batch), expected, strict=True):
        assert tokens == before and positions == list(range(len(before)))


@pytest.mark.parametrize(("size", "length"), [(4, 3), (2, 4), (3, 1)])
def test_a_prefix_tree_shows_every_prefix_its_own_past(size, length):
    tree, vocabulary, prompts = PrefixTree.of(size, length), [7, 11, 12, 13][:size], [[1, 2, 3], [5]]
    batch = prefix_tree(prompts, tree.prefixes, vocabulary)
    prefixes = [[vocabulary[t] for t in row if t >= 0] for row in tree.prefixes.tolist()]
    expected = [[*p, *prefix] for p in prompts for prefix in prefixes for _ in vocabulary]
    for (tokens, positions), before in zip(past(batch), expected, strict=True):
        assert tokens == before
        assert positions == list(range(len(before)))
    assert batch.target.tolist() == vocabulary * (len(prompts) * len(prefixes))
    assert batch.groups.tolist() == [x for x in range(2) for _ in range(len(prefixes) * size)]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_whole_batch_is_read_at_the_response_s_own_tokens(layout):
    examples = [Example((1, 9), ((5, 6, 2), (7,), (2,)), pairs=((0, 1),)), Example((1, 8, 8), ((5,) * 9,))]
    batch = collate(examples, layout, whole=True)
    assert batch.whole and torch.equal(batch.tokens.flatten()[batch.predictor], batch.target)
    assert batch.lengths.tolist() == [3, 1, 1, 9]
    responses = batch.target.split(batch.lengths.tolist())
    assert [r.tolist() for r in responses] == [[5, 6, 2], [7], [2], [5] * 9]
    visible, width = batch.visible(), batch.tokens.shape[1]
    prompts = [e.prompt for e in examples for _ in e.responses]
    ends = batch.predictor[batch.lengths.cumsum(0) - 1].tolist()
    for end, prompt, response in zip(ends, prompts, responses, strict=True):
        row, at = divmod(end, width)
        seen = visible[row, at].nonzero()[:, 0]
        assert batch.tokens[row][seen].tolist() == [*prompt, *response.tolist()]
        assert batch.positions[row][seen].tolist() == list(range(len(prompt) + len(response)))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_whole_micro_batches_keep_to_their_tokens(layout):
    examples = [Example((1, 9), ((5, 6, 2), (7, 2))) for _ in range(20)]
    for tokens in (7, 14, 20, 35):
        cut = list(microbatches(examples, tokens, layout, whole=True))
        assert [e for some in cut for e in some] == examples
        sizes = [collate(some, layout, whole=True).tokens.numel() for some in cut]
        assert all(size <= tokens or len(some) == 1 for size, some in zip(sizes, cut, strict=True))
        fuller = collate([*cut[0], examples[0]], layout, whole=True)
        assert len(cut) == 1 or fuller.tokens.numel() > tokens
