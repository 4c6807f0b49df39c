"""Results on disk: what a killed process leaves, what is refused, and what a record holds."""

import json

import pytest

from una_ref.errors import InputError
from una_ref.evaluation.store import Results, Score

SETTINGS = {"model": "abc", "dtype": "float32", "template": "", "shots": 5}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results")


def test_items_are_found_again_with_their_values(results):
    assert results.begin("arc", SETTINGS) == {}
    results.add("arc", "3", {"acc": 1.0, "answer": "ä\nb"})
    results.add("arc", "0", {"acc": 0.0})
    again = Results(results.folder)
    assert again.begin("arc", SETTINGS) == {"3": {"acc": 1.0, "answer": "ä\nb"}, "0": {"acc": 0.0}}
    assert again.items("arc") == again.begin("arc", SETTINGS)
    assert again.settings("arc") == SETTINGS


def test_a_line_that_was_cut_is_dropped_and_does_not_spoil_the_next(results):
    results.begin("arc", SETTINGS)
    results.add("arc", "0", {"acc": 1.0})
    path = results.folder / "arc.items.jsonl"
    with open(path, "a") as file:
        file.write('{"item": "1", "val')
    assert results.items("arc") == {"0": {"acc": 1.0}}
    assert list(results.begin("arc", SETTINGS)) == ["0"]
    results.add("arc", "1", {"acc": 0.0})
    assert results.items("arc") == {"0": {"acc": 1.0}, "1": {"acc": 0.0}}


@pytest.mark.parametrize(("key", "value"), [("model", "def"), ("template", "0123"), ("shots", 0), ("more", 1)])
def test_results_of_other_settings_are_refused_by_name(results, key, value):
    results.begin("arc", SETTINGS)
    results.add("arc", "0", {"acc": 1.0})
    before = (results.folder / "arc.items.jsonl").read_bytes()
    with pytest.raises(InputError, match=rf"arc.items.jsonl: {key}: expected .* Fix: choose another --output"):
        results.begin("arc", SETTINGS | {key: value})
    assert (results.folder / "arc.items.jsonl").read_bytes() == before


def test_settings_are_compared_as_json_keeps_them(results):
    results.begin("arc", {"stop": ("a", "b")})
    assert results.begin("arc", {"stop": ["a", "b"]}) == {}


def test_a_file_that_holds_something_else_is_refused(results):
    results.folder.mkdir()
    (results.folder / "arc.items.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match=r"expected the items of an evaluation.*Fix: delete it"):
        results.begin("arc", SETTINGS)


def test_record_has_scores_settings_and_provenance(results):
    results.begin("arc", SETTINGS)
    score = Score("arc", "acc", 0.25, 0.1, 8)
    record = results.finish("arc", [score], SETTINGS, limit=8)
    assert results.record("arc") == json.loads(json.dumps(record))
    assert results.scores("arc") == [score]
    assert record["settings"] == SETTINGS and record["limit"] == 8
    assert {"versions", "hardware", "date"} <= set(record)
    assert {"torch", "transformers", "una_ref"} <= set(record["versions"])


def test_nothing_is_there_before_the_first_result(results):
    assert results.items("arc") == {} and results.record("arc") is None and results.scores("arc") == []
    assert not results.folder.exists()


def test_names_with_colons_and_slashes_become_file_names(results):
    results.begin("reward:org/model", SETTINGS)
    results.add("reward:org/model", "0", {"reward": 1.5})
    assert results.items("reward:org/model") == {"0": {"reward": 1.5}}
    assert [path.name for path in results.folder.iterdir()] == ["reward-org-model.items.jsonl"]


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder to write to"):
        Results(tmp_path / "file" / "results").begin("arc", SETTINGS)
