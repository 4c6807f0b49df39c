"""What a config refuses beyond the type of each key: unknown names, hyper-parameters that the loss does not take, and
combinations of keys of which one would be wrong or without effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from una_ref.data.conventions import COLUMNS
from una_ref.data.toysteer import names_toysteer
from una_ref.errors import InputError, near
from una_ref.methods import probe, weighted
from una_ref.theory.divergences import DIVERGENCES
from una_ref.training.fields import SHAPE, check, hyperparameter_type, one_of

if TYPE_CHECKING:
    from una_ref.methods import Method
    from una_ref.training.config import Config

ONLINE = (
    *("samples", "engine", "merge", "reward", "temperature", "missing_eos_penalty", "passes", "minibatches"),
    *("replay", "replay_batch", "critic", "kl_target", "kl_horizon", "sample_from", "mixture", "rejection_beta"),
)
"""The keys that apply only to runs whose responses are sampled from the policy."""


TOYSTEER = ("toysteer", *(f"toysteer/{kind}" for kind in ("pairs", "labels", "scores", "demonstrations", "verdicts")))
"""The names of the embedded world's data; ``toysteer`` alone is two rated responses per prompt."""


def check_all(config: Config) -> None:
    """Every check of this module on a config whose values have the right types.

    Raises:
        InputError: the first that refuses.
    """
    check_names(config)
    check_run(config)
    check_feedback(config)
    check_loss(config)
    check_model(config)
    check_refresh(config)
    check_pairs(config)
    check_online(config)
    check_values(config)


def check_names(config: Config) -> None:
    """Refuse names that the keys `form`, `data`, `shape` and `columns` do not have."""
    if config.form != "corrected" and getattr(config.record, config.form) is None:
        what = "a sum of losses" if config.losses else config.method
        raise InputError(f"form: {what} has no {config.form} form that differs from the corrected one")
    given: dict[str, tuple[Iterable[str], Collection[str]]]
    given = {"shape": (config.shape, SHAPE), "columns": (config.columns, COLUMNS)}
    if names_toysteer(config.data):
        given = {"data": (config.data.split(","), TOYSTEER), **given}
    for key, (names, known) in given.items():
        for name in names:
            if name not in known:
                raise InputError(f"{key}: expected {one_of(known)}, got {name!r}{near(name, known)}")


def check_loss(config: Config) -> None:
    """Refuse hyper-parameters that the loss does not have, and types or divergences with which it cannot train."""
    known = config.record.hyperparameters
    for name, value in config.loss_kwargs.items():
        if name not in known:
            raise InputError(f"loss_kwargs: expected {one_of(known)}, got {name!r}{near(name, known)}")
        check(name, value, hyperparameter_type(name, known[name]))
    if config.losses and (clash := weighted.unshared(config.losses, config.loss_kwargs)):
        raise InputError(clash)
    if "divergence" in known:
        check_divergence(config.loss_kwargs, known)


def check_values(config: Config) -> None:
    """Refuse hyper-parameters that a function of the method itself refuses: each is called on example arguments."""
    advantages = config.record.advantages
    more = {"scores": advantages} if advantages else {}
    for functions in (config.losses_by_kind, more, config.auxiliary):
        for kind, function in functions.items():
            try:
                probe.call(function, kind, config.loss_kwargs)
            except ValueError as error:
                raise InputError(f"{config.method}: {error}") from None


