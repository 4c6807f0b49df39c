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


def learned(certificate):
    return " ".join(certificate.sections["What it learns"])


def test_certificate_prints_the_optimum_of_the_record_on_the_feedback_that_is_examined():
    scores, labels = examine("dro"), examine("dro", "labels")
    assert "The record of dro states the optimum on scores: π*, with V(x) = β·log Z(x)." in learned(scores)
    assert "The record of dro states the optimum on binary labels: π ∝ π_ref·exp(2·σ(r)/β)" in learned(labels)
    assert "it learns the policy ∝ π_ref·exp(P(y = 1)/0.25)" in learned(labels)  # at β = 0.5, where 2/β = 1/0.25


def test_a_loss_of_ones_own_gets_the_optimum_of_the_method_that_it_equals_at_every_margin(own):
    assert examine(own.rewritten_dpo).closed_form_of == "una-pair"
    clamped = examine(own.clamped_dpo)
    assert clamped.reductions.equal[0].method == "una-pair" and clamped.closed_form == ""


def test_a_policy_that_runs_off_is_said_with_how_that_was_tested():
    said = learned(examine("kto"))
    assert "no finite minimum was found; log-ratios were still growing at" in said
    assert "“Still growing” means that a log-ratio to π_ref passed 40 nats" in said
    assert "no finite minimiser" not in said


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


def test_a_place_is_told_beside_dpo_and_the_reference(monkeypatch):
    from una_ref.examine import board_place
    from una_ref.examine.signature import examinee
    from una_ref.studies.leaderboard import placing

    row = {
        "regret": {"mean": 0.98, "low": 0.93, "high": 1.03},
        "to_dpo": {"mean": 0.27, "low": -0.1, "high": 0.64},
        "worse_than_base": {"count": 2, "of": 3, "share": 2 / 3},
        "failed": 0,
    }
    monkeypatch.setattr(placing, "place", lambda *args, **kwargs: {"rank": 4, "of": 4, "row": row})
    place = board_place.on_board(examinee("dpo"))
    assert place.sentences() == [
        "It is number 4 of 4 on pairs by mean regret: 0.980 (95 % interval 0.930 to 1.030).",
        "Its regret minus DPO's is 0.270 (95 % interval -0.100 to 0.640).",
        "It is worse than π_ref in 2 of 3 worlds.",
    ]
    row |= {"to_dpo": {"mean": None, "low": None, "high": None}, "regret": dict.fromkeys(("mean", "low", "high"))}
    row["failed"] = 1
    assert board_place.on_board(examinee("dpo")).sentences() == ["1 of its runs ended without a finite policy."]
