"""What a loss pushes: minus its derivative by the log-probability of a response, drawn for the page of each method.

Nothing is written down twice: the curves are derivatives of the loss itself, taken by autograd at example arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import ceil, floor, log10

import torch
from torch import Tensor

from una_ref.methods import Method
from una_ref.methods.arguments import PAIRED
from una_ref.methods.probe import example_arguments

STEPS = 81
"""Points of a curve."""
TOKENS = 10.0
"""Length of every response."""
PUSHED = ("logps", "token_logps", "rewards")
"""What is pushed, by its name in a loss on single responses."""
FIXED = {"lengths": TOKENS, "mean_length": TOKENS, "mask": True, "running_gap_sd": 1.0, "score_sd": 1.0, "margins": 1.0}
"""Arguments with a value of their own; what is not named is 0."""

STARTS = ("ref_logps", "second_ref_logps", "old_logps", "ref_token_logps", "old_token_logps")
"""Log-probabilities from which a response is shifted."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 250, 64, 130, 8, 42
"""Of a figure and its margins, in units of its view box."""

Curves = dict[str, Tensor]


def reach(method: Method) -> float:
    """Half the width of the figure: 4 in units of the method's reward where that is β times something."""
    if "old_token_logps" in arguments_of(method):  # a ratio for each token, which is clipped near 1
        return 1.5
    beta = method.hyperparameters.get("beta")
    if method.scorer or not isinstance(beta, int | float) or not beta or "β" not in method.formula:
        return 4.0 if method.scorer else 10.0
    return 4.0 / float(beta) * (TOKENS if "|y|" in method.formula else 1.0)


def arguments_of(method: Method) -> set[str]:
    """The arguments of its loss, each by its name in a loss on single responses."""
    return {PAIRED.get(name, (name,))[0] for name in example_arguments(method.loss, method.kinds[0], 1)}


def curves(method: Method) -> tuple[str, Tensor, Curves] | None:
    """The label of the x-axis, its points, and a curve for each response, label or score.

    Pairs: the margin grows while the mean of the two log-probabilities stays. Lists: the best of three moves. Others:
    the response moves. None for a loss of whole next-token distributions or of
    whole batches, whose push is no function of one number.
    """
    kind, names = method.kinds[0], arguments_of(method)
    if "logits" in names or method.whole_batch:
        return None
    width = reach(method)
    x = torch.linspace(-width, width, STEPS, dtype=torch.float64)
    before = "π_old" if names & {"old_logps", "old_token_logps"} else "π_ref" if method.needs_reference else "π_start"
    of, unit = ("reward", "") if method.scorer else (f"log π/{before}", ", nats")
    if kind == "pairs":
        return f"{of} of the chosen − that of the rejected{unit}", x, _pushes(method, kind, x)
    if kind == "lists":
        [push] = _pushes(method, kind, x).values()
        order = ("best", "second", "worst")
        return f"{of} of the best of three{unit}", x, {name: push[:, i] for i, name in enumerate(order)}
    if kind == "labels":
        values = {"label 1": {"labels": 1.0}, "label 0": {"labels": 0.0}}
    elif "advantages" in names:
        values = {"advantage +1": {"advantages": 1.0}, "advantage −1": {"advantages": -1.0}}
    elif kind == "scores":
        values = {f"score {score:g}": {"scores": score} for score in (1.0, 0.5, 0.0)}
    else:
        values = {"the response": {}}
    return of + unit, x, {name: _pushes(method, kind, x, value)[""] for name, value in values.items()}


def _pushes(method: Method, kind: str, x: Tensor, values: Mapping[str, float] | None = None) -> Curves:
    """The push on each response, shifted by x from the start; "" where an example is one response.

    The points are the examples of one batch. A loss on scores gets a second response for each prompt.
    """
    twice = 2 if kind == "scores" else 1
    made = example_arguments(method.loss, kind, twice * STEPS)
    if (
        "baseline" in made
        and inspect.signature(method.loss).parameters["baseline"].default is not inspect.Parameter.empty
    ):
        del made["baseline"]  # the loss has one of its own
    start, pushed = -2.0 * reach(method), {}
    for name, tensor in made.items():
        base, side = PAIRED.get(name, (name, ""))
        tokens = tensor.shape[-1] if "token" in base else 1
        if base in PUSHED:
            shift = {"chosen": x / 2, "rejected": -x / 2, "": x}[side]
            moved = torch.full_like(tensor, start / tokens)
            if kind == "lists":
                moved[:, 0] += shift
            else:
                moved[::twice] += (shift / tokens).reshape(-1, *[1] * (moved.ndim - 1))
            made[name] = pushed[side] = moved.requires_grad_()
        elif base in STARTS:
            made[name] = torch.full_like(tensor, start / tokens)
        elif base in FIXED:
            made[name] = torch.full_like(tensor, FIXED[base])
        elif base == "groups":
            made[name] = torch.arange(STEPS).repeat_interleave(2)
        elif base == "scores":
            scores = [1.0, 0.5, 0.0] if kind == "lists" else [(values or {}).get("scores", 1.0), 0.5]
            made[name] = torch.tensor(scores, dtype=tensor.dtype).repeat(STEPS, 1)
            made[name] = made[name] if kind == "lists" else made[name].flatten()
        else:
            made[name] = torch.full_like(tensor, (values or {}).get(base, 0.0))
    method.loss(**made).sum().backward()
    pushes = {side: -tensor.grad[::twice] for side, tensor in pushed.items() if tensor.grad is not None}
    return {side: push if kind == "lists" or push.ndim == 1 else push.mean(-1) for side, push in pushes.items()}


def svg(method: Method) -> str:
    """The figure of a method, to stand within a page, whose colours it takes; empty where there is none."""
    found = curves(method)
    if found is None:
        return ""
    label, x, lines = found
    low = min(0.0, *(float(y.min()) for y in lines.values()))
    high = max(0.0, *(float(y.max()) for y in lines.values()))
    margin = 0.05 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def across(value: float) -> float:
        return LEFT + (value - float(x[0])) / float(x[-1] - x[0]) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(float(x[0]), float(x[-1])):
        parts.append(f'<path class="grid" d="M{across(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{shown(tick)}</text>'
        )
    for tick in ticks(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {down(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{shown(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {down(0):.1f}H{WIDTH - RIGHT}"/>')
    for i, (name, y) in enumerate(lines.items()):
        points = " ".join(f"{across(a):.1f},{down(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
        parts.append(f'<polyline class="curve c{i}" points="{points}"/>')
        place = TOP + 12 + 20 * i
        parts.append(f'<path class="curve c{i}" d="M{WIDTH - RIGHT + 10} {place - 4}h22"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{place}">{name}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>')
    title = f"Push of {method.name} against {label}"
    return "\n".join(
        (f'<svg class="push" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">', *parts, "</svg>")
    )


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    rough = (high - low) / 5
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * i for i in range(ceil(low / step), floor(high / step) + 1)]


def shown(number: float) -> str:
    """A number on an axis, with a minus sign."""
    return f"{number:.6g}".replace("-", "−")
