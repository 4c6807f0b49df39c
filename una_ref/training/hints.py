"""Names that users of TRL and transformers type, and earlier names of this package, with the key to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Hint(NamedTuple):
    """What to write instead of a name.

    Attributes:
        use: a key, key=value or option of `una-ref train`; empty where there is nothing to write.
        note: how it differs, or why there is nothing to write.
    """

    use: str
    note: str = ""

    def __str__(self) -> str:
        if not self.use:
            return self.note
        return f"use {self.use}{f' ({self.note})' if self.note else ''}"


HINTS: Mapping[str, Hint] = {
    # ---- earlier names
    "clip": Hint("max_grad_norm"),
    "draws": Hint("samples"),
    "hyper": Hint("loss_kwargs"),
    # ---- data and model
    "dataset_name": Hint("--data"),
    "train_file": Hint("--data"),
    "dataset_train_split": Hint("split"),
    "dataset_test_split": Hint("held_out", "a share of the prompts; or eval_data=FILE"),
    "eval_dataset": Hint("eval_data"),
    "model_name_or_path": Hint("--model"),
    "ref_model": Hint("reference_model"),
    "precompute_ref_log_probs": Hint("reference=cache"),
    "chat_template": Hint("template"),
    "chat_template_path": Hint("template", "the text of the template"),
    "max_seq_length": Hint("max_length"),
    "max_prompt_length": Hint("max_prompt"),
    "max_completion_length": Hint("max_response"),
    "max_new_tokens": Hint("max_response"),
    "response_length": Hint("max_response"),
    "truncation_mode": Hint("max_prompt", "longer prompts are dropped; a long response is cut at its end"),
    # ---- run
    "output_dir": Hint("--output"),
    "max_steps": Hint("steps"),
    "num_train_epochs": Hint("epochs"),
    "per_device_train_batch_size": Hint("batch", "rows over all processes"),
    "train_batch_size": Hint("batch", "rows over all processes"),
    "gradient_accumulation_steps": Hint("micro_tokens", "a batch is split by tokens; the gradient stays the same"),
    "per_device_eval_batch_size": Hint("micro_tokens", "evaluation is split by tokens as well"),
    "packing": Hint("layout"),
    "padding_free": Hint("layout"),
    "loss_type": Hint("", "name the method instead, such as una-ref train ipo; a sum is losses=dpo:0.8,sft:0.2"),
    "loss_weights": Hint("losses", "a sum such as losses=dpo:0.8,sft:0.2"),
    "sync_ref_model": Hint("refresh_every", "steps after which the reference moves; with LoRA as well"),
    "ref_model_sync_steps": Hint("refresh_every"),
    "ref_model_mixup_alpha": Hint("refresh_mix", "1 unless it is set; TRL's default is 0.6"),
    "resume_from_checkpoint": Hint("", "the same command on the same output resumes the run"),
    "push_to_hub": Hint("push", "the name of the repository"),
    "hub_model_id": Hint("push"),
    "hub_private_repo": Hint("push", "a new repository is private"),
    # ---- optimizer
    "learning_rate": Hint("lr"),
    "lr_scheduler_type": Hint("schedule"),
    "warmup_ratio": Hint("warmup"),
    "optim": Hint("optimizer", "adamw or adamw8bit"),
    "adam_beta1": Hint("", "AdamW runs with PyTorch's default betas"),
    "adam_beta2": Hint("", "AdamW runs with PyTorch's default betas"),
    # ---- weights and adapter
    "bf16": Hint("dtype=bfloat16"),
    "fp16": Hint("dtype=bfloat16", "float16 is not offered"),
    "torch_dtype": Hint("dtype"),
    "load_in_8bit": Hint("load_in_4bit"),
    "use_peft": Hint("lora_r", "LoRA is the default; lora_r=0 trains every weight"),
    "lora_target_modules": Hint("lora_targets"),
    "deepspeed": Hint("", "start the run with accelerate launch --config_file una_ref/training/launch/fsdp2.yaml"),
    "fsdp": Hint("", "start the run with accelerate launch --config_file una_ref/training/launch/fsdp2.yaml"),
    # ---- online
    "num_generations": Hint("samples"),
    "rloo_k": Hint("samples"),
    "num_iterations": Hint("passes"),
    "num_ppo_epochs": Hint("passes"),
    "num_mini_batches": Hint("minibatches"),
    "reward_funcs": Hint("--reward"),
    "reward_model_path": Hint("--reward"),
    "use_vllm": Hint("engine=vllm"),
    "kl_coef": Hint("beta"),
    "cliprange": Hint("ratio_clip"),
    "epsilon": Hint("ratio_clip", "of grpo also ratio_clip_high, unless epsilon_high is set"),
    "epsilon_high": Hint("ratio_clip_high", "with variant=cispo: that number minus 1"),
    "importance_sampling_level": Hint("ratio", "of the method grpo"),
    "use_bias_correction_kl": Hint("kl_estimate", "of the method grpo: weighted is True, plain False"),
    "discopop_tau": Hint("tau", "of the method discopop"),
    "simpo_gamma": Hint("gamma"),
    "tpo_l_gamma": Hint("gamma"),
    "tpo_alpha": Hint("gold_weight"),
    "cliprange_value": Hint("value_clip"),
    "vf_coef": Hint("value_weight"),
    "f_divergence_type": Hint("divergence", "of the method f-dpo"),
    "f_alpha_divergence_coef": Hint("alpha", "of the method f-dpo: 1 minus that number"),
    # ---- log, evaluations, checkpoints
    "logging_steps": Hint("log_every"),
    "eval_steps": Hint("eval_every"),
    "save_steps": Hint("save_every"),
    "early_stopping_patience": Hint("patience"),
    "load_best_model_at_end": Hint("keep_best", "a held-out metric, such as eval_loss; it needs eval_every"),
    "metric_for_best_model": Hint("keep_best"),
    "greater_is_better": Hint("keep_best", "each metric has its direction"),
    "save_total_limit": Hint("keep_every", "no adapter is kept unless it is set"),
    "report_to": Hint("tracker"),
}
"""Name -> what to write instead. No name here is a key of a config or of a loss."""
