"""The model card: what a stranger needs to know of a result, and to make it again."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from una_ref.methods import METHODS


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    import platform

    from una_ref import __version__

    names = ("torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), "una_ref": __version__} | {n: version(n) for n in names}


def card(record: dict[str, Any]) -> str:
    """The card as Markdown, from a run's record."""
    config = record["config"]
    method = METHODS[config["method"]]
    changed = "\n".join(f"- {key}: `{value}`" for key, value in config.items() if value not in ("", None, {}, False))
    measured = "\n".join(f"| {k} | {v:.4f} |" for k, v in record["evaluation"].items()) or "| none | |"
    notes = "\n".join(f"- {n}" for n in record["notes"])
    used = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return f"""---
library_name: {"peft" if config["lora_r"] else "transformers"}
tags: [una_ref, {config["method"]}]
---

# {method.title}

Trained with `una_ref` by **{config["method"]}** ({config["form"]}): {method.paper}, {method.equation}.

## Data

`{config["data"]}`

{notes}

Messages go through this template:

```jinja
{record["template"]}
```

## Held-out rows

| metric | value |
| --- | --- |
{measured}

## Config

{changed}

Versions: {used}.
"""
