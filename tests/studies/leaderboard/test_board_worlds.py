"""Worlds, responses and feedback: nested budgets, the same responses for all kinds, and conditions that act."""

import math
from dataclasses import replace

import pytest
import torch

from una_ref.policies.answers import Answer
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_worlds import BoardWorld, following
from una_ref.studies.leaderboard.conditions import Conditions

COUNT = 40_000


@pytest.fixture(scope="module")
def small():
    return replace(LeaderboardSettings(), prompts=3, second=2, vocabulary=4, length=3, beta=0.4, hidden=8)


def made(small, seed=0, **conditions):
    return BoardWorld(seed, small, Conditions(**conditions))


def test_the_optimum_has_no_regret_and_no_policy_has_less(small):
    world = made(small).world
    assert world.regret(world.optimum).abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = 3 * torch.randn(world.rewards.shape, generator=generator, dtype=torch.float64)
        assert (world.regret(logits.log_softmax(-1)) >= 0).all()


def test_base_policies_take_turns_from_vague_to_certain(small):
    entropies = [
        float(-(w.ref_logps.exp() * w.ref_logps).sum(1).mean()) for w in (made(small, seed).world for seed in (0, 1, 2))
    ]
    assert entropies == sorted(entropies, reverse=True)


def test_rewards_have_mean_zero_and_sd_one(small):
    rewards = made(small).world.rewards
    assert rewards.mean(1).abs().max() < 1e-12 and (rewards.std(1, correction=0) - 1).abs().max() < 1e-12


def test_a_fresh_policy_is_judged_like_the_base_policy(small):
    world = made(small)
    judged = world.judged(world.policy().next_logps())
    base = world.measures(world.world.ref_logps)
    assert judged["tax"] == pytest.approx(0.0, abs=1e-6)
    assert {name: judged[name] for name in base} == pytest.approx(base, abs=1e-5)


def test_a_larger_budget_contains_the_smaller_one(small):
    world = made(small)
    assert torch.equal(world.drawn(96)[:30], world.drawn(30))
    for kind, rows in (("pairs", 36), ("demos", 36), ("labels", 18), ("scores", 18), ("lists", 9)):
        assert world.examples(kind, 2400)[:rows] == world.examples(kind, 36)


def test_sampled_responses_have_the_sampler_s_frequencies(small):
    world = made(small)
    drawn = world.drawn(COUNT)
    for x in range(3):
        own = drawn[drawn[:, 0] == x][:, 1:].flatten()
        exact = world.world.ref_logps[x].exp()
        found = torch.bincount(own, minlength=len(exact)) / len(own)
        assert ((found - exact).abs() < 5 * (exact * (1 - exact) / len(own)).sqrt() + 2 / len(own)).all()


@pytest.mark.parametrize(
    ("kind", "rows", "responses"),
    [
        ("pairs", 48, 2),
        ("demos", 48, 1),
        ("labels", 24, 2),
        ("scores", 24, 2),
        ("scored pairs", 24, 2),
        ("lists", 12, 4),
    ],
)
def test_a_budget_buys_as_many_labels_of_every_kind(small, kind, rows, responses):
    found = made(small).examples(kind, 48)
    assert len(found) == rows
    assert {len(e.responses) for e in found} == {responses}
    assert {e.kind for e in found} == {"pairs" if kind == "scored pairs" else kind}
    assert [e.prompt for e in found[:3]] == [(0,), (1,), (2,)]


def test_all_kinds_are_about_the_same_responses(small):
    world = made(small)
    pairs = world.examples("pairs", 48)
    for kind in ("labels", "scores", "scored pairs"):
        assert [e.responses for e in world.examples(kind, 48)] == [e.responses for e in pairs[:24]]
    lists = [r for e in world.examples("lists", 48) for r in e.responses]
    assert sorted(lists) == sorted(r for e in pairs[:24] for r in e.responses)
    for pair, demo in zip(pairs, world.examples("demos", 48), strict=True):
        assert demo.responses[0] == pair.responses[pair.pairs[0][0]]


def rates(world, count=COUNT):
    """Each comparison's gap in reward, and whether the first response won."""
    drawn = world.drawn(count)
    r = world.world.labeller[drawn[:, :1], drawn[:, 1:]]
    return r[:, 0] - r[:, 1], world.first_wins(drawn), drawn


