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
    assert ENTRIES["una-pair"].strength_at(2.0, 0.4) == {"beta": 0.8}
    assert ENTRIES["simpo"].strength_at(1.0, 0.4) == {"beta": pytest.approx(1.6)}
    assert ENTRIES["rebel"].strength_at(2.0, 0.4) == {"eta": pytest.approx(1 / 0.8)}
    assert ENTRIES["orpo"].strength_at(2.0, 0.4) == {"lam": pytest.approx(2 * METHODS["orpo"].hyperparameters["lam"])}
    assert ENTRIES["sft"].strength_at(None, 0.4) == {}


def test_every_tuned_hyper_parameter_belongs_to_the_method():
    for entry in ENTRIES.values():
        assert not entry.strength or entry.strength in METHODS[entry.method].hyperparameters


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_the_command_of_a_row_is_one_that_training_accepts(name):
    entry = ENTRIES[name]
    words = entry.command(entry.strength_at(1.0, 0.4)).split()
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
