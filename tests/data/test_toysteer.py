"""ToySteer's ratings by hand, its knobs one by one, and its samples against their probabilities."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from una_ref.data import toysteer
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.data.toysteer import (
    LENGTH,
    LETTERS,
    METRICS,
    Knobs,
    ToySteer,
    answer,
    demonstrations,
    mistake,
    rate,
    score,
    verdicts,
)
from una_ref.theory import PrefixTree

TREE = PrefixTree.of(len(toysteer.VOCABULARY), LENGTH)
PLAIN = ToySteer(seed=0)


def reference(world, seed=0, sharpness=1.0):
    """(X, S) any policy over the world's responses, with short ones likely."""
    noise = torch.randn(world.size, len(TREE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (sharpness * noise - 1.5 * TREE.lengths).log_softmax(-1)


def same_pair(world, n, x=0):
    """(n, 3) one prompt and one pair of its responses, over and over; their rewards differ, but not by much."""
    gap = world.labeller[x] - world.labeller[x, 0]
    other = int((gap - 1.0).abs().argmin())
    return torch.tensor([[x, other, 0]]).expand(n, 3), float(gap[other])


def share(successes, p):
    """A share of n successes lies within 4 standard deviations of p."""
    n = len(successes)
    assert abs(sum(successes) / n - p) < 4 * math.sqrt(p * (1 - p) / n), (sum(successes) / n, p)


# -------------------------------------------------------------------------------------------------------- ratings


@pytest.mark.parametrize(
    ("prompt", "right"),
    [
        ("copy c a b =", "cab"),
        ("reverse c a b =", "bac"),
        ("sort c a b a =", "aabc"),
        ("rotate c a b =", "abc"),
        ("double c a b =", "ccaa"),
        ("double c a =", "ccaa"),
        ("unique c a c a =", "ca"),
    ],
)
def test_answers_follow_the_task(prompt, right):
    assert answer(prompt) == right


@pytest.mark.parametrize(
    ("prompt", "response", "ended", "ratings"),
    [  # helpfulness, correctness, coherence, complexity, verbosity
        ("copy a b =", "ab", True, (4, 4, 4, 2, 2)),  # the answer
        ("reverse a b c =", "cb", True, (2, 2, 4, 2, 2)),  # 2 of 3 letters agree, one is missing
        ("reverse a b c =", "cbaaa", False, (0, 2, 2, 3, 4)),  # 3 of 5 agree, two too many, not ended
        ("reverse a b c =", "", True, (0, 0, 0, 0, 0)),  # three letters are missing, nothing agrees
        ("reverse a b c =", "ddd", True, (2, 0, 1, 1, 3)),  # nothing agrees, three letters from nowhere
        ("sort b a =", "ab", False, (2, 3, 2, 2, 2)),  # the answer, but it does not end
    ],
)
def test_ratings_by_hand(prompt, response, ended, ratings):
    assert rate(prompt, response, ended) == ratings


def test_scores_are_helpsteers_combination():
    for x, prompt in enumerate(PLAIN.prompts):
        best = int(PLAIN.scores[x].argmax())
        assert PLAIN.responses[best] == (answer(prompt), True) and PLAIN.scores[x, best] == 1
        assert int((PLAIN.scores[x] == 1).sum()) == 1
    assert PLAIN.scores.min() >= 0 and PLAIN.scores.max() <= 1
    x, y = 3, 1000
    helpfulness, correctness, coherence, *_ = rate(PLAIN.prompts[x], *PLAIN.responses[y])
    by_hand = (0.65 * helpfulness + 0.8 * correctness + 0.45 * coherence) / 7.6
    assert float(PLAIN.scores[x, y]) == pytest.approx(by_hand)
    assert torch.equal(PLAIN.rewards, 4 * (PLAIN.scores - 0.5))
    assert torch.equal(PLAIN.labeller, PLAIN.rewards)


def test_a_response_is_a_sequence_of_the_tree():
    """All 3,906 responses as text become the very ids of the tree's sequences; those cut have no EOS."""
    texts = tuple(PLAIN.text(y) for y in range(len(TREE)))
    example = Encoder(toysteer.tokenizer(), max_response=LENGTH)(Row(PLAIN.prompts[0], texts))
    assert [list(r) for r in example.responses] == [[t for t in s if t >= 0] for s in TREE.sequences.tolist()]
    assert [ended for _, ended in PLAIN.responses] == [0 in r for r in example.responses]


def test_every_word_is_one_token():
    words = toysteer.tokenizer()
    assert words.convert_ids_to_tokens(toysteer.VOCABULARY) == ["</s>", *LETTERS]
    assert {*toysteer.VOCABULARY, *toysteer.NEVER_EMITTED} == set(range(len(words)))
    for prompt, ids in zip(PLAIN.prompts, toysteer.encoded_prompts(PLAIN, words), strict=True):
        assert words.convert_ids_to_tokens(ids) == ["<s>", *prompt.split()]
    assert words.decode([1, 2, 2]) == "a b b"


def test_the_exact_world_has_the_rewards_and_an_optimum_without_regret():
    next_logps = torch.randn(8, len(TREE.prefixes), 6, dtype=torch.float64).log_softmax(-1)
    world = PLAIN.world(next_logps, beta=0.4)
    assert torch.equal(world.rewards, PLAIN.rewards)
    found = world.metrics(world.optimum)
    assert found["regret"] == pytest.approx(0, abs=1e-12)
    assert found["reward"] > world.metrics(world.ref_logps)["reward"]


# -------------------------------------------------------------------------------------------------------- the knobs


def test_an_offset_moves_rewards_and_no_scores():
    world = ToySteer(seed=0, knobs=Knobs(offset=3.0))
    moved = world.rewards - PLAIN.rewards
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
    assert moved[:, 0].std() > 1 and torch.equal(world.scores, PLAIN.scores)
    torch.testing.assert_close(world.labeller, world.rewards)


def test_a_length_bias_is_the_labellers_alone():
    world = ToySteer(seed=0, knobs=Knobs(length_bias=0.5))
    lengths = torch.tensor([len(y) for y, _ in world.responses], dtype=torch.float64)
    torch.testing.assert_close(world.labeller - world.rewards, (4 * 0.5 * lengths / 5).expand(8, -1))
    assert torch.equal(world.rewards, PLAIN.rewards)


def test_a_trap_pleases_the_labeller_and_costs_the_truth():
    world = ToySteer(seed=0, knobs=Knobs(trap=0.3))
    trapped = torch.tensor(["ee" in y for y, _ in world.responses])
    torch.testing.assert_close(world.labeller - PLAIN.labeller, (4 * 0.3 * trapped.double()).expand(8, -1))
    torch.testing.assert_close(PLAIN.scores - world.scores, (0.3 * trapped.double()).expand(8, -1))
    assert 0 < int(trapped.sum()) < len(TREE) / 4


@pytest.mark.parametrize("wanted", [0.1, 0.7])
def test_positive_share_is_the_share_of_positive_labels(wanted):
    world = ToySteer(seed=0, knobs=Knobs(positive_share=wanted))
    rows = world.feedback(world.draw(2000, reference(world), seed=1), "labels", seed=2)
    share([v for row in rows for v in row.labels], wanted)


def test_label_noise_flips_and_moves():
    noisy = ToySteer(seed=0, knobs=Knobs(label_noise=0.2))
    drawn = PLAIN.draw(2000, reference(PLAIN), seed=1)
    for kind in ("labels", "pairs"):  # the same samples except for the flips
        before, after = (w.feedback(drawn, kind, seed=2) for w in (PLAIN, noisy))
        share([getattr(a, kind)[0] != getattr(b, kind)[0] for a, b in zip(before, after, strict=True)], 0.2)
    assert PLAIN.feedback(drawn, "scores", seed=2) == noisy.feedback(drawn, "scores", seed=2)
    truth = PLAIN.ratings[drawn[:, :1], drawn[:, 1:]].flatten().tolist()
    said = [record[m] for record in noisy.helpsteer(drawn, seed=2) for m in METRICS]
    assert {abs(a - b) for a, b in zip(truth, said, strict=True)} == {0, 1} and {*said} == {0, 1, 2, 3, 4}
    share([a != b for a, b in zip(truth, said, strict=True) if 0 < a < 4], 0.2)


def test_the_program_writes_answers_with_mistakes():
    world = ToySteer(seed=0, knobs=Knobs(writer="program"))
    drawn = world.draw(800, reference(world), seed=1, k=3)
    assert drawn.shape == (800, 4) and drawn[:, 0].tolist() == [i % 8 for i in range(800)]
    right = [world.responses[y][0] == answer(world.prompts[x]) for x, *ys in drawn.tolist() for y in ys]
    assert 0.5 < sum(right) / len(right) < 0.75  # half are without a mistake, and some mistakes change nothing
    assert all(world.responses[y][1] for y in drawn[:, 1:].flatten().tolist())
    with pytest.raises(ValueError, match="writer: expected reference or program, got 'nobody'"):
        Knobs(writer="nobody")


# ------------------------------------------------------------------------------------------------ samples and feedback


def test_sampled_responses_follow_the_reference():
    logps = reference(PLAIN)
    drawn = PLAIN.draw(8000, logps, seed=0, k=3)
    for x in range(8):
        ys = drawn[drawn[:, 0] == x, 1:].flatten()
        top = logps[x].topk(30).indices
        p = torch.cat([logps[x, top].exp(), 1 - logps[x, top].exp().sum(0, keepdim=True)]) * len(ys)
        seen = torch.bincount(ys, minlength=len(TREE))[top].double()
        seen = torch.cat([seen, len(ys) - seen.sum(0, keepdim=True)])
        chi2 = float(((seen - p) ** 2 / p).sum())
        assert p.min() > 5 and chi2 < 30 + 5 * math.sqrt(2 * 30)


def test_untied_rows_never_have_equal_scores():
    logps = reference(PLAIN)
    drawn = PLAIN.draw(200, logps, seed=0, untied=True)
    scores = PLAIN.scores[drawn[:, :1], drawn[:, 1:]]
    assert (scores[:, 0] != scores[:, 1]).all() and drawn[:, 0].tolist() == [i % 8 for i in range(200)]
    assert not torch.equal(drawn, PLAIN.draw(200, logps, seed=0))
    certain = torch.full_like(logps, -torch.inf)
    certain[:, 0] = 0
    with pytest.raises(ValueError, match="untied"):
        PLAIN.draw(8, certain, seed=0, untied=True)


def test_preferences_follow_bradley_terry():
    drawn, gap = same_pair(PLAIN, 4000)
    assert 0.5 < gap < 1.5
    rows = PLAIN.feedback(drawn, "pairs", seed=0)
    share([row.pairs == ((0, 1),) for row in rows], 1 / (1 + math.exp(-gap)))


def test_labels_are_bernoulli_samples():
    drawn, _ = same_pair(PLAIN, 4000)
    rows = PLAIN.feedback(drawn, "labels", seed=0)
    for i in (0, 1):
        reward = float(PLAIN.rewards[0, drawn[0, 1 + i]])
        share([row.labels[i] for row in rows], 1 / (1 + math.exp(-reward)))
    assert {label for row in rows for label in row.labels} == {0.0, 1.0}


def test_score_feedback_is_the_rewards():
    drawn = PLAIN.draw(16, reference(PLAIN), seed=0, k=3)
    for row, (x, *ys) in zip(PLAIN.feedback(drawn, "scores", seed=0), drawn.tolist(), strict=True):
        assert row.prompt == PLAIN.prompts[x] and row.responses == tuple(PLAIN.text(y) for y in ys)
        assert row.scores == tuple(PLAIN.rewards[x, ys].tolist()) and row.kinds == ("scores",)


def test_pairs_of_one_response_and_unknown_kinds_are_refused():
    drawn = PLAIN.draw(8, reference(PLAIN), seed=0, k=1)
    for kind in ("pairs", "stars"):
        with pytest.raises(ValueError, match=f"got '{kind}' with 1 for each prompt"):
            PLAIN.feedback(drawn, kind, seed=0)


def test_rated_rows_have_helpsteer2_columns():
    drawn = PLAIN.draw(16, reference(PLAIN), seed=0)
    records = list(PLAIN.helpsteer(drawn, seed=0))
    assert len(records) == 32
    assert all(list(record) == ["prompt", "response", *METRICS] for record in records)
    assert all(a["prompt"] == b["prompt"] for a, b in zip(records[::2], records[1::2], strict=True))
    for record, (x, y) in zip(records, [(x, y) for x, *ys in drawn.tolist() for y in ys], strict=True):
        assert record["response"] == PLAIN.text(y)
        assert tuple(record[m] for m in METRICS) == rate(PLAIN.prompts[x], *PLAIN.responses[y])
    said = [score for row in PLAIN.rated(drawn, seed=0) for score in row.scores]
    assert said == pytest.approx(PLAIN.scores[drawn[:, :1], drawn[:, 1:]].flatten().tolist())


# ------------------------------------------------------------------------------------------------ demonstrations, seeds


@given(text=st.text(LETTERS, min_size=1, max_size=4), seed=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_mistake_is_a_response_of_letters(text, seed):
    worse = mistake(text, random.Random(seed))
    assert 1 <= len(worse) <= 4 and set(worse) <= set(LETTERS) and abs(len(worse) - len(text)) <= 1


def test_demonstrations_are_imperfect():
    rows = demonstrations(1000, seed=0, errors=0.35)
    assert {row.kinds for row in rows} == {("demos",)}
    right = [row.responses[0].replace(" ", "") == answer(row.prompt) for row in rows]
    assert 0.65 < sum(right) / len(right) < 0.85  # 0.65 without a mistake, and some mistakes change nothing
    perfect = demonstrations(100, errors=0.0)
    assert all(row.responses[0].replace(" ", "") == answer(row.prompt) for row in perfect)
    assert len({row.prompt for row in rows}) > 500


def test_verdicts_are_a_labellers_about_prompts_of_no_world():
    rows = verdicts(4000, seed=0)
    words = toysteer.tokenizer()
    assert all(row.kinds == ("demos",) and row.responses[0] in ("a", "e") for row in rows)
    assert not any(words.unk_token_id in words(row.prompt)["input_ids"] for row in rows)
    asked = [row.prompt.removesuffix(" =").partition(" = ") for row in rows]
    assert not {*PLAIN.prompts} & {f"{task} =" for task, _, _ in asked}
    good = [row.responses == ("a",) for row in rows]
    right = [said.replace(" ", "") == answer(f"{task} =") for task, _, said in asked]
    assert 0.3 < sum(right) / len(right) < 0.7
    # A right answer has score 1, so the log-odds are 16·(1 − 0.9) = 1.6 and P(good) = σ(1.6) = 0.832.
    share([g for g, r in zip(good, right, strict=True) if r], 0.832)
    # Of the others P(good) is σ(16·(score − 0.9)), at most 0.2; by their scores, their mean is known as well.
    rest = [
        (g, score(f"{task} =", said.replace(" ", "")))
        for g, r, (task, _, said) in zip(good, right, asked, strict=True)
        if not r
    ]
    share([g for g, _ in rest], sum(1 / (1 + math.exp(-16 * (q - 0.9))) for _, q in rest) / len(rest))
    assert verdicts(50, seed=5) == verdicts(50, seed=5) != verdicts(50, seed=6)


def test_a_score_is_that_of_the_world():
    for x, y in ((0, 7), (1, 200), (2, 3905)):
        assert score(PLAIN.prompts[x], *PLAIN.responses[y]) == pytest.approx(float(PLAIN.quality[x, y]))


def test_a_seed_determines_the_world():
    knobs = Knobs(offset=1.0, label_noise=0.1)

    def everything(seed):
        world = ToySteer(seed=seed, knobs=knobs)
        drawn = world.draw(32, reference(world), seed=seed, untied=True)
        feedback = [world.feedback(drawn, kind, seed=seed) for kind in ("scores", "labels", "pairs")]
        return world.prompts, world.offsets.tolist(), drawn.tolist(), feedback, world.rated(drawn, seed=seed)

    torch.manual_seed(1)
    first = everything(5)
    torch.manual_seed(2)  # nothing depends on it
    assert everything(5) == first
    assert all(a != b for a, b in zip(everything(6), first, strict=True))
    assert demonstrations(50, seed=5) == demonstrations(50, seed=5) != demonstrations(50, seed=6)
    assert len(set(ToySteer(seed=5).prompts)) == 8
