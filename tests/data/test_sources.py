"""What columns mean, and that every refusal names file, line, field, what was expected and what came."""

import gzip
import json
import logging
import os
from itertools import count, islice, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from una_ref.data.conversions import conform
from una_ref.data.published import HELPSTEER2_WEIGHTS
from una_ref.data.row_sets import group_by_prompt, shuffled_scores, split
from una_ref.data.sources import read
from una_ref.errors import InputError

REAL = os.environ.get("UNA_REF_DATA")
real_data = pytest.mark.skipif(not REAL, reason="UNA_REF_DATA is not set: no real data to read")
USER, OTHER = {"role": "user", "content": "p"}, {"role": "user", "content": "q"}
RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def says(text):
    return {"role": "assistant", "content": text}


def one(**row):
    (made,) = read([row])
    return made


def rated(prompt, response, *ratings):
    return {"prompt": prompt, "response": response, **dict(zip(RATINGS, ratings, strict=True))}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(data, *parts, empty="error", short=False, **options):
    with pytest.raises(InputError) as caught:
        list(read(data, empty=empty, **options))
    for part in ("expected", "got", *parts):
        assert part in str(caught.value), str(caught.value)
    assert not short or len(str(caught.value).replace(str(data), "F")) <= 300, str(caught.value)


def test_a_pair_has_a_prompt_column():
    row = one(prompt="p", chosen="a", rejected="b")
    assert (row.prompt, row.responses, row.pairs, row.scores) == ("p", ("a", "b"), ((0, 1),), None)


def test_a_pair_may_have_scores():
    row = one(prompt="p", chosen="a", rejected="b", chosen_score=2, rejected_score=-1.5)
    assert row.kinds == ("scores", "pairs") and row.scores == (2.0, -1.5)


def test_a_pair_may_be_of_messages():
    row = one(prompt=[USER], chosen=[says("a")], rejected=[says("b")])
    assert row.prompt == (USER,) and row.responses == ("a", "b")


def test_whole_conversations_give_the_prompt_of_a_pair():
    start = [USER, says("hm"), OTHER]
    row = one(chosen=[*start, says("a")], rejected=[*start, says("b")])
    assert row.prompt == tuple(start) and row.responses == ("a", "b")


def test_a_completion_may_have_a_label_a_score_both_or_neither():
    assert one(prompt="p", completion="a", label=True).labels == (1.0,)
    assert one(prompt="p", completion="a", label=0.25).labels == (0.25,)
    assert one(prompt="p", completion="a", score=7).scores == (7.0,)
    assert one(prompt="p", completion="a", score=7, label=False).kinds == ("scores", "labels")
    assert one(prompt="p", completion="a").kinds == ("demos",)
    assert one(prompt=[USER], completion=[says("a")]).responses == ("a",)


def test_alpaca_eval_columns_are_read():
    row = one(prompt="p", response="a", score=0.5, generator="g", subset="s")
    assert (row.prompt, row.responses, row.scores, row.kinds) == ("p", ("a",), (0.5,), ("scores",))


def test_completions_and_scores_are_a_ranked_list():
    row = one(prompt="p", completions=["a", "b", [says("c")]], scores=[1, 3, 2])
    assert row.responses == ("a", "b", "c") and row.scores == (1, 3, 2)


def test_messages_without_feedback_are_demonstrations():
    row = one(messages=[USER, says("a")])
    assert row.prompt == (USER,) and row.responses == ("a",) and row.kinds == ("demos",)


def test_columns_may_have_other_names():
    (row,) = read(
        [{"question": "p", "output": "a", "stars": 3}],
        columns={"prompt": "question", "completion": "output", "score": "stars"},
    )
    assert (row.prompt, row.responses, row.scores) == ("p", ("a",), (3.0,))
    refused(
        [{"question": "p", "output": "a", "stars": "3"}],
        "dataset[0] stars",
        "a finite number",
        "'3' (str)",
        columns={"prompt": "question", "completion": "output", "score": "stars"},
    )
    refused([{"prompt": "p"}], "options columns", "'answer' (str)", columns={"answer": "completion"})


