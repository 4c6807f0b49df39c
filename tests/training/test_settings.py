"""What is typed becomes a config: methods, recipes that extend others, files of one's own, settings."""

import re
from importlib import resources

import pytest

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.methods import METHODS
from una_ref.training.config import Config
from una_ref.training.settings import output_of, recipe, recipes, resolve

ROOT = resources.files("una_ref.training") / "recipes"
SHARED = [f"shared/{name}" for name in ("iupo", "smollm2", "una-offline", "una-online")]


@pytest.fixture
def written(tmp_path):
    """written(name, text): the path of a file with that text."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def changed(what):
    """The values of a recipe that differ from the defaults, without the template's text."""
    values = resolve(what).changed()
    return {key: value for key, value in values.items() if key != "template"}


# ---- settings


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("tdpo", "alpha=0.5", "alpha: unknown key of tdpo; it is a key of tdpo2, f-dpo,"),  # a relative first
        ("dpo", "gamma=1", "gamma: unknown key of dpo; it is a key of simpo, tpo-l, alpha-po, ppo"),  # on pairs first
        ("dpo", "loss_kwargs.gamma=1", "loss_kwargs: expected beta, got 'gamma'; it is a key of simpo, "),
        ("dpo", "loss_kwargs.bta=1", "loss_kwargs: expected beta, got 'bta'; did you mean beta?"),
        ("sft", "beta=1", "beta: unknown key of sft; it is a key of 5"),
    ],
)
def test_a_key_of_other_methods_names_them(method, setting, message):
    with pytest.raises(InputError) as refused:
        resolve(method, [setting])
    said, key = str(refused.value), setting.split("=")[0].split(".")[-1]
    assert said.startswith(message)
    assert len(said) < 160
    owners = [name for name, record in METHODS.items() if key in record.hyperparameters]
    assert len(owners) > 12 or all(name in said for name in owners)


def test_settings_take_the_types_of_their_fields():
    given = ["lr=3e-5", "group=no", "rows=10", "epochs=0.5", "shape.hidden_size=64", "max_response=null"]
    config = resolve("dpo", given)
    assert (config.lr, config.group, config.rows, config.epochs) == (3e-5, False, 10, 0.5)
    assert (config.shape, config.max_response) == ({"hidden_size": 64}, None)
    assert resolve("dpo") == Config(method="dpo")


def test_settings_override_options_and_both_override_the_recipe():
    config = resolve("toysteer/base", ["batch=8", "steps=3"], steps=4, seed=5, model=None)
    assert (config.batch, config.steps, config.seed, config.rows) == (8, 3, 5, recipe("toysteer/base")["rows"])
    assert config.model == ""


def test_dotted_keys_add_to_a_mapping_and_a_whole_mapping_replaces_it():
    both = ["shape.hidden_size=64", "shape.num_hidden_layers=1"]
    assert resolve("dpo", both).shape == {"hidden_size": 64, "num_hidden_layers": 1}
    assert resolve("dpo", [*both, "shape={hidden_size: 32}"]).shape == {"hidden_size": 32}
    assert resolve("dpo", [*both, "shape={}"]).shape == {}


def test_a_loss_s_own_keys_are_its_loss_kwargs():
    config = resolve("kto", ["beta=0.5", "desirable_weight=2", "lr=0.1"])
    assert config.loss_kwargs == {"beta": 0.5, "desirable_weight": 2.0}
    assert (config.beta, resolve("kto").beta, resolve("una-score").beta) == (0.5, 0.1, 0.03)
    assert resolve("kto", ["loss_kwargs.beta=0.5", "desirable_weight=2"]).loss_kwargs == config.loss_kwargs
    with pytest.raises(InputError, match="loss_kwargs: expected one of beta, .*, got 'gamma'"):
        resolve("kto", ["loss_kwargs.gamma=0.5"])


def test_a_divergence_is_a_loss_kwarg_in_words():
    config = resolve("f-dpo", ["divergence=alpha", "alpha=0.3", "beta=0.2"])
    assert config.loss_kwargs == {"divergence": "alpha", "alpha": 0.3, "beta": 0.2}
    assert resolve("iupo").loss_kwargs == {}


def test_options_of_a_wrong_type_are_refused_too():
    with pytest.raises(InputError, match="steps: expected a whole number at least 1, got 'many'"):
        resolve("dpo", steps="many")


