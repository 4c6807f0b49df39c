"""The config: what is typed becomes what is run, and what could not run is refused with the near name."""

import re
from dataclasses import FrozenInstanceError, fields
from importlib import resources

import pytest

from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import ONLINE, RANGES, Config, output_of, recipe, recipes, resolve


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


PAPERS = [name for name in recipes() if not name.startswith("toysteer/")]
ONLINE_PAPERS = [name for name in PAPERS if name.startswith("una-online/")]


def test_the_papers_online_runs_are_recipes():
    assert ONLINE_PAPERS == ["una-online/ppo", "una-online/rloo", "una-online/una-centred", "una-online/una-online"]
    configs = {config.method: config for config in map(resolve, ONLINE_PAPERS)}
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


def test_the_papers_offline_runs_are_recipes():
    configs = {name.partition("/")[2]: resolve(name) for name in recipes() if name.startswith("una-offline/")}
    told = {name: (config.method, config.form, config.beta, config.lr) for name, config in configs.items()}
    assert told == {
        "dpo": ("dpo", "corrected", 0.03, 5e-6),
        "kto": ("kto", "corrected", 0.03, 5e-6),
        "una-binary-mse": ("una-binary-mse", "corrected", 0.01, 5e-6),
        "una-binary-bce": ("una-binary-bce", "corrected", 0.01, 5e-6),
        "una-score": ("una-score", "released", 0.03, 3e-5),
        "una-score-equal-lr": ("una-score", "released", 0.03, 5e-6),
        "una-centred": ("una-centred", "corrected", 0.03, 5e-6),
    }
    for config in configs.values():
        assert (config.model, config.data) == ("mistralai/Mistral-7B-v0.1", "nvidia/HelpSteer2")
        assert (config.lora_r, config.lora_alpha, config.epochs, config.batch, config.max_length) == (
            32,
            16,
            2,
            8,
            2048,
        )


@pytest.mark.parametrize("data", ["hh", "shp"])
def test_upo_s_experiment_is_four_recipes_and_beta_is_a_setting(data):
    stages = {name: resolve(f"iupo/gpt2-{data}-{name}") for name in ("sft", "ipo", "js", "js-printed")}
    assert {(c.data, c.seed, c.held_out, c.template) for c in stages.values()} == {
        ({"hh": "Anthropic/hh-rlhf", "shp": "stanfordnlp/SHP"}[data], 0, 0.02, stages["sft"].template)
    }, "what one holds out, all do"
    start = stages.pop("sft")
    assert start.model == "openai-community/gpt2"
    assert {c.model for c in stages.values()} == {output_of(f"iupo/gpt2-{data}-sft")}
    told = {name: (c.method, c.form, c.hyper.get("divergence"), c.beta) for name, c in stages.items()}
    assert told == {
        "ipo": ("ipo", "corrected", None, 0.1),
        "js": ("iupo", "corrected", "js", 0.1),
        "js-printed": ("iupo", "printed", "js", 0.1),
    }
    assert resolve(f"iupo/gpt2-{data}-js", ["beta=0.5"]).hyper == {"divergence": "js", "beta": 0.5}


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_of_a_papers_recipe_says_where_it_is_from(name):
    text = (resources.files("una_ref.training") / "recipes" / f"{name}.yaml").read_text("utf-8")
    body = text[text.index("\nmethod:") :]
    origins = (
        "paper",
        "code",
        "notebook",
        "ours",
        "authors",
        "the two together",
        "drawn",
        "cliprange",
        "coef",
        "rewards",
    )
    for entry in re.split(r"\n(?=\w|  \w+:)", body)[1:]:  # a key with the lines that belong to it
        if entry.strip() not in ("hyper:", "gamma: 1.0", "lam: 0.95"):  # these two under "the next five"
            comment = entry.partition("#")[2]
            assert any(origin in comment for origin in origins), entry


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


@pytest.mark.parametrize(
    "given",
    [
        ["dpo"],
        [
            "dpo",
            "beta=0.03",
            "lr=5e-06",
            "lora_dropout=0.1",
            "group=false",
            "epochs=2",
            "dtype=bfloat16",
            "shape.hidden_size=16",
        ],
        [
            "f-dpo",
            "divergence=js",
            "beta=1e-05",
            "max_prompt=3",
            "data=a b.jsonl,c.jsonl",
            "model=x/y",
            "threshold=2.5",
        ],
        ["ppo", "kl_target=6", "passes=2", "critic=head", "clip=0.5", "ratio_clip=0.3"],
        ["toysteer/base"],
        ["una-online/ppo"],
    ],
)
def test_a_config_s_settings_make_it_again(given):
    config = resolve(given[0], given[1:])
    assert resolve(config.method, config.settings()) == config
    assert resolve("dpo").settings() == []


def test_no_loss_has_a_key_of_the_run_s_name():
    # One of the two could not be set.
    own = {f.name for f in fields(Config)}
    assert [(name, key) for name, method in METHODS.items() for key in method.hyperparameters if key in own] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dpo", "load_in_4bit=true"], "got no model"),
        (["dpo", "load_in_4bit=true", "model=x/y", "lora_r=0"], "got lora_r=0"),
        (["reward-model", "load_in_4bit=true", "model=x/y"], "than reward-model"),
        (["ppo", "load_in_4bit=true", "model=x/y"], "critic is a copy"),
        (["rloo", "load_in_4bit=true", "model=x/y", "engine=vllm"], "expected engine=hf, got vllm"),
        (["sft", "reference_model=x/y"], "sft has no reference"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        resolve(given[0], given[1:])
