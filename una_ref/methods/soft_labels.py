"""The likelihood of a reward model on preference probabilities: soft labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.methods.rewards import margin, per_example


def soft_reward_model(*, chosen_rewards: Tensor, rejected_rewards: Tensor, margins: Tensor) -> Tensor:
    """−p·log σ(m) − (1 − p)·log σ(−m), with m = r_φ(y_w) − r_φ(y_l) and p = σ(`margins`).

    The difference of two scores is the log-odds of the preference. So scores may be log-probabilities of a judge's two
    verdicts, or rewards. Its minimum is at m = `margins`, where `reward_model` on the same pairs has none (m → ∞).

    Lee et al. 2023, Sec. 2.2, https://arxiv.org/abs/2309.00267
    """
    per_example(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margins=margins)
    gap = margin(chosen_rewards, rejected_rewards)
    # (1 − p)·m − log σ(m) is the same number, and exact where log σ(−m) is −m.
    return margins.neg().sigmoid() * gap - logsigmoid(gap)
