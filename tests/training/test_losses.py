"""From a batch to the arguments of a loss, which its signature names."""

import inspect
import json
import math
from dataclasses import replace

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.methods.arguments import ARGUMENTS, Need
from una_ref.methods.rewards import f_reward
from una_ref.training.losses import losses_of, win_rates
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve
from una_ref.training.trainer import Trainer

PAIRS = [
    Example((1, 5), ((6, 7, 2), (8, 2)), scores=(0.75, 0.25), pairs=((0, 1),), source="a"),
    Example((1, 9, 4), ((3, 2), (7, 8, 9, 2)), scores=(-1.0, -3.0), pairs=((0, 1),), prompt_index=1, source="b"),
]
LISTS = [
    Example((1, 5), ((6, 2), (8, 2), (9, 2)), scores=(1.0, 2.0, 2.0), as_list=True),
    Example((1, 6), ((6, 2), (8, 2)), scores=(5.0, 4.0), as_list=True, prompt_index=1),
]


def forward(make_trainer, method, examples, loss, kind, **config):
    """A trainer of `method` with another loss, after a forward pass, and the arguments that the loss received."""
    given = {}

    def watched(**arguments):
        given.update(arguments)
        return loss(**arguments)

    watched.__signature__ = inspect.signature(loss)
    start = make_trainer(method, examples, **config)
    trainer = Trainer(start.policy, {kind: watched}, start.config, prompts=len(examples))
    trainer.forward(examples)
    return trainer, given


def test_pair_loss_receives_token_log_probs(make_trainer):
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

    trainer, given = forward(make_trainer, "dpo", PAIRS, loss, "pairs")
    assert trainer.needs == {Need.TOKENS, Need.REFERENCE_TOKENS}
    torch.testing.assert_close(given["chosen_token_logps"].sum(1), given["chosen_logps"])
    assert given["rejected_mask"].tolist() == [[True, True, False, False], [True] * 4]
    assert given["chosen_token_ids"].tolist() == [[6, 7, 2, 0], [3, 2, 0, 0]]
    batch = trainer.batch(PAIRS)
    reference = trainer.policy.reference(batch)[batch.pairs[:, 0]]
    torch.testing.assert_close(given["ref_chosen_token_logps"].sum(1), reference)
    assert (given["ref_chosen_token_logps"] - given["chosen_token_logps"]).abs().max() > 1e-3


def test_reference_cache_holds_token_log_probs_if_a_loss_takes_them(make_trainer):
    def loss(*, ref_chosen_token_logps, ref_rejected_logps):
        return ref_rejected_logps

    trainer, given = forward(make_trainer, "dpo", PAIRS, loss, "pairs")
    computed = dict(given)
    trainer.remember_reference(PAIRS)
    trainer.policy.reference_tokens = lambda batch: pytest.fail("computed again")
    trainer.forward(PAIRS)
    for name, value in computed.items():
        torch.testing.assert_close(given[name], value)


def test_loss_receives_full_next_token_distributions(make_trainer):
    def loss(*, logits, ref_logits, token_logps, token_ids, mask):
        return token_logps.sum(1)

    given_scores = [Example(e.prompt, e.responses, scores=e.scores) for e in PAIRS]
    _, given = forward(make_trainer, "una-score", given_scores, loss, "scores")
    assert given["logits"].shape == (4, 4, 40) == given["ref_logits"].shape
    mask = given["mask"]
    torch.testing.assert_close(given["logits"].exp().sum(-1)[mask], torch.ones(int(mask.sum())))
    picked = given["logits"].gather(-1, given["token_ids"][..., None])[..., 0]
    torch.testing.assert_close(picked[mask], given["token_logps"][mask])


def test_a_margin_of_a_pair_stands_in_place_of_the_difference_of_its_scores(make_trainer):
    def loss(*, chosen_logps, margins):
        return chosen_logps

    pairs = [PAIRS[0], replace(PAIRS[1], margins=(-0.25,)), replace(PAIRS[1], scores=None, margins=(7.0,))]
    _, given = forward(make_trainer, "dpo", pairs, loss, "pairs")
    assert given["margins"].tolist() == [0.5, -0.25, 7.0]


