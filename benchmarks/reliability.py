"""Reliability of a run: kills, a full disk, several processes, and memory over ten thousand steps.

    python benchmarks/reliability.py --output figures/runs/reliability.json

- kills: SIGKILL at seeded random moments, in turn at start-up, in a step, in a rollout, in an evaluation, in a save and
  while the result is written. The same command resumes each time. The end is compared byte by byte with a run that
  nobody killed.
- disk: a write fails at ten places, as on a full disk. The same command resumes.
- processes: the same run by one, two and four processes.
- steps: memory and open files over ten thousand steps.

Runs are forked from one process, since importing takes longer than a run. So this needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import records

ERRORS = os.pipe()
"""Both ends of the standard error of the last run: a pipe, since no disk can be full there."""
PHASES = ("start-up", "step", "rollout", "evaluation", "save", "result")
"""What a run can be doing when it is killed."""
OFFLINE = ["una-score", "steps=40", "save_every=1", "log_every=1", "eval_every=4", "held_out=0.2", "lora_r=8"]
ONLINE = ["una-centred", "--online", "steps=15", "save_every=1", "log_every=1", "eval_every=4", "held_out=0.2"]
ONLINE += ["replay=2", "samples=4", "batch=4", "beta=0.4"]
RUNS = {"offline": OFFLINE, "online": ONLINE}
"""Words after `una-ref train`, on ToySteer."""
FULL = (
    ("start-up", 1, 300),
    ("start-up", 1, 8_000),
    ("evaluation", 1, 100),
    ("step", 1, 100),
    ("step", 30, 100),
    ("save", 1, 100),
    ("save", 20, 100_000),
    ("result", 1, 100),
    ("result", 1, 20_000),
    ("result", 1, 100_000),
)
"""From the n-th time that a run enters a phase, no file can be longer than so many bytes: (phase, n, bytes)."""
LONG = ["una-score", "steps=10000", "batch=1", "log_every=100", "save_every=100", "eval_every=0", "held_out=0"]


def main() -> int:
    """Run the parts, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["kills", "disk", "processes", "steps"], metavar="PART")
    parser.add_argument("--kills", type=int, default=50, help="of each of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write a record; other parts in it are kept")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        found = json.loads(arguments.output.read_text("utf-8"))["parts"]
    made: dict[str, Callable[[Path], Any]] = {
        "kills": lambda folder: {
            name: kills(words, folder / name, arguments.kills, arguments.seed) for name, words in RUNS.items()
        },
        "disk": full_disk,
        "processes": processes,
        "steps": long_run,
    }
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            found[part] = made[part](Path(folder))
        print(json.dumps({part: found[part]}), flush=True)
    if arguments.output:
        about = {"command": "python benchmarks/reliability.py", **records.provenance()}
        records.write(arguments.output, about | {"parts": found})
    return 0


# ---- runs in a process of their own


def command(words: Sequence[str], output: Path) -> list[str]:
    """The words of a training run on ToySteer."""
    return ["train", words[0], "--output", str(output), *words[1:]]


def started(words: Sequence[str], phase: mmap.mmap | None = None, full: tuple[str, int, int] | None = None) -> int:
    """The process of a run.

    Args:
        words: of the command.
        phase: its first byte tells what the run is doing, as a place in `PHASES`.
        full: when the disk is full, see `FULL`.
    """
    from una_ref.cli import main as una_ref

    said()  # what an earlier run has printed
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(ERRORS[1], 2)
        follow(phase or mmap.mmap(-1, 1), full)
        status = una_ref(list(words))
    finally:
        os._exit(status)


