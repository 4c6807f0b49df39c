"""UNA's order of the offline methods: the placebo, the learning rate, and the committed study (notebooks 04 and 11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from una_ref.claims.ledger import FAILS, UNA, Evidence, claim
from una_ref.claims.released import released_world
from una_ref.methods import METHODS
from una_ref.methods.singles import una_score_released
from una_ref.studies.offline_report import PANELS
from una_ref.studies.summaries import interval
from una_ref.theory import TableWorld, fixed_point, una_regression
from una_ref.theory.populations import pairs, singles, thumbs

STUDY = Path(__file__).resolve().parents[2] / "figures" / "runs" / "compare" / "results.json"
"""`una-ref compare`: six worlds, each method at its own best learning rate and β."""


@cache
def regrets() -> dict[tuple[str, str], list[float]]:
    """Panel and method of the committed study -> the exact regret in each of its worlds."""
    rows = json.loads(STUDY.read_text(encoding="utf-8"))["rows"]
    return {(row["panel"], row["name"]): row["regret"]["values"] for row in rows}


def lead(panel: str, better: str, worse: str) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of regret(worse) − regret(better), paired by world."""
    found = regrets()
    gaps = zip(found[panel, worse], found[panel, better], strict=True)
    return interval([behind - ahead for behind, ahead in gaps])


def better_data(world: TableWorld) -> Tensor:
    """(X, Y) log μ ∝ π_ref·e^(r/2): responses that are better than π_ref's, as data that one trains on tend to be."""
    return (world.ref_logps + 0.5 * TableWorld.random(0, prompts=8, responses=6).rewards).log_softmax(-1)


def gains(sampler: Tensor | None = None) -> dict[str, float]:
    """Gain in mean score over π_ref at the fixed point, with unlimited data from `sampler` (X, Y), by default π_ref.

    The authors' loss at β = 0.03 and the centred one, each on the scores and on scores that are shuffled over all
    responses. A shuffled score is the same to every response on average: (h − s)² has the mean score for its target.
    """
    world = released_world(0.03)
    mu = world.ref_logps if sampler is None else sampler
    of_ref = (world.ref_logps.exp() * world.rewards).sum(-1).mean()
    mean_score = float((mu.exp() * world.rewards).sum(-1).mean())
    found: dict[str, float] = {}
    for name, scores in (("scores", world.rewards), ("shuffled", torch.full_like(world.rewards, mean_score))):
        released = singles(una_score_released, world, mu.exp(), scores=scores)
        centred = una_regression(world.ref_logps, scores, 0.1, sampler_logps=mu, baseline="prompt")
        ends = {
            name: fixed_point(released, world.ref_logps, tolerance=1e-9),
            f"centred {name}": fixed_point(centred, world.ref_logps, tolerance=1e-10),
        }
        found |= {key: float((end.exp() * world.rewards).sum(-1).mean() - of_ref) for key, end in ends.items()}
    return found


@claim(
    "CU16",
    paper=UNA,
    place="Sec. 4.1, Tables 1–3",
    says="what UNA-score gains, it gains from the scores",
    verdict="holds if the data are no better than π_ref, or the scores are centred",
    instead="on data better than π_ref the authors' loss imitates them as well, and shuffled scores teach that too",
    shows="shuffled scores keep {better:.0%} of the gain of the authors' loss where the data are better than π_ref, "
    "{same:.0%} where they are its own, of the centred loss {centred:.0%} in both; in the study of notebook 11 (none "
    "better) shuffling costs Eq. 10 {ratings:.3f} ± {ratings_ci:.3f} of regret with ratings, {model:.3f} ± "
    "{model_ci:.3f} with rewards for scores",
    notebook="04_una_losses",
)
def _cu16() -> Evidence:
    better, same = gains(better_data(released_world(0.03))), gains()
    numbers = {
        "better": better["shuffled"] / better["scores"],
        "same": same["shuffled"] / same["scores"],
        "centred": max(abs(found["centred shuffled"] / found["centred scores"]) for found in (better, same)),
    }
    for panel in PANELS:
        numbers[panel], numbers[f"{panel}_ci"] = lead(panel, "una-score", "una-score.shuffled")
    # Roundings of the fixed points are no evidence: the share is 0 to the digits shown.
    numbers = {name: value if abs(value) > 1e-6 else 0.0 for name, value in numbers.items()}
    return Evidence(
        numbers,
        {
            "better data: much of the gain survives": numbers["better"] > 0.4,
            "π_ref's own: nothing does": abs(numbers["same"]) < 0.02,
            "centred: nothing does": numbers["centred"] < 1e-6,
            "the study, none better: the scores are read": numbers["ratings"] > numbers["ratings_ci"]
            and numbers["model"] > numbers["model_ci"],
        },
    )


