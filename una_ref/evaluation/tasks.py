"""The leaderboard tasks of the papers' tables: names, few-shot numbers, metrics and the files of local data.

The tasks themselves are lm-eval's own (https://github.com/EleutherAI/lm-evaluation-harness, version 0.4.13). Few-shot
numbers are those of the Open LLM Leaderboards 1 and 2, which UNA's Tables 1 to 6 use. A paper's average is the plain
mean of the raw scores of a group's six tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from una_ref.errors import InputError, near


@dataclass(frozen=True)
class HarnessTask:
    """One leaderboard task. It has one part or several, such as MMLU's 57 subjects; its score pools all items.

    Attributes:
        name: on the command line.
        definition: pattern of lm-eval's YAML files; a * stands for the name of a part.
        files: split -> file in the data folder, without .jsonl; {part} stands for the name of a part.
        metrics: the headline metric first, with its filter behind a comma where lm-eval has several.
        shots: number of few-shot examples. 0 is part of the task and is never replaced.
        answers: whether the model answers an instruction, so that its chat template is used by default.
        column: column of a local file that holds the part of a row, where one file holds all parts.
        values: part -> value of that column, where it is not the part's name.
    """

    name: str
    definition: str
    files: Mapping[str, str]
    metrics: tuple[str, ...]
    shots: int = 0
    answers: bool = False
    column: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


_MATH = {
    "algebra": "Algebra",
    "counting_and_prob": "Counting & Probability",
    "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra",
    "num_theory": "Number Theory",
    "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}
_IFEVAL = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")


def _both(folder: str, *splits: str) -> dict[str, str]:
    return {split: f"{folder}/{split}" for split in splits}


TASKS: Mapping[str, HarnessTask] = {
    task.name: task
    for task in (
        HarnessTask(
            "gsm8k",
            "gsm8k/gsm8k.yaml",
            _both("gsm8k", "train", "test"),
            ("exact_match,strict-match", "exact_match,flexible-extract"),
            5,
        ),
        HarnessTask(
            "truthfulqa", "truthfulqa/truthfulqa_mc2.yaml", {"validation": "truthfulqa/mc_validation"}, ("acc",)
        ),
        HarnessTask("winogrande", "winogrande/default.yaml", _both("winogrande", "train", "validation"), ("acc",), 5),
        HarnessTask(
            "arc",
            "arc/arc_challenge.yaml",
            _both("arc_challenge", "train", "validation", "test"),
            ("acc_norm", "acc"),
            25,
        ),
        HarnessTask(
            "hellaswag", "hellaswag/hellaswag.yaml", _both("hellaswag", "train", "validation"), ("acc_norm", "acc"), 10
        ),
        HarnessTask("mmlu", "mmlu/default/mmlu_*.yaml", _both("mmlu", "dev", "test"), ("acc",), 5, column="subject"),
        HarnessTask("bbh", "leaderboard/bbh_mc/*.yaml", {"test": "bbh/{part}"}, ("acc_norm",), 3),
        HarnessTask("gpqa", "leaderboard/gpqa/gpqa_*_zeroshot.yaml", {"train": "gpqa/{part}"}, ("acc_norm",)),
        HarnessTask(
            "mmlu-pro", "leaderboard/mmlu_pro/mmlu_pro.yaml", _both("mmlu_pro", "validation", "test"), ("acc",), 5
        ),
        HarnessTask("musr", "leaderboard/musr/musr_*.yaml", {"{part}": "musr/{part}"}, ("acc_norm",)),
        HarnessTask("ifeval", "leaderboard/ifeval/ifeval.yaml", {"train": "ifeval/ifeval"}, _IFEVAL, answers=True),
        HarnessTask(
            "math-hard",
            "leaderboard/math/math_*.yaml",
            _both("math_hard", "train", "test"),
            ("exact_match",),
            4,
            column="type",
            values=_MATH,
        ),
    )
}
"""The twelve leaderboard tasks by name."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "open-llm-v1": ("gsm8k", "truthfulqa", "winogrande", "arc", "hellaswag", "mmlu"),
    "open-llm-v2": ("bbh", "gpqa", "mmlu-pro", "musr", "ifeval", "math-hard"),
}
"""The Open LLM Leaderboards 1 and 2, in the order of UNA's tables."""


def task_names(words: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """The tasks that names and groups stand for, each once, in order.

    Args:
        words: names of tasks and groups.
        others: further names that are accepted as they are.

    Raises:
        InputError: no name, or an unknown one; the message has the nearest.
    """
    known = {*TASKS, *GROUPS, *others}
    names: list[str] = []
    for word in words:
        if word not in known:
            hint = near(word, known) or f"; known are {', '.join((*GROUPS, *TASKS, *others))}"
            raise InputError(f"task {word!r}: unknown{hint}")
        names += GROUPS.get(word, (word,))
    if not names:
        raise InputError(f"tasks: expected one or more of {', '.join((*GROUPS, *TASKS, *others))}, got none")
    return list(dict.fromkeys(names))
