"""Known errors of other alignment libraries, and the tests that guard against them.

Each trap is an error of a public alignment library or script. Beside it are the tests that fail if it occurs here, or
the reason why it cannot occur. The numbers are those of the project's list of traps.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUESTED = {*range(1, 42), *range(43, 48)}

BATCH, ENCODER, TRAINER = (
    f"tests/{name}.py::" for name in ("data/test_batch", "data/test_encoder", "training/test_trainer")
)
LOGPROBS, REFERENCES = "tests/policies/test_logprobs.py::", "tests/policies/test_references.py::"
EVERY, SOURCES = "tests/methods/test_every_loss.py::", "tests/data/test_sources.py::"
ROLLOUT, ONLINE = "tests/policies/test_rollout.py::", "tests/training/test_samplers.py::"
TABLES, GRADIENT = "tests/training/test_table_runs.py::", "tests/methods/test_policy_gradient.py::"
SCORERS, REWARD_MODEL = "tests/policies/test_scorers.py::", "tests/training/test_reward_model.py::"
POPULATION, PARITY = "tests/methods/test_population.py::", "tests/methods/test_trl_parity.py::"
METRICS, CONVERSIONS = "tests/training/test_metrics.py::", "tests/data/test_conversions.py::"

# number: (the trap, its tests) or (the trap, why it cannot occur)
TRAPS: dict[int, tuple[str, tuple[str, ...] | str]] = {
    1: (
        "A token spans prompt and response, so part of the response is scored as prompt.",
        (
            ENCODER + "test_no_token_spans_the_boundary",
            ENCODER + "test_tokenising_prompt_and_response_together_would_merge_tokens",
        ),
    ),
    2: (
        "A prompt inferred as the common prefix of two responses swallows the words that both share.",
        (
            SOURCES + "test_hh_dialogues_split_at_the_last_shared_assistant",
            SOURCES + "test_hh_prompt_and_response_are_the_dialogue_again",
            SOURCES + "test_whole_conversations_give_the_prompt_of_a_pair",
        ),
    ),
    3: (
        "Two BOS: the template writes one and the tokenizer adds another.",
        (ENCODER + "test_bos_and_eos_occur_once", ENCODER + "test_a_template_with_its_own_bos_and_eos"),
    ),
    4: (
        "Two EOS: the template writes one and the code appends another.",
        (ENCODER + "test_bos_and_eos_occur_once", ENCODER + "test_chatml_ends_at_its_end_of_turn"),
    ),
    5: (
        "A response that was cut is given an EOS, as if it had ended.",
        (ENCODER + "test_a_cut_response_has_no_eos",),
    ),
    6: (
        "Only one of two responses loses its EOS to the cut, without a report.",
        (ENCODER + "test_a_cut_response_has_no_eos",),
    ),
    7: (
        "The pad token is the EOS token, and a mask by token id hides the real EOS.",
        (
            ENCODER + "test_a_template_with_its_own_bos_and_eos",
            BATCH + "test_every_token_is_predicted_from_its_prompt_and_its_past",
        ),
    ),
    8: (
        "A mask or a count is built from non-zero values, but before the first step all rewards are 0.",
        (
            METRICS + "test_each_metric_is_the_mean_computed_by_hand",
            "tests/training/test_run.py::test_a_fresh_run_begins_with_rewards_of_zero",
        ),
    ),
    9: (
        "(B,) and (B, T) broadcast to something plausible.",
        (
            EVERY + "test_mismatched_shapes_are_refused_even_if_they_broadcast",
            EVERY + "test_loss_has_one_value_per_example",
        ),
    ),
    10: (
        "Dropout is on in the policy and off in its reference, so the first margins are not 0.",
        (
            REFERENCES + "test_implicit_rewards_are_exactly_zero_at_step_0",
            REFERENCES + "test_a_models_own_dropout_is_found",
        ),
    ),
    11: (
        "Fully trained modules stay on while adapters are off, and the reference changes.",
        (REFERENCES + "test_training_leaves_the_reference_as_it_was_to_the_bit",),
    ),
    12: (
        "Training continues from an adapter, but the reference is the base model below it.",
        (
            "tests/policies/test_loading.py::test_trained_adapter_is_merged_and_becomes_the_reference",
            REFERENCES + "test_an_adapter_that_is_not_fresh_is_found",
        ),
    ),
    13: (
        "The memory-saving path forgets the reference when there are adapters.",
        (
            LOGPROBS + "test_chunks_of_the_head_change_nothing",
            REFERENCES + "test_training_leaves_the_reference_as_it_was_to_the_bit",
        ),
    ),
    14: (
        "A fused loss ignores options that the plain one has.",
        "There is no fused loss: chunks of the head end at log-probs, and every loss takes those.",
    ),
    15: (
        "bfloat16 noise, summed over a thousand tokens, becomes nats.",
        (LOGPROBS + "test_bfloat16_stays_within_its_noise", LOGPROBS + "test_autocast_scores_in_float32"),
    ),
    16: (
        "A precomputed reference has another precision than the policy.",
        (
            TRAINER + "test_cached_reference_has_the_precision_of_the_policy",
            REFERENCES + "test_zero_under_autocast_as_well",
        ),
    ),
    17: (
        "A response's log-prob depends on the other rows of its micro-batch.",
        (LOGPROBS + "test_the_company_in_a_batch_makes_no_difference",),
    ),
    18: (
        "Responses are sampled at one temperature and scored at another, so the first ratio is not 1.",
        (
            ROLLOUT + "test_sampler_has_no_temperature_top_k_or_top_p",
            ROLLOUT + "test_temperature_changes_the_samples_and_not_their_log_probs",
            ONLINE + "test_first_ppo_update_has_ratio_one_and_zero_values",
            ONLINE + "test_invalid_online_settings_are_refused",
        ),
    ),
    19: (
        "The sampler cuts off unlikely tokens and its log-probs are of what is left.",
        (
            ROLLOUT + "test_sampler_has_no_temperature_top_k_or_top_p",
            ROLLOUT + "test_generation_config_of_the_model_only_suppresses_tokens",
        ),
    ),
    20: (
        "The cache, the engine or a merged adapter gives other log-probs than the training forward.",
        (
            ROLLOUT + "test_sampler_log_probs_equal_the_training_forward",
            ROLLOUT + "test_pads_and_chunks_change_no_log_prob",
            ONLINE + "test_rollout_measures_by_hand",
            "tests/policies/test_merging.py::test_each_of_the_two_limits_refuses_a_merge",
        ),
    ),
    21: (
        "The rollout policy replaces the reference: rewards are 0 in the first pass, and π is not kept near π_ref.",
        (
            TABLES + "test_online_methods_reach_the_optimum_of_a_table",
            TABLES + "test_released_una_online_moves_away_from_the_optimum",
            GRADIENT + "test_released_una_online_uses_the_rollout_policy_as_reference",
        ),
    ),
    22: (
        "An f-divergence is applied to single responses, as if log Z cancelled there too: another optimum.",
        (
            POPULATION + "test_printed_iupo_does_not_learn_the_optimum_of_its_divergence",
            POPULATION + "test_iupo_learns_the_optimum_of_its_divergence",
            POPULATION + "test_f_dpo_learns_the_optimum_of_its_divergence",
        ),
    ),
    23: (
        "Forward KL's exp(−log π/π_ref) is infinite as soon as a chosen response has become unlikely.",
        (
            EVERY + "test_loss_and_gradient_are_finite_at_extreme_inputs",
            PARITY + "test_pair_loss_matches_trl_on_every_row",
        ),
    ),
    24: (
        "log(sigmoid(x)) and similar expressions overflow where they saturate.",
        (
            EVERY + "test_loss_and_gradient_are_finite_at_extreme_inputs",
            "tests/methods/test_shapes.py::test_logistic_and_bce_keep_precision_at_extreme_inputs",
        ),
    ),
    25: (
        "Gradient accumulation weights micro-batches, not rows.",
        (
            TRAINER + "test_micro_batches_have_the_gradient_of_the_whole_batch",
            TRAINER + "test_two_processes_match_the_gradient_and_metrics_of_one",
        ),
    ),
    26: (
        "A sum replaces a mean, and the learning rate grows with the batch.",
        (TRAINER + "test_duplicated_batch_has_the_same_gradient",),
    ),
    27: ("The first row's label is taken for all rows.", (TRAINER + "test_reordering_a_batch_reorders_its_losses",)),
    28: (
        "KTO's mismatched responses keep their own prompt, or come from another batch.",
        (
            TRAINER + "test_mismatched_responses_come_from_another_prompt",
            TRAINER + "test_kto_refuses_a_batch_of_one_prompt",
            TRAINER + "test_kl_estimate_covers_the_whole_batch_and_has_no_gradient",
        ),
    ),
    29: (
        "KTO's estimate of the KL lets the gradient through, goes below 0, or differs between processes.",
        (
            TRAINER + "test_kl_estimate_covers_the_whole_batch_and_has_no_gradient",
            TRAINER + "test_negative_kl_estimate_counts_as_zero",
            TRAINER + "test_two_processes_match_the_gradient_and_metrics_of_one",
        ),
    ),
    30: (
        "Label smoothing is a setting without effect.",
        (
            POPULATION + "test_cdpo_margin_is_the_logit_of_the_smoothed_preference",
            PARITY + "test_pair_loss_matches_trl_on_every_row",
        ),
    ),
    31: (
        "Log-probs are summed in one place and averaged in another, and β has two meanings.",
        (
            LOGPROBS + "test_the_sum_over_tokens_not_their_mean",
            PARITY + "test_pair_loss_matches_trl_on_every_row",
        ),
    ),
    32: (
        "A value or score head starts large, or is lost when the model is reloaded.",
        (
            SCORERS + "test_head_starts_small_and_depends_on_the_seed",
            SCORERS + "test_saved_scorer_loads_with_the_same_rewards",
            REWARD_MODEL + "test_stock_transformers_loads_the_whole_reward_model",
            ONLINE + "test_first_ppo_update_has_ratio_one_and_zero_values",
        ),
    ),
    33: (
        "A reward is read at a pad token, or one token before the last.",
        (
            SCORERS + "test_rewards_in_both_layouts_equal_the_models_own_forward",
            SCORERS + "test_reward_depends_on_the_last_token_and_not_on_other_responses",
            GRADIENT + "test_token_rewards_add_up_to_the_response_reward",
        ),
    ),
    34: (
        "The penalty for a missing EOS is fooled by an EOS in the prompt.",
        (ONLINE + "test_missing_eos_penalty_ignores_eos_in_the_prompt",),
    ),
    35: (
        "Padding without position ids shifts every position.",
        (
            LOGPROBS + "test_equal_to_a_plain_forward_in_float64",
            BATCH + "test_every_token_is_predicted_from_its_prompt_and_its_past",
        ),
    ),
    36: (
        "A reward model is given the policy's token ids.",
        (
            REWARD_MODEL + "test_reward_model_reads_text_whatever_the_policy_token_ids",
            "tests/policies/test_classifier.py::test_tokenizer_of_another_model_is_refused",
        ),
    ),
    37: (
        "A reward model reads another chat template than in its training.",
        (
            REWARD_MODEL + "test_reward_source_gives_the_rewards_of_training",
            REWARD_MODEL + "test_reward_source_matches_training_with_a_template_and_cut_rows",
            "tests/policies/test_classifier.py::test_dialogue_is_read_through_the_models_own_chat_template",
        ),
    ),
    38: (
        "An estimate of the KL is part of the loss, where its gradient is not that of the KL.",
        (
            GRADIENT + "test_gradient_of_a_kl_estimate_is_not_the_gradient_of_the_kl",
            GRADIENT + "test_ppo_expected_gradient_is_the_policy_gradient",
        ),
    ),
    39: (
        "Each token is penalised for its own KL only, and the cross terms of the sequence KL are lost.",
        (GRADIENT + "test_per_token_kl_penalty_loses_the_cross_terms_of_a_sequence_kl",),
    ),
    40: (
        "Metrics are means over padding, of one process, or of micro-batches.",
        (
            METRICS + "test_each_metric_is_the_mean_computed_by_hand",
            METRICS + "test_metrics_of_parts_add_up_to_those_of_the_whole_batch",
            TRAINER + "test_two_processes_match_the_gradient_and_metrics_of_one",
        ),
    ),
    41: ("A reference that no loss uses fills memory.", (REFERENCES + "test_no_reference_no_second_model",)),
    43: (
        "A resumed run has another order, dropout, optimizer or reference.",
        (
            "tests/training/test_loop.py::test_interrupted_and_killed_run_resumes_to_the_same_bytes",
            TRAINER + "test_each_epoch_is_a_permutation_set_by_seed_and_step",
            TRAINER + "test_dropout_depends_only_on_seed_step_and_update",
        ),
    ),
    44: (
        "A special token has no embedding in the model, or a marker is split into pieces.",
        (
            "tests/policies/test_loading.py::test_token_without_an_embedding_is_refused",
            ENCODER + "test_chatml_ends_at_its_end_of_turn",
        ),
    ),
    45: (
        "Markup in a prompt is escaped on its way to the model.",
        (ENCODER + "test_a_template_with_its_own_bos_and_eos",),
    ),
    46: (
        "Scores converted to labels leave [0, 1], and ties become wins.",
        (
            SOURCES + "test_helpsteer2_weights_set_the_range_of_scores",
            CONVERSIONS + "test_tied_pairs_are_dropped_and_counted_or_choose_the_first",
            CONVERSIONS + "test_a_prompt_of_equal_scores_is_dropped_or_its_first_response_is_positive",
            "tests/data/test_rows.py::test_malformed_rows_are_named",
        ),
    ),
    47: (
        "A long prompt leaves no room for its response, and the loss is empty.",
        (
            ENCODER + "test_a_prompt_that_leaves_no_room_is_dropped_and_counted",
            "tests/training/test_run.py::test_all_rows_too_long_are_refused",
        ),
    ),
}


def test_every_requested_trap_is_listed():
    assert set(TRAPS) == REQUESTED


def weaknesses(guard):
    """Why pytest would not collect and run this guard, or why it could not fail: empty if it can do its work.

    Read from the source, since collecting the guards would import every library that the tests use.
    """
    path, _, name = guard.partition("::")
    module = ast.parse((ROOT / path).read_text("utf-8")).body
    functions = [node for node in module if isinstance(node, ast.FunctionDef) and node.name == name]
    if not name.startswith("test_") or len(functions) != 1:
        return [f"defined {len(functions)} times as a test"]
    marks = [node for node in module if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"]
    skips = [
        word
        for node in (*functions, *marks)
        for word in re.findall(r"\b(?:skip|skipif|xfail|importorskip)\b", ast.unparse(node))
    ]
    checks = re.search(r"\bassert |\b(?:raises|assert_close|same|refused)\(", ast.unparse(functions[0]))
    return skips + ([] if checks else ["no assertion"])


def test_every_guard_is_collected_not_skipped_and_asserts():
    for number, (trap, guards) in TRAPS.items():
        assert trap.endswith(".") and guards
        for guard in guards if isinstance(guards, tuple) else ():
            assert not weaknesses(guard), (number, guard)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def test_a():\n    assert True", []),
        ("def test_b():\n    assert True", ["defined 0 times as a test"]),
        ("@pytest.mark.skip\ndef test_a():\n    assert True", ["skip"]),
        ("pytestmark = pytest.mark.xfail\ndef test_a():\n    assert True", ["xfail"]),
        ("def test_a():\n    print(1)", ["no assertion"]),
    ],
)
def test_missing_skipped_or_empty_guard_is_reported(source, expected, tmp_path):
    (tmp_path / "test_guards.py").write_text(source)
    assert weaknesses(f"{tmp_path / 'test_guards.py'}::test_a") == expected
