"""From a batch to a loss's arguments: every argument of the table, by the loss's signature alone."""

import inspect

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.methods import METHODS
from una_ref.methods.arguments import ARGUMENTS, Need
from una_ref.methods.rewards import f_reward
from una_ref.training.losses import losses_of, win_rates
from una_ref.training.trainer import Trainer

PAIRS = [
    Example((1, 5), ((6, 7, 2), (8, 2)), scores=(0.75, 0.25), pairs=((0, 1),), source="a"),
    Example((1, 9, 4), ((3, 2), (7, 8, 9, 2)), scores=(-1.0, -3.0), pairs=((0, 1),), prompt_index=1, source="b"),
]
LISTS = [
    Example((1, 5), ((6, 2), (8, 2), (9, 2)), scores=(1.0, 2.0, 2.0), as_list=True),
    Example((1, 6), ((6, 2), (8, 2)), scores=(5.0, 4.0), as_list=True, prompt_index=1),
]


def forward(trainer, method, examples, loss, kind, **config):
    """A trainer of `method` with another loss, after a forward pass; returns what the loss was given."""
    given = {}

    def watched(**arguments):
        given.update(arguments)
        return loss(**arguments)

    watched.__signature__ = inspect.signature(loss)
    start = trainer(method, examples, **config)
    one = Trainer(start.policy, {kind: watched}, start.config, prompts=len(examples))
    one.forward(examples)
    return one, given


def test_a_loss_on_pairs_may_ask_for_the_log_probabilities_of_tokens(trainer):
    def loss(
        *,
        chosen_token_logps,
        rejected_token_logps,
        ref_chosen_token_logps,
        chosen_logps,
        rejected_mask,
        chosen_token_ids,
    ):
        return chosen_logps

    one, given = forward(trainer, "dpo", PAIRS, loss, "pairs")
    assert one.needs == {Need.TOKENS, Need.REFERENCE_TOKENS}
    torch.testing.assert_close(given["chosen_token_logps"].sum(1), given["chosen_logps"])
    assert given["rejected_mask"].tolist() == [[True, True, False, False], [True] * 4]
    assert given["chosen_token_ids"].tolist() == [[6, 7, 2, 0], [3, 2, 0, 0]]
    batch = one.batch(PAIRS)
    reference = one.policy.reference(batch)[batch.pairs[:, 0]]
    torch.testing.assert_close(given["ref_chosen_token_logps"].sum(1), reference)
    assert (given["ref_chosen_token_logps"] - given["chosen_token_logps"]).abs().max() > 1e-3


def test_the_cache_holds_the_reference_s_tokens_where_a_loss_asks_for_them(trainer):
    def loss(*, ref_chosen_token_logps, ref_rejected_logps):
        return ref_rejected_logps

    one, given = forward(trainer, "dpo", PAIRS, loss, "pairs")
    computed = dict(given)
    one.remember_reference(PAIRS)
    one.policy.reference_tokens = lambda batch: pytest.fail("computed again")
    one.forward(PAIRS)
    for name, value in computed.items():
        torch.testing.assert_close(given[name], value)


def test_a_loss_may_ask_for_the_whole_next_token_distributions(trainer):
    def loss(*, logits, ref_logits, token_logps, token_ids, mask):
        return token_logps.sum(1)

    given_scores = [Example(e.prompt, e.responses, scores=e.scores) for e in PAIRS]
    _, given = forward(trainer, "una-score", given_scores, loss, "scores")
    assert given["logits"].shape == (4, 4, 40) == given["ref_logits"].shape
    mask = given["mask"]
    torch.testing.assert_close(given["logits"].exp().sum(-1)[mask], torch.ones(int(mask.sum())))
    picked = given["logits"].gather(-1, given["token_ids"][..., None])[..., 0]
    torch.testing.assert_close(picked[mask], given["token_logps"][mask])


def test_scores_beside_pairs_and_their_margin_are_those_of_the_rows(trainer):
    def loss(*, chosen_logps, chosen_scores, rejected_scores, margins):
        return chosen_logps

    _, given = forward(trainer, "dpo", PAIRS, loss, "pairs")
    assert given["chosen_scores"].tolist() == [0.75, -1.0] and given["rejected_scores"].tolist() == [0.25, -3.0]
    assert given["margins"].tolist() == [0.5, 2.0]


