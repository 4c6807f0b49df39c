"""What the stages of sDPO learn from unlimited data: each stage tilts the last policy by the whole reward again."""

import torch

from una_ref.methods import METHODS
from una_ref.theory import TableWorld, bradley_terry, fixed_point
from una_ref.theory.populations import pairs

F64 = torch.float64
BETA = 0.5


def stage(ref_logps, rewards):
    """The policy after DPO on all pairs, with this reference and start."""
    uniform = torch.full_like(ref_logps, 1 / ref_logps.shape[1])
    world = TableWorld(ref_logps, rewards, BETA)
    return fixed_point(pairs(METHODS["sdpo"].loss, world, uniform, bradley_terry(rewards)), ref_logps)


def test_k_stages_learn_the_optimum_at_beta_over_k():
    torch.manual_seed(4)
    start, rewards = torch.randn(3, 4, dtype=F64).log_softmax(-1), torch.randn(3, 4, dtype=F64)
    policy = start
    for k in (1, 2, 3):
        policy = stage(policy, rewards)
        optimum = TableWorld(start, rewards, BETA / k).optimum
        torch.testing.assert_close(policy.exp(), optimum.exp(), rtol=0, atol=1e-7)
    assert (policy.exp() - TableWorld(start, rewards, BETA).optimum.exp()).abs().max() > 0.05
