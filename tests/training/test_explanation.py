"""Each rule with curves that are as they must be, and with curves that are not; and the rules on runs."""

from pathlib import Path

import pytest

from una_ref.claims import CLAIMS
from una_ref.training.config import Config
from una_ref.training.curves import Curves, read_curves
from una_ref.training.explanation import RULES, explained
from una_ref.training.run import train
from una_ref.training.settings import resolve

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SCORES = "scores: from {} to {}, as they are: in units of the reward"


def curves(method="dpo", lines=(), evaluations=(), notes=(), **config):
    steps = [{"step": n, **line} for n, line in enumerate(lines, 1)]
    held_out = [{"step": 10 * n, **line} for n, line in enumerate(evaluations)]
    return Curves(Config(method=method, **config), steps, held_out, notes)


def series(**values):
    """Lines of metrics from a list of values for each; _ stands for a slash."""
    with_slash = ("rewards_", "logps_", "objective_")
    names = [name.replace("_", "/", 1) if name.startswith(with_slash) else name for name in values]
    return [dict(zip(names, line, strict=True)) for line in zip(*values.values(), strict=True)]


FALLING = [1.0, 0.9, 0.6, 0.5]
CASES = {
    "loss at the start": (
        curves(lines=series(loss=[0.6931])),
        curves(lines=series(loss=[0.75])),
    ),
    "rewards at the start": (
        curves(evaluations=[{"rewards/mean": 1e-5, "rewards/margins": 0.0, "rewards/accuracies": 0.5}]),
        curves(evaluations=[{"rewards/mean": 0.0, "rewards/margins": 0.4, "rewards/accuracies": 0.9}]),
    ),
    "loss over training": (
        curves(lines=series(loss=FALLING)),
        curves(lines=series(loss=FALLING[::-1])),
    ),
    "held-out loss": (
        curves(lines=series(loss=FALLING), evaluations=series(loss=[1.0, 0.8, 0.7])),
        curves(lines=series(loss=FALLING), evaluations=series(loss=[1.0, 0.7, 0.9])),
    ),
    "both log-probs fall": (
        curves(evaluations=series(logps_chosen=[-10, -12], logps_rejected=[-10, -20])),
        curves(evaluations=series(logps_chosen=[-10, -20], logps_rejected=[-10, -12])),
    ),
    "implicit rewards below 0": (
        curves(evaluations=series(rewards_mean=[0, -2], rewards_margins=[0, 1])),
        curves(evaluations=series(rewards_mean=[0, -2], rewards_margins=[0, -1])),
    ),
    "certain pairs": (
        curves(lines=series(rewards_accuracies=[0.5, 0.7, 0.8, 0.9], rewards_margins=[0, 1, 2, 3])),
        curves(lines=series(rewards_accuracies=[0.5, 0.7, 1.0, 1.0], rewards_margins=[0, 1, 2, 3])),
    ),
    "offset of the scores": (
        curves("una-score", notes=[SCORES.format(-1, 2)]),
        curves("una-score", notes=[SCORES.format(0.5, 4)]),
    ),
    "KTO's reference point": (
        curves("kto", lines=series(kl=[0.0, 0.0, 0.001])),
        curves("kto", lines=series(kl=[0.0, 0.5, 3.0])),
    ),
    "sampled KL": (
        curves("ppo", lines=series(objective_kl=[0.0, -0.01, 0.02, 0.05])),
        curves("ppo", lines=series(objective_kl=[-0.5, -0.51, -0.52, -0.5])),
    ),
    "clipped gradients": (
        curves(lines=series(grad_norm=[0.5, 2.0, 0.6])),
        curves(lines=series(grad_norm=[5.0, 2.0, 0.6])),
    ),
    "length of samples": (
        curves("rloo", lines=series(response_length=[10, 10, 11, 11])),
        curves("rloo", lines=series(response_length=[10, 12, 14, 15])),
    ),
    "samples that end": (
        curves("rloo", evaluations=series(ended=[0.9, 0.95])),
        curves("rloo", evaluations=series(ended=[0.9, 0.2])),
    ),
    "sampler and training": (
        curves("rloo", lines=series(sampler_gap=[1e-6, 1e-5])),
        curves("rloo", lines=series(sampler_gap=[1e-6, 0.5])),
    ),
    "responses without a score": (
        curves("rloo", lines=series(dropped=[0, 0], dropped_prompts=[0, 0])),
        curves("rloo", lines=series(dropped=[0, 4], dropped_prompts=[0, 1])),
    ),
}


def verdicts(run):
    return {one.name: one.verdict for one in explained(run)}


def test_every_rule_has_a_case():
    assert [*CASES] and {*CASES} == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_tells_good_curves_from_bad_ones(name):
    good, bad = CASES[name]
    assert verdicts(good)[name] == "ok"
    assert verdicts(bad)[name] == "look"


@pytest.mark.parametrize("name", CASES)
def test_only_a_look_says_what_to_try(name):
    for run in CASES[name]:
        (one,) = (one for one in explained(run) if one.name == name)
        assert bool(one.fix) == (one.verdict == "look") and one.seen and one.reason


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("loss at the start", curves("una-score", lines=series(loss=[3.0]))),  # it is the mean of s²
        ("rewards at the start", curves("simpo", evaluations=series(rewards_mean=[-2.0]))),  # it has no reference
        ("certain pairs", curves("ipo", lines=series(rewards_accuracies=[1.0] * 4, rewards_margins=[0, 1, 2, 3]))),
        ("both log-probs fall", curves(evaluations=series(logps_chosen=[-10, -9], logps_rejected=[-10, -12]))),
        ("loss over training", curves("rloo", lines=series(loss=FALLING[::-1]))),  # its loss is not the objective
    ],
)
def test_a_rule_is_silent_where_it_does_not_apply(name, run):
    assert name not in verdicts(run)


def test_a_learned_offset_is_no_reason_to_look():
    assert verdicts(curves("una-centred", notes=[SCORES.format(0.5, 4)]))["offset of the scores"] == "ok"


def test_the_evidence_of_every_rule_exists():
    named = {name for rule in RULES for name in rule.evidence}
    assert named and {name for name in named if name not in CLAIMS and not (NOTEBOOKS / f"{name}.py").exists()} == set()


def run_of(tmp_path, method, data, *settings):
    config = resolve(method, list(settings), data=data, output=str(tmp_path / "run"))
    train(config, progress=False)
    return verdicts(read_curves(tmp_path / "run"))


def test_a_run_of_dpo_starts_as_it_must(tmp_path, tiny, data):
    found = run_of(tmp_path, "dpo", str(data("pairs")), *tiny, "steps=8", "lr=0.01", "eval_every=4")
    assert found["loss at the start"] == found["rewards at the start"] == found["loss over training"] == "ok"


def test_a_learning_rate_of_almost_nothing_leaves_the_loss_where_it_is(tmp_path, tiny, data):
    found = run_of(tmp_path, "dpo", str(data("pairs")), *tiny, "steps=8", "lr=1e-9")
    assert found["loss over training"] == "look"