A, H = "\n\nAssistant:", "\n\nHuman:"


def test_hh_dialogues_split_at_the_last_shared_assistant():
    start = f"{H} hi{A} hello{H} more{A}"
    row = one(chosen=f"{start} I can help", rejected=f"{start} I cannot")
    assert row.prompt == start, "not the longest common prefix, which ends with ' I can'"
    assert row.responses == (" I can help", " I cannot") and row.pairs == ((0, 1),)


def test_an_hh_side_may_hold_an_assistant_turn_of_its_own():
    # 20 of 9,849 dialogues of the hub are like that; the audit and a run count them (test_chat_rows, test_audit).
    start = f"{H} hi{A} hello{H} more{A}"
    row = one(chosen=f"{start} one{A} two", rejected=f"{start} other")
    assert row.prompt == start and row.responses == (f" one{A} two", " other")


turn = st.text(alphabet="ab \n:", min_size=1, max_size=8).filter(str.strip)


@given(st.lists(st.tuples(turn, turn), max_size=3), turn, turn, turn)
def test_hh_prompt_and_response_are_the_dialogue_again(turns, last, first, second):
    start = "".join(f"{H} {h}{A} {a}" for h, a in turns) + f"{H} {last}{A}"
    row = one(chosen=f"{start} {first}", rejected=f"{start} {second}")
    assert row.prompt == start
    assert (row.prompt + row.responses[0], row.prompt + row.responses[1]) == (
        f"{start} {first}",
        f"{start} {second}",
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "parts"),
    [
        (f"{H} hi{A} a{H} b{A} c", f"{H} hi{A} x{H} y{A} z", ["chosen", "last assistant turn", "human turn"]),
        (f"{H} hi{A} a", f"{H} hi{A} a{H} b{A} c", ["rejected", "last assistant turn", "human turn"]),
        (f"{H} hi{A} a", f"{H} ho{A} a", ["rejected", "agree up to", "do not"]),
        ("plain", "text", ["rejected", "'\\n\\nAssistant:'", "do not"]),
        (f"{H} hi{A} a", [USER, says("b")], ["chosen", "both", "(str)"]),
        (
            [USER, says("a")],
            [OTHER, says("b")],
            ["rejected", "the messages of chosen", "different ones"],
        ),
        ([USER, says("a")], [USER, OTHER], ["rejected", "end with one of the assistant", "user, user"]),
        ([says("a")], [says("b")], ["chosen", "end with one of the assistant", "assistant"]),
        ([USER, {"role": "assistant"}], [USER, says("b")], ["chosen[1].content", "text", "None"]),
        (3, 4, ["chosen", "both", "3 (int)"]),
    ],
)
def test_conversations_that_disagree_before_the_response_are_refused(tmp_path, chosen, rejected, parts):
    path = write(tmp_path / "hh.jsonl", [{"chosen": chosen, "rejected": rejected}])
    refused(path, f"{path}:1 {parts[0]}: expected ", *parts[1:])


def test_helpsteer2_rows_are_merged_two_by_two():
    rows = list(
        read(
            [
                rated("p", "a", 4, 4, 4, 0, 0),
                rated("p", "b", 0, 0, 0, 4, 4),
                rated("q", "c", 4, 0, 0, 1, 1),
                rated("q", "d", 0, 2, 4, 1, 1),
            ]
        )
    )
    assert [(row.prompt, row.responses) for row in rows] == [("p", ("a", "b")), ("q", ("c", "d"))]
    expected = [1, 0, 2.6 / 7.6, 3.4 / 7.6]
    assert [score for row in rows for score in row.scores] == pytest.approx(expected, abs=1e-15)
    assert "dataset[0]" in rows[0].source


def test_helpsteer2_weights_set_the_range_of_scores():
    data = [rated("p", "a", *r, 2, 2) for r in product(range(5), repeat=3)] + [rated("p", "a", 0, 0, 0, 0, 0)]
    for weights, top in (("code", 1), ("paper", sum(HELPSTEER2_WEIGHTS.values()))):
        scores = [score for row in read(data, helpsteer_weights=weights) for score in row.scores]
        assert min(scores) == 0 and max(scores) == pytest.approx(top) and max(scores) <= top
    assert top == pytest.approx(1.9), "the paper's reading leaves [0, 1]"


