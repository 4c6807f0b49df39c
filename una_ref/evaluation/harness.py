"""Leaderboard tasks through lm-eval 0.4.13: its prompts, its model wrapper and its metrics, in a loop that resumes.

`simple_evaluate` of lm-eval keeps nothing until a task is done. The loop here asks for the same requests in chunks of
items and stores each finished item. Its scores are those of `simple_evaluate` (a test compares them).

Few-shot examples are drawn in the order of the documents with lm-eval's seed, whatever the limit. So an item's prompt
is a function of task, data and number of shots.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from una_ref.data.items import items
from una_ref.errors import InputError
from una_ref.evaluation import paired
from una_ref.evaluation.shared_prompts import harness_model
from una_ref.evaluation.store import Results, Values
from una_ref.evaluation.subject import Subject
from una_ref.evaluation.tasks import HarnessTask

FEWSHOT_SEED, RANDOM_SEED = 1234, 0
"""lm-eval's defaults: of few-shot examples, and of Python's random numbers, with which GPQA shuffles its choices."""
LIMIT_SEED = 0
"""Of the order in which a limit takes items: the first N of one shuffle, the same for every model."""
CHUNK = 8
"""Batches of log-likelihoods in a chunk, which sorts them by length. Answers take longer: one batch is a chunk."""
_SPLIT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
"""Instructions of IFEval that need NLTK's sentence splitter."""


@dataclass(frozen=True)
class Loaded:
    """A task with its data.

    Attributes:
        task: which.
        parts: part -> lm-eval's task object.
        documents: part -> the documents of that part.
        digest: SHA-256 of all documents and few-shot examples.
        shots: number of few-shot examples.
    """

    task: HarnessTask
    parts: Mapping[str, Any]
    documents: Mapping[str, Sequence[Mapping[str, Any]]]
    digest: str
    shots: int

    def items(self, limit: int | None = None) -> list[tuple[str, int]]:
        """Part and index of the documents to answer, in order; with a limit, the first of one fixed shuffle."""
        everything = [(part, i) for part, documents in self.documents.items() for i in range(len(documents))]
        if limit is None or limit >= len(everything):
            return everything
        return sorted(random.Random(LIMIT_SEED).sample(everything, len(everything))[:limit])


def check_options(*, limit: int | None, batch: int, max_new: int | None, chat: str, shots: int | None = None) -> None:
    """Refuse options of `evaluate` that are out of range; see there.

    Raises:
        InputError: names the option.
    """
    for name, value, least in (("limit", limit, 1), ("batch", batch, 1), ("max-new", max_new, 1), ("shots", shots, 0)):
        if value is not None and value < least:
            raise InputError(f"{name}: expected {least} or more, got {value}")
    if chat not in ("auto", "yes", "no"):
        raise InputError(f"chat: expected auto, yes or no, got {chat!r}")


def load_task(task: HarnessTask, data_dir: str = "", shots: int | None = None) -> Loaded:
    """A task with its data: from local files, else from the hub.

    Args:
        task: which.
        data_dir: folder with the files that `HarnessTask.files` names, as JSON lines (.jsonl or .jsonl.gz); empty: hub.
        shots: few-shot examples instead of the task's own number, unless that is 0.

    Raises:
        InputError: lm-eval is not installed, the data are not there, or they have too few examples.
    """
    if find_spec("lm_eval") is None:
        raise InputError("evaluate: expected the package lm-eval, got none; pip install 'una_ref[eval]'")
    _quiet()
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    if data_dir and not Path(data_dir).is_dir():
        raise InputError(f"data-dir {data_dir}: expected a folder, got none")
    if data_dir and (nltk_data := Path(data_dir, "nltk_data").resolve()).is_dir():
        import nltk

        nltk.data.path.insert(0, str(nltk_data))  # lm-eval asks for it as it reads IFEval's definition
    shots = task.shots if shots is None or not task.shots else shots
    root, parts, documents = Path(lm_eval.tasks.__file__).parent, {}, {}
    random.seed(RANDOM_SEED)
    for definition, part in definitions(task, root):
        try:
            config = load_yaml(definition)
            if data_dir:
                config |= {"custom_dataset": _dataset(task, part, Path(data_dir))}
            made = ConfigurableTask(config=config)
            made.set_config("num_fewshot", shots)
            if shots > (most := len(made.sampler.df)):
                raise InputError(f"shots: expected at most {most}, the examples of {task.name}, got {shots}")
            parts[part], documents[part] = made, list(made.eval_docs)
        except InputError:
            raise
        except ImportError as error:
            raise InputError(f"task {task.name}: {error}. Fix: pip install 'una_ref[eval]'") from error
        except Exception as error:  # no network, no such columns: each library raises its own class
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            where = f"in {data_dir}" if data_dir else f"on the hub ({config.get('dataset_path')})"
            fix = "" if data_dir else ". Fix: --data-dir FOLDER with local files"
            raise InputError(f"task {task.name}: expected its data {where}, got: {reason}{fix}") from error
    if task.name == "ifeval":
        _check_sentence_splitter(documents[""])
    return Loaded(task, parts, documents, _digest(parts, documents), shots)


