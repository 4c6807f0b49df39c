"""What is measured of a policy on real text: against values by hand, plain forwards, and sums over all next tokens."""

import math
from types import SimpleNamespace

import pytest
import torch

from una_ref.data.rows import Row
from una_ref.policies import loading
from una_ref.policies.rollout import Sample
from una_ref.studies import real_measures as measures
from una_ref.training.config import Config
from una_ref.training.prepare import prepare


@pytest.fixture
def job(real_folders, tmp_path, monkeypatch):
    """A job whose adapters are not zero."""
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path))
    model, tokenizer = loading.load(str(real_folders[1]))
    rows = [Row("red green", ("good old", "bad"), pairs=((0, 1),)), Row("blue", ("warm", "cold big"), pairs=((0, 1),))]
    made = prepare(Config("sft", data="text", held_out=0.0, lora_r=2), rows=rows, model=model, tokenizer=tokenizer)
    draw = torch.Generator().manual_seed(0)
    for name, weight in made.trainer.policy.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=draw)
    return SimpleNamespace(job=made, rows=rows)


def logits(job, ids, *, adapters):
    model = job.trainer.policy.model
    with torch.no_grad():
        if adapters:
            return model(torch.tensor([ids])).logits[0].double()
        with model.disable_adapter():
            return model(torch.tensor([ids])).logits[0].double()


def test_a_margin_is_the_difference_of_two_log_ratios(job):
    expected = []
    for example in job.job.encoder.encode(job.rows):
        ratios = []
        for response in example.responses:
            ids = [*example.prompt, *response]
            at = range(len(example.prompt) - 1, len(ids) - 1)
            logps = [logits(job.job, ids, adapters=on).log_softmax(-1) for on in (True, False)]
            ratios.append(sum(float(logps[0][t, ids[t + 1]] - logps[1][t, ids[t + 1]]) for t in at))
        expected.append(ratios[0] - ratios[1])
    assert max(map(abs, expected)) > 0.1
    swapped = [Row(row.prompt, row.responses, pairs=((1, 0),)) for row in job.rows]
    assert measures.margins(job.job, job.rows) == pytest.approx(expected, abs=1e-4)
    assert measures.margins(job.job, swapped) == pytest.approx([-margin for margin in expected], abs=1e-4)


def test_the_kl_of_a_sample_is_the_sum_of_its_tokens_exact_ones(job):
    prompts = [tuple(job.job.encoder.prompt_ids(row)) for row in job.rows]
    samples = [Sample((5, 9, 7), False, 0.0), Sample((6,), True, 0.0)]
    expected = []
    for prompt, one in zip(prompts, samples, strict=True):
        ids = [*prompt, *one.tokens]
        own, ref = (logits(job.job, ids, adapters=on).log_softmax(-1) for on in (True, False))
        terms = (own.exp() * (own - ref)).sum(-1)
        expected.append(float(terms[len(prompt) - 1 : -1].sum()))
    assert min(expected) > 1e-3
    assert measures.kl(job.job.trainer.policy, prompts, samples) == pytest.approx(expected, rel=1e-3)


def test_samples_depend_on_the_seed_alone(job):
    prompts = [tuple(job.job.encoder.prompt_ids(row)) for row in job.rows]
    first, again, other = (measures.sample(job.job, prompts, max_new=6, seed=seed) for seed in (0, 0, 1))
    assert [one.tokens for one in first] == [one.tokens for one in again] != [one.tokens for one in other]
    assert all(len(one.tokens) <= 6 for one in first)


def test_accuracies_and_log_losses_by_hand():
    assert measures.accuracies([2.0, -0.5, 0.0]) == [1.0, 0.0, 0.5]
    losses = measures.log_losses([0.0, 1.0, -1.0, -1e5])
    assert losses == pytest.approx([math.log(2), math.log(1 + math.exp(-1)), math.log(1 + math.e), 1e5])


def test_a_judge_is_right_where_the_chosen_response_has_more_reward():
    def length(answers):
        return [float(len(answer.response)) for answer in answers]

    rows = [
        Row("x", ("aaa", "a"), pairs=((0, 1),)),
        Row("x", ("aaa", "a"), pairs=((1, 0),)),
        Row("x", ("aa", "bb"), pairs=((0, 1),)),
    ]
    assert measures.judged_pairs(length, rows) == [1.0, 0.0, 0.5]
    stored = [{"response": "a", "ended": False}]
    (answer,) = measures.answers(rows[:1], stored)
    assert (answer.prompt, answer.response, answer.ended) == ("x", "a", False)
