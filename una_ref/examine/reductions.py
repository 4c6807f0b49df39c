"""What a loss reduces to: the registered losses whose gradient is a multiple of its own, and at which hyper-parameters.

Gradients are those in the policy of one random batch, so that losses of log-probs and of tokens can be compared. The
hyper-parameters of every registered loss of the same kind are fitted to the gradient; a second batch confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from una_ref.errors import InputError
from una_ref.examine.random_batch import RandomBatch
from una_ref.examine.signature import FORMS, Examinee
from una_ref.methods import METHODS
from una_ref.methods.gpo import MARGIN_SHAPES, RSO_SHAPES
from una_ref.methods.lists import RANKINGS
from una_ref.methods.measures import MEASURES
from una_ref.methods.scored_pairs import DISTANCES
from una_ref.theory import DIVERGENCES

EQUAL = 1e-6
"""Relative gap of gradients below which two losses are the same up to a factor."""
SPREADS = (3.0, 9.0)
"""Standard deviations of log-probs, in nats, of the batch where losses are fitted and of that where they are compared
again. In the second one a loss that is a straight line near 0 shows where it bends."""
FAR = (-100.0, -30.0, 30.0, 100.0)
"""By how many nats margins are moved, to compare the gradients of losses that are the same on random batches."""
NO_GRADIENT = 1e-12
"""Gradients at moved margins that are smaller than this, relative to those of the batch, are not compared."""
LEAST_BETA, MOST_BETA = 1e-4, 1e4
"""The fit stops at these β: below the first the gradient of every loss is that of a straight line."""
SINGULAR = 1e8
"""A fit that makes a registered gradient this many times larger is at a pole of its hyper-parameters, and no match."""
FITTED = 24
"""Candidates whose hyper-parameters are fitted: those nearest at their first hyper-parameters."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "divergence": tuple(DIVERGENCES),
    "function": (*MARGIN_SHAPES, *RSO_SHAPES),
    "ranking": tuple(RANKINGS),
    "measure": tuple(MEASURES),
    "distance": tuple(DISTANCES),
    "distances": ("scores", "none"),
}
"""Hyper-parameter -> the names that it may be; a loss refuses those that are not its own."""


@dataclass(frozen=True)
class Relation:
    """A registered loss beside the examined one.

    Attributes:
        method: its name; NAME.printed and NAME.released are forms of it.
        settings: the hyper-parameters at which it is nearest.
        factor: the examined gradient over its gradient, at those.
        cosine: of the two gradients.
        gap: size of what is left of the examined gradient, relative to it.
        reversed: whether its feedback was reversed: chosen and rejected, or positive and negative, exchanged.
        others: other names of the same function.
        differs_at: the moves of `FAR`, in nats, at which the two gradients differ nevertheless.
    """

    method: str
    settings: dict[str, float | str]
    factor: float
    cosine: float
    gap: float
    reversed: bool = False
    others: tuple[str, ...] = ()
    differs_at: tuple[float, ...] = ()

    @property
    def words(self) -> str:
        """The loss as a sentence names it."""
        settings = ", ".join(f"{k} = {_short(v)}" for k, v in self.settings.items())
        turned = ", with its feedback the other way round" if self.reversed else ""
        return f"{self.method}{f' at {settings}' if settings else ''}{turned}"


