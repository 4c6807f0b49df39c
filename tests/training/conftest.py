"""Data files of random rows, tiny models, and trainers of them."""

import json
import random

import pytest
import torch

from una_ref.data.batch import Example
from una_ref.data.encoder import Encoder
from una_ref.methods import METHODS
from una_ref.policies.critics import Critic
from una_ref.policies.loading import small_mistral, with_lora
from una_ref.policies.references import Policy
from una_ref.policies.scorers import Scorer, with_scalar_head
from una_ref.training.config import Config
from una_ref.training.trainer import Trainer

WORDS = ("red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "eats", "now")
TINY = [
    *("shape.hidden_size=16", "shape.intermediate_size=32", "shape.num_hidden_layers=1", "vocabulary=300"),
    *("shape.num_attention_heads=2", "shape.num_key_value_heads=1", "lora_r=4", "batch=4", "log_every=1"),
]


class Tokenizer:
    """The part of a tokenizer that building a model for it needs."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0
    chat_template = None

    def __len__(self):
        return 40


@pytest.fixture
def tiny():
    """Settings of a run on a model that trains in seconds."""
    return list(TINY)


@pytest.fixture
def data(tmp_path):
    """data(kind, prompts=12): a JSONL file of this kind of feedback on random words. "labels" are binary."""

    def write(kind, prompts=12, seed=0):
        rng = random.Random(seed)

        def words(n):
            return " ".join(rng.choice(WORDS) for _ in range(n))

        def text():
            return " " + words(rng.randint(1, 5))

        ratings = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
        rows_of = {
            "pairs": lambda p: [{"prompt": p, "chosen": text() + " now", "rejected": text() + " cat"}],
            "scored-pairs": lambda p: [
                {"prompt": p, "chosen": text(), "rejected": text(), "chosen_score": 1.5, "rejected_score": 1.0}
            ],
            "labels": lambda p: [{"prompt": p, "completion": text(), "label": label} for label in (True, False)],
            "scores": lambda p: [{"prompt": p, "completion": text(), "score": rng.random()} for _ in range(3)],
            "helpsteer2": lambda p: [
                {"prompt": p, "response": text(), **{r: rng.randint(0, 4) for r in ratings}} for _ in range(2)
            ],
            "messages": lambda p: [
                {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": text()}]}
            ],
        }
        rows = [row for i in range(prompts) for row in rows_of[kind](f"{words(3)} {i}")]
        path = tmp_path / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def examples():
    """examples(*kinds, prompts=6): examples of these kinds in turn, with unequal lengths and numbers of responses."""

    def make(*kinds, prompts=6, seed=0):
        rng = random.Random(seed)

        def tokens(low, high):
            return tuple(rng.randint(3, 39) for _ in range(rng.randint(low, high)))

        out = []
        for i in range(prompts):
            kind = kinds[i % len(kinds)]
            responses = tuple((*tokens(0, 12), 2) for _ in range(rng.randint(2, 4)))
            feedback = {
                "demos": {},
                "pairs": {
                    "pairs": ((0, 1), (1, 0))[: 1 + i % 2],
                    "scores": tuple(map(float, range(len(responses), 0, -1))),  # for losses that take margins
                },
                "weighted-pairs": {  # not in the numbers of `pairs`: the second has weight 0.5 and a negative margin
                    "pairs": ((0, 1), (1, 0))[: 1 + i % 2],
                    "weights": (2.0 + i, 0.5)[: 1 + i % 2],
                    "margins": (0.3 * i, -1.0)[: 1 + i % 2],
                },
                "labels": {"labels": tuple(rng.choice([0.0, 1.0, 0.25]) for _ in responses)},
                "scores": {"scores": tuple(rng.random() for _ in responses)},
                "lists": {"scores": tuple(random.Random(i).sample(range(9), len(responses))), "as_list": True},
            }[kind]
            experience = {
                name: tuple(tuple(rng.gauss(0, 1) for _ in response) for response in responses)
                for name in ("old_token_logps", "advantages", "returns", "old_values")
            }
            more = {"prompt_index": i, "source": f"row {i}", "experience": experience if kind != "demos" else {}}
            out.append(Example((1, *tokens(1, 6), i % 37 + 3), responses, **feedback, **more))
        return out

    return make


@pytest.fixture
def make_trainer():
    """make_trainer(method, examples, moved=True, **config): a tiny Mistral; `moved`: its policy is not π_ref."""

    def make(method, given, moved=True, **config):
        config = Config(method=method, **{"lora_r": 4, "steps": 4, "micro_tokens": 10**6, "lr": 1e-2} | config)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = small_mistral(Tokenizer(), seed=1, num_key_value_heads=1, **sizes)
        scorer = METHODS[method].scorer
        if scorer:
            model = with_scalar_head(model, Encoder(Tokenizer()), seed=2)
        if config.lora_r:
            task = "SEQ_CLS" if scorer else "CAUSAL_LM"
            model = with_lora(model, r=config.lora_r, dropout=config.lora_dropout, seed=2, task=task)
        model = model.double() if config.dtype == "float64" else model
        generator = torch.Generator().manual_seed(3)
        critic = Critic(model) if method == "ppo" else None
        policy = Scorer(model) if scorer else Policy(model, has_reference=method != "sft", critic=critic)
        for parameter in model.parameters() if moved else ():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        known = config.losses_by_kind | config.auxiliary
        losses = {kind: loss for kind, loss in known.items() if any(e.kind == kind for e in given)}
        return Trainer(policy, losses, config, prompts=len(given), value_start=0.3)

    return make


@pytest.fixture
def gradient():
    """gradient(trainer, examples): the gradient of a batch as one vector, with V(x) last."""

    def flat(trainer, given):
        trainer.optimizer.zero_grad()
        trainer.accumulate(given)
        return torch.cat([p.grad.flatten() for p in trainer.trained.values()])

    return flat
