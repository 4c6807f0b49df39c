"""Every layout of the table reads its example, and other forms of the same columns give the same rows."""

import json
import re
from pathlib import Path

import pytest

from una_ref.data.conventions import CONVENTIONS, PROMPTS, VARIANTS
from una_ref.data.published import RATINGS
from una_ref.data.sources import read
from una_ref.errors import InputError

USER = {"role": "user", "content": "p"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def says(text):
    return {"role": "assistant", "content": text}


def noted(rows, **options):
    """(rows, sentences about them)."""
    said = []
    return list(read(rows, note=said.append, **options)), said


def one(row, **options):
    (made,), _ = noted([row], **options)
    return made


def refused(row, *parts, **options):
    with pytest.raises(InputError) as caught:
        list(read([row], **options))
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert len(str(caught.value)) <= 300, str(caught.value)


EXAMPLES = {c.name: (c.name, c.example) for c in CONVENTIONS + PROMPTS} | dict(VARIANTS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_read_by_its_layout_without_a_column_left_over(name):
    layout, example = EXAMPLES[name]
    rows = [example, example] if layout == "HelpSteer2" else [example]
    (row, *_), (said, *_) = noted(rows, prompts=True)
    assert said.startswith(f"data ({layout}): columns used: ") and said.endswith("; not used: none")
    assert "fruit" in str(row.prompt) and all(text.strip() in ("Apple.", "Stone.", "Pear.") for text in row.responses)


def test_examples_cover_every_layout_and_every_kind_of_feedback():
    rows = [row for _, example in EXAMPLES.values() for row in read([example] * 2, prompts=True)]
    kinds = {kind for row in rows for kind in row.kinds}
    assert kinds == {"pairs", "scores", "labels", "demos"}
    assert all(convention.example for convention in CONVENTIONS + PROMPTS)


def test_every_example_of_the_documentation_is_read():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    found = re.findall(r"^\| ([^|`]+?) \|.*\| `(\{.*\})` \|$", page, re.MULTILINE)
    assert len(found) == len(EXAMPLES)
    for title, text in found:
        name = title.removesuffix(", in online runs")
        layout, example = EXAMPLES[name]
        assert json.loads(text) == example
        (_, *_), (said, *_) = noted([json.loads(text)] * 2, prompts=True)
        assert said.startswith(f"data ({layout})")


def test_columns_used_and_not_used_are_said_in_the_order_of_the_data():
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    _, (said,) = noted([{"id": 1, **pair}, {**pair, "x": 2}])
    assert said == "data (pair): columns used: prompt, chosen, rejected; not used: id, x"


def test_a_system_column_becomes_the_first_message():
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    system = {"role": "system", "content": "Be terse."}
    assert one({**pair, "system": "Be terse."}).prompt == (system, USER)
    assert one({**pair, "system_prompt": "Be terse."}).prompt == (system, USER)
    assert one({**pair, "system": ""}).prompt == one({**pair, "system": None}).prompt == "p"
    assert one({**pair, "prompt": [USER], "system": "Be terse."}).prompt == (system, USER)
    assert one({**pair, "prompt": [system, USER], "system": "Be terse."}).prompt == (system, USER)
    refused({**pair, "prompt": [system, USER], "system": "Talk."}, "system: expected the prompt's own system message")
    refused({**pair, "system": ["x"]}, "system: expected text")
    assert one({"messages": [USER, says("a")], "system": "Be terse."}).prompt == (system, USER)


@pytest.mark.parametrize("given", [TOOLS, json.dumps(TOOLS)])
def test_tools_and_template_arguments_stay_with_the_row(given):
    row = one({"prompt": [USER], "completion": "a", "tools": given, "chat_template_kwargs": {"enable_thinking": False}})
    assert row.template_arguments == {"tools": TOOLS, "enable_thinking": False}
    plain = one({"prompt": [USER], "completion": "a", "tools": [], "chat_template_kwargs": {"x": None}})
    assert plain.template_arguments == {} and plain.key != row.key


def test_rows_with_and_without_tools_may_be_mixed():
    rows, _ = noted([{"prompt": "p", "completion": "a", "tools": TOOLS}, {"prompt": "p", "completion": "b"}])
    assert [row.template_arguments for row in rows] == [{"tools": TOOLS}, {}]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({"tools": "no JSON"}, ["tools: expected a list of tools, or its JSON", "'no JSON'"]),
        ({"chat_template_kwargs": [1]}, ["chat_template_kwargs: expected an object, or its JSON"]),
        ({"chat_template_kwargs": {"tokenize": True}}, ["expected arguments of the template alone, got tokenize"]),
        ({"images": ["a.png"]}, ["images: expected no such column", "only text is trained on"]),
        ({"audio": {"array": [0]}}, ["audio: expected no such column"]),
    ],
)
def test_columns_that_cannot_reach_the_template_are_refused(more, parts):
    refused({"prompt": "p", "completion": "a", **more}, *parts)


