"""The length-controlled win rate: the weights that made the data are found again."""

import csv

import numpy as np
import pytest
from scipy.special import expit

from una_ref.errors import InputError
from una_ref.evaluation.length_controlled import GAMED_WEIGHT, Gamed, length_controlled, read_gamed, win_rate

W_LENGTH, W_DIFFICULTY, W_MODEL = -1.3, 0.7, -0.4


def benchmark(count, seed=0):
    """Preferences that the regression explains exactly, their lengths, the difficulties, and two gamed baselines."""
    rng = np.random.default_rng(seed)
    difficulties, differences = rng.normal(size=count), rng.normal(100, 400, count).round()
    lengths = differences / differences.std(ddof=1)
    preferences = expit(W_LENGTH * np.tanh(lengths) + W_DIFFICULTY * difficulties + W_MODEL)
    index = np.tile(np.arange(count), 2)
    gamed_lengths = rng.normal(size=2 * count) + np.repeat([-1.0, 1.0], count)
    gamed = expit(W_LENGTH * np.tanh(gamed_lengths) + W_DIFFICULTY * difficulties[index])
    return preferences, differences, difficulties, Gamed(index, gamed_lengths, difficulties[index], gamed)


def test_weights_that_made_twenty_rows_are_found_again():
    preferences, differences, difficulties, gamed = benchmark(20)
    fit = length_controlled(preferences, differences, difficulties, gamed)
    assert (fit.length, fit.difficulty, fit.model) == pytest.approx((W_LENGTH, W_DIFFICULTY, W_MODEL), abs=1e-6)
    assert fit.rate.value == pytest.approx(expit(W_DIFFICULTY * difficulties + W_MODEL).mean(), abs=1e-7)
    assert fit.rate.value != pytest.approx(win_rate(preferences).value, abs=1e-3)


def test_rows_without_a_preference_are_predicted_and_not_fitted():
    preferences, differences, difficulties, gamed = benchmark(20)
    preferences[3] = np.nan
    fit = length_controlled(preferences, differences, difficulties, gamed)
    assert fit.model == pytest.approx(W_MODEL, abs=1e-6)
    assert fit.rate.value == pytest.approx(expit(W_DIFFICULTY * difficulties + W_MODEL).mean(), abs=1e-7)


def test_gamed_rows_have_a_tenth_of_the_weight_and_no_term_of_the_model():
    # One model row set against many gamed rows that want another weight of length: the optimum is where their
    # weighted gradients cancel, computed here by a bisection in that weight alone.
    rng = np.random.default_rng(1)
    count = 40
    differences, zero = rng.normal(size=count), np.zeros(count)
    z = np.tanh(differences / differences.std(ddof=1))
    own, other = expit(2 * z), expit(-1 * z)
    gamed = Gamed(np.arange(count), np.arctanh(z), zero, other)
    fit = length_controlled(own, differences, zero, gamed)

    def gradient(w, b):
        first = expit(w * z + b) - own
        return np.array([z @ first + GAMED_WEIGHT * (z @ (expit(w * z) - other)), first.sum()])

    assert np.abs(gradient(fit.length, fit.model)).max() < 1e-5 * count
    assert GAMED_WEIGHT == 0.1 and 1 < fit.length < 2


def test_longer_answers_gain_nothing_when_length_is_all_that_is_liked():
    preferences, differences, difficulties, gamed = benchmark(400)
    longer = differences - 600
    spread = longer.std(ddof=1)
    liked = expit(W_LENGTH * np.tanh(longer / spread) + W_DIFFICULTY * difficulties + W_MODEL)
    before = length_controlled(preferences, differences, difficulties, gamed).rate.value
    after = length_controlled(liked, longer, difficulties, gamed).rate.value
    assert win_rate(liked).value > win_rate(preferences).value + 0.1
    assert after == pytest.approx(before, abs=1e-5)


def test_model_that_always_loses_has_a_rate_of_zero():
    _, differences, difficulties, gamed = benchmark(100)
    fit = length_controlled(np.zeros(100), differences, difficulties, gamed)
    assert 0 <= fit.rate.value < 1e-4


def test_win_rate_is_the_mean_with_the_error_of_the_mean():
    rate = win_rate(np.array([0.0, 1.0, 0.5, 0.5]))
    assert rate.value == 0.5 and rate.stderr == pytest.approx(np.std([0, 1, 0.5, 0.5], ddof=1) / 2)
    assert win_rate(np.array([0.25])).stderr is None


def test_equal_lengths_and_other_sizes_are_refused():
    preferences, _, difficulties, gamed = benchmark(5)
    with pytest.raises(InputError, match="expected length differences that differ, got equal ones"):
        length_controlled(preferences, np.full(5, 3.0), difficulties, gamed)
    with pytest.raises(InputError, match="expected as many lengths and difficulties, got 5, 4 and 5"):
        length_controlled(preferences, np.arange(4.0), difficulties, gamed)


def test_gamed_file_gives_the_difficulty_of_each_instruction(tmp_path):
    file = tmp_path / "df_gamed.csv"
    columns = ["", "model", "preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"]
    rows = [[i, m, 0.25, i, 1.5, 10.0 * i, False] for m in ("concise", "verbose") for i in (1, 0, 2)]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    gamed = read_gamed(file)
    assert gamed.difficulties(3).tolist() == [0.0, 10.0, 20.0]
    assert gamed.preference.tolist() == [0.25] * 6 and gamed.length.tolist() == [1.5] * 6
    with pytest.raises(InputError, match="expected a difficulty of 5 instructions, got none for 2"):
        gamed.difficulties(5)
    file.write_text(file.read_text().replace("std_delta_len", "length"))
    with pytest.raises(InputError, match=r"df_gamed.csv: expected numbers in the columns index, std_delta_len"):
        read_gamed(file)
