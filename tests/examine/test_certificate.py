"""The whole certificate of losses of one's own: typed fields, sentences, JSON; and what is refused before it begins."""

import json

import pytest

from una_ref.errors import InputError
from una_ref.examine import Certificate, certificate, examine


@pytest.fixture(scope="module")
def of_squared(own):
    return examine(own.squared_without_values, kind="scores")


def test_certificate_of_a_squared_loss_says_that_its_value_is_missing(of_squared):
    assert isinstance(of_squared, Certificate) and of_squared.name == "squared_without_values"
    assert of_squared.invariances.offset == "in expectation"
    assert of_squared.reductions.equal[0].method == "una-score"
    said = " ".join(of_squared.sections["What it learns"])
    assert "the optimum of UNA's Eq. 10 without a baseline" in said
    assert "Adding +2 and -1 to the rewards of the two prompts changes what it learns." in said


def test_every_finding_is_one_sentence(of_squared):
    for sentences in of_squared.sections.values():
        assert sentences and all(s.endswith(".") and ". " not in s.replace("Eq. ", "") for s in sentences)


def test_record_survives_json(of_squared):
    record = json.loads(json.dumps(of_squared.record()))
    assert record["signature"]["kind"] == "scores" and record["sections"] == of_squared.sections
    assert record["optima"]["learned"][1]["policy"]["name"].startswith("the optimum of UNA")


def test_certificate_is_the_same_twice(of_squared, own):
    again = examine(own.squared_without_values)
    assert again.sections == of_squared.sections


def test_sections_are_announced_in_order(own):
    seen = []
    examine(own.forgotten_reference, progress=seen.append)
    assert seen == [
        "What it asks for",
        "Numbers",
        "What it ignores",
        "What it reduces to",
        "What it learns",
        "Certain and noisy feedback",
    ]


def test_closed_form_is_that_of_the_record():
    assert examine("cpo").closed_form.startswith("not π*: with lam = 0")


def test_a_loss_that_is_refused_is_refused_before_anything_is_measured(own, monkeypatch):
    for part in ("sound", "invariances", "reductions", "optima", "robustness"):
        monkeypatch.setattr(certificate, part, lambda *args, **kwargs: pytest.fail("measured"))
    for loss in (own.mean_dpo, own.detached):
        with pytest.raises(InputError):
            examine(loss)


def test_a_board_that_has_not_been_carried_out_is_refused_at_once(monkeypatch):
    from una_ref.studies.engine import Study

    def refused(study):
        raise InputError("quick: expected a study whose full size has been carried out")

    monkeypatch.setattr(Study, "chosen", refused)
    with pytest.raises(InputError, match="quick: expected a study whose full size"):
        examine("dpo", board=True, progress=lambda heading: pytest.fail(heading))


@pytest.mark.parametrize(
    ("name", "kind"), [("una-online", "calls"), ("rpo", "scored pairs"), ("dpo", "pairs"), ("kto", "labels")]
)
def test_data_of_the_board_are_those_of_the_loss(name, kind):
    from una_ref.examine.board_place import board_kind
    from una_ref.examine.signature import examinee

    assert board_kind(examinee(name)) == kind
