"""Random arguments for any loss, by the names in its signature, and real trainers of TRL to compare losses with."""

import copy
import inspect

import pytest
import torch

from una_ref.methods import METHODS
from una_ref.methods.pairs import una_centred_pairwise
from una_ref.methods.probe import example_arguments

# Every loss of the package by name, with its feedback kind or form as suffix -> the loss and its kind of feedback.
LOSSES_OF_KIND = {
    f"{method.name}{suffix}": (loss, kind)
    for method in METHODS.values()
    for suffix, loss, kind in (
        *((f":{kind}" if kind != method.kinds[0] else "", loss, kind) for kind, loss in method.losses.items()),
        (".printed", method.printed, method.kinds[0]),
        (".released", method.released, method.kinds[0]),
        (".auxiliary", method.auxiliary and method.auxiliary.loss, "demos"),
    )
    if loss is not None
} | {"una-centred-pairwise": (una_centred_pairwise, "pairs")}
LOSSES = {name: loss for name, (loss, _) in LOSSES_OF_KIND.items()}
KIND_OF = dict(LOSSES_OF_KIND.values())


@pytest.fixture(params=list(LOSSES))
def loss(request):
    """Each loss in turn."""
    return LOSSES[request.param]


@pytest.fixture
def random_arguments():
    """random_arguments(loss, size): arguments by name, with β = 0.7 where the loss has one.

    Neighbours share a prompt, labels are in [0, 1]. With groups=False a baseline is given in place of groups, if the
    loss takes one.
    """

    def make(loss, size=6, *, dtype=torch.float64, seed=0, groups=True):
        arguments = example_arguments(loss, KIND_OF[loss], size, dtype=dtype, seed=seed)
        defaults = {name: parameter.default for name, parameter in inspect.signature(loss).parameters.items()}
        if not groups and "baseline" in arguments:
            arguments.pop("groups", None)
        if groups and "baseline" in arguments and defaults["baseline"] is not inspect.Parameter.empty:
            arguments.pop("baseline")
        if "beta" in defaults:
            arguments["beta"] = 0.7
        return arguments

    return make


class TrlRuns:
    """Trainers of TRL, built offline on a tiny random Mistral and a different reference, and plain copies of both.

    TRL computes its losses inside the trainers. To compare another loss, take `batch` of a `trainer`, our `pairs` or
    `logps` of it, and `loss`.
    """

    beta = 0.3
    rows = (
        {"prompt": "a b", "chosen": " c d e f", "rejected": " c"},
        {"prompt": "c", "chosen": " d a", "rejected": " e b b"},
        {"prompt": "d e", "chosen": " f", "rejected": " a b c d"},
    )

    def __init__(self, folder, tokenizer):
        from transformers import MistralConfig, MistralForCausalLM

        config = MistralConfig(
            vocab_size=9,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=1,
        )
        torch.manual_seed(0)
        self.folder, self.tokenizer = folder, tokenizer
        self.policy, self.reference = MistralForCausalLM(config).eval(), MistralForCausalLM(config).eval()
        self.plain_policy, self.plain_reference = copy.deepcopy(self.policy), copy.deepcopy(self.reference)

    def trainer(self, trainer, config, rows=None, *, reference=True, more=None, **settings):
        """A trainer on some rows; `settings` are of its config, `more` of the trainer itself."""
        from datasets import Dataset

        size = settings.pop("per_device_train_batch_size", 3)
        settings = {"beta": self.beta} | settings if "beta" in inspect.signature(config).parameters else settings
        arguments = config(
            output_dir=str(self.folder),
            report_to="none",
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=size,
            **settings,
        )
        return trainer(
            model=self.policy,
            args=arguments,
            train_dataset=Dataset.from_list(list(self.rows if rows is None else rows)),
            processing_class=self.tokenizer,
            **({"ref_model": self.reference} if reference else {}),
            **(more or {}),
        )

    @staticmethod
    def batches(trainer):
        """Each row as a batch of its own."""
        return [trainer.data_collator([row]) for row in trainer.train_dataset]

    @staticmethod
    def loss(trainer, batch):
        """What the trainer computes for a batch: one number."""
        return trainer.compute_loss(trainer.model, batch).detach()

    @torch.no_grad()
    def token_logps(self, model, ids, attention):
        """(B, T − 1) log π of each token but the first, from a model's plain forward."""
        logits = model(input_ids=ids, attention_mask=attention).logits
        return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]

    def logps(self, model, batch, prefix=""):
        """log π of each completion of a batch, and its length."""
        mask = batch[f"{prefix}completion_mask"][:, 1:]
        logps = self.token_logps(model, batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"])
        return (logps * mask).sum(-1), mask.sum(-1)

    def pairs(self, batch, *, mean=False):
        """The arguments of a loss on pairs; with mean=True log-probabilities are means over tokens."""
        arguments = {}
        for prefix, model in (("", self.plain_policy), ("ref_", self.plain_reference)):
            logps, lengths = self.logps(model, batch)
            chosen, rejected = (logps / lengths if mean else logps).chunk(2)
            arguments |= {f"{prefix}chosen_logps": chosen, f"{prefix}rejected_logps": rejected}
        chosen, rejected = lengths.chunk(2)
        return arguments | {"chosen_lengths": chosen, "rejected_lengths": rejected}

    def labelled_pairs(self, batch, *, mean=False):
        """The same for the batches of trainers without a reference, which have labels in place of a mask."""
        arguments = {}
        for side in ("chosen", "rejected"):
            ids, mask = batch[f"{side}_input_ids"], batch[f"{side}_labels"][:, 1:] != -100
            logps = self.token_logps(self.plain_policy, ids, batch[f"{side}_attention_mask"])
            lengths = mask.sum(-1)
            arguments[f"{side}_logps"] = (logps * mask).sum(-1) / (lengths if mean else 1)
            arguments[f"{side}_lengths"] = lengths
        return arguments

    @staticmethod
    def ours(loss, arguments, **hyperparameters):
        """A loss of this package on those of the arguments that it names."""
        names = inspect.signature(loss).parameters
        return loss(**{name: value for name, value in arguments.items() if name in names}, **hyperparameters)


@pytest.fixture(scope="session")
def tokenizer():
    """Nine words, split at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<unk>", "<pad>", "</s>", *"abcdef"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


@pytest.fixture
def trl(tmp_path, tokenizer, monkeypatch):
    """Trainers of TRL that reach for no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    return TrlRuns(tmp_path, tokenizer)