@pytest.mark.parametrize(
    "given",
    [
        ["dpo"],
        ["dpo", "beta=0.03", "lr=5e-06", "lora_dropout=0.1", "group=false", "epochs=2", "shape.hidden_size=16"],
        ["f-dpo", "divergence=js", "beta=1e-05", "max_prompt=3", "data=a b.jsonl,c.jsonl", "threshold=2.5"],
        ["ppo", "kl_target=6", "passes=2", "critic=head", "max_grad_norm=0.5", "ratio_clip=0.3"],
        ["toysteer/base"],
        ["una-online/ppo"],
        ["iupo/gpt2-shp-js-printed"],
    ],
)
def test_a_config_s_settings_make_it_again(given):
    config = resolve(given[0], given[1:])
    assert resolve(config.method, config.settings()) == config
    assert resolve("dpo").settings() == []


# ---- files of one's own


def test_a_file_of_one_s_own_is_a_recipe(written):
    file = written("mine.yaml", "method: kto\nlr: 3e-5\nbatch: 8\nbeta: 0.5\nshape: {hidden_size: 64}\nrows:\n")
    expected = Config(method="kto", lr=3e-5, batch=8, loss_kwargs={"beta": 0.5}, shape={"hidden_size": 64})
    assert resolve(file) == resolve(file=file) == expected
    assert resolve(file, ["lr=0.1"], batch=4) == Config(**expected.to_dict() | {"lr": 0.1, "batch": 4})


def test_a_file_stands_on_top_of_the_method_or_recipe_beside_it(written):
    file = written("mine.yaml", "lr: 0.25\n")
    assert resolve("ipo", file=file) == Config(method="ipo", lr=0.25)
    assert resolve("una-offline/kto", file=file) == Config(**resolve("una-offline/kto").to_dict() | {"lr": 0.25})


def test_a_file_extends_a_recipe_or_the_file_beside_it(written, tmp_path):
    written("parent.yaml", "extends: una-offline/dpo\nlr: 0.5\nbeta: 0.5\n")
    file = written("child.yaml", "extends: parent.yaml\nlr: 0.25\n")
    before = resolve("una-offline/dpo").to_dict()
    assert resolve(file) == Config(**before | {"lr": 0.25, "loss_kwargs": {"beta": 0.5}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: dpo\nlr: fast\n", "lr: expected a number at least 0 or null, got 'fast'"),
        ("method: dpo\nbeta: 0\n", "beta: expected a number above 0, got 0.0"),
        ("method: dpo\nstepz: 3\n", "stepz: unknown key of dpo; did you mean steps?"),
        ("method: dpo\nshape: {hiden_size: 3}\n", "got 'hiden_size'; did you mean hidden_size?"),
        ("method: dpo\nshape: 3\n", "shape: expected names with values, each a whole number at least 1, got 3"),
        ("method: dpoo\n", "method: expected a method, got 'dpoo'; did you mean dpo?"),
        ("method: [dpo]\n", "method: expected a method, got ['dpo']"),
        ("lr: 0.1\n", "method: expected the name of a method, got none. Fix: add method: NAME"),
        ("- dpo\n", "expected key: value lines, got list"),
        ("", "expected key: value lines, got NoneType"),
        ("method: {\n", "expected a readable YAML file, got: while parsing"),
        ("method: dpo\nextends: una-offline/dpp\n", "extends: expected a recipe or a .yaml file, got 'una-off"),
        ("extends: una-offline/dpp\n", "did you mean una-offline/dpo?"),
        ("extends: 3\n", "extends: expected the name of a recipe or a .yaml file, got 3"),
    ],
)  # fmt: skip
def test_an_error_in_a_file_names_file_and_key(text, message, written, capsys):
    file = written("mine.yaml", text)
    assert main(["train", "--config", file]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"una-ref: {file}: ") and message in said and said.count("\n") == 1


def test_a_missing_file_is_named_with_its_neighbour(written, tmp_path, capsys):
    near = written("mine.yaml", "method: dpo\n")
    for words in (["--config", near[:-6] + ".yaml"], [near[:-6] + ".yaml"]):
        assert main(["train", *words]) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path}/min.yaml: expected a YAML file, got no such file; did you mean {near}?" in said


def test_a_circle_of_files_is_refused(written):
    written("a.yaml", "extends: b.yaml\n")
    file = written("b.yaml", "extends: a.yaml\n")
    with pytest.raises(InputError, match=r"a.yaml: extends: expected no circle, got .*b.yaml -> .*a.yaml -> .*b.yaml$"):
        resolve(file)


@pytest.mark.parametrize(("text", "key"), [("method: kto\n", "method"), ("extends: una-offline/kto\n", "extends")])
def test_a_file_and_the_command_do_not_both_name_the_method(text, key, written):
    with pytest.raises(InputError, match=f"{key}: expected none beside `train dpo`, got one"):
        resolve("dpo", file=written("mine.yaml", text))


def test_what_is_trained_has_to_be_named():
    with pytest.raises(InputError, match="train: expected a method, a recipe or --config FILE, got none"):
        resolve()


# ---- recipes


