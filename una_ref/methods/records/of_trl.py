"""Records of further losses on pairs and labels that TRL names."""

from __future__ import annotations

from una_ref.methods import absolute_pairs, alphapo, pair_shapes, pairs, papers, rewards, sorted_batches, triples
from una_ref.methods.method import Method

EXO_PAIR = Method(
    name="exo-pair",
    title="efficient exact optimisation on pairs",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="reversed KL from the label",
    losses={"pairs": pair_shapes.exo_pair},
    shift_invariant=True,
    papers=(papers.EXO,),
    equation="EXO Eq. 16 with two responses",
    reductions="the KL the other way round, plus a constant: cdpo",
    trl="DPOTrainer, loss_type=exo_pair",
    optimum={"pairs": "on two responses: the margin (2p − 1)·log((1 − ε)/ε), p the probability to win; not π*"},
    meanings={"label_smoothing": "ε of the label (1 − ε, ε) that the policy is compared with; above 0, below 0.5"},
    notebook="08_pairs",
)

ROBUST_DPO = Method(
    name="robust-dpo",
    title="DPO corrected for wrong labels",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="noise-corrected logistic",
    losses={"pairs": pair_shapes.robust_dpo},
    shift_invariant=True,
    papers=(papers.ROBUST_DPO,),
    equation="−log σ(m) − ε·m/(1 − 2ε)",
    reductions="label_smoothing = 0: dpo; its mean over labels of which a share ε is flipped: dpo on the right ones",
    trl="DPOTrainer, loss_type=robust",
    optimum={
        "pairs": "if a share ε of the labels is flipped: π*; without flips: larger margins, and no finite one "
        "where P to win is above 1 − ε"
    },
    notebook="08_pairs",
)

DISCOPOP = Method(
    name="discopop",
    title="discovered preference optimisation (LRML)",
    reward=rewards.IMPLICIT,
    comparison="two responses of a prompt",
    shape="logistic, then exponential",
    losses={"pairs": pair_shapes.discopop},
    shift_invariant=True,
    papers=(papers.DISCOPOP,),
    equation="DiscoPOP Eq. 5",
    reductions="far below 0: dpo; far above 0: the exponential loss of gpo",
    trl="DPOTrainer, loss_type=discopop",
    optimum={
        "pairs": "tau below 0.4: not π*, since two responses that win equally often are driven apart (m = 0 is a "
        "maximum)"
    },
    meanings={"tau": "width of the change from logistic to exponential, in units of the margin; above 0, at most 1"},
    notebook="08_pairs",
)

MEAN_LOG_RATIO = rewards.Reward("β·log(π/π_ref)/|y|", pair_shapes.mean_log_ratio)

SIGMOID_NORM = Method(
    name="sigmoid-norm",
    title="length-normalised DPO",
    reward=MEAN_LOG_RATIO,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": pair_shapes.sigmoid_norm},
    shift_invariant=False,
    papers=(papers.TULU3,),
    equation="−log σ(β·u(y_w)/|y_w| − β·u(y_l)/|y_l|)",
    reductions="responses of one length L: dpo at β/L; a uniform reference and γ = 0: simpo",
    trl="DPOTrainer, loss_type=sigmoid_norm",
    optimum={"pairs": "π ∝ π_ref·exp(|y|·(r − λ)/β), where λ(x) makes the probabilities sum to 1"},
    notebook="08_pairs",
)

NCA_PAIR = Method(
    name="nca-pair",
    title="noise-contrastive alignment on pairs",
    reward=rewards.IMPLICIT,
    comparison="each response of a pair with 0",
    shape="logistic of each",
    losses={"pairs": absolute_pairs.nca_pair},
    shift_invariant=False,
    papers=(papers.NCA,),
    equation="−log σ(r_w) − ½·log σ(−r_w) − ½·log σ(−r_l)",
    composes=False,
    trl="DPOTrainer, loss_type=nca_pair",
    optimum={"pairs": "β = 1 and samples of π_ref: π = 2·π_ref·P(y beats another sample); otherwise another policy"},
    notebook="08_pairs",
)

