"""Results fill exactly their cells, and what is not run says how to run it, in words that the command line takes."""

import json
import math
import re
import shlex
from dataclasses import replace

import pytest

from una_ref import METHODS, cli
from una_ref.evaluation.collected import BASE, HELD_OUT, Measured
from una_ref.evaluation.printed import printed
from una_ref.evaluation.report import filled
from una_ref.evaluation.store import Results, Score
from una_ref.evaluation.tasks import task_names
from una_ref.training.config import Config
from una_ref.training.settings import output_of, resolve

ARC = Measured(
    "kto", False, "org/tiny", 0.1, "{}", 0, "arc", (Score("arc", "acc_norm", 0.3, 0.02, 300),), "2026-01-02", "runs/a"
)
"""KTO's accuracy of 0.3 ± 0.02 on ARC."""


def scored(value=0.3, stderr=0.02, items=300, *, task="arc", metric="acc_norm", **changes):
    return replace(ARC, task=task, scores=(Score(task, metric, value, stderr, items),), **changes)


def ours(report):
    """(row, column) -> our cells there."""
    cells = {}
    for row in report.rows:
        for line in row.lines:
            for column, cell in line.cells.items():
                cells.setdefault((row.name, column), []).append(cell)
    return cells


def test_a_result_fills_exactly_its_cell_in_percent():
    cells = {id: ours(filled(table, [ARC])) for id, table in printed().items()}
    [cell] = cells["2"].pop(("KTO", "arc"))
    assert cell.value == pytest.approx(30) and cell.half == pytest.approx(1.96 * 2, abs=1e-3)
    assert (cell.items, cell.seeds, cell.metric) == (300, 1, "acc_norm")
    assert not any(cells.values())


def test_a_model_before_training_fills_the_base_row_of_both_studies():
    base = scored(method=BASE, online=None, setting="", beta=None)
    assert list(ours(filled(printed()["2"], [base]))) == [("Mistral", "arc")]
    assert list(ours(filled(printed()["5"], [base]))) == [("Mistral-INST", "arc")]


def test_a_run_that_samples_fills_the_online_tables_alone():
    sampled = scored(method="una-centred", online=True)
    assert not ours(filled(printed()["2"], [sampled]))
    report = filled(printed()["5"], [sampled])
    assert list(ours(report)) == [("una-centred", "arc")] and report.rows[-1].printed is None


def test_a_method_that_samples_does_not_fill_the_row_of_its_offline_form():
    sampled = scored(method="una-pair", online=True)
    assert not ours(filled(printed()["2"], [sampled]))
    assert list(ours(filled(printed()["5"], [sampled]))) == [("una-pair", "arc")]


def test_the_corrected_form_does_not_fill_the_row_of_the_released_one():
    both = [scored(method="una-score"), scored(0.4, method="una-score.released")]
    cells = ours(filled(printed()["2"], both))
    assert {key: cell.value for key, [cell] in cells.items()} == pytest.approx(
        {("UNA-score (MSE)", "arc"): 40, ("una-score", "arc"): 30}
    )


def test_another_metric_does_not_fill_the_cell():
    assert not ours(filled(printed()["2"], [scored(metric="acc")]))
    plain = scored(8.0, task="alpaca-eval", metric="win_rate")
    assert not ours(filled(printed()["3"], [plain]))


def test_a_metric_that_the_paper_does_not_name_is_the_headline_and_is_said():
    loose, strict = Score("ifeval", "prompt_loose", 0.4, 0.02, 100), Score("ifeval", "prompt_strict", 0.3, 0.02, 100)
    report = filled(printed()["1"], [replace(ARC, task="ifeval", scores=(strict, loose))])
    [[cell]] = ours(report).values()
    assert cell.metric == "prompt_strict" and cell.value == pytest.approx(30)
    assert "ifeval: prompt_strict; the paper does not say which." in report.differences


def test_win_rates_stay_in_percent():
    judged = scored(8.0, 0.5, task="alpaca-eval", metric="length_controlled_win_rate")
    [[cell]] = ours(filled(printed()["3"], [judged])).values()
    assert cell.value == 8.0 and cell.half == pytest.approx(0.98, abs=1e-3)


def test_the_judge_of_our_answers_is_named():
    report = filled(printed()["3"], [scored(5.0, task="mt-bench", metric="score", judge="small-judge")])
    assert "MT-Bench: judged by small-judge." in report.differences


