import pytest
import torch

from una_ref.methods import METHODS
from una_ref.studies.leaderboard.board_entries import ENTRIES
from una_ref.studies.leaderboard.own_objectives import OWN, own_gap, win_rates
from una_ref.theory import optimum
from una_ref.theory.preferences import bradley_terry, nash_logps, preference_rewards
from una_ref.theory.worlds import SequenceWorld

BETA = 0.4


@pytest.fixture(scope="module")
def world():
    return SequenceWorld.random(0, prompts=3, vocabulary=3, length=4, beta=BETA)


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_win_rates_are_those_of_the_whole_table(world, scale):
    expected = preference_rewards(bradley_terry(scale * world.rewards), world.ref_logps)
    torch.testing.assert_close(win_rates(scale * world.rewards, world.ref_logps), expected, rtol=0, atol=1e-12)


def test_equal_rewards_win_half_of_the_time(world):
    torch.testing.assert_close(
        win_rates(torch.ones_like(world.rewards), world.ref_logps), torch.full_like(world.rewards, 0.5)
    )


def own_optimum(name, world, factors):
    """What an entry aims at, by theory."""
    entry = ENTRIES[name]
    known = {**METHODS[entry.method].hyperparameters, **entry.tuned_to(factors, BETA), **entry.loss_kwargs}
    ref, r = world.ref_logps, world.rewards
    wins = preference_rewards(bradley_terry(r), ref)
    tables = {
        "una-pair": lambda: optimum.optimal_logps(ref, r, known["beta"]),
        "dro.labels": lambda: optimum.optimal_logps(ref, 2 * r.sigmoid(), known["beta"]),
        "rebel": lambda: optimum.optimal_logps(ref, r, 1 / known["eta"]),
        "r-dpo": lambda: optimum.optimal_logps(ref, r - known["alpha"] * world.lengths, known["beta"]),
        "rpo": lambda: optimum.optimal_logps(ref, known["eta"] * r, known["beta"]),
        "f-dpo.js": lambda: optimum.optimal_logps(ref, r, known["beta"], "js"),
        "ipo": lambda: optimum.optimal_logps(ref, wins, known["beta"]),
        "iupo": lambda: optimum.optimal_logps(ref, wins, known["beta"], "js"),
        "nash-md": lambda: nash_logps(bradley_terry(r), ref, known["beta"]),
        "sft": lambda: (ref + (2 * wins).log()).log_softmax(-1),
    }
    return tables[name]()


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize(
    "name", ["una-pair", "dro.labels", "rebel", "r-dpo", "rpo", "f-dpo.js", "ipo", "iupo", "nash-md", "sft"]
)
def test_the_gap_is_zero_at_the_own_optimum_and_positive_elsewhere(world, name, factor):
    entry = ENTRIES[name]
    factors = (factor, *[1.5] * len(entry.tuned))[: len(entry.tuned)]
    aimed = own_optimum(name, world, factors)
    assert own_gap(entry, factors, world, aimed, BETA) == pytest.approx(0.0, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        other = (aimed + torch.randn(aimed.shape, generator=generator, dtype=torch.float64)).log_softmax(-1)
        assert own_gap(entry, factors, world, other, BETA) > 1e-4


def test_an_entry_without_a_closed_form_has_no_gap(world):
    assert "kto" not in OWN
    assert own_gap(ENTRIES["kto"], (1.0,), world, world.ref_logps, BETA) is None


def test_every_own_objective_belongs_to_an_entry():
    assert not OWN.keys() - ENTRIES.keys()
