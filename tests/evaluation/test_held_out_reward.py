"""Rewards and win rates of answers to held-out prompts."""

import json

import pytest

from una_ref import cli
from una_ref.errors import InputError
from una_ref.evaluation import held_out_reward
from una_ref.evaluation.generation import Decoding
from una_ref.evaluation.held_out_reward import evaluate, prompts_of
from una_ref.evaluation.store import Results
from una_ref.evaluation.subject import subject
from una_ref.policies.loading import load

HOW = Decoding(max_new=8, batch=4)
PROMPTS = ["Rain", "How many legs has a spider?", "What is the capital of France?", "Write a poem", "Rain"]


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return str(file)


@pytest.fixture(scope="module")
def other(tiny_folder, tmp_path_factory):
    """other(): another model, whose answers differ."""
    folder = tmp_path_factory.mktemp("other")
    model, tokenizer = load(str(tiny_folder))
    model.lm_head.weight.data = model.lm_head.weight.data.flip(1)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return lambda: subject(str(folder / "model"), output=str(folder / "results"))


def length(answers):
    """The reward is the length of an answer, and there is none for the shortest prompt."""
    return [None if answer.prompt == "Rain" else float(len(answer.response)) for answer in answers]


def longer(first, second):
    """The probability that the longer answer is better."""
    return 0.9 if len(first.response) > len(second.response) else 0.1


def name(function):
    return f"{__name__}:{function.__name__}"


def answers_in(results):
    return {item: v["responses"][0]["text"] for item, v in results.items("reward.answers").items()}


def test_mean_reward_win_rate_and_difference_are_those_of_the_stored_answers(tiny_subject, other, prompts, tmp_path):
    results = Results(tmp_path / "r")
    record = evaluate(tiny_subject, results, name(length), against=other, prompts=prompts, decoding=HOW)
    mine, theirs = answers_in(results), answers_in(Results(other().folder))
    assert {*mine} == {*theirs} and len(mine) == 4  # a repeated prompt is asked once
    items = results.items(record["task"])
    pairs = [(len(mine[i]), len(theirs[i])) for i in mine if items[i]["unscored"] == 0]
    assert len(pairs) == 3 and pairs != [(b, a) for a, b in pairs]
    scores = {score["metric"]: score for score in record["scores"]}
    assert scores["reward"]["value"] == pytest.approx(sum(a for a, _ in pairs) / 3)
    assert scores["baseline_reward"]["value"] == pytest.approx(sum(b for _, b in pairs) / 3)
    assert scores["difference"]["value"] == pytest.approx(sum(a - b for a, b in pairs) / 3)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
    assert scores["win_rate"]["value"] == pytest.approx(sum(wins) / 3)
    assert scores["reward"]["stderr"] > 0 and record["scores"][0]["metric"] == "reward"
    assert record["answers_without_score"] == 1 and record["answers"] == 4


def test_model_against_itself_wins_half(tiny_subject, prompts, tmp_path):
    record = evaluate(
        tiny_subject, Results(tmp_path / "r"), name(length), against=lambda: tiny_subject, prompts=prompts, decoding=HOW
    )
    scores = {score["metric"]: score["value"] for score in record["scores"]}
    assert scores["win_rate"] == 0.5 and scores["difference"] == 0


def test_reward_alone_needs_no_second_model(tiny_subject, prompts, tmp_path):
    record = evaluate(tiny_subject, Results(tmp_path / "r"), name(length), prompts=prompts, decoding=HOW)
    assert [score["metric"] for score in record["scores"]] == ["reward"] and record["against"] is None


def test_source_that_compares_gives_a_win_rate_and_needs_a_second_model(tiny_subject, other, prompts, tmp_path):
    reward = f"preference:{name(longer)}"
    results = Results(tmp_path / "r")
    with pytest.raises(InputError, match="expected a second model to compare with, got none. Fix: --against MODEL"):
        evaluate(tiny_subject, results, reward, prompts=prompts, decoding=HOW)
    assert not results.folder.exists()
    record = evaluate(tiny_subject, results, reward, against=other, prompts=prompts, decoding=HOW)
    mine, theirs = answers_in(results), answers_in(Results(other().folder))
    wins = [0.5 if mine[i] == theirs[i] else 0.9 if len(mine[i]) > len(theirs[i]) else 0.1 for i in mine]
    (score,) = record["scores"]
    assert score["metric"] == "win_rate" and score["value"] == pytest.approx(sum(wins) / 4)


