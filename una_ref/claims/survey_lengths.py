"""The survey on R-DPO, which charges for length: Eq. 44 to 46."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.claims.example_survey import PAIRS_NOTEBOOK, minus_log_sigmoid, numbers, total_variation
from una_ref.claims.example_worlds import SMALL, distance
from una_ref.claims.ledger import FAILS, SURVEY, Evidence, claim
from una_ref.theory import bradley_terry, fixed_point, optimal_logps
from una_ref.theory.populations import Population, over_pairs

NOTEBOOK = PAIRS_NOTEBOOK


def r_dpo(
    sign: float, preferences: Tensor, ref_logps: Tensor, lengths: Tensor, beta: float, alpha: float
) -> Population:
    """The population loss −log σ(β·h + sign·α·(|y_w| − |y_l|)), from a formula of its own."""
    w, lost = (~torch.eye(len(lengths), dtype=torch.bool)).nonzero(as_tuple=True)
    charge = (sign * alpha * (lengths[w] - lengths[lost])).repeat(len(ref_logps))

    def loss(
        *, chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor
    ) -> Tensor:
        h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
        return -logsigmoid(beta * h + charge)

    return over_pairs(loss, preferences, ref_logps, ref_logps)


@claim(
    "ES22",
    paper=SURVEY,
    place="Eq. 45",
    says="r = β·log(π/π_ref) + β·log Z − α|y|",
    verdict=FAILS,
    instead="+ α|y|, which follows from Eq. 44: π* ∝ π_ref·e^((r − α|y|)/β); the Z below Eq. 45 is right",
    shows="α = 0.3, lengths 1 to 5: r minus the right side {right:.0f} with +, up to {printed:.1f} as printed",
    notebook=NOTEBOOK,
)
def _es22() -> Evidence:
    lengths, alpha, beta = numbers(1, 2, 3, 4, 5), 0.3, SMALL.beta
    charged = SMALL.rewards - alpha * lengths
    best = optimal_logps(SMALL.ref_logps, charged, beta)
    log_z = (SMALL.ref_logps + charged / beta).logsumexp(-1, keepdim=True)
    side = beta * (best - SMALL.ref_logps) + beta * log_z
    right, printed = distance(SMALL.rewards, side + alpha * lengths), distance(SMALL.rewards, side - alpha * lengths)
    return Evidence(
        {"right": round(right, 12), "printed": printed},
        {"the plus is right": right < 1e-13, "the minus is off by 2α|y|": abs(printed - 2 * alpha * 5) < 1e-12},
    )


@claim(
    "ES23",
    paper=SURVEY,
    place="Eq. 46",
    says="R-DPO's margin is β·h − (α|y_w| − α|y_l|)",
    verdict=FAILS,
    instead="β·h + (α|y_w| − α|y_l|): printed, the loss pushes hardest where the chosen response is the longer one",
    shows="h = 0, lengths 100 and 20, α = 0.02: right {right:.5f}, printed {printed:.5f}; optimum for r = (0, 0), "
    "lengths 1 and 3, β = 0.5, α = 0.3: right ({a:.3f}, {b:.3f}), printed ({c:.3f}, {d:.3f})",
    notebook=NOTEBOOK,
)
def _es23() -> Evidence:
    gap = 0.02 * (100 - 20)
    ref = torch.full((1, 2), 0.5, dtype=SMALL.rewards.dtype).log()
    lengths, even = numbers(1, 3), torch.full((1, 2, 2), 0.5, dtype=ref.dtype)
    ends = [fixed_point(r_dpo(sign, even, ref, lengths, 0.5, 0.3), ref) for sign in (1.0, -1.0)]
    best = optimal_logps(ref, -0.3 * lengths[None], 0.5)
    values = [*ends[0].exp()[0].tolist(), *ends[1].exp()[0].tolist()]
    return Evidence(
        {"right": minus_log_sigmoid(gap), "printed": minus_log_sigmoid(-gap)} | dict(zip("abcd", values, strict=True)),
        {
            "the plus has the optimum of Eq. 44": total_variation(ends[0], best) < 1e-8,
            "the minus makes responses longer": values[3] > 0.7,
        },
    )


@claim(
    "CS17",
    paper=SURVEY,
    place="Eq. 46",
    says="the loss of R-DPO restricts the length of responses",
    verdict="holds if the sign of the length term is a plus",
    instead="as printed responses become longer than with DPO",
    shows="mean length, lengths 1 to 5, α = 0.3: DPO {dpo:.2f}, printed {printed:.2f}, with a plus {right:.2f}, "
    "optimum of Eq. 44 {best:.2f}",
    notebook=NOTEBOOK,
)
def _cs17() -> Evidence:
    lengths, preferences = numbers(1, 2, 3, 4, 5), bradley_terry(SMALL.rewards)

    def mean_length(logps: Tensor) -> float:
        return float((logps.exp() * lengths).sum(-1).mean())

    ends = {
        name: fixed_point(r_dpo(sign, preferences, SMALL.ref_logps, lengths, SMALL.beta, 0.3), SMALL.ref_logps)
        for name, sign in (("dpo", 0.0), ("printed", -1.0), ("right", 1.0))
    }
    best = optimal_logps(SMALL.ref_logps, SMALL.rewards - 0.3 * lengths, SMALL.beta)
    values = {name: mean_length(end) for name, end in ends.items()} | {"best": mean_length(best)}
    return Evidence(
        values,
        {
            "printed it lengthens": values["printed"] > values["dpo"] > values["right"],
            "the plus reaches the optimum of Eq. 44": total_variation(ends["right"], best) < 1e-7,
        },
    )
