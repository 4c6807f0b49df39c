"""From a config to a job: held-out rows, refusals before the first step, reads of the data, the start of V(x)."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from una_ref.data.examples import Examples
from una_ref.data.rows import Row
from una_ref.data.storage import DiskList
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.loop import fit
from una_ref.training.prepare import prepare, value_start
from una_ref.training.settings import resolve


@pytest.mark.parametrize(
    ("prompts", "share", "held"), [(30, 0.1, 3), (12, 0.1, 0), (1, 0.5, 0), (4, 0.5, 2), (12, 0.0, 0)]
)
def test_prompts_are_held_out_if_there_are_at_least_two(prompts, share, held, data, tiny):
    job = prepare(resolve("dpo", [*tiny, f"held_out={share}"], data=data("pairs", prompts)))
    assert (len(job.held_out), len(job.examples)) == (held, prompts - held)
    assert not {e.prompt for e in job.held_out} & {e.prompt for e in job.examples}
    said = [note for note in job.notes if note.startswith("nothing held out")]
    assert bool(said) == (share > 0 and not held)


def test_epochs_become_steps(data, tiny):
    job = prepare(resolve("dpo", [*tiny, "epochs=3", "batch=5", "held_out=0"], data=data("pairs", 12)))
    assert job.config.steps == round(3 * 12 / 5)


@pytest.fixture
def chat_model(tmp_path):
    """A folder with a tiny model whose turns end with another token than its tokenizer's EOS, as Gemma's do."""
    from tokenizers import AddedToken

    from una_ref.policies.loading import byte_pair_tokenizer, small_mistral

    tokenizer = byte_pair_tokenizer(["some text to learn from"] * 20, 300)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = CHATML
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = small_mistral(tokenizer, num_key_value_heads=1, **size)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model"), end


RUN = ["lora_r=2", "batch=2", "held_out=0", "steps=1"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_every_end_of_the_generation_config_ends_stored_and_sampled_responses(data, chat_model):
    model, end = chat_model
    job = prepare(resolve("dpo", RUN, data=data("pairs"), model=model))
    assert {ids[-1] for example in job.examples for ids in example.responses} == {end}
    stored = [ids for example in job.examples for ids in example.responses]
    assert all(ids.count(end) == 1 and job.tokenizer.eos_token_id not in ids for ids in stored)
    job = prepare(resolve("rloo", [*RUN, "max_response=2"], data=data("pairs"), model=model), reward=len_of)
    assert job.rollouts.engine.ends == (job.tokenizer.eos_token_id, end)


def len_of(answers):
    return [float(len(answer.response)) for answer in answers]


def test_a_run_in_whose_first_samples_none_ends_says_so(data, chat_model):
    model, _ = chat_model
    job = prepare(resolve("rloo", [*RUN, "max_response=1", "seed=1"], data=data("pairs"), model=model), reward=len_of)
    ended = [note for note in job.notes if note.startswith("no sampled response ended: all were cut at 1 tokens")]
    assert len(ended) == 1 and "'</s>', '<|im_end|>'" in ended[0]


def test_a_template_is_read_from_a_file_and_none_takes_formatted_texts(tmp_path, chat_model):
    model, end = chat_model
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}({{ m.role }}) {{ m.content }}{% endfor %}")
    rows = [Row("hi", ("a", "b"), pairs=((0, 1),))]
    job = prepare(resolve("dpo", [*RUN, f"template={tmp_path / 'chat.jinja'}"], model=model, data="x"), rows=rows)
    assert job.tokenizer.decode(job.examples[0].prompt) == "(user) hi"
    formatted = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    rows = [Row(formatted, ("a<|im_end|>", "b"), pairs=((0, 1),), source="f:1")]
    with pytest.raises(InputError, match="f:1 prompt: .*template=none"):
        prepare(resolve("dpo", RUN, model=model, data="x"), rows=rows)
    job = prepare(resolve("dpo", [*RUN, "template=none"], model=model, data="x"), rows=rows)
    assert job.tokenizer.decode(job.examples[0].prompt) == "<s>" + formatted
    assert job.examples[0].prompt.count(end) == 1 and job.tokenizer.chat_template is None
    with pytest.raises(InputError, match="template: expected a file, Jinja text or none, got 'no.jinja'"):
        prepare(resolve("dpo", [*RUN, "template=no.jinja"], model=model, data="x"), rows=rows)


def test_columns_used_and_rows_left_out_are_in_the_notes(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    good = {"ask": "p", "chosen": "a", "rejected": "b", "id": 1}
    rows = [good, {**good, "chosen": " "}, {**good, "rejected": 3}, {**good, "ask": "q"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = prepare(resolve("dpo", [*tiny, "columns.prompt=ask", "bad_rows=drop"], data=str(path)))
    assert job.notes[0] == "data (pair): columns used: ask, chosen, rejected; not used: id"
    assert "data: left out 1 rows with an empty response" in job.notes
    (bad,) = (note for note in job.notes if note.startswith("data: left out 1 bad rows (the first: "))
    assert ":3 rejected" in bad
    assert len(job.examples) == 2


def test_a_split_or_subset_of_files_is_said_to_be_unused(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "chosen": "a", "rejected": "b"}) + "\n" for p in "pq"))
    said = prepare(resolve("dpo", [*tiny, "split=test", "subset=x"], data=str(path))).notes
    assert {f"{key}: not used for files, which have none" for key in ("split=test", "subset=x")} <= {*said}
    assert not any("not used for files" in note for note in prepare(resolve("dpo", tiny, data=str(path))).notes)


def test_prompts_with_one_response_are_dropped_and_counted(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    scores = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)]
    path.write_text("".join(json.dumps({"prompt": p, "completion": f"r{s}", "score": s}) + "\n" for p, s in scores))
    for more, kept in (([], 2), (["rows=3"], 1)):
        job = prepare(resolve("dpo", [*tiny, "held_out=0", *more], data=str(path)))
        assert len(job.examples) == kept and any("1 prompts with one response dropped" in note for note in job.notes)


def test_a_small_file_has_a_vocabulary_as_large_as_it_allows(data, tiny):
    job = prepare(resolve("sft", [*tiny, "vocabulary=5000"], data=data("messages")))
    assert 260 < len(job.tokenizer) < 400
    assert job.trainer.policy.model.get_input_embeddings().weight.shape[0] == len(job.tokenizer)


def test_rows_are_cut_to_the_positions_that_the_model_has(data, tiny):
    job = prepare(resolve("dpo", [*tiny, "shape.max_position_embeddings=8"], data=data("pairs")))
    assert job.encoder.max_length == 8
    assert "max_length: 8, the model's positions, in place of 2048" in job.notes
    assert any(note.startswith("responses cut (they end without EOS): ") for note in job.notes)


@pytest.mark.parametrize(
    ("method", "settings", "rows", "message"),
    [
        ("una-centred", [], [Row("p", ("a",), scores=(1.0,), source="f:1")], "f:1 scores: expected two or more"),
        ("kto", ["batch=1"], [Row(p, ("a",), labels=(1.0,)) for p in "pq"], "at least two different prompts"),
        ("kto", [], [Row("p", ("a", "b"), labels=(1.0, 0.0))], "at least two different prompts"),
        ("dpo", ["baseline=learned"], [Row("p", ("a", "b"), pairs=((0, 1),))], "take no baseline"),
        ("dpo", ["held_out=0.99"], [Row(p, ("a", "b"), pairs=((0, 1),)) for p in "pqr"], "fraction"),
        ("una-score", ["form=printed", "lora_targets=nothing"], [Row("p", ("a",), scores=(1.0,))], "nothing"),
        ("dpo", ["shape.num_attention_heads=3"], [Row("p", ("a", "b"), pairs=((0, 1),))], "shape"),
        ("dpo", [], [], "expected at least one row"),
    ],
)
def test_what_would_fail_later_is_refused_before_the_first_step(method, settings, rows, message, tiny):
    with pytest.raises(InputError) as refused:
        prepare(resolve(method, [*tiny, *settings], data="rows"), rows=rows)
    assert message in str(refused.value)


def test_single_scores_train_with_a_learned_value(tiny):
    rows = [Row(p, ("a",), scores=(1.0,)) for p in "pq"]
    job = prepare(resolve("una-centred", [*tiny, "baseline=learned", "held_out=0"], data="rows"), rows=rows)
    assert job.trainer.values.tolist() == [1.0, 1.0]


def test_shuffled_feedback_is_noted(data, tiny):
    straight, shuffled = (
        prepare(resolve("una-score", [*tiny, f"shuffle={on}", "held_out=0"], data=data("scores")))
        for on in (False, True)
    )
    scores = [[score for e in job.examples for score in e.scores] for job in (straight, shuffled)]
    assert scores[0] != scores[1] and sorted(scores[0]) == sorted(scores[1])
    assert any("shuffled control" in note for note in shuffled.notes)
    assert not any("shuffled control" in note for note in straight.notes)


# ---- one pass over the data


@pytest.mark.parametrize(
    ("method", "kind", "settings"),
    [
        ("dpo", "pairs", []),
        ("kto", "labels", []),
        ("una-centred", "scores", []),
        ("dpo", "scores", ["ties=keep-first"]),
        ("rloo", "scores", ["reward=toysteer", "max_response=4", "samples=2"]),
    ],
)
def test_before_the_first_step_each_row_is_read_at_most_three_times_and_examples_once_a_batch(
    method, kind, settings, data, tiny, monkeypatch, tmp_path
):
    reads, true = [], DiskList.__getitem__

    def read(self, index):
        if not isinstance(index, slice):
            reads.append(type(self))
        return true(self, index)

    monkeypatch.setattr(DiskList, "__getitem__", read)
    path = data(kind, 40)
    with open(path) as file:
        rows = sum(1 for _ in file)
    config = resolve(
        method, [*tiny, "shape={}", "held_out=0.2", "steps=1", *settings], data=path, model=_model(tmp_path)
    )
    job = prepare(config, reward=lambda answers: [float(len(answer.response)) for answer in answers])
    assert len(job.examples) == 32 and len(job.held_out) == 8
    assert reads.count(DiskList) <= 3 * rows and reads.count(Examples) <= config.batch
    before = len(reads)
    assert job.examples.digest and len(reads) == before


def _model(folder):
    from una_ref.policies.loading import byte_pair_tokenizer, small_mistral

    tokenizer = byte_pair_tokenizer(["red green blue cat dog bird runs sleeps eats now"], 300)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small_mistral(tokenizer, seed=0, num_key_value_heads=1, **sizes).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


# ---- lists, and scores beside pairs


def registered(monkeypatch, **changes):
    record = replace(METHODS["una-score"], **{"name": "new", "printed": None, "released": None} | changes)
    monkeypatch.setattr(METHODS, "_methods", {**METHODS._methods, "new": record})


def test_scores_are_trained_on_as_lists(tiny, data, monkeypatch):
    def ranked(*, logps: torch.Tensor, ref_logps: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor):
        assert scores.shape == mask.shape == logps.shape and (scores.diff() <= 0).all()
        return ((logps - ref_logps - scores) ** 2 * mask).sum(1)

    registered(monkeypatch, losses={"lists": ranked})
    job = prepare(resolve("new", [*tiny, "held_out=0.2"], data=data("scores")))
    assert job.examples.kinds == {"lists"}
    assert any(note.startswith("scores -> lists (best first): 12 lists") for note in job.notes)
    assert math.isfinite(job.step(0, record=True)["loss"])


def test_a_loss_of_margins_gets_the_scores_beside_the_pairs(tiny, monkeypatch):
    seen = []

    def with_margin(*, chosen_logps: torch.Tensor, rejected_logps: torch.Tensor, margins: torch.Tensor):
        seen.append(sorted(margins.tolist()))
        return (margins - chosen_logps + rejected_logps) ** 2

    registered(monkeypatch, losses={"pairs": with_margin})
    rows = [Row(f"p{i}", ("a", "b"), scores=(i, -1), pairs=((0, 1),), source=f"f:{i}") for i in range(4)]
    job = prepare(resolve("new", [*tiny, "held_out=0"], data="rows"), rows=rows)
    job.step(0, record=True)
    assert [1.0, 2.0, 3.0, 4.0] in seen
    with pytest.raises(InputError, match="scores: expected scores beside pairs, for the margins"):
        prepare(resolve("new", [*tiny, "held_out=0"], data="rows"), rows=[*rows, Row("p", ("a", "b"), pairs=((0, 1),))])


# ---- V(x)


def labelled(share, number=20):
    return [Row(f"p{i}", ("a",), labels=(float(i < share * number),)) for i in range(number)]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9, 1.0])
def test_v_starts_at_the_best_constant_reward_of_dro_on_labels(share, tiny):
    job = prepare(resolve("dro", [*tiny, "held_out=0"], data="rows"), rows=labelled(share))
    assert job.trainer.values.tolist() == pytest.approx([2 * share - 1] * 20)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9])
def test_v_starts_at_the_log_odds_of_labels_that_are_read_as_probabilities(share, tiny):
    job = prepare(resolve("una-centred", [*tiny, "held_out=0"], data="rows"), rows=labelled(share))
    assert job.trainer.values.tolist() == pytest.approx([math.log(share / (1 - share))] * 20, abs=1e-6)


def test_labels_of_one_value_start_v_at_a_finite_log_odds(tiny):
    job = prepare(resolve("una-centred", [*tiny, "held_out=0"], data="rows"), rows=labelled(1.0))
    assert job.trainer.values.tolist() == pytest.approx([math.log(0.999 / 0.001)] * 20, rel=1e-4)


@pytest.mark.parametrize("method", ["dro", "una-centred"])
def test_v_starts_at_the_mean_score(method, tiny):
    rows = [Row(p, ("a",), scores=(score,)) for p, score in zip("pqr", (1.0, 2.0, 6.0), strict=True)]
    job = prepare(resolve(method, [*tiny, "baseline=learned", "held_out=0"], data="rows"), rows=rows)
    assert job.trainer.values.tolist() == [3.0] * 3


@pytest.mark.parametrize("method", ["dro", "una-centred", "una-binary-mse", "una-binary-bce"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_no_other_constant_fits_the_labels_better(method, share):
    from una_ref.data.batch import Example

    values = [float(i < 10 * share) for i in range(10)]
    examples = Examples(Example((1, i), ((2,),), labels=(v,), prompt_index=i) for i, v in enumerate(values))
    losses = METHODS[method].losses
    zero = torch.zeros(10)

    def mean_loss(start):
        given = {"logps": zero, "ref_logps": zero, "labels": torch.tensor(values)}
        return float(losses["labels"](**given, baseline=start).mean())

    start = value_start(losses, examples)
    assert mean_loss(start) < min(mean_loss(start - 0.05), mean_loss(start + 0.05))


def test_dro_on_mostly_positive_labels_raises_the_positive_responses(tiny):
    draw = torch.Generator().manual_seed(0)
    up = (torch.rand(200, generator=draw) < 0.9).tolist()
    rows = [Row(f"dog {i}", (" red cat" if y else " blue bird",), labels=(float(y),)) for i, y in enumerate(up)]
    job = prepare(resolve("dro", [*tiny, "batch=8", "epochs=1", "held_out=0", "lr=1e-3"], data="rows"), rows=rows)
    fit(job)
    rewards = job.trainer.evaluate(job.examples)
    assert rewards["rewards/chosen"] > 0 > rewards["rewards/rejected"]


# ---- the model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("rank", [0, 4])
def test_what_is_trained_is_float32_at_least(dtype, rank, data, tiny):
    job = prepare(resolve("dpo", [*tiny, f"dtype={dtype}", f"lora_r={rank}"], data=data("pairs")))
    trained = {p.dtype for p in job.trainer.trained.values()}
    frozen = {p.dtype for p in job.trainer.policy.parameters() if not p.requires_grad}
    assert trained == {torch.float64 if dtype == "float64" else torch.float32}
    assert frozen == ({getattr(torch, dtype)} if rank else set())
    before = job.trainer.step(0, job.examples[:4])["loss"]
    assert job.trainer.step(1, job.examples[:4])["loss"] != before


@pytest.mark.parametrize("rank", [4, 0])
def test_gradient_checkpointing_changes_nothing_but_memory(rank, data, tiny):
    gradients = []
    for on in (False, True):
        settings = [*tiny, "shape.num_hidden_layers=2", f"lora_r={rank}", f"gradient_checkpointing={on}"]
        job = prepare(resolve("dpo", settings, data=data("pairs")))
        assert any(getattr(m, "gradient_checkpointing", False) for m in job.trainer.policy.modules()) == on
        job.trainer.accumulate(job.examples[:4])
        gradients.append({name: p.grad for name, p in job.trainer.trained.items()})
    assert max(float(g.abs().max()) for g in gradients[0].values()) > 1e-4
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-8)


# ---- pairs by score, and several kinds of feedback


@pytest.mark.parametrize(("which", "pairs"), [("best-worst", 1), ("adjacent", 2), ("all", 3)])
def test_scores_become_the_pairs_that_are_asked_for(which, pairs, data, tiny):
    job = prepare(resolve("dpo", [*tiny, f"pairs={which}", "held_out=0"], data=data("scores")))  # 3 of each prompt
    assert {len(e.pairs) for e in job.examples} == {pairs}
    assert any(note.startswith(f"scores -> pairs ({which}): {12 * pairs} pairs") for note in job.notes)


def test_feedback_of_any_kinds_is_trained_on_together(data, tiny):
    files = ",".join(data(kind) for kind in ("pairs", "labels", "scores", "messages"))
    losses = "losses=dpo:1,kto:0.5,una-score:0.5,sft:0.1"
    job = prepare(resolve("dpo", [*tiny, losses, "beta=0.1", "steps=3", "batch=16", "held_out=0"], data=files))
    assert job.examples.kinds == {"pairs", "labels", "scores", "demos"} == job.trainer.losses.keys()
    assert not [note for note in job.notes if "->" in note or "left aside" in note]
    before = [p.detach().clone() for p in job.trainer.trained.values()]
    fit(job)
    assert any((p - b).abs().max() > 1e-5 for p, b in zip(job.trainer.trained.values(), before, strict=True))


def test_a_summed_loss_without_feedback_for_it_is_refused(data, tiny):
    with pytest.raises(InputError, match=r"losses: kto: expected labels in the data, got pairs\. Fix: leave it out"):
        prepare(resolve("dpo", [*tiny, "losses=dpo:1,kto:0.5"], data=data("pairs")))
    with pytest.raises(InputError, match=r"losses: dpo: expected pairs in the data, got demos"):  # as it was written
        prepare(resolve("sft", [*tiny, "losses=dpo:1,sft:1"], data=data("messages")))


def test_a_sum_says_whose_rewards_the_metrics_report(data, tiny):
    told = "losses: metrics report the reward of ipo alone: log(π/π_ref)"
    summed = prepare(resolve("ipo", [*tiny, "losses=dpo:1,ipo:1", "beta=0.1"], data=data("pairs")))
    assert told in summed.notes
    assert not [n for n in prepare(resolve("ipo", tiny, data=data("pairs"))).notes if n.startswith("losses")]


def test_a_run_says_which_scale_its_method_expects(data, tiny):
    assert METHODS["lipo"].note in prepare(resolve("lipo", tiny, data=data("scores"))).notes
    assert "order of 1" in METHODS["lipo"].note
    assert "order of 1" in METHODS["lipo"].meaning("ranking")
    sppo = prepare(resolve("sppo", ["batch=2", "steps=1", "held_out=0"]))
    assert "(win rate − ½)²/β²" in METHODS["sppo"].note
    assert METHODS["sppo"].note in sppo.notes


def test_lists_of_equal_scores_are_counted(data, tiny):
    rows = [Row(f"p{i}", ("a", "b", "c"), scores=(1, 1, int(i > 4)), source=f"f:{i}") for i in range(8)]
    job = prepare(resolve("lipo", [*tiny, "held_out=0"], data="rows"), rows=rows)
    assert "lists of equal scores, which rank nothing: 3" in job.notes
    assert not [n for n in prepare(resolve("lipo", tiny, data=data("scores"))).notes if "equal scores" in n]


def test_start_of_v_is_found_for_a_sum_of_label_losses(data, tiny):
    losses = "losses=una-binary-bce:1,kto:0.5"
    job = prepare(resolve("una-binary-bce", [*tiny, losses, "beta=0.1", "baseline=learned"], data=data("labels")))
    assert job.trainer.values.abs().max() < 1e-6  # half of the labels are positive


# ---- data for evaluation


SEEN = []


def seen(answers):
    """A reward function that notes the columns of the rows it scores."""
    SEEN.extend((answer.prompt, answer.columns["solution"], answer.source.rpartition("/")[2]) for answer in answers)
    return [float(len(answer.response)) for answer in answers]


def test_sampled_answers_have_the_columns_of_their_prompts_row(tiny, tmp_path):
    # Two rows of one prompt with different solutions are two prompts; equal rows are one.
    path = tmp_path / "prompts.jsonl"
    rows = [{"question": "red", "solution": s} for s in ("a", "b", "b")] + [{"question": "blue", "solution": "c"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    SEEN.clear()
    words = [*tiny, "samples=2", "held_out=0", f"reward={__name__}:seen", "max_response=2"]
    job = prepare(resolve("rloo", words, data=str(path), steps=1))
    expected = [("red", "a", "prompts.jsonl:1"), ("red", "b", "prompts.jsonl:3"), ("blue", "c", "prompts.jsonl:4")]
    assert [one for one in expected for _ in range(2)] == SEEN
    assert "data (prompt): columns used: question; given to the reward function: solution" in job.notes


def test_evaluation_data_replace_the_held_out_prompts(data, tiny, tmp_path):
    path, other = data("pairs"), tmp_path / "other.jsonl"
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()[:3]]
    fresh = [line | {"prompt": f"{line['prompt']} too"} for line in lines]
    other.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:1], *fresh]))
    job = prepare(resolve("dpo", [*tiny, f"eval_data={other}"], data=path))
    assert (len(job.examples), len(job.held_out)) == (12, 4)
    assert job.notes[:2] == [
        "data (pair): columns used: prompt, chosen, rejected; not used: none",
        "rows: 12 to train on, 4 held out for evaluation",
    ]
    assert "eval_data: rows whose prompt is trained on as well: 1" in job.notes
    assert fit(job)["loss"] == pytest.approx(job.trainer.evaluate(job.held_out)["loss"])


def test_the_first_lines_count_the_held_out_rows(data, tiny):
    job = prepare(resolve("dpo", [*tiny, "held_out=0.25"], data=data("pairs")))
    assert job.notes[1] == "rows: 9 to train on, 3 held out for evaluation"


def test_evaluation_data_of_another_kind_are_refused(data, tiny):
    with pytest.raises(InputError, match=r"eval_data: expected scores, as in data, got labels. Fix: set learn_from"):
        prepare(resolve("una-centred", [*tiny, f"eval_data={data('labels')}"], data=data("scores")))
    with pytest.raises(InputError, match=r"^eval_data: .*feedback: expected scores for una-score, got a row of labels"):
        prepare(resolve("una-score", [*tiny, f"eval_data={data('labels')}"], data=data("scores")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["eval_data=a.jsonl", "held_out=0.2"], "held_out: expected its default beside eval_data, got 0.2"),
        (["eval_data=toysteer"], "eval_data: expected files beside files"),
        (["warmup_steps=3", "warmup=0.2"], "warmup_steps: expected warmup=0.1 beside it, got 0.2"),
        (["warmup_steps=30", "steps=30"], "warmup_steps: expected fewer than steps=30, got 30"),
        (["warmup_steps=0.1"], "warmup_steps: expected a whole number"),
    ],
)
def test_two_answers_to_one_question_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        resolve("dpo", settings, data="p.jsonl")


def test_weights_that_are_all_0_are_refused(tmp_path, tiny):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": p, "chosen": "a", "rejected": "b", "weight": 0} for p in "pq"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="weight: expected a pair with a weight above 0, got 0 in all"):
        prepare(resolve("dpo", tiny, data=str(path)))
    path.write_text("".join(json.dumps(row | {"weight": i}) + "\n" for i, row in enumerate(rows)))
    notes = prepare(resolve("dpo", tiny, data=str(path))).notes
    assert any(note.startswith("weights: from 0 to 1, ") for note in notes)