def reward_gains(steps: int = 50, lr: float = 0.01, times: float = 6.0) -> dict[str, float]:
    """Mean gain in reward over three worlds after steps of Adam on exact losses, each method at `lr` and `times`·lr.

    The responses are better than π_ref's; of two the one with the higher score is chosen, with label 1; scores are
    σ(1.3 + 0.8·r). The authors' settings: σ around r_θ for scores and labels, β = 0.03 for scores and pairs, 0.01 for
    labels.
    """
    found = dict.fromkeys([f"{name}{rate}" for name in ("score", "label", "pair") for rate in ("", "_fast")], 0.0)
    for seed in range(3):
        world = TableWorld.random(seed, prompts=8, responses=6, beta=0.03)
        low = TableWorld(world.ref_logps, world.rewards, 0.01)
        mu = (world.ref_logps + 0.5 * world.rewards).softmax(-1)
        wins = (world.rewards[:, :, None] > world.rewards[:, None, :]).to(torch.float64)
        up = (wins * mu[:, None, :]).sum(-1) / (1 - mu)  # P(chosen), against another response of the data
        scores = (1.3 + 0.8 * world.rewards).sigmoid()
        losses: dict[str, Callable[[Tensor], Tensor]] = {
            "score": singles(una_score_released, world, mu, scores=scores),
            "label": thumbs(METHODS["una-binary-mse"].loss, low, mu, up),
            "pair": pairs(METHODS["dpo"].loss, world, mu, wins),
        }
        of_ref = (world.ref_logps.exp() * world.rewards).sum(-1).mean()
        for name, population in losses.items():
            for rate, value in (("", lr), ("_fast", times * lr)):
                logits = world.ref_logps.clone().requires_grad_()
                optimizer = torch.optim.Adam([logits], lr=value)
                for _ in range(steps):
                    optimizer.zero_grad()
                    population(logits.log_softmax(-1)).backward()
                    optimizer.step()
                reward = (logits.detach().softmax(-1) * world.rewards).sum(-1).mean()
                found[name + rate] += float(reward - of_ref) / 3
    return found


@claim(
    "CU17",
    paper=UNA,
    place="Sec. 4.1, Tables 1–3 (learning rate 3e-5 for UNA-score, 5e-6 for the others)",
    says="UNA-score is ahead of UNA on thumbs, DPO and KTO because scores hold more information",
    verdict="holds if UNA-score alone has six times the learning rate, as it had",
    instead="after as many steps at one rate for all, the reward is DPO's way; the tables vary two things at once",
    shows="exact losses, 50 steps of Adam, gain in reward: scores at six times the rate {score_fast:.2f}, thumbs "
    "{label:.2f}, pairs {pair:.2f}; all at the low rate {score:.2f}, {label:.2f}, {pair:.2f}; all at the high one "
    "{score_fast:.2f}, {label_fast:.2f}, {pair_fast:.2f}",
    notebook=None,
)
def _cu17() -> Evidence:
    numbers = reward_gains()
    return Evidence(
        numbers,
        {
            "six times the rate: scores are ahead of both": numbers["score_fast"]
            > 1.5 * max(numbers["label"], numbers["pair"]),
            "one rate, low: they are not ahead of pairs": numbers["score"] < numbers["pair"],
            "one rate, high: they are behind pairs": numbers["score_fast"] < 0.9 * numbers["pair_fast"],
        },
    )


@claim(
    "CU18",
    paper=UNA,
    place="Sec. 4.1, Tables 1–3",
    says="UNA-score is ahead of UNA on thumbs, and that of DPO and KTO",
    verdict=FAILS,
    instead="each at its own best rate and β the order depends on where scores and responses come from; centred, "
    "scores are behind none of the three beyond the interval",
    shows="six worlds, by how much less regret. Ratings: scores (authors' code) over thumbs (MSE) {sl_ratings:+.3f} ± "
    "{sl_ratings_ci:.3f}, thumbs over DPO {ld_ratings:+.3f} ± {ld_ratings_ci:.3f}, centred scores over DPO "
    "{cd_ratings:+.3f} ± {cd_ratings_ci:.3f}. Feedback from the reward: {sl_model:+.3f} ± {sl_model_ci:.3f}, "
    "{ld_model:+.3f} ± {ld_model_ci:.3f}, {cd_model:+.3f} ± {cd_model_ci:.3f}; there KTO over thumbs {kl_model:+.3f} ± "
    "{kl_model_ci:.3f}",
    notebook="11_offline_alignment",
)
def _cu18() -> Evidence:
    numbers, names = {}, {
        "sl": ("una-score.released", "una-binary-mse"),
        "ld": ("una-binary-mse", "dpo"),
        "cd": ("una-centred", "dpo"),
        "kl": ("kto", "una-binary-mse"),
    }  # fmt: skip
    for key, (better, worse) in names.items():
        for panel in PANELS:
            numbers[f"{key}_{panel}"], numbers[f"{key}_{panel}_ci"] = lead(panel, better, worse)

    def ahead(key: str) -> bool:
        return numbers[key] > numbers[f"{key}_ci"]

    def behind(panel: str, name: str) -> bool:
        mean, half = lead(panel, "una-centred", name)
        return mean < -half

    rivals = ("una-binary-mse", "dpo", "kto")
    return Evidence(
        numbers,
        {
            "ratings: scores are behind thumbs": numbers["sl_ratings"] < -numbers["sl_ratings_ci"],
            "rewards: scores are ahead of thumbs": ahead("sl_model"),
            "rewards: thumbs are behind KTO": ahead("kl_model"),
            "centred scores are ahead of DPO in both": ahead("cd_ratings") and ahead("cd_model"),
            "and behind none of the three": not any(behind(panel, name) for panel in PANELS for name in rivals),
        },
    )