@pytest.mark.parametrize(
    ("rows", "line", "parts"),
    [
        (
            [rated("p", "a", 1, 1, 1, 1, 1), rated("q", "b", 1, 1, 1, 1, 1)],
            2,
            ["prompt", "data.jsonl:1", "another"],
        ),
        ([rated("p", "a", 1, 1, 1, 1, 1)] * 3, 3, ["prompt", "a second row", "end of the data"]),
        ([rated("p", "a", 5, 1, 1, 1, 1)] * 2, 1, ["helpfulness", "0 to 4", "5 (int)"]),
        ([rated("p", "a", 1, 1, 1, 1, "1")] * 2, 1, ["verbosity", "0 to 4", "'1' (str)"]),
        ([rated("p", "a", 1, 1.5, 1, 1, 1)] * 2, 1, ["correctness", "0 to 4", "1.5 (float)"]),
    ],
)
def test_malformed_helpsteer2_rows_are_refused(tmp_path, rows, line, parts):
    path = write(tmp_path / "data.jsonl", rows)
    refused(path, f"{path}:{line} {parts[0]}: expected ", *parts[1:])


def completion(response, score, **others):
    """As UltraFeedback has it, with the columns that are not read."""
    annotations = {"helpfulness": {"Rating": "4", "Rationale": "r", "Type": ["1"], "Rationale For Rating": "r"}}
    return {
        "annotations": annotations,
        "custom_system_prompt": "As an AI assistant …",
        "model": "alpaca-7b",
        "principle": "helpfulness",
        "response": response,
        "critique": "c",
        "overall_score": score,
        "fine-grained_score": 4.25,
    } | others


