"""Batches show every predicted token exactly its prompt and its past."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from una_ref.data.batch import Example, collate, microbatches, prefix_tree
from una_ref.errors import InputError
from una_ref.theory import PrefixTree

IDS = st.lists(st.integers(0, 99), min_size=1, max_size=5).map(tuple)
EXAMPLES = st.lists(
    st.builds(Example, prompt=IDS, responses=st.lists(IDS, min_size=1, max_size=4).map(tuple)), min_size=1, max_size=6
)


def past(batch):
    """Of every scored token: the token ids and positions that its predictor sees, in order of place."""
    visible = batch.visible()
    for at in batch.predictor.tolist():
        row, place = divmod(at, batch.tokens.shape[1])
        sees = visible[row, place]
        yield batch.tokens[row][sees].tolist(), batch.positions[row][sees].tolist()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@given(examples=EXAMPLES)
@settings(max_examples=60, deadline=None)
def test_every_token_is_predicted_from_its_prompt_and_its_past(layout, examples):
    batch = collate(examples, layout)
    expected = [([*e.prompt, *r[:t]], r[t]) for e in examples for r in e.responses for t in range(len(r))]
    assert batch.target.tolist() == [token for _, token in expected]
    for (tokens, positions), (before, _) in zip(past(batch), expected, strict=True):
        assert tokens == before
        assert positions == list(range(len(before)))
    count = sum(len(e.responses) for e in examples)
    assert torch.bincount(batch.response, minlength=count).tolist() == batch.lengths.tolist()
    assert (batch.response.diff() >= 0).all()
    assert batch.groups.tolist() == [g for g, e in enumerate(examples) for _ in e.responses]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_padding_sees_itself_alone_and_is_seen_by_nothing_else(layout):
    # Attention over nothing at all would be NaN.
    batch = collate([Example((1,) * n, ((3, 2),)) for n in (30, 26, 23, 20)], layout)
    padding = (batch.tokens == 0).nonzero().tolist()
    assert padding
    for row, place in padding:
        assert batch.visible()[row, place].nonzero().flatten().tolist() == [place]
        assert batch.visible()[row, :, place].nonzero().flatten().tolist() == [place]


def test_values_of_tokens_are_lined_up_by_response():
    batch = collate([Example((1, 2), ((3, 4, 5), (2,))), Example((7,), ((8, 2),))])
    lines = batch.by_response(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert lines.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert batch.by_response(torch.ones(6, 4)).shape == (3, 3, 4)


def test_what_is_known_of_sampled_tokens_is_zero_for_demonstrations():
    sampled = Example((1,), ((2, 3), (4,)), scores=(1.0, 0.0), experience={"old_values": ((0.5, -1.0), (2.0,))})
    batch = collate([sampled, Example((5,), ((6, 2),))])
    assert batch.experience["old_values"].tolist() == [0.5, -1, 2, 0, 0]


@given(examples=EXAMPLES)
@settings(max_examples=30, deadline=None)
def test_packed_rows_hold_each_prompt_once_with_little_padding(examples):
    tokens = collate(examples).tokens
    longest = max(e.tokens for e in examples)
    assert longest <= tokens.shape[1] <= 5 * longest
    assert tokens.numel() < 2 * sum(e.tokens for e in examples) + longest


def test_blocks_share_rows_longer_than_the_longest_block_where_no_two_fit_in_it():
    blocks = [Example((1,) * n, ((2,),)) for n in (300, 260, 230, 200)]
    assert collate(blocks[:1] * 4).tokens.shape == (4, 300)  # without padding, rows are as narrow as possible
    assert collate(blocks).tokens.shape == (2, 500)
    assert [len(run) for run in microbatches(blocks, 1000)] == [4]
    assert [len(run) for run in microbatches(blocks, 999)] == [3, 1]


MIXED = [
    Example((1, 2), ((3, 4, 5, 6, 7), (8, 9)), trained=((True, False, False, True, True), (True, True))),
    Example((1, 2, 3), ((4, 5),)),
]
"""A response whose second and third tokens are context, beside others."""


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_context_within_a_response_is_seen_and_not_scored(layout):
    batch = collate(MIXED, layout)
    assert batch.target.tolist() == [3, 6, 7, 8, 9, 4, 5]
    assert batch.lengths.tolist() == [3, 2, 2] and batch.response.tolist() == [0, 0, 0, 1, 1, 2, 2]
    seen = [tokens for tokens, _ in past(batch)]
    assert seen == [[1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [1, 2], [1, 2, 8], [1, 2, 3], [1, 2, 3, 4]]
    scorer = collate(MIXED, layout, include_last_token=True)
    assert scorer.tokens.flatten()[scorer.predictor].tolist() == scorer.target.tolist() == batch.target.tolist()


@pytest.mark.parametrize("masks", [((True, False),), ((True,),), ((True, True), (True,))])
def test_a_mask_that_does_not_fit_its_response_is_refused(masks):
    with pytest.raises(InputError, match="expected a mask of each response"):
        Example((1,), ((2, 3),), trained=masks)


def test_a_batch_holds_feedback_of_every_kind():
    rows = {
        "pairs": Example((1,), ((2, 0), (3, 0), (4, 0)), pairs=((2, 0), (1, 0)), prompt_index=5, source="a:1"),
        "scores": Example((1, 2), ((2,), (3,)), scores=(0.5, -2.0), prompt_index=6, source="b:2"),
        "demos": Example((3,), ((4, 4, 0),), prompt_index=7, source="c:3"),
        "labels": Example((4,), ((5, 0), (0,)), labels=(1.0, 0.25), prompt_index=5, source="d:4"),
        "lists": Example((6,), ((5,), (7,)), scores=(3.0, 4.0), prompt_index=8, source="e:5", as_list=True),
    }
    assert [e.kind for e in rows.values()] == list(rows)
    assert [e.count for e in rows.values()] == [2, 2, 1, 2, 1]
    batch = collate(list(rows.values()))
    assert batch.pairs.tolist() == [[2, 0], [1, 0]]
    assert batch.scored.tolist() == [3, 4] and batch.listed.tolist() == [8, 9]
    assert batch.scores.isfinite().nonzero()[:, 0].tolist() == [3, 4, 8, 9]
    assert batch.scores[[3, 4, 8, 9]].tolist() == [0.5, -2.0, 3.0, 4.0]
    assert batch.demos.tolist() == [5]
    assert batch.labelled.tolist() == [6, 7] and batch.labels.tolist() == [1.0, 0.25]
    assert batch.groups.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 4, 4] and batch.prompts.tolist() == [5, 6, 7, 5, 8]
    assert batch.lengths.tolist() == [2, 2, 2, 1, 1, 3, 2, 1, 1, 1]
    assert batch.sources == ("a:1", "b:2", "c:3", "d:4", "e:5") and batch.count == 8
    assert collate([Example((1,), ((2,),))]).prompts.tolist() == [0]
    moved = batch.to("meta")
    assert moved.tokens.device.type == moved.labels.device.type == "meta" and moved.layout == "packed"


def test_pairs_of_later_examples_are_renumbered():
    rows = [Example((1,), ((2,), (3,)), pairs=((1, 0),)), Example((2,), ((2,), (3,)), pairs=((0, 1),))]
    assert collate(rows).pairs.tolist() == collate(rows, "padded").pairs.tolist() == [[1, 0], [2, 3]]


def test_an_example_without_tokens_is_refused():
    for prompt, responses in (((), ((1,),)), ((1,), ()), ((1,), ((1,), ()))):
        with pytest.raises(InputError, match="at least one token"):
            Example(prompt, responses)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@given(examples=EXAMPLES, budget=st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_microbatches_keep_the_order_and_stay_within_the_token_budget(layout, examples, budget):
    runs = list(microbatches(examples, budget, layout))
    assert [e for run in runs for e in run] == examples
    held = [collate(run, layout).tokens.numel() for run in runs]  # tokens of the forward pass, padding included
    assert all(len(run) == 1 or size <= budget for run, size in zip(runs, held, strict=True))
    for run, following in zip(runs, runs[1:], strict=False):  # no run has room for the next example
        assert collate([*run, following[0]], layout).tokens.numel() > budget


def test_many_long_responses_are_spread_over_rows_with_copies_of_the_prompt(monkeypatch):
    given = [Example((1, 2), ((3,) * 5,) * 5), Example((1,) * 20, ((4,) * 9,) * 4), Example((1,), ((5,) * 30,))]
    monkeypatch.setattr("una_ref.data.packing.ROOM", 8)
    monkeypatch.setattr("una_ref.data.packing.LINEAR", 0)  # in rows this short attention would have no weight
    batch = collate(given)
    # After the short prompt: two, two and one response of four tokens. After the long one, up to its own length: twice
    # two of eight. The last response alone exceeds ROOM. Blocks of 36, 36, 30 + 6, 10 + 10.
    assert batch.tokens.shape == (4, 36)
    expected = [([*e.prompt, *r[:t]], r[t]) for e in given for r in e.responses for t in range(len(r))]
    for (tokens, positions), (before, _) in zip(past(batch), expected, strict=True):
        assert tokens == before and positions == list(range(len(before)))


@pytest.mark.parametrize(("size", "length"), [(4, 3), (2, 4), (3, 1)])
def test_a_prefix_tree_shows_every_prefix_its_own_past(size, length):
    tree, vocabulary, prompts = PrefixTree.of(size, length), [7, 11, 12, 13][:size], [[1, 2, 3], [5]]
    batch = prefix_tree(prompts, tree.prefixes, vocabulary)
    prefixes = [[vocabulary[t] for t in row if t >= 0] for row in tree.prefixes.tolist()]
    expected = [[*p, *prefix] for p in prompts for prefix in prefixes for _ in vocabulary]
    for (tokens, positions), before in zip(past(batch), expected, strict=True):
        assert tokens == before
        assert positions == list(range(len(before)))
    assert batch.target.tolist() == vocabulary * (len(prompts) * len(prefixes))
    assert batch.groups.tolist() == [x for x in range(2) for _ in range(len(prefixes) * size)]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_with_the_last_token_each_response_token_is_read_at_its_own_position(layout):
    examples = [Example((1, 9), ((5, 6, 2), (7,), (2,)), pairs=((0, 1),)), Example((1, 8, 8), ((5,) * 9,))]
    batch = collate(examples, layout, include_last_token=True)
    assert batch.include_last_token and torch.equal(batch.tokens.flatten()[batch.predictor], batch.target)
    assert batch.lengths.tolist() == [3, 1, 1, 9]
    responses = batch.target.split(batch.lengths.tolist())
    assert [r.tolist() for r in responses] == [[5, 6, 2], [7], [2], [5] * 9]
    visible, width = batch.visible(), batch.tokens.shape[1]
    prompts = [e.prompt for e in examples for _ in e.responses]
    ends = batch.predictor[batch.lengths.cumsum(0) - 1].tolist()
    for end, prompt, response in zip(ends, prompts, responses, strict=True):
        row, at = divmod(end, width)
        seen = visible[row, at].nonzero()[:, 0]
        assert batch.tokens[row][seen].tolist() == [*prompt, *response.tolist()]
        assert batch.positions[row][seen].tolist() == list(range(len(prompt) + len(response)))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_microbatches_with_the_last_token_stay_within_the_token_budget(layout):
    examples = [Example((1, 9), ((5, 6, 2), (7, 2))) for _ in range(20)]
    for tokens in (7, 14, 20, 35):
        cut = list(microbatches(examples, tokens, layout, include_last_token=True))
        assert [e for some in cut for e in some] == examples
        sizes = [collate(some, layout, include_last_token=True).tokens.numel() for some in cut]
        assert all(size <= tokens or len(some) == 1 for size, some in zip(sizes, cut, strict=True))
        fuller = collate([*cut[0], examples[0]], layout, include_last_token=True)
        assert len(cut) == 1 or fuller.tokens.numel() > tokens
