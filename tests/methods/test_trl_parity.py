"""Losses that TRL also has give the same values as its trainers' `compute_loss` on one batch.

TRL computes its losses inside the trainers. So real trainers are built, offline, on a tiny random Mistral and a
different reference. Our log-probabilities come from plain copies of both.
"""

import copy

import pytest
import torch

from una_ref.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore")
BETA = 0.3
ROWS = [
    {"prompt": "a b", "chosen": " c d e f", "rejected": " c"},
    {"prompt": "c", "chosen": " d a", "rejected": " e b b"},
    {"prompt": "d e", "chosen": " f", "rejected": " a b c d"},
]


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("WANDB_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<unk>", "<pad>", "</s>", *"abcdef"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


@pytest.fixture
def models():
    """A policy and a reference, and copies of them that TRL does not touch."""
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
    policy, reference = MistralForCausalLM(config).eval(), MistralForCausalLM(config).eval()
    return policy, reference, copy.deepcopy(policy), copy.deepcopy(reference)


@torch.no_grad()
def sum_logps(model, batch, prefix=""):
    """log π of each completion, and its length, from the model's plain forward."""
    ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"][:, 1:]
    logits = model(input_ids=ids, attention_mask=batch[f"{prefix}attention_mask"]).logits
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logps * mask).sum(-1), mask.sum(-1)


def pair_arguments(policy, reference, batch, *, mean=False):
    arguments = {}
    for prefix, model in (("", policy), ("ref_", reference)):
        logps, lengths = sum_logps(model, batch)
        chosen, rejected = (logps / lengths if mean else logps).chunk(2)
        arguments |= {f"{prefix}chosen_logps": chosen, f"{prefix}rejected_logps": rejected}
    return arguments


def bco_pair(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    """una-binary-bce on the two responses of a pair, labelled 1 and 0."""
    loss, ones = METHODS["una-binary-bce"].loss, torch.ones_like(chosen_logps)
    chosen = loss(logps=chosen_logps, ref_logps=ref_chosen_logps, labels=ones, beta=beta)
    return chosen + loss(logps=rejected_logps, ref_logps=ref_rejected_logps, labels=0 * ones, beta=beta)


def arguments_for(config, tmp_path, **settings):
    return config(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        bf16=False,
        beta=BETA,
        per_device_train_batch_size=3,
        **settings,
    )


@pytest.mark.parametrize(
    ("loss_type", "loss", "mean"),
    [
        ("sigmoid", METHODS["dpo"].loss, False),
        ("hinge", METHODS["rso"].loss, False),
        ("bco_pair", bco_pair, False),
        ("ipo", METHODS["ipo"].loss, True),  # TRL's IPO takes the mean over tokens, the paper the sum
    ],
)
def test_pair_losses_match_trl(models, tokenizer, tmp_path, loss_type, loss, mean):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference, plain_policy, plain_reference = models
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments_for(DPOConfig, tmp_path, loss_type=[loss_type]),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    rows = [trainer.data_collator([row]) for row in trainer.train_dataset]
    ours = [loss(**pair_arguments(plain_policy, plain_reference, row, mean=mean), beta=BETA) for row in rows]
    theirs = [trainer.compute_loss(trainer.model, row).detach() for row in rows]
    torch.testing.assert_close(torch.cat(ours), torch.stack(theirs), rtol=1e-5, atol=1e-6)
    assert torch.cat(ours).std() > 0.01
    if mean:
        summed = [loss(**pair_arguments(plain_policy, plain_reference, row), beta=BETA) for row in rows]
        assert (torch.cat(summed) - torch.stack(theirs)).abs().min() > 0.01


@pytest.mark.parametrize(
    ("name", "kwargs", "trl_settings"),
    [
        # TRL's aot sorts the margins of a batch and smooths the labels. On one row it equals cDPO.
        ("cdpo", {"label_smoothing": 0.2}, {"loss_type": ["aot"], "label_smoothing": 0.2}),
        ("f-dpo", {"divergence": "reverse_kl"}, {}),
        ("f-dpo", {"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
        ("f-dpo", {"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
        # TRL's coefficient a has f′(w) = (w^(a − 1) − 1)/(a − 1), so a = 1 − α.
        (
            "f-dpo",
            {"divergence": "alpha", "alpha": 0.3},
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        ),
    ],
)
def test_label_smoothed_and_divergence_losses_match_trl(models, tokenizer, tmp_path, name, kwargs, trl_settings):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference, plain_policy, plain_reference = models
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments_for(DPOConfig, tmp_path, **trl_settings),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    rows = [trainer.data_collator([row]) for row in trainer.train_dataset]
    arguments = [pair_arguments(plain_policy, plain_reference, row) for row in rows]
    ours = torch.cat([METHODS[name].loss(**row, beta=BETA, **kwargs) for row in arguments])
    theirs = torch.stack([trainer.compute_loss(trainer.model, row).detach() for row in rows])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    plain = torch.cat([METHODS["dpo"].loss(**row, beta=BETA) for row in arguments])
    assert (kwargs == {"divergence": "reverse_kl"}) == bool((ours - plain).abs().max() < 1e-6)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 1.5, "undesirable_weight": 0.5}])
@pytest.mark.parametrize("clamped", [True, False])
def test_kto_matches_trl(models, tokenizer, tmp_path, weights, clamped):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    # With these two models the KL estimate is negative; with the models exchanged it is positive.
    policy, reference, plain_policy, plain_reference = models if clamped else [models[i] for i in (1, 0, 3, 2)]
    labelled = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in ROWS
        for side in ("chosen", "rejected")
    ]
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments_for(KTOConfig, tmp_path, **weights),
        train_dataset=Dataset.from_list(labelled),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    logps, _ = sum_logps(plain_policy, batch)
    ref_logps, _ = sum_logps(plain_reference, batch)
    # TRL's KL estimate is the mean log-ratio of mismatched responses, `KL_…` in its batch, clamped at 0.
    mismatched = sum_logps(plain_policy, batch, "KL_")[0] - sum_logps(plain_reference, batch, "KL_")[0]
    ours = METHODS["kto"].loss(
        logps=logps,
        ref_logps=ref_logps,
        labels=torch.as_tensor(batch["label"]),
        kl=mismatched.mean().clamp(min=0),
        beta=BETA,
        **weights,
    )
    theirs = trainer.compute_loss(trainer.model, batch)
    torch.testing.assert_close(ours.mean(), theirs.detach(), rtol=1e-5, atol=1e-6)
    assert (mismatched.mean() < 0) == clamped and mismatched.mean().abs() > 0.1
