"""Self-play on a table of preferences: the exact iterations of Nash-MD, SPPO and DNO, and their distance from Nash.

An iteration maps one policy (X, Y) to the next, with expectations in the place of samples. The game of the survey's
Sec. 3.11 has two forms. Without a reference each player maximises P(π ≻ π′) (Eq. 56). With one, each also pays
β·KL to π_ref (Eq. 57); its equilibrium is `preferences.nash_logps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from una_ref.theory.checks import check_preferences, check_tables
from una_ref.theory.optimum import regret
from una_ref.theory.preferences import preference_rewards

Step = Callable[[Tensor], Tensor]
"""log π_t (X, Y) -> log π_{t+1} (X, Y)."""


def mixture_logps(logps: Tensor, ref_logps: Tensor, share: float) -> Tensor:
    """log of the geometric mixture ∝ π^(1−share)·π_ref^share, (X, Y) (survey Eq. 58, where share = α_t·β).

    Raises ValueError unless 0 ≤ share ≤ 1.
    """
    logps, ref_logps = check_tables(logps=logps, ref_logps=ref_logps)
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number in [0, 1], got {share}")
    return (torch.lerp(logps, ref_logps, share)).log_softmax(-1)


def nash_md_step(logps: Tensor, preferences: Tensor, ref_logps: Tensor, beta: float, rate: float) -> Tensor:
    """arg max α·P(π ≻ π_mix) − KL(π ‖ π_mix): one step of Nash-MD with learning rate α (survey Eq. 59, ES32).

    It is π_mix·exp(α·P(y ≻ π_mix)), normalised. P has no KL term here, because the mixture already pulls towards π_ref;
    the survey prints one (`nash_md_step_printed`). The fixed point is the Nash policy up to an error of order α, since
    the opponent is π_mix and not π. The error is gone with rates that fall to 0. Raises ValueError if α·β > 1.

    Munos et al. 2023, Sec. 6, https://arxiv.org/abs/2312.00886
    """
    mix = _opponent(logps, ref_logps, beta, rate)
    return (mix + rate * preference_rewards(preferences, mix)).log_softmax(-1)


def nash_md_step_printed(logps: Tensor, preferences: Tensor, ref_logps: Tensor, beta: float, rate: float) -> Tensor:
    """The survey's Eq. 59 as printed, with P_β of its Eq. 57: its fixed point is the Nash policy of 2β (ES32).

    The KL term of P_β adds −α·β·KL(π ‖ π_ref). The arg max is then the geometric mean of π_mix and π_ref with weights
    1 and α·β, times exp(α·P(y ≻ π_mix)/(1 + α·β)).
    """
    mix = _opponent(logps, ref_logps, beta, rate)
    pull = rate * beta
    return ((mix + pull * ref_logps + rate * preference_rewards(preferences, mix)) / (1 + pull)).log_softmax(-1)


def _opponent(logps: Tensor, ref_logps: Tensor, beta: float, rate: float) -> Tensor:
    """π_mix of Eq. 58."""
    if not 0 <= rate * beta <= 1:
        raise ValueError(f"rate: expected at least 0 and at most 1/beta = {1 / beta:g}, got {rate}")
    return mixture_logps(logps, ref_logps, rate * beta)


def sppo_step(logps: Tensor, preferences: Tensor, beta: float) -> Tensor:
    """π_t·exp(P(y ≻ π_t)/β), normalised: multiplicative weights with learning rate η = 1/β (survey Eq. 60).

    There is no reference. In a game without a pure equilibrium the last policy moves around the Nash policy and does
    not approach it. The mean of the policies does.

    Wu et al. 2024, https://arxiv.org/abs/2405.00675
    """
    logps = check_preferences(preferences, logps, beta)
    return (logps + preference_rewards(preferences, logps) / beta).log_softmax(-1)


def dno_step(logps: Tensor, preferences: Tensor, beta: float, tolerance: float = 1e-10) -> Tensor:
    """The minimiser of DNO's loss on unlimited pairs y, y′ ~ π_t with the winner from P: one step (survey Eq. 62).

    It is π_t·exp(r/β), normalised, where r is the Bradley–Terry reward that fits the preferences best under π_t. It is
    found by Newton's method. For Bradley–Terry preferences r is their reward. A certain preference has no finite r; r
    then stops where no response's gradient is above `tolerance`. Raises RuntimeError where it does not get there.

    Rosset et al. 2024, https://arxiv.org/abs/2404.03715
    """
    logps = check_preferences(preferences, logps, beta)
    p, mass = preferences.to(torch.float64), logps.exp()
    share = (p + 1 - p.mT) / 2  # of the pair's labels that the first response wins
    reward = torch.zeros_like(logps)
    for _ in range(200):
        predicted = (reward[:, :, None] - reward[:, None, :]).sigmoid()
        # Each response's gradient is divided by its own probability: rare responses are solved for as well.
        slope = ((share - predicted) @ mass[..., None])[..., 0]
        if float(slope.abs().max()) <= tolerance:
            return (logps + reward / beta).log_softmax(-1)
        curvature = mass[:, None, :] * predicted * (1 - predicted)
        system = torch.diag_embed(curvature.sum(-1)) - curvature + mass[:, None, :]  # the last term fixes Σ π_t·r = 0
        step, singular = torch.linalg.solve_ex(system, slope)
        if singular.any():  # no curvature is left: the rewards went to infinity
            break
        reward = reward + step / (1 + step.abs().amax(-1, keepdim=True) / 4)
    raise RuntimeError(f"dno_step: the gradient is {float(slope.abs().max()):.3g}, above the tolerance {tolerance:.3g}")


def exploitability(
    logps: Tensor, preferences: Tensor, ref_logps: Tensor | None = None, beta: float | None = None
) -> Tensor:
    """What the best opponent wins against π beyond ½, (X,): 0 only at a Nash policy.

    Without a reference it is max_y P(y ≻ π) − ½. With `ref_logps` and `beta` both players pay β·KL to π_ref: it is
    max_π′ P_β(π′ ≻ π) − ½ with P_β of the survey's Eq. 57.
    """
    rewards = preference_rewards(preferences, logps)
    if ref_logps is None or beta is None:
        return rewards.amax(-1) - 0.5
    return regret(logps, ref_logps, rewards, beta)


@dataclass(frozen=True)
class Play:
    """A self-play.

    Attributes:
        logps: (X, Y) the last policy.
        average: (X, Y) log of the mean of all policies, the start included.
        gaps: of the last policy after each step, the start first; means over prompts.
        average_gaps: the same of the mean so far.
    """

    logps: Tensor
    average: Tensor
    gaps: tuple[float, ...]
    average_gaps: tuple[float, ...]

    def steps_to(self, gap: float, *, average: bool = False) -> int | None:
        """The first number of steps with at most this gap; None if there is none."""
        gaps = self.average_gaps if average else self.gaps
        return next((step for step, value in enumerate(gaps) if value <= gap), None)


def play(step: Step, start: Tensor, gap: Callable[[Tensor], Tensor], steps: int) -> Play:
    """Self-play for a number of steps.

    Args:
        step: an iteration, such as `sppo_step` with its game.
        start: (X, Y) the first policy.
        gap: log π (X, Y) -> (X,), such as `exploitability` with its game.
        steps: how many.
    """
    logps, total = start.to(torch.float64), start.to(torch.float64).exp()
    gaps, average_gaps = [float(gap(logps).mean())], [float(gap(logps).mean())]
    for count in range(2, steps + 2):
        logps = step(logps)
        total = total + logps.exp()
        gaps.append(float(gap(logps).mean()))
        average_gaps.append(float(gap((total / count).log()).mean()))
    return Play(logps, (total / (steps + 1)).log(), tuple(gaps), tuple(average_gaps))


def oracle_calls(steps: int, responses: int, opponents: int | None = None) -> int:
    """Preferences that an iteration asks for, for one prompt, over a number of steps.

    Args:
        steps: of the iteration.
        responses: that are compared in a step.
        opponents: that each is compared with. None: with one another, each pair once.
    """
    return steps * (responses * (responses - 1) // 2 if opponents is None else responses * opponents)
