"""The survey on reward models, samples and policy gradients: Eq. 1 to 4 and 48."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from una_ref.claims.baselines import tuples
from una_ref.claims.example_survey import F64, minus_log_sigmoid, numbers, total_variation
from una_ref.claims.example_worlds import SMALL, TINY, distance
from una_ref.claims.ledger import FAILS, SURVEY, Evidence, claim
from una_ref.methods import METHODS
from una_ref.theory import TableWorld, bradley_terry, objective, optimal_logps

NOTEBOOK = "04_una_losses"


@claim(
    "ES1",
    paper=SURVEY,
    place="Eq. 1",
    says="the reward model minimises the expectation over pairs, divided by the number C(K, 2) of a prompt's pairs",
    verdict=FAILS,
    instead="the sum over a prompt's pairs divided by C(K, 2), which is the mean over pairs; an expectation is a mean "
    "already",
    shows="K = 4, rewards 2, 1, 0, −1: the mean over the six pairs is {right:.5f}, as printed {printed:.5f}",
    notebook="08_pairs",
)
def _es1() -> Evidence:
    rewards = numbers(2, 1, 0, -1)
    losses = numbers(*(minus_log_sigmoid(rewards[i] - rewards[j]) for i, j in combinations(range(4), 2)))
    loss = METHODS["reward-model"].loss
    pairs = torch.tensor(list(combinations(range(4), 2)))
    registry = loss(chosen_rewards=rewards[pairs[:, 0]], rejected_rewards=rewards[pairs[:, 1]]).mean()
    right = float(losses.mean())
    return Evidence(
        {"right": right, "printed": right / 6},
        {
            "the registry's loss is the mean over pairs": abs(float(registry) - right) < 1e-12,
            "as printed the weight of a prompt falls with K": right / 6 < 0.2 * right,
        },
    )


@claim(
    "ES2",
    paper=SURVEY,
    place="Eq. 2, 5, 15, 16, 20, 25, 44, 48; Sec. 2.3",
    says="π* = max J",
    verdict=FAILS,
    instead="π* = arg max J: a policy, not a number",
    shows="two responses, r = (1, 0), β = 1: max J = {best:.4f}, arg max J = ({first:.4f}, {second:.4f})",
    notebook="02_partition_function",
    misprint=True,
)
def _es2() -> Evidence:
    best = float(objective(TINY.optimum, TINY.ref_logps, TINY.rewards, 1.0))
    first, second = TINY.optimum.exp()[0].tolist()
    grid = torch.linspace(0.001, 0.999, 999, dtype=F64)
    others = torch.stack([grid, 1 - grid], -1).log()
    values = objective(others, TINY.ref_logps.expand(999, 2), TINY.rewards.expand(999, 2), 1.0)
    return Evidence(
        {"best": best, "first": first, "second": second},
        {
            "max J is β·log Z(x)": abs(best - float(TINY.log_partition)) < 1e-12,
            "no other policy has a larger J": bool((values <= best + 1e-12).all()),
        },
    )


def accepted(policy: Tensor, proposal: Tensor, bound: Tensor | float) -> Tensor:
    """The distribution of accepted samples of `proposal`, for acceptance probabilities policy/(bound·proposal)."""
    kept = proposal * (policy / (bound * proposal)).clamp(max=1)
    return kept / kept.sum()


@claim(
    "ES3",
    paper=SURVEY,
    place="Sec. 3.3.2, step 2",
    says="RSO accepts with M = min{m : m·π_SFT(y|x) ≥ π_θ(y|x)} for the sampled y",
    verdict=FAILS,
    instead="the bound is for all y: M = max_y π(y|x)/π_SFT(y|x), where π is the optimal policy of the reward",
    shows="π = (0.6, 0.3, 0.1), π_SFT = (0.2, 0.3, 0.5): M = {bound:.0f} and acceptance (1, {second:.3f}, "
    "{third:.3f}); with M for each y everything is accepted, and TV to π is {printed:.2f}",
    notebook="08_pairs",
)
def _es3() -> Evidence:
    policy, proposal = numbers(0.6, 0.3, 0.1), numbers(0.2, 0.3, 0.5)
    ratio = policy / proposal
    bound = float(ratio.max())
    rate = ratio / bound
    right, printed = accepted(policy, proposal, bound), accepted(policy, proposal, ratio)
    return Evidence(
        {
            "bound": bound,
            "second": float(rate[1]),
            "third": float(rate[2]),
            "printed": total_variation(printed.log(), policy.log()),
        },
        {
            "with one M the accepted samples are those of π": distance(right, policy) < 1e-15,
            "with an M for each y they are those of π_SFT": distance(printed, proposal) < 1e-15,
        },
    )


def _advantages(rewards: Tensor) -> Tensor:
    k = len(rewards)
    return rewards - (rewards.sum() - rewards) / (k - 1)


@claim(
    "ES24",
    paper=SURVEY,
    place="Eq. 48 and below; Table 1",
    says="π* is the maximum of RLOO's weighted score function; its baseline is −Σ r(y_j)/(K − 1); it is reference free",
    verdict=FAILS,
    instead="Eq. 48 is an estimator of a gradient; the baseline is +Σ r(y_j)/(K − 1); r contains −β·log(π/π_ref)",
    shows="rewards 1, 0, 0, 0.5: advantages {a:.4f}, {b:.4f}, {b:.4f}, {c:.4f}; with the text's sign the first is "
    "{wrong:.4f}",
    notebook=NOTEBOOK,
    misprint=True,
)
def _es24() -> Evidence:
    rewards = numbers(1, 0, 0, 0.5)
    advantages = _advantages(rewards)
    logps = torch.zeros(4, dtype=F64, requires_grad=True)
    loss = METHODS["rloo"].loss
    losses = loss(
        logps=logps, ref_logps=torch.zeros(4, dtype=F64), scores=rewards, groups=torch.zeros(4, dtype=torch.long)
    )
    steps = -torch.autograd.grad(losses.sum(), logps)[0]
    return Evidence(
        {
            "a": float(advantages[0]),
            "b": float(advantages[1]),
            "c": float(advantages[3]),
            "wrong": float(2 * rewards[0] - advantages[0]),
        },
        {
            "the registry's RLOO has these advantages at π = π_ref": distance(steps, advantages) < 1e-12,
            "advantages of a prompt add up to 0": abs(float(advantages.sum())) < 1e-12,
            "RLOO needs π_ref": METHODS["rloo"].needs_reference,
        },
    )


@claim(
    "CS7",
    paper=SURVEY,
    place="Sec. 3.8.3",
    says="RLOO's baseline from the other responses lowers the variance and leaves the gradient unbiased",
    verdict="holds if the mean of a prompt's rewards is not small beside their spread",
    instead="it is unbiased always; with rewards of mean 0 the baseline only adds the noise of the others; at π* its "
    "variance is 0",
    shows="five responses at π_ref, K = 3, variance without and with baseline: {centred:.3f} and {rloo:.3f} for "
    "rewards of mean 0, {offset:.3f} and {rloo:.3f} after + 2; a mean with the response itself shrinks the step to "
    "{shrunk:.3f}",
    notebook=NOTEBOOK,
)
def _cs7() -> Evidence:
    world, k = SMALL, 3
    drawn = tuples(5, k)

    def estimates(logps: Tensor, offset: float) -> dict[str, tuple[Tensor, float]]:
        """Mean and variance, summed over logits, of the step without baseline, with RLOO's and with the group mean."""
        score = torch.eye(5, dtype=F64) - logps.exp()  # ∇ log π(y) in the logits, a row for each y
        rewards = (world.rewards[0] - world.beta * (logps - world.ref_logps[0]) + offset)[drawn]
        baselines = {
            "none": torch.zeros_like(rewards),
            "others": (rewards.sum(1, keepdim=True) - rewards) / (k - 1),
            "group": rewards.mean(1, keepdim=True),
        }
        chances, moments = logps[drawn].sum(-1).exp(), {}
        for name, baseline in baselines.items():
            steps = ((rewards - baseline)[..., None] * score[drawn]).mean(1)
            mean = (chances[:, None] * steps).sum(0)
            moments[name] = mean, float((chances * ((steps - mean) ** 2).sum(-1)).sum())
        return moments

    centred, offset = (estimates(world.ref_logps[0], x) for x in (0.0, 2.0))
    best = estimates(world.optimum[0], 2.0)
    return Evidence(
        {
            "centred": centred["none"][1],
            "offset": offset["none"][1],
            "rloo": offset["others"][1],
            "shrunk": float(offset["group"][0].norm() / offset["none"][0].norm()),
        },
        {
            "it is unbiased": distance(offset["others"][0], offset["none"][0]) < 1e-14,
            "the variance is lower after + 2": offset["others"][1] < offset["none"][1],
            "it is higher for rewards of mean 0": centred["others"][1] > centred["none"][1],
            "it is 0 at π*": best["others"][1] < 1e-20 < best["none"][1],
            "a mean that includes the response shrinks the step by (K − 1)/K": distance(
                offset["group"][0], offset["none"][0] * (k - 1) / k
            )
            < 1e-14,
        },
    )