SPPO_HARD = Method(
    name="sppo-hard",
    title="SPPO's regression with win rates 1 and 0",
    reward=rewards.LOG_RATIO,
    comparison="each response of a pair with ±1/(2β)",
    shape="squared",
    losses={"pairs": absolute_pairs.sppo_hard},
    shift_invariant=False,
    papers=(papers.SPPO_HARD,),
    equation="SPPO Eq. 4.7 with P = 1 and P = 0",
    composes=False,
    reductions="2/β² times una-score on the scores P(y beats another sample) − ½, in expectation",
    trl="DPOTrainer, loss_type=sppo_hard",
    optimum={"pairs": "that of una-score on the scores P(y beats another sample) − ½, without a baseline; not IPO's"},
    notebook="08_pairs",
)

APO_ZERO = Method(
    name="apo-zero",
    title="anchored preference optimisation, zero",
    reward=rewards.IMPLICIT,
    comparison="each response of a pair with 0",
    shape="σ of each",
    losses={"pairs": absolute_pairs.apo_zero},
    shift_invariant=False,
    papers=(papers.APO,),
    equation="APO Eq. 7",
    composes=False,
    reductions="kto on both responses at kl = 0",
    trl="DPOTrainer, loss_type=apo_zero",
    optimum={"pairs": "on the boundary: responses that win less than half of their comparisons lose all their mass"},
    notebook="08_pairs",
)

APO_DOWN = Method(
    name="apo-down",
    title="anchored preference optimisation, down",
    reward=rewards.IMPLICIT,
    comparison="the chosen response with 0 and with the rejected one",
    shape="σ of each",
    losses={"pairs": absolute_pairs.apo_down},
    shift_invariant=False,
    papers=(papers.APO,),
    equation="APO Eq. 8",
    composes=False,
    trl="DPOTrainer, loss_type=apo_down",
    optimum={"pairs": "on the boundary: all mass moves to responses that are in no pair, if there are any"},
    notebook="08_pairs",
)

BCO = Method(
    name="bco",
    title="binary classifier optimisation",
    reward=rewards.IMPLICIT,
    comparison="one response and a label",
    shape="BCE at δ",
    losses={"labels": absolute_pairs.bco, "pairs": absolute_pairs.bco_pairs},
    shift_invariant=False,
    papers=(papers.BCO,),
    equation="cross-entropy of σ(r_θ − δ), δ the moving average of r_θ",
    reductions="δ = 0: una-binary-bce, and TRL's bco_pair on pairs; −δ = β·log Z(x): its unbiased form",
    optimum={
        "labels": "one prompt with rewards of mean 0 over the data: π*; otherwise another policy",
        "pairs": "one prompt: π_ref·exp(s/β)/Z(x), if s, the log-odds of P(y beats another sample), has mean 0 "
        "over the data",
    },
    notebook="09_single_responses_and_lists",
)

AOT = Method(
    name="aot",
    title="alignment by optimal transport, paired",
    reward=rewards.IMPLICIT,
    comparison="sorted margins of a batch",
    shape="smoothed logistic",
    losses={"pairs": sorted_batches.aot},
    shift_invariant=True,
    papers=(papers.AOT,),
    equation="smoothed logistic of the gaps between sorted margins of π and of π_ref",
    composes=False,
    whole_batch=True,
    reductions="one pair: cdpo",
    trl="DPOTrainer, loss_type=aot",
    optimum={"pairs": "on two responses: π*, if π_ref ranks them as most labels do; another policy, if it does not"},
    notebook="08_pairs",
)

