"""The survey on rewards and losses of tokens: Eq. 20 to 30."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from una_ref.claims.example_survey import F64, TOKENS_NOTEBOOK, numbers
from una_ref.claims.example_worlds import distance
from una_ref.claims.ledger import FAILS, SURVEY, Evidence, claim

NOTEBOOK = TOKENS_NOTEBOOK

REF_FIRST, REF_SECOND = numbers(0.6, 0.4).log(), torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=F64).log()
REWARDS_FIRST = numbers(0.5, -0.3)
REWARDS_SECOND = torch.tensor([[1.0, -1.0], [0.4, 1.6]], dtype=F64)
BETA = 0.5
"""Responses of two tokens out of two: π_ref and rewards of the first and of the second token."""


def soft_optimum() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log π* of the first and the second token, V(s₀) and V(s₁) of entropy-regularised RL, by Eq. 21 and 22."""
    second = REWARDS_SECOND + BETA * REF_SECOND
    v1 = BETA * (second / BETA).logsumexp(-1)
    first = REWARDS_FIRST + BETA * REF_FIRST + v1
    v0 = BETA * (first / BETA).logsumexp(-1)
    return (first - v0) / BETA, (second - v1[:, None]) / BETA, v0, v1


@claim(
    "ES11",
    paper=SURVEY,
    place="Eq. 20, 23; the MDP's tuple",
    says="the rewards are those of t = 0 … T; the transition is f(s|a)",
    verdict=FAILS,
    instead="t = 0 … T − 1 with V(s_T) = 0, as in Eq. 23; the next state depends on the state too: f(s_{t+1}|s_t, a_t)",
    shows="two tokens: the sum of two rewards is V(s₀) + Σ β·log(π/π_ref) to {right:.0f}; a further token that earns 1 "
    "leaves {printed:.0f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es11() -> Evidence:
    first, second, v0, v1 = soft_optimum()
    total = REWARDS_FIRST[:, None] + REWARDS_SECOND
    ratios = BETA * (first - REF_FIRST)[:, None] + BETA * (second - REF_SECOND)
    gap = total - v0 - ratios
    longer = gap + 1.0  # a reward at t = T, after which no policy chooses anything
    return Evidence(
        {"right": float(gap.abs().max()), "printed": float(longer.abs().max())},
        {
            "Eq. 23 holds with T terms": float(gap.abs().max()) < 1e-14,
            "the same token leads to different states": float((v1[0] - v1[1]).abs()) > 0.1,
        },
    )


@claim(
    "ES12",
    paper=SURVEY,
    place="Eq. 25, 26",
    says="TDPO maximises A_θ, and Q_θ = β·log(π/π_ref) + β·log Z with Q_ref in Z",
    verdict=FAILS,
    instead="A and Q are those of π_ref throughout: one step of improvement of π_ref",
    shows="β = 1, after the first token ±2 at probability ½ each, after the other 0.5: with Q of π_ref π = "
    "({right:.3f}, {rest:.3f}), with Q of the optimum ({printed:.3f}, {other:.3f})",
    notebook=NOTEBOOK,
)
def _es12() -> Evidence:
    after = numbers(2, -2)
    ref_q = torch.stack([after.mean(), numbers(0.5)[0]])
    best = after.softmax(0)
    own_q = torch.stack([(best * after).sum(), numbers(0.5)[0]])
    right, printed = ref_q.softmax(0), own_q.softmax(0)
    return Evidence(
        {
            "right": float(right[0]),
            "rest": float(right[1]),
            "printed": float(printed[0]),
            "other": float(printed[1]),
        },
        {"they prefer different tokens": bool(right[0] < 0.5 < printed[0])},
    )


@claim(
    "ES13",
    paper=SURVEY,
    place="below Eq. 28",
    says="TDPO2 stops the gradient of y_w",
    verdict=FAILS,
    instead="−log σ(u − α·δ), with the gradient stopped only in β·SeqKL of y_w; log π(y_w) keeps its gradient",
    shows="β = 0.1, slopes in log π(y_w) and SeqKL(y_w): TDPO1 {w1:.4f}, {k1:.4f}; TDPO2 (α = 0.5) {w2:.4f}, {k2:.0f}",
    notebook=NOTEBOOK,
)
def _es13() -> Evidence:
    def slopes(alpha: float, stopped: bool) -> list[float]:
        point = numbers(0.3, -0.2, 0.3, 0.6).requires_grad_()  # log-ratios of y_w and y_l, SeqKL of y_w and y_l
        ratio_w, ratio_l, kl_w, kl_l = point
        u = 0.1 * (ratio_w - ratio_l)
        delta = 0.1 * kl_l - (0.1 * kl_w).detach() if stopped else 0.1 * (kl_l - kl_w)
        loss = -logsigmoid(u - alpha * delta)
        return torch.autograd.grad(loss, point)[0].tolist()

    one, two = slopes(1.0, False), slopes(0.5, True)
    return Evidence(
        {"w1": one[0], "k1": one[2], "w2": two[0], "k2": two[2] + 0.0},
        {
            "TDPO2 still raises log π(y_w)": two[0] < -0.04,
            "it does not train SeqKL(y_w)": two[2] == 0 and one[2] != 0,
            "it trains SeqKL(y_l)": two[3] > 0,
        },
    )


@claim(
    "ES14",
    paper=SURVEY,
    place="Eq. 29",
    says="CRINGE imitates P([x⁺, y⁺]), prompt and response together",
    verdict=FAILS,
    instead="P(y⁺|x⁺): the loss is one of response tokens; the joint one also trains π to write prompts",
    shows="P(x) = 0.3, P(y|x) = 0.5: −log P([x, y]) = {joint:.4f}, −log P(y|x) = {right:.4f}; the slope in the "
    "prompt's logit is {slope:.2f} and 0",
    notebook=NOTEBOOK,
)
def _es14() -> Evidence:
    prompt = numbers(0.3, 0.7).log().requires_grad_()
    response = numbers(0.5, 0.5).log()
    joint = -prompt.log_softmax(0)[0] - response[0]
    slope = torch.autograd.grad(joint, prompt)[0]
    joint = joint.detach()
    return Evidence(
        {"joint": float(joint), "right": -float(response[0]), "slope": float(slope[0])},
        {"they differ by −log P(x)": abs(float(joint) + float(response[0]) + float(numbers(0.3).log())) < 1e-12},
    )


def cringe_expectation(scores: Tensor, negative: int, rivals: Tensor) -> float:
    """The expected contrast −log(e^{s*}/(e^{s*} + e^{s⁻})) over a rival drawn by softmax from `rivals`."""
    chances = scores[rivals].softmax(0)
    return float((chances * -logsigmoid(scores[rivals] - scores[negative])).sum())


@claim(
    "ES15",
    paper=SURVEY,
    place="Sec. 3.5.2",
    says="k rivals are the k largest scores without the negative token; with k = 4 there are three candidates",
    verdict="holds if the example is read as k − 1",
    instead="text and authors' code: k rivals after the negative token is left out; the example leaves it out of the k",
    shows="scores 4, 3, 2, 1, 0, negative token first, k = 4: expected loss {text:.4f} by the text, {example:.4f} by "
    "the example",
    notebook=NOTEBOOK,
)
def _es15() -> Evidence:
    scores = numbers(4, 3, 2, 1, 0)
    text = cringe_expectation(scores, 0, torch.tensor([1, 2, 3, 4]))
    example = cringe_expectation(scores, 0, torch.tensor([1, 2, 3]))
    outside = cringe_expectation(scores, 4, torch.tensor([0, 1, 2, 3]))
    top = scores.topk(4).indices
    kept = cringe_expectation(scores, 4, top[top != 4])
    return Evidence(
        {"text": text, "example": example},
        {
            "they differ where the negative token is among the k largest": abs(text - example) > 0.05,
            "elsewhere they agree": abs(outside - kept) < 1e-15,
        },
    )


@claim(
    "CS4",
    paper=SURVEY,
    place="Eq. 27, 28",
    says="the sequential KL divergence cancels Z([x, y^{<t}])",
    verdict="holds if the policy is one step of improvement of π_ref",
    instead="at the optimum of the RLHF objective the identity of DPO holds, and that of TDPO does not",
    shows="largest difference of r − identity between responses: one step: TDPO {step_tdpo:.0f}, DPO {step_dpo:.2f}; "
    "RLHF optimum: TDPO {best_tdpo:.2f}, DPO {best_dpo:.0f}",
    notebook=NOTEBOOK,
)
def _cs4() -> Evidence:
    total = REWARDS_FIRST[:, None] + REWARDS_SECOND

    def spread(first: Tensor, second: Tensor, sequential: bool) -> float:
        value = BETA * (first - REF_FIRST)[:, None] + BETA * (second - REF_SECOND)
        if sequential:
            value = value + BETA * (REF_FIRST.exp() * (REF_FIRST - first)).sum()
            value = value + BETA * (REF_SECOND.exp() * (REF_SECOND - second)).sum(-1, keepdim=True)
        gap = total - value
        return float(gap.max() - gap.min())

    q_second = REWARDS_SECOND
    q_first = REWARDS_FIRST + (REF_SECOND.exp() * REWARDS_SECOND).sum(-1)
    step = ((REF_FIRST + q_first / BETA).log_softmax(0), (REF_SECOND + q_second / BETA).log_softmax(-1))
    first, second, _, _ = soft_optimum()
    values = {
        "step_tdpo": spread(*step, True),
        "step_dpo": spread(*step, False),
        "best_tdpo": spread(first, second, True),
        "best_dpo": spread(first, second, False),
    }
    return Evidence(
        values,
        {
            "TDPO's identity holds after one step": values["step_tdpo"] < 1e-14 < 0.1 < values["step_dpo"],
            "DPO's holds at the optimum": values["best_dpo"] < 1e-14 < 0.1 < values["best_tdpo"],
            "the two policies differ": distance(step[0].exp(), first.exp()) > 0.01,
        },
    )