@claim(
    "CS8",
    paper=SURVEY,
    place="Sec. 3.8",
    says="RLOO eliminates the reference model",
    verdict=FAILS,
    instead="RLOO eliminates the critic; without π_ref in its reward it maximises E r, whose maximum is one response",
    shows="entropy at the maximum: {right:.2f} nats with −β·log(π/π_ref) in the reward, {without:.2f} without",
    notebook=NOTEBOOK,
)
def _cs8() -> Evidence:
    entropy = SMALL.metrics(SMALL.optimum)["entropy"]
    nearly = optimal_logps(SMALL.ref_logps, SMALL.rewards, 1e-4)
    without = SMALL.metrics(nearly)["entropy"]
    return Evidence(
        {"right": entropy, "without": without},
        {
            "its loss takes log π_ref": METHODS["rloo"].needs_reference,
            "it takes no critic": METHODS["rloo"].advantages is None and METHODS["ppo"].advantages is not None,
            "the maximum of E r is deterministic": without < 1e-6 < 0.1 < entropy,
        },
    )


@claim(
    "CS21",
    paper=SURVEY,
    place="Sec. 3.3.2, Eq. 4",
    says="the accepted samples are those of the optimal policy",
    verdict="holds if r_max is the largest reward of all responses",
    instead="the acceptance rate is then Z(x)·e^(−r_max/β), small for small β; with r_max of the candidates at hand "
    "the best ones are accepted too rarely",
    shows="β = 0.5: TV to π* {exact:.0f} with the true maximum, acceptance {rate:.3f}; TV {sampled:.3f} with the "
    "maximum of 4 candidates",
    notebook="08_pairs",
)
def _cs21() -> Evidence:
    world = SMALL
    ref, rewards, beta = world.ref_logps[0], world.rewards[0], world.beta
    policy = world.optimum[0].exp()
    kept = ref.exp() * ((rewards - rewards.max()) / beta).exp()
    # One of 4 candidates is accepted with e^((r − max of the 4)/β), in expectation over the other three.
    others = tuples(5, 3)
    weights = ref[others].sum(-1).exp()
    largest = torch.maximum(rewards[others].max(1).values[:, None], rewards)
    sampled = ref.exp() * (weights[:, None] * ((rewards - largest) / beta).exp()).sum(0)
    return Evidence(
        {
            "exact": total_variation((kept / kept.sum()).log(), policy.log()),
            "rate": float(kept.sum()),
            "sampled": total_variation((sampled / sampled.sum()).log(), policy.log()),
        },
        {
            "the accepted ones are those of π*": distance(kept / kept.sum(), policy) < 1e-14,
            "the rate is Z·e^(−r_max/β)": abs(
                float(kept.sum()) - float((world.log_partition[0] - rewards.max() / beta).exp())
            )
            < 1e-12,
            "a maximum over candidates changes the distribution": distance(sampled / sampled.sum(), policy) > 0.01,
        },
    )


