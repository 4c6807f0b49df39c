"""The model card: what a stranger needs in order to use a result, and to make it again."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from una_ref.data import toysteer
from una_ref.data.items import is_hub_name
from una_ref.methods import METHODS
from una_ref.training.config import Config
from una_ref.training.stopping import described

CARD = "README.md"
EXAMPLE = "What is 2 + 2?", "It is 4."
"""The prompt in a card, and the response in a reward model's."""
_SCORER = (
    "",
    "`AutoModelForSequenceClassification` loads it. The adapters are merged into the weights. Its one output is the",
    "reward of a response, read at the last token that is no pad: the EOS, if the response ended. Only differences",
    "between the responses of one prompt were trained.",
)


def versions() -> dict[str, str]:
    """Versions of the packages on which the numbers depend."""
    from una_ref import __version__

    names = ("torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), "una_ref": __version__} | {name: version(name) for name in names}


def commit() -> str:
    """The git commit of this package, with a + if files have changed since. Empty outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    if not git("ls-files", "--", Path(__file__).name):  # installed inside another project's checkout
        return ""
    head = git("rev-parse", "HEAD")
    return f"{head}{'+' if git('status', '--porcelain', '--', '..') else ''}"


def hardware(device: torch.device, processes: int) -> str:
    """The hardware of a run, in words."""
    if device.type == "cuda":
        return f"{processes} × {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{processes} process(es) of {threads} thread(s) on {os.cpu_count()} CPU cores, {platform.machine()}"


def command(config: Config) -> str:
    """The command line that makes a run again."""
    return shlex.join(["una-ref", "train", config.method, *config.settings()])


def card(record: dict[str, Any]) -> str:
    """The card as Markdown, from a run's record."""
    config = record["config"]
    method = Config(**config).record
    form = "" if config["form"] == "corrected" else f", as {config['form']}"
    form += f" with the losses {config['losses']}" if config.get("losses") else ""
    given = {**method.hyperparameters, **config["loss_kwargs"]}
    hyperparameters = "".join(f", {name} = {value}" for name, value in given.items())
    measured = [f"| {name} | {value:.4f} |" for name, value in record["evaluation"].items()]
    rows = record["rows"]
    lines = [
        "---",
        _header(config).to_yaml(),
        "---",
        "",
        f"# {method.title}",
        "",
        f"Trained with `una_ref` by **{config['method']}**{form}{hyperparameters} ({method.paper}: {method.equation}),",
        f"from {_start(config)}, for {record['steps']} steps of {config['batch']} rows over all processes.",
        _trained(config),
        *([f"The weights are those of {described(best)} on held-out rows."] if (best := record.get("best")) else []),
        *(_SCORER if method.scorer else ()),
        "",
        "## Use",
        "",
        "In this folder:",
        "",
        "```python",
        *_use(config, record["opening"], record["base"], record.get("response", ""), scorer=method.scorer),
        "```",
        "",
        "Messages go through this template:",
        "",
        "```jinja",
        record["template"],
        "```",
        "",
        "## Data",
        "",
        f"`{config['data']}`: {rows['trained']} rows to train on, {rows['held_out']} held out. Digest of the training",
        f"rows, as token ids with their feedback: `{rows['digest']}`.",
        "",
        *(f"- `{name}`: sha256 `{digest}`" for name, digest in record["files"].items()),
        *(f"- {note}" for note in record["notes"]),
        "",
        "## Held-out rows",
        "",
        *([f"Rewards are {method.reward.formula}.", ""] if method.reward.function else []),
        *(["| metric | value |", "| --- | --- |", *measured] if measured else ["None were held out."]),
        "",
        "## Make it again",
        "",
        "```sh",
        command(replace(Config(**config), push="")),
        "```",
        "",
        f"- seed {config['seed']}; all settings are in `run.json`, all metrics in `metrics.jsonl`",
        f"- versions: {', '.join(f'{name} {version}' for name, version in record['versions'].items())}",
        *([f"- una_ref's commit: `{record['code']}`"] if record["code"] else []),
        f"- on {record['hardware']}; expect the same bytes from the same versions on a CPU of the same kind",
        "",
        "## Limits",
        "",
        "This card states what was computed. It does not state the licences of data and base model, nor the uses for",
        "which the result is fit. Whoever publishes the model has to add both.",
        "",
    ]
    return "\n".join(lines)


def _header(config: dict[str, Any]) -> Any:
    """The metadata that the hub reads. Only names on the hub are listed as base model and data sets."""
    from huggingface_hub import ModelCardData

    scorer, toy = METHODS[config["method"]].scorer, toysteer.names_toysteer(config["data"])
    return ModelCardData(
        library_name="peft" if config["lora_r"] and not scorer else "transformers",
        pipeline_tag="text-classification" if scorer else "text-generation",
        tags=["una_ref", config["method"]],
        license=config.get("license") or None,
        base_model=[config["model"]] if is_hub_name(config["model"]) else None,
        datasets=[name for name in config["data"].split(",") if is_hub_name(name) and not toy] or None,
    )


def _trained(config: dict[str, Any]) -> str:
    if not config["lora_r"]:
        return "Every weight was trained."
    values = ", ".join(f"{name} {config[f'lora_{name}']}" for name in ("r", "alpha", "dropout", "targets"))
    return f"LoRA: {values}; the model itself in {config['dtype']}."


def _use(config: dict[str, Any], opening: str, base: str, response: str, *, scorer: bool) -> list[str]:
    """Lines of Python that load the result from its folder, wherever that is, and query it."""
    package, name = "transformers", "AutoModelForSequenceClassification" if scorer else "AutoModelForCausalLM"
    if config["lora_r"] and not scorer:
        package, name = "peft", "AutoPeftModelForCausalLM"
    lines = [
        *([f"from {package} import {name}", "from transformers import AutoTokenizer"] if package == "peft" else []),
        *([] if package == "peft" else [f"from transformers import {name}, AutoTokenizer"]),
        "",
        f'model, tokenizer = {name}.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
    ]
    if base:  # the adapter's config has the base's absolute path, which a moved folder no longer has
        lines = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), ".")',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
        ]
    if not opening:
        return lines
    if scorer:
        return [
            "import torch",
            *lines,
            f"prompt, response = {opening!r}, {response!r}  # as the model sees them",
            'ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response)]',
            "print(model(torch.tensor([[*ids[0], *ids[1]]])).logits)",
        ]
    return [
        *lines,
        f"text = {opening!r}  # the prompt, as the model sees it",
        'ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]',
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=64)[0], skip_special_tokens=True))",
    ]


def _start(config: dict[str, Any]) -> str:
    if config["model"]:
        return f"`{config['model']}`"
    toy = toysteer.names_toysteer(config["data"]) and not config["shape"]
    return "ToySteer's base policy" if toy else "a small random Mistral, with a tokenizer made for the data"