def test_seeds_are_averaged_with_the_variance_between_them():
    [[cell]] = ours(filled(printed()["2"], [scored(0.30), scored(0.34, seed=1, folder="runs/b")])).values()
    # items: 2², in percent; between seeds: the variance of 30 and 34 is 8, of their mean 4
    assert cell.value == pytest.approx(32) and cell.half == pytest.approx(1.959964 * math.sqrt(4 + 4))
    assert cell.seeds == 2 and cell.folders == ("runs/a", "runs/b")


def test_of_one_seed_the_evaluation_with_most_items_counts_and_of_these_the_latest():
    few, old = scored(0.1, items=10, date="2026-03-01"), scored(0.4, date="2025-01-01")
    found = [few, scored(0.2), scored(0.3, date="2026-02-01"), old]
    [[cell]] = ours(filled(printed()["2"], found)).values()
    assert (round(cell.value), cell.items, cell.date) == (30, 300, "2026-02-01")


def test_two_settings_of_one_model_have_two_lines_with_their_folders():
    report = filled(printed()["2"], [ARC, scored(0.4, setting="other", folder="runs/b/evaluation")])
    [row] = [row for row in report.rows if row.lines]
    assert [line.model for line in row.lines] == ["tiny, a", "tiny, b"]


def test_an_average_needs_all_tasks_and_has_the_error_of_their_mean():
    names = [column.task for column in printed()["2"].columns]
    metrics = [column.metric for column in printed()["2"].columns]
    six = [scored(0.1 * k, task=t, metric=m) for k, (t, m) in enumerate(zip(names, metrics, strict=True))]
    assert ("KTO", "average") not in ours(filled(printed()["2"], six[:5]))
    [cell] = ours(filled(printed()["2"], six))[("KTO", "average")]
    assert cell.value == pytest.approx(25) and cell.half == pytest.approx(1.959964 * 2 / math.sqrt(6))


def test_a_held_out_accuracy_fills_the_column_of_its_beta():
    run = scored(0.6, task=HELD_OUT, metric="accuracy", method="ipo", beta=0.2)
    [(key, [cell])] = ours(filled(printed()["upo"], [run])).items()
    assert key == ("IPO", "β = 0.2") and cell.value == 0.6


def test_differences_name_model_shots_limit_and_metric():
    two_days = filled(printed()["2"], [ARC, scored(task="hellaswag", date="2026-01-04T10:00:00+00:00")]).differences
    assert "Ours: tiny, measured 2026-01-02 to 2026-01-04." in two_days
    found = [scored(shots=0, limit=300), scored(task="ifeval", metric="prompt_level_strict_acc", chat=True)]
    said = "\n".join(line for id in "12" for line in filled(printed()[id], found).differences)
    assert "The paper: Mistral-7B-v0.1" in said and "Ours: tiny, measured 2026-01-02." in said
    assert "arc: 0 shots, the leaderboard has 25; a part of the items." in said
    whole = filled(printed()["2"], [scored(shots=25)]).differences
    assert not any(line.startswith("arc:") for line in whole)
    assert "ifeval: prompt_level_strict_acc; the paper does not say which; prompts in the chat template." in said


# ---- what is not run


def test_every_printed_row_has_a_command_or_says_what_it_needs():
    for table in printed().values():
        for row in filled(table, []).rows:
            assert bool(row.commands) != bool(row.needs), (table.id, row.name)


def test_a_row_without_all_numbers_has_the_commands_for_it_and_a_whole_row_has_none():
    measures = printed()["3"].columns
    both = [scored(5.0, task=column.task, metric=column.metric) for column in measures]
    found = {n: {row.name: row.commands for row in filled(printed()["3"], both[:n]).rows}["KTO"] for n in (0, 1, 2)}
    assert (
        found[0]
        == found[1]
        == (
            "una-ref train una-offline/kto",
            "una-ref evaluate runs/una-offline-kto --tasks mt-bench,alpaca-eval --dtype bfloat16 "
            "--judge judge:MODEL@http://host:port/v1",
        )
    )
    assert found[2] == ()


def test_commands_name_the_group_of_a_leaderboard():
    groups = {id: filled(printed()[id], []).rows[0].commands[0] for id in "1245"}
    assert {id: command.split()[4] for id, command in groups.items()} == {
        "1": "open-llm-v2",
        "2": "open-llm-v1",
        "4": "open-llm-v2",
        "5": "open-llm-v1",
    }


def test_commands_of_the_figure_ask_for_the_betas_that_are_missing():
    run = scored(0.6, task=HELD_OUT, metric="accuracy", method="ipo", beta=0.1)
    first, _ = filled(printed()["upo"], [run]).rows
    assert first.commands[1:] == ("una-ref train iupo/gpt2-hh-ipo beta=0.2 --output runs/iupo-gpt2-hh-ipo-0.2",)


