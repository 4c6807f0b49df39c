"""The dry run shows the first row through model and loss, and names what it could not show."""

import json
import re

import pytest
import torch

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.methods.arguments import Need, names, needs
from una_ref.training.dryrun import dry_run
from una_ref.training.prepare import prepare
from una_ref.training.settings import recipes, resolve

KINDS = {"demos": "messages", "pairs": "pairs", "labels": "labels", "scores": "scores", "lists": "scores"}


def letters(answers):
    """A reward for online methods: characters of the response."""
    return [len(answer.response) for answer in answers]


@pytest.mark.parametrize("method", METHODS)
def test_it_shows_text_ids_mask_log_prob_reward_and_loss(method, data, tiny):
    online = METHODS[method].source != "dataset"
    settings = [*tiny, "held_out=0", *([f"reward={__name__}:letters"] if online else [])]
    kind = KINDS[METHODS[method].kinds[0]]
    scored = kind == "pairs" and Need.SCORES in needs([METHODS[method].loss])
    config = resolve(method, settings, data=data("scored-pairs" if scored else kind))
    report = dry_run(config)
    job = prepare(config)
    ((example, *_), _), tokenizer = job.answered(job.examples[: config.batch], 0, record=False), job.tokenizer
    assert f'"method": "{method}"' in report
    assert f"  prompt     {tokenizer.decode(list(example.prompt))!r}" in report
    assert f"    ids      {list(example.prompt)}" in report
    assert example.source in report
    batch = job.trainer.batch([example])
    with torch.no_grad():
        logps = job.trainer.policy(batch).tolist()
    for response, logp in zip(example.responses, logps, strict=True):
        assert f"    ids      {list(response)}" in report
        assert f"    scored   {tokenizer.decode(list(response))!r}" in report
        assert (f"reward a scalar head {logp:.4f}" if METHODS[method].scorer else f"log π {logp:.4f} nats") in report
    rewards = re.findall(rf"reward {re.escape(METHODS[method].reward.formula)} (\S+)", report)
    expected = [f"{logp:.4f}" if METHODS[method].scorer else "0.0000" for logp in logps]
    function = METHODS[method].reward.function
    starts_at_0 = METHODS[method].needs_reference and not (function and "lengths" in names(function))
    if starts_at_0 or METHODS[method].scorer:
        assert rewards == (expected if METHODS[method].reward.function else [])
    else:
        assert len(rewards) == (len(logps) if METHODS[method].reward.function else 0)
    losses = re.search(r"loss \((\w+)\): (.*)", report)
    assert losses[1] == METHODS[method].kinds[0]
    assert len(losses[2].split(", ")) == example.count
    if method == "dpo":
        assert losses[2] == "0.693147"


def test_the_dry_run_shows_the_sizes(data, tiny):
    report = dry_run(resolve("dpo", [*tiny, "epochs=2", "held_out=0.2"], data=data("pairs", 20)))
    assert "  rows         16 to train on, 4 held out" in report
    assert "  run          8 steps, 2 epochs" in report
    trained = int(re.search(r"of which ([\d,]+) are trained", report)[1].replace(",", ""))
    job = prepare(resolve("dpo", tiny, data=data("pairs", 20)))
    assert trained == sum(p.numel() for p in job.trainer.trained.values()) > 100


def test_the_dry_run_trains_and_writes_nothing(data, tiny, tmp_path, capsys):
    words = ["train", "dpo", "--data", data("pairs"), "--output", str(tmp_path / "out"), "--dry-run", *tiny]
    assert main(words) == 0
    assert "the first row through model and loss" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_the_dry_run_shows_the_keys_that_differ_from_the_defaults(data, tiny):
    path = data("pairs")
    report = dry_run(resolve("dpo", ["lora_r=4", "batch=4", "beta=0.2", *tiny[:6]], data=path))
    told = json.loads(report[report.index("{") : report.index("\n}") + 2])
    shape = {s.split("=")[0].removeprefix("shape."): int(s.split("=")[1]) for s in tiny[:6] if "shape" in s}
    expected = {"method": "dpo", "data": path, "shape": shape, "batch": 4, "lora_r": 4, "loss_kwargs": {"beta": 0.2}}
    assert told == expected | {"vocabulary": 300}


def test_the_dry_run_names_conversions(data, tiny):
    assert "scores -> pairs (best-worst): 12 pairs" in dry_run(resolve("dpo", tiny, data=data("scores")))


def test_the_range_of_scores_is_shown_and_pairs_of_equal_responses_are_counted(tiny, tmp_path):
    scores, pairs = tmp_path / "scores.jsonl", tmp_path / "pairs.jsonl"
    given = [{"prompt": f"how {i}", "completion": " so", "score": score} for i, score in enumerate((0.5, 9, -2))]
    scores.write_text("\n".join(map(json.dumps, given)))
    assert "scores: from -2 to 9, as they are: in units of the reward" in dry_run(
        resolve("dro", tiny, data=str(scores))
    )
    given = [
        {"prompt": f"how {i}", "chosen": " so", "rejected": other} for i, other in enumerate((" so", " no", " so"))
    ]
    pairs.write_text("\n".join(map(json.dumps, given)))
    assert "pairs of equal responses, which teach nothing: 2" in dry_run(resolve("dpo", tiny, data=str(pairs)))