def test_judge_as_the_reward_is_asked_again_for_what_it_left_out(
    tiny_subject, other, prompts, tmp_path, judge_server, no_retries
):
    results = Results(tmp_path / "r")
    with judge_server(lambda m, n: "Hm." if "poem" in m[-1]["content"] else "[[A]]") as (url, _):
        reward = f"judge:m@{url}"
        with pytest.raises(ConnectionError, match="expected an answer about 4 prompts, got none about 1"):
            evaluate(tiny_subject, results, reward, against=other, prompts=prompts, decoding=HOW)
    assert results.record(f"reward:{reward}") is None and len(results.items(f"reward:{reward}")) == 3
    with pytest.raises(InputError, match=f"judge m at {url}: expected a chat completion, got Connection error"):
        evaluate(tiny_subject, results, reward, against=other, prompts=prompts, decoding=HOW)


def test_finished_rewards_are_not_computed_again(tiny_subject, prompts, tmp_path, monkeypatch):
    results = Results(tmp_path / "r")
    first = evaluate(tiny_subject, results, name(length), prompts=prompts, limit=2, decoding=HOW)
    asked = []
    score_answers = held_out_reward.score_answers

    def recorded(source, answers, name):
        asked.extend(answers)
        return score_answers(source, answers, name)

    monkeypatch.setattr(held_out_reward, "score_answers", recorded)
    second = evaluate(tiny_subject, results, name(length), prompts=prompts, decoding=HOW)
    assert len(asked) == 2
    assert first["scores"][0]["items"] == 2 and second["scores"][0]["items"] == 4


def test_prompts_are_those_that_a_run_held_out(tmp_path, tiny_folder):
    data, output = tmp_path / "pairs.jsonl", tmp_path / "run"
    rows = [{"prompt": f"Rain {i}", "chosen": "yes yes", "rejected": "no"} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--data", str(data), "--model", str(tiny_folder), "--output", str(output), "--steps", "1"]
    assert cli.main(["train", "dpo", *options, "batch=2", "held_out=0.25", "seed=4"]) == 0
    found = [row.prompt for row in prompts_of(str(output))]
    record = json.loads((output / "run.json").read_text())
    assert len(found) == record["rows"]["held_out"] == 5
    assert {*found} < {f"Rain {i}" for i in range(20)} and not any(row.responses for row in prompts_of(str(output)))


def test_toysteers_own_reward_scores_its_base(tmp_path):
    file = tmp_path / "prompts.jsonl"
    from una_ref.data.toysteer import ToySteer

    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ToySteer().prompts))
    base = subject("toysteer", output=str(tmp_path / "r"))
    how = Decoding(max_new=6, temperature=1.0, samples=4)
    record = evaluate(base, Results(base.folder), "toysteer", prompts=str(file), decoding=how)
    assert record["answers"] == 4 * len(ToySteer().prompts) and record["scores"][0]["stderr"] > 0


def test_no_prompts_are_refused(tiny_subject, tmp_path):
    with pytest.raises(InputError, match="expected prompts for .*, which is not a run. Fix: --prompts FILE"):
        evaluate(tiny_subject, Results(tmp_path), name(length), decoding=HOW)
    with pytest.raises(InputError, match="none.jsonl"):
        evaluate(tiny_subject, Results(tmp_path), name(length), prompts="none.jsonl", decoding=HOW)


def test_source_without_any_score_is_refused(tiny_subject, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "Rain"}) + "\n")
    with pytest.raises(InputError, match="expected scores, got none for any answer"):
        evaluate(tiny_subject, Results(tmp_path / "r"), name(length), prompts=str(file), decoding=HOW)
