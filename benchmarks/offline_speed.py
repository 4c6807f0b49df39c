"""The cost of an offline step: una_ref's methods beside TRL's DPO and KTO, on the same pairs.

    python benchmarks/offline_speed.py --output figures/runs/offline_speed.json

All cases have the same conditions (`harness.py`): four pairs a step in the same order, LoRA with r = 32 on all linear
layers from the same seed, AdamW at the same rate, clipping, no gradient checkpointing. una_ref splits a step into
micro-batches of `MICRO` tokens. TRL takes its whole batch at once, or pair by pair.

The reference is computed in each step, or before the run (`cached`); then its cost is in no step, on either side.
Prints a line of JSON for each case and round, then one with the ratios and the gate.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import fixture
import floor
import harness
from harness import WARMUP, Line, Meter, R

ALPHA, BETA, LR = 64, 0.1, 1e-4
MICRO = 512
"""Most tokens of a micro-batch in una_ref, about one pair, so no attention spans two. The gradient is the same."""
CHECKPOINTED, GROUPED, PAIR_BY_PAIR = "trl dpo, defaults", "trl dpo, tuned", "trl dpo, pair by pair"
TRL = {
    "trl dpo": "DPO",
    "trl dpo, cached": "DPO",
    CHECKPOINTED: "DPO",  # TRL's defaults: gradient checkpointing, the reference in each step
    GROUPED: "DPO",  # TRL's fastest settings: rows of similar length together, reference cached, no checkpointing
    PAIR_BY_PAIR: "DPO",  # batches of one pair, gradients accumulated over the step
    "trl kto": "KTO",
    "trl kto, cached": "KTO",
}
UNA = {
    "dpo": ("dpo", "step"),
    "dpo, cached": ("dpo", "cache"),
    "una-score, cached": ("una-score", "cache"),
    "kto": ("kto", "step"),
    "una-binary-mse, cached": ("una-binary-mse", "cache"),
}
CASES = ("trl dpo", "dpo", "trl dpo, cached", "dpo, cached", "una-score, cached", "trl kto", "kto", PAIR_BY_PAIR)
"""The default cases, in the order of a round."""
RATIOS = [
    ("dpo", "trl dpo"),
    ("dpo, cached", "trl dpo, cached"),
    ("una-score, cached", "trl dpo, cached"),
    ("kto", "trl kto"),
    ("una-binary-mse, cached", "trl kto, cached"),
    ("dpo", PAIR_BY_PAIR),
    ("dpo", CHECKPOINTED),
    ("dpo, cached", GROUPED),
]
GATE = {"time": 1 / 1.6, "memory": 1 / 2, "floor": 1.7, "loss": 1e-4}
"""Limits: processor time and peak memory as a share of TRL's; time over the floor; and the difference of losses."""
GATED = RATIOS[:2]
"""The pairs of cases that the gate compares: the same loss on the same rows."""


def main() -> int:
    """Run all cases, or one as a child process."""
    parser = harness.parser(__doc__, [*TRL, *UNA], steps=4)
    parser.set_defaults(cases=CASES, rounds=2)
    parser.add_argument("--pairs", type=int, default=4, help="pairs in a step")
    parser.add_argument("--micro-tokens", type=int, default=MICRO, help="most tokens of a micro-batch of una_ref")
    arguments = parser.parse_args()
    if arguments.child:
        harness.child(arguments, lambda case, folder, meter: measured(case, folder, arguments, meter))
        return 0
    lines = harness.rounds(__file__, arguments, lambda folder: harness.make(folder, arguments, endless=False))
    ratios = harness.compared(lines, RATIOS)
    found = gate(lines, ratios, GATE, GATED)
    harness.record(arguments, lines, ratios=ratios, gate=found, pairs_a_step=arguments.pairs, lora_r=R)
    return 0


