"""A loss of one's own on the board: ten lines, the same numbers as the method that it is, and what is refused."""

import json

import pytest
import torch
from torch.nn.functional import softplus

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.studies.engine import carry_out
from una_ref.studies.leaderboard.board_entries import Tuned
from una_ref.studies.leaderboard.board_study import LEADERBOARD
from una_ref.studies.leaderboard.placing import STAND_INS, _taken_over, entry_of, place


def my_loss(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margin = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
    return softplus(-beta * margin)


@pytest.fixture(scope="module")
def board(tiny, tmp_path_factory):
    """The path of a tiny board's results."""
    folder = tmp_path_factory.mktemp("board")
    carry_out(LEADERBOARD, folder, settings=tiny, workers=1, axes=("board",))
    return folder / "results.json"


def test_dpo_as_a_loss_of_one_s_own_has_the_place_of_dpo(board):
    placed = place(my_loss, "pairs", board=board, title="my loss")
    results = json.loads(board.read_text("utf-8"))["board"]
    dpo = next(row for row in results["rows"] if (row["name"], row["budget"]) == ("una-pair", 32))
    assert placed["row"]["regret"]["values"] == pytest.approx(dpo["regret"]["values"], abs=1e-6)
    assert placed["row"]["to_dpo"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert placed["setting"]["lr"] == results["about"]["una-pair"]["lr"]
    assert placed["of"] == 2  # DPO is the only row on pairs
    names = [row["name"] for row in placed["rows"]]
    assert names[placed["rank"] - 1] == "mine"
    assert abs(names.index("mine") - names.index("una-pair")) == 1


def test_a_control_takes_no_rank(board):
    results = json.loads(board.read_text("utf-8"))
    results["board"]["about"]["una-pair"]["control"] = True
    placed = place(my_loss, "pairs", board=results, tune=False)
    assert (placed["rank"], placed["of"]) == (1, 1)
    assert {row["name"] for row in placed["rows"]} == {"mine", "una-pair"}


def test_a_loss_that_is_not_tuned_takes_the_setting_of_a_known_method(board):
    about = json.loads(board.read_text("utf-8"))["board"]["about"]["una-pair"]
    placed = place(my_loss, "pairs", board=board.parent, tune=False)
    assert placed["setting"] == {"lr": about["lr"], "factors": about["factors"]}
    assert placed["row"]["to_dpo"]["mean"] == pytest.approx(0.0, abs=1e-6)


def test_a_taken_over_setting_has_the_known_factors_and_the_units_of_what_it_lacks():
    known = {"about": {"una-pair": {"lr": 0.1, "factors": [4.0]}}}
    two = entry_of(METHODS["simpo"].loss, "pairs", tuned=[Tuned("beta"), Tuned("gamma", 1.0, False)])
    assert _taken_over(two, known) == {"lr": 0.1, "factors": [4.0, 1.0]}
    assert _taken_over(entry_of(my_loss, "pairs", tuned=[]), known) == {"lr": 0.1, "factors": []}


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("scores", METHODS["dro"].loss),
        ("labels", METHODS["kto"].loss),
        ("lists", METHODS["lipo"].loss),
        ("demos", METHODS["sft"].loss),
        ("scored pairs", METHODS["rebel"].loss),
        ("calls", METHODS["una-centred"].loss),
    ],
)
def test_a_loss_of_any_kind_is_placed(kind, loss, board):
    tuned = [Tuned("eta", inverse=True)] if kind == "scored pairs" else None
    placed = place(loss, kind, board=board, name="own", tuned=tuned)
    assert placed["row"]["regret"]["mean"] > 0 and not placed["row"]["failed"]


def test_every_kind_has_a_method_whose_run_it_takes_over():
    assert {*STAND_INS.values()} <= {*METHODS}


@pytest.mark.parametrize(
    ("loss", "kind", "said"),
    [
        (my_loss, "pair", "kind: expected one of demos, pairs.*did you mean pairs"),
        (my_loss, "scores", "loss mine: expected arguments of scores, got chosen_logps"),
        (METHODS["dro"].loss, "pairs", "loss mine: expected arguments of pairs, got .*logps"),
        (METHODS["grpo"].loss, "scores", "loss mine: expected arguments of scores, got old_token_logps"),
        (lambda *, chosen_logps: chosen_logps.mean(), "pairs", "one number for each of 2 examples"),
        (lambda *, chosen_logps: chosen_logps * torch.inf, "pairs", "expected finite numbers for ordinary log-probs"),
        (lambda *, chosen_logps: chosen_logps.detach(), "pairs", "expected a gradient in chosen_logps, got none"),
        (lambda *, chosen_logps: chosen_logps @ chosen_logps[None], "pairs", "one that refuses: RuntimeError"),
        (lambda *, chosen_logp: chosen_logp, "pairs", "got 'chosen_logp'; did you mean chosen_logps"),
        ("my_losses:mine", "pairs", "expected a function, got str"),
        (lambda *, chosen_logps, gamma: chosen_logps, "pairs", "hyper-parameter with a default, got 'gamma'"),
    ],
)
def test_a_loss_that_cannot_be_trained_is_refused(loss, kind, said):
    with pytest.raises(InputError, match=said):
        entry_of(loss, kind)


def test_other_refusals():
    with pytest.raises(InputError, match="tuned: expected hyper-parameters of the loss"):
        entry_of(my_loss, "pairs", tuned=[Tuned("tau")])
    with pytest.raises(InputError, match="a name that no row of the leaderboard has, got 'ipo'"):
        entry_of(my_loss, "pairs", name="ipo")
    with pytest.raises(InputError, match="expected a results.json"):
        place(my_loss, "pairs", board="nowhere.json")
    with pytest.raises(InputError, match="expected a results.json of una-ref leaderboard, got: Extra data"):
        place(my_loss, "pairs", board=__file__)
    with pytest.raises(InputError, match="expected results of protocol 2, got 0"):
        place(my_loss, "pairs", board={"settings": {"protocol": 0}})
