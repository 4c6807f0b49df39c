"""The cost of an online update: una_ref's methods beside TRL's RLOO and GRPO, split by phase.

    python benchmarks/online_speed.py --output figures/runs/online_speed.json

All cases have the same conditions (`harness.py`), and also the same number of samples, length of response and reward
model (text in). There is no gradient checkpointing, and both sides have a reference. Prints a line of JSON for each
case and round, then one with the ratios: the median, the least and the largest.

TRL 1.16 has no PPO, so PPO has no peer. Like all cases, it is compared with its floor (`floor.py`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import fixture
import floor
import harness
from harness import WARMUP, Line, Meter, R

BATCH, SAMPLES, MAX_NEW = 4, 2, 64
ALPHA, BETA, LR = 16, 0.05, 1e-4
TRL = {"trl rloo": "RLOO", "trl grpo": "GRPO"}
UNA = {
    "una-centred": ("una-centred", []),
    "una-online": ("una-online", []),
    "rloo": ("rloo", []),
    "ppo, 1 pass": ("ppo", ["passes=1"]),
    "una-centred, 4 passes": ("una-centred", ["passes=4", "reference=cache"]),
    "ppo, 4 passes": ("ppo", ["passes=4"]),
}
CASES = (*TRL, *UNA)
RATIOS = [
    *((case, peer) for case in ("una-centred", "una-online", "rloo") for peer in TRL),
    ("ppo, 1 pass", "una-centred"),
    ("ppo, 4 passes", "una-centred"),
    ("ppo, 4 passes", "una-centred, 4 passes"),
]


def main() -> int:
    """Run all cases, or one as a child process."""
    arguments = harness.parser(__doc__, CASES).parse_args()
    if arguments.child:
        harness.child(arguments, lambda case, folder, meter: measured(case, folder, arguments, meter))
        return 0
    lines = harness.rounds(__file__, arguments, lambda folder: harness.make(folder, arguments))
    update = {"prompts": BATCH, "samples": SAMPLES, "max_new": MAX_NEW, "lora_r": R}
    harness.record(arguments, lines, ratios=compared(lines), update=update)
    return 0


class Rollouts:
    """What a case sampled in each step: lengths of prompts and responses, and rewards."""

    def __init__(self) -> None:
        self.lengths: list[tuple[list[int], list[list[int]]]] = []
        self.rewards: list[float] = []


def measured(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter) -> Line:
    """The tokens, the reward and the floor of a case's steps; time and memory are the meter's."""
    rollouts = Rollouts()
    (of_trl if case in TRL else of_una)(case, folder, arguments, meter, rollouts)
    steps = rollouts.lengths[WARMUP : len(meter.steps)]
    shape = floor.Shape(**fixture.PRESETS[arguments.preset], r=R, width=4 if arguments.dtype == "float32" else 2)
    passes = int(match[1]) if (match := re.search(r"(\d) pass", case)) else 1
    floors = [floor.update(shape, *lengths, passes=passes, ppo=case.startswith("ppo")) for lengths in steps]
    return {
        "prompt_tokens": [sum(prompts) for prompts, _ in steps],
        "response_tokens": [sum(map(sum, responses)) for _, responses in steps],
        "reward": round(mean(rollouts.rewards), 4),
        "floor": {name: [mean(parts[name][i] for parts in floors) for i in (0, 1)] for name in floors[0]},
    }


def of_una(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter, rollouts: Rollouts) -> None:
    """Make una_ref's steps. Metrics are recorded in the last one; a run records them in every tenth by default."""
    from una_ref.data.rows import Row
    from una_ref.policies.loading import load
    from una_ref.training.prepare import prepare
    from una_ref.training.settings import resolve

    method, options = UNA[case]
    total = WARMUP + arguments.steps
    settings = {"beta": BETA, "lr": LR, "lora_r": R, "lora_alpha": ALPHA, "batch": BATCH, "samples": SAMPLES}
    settings |= {"max_response": MAX_NEW, "reward": folder / "reward", "dtype": arguments.dtype}
    settings |= {"held_out": 0, "schedule": "constant", "warmup": 0}
    assigned = [*(f"{name}={value}" for name, value in settings.items()), *options]
    config = resolve(method, assigned, online=True, data="prompts", steps=total)
    rows = [Row(prompt, ()) for prompt in json.loads((folder / "prompts.json").read_text())]
    model, tokenizer = load(str(folder / "policy"), arguments.dtype)
    job = prepare(config, rows=rows, model=model, tokenizer=tokenizer)
    meter.start()
    for step in range(total):
        meter.turn()
        values = job.step(step, record=step + 1 == total)
        for phase in ("generation", "scoring"):
            meter.add(phase, job.seconds.pop(phase))
        meter.stop()
        last = job.pool.rollouts[-1]
        rollouts.lengths.append(([len(e.prompt) for e in last], [[len(r) for r in e.responses] for e in last]))
        rollouts.rewards.extend(score for e in last for score in e.scores)
    meter.losses.append(values["loss"])


def of_trl(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter, rollouts: Rollouts) -> None:
    """Make TRL's steps."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from una_ref.training.batches import order

    transformers.logging.set_verbosity_error()
    dtype = getattr(torch, arguments.dtype)
    policy = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=dtype)
    reward = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    prompts = json.loads((folder / "prompts.json").read_text())
    total = WARMUP + arguments.steps
    ordered = [prompts[i] for step in range(total) for i in order(len(prompts), step, BATCH, 0)]
    lora = LoraConfig(r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    name = TRL[case]
    config = getattr(trl, f"{name}Config")(
        **harness.trl_settings(folder, arguments, total, LR),
        per_device_train_batch_size=BATCH * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=MAX_NEW,
        generation_kwargs={"suppress_tokens": policy.generation_config.suppress_tokens},
        beta=BETA,
        gradient_checkpointing=False,
        shuffle_dataset=False,
    )
    trainer = getattr(trl, f"{name}Trainer")(
        model=policy,
        reward_funcs=reward.eval(),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in ordered]),
        processing_class=tokenizer,
        reward_processing_classes=transformers.AutoTokenizer.from_pretrained(folder / "reward"),
        peft_config=lora,
    )

    def lengths(out: Any) -> None:
        ids, completions = out[:2]
        each = [list(map(len, completions[i : i + SAMPLES])) for i in range(0, len(completions), SAMPLES)]
        rollouts.lengths.append(([len(one) for one in ids[::SAMPLES]], each))

    trainer._generate = meter.timed("generation", trainer._generate, lengths)
    trainer._calculate_rewards = meter.timed(
        "scoring", trainer._calculate_rewards, lambda out: rollouts.rewards.extend(out[:, 0].tolist())
    )

    harness.trl_callbacks(trainer, meter)
    trainer.train()


def compared(lines: list[Line]) -> dict[str, Any]:
    """Ratios of time and memory."""
    return {**harness.compared(lines, RATIOS), "ppo in TRL": "no peer: TRL 1.16 has dropped it"}


if __name__ == "__main__":
    sys.exit(main())
