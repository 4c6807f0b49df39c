"""What the benchmarks' own numbers rest on: FLOPs as torch counts them, and a policy that never ends a response."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from una_ref.data.batch import Example, collate
from una_ref.policies.loading import load, with_lora
from una_ref.policies.references import Policy
from una_ref.policies.rollout import HuggingFace

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fixture
import floor
import gpu
import harness
import offline
import online

TINY = floor.Shape(**fixture.PRESETS["tiny"], r=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixture")
    fixture.make(folder, "tiny", prompts=8)
    return folder


def test_the_work_is_the_batch_without_its_pads():
    responses = [(5, 6), (7, 8, 9)]
    batch = collate([Example((1, 2, 3), tuple(responses))])
    assert floor.work([3], [[2, 3]]) == floor.Work(batch.tokens.numel(), int(batch.visible().sum()), len(batch.target))


def test_flops_are_those_that_torch_counts(tiny):
    model, _ = load(str(tiny / "policy"))
    model.set_attn_implementation("eager")  # the counter knows its products
    policy = Policy(with_lora(model, r=4, alpha=8.0))
    batch = collate([Example(tuple(range(5, 25)), ((6, 7, 8), (9, 10, 11, 12))), Example((5, 6, 7), ((8, 9),))])
    rows, width = batch.tokens.shape
    work = floor.Work(rows * width, rows * width**2, len(batch.target))  # as laid out: pads, and all of the square
    counted = []
    with FlopCounterMode(display=False) as counter:
        policy.reference(batch)
        counted.append(counter.get_total_flops())
        logps = policy(batch)
        counted.append(counter.get_total_flops())
        logps.sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == TINY.forward(work, adapter=False)
    assert counted[1] - counted[0] == TINY.forward(work)
    assert counted[2] - counted[1] == TINY.backward(work)


def test_ppo_has_twice_the_models_to_train_and_what_it_remembers():
    prompts, responses = [30, 20], [[8, 8], [8, 8]]
    una, ppo = (floor.update(TINY, prompts, responses, passes=4, ppo=ppo) for ppo in (False, True))
    assert ppo["passes"][0] == pytest.approx(2 * una["passes"][0], rel=0.1)  # the critic has no head to speak of
    assert una["experience"] == (0, 0) < ppo["experience"]
    once = floor.update(TINY, prompts, responses)
    assert una["passes"][0] == 4 * once["passes"][0] and una["reference"] == once["reference"]
    assert floor.seconds({"a": (6, 0), "b": (2, 40)}, {"flops": 2.0, "bytes": 10.0}) == 7


def test_the_policy_of_the_fixture_fills_every_response_with_text(tiny):
    model, tokenizer = load(str(tiny / "policy"))
    (draws,) = HuggingFace(tokenizer.eos_token_id)(model, [(5, 6, 7)], k=20, max_new=40, seed=0)
    assert [len(draw.tokens) for draw in draws] == [40] * 20 and not any(draw.ended for draw in draws)
    assert not any("\ufffd" in tokenizer.decode(draw.tokens) for draw in draws)


def test_ratios_are_within_a_round():
    lines = []
    for turn, (ours, theirs) in enumerate([(1.0, 2.0), (3.0, 4.0), (2.0, 8.0)]):
        rates = {"flops": 10.0 * (turn + 1), "best_flops": 20.0 * (turn + 1), "bytes": 1.0}
        for case, seconds in (("una-centred", ours), ("trl rloo", theirs)):
            own = {
                "each": [seconds],
                "cpu_s_per_step": seconds,
                "peak_mb": 10 * seconds,
                "loaded_mb": 5,
                "floor": {"all": [10, 0]},
            }
            lines.append({"round": turn, "case": case, "rates": rates, **own})
    found = online.compared(lines)
    assert found["time of a step"] == {"una-centred / trl rloo": {"median": 0.5, "least": 0.25, "largest": 0.75}}
    assert found["time over the floor"]["una-centred"] == {"median": 6.0, "least": 1.0, "largest": 6.0}
    assert found["time over the floor, at the quickest product"]["una-centred"]["median"] == 12.0
    assert found["peak memory beyond the loaded models"]["una-centred / trl rloo"]["least"] == 0.2


def test_offline_the_last_layer_is_paid_for_where_it_is_read():
    prompts, responses = [4, 3], [[2, 3], [5]]
    read, tokens = [1 + 1 + 2, 1 + 4], [4 + 1 + 2, 3 + 4]  # a prompt's last token, and responses but for their last
    seen = [4 + 5 + 5 + 6, 3 + 4 + 5 + 6 + 7]  # by each position that is read
    all_seen = [1 + 2 + 3 + seen[0], 1 + 2 + seen[1]]
    h, kv = TINY.hidden, TINY.kv_heads * TINY.hidden // TINY.heads
    own = {"kv": 2 * h * kv, "rest": 2 * h * h + 3 * h * TINY.inter}
    lora = {"kv": TINY.r * 2 * (h + kv), "rest": TINY.r * (4 * h + 3 * (h + TINY.inter))}
    forward = 2 * (own["kv"] + lora["kv"]) * TINY.layers * sum(tokens)
    forward += 2 * (own["rest"] + lora["rest"]) * ((TINY.layers - 1) * sum(tokens) + sum(read))
    forward += 4 * h * ((TINY.layers - 1) * sum(all_seen) + sum(seen)) + 2 * 10 * TINY.head
    made = floor.offline(TINY, prompts, responses)
    assert made["forward"][0] == forward
    alone = floor.offline(TINY, [1], [[5]])  # nothing of such a prompt is left unread
    assert alone["backward"][0] == TINY.backward(floor.work([1], [[5]]))
    assert made["backward"][0] < TINY.backward(floor.work(prompts, responses))


def test_the_gate_holds_only_for_the_same_losses_in_less_time_and_memory():
    def lines(loss=0.5, seconds=0.5, peak=40):
        rates, work = {"flops": 10.0, "best_flops": 10.0, "bytes": 1.0}, {"all": [4, 0]}
        own = {"rates": rates, "floor": work, "loaded_mb": 5, "round": 0}
        trl = {"case": "trl dpo, cached", "cpu_s_per_step": 1.0, "each": [1.0], "peak_mb": 100, "losses": [0.7, 0.5]}
        una = {
            "case": "dpo, cached",
            "cpu_s_per_step": seconds,
            "each": [seconds],
            "peak_mb": peak,
            "losses": [0.7, loss],
        }
        return [trl | own, una | own]

    def failing(**changed):
        found = lines(**changed)
        gate = offline.gate(found, harness.compared(found, offline.RATIOS))
        return [name for name, part in gate.items() if not part["holds"]]

    assert failing() == []
    assert failing(loss=0.5002) == ["loss"]
    assert failing(seconds=0.64) == ["time"]
    assert failing(seconds=0.7) == ["time", "floor"]
    assert failing(peak=51) == ["memory"]


def test_the_fixture_has_pairs_of_the_lengths_it_names(tiny):
    _, tokenizer = load(str(tiny / "policy"))
    pairs = json.loads((tiny / "pairs.json").read_text())
    sizes = [len(tokenizer(pair[key])["input_ids"]) for pair in pairs for key in ("prompt", "chosen", "rejected")]
    _, _, least, most = fixture.LENGTHS["short"]["prompt"]
    assert all(least <= size <= most + 4 for size in sizes)  # whole words
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)


@pytest.mark.slow
def test_where_there_is_no_gpu_the_script_for_one_says_what_it_does_not_show(tmp_path):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, gpu.__file__, "--parts", "una", "--output", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=True)
    assert gpu.NOT_SHOWN in done.stdout
    cases = json.loads((tmp_path / "gpu.json").read_text())["parts"]["una"]["cases"]
    assert list(cases) == gpu.PARTS["una"][2] and all(case["tokens_per_s"] > 0 for case in cases.values())


@pytest.mark.parametrize("point", [{"prompt": 30}, {"responses": 1}, {"responses": 3}, {"hidden": 32, "inter": 48}])
def test_growth_measures_a_point_of_each_axis(point):
    arguments = argparse.Namespace(preset="tiny", dtype="float32", device="cpu", pairs=4, micro_tokens=512)
    start = {"prompt": 10, "response": 5, "responses": 2, "rows": 8}
    found = offline._grown(start | point, arguments, {"flops": 1e11, "bytes": 1e10})
    tokens = found["s_per_step"] / found["us_per_token"] * 1e6
    prompt, responses = point.get("prompt", 10), point.get("responses", 2)
    assert prompt + responses * 5 <= tokens / 4 <= prompt + responses * 9 + 4  # whole words, and the row's number
    assert found["over the floor"] > 0 and found["prepare_ms_per_row"] > 0
