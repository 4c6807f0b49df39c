"""The study of the leaderboard on the engine: the board, two retuned boards, alarms, the frontier over β, `CONDITIONS`.

results.json has one object for each of these axes: "board", "exact_scores", "tiny_lm", "alarms", "frontier", and a name
of `CONDITIONS`. All of them hold the engine's keys (command, settings, chosen, versions, hardware, date,
seconds_this_time, seconds_of_runs). A *summary* is {mean, low, high, median, values}: one value a world, and the 95 % t
interval of the mean; all null where a value is not finite. A *row* of measures is

    name, title, budget, failed (runs stopped by a non-finite value), worse_than_base {count, of, share},
    regret, reward, kl, kl_to_optimum, entropy, labeller_reward, length, trapped, tax: summaries (see `MEASURES`),
    own: summary of the gap to the optimum of the method's own objective, or null; best_regret: summary of the best
    checkpoint of online rows, else null; share: regret as a share of π_ref's (of means);
    to_best, to_dpo: summaries of the paired difference in regret.

board
    rows: rows of every entry and budget. references: the same for base, proxy (one a budget), ascent and optimum;
    budget is null where it does not matter. about: by entry {title, method, form, feedback, control, formula, equation,
    command, lr, factors, values (name -> hyper-parameter), at_edge, tuning_regret, own: the method's own objective, or
    why its gap is not measured}. efficiency: by entry {labels, bound,
    half: {labels, bound}}, see `labels_needed`: labels to 10 % and to half of π_ref's regret.
    leaders: names. exclusions: name -> reason. axes: name -> {title, levels, labels}. measures: name -> what it is,
    with its unit. protocol: sentences. main_budget: the budget that tables are sorted by.
exact_scores
    rows: rows with `to_replay`, a summary as `to_best` is one. base: the row of π_ref. budget: labels.
tiny_lm
    rows, base, budget: as there, with a transformer as the policy. mlp: the rows of the board's MLP on the same worlds.
    order: Spearman's ρ of the two orders, or null.
frontier
    rows: rows with `factor`, of β in units of the chosen one. optimal: rows of π* of other βs.
alarms
    scenarios: list of {title, rules: see `alarms.rules`}. monitors: name -> what it is. rows: names of the rows that
    are watched. weak: their β, in units of the chosen one. fall: share of the gain that is lost at a hacked checkpoint.
an axis of `CONDITIONS`
    title, levels, labels (what the levels are called), board (the board's level). rows: rows with `level`; a level may
    be null (off) or "inf".
    base: rows of π_ref with `level`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from una_ref.methods import METHODS
from una_ref.studies.engine import Axis, Chosen, Study
from una_ref.studies.leaderboard import alarms
from una_ref.studies.leaderboard import board_figures as figures
from una_ref.studies.leaderboard import board_tables as tables
from una_ref.studies.leaderboard.board_entries import ENTRIES, EXCLUSIONS, REFERENCES, BoardEntry
from una_ref.studies.leaderboard.board_rows import (
    DPO,
    candidates,
    compared,
    further,
    references_of,
    row,
    rows_of,
    run_of,
    tuned,
)
from una_ref.studies.leaderboard.board_runs import BoardRun, measure_run
from una_ref.studies.leaderboard.board_search import grids_of
from una_ref.studies.leaderboard.board_settings import HEADER, LeaderboardSettings
from una_ref.studies.leaderboard.board_summaries import labels_needed
from una_ref.studies.leaderboard.conditions import CONDITIONS, Condition, plain
from una_ref.studies.leaderboard.monitors import MONITORS
from una_ref.studies.leaderboard.own_objectives import OWN, WITHOUT_GAP
from una_ref.studies.leaderboard.protocol import ABOUT_MEASURES, sentences
from una_ref.studies.leaderboard.retuned_boards import EXACT_SCORES, TINY_LM, exact_results, tiny_lm_results
from una_ref.studies.run_store import RunStore

ALWAYS = (DPO, "una-centred", "ppo")
"""Rows that the axes and the frontier have in any case."""
KINDS = ("pairs", "labels", "scores", "scored pairs", "lists", "mixed", "calls", "reward model")
"""Kinds of feedback whose best row is a leader."""
FROZEN = {name: condition for name, condition in CONDITIONS.items() if condition.frozen}
"""The conditions under which rows keep the board's settings: an axis each."""


# ---- the board


def board_runs(settings: LeaderboardSettings, chosen: Chosen) -> dict[tuple[str, int], list[BoardRun]]:
    """The runs of each row: by entry and budget, one a world."""
    return {
        (name, budget): [run_of(name, chosen, budget, seed) for seed in settings.seeds]
        for budget in settings.budgets
        for name in tuned(settings, chosen)
    }