def test_other_fields_of_a_responses_message_stay_with_it():
    call = {"tool_calls": [{"function": {"name": "f"}}]}
    row = one({"prompt": "p", "chosen": [{**says("a"), **call}], "rejected": [{"role": "assistant", **call}]})
    assert row.responses == ("a", "") and row.response_fields == (call, call)
    row = one({"messages": [USER, {**says(None), **call}]}, empty="error")
    assert row.responses == ("",) and row.response_fields == (call,) and not row.has_empty_response
    assert one({"prompt": "p", "chosen": [says("a")], "rejected": "b"}).response_fields is None


@pytest.mark.parametrize("prompt", ["p", [USER], "first"])
@pytest.mark.parametrize("names", [("chosen-rating", "rejected-rating"), ("rating_chosen", "rating_rejected"), ()])
def test_whole_conversations_beside_a_prompt_need_no_scores(prompt, names):
    start = [USER] if prompt != "first" else [{"role": "user", "content": "first"}, says("x"), USER]
    row = {"prompt": prompt, "chosen": [*start, says("a")], "rejected": [*start, says("b")]}
    made = one(row | dict(zip(names, (5, 1), strict=False)))
    assert (made.prompt, made.responses, made.pairs) == (tuple(start), ("a", "b"), ((0, 1),))
    assert made.scores == ((5.0, 1.0) if names else None)


def test_a_prompt_that_is_not_in_the_conversations_is_refused():
    sides = {"chosen": [USER, says("a")], "rejected": [USER, says("b")]}
    refused({"prompt": "q", **sides}, "prompt: expected a user turn of both conversations, got 'q'")
    refused({"prompt": [USER, USER], **sides}, "prompt: expected the messages of both conversations")


HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


@pytest.mark.parametrize("prompt", ["q", " q\n", "p", f"{HUMAN} p{ASSISTANT} x{HUMAN} q{ASSISTANT}"])
def test_whole_dialogues_beside_a_prompt_are_parted_as_without_it(prompt):
    start = f"{HUMAN} p{ASSISTANT} x{HUMAN} q{ASSISTANT}"
    row = one({"prompt": prompt, "chosen": f"{start} a", "rejected": f"{start} b"})
    assert (row.prompt, row.responses) == (start, (" a", " b"))


def test_a_prompt_that_is_not_in_the_dialogues_is_refused():
    start = f"{HUMAN} p{ASSISTANT} x{HUMAN} q{ASSISTANT}"
    sides = {"chosen": f"{start} a", "rejected": f"{start} b"}
    refused({"prompt": "x", **sides}, "prompt: expected a user turn of both conversations, got 'x'")
    refused({"prompt": f"{HUMAN} q{ASSISTANT}", **sides}, "prompt: expected a user turn of both conversations")
    apart = {"chosen": f"{start} a", "rejected": f"{HUMAN} p{ASSISTANT} y{HUMAN} q{ASSISTANT} b"}
    refused({"prompt": "q", **apart}, "chosen: expected dialogues that differ in the last assistant turn only")