def test_lists_are_padded_by_prompt(trainer):
    def loss(*, logps, ref_logps, scores, lengths, mask):
        return (logps * mask).sum(1)

    one, given = forward(trainer, "una-score", LISTS, loss, "lists")
    assert given["mask"].tolist() == [[True, True, True], [True, True, False]]
    assert given["scores"].tolist() == [[1.0, 2.0, 2.0], [5.0, 4.0, 0.0]]
    assert given["lengths"].tolist() == [[2, 2, 2], [2, 2, 0]]
    batch = one.batch(LISTS)
    assert batch.count == 2 == sum(e.count for e in LISTS)
    torch.testing.assert_close(given["logps"][given["mask"]], one.policy(batch))


def test_a_loss_on_lists_has_one_gradient_however_the_batch_is_cut(trainer, gradient):
    def loss(*, logps, scores, mask):
        shares = scores.masked_fill(~mask, -torch.inf).softmax(1)
        return -(shares * logps.masked_fill(~mask, -torch.inf).log_softmax(1).masked_fill(~mask, 0)).sum(1)

    gradients = []
    for tokens in (1, 10**6):
        start = trainer("una-score", LISTS, micro_tokens=tokens)
        one = Trainer(start.policy, {"lists": loss}, start.config)
        gradients.append(gradient(one, LISTS))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().max() > 1e-4


def test_a_win_rate_is_the_share_of_the_other_responses_that_a_response_beats():
    rates = win_rates(collate([*LISTS, Example((1, 7), ((6, 2), (7, 2)), scores=(0.0, 9.0))]))
    assert rates.tolist() == [0.0, 0.75, 0.75, 1.0, 0.0, 0.0, 1.0]


def test_every_argument_of_a_single_response_can_be_given():
    # What `losses_of` itself adds and what the trainer computes, together the whole table but for pairs.
    batch = collate([Example((1, 5), ((6, 2), (8, 2)), scores=(0.0, 1.0))])
    by_trainer = {name for name in ARGUMENTS if name not in ("lengths", "groups", "scores", "labels", "margins")}
    known = {name: torch.zeros(2) for name in by_trainer - {"win_rates", "kl", "rewards"}} | {"kl": torch.tensor(0.0)}
    given = {}

    def loss(**arguments):
        given.update(arguments)
        return arguments["logps"]

    asked = [name for name in ARGUMENTS if name not in ("margins", "labels", "rewards")]
    loss.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in asked])
    losses_of({"scores": loss}, batch, known, {})
    assert set(given) == set(asked)


# ---- the reward that a method reports


def test_metrics_report_the_reward_of_the_method(trainer, examples):
    given = examples("pairs")
    for method, kwargs in (
        ("dpo", {"beta": 0.5}),
        ("ipo", {"beta": 0.5}),
        ("f-dpo", {"beta": 0.5, "divergence": "js"}),
    ):
        one = trainer(method, given, hyper=kwargs)
        batch = one.batch(given)
        logps, ref = one.policy(batch).detach().double(), one.policy.reference(batch).double()
        expected = {"dpo": 0.5 * (logps - ref), "ipo": logps - ref, "f-dpo": f_reward(logps, ref, 0.5, "js")}[method]
        torch.testing.assert_close(one.forward(given).rewards, expected, rtol=1e-6, atol=1e-6)
        assert one.evaluate(given)["rewards/mean"] == pytest.approx(float(expected.mean()), rel=1e-5)


def test_a_method_without_a_reward_reports_none(trainer, examples):
    one = trainer("sft", examples("demos"))
    assert one.forward(examples("demos")).rewards is None
    assert METHODS["sft"].reward.function is None


# ---- the auxiliary loss


def test_demonstrations_beside_ppo_leave_the_gradient_of_ppo_as_it_is(trainer, examples, gradient):
    given, demos = examples("scores"), examples("demos", seed=1)
    gradients = []
    for weight, rows in ((0.0, given), (1e-12, [*given, *demos])):
        start = trainer("ppo", given, hyper={"ptx": weight})
        one = Trainer(start.policy, start.config.losses | start.config.auxiliary, start.config)
        gradients.append(gradient(one, rows))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().max() > 1e-4
