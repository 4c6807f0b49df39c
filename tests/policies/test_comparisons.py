"""Preferences between answers become win rates, whatever they come from: a function, a reward, a judge, several."""

import math

import pytest

from una_ref.errors import InputError
from una_ref.policies.answers import Answer
from una_ref.policies.comparisons import BradleyTerry, checked, comparing, preference, win_rates
from una_ref.policies.reward_sources import Truth, reward_source

ANSWERS = [Answer("Why?", text) for text in ("a", "bb", "cccc")]


def length(answers):
    """A reward: the length."""
    return [len(answer.response) for answer in answers]


def cyclic(first, second):
    """A preference of two answers: a beats bb, bb beats cccc, cccc beats a, each with 0.8."""
    return 0.8 if {"a": "bb", "bb": "cccc", "cccc": "a"}[first.response] == second.response else 0.2


def longer(pairs):
    """A preference of a list of pairs: the longer answer, without doubt."""
    return [float(len(first.response) > len(second.response)) for first, second in pairs]


def unsure(pairs):
    """A preference that does not know what to say of bb."""
    return [None if "bb" in (first.response, second.response) else 1.0 for first, second in pairs]


def too_sure(first, second):
    """A preference that gives no probability."""
    return 1.2


def test_win_rates_of_a_cycle_are_one_half():
    assert win_rates(ANSWERS, preference(cyclic, "mine").compare, "mine") == pytest.approx([0.5] * 3)
    # Without cccc, a beats bb with 0.8.
    assert win_rates(ANSWERS[:2], preference(cyclic, "mine").compare, "mine") == pytest.approx([0.8, 0.2])


def test_win_rate_is_the_mean_over_the_other_answers_of_prompt_and_group():
    answers = [*ANSWERS, Answer("How?", "a"), Answer("How?", "bb"), *(Answer("Why?", t, group=1) for t in ("a", "bb"))]
    assert preference(longer, "mine")(answers) == [0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 1.0]


def test_equal_answers_tie_without_a_comparison():
    def never(pairs):
        raise AssertionError

    assert win_rates([Answer("p", "same")] * 3, never, "mine") == [0.5] * 3
    assert checked([(Answer("p", "x"), Answer("p", "x", ended=False))], lambda pairs: [0.9], "mine") == [0.9]


def test_answer_with_an_unknown_comparison_has_no_win_rate():
    assert preference(unsure, "mine")(ANSWERS) == [None, None, None]  # each was compared with bb
    assert preference(unsure, "mine")([ANSWERS[0], ANSWERS[2]]) == [1.0, 0.0]


def test_rewards_compare_by_bradley_terry_and_are_asked_once():
    calls = []

    def reward(answers):
        calls.append(len(answers))
        return length(answers)

    rates = BradleyTerry(reward, "mine")(ANSWERS)
    by_hand = [1 / (1 + math.exp(-gap)) for gap in (1, 3, 2)]  # bb over a, cccc over a, cccc over bb
    expected = [1 - (by_hand[0] + by_hand[1]) / 2, (by_hand[0] + 1 - by_hand[2]) / 2, (by_hand[1] + by_hand[2]) / 2]
    assert rates == pytest.approx(expected)
    assert calls == [3]
    assert BradleyTerry(lambda answers: [1e6, -1e6], "mine")(ANSWERS[:2]) == [1.0, 0.0]


def test_source_that_compares_is_used_as_it_is():
    source = preference(longer, "mine")
    assert comparing(source, "mine") is source
    assert isinstance(comparing(length, "mine"), BradleyTerry)
    length_pairwise = type("Old", (), {"pairwise": True, "__call__": lambda self, answers: length(answers)})()
    with pytest.raises(InputError, match="reward mine: expected a function `compare` of pairs beside `pairwise`"):
        comparing(length_pairwise, "mine")


def test_preference_of_a_run_is_named_by_module_and_function():
    for name in (f"preference:{__name__}:longer", f"preference:{__name__}:cyclic"):
        assert reward_source(name).pairwise
    assert reward_source(f"preference:{__name__}:longer")(ANSWERS) == [0.0, 0.5, 1.0]
    with pytest.raises(InputError, match="reward 'preference:math:none': expected preference:module:function, got"):
        reward_source("preference:math:none")


def test_mean_of_a_preference_and_a_reward_compares():
    both = reward_source(f"preference:{__name__}:longer,{__name__}:length")
    assert both.pairwise
    (share,) = both.compare([(ANSWERS[1], ANSWERS[0])])
    assert share == pytest.approx((1 + 1 / (1 + math.exp(-1))) / 2)


def test_number_that_is_no_probability_is_refused():
    with pytest.raises(InputError, match=r"mine: expected a probability in \[0, 1\] .*, got 1.2 for 'a' and 'bb'"):
        preference(too_sure, "mine")(ANSWERS)
    with pytest.raises(InputError, match="reward mine: expected 3 numbers, got 1"):
        preference(lambda pairs: [0.5], "mine")(ANSWERS)
    with pytest.raises(InputError, match="reward mine: raised KeyError"):
        preference(cyclic, "mine")([Answer("p", "x"), Answer("p", "y")])
    with pytest.raises(InputError, match="expected two or more answers to compare, got one to 'How"):
        preference(longer, "mine")([*ANSWERS, Answer("How?", "a")])


def test_truth_of_a_world_compares_by_bradley_terry():
    from una_ref.data.toysteer import ToySteer

    world = ToySteer(seed=3)
    pair = [Answer(world.prompts[0], text) for text in ("a b", "e e e e")]
    first, second = Truth(world)(pair)
    (share,) = comparing(Truth(world), "toysteer").compare([tuple(pair)])
    assert share == pytest.approx(1 / (1 + math.exp(second - first)))