PAPERS = [name for name in recipes() if "stages" not in recipe(name) and name.startswith(("iupo/", "una-"))]
SMOLLM2 = [name for name in recipes() if name.startswith("smollm2/")]
ONLINE_PAPERS = [name for name in PAPERS if name.startswith("una-online/")]


def test_what_recipes_share_is_no_recipe():
    assert not set(SHARED) & set(recipes())
    for name in SHARED:
        with pytest.raises(InputError, match=f"train {name}: expected a method, a recipe"):
            resolve(name)


UNA_OFFLINE = {
    "method": "dpo",
    "data": "nvidia/HelpSteer2",
    "model": "mistralai/Mistral-7B-v0.1",
    "max_prompt": 1024,
    "epochs": 2.0,
    "batch": 8,
    "lr": 5e-6,
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "held_out": 0.02,
    "save_every": 1000,
    "log_every": 50,
    "loss_kwargs": {"beta": 0.03},
}
UNA_ONLINE = {
    "method": "una-online",
    "data": "nvidia/HelpSteer2",
    "model": "mistralai/Mistral-7B-Instruct-v0.1",
    "reward": "Ray2333/GRM-Llama3.2-3B-rewardmodel-ft",
    "max_prompt": 512,
    "max_response": 1024,
    "max_length": 1536,
    "batch": 64,
    "samples": 1,
    "passes": 1,
    "steps": 20000,
    "lr": 3e-6,
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "held_out": 0.02,
    "eval_every": 1000,
    "loss_kwargs": {"beta": 30.0},
}
PPO_LOSS = {
    "beta": 10.0,
    "ratio_clip": 0.2,
    "value_clip": 0.2,
    "value_weight": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
    "whiten": 1.0,
    "ptx": 0.0,
}
IUPO = {
    "method": "sft",
    "data": "Anthropic/hh-rlhf",
    "empty": "drop",
    "model": "openai-community/gpt2",
    "epochs": 1.0,
    "max_length": 512,
    "batch": 64,
    "lr": 1e-5,
    "schedule": "constant",
    "max_grad_norm": 10.0,
    "lora_r": 0,
    "micro_tokens": 8192,
    "held_out": 0.02,
    "eval_every": 200,
    "save_every": 200,
}


def aligned(data, **more):
    """The stages of UPO's experiment after SFT."""
    return {"method": "iupo", "model": f"runs/iupo-gpt2-{data}-sft", "lr": 1e-6, "loss_kwargs": {"beta": 0.1}} | more


