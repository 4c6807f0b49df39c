"""The config: what is typed becomes what is run, and what could not run is refused with the near name."""

from dataclasses import FrozenInstanceError, fields
from importlib import resources

import pytest

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import ONLINE, RANGES, Config, recipe, recipes, resolve


def test_settings_take_the_types_of_their_fields():
    config = resolve(
        "dpo", ["lr=3e-5", "group=no", "rows=10", "epochs=0.5", "shape.hidden_size=64", "max_response=null"]
    )
    assert (config.lr, config.group, config.rows, config.epochs) == (3e-5, False, 10, 0.5)
    assert (config.shape, config.max_response) == ({"hidden_size": 64}, None)
    assert resolve("dpo") == Config(method="dpo")


def test_settings_stand_above_options_and_both_above_the_recipe():
    config = resolve("toysteer/base", ["batch=8", "steps=3"], steps=4, seed=5, model=None)
    assert (config.batch, config.steps, config.seed, config.rows) == (8, 3, 5, recipe("toysteer/base")["rows"])
    assert config.model == ""


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_resolves(name):
    values = recipe(name)
    config = resolve(name)
    assert {key: getattr(config, key) for key in values} == values


PAPERS = [name for name in recipes() if name.startswith("una-online/")]


def test_the_papers_online_runs_are_recipes():
    assert PAPERS == ["una-online/ppo", "una-online/rloo", "una-online/una-centred", "una-online/una-online"]
    configs = {config.method: config for config in map(resolve, PAPERS)}
    assert {name: config.beta for name, config in configs.items()} == {
        "una-online": 30.0,
        "una-centred": 30.0,
        "ppo": 10.0,
        "rloo": 10.0,
    }
    for config in configs.values():
        assert config.on_policy and (config.lr, config.steps, config.lora_r) == (3e-6, 20000, 32)
        assert config.batch * config.draws == 64, "as many reward calls in a step for each"
        assert config.max_prompt + config.max_response == config.max_length


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_of_a_papers_recipe_says_where_it_is_from(name):
    text = (resources.files("una_ref.training") / "recipes" / f"{name}.yaml").read_text("utf-8")
    body = text.split("\nmethod:")[1].splitlines()
    for line in ["method:" + body[0], *body[1:]]:
        key, _, comment = line.partition("#")
        if key.strip() not in ("", "hyper:", "gamma: 1.0", "lam: 0.95"):  # these two under "the next five"
            origins = (
                "paper",
                "notebook",
                "ours",
                "authors",
                "the two together",
                "drawn",
                "cliprange",
                "coef",
                "rewards",
            )
            assert any(origin in comment for origin in origins), line


def test_a_loss_s_own_keys_go_to_its_hyper_parameters():
    config = resolve("kto", ["beta=0.5", "desirable_weight=2", "lr=0.1"])
    assert config.hyper == {"beta": 0.5, "desirable_weight": 2.0}
    assert (config.beta, resolve("kto").beta, resolve("una-score").beta) == (0.5, 0.1, 0.03)


def test_a_divergence_is_a_hyper_parameter_in_words():
    config = resolve("f-dpo", ["divergence=alpha", "alpha=0.3", "beta=0.2"])
    assert config.hyper == {"divergence": "alpha", "alpha": 0.3, "beta": 0.2}
    assert resolve("iupo").hyper == {}


@pytest.mark.parametrize("name", [*METHODS, "dpo"])
def test_every_method_has_a_loss_for_each_of_its_kinds(name):
    config = Config(method=name, hyper={"ptx": 0.1} if name == "ppo" else {})
    assert config.losses == dict(METHODS[name].losses)
    for form in ("printed", "released"):
        other = getattr(METHODS[name], form)
        if other is None:
            with pytest.raises(InputError, match=f"{name} has no {form} form"):
                Config(method=name, form=form)
        else:
            assert Config(method=name, form=form).losses == {METHODS[name].kinds[0]: other}


def test_options_of_a_wrong_type_are_refused_too():
    with pytest.raises(InputError, match="steps"):
        resolve("dpo", steps="many")


@pytest.mark.parametrize("name", RANGES)
def test_every_number_has_a_range(name):
    low, _ = RANGES[name]
    # What is asked online only, or of tokens only, is refused elsewhere.
    method = "ppo" if name.startswith("kl_") else "iterative-dpo" if name in ONLINE else "dpo"
    if name == "draws":
        method = "una-online"
    Config(method=method, **{name: low})
    for bad in (low - 1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"{name}: expected a number from {low}"):
            Config(method=method, **{name: bad})


def test_no_number_is_left_without_a_range():
    numbers = {f.name for f in fields(Config) if {"int", "float"} & set(str(f.type).split(" | "))}
    assert numbers - {"held_out"} == set(RANGES)


def test_a_config_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Config(method="dpo").steps = 3
