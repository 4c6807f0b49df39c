"""FSDP2: what two processes train in shards is what one trains whole; and what would not be right is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.training import sharding
from una_ref.training.config import Config

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "una_ref" / "training" / "launch"


def launched(file, processes=2):
    """What `accelerate launch` tells its processes with one of our files, by accelerate's own reading of it."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(LAUNCH / file), "--num_processes", str(processes), "-m", "una_ref", "train", "dpo"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    told = prepare_multi_gpu_env(arguments)
    assert (arguments.training_script, arguments.training_script_args) == ("una_ref", ["train", "dpo"])
    return {name: value for name, value in told.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


@pytest.mark.parametrize(
    ("file", "shards", "free"),
    [("ddp.yaml", False, None), ("fsdp2.yaml", True, "true"), ("fsdp2-zero2.yaml", True, "false")],
)
def test_accelerate_reads_each_launch_file_and_tells_the_loop_to_shard(file, shards, free, monkeypatch):
    told = launched(file)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert sharding.asked() == shards
    assert told.get("FSDP_RESHARD_AFTER_FORWARD") == free
    assert told["ACCELERATE_MIXED_PRECISION"] == "no"
    assert {f"{p.name}" for p in LAUNCH.iterdir()} == {"ddp.yaml", "fsdp2.yaml", "fsdp2-zero2.yaml"}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "expected DDP or FSDP2, got DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "got Megatron"),
        ({"ACCELERATE_USE_FSDP": "true"}, "expected fsdp_version: 2, got 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "got true"),
    ],
)
def test_a_launch_that_the_loop_would_not_follow_is_refused(told, message, monkeypatch):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        sharding.shard(None, Config(method="dpo"), _processes(2)())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Config(method="rloo"), "an online run"),
        (Config(method="dpo", reference="cache"), "reference=cache"),
        (Config(method="dpo", load_in_4bit=True, model="x/y"), "load_in_4bit"),
        (Config(method="reward-model"), "reward-model"),
    ],
)
def test_what_is_not_done_in_shards_is_refused(config, reason, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")

    class Policy:
        gives = "rewards" if config.method == "reward-model" else "logps"

    with pytest.raises(InputError, match=f"expected a run that can be sharded, got {reason}"):
        sharding.shard(Policy(), config, _processes(2)())
    assert not sharding.shard(Policy(), config, _processes(1)())  # alone there is nothing to share out


def _processes(count):
    class Team:
        num_processes = count

    return Team


# ---- two processes


@pytest.fixture
def both(tmp_path):
    """both(words, file): a run of two processes with that launch file, on CPUs and gloo; asserts that it shards."""

    def start(words, file="fsdp2.yaml", stop=None, code=0):
        script = tmp_path / "worker.py"
        script.write_text(
            "import os, signal, sys\n"
            "from una_ref.training import loop, sharding\n"
            "true = loop.Trainer.step\n"
            "def step(self, number, *arguments, **more):\n"
            "    shards = [p for p in self.trained.values() if sharding.is_shard(p)]\n"
            "    assert self.sharded and shards and all(p.to_local().numel() < p.numel() for p in shards)\n"
            f"    if number == {stop}:\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "    return true(self, number, *arguments, **more)\n"
            "loop.Trainer.step = step\n"
            "from una_ref.cli import main\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
        told = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | launched(file)
        done = subprocess.run(
            [*launch, *words], env=os.environ | told, capture_output=True, text=True, check=False, timeout=300
        )
        assert (done.returncode == 0) == (code == 0), done.stderr[-3000:]
        return done.stderr

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kind", "file", "settings"),
    [
        ("dpo", "pairs", "fsdp2.yaml", ["lora_r=4"]),
        ("kto", "thumbs", "fsdp2-zero2.yaml", ["lora_r=4", "gradient_checkpointing=true"]),
        ("dpo", "pairs", "fsdp2.yaml", ["lora_r=0", "weight_decay=0.1"]),
        ("una-centred", "scores", "fsdp2-zero2.yaml", ["lora_r=4", "baseline=learned"]),
        ("dpo", "pairs", "fsdp2.yaml", ["lora_r=4", "dtype=bfloat16"]),
    ],
)
def test_two_processes_in_shards_train_the_weights_of_one(method, kind, file, settings, both, data, tiny, tmp_path):
    path = data(kind)

    def words(output):
        own = [*tiny, "shape.num_hidden_layers=3", "steps=3", "held_out=0.3", "micro_tokens=60", "batch=5", *settings]
        return ["train", method, "--data", path, "--output", str(tmp_path / output), *own]

    assert main(words("one")) == 0
    both(words("two"), file)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}
    exact = "dtype=bfloat16" not in settings
    for name in ("adapter_model.safetensors", "model.safetensors", "base/model.safetensors"):
        if not (tmp_path / "one" / name).exists():
            continue
        one, two = (load_file(tmp_path / output / name) for output in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(value, two[key], rtol=1e-4, atol=1e-5 if exact else 1e-3)
    metrics = [(tmp_path / f / "metrics.jsonl").read_text().splitlines() for f in ("one", "two")]
    for alone, shared in zip(*metrics, strict=True):
        assert json.loads(shared) == pytest.approx(json.loads(alone), rel=1e-3 if exact else 0.05, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0])
def test_a_run_in_shards_goes_on_to_the_same_bytes(rank, both, data, tiny, tmp_path):
    path = data("pairs")

    def words(output):
        own = [*tiny, "shape.num_hidden_layers=2", "steps=5", "save_every=2", f"lora_r={rank}", "lora_dropout=0.2"]
        return ["train", "dpo", "--data", path, "--output", str(tmp_path / output), *own]

    both(words("straight"))
    assert "stopped after step 4 of 5" in both(words("broken"), stop=3, code=130)
    with safe_open(tmp_path / "broken" / "checkpoint.safetensors", "pt") as saved:
        assert saved.metadata()["step"] == "4"
    both(words("broken"))
    name = "adapter_model.safetensors" if rank else "model.safetensors"
    assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
