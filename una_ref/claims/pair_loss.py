"""UNA Eq. 8: the loss on pairs, with and without −log σ (notebook 04)."""

from __future__ import annotations

import torch
from torch import Tensor

from una_ref.claims.example_worlds import SMALL, distance, shifted, slope
from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import bradley_terry, fixed_point
from una_ref.theory.populations import pairs

F64 = torch.float64
NOTEBOOK = "04_una_losses"


def pair_at(gap: Tensor | float) -> dict[str, Tensor]:
    """The arguments of a pair loss for pairs whose margin is `gap` at β = 1."""
    chosen = torch.as_tensor(gap, dtype=F64).reshape(-1)
    zero = torch.zeros_like(chosen)
    return {"chosen_logps": chosen, "rejected_logps": zero, "ref_chosen_logps": zero, "ref_rejected_logps": zero}


def dpo_error() -> float:
    """max |π − π*| at the minimiser of DPO on Bradley–Terry preferences."""
    population = pairs(METHODS["una-pair"].loss, SMALL, SMALL.ref_logps.exp(), bradley_terry(SMALL.rewards))
    return distance(fixed_point(population, SMALL.ref_logps).exp(), SMALL.optimum.exp())


@claim(
    "EU7",
    paper=UNA,
    place="Eq. 8",
    says="the loss on pairs is −E(r_θ(y_w) − r_θ(y_l)), “equivalent to DPO”",
    verdict=FAILS,
    instead="−log σ of the difference is DPO; the difference itself has no minimiser and the same slope for every pair",
    shows="margins 0 and 1000: the printed loss is {printed0:.0f} and {printed1000:.0f} with slope {slope0:.0f} and "
    "{slope1000:.0f}; DPO's slope is {dpo0:.2f} and {dpo1000:.2f}",
    notebook=NOTEBOOK,
)
def _eu7() -> Evidence:
    pair = METHODS["una-pair"]
    margins = torch.tensor([0.0, 1000.0], dtype=F64).requires_grad_()
    assert pair.printed is not None
    printed, right = pair.printed(**pair_at(margins), beta=1.0), pair.loss(**pair_at(margins), beta=1.0)
    slopes, dpo = (torch.autograd.grad(loss.sum(), margins)[0] + 0.0 for loss in (printed, right))
    printed, margins = printed.detach() + 0.0, margins.detach()
    numbers = {
        "printed0": float(printed[0]),
        "printed1000": float(printed[1]),
        "slope0": float(slopes[0]),
        "slope1000": float(slopes[1]),
        "dpo0": float(dpo[0]),
        "dpo1000": float(dpo[1]),
    }
    return Evidence(
        numbers,
        {
            "the printed loss falls without end at one slope": bool((printed + margins).abs().max() < 1e-12)
            and bool((slopes == -1).all()),
            "with −log σ the slope of a pair with a large margin is 0": float(dpo[0]) == -0.5 and float(dpo[1]) == 0,
            "with −log σ the minimiser is π*": dpo_error() < 1e-8,
        },
    )


@claim(
    "EU8",
    paper=UNA,
    place="line below Eq. 8",
    says="L'_UNA-pair = L_DPO = −E log[r_φ(y_w) − r_φ(y_l)]",
    verdict=FAILS,
    instead="−E log σ(r_θ(y_w) − r_θ(y_l)): the σ is missing, and φ should be θ",
    shows="difference 0.5: printed {printed:.4f}, correct {right:.4f}; difference −1: printed undefined (the log of a "
    "negative number), correct {wrong_order:.4f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _eu8() -> Evidence:
    gaps = torch.tensor([0.5, -1.0], dtype=F64)
    printed, right = -gaps.log(), METHODS["una-pair"].loss(**pair_at(gaps), beta=1.0)
    return Evidence(
        {"printed": float(printed[0]), "right": float(right[0]), "wrong_order": float(right[1])},
        {
            "printed and correct loss differ": abs(float(printed[0] - right[0])) > 0.2,
            "as printed a wrong order has no loss: NaN": bool(printed[1].isnan()),
            "the correct loss is −log σ": distance(right, -gaps.sigmoid().log()) < 1e-12,
        },
    )


@claim(
    "CU10",
    paper=UNA,
    place="Sec. 2.3.1, Eq. 8; Table 1 “DPO (UNA-pairwise)”",
    says="on pairs UNA and DPO are equivalent",
    verdict="holds if −log σ is applied to the difference",
    instead="descent on Eq. 8 as printed never ends; with −log σ the loss is DPO, and its minimiser π* at any reward "
    "offset",
    shows="Eq. 8 as printed is {short:.1f} after 100 steps of descent and {long:.1f} after 1,000; with −log σ the "
    "distance to π* is 0",
    notebook=NOTEBOOK,
)
def _cu10() -> Evidence:
    method, sampler = METHODS["una-pair"], SMALL.ref_logps.exp()
    preferences = bradley_terry(SMALL.rewards)
    assert method.printed is not None
    printed = pairs(method.printed, SMALL, sampler, preferences)
    logits, losses = SMALL.ref_logps, {}
    for step in range(1, 1001):
        logits = logits - slope(printed, logits)
        losses[step] = float(printed(logits.log_softmax(-1)))
    moved = fixed_point(pairs(method.loss, SMALL, sampler, bradley_terry(shifted(SMALL, 5.0).rewards)), SMALL.ref_logps)
    return Evidence(
        {"short": losses[100], "long": losses[1000]},
        {
            "Eq. 8 as printed falls at a constant rate": losses[1000] < 9 * losses[100] < 0,
            "with −log σ the minimiser is π*": dpo_error() < 1e-8,
            "an offset in the rewards changes nothing": distance(moved.exp(), SMALL.optimum.exp()) < 1e-8,
        },
    )