@pytest.mark.parametrize("table", printed())
def test_training_commands_resolve_and_write_where_the_evaluation_looks(table):
    for row in filled(printed()[table], []).rows:
        configs = []
        for command in row.commands:
            words = shlex.split(command)[1:]
            if words[0] == "evaluate":
                leaderboard, judge, _ = " ".join(words).partition(" --judge ")
                parsed = cli._parsed(leaderboard.split())
                assert parsed.model == (configs[-1].output if configs else row.printed.model)
                names = task_names(parsed.tasks.split(","), others=("mt-bench", "alpaca-eval") if judge else ())
                asked = {c.task for c in printed()[table].columns if row.printed.cells[c.name] is not None}
                assert set(names) == asked
                continue
            parsed = cli._parsed(words)
            options = {"model": parsed.model, "data": ",".join(parsed.data or []) or None, "output": parsed.output}
            config = resolve(parsed.what, parsed.settings, **options)
            configs.append(config if config.output else replace(config, output=output_of(parsed.what)))
        if configs:
            form = "" if configs[-1].form == "corrected" else f".{configs[-1].form}"
            assert METHODS[configs[-1].method].name + form == row.method


# ---- the command


def write_result(folder, model="smollm2", **keys):
    config = Config(method="dpo", model=model, **keys).to_dict()
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"config": config, "finished": True}))
    score = Score("arc", "acc_norm", 0.3, 0.02, 300)
    Results(folder / "evaluation").finish("arc", [score], {"shots": 25}, limit=300, model="smollm2", chat=False)


def report(capsys, *words):
    assert cli.main(["report", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("named", [["2"], ["--table", "2"]])
def test_a_table_shows_the_paper_and_ours_with_interval_and_items(tmp_path, capsys, named):
    write_result(tmp_path / "a")
    lines = report(capsys, *named, tmp_path).splitlines()
    dpo = next(k for k, line in enumerate(lines) if line.startswith("DPO (UNA-pairwise)"))
    assert lines[dpo].split()[-7:] == ["40.22", "44.75", "79.16", "62.88", "84.42", "62.15", "62.26"]
    assert re.sub(r" {2,}", "|", lines[dpo + 1].strip()) == "smollm2|not run|not run|not run|30.0 ± 3.9|not run|not run"
    assert lines[dpo + 2].split() == ["items", "300"]


def test_the_terminal_gets_at_most_120_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    long = "a-model-with-a-very-long-name-of-more-than-forty-letters"
    for name, lr in {"first": 1e-3, "second": 1e-4}.items():
        write_result(tmp_path / name, model=long, lr=lr)
        for column in (c for table in printed().values() for c in table.columns):
            score = Score(column.task, column.metric, 0.5, 0.1, 300)
            Results(tmp_path / name / "evaluation").finish(column.task, [score], {"shots": 0}, model=long)
    printed_text = report(capsys, tmp_path)
    assert re.search("a-model.*….*first  ", printed_text) and re.search("a-model.*….*second  ", printed_text)
    assert max(map(len, printed_text.splitlines())) <= 120
    assert len(re.findall(r"^(?:UNA Table|UPO Figure|survey Sec)", printed_text, flags=re.MULTILINE)) == 8


def test_json_has_every_table_and_only_the_cells_that_were_run(tmp_path, capsys):
    write_result(tmp_path / "a")
    found = json.loads(report(capsys, "--json", tmp_path))
    assert [table["table"] for table in found] == list(printed())
    cells = [
        (table["table"], row["name"], column, cell["value"])
        for table in found
        for row in table["rows"]
        for line in row["ours"]
        for column, cell in line["cells"].items()
    ]
    assert cells == [("2", "DPO (UNA-pairwise)", "arc", pytest.approx(30))]


def test_markdown_has_both_numbers_in_one_cell(tmp_path, capsys):
    write_result(tmp_path / "a")
    text = report(capsys, "2", "--markdown", tmp_path)
    assert "| 62.88<br>**30.0 ± 3.9** (n = 300) |" in text and "| 40.22<br>not run |" in text


def test_a_folder_without_results_is_said(tmp_path, capsys):
    assert cli.main(["report", "6", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "no evaluation and no finished run in" in captured.err and "UNA Table 6" in captured.out


def test_a_word_that_is_neither_table_nor_folder_is_refused(capsys):
    assert cli.main(["report", "surveys"]) == 2
    assert "expected a table or a folder with runs or evaluations; did you mean survey?" in capsys.readouterr().err
