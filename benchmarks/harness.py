"""Compare cases: each in a process of its own, all of them in each round, with a record at the end.

Every case has the same base, LoRA, rows in the same order, precision, allocator and threads. On a CPU, seconds are the
processor's; on a GPU, the clock's. Both change with whatever else runs on the machine, so only ratios mean something: a
step of one case over a step of another on the same rows, seconds later.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import fixture
import floor
import records

WARMUP = 1
"""Steps of each case that are not counted."""
R = 32
"""Rank of the LoRA adapters."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": 1 << 33, "MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 30}
"""glibc keeps freed memory. Otherwise page faults would be a large and varying part of a step."""
PASSED = ("steps", "preset", "device", "dtype", "threads", "pairs", "micro_tokens")
"""Options that are passed on to the process of a case."""

Line = dict[str, Any]


def parser(about: str, cases: Sequence[str], *, steps: int = 5) -> argparse.ArgumentParser:
    """A parser of the options that all comparisons have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=cases, choices=cases, metavar="CASE", help=", ".join(cases))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps, help="measured steps in each round, after one warm-up step")
    parser.add_argument("--preset", default="balanced", choices=fixture.PRESETS)
    parser.add_argument("--lengths", default="short", choices=fixture.LENGTHS, help="lengths of prompts and responses")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write a record")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def rounds(script: str, arguments: argparse.Namespace, make: Callable[[Path], object]) -> list[Line]:
    """A line for every case in every round, each printed when it is there.

    On a CPU, all cases of a round are loaded; then each makes its first step, each its second, and so on. A GPU cannot
    hold them all and has no other users, so there the cases run one after the other.

    Args:
        script: the file that runs a case as a child process.
        arguments: of the comparison.
        make: writes the models and data that the cases read into a folder.
    """
    groups = [arguments.cases] if arguments.device == "cpu" else [[case] for case in arguments.cases]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for turn in range(arguments.rounds):
            for cases in groups:
                for line in _in_turns(script, cases, folder, arguments):
                    lines.append({"round": turn, **line, "load": os.getloadavg()[0]})
                    print(json.dumps(lines[-1]), flush=True)
    return lines


def _in_turns(script: str, cases: Sequence[str], folder: str, arguments: argparse.Namespace) -> Iterator[Line]:
    running = {}
    for case in cases:  # one after the other, since some compute before their first step
        running[case] = _start(script, case, folder, arguments)
        _next(case, running[case])
    for _ in range(WARMUP + arguments.steps - 1):
        for case, process in running.items():
            _next(case, process, go=True)
    for case, process in running.items():
        yield json.loads(_next(case, process, go=True))
        process.wait()


READY = "ready for a step"


def _next(case: str, process: subprocess.Popen[str], *, go: bool = False) -> str:
    """The next output of a case: `READY`, or its line. With `go`, it makes a step first."""
    if go:
        process.stdin.write("\n")
        process.stdin.flush()
    for output in process.stdout:
        if output.strip() == READY or output.startswith("{"):
            return output.strip()
    process.wait()
    raise SystemExit(f"{case}: {Path(process.errors).read_text()[-2000:]}")


def make(folder: Path, arguments: argparse.Namespace, **options: Any) -> None:
    """Write the models and data that the cases read. Frozen weights have the dtype asked for on a GPU only."""
    on_gpu = {"device": arguments.device, "dtype": arguments.dtype} if arguments.device == "cuda" else {}
    fixture.make(folder, arguments.preset, lengths=arguments.lengths, **on_gpu, **options)


def _start(script: str, case: str, folder: str, arguments: argparse.Namespace) -> Any:
    """The process of a case."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(arguments.threads)}
    env = os.environ | quiet | {name: str(value) for name, value in KEEP_MEMORY.items()}
    if arguments.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    options = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in PASSED if hasattr(arguments, name)]
    command = [sys.executable, script, *options, "--child", case, folder]
    errors = Path(folder) / f"{case}.errors"
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": open(errors, "w")}  # noqa: SIM115
    process: Any = subprocess.Popen(command, env=env, text=True, **pipes)
    process.errors = errors
    return process


def child(arguments: argparse.Namespace, run: Callable[[str, Path, Meter], Line]) -> None:
    """In the process of a case: run it, and print its line. `run` trains, calls the meter, and returns more values."""
    import torch

    from una_ref.training.card import versions

    case, folder = arguments.child
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("device: expected a GPU for --device cuda, got none")
    about = {"device": arguments.device, "dtype": arguments.dtype, "threads": torch.get_num_threads()}
    about |= {"versions": versions(), "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
    if arguments.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    meter = Meter(torch.device(arguments.device))
    values = run(case, Path(folder), meter)
    if case.startswith("trl"):
        import trl

        about["versions"]["trl"] = trl.__version__
    rates = {name: round(rate) for name, rate in floor.rates(arguments.device, arguments.dtype).items()}
    print(json.dumps({"case": case, **meter.line(), **values, "rates": rates, **about}))


def record(arguments: argparse.Namespace, lines: Sequence[Line], **results: Any) -> None:
    """Print the results. If an output is named, add them there to its `runs`, with command, versions and date."""
    print(json.dumps(results))
    if not arguments.output:
        return
    loads = [line["load"] for line in lines]
    run = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}",
        **results,
        **records.provenance(),
        "load average": {"least": min(loads), "largest": max(loads)},
        "versions": {name: version for line in lines for name, version in line["versions"].items()},
        "lines": [{name: value for name, value in line.items() if name != "versions"} for line in lines],
    }
    before = json.loads(arguments.output.read_text("utf-8"))["runs"] if arguments.output.exists() else []
    records.write(arguments.output, {"runs": [*before, run]})


