"""Names and groups of tasks, and that each definition is one of lm-eval's with the papers' metric and shots."""

from pathlib import Path

import pytest

from una_ref.errors import InputError
from una_ref.evaluation.tasks import GROUPS, TASKS, task_names

PARTS = {"mmlu": 57, "bbh": 24, "gpqa": 3, "musr": 3, "math-hard": 7}


def test_groups_are_the_six_tasks_of_each_leaderboard():
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(TASKS)
    assert all(len(group) == 6 for group in GROUPS.values())


def test_names_and_groups_become_tasks_each_once_in_order():
    assert task_names(["arc", "open-llm-v1", "ifeval"]) == [
        "arc", "gsm8k", "truthfulqa", "winogrande", "hellaswag", "mmlu", "ifeval",
    ]  # fmt: skip
    assert task_names(["mt-bench", "arc"], others=["mt-bench"]) == ["mt-bench", "arc"]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"task 'hellaswga': unknown; did you mean hellaswag\?"):
        task_names(["hellaswga"])
    with pytest.raises(InputError, match="expected one or more of open-llm-v1"):
        task_names([])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_definition_is_lm_evals_with_this_metric_and_number_of_shots(task):
    tasks = pytest.importorskip("lm_eval.tasks", reason="lm-eval is not installed: pip install una_ref[eval]")
    from lm_eval.tasks._yaml_loader import load_yaml

    from una_ref.evaluation.harness import definitions

    found = list(definitions(task, Path(tasks.__file__).parent))
    assert len(found) == PARTS.get(task.name, 1)
    for path, part in found:
        config = load_yaml(path, resolve_func=False)
        metrics = {metric["metric"] for metric in config["metric_list"]}
        assert {metric.partition(",")[0] for metric in task.metrics} <= metrics
        assert config.get("num_fewshot", task.shots) == task.shots
        splits = {split.format(part=part) for split in task.files}
        used = {config.get(f"{kind}_split") for kind in ("training", "validation", "test", "fewshot")} - {None}
        assert splits == used
