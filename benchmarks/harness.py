"""How cases are compared: each in a process of its own, all once a round, with a record at the end.

Like for like means: the same base, LoRA, rows in the same order, precision, allocator and threads on every side. On a
CPU seconds are the processor's, on a GPU the clock's; they move with what else runs, so only ratios say something: of
one case's step over the other's step on the same rows, seconds later.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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

WARMUP = 1
R = 32
KEEP = {"MALLOC_MMAP_THRESHOLD_": 1 << 33, "MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 30}
"""glibc keeps freed memory: else page faults are a large and changing part of what is measured."""
PASSED = ("steps", "preset", "device", "dtype", "threads", "pairs", "micro_tokens")
"""Options that a case's process is given."""

Line = dict[str, Any]


def parser(about: str, cases: Sequence[str], *, steps: int = 5) -> argparse.ArgumentParser:
    """The options that all comparisons have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--cases", nargs="*", default=cases, choices=cases, metavar="CASE", help=", ".join(cases))
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--steps", type=int, default=steps, help="measured in each round, after a first one")
    made.add_argument("--preset", default="balanced", choices=fixture.PRESETS)
    made.add_argument("--lengths", default="short", choices=fixture.LENGTHS, help="of prompts and responses")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--output", type=Path, help="write a record")
    made.add_argument("--child", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    return made


def rounds(script: str, arguments: argparse.Namespace, make: Callable[[Path], object]) -> list[Line]:
    """A line of every case in every round, each printed as it comes; `make` writes what the cases read.

    The cases of a round are all loaded; then each makes its first step, each its second, and so on. On a GPU, which
    would not hold them all and is nobody else's, they are made one after the other.
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
    for case in cases:  # one after the other: some compute before their first step
        running[case] = _started(script, case, folder, arguments)
        _next(case, running[case])
    for _ in range(WARMUP + arguments.steps - 1):
        for case, process in running.items():
            _next(case, process, go=True)
    for case, process in running.items():
        yield json.loads(_next(case, process, go=True))
        process.wait()


READY = "ready for a step"


def _next(case: str, process: subprocess.Popen[str], *, go: bool = False) -> str:
    """What a case says next: that it is ready for a step, or its line. `go` has it make that step first."""
    if go:
        process.stdin.write("\n")
        process.stdin.flush()
    for said in process.stdout:
        if said.strip() == READY or said.startswith("{"):
            return said.strip()
    process.wait()
    raise SystemExit(f"{case}: {Path(process.errors).read_text()[-2000:]}")


def make(folder: Path, arguments: argparse.Namespace, **options: Any) -> None:
    """What the cases read. A GPU's frozen weights are of the dtype asked for; a CPU's are cast where they are used."""
    own = {"device": arguments.device, "dtype": arguments.dtype} if arguments.device == "cuda" else {}
    fixture.make(folder, arguments.preset, lengths=arguments.lengths, **own, **options)