def gate(
    lines: list[Line], ratios: dict[str, Any], limits: Mapping[str, float], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """For each limit: the worst measured number over pairs of cases, the limit, and whether it holds."""
    gated = [f"{a} / {b}" for a, b in pairs if f"{a} / {b}" in ratios["time of a step"]]
    if not gated:
        return {}
    gaps = [
        abs(x - y)
        for by_case in harness.by_round(lines)
        for a, b in pairs
        if a in by_case and b in by_case
        for x, y in zip(by_case[a]["losses"], by_case[b]["losses"], strict=True)
    ]
    worst = {
        "time": max(ratios["time of a step"][name]["median"] for name in gated),
        "memory": max(ratios["peak memory"][name]["median"] for name in gated),
        "floor": ratios["time over the floor"].get("dpo, cached", {}).get("median"),
        "loss": max(gaps),
    }
    return {
        name: {"measured": worst[name], "limit": limit, "holds": worst[name] <= limit}
        for name, limit in limits.items()
        if worst[name] is not None
    }


def measured(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter) -> Line:
    """The tokens and the floor of a case's steps; time and memory are the meter's."""
    pairs = json.loads((folder / "pairs.json").read_text())
    steps = (of_trl if case in TRL else of_una)(case, folder, pairs, arguments, meter)[WARMUP:]
    floors = [floor.offline(shape(arguments), *lengths) for lengths in steps]
    return {
        "prompt_tokens": [sum(prompts) for prompts, _ in steps],
        "response_tokens": [sum(map(sum, responses)) for _, responses in steps],
        "floor": {name: [mean(parts[name][i] for parts in floors) for i in (0, 1)] for name in floors[0]},
    }


def shape(arguments: argparse.Namespace) -> floor.Shape:
    """The policy's shape, for the floor."""
    return floor.Shape(**fixture.PRESETS[arguments.preset], r=R, width=4 if arguments.dtype == "float32" else 2)


def rows_of(method: str, pairs: list[dict[str, Any]]) -> list[Any]:
    """The pairs as the method's kind of feedback: pairs, binary labels or scores of the same responses."""
    from una_ref.data.rows import Row
    from una_ref.methods import METHODS

    kinds = {"pairs": {"pairs": ((0, 1),)}, "labels": {"labels": (1.0, 0.0)}}

    def feedback(pair: dict[str, Any]) -> dict[str, Any]:
        return kinds.get(METHODS[method].kinds[0]) or {"scores": (pair["chosen_score"], pair["rejected_score"])}

    return [
        Row(p["prompt"], (p["chosen"], p["rejected"]), **feedback(p), source=f"pair {i}") for i, p in enumerate(pairs)
    ]


def of_una(
    case: str, folder: Path, pairs: list[dict[str, Any]], arguments: argparse.Namespace, meter: Meter
) -> list[tuple[list[int], list[list[int]]]]:
    """Make una_ref's steps. Returns the lengths of each step's prompts and responses."""
    from una_ref.training.loop import order

    method, reference = UNA[case]
    total = WARMUP + arguments.steps
    job = prepared(method, rows_of(method, pairs), folder, arguments, reference=reference, steps=total)
    steps = [[job.examples[i] for i in order(len(pairs), step, arguments.pairs, 0)] for step in range(total)]
    if reference == "cache":
        job.trainer.remember_reference([e for step in steps for e in step])
    meter.start()
    for step in range(total):
        meter.turn()
        meter.losses.append(job.step(step, record=True)["loss"])
        meter.stop()
    return [lengths(step) for step in steps]


def lengths(examples: list[Any]) -> tuple[list[int], list[list[int]]]:
    """The lengths of the examples' prompts and responses."""
    return [len(e.prompt) for e in examples], [[len(r) for r in e.responses] for e in examples]


def prepared(
    method: str, rows: list[Any], folder: Path, arguments: argparse.Namespace, *, reference: str, steps: int
) -> Any:
    """A una_ref job on the rows, ready for its first step."""
    from una_ref.policies.loading import load
    from una_ref.training.prepare import prepare
    from una_ref.training.settings import resolve

    settings = {"beta": BETA, "lr": LR, "lora_r": R, "lora_alpha": ALPHA, "batch": arguments.pairs}
    settings |= {"micro_tokens": arguments.micro_tokens, "reference": reference, "dtype": arguments.dtype}
    settings |= {"held_out": 0, "schedule": "constant", "warmup": 0}
    config = resolve(method, [f"{name}={value}" for name, value in settings.items()], data="pairs", steps=steps)
    model, tokenizer = load(str(folder / "policy"), arguments.dtype)
    tokenizer.chat_template = None  # the rows are text in which a template has been applied, if there is one
    return prepare(config, rows=rows, model=model, tokenizer=tokenizer)


def of_trl(
    case: str, folder: Path, pairs: list[dict[str, Any]], arguments: argparse.Namespace, meter: Meter
) -> list[tuple[list[int], list[list[int]]]]:
    """Make TRL's steps. Returns the lengths of each step's prompts and responses, EOS included."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from una_ref.training.loop import order

    transformers.logging.set_verbosity_error()
    # TRL's default: frozen weights are bfloat16 on a GPU, and float32 under autocast on a CPU.
    cast = arguments.dtype == "bfloat16"
    dtype = torch.bfloat16 if cast and arguments.device == "cuda" else torch.float32
    policy = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    name, total = TRL[case], WARMUP + arguments.steps
    batches = [[pairs[i] for i in order(len(pairs), step, arguments.pairs, 0)] for step in range(total)]
    if name == "DPO":
        flat = [pair for step in batches for pair in step]
        rows = [{key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in flat]
        options = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": arguments.pairs}
        if case == PAIR_BY_PAIR:
            options |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": arguments.pairs}
        if case == GROUPED:  # TRL drops the column of lengths before it reads it, unless all columns are kept
            options |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
            rows = [row | {"length": sum(_tokens(tokenizer, text) for text in row.values())} for row in rows]
    else:
        labelled = [
            (pair["prompt"], pair[key], key == "chosen")
            for step in batches
            for pair in step
            for key in ("chosen", "rejected")
        ]
        rows = [dict(zip(("prompt", "completion", "label"), row, strict=True)) for row in labelled]
        options = {"per_device_train_batch_size": 2 * arguments.pairs}
    config = getattr(trl, f"{name}Config")(
        **harness.trl_settings(folder, arguments, total, LR),
        **options,
        beta=BETA,
        max_length=None,
        precompute_ref_log_probs=case.endswith("cached") or case == GROUPED,
        gradient_checkpointing=case == CHECKPOINTED,
        seed=0,
    )
    trainer = getattr(trl, f"{name}Trainer")(
        model=policy,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    harness.trl_callbacks(trainer, meter)
    trainer.train()
    return [
        (
            [_tokens(tokenizer, p["prompt"]) for p in step],
            [[_tokens(tokenizer, p[key]) + 1 for key in ("chosen", "rejected")] for p in step],
        )
        for step in batches
    ]


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text)["input_ids"])


if __name__ == "__main__":
    sys.exit(main())
