"""REINFORCE and RLOO: the gradient of J, sample by sample that of UNA, and in expectation exactly ∇J."""

import itertools

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.theory import TableWorld, objective

F64 = torch.float64
BETA = 0.5


def responses(seed=0, size=6):
    torch.manual_seed(seed)
    logps, ref_logps, scores = torch.randn(3, size, dtype=F64)
    return {"logps": logps.requires_grad_(), "ref_logps": ref_logps, "scores": scores, "beta": BETA}


def gradient(name, **arguments):
    return torch.autograd.grad(METHODS[name].loss(**arguments).sum(), arguments["logps"])[0]


def test_by_hand():
    # u = −1 − (−2) = 1; s − β·u = 2 − 0.5 = 1.5; less the baseline 0.5 it is 1: the gradient in log π is −1.
    one = {"ref_logps": torch.tensor([-2.0]), "scores": torch.tensor([2.0]), "beta": BETA}
    assert gradient("reinforce", logps=torch.tensor([-1.0], requires_grad=True), baseline=0.5, **one) == -1.0


def test_rloo_by_hand():
    # π = π_ref, scores 3, 1, 2: the others' means are 1.5, 2.5, 2, so that advantages are 1.5, −1.5, 0.
    logps = torch.zeros(3, dtype=F64, requires_grad=True)
    three = {"ref_logps": torch.zeros(3, dtype=F64), "scores": torch.tensor([3.0, 1.0, 2.0], dtype=F64)}
    found = gradient("rloo", logps=logps, groups=torch.zeros(3, dtype=torch.int64), beta=BETA, **three)
    torch.testing.assert_close(found, torch.tensor([-1.5, 1.5, 0.0], dtype=F64), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("una", "policy_gradient", "more"),
    [
        ("una-score", "reinforce", {"baseline": 0.7}),
        ("una-online", "reinforce", {"baseline": 0.0}),
        ("una-centred", "rloo", {"groups": torch.tensor([0, 0, 0, 1, 1, 1])}),
    ],
)
def test_una_is_two_beta_times_it_sample_by_sample(una, policy_gradient, more):
    arguments = responses()
    twice = 2 * BETA * gradient(policy_gradient, **arguments, **more)
    torch.testing.assert_close(gradient(una, **arguments, **more), twice, rtol=0, atol=1e-14)


def test_the_expected_gradient_of_rloo_is_that_of_minus_j():
    # Every triple of responses with its probability, by enumeration; a sampler that is not π has another expectation.
    torch.manual_seed(1)
    world = TableWorld(torch.randn(1, 4, dtype=F64).log_softmax(-1), torch.randn(1, 4, dtype=F64) + 2, BETA)
    logits = torch.randn(1, 4, dtype=F64, requires_grad=True)

    def expected(sampler):
        logps = logits.log_softmax(-1)[0]
        total = torch.zeros((), dtype=F64)
        for triple in itertools.product(range(4), repeat=3):
            y = list(triple)
            losses = METHODS["rloo"].loss(
                logps=logps[y],
                ref_logps=world.ref_logps[0, y],
                scores=world.rewards[0, y],
                groups=torch.zeros(3, dtype=torch.int64),
                beta=BETA,
            )
            total = total + sampler[y].prod() * losses.mean()
        return torch.autograd.grad(total, logits)[0]

    j = objective(logits.log_softmax(-1), world.ref_logps, world.rewards, BETA).sum()
    (up,) = torch.autograd.grad(j, logits)
    torch.testing.assert_close(expected(logits.softmax(-1)[0].detach()), -up, rtol=0, atol=1e-14)
    assert (expected(torch.full((4,), 0.25, dtype=F64)) + up).abs().max() > 0.05
