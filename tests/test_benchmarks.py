"""What the benchmarks' own numbers rest on: FLOPs as torch counts them, and a policy that never ends a response."""

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
            own = {"cpu_s_per_step": seconds, "peak_mb": 10 * seconds, "loaded_mb": 5, "floor": {"all": [10, 0]}}
            lines.append({"round": turn, "case": case, "rates": rates, **own})
    found = online.compared(lines)
    assert found["time of a step"] == {"una-centred / trl rloo": {"median": 0.5, "least": 0.25, "largest": 0.75}}
    assert found["time over the floor"]["una-centred"] == {"median": 6.0, "least": 1.0, "largest": 6.0}
    assert found["time over the floor, at the quickest product"]["una-centred"]["median"] == 12.0
    assert found["peak memory beyond the loaded models"]["una-centred / trl rloo"]["least"] == 0.2
