"""Put a loss of one's own on the leaderboard.

from una_ref.studies.leaderboard.placing import place

def my_loss(*, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
    margin = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
    return torch.nn.functional.softplus(-beta * margin)

placed = place(my_loss, "pairs")
print(placed["rank"], "of", placed["of"], placed["row"]["regret"]["mean"])
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from una_ref.errors import InputError, near
from una_ref.methods import probe
from una_ref.methods.arguments import ARGUMENTS, PAIRED, Need, argument, hyperparameters, names
from una_ref.studies.engine import Candidates, Means, carry_out, choose
from una_ref.studies.leaderboard.board_entries import BETA, ENTRIES, BoardEntry, Loss, Tuned, fed_as
from una_ref.studies.leaderboard.board_rows import compared, row, tuning_runs
from una_ref.studies.leaderboard.board_runs import BoardRun, reference_run, trained
from una_ref.studies.leaderboard.board_search import next_settings
from una_ref.studies.leaderboard.board_settings import LeaderboardSettings
from una_ref.studies.leaderboard.board_study import LEADERBOARD
from una_ref.studies.leaderboard.board_tables import by_regret

STAND_INS: Mapping[str, str] = MappingProxyType(
    {
        "demos": "sft",
        "pairs": "una-pair",
        "scored pairs": "rpo",
        "labels": "una-binary-bce",
        "scores": "una-centred",
        "lists": "lipo",
        "calls": "una-centred",
    }
)
"""By kind of feedback the method whose run a plain loss takes over: its data, sampling and reference."""

SETTINGS_OF: Mapping[str, str] = MappingProxyType(
    {
        "demos": "sft",
        "pairs": "una-pair",
        "scored pairs": "una-pair",
        "labels": "una-binary-bce",
        "scores": "una-centred",
        "lists": "una-pair",
        "calls": "rloo",
    }
)
"""By kind of feedback the row of the quick board whose setting a loss takes that is not tuned."""


def entry_of(
    loss: Loss,
    kind: str,
    *,
    name: str = "mine",
    title: str = "",
    tuned: Sequence[Tuned] | None = None,
) -> BoardEntry:
    """A row of the leaderboard from a plain loss.

    Args:
        loss: keyword-only, with arguments out of `una_ref.methods.arguments` and hyper-parameters that have defaults;
            one number for each example out.
        kind: of feedback: demos, pairs, scored pairs, labels, scores, lists; or calls, for a loss on the scores of
            responses that the policy samples in each step.
        name: of the row.
        title: in tables, by default the name.
        tuned: the hyper-parameters that are chosen beside the learning rate; None: β if there is one.

    Raises:
        InputError: no such kind, no such hyper-parameter, or a loss that cannot be called with what the kind has.
    """
    if kind not in STAND_INS:
        raise InputError(f"kind: expected one of {', '.join(STAND_INS)}, got {kind!r}{near(kind, STAND_INS)}")
    if name in ENTRIES:
        raise InputError(f"name: expected a name that no row of the leaderboard has, got {name!r}")
    if not callable(loss):
        raise InputError(f"loss {name}: expected a function, got {type(loss).__name__}. Fix: pass the function itself")
    fed = fed_as(kind)
    if wrong := [own for own in sorted(names(loss)) if not _given(own, kind)]:
        raise InputError(
            f"loss {name}: expected arguments of {fed}, got {', '.join(wrong)}. Fix: see docs/arguments.md"
        )
    _check_call(loss, name, fed)
    known = hyperparameters(loss)
    if tuned is None:
        tuned = (BETA,) if "beta" in known else ()
    for own in tuned:
        if own.name not in known:
            raise InputError(f"tuned: expected hyper-parameters of the loss ({', '.join(known)}), got {own.name!r}")
    return BoardEntry(
        *(name, title or name, STAND_INS[kind]),
        config={"online": True} if kind == "calls" else {},
        feedback=kind,
        tuned=tuple(tuned),
        losses={fed: loss},
    )


def _check_call(loss: Loss, name: str, fed: str) -> None:
    """Refuse a loss that a run cannot call or cannot learn from. Raises InputError."""
    for own, parameter in inspect.signature(loss).parameters.items():
        if argument(own) is None and parameter.default is parameter.empty:
            raise InputError(
                f"loss {name}: expected an argument of docs/arguments.md, or a hyper-parameter with a default, got "
                f"{own!r}{near(own, [*ARGUMENTS, *PAIRED])}"
            )
    given = probe.example_arguments(loss, fed)
    trained = [own for own in given if (PAIRED[own][0] if own in PAIRED else own) in TRAINED]
    for own in trained:
        given[own].requires_grad_()
    try:
        values = loss(**given)
    except Exception as error:  # whatever a user's function raises
        raise InputError(
            f"loss {name}: expected a loss on {fed}, got one that refuses: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(values, Tensor) or values.shape != (2,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"loss {name}: expected one number for each of 2 examples, shape (2,), got {got}. "
            "Fix: return the losses without a mean"
        )
    if not values.isfinite().all():
        raise InputError(f"loss {name}: expected finite numbers for ordinary log-probs, got {values.tolist()}")
    if not values.requires_grad:
        raise InputError(
            f"loss {name}: expected a gradient in {' or '.join(trained) or 'the log-probs of the policy'}, got none. "
            "Fix: remove .detach(), .item() and torch.no_grad()"
        )


TRAINED = ("logps", "token_logps", "logits")
"""The arguments that a policy under training computes."""


def _given(own: str, kind: str) -> bool:
    """Whether a run on this kind of feedback has an argument; what is no argument is a hyper-parameter."""
    entry = argument(own)
    if entry is None or entry.kind == "batch":
        return True
    if kind != "calls" and entry.requires in (Need.ROLLOUT, Need.CRITIC):
        return False
    in_pairs = own in PAIRED or entry.kind == "pair"
    return in_pairs == (fed_as(kind) == "pairs")


def place(
    loss: Loss,
    kind: str,
    *,
    board: Mapping[str, Any] | str | Path | None = None,
    output: str | Path = "runs/leaderboard-quick",
    workers: int | None = None,
    tune: bool = True,
    **about: Any,
) -> dict[str, Any]:
    """Train a loss of one's own by the leaderboard's protocol, and find its place on a board.

    Its learning rate and hyper-parameters are chosen by the same search on the same other worlds. Its runs are computed
    in this process, so a loss that is defined in a notebook will do.

    Args:
        loss: see `entry_of`.
        kind: of feedback, see `entry_of`.
        board: the results of a board, or the path of its results.json or its folder; None: the quick board, which is
            computed in `output` where it is not finished there.
        output: the folder of the quick board.
        workers: processes for the quick board.
        tune: whether learning rate and hyper-parameters are chosen for this loss. False: it takes those of a known
            method on the same feedback (`SETTINGS_OF`), which needs three runs and not some forty.
        about: further arguments of `entry_of`, such as `name` and `tuned`.

    Returns:
        name; rank, from 1, of how many rows with the same kind of feedback, at the board's main budget and without
        controls; row: the loss's own, and rows: those of its kind of feedback, as in results.json, with the loss in its
        place; setting: its learning rate, factors and tuning regret.

    Raises:
        InputError: before anything is trained, see `entry_of`; or a board of another version.
    """
    entry = entry_of(loss, kind, **about)
    results = _board(board, output, workers)
    own: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in results["settings"].items()}
    settings = LeaderboardSettings(**own)
    budget = results["main_budget"]
    store = _Here(entry, settings)
    start = [reference_run(BoardRun("base", budget, seed), settings) for seed in settings.seeds]
    setting = _tuned(entry, settings, store) if tune else _taken_over(entry, results)
    runs = [BoardRun(entry.name, budget, seed, setting["lr"], tuple(setting["factors"])) for seed in settings.seeds]
    mine = row(entry.name, entry.title, budget, store.results(runs, "the board's worlds"), start)
    rows = [*(dict(each) for each in results["rows"] if each["budget"] == budget), mine]
    compared(rows)
    kinds = {name: about["feedback"] for name, about in results["about"].items()} | {entry.name: entry.feedback}
    ranked = by_regret([each for each in rows if kinds[each["name"]] == entry.feedback])
    names = [each["name"] for each in ranked if not results["about"].get(each["name"], {}).get("control")]
    return {
        "name": entry.name,
        "rank": 1 + names.index(entry.name),
        "of": len(names),
        "row": mine,
        "rows": ranked,
        "setting": setting,
    }


def _tuned(entry: BoardEntry, settings: LeaderboardSettings, store: _Here) -> dict[str, Any]:
    """The setting that the search finds on the tuning worlds."""

    def options(means: Means) -> Candidates:
        found = next_settings(entry, settings, means[entry.name])
        return {entry.name: [(setting, tuning_runs(entry.name, setting, settings)) for setting in found]}

    return choose(store, options({entry.name: ()}), further=options)[entry.name]  # type: ignore[arg-type]


def _taken_over(entry: BoardEntry, results: Mapping[str, Any]) -> dict[str, Any]:
    """The setting of a known method on the same feedback."""
    name = SETTINGS_OF[entry.feedback]
    if name not in results["about"]:
        raise InputError(f"tune: expected a board with the row {name}, whose setting the loss takes. Fix: tune=True")
    known = results["about"][name]
    return {"lr": known["lr"], "factors": [*known["factors"], *[1.0] * len(entry.tuned)][: len(entry.tuned)]}


def _board(board: Mapping[str, Any] | str | Path | None, output: str | Path, workers: int | None) -> Mapping[str, Any]:
    if board is None:
        board = carry_out(LEADERBOARD, output, axes=("board",), quick=True, workers=workers)
    elif not isinstance(board, Mapping):
        path = Path(board, "results.json") if Path(board).is_dir() else Path(board)
        if not path.is_file():
            raise InputError(f"board {path}: expected a results.json of una-ref leaderboard, got no such file")
        try:
            board = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"board {path}: expected a results.json of una-ref leaderboard, got: {error}") from error
    results = board.get("board", board) if isinstance(board, Mapping) else {}
    version = results.get("settings", {}).get("protocol") if isinstance(results.get("settings"), Mapping) else None
    if version != LEADERBOARD.settings.protocol:
        raise InputError(
            f"board: expected results of protocol {LEADERBOARD.settings.protocol}, got {version}. "
            "Fix: run una-ref leaderboard again"
        )
    return results


class _Here:
    """The runs of one entry, computed in this process: what `choose` asks of a store."""

    def __init__(self, entry: BoardEntry, settings: LeaderboardSettings) -> None:
        self.entry, self.settings = entry, settings
        self.finished: dict[str, dict[str, Any]] = {}

    def results(self, runs: list[BoardRun], title: str) -> list[dict[str, Any]]:
        """The measures of runs, with a progress bar."""
        from tqdm import tqdm

        for run in tqdm(runs, desc=title, unit="run", disable=None):
            self.finished[run.key] = trained(self.entry, run, self.settings)
        return [self.finished[run.key] for run in runs]
