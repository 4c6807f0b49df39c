"""The model card: what a stranger needs to know of a result, and to make it again."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

from una_ref.methods import METHODS

_SCORER = (
    "",
    "`AutoModelForSequenceClassification` loads it whole, adapters merged into the weights. Its one output is the",
    "reward of a response, read at the last token: the EOS, if the response ended. Only differences between the",
    "responses of one prompt were trained.",
)


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    from una_ref import __version__

    names = ("torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), "una_ref": __version__} | {name: version(name) for name in names}


def card(record: dict[str, Any]) -> str:
    """The card as Markdown, from a run's record."""
    config = record["config"]
    method = METHODS[config["method"]]
    form = "" if config["form"] == "corrected" else f", as {config['form']}"
    hyper = "".join(f", {name} = {value}" for name, value in {**method.hyperparameters, **config["hyper"]}.items())
    used = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    head = {
        "library_name": "peft" if config["lora_r"] and not method.scorer else "transformers",
        "pipeline_tag": "text-classification" if method.scorer else "text-generation",
        "tags": ["una_ref", config["method"]],
    }
    measured = [f"| {name} | {value:.4f} |" for name, value in record["evaluation"].items()]
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in head.items()),
        "---",
        "",
        f"# {method.title}",
        "",
        f"Trained with `una_ref` by **{config['method']}**{form}{hyper} ({method.paper}: {method.equation}),",
        f"from {_start(config)}, for {record['steps']} steps of {config['batch']} rows.",
        *(_SCORER if method.scorer else ()),
        "",
        "## Data",
        "",
        f"`{config['data']}`",
        "",
        *(f"- {note}" for note in record["notes"]),
        "",
        "Messages go through this template:",
        "",
        "```jinja",
        record["template"],
        "```",
        "",
        "## Held-out rows",
        "",
        *(["| metric | value |", "| --- | --- |", *measured] if measured else ["None were held out."]),
        "",
        "## Make it again",
        "",
        f"The whole config is in `run.json`. Versions: {used}.",
        "",
    ]
    return "\n".join(lines)


def _start(config: dict[str, Any]) -> str:
    if config["model"]:
        return f"`{config['model']}`"
    toy = config["data"].partition("/")[0] == "toysteer" and not config["shape"]
    return "ToySteer's base policy" if toy else "a small random Mistral, with a tokenizer made for the data"
