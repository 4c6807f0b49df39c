"""The survey on what DPO does to the responses of a pair and to those outside the data, and on its reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.claims.example_survey import F64, PAIRS_NOTEBOOK, descended, numbers
from una_ref.claims.example_worlds import SMALL, distance
from una_ref.claims.ledger import HOLDS, SURVEY, Evidence, claim
from una_ref.claims.pair_loss import pair_at
from una_ref.methods import METHODS
from una_ref.theory import bradley_terry, kl
from una_ref.theory.populations import over_pairs

NOTEBOOK = PAIRS_NOTEBOOK

FEATURES = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 2.0], [0.0, -2.0]], dtype=F64)
"""Features of the chosen response, of the rejected one, and of two that are not in the data.

The pair differs a little in the second feature, as “2 + 2 = 4” from “2 + 3 = 4”. The others differ a lot in it.
"""


def trained(penalty: float, features: Tensor = FEATURES, steps: int = 300) -> Tensor:
    """log π (4,) of softmax(features·θ) after descent on DPOP's loss on the pair; without penalty it is DPO."""
    ref = (features @ torch.zeros(features.shape[1], dtype=F64)).log_softmax(0)

    def loss(theta: Tensor) -> Tensor:
        u = (features @ theta).log_softmax(0) - ref
        return -logsigmoid(0.5 * (u[0] - u[1] - penalty * (-u[0]).clamp(min=0)))

    theta = descended(loss, torch.zeros(features.shape[1], dtype=F64), steps=steps, lr=0.5)
    return (features @ theta).log_softmax(0)


@claim(
    "CS2",
    paper=SURVEY,
    place="Sec. 3.3.4",
    says="DPO can lower the probability of chosen responses, and DPOP's penalty prevents it",
    verdict="holds if the responses of a pair share features that others do not have",
    instead="on one pair and a table of logits DPO never lowers log π(y_w) below its start; a response that is chosen "
    "in one pair and rejected in another may fall",
    shows="log π/π_ref of the chosen response: DPO {dpo:.2f}, DPOP {dpop:.2f}; on a table DPO {table:+.2f}",
    notebook=NOTEBOOK,
)
def _cs2() -> Evidence:
    start = float(numbers(0.25).log())
    dpo, dpop = (float(trained(penalty)[0]) - start for penalty in (0.0, 50.0))
    table = float(trained(0.0, torch.eye(4, dtype=F64))[0]) - start
    return Evidence(
        {"dpo": dpo, "dpop": dpop, "table": table},
        {
            "DPO pushes both responses of the pair down": dpo < -1 and float(trained(0.0)[1]) - start < -1,
            "DPOP keeps the chosen one up": dpop > -0.05,
            "on a table the chosen one rises": table > 0,
        },
    )


@claim(
    "CS3",
    paper=SURVEY,
    place="Sec. 3.13.2",
    says="DPO tends to favour responses outside the data",
    verdict="holds if parameters are shared between responses",
    instead="on a table the loss is flat in the mass of unseen responses: their logits get no gradient",
    shows="mass on the two unseen responses, 0.50 at π_ref: shared features {shared:.2f}, table {table:.2f}",
    notebook=NOTEBOOK,
)
def _cs3() -> Evidence:
    shared, table = (float(trained(0.0, features)[2:].exp().sum()) for features in (FEATURES, torch.eye(4, dtype=F64)))
    logits = torch.zeros(4, dtype=F64, requires_grad=True)
    logps = logits.log_softmax(0)
    loss = METHODS["dpo"].loss(**pair_at(logps[0] - logps[1]), beta=0.5).sum()
    slope = torch.autograd.grad(loss, logits)[0]
    return Evidence(
        {"shared": shared, "table": table},
        {
            "unseen logits get no gradient on a table": float(slope[2:].abs().max()) < 1e-15,
            "with shared features nearly all mass goes there": shared > 0.9 > 0.5 > table,
        },
    )


@claim(
    "CS20",
    paper=SURVEY,
    place="Sec. 3.3.7",
    says="starting at the updated reference gives sDPO a lower initial loss",
    verdict="holds if the policy it is compared with is the old one, beside the new reference",
    instead="every policy that equals its reference has the loss log 2; DPO that goes on with the old reference starts "
    "lower; this says nothing about the reference",
    shows="loss of stage 2 at its start, unlimited pairs: {same:.4f} with any reference that equals the policy, "
    "{behind:.4f} for the old policy beside the new reference, {ahead:.4f} for the new policy beside the old one",
    notebook=NOTEBOOK,
)
def _cs20() -> Evidence:
    new, old = SMALL.optimum, SMALL.ref_logps  # the first stage, converged, and where it started
    preferences = bradley_terry(SMALL.rewards)
    count = over_pairs(lambda chosen_logps, **_: torch.ones_like(chosen_logps), preferences, old, old)(old)

    def start(policy: Tensor, reference: Tensor) -> float:
        return float(over_pairs(METHODS["dpo"].loss, preferences, old, reference, beta=SMALL.beta)(policy) / count)

    same, behind, ahead = start(new, new), start(old, new), start(new, old)
    return Evidence(
        {"same": same, "behind": behind, "ahead": ahead},
        {
            "log 2 for any such reference": abs(same - float(numbers(2).log())) < 1e-12,
            "the same for the old policy beside itself": abs(start(old, old) - same) < 1e-12,
            "an old policy beside the new reference starts higher": behind > same,
            "the new policy beside the old reference starts lower": ahead < same,
        },
    )


@claim(
    "CS23",
    paper=SURVEY,
    place="Sec. 3.4.1",
    says="implicit rewards fall during DPO when it starts from its reference",
    verdict=HOLDS,
    instead="the mean under π_ref is exactly −β·KL(π_ref ‖ π), which no training can make positive",
    shows="E_ref of β·log(π*/π_ref): {mean:.3f}, which is −β·KL to {gap:.0f}",
    notebook=NOTEBOOK,
)
def _cs23() -> Evidence:
    implicit = SMALL.beta * (SMALL.optimum - SMALL.ref_logps)
    mean = (SMALL.ref_logps.exp() * implicit).sum(-1)
    divergence = -SMALL.beta * kl(SMALL.ref_logps, SMALL.optimum)
    return Evidence(
        {"mean": float(mean.mean()), "gap": distance(mean, divergence)},
        {"it is −β·KL": distance(mean, divergence) < 1e-14, "it is negative": bool((mean < 0).all())},
    )