def ultrafeedback(*completions):
    return {
        "source": "evol_instruct",
        "instruction": "p",
        "models": ["alpaca-7b"] * len(completions),
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


BINARIZED = {
    "prompt": "p",
    "prompt_id": "f0e3",
    "chosen": [USER, says("a")],
    "rejected": [USER, says("b")],
    "messages": [USER, says("a")],
    "score_chosen": 8.5,
    "score_rejected": 5.0,
}
SHP = {
    "post_id": "qt3nxl",
    "domain": "askculinary_train",
    "upvote_ratio": 0.98,
    "history": "a post",
    "c_root_id_A": "hkh25sc",
    "c_root_id_B": "hkh25lp",
    "created_at_utc_A": 1636822112,
    "created_at_utc_B": 1636822110,
    "score_A": 340,
    "score_B": 166,
    "human_ref_A": "a",
    "human_ref_B": "b",
    "labels": 1,
    "seconds_difference": 2.0,
    "score_ratio": 2.0481927711,
}


def test_ultrafeedback_is_read_with_its_overall_scores():
    row = one(**ultrafeedback(completion("a", 7.5), completion("b", 3.0), completion("c", 9)))
    assert (row.prompt, row.responses, row.scores, row.pairs) == ("p", ("a", "b", "c"), (7.5, 3.0, 9.0), None)


def test_ultrafeedback_binarized_is_a_pair_with_scores():
    row = one(**BINARIZED)
    assert (row.prompt, row.responses, row.pairs) == ((USER,), ("a", "b"), ((0, 1),))
    assert row.scores == (8.5, 5.0)


def test_shp_is_a_pair_and_label_1_prefers_a():
    row = one(**SHP)
    assert (row.prompt, row.responses, row.pairs, row.scores) == ("a post", ("a", "b"), ((0, 1),), None)
    assert one(**SHP | {"labels": 0, "score_B": 341}).pairs == ((1, 0),)
    assert one(**SHP | {"score_B": 340}).pairs == ((0, 1),), "as many votes, and written later"
    assert one(**{k: SHP[k] for k in ("history", "human_ref_A", "human_ref_B", "labels")}).pairs == ((0, 1),)


def test_shp_pairs_of_a_post_stay_on_one_side_of_a_split():
    rows = list(read([SHP | {"history": f"post {i % 5}", "human_ref_A": f"a {i}"} for i in range(40)]))
    train, held = split(rows, 0.4, 0)
    assert (len(train), len(held)) == (24, 16)
    assert not {row.prompt for row in train} & {row.prompt for row in held}


def test_parquet_rows_are_those_of_json_lines(tmp_path):
    from pyarrow import Table
    from pyarrow.parquet import write_table

    for i, row in enumerate((BINARIZED, SHP, ultrafeedback(completion("a", 1.0), completion("b", 2.0)))):
        path = tmp_path / f"{i}.parquet"
        write_table(Table.from_pylist([row, row]), path)
        first, second = read(path)
        (same,) = read([row])
        assert (first.prompt, first.responses, first.scores, first.pairs) == (
            *(same.prompt, same.responses, same.scores, same.pairs),
        )
        assert second.source == f"{path}[1]"
    write_table(Table.from_pylist([SHP, SHP | {"labels": 2}]), path)
    refused(path, f"{path}[1] labels", "1 (A is preferred) or 0 (B is)", "2 (int)")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (SHP | {"labels": None}, ["labels", "a value, as in"]),
        (SHP | {"labels": "1"}, ["labels", "1 (A is preferred)", "'1' (str)"]),
        (SHP | {"labels": 0}, ["labels", "at least as many votes", "score_A is 340 and score_B 166"]),
        (SHP | {"score_A": "340"}, ["score_A", "a finite number", "'340' (str)"]),
        (SHP | {"human_ref_B": ""}, ["human_ref_B", "text", "empty response ''", "Fix: set empty=drop or empty=keep"]),
        (SHP | {"history": " "}, ["prompt", "an empty prompt"]),
        (BINARIZED | {"score_chosen": "8"}, ["score_chosen", "a finite number", "'8' (str)"]),
        (BINARIZED | {"prompt": "q"}, ["prompt", "a user turn of both conversations", "'q' (str)"]),
        (
            BINARIZED | {"chosen": [OTHER, says("a")]},
            ["rejected", "the messages of chosen", "different ones"],
        ),
        (BINARIZED | {"rejected": [USER, says("")]}, ["rejected[1]", "text", "empty"]),
        (BINARIZED | {"rejected": [USER]}, ["rejected", "end with one of the assistant", "user"]),
        (ultrafeedback(), ["responses", "at least one", "none"]),
        (ultrafeedback() | {"completions": "a"}, ["completions", "a list", "'a' (str)"]),
        (ultrafeedback("a"), ["completions[0]", "an object with response", "'a' (str)"]),
        (ultrafeedback(completion("a", 1), completion("", 1)), ["completions[1].response", "text", "empty"]),
        (ultrafeedback(completion("a", 1), completion(None, 1)), ["completions[1].response", "text", "null"]),
        (ultrafeedback(completion("a", float("nan"))), ["completions[0].overall_score", "a finite number", "nan"]),
        (ultrafeedback(completion("a", "7")), ["completions[0].overall_score", "a finite number", "'7' (str)"]),
    ],
)
def test_bad_rows_of_published_sets_are_named(tmp_path, row, parts):
    whole = SHP if "history" in row else BINARIZED if "chosen" in row else ultrafeedback(completion("a", 1))
    path = write(tmp_path / "data.jsonl", [whole, row])
    refused(path, f"{path}:2 {parts[0]}: expected ", *parts[1:])


def test_an_instruction_without_completions_is_dropped_with_empty_responses():
    rows = [ultrafeedback(completion("a", 1)), ultrafeedback()]
    assert len(list(read(rows, empty="drop"))) == 1


GOOD = {
    "pair": {"prompt": "p", "chosen": "a", "rejected": "b"},
    "scored": {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 0},
    "completion": {"prompt": "p", "completion": "a", "label": True},
    "score": {"prompt": "p", "completion": "a", "score": 0.5},
    "response": {"prompt": "p", "response": "a", "score": 0.5},
    "list": {"prompt": "p", "completions": ["a", "b"], "scores": [1, 0]},
    "messages": {"messages": [USER, says("a")]},
}