class Meter:
    """Seconds of each step, by phase where there are some, and memory. The warm-up is left out."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.loaded = 0

    def start(self) -> None:
        """Call before the first step."""
        import torch

        self.loaded = memory(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def turn(self) -> None:
        """Call before each step: waits until it is this case's turn."""
        print(READY, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("turn: expected a line on the standard input, got its end; the comparison has stopped")
        self._since, self._phases = self._now(), defaultdict[str, float](float)

    def timed(self, phase: str, function: Callable[..., Any], note: Callable[[Any], None] | None = None) -> Any:
        """The function, which now adds its seconds to a phase and passes its result to `note`."""

        def run(*args: Any, **more: Any) -> Any:
            began = self._now()[0]
            out = function(*args, **more)
            self.add(phase, self._now()[0] - began)
            if note:
                note(out)
            return out

        return run

    def add(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase of this step."""
        self._phases[phase] += seconds

    def stop(self) -> None:
        """Call after each step. The time in no other phase is "learning"."""
        now = self._now()
        spent, wall = now[0] - self._since[0], now[1] - self._since[1]
        phases = {**self._phases, "learning": spent - sum(self._phases.values())} if self._phases else {}
        self.steps.append({"seconds": spent, "wall": wall, **phases})

    def _now(self) -> tuple[float, float]:
        from una_ref.training.metrics import seconds

        return seconds(self.device), time.perf_counter()

    def line(self) -> Line:
        """Means over the steps, memory, losses, and the seconds of each step."""
        steps = self.steps[WARMUP:]
        means = {name: round(mean(step[name] for step in steps), 4) for name in steps[0]}
        clock = "gpu" if self.device.type == "cuda" else "cpu"
        return {
            "s_per_step": means.pop("wall"),
            f"{clock}_s_per_step": means.pop("seconds"),
            **means,
            "loaded_mb": round(self.loaded / 2**20),
            "peak_mb": round(memory(self.device, peak=True) / 2**20),
            "losses": [round(loss, 6) for loss in self.losses],
            "each": [round(step["seconds"], 4) for step in steps],
        }


def trl_settings(folder: Path, arguments: argparse.Namespace, steps: int, lr: float) -> dict[str, Any]:
    """Settings of every TRL trainer, with which it makes the same steps as una_ref and nothing else."""
    return {
        "output_dir": str(folder / "trl"),
        "max_steps": steps,
        "learning_rate": lr,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "bf16": arguments.dtype == "bfloat16",
        "use_cpu": arguments.device == "cpu",
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def trl_callbacks(trainer: Any, meter: Meter) -> None:
    """Let a trainer of transformers report its steps and losses to the meter only."""
    import transformers

    class Steps(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.start()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            meter.turn()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.stop()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            meter.losses.extend([float(logs["loss"])] if "loss" in logs else [])

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Steps)


def memory(device: Any, *, peak: bool = False) -> int:
    """Bytes of this process: allocated on a GPU, resident on a CPU (Linux only)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status)[1]) * 1024


def by_round(lines: Sequence[Line]) -> list[dict[str, Line]]:
    """For each round, the line of every case."""
    rounds: dict[int, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        rounds[line["round"]][line["case"]] = line
    return [*rounds.values()]


def over_rounds(rounds: Sequence[dict[str, Line]], ratio: Callable[[dict[str, Line]], float]) -> dict[str, float]:
    """A ratio within each round: its median over the rounds, the least and the largest."""
    return spread([ratio(lines) for lines in rounds])


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of some ratios, the least and the largest."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "largest": round(max(values), 3)}


def cost(line: Line) -> float:
    """Seconds of a step: the processor's, or a GPU's."""
    return line.get("cpu_s_per_step") or line["gpu_s_per_step"]


def over_floor(line: Line, flops: str = "flops") -> float:
    """Cost over the floor, at the rates that were measured beside it; `best_flops` is the fastest product's rate."""
    return cost(line) / floor.seconds(line["floor"], line["rates"] | {"flops": line["rates"][flops]})


def compared(lines: Sequence[Line], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Ratios for the cases that ran: time of a step and memory over a peer's, and time over the floor.

    Args:
        lines: of all rounds.
        pairs: (case, peer).
    """
    rounds = by_round(lines)
    cases = list(dict.fromkeys(line["case"] for line in lines if all(line["case"] in one for one in rounds)))
    pairs = [(case, peer) for case, peer in pairs if case in cases and peer in cases]

    def ratios(ratio: Callable[[Line, Line], float]) -> dict[str, dict[str, float]]:
        return {f"{a} / {b}": over_rounds(rounds, lambda by, a=a, b=b: ratio(by[a], by[b])) for a, b in pairs}

    return {
        "time of a step": {
            f"{a} / {b}": spread([x / y for by in rounds for x, y in zip(by[a]["each"], by[b]["each"], strict=True)])
            for a, b in pairs
        },
        "time over the floor": {case: over_rounds(rounds, lambda by, c=case: over_floor(by[c])) for case in cases},
        "time over the floor, at the quickest product": {
            case: over_rounds(rounds, lambda by, c=case: over_floor(by[c], "best_flops")) for case in cases
        },
        "peak memory": ratios(lambda a, b: a["peak_mb"] / b["peak_mb"]),
        "peak memory beyond the loaded models": ratios(lambda a, b: _beyond_loaded(a) / _beyond_loaded(b)),
    }


def _beyond_loaded(line: Line) -> float:
    """MB that training takes on top of models and libraries; at least 1, since it is divided by."""
    return max(1, line["peak_mb"] - line["loaded_mb"])
