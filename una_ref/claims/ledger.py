"""The ledger: what the papers claim, a check of each claim, its verdict, and the numbers behind the verdict.

A claim is a decorated check:

    @claim("EU1", paper=UNA, place="Eq. 3", says="π* = max J", verdict=FAILS, instead="π* = arg max J",
           shows="max J = {best:.3f}, ...", notebook="02_partition_function")
    def _eu1() -> Evidence: ...

The check computes `Evidence`: numbers, and the named statements that the verdict rests on. The verdict stands while
all of them are true. The numbers are committed (evidence.json), so that tables need no computation; `recompute`
compares new numbers with the committed ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

UNA, UPO, SURVEY = "UNA", "UPO", "survey"
"""The names of the papers."""
HOLDS, FAILS, OPEN = "holds", "fails as printed", "open"
"""Three of the verdicts; the fourth kind names its condition: "holds if …". Open: the interval of the difference
contains 0, so the worlds here decide nothing."""
TOLERANCE = 1e-3
"""How far a recomputed number may be from the committed one, relative to the larger of it and 1."""


@dataclass(frozen=True)
class Evidence:
    """The result of a check.

    numbers
        By name, as `Claim.shows` prints them.
    stands
        The statements that the verdict rests on -> whether they are true. Never empty.
    """

    numbers: Mapping[str, float]
    stands: Mapping[str, bool]

    def __post_init__(self) -> None:
        if not self.stands:
            raise ValueError("evidence: expected at least one statement that the verdict rests on, got none")


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and its verdict.

    id
        EU, EP, ES: an erratum of UNA, UPO, the survey; CU, CP, CS: a claim of them.
    paper, place
        "UNA", "UPO" or "survey", and where in it.
    says
        The claim in a sentence.
    verdict
        "holds", "holds if …", "fails as printed" or "open".
    instead
        The correct statement; empty where the claim holds.
    shows
        The number, as a format string over `Evidence.numbers`.
    notebook
        The notebook that derives it, or None.
    check
        Computes the evidence.
    misprint
        An erratum that no trained policy depends on: notation, a reference, or a loss that has no minimum as printed.
        Its correct form is in the paper's own derivation, its source or the authors' code.
    """

    id: str
    paper: str
    place: str
    says: str
    verdict: str
    instead: str
    shows: str
    notebook: str | None
    check: Callable[[], Evidence]
    misprint: bool = False

    def __post_init__(self) -> None:
        if self.verdict not in (HOLDS, FAILS, OPEN) and not self.verdict.startswith("holds if "):
            raise ValueError(
                f"{self.id}: expected a verdict of {HOLDS!r}, {FAILS!r}, {OPEN!r} or 'holds if …', got {self.verdict!r}"
            )
        if self.misprint and not (self.id.startswith("E") and self.verdict == FAILS):
            raise ValueError(f"{self.id}: expected a misprint to be an erratum that {FAILS}, got {self.verdict!r}")

    @property
    def number(self) -> str:
        """`shows` with the committed numbers."""
        return self.shows.format(**committed()[self.id])

    def record(self) -> dict[str, str]:
        """The row of the table, as text."""
        return {
            "id": self.id,
            "paper": self.paper,
            "place": self.place,
            "claim": self.says,
            "verdict": self.verdict,
            "instead": self.instead,
            "number": self.number,
            "notebook": self.notebook or "",
        }


CLAIMS: dict[str, Claim] = {}
"""Every claim by id; filled and sorted by importing `una_ref.claims`."""


def claim(
    id: str,
    *,
    paper: str,
    place: str,
    says: str,
    verdict: str,
    instead: str = "",
    shows: str,
    notebook: str | None,
    misprint: bool = False,
) -> Callable[[Callable[[], Evidence]], Callable[[], Evidence]]:
    """Enter the decorated check into the ledger. Raises ValueError for an id that is taken."""

    def enter(check: Callable[[], Evidence]) -> Callable[[], Evidence]:
        if id in CLAIMS:
            raise ValueError(f"claim {id}: this id is in the ledger already")
        CLAIMS[id] = Claim(id, paper, place, says, verdict, instead, shows, notebook, check, misprint)
        return check

    return enter


def sort() -> None:
    """Sort `CLAIMS`: the errata of UNA, UPO and the survey, then the claims of the three, each by number."""
    kinds = ("EU", "EP", "ES", "CU", "CP", "CS")
    order = sorted(CLAIMS, key=lambda id: (kinds.index(id[:2]), int(id[2:].rstrip("ab")), id))
    entries = [CLAIMS.pop(id) for id in order]
    CLAIMS.update({entry.id: entry for entry in entries})


@cache
def committed() -> dict[str, dict[str, float]]:
    """The committed numbers of every claim."""
    return json.loads((resources.files("una_ref.claims") / "evidence.json").read_text("utf-8"))


@dataclass(frozen=True)
class Recomputed:
    """A recomputed claim: its evidence and the seconds it took."""

    claim: Claim
    evidence: Evidence
    seconds: float

    @property
    def number(self) -> str:
        """`Claim.shows` with the new numbers; their names alone where it asks for another one."""
        try:
            return self.claim.shows.format(**self.evidence.numbers)
        except KeyError:
            return ", ".join(sorted(self.evidence.numbers))

    @property
    def faults(self) -> list[str]:
        """Statements that are no longer true, and numbers that differ from the committed ones."""
        untrue = [f"no longer true: {statement}" for statement, true in self.evidence.stands.items() if not true]
        before = committed().get(self.claim.id, {})
        now = self.evidence.numbers
        if before.keys() != now.keys():
            return [*untrue, f"numbers are {sorted(now)}, committed are {sorted(before)}"]
        return untrue + [
            f"{name} is {now[name]:.6g}, committed is {before[name]:.6g}"
            for name in now
            if not abs(now[name] - before[name]) <= TOLERANCE * max(1.0, abs(before[name]))
        ]


def recompute(claims: Iterable[Claim]) -> Iterator[Recomputed]:
    """Each claim recomputed, one at a time."""
    for entry in claims:
        start = time.perf_counter()
        evidence = entry.check()
        yield Recomputed(entry, evidence, time.perf_counter() - start)


def commit(evidence: Mapping[str, Evidence]) -> Path:
    """Write evidence.json. Claims missing in `evidence` keep their numbers; those missing in the ledger are removed."""
    from una_ref.training.checkpoints import write_text

    path = Path(str(resources.files("una_ref.claims") / "evidence.json"))
    before = committed() if path.exists() else {}
    new = {id: {name: float(x) for name, x in result.numbers.items()} for id, result in evidence.items()}
    now = before | new
    write_text(path, json.dumps({id: now[id] for id in CLAIMS if id in now}, indent=1) + "\n")
    committed.cache_clear()
    return path


def markdown(claims: Iterable[Claim]) -> str:
    """The claims as a Markdown table: id, place, claim, verdict with the correct statement, number."""
    lines = ["| | where | claim | verdict | number |", "| --- | --- | --- | --- | --- |"]
    for entry in claims:
        verdict = f"**{entry.verdict}**" + (f": {entry.instead}" if entry.instead else "")
        cells = (entry.id, f"{entry.paper} {entry.place}", entry.says, verdict, entry.number)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