def evaluate(
    subject: Subject,
    loaded: Loaded,
    results: Results,
    *,
    limit: int | None = None,
    batch: int = 8,
    max_new: int | None = None,
    chat: str = "auto",
) -> dict[str, Any]:
    """Evaluate a model on a task, or go on where that was interrupted; returns the record.

    Args:
        subject: the model.
        loaded: the task with its data.
        results: where items and record go.
        limit: number of items; None: all.
        batch: sequences in a forward pass.
        max_new: most new tokens of an answer; None: the task's own number.
        chat: yes or no: whether prompts go through the chat template; auto: only where the task asks for answers.

    Raises:
        InputError: the folder holds results of another model or of other settings, or no chat template is there.
    """
    task = loaded.task
    check_options(limit=limit, batch=batch, max_new=max_new, chat=chat)
    if chat == "yes" and not subject.template:
        raise InputError(f"chat yes: expected a chat template in the tokenizer of {subject.name}, got none")
    uses_template = chat == "yes" or (chat == "auto" and task.answers and bool(subject.template))
    decoding = _decoding(loaded, max_new)
    settings = {
        **subject.identity,
        "template": subject.identity["template"] if uses_template else "",
        "shots": loaded.shots,
        "decoding": decoding,
        "data": loaded.digest[:16],
        "harness": f"lm-eval {version('lm_eval')}",
    }
    asked = loaded.items(limit)
    limit = limit if len(asked) < len(loaded.items()) else None
    finished = results.begin(task.name, settings)
    names = {(part, index): f"{part}/{index}" if part else str(index) for part, index in asked}
    missing = [item for item in asked if names[item] not in finished]
    for item, values in _answered(subject, loaded, missing, batch, decoding, uses_template):
        results.add(task.name, names[item], values)
    record, more = results.record(task.name), {"model": subject.name, "limit": limit, "chat": uses_template}
    if record and not missing and more.items() <= record.items():
        return record
    known = results.items(task.name)
    answered = [known[names[item]] for item in asked]
    scores = [paired.score(task.name, metric, answered) for metric in task.metrics]
    seconds = round(sum(values["seconds"] for values in answered), 1)
    return results.finish(task.name, scores, settings, **more, batch=batch, seconds=seconds)


# ---- data


def definitions(task: HarnessTask, root: Path) -> Iterator[tuple[Path, str]]:
    """lm-eval's YAML file of each part, and the name of the part."""
    pattern = re.compile(re.escape(task.definition).replace(r"\*", "([^_/].*)"))
    for path in sorted(root.glob(task.definition)):
        match = pattern.fullmatch(path.relative_to(root).as_posix())
        if match:
            yield path, match[1] if match.groups() else ""


