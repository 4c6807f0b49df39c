"""The enumeration of a world's examples is the population loss of `theory`, for any feedback."""

import pytest
import torch

from una_ref.examine.enumeration import Enumeration, Feedback, at_examined_beta, standard_setting
from una_ref.examine.signature import examinee
from una_ref.methods import METHODS
from una_ref.theory.populations import binary_labels, pairs, singles
from una_ref.theory.token_populations import over_sequence_pairs


def test_enumeration_of_pairs_is_the_population_loss_of_theory():
    world, sampler, feedback = standard_setting()
    logps = torch.randn(world.rewards.shape, dtype=torch.float64).log_softmax(-1)
    ours = Enumeration(at_examined_beta(examinee("dpo")), world, feedback, sampler).loss(logps)
    theirs = pairs(METHODS["dpo"].loss, world, sampler.exp(), feedback.preferences)(logps) / len(world.rewards)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


def test_enumeration_of_scores_is_the_population_loss_of_theory():
    world, sampler, feedback = standard_setting()
    logps = torch.randn(world.rewards.shape, dtype=torch.float64).log_softmax(-1)
    ours = Enumeration(at_examined_beta(examinee("una-score")), world, feedback, sampler).loss(logps)
    theirs = singles(METHODS["una-score"].loss, world, sampler.exp(), scores=world.rewards)(logps)
    torch.testing.assert_close(ours, theirs / len(world.rewards), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["dpo", "kto", "una-centred", "sft", "lipo"])
def test_weights_of_all_examples_sum_to_the_probability_of_different_responses(name):
    world, sampler, feedback = standard_setting()
    enumeration = Enumeration(at_examined_beta(examinee(name)), world, feedback, sampler)
    mu = sampler.exp()
    different = {"dpo": (1 - (mu**2).sum(-1)).mean(), "lipo": None}.get(name, torch.tensor(1.0, dtype=torch.float64))
    if different is None:  # three different responses, in an order
        p1, p2, p3 = ((mu**k).sum(-1) for k in (1, 2, 3))
        different = (p1**3 - 3 * p1 * p2 + 2 * p3).mean()
    torch.testing.assert_close(enumeration.weights(sampler).sum(), different)


def test_enumeration_of_labels_is_the_population_loss_of_theory():
    world, sampler, feedback = standard_setting()
    logps = torch.randn(world.rewards.shape, dtype=torch.float64).log_softmax(-1)
    ours = Enumeration(at_examined_beta(examinee("una-binary-bce")), world, feedback, sampler).loss(logps)
    theirs = binary_labels(METHODS["una-binary-bce"].loss, world, sampler.exp(), world.rewards.sigmoid())(logps)
    torch.testing.assert_close(ours, theirs / len(world.rewards), rtol=1e-13, atol=0)


def test_enumeration_of_pairs_of_tokens_is_the_population_loss_of_theory():
    world, sampler, feedback = standard_setting()
    logps = torch.randn(world.rewards.shape, dtype=torch.float64).log_softmax(-1)
    ours = Enumeration(at_examined_beta(examinee("tdpo")), world, feedback, sampler).loss(logps)
    population = over_sequence_pairs(METHODS["tdpo"].loss, world, feedback.preferences, sampler.exp(), beta=world.beta)
    torch.testing.assert_close(ours, population(logps) / len(world.rewards), rtol=1e-13, atol=0)


def test_certain_feedback_has_no_chance_and_noise_flips_a_share():
    _, _, feedback = standard_setting()
    certain = feedback.certain()
    assert set(certain.positive.unique().tolist()) <= {0.0, 1.0}
    different = ~torch.eye(certain.preferences.shape[-1], dtype=torch.bool).expand_as(certain.preferences)
    assert set(certain.preferences[different].tolist()) == {0.0, 1.0}
    assert set(certain.preferences[~different].tolist()) == {0.5}
    noisy = feedback.noisy(0.1)
    torch.testing.assert_close(noisy.positive, 0.9 * feedback.positive + 0.1 * (1 - feedback.positive))
    assert Feedback.of(feedback.scores).spread == 0 < noisy.spread


def test_certain_rankings_have_one_order():
    world, sampler, feedback = standard_setting()
    enumeration = Enumeration(examinee("lipo"), world, feedback.certain(), sampler)
    best_first = (world.rewards[enumeration.x[:, None], enumeration.y].diff(dim=-1) < 0).all(-1)
    torch.testing.assert_close(enumeration.odds, 6.0 * best_first.to(torch.float64))


def test_numbers_of_the_whole_batch_are_moments_under_the_sampler():
    world, sampler, feedback = standard_setting()
    logps = torch.randn(world.rewards.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logps, mu = logps.log_softmax(-1), sampler.exp() / 2  # two prompts
    gain, lengths = logps - world.ref_logps, world.lengths.to(torch.float64)
    found = Enumeration(examinee("una-score"), world, feedback, sampler).arguments(
        logps, names=("running_gain", "score_sd", "mean_length")
    )
    mean = (mu * world.rewards).sum()
    expected = {
        "running_gain": (mu * gain).sum(),
        "score_sd": ((mu * world.rewards.square()).sum() - mean**2).sqrt(),
        "mean_length": (mu * lengths).sum(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    # Of pairs, over both responses, which differ.
    pairs = Enumeration(examinee("dpo"), world, feedback, sampler).arguments(logps, names=("mean_length",))
    both = mu[:, :, None] * 2 * mu[:, None, :] * (1 - torch.eye(mu.shape[-1], dtype=torch.float64))
    length = (both * (lengths[None, :, None] + lengths[None, None, :]) / 2).sum() / both.sum()
    torch.testing.assert_close(pairs["mean_length"], length)


def test_kto_is_given_the_exact_divergence_of_the_policy():
    world, sampler, feedback = standard_setting()
    enumeration = Enumeration(examinee("kto"), world, feedback, sampler)
    ratio = (world.optimum.exp() * (world.optimum - world.ref_logps)).sum(-1).mean()
    torch.testing.assert_close(enumeration.arguments(world.optimum)["kl"], ratio)