def test_dialogues_that_do_not_agree_up_to_the_last_turn_are_bad_rows():
    good = {"chosen": f"{HUMAN} p{ASSISTANT} a", "rejected": f"{HUMAN} p{ASSISTANT} b"}
    longer = {"chosen": good["chosen"], "rejected": f"{good['rejected']}{HUMAN} q{ASSISTANT} c"}
    other = {"chosen": good["chosen"], "rejected": f"{HUMAN} r{ASSISTANT} a"}
    open_end = {"chosen": good["chosen"] + HUMAN, "rejected": good["rejected"]}
    rows, said = noted([longer, good, other, open_end], bad_rows="drop")
    assert [row.responses for row in rows] == [(" a", " b")]
    assert said[1].startswith(
        "data: left out 3 bad rows (the first: dataset[0] rejected: expected dialogues that differ"
    )


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_a_pair_may_have_a_weight_and_a_margin():
    row = one({**PAIR, "weight": 2, "margin": -0.5})
    assert (row.weights, row.margins, row.scores) == ((2.0,), (-0.5,), None)
    assert one(PAIR).weights is None and one(PAIR).margins is None
    named = one({**PAIR, "w": 3, "weight": "heavy"}, columns={"weight": "w"})
    assert named.weights == (3.0,)
    assert one({**PAIR, "weight": "heavy"}, columns={"weight": ""}).weights is None
    for value in (-1, "2", True, float("inf")):
        refused({**PAIR, "weight": value}, "weight: expected a finite number of at least 0")
    refused({**PAIR, "margin": float("nan")}, "margin: expected a finite number")


def test_a_weight_of_another_layout_is_not_used():
    _, notes = noted([{"prompt": "p", "completion": "a", "weight": 2, "margin": 1}])
    assert "not used: weight, margin" in str(notes)


TALK = [USER, says("x"), {"role": "user", "content": "q"}, says("a")]


def test_a_conversation_is_answered_from_the_first_turn_of_the_assistant_on():
    row = one({"messages": TALK})
    assert (row.prompt, row.earlier_turns, row.responses) == ((USER,), (tuple(TALK[1:3]),), ("a",))
    greeted = one({"messages": [says("Hello!"), *TALK]})
    assert greeted.prompt == (says("Hello!"), USER) and greeted.earlier == row.earlier
    assert one({"messages": [USER, says("a")]}).earlier_turns is None


@pytest.mark.parametrize("options", [{"turns": "last"}, {"prompts": True}])
def test_the_last_turn_alone_is_the_response_if_asked_for_and_in_online_runs(options):
    row = one({"messages": TALK}, **options)
    assert (row.prompt, row.earlier_turns, row.responses) == (tuple(TALK[:3]), None, ("a",))


def test_a_completion_of_several_messages_is_a_response_or_with_turns_last_part_of_the_prompt():
    row = one({"prompt": "p", "completion": TALK[1:], "score": 1, "system": "s"})
    system = {"role": "system", "content": "s"}
    assert row.prompt == (system, USER) and row.earlier == (tuple(TALK[1:3]),) and row.responses == ("a",)
    row = one({"prompt": "p", "completion": TALK[1:], "score": 1}, turns="last")
    assert row.prompt == tuple(TALK[:3]) and row.earlier_turns is None
    refused({"prompt": "p", "completion": TALK[2:]}, "begin and end with the assistant's, got messages of user, assist")
    refused({"prompt": "p", "completion": TALK[1:3]}, "begin and end with the assistant's, got messages of assistant")


def test_conversations_part_at_the_first_turn_of_the_assistant_that_differs():
    # As TRL's extract_prompt: the prompt is the longest shared beginning.
    other = [USER, says("y"), {"role": "user", "content": "r"}, says("b")]
    row = one({"chosen": TALK, "rejected": other})
    assert (row.prompt, row.responses, row.earlier) == ((USER,), ("a", "b"), (tuple(TALK[1:3]), tuple(other[1:3])))
    shorter = one({"chosen": TALK, "rejected": [USER, says("y")]})
    assert (shorter.prompt, shorter.responses) == ((USER,), ("a", "y")) and shorter.earlier == (tuple(TALK[1:3]), ())
    refused({"chosen": TALK, "rejected": other}, "the same turns before the last one", turns="last")
    same_start = one({"chosen": TALK, "rejected": [*TALK[:3], says("b")]})
    assert same_start.prompt == tuple(TALK[:3]) and same_start.earlier_turns is None


def test_an_empty_turn_of_the_assistant_is_an_empty_response():
    rows = [{"messages": TALK}, {"messages": [USER, says(" "), *TALK[2:]]}]
    assert len(list(read(rows))) == 1 and len(list(read(rows, empty="keep"))) == 2


