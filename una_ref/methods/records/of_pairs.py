"""Records of methods that compare two responses with a reference."""

from __future__ import annotations

from dataclasses import replace

from una_ref.methods import gpo, pair_penalties, pairs, papers, rewards
from una_ref.methods.method import Method
from una_ref.methods.records.una import UNA_PAIR

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
    optimum={
        "pairs": "π ∝ π_ref·exp(P(y ≻ μ)/β), where μ is the sampler; on samples of π itself: the Nash policy of β"
    },
    notebook="06_upo_and_iupo",
    trl="DPOTrainer, loss_type=ipo, of the mean over tokens",
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
    optimum={
        "pairs": "on two responses: the log-odds of (1 − ε)·p + ε·(1 − p) as the margin, p the probability to "
        "win; not π*"
    },
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
    optimum={"pairs": "the optimum of E r − β·D with its divergence D, if that has no zeros; reverse_kl: π*"},
    notebook="05_f_divergences",
    trl="DPOTrainer, f_divergence_type=forward_kl, js_divergence or alpha_divergence; alpha is 1 minus "
    "f_alpha_divergence_coef",
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
    optimum={"pairs": "the optimum of E P(y ≻ μ) − β·D with its divergence D, if that has no zeros; μ is the sampler"},
    notebook="06_upo_and_iupo",
)

TR_DPO = replace(
    UNA_PAIR,
    name="tr-dpo",
    aliases=(),
    title="DPO whose reference follows the policy",
    papers=(papers.TR_DPO, papers.DPO),
    equation="TR-DPO Eq. 1 and 2 with the loss of DPO",
    errata=(),
    reductions="refresh_every=0: dpo",
    printed=None,
    notebook="08_pairs",
    trl="DPOTrainer, sync_ref_model=True",
    # The paper's best number is 512 of its long runs. A run here has 200 steps by default.
    refresh=50,
    optimum={
        "pairs": "one reference: π*; a reference that moves: no final one, the n-th stage that converges ends at "
        "π_ref·exp(n·r/β)/Z(x)"
    },
)

DPOP = Method(
    name="dpop",
    title="DPO-positive (Smaug)",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic of the margin minus a penalty",
    losses={"pairs": pair_penalties.dpop},
    shift_invariant=False,
    papers=(papers.DPOP, papers.SURVEY),
    equation="survey Eq. 13",
    errata=("ES5",),
    reductions="lam = 0: dpo",
    printed=pair_penalties.dpop_printed,
    composes=False,
    optimum={"pairs": "lam = 0: π*; lam above 0: a policy between π_ref and π*, the nearer to π_ref the larger lam is"},
    meanings={"lam": "weight of the penalty where the chosen response is less likely than under π_ref; 0: DPO"},
    notebook="08_pairs",
)

BETA_DPO = Method(
    name="beta-dpo",
    title="DPO with a β for each batch",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="weighted logistic at the β of the batch",
    losses={"pairs": pair_penalties.beta_dpo},
    shift_invariant=True,
    papers=(papers.BETA_DPO, papers.SURVEY),
    equation="survey Eq. 14",
    errata=("ES6",),
    reductions="alpha = 0 and filtering = 0: dpo",
    composes=False,
    optimum={"pairs": "π* of β′ = β_batch − 2·filtering·M₀/σ², with β_batch, M₀ and σ of the policy that is learned"},
    meanings={
        "alpha": "how far β follows the batch's mean gap of log-ratios, per nat; 0: DPO's β",
        "filtering": "exponent of a pair's weight exp(−(gap − M₀)²/2σ²); 0: all pairs count alike",
    },
    notebook="08_pairs",
)

GPO = Method(
    name="gpo",
    title="generalised preference optimisation",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="any falling f",
    losses={"pairs": gpo.gpo},
    shift_invariant=True,
    papers=(papers.GPO, papers.SURVEY),
    equation="survey Eq. 18; its Taylor terms: Eq. 19",
    errata=("ES10",),
    reductions="logistic: dpo; hinge: rso; squared: β² times ipo at β/2",
    optimum={"pairs": "logistic and savage: π*; exponential: π* of 2β; squared: the policy of ipo at β/2"},
    meanings={"function": f"of the margin: {', '.join(gpo.MARGIN_SHAPES)}"},
    notebook="08_pairs",
)

R_DPO = Method(
    name="r-dpo",
    title="DPO with a length penalty",
    reward=rewards.LENGTH_CORRECTED,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pair_penalties.r_dpo},
    shift_invariant=True,
    papers=(papers.R_DPO, papers.SURVEY),
    equation="survey Eq. 46; from Eq. 44 and 45",
    errata=("ES22", "ES23"),
    reductions="alpha = 0: dpo",
    printed=pair_penalties.r_dpo_printed,
    optimum={"pairs": "π ∝ π_ref·exp((r − α·|y|)/β), which maximises Eq. 44"},
    meanings={"alpha": "reward that a token costs; 0: DPO"},
    notebook="08_pairs",
)

SDPO = replace(
    UNA_PAIR,
    name="sdpo",
    aliases=(),
    title="stepwise DPO: DPO in stages, each with the last policy as its reference",
    papers=(papers.SDPO, papers.SURVEY),
    equation="survey Sec. 3.3.7 with Eq. 10",
    errata=(),
    reductions="one stage: dpo",
    printed=None,
    trl="",
    optimum={"pairs": "one stage: π*; k stages over all responses: π_ref·exp(k·r/β)/Z(x), the optimum at β/k"},
    notebook="08_pairs",
    recipe="sdpo",
)

PAFT = replace(
    UNA_PAIR,
    name="paft",
    aliases=(),
    title="PAFT: DPO and SFT adapters trained in parallel from one base, and merged",
    papers=(papers.PAFT, papers.SURVEY),
    equation="survey Eq. 43",
    errata=("ES21",),
    reductions="weights 1 and 0: dpo; weights 0 and 1: sft",
    printed=None,
    trl="",
    optimum={},
    notebook="10_tokens_games_and_merging",
    recipe="paft",
)

RECORDS = (IPO, CDPO, F_DPO, IUPO, DPOP, BETA_DPO, GPO, R_DPO, TR_DPO, SDPO, PAFT)
"""In the order of the tables."""