@dataclass(frozen=True)
class Reductions:
    """What a loss reduces to.

    Attributes:
        equal: registered losses with the same gradient up to a factor: first those that are the same at moved margins,
            too, then those with the fewest settings.
        nearest: the three nearest others.
        compared: number of registered losses of its kind, with their forms.
        reach: largest log-ratio of the random examples at which gradients were compared, in nats.
        moved: by how many nats their margins were moved for a second comparison. Beyond them two losses may differ.
        kind: of feedback.
    """

    equal: tuple[Relation, ...]
    nearest: tuple[Relation, ...]
    compared: int
    reach: float = 0.0
    moved: tuple[float, ...] = ()
    kind: str = "pairs"

    def sentences(self) -> list[str]:
        """The findings, one a sentence."""
        if not self.compared:
            return ["No registered loss of this kind takes its arguments."]
        found = []
        if self.equal:
            first, *more = self.equal
            others = f" (the same function as {', '.join(first.others)})" if first.others else ""
            factor = "" if abs(first.factor - 1) < 1e-6 else f"{_short(first.factor)} times "
            near = f"Where log-ratios are at most {self.reach:.0f} nats, its" if first.differs_at else "Its"
            found.append(f"{near} gradient is {factor}that of {first.words}{others}.")
            if first.factor < 0:
                found.append("The sign is the opposite: it rewards what that loss punishes.")
            found += self._reach(first)
            same = [one for one in more if one.differs_at == first.differs_at]
            if same:
                rest = f"; and {len(same) - 3} more" if len(same) > 3 else ""
                found.append(
                    f"{'The gradient of' if len(same) == 1 else 'Gradients of'} these "
                    f"{'is a multiple of it' if len(same) == 1 else 'are multiples of it'}, too: "
                    f"{'; '.join(_with_sign(relation) for relation in same[:3])}{rest}."
                )
        else:
            found.append(f"It is none of {self.compared} registered losses of its kind.")
        if self.nearest and not self.equal:
            near = "; ".join(f"{r.words} (gap {r.gap:.2g}, cosine {r.cosine:.4f})" for r in self.nearest)
            found.append(f"The nearest gradients are those of {near}.")
            found.append("The gap is the part of the gradient that no multiple explains: 0 is equal, 1 unrelated.")
        return found

    def _reach(self, first: Relation) -> list[str]:
        """Where the gradients were compared, and where they differ."""
        moves = "margins" if self.kind in ("pairs", "lists") else "log-ratios"
        found = [
            f"The two agree to a relative {EQUAL:g} on random examples with log-ratios of up to {self.reach:.0f} nats."
        ]
        same = [nats for nats in self.moved if nats not in first.differs_at]
        if same:
            found.append(f"They also agree where {moves} are moved by {_signed(same)} nats.")
        if first.differs_at:
            found.append(f"They differ where {moves} are moved by {_signed(first.differs_at)} nats.")
        return found


def _with_sign(relation: Relation) -> str:
    return f"{relation.words}{', with the opposite sign' if relation.factor < 0 else ''}"


def _signed(nats: Iterable[float]) -> str:
    """Numbers of one size and both signs as one: ±30 and +100 for −30, 30 and 100."""
    sizes = {abs(n): {x for x in nats if abs(x) == abs(n)} for n in sorted(nats, key=abs)}
    return " and ".join(f"±{size:g}" if len(signs) > 1 else f"{min(signs):+g}" for size, signs in sizes.items())


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Candidate:
    name: str
    loss: Examinee
    others: tuple[str, ...] = ()


def candidates(kind: str) -> list[_Candidate]:
    """Every registered loss of a kind of feedback, printed and released forms included; each function once."""
    found: dict[Any, list[str]] = {}
    for method in METHODS.values():
        losses = {method.name: method.losses.get(kind)}
        if kind == method.kinds[0]:
            losses |= {f"{method.name}.{form}": getattr(method, form) for form in FORMS}
        for name, loss in losses.items():
            if loss is not None:
                found.setdefault(loss, []).append(name)
    return [_Candidate(called[0], Examinee(called[0], loss, kind), tuple(called[1:])) for loss, called in found.items()]


def _given(candidate: Examinee, subject: Examinee) -> frozenset[str]:
    """What a candidate is given: what it asks for, and those optional arguments that the subject has."""
    given = {*candidate.given} | ({*candidate.arguments} & {*subject.given})
    if "baseline" in subject.given and "baseline" in given and "groups" not in subject.given:
        given -= {"groups"}  # V(x) is given in the place of the mean of others
    return frozenset(given)


