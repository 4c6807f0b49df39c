"""Records of methods that compare two responses with a reference."""

from __future__ import annotations

from una_ref.methods import pairs, papers, rewards
from una_ref.methods.method import Method

IPO = Method(
    name="ipo",
    title="identity preference optimisation",
    reward=rewards.LOG_RATIO,
    comparison="two responses of a prompt",
    shape="squared at 1/(2β)",
    losses={"pairs": pairs.ipo},
    shift_invariant=True,
    papers=(papers.IPO, papers.SURVEY),
    equation="survey Eq. 17",
    errata=("ES8", "ES9"),
    reductions="una-centred's pairwise form at any β' with scores that differ by β'/(2β), over β'²",
    printed=pairs.ipo_printed,
    notebook="06_upo_and_iupo",
)

CDPO = Method(
    name="cdpo",
    title="conservative DPO: label smoothing",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="smoothed logistic",
    losses={"pairs": pairs.cdpo},
    shift_invariant=True,
    papers=(papers.CDPO, papers.SURVEY),
    equation="survey Eq. 12",
    errata=("ES4", "ES38"),
    reductions="label_smoothing = 0: dpo",
    notebook="06_upo_and_iupo",
)

F_DPO = Method(
    name="f-dpo",
    title="DPO with an f-divergence",
    reward=rewards.F_IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pairs.f_dpo},
    shift_invariant=True,
    papers=(papers.F_DPO, papers.UPO, papers.SURVEY),
    equation="UPO Eq. 5 and 21; survey Eq. 67",
    errata=("EP2", "EP3", "EP4", "EP10", "ES36", "ES37"),
    reductions="reverse_kl: dpo; alpha → 0: dpo; alpha → 1: forward_kl; jsd: js at half the β",
    notebook="05_f_divergences",
)

IUPO = Method(
    name="iupo",
    title="IPO with an f-divergence",
    reward=rewards.F_SLOPE,
    comparison="two responses of a prompt",
    shape="squared at 1/(2β)",
    losses={"pairs": pairs.iupo},
    shift_invariant=True,
    papers=(papers.UPO,),
    equation="UPO Eq. 17 with Ψ the identity; printed: Eq. 23, 24, 26",
    errata=("EP1", "EP2", "EP6", "EP7", "EP8", "EP9", "EP10"),
    reductions="reverse_kl: ipo, as corrected and as printed (Proposition 4.1)",
    printed=pairs.iupo_printed,
    notebook="06_upo_and_iupo",
)

RECORDS = (IPO, CDPO, F_DPO, IUPO)
"""In the order of the tables."""
