"""Tiny random models of several families in eval mode, an adapter for them, and plain log-probs to compare with."""

import pytest
import torch
import transformers

SIZE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1}


@pytest.fixture
def tiny():
    """tiny(family, attn_implementation, **config): a causal LM whose weights are large enough to matter."""

    def make(family="Mistral", attn_implementation=None, **config):
        base = {**GPT2, "eos_token_id": 2} if family == "GPT2" else SIZE
        if family == "Mistral":
            config = {"sliding_window": None, **config}
        full = getattr(transformers, f"{family}Config")(**base | config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(full, attn_implementation=attn_implementation)
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def lora():
    """lora(model, **config): the model with a LoRA adapter on all linear layers, with B ≠ 0 unless fresh=True."""
    from peft import LoraConfig, get_peft_model

    def wrap(model, fresh=False, **config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
            model = get_peft_model(model, LoraConfig(**config)).eval()
            if not fresh:
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.data += 0.1 * torch.randn_like(parameter)
        return model

    return wrap


@pytest.fixture
def plain():
    """plain(model, examples): (B,) log π of every response by the model's own forward, one sequence at a time."""

    def score(model, examples):
        sums = []
        for e in examples:
            for r in e.responses:
                logits = model(input_ids=torch.tensor([[*e.prompt, *r]])).logits[0]
                logps = logits.log_softmax(-1)[len(e.prompt) - 1 : -1]
                sums.append(logps.gather(1, torch.tensor(r)[:, None]).sum())
        return torch.stack(sums)

    return score