def test_without_the_model_the_dry_run_names_what_it_could_not_show(data, tiny):
    report = dry_run(resolve("dpo", tiny, data=data("pairs"), model="somebody/some-7B"))
    assert "  prompt     '" in report and "  response 1 '" in report
    missing = "ids, parameter counts, memory, mask, log-probs, rewards, loss"
    assert f"not shown, since the model is not available: {missing} (model 'somebody/some-7B': " in report


def test_a_folder_without_a_model_is_refused(data, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    for model in ("empty", "nowhere"):
        with pytest.raises(InputError, match="expected a folder or hub name"):
            dry_run(resolve("dpo", tiny, data=data("pairs"), model=str(tmp_path / model)))


def test_the_sizes_of_a_recipe_s_model_are_known_without_the_model(data, tiny):
    report = dry_run(resolve("dpo", tiny, data=data("pairs"), model="mistralai/Mistral-7B-v0.1"))
    assert "  prompt     '" in report and "  response 1 '" in report
    assert "  mistralai/Mistral-7B-v0.1: sizes from the shipped table; its own config is not available" in report
    trained = 83_886_080 * 4 // 32  # LoRA's rank is 4 here
    assert f"  parameters   {7_241_732_096 + trained:,}, of which {trained:,} are trained" in report
    assert "\n  weights                  28.967  7,241,732,096 × 4 bytes, frozen\n" in report
    assert "not shown, since the model is not available: ids, mask, log-probs, rewards, loss (model " in report


def test_a_dry_run_of_a_recipe_needs_neither_model_nor_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "una-online/ppo", "--dry-run"]) == 0
    report = capsys.readouterr().out
    for name in ("mistralai/Mistral-7B-Instruct-v0.1", "Ray2333/GRM-Llama3.2-3B-rewardmodel-ft"):
        assert f"  {name}: sizes from the shipped table" in report
    assert "  run          20000 steps\n" in report
    assert re.search(r"\n  critic +\d+\.\d{3}  .*7,110,660,096 × 2 bytes", report)
    assert re.search(r"\n  reward model +6.426  3,212,749,824 × 2 bytes \+ 3,072 × 4 bytes\n", report)
    assert re.search(r"\n  at most +\d+\.\d{3}\n", report)
    assert "not shown, since the data are not available: rows and their conversions (nvidia/HelpSteer2" in report
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith(("una-", "iupo/"))])
def test_a_dry_run_of_every_paper_s_recipe_needs_neither_model_nor_data(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--dry-run"]) == 0
    report, config = capsys.readouterr().out, resolve(name)
    assert re.search(r"\n  parameters   [\d,]+, of which [\d,]+ are trained\n", report)
    assert re.search(r"\n  at most +\d+\.\d{3}\n", report)
    weights, part = {
        "mistralai/Mistral-7B-v0.1": ("14.483", "the adapters off"),
        "mistralai/Mistral-7B-Instruct-v0.1": ("14.483", "the adapters off"),
    }.get(config.model, ("0.498", "none" if config.method == "sft" else "a frozen copy"))  # 124,439,808 × 4 bytes
    assert re.search(rf"\n  weights +{weights} ", report) and re.search(rf"\n  reference .*  {part}\n", report)
    run = {
        "nvidia/HelpSteer2": "2 epochs of at most 9,959 rows, which is 2,490 steps",
        "Anthropic/hh-rlhf": "1 epochs of at most 157,584 rows, which is 2,462 steps",
        "stanfordnlp/SHP": "1 epochs of at most 341,744 rows, which is 5,340 steps",
    }[config.data]
    assert f"\n  run          {'20000 steps' if config.on_policy else run}\n" in report
    assert "not shown, since the data are not available" in report
    if config.model.startswith("runs/"):
        assert f"  {config.model}: made by iupo/gpt2-" in report


def test_missing_data_are_refused(tmp_path, capsys):
    assert main(["train", "una-online/ppo", "--dry-run", "--data", str(tmp_path / "no.jsonl")]) == 2
    assert "expected a file, a folder or a hub name" in capsys.readouterr().err
    assert main(["train", "rloo", "--dry-run", "--data", "nobody/nothing"]) == 2  # a model would be made from it
    assert "nobody/nothing data: expected a data set that loads" in capsys.readouterr().err


def test_with_the_tokenizer_alone_the_dry_run_shows_the_ids(data, tiny, tmp_path):
    prepare(resolve("dpo", tiny, data=data("pairs"))).tokenizer.save_pretrained(tmp_path / "tokenizer")
    report = dry_run(resolve("dpo", tiny, data=data("pairs"), model=str(tmp_path / "tokenizer")))
    assert re.search(r"    ids      \[1, \d+", report)
    assert "not available: parameter counts, memory, mask, log-probs, rewards, loss" in report


def test_a_dry_run_refuses_what_the_run_refuses(data, tiny, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"prompt": "a", "chosen": " b", "rejected": " c"}\n{"prompt": "a", "chosen": 3, "rejected": " c"}\n'
    )
    assert main(["train", "dpo", "--data", str(path), "--dry-run", *tiny]) == 2
    assert f"{path}:2 chosen: expected text, got 3 (int)" in capsys.readouterr().err
    assert main(["train", "dpo", "--data", data("pairs"), "--model", "", "--dry-run", "vocabulary=0", *tiny[:3]]) == 2