def _started(script: str, case: str, folder: str, arguments: argparse.Namespace) -> Any:
    """A case's process."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(arguments.threads)}
    env = os.environ | quiet | {name: str(value) for name, value in KEEP.items()}
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
    """In a case's own process: print its line. `run` trains, tells the meter, and adds its own to the line."""
    import torch

    from una_ref.training.card import versions

    case, folder = arguments.child
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: expected a GPU, got none")
    about = {"device": arguments.device, "dtype": arguments.dtype, "threads": torch.get_num_threads()}
    about |= {"versions": versions(), "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
    if arguments.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    meter = Meter(torch.device(arguments.device))
    own = run(case, Path(folder), meter)
    if case.startswith("trl"):
        import trl

        about["versions"]["trl"] = trl.__version__
    rates = {name: round(rate) for name, rate in floor.rates(arguments.device, arguments.dtype).items()}
    print(json.dumps({"case": case, **meter.line(), **own, "rates": rates, **about}))


def record(arguments: argparse.Namespace, lines: Sequence[Line], **found: Any) -> None:
    """Print what was found; if an output is asked for, add it there to the `runs`, with command, versions and date."""
    print(json.dumps(found))
    if not arguments.output:
        return
    loads = [own["load"] for own in lines]
    written = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}",
        **found,
        "hardware": f"{os.cpu_count()} CPU cores, {processor()}",
        "load average": {"least": min(loads), "largest": max(loads)},
        "versions": {name: version for line in lines for name, version in line["versions"].items()},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "lines": [{name: value for name, value in line.items() if name != "versions"} for line in lines],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(arguments.output.read_text("utf-8"))["runs"] if arguments.output.exists() else []
    arguments.output.write_text(json.dumps({"runs": [*before, written]}, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name (Linux), and the widest instructions that torch uses of it."""
    import torch

    about = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", about.read_text()) if about.exists() else None
    wide = torch.backends.cpu.get_cpu_capability()
    bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return f"{named[1] if named else platform.processor()}, {wide}, {'with' if bf16 else 'without'} bf16 products"


class Meter:
    """Notes the seconds of each step, the warm-up left out, by phase where there are some, and memory."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.loaded = 0

    def start(self) -> None:
        """Before the first step."""
        import torch

        self.loaded = memory(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def turn(self) -> None:
        """Before each step: wait until it is this case's turn."""
        print(READY, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("expected to be told to go on, got the end of the comparison")
        self._since, self._phases = self._now(), defaultdict[str, float](float)

    def timed(self, phase: str, function: Callable[..., Any], note: Callable[[Any], None] | None = None) -> Any:
        """The function with its seconds added to a phase, and what it gives noted."""

        def run(*args: Any, **more: Any) -> Any:
            began = self._now()[0]
            out = function(*args, **more)
            self.add(phase, self._now()[0] - began)
            if note:
                note(out)
            return out

        return run

    def add(self, phase: str, seconds: float) -> None:
        """Seconds that a phase took of this step."""
        self._phases[phase] += seconds

    def stop(self) -> None:
        """After each step. Learning is what is in no other phase."""
        now = self._now()
        spent, wall = now[0] - self._since[0], now[1] - self._since[1]
        phases = {**self._phases, "learning": spent - sum(self._phases.values())} if self._phases else {}
        self.steps.append({"seconds": spent, "wall": wall, **phases})

    def _now(self) -> tuple[float, float]:
        from una_ref.training.metrics import seconds

        return seconds(self.device), time.perf_counter()

    def line(self) -> Line:
        """What is to be said of the case: means over the steps."""
        steps = self.steps[WARMUP:]
        found = {name: round(mean(step[name] for step in steps), 4) for name in steps[0]}
        clock = "gpu" if self.device.type == "cuda" else "cpu"
        return {
            "s_per_step": found.pop("wall"),
            f"{clock}_s_per_step": found.pop("seconds"),
            **found,
            "loaded_mb": round(self.loaded / 2**20),
            "peak_mb": round(memory(self.device, peak=True) / 2**20),
            "losses": [round(loss, 6) for loss in self.losses],
            "each": [round(step["seconds"], 4) for step in steps],
        }


def trl_settings(folder: Path, arguments: argparse.Namespace, steps: int, lr: float) -> dict[str, Any]:
    """What every trainer of TRL is told, so that it makes una_ref's steps and nothing beside them."""
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
    """Have a trainer of transformers tell the meter, and nobody else, of its steps and losses."""
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
    """Bytes: on a GPU allocated, on a CPU resident (Linux), both of this process alone."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status)[1]) * 1024


def by_round(lines: Sequence[Line]) -> list[dict[str, Line]]:
    """Of each round, the line of every case."""
    found: dict[int, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        found[line["round"]][line["case"]] = line
    return [*found.values()]


def over(turns: Sequence[dict[str, Line]], ratio: Callable[[dict[str, Line]], float]) -> dict[str, float]:
    """A ratio within each round: its median over them, the least and the largest."""
    return spread([ratio(one) for one in turns])


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of some ratios, the least and the largest."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "largest": round(max(values), 3)}


def cost(line: Line) -> float:
    """Seconds a step: the processor's, or a GPU's."""
    return line.get("cpu_s_per_step") or line["gpu_s_per_step"]


def above(line: Line, flops: str = "flops") -> float:
    """Cost over the floor, at the rates that were measured beside it; `best_flops` is the quickest product's."""
    return cost(line) / floor.seconds(line["floor"], line["rates"] | {"flops": line["rates"][flops]})


def compared(lines: Sequence[Line], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Of what ran: each step's cost over a peer's, a round's over its floor, and memory over a peer's."""
    turns = by_round(lines)
    ran = list(dict.fromkeys(line["case"] for line in lines if all(line["case"] in one for one in turns)))
    pairs = [(a, b) for a, b in pairs if a in ran and b in ran]

    def each(ratio: Callable[[Line, Line], float]) -> dict[str, dict[str, float]]:
        return {f"{a} / {b}": over(turns, lambda one, a=a, b=b: ratio(one[a], one[b])) for a, b in pairs}

    steps = {
        f"{a} / {b}": spread([x / y for one in turns for x, y in zip(one[a]["each"], one[b]["each"], strict=True)])
        for a, b in pairs
    }
    return {
        "time of a step": steps,
        "time over the floor": {case: over(turns, lambda one, c=case: above(one[c])) for case in ran},
        "time over the floor, at the quickest product": {
            case: over(turns, lambda one, c=case: above(one[c], "best_flops")) for case in ran
        },
        "peak memory": each(lambda a, b: a["peak_mb"] / b["peak_mb"]),
        "peak memory beyond the loaded models": each(lambda a, b: _taken(a) / _taken(b)),
    }


def _taken(line: Line) -> float:
    """MB that training takes on top of models and libraries; not 0, which nothing could be compared with."""
    return max(1, line["peak_mb"] - line["loaded_mb"])