PKU = {
    "prompt": "p",
    "response_0": "a",
    "response_1": "b",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 0,
    "safer_response_id": 1,
}
STEER3 = {"context": [USER], "response1": "a", "response2": "b", "overall_preference": -3}
WEBGPT = {
    "question": {"full_text": "p", "id": "7"},
    "answer_0": "a",
    "answer_1": "b",
    "score_0": -0.25,
    "score_1": 0.25,
    "tokens_0": {"prefix": [1]},
}
NECTAR = {
    "prompt": "p",
    "answers": [{"answer": text, "rank": rank} for text, rank in zip("abc", (2, 1, 3), strict=True)],
}
PREFERRED = {"input": {"messages": [USER], "tools": TOOLS, "parallel_tool_calls": True}}
PREFERRED |= {"preferred_output": [says("a")], "non_preferred_output": [says("b")]}


def test_pku_pairs_follow_helpfulness_or_safety():
    (row,), (said,) = noted([PKU])
    assert (row.prompt, row.responses, row.pairs) == ("p", ("a", "b"), ((0, 1),))
    assert said.endswith("not used: is_response_0_safe, is_response_1_safe, safer_response_id")
    (row,), (said,) = noted([PKU], columns={"better_response_id": "safer_response_id"})
    assert row.pairs == ((1, 0),) and "safer_response_id; not used" in said and "better_response_id" in said
    assert one({**PKU, "better_response_id": True}).pairs == ((1, 0),)
    for wrong in (2, -1, 0.5, "0", None, float("nan"), [0]):
        rows = [PKU, {**PKU, "better_response_id": wrong}]
        with pytest.raises(InputError, match=r"dataset\[1\] better_response_id: expected (0 or 1, the|a value, as in)"):
            list(read(rows))


@pytest.mark.parametrize("preference", range(-3, 4))
def test_helpsteer3_scores_differ_by_the_preference_for_the_second_response(preference):
    row = one({**STEER3, "overall_preference": preference})
    assert row.scores[1] - row.scores[0] == preference and sum(row.scores) == 0
    assert row.prompt == (USER,) and row.responses == ("a", "b") and row.kinds == ("scores",)


@pytest.mark.parametrize("wrong", [-4, 4, 1.5, True, "1", float("nan")])
def test_a_preference_that_helpsteer3_does_not_have_is_refused(wrong):
    refused({**STEER3, "overall_preference": wrong}, "overall_preference: expected a whole number from -3 to 3")


def test_webgpt_answers_have_their_scores_and_the_rest_of_the_question_is_said():
    (row,), (said,) = noted([WEBGPT])
    assert (row.prompt, row.responses, row.scores) == ("p", ("a", "b"), (-0.25, 0.25))
    used = "question.full_text, answer_0, answer_1, score_0, score_1"
    assert said == f"data (WebGPT comparisons): columns used: {used}; not used: question.id, tokens_0"
    refused({**WEBGPT, "score_1": None, "question": "p"}, "columns: expected a value in score_1, as WebGPT")
    refused({**WEBGPT, "score_1": "x"}, "score_1: expected a finite number")


def test_nectar_ranks_become_scores_between_0_and_1():
    row = one(NECTAR)
    assert (row.responses, row.scores) == (("a", "b", "c"), (0.5, 1.0, 0.0))
    tied = [{"answer": text, "rank": 1} for text in "ab"]
    assert one({"prompt": "p", "answers": tied}).scores == (1.0, 1.0)
    assert one({"prompt": "p", "answers": tied[:1]}).scores == (0.0,)
    for wrong in (0, 3, "1", None, float("nan")):
        answers = [tied[0], {"answer": "b", "rank": wrong}]
        refused({"prompt": "p", "answers": answers}, "answers[1].rank: expected a ")
    refused({"prompt": "p", "answers": ["a"]}, "answers[0]: expected an object with answer and rank")
    refused({"prompt": "p", "answers": [{"answer": None, "rank": 1}]}, "answers[0].answer: expected text")


def test_openai_preferences_are_pairs_with_tools():
    (row,), (said,) = noted([PREFERRED])
    assert (row.prompt, row.responses, row.pairs) == ((USER,), ("a", "b"), ((0, 1),))
    assert row.template_arguments == {"tools": TOOLS}
    used = "input.messages, input.tools, preferred_output, non_preferred_output"
    assert said == f"data (pair): columns used: {used}; not used: input.parallel_tool_calls"
    refused({**PREFERRED, "input": {"messages": []}}, "expected text or messages, got an empty prompt")
    refused({**PREFERRED, "input": {"messages": [3]}}, "input.messages[0]: expected a message")
    refused({**PREFERRED, "non_preferred_output": []}, "non_preferred_output: expected text, or messages")


