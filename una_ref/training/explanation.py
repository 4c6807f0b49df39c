"""Which curves of a run are as theory says, and which deserve a look: a table of rules.

A rule measures something in the curves, or does not apply. Its reason comes from theory. Its evidence names where an
exact world shows it, if one does: entries of the claims ledger, or a notebook.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from una_ref.methods.arguments import Need, needs
from una_ref.training.curves import (
    Curves,
    falls_without_end,
    loss_at_start,
    quarters,
    reward_is_zero_at_start,
)

Verdict = Literal["ok", "look"]


class Seen(NamedTuple):
    """What a rule has measured, as a sentence with its numbers, and whether that is as it must be."""

    text: str
    ok: bool


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: short.
        measure: the curves -> what is seen; None where the rule does not apply.
        reason: from theory.
        evidence: entries of the ledger or notebooks.
        fix: what to try where the verdict is "look".
    """

    name: str
    measure: Callable[[Curves], Seen | None]
    reason: str
    evidence: tuple[str, ...]
    fix: str


@dataclass(frozen=True)
class Explanation:
    """A rule that applies to a run, with what was seen."""

    name: str
    verdict: Verdict
    seen: str
    reason: str
    evidence: tuple[str, ...]
    fix: str


def explained(curves: Curves) -> Iterator[Explanation]:
    """Every rule that applies, in the order of the table."""
    for rule in RULES:
        seen = rule.measure(curves)
        if seen is not None:
            verdict: Verdict = "ok" if seen.ok else "look"
            yield Explanation(rule.name, verdict, seen.text, rule.reason, rule.evidence, "" if seen.ok else rule.fix)


# ---- what is measured


def _loss_at_start(curves: Curves) -> Seen | None:
    expected = loss_at_start(curves.config)
    if expected is None or curves.first is None or "loss" not in curves.first:
        return None
    loss = curves.first["loss"]
    text = f"loss {loss:.6g} before the first update, and {expected:.6g} at π = π_ref"
    return Seen(text, abs(loss - expected) <= 0.01 * max(1e-3, abs(expected)))


def _rewards_at_start(curves: Curves) -> Seen | None:
    first = curves.first
    if first is None or not reward_is_zero_at_start(curves.config) or "rewards/mean" not in first:
        return None
    sizes = [abs(first[name]) for name in ("rewards/mean", "rewards/margins") if name in first]
    accuracy = f", accuracy {first['rewards/accuracies']:.3g}" if "rewards/accuracies" in first else ""
    return Seen(f"mean reward {first['rewards/mean']:.2g}{accuracy} before the first update", max(sizes) <= 1e-2)


def _both_fall(curves: Curves) -> Seen | None:
    chosen, rejected = (curves.ends(f"logps/{side}") for side in ("chosen", "rejected"))
    if chosen is None or rejected is None or not {"pairs", "lists"} & {*curves.config.losses_by_kind}:
        return None
    if not (chosen[1] < chosen[0] and rejected[1] < rejected[0]):
        return None
    moved = [end - start for start, end in (chosen, rejected)]
    text = f"log π moves by {moved[0]:+.3g} nats for chosen and by {moved[1]:+.3g} for rejected responses"
    return Seen(text, moved[0] > moved[1])


def _negative_rewards(curves: Curves) -> Seen | None:
    ends = curves.ends("rewards/mean")
    if ends is None or ends[1] >= 0 or curves.config.on_policy or not reward_is_zero_at_start(curves.config):
        return None
    margins = curves.ends("rewards/margins")
    beside = "" if margins is None else f", margin {margins[1]:.3g}"
    return Seen(f"mean implicit reward {ends[1]:.3g} at the end{beside}", margins is None or margins[1] > 0)


def _loss_moves(curves: Curves) -> Seen | None:
    ends = quarters(curves.values("loss"))
    if ends is None or curves.config.on_policy:
        return None
    start, end = ends
    change = (end - start) / abs(start) if start else 0.0
    what = "rises" if change > 0.01 else "falls" if change < -0.001 else "stays"
    return Seen(f"the training loss {what}: {start:.4g} → {end:.4g} (quarters of the log)", what == "falls")


def _held_out_loss(curves: Curves) -> Seen | None:
    losses, training = curves.held_out("loss"), quarters(curves.values("loss"))
    if len(losses) < 2 or training is None or training[1] >= training[0] or curves.config.on_policy:
        return None
    best = min(losses)
    text = f"held-out loss {losses[0]:.4g} → {losses[-1]:.4g}, best {best:.4g}; training loss falls"
    return Seen(text, losses[-1] <= best + 0.02 * abs(best) and losses[-1] <= losses[0])