def expected(won, p):
    """Whether a mean of coins is within 5 standard errors of their probabilities."""
    return abs(float((won.double() - p).mean())) < 5 * float((p * (1 - p)).mean().sqrt()) / len(p) ** 0.5


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_comparisons_are_bradley_terry_s_with_flips(small, noise):
    gap, won, _ = rates(made(small, label_noise=noise))
    for part in (gap > 0.5, gap < -0.5, gap.abs() < 0.5):
        assert expected(won[part], noise + (1 - 2 * noise) * gap[part].sigmoid())


def test_binary_labels_are_those_of_the_sigmoid_of_the_reward_with_flips(small):
    for noise in (0.0, 0.3):
        world = made(small, label_noise=noise)
        drawn = world.drawn(COUNT)
        r = world.world.labeller[drawn[:, :1], drawn[:, 1:]]
        for part in (r > 0.5, r < -0.5):
            assert expected(world.labels(drawn)[part], noise + (1 - 2 * noise) * r[part].sigmoid())


def test_the_chosen_response_of_a_scored_pair_has_the_larger_score(small):
    for example in made(small).examples("scored pairs", 400):
        [(chosen, rejected)] = example.pairs
        assert example.scores[chosen] > example.scores[rejected]


def test_without_chance_the_better_response_wins_and_equal_ones_toss_a_coin(small):
    gap, won, _ = rates(made(small, sharpness=math.inf))
    assert won[gap > 0].all() and not won[gap < 0].any()
    assert expected(won[gap == 0], torch.full(((gap == 0).sum(),), 0.5, dtype=torch.float64))


def test_a_cycle_makes_every_class_beat_the_next(small):
    world = made(small, cycle=4.0)
    gap, won, drawn = rates(world)
    classes = world.world.sequences[:, 0][drawn[:, 1:]] % 3
    for first, second, sign in ((0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0), (1, 0, -1.0), (1, 1, 0.0)):
        part = (classes[:, 0] == first) & (classes[:, 1] == second)
        assert expected(won[part], (gap[part] + 4.0 * sign).sigmoid())


def test_scores_have_the_noise_of_the_protocol(small):
    world = made(small)
    drawn = world.drawn(COUNT)
    noise = world.scores(drawn) - world.world.rewards[drawn[:, :1], drawn[:, 1:]]
    assert abs(float(noise.mean())) < 5 / (2 * COUNT) ** 0.5
    assert float(noise.std()) == pytest.approx(small.score_noise, abs=5 / (4 * COUNT) ** 0.5)


def test_label_noise_swaps_scores_within_a_row(small):
    quiet = replace(small, score_noise=0.0)
    world = BoardWorld(0, quiet, Conditions(label_noise=0.3))
    drawn = world.drawn(COUNT)
    true = world.world.rewards[drawn[:, :1], drawn[:, 1:]]
    swapped = world.scores(drawn) != true
    differ = (true[:, 0] != true[:, 1])[:, None].expand_as(true)
    assert torch.equal(world.scores(drawn)[swapped], true.flip(1)[swapped])
    assert float(swapped[differ].double().mean()) == pytest.approx(0.3, abs=0.01)


def test_shuffled_scores_are_the_same_numbers_at_other_places(small):
    world = made(small)
    plain, shuffled = ([s for e in world.examples("scores", 96, shuffle=s_) for s in e.scores] for s_ in (False, True))
    assert plain != shuffled and sorted(plain) == sorted(shuffled)


def test_the_share_of_positive_labels_is_what_the_condition_says(small):
    labels = [v for e in made(small, positive_share=0.9).examples("labels", COUNT) for v in e.labels]
    assert sum(labels) / len(labels) == pytest.approx(0.9, abs=0.01)


def test_partial_support_never_gives_the_first_tokens(small):
    world = made(small, unseen=2)
    firsts = {response[0] for e in world.examples("pairs", 3000) for response in e.responses}
    assert firsts == {0, 3}
    torch.testing.assert_close(world.sampler_logps.exp().sum(1), torch.ones(3, dtype=torch.float64))


def test_a_shifted_sampler_is_another_policy_and_the_judge_stays(small):
    plain, shifted = made(small), made(small, shift=1.0)
    assert not torch.allclose(plain.sampler_logps, shifted.sampler_logps)
    assert torch.equal(plain.world.optimum, shifted.world.optimum)


def test_offsets_change_scores_and_not_what_is_best(small):
    plain, moved = made(small), made(small, offset=4.0)
    shift = moved.world.rewards - plain.world.rewards
    assert (shift - shift[:, :1]).abs().max() < 1e-12 and shift.abs().max() > 1
    torch.testing.assert_close(moved.world.optimum, plain.world.optimum)