def test_a_field_of_an_object_may_be_named_as_a_column():
    row = {"data": {"ask": "p", "x": 1}, "completion": "a", "data.y": 2}
    (made,), (said,) = noted([row], columns={"prompt": "data.ask"})
    assert made.prompt == "p" and said.endswith("columns used: data.ask, completion; not used: data.x, data.y")
    refused(row, "expected a column data.aks, since columns.prompt=data.aks", columns={"prompt": "data.aks"})
    (made,), _ = noted([row], columns={"prompt": "data.ask"}, others=True)
    assert made.columns == {"data.x": 1, "data.y": 2}


@pytest.mark.parametrize("row", [PKU, STEER3, WEBGPT, NECTAR, PREFERRED | {"input": {"messages": [USER]}}])
def test_new_layouts_are_the_same_in_parquet(tmp_path, row):
    from pyarrow import Table
    from pyarrow.parquet import write_table

    write_table(Table.from_pylist([row, row]), tmp_path / "a.parquet")
    made, *_ = read(tmp_path / "a.parquet")
    same = one(row)
    assert (made.prompt, made.responses, made.scores, made.pairs) == (
        *(same.prompt, same.responses, same.scores, same.pairs),
    )


def test_numbers_of_published_layouts_are_read_from_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,response_0,response_1,better_response_id\np,a,b,1\n")
    assert [row.pairs for row in read(path)] == [((1, 0),)]
    names = ",".join(RATINGS)
    path.write_text(f"prompt,response,{names}\np,a,4,4,4,0,0\np,b,0,0,0,4,4\n")
    assert [row.scores for row in read(path)] == [(1.0, 0.0)]
    path.write_text("history,human_ref_A,human_ref_B,labels\np,a,b,0\n")
    assert [row.pairs for row in read(path)] == [((1, 0),)]


@pytest.mark.parametrize("field", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_a_turn_that_is_not_to_be_trained_on_is_refused_unless_it_is_in_the_prompt(field):
    talk = [USER, {**says("x"), **field}, {"role": "user", "content": "q"}, {**says("a"), "weight": 1}]
    ((name, value),) = field.items()
    refused({"messages": talk}, f"expected turns of the assistant that are trained on, got one with {name}={value}")
    refused({"messages": talk[:2]}, f"got one with {name}={value}. Fix: leave the row out")
    assert one({"messages": talk}, turns="last").responses == ("a",)
    asked = [{**USER, **field}, says("x"), {"role": "user", "content": "q", **field}, says("a")]
    assert one({"messages": asked}).responses == ("a",), "turns of a user are never trained on"


def test_labels_of_several_answers_are_refused_with_what_to_write():
    row = {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}
    refused(row, "got labels. Fix: write a row for each response, with its label, or columns.labels= to leave it out")
    assert one(row, columns={"labels": ""}).kinds == ("demos",)


@pytest.mark.parametrize(
    ("row", "nearest"),
    [
        ({"question": "p", "answer": "a"}, "completion, the nearest, add completion"),
        ({"instruction": "p", "response": "a"}, "response, the nearest, add prompt"),
        ({"prompt": "p", "response_0": "a", "response_1": "b", "safer_response_id": 1}, "PKU-SafeRLHF, the nearest"),
    ],
)
def test_a_layout_of_a_published_set_is_suggested_only_if_most_of_it_is_there(row, nearest):
    refused(row, f"for {nearest}")


@pytest.mark.parametrize(("column", "name"), [("prompt", "chosen"), ("chosen", "rejected")])
def test_one_column_does_not_stand_for_two(column, name):
    said = f"columns: expected different columns for {column} and {name} of pair, got {name} for both"
    refused(PAIR, said, columns={column: name})
    swapped = one(PAIR, columns={"chosen": "rejected", "rejected": "chosen"})
    assert swapped.responses == ("b", "a")


def test_sharegpt_turns_are_messages():
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}]
    row = one({"conversations": turns, "label": True})
    assert row.prompt == ({"role": "system", "content": "s"}, USER) and row.responses == ("a",) and row.labels == (1,)
    sides = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"role": "assistant", "content": "b"}}
    row = one({"conversations": turns[:2], **sides})
    assert row.responses == ("a", "b") and row.prompt[1] == USER
    refused({"conversations": [{"from": "alien", "value": "p"}]}, "conversations[0].from: expected one of human")


