"""``una-ref generate``: the answers of a model to a file of prompts, or to a line typed by hand."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from una_ref.commands.console import said
from una_ref.errors import InputError

if TYPE_CHECKING:
    from una_ref.evaluation.generation import Response


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `generate`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of a run, an adapter or a model; hub name; GGUF file; smollm2; toysteer")
    add("prompt", nargs="?", help="a line to answer, which is printed without --output")
    add("--data", metavar="FILE", help="prompts: any data that train reads, or a column prompt")
    add("--output", metavar="FILE", help="the JSONL file to write: prompt, response, ended, tokens")
    add("--max-new", type=int, default=256, help="most tokens of an answer (default: 256)")
    add("--temperature", type=float, default=0.0, help="0 (default): the most probable token each time")
    add("--seed", type=int, default=0, help="random seed of the samples")
    add("--batch", type=int, default=32, help="prompts in a batch (default: 32)")
    add("--samples", type=int, default=1, help="answers to each prompt")
    add("--limit", type=int, help="most prompts")
    add("--split", default="train", help="split of a data set")
    add("--template", metavar="FILE", help="a chat template (Jinja) in place of the tokenizer's own")
    add("--dtype", default="float32", help="type of the weights")
    add("--json", action="store_true", help="print the record of the answers")


def generate(arguments: argparse.Namespace) -> int:
    """Answer prompts and say how many answers were cut. The same command resumes."""
    from una_ref.data.rows import Row
    from una_ref.data.sources import read
    from una_ref.evaluation.generation import Decoding, answers, respond
    from una_ref.evaluation.store import Results
    from una_ref.evaluation.subject import subject

    _check(arguments)
    names = ("max_new", "temperature", "samples", "seed", "batch")
    decoding = Decoding(**{name: getattr(arguments, name) for name in names})
    if arguments.prompt is not None:
        rows = [Row(arguments.prompt, (), source="prompt")]
    else:
        rows = list(read(arguments.data, limit=arguments.limit, split=arguments.split, empty="keep", prompts=True))
    model = subject(arguments.model, dtype=arguments.dtype, template=template_in(arguments.template))
    if not arguments.output:
        every = [response for _, responses in respond(model, rows, decoding) for response in responses]
        for response in every:
            print(response.text)
        return 0 if all(response.ended for response in every) else said(0, _ending(every, decoding.max_new))

    output = Path(arguments.output)
    results, task, began = Results(output.parent), f"{output.name}.partial", time.perf_counter()
    of_prompts = answers(model, rows, decoding, results, task)
    seconds = time.perf_counter() - began
    _write(output, rows, of_prompts)
    results.path(task, "items.jsonl").unlink()
    every = [response for several in of_prompts for response in several]
    record: dict[str, Any] = {
        "output": str(output),
        "prompts": len(rows),
        "answers": len(every),
        "cut": sum(not response.ended for response in every),
        "tokens": sum(response.tokens for response in every),
        "seconds": round(seconds, 1),
    }
    if arguments.json:
        print(json.dumps(record))
    else:
        print(f"{len(every)} answers to {len(rows)} prompts: {output}")
        print(_ending(every, decoding.max_new))
    return 0


def template_in(file: str | None) -> str:
    """The chat template in a file; empty if none is named. Raises InputError if it cannot be read."""
    try:
        return Path(file).read_text("utf-8") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"template {file}: expected a text file with a chat template, got: {reason}") from error


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.prompt is None) == (arguments.data is None):
        got = "neither" if arguments.data is None else "both"
        raise InputError(f"generate: expected a line to answer or --data FILE, got {got}")
    if arguments.data is not None and not arguments.output:
        raise InputError("generate: expected --output FILE for the answers, got none")
    if arguments.output and (output := Path(arguments.output)).exists():
        raise InputError(f"output {output}: expected a new file, got one that exists")


def _write(output: Path, rows: list[Any], responses: list[list[Response]]) -> None:
    """One line an answer, in the order of the prompts; the file is whole or not there."""
    from una_ref.training.checkpoints import replacing

    with replacing(output) as beside, open(beside, "w", encoding="utf-8", newline="\n") as file:
        for row, several in zip(rows, responses, strict=True):
            for response in several:
                line = {"prompt": row.prompt, "response": response.text}
                line |= {"ended": response.ended, "tokens": response.tokens}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _ending(responses: list[Response], max_new: int) -> str:
    cut = sum(not response.ended for response in responses)
    if not cut:
        return "every answer ended"
    return f"{cut} of {len(responses)} answers cut at {max_new} tokens. Fix: a larger --max-new"
