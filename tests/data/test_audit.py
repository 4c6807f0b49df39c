"""What an audit of rows finds, and where first."""

import pytest

from una_ref.data.audit import NEAR, audit, similarity, tokens
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.policies.loading import byte_pair_tokenizer


def pair(n, chosen, rejected, prompt="What is it?"):
    return Row(prompt, (chosen, rejected), pairs=((0, 1),), source=f"a.jsonl:{n}")


def found(rows, *names):
    return {finding.what: (finding.count, finding.first) for finding in audit(rows, names).findings}


CLEAN = [pair(1, "It is four.", "five"), pair(2, "It is a cat.", "a dog", "And this?")]


def test_clean_rows_have_no_finding():
    assert found(CLEAN) == {}


def test_rows_prompts_and_kinds_are_counted():
    rows = [*CLEAN, Row("And this?", ("a",), scores=(0.5,)), Row("And this?", ("b",), scores=(1.5,))]
    measured = audit(rows)
    assert (measured.rows, measured.prompts, measured.most_rows) == (4, 2, 3)
    assert measured.kinds == {"pairs": 2, "scores": 2}
    assert (measured.scores.lowest, measured.scores.highest, measured.scores.mean) == (0.5, 1.5, 1.0)
    assert measured.scores.sd == pytest.approx(0.5)
    assert measured.labels is None


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (pair(3, "same ", "same"), "pairs of equal responses"),
        (pair(3, "a b c d " * 6 + "x", "a b c d " * 6 + "y"), "pairs of nearly equal responses"),
        (pair(3, "four\x07", "five"), "texts with control characters"),
        (pair(3, "four\r\n", "five"), "texts with carriage returns"),
        (pair(3, "fo\ufffdur", "five"), "texts with replacement characters"),
        (pair(3, "fo\u200bur", "five"), "texts with invisible characters"),
        (pair(3, "fo\ue000ur", "five"), "texts with private-use characters"),
        (pair(3, "four<|im_end|>", "five"), "texts that spell the special token <|im_end|>"),
        (pair(3, " one\n\nAssistant: two", "five"), "responses with the start of a turn (Human:, Assistant:)"),
        (pair(3, "It is a cat.", "a dog", "And this?"), "rows that repeat an earlier row"),
        (pair(3, "a dog", "It is a cat.", "And this?"), "pairs that are also there with their sides swapped"),
    ],
)
def test_a_fault_is_counted_once_with_its_place(row, what):
    (name, (count, first)), *others = found([*CLEAN, row]).items()
    assert name.startswith(what) and count == 1 and not others
    assert first == ("a.jsonl:2" if what.startswith(("rows", "pairs that")) else "a.jsonl:3")


def test_a_chosen_response_of_the_lower_score_is_found():
    sides = Row("p", ("four", "five"), pairs=((0, 1),), scores=(1.0, 5.0), source="a.jsonl:3")
    assert found([*CLEAN, sides])["pairs whose chosen response has the lower score"] == (1, "a.jsonl:3")
    assert not any("lower" in what for what in found([Row("p", ("four", "five"), pairs=((1, 0),), scores=(1.0, 5.0))]))


@pytest.mark.parametrize("word", ["null", "NaN", " None\n"])
def test_a_response_that_spells_a_missing_value_is_found(word):
    assert found([*CLEAN, pair(3, word, "five")]) == {
        "responses that spell a missing value (null, None, NaN)": (1, "a.jsonl:3")
    }


def test_a_role_that_templates_may_not_know_is_found():
    prompt = ({"role": "prompter", "content": "What?"},)
    what = "prompts with a message of the role 'prompter', which templates may not know"
    assert found([*CLEAN, pair(3, "four", "five", prompt)]) == {what: (1, "a.jsonl:3")}


def test_scripts_and_emoji_are_no_findings():
    assert found([pair(1, "می‌خواهم 👩‍👩‍👧 हिन्दी\n\t“ok”", "日本語 e\u0301")]) == {}


