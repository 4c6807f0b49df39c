"""The upload of a finished run to the Hugging Face hub, with what the hub reads in the header of its model card."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from una_ref.errors import InputError
from una_ref.policies.named_models import BEST, CHECKPOINT, KEPT
from una_ref.training.card import CARD, command
from una_ref.training.config import Config

EVALUATION = "evaluation"
"""The folder in a run to which `una-ref evaluate` writes its results."""
LEFT_OUT = (".*", "*/.*", CHECKPOINT, BEST.format("*"), f"{KEPT}*", f"{EVALUATION}/*", "tensorboard/*")
"""Patterns of the files that are not uploaded. The items of evaluations may have licences of their own."""


def check(config: Config) -> None:
    """Refuse an upload that cannot work, before anything has been trained.

    Raises:
        InputError: no name of a repository, HF_HUB_OFFLINE, or no token of the hub.
    """
    if not config.push:
        return
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(config.push)
    except HFValidationError as error:
        raise InputError(f"push: expected NAME or USER/NAME of a repository, got {config.push!r}: {error}") from error
    if constants.HF_HUB_OFFLINE:
        raise InputError("push: expected a network, got HF_HUB_OFFLINE=1. Fix: unset it, or leave out push")
    if not get_token():
        raise InputError("push: expected a token of the hub, got none. Fix: hf auth login, or set HF_TOKEN")


def push(config: Config, *, progress: bool = True) -> None:
    """Upload the folder of a finished run, with its evaluations in the card. A new repository is private.

    Args:
        config: of the run; `push` names the repository.
        progress: whether to print where it is.

    Raises:
        OSError: the hub cannot be reached or refuses. The run is saved, and its command uploads it again.
    """
    from huggingface_hub import HfApi

    folder = Path(config.output)
    complete_card(folder, config.push, config.license)
    api = HfApi()
    try:
        repository = api.create_repo(config.push, private=True, exist_ok=True).repo_id
        url = api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=[*LEFT_OUT])
    except Exception as error:  # of the hub and of the network, each with a class of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"push={config.push}: expected {api.endpoint} to take the run, which is saved in {folder}, got: {reason}. "
            f"Fix: {command(config)}"
        ) from error
    if progress:
        print(f"pushed to {url}", file=sys.stderr)


def complete_card(folder: Path, name: str, license: str = "") -> None:
    """Add the results of evaluations, and a licence if one is given, to the header of a run's card.

    What its author has written into the card since stays as it is.

    Args:
        folder: of the finished run.
        name: of the repository.
        license: an identifier of the hub, such as apache-2.0.
    """
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / CARD)
    if license:
        card.data.license = license
    if results := evaluations(folder):
        card.data.model_name, card.data.eval_results = name.rpartition("/")[2], results
    card.save(folder / CARD)


def evaluations(folder: Path) -> list[Any]:
    """The scores of the evaluations in a run's folder, as the hub's `EvalResult`, sorted by task."""
    from huggingface_hub import EvalResult

    found = []
    for path in sorted((folder / EVALUATION).glob("*.json")):
        for score in json.loads(path.read_text("utf-8")).get("scores", ()):
            error = "" if score["stderr"] is None else f", standard error {score['stderr']:.4g}"
            found.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=score["task"],
                    dataset_name=score["task"],
                    metric_type=score["metric"],
                    metric_value=score["value"],
                    metric_name=f"{score['metric']}, {score['items']} items{error}",
                )
            )
    return found