def test_an_alpaca_prompt_is_instruction_input_and_history():
    alpaca = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    assert one(alpaca).prompt == "Add.\n1, 2"
    assert one({**alpaca, "input": ""}).prompt == "Add."
    row = one({**alpaca, "history": [["hi", "hello"]]})
    assert [message["content"] for message in row.prompt] == ["hi", "hello", "Add.\n1, 2"]
    assert one({"instruction": "Add.", "input": "1", "chosen": "a", "rejected": "b"}).prompt == "Add.\n1"
    refused({**alpaca, "output": ["3", "4"]}, "output: expected text, got a list. Fix: write two answers as")
    refused({**alpaca, "history": ["hi"]}, "history[0]: expected [question, answer]")


def test_a_list_of_texts_is_no_response():
    row = {"prompt": "p", "completion": ["a", "b"], "label": [True, False]}
    refused(row, "completion: expected text, or messages that ", "got a list of texts. Fix: one row each")


@pytest.mark.parametrize(
    ("row", "column", "name"),
    [
        ({"prompt": "p", "completion": "a", "labels": True}, "label", "labels"),
        ({"prompt": "p", "completion": "a", "scores": 1}, "score", "scores"),
        ({"prompt": "p", "response": "a", "Lable": True}, "label", "Lable"),
        ({"messages": [USER, says("a")], "scroe": 1}, "score", "scroe"),
        ({"prompt": "p", "completions": ["a"], "score": [1]}, "scores", "score"),
    ],
)
def test_feedback_under_a_similar_name_is_not_left_out_in_silence(row, column, name):
    fix = f"columns.{column}={name}, or columns.{column}= to leave it out"
    refused(row, f"got {name}; did you mean {column}?", fix)
    assert one(row, columns={column: name}).kinds in (("labels",), ("scores",))
    assert one(row, columns={column: ""}).kinds == ("demos",)


@pytest.mark.parametrize("name", ["source", "store", "level", "id", "language"])
def test_other_columns_are_not_taken_for_feedback(name):
    assert one({"prompt": "p", "completion": "a", name: 1}).kinds == ("demos",)


def test_columns_of_the_user_come_first_and_have_to_be_there():
    row = {"prompt": "x", "ask": "p", "chosen": "a", "rejected": "b"}
    assert one(row, columns={"prompt": "ask"}).prompt == "p"
    refused(row, "expected a column aks, since columns.prompt=aks", "did you mean ask?", columns={"prompt": "aks"})
    with pytest.raises(InputError, match="options columns: expected one of .* got 'choosen' .*did you mean chosen?"):
        read([row], columns={"choosen": "chosen"})


def test_bad_rows_are_dropped_and_counted_with_the_first_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    good = {"prompt": "p", "completion": "a", "score": 1}
    lines = [{"prompt": 3}, good, {**good, "score": "x"}, {"prompt": "p"}, [1], good]
    path.write_text("{broken\n" + "".join(json.dumps(line) + "\n" for line in lines) + '{"prompt": "cut')
    rows, said = noted(path, bad_rows="drop")
    assert [row.source for row in rows] == [f"{path}:3", f"{path}:7"]
    assert said[1].startswith(f"data: left out 6 bad rows (the first: {path}:1 line: expected JSON")
    with pytest.raises(InputError, match=r"a.jsonl:1 line"):
        list(read(path))
    path.write_text("{broken\n")
    with pytest.raises(InputError, match=r"a.jsonl:1 line"):
        list(read(path, bad_rows="drop"))


def test_a_helpsteer2_row_without_its_partner_is_a_bad_row():
    rated = {"response": "a", **dict.fromkeys(RATINGS, 1)}
    rows, said = noted([{"prompt": p, **rated} for p in "abbc"], bad_rows="drop")
    assert [row.prompt for row in rows] == ["b"] and "left out 2 bad rows" in said[1]


