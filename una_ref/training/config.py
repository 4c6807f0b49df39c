"""Everything that a training run depends on, in one frozen record that is saved with its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from una_ref.data.templates import NONE
from una_ref.methods import METHODS, Method, weighted
from una_ref.methods.arguments import Need, needs
from una_ref.methods.method import Keep, Rivals, Source
from una_ref.training import exclusions
from una_ref.training.fields import Count, CountOrZero, NonNegative, Range, Share, check
from una_ref.training.rates import default_rate


@dataclass(frozen=True)
class Config:
    """The settings of a run: one field per key of the command line, with its type, default and meaning.

    Raises:
        InputError: a value of the wrong type or out of range, or values that exclude each other.
    """

    method: str
    """The method's name in `METHODS`."""
    form: Literal["corrected", "printed", "released"] = "corrected"
    """The corrected loss, the equation as printed in the paper, or the authors' released code, where these differ."""
    losses: str = ""
    """A weighted sum of losses in place of the method's own, such as dpo:0.8,sft:0.2. Empty: the method's own."""

    data: str = "toysteer"
    """Files, quoted patterns, folders, hub names or - (standard input), separated by commas; or toysteer (ratings),
    toysteer/pairs, toysteer/labels, toysteer/scores, toysteer/demonstrations, toysteer/verdicts. Online runs need
    prompts only."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str = ""
    """Subset (configuration) of a hub data set."""
    revision: str = ""
    """Branch, tag or commit of a hub data set."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of columns in the data, such as columns.prompt=question. An empty name leaves the column out."""
    rows: Count | None = None
    """Most rows to read from each file or data set. For ToySteer: rows to sample."""
    empty: Literal["drop", "error", "keep"] = "drop"
    """How to handle rows with an empty response. drop: leave them out and count them. keep: the model answered with EOS
    alone."""
    bad_rows: Literal["error", "drop"] = "error"
    """How to handle rows that cannot be read or encoded. drop: leave them out and count them."""
    turns: Literal["all", "last"] = "all"
    """Which turns of the assistant are trained on where a response is several messages: all of them, or the last. With
    last, what stands before it is part of the prompt. Turns of a user or a tool are never trained on."""
    held_out: Annotated[float, Range(0, below=1)] = 0.1
    """Share of prompts held out for evaluation. Nothing is held out if that is fewer than two prompts."""
    eval_data: str = ""
    """Files or hub names to evaluate on, as in data, in place of held-out prompts."""

    model: str = ""
    """Folder, hub name or GGUF file; toysteer is ToySteer's base, smollm2 is SmolLM2-135M-Instruct. Empty: ToySteer's
    base where the data are ToySteer's, else a small Mistral and a BPE tokenizer made from the data."""
    shape: dict[str, Count] = field(default_factory=dict)
    """Sizes of a model made here, by the names of MistralConfig, such as shape.hidden_size=64."""
    vocabulary: Count = 2048
    """Most tokens of a tokenizer made here."""

    output: str = ""
    """Folder of the result."""
    push: str = ""
    """Repository on the Hugging Face hub, such as USER/NAME, to which the finished folder is uploaded. A new one is
    private. The command of a finished run uploads it again."""
    license: str = ""
    """Licence of the result in its model card, such as apache-2.0. Empty: none. A finished run takes it with `push`."""
    steps: Count = 200
    """Training steps. A step is one optimizer update, unless passes or minibatches ask for more."""
    epochs: NonNegative | None = None
    """Passes over the data, in place of steps."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Random seed of adapter, data order, dropout and sampling."""
    batch: Count = 32
    """Rows per step over all processes. A row is a prompt with its responses."""
    micro_tokens: Count = 4096
    """Most tokens in one forward pass, padding included. The gradient does not depend on it."""
    layout: Literal["auto", "packed", "padded"] = "auto"
    """How a batch is laid out: packed (each prompt stored once), padded, or the best layout for the model (auto)."""
    reference: Literal["step", "cache"] = "step"
    """When the reference's log-probs are computed: in each step, or once before the first step (cache). The cache is
    on disk, keyed by model, tokenizer, template and row, and shared by all runs."""
    reference_model: str = ""
    """Folder or hub name of another model as the reference, with the same vocabulary. Empty: the starting model."""
    second_reference_model: str = ""
    """Folder or hub name of the second reference of methods that have two, such as d2o. Its log-probs are computed in
    each step. Empty: the starting model."""
    refresh_every: CountOrZero | None = None
    """Steps after which the reference moves to the policy (TR-DPO). 0: never. null: the method's own number."""
    refresh_mix: Annotated[float, Range(0, 1)] = 1.0
    """Share of the policy in the new reference; 1 replaces it. LoRA mixes the factors of the adapter."""

    lr: NonNegative | None = None
    """Peak learning rate. null: 1e-3 for a model made here; for a named model 1e-4 with LoRA and 3e-6 without."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises."""
    warmup_steps: CountOrZero | None = None
    """Steps over which the learning rate rises, in place of the share. null: warmup says."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up: falling to 0 along a cosine or a line, or constant."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit: AdamW with moments in 8 bits. Needs bitsandbytes on CUDA (una_ref[qlora])."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: NonNegative = 1.0
    """Largest gradient norm; larger gradients are scaled down. 0 turns clipping off."""

    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Type of the frozen weights. Trained weights are float32 at least."""
    load_in_4bit: bool = False
    """QLoRA: frozen weights in 4 bits (NF4), computed in dtype. Needs bitsandbytes on CUDA (una_ref[qlora])."""
    lora_r: CountOrZero = 32
    """Rank of the LoRA adapters. 0 trains every weight."""
    lora_alpha: NonNegative = 16.0
    """Scale of LoRA: its output is multiplied by lora_alpha / lora_r."""
    lora_dropout: Share = 0.0
    """Dropout on the input of LoRA. The model's own dropout is always off."""
    lora_targets: str = "all-linear"
    """Names of the modules with an adapter, separated by commas, or all-linear."""
    l1: NonNegative = 0.0
    """Weight of Σ|ΔW|, the ℓ1 norm of what the LoRA adapters add to the weights (PAFT)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which saves memory."""

    max_length: Annotated[int, Range(2)] = 2048
    """Most tokens of a prompt with one response. A model with fewer positions lowers it."""
    max_response: Count | None = None
    """Most tokens of a response. Longer ones are cut."""
    max_prompt: Count | None = None
    """Most tokens of a prompt. Rows with longer prompts are dropped."""
    template: str = ""
    """Chat template (a file, or Jinja text) that replaces the tokenizer's own and is saved with it. A plain prompt is
    one user turn. none: no template, for texts that one has already formatted."""
    split_special_tokens: bool | None = None
    """true: names of special tokens in your data (such as </s>) are plain text. false: they are the tokens. null: false
    with template=none, otherwise true."""

    learn_from: Literal["any", "demos", "pairs", "labels", "scores", "lists"] = "any"
    """Which of the method's kinds of feedback the rows become. any: each row keeps the first kind of the method that it
    has, or becomes the first kind that it can. lists: scores become ranked lists, where pairs would come first."""
    threshold: float | Literal["median"] = "median"
    """Scores at or above it become positive labels. median: scores above the median of their prompt do."""
    pairs: Literal["best-worst", "adjacent", "all"] = "best-worst"
    """Which responses of a prompt become pairs by their scores: the ends, neighbours in the ranking, or all."""
    ties: Literal["drop", "keep-first"] = "drop"
    """How to turn equal scores into pairs."""
    group: bool = True
    """Gather single-response rows by prompt, so that the prompt is stored once and its responses can be compared."""
    shuffle: bool = False
    """Permute scores or labels over the data set (shuffled control)."""

    online: bool = False
    """Sample the responses from the current policy in each step, and score them with reward. Methods that always
    sample from the current policy ignore it."""
    samples: Count | None = None
    """Responses sampled per prompt in a step. null: 8 for rso, 4 for all others. All keys of this group apply
    only to online runs, except online."""
    engine: Literal["hf", "vllm"] = "hf"
    """What generates: the trained model itself by transformers (hf), or a second copy of its base with the current
    adapter, on a GPU (vllm)."""
    merge: Literal["auto", "never"] = "auto"
    """Whether engine=hf merges the adapter into the weights while it samples. auto: if that keeps the log-probs
    (bfloat16 rounds a young adapter away) and responses are long enough to gain time."""
    reward: str = "toysteer"
    """What scores the responses: toysteer (its true reward, for its own prompts), module:function, a folder or hub name
    of a sequence-classification model, or an LLM judge, judge:MODEL@http://host:port/v1. preference:module:function
    compares two answers. self is the policy's own mean log-prob, self:WORD that of a verdict word, self:GOOD/BAD the
    log-odds of two. Several, separated by commas, are averaged. self-rewarding takes self in place of toysteer."""
    temperature: Annotated[float, Range(0.01)] = 1.0
    """Sampling temperature. Only methods that allow off-policy samples take another one than 1. For iterative-dpo it
    applies to every second response."""
    missing_eos_penalty: NonNegative = 0.0
    """Subtracted from the score of a response that was cut before its EOS."""
    passes: Count | None = None
    """Passes over each rollout. null: 4 for ppo, 1 for all others."""
    minibatches: Count = 1
    """Optimizer updates in each pass."""
    replay: CountOrZero = 0
    """Past rollouts that are kept and trained on again. Safe for losses with V(x) if the policy class contains π*;
    otherwise keep the buffer short. Eq. 10 (una-online) is wrong off policy, and so in later passes."""
    replay_batch: CountOrZero = 0
    """Rows in each update that samples from kept rollouts. 0: as many as an update without replay has."""
    critic: Literal["separate", "head"] = "separate"
    """Value model of methods that value tokens, and of baseline=network: a separate transformer, or a head on the
    policy's hidden states."""
    kl_target: NonNegative = 0.0
    """Adaptive KL (PPO): β is adjusted until KL(π ‖ π_ref) is this many nats. 0: β is fixed."""
    kl_horizon: Count = 10000
    """Adaptive KL: responses over which β adjusts."""
    sample_from: Literal["method", "policy", "reference"] = "method"
    """What responses are sampled from: as the method has it, the current policy, or π_ref."""
    mixture: Annotated[float, Range(0, below=1)] = 0.125
    """Nash-MD: share of π_ref in the geometric mixture of π and π_ref that rivals are sampled from."""
    rejection_beta: Annotated[float, Range(above=0)] = 0.5
    """RSO: β of statistical rejection sampling, in reward units. A smaller β accepts fewer low scores."""

    baseline: Literal["default", "learned", "mean", "ema", "network"] = "default"
    """Baseline V(x) of methods that take one: the method's own; a number per prompt, learned by gradients (learned) or
    as the running mean of score minus reward (mean); that mean over all prompts as a moving average (ema); or a network
    (DRO-V), which also has a value for prompts that it was not trained on. `critic` says which network."""
    value_lr: NonNegative | None = None
    """Learning rate of a learned V(x), by default 0.05, or of a critic, by default lr."""
    decay: Annotated[float, Range(0, below=1)] = 0.9
    """Share of the old value that a moving average keeps in a step: that of baseline, of beta-dpo and of bco."""

    log_every: Count = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: CountOrZero = 0
    """Steps between evaluations on the held-out rows. 0: before the first step and after the last one only."""
    keep_every: Count | None = None
    """Steps between adapters that are kept, each in a folder of the output, such as step-100. null: none is kept."""
    keep_best: (
        Literal[
            "eval_loss",
            "eval_nll/token",
            "eval_rewards/accuracies",
            "eval_rewards/margins",
            "eval_rewards/chosen",
            "eval_reward",
        ]
        | None
    ) = None
    """Held-out metric by which the best adapter becomes the result, in place of the last one. Of equal values the first
    is the best. Smaller is better for eval_loss and eval_nll/token, larger for all others. null: the last adapter."""
    patience: CountOrZero = 0
    """Evaluations without a better held-out reward (offline: loss) after which the run stops. 0: never."""
    save_every: CountOrZero = 100
    """Steps between checkpoints. 0: only when interrupted."""
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Where metrics.jsonl is logged as well. The package has to be installed (una_ref[trackers])."""
    loss_kwargs: dict[str, float | str] = field(default_factory=dict)
    """The loss's own hyper-parameters, such as beta."""

    def __post_init__(self) -> None:
        for name, kind in field_types().items():
            check(name, getattr(self, name), kind)
        exclusions.check_all(self)

    # ---- what the method makes of the run

    @property
    def record(self) -> Method:
        """The method, with the sum of losses in place of its own where there is one."""
        return weighted.combined(METHODS[self.method], self.losses)

    @property
    def whole_batch(self) -> bool:
        """Whether a loss compares all examples of a batch, which is then one micro-batch."""
        return self.record.whole_batch

    @property
    def refresh(self) -> int:
        """Steps after which the reference moves to the policy; 0: never."""
        return self.record.refresh if self.refresh_every is None else self.refresh_every

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: the value that was set, or the default for the model that the run starts from."""
        return default_rate(self.model, self.lora_r).value if self.lr is None else self.lr

    @property
    def extendable(self) -> bool:
        """Whether no learning rate depends on the number of steps, so that a finished run can take more of them."""
        return self.schedule == "constant" and (not self.warmup or self.warmup_steps is not None)

    @property
    def on_policy(self) -> bool:
        """Whether the responses are sampled in the run, from the policy under training or its reference."""
        return self.online or METHODS[self.method].source != "dataset"

    @property
    def source(self) -> Source:
        """Where the responses come from."""
        if self.sample_from != "method":
            return self.sample_from
        own = METHODS[self.method].source
        return "policy" if self.online and own == "dataset" else own

    @property
    def rivals(self) -> Rivals:
        """What a sampled response's score is its win rate against."""
        return METHODS[self.method].rivals

    @property
    def judge(self) -> str:
        """The name of what scores the responses: `reward`, unless the method has another by default."""
        own = METHODS[self.method].judge == "self" and self.reward == Config.reward
        return "self" if own else self.reward

    @property
    def needs_reference(self) -> bool:
        """Whether a reference is held: the method has one, or responses are sampled from it."""
        return self.record.needs_reference or self.source == "reference"

    @property
    def needs_second_reference(self) -> bool:
        """Whether a loss asks for a second reference."""
        return Need.SECOND_REFERENCE in needs(self.losses_by_kind.values())

    @property
    def second_reference(self) -> str:
        """The second reference's model; empty where it is the starting model, which is loaded already."""
        return "" if self.second_reference_model == self.model else self.second_reference_model

    @property
    def samples_per_prompt(self) -> int:
        """Responses sampled per prompt in a step."""
        return METHODS[self.method].samples_per_prompt if self.samples is None else self.samples

    @property
    def keep(self) -> Keep:
        """Which sampled responses of a prompt are trained on."""
        return METHODS[self.method].keep

    @property
    def updates(self) -> tuple[int, int]:
        """Passes over a rollout, and optimizer updates in each."""
        default = 4 if METHODS[self.method].advantages else 1
        return self.passes or default, self.minibatches

    @property
    def losses_by_kind(self) -> dict[str, Callable[..., Any]]:
        """Kind of feedback -> loss, in the form asked for."""
        method = self.record
        losses: dict[str, Callable[..., Any]] = dict(method.losses)
        if self.form != "corrected":
            losses = {method.kinds[0]: getattr(method, self.form)}
        if self.learn_from != "any":
            losses = {self.learn_from: losses[self.learn_from]}
        if self.on_policy:
            kind = exclusions.sampled_kind(method)
            losses = {kind: losses[kind]}
        return losses

    @property
    def auxiliary(self) -> dict[str, Callable[..., Any]]:
        """The auxiliary loss by its kind of feedback, if its weight is not 0."""
        extra = METHODS[self.method].auxiliary
        return {extra.kind: extra.loss} if extra and self.loss_kwargs.get(extra.weight) else {}

    @property
    def beta(self) -> float:
        """β: the value that was set, or the default of the loss."""
        return float(self.loss_kwargs.get("beta", self.record.hyperparameters.get("beta", 1.0)))

    @property
    def splits_special_tokens(self) -> bool:
        """Whether names of special tokens in the data are plain text."""
        return self.template != NONE if self.split_special_tokens is None else self.split_special_tokens

    @property
    def weights_dtype(self) -> str:
        """The type in which the model is loaded. Trained weights are never bfloat16, which rounds small steps away."""
        return "float32" if self.dtype == "bfloat16" and not self.lora_r else self.dtype

    # ---- as plain values

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they were set."""
        return asdict(self)

    def recorded(self) -> dict[str, Any]:
        """The same as saved in `run.json`, with the learning rate: a later version may have another default."""
        return self.to_dict() | {"lr": self.learning_rate}

    def changed(self) -> dict[str, Any]:
        """The method, and every value that differs from its default."""
        defaults = Config(method=self.method).to_dict()
        return {k: v for k, v in self.to_dict().items() if k == "method" or v != defaults[k]}

    def settings(self) -> list[str]:
        """The changed values as key=value; `resolve(method, settings)` makes this config again."""
        out = []
        for key, value in self.changed().items():
            if isinstance(value, dict):
                prefix = "" if key == "loss_kwargs" else f"{key}."
                out += [f"{prefix}{name}={own}" for name, own in value.items()]
            elif key != "method":
                out.append(f"{key}={value}")
        return out


@cache
def field_types() -> Mapping[str, Any]:
    """The type of each field of `Config`, in order, with its range."""
    return get_type_hints(Config, include_extras=True)