def test_only_the_tokenizers_own_special_tokens_count_where_they_are_known():
    rows = [pair(1, "a <end> b", "c </s> d")]
    assert [*found(rows, "<end>")] == ["texts that spell the special token <end>"]
    assert [*found(rows)] == ["texts that spell the special token </s>"]


def scored(n, prompt, text, **feedback):
    return Row(prompt, (text,), source=f"a.jsonl:{n}", **feedback)


def test_ties_are_those_of_a_prompt_even_over_several_rows():
    known = enumerate([("p", 1), ("p", 1), ("q", 1), ("q", 2)])
    rows = [scored(n, prompt, f"r{n}", scores=(score,)) for n, (prompt, score) in known]
    assert found(rows) == {"prompts whose scores are all equal": (1, "a.jsonl:0")}


def test_a_response_with_two_scores_for_one_prompt_is_found():
    rows = [scored(1, "p", "r", scores=(1,)), scored(2, "p", "r", scores=(2,)), scored(3, "q", "r", scores=(3,))]
    assert found(rows) == {
        "responses with two different scores for the same prompt": (1, "a.jsonl:1"),
        "prompts with one scored response": (1, "a.jsonl:3"),
    }


def test_one_sided_labels_are_found_by_prompt_and_as_a_whole():
    one = [scored(1, "p", "a", labels=(1,)), scored(2, "p", "b", labels=(1,))]
    other = [scored(3, "q", "a", labels=(0,))]
    assert found([*one, *other]) == {"prompts of several labels, all of them the same": (1, "a.jsonl:1")}
    assert found(one)["labels, all of them 1"] == (2, "a.jsonl:1")


def test_similarity_is_the_share_of_common_words():
    assert similarity("a b c d", "D c b x") == pytest.approx(0.75)
    assert similarity("a a", "a") == pytest.approx(2 / 3)
    assert similarity("", "") == 1.0
    assert similarity("a b", "c") == 0.0 < NEAR


def test_the_longer_chosen_responses_are_counted():
    assert audit([pair(1, "long one", "short"), pair(2, "a", "bbb")]).chosen_longer == 1


def test_lengths_are_in_characters():
    lengths = {one.what: one for one in audit([pair(1, "aaaa", "bb", "ppp")]).lengths}
    assert (lengths["prompts"].longest, lengths["chosen"].mean, lengths["rejected"].mean) == (3, 4, 2)
    assert (lengths["responses"].count, lengths["responses"].median) == (2, 3)


def test_tokens_that_limits_cut_are_those_that_the_encoder_cuts():
    # The second response fits exactly.
    rows = [pair(1, "a" * 10, "b" * 8, "pp"), pair(2, "a" * 4, "b", "p" * 30)]
    encoder = Encoder(byte_pair_tokenizer([], 0), max_length=12)
    examples = [encoder(row) for row in rows]
    measured = tokens(rows, encoder)
    assert [example is None for example in examples] == [False, True] and measured.dropped == 1
    whole = encoder.unlimited()(rows[0])
    kept = sum(map(len, examples[0].responses))
    assert measured.lost == sum(map(len, whole.responses)) - kept > 0
    assert measured.cut == encoder.counts["responses cut (they end without EOS)"] == 1
    longest = {one.what: one.longest for one in measured.lengths}
    assert longest["responses"] == 11 and longest["prompts"] > 30


@pytest.mark.parametrize("bad_rows", ["error", "drop"])
def test_rows_that_the_encoder_refuses_are_counted_with_the_first_place(bad_rows):
    bad = Row(({"role": "user", "content": "q", "tool_calls": [{"x": 1}]},), ("a",), source="a.jsonl:2")
    measured = tokens([CLEAN[0], bad, bad], Encoder(byte_pair_tokenizer([], 0), bad_rows=bad_rows))
    ((what, number),) = measured.said
    assert number == 2 and what.startswith("rows dropped: the template does not take them (the first: a.jsonl:2 ")