def test_pair_loss_receives_scores_and_margins_of_the_rows(make_trainer):
    def loss(*, chosen_logps, chosen_scores, rejected_scores, margins):
        return chosen_logps

    _, given = forward(make_trainer, "dpo", PAIRS, loss, "pairs")
    assert given["chosen_scores"].tolist() == [0.75, -1.0] and given["rejected_scores"].tolist() == [0.25, -3.0]
    assert given["margins"].tolist() == [0.5, 2.0]


def test_list_loss_receives_tensors_padded_by_prompt(make_trainer):
    def loss(*, logps, ref_logps, scores, lengths, mask):
        return (logps * mask).sum(1)

    trainer, given = forward(make_trainer, "una-score", LISTS, loss, "lists")
    assert given["mask"].tolist() == [[True, True, True], [True, True, False]]
    assert given["scores"].tolist() == [[1.0, 2.0, 2.0], [5.0, 4.0, 0.0]]
    assert given["lengths"].tolist() == [[2, 2, 2], [2, 2, 0]]
    batch = trainer.batch(LISTS)
    assert batch.count == 2 == sum(e.count for e in LISTS)
    torch.testing.assert_close(given["logps"][given["mask"]], trainer.policy(batch))


def test_list_loss_gradient_does_not_depend_on_micro_batches(make_trainer, gradient):
    def loss(*, logps, scores, mask):
        shares = scores.masked_fill(~mask, -torch.inf).softmax(1)
        return -(shares * logps.masked_fill(~mask, -torch.inf).log_softmax(1).masked_fill(~mask, 0)).sum(1)

    gradients = []
    for tokens in (1, 10**6):
        start = make_trainer("una-score", LISTS, micro_tokens=tokens)
        trainer = Trainer(start.policy, {"lists": loss}, start.config)
        gradients.append(gradient(trainer, LISTS))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert gradients[0].abs().max() > 1e-4


def test_win_rate_is_the_share_of_other_responses_beaten():
    rates = win_rates(collate([*LISTS, Example((1, 7), ((6, 2), (7, 2)), scores=(0.0, 9.0))]))
    assert rates.tolist() == [0.0, 0.75, 0.75, 1.0, 0.0, 0.0, 1.0]


def test_every_single_response_argument_is_available():
    # `losses_of` adds some arguments and the trainer computes the others. Together they are all but those of pairs.
    batch = collate([Example((1, 5), ((6, 2), (8, 2)), scores=(0.0, 1.0))])
    by_trainer = {name for name in ARGUMENTS if name not in ("lengths", "groups", "scores", "labels", "margins")}
    known = {name: torch.zeros(2) for name in by_trainer - {"win_rates", "kl", "rewards"}} | {"kl": torch.tensor(0.0)}
    given = {}

    def loss(**arguments):
        given.update(arguments)
        return arguments["logps"]

    expected = [name for name in ARGUMENTS if name not in ("margins", "labels", "rewards")]
    loss.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in expected])
    losses_of({"scores": loss}, batch, known, {})
    assert set(given) == set(expected)


# ---- the reward that a method reports


def test_metrics_report_the_reward_of_the_method(make_trainer, examples):
    given = examples("pairs")
    for method, kwargs in (
        ("dpo", {"beta": 0.5}),
        ("ipo", {"beta": 0.5}),
        ("f-dpo", {"beta": 0.5, "divergence": "js"}),
    ):
        trainer = make_trainer(method, given, loss_kwargs=kwargs)
        batch = trainer.batch(given)
        logps, ref = trainer.policy(batch).detach().double(), trainer.policy.reference(batch).double()
        expected = {"dpo": 0.5 * (logps - ref), "ipo": logps - ref, "f-dpo": f_reward(logps, ref, 0.5, "js")}[method]
        torch.testing.assert_close(trainer.forward(given).rewards, expected, rtol=1e-6, atol=1e-6)
        assert trainer.evaluate(given)["rewards/mean"] == pytest.approx(float(expected.mean()), rel=1e-5)


def test_method_without_a_reward_reports_none(make_trainer, examples):
    trainer = make_trainer("sft", examples("demos"))
    assert trainer.forward(examples("demos")).rewards is None
    assert METHODS["sft"].reward.function is None


# ---- the auxiliary loss


