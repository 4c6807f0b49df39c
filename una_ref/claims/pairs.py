"""UNA Eq. 8: the loss on pairs, with and without −log σ (notebook 04)."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.claims.worlds import SMALL, distance, shifted, slope
from una_ref.methods import METHODS
from una_ref.theory import bradley_terry, fixed_point
from una_ref.theory.populations import pairs

F64 = torch.float64
NOTEBOOK = "04_una_losses"


def pair_at(gap: Tensor | float) -> dict[str, Tensor]:
    """A pair whose margin is `gap` at β = 1."""
    chosen = torch.as_tensor(gap, dtype=F64).reshape(-1)
    zero = torch.zeros_like(chosen)
    return {"chosen_logps": chosen, "rejected_logps": zero, "ref_chosen_logps": zero, "ref_rejected_logps": zero}


def dpo_error() -> float:
    """max |π − π*| where DPO ends on Bradley–Terry preferences."""
    population = pairs(METHODS["una-pair"].loss, SMALL, SMALL.ref_logps.exp(), bradley_terry(SMALL.rewards))
    return distance(fixed_point(population, SMALL.ref_logps).exp(), SMALL.optimum.exp())


@claim(
    "EU7",
    paper=UNA,
    place="Eq. 8",
    says="the loss on pairs is −E(r_θ(y_w) − r_θ(y_l)), “equivalent to DPO”",
    verdict=FAILS,
    instead="−log σ of the difference is DPO; the difference itself has no minimiser and pushes every pair alike",
    shows="at margins 0 and 1000: printed {printed0:.0f} and {printed1000:.0f} with slope {push0:.0f} and "
    "{push1000:.0f}; DPO's slope {dpo0:.2f} and {dpo1000:.2f}",
    notebook=NOTEBOOK,
)
def _eu7() -> Evidence:
    pair = METHODS["una-pair"]
    margins = torch.tensor([0.0, 1000.0], dtype=F64).requires_grad_()
    assert pair.printed is not None
    printed, right = pair.printed(**pair_at(margins), beta=1.0), pair.loss(**pair_at(margins), beta=1.0)
    push, dpo = (torch.autograd.grad(loss.sum(), margins)[0] + 0.0 for loss in (printed, right))
    printed, margins = printed.detach() + 0.0, margins.detach()
    numbers = {
        "printed0": float(printed[0]),
        "printed1000": float(printed[1]),
        "push0": float(push[0]),
        "push1000": float(push[1]),
        "dpo0": float(dpo[0]),
        "dpo1000": float(dpo[1]),
    }
    return Evidence(
        numbers,
        {
            "as printed it falls without end, at one slope": bool((printed + margins).abs().max() < 1e-12)
            and bool((push == -1).all()),
            "with −log σ the push on a pair that is won goes to 0": float(dpo[0]) == -0.5 and float(dpo[1]) == 0,
            "with −log σ its minimiser is π*": dpo_error() < 1e-8,
        },
    )


@claim(
    "EU8",
    paper=UNA,
    place="line below Eq. 8",
    says="L'_UNA-pair = L_DPO = −E log[r_φ(y_w) − r_φ(y_l)]",
    verdict=FAILS,
    instead="−E log σ(r_θ(y_w) − r_θ(y_l)): σ is missing, and φ stands for θ",
    shows="difference 0.5: printed {printed:.4f}, right {right:.4f}; difference −1: the log of a negative number, "
    "right {wrong_order:.4f}",
    notebook=NOTEBOOK,
)
def _eu8() -> Evidence:
    gaps = torch.tensor([0.5, -1.0], dtype=F64)
    printed, right = -gaps.log(), METHODS["una-pair"].loss(**pair_at(gaps), beta=1.0)
    return Evidence(
        {"printed": float(printed[0]), "right": float(right[0]), "wrong_order": float(right[1])},
        {
            "they differ": abs(float(printed[0] - right[0])) > 0.2,
            "as printed a wrong order has no loss": bool(printed[1].isnan()),
            "the right one is −log σ": distance(right, -gaps.sigmoid().log()) < 1e-12,
        },
    )


@claim(
    "CU10",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 8; Table 1 “DPO (UNA-pairwise)”",
    says="on pairs UNA and DPO are equivalent",
    verdict="holds if −log σ is put around the difference, which is the whole of DPO's shape",
    instead="descent on Eq. 8 as printed goes on for ever; with −log σ the fixed point is π* at any reward offset",
    shows="Eq. 8 after 100 and 1000 steps of descent {short:.1f} and {long:.1f}; with −log σ the distance to π* is 0",
    notebook=NOTEBOOK,
)
def _cu10() -> Evidence:
    method, sampler = METHODS["una-pair"], SMALL.ref_logps.exp()
    preferences = bradley_terry(SMALL.rewards)
    assert method.printed is not None
    printed = pairs(method.printed, SMALL, sampler, preferences)
    logits, at = SMALL.ref_logps, {}
    for step in range(1, 1001):
        logits = logits - slope(printed, logits)
        at[step] = float(printed(logits.log_softmax(-1)))
    moved = fixed_point(pairs(method.loss, SMALL, sampler, bradley_terry(shifted(SMALL, 5.0).rewards)), SMALL.ref_logps)
    return Evidence(
        {"short": at[100], "long": at[1000]},
        {
            "Eq. 8 as printed keeps its pace": at[1000] < 9 * at[100] < 0,
            "with −log σ the minimiser is π*": dpo_error() < 1e-8,
            "an offset in the rewards changes nothing": distance(moved.exp(), SMALL.optimum.exp()) < 1e-8,
        },
    )
