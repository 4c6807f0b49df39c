"""Losses on tokens that TRL also has give the same values as its trainers' `compute_loss` on one row."""

import pytest
import torch

from una_ref.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore")


@torch.no_grad()
def tokens(trl, batch):
    """The arguments of a loss on pairs of tokens. The mask is False at the prompt too."""
    ids, mask = batch["input_ids"], batch["completion_mask"][:, 1:].bool()
    found = {"token_ids": ids[:, 1:], "mask": mask}
    for prefix, model in (("", trl.plain_policy), ("ref_", trl.plain_reference)):
        logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
        token_logps = logits.gather(-1, ids[:, 1:, None])[..., 0]
        found |= {f"{prefix}token_logps": token_logps, f"{prefix}logits": logits}
        found[f"{prefix}logps"] = (token_logps * mask).sum(1)
    pairs = {}
    for name, value in found.items():
        ref, base = ("ref_", name[4:]) if name.startswith("ref_") else ("", name)
        pairs[f"{ref}chosen_{base}"], pairs[f"{ref}rejected_{base}"] = value.chunk(2)
    return pairs


@pytest.mark.parametrize(
    ("name", "kwargs", "settings"),
    [
        ("token-dpo", {}, {}),
        ("tdpo2", {"alpha": 0.0}, {}),
        ("ld-dpo", {"alpha": 0.0}, {"ld_alpha": 0.0}),
        ("ld-dpo", {"alpha": 0.3}, {"ld_alpha": 0.3}),
        ("ld-dpo", {"alpha": 1.0}, {}),
        ("wpo", {}, {"use_weighting": True}),
    ],
)
def test_loss_on_tokens_matches_trl_on_every_row(trl, name, kwargs, settings):
    from trl import DPOConfig, DPOTrainer

    trainer = trl.trainer(DPOTrainer, DPOConfig, **settings)
    batches = trl.batches(trainer)
    ours = torch.cat([trl.ours(METHODS[name].loss, tokens(trl, batch), beta=trl.beta, **kwargs) for batch in batches])
    theirs = torch.stack([trl.loss(trainer, batch) for batch in batches])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    plain = torch.cat([trl.ours(METHODS["dpo"].loss, tokens(trl, batch), beta=trl.beta) for batch in batches])
    assert (name in ("ld-dpo", "wpo") and kwargs != {"alpha": 1.0}) == bool((ours - plain).abs().max() > 1e-3)
