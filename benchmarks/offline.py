"""What an offline step costs: una_ref's methods beside TRL's DPO and KTO, in turns, on the same pairs.

    python benchmarks/offline.py --output figures/runs/offline_speed.json

Like for like (`harness.py`): four pairs a step in the same order, r = 32 LoRA on all linear layers from the same seed,
AdamW at the same rate, clipping, no gradient checkpointing. una_ref computes a step in micro-batches of `MICRO` tokens,
TRL its whole batch, as it comes, or pair by pair. A reference in each step, or its log-probs known before
(`cached`; what it costs to know them is not in a step, on either side). A line of JSON for each case and
round, then one with the ratios and whether the gate holds.

    python benchmarks/offline.py --growth

measures una_ref alone against tokens of a prompt, responses to a prompt, size of the model and rows.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import fixture
import floor
import harness
from harness import WARMUP, Line, Meter, R

ALPHA, BETA, LR = 64, 0.1, 1e-4
MICRO = 512
"""Most tokens of a micro-batch in una_ref, about a pair: no pads, no attention over two. The gradient is the same."""
CHECKPOINTED, GROUPED, PAIR_BY_PAIR = "trl dpo, defaults", "trl dpo, tuned", "trl dpo, pair by pair"
TRL = {
    "trl dpo": "DPO",
    "trl dpo, cached": "DPO",
    CHECKPOINTED: "DPO",  # gradient checkpointing, a reference in each step
    GROUPED: "DPO",  # rows of like length together, reference cached, no checkpointing: the most that it can be told
    PAIR_BY_PAIR: "DPO",  # a batch is one pair, gradients are accumulated over the step
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
"""In the order of a round; the others on request."""
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
"""Most of TRL's processor time and peak memory, like for like; of the floor; and of the difference of losses."""
LIKE = RATIOS[:2]
"""The pairs that the gate is about: the same loss on the same rows."""


def main() -> int:
    """Run all cases, or, as a child, one."""
    parser = harness.parser(__doc__, [*TRL, *UNA], steps=4)
    parser.set_defaults(cases=CASES, rounds=2)
    parser.add_argument("--pairs", type=int, default=4, help="a step")
    parser.add_argument("--micro-tokens", type=int, default=MICRO, help="of una_ref")
    parser.add_argument("--growth", action="store_true", help="cost against sizes, of una_ref alone")
    arguments = parser.parse_args()
    if arguments.child:
        harness.child(arguments, lambda case, folder, meter: measured(case, folder, arguments, meter))
        return 0
    if arguments.growth:
        return growth(arguments)
    lines = harness.rounds(__file__, arguments, lambda folder: harness.make(folder, arguments, endless=False))
    ratios = harness.compared(lines, RATIOS)
    harness.record(arguments, lines, ratios=ratios, gate=gate(lines, ratios), pairs_a_step=arguments.pairs, lora_r=R)
    return 0