def test_demonstrations_leave_the_ppo_gradient_unchanged(make_trainer, examples, gradient):
    given, demos = examples("scores"), examples("demos", seed=1)
    gradients = []
    for weight, rows in ((0.0, given), (1e-12, [*given, *demos])):
        start = make_trainer("ppo", given, loss_kwargs={"ptx": weight})
        trainer = Trainer(start.policy, start.config.losses_by_kind | start.config.auxiliary, start.config)
        gradients.append(gradient(trainer, rows))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().max() > 1e-4


def test_logged_loss_leaves_out_the_auxiliary_loss(make_trainer, examples):
    given, demos = examples("scores"), examples("demos", seed=1)
    start = make_trainer("ppo", given, loss_kwargs={"ptx": 5.0})
    trainer = Trainer(start.policy, start.config.losses_by_kind | start.config.auxiliary, start.config)
    alone = trainer.accumulate(given)["loss"]
    assert trainer.accumulate([*given, *demos])["loss"] == pytest.approx(alone, rel=1e-4)


def test_packed_layout_is_refused_for_a_model_that_only_takes_padded(make_trainer, examples, monkeypatch):
    monkeypatch.setattr("una_ref.training.trainer.layouts", lambda model: ("padded",))
    with pytest.raises(InputError, match="layout=packed: expected one of padded, which this model takes"):
        make_trainer("dpo", examples("pairs"), layout="packed")


# ---- lists and scores beside pairs, from rows to a trained policy


def listwise(*, logps, ref_logps, scores, mask, beta=1.0):
    """Cross-entropy of softmax(scores) with softmax(β·log π/π_ref) over a list (ListNet)."""
    rewards = (beta * (logps - ref_logps)).masked_fill(~mask, -torch.inf)
    targets = scores.masked_fill(~mask, -torch.inf).softmax(1)
    return -(targets * rewards.log_softmax(1).masked_fill(~mask, 0)).sum(1)


def margin_weighted(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, margins, beta=0.1):
    """DPO weighted by the difference of the scores."""
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    given = (chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return margins * METHODS["dpo"].loss(**dict(zip(names, given, strict=True)), beta=beta)


def register(monkeypatch, name, **record):
    """A method of that name in the registry: una-score with other fields."""
    method = replace(METHODS["una-score"], name=name, printed=None, released=None, **record)
    monkeypatch.setattr(METHODS, "_methods", {**METHODS._methods, name: method})


@pytest.mark.parametrize("online", [False, True])
def test_method_on_lists_is_one_record(online, monkeypatch, data, tiny):
    register(monkeypatch, "listwise", losses={"lists": listwise}, baseline="none")
    settings = ["samples=4", "lr=3e-3", "batch=8"] if online else [*tiny, "held_out=0"]
    file = {} if online else {"data": data("scores")}
    job = prepare(resolve("listwise", settings, steps=12, online=online, **file))
    rows, _ = job.answered(job.examples[:4], 0, record=False)
    assert {row.kind for row in rows} == {"lists"} and all(len(row.responses) > 1 for row in rows)
    losses = [job.step(step, record=True)["loss"] for step in range(12)]
    assert all(map(math.isfinite, losses)) and job.trainer.losses.keys() == {"lists"}
    if not online:
        assert any("scores -> lists (best first): 12 lists, 36 responses" in note for note in job.notes)


def test_pairs_keep_their_scores_where_the_loss_asks(monkeypatch, tmp_path, tiny):
    register(monkeypatch, "margin-weighted", losses={"pairs": margin_weighted}, baseline="none")
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "red", "chosen": " cat", "rejected": " dog", "chosen_score": 4.0, "rejected_score": 1.5}
    path.write_text("".join(json.dumps(row | {"prompt": f"red {i}"}) + "\n" for i in range(4)))
    job = prepare(resolve("margin-weighted", [*tiny, "held_out=0"], data=str(path)))
    assert {(e.kind, e.scores) for e in job.examples} == {("pairs", (4.0, 1.5))}
    assert job.trainer.forward(job.examples[:2]).values.tolist() == pytest.approx([2.5 * math.log(2)] * 2)
    plain = prepare(resolve("dpo", [*tiny, "held_out=0"], data=str(path)))
    assert {e.scores for e in plain.examples} == {None}
    path.write_text(json.dumps({"prompt": "red", "chosen": " cat", "rejected": " dog"}) + "\n")
    with pytest.raises(InputError, match="scores: expected scores beside pairs, for the margins of the loss"):
        prepare(resolve("margin-weighted", tiny, data=str(path)))
