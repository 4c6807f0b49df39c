"""What an online update costs: una_ref's methods beside TRL's RLOO and GRPO, in turns, split by phase.

    python benchmarks/online.py --output figures/runs/online_speed.json

Like for like: the same base, LoRA (r = 32 on all linear layers), prompts in the same order, draws, length of response,
reward model (text in), precision, allocator and threads; no gradient checkpointing; a reference on both sides. Each
case runs in a process of its own, all cases once a round. A line of JSON for each, then one with the ratios: the median
over rounds of what stood in the same round, the least and the largest. On a CPU seconds are the processor's, on a GPU
the clock's; they move with what else runs, so that only ratios within a round say something.

PPO has no peer in TRL 1.16, which has dropped it. It is set against what it has to compute (`floor.py`), as all are.
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
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import fixture
import floor

BATCH, DRAWS, MAX_NEW = 4, 2, 64
WARMUP = 1
R, ALPHA, BETA, LR = 32, 16, 0.05, 1e-4
TRL = {"trl rloo": "RLOO", "trl grpo": "GRPO"}
UNA = {
    "una-centred": ("una-centred", []),
    "una-online": ("una-online", []),
    "rloo": ("rloo", []),
    "ppo, 1 pass": ("ppo", ["passes=1"]),
    "una-centred, 4 passes": ("una-centred", ["passes=4"]),
    "ppo, 4 passes": ("ppo", ["passes=4"]),
}
CASES = (*TRL, *UNA)
RATIOS = [
    *((case, peer) for case in ("una-centred", "una-online", "rloo") for peer in TRL),
    ("ppo, 1 pass", "una-centred"),
    ("ppo, 4 passes", "una-centred"),
    ("ppo, 4 passes", "una-centred, 4 passes"),
]
PHASES = ("generation", "scoring", "learning")
KEEP = {"MALLOC_MMAP_THRESHOLD_": 1 << 33, "MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 30}
"""glibc keeps freed memory: else page faults are a large and changing part of what is measured."""


def main() -> int:
    """Run all cases, or, as a child, one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="measured in each round, after a first one")
    parser.add_argument("--preset", default="balanced", choices=fixture.PRESETS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the frozen weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write a record")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child, arguments)))
        return 0
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        fixture.make(Path(folder), arguments.preset)
        for turn in range(arguments.rounds):
            for case in arguments.cases:
                lines.append({"round": turn, **started(case, folder, arguments), "load": os.getloadavg()[0]})
                print(json.dumps(lines[-1]), flush=True)
    found = compared(lines)
    print(json.dumps(found))
    if arguments.output:
        record = {
            "command": f"python benchmarks/online.py {shlex.join(sys.argv[1:])}",
            "ratios": found,
            "update": {"prompts": BATCH, "draws": DRAWS, "max_new": MAX_NEW, "lora_r": R},
            "hardware": f"{os.cpu_count()} CPU cores",
            "load average": {"least": min(own["load"] for own in lines), "largest": max(own["load"] for own in lines)},
            "versions": {name: version for line in lines for name, version in line["versions"].items()},
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "lines": [{name: value for name, value in line.items() if name != "versions"} for line in lines],
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def started(case: str, folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A case's line, from a process of its own."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(arguments.threads)}
    env = os.environ | quiet | {name: str(value) for name, value in KEEP.items()}
    if arguments.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "preset", "device", "dtype", "threads")]
    command = [sys.executable, __file__, *options, "--child", case, folder]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(case: str, folder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A case's line."""
    import torch

    from una_ref.training.card import versions

    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: expected a GPU, got none")
    about = {"device": arguments.device, "dtype": arguments.dtype, "threads": torch.get_num_threads()}
    about |= {"versions": versions(), "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
    if arguments.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    meter = Meter(torch.device(arguments.device))
    (of_trl if case in TRL else of_una)(case, Path(folder), arguments, meter)
    if case in TRL:
        import trl

        about["versions"]["trl"] = trl.__version__
    found = meter.line(case, arguments)
    rates = {name: round(rate) for name, rate in floor.rates(arguments.device, arguments.dtype).items()}
    return {"case": case, **found, "rates": rates, **about}


class Meter:
    """Notes seconds by phase, tokens, rewards and losses of each step, the warm-up left out.

    Learning is what is neither generation nor scoring.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.lengths: list[tuple[list[int], list[list[int]]]] = []
        self.rewards: list[float] = []
        self.losses: list[float] = []
        self.loaded = 0

    def start(self) -> None:
        """Before the first step."""
        import torch

        self.loaded = memory(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._since, self._phases = self._now(), dict.fromkeys(PHASES, 0.0)

    def timed(self, phase: str, function: Callable[..., Any], note: Callable[[Any], None] | None = None) -> Any:
        """The function with its seconds added to a phase, and what it gives noted."""

        def run(*args: Any, **more: Any) -> Any:
            began = self._now()[0]
            out = function(*args, **more)
            self._phases[phase] += self._now()[0] - began
            if note:
                note(out)
            return out

        return run

    def add(self, phase: str, seconds: float) -> None:
        """Seconds that were measured elsewhere."""
        self._phases[phase] += seconds

    def stop(self, *_: Any, **__: Any) -> None:
        """After each step."""
        now = self._now()
        spent, wall = now[0] - self._since[0], now[1] - self._since[1]
        self._phases["learning"] = spent - self._phases["generation"] - self._phases["scoring"]
        self.steps.append({"seconds": spent, "wall": wall, **self._phases})
        self._since, self._phases = now, dict.fromkeys(PHASES, 0.0)

    def _now(self) -> tuple[float, float]:
        from una_ref.training.metrics import seconds

        return seconds(self.device), time.perf_counter()

    def line(self, case: str, arguments: argparse.Namespace) -> dict[str, Any]:
        """What is to be said of the case: means over the steps."""
        steps, lengths = self.steps[WARMUP:], self.lengths[WARMUP : len(self.steps)]
        shape = floor.Shape(**fixture.PRESETS[arguments.preset], r=R, width=4 if arguments.dtype == "float32" else 2)
        passes = int(found[0]) if (found := re.findall(r"(\d) pass", case)) else 1
        least = [floor.update(shape, *own, passes=passes, ppo=case.startswith("ppo")) for own in lengths]
        work = {
            name: [mean(numbers) for numbers in zip(*(one[name] for one in least), strict=True)] for name in least[0]
        }
        clock = "gpu" if self.device.type == "cuda" else "cpu"
        return {
            "s_per_step": round(mean(step["wall"] for step in steps), 4),
            f"{clock}_s_per_step": round(mean(step["seconds"] for step in steps), 4),
            **{phase: round(mean(step[phase] for step in steps), 4) for phase in PHASES},
            "loaded_mb": round(self.loaded / 2**20),
            "peak_mb": round(memory(self.device, peak=True) / 2**20),
            "prompt_tokens": [sum(prompts) for prompts, _ in lengths],
            "response_tokens": [sum(map(sum, responses)) for _, responses in lengths],
            "reward": round(mean(self.rewards), 4),
            "losses": [round(loss, 6) for loss in self.losses],
            "steps": len(steps),
            "floor": work,
        }


def memory(device: Any, *, peak: bool = False) -> int:
    """Bytes: on a GPU allocated, on a CPU resident (Linux), both of this process alone."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status)[1]) * 1024


def of_una(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter) -> None:
    """Steps of una_ref; of those that are measured, the last one is recorded, as every tenth is by default."""
    from una_ref.data.rows import Row
    from una_ref.policies.loading import load
    from una_ref.training.config import resolve
    from una_ref.training.run import prepare

    method, more = UNA[case]
    total = WARMUP + arguments.steps
    settings = [f"beta={BETA}", f"lr={LR}", f"lora_r={R}", f"lora_alpha={ALPHA}", f"batch={BATCH}", "held_out=0", *more]
    settings += [f"draws={DRAWS}", f"max_response={MAX_NEW}", f"reward={folder / 'reward'}", f"dtype={arguments.dtype}"]
    config = resolve(method, [*settings, "schedule=constant", "warmup=0"], online=True, data="prompts", steps=total)
    rows = [Row(prompt, ()) for prompt in json.loads((folder / "prompts.json").read_text())]
    model, tokenizer = load(str(folder / "policy"), arguments.dtype)
    job = prepare(config, rows=rows, model=model, tokenizer=tokenizer)
    meter.start()
    for step in range(total):
        values = job.step(step, record=step + 1 == total)
        for phase in ("generation", "scoring"):
            meter.add(phase, job.seconds.pop(phase))
        meter.stop()
        drawn = job.pool.rollouts[-1]
        meter.lengths.append(([len(e.prompt) for e in drawn], [[len(r) for r in e.responses] for e in drawn]))
        meter.rewards.extend(score for e in drawn for score in e.scores)
    meter.losses.append(values["loss"])


def of_trl(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter) -> None:
    """Steps of a trainer of TRL."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from una_ref.training.loop import order

    transformers.logging.set_verbosity_error()
    dtype = getattr(torch, arguments.dtype)
    policy = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=dtype)
    reward = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    prompts = json.loads((folder / "prompts.json").read_text())
    total = WARMUP + arguments.steps
    own = [prompts[i] for step in range(total) for i in order(len(prompts), step, BATCH, 0)]
    lora = LoraConfig(r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    name = TRL[case]
    config = getattr(trl, f"{name}Config")(
        output_dir=str(folder / "trl"),
        max_steps=total,
        per_device_train_batch_size=BATCH * DRAWS,
        num_generations=DRAWS,
        max_completion_length=MAX_NEW,
        generation_kwargs={"suppress_tokens": policy.generation_config.suppress_tokens},
        beta=BETA,
        learning_rate=LR,
        lr_scheduler_type="constant",
        warmup_steps=0,
        bf16=arguments.dtype == "bfloat16",
        gradient_checkpointing=False,
        use_cpu=arguments.device == "cpu",
        shuffle_dataset=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = getattr(trl, f"{name}Trainer")(
        model=policy,
        reward_funcs=reward.eval(),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in own]),
        processing_class=tokenizer,
        reward_processing_classes=transformers.AutoTokenizer.from_pretrained(folder / "reward"),
        peft_config=lora,
    )

    def lengths(out: Any) -> None:
        ids, completions = out[:2]
        each = [list(map(len, completions[i : i + DRAWS])) for i in range(0, len(completions), DRAWS)]
        meter.lengths.append(([len(one) for one in ids[::DRAWS]], each))

    trainer._generate = meter.timed("generation", trainer._generate, lengths)
    trainer._calculate_rewards = meter.timed(
        "scoring", trainer._calculate_rewards, lambda out: meter.rewards.extend(out[:, 0].tolist())
    )

    class Steps(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.stop()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            meter.losses.extend([float(logs["loss"])] if "loss" in logs else [])

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Steps)
    trainer.train()


def compared(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Of what ran: cost over a peer's and over its floor, each in the same round; and memory over a peer's."""
    rounds: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        rounds[line["round"]][line["case"]] = line
    ran = [case for case in CASES if all(case in one for one in rounds.values())]
    pairs = [(a, b) for a, b in RATIOS if a in ran and b in ran]

    def over(ratio: Callable[[dict[str, dict[str, Any]]], float]) -> dict[str, float]:
        values = [ratio(one) for one in rounds.values()]
        return {"median": round(median(values), 3), "least": round(min(values), 3), "largest": round(max(values), 3)}

    def above(line: dict[str, Any], flops: str = "flops") -> float:
        return cost(line) / floor.seconds(line["floor"], line["rates"] | {"flops": line["rates"][flops]})

    return {
        "time of a step": {f"{a} / {b}": over(lambda one, a=a, b=b: cost(one[a]) / cost(one[b])) for a, b in pairs},
        "time over the floor": {case: over(lambda one, c=case: above(one[c])) for case in ran},
        "time over the floor, at the quickest product": {
            case: over(lambda one, c=case: above(one[c], "best_flops")) for case in ran
        },
        "peak memory": {
            f"{a} / {b}": over(lambda one, a=a, b=b: one[a]["peak_mb"] / one[b]["peak_mb"]) for a, b in pairs
        },
        "peak memory beyond the loaded models": {
            f"{a} / {b}": over(lambda one, a=a, b=b: taken(one[a]) / taken(one[b])) for a, b in pairs
        },
        "ppo in TRL": "no peer: TRL 1.16 has dropped it",
    }


def cost(line: dict[str, Any]) -> float:
    """Seconds a step: the processor's, or a GPU's."""
    return line.get("cpu_s_per_step") or line["gpu_s_per_step"]


def taken(line: dict[str, Any]) -> float:
    """MB that training takes on top of models and libraries; not 0, which nothing could be compared with."""
    return max(1, line["peak_mb"] - line["loaded_mb"])


if __name__ == "__main__":
    sys.exit(main())
