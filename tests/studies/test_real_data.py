"""Real feedback in parts: no prompt in two of them, whole texts, and the same responses in every kind of feedback."""

import os
from itertools import combinations
from pathlib import Path

import pytest

from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.studies import real_data
from una_ref.studies.offline_study import as_feedback
from una_ref.studies.real_data import ALPACA_EVAL, HH_TEST, HH_TRAIN, Size, data_folder, digest, parts, same_prompt
from una_ref.studies.real_settings import SIZES

SMALL = {
    "scores": Size(16, 8, 32, 12),
    "pairs": Size(30, 10, 32, 12),
    "tuning": Size(8, 4, 32, 12),
    "reward": Size(20, 10, 32, 12),
    "llmbar": Size(0, 20, 32, 12),
    "hhh": Size(0, 20, 32, 12),
}
HH = ("pairs", "reward")


class Words:
    """A tokenizer with a token a word."""

    def __call__(self, text, **_):
        return {"input_ids": text.split()}


def prompts(part):
    return [same_prompt(row) for row in (*part.train, *part.held_out)]


def test_no_two_parts_share_a_prompt_nor_do_both_sides_of_one(real_folders):
    chosen = parts(SMALL, Words(), real_folders[0])
    files = ({same_prompt(row) for row in real_data.ROWS[name](real_folders[0], Words(), SMALL[name])} for name in HH)
    assert len(set.intersection(*files)) >= 10
    for name, part in chosen.items():
        size = SMALL[name]
        assert len(part.train) == size.train and min(9, size.held_out) <= len(part.held_out) <= size.held_out
        assert len({*prompts(part)}) == len(prompts(part))
    for first, second in combinations(chosen.values(), 2):
        assert not {*prompts(first)} & {*prompts(second)}


@pytest.mark.skipif("UNA_REF_DATA" not in os.environ, reason="UNA_REF_DATA, a folder with the data, is not set")
def test_no_two_parts_of_the_real_data_share_a_prompt():
    chosen = parts(SIZES, Words(), Path(os.environ["UNA_REF_DATA"]))
    assert all(len(chosen[name].held_out) >= 100 for name in real_data.GOLD)
    for first, second in combinations(chosen.values(), 2):
        assert not {*prompts(first)} & {*prompts(second)}
    for name in ("scores", "pairs", "tuning", "reward"):
        assert len({*prompts(chosen[name])}) == SIZES[name].train + SIZES[name].held_out


def test_prompts_that_differ_in_case_and_white_space_are_the_same():
    assert same_prompt(Row("What  is\nthis? ", ("a",))) == same_prompt(Row("what is this?", ("b",)))
    assert same_prompt(Row("what is this?", ("a",))) != same_prompt(Row("what is that?", ("a",)))


def test_texts_are_left_out_where_they_are_long_and_never_cut(real_folders):
    sizes = {"pairs": Size(4, 2, 5, 6)}
    found = parts(sizes, Words(), real_folders[0])["pairs"]
    rows = real_data.ROWS["pairs"](real_folders[0], Words(), sizes["pairs"])
    everything = {text for row in rows for text in row.responses}
    for row in (*found.train, *found.held_out):
        assert len(row.prompt.split()) <= 5 and all(len(text.split()) <= 6 for text in row.responses)
        assert {*row.responses} <= everything
    with pytest.raises(InputError, match="data pairs: expected 6 rows of short texts, got 0"):
        parts({"pairs": Size(4, 2, 128, 1)}, Words(), real_folders[0])


def test_the_response_with_the_higher_score_is_chosen_and_equal_scores_are_left_out(real_folders):
    rows = list(real_data.ROWS["scores"](real_folders[0], Words(), SMALL["scores"]))
    assert len(rows) == 3 * 16 and {row.scores for row in rows} == {(1.0, 0.0)}  # of 24 a file, 8 are ties
    rows = list(real_data.ROWS["tuning"](real_folders[0], Words(), SMALL["tuning"]))
    assert len(rows) == 40 and {row.scores for row in rows} == {(1.0, 0.0)}  # scores are 0, 0.5 and 1


def test_dialogues_become_a_user_s_message_and_two_answers(real_folders):
    row = next(iter(real_data.ROWS["pairs"](real_folders[0], Words(), SMALL["pairs"])))
    assert row.prompt.startswith("ask ") and "Human" not in row.prompt
    assert row.responses[0].startswith("good ") and row.pairs == ((0, 1),)


def test_scores_pairs_labels_and_demonstrations_are_about_the_same_responses(real_folders):
    rows = parts(SMALL, Words(), real_folders[0])["scores"].train
    for kind, expected in (("scores", "scores"), ("pairs", "pairs"), ("demos", "pairs"), ("labels", "labels")):
        found = as_feedback(rows, kind)
        assert [(row.prompt, row.responses) for row in found] == [(row.prompt, row.responses) for row in rows]
        assert {row.kinds for row in found} == {(expected,)}


def test_which_rows_are_used_does_not_depend_on_the_order_of_the_file(real_folders, tmp_path):
    import gzip
    import shutil

    shutil.copytree(real_folders[0], tmp_path / "data")
    for name in (HH_TRAIN, HH_TEST, ALPACA_EVAL):
        with gzip.open(tmp_path / "data" / name, "rt") as file:
            lines = file.readlines()
        # AlpacaEval's best and worst are the first of equal ones, so its answers keep their order.
        with gzip.open(tmp_path / "data" / name, "wt") as file:
            file.writelines(lines if name == ALPACA_EVAL else reversed(lines))
    first, second = (parts(SMALL, Words(), folder) for folder in (real_folders[0], tmp_path / "data"))
    assert [digest(part.train) for part in first.values()] == [digest(part.train) for part in second.values()]
    assert digest(first["pairs"].train) != digest(first["pairs"].held_out)


def test_a_missing_folder_or_file_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("UNA_REF_DATA", raising=False)
    with pytest.raises(InputError, match="expected the environment variable UNA_REF_DATA"):
        data_folder()
    monkeypatch.setenv("UNA_REF_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"expected the file preferences/ultrafeedback/overall_train.jsonl.gz"):
        data_folder()
