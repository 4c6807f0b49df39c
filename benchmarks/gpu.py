"""What a GPU makes of it: a model of Mistral-7B's shape with random weights, pairs of HelpSteer2's lengths, bfloat16.

    python benchmarks/gpu.py --output figures/runs/gpu.json

Twenty offline steps of una_ref, with the reference in each step and cached, beside TRL's DPO as it comes (gradient
checkpointing) and tuned (none, lengths grouped, reference cached), and ten updates each of online UNA, centred UNA and
PPO. To what `offline.py` and `online.py` say of a case this adds tokens a second, the rate of the arithmetic that had
to be done, and its share of the rate of a large product. `--parts` names some of these, for machines that are lent for
minutes. Where TRL is not installed, its cases are left out, and that is said.

It runs from a checkout, without installing una_ref. It needs torch, transformers (5.17 will do), peft and accelerate,
and for TRL's cases trl and datasets.

Without a GPU it runs the same cases at tiny size, and its record says what that does not show.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS: dict[str, tuple[str, list[str], list[str]]] = {
    "una": (
        "offline.py",
        ["--pairs=8", "--steps=20", "--micro-tokens=8192"],
        ["dpo", "dpo, cached", "una-score, cached"],
    ),
    "trl": ("offline.py", ["--pairs=8", "--steps=20"], ["trl dpo, defaults"]),
    "trl tuned": ("offline.py", ["--pairs=4", "--steps=20", "--micro-tokens=8192"], ["trl dpo, tuned", "dpo, cached"]),
    "online": ("online.py", ["--steps=10"], ["una-online", "una-centred", "ppo, 1 pass", "ppo, 4 passes"]),
}
"""Script, its options and cases. Eight padded pairs without checkpointing would not fit, so tuned are four."""
SIZE = {
    True: ["--preset=mistral-7b", "--lengths=helpsteer2", "--device=cuda", "--dtype=bfloat16"],
    False: ["--preset=tiny", "--steps=2"],
}
NOT_SHOWN = "no GPU here: nothing of speed or memory at 7B is shown, only that every case runs"


def main() -> int:
    """Run the parts, and write what they measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=[*PARTS], choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, help="write a record; parts that are in it and not asked for stay")
    arguments = parser.parse_args()
    import torch

    cuda, notes = torch.cuda.is_available(), []
    found: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        found = json.loads(arguments.output.read_text("utf-8"))["parts"]
    for part in arguments.parts:
        script, options, cases = PARTS[part]
        if importlib.util.find_spec("trl") is None:
            own = [case for case in cases if not case.startswith("trl")]
            notes += [f"{part}: TRL is not installed" for _ in range(len(own) < len(cases))]
            cases = own
        if cases:
            found[part] = ran(script, [*options, *SIZE[cuda]], cases)
            print(json.dumps({part: found[part]["cases"]}), flush=True)
    notes += [] if cuda else [NOT_SHOWN]
    for note in notes:
        print(note)
    if arguments.output:
        about = {
            "command": "python benchmarks/gpu.py",
            "notes": notes,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(about | {"parts": found}, indent=1) + "\n", encoding="utf-8")
    return 0


def ran(script: str, options: list[str], cases: list[str]) -> dict[str, Any]:
    """A script's record of one round of cases, and of each case what a GPU's user asks first."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        command = [sys.executable, str(Path(__file__).with_name(script)), "--rounds=1", *options, f"--output={record}"]
        subprocess.run([*command, "--cases", *cases], check=True)
        (found,) = json.loads(record.read_text("utf-8"))["runs"]
    return {"cases": {line["case"]: rates(line) for line in found["lines"]}} | found


def rates(line: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step, tokens (prompts once) and FLOPs a second, that over a large product's, and memory.

    The FLOPs are those of the floor (`floor.py`), so that whoever computes more than is needed has a low rate.
    """
    seconds = line["s_per_step"]
    tokens = (sum(line["prompt_tokens"]) + sum(line["response_tokens"])) / len(line["prompt_tokens"])
    flops = sum(part[0] for part in line["floor"].values())
    return {
        "s_per_step": seconds,
        "tokens_per_s": round(tokens / seconds, 1),
        "tflop_per_s": round(flops / seconds / 1e12, 3),
        "share_of_product": round(flops / seconds / line["rates"]["best_flops"], 3),
        "peak_mb": line["peak_mb"],
    }


if __name__ == "__main__":
    sys.exit(main())