def gate(lines: list[Line], ratios: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of what ran: the worst number of each of the gate's four, its limit, and whether it holds."""
    like = [f"{a} / {b}" for a, b in LIKE if f"{a} / {b}" in ratios["time of a step"]]
    if not like:
        return {}
    gaps = [
        abs(x - y)
        for one in harness.by_round(lines)
        for a, b in LIKE
        if a in one and b in one
        for x, y in zip(one[a]["losses"], one[b]["losses"], strict=True)
    ]
    worst = {
        "time": max(ratios["time of a step"][name]["median"] for name in like),
        "memory": max(ratios["peak memory"][name]["median"] for name in like),
        "floor": ratios["time over the floor"].get("dpo, cached", {}).get("median"),
        "loss": max(gaps),
    }
    return {
        name: {"measured": value, "limit": GATE[name], "holds": value <= GATE[name]}
        for name, value in worst.items()
        if value is not None
    }


def measured(case: str, folder: Path, arguments: argparse.Namespace, meter: Meter) -> Line:
    """What a case's line says beside time and memory."""
    pairs = json.loads((folder / "pairs.json").read_text())
    lengths = (of_trl if case in TRL else of_una)(case, folder, pairs, arguments, meter)[WARMUP:]
    least = [floor.offline(_shape(arguments), *own) for own in lengths]
    return {
        "prompt_tokens": [sum(prompts) for prompts, _ in lengths],
        "response_tokens": [sum(map(sum, responses)) for _, responses in lengths],
        "floor": {name: [mean(one[name][i] for one in least) for i in (0, 1)] for name in least[0]},
    }


def _shape(arguments: argparse.Namespace) -> floor.Shape:
    return floor.Shape(**fixture.PRESETS[arguments.preset], r=R, width=4 if arguments.dtype == "float32" else 2)


def rows_of(method: str, pairs: list[dict[str, Any]]) -> list[Any]:
    """The pairs as the method reads them: pairs, thumbs or scores of the same responses."""
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
    """Steps of una_ref; returns the lengths of each step's prompts and responses."""
    from una_ref.training.loop import order

    method, reference = UNA[case]
    total = WARMUP + arguments.steps
    job = prepared(method, rows_of(method, pairs), folder, arguments, reference=reference, steps=total)
    needed = [[job.examples[i] for i in order(len(pairs), step, arguments.pairs, 0)] for step in range(total)]
    if reference == "cache":
        job.trainer.remember_reference([e for step in needed for e in step])
    meter.start()
    for step in range(total):
        meter.turn()
        meter.losses.append(job.step(step, record=True)["loss"])
        meter.stop()
    return [_lengths(step) for step in needed]


def _lengths(examples: list[Any]) -> tuple[list[int], list[list[int]]]:
    return [len(e.prompt) for e in examples], [[len(r) for r in e.responses] for e in examples]


def prepared(
    method: str, rows: list[Any], folder: Path, arguments: argparse.Namespace, *, reference: str, steps: int
) -> Any:
    """A job of una_ref on rows, ready to start."""
    from una_ref.policies.loading import load
    from una_ref.training.config import resolve
    from una_ref.training.prepare import prepare

    settings = [
        f"beta={BETA}",
        f"lr={LR}",
        f"lora_r={R}",
        f"lora_alpha={ALPHA}",
        f"batch={arguments.pairs}",
        "held_out=0",
    ]
    settings += ["schedule=constant", "warmup=0", f"reference={reference}", f"dtype={arguments.dtype}"]
    settings += [f"micro_tokens={arguments.micro_tokens}"]
    config = resolve(method, settings, data="pairs", steps=steps)
    model, tokenizer = load(str(folder / "policy"), arguments.dtype)
    return prepare(config, rows=rows, model=model, tokenizer=tokenizer)


def of_trl(
    case: str, folder: Path, pairs: list[dict[str, Any]], arguments: argparse.Namespace, meter: Meter
) -> list[tuple[list[int], list[list[int]]]]:
    """Steps of a trainer of TRL; returns the lengths of each step's prompts and responses, EOS included."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from una_ref.training.loop import order

    transformers.logging.set_verbosity_error()
    # On a GPU the frozen weights are bfloat16, on a CPU float32 under autocast, as TRL has it by default.
    cast = arguments.dtype == "bfloat16"
    dtype = torch.bfloat16 if cast and arguments.device == "cuda" else torch.float32
    policy = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    name, total = TRL[case], WARMUP + arguments.steps
    own = [[pairs[i] for i in order(len(pairs), step, arguments.pairs, 0)] for step in range(total)]
    if name == "DPO":
        flat = [pair for step in own for pair in step]
        rows = [{key: pair[key] for key in ("prompt", "chosen", "rejected")} for pair in flat]
        more = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": arguments.pairs}
        if case == PAIR_BY_PAIR:
            more |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": arguments.pairs}
        if case == GROUPED:  # the column of lengths is dropped before it is read, unless all columns are kept
            more |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
            rows = [row | {"length": sum(_tokens(tokenizer, text) for text in row.values())} for row in rows]
    else:
        thumbs = [
            (pair["prompt"], pair[key], key == "chosen")
            for step in own
            for pair in step
            for key in ("chosen", "rejected")
        ]
        rows = [dict(zip(("prompt", "completion", "label"), thumb, strict=True)) for thumb in thumbs]
        more = {"per_device_train_batch_size": 2 * arguments.pairs}
    config = getattr(trl, f"{name}Config")(
        **harness.trl_settings(folder, arguments, total, LR),
        **more,
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
        for step in own
    ]


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text)["input_ids"])


GROWTH = {
    "tokens of a prompt": [{"prompt": n} for n in (64, 128, 256, 512, 1024)],
    "responses to a prompt": [{"responses": k} for k in (1, 2, 4, 8, 16)],
    "size of the model": [
        {"hidden": hidden, "inter": 7 * hidden // 2, "layers": layers}
        for hidden, layers in ((192, 3), (384, 6), (768, 12))
    ],
    "rows": [{"rows": n} for n in (64, 512, 4096)],
}
"""What is varied, one at a time; the rest is as in `START`."""
START = {"prompt": 128, "response": 64, "responses": 2, "rows": 64}


def growth(arguments: argparse.Namespace) -> int:
    """Cost of a step of centred UNA against each of `GROWTH`: seconds, over the floor, and a token."""
    import torch

    torch.set_num_threads(arguments.threads)
    rates = floor.rates(arguments.device, arguments.dtype)
    lines = []
    for name, points in GROWTH.items():
        for point in points:
            lines.append({"axis": name, **point, **_grown(START | point, arguments, rates)})
            print(json.dumps(lines[-1]), flush=True)
    if arguments.output:
        from una_ref.training.card import versions

        record = {"command": f"python benchmarks/offline.py --growth --output {arguments.output}", "start": START}
        record |= {"date": time.strftime("%Y-%m-%d", time.gmtime()), "versions": versions(), "rates": rates}
        arguments.output.write_text(json.dumps(record | {"lines": lines}, indent=1) + "\n", encoding="utf-8")
    return 0


def _grown(point: dict[str, int], arguments: argparse.Namespace, rates: dict[str, float]) -> Line:
    """A point: steps after one that is not counted, of four prompts."""
    import torch
    from transformers import AutoTokenizer

    from una_ref.data.rows import Row
    from una_ref.training.loop import order
    from una_ref.training.metrics import seconds

    sizes = {name: size for name, size in point.items() if name in fixture.NAMES}
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        fixture.make(Path(folder), arguments.preset, prompts=8, endless=False, **sizes)
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "policy")
        words = [word for text in json.loads((Path(folder) / "prompts.json").read_text()) for word in text.split()]

        def text(tokens: int) -> str:
            return fixture.text(draw, words, tokenizer, tokens)

        few = [
            (text(point["prompt"]), tuple(text(point["response"]) for _ in range(point["responses"])))
            for _ in range(64)
        ]
        method = "una-centred" if point["responses"] > 1 else "una-score"  # of one response there is no other
        rows = []
        for i in range(point["rows"]):
            prompt, responses = few[i % len(few)]
            scores = tuple(draw.random() for _ in responses)
            rows.append(Row(f"{i} {prompt}", responses, scores, source=f"row {i}"))
        total, cpu = WARMUP + 3, torch.device("cpu")
        began = seconds(cpu)
        job = prepared(method, rows, Path(folder), arguments, reference="cache", steps=total)
        ready = seconds(cpu) - began
    steps = [[job.examples[i] for i in order(len(rows), step, arguments.pairs, 0)] for step in range(total)]
    job.trainer.remember_reference([e for step in steps for e in step])
    taken = []
    for step in range(total):
        began = seconds(job.trainer.accelerator.device)
        job.step(step, record=False)
        taken.append(seconds(job.trainer.accelerator.device) - began)
    shape = replace(_shape(arguments), **sizes)
    least = median(floor.seconds(floor.offline(shape, *_lengths(step)), rates) for step in steps[WARMUP:])
    tokens = median(sum(e.tokens for e in step) for step in steps[WARMUP:])
    cost = median(taken[WARMUP:])
    found = {"s_per_step": cost, "over the floor": cost / least, "us_per_token": 1e6 * cost / tokens}
    return {name: round(value, 4) for name, value in (found | {"prepare_ms_per_row": 1e3 * ready / len(rows)}).items()}


if __name__ == "__main__":
    sys.exit(main())
