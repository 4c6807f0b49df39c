"""Mutation testing: change one operator or number at a time and see whether the mirror tests notice.

    python benchmarks/mutation.py                       300 mutants, two at a time; run it again to resume
    python benchmarks/mutation.py --count 20            the first 20 of the same sample
    python benchmarks/mutation.py --again               the survivors once more, after the tests have changed
    python benchmarks/mutation.py --show 7              the diff of one mutant of the sample

The sample (`mutants.py`) is drawn with a seed. Each mutant runs in a copy of the checkout: the mirror tests of its
module, the quickest first, until one fails or the tests of `BUDGET` seconds have passed. Results go to
figures/runs/mutation.json after each mutant. A survivor keeps the note that somebody wrote into that file;
"equivalent: …" takes it out of the rate. Durations and limits are processor time, so that a busy machine neither drops
a test nor stops a mutant.
"""
# ruff: noqa: D102  the hooks of pytest

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutants import COUNT, ROOT, SEED, SHARES, Mutant, sample, show

REPORT = ROOT / "figures" / "runs" / "mutation.json"
BUDGET = 20.0
"""Processor seconds of tests for a mutant, by the durations of the unchanged code; the quickest tests come first."""
MORE = {
    "methods": ["methods/test_every_loss.py", "methods/test_registry.py", "methods/test_composition.py"],
    "methods/credit": ["methods/test_tokens.py"],
    "methods/pair_margins": ["methods/test_pairs.py"],
    "methods/ranking": ["methods/test_lists.py"],
    "methods/records": ["methods/test_registry.py", "methods/test_composition.py", "methods/test_taxonomy.py"],
    "methods/shapes": ["methods/test_gpo.py"],
    "theory/token_populations": ["methods/test_tokens.py"],
    "training/batches": ["training/test_losses.py", "training/test_loop.py"],
    "training/experience": ["methods/test_online.py", "training/test_loop.py"],
    "training/loop": ["training/test_samplers.py"],
    "training/stopping": ["training/test_samplers.py"],
}
"""Tests beside the one of the same name: of a module that has none or needs more, and of all modules of a folder."""


def tests_of(path: str) -> list[str]:
    """The mirror tests of a module."""
    inside = Path(path).relative_to("una_ref").with_suffix("")
    own = f"{inside.parent}/test_{inside.name}.py"
    names = dict.fromkeys([own, *MORE.get(str(inside), ()), *MORE.get(str(inside.parent), ())])
    return [f"tests/{name}" for name in names if (ROOT / "tests" / name).exists()]


# ---- running tests in a child of this process, which has torch loaded


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Order:
    """A pytest plugin: measures tests, or runs the quickest of those that passed first, within `BUDGET`."""

    def __init__(self, seconds: dict[str, float] | None) -> None:
        self.seconds, self.measured, self.failed = seconds, dict[str, float](), list[str]()
        self.began = 0.0

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        if self.seconds is None:
            return
        spent, kept = 0.0, []
        known = [item for item in items if item.nodeid in self.seconds]
        for item in sorted(known, key=lambda item: self.seconds[item.nodeid]):
            spent += self.seconds[item.nodeid]
            if spent <= BUDGET or not kept:
                kept.append(item)
        items[:] = kept

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.began = processor_seconds()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.measured[nodeid] = processor_seconds() - self.began

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)


def child(copy: Path, tests: list[str], seconds: dict[str, float] | None, limit: float, answer: Path) -> None:
    """Run tests in a copy of the checkout and write what happened; never returns. SIGXCPU ends it at its limit."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    os.chdir(copy)
    log = os.open(copy / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    import pytest

    plugin = Order(seconds)
    code = 1
    try:
        options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", *([] if seconds is None else ["-x"])]
        code = int(pytest.main([*options, *tests], plugins=[plugin]))
    finally:
        answer.write_text(json.dumps({"code": code, "failed": plugin.failed, "seconds": plugin.measured}))
        os._exit(0)


@dataclass
class Job:
    """Tests that run in a child."""

    pid: int
    copy: Path
    answer: Path
    deadline: float
    done: Callable[[dict[str, Any]], None]
    began: float


def workers(jobs: list[tuple[Any, ...]], count: int, folder: Path) -> None:
    """Run jobs (tests, module, mutated source or None, durations or None, limit, callback), `count` at a time.

    The limit is in processor seconds. A child that waits for ever is stopped after ten times as long on the clock.
    """
    free = []
    for i in range(count):
        copy = folder / f"copy{i}"
        ignore = shutil.ignore_patterns("__pycache__", "runs", ".git", ".venv", "notebooks", "*.ipynb", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignore, symlinks=True)
        free.append(copy)
    running: list[Job] = []
    originals: dict[Path, tuple[Path, bytes]] = {}
    waiting = list(reversed(jobs))
    while waiting or running:
        while waiting and free:
            tests, path, source, seconds, limit, done = waiting.pop()
            copy = free.pop()
            if source is not None:
                originals[copy] = copy / path, (copy / path).read_bytes()
                (copy / path).write_bytes(source)
            answer = copy / "answer.json"
            answer.unlink(missing_ok=True)
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                child(copy, tests, seconds, limit, answer)
            now = time.monotonic()
            running.append(Job(pid, copy, answer, now + 10 * limit, done, now))
        time.sleep(0.05)
        for job in list(running):
            ended, status = os.waitpid(job.pid, os.WNOHANG)
            late = not ended and time.monotonic() > job.deadline
            if late:
                os.killpg(job.pid, signal.SIGKILL)
                os.waitpid(job.pid, 0)
            if ended or late:
                late = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
                running.remove(job)
                if job.copy in originals:
                    target, before = originals.pop(job.copy)
                    target.write_bytes(before)
                free.append(job.copy)
                found = (
                    json.loads(job.answer.read_text()) if job.answer.exists() else {"code": 1, "failed": ["a crash"]}
                )
                took = round(time.monotonic() - job.began, 1)
                job.done({**found, "late": late, "took": took})


# ---- the run


def measured(files: list[str], count: int, folder: Path) -> dict[str, dict[str, float]]:
    """Test file -> test -> seconds on the unchanged code. Tests that fail there are left out, and named."""
    durations: dict[str, dict[str, float]] = {}

    def note(file: str) -> Callable[[dict[str, Any]], None]:
        def done(found: dict[str, Any]) -> None:
            passed = {test: s for test, s in found.get("seconds", {}).items() if test not in found["failed"]}
            if not passed:
                raise SystemExit(f"mutation: {file}: no test passes on the unchanged code")
            durations[file] = passed
            print(f"{file}: {len(passed)} tests, {sum(passed.values()):.0f} s", *found["failed"], flush=True)

        return done

    workers([([file], "", None, None, 900.0, note(file)) for file in files], count, folder)
    return durations


def load(report: Path) -> dict[str, dict[str, Any]]:
    """Results of earlier calls by the mutant's id."""
    return {row["id"]: row for row in json.loads(report.read_text())["mutants"]} if report.exists() else {}


