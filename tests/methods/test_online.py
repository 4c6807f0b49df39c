"""On responses sampled from π, the gradient of UNA is exactly a policy gradient."""

import itertools

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.theory import TableWorld, objective

F64 = torch.float64
BETA = 0.5


@pytest.fixture
def world():
    torch.manual_seed(0)
    return TableWorld(torch.randn(3, 5, dtype=F64).log_softmax(-1), torch.randn(3, 5, dtype=F64) + 1, BETA)


@pytest.fixture
def policy():
    """Parameters shared by all prompts, and the policy log π = log softmax(features·parameters)."""
    parameters = torch.randn(4, dtype=F64, requires_grad=True)
    features = torch.randn(3, 5, 4, dtype=F64)
    return parameters, (features @ parameters).log_softmax(-1)


def per_response(loss, logps, world, **arguments):
    values = loss(
        logps=logps.flatten(),
        ref_logps=world.ref_logps.flatten(),
        scores=world.rewards.flatten(),
        beta=BETA,
        **arguments,
    )
    return values.view_as(logps)


@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_una_score_expected_gradient_is_the_policy_gradient(world, policy, baseline):
    # ∇E = Σ_y π·2(βu + b − r)·β∇log π. Since Σ_y π·∇log π = 0, the terms in b and in the 1 from ∇(π·log π) vanish.
    # The rest is −2β·Σ_y π·(r − βu)·∇log π = −2β·∇J. No gradient flows through the sampler: online UNA is read as
    # supervised (EU13).
    parameters, logps = policy
    expected = (logps.exp().detach() * per_response(METHODS["una-score"].loss, logps, world, baseline=baseline)).sum()
    (una,) = torch.autograd.grad(expected, parameters, retain_graph=True)
    (j,) = torch.autograd.grad(objective(logps, world.ref_logps, world.rewards, BETA).sum(), parameters)
    torch.testing.assert_close(una, -2 * BETA * j, rtol=0, atol=1e-12)
    assert j.abs().max() > 0.1


def test_gradient_through_the_sampler_is_not_the_policy_gradient(world, policy):
    parameters, logps = policy
    through_sampler = (logps.exp() * per_response(METHODS["una-score"].loss, logps, world)).sum()
    (una,) = torch.autograd.grad(through_sampler, parameters, retain_graph=True)
    (j,) = torch.autograd.grad(objective(logps, world.ref_logps, world.rewards, BETA).sum(), parameters)
    assert (una + 2 * BETA * j).abs().max() > 0.1


def test_una_score_gradient_on_two_responses_by_hand():
    # At π = (0.6, 0.4), −2·∇J is (−0.285377, 0.285377) in the logits; through the sampler it is (∓0.136864) (EU13).
    # ∇J in the first logit is π₁π₂·(a₁ − a₂) with a = r − log(π/½): 0.24·(1 − log 1.2 + log 0.8) = 0.142688.
    ref, logits = torch.tensor([0.5, 0.5], dtype=F64).log(), torch.tensor([0.6, 0.4], dtype=F64).log()
    scores = torch.tensor([1.0, 0.0], dtype=F64)

    def gradient(fixed_sampler):
        z = logits.clone().requires_grad_()
        logps = z.log_softmax(-1)
        values = METHODS["una-score"].loss(logps=logps, ref_logps=ref, scores=scores, beta=1.0)
        weights = logps.exp().detach() if fixed_sampler else logps.exp()
        return torch.autograd.grad((weights * values).sum(), z)[0].tolist()

    assert gradient(fixed_sampler=True) == pytest.approx([-0.285377, 0.285377], abs=5e-7)
    assert gradient(fixed_sampler=False) == pytest.approx([-0.136864, 0.136864], abs=5e-7)


def test_una_centred_gradient_is_rloo_on_every_sample(world, policy):
    # RLOO is 1/K·Σ_i A_i·∇log π(y_i) with A_i = R_i − mean_{j≠i} R_j and R = s − βu; centred UNA's residual is −A_i.
    # So the gradient of its mean is −2β times RLOO's for each of the 125 triples, not only on average.
    parameters, logps = policy
    worst, largest = 0.0, 0.0
    for prompt, triple in itertools.product(range(3), itertools.product(range(5), repeat=3)):
        policy_logps, ref, scores = (table[prompt][list(triple)] for table in (logps, world.ref_logps, world.rewards))
        loss = METHODS["una-centred"].loss(
            logps=policy_logps, ref_logps=ref, scores=scores, groups=torch.zeros(3, dtype=int), beta=BETA
        )
        (una,) = torch.autograd.grad(loss.mean(), parameters, retain_graph=True)
        shaped = (scores - BETA * (policy_logps - ref)).detach()
        advantages = shaped - (shaped.sum() - shaped) / 2
        (rloo,) = torch.autograd.grad((advantages * policy_logps).mean(), parameters, retain_graph=True)
        worst = max(worst, (una + 2 * BETA * rloo).abs().max().item())
        largest = max(largest, rloo.abs().max().item())
    assert worst < 1e-13 and largest > 0.1
