"""Whether a run would be refused is what the run itself says, without its weights."""

import json

import pytest

from una_ref.errors import InputError
from una_ref.policies.anatomy import end_ids
from una_ref.training.prepare import prepare
from una_ref.training.reading import read_rows
from una_ref.training.refusals import refusal, run_encoder, stand_in
from una_ref.training.settings import resolve

SCORES = [{"prompt": f"p{n}", "completion": "four", "score": 0.5} for n in range(6)]


def config_of(tmp_path, method, rows, *settings, **given):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return resolve(method, ["held_out=0", "batch=2", *settings], data=str(path), **given)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("una-score", [], ""),
        ("dpo", [], "at least one usable row"),
        ("una-centred", ["baseline=default"], "two or more responses of a prompt"),
    ],
)
def test_the_reason_is_the_runs_own(method, settings, expected, tmp_path):
    config = config_of(tmp_path, method, SCORES, *settings)
    rows = read_rows(config)
    reason = refusal(config, rows, *stand_in(config))
    assert expected in reason and bool(reason) == bool(expected)
    if expected:
        with pytest.raises(InputError) as error:
            prepare(config, rows=rows)
        assert str(error.value) == reason


def test_without_a_model_no_text_is_too_long(tmp_path):
    rows = [row | {"prompt": "p" * 5000} for row in SCORES]
    config = config_of(tmp_path, "una-score", rows)
    assert not refusal(config, read_rows(config), *stand_in(config))


def test_a_model_gives_its_tokenizer_limit_and_ends(tmp_path):
    from una_ref.policies.loading import load
    from una_ref.training.toysteer_base import toysteer_base

    folder = str(toysteer_base())
    config = config_of(tmp_path, "una-score", SCORES, model=folder)
    model, tokenizer = stand_in(config)
    own, its = load(folder)
    assert end_ids(model, tokenizer) == end_ids(own, its)
    limit = own.config.max_position_embeddings
    assert run_encoder(config, model, tokenizer).max_length == min(limit, config.max_length)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in own.parameters())


def test_an_unknown_model_is_refused(tmp_path):
    config = config_of(tmp_path, "una-score", SCORES, model=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="expected a folder or hub name with config and tokenizer"):
        stand_in(config)


def test_prompts_of_an_online_run_need_room_for_a_response(tmp_path):
    rows = [{"prompt": "p" * 40}]
    config = config_of(tmp_path, "rloo", rows, "reward=toysteer")
    assert not refusal(config, read_rows(config), *stand_in(config))
