"""Everything that a training run is told, in one frozen record that is saved with its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from typing import Any, Literal

from una_ref.errors import InputError, near
from una_ref.methods import METHODS, Method
from una_ref.methods.method import Keep
from una_ref.methods.rewards import divergence_of
from una_ref.theory.divergences import DIVERGENCES

RANGES = {
    "rows": (1, math.inf),
    "vocabulary": (1, math.inf),
    "steps": (1, math.inf),
    "epochs": (0, math.inf),
    "seed": (0, 2**32 - 1),
    "batch": (1, math.inf),
    "micro_tokens": (1, math.inf),
    "lr": (0, math.inf),
    "warmup": (0, 1),
    "weight_decay": (0, math.inf),
    "clip": (0, math.inf),
    "lora_r": (0, math.inf),
    "lora_alpha": (0, math.inf),
    "lora_dropout": (0, 1),
    "max_length": (2, math.inf),
    "max_response": (1, math.inf),
    "max_prompt": (1, math.inf),
    "draws": (1, math.inf),
    "passes": (1, math.inf),
    "minibatches": (1, math.inf),
    "replay": (0, math.inf),
    "temperature": (0.01, math.inf),
    "missing_eos_penalty": (0, math.inf),
    "kl_target": (0, math.inf),
    "kl_horizon": (1, math.inf),
    "patience": (0, math.inf),
    "value_lr": (0, math.inf),
    "log_every": (1, math.inf),
    "eval_every": (0, math.inf),
    "save_every": (0, math.inf),
}
"""Lowest and highest value of each number; infinity itself is none."""

TOYSTEER = ("toysteer", *(f"toysteer/{kind}" for kind in ("pairs", "labels", "scores", "demonstrations")))
"""What `Config.data` may say of the embedded world; alone it is two responses of a prompt with their ratings."""

GROUPS = {
    "form": "method",
    "data": "data",
    "model": "model",
    "output": "run",
    "lr": "optimizer",
    "dtype": "weights and adapter",
    "max_length": "texts",
    "threshold": "feedback",
    "online": "online",
    "baseline": "V(x)",
    "log_every": "log, evaluations, checkpoints",
}
"""The first key of each group, in the order of the fields, and what the group is about."""

ONLINE = (
    *("draws", "engine", "merge", "reward", "temperature", "missing_eos_penalty", "passes", "minibatches"),
    *("replay", "critic", "kl_target", "kl_horizon"),
)
"""The keys that only mean something if the responses are drawn."""

SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "sliding_window",
)
"""What `Config.shape` may say of a model made here."""


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        method: a name in `METHODS`.
        form: the corrected loss, or the one `printed` in the paper or `released` by its authors, if they differ.
        data: files, patterns of files, folders, hub names or - for standard input (comma-separated), or toysteer
            (ratings), toysteer/pairs, toysteer/labels, toysteer/scores, toysteer/demonstrations. Online, prompts alone
            will do.
        split: split of a hub data set.
        rows: most rows to read of each file or data set; for ToySteer how many to draw.
        empty: what a response without text is: an error, a row to drop, or one to keep (it ended at once).
        held_out: share of prompts kept for evaluation, if that is at least two.
        model: a folder or hub name; empty: ToySteer's base, or a small Mistral and a BPE tokenizer made from
            the data.
        shape: sizes of a model made here, in MistralConfig's names, such as shape.hidden_size=64.
        vocabulary: most tokens of a tokenizer made here.
        output: folder of the result.
        steps: optimizer steps.
        epochs: passes over the data, instead of steps.
        seed: of the adapter, the order of the data and dropout.
        batch: rows (prompts with their responses) a step, over all processes.
        micro_tokens: most tokens in one forward pass, pads included; the gradient does not depend on it.
        layout: packed, padded, or what the model takes best.
        reference: log-probs of the reference in every step, or once for all rows before the first and for all runs
            (cache): kept in the cache folder, by the content of model, tokenizer, template and row.
        reference_model: a second model as the reference, a folder or hub name with the same vocabulary; empty: the
            model that training starts from.
        lr: peak learning rate.
        warmup: share of the steps in which it rises.
        schedule: how it falls.
        weight_decay: AdamW's.
        clip: largest gradient norm; 0 turns clipping off.
        dtype: of the frozen weights; what is trained is float32 at least.
        load_in_4bit: QLoRA: the frozen weights in 4 bits (NF4), by bitsandbytes on CUDA (una_ref[qlora]); dtype is then
            what computes.
        lora_r: rank; 0 trains every weight.
        lora_alpha: LoRA's scale is alpha / r.
        lora_dropout: on LoRA's input. The model's own dropout is off.
        lora_targets: module names, comma-separated, or all-linear.
        gradient_checkpointing: recompute activations in the backward pass.
        template: a chat template (Jinja) in place of the tokenizer's own, and saved with it; a prompt of plain text is
            then one user turn.
        max_length: most tokens of a prompt with one response (or the model's positions, if fewer).
        max_response: most tokens of a response, if fewer.
        max_prompt: prompts of more tokens are left out, with all that is said of them.
        split_special_tokens: the name of a special token (</s>, say) in a prompt or a response is text; false: it is
            the token, for texts that have been through a template already.
        threshold: score that makes a label up, or median (per prompt).
        ties: what equal scores become when pairs are asked for.
        group: gather rows of one response by prompt: stored once, and its responses can be compared.
        shuffle: permute scores or labels over the data set (the placebo).
        online: draw the responses from the policy as it is, in every step, and have `reward` score them; so do the
            methods whose samples are from the current policy, always.
        draws: responses drawn of each prompt in a step, if online. (All keys from here to kl_horizon ask for that.)
        engine: what draws: hf, the model in hand by transformers' generate; or vllm, a second copy of its base with
            the adapter as it is, on a GPU.
        merge: with hf, the adapter is merged into its weights while responses are drawn: auto, where that keeps the
            log-probs (bfloat16 rounds a young adapter away) and responses are long enough for it to pay; or never.
        reward: what scores them: toysteer (its truth, for its own prompts), module:function, a folder or hub name
            of a sequence-classification model, or judge:MODEL@http://host:port/v1, an LLM that compares them; several,
            comma-separated, are averaged.
        temperature: of the sampler; other than 1 only where samples of another policy do no harm. For iterative-dpo
            that of the enhancer, which draws every second response.
        missing_eos_penalty: taken from the score of a response that was cut before it ended.
        passes: over each rollout; default: 4 for ppo, otherwise 1.
        minibatches: optimizer steps in each pass.
        replay: steps whose rows are kept and drawn from again. Right for losses with V(x), where the policy class has
            the optimum in it, or the buffer forgets; Eq. 10 (una-online) is wrong off policy, in later passes as well.
        critic: a transformer of its own, or a head on the policy's hidden states; for methods that value tokens.
        kl_target: KL(π ‖ π_ref) in nats that β is steered to (PPO); 0 leaves β as it is.
        kl_horizon: responses over which it is steered.
        baseline: V(x) of methods that take one: default (the method's own), or learned (a number per prompt).
        value_lr: learning rate of a learned V(x), by default .05, or of a critic, by default lr.
        log_every: steps between lines of metrics.jsonl.
        eval_every: steps between evaluations on the held-out rows; 0: only before the first and after the last.
        patience: evaluations without a better held-out reward (offline: loss) after which a run stops; 0: none.
        save_every: steps between checkpoints; 0: only when interrupted.
        tracker: what is given the lines of metrics.jsonl as well; its package is to be installed (una_ref[trackers]).
        hyper: the loss's own hyper-parameters, such as beta.
    """

    method: str
    form: Literal["corrected", "printed", "released"] = "corrected"
    data: str = "toysteer"
    split: str = "train"
    rows: int | None = None
    empty: Literal["error", "drop", "keep"] = "error"
    held_out: float = 0.1
    model: str = ""
    shape: dict[str, int] = field(default_factory=dict)
    vocabulary: int = 2048
    output: str = ""
    steps: int = 200
    epochs: float | None = None
    seed: int = 0
    batch: int = 32
    micro_tokens: int = 4096
    layout: Literal["auto", "packed", "padded"] = "auto"
    reference: Literal["step", "cache"] = "step"
    reference_model: str = ""
    lr: float = 1e-3
    warmup: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    load_in_4bit: bool = False
    lora_r: int = 32
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"
    gradient_checkpointing: bool = False
    template: str = ""
    max_length: int = 2048
    max_response: int | None = None
    max_prompt: int | None = None
    split_special_tokens: bool = True
    threshold: str = "median"
    ties: Literal["drop", "keep-first"] = "drop"
    group: bool = True
    shuffle: bool = False
    online: bool = False
    draws: int = 4
    engine: Literal["hf", "vllm"] = "hf"
    merge: Literal["auto", "never"] = "auto"
    reward: str = "toysteer"
    temperature: float = 1.0
    missing_eos_penalty: float = 0.0
    passes: int | None = None
    minibatches: int = 1
    replay: int = 0
    critic: Literal["separate", "head"] = "separate"
    kl_target: float = 0.0
    kl_horizon: int = 10000
    baseline: Literal["default", "learned"] = "default"
    value_lr: float | None = None
    log_every: int = 10
    eval_every: int = 0
    patience: int = 0
    save_every: int = 100
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    hyper: dict[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not run, before anything begins."""
        method = METHODS[self.method]
        if self.form != "corrected" and getattr(method, self.form) is None:
            raise InputError(f"form: {self.method} has no {self.form} form that differs from the corrected one")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                upto = "" if high == math.inf else f" to {high}"
                raise InputError(f"{name}: expected a number from {low}{upto}, got {value!r}")
        if self.online and sampled_kind(method) not in method.losses:
            hint = "; iterative-dpo makes pairs of what it draws" if "pairs" in method.losses else ""
            raise InputError(f"online: expected a method that learns from scores, got {self.method}{hint}")
        self._check_online(method)
        if self.load_in_4bit and not (self.model and self.lora_r):
            got = "no model" if self.lora_r else "lora_r=0"
            raise InputError(f"load_in_4bit: expected a model to load, and adapters to train beside it, got {got}")
        if self.load_in_4bit and (method.scorer or method.advantages):
            why = "whose adapters are merged at the end" if method.scorer else "whose critic is a copy of the model"
            raise InputError(f"load_in_4bit: expected another method than {self.method}, {why}")
        if self.load_in_4bit and self.engine == "vllm":
            raise InputError("load_in_4bit: expected engine=hf, got vllm, which would draw from the weights as saved")
        if self.reference_model and not method.needs_reference:
            raise InputError(f"reference_model: expected none, as {self.method} has no reference, got one")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out: expected a share in [0, 1), got {self.held_out!r}")
        if self.data.partition("/")[0] == "toysteer" and self.data not in TOYSTEER:
            raise InputError(f"data {self.data}: unknown{near(self.data, TOYSTEER)}; expected {', '.join(TOYSTEER)}")
        if self.threshold != "median":
            _number("threshold", self.threshold, "a finite number or median")
        for name in self.shape:
            if name not in SHAPE:
                raise InputError(f"shape.{name}: unknown{near(name, SHAPE)}; expected {', '.join(SHAPE)}")
        known = method.hyperparameters
        for name, value in self.hyper.items():
            if name not in known:
                raise InputError(f"{name}: {self.method} takes {', '.join(known) or 'none'}{near(name, known)}")
            if name == "beta" and not (isinstance(value, int | float) and value > 0):
                raise InputError(f"beta: expected a number above 0, got {value!r}")
            if name == "label_smoothing" and not (isinstance(value, int | float) and 0 <= value < 0.5):
                raise InputError(f"label_smoothing: expected a number from 0 and below 0.5, got {value!r}")
        if "divergence" in known:
            self._check_divergence(**{name: self.hyper.get(name, known[name]) for name in ("divergence", "alpha")})

    def _check_online(self, method: Method) -> None:
        """Refuse what only online runs take, and what this method's samples must not be."""
        changed = [name for name in ONLINE if getattr(self, name) != getattr(Config, name)]
        if changed and not self.on_policy:
            how = "add --online" if "scores" in method.losses else "iterative-dpo and others draw theirs"
            raise InputError(f"{changed[0]}: {self.method} asks it online only; {how}")
        tokens = method.advantages is not None
        for name in changed:
            expected = {
                "critic": tokens or "a method that values tokens, such as ppo",
                "kl_target": tokens or "a method whose β stands outside its loss, such as ppo",
                "temperature": not method.on_policy_only or f"1, since {self.method} is right on policy only",
                "replay": method.reuse == "replay" or "0, since its gradient is of the policy that drew",
                "passes": method.reuse != "none" or "1, since its gradient is of the policy that drew",
                "minibatches": method.reuse != "none" or "1, since its gradient is of the policy that drew",
            }.get(name, True)
            if expected is not True:
                raise InputError(f"{name}: {self.method}: expected {expected}, got {getattr(self, name)!r}")
        if self.kl_target and self.batch * self.draws >= 5 * self.kl_horizon:
            least = self.batch * self.draws // 5 + 1
            raise InputError(
                f"kl_horizon: expected {least} or more for {self.batch * self.draws} responses a step, or β could fall "
                f"below 0, got {self.kl_horizon}"
            )
        if self.keep == "best_and_worst" and self.on_policy and self.draws < 2:
            raise InputError(
                f"draws: {self.method}: expected two or more, to have a best and a worst, got {self.draws}"
            )
        if self.patience and not self.eval_every:
            raise InputError("patience: expected evaluations to count (eval_every), got none")

    @staticmethod
    def _check_divergence(divergence: Any, alpha: Any) -> None:
        if divergence == "tv":
            raise InputError("divergence=tv: expected one that can be trained; f′ of tv is flat, there is no gradient")
        known = [name for name in DIVERGENCES if name != "tv"]
        if divergence not in known:
            hint = near(str(divergence), known)
            raise InputError(f"divergence: expected one of {', '.join(known)}, got {divergence!r}{hint}")
        try:
            divergence_of(divergence, alpha)
        except ValueError as error:
            raise InputError(str(error)) from None

    @property
    def beta(self) -> float:
        """The β that implicit rewards are reported with: the one set, or the loss's default."""
        return float(self.hyper.get("beta", METHODS[self.method].hyperparameters.get("beta", 1.0)))

    @property
    def weights_dtype(self) -> str:
        """What the model is loaded in: without adapters the weights are trained, and bfloat16 is too coarse to add
        small steps in.
        """
        return "float32" if self.dtype == "bfloat16" and not self.lora_r else self.dtype

    @property
    def on_policy(self) -> bool:
        """Whether the responses are drawn from the policy under training."""
        return self.online or METHODS[self.method].source == "policy"

    @property
    def keep(self) -> Keep:
        """Which sampled responses of a prompt are trained on."""
        return METHODS[self.method].keep

    @property
    def updates(self) -> tuple[int, int]:
        """Passes over a rollout, and optimizer steps in each."""
        own = 4 if METHODS[self.method].advantages else 1
        return self.passes or own, self.minibatches

    @property
    def losses(self) -> dict[str, Callable[..., Any]]:
        """The loss of each kind of feedback, in the form asked for."""
        method = METHODS[self.method]
        losses = dict(method.losses) if self.form == "corrected" else {method.kinds[0]: getattr(method, self.form)}
        if self.on_policy:
            kind = sampled_kind(method)
            losses = {kind: losses[kind]}
        return losses

    @property
    def auxiliary(self) -> dict[str, Callable[..., Any]]:
        """The auxiliary loss by its kind of feedback, if its weight is not 0."""
        extra = METHODS[self.method].auxiliary
        return {extra.kind: extra.loss} if extra and self.hyper.get(extra.weight) else {}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as saved in `run.json`."""
        return asdict(self)

    def changed(self) -> dict[str, Any]:
        """The method, and of the rest what differs from the defaults."""
        defaults = Config(method=self.method).to_dict()
        return {k: v for k, v in self.to_dict().items() if k == "method" or v != defaults[k]}

    def settings(self) -> list[str]:
        """What is `changed`, as key=value; `resolve(method, settings)` is this config."""
        out = []
        for key, value in self.changed().items():
            if isinstance(value, dict):
                prefix = "" if key == "hyper" else f"{key}."
                out += [f"{prefix}{name}={own}" for name, own in value.items()]
            elif key != "method":
                out.append(f"{key}={value}")
        return out


def sampled_kind(method: Method) -> str:
    """The kind of feedback that sampled and scored responses become."""
    if method.keep == "all":
        return "scores" if "scores" in method.losses or "lists" not in method.losses else "lists"
    return "pairs" if method.keep == "best_and_worst" else "demos"


def recipe(name: str) -> dict[str, Any] | None:
    """The values of a recipe such as ``toysteer/base``, or None where there is none of that name."""
    import yaml

    if name not in recipes():
        return None
    return yaml.safe_load((resources.files(__package__) / "recipes" / f"{name}.yaml").read_text("utf-8"))


def recipes() -> list[str]:
    """Names of all recipes."""
    folders = (d for d in (resources.files(__package__) / "recipes").iterdir() if d.is_dir())
    files = ((d.name, f.name) for d in folders for f in d.iterdir())
    return sorted(f"{folder}/{file.removesuffix('.yaml')}" for folder, file in files if file.endswith(".yaml"))


def output_of(what: str) -> str:
    """Where the result of a method or a recipe goes unless another folder is said: a later recipe begins there."""
    return f"runs/{what.replace('/', '-')}"


def resolve(what: str, settings: Iterable[str] = (), **options: Any) -> Config:
    """A method's name or a recipe's, with options (None: not given) and key=value settings on top.

    Raises:
        InputError: unknown name or key (with the near one), or a value of the wrong type.
    """
    start = recipe(what)
    if start is None:
        known = [*METHODS, *(alias for method in METHODS.values() for alias in method.aliases), *recipes()]
        if what not in METHODS:
            raise InputError(
                f"train {what}: expected a method or a recipe{near(what.lower(), known)} (`una-ref methods` "
                f"lists the methods; recipes: {', '.join(recipes())})"
            )
        start = {"method": what}
    values = start | {key: value for key, value in options.items() if value is not None}
    hyper = METHODS[values["method"]].hyperparameters
    keys = [f.name for f in fields(Config) if f.name not in ("method", "hyper")]
    typed, own = [], dict(values.get("hyper", {}))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r}: expected key=value")
        if key in hyper:
            own[key] = value if isinstance(hyper[key], str) else _number(key, value)
        elif key.partition(".")[0] in keys:
            typed.append((key, value))
        else:
            owners = [name for name, method in METHODS.items() if key in method.hyperparameters]
            some = ", ".join([*owners[:4], *["…"][: len(owners) > 4]])
            hint = f"; it is one of {some}" if owners else near(key, [*keys, *hyper])
            raise InputError(f"{key}: unknown key of {values['method']}{hint}")
    return _checked(values | {"hyper": own}, typed)


def _number(key: str, value: str, expected: str = "a finite number") -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{key}: expected {expected}, got {value!r}")
    return number


def _checked(values: Mapping[str, Any], settings: Iterable[tuple[str, str]]) -> Config:
    """The config, its values and then its settings (text) checked against the types of the fields."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        parsed = parser.parse_object(dict(values))
    except (ArgumentError, TypeError) as error:
        raise InputError(" ".join(str(error).split())) from None
    types = {f.name: str(f.type).removeprefix("Literal") for f in fields(Config)}
    for key, value in settings:
        try:
            parsed = parser.parse_args([f"--{key}={value}"], namespace=parsed)
        except (ArgumentError, TypeError):
            raise InputError(f"{key}: expected {types[key.partition('.')[0]]}, got {value!r}") from None
    plain: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(parsed).items()}
    return Config(**plain)
