"""Example arguments have the sizes and ranges that their description promises."""

import torch

from una_ref.methods import METHODS
from una_ref.methods.probe import VOCABULARY, example_arguments


def test_responses_have_one_to_three_tokens_and_the_two_of_a_pair_differ():
    pairs = example_arguments(METHODS["r-dpo"].loss, "pairs", 4)
    assert pairs["chosen_lengths"].tolist() == [1, 2, 3, 1] and pairs["rejected_lengths"].tolist() == [3, 1, 2, 3]
    tokens = example_arguments(METHODS["cringe"].loss, "labels", 4)
    assert tokens["mask"].sum(1).tolist() == [1, 2, 3, 1] and tokens["token_ids"].max() < VOCABULARY
    assert tokens["logits"].shape == (4, 3, VOCABULARY)
    torch.testing.assert_close(tokens["logits"].logsumexp(-1), torch.zeros(4, 3, dtype=torch.float64))


def test_lists_have_two_and_three_responses_in_turn_with_the_best_first():
    lists = example_arguments(METHODS["lipo"].loss, "lists", 4)
    assert lists["mask"].sum(1).tolist() == [2, 3, 2, 3]
    assert (lists["scores"].diff(dim=1) <= 0).all()
    assert lists["scores"].min() >= 0 and lists["scores"].max() <= 1


def test_values_are_plausible_and_neighbours_share_a_prompt():
    single = example_arguments(METHODS["una-centred"].loss, "scores", 5)
    assert single["groups"].tolist() == [0, 0, 1, 1, 2]
    labelled = example_arguments(METHODS["kto"].loss, "labels", 50)
    assert (labelled["logps"] < 0).all() and labelled["kl"] > 0
    assert labelled["labels"].min() >= 0 and labelled["labels"].max() <= 1
    assert not torch.equal(labelled["logps"], labelled["ref_logps"])
