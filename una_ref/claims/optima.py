"""UNA on the optimum, Z(x) and the implicit reward: notebooks 01–03."""

from __future__ import annotations

import torch

from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.theory import TableWorld

F64 = torch.float64

E2 = TableWorld(torch.tensor([[0.5, 0.5]], dtype=F64).log(), torch.tensor([[1.0, 0.0]], dtype=F64), 1.0)
"""The smallest example: two responses, π_ref = (½, ½), r = (1, 0), β = 1."""


@claim(
    "EU1",
    paper=UNA,
    place="Eq. 3, 12, 17, 20",
    says="π* = max_π J(π)",
    verdict=FAILS,
    instead="π* = arg max_π J(π); as printed a policy is set equal to a number",
    shows="max J = {best:.4f}, arg max J = ({first:.4f}, {second:.4f})",
    notebook="02_partition_function",
)
def _eu1() -> Evidence:
    best, optimum = float(E2.log_partition), E2.optimum.exp()[0]
    numbers = {"best": best, "first": float(optimum[0]), "second": float(optimum[1])}
    return Evidence(numbers, {"the maximum is not the maximiser": abs(best - numbers["first"]) > 0.1})
