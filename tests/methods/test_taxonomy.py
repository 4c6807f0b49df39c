"""Table 1 of the survey as data agrees with the records of the methods."""

import inspect
import re

import pytest

from una_ref.methods import METHODS, describe
from una_ref.methods.axes import AXES, VALUES
from una_ref.methods.taxonomy import SYSTEMS, WITHOUT_A_ROW, axes_of_method, systems_of
from una_ref.training.settings import recipes

each_system = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
each_known = pytest.mark.parametrize(
    "system", [system for system in SYSTEMS if system.method], ids=lambda system: system.name
)


def test_the_table_has_33_systems_with_different_names():
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS) == 33
    numbers = [int(re.search(r"\[(\d+)\]$", system.name)[1]) for system in SYSTEMS]
    assert numbers == [2, 3, *range(7, 38)]  # the survey's own numbers, in its order


@each_system
def test_every_cell_has_a_value_of_its_axis(system):
    assert list(system.printed) == list(system.axes) == list(AXES)
    assert all(value == "-" or value in VALUES[axis] for axis, value in system.axes.items())
    assert all(value in ("-", "Hybrid") or value in VALUES[axis] for axis, value in system.printed.items())


@each_system
def test_every_difference_changes_its_cells_once_and_says_why(system):
    changed = [axis for difference in system.differences for axis in difference.cells]
    assert len(changed) == len(set(changed))
    assert all(system.printed[axis] != system.axes[axis] for axis in changed)
    assert all(len(difference.because.split()) >= 5 for difference in system.differences)


def test_printed_cells_that_the_survey_is_known_for():
    printed = {system.method: system.printed for system in SYSTEMS}
    assert printed["rloo"]["RL1"] == "Free" and printed["cpo"]["RM4"] == "Negative" and printed["kto"]["RM1"] == "-"
    assert printed["slic"]["RL3"] == "KL" and printed["r-dpo"]["O2"] == "Merge" and printed["f-dpo"]["RL4"] == "Hybrid"
    assert sum(value == "-" for system in SYSTEMS for value in system.printed.values()) == 39


@each_known
def test_axes_agree_with_the_record_of_the_method(system):
    method, axes = METHODS[system.method], system.axes
    arguments = {name for function in method.functions for name in inspect.signature(function).parameters}
    assert (axes["RL1"] == "Reference") == method.needs_reference
    assert (axes["RL2"] == "Control") == any("lengths" in name for name in arguments)
    assert axes["RL4"] in (("On", "Hybrid") if method.source == "policy" else ("Off", "Hybrid"))
    assert axes["RL4"] != "On" or method.on_policy_only
    assert method.source == "policy" or axes["RM1"] != "Explicit"
    if axes["F3"] != "-":
        assert (axes["F3"] == "List") == ("lists" in method.kinds)
    if method.source == "dataset" and "lists" not in method.kinds:
        assert (axes["F1"] == "Preference") == ("pairs" in method.kinds)


def test_axes_of_a_method_are_those_that_are_true_of_it():
    assert axes_of_method("rloo")["RL1"] == "Reference" and axes_of_method("f-dpo")["RL4"] == "Off"
    assert axes_of_method("una-score") == {} and systems_of("una-score") == ()
    assert [system.name for system in systems_of("iterative-dpo")] == ["Online RLHF/PPO [7]", "Iterative RLHF/PPO [8]"]
    described = describe(METHODS["dpo"])
    assert described["axes"] == axes_of_method("una-pair") and described["axes"]["RM1"] == "Implicit"
    assert described["in the survey's Table 1"] == ["DPO [12]: Eq. 5–12"]
    assert describe(METHODS["una-score"])["axes"] == {}


def test_systems_name_methods_and_recipes_that_exist():
    running = [system for system in SYSTEMS if any(name in METHODS or name in recipes() for name in system.runs)]
    assert len(running) == len(SYSTEMS) == 33
    assert all(system.runs for system in SYSTEMS) and set(WITHOUT_A_ROW) == {"RSO", "GPO"}