def board_results(store: RunStore, settings: LeaderboardSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """Every row at every budget, the references, and what a reader needs to know of each."""
    s = settings
    start = references_of(store, [BoardRun("base", 0, seed) for seed in s.seeds])
    known = {name: [BoardRun(name, 0, seed) for seed in s.seeds] for name in ("base", "ascent", "optimum")}
    proxies = {("proxy", budget): [BoardRun("proxy", budget, seed) for seed in s.seeds] for budget in s.budgets}
    references = rows_of(store, {**known, **proxies}, start)
    rows = [*rows_of(store, board_runs(s, chosen), start).values()]
    for budget in s.budgets:
        compared([each for each in rows if each["budget"] == budget])
    names = tuned(s, chosen)
    shares = {
        name: {r["budget"]: math.nan if r["share"] is None else r["share"] for r in rows if r["name"] == name}
        for name in names
    }
    return {
        "rows": rows,
        "references": [references[key] for key in ("base", *proxies, "ascent", "optimum") if key in references],
        "about": {name: about(ENTRIES[name], s, chosen) for name in names},
        "efficiency": {n: labels_needed(own) | {"half": labels_needed(own, 0.5)} for n, own in shares.items() if own},
        "leaders": leaders(chosen, s),
        "exclusions": dict(EXCLUSIONS),
        "axes": {name: {"title": c.title, "levels": c.plain_levels, "labels": c.labels} for name, c in FROZEN.items()},
        "measures": dict(ABOUT_MEASURES),
        "protocol": sentences(s),
        "main_budget": main_budget(s),
    }


def main_budget(settings: LeaderboardSettings) -> int:
    """The budget that tables are sorted by and leaders are chosen at."""
    return settings.axis_budget if settings.axis_budget in settings.budgets else settings.budgets[-1]


def about(entry: BoardEntry, settings: LeaderboardSettings, chosen: Chosen) -> dict[str, Any]:
    """What a reader needs to know of a row."""
    method, setting = METHODS[entry.method], chosen[entry.tuned_as or entry.name]
    values = entry.tuned_to(setting["factors"], settings.beta)
    placed = zip(("lr", *values), grids_of(entry, settings), (setting["lr"], *setting["factors"]), strict=True)
    regret = setting.get("tuning_regret")
    return {
        "title": entry.title,
        "method": entry.method,
        "form": entry.form,
        "feedback": entry.feedback,
        "control": entry.control,
        "formula": method.formula,
        "equation": method.equation,
        "command": entry.command(values),
        "lr": setting["lr"],
        "factors": list(setting["factors"]),
        "values": values,
        "at_edge": [name for name, grid, value in placed if len(grid) > 2 and value in (grid[0], grid[-1])],
        "tuning_regret": regret if regret is not None and math.isfinite(regret) else None,
        "own": OWN[entry.name].about if entry.name in OWN else f"not measured. {WITHOUT_GAP[entry.name]}",
    }


def leaders(chosen: Chosen, settings: LeaderboardSettings) -> list[str]:
    """The rows that axes and frontier have: the best one, DPO, centred UNA and PPO, the best of each kind of feedback.

    The order is that of the regret on the tuning worlds, so that the worlds of the axes choose nothing. A row with the
    regret of an earlier one (to 1e-9) is left out: it is the same method here.
    """
    regrets = {name: chosen[name]["tuning_regret"] for name in tuned(settings, chosen) if not ENTRIES[name].control}
    ranked = sorted((name for name in regrets if math.isfinite(regrets[name])), key=lambda name: regrets[name])
    kinds = dict.fromkeys(ENTRIES[name].feedback for name in ranked if ENTRIES[name].feedback in KINDS)
    best = [next(name for name in ranked if ENTRIES[name].feedback == kind) for kind in kinds]
    kept: list[str] = []
    for name in (*ranked[:1], *(name for name in ALWAYS if name in ranked), *best, *ranked):
        same = any(abs(regrets[name] - regrets[other]) < 1e-9 for other in kept)
        if not same and len(kept) < settings.leaders:
            kept.append(name)
    return sorted(kept, key=lambda name: regrets[name])


# ---- the frontier


def frontier_results(store: RunStore, settings: LeaderboardSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """Reward against KL: the leaders at several βs, in units of the chosen one."""
    s, names = settings, leaders(chosen, settings)
    runs = {}
    for name in (name for name in names if ENTRIES[name].tuned):
        setting = chosen[ENTRIES[name].tuned_as or name]
        first, *others = setting["factors"]
        for factor in s.frontier:
            runs[name, factor] = [
                BoardRun(name, s.axis_budget, seed, setting["lr"], (factor * first, *others)) for seed in s.axis_seeds
            ]
    best = {("optimum", b): [BoardRun("optimum", 0, seed, factors=(b,)) for seed in s.axis_seeds] for b in OPTIMAL}
    start = references_of(store, [BoardRun("base", 0, seed) for seed in s.axis_seeds])
    rows, optimal = (
        [each | {"factor": factor} for (_, factor), each in rows_of(store, some, start).items()]
        for some in (runs, best)
    )
    return {"rows": rows, "optimal": optimal, "leaders": names}


OPTIMAL = (8.0, 4.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.25)
"""βs of the optima on the frontier, in units of the world's."""


# ---- alarms


def alarm_results(store: RunStore, settings: LeaderboardSettings, base: Path, chosen: Chosen) -> dict[str, Any]:
    """The monitors' ROC and lead, and what is kept by stopping at their alarm, for each scenario."""
    s = settings
    names = [name for name in alarms.ROWS if name in tuned(s, chosen)]

    def runs(scenario: str, seed: int) -> list[BoardRun]:
        found = [run_of(name, chosen, s.axis_budget, seed, *alarms.SCENARIOS[scenario]) for name in names]
        return [replace(run, factors=(alarms.WEAK * run.factors[0], *run.factors[1:]), watched=True) for run in found]

    everything = {(name, seed): runs(name, seed) for name in alarms.SCENARIOS for seed in (*s.alarm_seeds, *s.seeds)}
    store.results([*chain(*everything.values())], "alarms")

    def curves(scenario: str, seeds: Sequence[int]) -> dict[int, list[alarms.Curve]]:
        found = {
            seed: [store.finished[run.key]["seen"] for run in everything[scenario, seed] if run.key in store.finished]
            for seed in seeds
        }
        return {seed: own for seed, own in found.items() if own}

    scenarios = []
    for name in alarms.SCENARIOS:
        tuning, own = curves(name, s.alarm_seeds), curves(name, s.seeds)
        if tuning and own:
            scenarios.append({"title": name, "rules": alarms.rules(tuning, own)})
    return {"scenarios": scenarios, "monitors": dict(MONITORS), "rows": names, "weak": alarms.WEAK, "fall": alarms.FALL}


# ---- the axes


def condition_results(
    store: RunStore, settings: LeaderboardSettings, base: Path, chosen: Chosen, *, condition: Condition
) -> dict[str, Any]:
    """The leaders, or the axis's own entries, at each level of a condition that acts on their feedback."""
    s, c = settings, condition
    names = c.own_entries or leaders(chosen, settings)
    names = [name for name in names if name in tuned(s, chosen) and c.acts_on(ENTRIES[name].feedback)]
    rows, base_rows = [], []
    for level in c.levels:
        where = (c.name, level) if level != c.board else ("", None)
        start = references_of(store, [BoardRun("base", 0, x, axis=where[0], level=where[1]) for x in s.axis_seeds])
        runs = {name: [run_of(name, chosen, s.axis_budget, seed, *where) for seed in s.axis_seeds] for name in names}
        own = [*rows_of(store, runs, start).values()]
        compared(own)
        rows += [each | {"level": plain(level)} for each in own]
        base_rows.append(row("base", REFERENCES["base"], None, start, start) | {"level": plain(level)})
    return {
        "title": c.title,
        "levels": c.plain_levels,
        "labels": c.labels,
        "board": plain(c.board),
        "rows": rows,
        "base": base_rows,
    }


LEADERBOARD: Study[LeaderboardSettings] = Study(
    command="una-ref leaderboard",
    settings=LeaderboardSettings(),
    header=HEADER,
    measure=measure_run,
    axes={
        "board": Axis(candidates, board_results, tables.board, figures.draw_board, further=further),
        "exact_scores": Axis(
            EXACT_SCORES.candidates,
            exact_results,
            tables.exact_scores,
            figures.draw_exact_scores,
            further=EXACT_SCORES.further,
        ),
        "tiny_lm": Axis(
            TINY_LM.candidates,
            tiny_lm_results,
            tables.tiny_lm,
            figures.draw_tiny_lm,
            further=TINY_LM.further,
        ),
        "alarms": Axis(candidates, alarm_results, tables.alarms, figures.draw_alarms, further=further),
        "frontier": Axis(candidates, frontier_results, tables.frontier, figures.draw_frontier, further=further),
        **{
            name: Axis(
                candidates,
                partial(condition_results, condition=condition),
                tables.condition,
                figures.draw_condition,
                further=further,
            )
            for name, condition in FROZEN.items()
        },
    },
    shipped="chosen_leaderboard.json",
    start=None,
)
"""`una-ref leaderboard`."""
