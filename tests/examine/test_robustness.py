"""What losses learn from certain and from noisy feedback, where it is known by hand."""

import pytest

from una_ref.examine.robustness import robustness
from una_ref.examine.signature import examinee


def of(loss, **settings):
    return robustness(examinee(loss).at(**settings), independent=True)


def test_ipo_and_cdpo_keep_finite_margins_under_certain_preferences():
    ipo, cdpo = of("ipo"), of("cdpo")
    assert ipo.certain.outcome == cdpo.certain.outcome == "settles"
    assert "log-ratios stay finite" in ipo.sentences()[0]
    assert ipo.certain.policy.same and ipo.certain.policy.name.startswith("the optimum of IPO")


def test_dpo_is_moved_by_flipped_preferences_and_robust_dpo_learns_the_optimum_from_them():
    dpo, robust = of("dpo"), of("robust-dpo")
    assert dpo.consistent is False and dpo.noise_moves > 0.01
    assert robust.noisy.is_optimum  # its label_smoothing is the share that is flipped


def test_zero_mean_noise_does_not_change_a_squared_loss():
    found = of("una-score")
    assert found.certain is None and found.consistent and found.noise_moves < 1e-8
    assert "This noise does not change what it learns." in found.sentences()


def test_noise_changes_a_loss_of_another_measure():
    assert of("una-measure", measure="kl").consistent is False


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_no_feedback_or_no_population_has_no_findings(name):
    assert of(name).sentences() == []