def _file(task: HarnessTask, folder: Path, name: str) -> Path:
    """The file of a split. Its name may go on, as in train_first500 where few-shot examples come from a part.

    Raises:
        InputError: there is none.
    """
    for pattern in (f"{name}.jsonl*", f"{name}_*.jsonl*"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    there = sorted(path.name for path in (folder / name).parent.glob("*.jsonl*"))
    raise InputError(
        f"task {task.name}: expected its data in {folder / name}.jsonl or .jsonl.gz, "
        f"got {', '.join(there[:4]) if there else 'no such file'}"
    )


@lru_cache(maxsize=2)
def _rows(file: Path) -> list[Any]:
    """The rows of a file. Raises the error of the first line that is no JSON."""
    rows = [row for _, row in items(file, "train")]
    for row in rows:
        if isinstance(row, InputError):
            raise row
    return rows


def _dataset(task: HarnessTask, part: str, folder: Path) -> Callable[..., Any]:
    """What lm-eval calls for the splits of a part."""

    def splits(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        found = {}
        for split, name in task.files.items():
            file = _file(task, folder, name.format(part=part))
            value = task.values.get(part, part)
            rows = [row for row in _rows(file) if not task.column or row.get(task.column) == value]
            if not rows:
                raise InputError(f"task {task.name}: expected rows of {part or split} in {file}, got none")
            found[split.format(part=part)] = Dataset.from_list(rows)
        return DatasetDict(found)

    return splits


def _digest(parts: Mapping[str, Any], documents: Mapping[str, Sequence[Any]]) -> str:
    """SHA-256 of the documents and the few-shot examples of all parts."""
    found = hashlib.sha256()
    for part, made in parts.items():
        for each in (documents[part], list(made.sampler.df)):
            found.update(json.dumps(each, sort_keys=True, default=str).encode())
    return found.hexdigest()


def _check_sentence_splitter(documents: Iterable[Mapping[str, Any]]) -> None:
    """Refuse IFEval's prompts that count sentences where NLTK does not find its sentence splitter.

    Raises:
        InputError: says how to get it.
    """
    import nltk

    if not any(_SPLIT & set(document["instruction_id_list"]) for document in documents):
        return
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        raise InputError(
            "task ifeval: expected NLTK's sentence splitter punkt_tab, got none. "
            "Fix: python -m nltk.downloader punkt_tab, or put nltk_data into --data-dir"
        ) from None


def _quiet() -> None:
    """No progress bars and notes of datasets and lm-eval."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


# ---- answers


def _decoding(loaded: Loaded, max_new: int | None) -> dict[str, Any] | None:
    """lm-eval's settings of generation, with the cap; None for a task that compares log-likelihoods."""
    made = next(iter(loaded.parts.values()))
    if made.OUTPUT_TYPE != "generate_until":
        return None
    decoding = json.loads(json.dumps(made.config.generation_kwargs))
    own = decoding.get("max_gen_toks", 256)  # HFLM's default
    return decoding | {"max_gen_toks": min(own, max_new or own)}


def _answered(
    subject: Subject,
    loaded: Loaded,
    items: Sequence[tuple[str, int]],
    batch: int,
    decoding: Mapping[str, Any] | None,
    uses_template: bool,
) -> Iterator[tuple[tuple[str, int], Values]]:
    """Each item with its values, chunk by chunk, under a progress bar."""
    if not items:
        return
    from tqdm import tqdm

    model = harness_model(subject, batch)
    if decoding is not None:
        for made in loaded.parts.values():
            made.set_config("generation_kwargs", dict(decoding))
    template = model.apply_chat_template if uses_template else None
    size = batch if decoding is not None else CHUNK * batch
    with tqdm(total=len(items), desc=loaded.task.name, unit="item", file=sys.stderr, disable=None) as bar:
        for chunk in _chunks(_requests(loaded, items, template), size):
            began = time.perf_counter()
            requests = [request for _, own in chunk for request in own]
            answers = getattr(model, requests[0].request_type)(requests, disable_tqdm=True)
            for request, answer in zip(requests, answers, strict=True):
                request.resps = [answer]
            share = (time.perf_counter() - began) / len(chunk)
            for item, own in chunk:
                yield item, _values(loaded.parts[item[0]], own) | {"seconds": round(share, 4)}
            bar.update(len(chunk))


def _requests(
    loaded: Loaded, items: Sequence[tuple[str, int]], template: Callable[..., str] | None
) -> Iterator[tuple[tuple[str, int], list[Any]]]:
    """lm-eval's requests of each item, as its `build_all_requests` makes them."""
    wanted = set(items)
    for part, made in loaded.parts.items():
        made.set_fewshot_seed(FEWSHOT_SEED)
        for index, document in enumerate(loaded.documents[part]):
            if (part, index) not in wanted:
                if loaded.shots:  # its examples are drawn all the same, so that the next document gets its own
                    same = made.fewshot_cfg.split == made.config.test_split
                    made.sampler.sample(loaded.shots, eval_doc=document if same else None)
                continue
            context = made.fewshot_context(
                document,
                num_fewshot=loaded.shots,
                apply_chat_template=template is not None,
                fewshot_as_multiturn=True,
                chat_template=template,
                gen_prefix=made.doc_to_prefix(document),
            )
            found = made.construct_requests(
                doc=document,
                ctx=context,
                metadata=(made.config.task, index, 1),
                apply_chat_template=template is not None,
                chat_template=template,
            )
            yield (part, index), found if isinstance(found, list) else [found]


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def _values(made: Any, requests: list[Any]) -> dict[str, Any]:
    """The metrics of an answered item, with the answer itself: log-likelihoods in nats, or text."""
    for filters in made._filters:
        filters.apply(requests)
    found: dict[str, Any] = {}
    for name in requests[0].filtered_resps:
        answers = [request.filtered_resps[name] for request in requests]
        for metric, value in made.process_results(requests[0].doc, answers).items():
            found[metric if name == "none" else f"{metric},{name}"] = _plain(value)
    answers = [request.resps[0] for request in requests]
    if isinstance(answers[0], str):
        return found | {"answer": answers[0]}
    return found | {"logps": [float(logp) for logp, _ in answers]}


def _plain(value: Any) -> Any:
    """A number or a list of numbers, ready for JSON."""
    return [float(each) for each in value] if isinstance(value, list | tuple) else float(value)
