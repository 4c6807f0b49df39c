"""Records of methods on one response with a binary label or a score."""

from __future__ import annotations

from una_ref.methods import papers, rewards, singles
from una_ref.methods.method import Method

KTO = Method(
    name="kto",
    title="Kahneman–Tversky optimisation",
    reward=rewards.IMPLICIT,
    comparison="one response and a label",
    shape="Kahneman–Tversky σ",
    losses={"labels": singles.kto},
    shift_invariant=False,
    papers=(papers.KTO, papers.SURVEY),
    equation="survey Eq. 32 with Eq. 34",
    errata=("ES16", "ES17", "EU15"),
    reductions="kl = 0 and equal weights: APO-zero's terms, whose squares are una-binary-mse",
    notebook="07_gradients",
)

DRO = Method(
    name="dro",
    title="direct reward optimisation",
    reward=rewards.IMPLICIT,
    baseline="prompt",
    comparison="one response and a score",
    shape="half squared",
    losses={"scores": singles.dro, "labels": singles.dro_labels},
    shift_invariant=True,
    papers=(papers.DRO, papers.SURVEY),
    equation="survey Eq. 37; its gradients: Eq. 38 and 39",
    errata=("ES18", "ES19"),
    reductions="twice it: una-centred with a learned V(x), at the same β",
    printed=singles.dro_printed,
    notebook="07_gradients",
)

RECORDS = (KTO, DRO)
"""In the order of the tables."""
