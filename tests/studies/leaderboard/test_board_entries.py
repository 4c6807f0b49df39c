import pytest

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.studies.leaderboard.board_entries import ENTRIES, EXCLUSIONS, entry_named
from una_ref.training.settings import resolve


def test_every_method_is_on_the_board_or_excluded_with_a_reason():
    shown = {entry.method for entry in ENTRIES.values() if entry.form == "corrected"}
    assert shown | EXCLUSIONS.keys() == set(METHODS)
    assert not shown & EXCLUSIONS.keys()
    assert all(EXCLUSIONS.values())


def test_beta_is_in_units_of_the_world_s_beta():
    assert ENTRIES["una-pair"].tuned_to([2.0], 0.4) == {"beta": 0.8}
    assert ENTRIES["simpo"].tuned_to([1.0, 2.0], 0.4) == {"beta": pytest.approx(1.6), "gamma": 2.0}
    assert ENTRIES["ipo"].tuned_to([1.0], 0.4) == {"beta": pytest.approx(0.1)}  # a win rate has a slope of 1/4
    assert ENTRIES["rebel"].tuned_to([2.0], 0.4) == {"eta": pytest.approx(1 / 0.8)}
    assert ENTRIES["orpo"].tuned_to([2.0], 0.4) == {"lam": pytest.approx(2 * METHODS["orpo"].hyperparameters["lam"])}
    assert ENTRIES["sft"].tuned_to([], 0.4) == {}


def test_every_tuned_hyper_parameter_belongs_to_the_method():
    for entry in ENTRIES.values():
        assert {own.name for own in entry.tuned} <= METHODS[entry.method].hyperparameters.keys()


def test_every_number_of_a_loss_is_tuned_but_for_those_that_stand_here():
    kept = {
        name: sorted(
            {*METHODS[entry.method].hyperparameters} - {own.name for own in entry.tuned} - {*entry.loss_kwargs}
        )
        for name, entry in ENTRIES.items()
        if not entry.losses
    }
    words = {"divergence", "function", "distance", "distances", "ranking", "measure", "variant", "ratio"}
    words |= {"scale_rewards", "kl_estimate"}
    ppo = ["gamma", "lam", "ptx", "ratio_clip", "value_clip", "value_weight", "whiten"]
    known = {
        "f-dpo": ["alpha"], "f-dpo.js": ["alpha"], "iupo": ["alpha"], "beta-dpo": ["filtering"],
        "exo-pair": ["label_smoothing"], "aot": ["label_smoothing"], "aot-unpaired": ["label_smoothing"],
        "alpha-po": ["alpha"], "discopop": ["tau"], "kto": ["desirable_weight", "undesirable_weight"],
        "apo-zero-unpaired": ["desirable_weight", "undesirable_weight"], "cringe": ["margin", "tau", "top_k"],
        "ppo": ppo, "ppo.rm": ppo,
        "grpo": ["length_scale", "ratio_clip", "ratio_clip_high", "temperature_negative", "temperature_positive"],
    }  # fmt: skip
    found = {name: [each for each in names if each not in words] for name, names in kept.items()}
    assert {name: names for name, names in found.items() if names} == known


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_the_command_of_a_row_is_one_that_training_accepts(name):
    entry = ENTRIES[name]
    words = entry.command(entry.tuned_to([1.0] * len(entry.tuned), 0.4)).split()
    config = resolve(words[2], words[3:])
    assert (config.method, config.form) == (entry.method, entry.form)
    assert "lr=" not in " ".join(words)  # the rate of a small MLP would ruin a language model
    assert entry.online == config.on_policy


@pytest.mark.parametrize(("name", "expected"), [("dpo", "una-pair"), ("rft", "best-of-k"), ("ppo.rm", "ppo.rm")])
def test_a_row_is_found_by_its_name_or_an_alias(name, expected):
    assert entry_named(name).name == expected


@pytest.mark.parametrize(
    ("name", "said"), [("sdpo", "in one stage it is dpo"), ("dppo", "did you mean"), ("", "got ''")]
)
def test_other_names_are_refused(name, said):
    with pytest.raises(InputError, match=said):
        entry_named(name)
