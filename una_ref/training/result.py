"""The files of a finished run: adapter or weights, tokenizer, model card, record.

A reward model is saved whole, with the adapter merged into its weights, so that
`AutoModelForSequenceClassification` loads it.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from una_ref.data.encoder import Encoder
from una_ref.data.examples import digest
from una_ref.data.rows import Row
from una_ref.errors import InputError
from una_ref.policies.named_models import BEST, CHECKPOINT, KEPT
from una_ref.policies.references import Policy
from una_ref.policies.scorers import Scorer
from una_ref.training import checkpoints
from una_ref.training.card import CARD, EXAMPLE, card, commit, hardware, versions
from una_ref.training.checkpoints import NON_FINITE, RECORD, writing
from una_ref.training.inputs import of_models, of_settings
from una_ref.training.job import Job
from una_ref.training.sharding import unsharded

BASE = "base"
_UNDER = "base_model.model."
"""The prefix that peft gives to parameter names of the model under an adapter."""


def whole_state(job: Job) -> dict[str, Tensor] | None:
    """The weights to save, gathered from their shards, by name; None if the weights are not sharded.

    All processes call this. The main process gets the weights, the others an empty dict.
    """
    trainer = job.trainer
    if not trainer.sharded:
        return None
    everything = job.own_base or not trainer.policy.adapters
    main = trainer.accelerator.is_main_process
    out: dict[str, Tensor] = {}
    for name, value in trainer.policy.model.state_dict().items():
        if everything or f"model.{name}" in trainer.trained:
            gathered = unsharded(value.detach()).cpu()
            out |= {name: gathered} if main else {}
    return out


def save(
    job: Job, config: dict[str, Any], output: Path, evaluation: dict[str, float], state: dict[str, Tensor] | None = None
) -> dict[str, Any]:
    """Write the result to a temporary folder, move it into place, the record last, and return the record.

    Args:
        job: the trained job.
        config: the run's config, as the unfinished record has it.
        output: the run's folder.
        evaluation: the last metrics on the held-out rows.
        state: the gathered weights of a sharded model, see `whole_state`.

    Raises:
        OSError: a file could not be written, for instance on a full disk. Files with their final names are whole, and
            the same command resumes the run.
    """
    policy = job.trainer.policy
    if isinstance(policy, Scorer):
        policy.merge()
    record = {
        "config": config,
        "finished": True,
        "steps": job.config.steps,
        "rows": {"trained": len(job.examples), "held_out": len(job.held_out), "digest": digest(job.examples)},
        **_inputs(config, output),
        "notes": list(job.notes),
        "evaluation": evaluation,
        "best": job.best.record() if job.best and job.best.step else None,
        "versions": versions(),
        "code": commit(),
        "hardware": hardware(job.trainer.accelerator.device, job.trainer.accelerator.num_processes),
        "template": job.encoder.template if job.encoder else "",
        **_example(job.encoder),
        "base": BASE if policy.adapters and job.own_base else "",
    }
    with _beside(output) as beside:
        _save_policy(job, policy, output, beside, "", state)
        with writing(output / CARD):
            (beside / CARD).write_text(card(record), encoding="utf-8")
        _move(beside, output)
        checkpoints.write_text(output / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
    leftovers = (
        *output.glob(".*.partial"),
        *output.glob(".tmp*"),
    )  # left by a killed process: ours, and those of safetensors
    for path in (output / NON_FINITE, *leftovers):
        path.unlink(missing_ok=True)
    if not job.config.extendable or job.ended_early:
        for path in (output / CHECKPOINT, *output.glob(BEST.format("*"))):
            path.unlink(missing_ok=True)
    return record


def keep(job: Job, output: Path, step: int) -> None:
    """Write the policy after a step to OUTPUT/step-N: the files that load it. All processes call this.

    The adapters of a reward model are merged in a copy of it.

    Raises:
        OSError: see `save`.
    """
    policy, state = job.trainer.policy, whole_state(job)
    if not job.trainer.accelerator.is_main_process:
        return
    if isinstance(policy, Scorer):
        policy = copy.deepcopy(policy)
        policy.merge()
    with _beside(output) as beside:
        _save_policy(job, policy, output, beside, f"{KEPT}{step}", state)
        _move(beside, output)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A temporary folder in the output to write to, deleted at the end."""
    beside = output / ".result.partial"
    shutil.rmtree(beside, ignore_errors=True)  # left by a killed process
    beside.mkdir()
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _save_policy(
    job: Job, policy: Policy, output: Path, beside: Path, folder: str, state: dict[str, Tensor] | None
) -> None:
    """Write adapter or weights and the tokenizer to a folder in `beside`; and the base to the output, if it is ours."""
    if policy.adapters and job.own_base:
        with writing(output / BASE):
            _save_base(policy.model, beside / BASE, job.tokenizer, state)
        _move(beside, output)  # first: saving an adapter reads the config of the base that it names
        for adapter in policy.model.peft_config.values():
            adapter.base_model_name_or_path = str((output / BASE).resolve())
    with writing(output / folder / ("adapter_model.safetensors" if policy.adapters else "model.safetensors")):
        policy.model.save_pretrained(beside / folder, state_dict=state)
    with writing(output / folder / "tokenizer.json"):
        job.tokenizer.save_pretrained(beside / folder)


def _inputs(config: dict[str, Any], output: Path) -> dict[str, dict[str, str]]:
    """The digests of data and models as they were when the run began."""
    begun = output / RECORD
    saved = json.loads(begun.read_text("utf-8")) if begun.exists() else {}
    return {
        "files": saved.get("files") or of_settings(config),
        "models": saved["models"] if "models" in saved else of_models(config),
    }


def _example(encoder: Encoder | None) -> dict[str, str]:
    """A prompt and its response as the model sees them. Empty if the template takes no prompt without an answer."""
    prompt, response = EXAMPLE
    opening = ended = ""
    with suppress(InputError):
        if encoder:
            opening = encoder.tokenizer.decode(encoder.prompt_ids(Row(prompt, ("",))))
            example = encoder(Row(prompt, (response,)))
            ended = encoder.tokenizer.decode(example.responses[0]) if example else ""
    return {"opening": opening, "response": ended}


def _move(beside: Path, output: Path) -> None:
    """Move everything in `beside` to `output`, replacing files and folders of the same name."""
    for part in sorted(beside.iterdir()):
        if (output / part.name).is_dir():
            shutil.rmtree(output / part.name)
        os.replace(part, output / part.name)


def _save_base(model: Any, folder: Path, tokenizer: Any, state: dict[str, Tensor] | None) -> None:
    """Save the model under an adapter, without the adapter, with its tokenizer."""
    base = model.get_base_model()
    weights = base.state_dict() if state is None else {name.removeprefix(_UNDER): v for name, v in state.items()}
    plain = {name.replace(".base_layer", ""): value for name, value in weights.items() if ".lora_" not in name}
    base.save_pretrained(folder, state_dict=plain)
    tokenizer.save_pretrained(folder)
