"""The policy as the judge of its own answers."""

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