def reductions(examinee: Examinee) -> Reductions:
    """Compare a loss with every registered one of its kind."""
    others = [candidate for candidate in candidates(examinee.kind) if candidate.loss.loss is not examinee.loss]
    wanted = {*examinee.given}.union(*(_given(candidate.loss, examinee) for candidate in others))
    if any({*examinee.given} & {"advantages", "returns", "values"}):
        return Reductions((), (), 0)
    others = [c for c in others if not {"advantages", "returns", "values"} & {*c.loss.given}]
    wanted -= {"advantages", "returns", "values", "old_values"}
    first, second = (RandomBatch(examinee, frozenset(wanted), n, spread) for n, spread in enumerate(SPREADS))
    given = frozenset(examinee.given)
    target = first.gradient(examinee, given)
    check = second.gradient(examinee, given)
    if target is None or check is None or not others or not target.norm() > 0:
        return Reductions((), (), 0)
    found = _searched(examinee, others, first, target, turned=False)
    confirmed = [_confirmed(relation, candidate, examinee, second, check) for relation, candidate in found]
    equal = [relation for relation in confirmed if relation.gap < EQUAL]
    if not equal and examinee.kind in ("pairs", "labels"):
        turned = _searched(examinee, others, first, target, turned=True)
        more = [_confirmed(relation, candidate, examinee, second, check) for relation, candidate in turned]
        equal = [relation for relation in more if relation.gap < EQUAL and relation.factor > 0]
        most = min((relation.gap for relation in confirmed if relation.factor > 0), default=math.inf) / 2
        confirmed += [relation for relation in more if relation.factor > 0 and relation.gap < most]
    known = {candidate.name: candidate for candidate in others}
    far = {nats: batch for nats in FAR if equal and (batch := first.moved(nats)) is not None}
    lines = [r for r in equal if _is_line(r, known[r.method], examinee, second)]
    equal = [replace(r, differs_at=_differs_at(r, known[r.method], examinee, far, target)) for r in equal]
    equal = [r for r in equal if not (r.differs_at and any(r.method == line.method for line in lines))]
    order = {name: number for number, name in enumerate(METHODS)}
    equal.sort(key=lambda r: (len(r.differs_at), len(r.settings), order.get(r.method.split(".")[0], 0)))
    names_of_equal = {relation.method for relation in equal}
    rest = [r for r in confirmed if r.method not in names_of_equal and r.factor > 0 and r not in lines]
    rest.sort(key=lambda r: r.gap)
    nearest: dict[str, Relation] = {}
    for relation in rest:
        nearest.setdefault(relation.method, relation)
    return Reductions(_once(equal), tuple(nearest.values())[:3], len(others), second.reach, tuple(far), examinee.kind)


def _once(equal: list[Relation]) -> tuple[Relation, ...]:
    """One relation for each method."""
    found: dict[str, Relation] = {}
    for relation in equal:
        found.setdefault(relation.method, relation)
    return tuple(found.values())


def _starts(candidate: Examinee, subject: Examinee) -> Iterator[Examinee]:
    """A candidate at its defaults, at the subject's hyper-parameters, at 0, and at each of its choices."""
    numbers = {n: v for n, v in candidate.hyperparameters.items() if isinstance(v, int | float)}
    shared = {n: v for n, v in subject.hyperparameters.items() if n in candidate.hyperparameters}
    words = {n: CHOICES[n] for n, v in candidate.hyperparameters.items() if isinstance(v, str) and n in CHOICES}
    zeros = {n: 0.0 for n in numbers if n not in ("beta", "eta", "tau", "width")}
    for chosen in product(*words.values()):
        named = dict(zip(words, chosen, strict=True))
        seen: list[dict[str, Any]] = []
        for settings in (named, {**shared, **named}, {**shared, **named, **zeros}):
            if settings not in seen:
                seen.append(settings)
                yield replace(candidate, settings=settings)