def _clipped(curves: Curves) -> Seen | None:
    norms, limit = curves.values("grad_norm"), curves.config.max_grad_norm
    if not norms or not limit:
        return None
    share = sum(norm > limit for norm in norms) / len(norms)
    text = f"the gradient is clipped at {limit:g} in {share:.0%} of the logged steps; median norm "
    return Seen(f"{text}{statistics.median(norms):.3g}", share <= 0.5)


def _sampled_kl(curves: Curves) -> Seen | None:
    values = curves.values("objective/kl")
    if not values:
        return None
    below = sum(value < 0 for value in values)
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else abs(mean)
    text = f"the sampled KL is negative in {below} of {len(values)} logged steps; mean {mean:.3g} ± {error:.2g} nats"
    return Seen(text, mean >= -3 * error)


def _reference_point(curves: Curves) -> Seen | None:
    values = curves.values("kl")
    if not values or Need.KL not in needs(curves.config.losses_by_kind.values()):
        return None
    zeros = sum(value < 1e-6 for value in values)
    return Seen(f"z₀ is 0 in {zeros} of {len(values)} logged steps, {max(values):.3g} at most", max(values) < 1)


def _offset(curves: Curves) -> Seen | None:
    method = curves.config.record
    loss = curves.config.losses_by_kind.get("scores")
    if loss is None or curves.config.on_policy or not reward_is_zero_at_start(curves.config):
        return None
    note = next((found for n in curves.notes if (found := re.match(r"scores: from (\S+) to (\S+),", n))), None)
    if note is None:
        return None
    low, high = float(note[1]), float(note[2])
    fitted = curves.config.baseline != "default" or method.baseline == "prompt" or method.shift_invariant
    baseline = "a baseline takes up the offset" if fitted else "no baseline takes up an offset"
    return Seen(f"scores from {low:g} to {high:g}; {baseline}", fitted or low < 0 < high)


def _certain_pairs(curves: Curves) -> Seen | None:
    accuracies, margins = curves.values("rewards/accuracies"), curves.values("rewards/margins")
    ends, growth = quarters(accuracies), quarters(margins)
    if ends is None or growth is None or not falls_without_end(curves.config):
        return None
    text = f"accuracy {ends[1]:.3g} on training pairs, margin {growth[0]:.3g} → {growth[1]:.3g}"
    return Seen(text, not (ends[1] >= 0.999 and growth[1] > growth[0]))


def _lengths(curves: Curves) -> Seen | None:
    ends = curves.ends("response_length")
    if ends is None:
        return None
    return Seen(f"sampled responses have {ends[0]:.3g} → {ends[1]:.3g} tokens", ends[1] <= 1.2 * ends[0])


def _ended(curves: Curves) -> Seen | None:
    ends = curves.ends("ended")
    if ends is None:
        return None
    return Seen(f"{ends[0]:.0%} → {ends[1]:.0%} of the sampled responses end", ends[1] >= ends[0] - 0.05)


def _sampler(curves: Curves) -> Seen | None:
    gaps = curves.values("sampler_gap")
    if not gaps:
        return None
    return Seen(f"sampler and training differ by {max(gaps):.2g} nats at most", max(gaps) <= 0.1)


def _dropped(curves: Curves) -> Seen | None:
    lost = curves.values("dropped")
    if not lost:
        return None
    config = curves.config
    share = sum(lost) / (len(lost) * config.batch * config.samples_per_prompt)
    prompts = sum(curves.values("dropped_prompts"))
    text = f"the reward gave no score to {share:.1%} of the responses in the logged steps; {prompts:g} prompts dropped"
    return Seen(text, share <= 0.01)


# ---- the table

