"""Log-probs of the reference on disk: what has changed in anything is not found, and what is damaged is not used."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.data.encoder import Encoder
from una_ref.errors import InputError
from una_ref.policies.loading import byte_pair_tokenizer, with_lora
from una_ref.policies.reference_cache import ReferenceCache, fingerprint, row

ROOT = Path(__file__).resolve().parents[2]
GIVEN = [Example((3, 4, 5), ((6, 7, 2), (8, 2))), Example((9,), ((6, 2),))]


@pytest.fixture
def encoder():
    """An encoder over a BPE tokenizer of its own."""
    return Encoder(byte_pair_tokenizer(["red green blue"], 300))


def nothing():
    pytest.fail("computed, though it is known")


# ---- names


def weight(model, encoder):
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] += 1e-6


def sign_of_a_zero(model, encoder):
    model.lm_head.weight.data[0, 0] = -model.lm_head.weight.data[0, 0]


def dtype(model, encoder):
    model.bfloat16()


def frequency(model, encoder):
    model.model.rotary_emb.inv_freq[1] *= 1.01


def setting(model, encoder):
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 12345.0}


def suppressed(model, encoder):
    model.generation_config.suppress_tokens = [7]


def template(model, encoder):
    encoder.tokenizer.chat_template = "{{ messages[0]['content'] }} "


def tokenizer(model, encoder):
    encoder.tokenizer.add_tokens(["redgreen"])


@pytest.mark.parametrize("change", [weight, sign_of_a_zero, dtype, frequency, setting, suppressed, template, tokenizer])
def test_another_model_text_or_arithmetic_has_another_name(change, tiny, encoder):
    model = tiny(tie_word_embeddings=False)
    model.lm_head.weight.data[0, 0] = 0.0
    encoder.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    before = fingerprint(model, encoder)
    assert before == fingerprint(model, encoder) and len(before) == 64
    change(model, encoder)
    assert fingerprint(model, encoder) != before


def test_autocast_has_a_name_of_its_own(tiny, encoder):
    assert fingerprint(tiny(), encoder, arithmetic="bfloat16") != fingerprint(tiny(), encoder)


@pytest.mark.parametrize("name", ["una_ref.__version__", "torch.__version__", "transformers.__version__"])
def test_so_has_each_version(name, tiny, monkeypatch):
    before = fingerprint(tiny())
    monkeypatch.setattr(name, "0.0.1")
    assert fingerprint(tiny()) != before


def test_adapters_are_no_part_of_the_reference_that_they_are_taken_off_for(tiny, lora):
    plain = fingerprint(tiny(tie_word_embeddings=False))
    assert fingerprint(with_lora(tiny(tie_word_embeddings=False), r=4)) == plain
    trained = lora(tiny(tie_word_embeddings=False), modules_to_save=["lm_head"])
    trained.base_model.model.lm_head.modules_to_save["default"].weight.data += 1
    assert fingerprint(trained) == plain
    merged = lora(tiny(tie_word_embeddings=False)).merge_and_unload()  # what an adapter's folder is loaded as
    assert fingerprint(merged) != plain


def test_an_initialisation_that_changes_the_base_is_another_base(tiny):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="pissa", task_type="CAUSAL_LM")
    base = tiny(tie_word_embeddings=False)
    plain = fingerprint(base)
    assert fingerprint(get_peft_model(base, config)) != plain


def test_every_token_and_where_the_prompt_ends_is_in_a_row_s_name():
    names = {row((3, 4), (5, 2)), row((3,), (4, 5, 2)), row((3, 4), (5,)), row((3, 4), (6, 2)), row((3, 5), (5, 2))}
    assert len(names) == 5 and all(len(name) == 32 for name in names)


# ---- values


def test_which_tokens_are_scored_is_in_a_row_s_name():
    names = {row((1,), (2, 3), mask) for mask in ((), (True, True), (False, True))} | {row((1,), (2, 3, 0, 1))}
    assert len(names) == 4


def test_what_was_computed_once_is_found_by_whoever_asks_with_the_same_name(tmp_path):
    values = torch.tensor([-1.5, -0.1, -7.25], dtype=torch.float32)
    first = ReferenceCache(tmp_path, "key")
    assert torch.equal(first(GIVEN, lambda: values), values.double())
    again = ReferenceCache(tmp_path, "key")
    assert torch.equal(again(GIVEN, nothing), values.double())
    assert torch.equal(again(GIVEN[::-1], nothing), values.double()[[2, 0, 1]])
    assert (first.found, first.computed, again.found, again.computed) == (0, 3, 6, 0)
    assert again.note().startswith("reference log-probs: 0 computed, 6 read from the cache (key.sqlite3")
    counts = [(one.found, one.computed) for one in (first, again)]  # as of two processes
    assert "3 computed, 6 read" in again.note(counts)
    for other in (ReferenceCache(tmp_path, "other"), ReferenceCache()):
        assert torch.equal(other(GIVEN, lambda: values + 1), (values + 1).double())
    changed = [Example((3, 4, 5), ((6, 7, 2), (8, 8, 2))), GIVEN[1]]
    assert torch.equal(again(changed, lambda: values - 1), torch.stack([values[0], values[1] - 1, values[2]]).double())


def test_what_is_no_number_is_not_kept(tmp_path):
    cache = ReferenceCache(tmp_path, "key")
    for value in (torch.nan, torch.inf):
        assert not cache(GIVEN, lambda value=value: torch.full((3,), value)).isfinite().any()
    assert torch.equal(ReferenceCache(tmp_path, "key")(GIVEN, lambda: torch.zeros(3)), torch.zeros(3).double())


@pytest.mark.parametrize("damage", ["cut", "header", "page", "value", "text", "other"])
def test_a_damaged_file_is_deleted_and_reported(damage, tmp_path):
    values = torch.tensor([-1.5, -0.1, -7.25])
    ReferenceCache(tmp_path, "key")(GIVEN, lambda: values)
    path = tmp_path / "key.sqlite3"
    whole = path.read_bytes()
    if damage == "value":  # what the file's own format would not notice
        with sqlite3.connect(path) as file:
            file.execute("UPDATE logps SET logps = zeroblob(8) WHERE row = ?", (row((9,), (6, 2)),))
    elif damage == "other":
        path.unlink()
        with sqlite3.connect(path) as file:
            file.execute("CREATE TABLE logps (row BLOB PRIMARY KEY, logps TEXT, crc INTEGER)")
            file.execute("INSERT INTO logps VALUES (?, 'x', 0)", (row((9,), (6, 2)),))
    else:
        broken = {"cut": whole[: len(whole) // 2], "header": b"x" * 16 + whole[16:], "text": b"not a database" * 99}
        path.write_bytes(broken.get(damage, whole[:4096] + b"\xff" * (len(whole) - 4096)))
    again = ReferenceCache(tmp_path, "key")
    assert torch.equal(again(GIVEN, lambda: values + 1), (values + 1).double())
    assert again.damaged and "a damaged file was deleted" in again.note()
    assert torch.equal(ReferenceCache(tmp_path, "key")(GIVEN, nothing), (values + 1).double())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="reference cache .*file: expected a folder to write to"):
        ReferenceCache(tmp_path / "file", "key")


WORKER = """
import sys, time
from pathlib import Path
import torch
from una_ref.data.batch import Example
from una_ref.policies.reference_cache import ReferenceCache

folder, own, other = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
cache, computed, seen = ReferenceCache(folder, "key"), 0, []

def compute():
    global computed
    computed += 1
    time.sleep(0.01)  # long enough for the other to miss the same row
    return torch.tensor([own])

(folder / f"ready{own}").touch()
while not (folder / f"ready{other}").exists():
    time.sleep(0.001)
for i in range(100):
    seen += cache([Example((i,), ((2,),))], compute).tolist()
again = [v for i in range(100) for v in cache([Example((i,), ((2,),))], lambda: 1 / 0).tolist()]
print(again == seen, computed)
"""


def test_two_processes_at_once_agree_on_every_number(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path / "cache")]
    both = [
        subprocess.Popen([*command, *own], env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
        for own in (("1", "2"), ("2", "1"))
    ]
    said = [process.communicate()[0].split() for process in both]
    assert [agreed for agreed, _ in said] == ["True", "True"]
    assert sum(int(computed) for _, computed in said) > 100, "they never met at a row: nothing was tried"
    with sqlite3.connect(tmp_path / "cache" / "key.sqlite3") as file:
        assert file.execute("SELECT count(*) FROM logps").fetchone() == (100,)