def _searched(
    subject: Examinee, others: list[_Candidate], batch: RandomBatch, target: Tensor, *, turned: bool
) -> list[tuple[Relation, _Candidate]]:
    """The nearest candidates, with hyper-parameters fitted to the gradient."""
    started: list[tuple[float, int, _Candidate, Examinee, float]] = []
    for candidate in others:
        given = _given(candidate.loss, subject)
        for start in _starts(candidate.loss, subject):
            gradient = batch.gradient(start, given, turned=turned)
            if gradient is not None and gradient.norm() > 0:
                cosine = float(torch.nn.functional.cosine_similarity(gradient, target, dim=0))
                started.append((abs(cosine), len(started), candidate, start, float(gradient.norm())))
    started.sort(key=lambda entry: (-entry[0], entry[1]))
    found, fitted = [], dict[str, int]()
    for _, _, candidate, start, size in started:
        if sum(fitted.values()) >= FITTED:
            break
        if fitted.get(candidate.name, 0) >= 2:
            continue
        fitted[candidate.name] = fitted.get(candidate.name, 0) + 1
        given = _given(candidate.loss, subject)
        settings = _fitted(start, given, batch, target, subject, turned=turned)
        relation = _relation(candidate, replace(start, settings=settings), given, batch, target, turned)
        if relation is not None and target.norm() < SINGULAR * size * abs(relation.factor):
            found.append((relation, candidate))
    return found


def _relation(
    candidate: _Candidate, at: Examinee, given: frozenset[str], batch: RandomBatch, target: Tensor, turned: bool
) -> Relation | None:
    gradient = batch.gradient(at, given, turned=turned)
    if gradient is None or not gradient.norm() > 0:
        return None
    factor = float(target @ gradient / (gradient @ gradient))
    left = float((target - factor * gradient).norm() / target.norm())
    cosine = float(target @ gradient / (target.norm() * gradient.norm()))
    known = {n: v for n, v in at.hyperparameters.items() if isinstance(v, int | float | str)}
    return Relation(candidate.name, known, factor, cosine, left, turned, candidate.others)


def _confirmed(
    relation: Relation, candidate: _Candidate, subject: Examinee, batch: RandomBatch, target: Tensor
) -> Relation:
    """The relation with its gap on another batch, at the same hyper-parameters and factor."""
    given = _given(candidate.loss, subject)
    at = replace(candidate.loss, settings=relation.settings)
    gradient = batch.gradient(at, given, turned=relation.reversed)
    if gradient is None:
        return replace(relation, gap=math.inf)
    gap = float((target - relation.factor * gradient).norm() / target.norm())
    cosine = float(target @ gradient / (target.norm() * gradient.norm()).clamp(min=1e-300))
    return replace(relation, gap=max(gap, relation.gap), cosine=cosine)


def _is_line(relation: Relation, candidate: _Candidate, subject: Examinee, batch: RandomBatch) -> bool:
    """Whether its gradient is that of a straight line on a batch: half of its β gives a multiple of it.

    Where such a loss bends beyond the batch, it is not that line, and any other loss that bends there would do as well.
    """
    beta = relation.settings.get("beta")
    if not isinstance(beta, float):
        return False
    given = _given(candidate.loss, subject)
    gradients = [
        batch.gradient(replace(candidate.loss, settings={**relation.settings, "beta": own}), given)
        for own in (beta, beta / 2)
    ]
    first, second = (gradient / gradient.norm() if gradient is not None else None for gradient in gradients)
    return first is not None and second is not None and float((first - second).norm()) < EQUAL