@pytest.mark.parametrize(
    ("like", "change", "parts"),
    [
        ("pair", {"chosen": ""}, ["chosen", "text", "empty response ''"]),
        ("pair", {"rejected": " \n"}, ["rejected", "text", "empty"]),
        ("pair", {"rejected": None}, ["rejected", "a value, as in", ":1 (pair)", "a row of prompt, chosen"]),
        ("pair", {"prompt": ""}, ["prompt", "text or messages", "an empty prompt"]),
        ("pair", {"prompt": None}, ["prompt", "a value, as in", ":1 (pair)", "a row of chosen, rejected"]),
        ("pair", {"chosen": 3}, ["chosen", "text", "3 (int)"]),
        ("pair", {"chosen": [USER, says("a")]}, ["chosen", "begin and end with the assistant's", "user, assistant"]),
        ("pair", {"chosen": []}, ["chosen", "begin and end with the assistant's", "an empty list"]),
        ("pair", {"chosen": [{"role": "assistant", "content": ""}]}, ["chosen", "text", "empty"]),
        ("pair", {"chosen_score": 3}, ["chosen_score", "no value, as in", ":1 (pair)", "chosen_score"]),
        ("scored", {"chosen_score": float("nan")}, ["chosen_score", "a finite number", "nan (float)"]),
        ("scored", {"rejected_score": "1"}, ["rejected_score", "a finite number", "'1' (str)"]),
        ("completion", {"label": "yes"}, ["label", "in [0, 1]", "'yes' (str)"]),
        ("completion", {"label": 2}, ["label", "in [0, 1]", "2 (int)"]),
        ("completion", {"label": None}, ["label", "a value, as in", "a row of prompt, completion"]),
        ("completion", {"completion": "\ud800"}, ["completion", "valid Unicode"]),
        ("score", {"score": "0.5"}, ["score", "a finite number", "'0.5' (str)"]),
        ("score", {"score": float("inf")}, ["score", "a finite number", "inf"]),
        ("score", {"score": True}, ["score", "a finite number", "True (bool)"]),
        ("response", {"response": ""}, ["response", "text", "empty"]),
        ("list", {"scores": [1]}, ["scores", "2, one per response", "got 1"]),
        ("list", {"scores": [1, "0"]}, ["scores[1]", "a finite number", "'0' (str)"]),
        ("list", {"scores": 3}, ["scores", "a list", "3 (int)"]),
        ("list", {"completions": "ab"}, ["completions", "a list", "'ab' (str)"]),
        ("list", {"completions": ["a", ""]}, ["completions[1]", "text", "empty"]),
        ("list", {"completions": []}, ["responses", "at least one", "none"]),
        ("messages", {"messages": [USER]}, ["messages", "end with one of the assistant", "user"]),
        ("messages", {"messages": "hi"}, ["messages", "a list of messages", "'hi' (str)"]),
        ("messages", {"messages": [USER, says("")]}, ["messages[1]", "text", "empty"]),
        ("messages", {"messages": ["hi", "ho"]}, ["messages[0]", "a message", "'hi' (str)"]),
    ],
)
def test_bad_rows_are_named(tmp_path, like, change, parts):
    sets_the_columns = any("as in" in part for part in parts)
    for line in (3,) if sets_the_columns else (1, 3):
        rows = [GOOD[like]] * 4
        rows[line - 1] = GOOD[like] | change
        path = write(tmp_path / "data.jsonl", rows)
        refused(path, f"{path}:{line} {parts[0]}: expected ", *parts[1:])


def test_a_pair_with_one_score_is_refused():
    refused(
        [GOOD["pair"] | {"chosen_score": 1}], "dataset[0] rejected_score", "a score on both sides", "none on this one"
    )


@pytest.mark.parametrize(
    ("row", "nearest", "missing"),
    [
        ({"prompt": "p", "chosen": "a", "rejectd": "b"}, "pair", "rejected"),
        ({"prompt": "p", "completion_": "b"}, "completion", "completion"),
        ({"message": []}, "messages", "messages"),
    ],
)
def test_unknown_columns_name_the_nearest_convention(tmp_path, row, nearest, missing):
    path = write(tmp_path / "data.jsonl", [row])
    refused(
        path,
        f"{path}:1 columns",
        ", ".join(row),
        f"Fix: for {nearest}, the nearest, add {missing}, or name it: columns.{missing}=NAME",
        f"did you mean {[*row][-1]}?",
        short=True,
    )