def test_a_table_has_numbers_truth_values_and_json(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion,score\n1,2,0.5\n"[{""role"": ""user"", ""content"": ""p""}]",b,-3\n')
    rows, _ = noted(path)
    assert [(row.prompt, row.responses) for row in rows] == [("1", ("2",)), ((USER,), ("b",))]
    assert [row.scores for row in rows] == [(0.5,), (-3.0,)]
    path.write_text("prompt,completion,label\np,a,True\np,b,false\np,c,0.5\n")
    assert [row.labels for row in noted(path)[0]] == [(1.0,), (0.0,), (0.5,)]
    for cell, part in (("yes", "label: expected a boolean"), ("", "label: expected a value")):
        path.write_text(f"prompt,completion,label\np,a,1\np,b,{cell}\n")
        with pytest.raises(InputError, match=part):
            list(read(path))
    path.write_text("prompt,completion\n\"[{'role': 'user', 'content': 'p'}]\",a\n")
    with pytest.raises(InputError, match="prompt: expected JSON, since the text begins as a list"):
        list(read(path))


def test_one_limit_counts_rows_and_the_columns_are_said_all_the_same():
    rows, said = noted([{"prompt": "p", "completion": "a", "x": i} for i in range(5)], limit=2)
    assert len(rows) == 2 and said == ["data (completion): columns used: prompt, completion; not used: x"]


CALL = {"type": "function", "function": {"name": "w", "arguments": {"city": "Paris"}}}
TOOL = {"type": "function", "function": {"name": "w", "parameters": {"properties": {"city": {"type": "string"}}}}}
OTHER_CALL = {"type": "function", "function": {"name": "t", "arguments": {"zone": "CET"}}}
OTHER_TOOL = {"type": "function", "function": {"name": "t", "parameters": {"properties": {"zone": {"type": "string"}}}}}
DIFFERENT_KEYS = (
    [
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "tools": [TOOL]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [OTHER_CALL]}], "tools": [OTHER_TOOL]},
    ],
    [
        {"prompt": [USER], "chosen": [USER, says("a")], "rejected": [USER, says("b")]},
        {"prompt": [USER], "chosen": [USER, {**says("a"), "name": "z"}], "rejected": [USER, says("b")]},
    ],
    [
        {"chosen": [USER, says("x"), USER, says("a")], "rejected": [USER, says("x"), USER, says("b")]},
        {"chosen": [USER, says("x"), USER, {**says("a"), "name": "z"}], "rejected": [USER, says("x"), USER, says("b")]},
    ],
)


@pytest.mark.parametrize("rows", DIFFERENT_KEYS)
def test_rows_with_different_keys_are_the_same_in_parquet(tmp_path, rows):
    from dataclasses import replace

    from pyarrow import Table
    from pyarrow.parquet import write_table

    write_table(Table.from_pylist(rows), tmp_path / "a.parquet")
    made, expected = ([replace(row, source="") for row in read(data)] for data in (tmp_path / "a.parquet", rows))
    assert made == expected and "None" not in repr([row.template_arguments for row in made])


def test_null_in_a_message_is_no_field_and_in_json_text_it_is_one():
    null = {**says("x"), "name": None}
    row = one({"prompt": [USER], "chosen": [{**USER, "name": None}, says("a")], "rejected": [USER, says("b")]})
    assert (row.prompt, row.responses) == ((USER,), ("a", "b"))
    row = one({"chosen": [USER, null, USER, says("a")], "rejected": [USER, says("x"), USER, says("b")]})
    assert row.prompt == (USER, says("x"), USER)
    row = one({"prompt": "q", "completion": "a", "tools": [{"name": "w", "default": None, "enum": [None]}]})
    assert row.template_arguments == {"tools": [{"name": "w", "enum": [None]}]}
    row = one({"prompt": "q", "completion": "a", "tools": '[{"name": "w", "default": null}]'})
    assert row.template_arguments == {"tools": [{"name": "w", "default": None}]}


