"""What losses learn on a small world, where the end is known by hand; `test_optima_of_records` has every method."""

import pytest
import torch

from una_ref.examine import optima as of_losses
from una_ref.examine.enumeration import Enumeration, at_examined_beta, standard_setting
from una_ref.examine.optima import FROM_OTHER, FROM_POLICY, FROM_REFERENCE, Learned, optima
from una_ref.examine.robustness import robustness
from una_ref.examine.settling import settled
from una_ref.examine.signature import examinee


def learned(loss, **settings):
    """Setting -> what a loss learns from each sampler."""
    found = optima(examinee(loss).at(**settings), independent=True)
    return dict(zip((FROM_REFERENCE, FROM_OTHER, FROM_POLICY), found.learned, strict=True)), found


# ---- ends known by hand


def test_dpo_learns_the_optimum_from_any_sampler_and_runs_off_under_certain_preferences(own):
    found, section = learned(own.rewritten_dpo)
    assert all(one.is_optimum and one.regret < 1e-9 for one in found.values())
    assert section.depends_on_sampler is False and section.beta == 0.5
    certain = robustness(examinee(own.rewritten_dpo), independent=True).certain
    assert certain.outcome == "runs off" and certain.kept == "the best response of each prompt"


def test_ipo_learns_its_own_optimum_which_depends_on_the_sampler_and_nash_on_policy():
    found, section = learned("ipo")
    for name in (FROM_REFERENCE, FROM_OTHER):
        assert found[name].policy.same and found[name].policy.name.startswith("the optimum of IPO")
    assert found[FROM_POLICY].policy.same and found[FROM_POLICY].policy.name == "the Nash policy of β"
    assert section.depends_on_sampler
    assert robustness(examinee("ipo"), independent=True).certain.outcome == "settles"


def test_una_score_learns_its_fixed_point_and_the_optimum_with_a_learned_value(own):
    found, section = learned("una-score")
    assert found[FROM_OTHER].policy.name == "the optimum of UNA's Eq. 10 without a baseline"
    assert found[FROM_OTHER].policy.same and found[FROM_POLICY].is_optimum
    assert section.with_values.is_optimum and section.offset_moves
    without, section = learned(own.squared_without_values)
    assert without[FROM_OTHER].policy.same and not without[FROM_OTHER].is_optimum and section.with_values is None
    with_, section = learned(own.squared_with_values)
    assert with_[FROM_OTHER].is_optimum and section.offset_moves is False


def test_samplers_are_the_reference_and_another_policy_and_not_the_policy_itself(monkeypatch):
    def ends(*shares):
        of = dict(zip((FROM_REFERENCE, FROM_OTHER, FROM_POLICY), shares, strict=True))

        def learned_from(subject, world, feedback, sampler, setting):
            share = next((share for name, share in of.items() if setting.endswith(name)), 0.5)
            return Learned(setting, "settles", 0.0, 0.0, 0.0, 0.0, None, "", ((share, 1 - share),))

        monkeypatch.setattr(of_losses, "learned_from", learned_from)
        return optima(examinee("dpo"), independent=True).depends_on_sampler

    assert ends(0.5, 0.5, 0.9) is False and ends(0.5, 0.9, 0.5) is True


def test_a_hinge_has_a_kink_and_no_point_without_gradient(own):
    found, section = learned(own.hinge)
    assert found[FROM_OTHER].outcome == "unsettled" and found[FROM_OTHER].policy is None
    assert section.beta is None and "the loss names no beta" in section.sentences()[0]


def test_the_regret_of_the_reference_is_given_for_comparison():
    _, section = learned("sft")
    world, *_ = standard_setting()
    assert section.reference_regret == pytest.approx(0.5 * section_kl(world))
    assert f"and that of π_ref {section.reference_regret:.3g}." in " ".join(section.sentences())


def section_kl(world):
    """KL(π_ref ‖ π*), the mean over prompts."""
    return float((world.ref_logps.exp() * (world.ref_logps - world.optimum)).sum(-1).mean())


def test_a_fixed_beta_is_found_in_the_optimum():
    def fixed(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
        gap = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
        return -torch.nn.functional.logsigmoid(0.8 * gap)

    policy = learned(fixed)[0][FROM_OTHER].policy
    assert policy.same and policy.name == "π* of β = 0.8"


def test_a_forgotten_reference_learns_the_optimum_of_a_uniform_one(own):
    policy = learned(own.forgotten_reference)[0][FROM_OTHER].policy
    assert policy.same and policy.name == "the policy ∝ exp(r/β), which is π* of a uniform reference"


def test_a_flipped_sign_learns_the_optimum_of_minus_the_reward(own):
    end = learned(own.flipped_dpo)[0][FROM_OTHER]
    world, _, _ = standard_setting()
    assert end.outcome == "settles" and not end.policy.same and end.regret > 1
    _, sampler, feedback = standard_setting()
    logps = settled(Enumeration(at_examined_beta(examinee(own.flipped_dpo)), world, feedback, sampler)).logps
    expected = (world.ref_logps - world.rewards / world.beta).log_softmax(-1)
    torch.testing.assert_close(logps.exp(), expected.exp(), rtol=0, atol=1e-8)


def test_sft_learns_what_it_is_given_and_stays_where_its_own_samples_are():
    found, _ = learned("sft")
    assert found[FROM_OTHER].policy.name == "the distribution of the sampled responses"
    assert found[FROM_POLICY].outcome == "stays"


def test_what_a_run_makes_by_rule_or_a_whole_batch_has_no_population():
    assert "a run makes advantages" in optima(examinee("ppo"), independent=True).sentences()[0]
    assert "compares all examples" in optima(examinee("aot"), independent=False).sentences()[0]
    assert robustness(examinee("ppo"), independent=True).sentences() == []
