"""APO-zero on labels gives the value of TRL's KTOTrainer with loss_type=apo_zero_unpaired."""

import copy

import pytest
import torch

from una_ref.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore")
BETA = 0.3
ROWS = [
    {"prompt": "a b", "completion": " c d e f", "label": True},
    {"prompt": "a b", "completion": " c", "label": False},
    {"prompt": "c", "completion": " d a", "label": True},
    {"prompt": "d e", "completion": " a b c d", "label": False},
]


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """trainer(**settings): TRL's trainer of a tiny random Mistral against another one, with plain copies of both."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast
    from trl import KTOConfig, KTOTrainer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    words = {word: i for i, word in enumerate(["<unk>", "<pad>", "</s>", *"abcdef"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 1}
    config = MistralConfig(vocab_size=9, num_key_value_heads=1, initializer_range=0.5, **sizes, **ids)
    torch.manual_seed(0)
    policy, reference = (MistralForCausalLM(config).eval() for _ in range(2))

    def make(**settings):
        return KTOTrainer(
            model=policy,
            ref_model=reference,
            args=KTOConfig(
                output_dir=str(tmp_path),
                report_to="none",
                use_cpu=True,
                bf16=False,
                beta=BETA,
                per_device_train_batch_size=len(ROWS),
                **settings,
            ),
            train_dataset=Dataset.from_list(ROWS),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=backend, **special),
        )

    return make, copy.deepcopy(policy), copy.deepcopy(reference)


@torch.no_grad()
def sum_logps(model, batch):
    ids, mask = batch["input_ids"], batch["completion_mask"][:, 1:]
    logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits
    return (logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask).sum(-1)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 1.5, "undesirable_weight": 0.5}])
def test_apo_zero_unpaired_matches_trl(trainer, weights):
    make, policy, reference = trainer
    theirs = make(loss_type="apo_zero_unpaired", **weights)
    batch = theirs.data_collator(list(theirs.train_dataset))
    given = {"logps": sum_logps(policy, batch), "ref_logps": sum_logps(reference, batch)}
    labels = torch.as_tensor(batch["label"])
    ours = METHODS["apo-zero-unpaired"].loss(**given, labels=labels, beta=BETA, **weights)
    torch.testing.assert_close(ours.mean(), theirs.compute_loss(theirs.model, batch).detach(), rtol=1e-5, atol=1e-6)
    assert ours.std() > 0.01 and labels.any() and not labels.all()
