"""What a loss sees: token log-probs, the direction of a step, and shares of the gradient."""

from dataclasses import replace

import pytest
import torch

from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies.anatomy import parts
from una_ref.training.inspection import Trained, inspected
from una_ref.training.prepare import prepare
from una_ref.training.settings import resolve

TINY = ["shape.hidden_size=16", "shape.num_hidden_layers=1", "shape.intermediate_size=16", "vocabulary=300", "lora_r=2"]
PAIR = Row("What is 2 + 2?", ("It is 4.", "It is 5, I think."), pairs=((0, 1),), source="a.jsonl:1")


def job(method, row, *more):
    config = resolve(method, [*TINY, "held_out=0", "batch=1", *more], data="given")
    return prepare(config, rows=[row])


def only(method, row, *more):
    return next(inspected(job(method, row, *more), 1))


def test_a_step_of_dpo_moves_every_token_of_a_response_by_half_beta_at_the_start():
    # loss = −log σ(β·(r_w − r_l)) with r_w = r_l at the start: −∂/∂log π(y_w) = β·σ(0) = β/2.
    row = only("dpo", PAIR, "beta=0.2")
    chosen, rejected = row.responses
    assert (chosen.feedback, rejected.feedback) == ("chosen", "rejected")
    assert [token.push for token in chosen.tokens] == pytest.approx([0.1] * len(chosen.tokens))
    assert [token.push for token in rejected.tokens] == pytest.approx([-0.1] * len(rejected.tokens))
    assert row.losses == pytest.approx([0.693147], abs=1e-6)


def test_shares_are_the_norms_of_the_gradient_at_the_hidden_states():
    # SFT: L = −Σ log π(y_t), so ∂L/∂h_t = Wᵀ(π(·|h_t) − e_{y_t}).
    one = job("sft", Row("What is 2 + 2?", ("It is 4.",)))
    (response,) = next(inspected(one, 1)).responses
    batch, model = one.trainer.batch([one.examples[0]]), one.trainer.policy.model
    core, head = parts(model)
    with torch.no_grad():
        hidden = core(input_ids=batch.tokens)[0].flatten(0, 1)[batch.predictor]
        weight = head.weight
        error = (hidden @ weight.T).softmax(-1) - torch.nn.functional.one_hot(batch.target, len(weight))
        norms = (error @ weight).norm(dim=-1)
    assert [token.share for token in response.tokens] == pytest.approx((norms / norms.sum()).tolist(), rel=1e-4)
    assert len({round(token.share, 4) for token in response.tokens}) > 1


def test_token_log_probs_add_up_to_those_of_the_responses():
    one = job("dpo", PAIR)
    row = next(inspected(one, 1))
    expected = one.trainer.logps([one.examples[0]])
    for k, response in enumerate(row.responses):
        assert sum(token.logp for token in response.tokens) == pytest.approx(float(expected[k]), abs=1e-4)
        assert [token.ref_logp for token in response.tokens] == pytest.approx([token.logp for token in response.tokens])


def test_the_texts_of_the_tokens_are_the_prompt_and_the_responses():
    one = job("dpo", PAIR)
    row = next(inspected(one, 1))
    assert "".join(token.text for token in row.prompt).endswith("What is 2 + 2?")
    ends = [one.tokenizer.eos_token] * 2
    assert ["".join(token.text for token in response.tokens) for response in row.responses] == [
        response + end for response, end in zip(PAIR.responses, ends, strict=True)
    ]


def test_the_weight_of_a_pair_multiplies_its_loss_and_is_shown_with_its_margin():
    row = only("odpo", replace(PAIR, weights=(3.0,), margins=(0.0,)), "beta=0.2")
    assert row.responses[0].feedback == "chosen, weight 3, margin 0" and row.responses[1].feedback == "rejected"
    assert row.losses == pytest.approx([3 * 0.693147], abs=1e-5)
    assert row.responses[0].tokens[0].push == pytest.approx(3 * 0.1)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = Row(
    ({"role": "user", "content": "What is 2 + 2?"},),
    ("It is 4.",),
    earlier_turns=(({"role": "assistant", "content": "Which base?"}, {"role": "user", "content": "Ten."}),),
)


@pytest.mark.parametrize("method", ["sft", "dpo", "tdpo", "cringe", "una-centred"])
def test_turns_of_a_user_within_a_response_are_shown_as_context_and_no_loss_sees_them(method):
    feedback = {"sft": {}, "una-centred": {"scores": (1.0, 0.0)}}.get(method, {"pairs": ((0, 1),)})
    both = {"responses": ("It is 4.", "No."), "earlier_turns": (*TALK.earlier, ())} if feedback else {}
    one = job(method, replace(TALK, **both, **feedback), f"template={CHATML}", "reference=cache")
    row = next(inspected(one, 1))
    tokens = row.responses[0].tokens
    context = "".join(token.text for token in tokens if not isinstance(token, Trained))
    assert context == "\n<|im_start|>user\nTen.</s>\n<|im_start|>assistant\n"
    trained = "".join(token.text for token in row.responses[0].trained)
    assert trained == "Which base?</s>It is 4.</s>"
    assert sum(token.share for response in row.responses for token in response.trained) == pytest.approx(1)
    expected = one.trainer.logps([one.examples[0]])
    assert sum(token.logp for token in row.responses[0].trained) == pytest.approx(float(expected[0]), abs=1e-4)
    assert any("others are context (turns=all): 1" in note for note in one.notes)


@pytest.mark.parametrize("method", ["orpo", "tdpo", "kto", "una-centred", "grpo"])
def test_methods_without_a_reference_with_distributions_batch_statistics_or_values_are_shown(method):
    rows = [
        Row(f"What is {n} + {n}?", (f"It is {2 * n}.", "No."), source=f"a:{n}", **feedback)
        for n in (1, 2)
        for feedback in [{"labels": (1.0, 0.0)} if method == "kto" else {"scores": (1.0, 0.0)}]
    ]
    config = resolve(method, [*TINY, "held_out=0", "batch=2"], data="toysteer" if method == "grpo" else "given")
    one = prepare(config) if method == "grpo" else prepare(config, rows=rows)
    shown = list(inspected(one, 2))
    assert shown
    for row in shown:
        shares = [token.share for response in row.responses for token in response.tokens]
        assert sum(shares) == pytest.approx(1.0)


def test_a_reward_model_is_refused_since_it_has_no_log_probs():
    with pytest.raises(InputError, match=r"expected a method that trains a policy, got reward-model"):
        only("reward-model", PAIR)