def test_rows_carry_the_columns_that_no_layout_reads_if_asked_for():
    rows, said = [{"prompt": "p", "solution": [1, 2], "level": None, "chosen": "a", "rejected": "b"}], []
    assert [dict(row.columns) for row in read(rows)] == [{}]
    assert [dict(row.columns) for row in read(rows, others=True, note=said.append)] == [{"solution": [1, 2]}]
    assert said[0].endswith("columns used: prompt, chosen, rejected; given to the reward function: solution")


def test_prompts_alone_are_read_only_if_accepted():
    rows = list(read([{"prompt": "p", "id": 1}, {"prompt": "q", "id": 2}], prompts=True))
    assert [(row.prompt, row.responses, row.kinds) for row in rows] == [("p", (), ()), ("q", (), ())]
    (row,) = read([{"prompt": [USER]}], prompts=True)
    assert row.prompt == (USER,) and row.source == "dataset[0]"
    (row,) = read([{"question_id": 81, "turns": ["Why?", "And now?"], "reference": ["x"]}], prompts=True)
    assert (row.prompt, row.responses) == ("Why?", ())
    (row,) = read([GOOD["pair"]], prompts=True)
    assert row.pairs == ((0, 1),), "with the columns of feedback it is feedback"
    refused([{"prompt": " "}], "dataset[0] prompt", "an empty prompt", prompts=True)
    refused([{"turns": []}], "dataset[0] turns", "a list of turns", prompts=True)
    refused([{"turns": [3]}], "dataset[0] turns[0]", "text", "3 (int)", prompts=True)
    for rows in ([{"prompt": "p"}], [{"turns": ["p"]}]):
        refused(rows, "columns", "prompts alone are for online runs")


@pytest.mark.parametrize("item", [3, "text", ["prompt"], None])
def test_items_that_are_not_objects_are_refused(tmp_path, item):
    path = write(tmp_path / "data.jsonl", [GOOD["pair"], item])
    refused(path, f"{path}:2 row", "an object", repr(item)[:10])
    refused([item, GOOD["pair"]] if not isinstance(item, str) else iter([item]), "dataset[0] row", "an object")


def test_empty_responses_are_refused_dropped_or_kept(caplog):
    rows = [GOOD["score"], GOOD["score"] | {"completion": ""}, GOOD["score"] | {"completion": " "}]
    refused(rows, "dataset[1] completion", "Fix: set empty=drop or empty=keep")
    with caplog.at_level(logging.WARNING):
        assert len(list(read(rows, empty="drop"))) == 1
    assert "left out 2 rows with an empty response" in caplog.text
    assert len(list(read(rows))) == 1, "dropped by default"
    assert [row.responses for row in read(rows, empty="keep")] == [("a",), ("",), (" ",)]


def test_a_dropped_response_drops_its_helpsteer2_pair_alone():
    data = [rated("p", "a", 4, 4, 4, 0, 0), rated("p", "", 0, 0, 0, 4, 4)] + [rated("q", "a", 1, 1, 1, 1, 1)] * 2
    assert [row.prompt for row in read(data, empty="drop")] == ["q"]


def test_the_convention_of_the_first_row_holds_across_files(tmp_path):
    files = [write(tmp_path / "a.jsonl", [GOOD["pair"]]), write(tmp_path / "b.jsonl", [GOOD["completion"]])]
    refused(files, f"{files[1]}:1 chosen", f"as in {files[0]}:1")


def test_rows_are_streamed_and_limited():
    endless = (GOOD["pair"] | {"prompt": str(i)} for i in count())
    assert [row.prompt for row in islice(read(endless), 3)] == ["0", "1", "2"]
    assert [row.source for row in read(({**GOOD["pair"]} for _ in count()), limit=2)] == [
        "dataset[0]",
        "dataset[1]",
    ]
    assert len(list(read([GOOD["pair"]] * 2, limit=9))) == 2