AOT_UNPAIRED = Method(
    name="aot-unpaired",
    title="alignment by optimal transport, unpaired",
    reward=rewards.IMPLICIT,
    comparison="sorted rewards of a batch",
    shape="smoothed logistic",
    losses={"pairs": sorted_batches.aot_unpaired},
    shift_invariant=False,
    papers=(papers.AOT,),
    equation="smoothed logistic of the gaps between sorted u of the chosen and of the rejected responses",
    composes=False,
    whole_batch=True,
    reductions="one pair: cdpo",
    trl="DPOTrainer, loss_type=aot_unpaired",
    optimum={"pairs": "on two responses: no finite one, since any P > ½ drives the margin to infinity"},
    notebook="08_pairs",
)

POWER = rewards.Reward("β·(1 − p^(−α))/α, log p = log π/|y|", alphapo.power_reward)

ALPHA_PO = Method(
    name="alpha-po",
    title="AlphaPO: SimPO with a power of the probability",
    reward=POWER,
    comparison="two responses of a prompt",
    shape="logistic at γ",
    losses={"pairs": alphapo.alpha_po},
    shift_invariant=True,
    papers=(papers.ALPHA_PO,),
    equation="−log σ(r(y_w) − r(y_l) − γ)",
    reductions="alpha = 0: simpo",
    trl="CPOTrainer, loss_type=alphapo; its simpo_gamma is gamma",
    optimum={
        "pairs": "γ = 0: p = (1 − α·(r − λ)/β)^(−1/α) with p = π^(1/|y|), where λ(x) makes the probabilities sum "
        "to 1; γ above 0: another policy"
    },
    meanings={
        "alpha": "power of the reward: 0 is the logarithm of SimPO, above 0 improbable responses count more",
        "gamma": "target margin between the rewards of a pair",
    },
    notebook="08_pairs",
)

TPO = Method(
    name="tpo",
    title="triple preference optimisation",
    reward=rewards.SCALED_LOG_LIKELIHOOD,
    comparison="two responses of a prompt",
    shape="logistic",
    losses={"pairs": triples.tpo, "demos": triples.tpo_gold},
    shift_invariant=True,
    papers=(papers.TPO,),
    equation="−log σ(β·log π(y_w) − β·log π(y_l)), and −log π of the gold response",
    reductions="the gold response is the chosen one: cpo",
    trl="TPOTrainer, loss_type=sigmoid; it takes the mean over the tokens of gold responses",
    optimum={
        "pairs": "π ∝ exp(r/β), which is π* of a uniform π_ref; with gold responses, too: nearer to their distribution",
        "demos": "the distribution of the gold responses; with pairs, too: between the two",
    },
    meanings={"gold_weight": "weight of a gold response beside a pair"},
    notebook="08_pairs",
)

TPO_L = Method(
    name="tpo-l",
    title="triple preference optimisation, length-normalised",
    reward=rewards.LENGTH_NORMALISED,
    comparison="two responses of a prompt",
    shape="logistic at γ",
    losses={"pairs": pairs.simpo, "demos": triples.tpo_gold},
    shift_invariant=True,
    papers=(papers.TPO,),
    equation="simpo's loss on the pair, and −log π of the gold response",
    reductions="without gold responses: simpo",
    trl="TPOTrainer, loss_type=tpo-l; its tpo_l_gamma is gamma",
    optimum={
        "pairs": "that of simpo; with gold responses, too: nearer to their distribution",
        "demos": "the distribution of the gold responses; with pairs, too: between the two",
    },
    meanings={"gold_weight": "weight of a gold response beside a pair"},
    notebook="08_pairs",
)

RECORDS = (
    EXO_PAIR,
    ROBUST_DPO,
    DISCOPOP,
    SIGMOID_NORM,
    NCA_PAIR,
    SPPO_HARD,
    APO_ZERO,
    APO_DOWN,
    BCO,
    AOT,
    AOT_UNPAIRED,
    ALPHA_PO,
    TPO,
    TPO_L,
)
"""In the order of the tables."""