def test_calls_of_the_reward_are_the_labeller_s_with_noise(small):
    world = made(small, length_bias=2.0)
    answers = [Answer("1", "2 1", True, 0, {}, "")] * 4000
    scores = torch.tensor(world.calls()(answers), dtype=torch.float64)
    exact = float(world.world.labeller[1, world.world.index((2, 1, 0))])
    assert float(scores.mean()) == pytest.approx(exact, abs=5 / 4000**0.5)
    assert exact != float(world.world.rewards[1, world.world.index((2, 1, 0))])


def test_label_noise_swaps_calls_within_a_prompt(small):
    world = made(small, label_noise=0.3, score_noise=0.0)
    pair = [Answer("1", text, True, 0, {}, "") for text in ("2 1", "3")]
    exact = [float(world.world.labeller[1, world.world.index(tokens)]) for tokens in ((2, 1, 0), (3, 0))]
    source = world.calls()
    scores = torch.tensor([source(pair) for _ in range(COUNT // 20)], dtype=torch.float64)
    swapped = scores != torch.tensor(exact, dtype=torch.float64)
    torch.testing.assert_close(scores[swapped], torch.tensor(exact[::-1]).double().expand_as(scores)[swapped])
    assert float(swapped.double().mean()) == pytest.approx(0.3, abs=5 * (0.21 / (COUNT // 10)) ** 0.5)


def test_a_score_is_swapped_with_the_next_one_of_the_same_prompt():
    assert following(["a", "a", "b", "a", "b"]) == [1, 3, 4, 0, 2]


def test_the_scale_is_a_factor_of_scores_and_of_calls_and_of_no_comparison(small):
    plain, scaled = (made(small, scale=scale, score_noise=0.0) for scale in (1.0, 3.0))
    drawn = plain.drawn(60)
    torch.testing.assert_close(scaled.scores(drawn), 3 * plain.scores(drawn))
    assert torch.equal(scaled.first_wins(drawn), plain.first_wins(drawn))
    answers = [Answer(str(x), " ".join(map(str, plain.tokens[5][:-1])), True, {}) for x in range(3)]
    torch.testing.assert_close(torch.tensor(scaled.calls()(answers)), 3 * torch.tensor(plain.calls()(answers)))


def test_mixed_feedback_has_as_many_labels_of_each_kind(small):
    rows = made(small).examples("mixed", 72)
    counts = {kind: sum(row.count for row in rows if row.kind == kind) for kind in ("pairs", "labels", "scores")}
    assert counts == {"pairs": 24, "labels": 24, "scores": 24}
    assert {(row.kind, row.prompt_index) for row in rows} == {(k, x) for k in counts for x in range(3)}


def test_measures_are_sums_over_all_responses(small):
    world = made(small, length_bias=2.0, trap=1.0)
    exact = world.world
    logps = torch.randn(exact.rewards.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logps = logps.log_softmax(-1)
    found = world.measures(logps)
    tokens = [[t for t in row if t > 0] for row in exact.sequences.tolist()]
    before_eos = torch.tensor([len(row) for row in tokens], dtype=torch.float64)
    trapped = torch.tensor(
        [3 in row and any(a == b == 3 for a, b in zip(row, row[1:], strict=False)) for row in tokens]
    )
    biased = exact.rewards + 2.0 * before_eos / 3 + 2.0 * trapped  # the trap is subtracted from the truth, too
    for name, values in (("length", before_eos), ("trapped", trapped), ("labeller_reward", biased)):
        assert found[name] == pytest.approx(float((logps.exp() * values).sum(1).mean()), abs=1e-12)


def test_the_tax_is_the_divergence_of_the_base_policy_from_the_policy_on_the_second_block(small):
    world = made(small)
    policy = world.policy()
    torch.nn.init.normal_(policy.head.weight, generator=torch.Generator().manual_seed(1))
    table = policy.next_logps()
    logps, ref = world.whole.sequence_logps(table.detach())[3:], world.whole.ref_logps[3:]
    expected, other = ((a.exp() * (a - b)).sum(1).mean() for a, b in ((ref, logps), (logps, ref)))
    assert world.judged(table)["tax"] == pytest.approx(float(expected), abs=1e-9) != pytest.approx(float(other))


def test_a_policy_that_is_not_finite_has_no_measures(small):
    world = made(small)
    table = world.policy().next_logps().detach()
    table[0, 0, 0] = math.nan
    assert all(math.isnan(value) for value in world.judged(table).values())