def open_survivor(row: dict[str, Any]) -> bool:
    """Whether the tests missed it and nobody called it equivalent."""
    return bool(row["result"] == "survived" and not row["note"].startswith("equivalent"))


def save(report: Path, rows: list[dict[str, Any]]) -> None:
    """Write the report, with the rate of killed mutants."""
    equivalent = [row for row in rows if row.get("note", "").startswith("equivalent")]
    counted = [row for row in rows if row not in equivalent]
    killed = [row for row in counted if row["result"] != "survived"]
    groups = {}
    for name in SHARES:
        of = [row for row in counted if row["path"].startswith(f"una_ref/{name}/")]
        groups[name] = {"mutants": len(of), "killed": sum(row["result"] != "survived" for row in of)}
    record = {
        "command": "python benchmarks/mutation.py",
        "seed": SEED,
        "budget_s": BUDGET,
        "mutants_run": len(rows),
        "equivalent": len(equivalent),
        "killed": len(killed),
        "killed_share": round(len(killed) / max(len(counted), 1), 4),
        "by_folder": groups,
        "mutants": sorted(rows, key=lambda row: (row["result"] != "survived", row["path"], row["line"])),
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    unfinished = report.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, report)


def main() -> int:
    """0, or 1 where fewer than 92 % of a complete sample are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--again", action="store_true", help="run survivors again that are not equivalent")
    parser.add_argument("--show", type=int, help="print one mutant of the sample and stop")
    options = parser.parse_args()
    chosen = sample(options.count)
    if options.show is not None:
        print(show(chosen[options.show]))
        return 0
    before = load(options.report)
    rows = {mutant.id: before[mutant.id] for mutant in chosen if mutant.id in before}
    again = {key for key, row in rows.items() if options.again and open_survivor(row)}
    todo = [mutant for mutant in chosen if mutant.id not in rows or mutant.id in again]
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.dont_write_bytecode = True
    import pytest  # noqa: F401  loaded once, for all children
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        files = list(dict.fromkeys(file for mutant in todo for file in tests_of(mutant.path)))
        durations = measured(files, options.workers, Path(name) / "plain") if files else {}

        def note(mutant: Mutant) -> Callable[[dict[str, Any]], None]:
            def done(found: dict[str, Any]) -> None:
                result = "timeout" if found["late"] else "killed" if found["code"] != 0 else "survived"
                row = {
                    "id": mutant.id,
                    "path": mutant.path,
                    "line": mutant.line,
                    "operator": mutant.operator,
                    "old": mutant.old if len(mutant.old) < 80 else mutant.old[:77] + "...",
                    "new": mutant.new if len(mutant.new) < 80 else mutant.new[:77] + "...",
                    "result": result,
                    "by": next(iter(found["failed"]), ""),
                    "seconds": found["took"],
                    "note": before.get(mutant.id, {}).get("note", "") if result == "survived" else "",
                }
                rows[mutant.id] = row
                save(options.report, list(rows.values()))
                print(
                    f"{len(rows)}/{len(chosen)} {result}: {mutant.path}:{mutant.line} {row['old']} → {row['new']}",
                    flush=True,
                )

            return done

        jobs = []
        for mutant in todo:
            source, tests = mutant.applied((ROOT / mutant.path).read_bytes()), tests_of(mutant.path)
            seconds = {test: s for file in tests for test, s in durations[file].items()}
            limit = 30 + 4 * min(BUDGET, sum(seconds.values()))
            jobs.append((tests, mutant.path, source, seconds, limit, note(mutant)))
        workers(jobs, options.workers, Path(name) / "mutants")
    save(options.report, list(rows.values()))
    for row in filter(open_survivor, rows.values()):
        print(f"survived: {row['path']}:{row['line']} ({row['operator']}) {row['old']} → {row['new']}")
    share = json.loads(options.report.read_text())["killed_share"]
    print(f"{share:.1%} of {len(rows)} killed, {time.monotonic() - began:.0f} s")
    return 0 if share >= 0.92 or len(rows) < COUNT else 1


if __name__ == "__main__":
    sys.exit(main())
