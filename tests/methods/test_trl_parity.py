"""Losses that TRL also has give the same values as its trainers' `compute_loss` on one batch.

The fixture `trl` builds the trainers. A loss on pairs needs one line in `PAIRS`.
"""

import copy

import pytest
import torch

from una_ref.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore")


def bco_pair(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    """una-binary-bce on the two responses of a pair, labelled 1 and 0."""
    loss, ones = METHODS["una-binary-bce"].loss, torch.ones_like(chosen_logps)
    chosen = loss(logps=chosen_logps, ref_logps=ref_chosen_logps, labels=ones, beta=beta)
    return chosen + loss(logps=rejected_logps, ref_logps=ref_rejected_logps, labels=0 * ones, beta=beta)


def bco_at_zero(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    """bco on pairs while its moving average is 0."""
    logps = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
    ref = {"ref_chosen_logps": ref_chosen_logps, "ref_rejected_logps": ref_rejected_logps}
    return METHODS["bco"].losses["pairs"](**logps, **ref, running_gain=torch.zeros(()), beta=beta)


SMOOTHED = {"label_smoothing": 0.2}
# TRL's settings -> our loss, its hyper-parameters, and whether log-probabilities are means over tokens.
PAIRS = {
    "sigmoid": ({"loss_type": ["sigmoid"]}, "dpo", {}, False),
    "ipo": ({"loss_type": ["ipo"]}, "ipo", {}, True),  # the paper takes the sum over tokens
    "exo_pair": ({"loss_type": ["exo_pair"], **SMOOTHED}, "exo-pair", SMOOTHED, False),
    "nca_pair": ({"loss_type": ["nca_pair"]}, "nca-pair", {}, False),
    "robust": ({"loss_type": ["robust"], **SMOOTHED}, "robust-dpo", SMOOTHED, False),
    "bco_pair": ({"loss_type": ["bco_pair"]}, bco_pair, {}, False),
    "bco_pair at δ = 0": ({"loss_type": ["bco_pair"]}, bco_at_zero, {}, False),
    "sppo_hard": ({"loss_type": ["sppo_hard"]}, "sppo-hard", {}, False),
    "aot": ({"loss_type": ["aot"], **SMOOTHED}, "aot", SMOOTHED, False),
    "aot on one row": ({"loss_type": ["aot"], **SMOOTHED}, "cdpo", SMOOTHED, False),
    "aot_unpaired": ({"loss_type": ["aot_unpaired"], **SMOOTHED}, "aot-unpaired", SMOOTHED, False),
    "apo_zero": ({"loss_type": ["apo_zero"]}, "apo-zero", {}, False),
    "apo_down": ({"loss_type": ["apo_down"]}, "apo-down", {}, False),
    "discopop": ({"loss_type": ["discopop"], "discopop_tau": 0.2}, "discopop", {"tau": 0.2}, False),
    "sigmoid_norm": ({"loss_type": ["sigmoid_norm"]}, "sigmoid-norm", {}, False),
    "hinge": ({"loss_type": ["hinge"]}, "rso", {}, False),
    "reverse_kl": ({}, "f-dpo", {"divergence": "reverse_kl"}, False),
    "forward_kl": ({"f_divergence_type": "forward_kl"}, "f-dpo", {"divergence": "forward_kl"}, False),
    "js_divergence": ({"f_divergence_type": "js_divergence"}, "f-dpo", {"divergence": "js"}, False),
    # TRL's coefficient a has f′(w) = (w^(a − 1) − 1)/(a − 1), so a = 1 − α.
    "alpha_divergence": (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        "f-dpo",
        {"divergence": "alpha", "alpha": 0.3},
        False,
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pair_loss_matches_trl_on_every_row(trl, case):
    from trl import DPOConfig, DPOTrainer

    settings, method, kwargs, mean = PAIRS[case]
    loss = METHODS[method].loss if isinstance(method, str) else method
    trainer = trl.trainer(DPOTrainer, DPOConfig, **settings)
    batches = trl.batches(trainer)
    pairs = [trl.pairs(batch, mean=mean) for batch in batches]
    ours = torch.cat([trl.ours(loss, pair, beta=trl.beta, **kwargs) for pair in pairs])
    theirs = torch.stack([trl.loss(trainer, batch) for batch in batches])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.std() > 0.01


def test_trl_divides_by_the_length_where_ipo_of_the_paper_does_not(trl):
    from trl import DPOConfig, DPOTrainer

    trainer = trl.trainer(DPOTrainer, DPOConfig, loss_type=["ipo"])
    batches = trl.batches(trainer)
    summed = torch.cat([trl.ours(METHODS["ipo"].loss, trl.pairs(batch), beta=trl.beta) for batch in batches])
    theirs = torch.stack([trl.loss(trainer, batch) for batch in batches])
    assert (summed - theirs).abs().min() > 0.01


@pytest.mark.parametrize("name", ["aot", "aot-unpaired"])
def test_loss_of_a_whole_batch_matches_trl(trl, name):
    # The losses of the three rows apart have another mean: sorting matters.
    from trl import DPOConfig, DPOTrainer

    turned = {"prompt": "f", "chosen": " a", "rejected": " b c c"}
    trainer = trl.trainer(DPOTrainer, DPOConfig, [*trl.rows, turned], loss_type=[name.replace("-", "_")], **SMOOTHED)
    whole = trainer.data_collator(list(trainer.train_dataset))
    ours = trl.ours(METHODS[name].loss, trl.pairs(whole), beta=trl.beta, **SMOOTHED).mean()
    torch.testing.assert_close(ours, trl.loss(trainer, whole), rtol=1e-5, atol=1e-6)
    apart = [
        trl.ours(METHODS[name].loss, trl.pairs(batch), beta=trl.beta, **SMOOTHED) for batch in trl.batches(trainer)
    ]
    assert (torch.cat(apart).mean() - ours).abs() > 1e-3


def labelled(rows):
    """Pairs as rows with a binary label."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    ]


WEIGHTS = pytest.mark.parametrize("weights", [{}, {"desirable_weight": 1.5, "undesirable_weight": 0.5}])


@WEIGHTS
@pytest.mark.parametrize("clamped", [True, False])
def test_kto_matches_trl(trl, weights, clamped):
    from trl import KTOConfig, KTOTrainer

    if not clamped:  # with these two models the KL estimate is negative; with the models exchanged it is positive
        trl.policy, trl.reference = trl.reference, trl.policy
        trl.plain_policy, trl.plain_reference = trl.plain_reference, trl.plain_policy
    trainer = trl.trainer(KTOTrainer, KTOConfig, labelled(trl.rows), **weights)
    batch = trainer.data_collator(list(trainer.train_dataset))
    # TRL's KL estimate is the mean log-ratio of mismatched responses, `KL_…` in its batch, clamped at 0.
    mismatched = trl.logps(trl.plain_policy, batch, "KL_")[0] - trl.logps(trl.plain_reference, batch, "KL_")[0]
    ours = METHODS["kto"].loss(
        logps=trl.logps(trl.plain_policy, batch)[0],
        ref_logps=trl.logps(trl.plain_reference, batch)[0],
        labels=torch.as_tensor(batch["label"]),
        kl=mismatched.mean().clamp(min=0),
        beta=trl.beta,
        **weights,
    )
    torch.testing.assert_close(ours.mean(), trl.loss(trainer, batch), rtol=1e-5, atol=1e-6)
    assert (mismatched.mean() < 0) == clamped and mismatched.mean().abs() > 0.1


@WEIGHTS
def test_kto_at_kl_zero_matches_the_unpaired_apo_zero_of_trl(trl, weights):
    from trl import KTOConfig, KTOTrainer

    trainer = trl.trainer(KTOTrainer, KTOConfig, labelled(trl.rows), loss_type="apo_zero_unpaired", **weights)
    batch = trainer.data_collator(list(trainer.train_dataset))
    arguments = {
        "logps": trl.logps(trl.plain_policy, batch)[0],
        "ref_logps": trl.logps(trl.plain_reference, batch)[0],
        "labels": torch.as_tensor(batch["label"]),
    }
    theirs = trl.loss(trainer, batch)
    for name in ("kto", "apo-zero-unpaired"):
        ours = trl.ours(METHODS[name].loss, arguments | {"kl": torch.zeros(())}, beta=trl.beta, **weights)
        torch.testing.assert_close(ours.mean(), theirs, rtol=1e-5, atol=1e-6)


# TRL's settings of CPOTrainer -> our loss and its hyper-parameters. cpo_alpha=0 leaves out the imitation of y_w, which
# TRL averages over all tokens of the rows.
FREE = {
    "alphapo": ({"loss_type": "alphapo", "alpha": 0.4, "simpo_gamma": 0.5}, "alpha-po", {"alpha": 0.4, "gamma": 0.5}),
    "alphapo at α = 0": ({"loss_type": "alphapo", "simpo_gamma": 0.5}, "simpo", {"gamma": 0.5}),
    "simpo": ({"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.5}, "simpo", {"gamma": 0.5}),
    "sigmoid": ({"loss_type": "sigmoid", "cpo_alpha": 0.0}, "tpo", {}),
    "sigmoid as CPO": ({"loss_type": "sigmoid", "cpo_alpha": 0.0}, "cpo", {"lam": 0.0}),
}


@pytest.mark.parametrize("case", FREE)
def test_pair_loss_without_a_reference_matches_trl_on_every_row(trl, case):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    settings, method, kwargs = FREE[case]
    trainer = trl.trainer(CPOTrainer, CPOConfig, reference=False, **settings)
    batches = trl.batches(trainer)
    pairs = [trl.labelled_pairs(batch) for batch in batches]
    ours = torch.cat([trl.ours(METHODS[method].loss, pair, beta=trl.beta, **kwargs) for pair in pairs])
    theirs = torch.stack([trl.loss(trainer, batch) for batch in batches])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.std() > 0.01


def test_odds_ratio_of_orpo_matches_trl(trl):
    # TRL imitates the prompt as well, so that only the part that its beta (our lam) multiplies is compared.
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer = trl.trainer(ORPOTrainer, ORPOConfig, reference=False)
    for batch in trl.batches(trainer):
        trainer.beta = trl.beta
        theirs = trl.loss(trainer, batch)
        trainer.beta = 0.0
        theirs = theirs - trl.loss(trainer, batch)
        pair = trl.labelled_pairs(batch)
        ours = trl.ours(METHODS["orpo"].loss, pair, lam=trl.beta) - trl.ours(METHODS["orpo"].loss, pair, lam=0.0)
        torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=1e-6)
        assert ours.abs() > 0.01


@pytest.mark.parametrize(
    ("name", "settings", "kwargs"),
    [("tpo", {}, {}), ("tpo-l", {"loss_type": "tpo-l", "tpo_l_gamma": 0.7}, {"gamma": 0.7})],
)
def test_triple_preference_optimisation_matches_trl(trl, name, settings, kwargs):
    # TRL takes the mean over the tokens of the gold responses, so ours is divided by their number.
    from trl.experimental.tpo import TPOConfig, TPOTrainer

    gold = [" e f", " a b c", " d"]
    rows = [row | {"reference": text} for row, text in zip(trl.rows, gold, strict=True)]
    trainer = trl.trainer(TPOTrainer, TPOConfig, rows, reference=False, tpo_alpha=0.6, **settings)
    for batch in trl.batches(trainer):
        logps, lengths = trl.logps(trl.plain_policy, batch)
        (chosen, rejected, imitated), (c, r, n) = logps.chunk(3), lengths.chunk(3)
        pair = {"chosen_logps": chosen, "rejected_logps": rejected, "chosen_lengths": c, "rejected_lengths": r}
        ours = trl.ours(METHODS[name].losses["pairs"], pair, beta=trl.beta, **kwargs)
        ours = ours + METHODS[name].losses["demos"](logps=imitated, gold_weight=0.6) / n
        torch.testing.assert_close(ours[0], trl.loss(trainer, batch), rtol=1e-5, atol=1e-6)


CLIPS = {"ratio_clip": 0.2, "ratio_clip_high": 0.3}
GRPO_CASES = {
    "grpo": ({"loss_type": "grpo"}, {"variant": "grpo"}),
    "bnpo": ({"loss_type": "bnpo"}, {"variant": "bnpo"}),
    "dapo": ({"loss_type": "dapo"}, {"variant": "dapo"}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"variant": "dr_grpo", "length_scale": 256.0}),  # TRL's default maximum
    "GSPO": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"variant": "grpo", "ratio": "sequence"},
    ),
    "luspo": (
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"variant": "dr_grpo", "ratio": "sequence"},
    ),
    "sapo": ({"loss_type": "sapo"}, {"variant": "sapo"}),
    # TRL's epsilon_high is the largest weight, the paper's 1 + ε_high.
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.3}, {"variant": "cispo"}),
}


@pytest.mark.parametrize(
    ("case", "scale", "estimate"),
    [
        *((case, "group", "weighted") for case in GRPO_CASES),
        ("grpo", "batch", "weighted"),
        ("dapo", "none", "weighted"),
        ("grpo", "group", "plain"),
    ],
)
def test_grpo_matches_trl(trl, case, scale, estimate):
    # TRL's loss of two prompts with two responses each, at ratios from 0.3 to 3 and with a KL term.
    from trl import GRPOConfig, GRPOTrainer

    settings, kwargs = GRPO_CASES[case]
    trainer = trl.trainer(
        GRPOTrainer,
        GRPOConfig,
        [{"prompt": row["prompt"]} for row in trl.rows],
        reference=False,
        more={"reward_funcs": lambda completions, **_: [0.0] * len(completions)},
        use_bias_correction_kl=estimate == "weighted",
        **{"epsilon_high": 0.3, "scale_rewards": scale} | settings,
        beta=0.0,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=256,
    )
    trainer.beta = trl.beta  # the reference's log-probabilities are given below, so that none is loaded
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    prompt = torch.tensor([[1, 3, 4], [1, 3, 4], [5, 6, 7], [5, 6, 7]])
    completion = torch.tensor([[6, 7, 8, 2], [3, 2, 1, 1], [4, 4, 2, 1], [8, 3, 5, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    ids, attention = torch.cat([prompt, completion], 1), torch.cat([prompt != 1, mask], 1).long()
    logps, ref = (trl.token_logps(model, ids, attention)[:, 2:] for model in (trl.plain_policy, trl.plain_reference))
    torch.manual_seed(1)
    old = logps + 0.5 * torch.randn(4, 4)
    scores, groups = torch.tensor([1.0, 0.2, -0.3, 0.5]), torch.tensor([0, 0, 1, 1])
    # Written out: the two sample standard deviations are |difference|/√2, that of the batch is torch's.
    centred = torch.tensor([0.4, -0.4, -0.4, 0.4])
    spread = {"group": torch.full((4,), 0.8 / 2**0.5), "batch": scores.std(), "none": 1 - 1e-4}[scale]
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": (prompt != 1).long(),
        "completion_ids": completion,
        "completion_mask": mask,
        "advantages": centred / (spread + 1e-4),
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum() * trainer.args.steps_per_generation,
    }
    theirs = trainer._compute_loss(trainer.model, inputs).detach()
    losses = METHODS["grpo"].loss(
        token_logps=logps,
        old_token_logps=old,
        ref_token_logps=ref,
        mask=mask.bool(),
        scores=scores,
        groups=groups,
        mean_length=mask.sum(1).float().mean(),
        score_sd=scores.std(),
        scale_rewards=scale,
        kl_estimate=estimate,
        beta=trl.beta,
        **CLIPS,
        **kwargs,
    )
    torch.testing.assert_close(losses.mean(), theirs, rtol=1e-5, atol=1e-6)
    ratios = (logps - old).exp()[mask.bool()]
    assert ratios.min() < 0.8 and ratios.max() > 1.3


@pytest.mark.parametrize("centring", [None, 0.3])
@pytest.mark.parametrize("margins", [None, (0.5, 0.0, 2.0)])
def test_reward_models_match_trl(trl, margins, centring):
    from transformers import MistralForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    config = copy.deepcopy(trl.policy.config)
    config.num_labels = 1
    torch.manual_seed(1)
    trl.policy = MistralForSequenceClassification(config).eval()
    scorer = copy.deepcopy(trl.policy)
    rows = trl.rows if margins is None else [row | {"margin": m} for row, m in zip(trl.rows, margins, strict=True)]
    trainer = trl.trainer(RewardTrainer, RewardConfig, rows, reference=False, center_rewards_coefficient=centring)
    batches = trl.batches(trainer)
    assert all(("margin" in batch) == (margins is not None) for batch in batches)
    method = METHODS["reward-model" if margins is None and centring is None else "reward-model-margin"]
    ours = []
    for number, batch in enumerate(batches):
        last = batch["attention_mask"].sum(1) - 1  # the reward is read at the last token
        with torch.no_grad():
            scores = scorer.score(scorer.model(**{k: batch[k] for k in ("input_ids", "attention_mask")})[0])[..., 0]
        chosen, rejected = scores[torch.arange(2), last].chunk(2)
        given = {"chosen_rewards": chosen, "rejected_rewards": rejected}
        if method.name == "reward-model-margin":
            given |= {"margins": chosen.new_tensor([margins[number] if margins else 0.0]), "centring": centring or 0.0}
        ours.append(method.loss(**given))
    theirs = torch.stack([trl.loss(trainer, batch) for batch in batches])
    torch.testing.assert_close(torch.cat(ours), theirs, rtol=1e-5, atol=1e-6)
    assert torch.cat(ours).std() > 0.01