def fitted(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimiser (Y,) of a smooth convex loss."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=1e-14
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    return parameters.detach()


def reward_model(wins: Tensor) -> Tensor:
    """Rewards (Y,) fitted to counts of wins (Y, Y), with a small weight on the squares of their differences."""
    w, lost = (~torch.eye(len(wins), dtype=torch.bool)).nonzero(as_tuple=True)

    def loss(rewards: Tensor) -> Tensor:
        losses = METHODS["reward-model"].loss(chosen_rewards=rewards[w], rejected_rewards=rewards[lost])
        return (wins[w, lost] * losses).sum() + RIDGE * (rewards[w] - rewards[lost]).square().sum()

    return fitted(loss, torch.zeros(len(wins), dtype=F64))


def dpo_policy(wins: Tensor, ref: Tensor, beta: float) -> Tensor:
    """log π (Y,) fitted to the same counts by DPO, with the same weight on the differences of implicit rewards."""
    w, lost = (~torch.eye(len(wins), dtype=torch.bool)).nonzero(as_tuple=True)

    def loss(logits: Tensor) -> Tensor:
        logps = logits.log_softmax(0)
        margin = beta * ((logps[w] - ref[w]) - (logps[lost] - ref[lost]))
        losses = METHODS["dpo"].loss(
            chosen_logps=logps[w],
            rejected_logps=logps[lost],
            ref_chosen_logps=ref[w],
            ref_rejected_logps=ref[lost],
            beta=beta,
        )
        return (wins[w, lost] * losses).sum() + RIDGE * margin.square().sum()

    return fitted(loss, ref).log_softmax(0)


RIDGE = 1e-3
"""Keeps the fit finite where a response has won, or lost, all its pairs."""


def labelled(sampler: Tensor, preferences: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Counts of wins (Y, Y) of pairs of two different samples, each labelled once."""
    weights = sampler[:, None] * sampler[None, :] * (1 - torch.eye(len(sampler), dtype=F64))
    drawn = torch.multinomial(weights.flatten(), count, replacement=True, generator=generator)
    first, second = drawn // len(sampler), drawn % len(sampler)
    wins = torch.rand(count, generator=generator, dtype=F64) < preferences[first, second]
    table = torch.zeros_like(preferences)
    table.index_put_((first.where(wins, second), second.where(wins, first)), torch.ones(count, dtype=F64), True)
    return table


@claim(
    "CS24",
    paper=SURVEY,
    place="Sec. 3.13.2",
    says="PPO is better than iterative DPO, and iterative DPO better than DPO",
    verdict=FAILS,
    instead="on a table, RLHF on a reward model of some pairs ends at the same policy as DPO on the same pairs; "
    "iterative DPO is better than both, since its labels are for samples of the current policy",
    shows="30 worlds, 8 responses, 120 pairs, mean regret: DPO {dpo:.3f}, RLHF on the same pairs {rlhf:.3f}, iterative "
    "DPO in 3 rounds {iterative:.3f}",
    notebook="13_online_alignment",
)
def _cs24() -> Evidence:
    regrets: dict[str, list[float]] = {"dpo": [], "rlhf": [], "iterative": []}
    apart = 0.0
    for seed in range(30):
        world = TableWorld.random(seed, prompts=1, responses=8, beta=0.4)
        ref, preferences = world.ref_logps[0], bradley_terry(world.rewards)[0]
        generator = torch.Generator().manual_seed(seed)
        offline = labelled(ref.exp(), preferences, 120, generator)
        wins, policy = torch.zeros_like(preferences), ref
        for _ in range(3):
            wins = wins + labelled(policy.exp(), preferences, 40, generator)
            policy = dpo_policy(wins, ref, world.beta)
        ends = {
            "rlhf": optimal_logps(ref[None], reward_model(offline)[None], world.beta),
            "dpo": dpo_policy(offline, ref, world.beta)[None],
            "iterative": policy[None],
        }
        apart = max(apart, total_variation(ends["rlhf"], ends["dpo"]))
        for name, logps in ends.items():
            regrets[name].append(float(world.regret(logps)))
    means = {name: sum(values) / len(values) for name, values in regrets.items()}
    return Evidence(
        means,
        {
            "RLHF on the same pairs ends where DPO does": apart < 1e-4,
            "labels for its own samples help": means["iterative"] < 0.8 * means["dpo"],
        },
    )