@pytest.mark.parametrize(
    "field",
    [{"weight": "0"}, {"weight": "0.0"}, {"train": "false"}, {"loss": False}, {"loss": "False"}, {"masked": True}],
)
def test_a_turn_that_is_not_to_be_trained_on_says_so_in_texts_too(field):
    ((name, value),) = field.items()
    bad = {"messages": [USER, {**says("x"), **field}]}
    refused(bad, f"one with {name}={value!r}. Fix: leave the row out")
    (row,) = read([bad], prompts=True)
    assert row.prompt == (USER,)
    other = {"weight": "1", "train": "true", "loss": True, "masked": False}
    assert one({"messages": [USER, {**says("x"), **other}]}).responses == ("x",)
    refused({"messages": [USER, {**says("x"), **field}, USER, says("a")]}, "Fix: turns=last, end")
    refused({"messages": [USER, says("a"), USER, {**says("x"), **field}]}, "Fix: end the conversation")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {**PAIR, "chosen-rating": None, "rejected-rating": 2.0},
            "chosen-rating: expected a score on both sides, or on",
        ),
        (
            {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.2},
            "the better of output_1 and output_2",
        ),
        (
            {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "a"},
            "the better of response_a and response_b",
        ),
        (
            {"question": "p", "response_j": "a", "response_k": "b"},
            "if one column always has the better one, columns.ch",
        ),
        (
            {"question": "p", "answers": [{"text": "a", "pm_score": 3}]},
            "got one with text, pm_score. Fix: write columns",
        ),
        (
            {"context": [USER], "response1": "a", "response2": "b", "overall_preference": None},
            "columns: expected a value in overall_preference, as HelpSteer3 has, got null. Fix: correct the row",
        ),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "a value in chosen, as pair has, got null. Fix: correct"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, says("a")]},
            "messages[0].content: expected text, got a list of parts. Fix: write the text itself",
        ),
    ],
)
def test_messages_name_the_column_that_is_there_and_what_to_write(row, said):
    refused(row, said)


def test_a_missing_score_is_named_as_in_the_data():
    rated = {**PAIR, "score_chosen": 2.0, "score_rejected": 1.0}
    with pytest.raises(InputError, match=r"dataset\[1\] score_chosen: expected a value, as in dataset\[0\]"):
        list(read([rated, {**rated, "score_chosen": None}]))


def test_rows_that_are_all_left_out_say_why(tmp_path):
    rows = [{**PAIR, "rejected": ""}, {**PAIR, "rejected": []}]
    with pytest.raises(
        InputError, match=r"1 rows with an empty response, 1 bad rows \(the first: dataset\[1\] rejected: "
    ):
        list(read(rows, bad_rows="drop"))
    path = tmp_path / "a.csv"
    path.write_text("prompt;chosen;rejected\np;a;b\n")
    with pytest.raises(
        InputError, match=r"a.csv:1 line: expected columns between commas, got a header with ';' between"
    ):
        list(read(path))
    (tmp_path / "a.jsonl").write_text('{"prompt": "p')
    with pytest.raises(InputError, match=r"\(Unterminated string starting at character 12\)"):
        list(read(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("kto_tag", True, "label"), ("is_safe", False, "label"), ("reward", 0.1, "score"), ("rating", 4, "score")],
)
def test_a_judgment_under_another_name_is_refused_with_what_to_write(name, value, kind):
    for row in ({"prompt": "p", "response": "a"}, {"messages": [USER, says("a")]}, {"instruction": "p", "output": "a"}):
        judged = {**row, name: value}
        refused(judged, f"got {name}. Fix: columns.{kind}={name}, or columns.{kind}= to leave it out")
        assert one(judged, columns={kind: name}).kinds == (f"{kind}s",)
        assert one(judged, columns={kind: ""}).kinds == ("demos",)
        assert one({**row, name: {"a": 1}}).kinds == ("demos",), "an object is no judgment"
        assert one(judged, prompts=True).kinds == ("demos",), "nothing is imitated"
        assert one({**judged, kind: 1}).kinds == (f"{kind}s",)


def test_fields_of_objects_in_a_list_that_are_not_used_are_named():
    answers = [{"answer": "a", "rank": 1, "model": "m"}, {"answer": "b", "rank": 2, "n": 1, "model": "m"}]
    (row,), notes = noted([{"prompt": "p", "answers": answers, "id": 3}], others=True)
    assert (
        "columns used: prompt, answers; given to the reward function: id; not used: answers[].model, answers[].n"
        in notes[0]
    )
    assert row.columns == {"id": 3}
    (_,), notes = noted([{"instruction": "i", "completions": [{"response": "a", "overall_score": 1, "critique": "c"}]}])
    assert notes == ["data (UltraFeedback): columns used: instruction, completions; not used: completions[].critique"]