def check_divergence(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse divergences that are not known or have no gradient, and a parameter of another divergence."""
    divergence = given.get("divergence", defaults["divergence"])
    if divergence == "tv":
        raise InputError("divergence=tv: expected one with a gradient, got tv, whose f′ is constant on each side")
    trainable = [name for name in DIVERGENCES if name != "tv"]
    if divergence not in trainable:
        hint = near(str(divergence), trainable)
        raise InputError(f"divergence: expected {one_of(trainable)}, got {divergence!r}{hint}")
    if "alpha" in given and divergence != "alpha":
        raise InputError(f"alpha: expected divergence=alpha, which it is a parameter of, got divergence={divergence}")


def check_run(config: Config) -> None:
    """Refuse two answers to one question, such as the length of the warm-up, and keys that need evaluations."""
    default = type(config)
    if config.warmup_steps is not None:
        if config.warmup != default.warmup:
            raise InputError(f"warmup_steps: expected warmup={default.warmup} beside it, got {config.warmup}")
        if config.warmup_steps >= config.steps and not config.epochs:
            raise InputError(f"warmup_steps: expected fewer than steps={config.steps}, got {config.warmup_steps}")
    for key, use in (("patience", "count"), ("keep_best", "compare")):
        if getattr(config, key) and not config.eval_every:
            raise InputError(f"{key}: expected evaluations to {use}, got eval_every=0. Fix: set eval_every")
    if not config.eval_data:
        return
    if names_toysteer(config.data) or names_toysteer(config.eval_data):
        raise InputError("eval_data: expected files beside files, got ToySteer, which samples its own held-out rows")
    if config.held_out != default.held_out:
        raise InputError(
            f"held_out: expected its default beside eval_data, got {config.held_out}. Fix: leave one of them out"
        )


def check_model(config: Config) -> None:
    """Refuse models that cannot be loaded or used by this method."""
    method = config.record
    if config.reference_model and not method.needs_reference:
        raise InputError(f"reference_model: expected none, since {config.method} has no reference, got one")
    if config.second_reference_model and not config.needs_second_reference:
        raise InputError(
            f"second_reference_model: expected none, since {config.method} has no second reference, got one"
        )
    if config.l1 and not config.lora_r:
        raise InputError("l1: expected LoRA adapters, whose change of the weights it penalises, got lora_r=0")
    if not config.load_in_4bit:
        return
    if not (config.model and config.lora_r):
        got = "no model" if config.lora_r else "lora_r=0"
        raise InputError(f"load_in_4bit: expected a model to load, with adapters to train, got {got}")
    if method.scorer or method.advantages:
        why = "whose adapters are merged at the end" if method.scorer else "whose critic is a copy of the model"
        raise InputError(f"load_in_4bit: expected another method than {config.method}, {why}")
    if config.engine == "vllm":
        raise InputError("load_in_4bit: expected engine=hf, got vllm, which samples from the unquantised weights")


def check_refresh(config: Config) -> None:
    """Refuse a moving reference where there is none, or where its log-probs or weights are fixed."""
    if config.refresh_mix != 1 and not config.refresh:
        raise InputError("refresh_mix: expected a reference that moves, got refresh_every=0. Fix: set refresh_every")
    if not config.refresh:
        return
    if not config.record.needs_reference:
        raise InputError(f"refresh_every: expected 0, since {config.method} has no reference, got {config.refresh}")
    if config.reference == "cache":
        raise InputError(
            "reference=cache: expected a reference that stays the same, got one that moves. "
            "Fix: reference=step, or refresh_every=0"
        )
    if config.reference_model:
        raise InputError(
            "reference_model: expected none, since the reference moves to the policy, got one. Fix: refresh_every=0"
        )


def check_feedback(config: Config) -> None:
    """Refuse a kind of feedback that the method does not have, or that nothing would become."""
    if config.learn_from == "any":
        return
    kinds = [*config.record.losses] if config.form == "corrected" else [config.record.kinds[0]]
    if config.on_policy:
        raise InputError(f"learn_from: applies to given responses, got {config.learn_from} for sampled ones")
    if config.learn_from not in kinds:
        form = "" if config.form == "corrected" else f" in form={config.form}"
        raise InputError(
            f"learn_from: {config.method}{form}: expected any, {', '.join(kinds)}, got {config.learn_from}"
        )


def check_pairs(config: Config) -> None:
    """Refuse a choice of pairs where sampled responses become pairs in the method's own way."""
    if config.on_policy and config.pairs != "best-worst":
        raise InputError(
            f"pairs: applies to given responses, got {config.pairs}. Of sampled ones, {config.method} keeps its own"
        )


def sampled_kind(method: Method) -> str:
    """The kind of feedback that sampled and scored responses become."""
    if method.keep == "all":
        return "scores" if "scores" in method.losses or "lists" not in method.losses else "lists"
    return "demos" if method.keep == "best" else "pairs"


def check_online(config: Config) -> None:
    """Refuse keys of online runs in offline ones, and sampling with which the method would be wrong."""
    method = config.record
    if config.online and (method.scorer or sampled_kind(method) not in method.losses):
        hint = ". Fix: use iterative-dpo, which makes pairs of its samples" if "pairs" in method.losses else ""
        raise InputError(f"online: expected a method that learns from scores, got {config.method}{hint}")
    network = {"critic"} if config.baseline == "network" else set()
    changed = [name for name in ONLINE if getattr(config, name) != getattr(type(config), name) and name not in network]
    if changed and not config.on_policy:
        fix = "add --online" if "scores" in method.losses else "use an online method, such as iterative-dpo"
        raise InputError(f"{changed[0]}: applies only to online runs, and {config.method} is offline. Fix: {fix}")
    tokens = method.advantages is not None
    for name in changed:
        expected = {
            "critic": tokens or "a method that values tokens, such as ppo",
            "kl_target": tokens or "a method whose β stands outside its loss, such as ppo",
            "temperature": not method.on_policy_only or f"1, since {config.method} is right on policy only",
            "replay": method.reuse == "replay" or "0, since its gradient holds for fresh samples only",
            "passes": method.reuse != "none" or "1, since its gradient holds for fresh samples only",
            "minibatches": method.reuse != "none" or "1, since its gradient holds for fresh samples only",
            "sample_from": not (method.on_policy_only and config.sample_from == "reference")
            or f"policy, since {config.method} is right on policy only",
            "mixture": method.rivals == "mixture" or "a method with rivals from a mixture, such as nash-md",
            "rejection_beta": method.keep == "rejection" or "a method with rejection sampling, such as rso",
        }.get(name, True)
        if expected is not True:
            raise InputError(f"{name}: {config.method}: expected {expected}, got {getattr(config, name)!r}")
    if config.replay_batch and not config.replay:
        raise InputError(
            f"replay_batch: expected replay of at least 1 beside it, got {config.replay_batch} and replay=0"
        )
    responses = config.batch * config.samples_per_prompt
    if config.kl_target and responses >= 5 * config.kl_horizon:
        raise InputError(
            f"kl_horizon: expected at least {responses // 5 + 1} for {responses} responses a step, "
            f"or β could fall below 0, got {config.kl_horizon}"
        )
    in_pairs = {"best_and_worst": "a best and a worst response", "rejection": "two accepted responses"}
    least = in_pairs.get(config.keep) or ("responses that are rivals" if config.rivals == "samples" else "")
    if least and config.on_policy and config.samples_per_prompt < 2:
        raise InputError(f"samples: {config.method}: expected two or more, {least}, got {config.samples_per_prompt}")
    if config.engine == "vllm" and (config.source == "reference" or config.rivals == "mixture"):
        raise InputError(f"engine: {config.method}: expected hf, which samples with the reference as well, got vllm")