def follow(phase: mmap.mmap, full: tuple[str, int, int] | None) -> None:
    """Note the phase in its first byte whenever the run enters or leaves one, and fill the disk when it is time."""
    from una_ref.training import checkpoints, job, result

    times = Counter[int]()

    def enter(number: int) -> None:
        phase[0] = number
        times[number] += 1
        if full and (PHASES[number], times[number]) == full[:2]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (full[2], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    enter(0)

    def noted(module: Any, name: str, number: int) -> None:
        inner = getattr(module, name)

        def outer(*given: Any, **more: Any) -> Any:
            before = phase[0]
            enter(number)
            try:
                return inner(*given, **more)
            finally:
                phase[0] = before

        setattr(module, name, outer)

    noted(job.Job, "step", 1)
    noted(job.Job, "answered", 2)
    noted(job.Job, "evaluation", 3)
    noted(checkpoints, "save", 4)
    noted(result, "save", 5)


def finished(words: Sequence[str], full: tuple[str, int, int] | None = None) -> int:
    """The exit status of a run; −9 after a kill."""
    return os.waitstatus_to_exitcode(os.waitpid(started(words, full=full), 0)[1])


def said() -> str:
    """The last line that the last run has printed to its standard error."""
    text = os.read(ERRORS[0], 1 << 20) if select.select([ERRORS[0]], [], [], 0)[0] else b""
    return (text.decode().strip().splitlines() or [""])[-1]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The files of a finished run that hold what it computed."""
    names = ("adapter_model.safetensors", "metrics.jsonl", "adapter_config.json")
    return {name: (folder / name).read_bytes() for name in names}


def same(folder: Path, other: Path) -> bool:
    """Whether two finished runs have the same files, with the same bytes where those name no folder."""
    names = [{path.relative_to(each) for path in each.rglob("*")} for each in (folder, other)]
    contents = [bytes_of(each) for each in (folder, other)]
    for content, each in zip(contents, (folder, other), strict=True):
        content["adapter_config.json"] = content["adapter_config.json"].replace(str(each).encode(), b"")
    return names[0] == names[1] and contents[0] == contents[1]


# ---- the parts


def kills(words: Sequence[str], folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill a run `count` times while it goes on, and compare its end with that of a run that nobody killed.

    On a fast machine a short phase may be over before a kill that aims at it. A phase that no kill has met gets more,
    at its begin.

    Returns the kills by phase, how many times the run had to begin again because it had finished, and whether all ends
    have the bytes of the whole run.
    """
    whole, broken = folder / "whole", folder / "broken"
    assert finished(command(words, whole)) == 0, "the run fails without a kill"
    rng, phase = random.Random(seed), mmap.mmap(-1, 1)
    online = "--online" in words
    aims = [number for number, name in enumerate(PHASES) if online or name != "rollout"]
    killed, ends, equal = Counter[str](), 0, True
    while killed.total() < count or (len(killed) < len(aims) and killed.total() < 4 * count):
        missed = [number for number in aims if PHASES[number] not in killed] if killed.total() >= count else []
        aim = missed[0] if missed else aims[killed.total() % len(aims)]
        pid = started(command(words, broken), phase)
        status = until(pid, lambda aim=aim: phase[0] == aim)  # the end of the run comes in any case
        if status is None:
            time.sleep(0.0 if missed else rng.random() * (1.0 if aim == 0 else 0.02))
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            killed[PHASES[phase[0]]] += 1
        else:
            if os.WEXITSTATUS(status):
                raise SystemExit(f"expected a run that resumes after {killed.total()} kills, got: {said()}")
            ends, equal = ends + 1, equal and same(whole, broken)
            subprocess.run(["rm", "-r", str(broken)], check=True)
    assert finished(command(words, broken)) == 0, "the run fails at its end"
    equal = equal and same(whole, broken)
    return {"killed": dict(killed), "kills": killed.total(), "ends": ends + 1, "same_bytes": equal}


def until(pid: int, reached: Callable[[], bool]) -> int | None:
    """Wait until something holds; the status of the process if it ends before."""
    while not reached():
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.0005)
    return None


def full_disk(folder: Path) -> list[dict[str, Any]]:
    """For each time at which the disk is full: what could not be written, what was left, and how the run resumes."""
    whole = folder / "whole"
    assert finished(command(OFFLINE, whole)) == 0
    found = []
    for i, full in enumerate(FULL):
        output = folder / str(i)
        status = finished(command(OFFLINE, output), full)
        error = said().replace(f"{output}/", "")
        left = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
        partial = [name for name in left if "partial" in name or ".tmp" in name]
        again = finished(command(OFFLINE, output))
        found.append(
            {
                "full": full,
                "exit": status,
                "error": error,
                "files_left": left,
                "half_written": partial,
                "resumed": again == 0 and same(whole, output),
            }
        )
    return found


def processes(folder: Path) -> dict[str, Any]:
    """The largest difference of a weight from the run of one process, for runs of two and four."""
    from safetensors.torch import load_file

    weights = {}
    for count in (1, 2, 4):
        output = folder / str(count)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        words = ["-m", "una_ref", *command(OFFLINE, output)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*launch, *words], env=environment, check=True, capture_output=True)
        weights[count] = load_file(output / "adapter_model.safetensors")
    scale = max(float(tensor.abs().max()) for tensor in weights[1].values())
    gaps = {
        str(count): max(float((weights[count][name] - tensor).abs().max()) for name, tensor in weights[1].items())
        for count in (2, 4)
    }
    return {"largest_weight": scale, "largest_difference": gaps}


def long_run(folder: Path) -> dict[str, Any]:
    """Resident memory and open files of a run of ten thousand steps, every thousand steps."""
    pid = started(command(LONG, folder / "long"))
    log, seen, measured = folder / "long" / "metrics.jsonl", 0, []
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if log.exists() and (lines := log.read_text("utf-8").splitlines()):
            step = json.loads(lines[-1])["step"]
            if step // 1000 > seen:
                seen = step // 1000
                files = len(os.listdir(f"/proc/{pid}/fd"))
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                mb = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
                measured.append({"step": step, "resident_mb": round(mb, 1), "open_files": files})
        time.sleep(0.05)
    return {"exit": os.waitstatus_to_exitcode(status), "measured": measured}


if __name__ == "__main__":
    import accelerate  # noqa: F401 - before the fork, with all that a run imports
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    sys.exit(main())