def test_rows_before_a_bad_row_are_read(tmp_path):
    rows = read(write(tmp_path / "a.jsonl", [GOOD["pair"], GOOD["pair"] | {"chosen": 3}]))
    assert next(rows).source.endswith("a.jsonl:1")
    with pytest.raises(InputError, match=r"a.jsonl:2 chosen: expected text, got 3 \(int\)"):
        next(rows)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"empty": "skip"}, "empty"),
        ({"helpsteer_weights": "mine"}, "helpsteer_weights"),
    ],
)
def test_options_are_checked_before_reading(options, field):
    with pytest.raises(InputError, match=f"options {field}: expected .* got"):
        read([GOOD["pair"]], **options)


def test_data_without_rows_are_refused():
    refused([], "rows", "at least one row", "none")


@real_data
def test_alpaca_eval_file_has_scores():
    rows = list(read(f"{REAL}/alpaca_eval_scores.jsonl.gz", empty="keep"))
    assert len(rows) == 10_384 and all(0 <= row.scores[0] <= 1 for row in rows)
    grouped = group_by_prompt(rows)
    assert len(grouped) == 649 and {len(row.responses) for row in grouped} == {16}
    assert [len(conform(rows, (kind,))[0]) for kind in ("scores", "pairs", "labels", "demos")] == [10_384] + [649] * 3
    train, held = split(rows, 0.1, 0)
    assert len(held) == 65 * 16 and len(train) + len(held) == len(rows)
    assert sum(row.scores[0] for row in shuffled_scores(rows, 0)) == pytest.approx(sum(row.scores[0] for row in rows))


@real_data
def test_alpaca_eval_file_has_empty_responses():
    path = f"{REAL}/alpaca_eval_scores.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(Path(path).read_bytes()).split(b"\n")[:-1]]
    silent = sum(not line["response"].strip() for line in lines)
    assert 0 < silent == len(lines) - sum(1 for _ in read(path, empty="drop"))
    refused(path, f"{path}:", "response", "empty response ''")


@real_data
def test_hh_harmless_file_has_pairs():
    path = f"{REAL}/hh_harmless_pairs.jsonl.gz"
    rows = list(read(path, empty="keep"))
    lines = [json.loads(line) for line in gzip.decompress(Path(path).read_bytes()).split(b"\n")[:-1]]
    assert len(rows) == len(lines) == 1_849
    for row, line in zip(rows, lines, strict=True):
        good = row.prompt.endswith(A) and not any(H in response for response in row.responses)
        good = good and [row.prompt + response for response in row.responses] == [
            line["chosen"],
            line["rejected"],
        ]
        assert good, row.source  # the text itself is not for printing


def test_most_of_the_first_rows_decide_on_an_optional_column(tmp_path, caplog):
    rows = [{"prompt": str(i), "completion": "a", "label": True} for i in range(4)]
    odd = [{**rows[0], "label": None}, *rows[1:]]
    refused(
        write(tmp_path / "a.jsonl", odd), "a.jsonl:1 label", "expected a value, as in", "a.jsonl:2 (completion)", "null"
    )
    with caplog.at_level(logging.WARNING):
        kept = list(read(odd, bad_rows="drop"))
    assert [row.prompt for row in kept] == ["1", "2", "3"] and "left out 1 bad rows" in caplog.text
    none = [{**row, "label": None} for row in rows]
    refused([rows[0], *none[1:]], "dataset[0] label", "expected no value, as in dataset[1]", "True")
    refused([rows[0], none[1]], "dataset[1] label", "expected a value, as in dataset[0]")
    assert len(list(read([rows[0], rows[1], none[2], *rows[3:]], bad_rows="drop"))) == 3


def test_the_first_row_of_another_layout_may_be_dropped():
    rows = [{"prompt": "p", "completion": "a", "label": 7}, *[{"chosen": "a", "rejected": "b", "prompt": "p"}] * 2]
    assert [row.kinds for row in read(rows, bad_rows="drop")] == [("pairs",)] * 2