def _differs_at(
    relation: Relation, candidate: _Candidate, subject: Examinee, far: Mapping[float, RandomBatch], ordinary: Tensor
) -> tuple[float, ...]:
    """The moves at which the two gradients differ, or one of them is not finite."""
    at = replace(candidate.loss, settings=relation.settings)
    found = []
    for nats, batch in far.items():
        own = batch.gradient(subject, frozenset(subject.given))
        other = batch.gradient(at, _given(candidate.loss, subject), turned=relation.reversed)
        if own is None or other is None:
            if (own is None) != (other is None):
                found.append(nats)
            continue
        other = relation.factor * other
        size = max(float(own.norm()), float(other.norm()))
        if size > NO_GRADIENT * float(ordinary.norm()) and float((own - other).norm()) > EQUAL * size:
            found.append(nats)
    return tuple(found)


def _fitted(
    start: Examinee, given: frozenset[str], batch: RandomBatch, target: Tensor, subject: Examinee, *, turned: bool
) -> dict[str, float | str]:
    """The hyper-parameters where the gradient is nearest to a multiple of the target.

    The gradient of a kinked loss does not change with a hyper-parameter almost everywhere. Where the fit of gradients
    leaves a gap, the values are fitted too, up to a factor and a constant, and the better of the two is returned. Where
    it leaves none, the values decide between the hyper-parameters that have the same gradient.
    """
    known = start.hyperparameters
    free = [n for n, v in known.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    words = {n: v for n, v in known.items() if isinstance(v, str)}
    unit = target / target.norm()

    def at(point: Any) -> Examinee:
        numbers = {n: math.exp(p) if n == "beta" else float(p) for n, p in zip(free, point, strict=True)}
        return replace(start, settings={**words, **numbers})

    def of_gradients(point: Any) -> Any:
        gradient = batch.gradient(at(point), given, turned=turned)
        if gradient is None or not gradient.norm() > 0:
            return torch.full_like(unit, 10.0).numpy()
        across = gradient / gradient.norm()
        return (unit - (unit @ across) * across).numpy()

    expected = batch.values(subject, frozenset(subject.given))

    def of_values(point: Any) -> Any:
        values = batch.values(at(point), given, turned=turned)
        assert expected is not None
        if values is None or not values.std() > 0:
            return torch.full_like(expected, 10.0).numpy()
        wanted, across = ((v - v.mean()) / (v - v.mean()).norm() for v in (expected, values))
        return (wanted - (wanted @ across) * across).numpy()

    begin = [math.log(min(max(known[n], LEAST_BETA), MOST_BETA)) if n == "beta" else float(known[n]) for n in free]
    lower = [math.log(LEAST_BETA) if n == "beta" else min(0.0, known[n]) for n in free]
    upper = [math.log(MOST_BETA) if n == "beta" else math.inf for n in free]
    best, gap = begin, _size(of_gradients(begin))
    comparable = expected is not None and bool(expected.std() > 0)
    if not free or (gap < EQUAL**2 and (not comparable or _size(of_values(begin)) < EQUAL)):
        return dict(at(begin).settings)
    point = _least_squares(of_gradients, begin, (lower, upper))
    if (found := _size(of_gradients(point))) < gap:
        best, gap = point, found
    if comparable and gap > EQUAL:
        point = _least_squares(of_values, begin, (lower, upper))
        if _size(of_gradients(point)) < gap:
            best = point
    elif comparable and (left := _size(of_values(best))) > EQUAL:  # on a step, where other values have this gradient
        point = _least_squares(of_values, best, (lower, upper))
        if _size(of_values(point)) < left and _size(of_gradients(point)) < EQUAL:
            best = point
    return dict(at(best).settings)


def _size(residual: Any) -> float:
    return float((residual**2).sum()) ** 0.5


def _least_squares(
    residual: Callable[[Any], Any], begin: list[float], bounds: tuple[list[float], list[float]]
) -> list[float]:
    """Where scipy's least squares ends, or the beginning where it cannot start."""
    from scipy.optimize import least_squares

    try:
        found = least_squares(
            residual,
            begin,
            bounds=bounds,
            method="dogbox",
            xtol=1e-14,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=30,
        )
    except (ValueError, InputError):
        return begin
    return [float(p) for p in found.x]
