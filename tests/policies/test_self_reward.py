"""The policy as the judge of its own answers."""

import math
from dataclasses import replace

import pytest
import torch

from una_ref.data import toysteer
from una_ref.data.batch import Example, collate
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.answers import Answer
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.policies.references import Policy
from una_ref.policies.reward_sources import Ensemble, bound, reward_source
from una_ref.policies.self_reward import SelfReward
from una_ref.training.toysteer_base import toysteer_base


@pytest.fixture(scope="module")
def run():
    """ToySteer's policy with a fresh adapter, and its encoder."""
    model, tokenizer = loading.load(str(toysteer_base()))
    return Policy(loading.with_lora(model, r=4)), Encoder(tokenizer, max_length=32)


PROMPT = toysteer.ToySteer(seed=0).prompts[0]


def logps_of(policy, encoder, prompt, *responses):
    ids = encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return sequence_logprobs(policy.model, collate([Example((encoder.tokenizer.bos_token_id, *ids), responses)]))


def test_score_without_a_word_is_the_mean_log_prob_of_a_token(run):
    policy, encoder = run
    answers = [Answer(PROMPT, "a b"), Answer(PROMPT, "a b", ended=False), Answer(PROMPT, "")]
    scores = reward_source("self").bound(policy, encoder)(answers)
    logps = logps_of(policy, encoder, PROMPT, (1, 2, 0), (1, 2), (0,))
    assert scores == pytest.approx((logps / torch.tensor([3, 2, 1])).tolist(), abs=1e-5)


def test_score_with_a_word_is_its_log_prob_after_the_judging_prompt(run):
    policy, encoder = run
    judge = SelfReward("a", question="{prompt} {response} = ").bound(policy, encoder)
    scores = judge([Answer(PROMPT, "b c"), Answer(PROMPT, "d")])
    by_hand = [float(logps_of(policy, encoder, f"{PROMPT} {text} =", (1,))) for text in ("b c", "d")]
    assert scores == pytest.approx(by_hand, abs=1e-5)
    assert reward_source("self:yes") == SelfReward("yes")


@pytest.fixture
def by_hand():
    """A model whose logits after "=" are 2 for the letter a, −1 for e and 8 for b, and its encoder.

    Without attention and MLP the last hidden state is the embedding of the last token over its root mean square. For
    "=" that is √64·(1, 0, …, 0), so a logit is 8 times the first weight of its row.
    """
    model, tokenizer = loading.load(str(toysteer_base()))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight[tokenizer.get_vocab()["="]] = torch.eye(64)[0]
        model.lm_head.weight.zero_()
        for letter, logit in (("a", 2.0), ("e", -1.0), ("b", 8.0)):
            model.lm_head.weight[tokenizer.get_vocab()[letter], 0] = logit / 8
    return Policy(model, has_reference=False), Encoder(tokenizer, max_length=32)


def test_score_of_a_verdict_is_its_log_odds_in_a_model_made_by_hand(by_hand):
    # log π(a) − log π(e) = 2 − (−1): the normaliser, of which b has almost all, cancels.
    judge = reward_source("self:good/bad", world=toysteer.ToySteer(seed=0)).bound(*by_hand)
    assert judge([Answer(PROMPT, "b c"), Answer(PROMPT, "")]) == pytest.approx([3, 3], abs=1e-3)
    opposite = reward_source("self:bad/good", world=toysteer.ToySteer(seed=0)).bound(*by_hand)
    assert opposite([Answer(PROMPT, "b c")]) == pytest.approx([-3], abs=1e-3)
    # One word alone: 2 − log(e² + e⁻¹ + e⁸ + 3), since EOS, c and d have logit 0.
    alone = reward_source("self:good", world=toysteer.ToySteer(seed=0)).bound(*by_hand)
    assert alone([Answer(PROMPT, "b c")]) == pytest.approx([2 - math.log(sum(map(math.exp, (2, -1, 8))) + 3)], abs=1e-3)


def test_verdict_is_about_prompt_and_answer_in_toysteers_words(run):
    policy, encoder = run
    judge = reward_source("self:good/bad", world=toysteer.ToySteer(seed=0)).bound(policy, encoder)
    answers = [Answer(PROMPT, "b c"), Answer(PROMPT, "d"), Answer("copy a b c =", "d")]
    said = [logps_of(policy, encoder, f"{a.prompt} {a.response} =", (1,), (5,)) for a in answers]  # a and e
    scores = judge(answers)
    assert scores == pytest.approx([float(good - bad) for good, bad in said], abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 3


def test_a_judge_of_other_text_asks_in_english():
    judge = reward_source("self:yes/not good")
    assert judge == SelfReward("yes", "not good") != reward_source("self:yes")
    asked = []
    replace(judge, encoder=lambda row: asked.append(row))._example(Answer("Add 2 and 2.", "It is 4."))
    prompt, end = asked[0].prompt, "Is the response above correct, helpful and clear? Answer yes or not good: "
    assert prompt == f"Add 2 and 2.\n\nIt is 4.\n\n{end}" and asked[0].responses == ("yes", "not good")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("self:bad/bad", "reward self: expected two different verdicts, got 'e' twice"),
        ("self:good/a", "reward self: expected two different verdicts, got 'a' twice"),
        ("self:yes/no", "reward self:yes/no: expected verdicts that ToySteer's models know, good, bad or letters a to"),
        ("self:good/", "expected self, self:WORD or self:GOOD/BAD"),
    ],
)
def test_verdicts_that_tell_nothing_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        reward_source(name, world=toysteer.ToySteer(seed=0))


def test_judge_follows_the_policy_as_it_is_trained(run):
    policy, encoder = run
    judge = bound(Ensemble((("self", reward_source("self")),)), policy, encoder)
    before = judge([Answer(PROMPT, "a b")])
    with torch.no_grad():
        for name, weights in policy.named_parameters():
            if "lora_B" in name:
                weights.add_(0.05)
    assert abs(judge([Answer(PROMPT, "a b")])[0] - before[0]) > 1e-3


def test_judge_without_a_policy_is_refused():
    with pytest.raises(InputError, match="reward self: expected a policy under training, got none"):
        reward_source("self")([Answer("p", "a")])


def test_answer_that_does_not_fit_has_no_score(run):
    policy, encoder = run
    long = " ".join("a" for _ in range(40))
    assert reward_source("self").bound(policy, encoder)([Answer(long, "a"), Answer(PROMPT, "a")])[0] is None
