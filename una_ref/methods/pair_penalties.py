"""DPO with one more term in its margin: of the chosen log-ratio, of the lengths, or of the batch.

Losses on pairs, (P,) -> (P,). Every loss raises ValueError for tensors of different shapes, for a β that is not
positive, and for a negative weight of its term.
"""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.methods.pair_margins import implicit_margin
from una_ref.methods.ranges import at_least_zero, positive
from una_ref.methods.rewards import log_ratio, margin
from una_ref.methods.shapes import logistic

LEAST_BETA = 1e-3
"""The smallest β of a batch in β-DPO, as in the authors' code."""


def dpop(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.3,
    lam: float = 50.0,
) -> Tensor:
    """−log σ(β·[h − λ·max(0, −u(y_w))]) with u = log π/π_ref and h = u(y_w) − u(y_l) (survey Eq. 13).

    DPO can lower both log-probabilities of a pair as long as their difference grows. The penalty acts where the chosen
    response has become less likely than under π_ref. In the paper it is inside σ and times β. The survey has it outside
    (ES5, `dpop_printed`). For λ = 0 it is DPO. For λ > 0 the optimum is not π* but nearer to π_ref: where either
    response may be the chosen one, lowering any of them costs the penalty. The defaults are the paper's.

    Pal et al. 2024, https://arxiv.org/abs/2402.13228
    """
    at_least_zero(lam=lam)
    logps = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
    reference = {"ref_chosen_logps": ref_chosen_logps, "ref_rejected_logps": ref_rejected_logps}
    difference = implicit_margin(beta, **logps, **reference)
    return logistic(difference - beta * lam * shortfall(chosen_logps, ref_chosen_logps))  # survey Eq. 13, inside σ


def dpop_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.3,
    lam: float = 50.0,
) -> Tensor:
    """−log σ(β·h) + λ·max(0, −u(y_w)): the survey's Eq. 13 as printed, https://arxiv.org/abs/2407.16216.

    Outside of σ the penalty has a slope of λ wherever it acts, at every β and however well the pair is ranked (ES5).
    """
    at_least_zero(lam=lam)
    logps = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
    reference = {"ref_chosen_logps": ref_chosen_logps, "ref_rejected_logps": ref_rejected_logps}
    return logistic(implicit_margin(beta, **logps, **reference)) + lam * shortfall(chosen_logps, ref_chosen_logps)


def shortfall(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """max(0, −log π/π_ref): by how many nats a response is less likely than under the reference."""
    return (-log_ratio(logps, ref_logps)).relu()  # no gradient at 0, where every run starts


def r_dpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float = 0.1,
    alpha: float = 0.01,
) -> Tensor:
    """−log σ(r_θ(y_w) − r_θ(y_l) + α·|y_w| − α·|y_l|) with lengths in tokens (survey Eq. 46, sign corrected).

    From Eq. 44 the reward is r = r_θ + β·log Z + α·|y|. A chosen response that is longer is therefore already partly
    explained, and pushes less. The survey prints minus in Eq. 45 and 46 (ES22, ES23, `r_dpo_printed`). The optimum
    under Bradley–Terry preferences is Eq. 44's, π ∝ π_ref·exp((r − α·|y|)/β). For α = 0 it is DPO.

    Park et al. 2024, https://arxiv.org/abs/2403.19159
    """
    at_least_zero(alpha=alpha)
    difference = implicit_margin(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    longer = margin(chosen_lengths, rejected_lengths).to(difference)
    return logistic(difference + alpha * longer)  # survey Eq. 46 with the sign of Eq. 44


def r_dpo_printed(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float = 0.1,
    alpha: float = 0.01,
) -> Tensor:
    """−log σ(r_θ(y_w) − r_θ(y_l) − (α·|y_w| − α·|y_l|)): the survey's Eq. 46 as printed (ES22, ES23).

    It pushes hardest where the chosen response is the longer one. Its optimum is π ∝ π_ref·exp((r + α·|y|)/β): it
    lengthens responses.

    https://arxiv.org/abs/2407.16216
    """
    at_least_zero(alpha=alpha)
    difference = implicit_margin(
        beta,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return logistic(difference - alpha * margin(chosen_lengths, rejected_lengths).to(difference))  # survey Eq. 46


def beta_dpo(
    *,
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    batch_gap: Tensor | float,
    running_gap: Tensor | float,
    running_gap_sd: Tensor | float,
    beta: float = 0.1,
    alpha: float = 0.6,
    filtering: float = 1.0,
) -> Tensor:
    """−w·log σ(β_batch·h) with β_batch = β·[1 + α·(`batch_gap` − `running_gap`)] (survey Eq. 14), without its gradient.

    h is the pair's gap of log-ratios in nats, `batch_gap` its mean over the batch, and `running_gap` the threshold M₀.
    As printed, β_batch may be negative, and the loss then rewards wrong rankings (ES6). It is therefore at least
    `LEAST_BETA`, as in the authors' code.

    The authors train on a share of the batch, sampled with the weights exp(−(h − M₀)²/2σ²), σ = `running_gap_sd`. Here
    every pair stays, and w is that weight to the power of `filtering`, without gradient. Both prefer ordinary pairs.
    Here nothing is random, and `batch_gap` is of all pairs. With `filtering` = 0 all pairs count alike. With α = 0 as
    well it is DPO.

    Wu et al. 2024, https://arxiv.org/abs/2407.08639
    """
    positive(beta=beta)
    at_least_zero(alpha=alpha, filtering=filtering)
    gaps = implicit_margin(
        1.0,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    of_batch, threshold, spread = (
        torch.as_tensor(x).to(gaps).detach() for x in (batch_gap, running_gap, running_gap_sd)
    )
    of_batch = (beta * (1 + alpha * (of_batch - threshold))).clamp(min=LEAST_BETA)  # survey Eq. 14, bounded below
    # The limits keep 0/0 out, where all gaps are equal as before the first step, and 0·∞ where filtering is off.
    deviation = (gaps.detach() - threshold) / spread.clamp(min=torch.finfo(spread.dtype).eps)
    weights = (-0.5 * filtering * deviation.clamp(-100, 100) ** 2).exp()
    return weights * logistic(of_batch * gaps)