JS = {"loss_kwargs": {"beta": 0.1, "divergence": "js"}}
EXPECTED = {
    "una-offline/dpo": UNA_OFFLINE,
    "una-offline/kto": UNA_OFFLINE | {"method": "kto"},
    "una-offline/una-binary-mse": UNA_OFFLINE | {"method": "una-binary-mse", "loss_kwargs": {"beta": 0.01}},
    "una-offline/una-binary-bce": UNA_OFFLINE | {"method": "una-binary-bce", "loss_kwargs": {"beta": 0.01}},
    "una-offline/una-score": UNA_OFFLINE | {"method": "una-score", "form": "released", "lr": 3e-5},
    "una-offline/una-score-equal-lr": UNA_OFFLINE | {"method": "una-score", "form": "released"},
    "una-offline/una-centred": UNA_OFFLINE | {"method": "una-centred"},
    "una-online/una-online": UNA_ONLINE,
    "una-online/ppo": UNA_ONLINE | {"method": "ppo", "passes": 4, "value_lr": 3e-6, "loss_kwargs": PPO_LOSS},
    "una-online/rloo": UNA_ONLINE
    | {"method": "rloo", "batch": 16, "samples": 4, "passes": None, "loss_kwargs": {"beta": 10.0}},
    "una-online/una-centred": UNA_ONLINE | {"method": "una-centred", "online": True, "batch": 16, "samples": 4},
    "iupo/gpt2-hh-sft": IUPO,
    "iupo/gpt2-hh-ipo": IUPO | aligned("hh", method="ipo"),
    "iupo/gpt2-hh-js": IUPO | aligned("hh", **JS),
    "iupo/gpt2-hh-js-printed": IUPO | aligned("hh", form="printed", **JS),
    "iupo/gpt2-shp-sft": IUPO | {"data": "stanfordnlp/SHP"},
    "iupo/gpt2-shp-ipo": IUPO | {"data": "stanfordnlp/SHP"} | aligned("shp", method="ipo"),
    "iupo/gpt2-shp-js": IUPO | {"data": "stanfordnlp/SHP"} | aligned("shp", **JS),
    "iupo/gpt2-shp-js-printed": IUPO | {"data": "stanfordnlp/SHP"} | aligned("shp", form="printed", **JS),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_s_recipe_is_this_config(name):
    values = {key: getattr(Config, key, None) for key in EXPECTED[name]} | EXPECTED[name]
    defaults = Config(method=values["method"]).to_dict()
    assert changed(name) == {k: v for k, v in values.items() if k == "method" or v != defaults[k]}


def test_templates_of_recipes_are_theirs():
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    said = {name: rendered(resolve(name).template, turns) for name in PAPERS}
    for name, text in said.items():
        family = "shp" if "-shp-" in name else name.partition("/")[0]
        assert text == {"una-offline": "<s>[INST] Q [/INST]A</s>", "shp": "\n\nHuman: Q\n\nAssistant: A"}.get(
            family, ""
        )


def rendered(template, messages):
    from jinja2 import Template

    return Template(template).render(messages=messages, bos_token="<s>", eos_token="</s>")


def test_the_papers_online_runs_ask_for_as_many_rewards_in_a_step():
    assert ONLINE_PAPERS == ["una-online/ppo", "una-online/rloo", "una-online/una-centred", "una-online/una-online"]
    for config in map(resolve, ONLINE_PAPERS):
        assert config.on_policy and config.batch * config.samples_per_prompt == 64
        assert config.max_prompt + config.max_response == config.max_length


@pytest.mark.parametrize("data", ["hh", "shp"])
def test_the_stages_of_upo_s_experiment_hold_out_the_same_rows(data):
    stages = [resolve(f"iupo/gpt2-{data}-{name}") for name in ("sft", "ipo", "js", "js-printed")]
    assert len({(c.data, c.seed, c.held_out, c.template) for c in stages}) == 1
    assert {c.model for c in stages[1:]} == {output_of(f"iupo/gpt2-{data}-sft")}
    assert resolve(f"iupo/gpt2-{data}-js", ["beta=0.5"]).loss_kwargs == {"divergence": "js", "beta": 0.5}


SOURCES = re.compile(r"\bpaper|\bmeasured\b|\bcode\b|\bnotebook\b|\bauthors\b|\bthe sum of the two\b")


def entries(name):
    """Each key of one recipe's own file with the lines that belong to it."""
    text = (ROOT / f"{name}.yaml").read_text("utf-8")
    body = text[re.search(r"^\w+:", text, flags=re.MULTILINE).start() :]
    return {entry.partition(":")[0]: entry for entry in re.split(r"\n(?=\w+:)", body)}


@pytest.mark.parametrize("name", [*PAPERS, *SMOLLM2, *SHARED])
def test_every_value_of_a_paper_s_recipe_has_its_source(name):
    for key, entry in entries(name).items():
        comment = entry.partition("#")[2]
        assert key == "extends" or SOURCES.search(comment) or comment.lstrip().startswith("ours"), entry


@pytest.mark.parametrize("name", [*PAPERS, *SMOLLM2, *SHARED])
def test_a_recipe_repeats_nothing(name):
    own = entries(name)
    parent = own.pop("extends", "").removeprefix("extends:").partition("#")[0].strip()
    above = recipe(parent) if parent else {}
    for key, value in recipe(name).items():
        if key in own:
            assert key not in above or above[key] != value, f"{key} as in {parent}"
            source = SOURCES.search(own[key].partition("#")[2])
            assert source or key in above or getattr(Config, key, None) != value, f"{key} is the default"


SMOLLM2_SHARED = {
    "model": "smollm2",
    "data": "nvidia/HelpSteer2",
    "rows": 600,
    "max_prompt": 256,
    "max_response": 192,
    "batch": 8,
    "micro_tokens": 1024,
    "steps": 64,
    "lr": 1e-4,
}
SMOLLM2_ONLINE = SMOLLM2_SHARED | {"reward": "runs/smollm2-reward-model", "max_response": 64}
SMOLLM2_ONLINE_METHODS = {
    "rloo": {"method": "rloo"},
    "una-online": {"method": "una-online"},
    "una-centred-online": {"method": "una-centred", "online": True},
    "ppo": {"method": "ppo"},
}


def test_the_recipes_of_smollm2_differ_in_the_method_alone():
    for name in SMOLLM2:
        method = name.partition("/")[2]
        online = SMOLLM2_ONLINE_METHODS.get(method)
        expected = SMOLLM2_ONLINE | online if online else SMOLLM2_SHARED | {"method": method}
        assert changed(name) == expected
    assert {name.partition("/")[2] for name in SMOLLM2} > SMOLLM2_ONLINE_METHODS.keys()
    assert output_of("smollm2/reward-model") == SMOLLM2_ONLINE["reward"]


def test_config_file_with_another_ending_is_refused(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"run.json: expected a YAML file, got another name. Fix: name it .yaml"):
        resolve("dpo", file=str(path))