RULES = (
    Rule(
        "loss at the start",
        _loss_at_start,
        "While π = π_ref every log-ratio is 0, so the loss has the value of reward 0, whatever the data.",
        ("CS20", "12_iupo_on_text"),
        "check that the reference is the starting model, and that no update came before",
    ),
    Rule(
        "rewards at the start",
        _rewards_at_start,
        "Implicit rewards are β·log(π/π_ref), which is 0 while π = π_ref. Ties count half, so the accuracy is ½. "
        "Rounding alone may move the accuracy.",
        ("00_one_row_to_one_step",),
        "check that the reference is the starting model and has the same dtype",
    ),
    Rule(
        "loss over training",
        _loss_moves,
        "A small step against the gradient lowers the loss of its batch. A loss that rises says that steps are too "
        "large; one that stays, that they are too small or that the feedback is noise.",
        ("00_one_row_to_one_step",),
        "if it rises, a lower lr; if it stays, a higher lr or more steps; shuffle=true shows what noise looks like",
    ),
    Rule(
        "held-out loss",
        _held_out_loss,
        "Training loss keeps falling on rows that are seen again. Held-out loss rises once single rows are learned. "
        "With a squared loss it may rise while the held-out accuracy rises too.",
        ("12_iupo_on_text",),
        "compare eval_rewards/accuracies; fewer epochs, or patience= with eval_every=",
    ),
    Rule(
        "both log-probs fall",
        _both_fall,
        "A loss on pairs sees the difference of the two log-ratios only. Shared parameters lower both, where the "
        "responses of a pair are alike. The margin grows as long as the rejected one falls faster.",
        ("CS2", "08_pairs"),
        "chosen responses fall faster than rejected ones: check the order of the columns, lower lr",
    ),
    Rule(
        "implicit rewards below 0",
        _negative_rewards,
        "The mean implicit reward over responses of π_ref is −β·KL(π_ref ‖ π). No training makes it positive.",
        ("CS23", "08_pairs"),
        "the margin is not above 0 either: check the order of the columns, and lr",
    ),
    Rule(
        "certain pairs",
        _certain_pairs,
        "Where every pair is in the right order, this loss falls without end as the margin grows, so nothing but the "
        "learning rate and the number of steps limits the distance from π_ref.",
        ("CS1", "CP6", "06_upo_and_iupo"),
        "fewer epochs, or a loss with a finite minimum: ipo, or cdpo",
    ),
    Rule(
        "offset of the scores",
        _offset,
        "Eq. 10 regresses β·log(π/π_ref) on the scores themselves. If all scores have one sign, all responses are "
        "pushed the same way, which is imitation or its opposite. V(x) takes the offset away.",
        ("EU14", "CU5", "04_una_losses"),
        "una-centred, which has V(x), or baseline=learned",
    ),
    Rule(
        "KTO's reference point",
        _reference_point,
        "z₀ is estimated from responses to other prompts. These are unlikely under π, so the mean log-ratio is "
        "negative and is clamped to 0. A large z₀ says that responses are learned without regard to their prompts.",
        ("CS9", "09_single_responses_and_lists"),
        "check that prompts reach the model; lower lr",
    ),
    Rule(
        "sampled KL",
        _sampled_kl,
        "k1, the mean of log(π/π_ref) over samples of π, is unbiased and may be negative in a step. The exact KL is "
        "not, so the mean over many steps is not either.",
        ("13_online_alignment",),
        "samples that are not the policy's: compare sampler_gap, temperature and minibatches",
    ),
    Rule(
        "clipped gradients",
        _clipped,
        "A clipped gradient keeps its direction and loses its size. Adam divides by the size of past gradients, so "
        "clipping in every step changes little, but the steps that should stand out no longer do.",
        ("07_gradients",),
        "a higher max_grad_norm, or a larger batch; look at the rows if single steps stand out",
    ),
    Rule(
        "length of samples",
        _lengths,
        "A reward that grows with length is maximised by length. The objective contains no other term against it than "
        "the KL.",
        ("ES22", "08_pairs"),
        "read samples; a reward that does not grow with length, or a larger β",
    ),
    Rule(
        "samples that end",
        _ended,
        "A response that is cut is scored as it stands. Where cut responses score well, π learns not to end.",
        (),
        "missing_eos_penalty=, or a larger max_response",
    ),
    Rule(
        "sampler and training",
        _sampler,
        "The gradient is that of the objective for samples of π itself. Log-probs of the sampler that differ make it "
        "that of another policy.",
        ("CU9", "04_una_losses"),
        "engine=hf, merge=, or dtype=float32",
    ),
    Rule(
        "responses without a score",
        _dropped,
        "What the reward does not score is not trained on. If that depends on the response, the policy is free to "
        "change there.",
        (),
        "a reward that scores every response, if need be with its lowest score",
    ),
)
"""All rules. Which of them apply depends on the method and on what the run has logged."""
