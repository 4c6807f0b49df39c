"""What the name in a run's `reward` stands for: the truth of a world, a function, a model, the mean of several."""

import sys

import pytest

from una_ref.data.toysteer import Knobs, ToySteer, rate
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.answers import Answer
from una_ref.policies.reward_sources import Truth, reads_columns, reward_source

ANSWERS = [Answer("Is it?", "Yes, it is."), Answer("Why?", "No"), Answer("Is it?", "")]


def lengths(answers):
    """A reward function: the length in characters."""
    return [len(answer.response) for answer in answers]


def twice(answers):
    """A reward function: twice the length."""
    return [2 * len(answer.response) for answer in answers]


def lengths_below_3(answers):
    """A reward function: no score for a response of three characters or more."""
    return [len(answer.response) if len(answer.response) < 3 else None for answer in answers]


def one_too_few(answers):
    """A reward function: one number too few."""
    return [1.0] * (len(answers) - 1)


def nan(answers):
    """A reward function: not a number."""
    return [float("nan")] * len(answers)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("module:function", True),
        ("preference:module:function", True),
        ("runs/judge, module:function", True),
        ("runs/judge", False),
        ("toysteer", False),
        ("self:good/bad", False),
        ("judge:model@http://localhost:1/v1", False),
    ],
)
def test_python_functions_may_read_the_columns_of_a_row(name, reads):
    assert reads_columns(name) == reads


def test_truth_is_the_reward_of_the_world():
    world = ToySteer(seed=3, knobs=Knobs(offset=1.0))
    prompt = world.prompts[2]
    answers = [Answer(prompt, "a b", True), Answer(prompt, "a b c d e", False)]
    weights = (0.65, 0.8, 0.45)
    by_hand = []
    for answer in answers:
        ratings = rate(prompt, answer.response.replace(" ", ""), answer.ended)
        score = sum(w * r for w, r in zip(weights, ratings[:3], strict=True)) / 7.6
        by_hand.append(4 * (score - 0.5) + float(world.offsets[2]))
    assert Truth(world)(answers) == pytest.approx(by_hand, abs=1e-12)
    with pytest.raises(InputError, match="expected a prompt of the world"):
        Truth(world)([Answer("sort a =", "a")])


def test_toysteer_names_the_truth_of_its_world():
    world = ToySteer(seed=3)
    assert reward_source("toysteer", world=world) == Truth(world)
    with pytest.raises(InputError, match="expected ToySteer's prompts"):
        reward_source("toysteer")


def test_module_and_function_name_a_python_function():
    assert reward_source(f"{__name__}:lengths")(ANSWERS) == lengths(ANSWERS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("math:no_such_thing", "module:function"),
        ("./rewards.py:mine", "module:function"),
        ("no/such-model-anywhere", "a sequence-classification model"),
        ("rewards", "a sequence-classification model .*, got a word that is none"),
    ],
)
def test_name_of_nothing_is_refused(name, expected):
    with pytest.raises(InputError, match=f"reward '{name}': expected {expected}"):
        reward_source(name)


@pytest.mark.parametrize("name", ["/no/where", "./rewards", "../rewards", "~/rewards", "runs/my/rewards"])
def test_misspelt_folder_is_refused_without_a_request_to_the_hub(name, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    with pytest.raises(InputError, match=f"reward '{name}': .*, got a path where nothing is"):
        reward_source(name)
    with pytest.raises(InputError, match=f"model '{name}': .*, got a path where nothing is"):
        loading.load(name)


def test_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    # A console script has its own folder on the path, not the current one.
    (tmp_path / "my_rewards_here.py").write_text("def long(answers):\n    return [len(a.response) for a in answers]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    assert reward_source("my_rewards_here:long")(ANSWERS) == lengths(ANSWERS)


def test_several_names_are_averaged():
    mean = reward_source(f"{__name__}:lengths, {__name__}:twice")
    assert mean(ANSWERS) == [1.5 * length for length in lengths(ANSWERS)]
    assert not mean.pairwise


def test_ensemble_has_no_score_where_one_of_its_sources_has_none():
    mean = reward_source(f"{__name__}:lengths_below_3,{__name__}:twice")
    assert mean([Answer("q", ""), Answer("q", "xxx"), Answer("q", "xx")]) == [0.0, None, 3.0]


@pytest.mark.parametrize(("other", "expected"), [("one_too_few", "3 numbers, got 2"), ("nan", "a finite number")])
def test_ensemble_names_the_source_whose_scores_are_malformed(other, expected):
    with pytest.raises(InputError, match=f":{other}: expected {expected}"):
        reward_source(f"{__name__}:lengths,{__name__}:{other}")(ANSWERS)
