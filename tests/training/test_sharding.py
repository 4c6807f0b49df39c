"""FSDP2: two processes in shards train the weights that one process trains, and unsupported runs are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.training import sharding
from una_ref.training.config import Config

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "una_ref" / "training" / "launch"


def launched(file, processes=2):
    """The environment that `accelerate launch` gives its processes for a launch file, as accelerate computes it."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(LAUNCH / file), "--num_processes", str(processes), "-m", "una_ref", "train", "dpo"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    environment = prepare_multi_gpu_env(arguments)
    assert (arguments.training_script, arguments.training_script_args) == ("una_ref", ["train", "dpo"])
    return {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


@pytest.mark.parametrize(
    ("file", "sharded", "reshard"),
    [("ddp.yaml", False, None), ("fsdp2.yaml", True, "true")],
)
def test_launch_files_request_the_sharding_in_their_name(file, sharded, reshard, monkeypatch):
    environment = launched(file)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert sharding.requested() == sharded
    assert environment.get("FSDP_RESHARD_AFTER_FORWARD") == reshard
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert {f"{p.name}" for p in LAUNCH.iterdir()} == {"ddp.yaml", "fsdp2.yaml"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "expected DDP or FSDP2, got DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "got Megatron"),
        ({"ACCELERATE_USE_FSDP": "true"}, "expected fsdp_version: 2, got 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "got true"),
    ],
)
def test_unsupported_accelerate_launch_is_refused(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        sharding.shard(None, Config(method="dpo"), _processes(2)())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Config(method="rloo"), "an online run"),
        (Config(method="dpo", reference="cache"), "reference=cache"),
        (Config(method="dpo", load_in_4bit=True, model="x/y"), "load_in_4bit"),
        (Config(method="dpo", optimizer="adamw8bit"), "optimizer=adamw8bit"),
        (Config(method="reward-model"), "reward-model"),
        (Config(method="tr-dpo"), "a reference that moves"),
        (Config(method="dpo"), "fsdp_reshard_after_forward: false with adapters"),
    ],
)
def test_run_that_cannot_be_sharded_is_refused(config, reason, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", str(not reason.startswith("fsdp_reshard")).lower())

    class Policy:
        output = "rewards" if config.method == "reward-model" else "logps"

    with pytest.raises(InputError, match=f"expected a run that can be sharded, got {reason}"):
        sharding.shard(Policy(), config, _processes(2)())
    assert not sharding.shard(Policy(), config, _processes(1)())  # one process holds everything


def _processes(count):
    class Team:
        num_processes = count

    return Team


# ---- two processes

WORKER = """
import json, os, signal, sys
import torch
from una_ref.cli import main
from una_ref.training import sharding, trainer

runs = json.loads(open(sys.argv[1]).read())
name = next(n for n in ("all_gather_single", "all_gather_into_tensor") if hasattr(torch.distributed, n))  # new and old
real_step, gather = trainer.Trainer.step, getattr(torch.distributed, name)
gathered = 0

def counted(*arguments, **more):
    global gathered
    gathered += 1
    return gather(*arguments, **more)

def step(self, number, *arguments, **more):
    shards = [p for p in self.trained.values() if sharding.is_shard(p)]
    assert self.sharded and shards and all(p.to_local().numel() < p.numel() for p in shards)
    if number == stop:
        os.kill(os.getpid(), signal.SIGTERM)
    return real_step(self, number, *arguments, **more)

trainer.Trainer.step = step
setattr(torch.distributed, name, counted)
for words, stop in runs:
    gathered = 0
    code = main(words)
    if os.environ["RANK"] == "0":
        print("gathered", gathered)
    assert code == (0 if stop is None else 130), (code, words)
"""
CASES = {
    "lora": ("dpo", "pairs", []),
    "kto": ("kto", "labels", ["gradient_checkpointing=true"]),
    "full": ("dpo", "pairs", ["lora_r=0", "weight_decay=0.1"]),
    "values": ("una-centred", "scores", ["baseline=learned"]),
    "bfloat16": ("dpo", "pairs", ["dtype=bfloat16"]),
}
RESUMED = {"lora": ["lora_dropout=0.2"], "full": ["lora_r=0"]}
FILES = ("adapter_model.safetensors", "model.safetensors", "base/model.safetensors")


def launch_runs(runs, folder, environment):
    """Let two processes make the runs; WORKER checks each of them."""
    (folder / "worker.py").write_text(WORKER)
    (folder / "runs.json").write_text(json.dumps(runs))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [*launch, str(folder / "worker.py"), str(folder / "runs.json")]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert process.returncode == 0, process.stderr[-4000:]
    return process


@pytest.mark.slow
def test_without_resharding_after_forward_layers_are_gathered_half_as_often(data, tiny, tmp_path):
    def words(output):
        settings = ["shape.num_hidden_layers=3", "steps=3", "held_out=0", "micro_tokens=60", "batch=5", "lora_r=0"]
        return ["train", "sft", "--data", data("messages"), "--output", str(tmp_path / output), *tiny, *settings]

    # Five rows in micro-batches of 60 tokens: one process has two, the other has one and must join all gathers.
    assert main(words("one")) == 0
    gathered = {}
    for stage, reshard in (("zero3", "true"), ("zero2", "false")):
        environment = launched("fsdp2.yaml") | {"FSDP_RESHARD_AFTER_FORWARD": reshard}
        process = launch_runs([(words(stage), None)], tmp_path, environment)
        gathered[stage] = int(process.stdout.split("gathered")[1])
        whole, shared = (load_file(tmp_path / name / "model.safetensors") for name in ("one", stage))
        for key, value in whole.items():
            torch.testing.assert_close(value, shared[key], rtol=1e-4, atol=1e-5)
    assert gathered["zero2"] < 0.7 * gathered["zero3"]


@pytest.mark.slow
def test_sharded_training_matches_one_process_and_resumes_to_the_same_bytes(data, tiny, tmp_path):
    files = {kind: data(kind) for kind in ("pairs", "labels", "scores")}

    def words(output, method, kind, settings):
        settings = [
            *tiny,
            "shape.num_hidden_layers=3",
            "steps=3",
            "held_out=0.3",
            "micro_tokens=60",
            "batch=5",
            *settings,
        ]
        return ["train", method, "--data", files[kind], "--output", str(tmp_path / output), *settings]

    runs = [(words(f"two/{name}", *case), None) for name, case in CASES.items()]
    for name, more in RESUMED.items():
        more = [*more, "steps=5", "save_every=2"]
        runs.append((words(f"straight/{name}", "dpo", "pairs", more), None))
        runs += [(words(f"broken/{name}", "dpo", "pairs", more), stop) for stop in (3, None)]
    process = launch_runs(runs, tmp_path, launched("fsdp2.yaml"))
    assert process.stderr.count("stopped after step 4 of 5") >= len(RESUMED)

    for name, case in CASES.items():
        assert main(words(f"one/{name}", *case)) == 0
        one, two = (tmp_path / count / name for count in ("one", "two"))
        assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
        exact = name != "bfloat16"
        for file in FILES:
            if not (one / file).exists():
                continue
            whole, shared = load_file(one / file), load_file(two / file)
            assert whole.keys() == shared.keys()
            for key, value in whole.items():
                if exact:
                    torch.testing.assert_close(value, shared[key], rtol=1e-4, atol=1e-5)
                else:  # where a gradient is near 0, Adam steps by lr (1e-3) in either direction
                    assert (value - shared[key]).abs().mean() <= 1e-4
        lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (one, two)]
        for alone, both in zip(*lines, strict=True):
            names = json.loads(alone).keys() if exact else {"step", "grad_norm"} & json.loads(alone).keys()
            near = {"rel": 1e-3, "abs": 1e-5} if exact else {"rel": 0.05}
            values = ({name: json.loads(line)[name] for name in names} for line in (both, alone))
            assert next(values) == pytest.approx(next(values), **near)
    for name in RESUMED:
        straight, broken = (next((tmp_path / how / name).glob("*.safetensors")) for how in ("straight", "broken"))
        assert straight.read_bytes() == broken.read_bytes()
