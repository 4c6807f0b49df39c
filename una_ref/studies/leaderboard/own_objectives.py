"""What methods aim at themselves, where theory knows its optimum in closed form, and how far a policy is from it.

A method's own objective is J_own(π) = E_π g − β_own·D(π ‖ π_ref), with a reward g, a β and a divergence D of its own.
The gap is the largest J_own minus that of the policy: 0 at what the method aims at, and in the unit of g.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from una_ref.methods import METHODS
from una_ref.studies.leaderboard.board_entries import BoardEntry
from una_ref.theory import optimum
from una_ref.theory.worlds import SequenceWorld


@dataclass(frozen=True)
class OwnObjective:
    """What an entry aims at.

    Attributes:
        about: in words.
        gap: (world, log π (X, S), the entry's hyper-parameters) -> the gap, mean over prompts.
    """

    about: str
    gap: Callable[[SequenceWorld, Tensor, Mapping[str, float]], Tensor]


def win_rates(rewards: Tensor, opponent_logps: Tensor) -> Tensor:
    """(X, S) E_{y'~μ} σ(r(y) − r(y')), to rounding: `preference_rewards` of Bradley–Terry without its (X, S, S) table.

    It is one function of r(y) for each prompt, and analytic within π of the real axis. Interpolated at m Chebyshev
    points of the rewards' range, its error falls like ρ^−m, ρ = π/h + √((π/h)² + 1) for a range of 2h (Trefethen 2013,
    "Approximation Theory and Approximation Practice", Th. 8.2).
    """
    low, high = rewards.amin(-1, keepdim=True), rewards.amax(-1, keepdim=True)
    half = ((high - low) / 2).clamp(min=1e-6)
    narrow = math.pi / float(half.max())
    count = math.ceil(40 / math.log(narrow + math.sqrt(narrow**2 + 1)))
    angles = torch.arange(count + 1, dtype=torch.float64) * math.pi / count
    points = low + half * (1 + angles.cos())  # (X, m)
    values = (points[:, :, None] - rewards[:, None, :]).sigmoid() @ opponent_logps.exp()[..., None]
    signs = (-1.0) ** torch.arange(count + 1, dtype=torch.float64)
    signs[[0, -1]] /= 2
    gaps = rewards[:, :, None] - points[:, None, :]  # barycentric formula; a reward at a point takes its value
    weights = torch.where(gaps == 0, 1e300, signs / gaps)
    return (weights @ values)[..., 0] / weights.sum(-1)


def _regularised(
    world: SequenceWorld, logps: Tensor, rewards: Tensor, beta: float, divergence: str = "reverse_kl"
) -> Tensor:
    return optimum.regret(logps, world.ref_logps, rewards, beta, divergence).mean()


def _rlhf(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, world.rewards, known["beta"])


def _dro_labels(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, 2 * world.rewards.sigmoid(), known["beta"])


def _rebel(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, world.rewards, 1 / known["eta"])


def _r_dpo(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, world.rewards - known["alpha"] * world.lengths, known["beta"])


def _rpo(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, known["eta"] * world.rewards, known["beta"])


def _f_dpo(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, world.rewards, known["beta"], str(known["divergence"]))


def _ipo(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, win_rates(world.rewards, world.ref_logps), known["beta"])


def _iupo(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    rewards = win_rates(world.rewards, world.ref_logps)
    return _regularised(world, logps, rewards, known["beta"], str(known["divergence"]))


def _nash(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return _regularised(world, logps, win_rates(world.rewards, logps), known["beta"])


def _unregularised_nash(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    return (win_rates(world.rewards, logps).amax(-1) - 0.5).mean()


def _imitation(world: SequenceWorld, logps: Tensor, known: Mapping[str, float]) -> Tensor:
    better = (world.ref_logps + (2 * win_rates(world.rewards, world.ref_logps)).log()).log_softmax(-1)
    return optimum.kl(better, logps).mean()


RLHF = OwnObjective("the regret at the method's own β", _rlhf)
OWN: Mapping[str, OwnObjective] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                *("una-pair", "f-dpo", "token-dpo", "wpo", "una-centred", "una-centred.labels", "dro"),
                *(
                    "una-centred.mixed",
                    "una-centred.online",
                    "una-centred.replay",
                    "una-centred.large",
                    "una-pair.large",
                    "una-online",
                    "reinforce",
                    "rloo",
                    "ppo",
                ),
            ),
            RLHF,
        ),
        **dict.fromkeys(
            ("ppo.rm", "rloo.rm", "una-centred.rm"),
            OwnObjective("the regret at the method's own β, by the true reward and not by the reward model's", _rlhf),
        ),
        "dro.labels": OwnObjective("E 2σ(r) − β·KL: labels are the rewards ±1 that it regresses on", _dro_labels),
        "rebel": OwnObjective("the regret at β = 1/η", _rebel),
        "r-dpo": OwnObjective("E(r − α·|y|) − β·KL, the survey's Eq. 44", _r_dpo),
        "rpo": OwnObjective(
            "E η·r − β·KL, its aim where scores are exact. Where they are noisy it asks for smaller margins, which are "
            "no differences of rewards.",
            _rpo,
        ),
        "f-dpo.js": OwnObjective("E r − β·JS(π ‖ π_ref)", _f_dpo),
        "ipo": OwnObjective("P(π ≻ π_ref) − β·KL, ΨPO with the identity", _ipo),
        "iupo": OwnObjective("P(π ≻ π_ref) − β·JS", _iupo),
        "nash-md": OwnObjective("exploitability of the game with β·KL to π_ref, by preferences without noise", _nash),
        **dict.fromkeys(
            ("sppo", "dno"),
            OwnObjective(
                "exploitability of the game without a reference, by preferences without noise", _unregularised_nash
            ),
        ),
        "sft": OwnObjective("KL from the distribution of the better responses", _imitation),
    }
)
"""By entry; every other entry stands in `WITHOUT_GAP`."""

ONE_NUMBER = (
    "One number stands for β·log Z(x) of all prompts. The optimum therefore depends on who wrote the responses."
)
ALONE = "It judges each response alone, without β·log Z(x). The optimum therefore depends on who wrote the responses."
IMITATION = "It imitates responses and has no π_ref. The optimum therefore depends on who wrote the responses."
MARGINS = (
    "The margins that it asks for are no differences of rewards, so no policy has all of them. Who wrote the pairs "
    "decides where they balance."
)
CONTROL = "Shuffled scores say nothing about a response, so nothing can be learned from them."
SORTED = (
    "It compares the sorted numbers of a whole batch. Its loss is no mean over pairs, and depends on the batch size."
)
WITHOUT_GAP: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("una-binary-mse", "una-binary-bce", "una-score", "una-measure", "bco"), ONE_NUMBER),
        **dict.fromkeys(("sppo-hard", "nca-pair"), ALONE),
        **dict.fromkeys(("slic", "orpo", "cpo", "tpo", "tpo-l", "rrhf", "pro"), IMITATION),
        **dict.fromkeys(
            ("cdpo", "exo-pair", "robust-dpo", "simpo", "alpha-po", "odpo", "rso", "ld-dpo", "discopop"),
            MARGINS,
        ),
        "dpop": "Its penalty pulls the optimum from π* towards π_ref. No formula is known for how far.",
        **dict.fromkeys(("aot", "aot-unpaired"), SORTED),
        "una-score.shuffled": CONTROL,
        "una-score.printed": "The printed sign makes the loss fall without bound, so it has no optimum.",
        "una-score.released": "σ(r_θ + c) reaches no score outside (0, 1), and both sides have such scores. Some "
        "responses therefore lose all probability, and no policy with full support is optimal.",
        "una-score.mixed": "Its pairs aim at π*. Its labels and scores aim at policies that depend on who wrote the "
        "responses.",
        "una-online.released": "It compares π with the policy that sampled, never with π_ref. Its first step is the "
        "policy gradient of E σ(s), which only all probability on the best response maximises.",
        "kto": "Its reference point z₀ has no gradient, and for a fixed z₀ the expected loss is linear in σ(r_θ − z₀). "
        "Responses with P(y = 1) below ½ are pushed to probability 0, so no policy with full support is optimal.",
        "apo-zero-unpaired": "The expected loss is linear in σ(r_θ). Responses with P(y = 1) below ½ are pushed to "
        "probability 0, so no policy with full support is optimal.",
        "apo-zero": "The expected loss is linear in σ(r_θ). Responses that win less than half of their comparisons are "
        "pushed to probability 0, so no policy with full support is optimal.",
        "apo-down": "It lowers chosen responses as well. The loss is smallest where all probability is on responses "
        "that are in no pair.",
        "npo": "For β up to 1 the expected loss is concave in π. It is therefore smallest where one response has all "
        "probability.",
        "gradient-ascent": "The loss falls without bound as a rejected response loses its probability.",
        "gpo": "With its default function the loss is DPO's. See the row of DPO for the gap.",
        "tr-dpo": "Its reference moves to the policy. Every stage that converges adds r/β, so no optimum is the last.",
        "beta-dpo": "Its β and its weights of pairs follow the policy that it trains. The optimum is π* of another β, "
        "which who wrote the pairs decides.",
        "sigmoid-norm": "The optimum is known: π ∝ π_ref·exp(|y|·(r − λ(x))/β). It maximises E r minus a KL in which "
        "each response counts 1/|y|, which these runs did not measure.",
        "tdpo": "The optimum is known: π_ref·exp(Q/β) token by token, with π_ref's own Q. These runs did not measure "
        "the distance from it.",
        "tdpo2": "One of its terms is held constant, and no loss has the gradient that is left.",
        "cringe": "It contrasts a token with those that the policy prefers, with weights that are held constant. No "
        "loss has the gradient that is left.",
        "lipo": "Its weights follow the ranks that the policy gives, without a gradient. π* is no fixed point of it.",
        "iterative-dpo": "The best of eight noisy scores always beats the worst, which is no Bradley–Terry preference. "
        "The margins that it asks for are no differences of rewards.",
        "best-of-k": "It imitates the best of its own samples again and again. Only a policy whose responses all have "
        "the same reward stays as it is.",
        "grpo": "It divides by the standard deviation of a group's scores. Rewards twice as large give the same step, "
        "so that it maximises no E r − β·KL.",
    }
)
"""By entry without a gap: why there is none, in one or two sentences. A test checks the mathematics on small worlds."""


def own_gap(
    entry: BoardEntry, factors: Sequence[float], world: SequenceWorld, logps: Tensor, beta: float
) -> float | None:
    """An entry's gap to its own optimum; None where it has none, see `WITHOUT_GAP`."""
    if entry.losses is not None or entry.name not in OWN:
        return None
    defaults = METHODS[entry.method].hyperparameters
    known = {**defaults, **entry.tuned_to(factors, beta), **entry.loss_kwargs}
    return float(OWN[entry.name].gap(world, logps, known))
