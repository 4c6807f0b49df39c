"""Where others' implementations of these losses went wrong, and what keeps ours from it.

Each trap is one that a public alignment library or script has fallen into. Beside it stand the tests that fail when it
is sprung, or the reason why it cannot be. The numbers are those of the project's list of traps.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ASKED = {*range(1, 42), *range(43, 48)}

BATCH, ENCODER, LOOP = (f"tests/{name}.py::" for name in ("data/test_batch", "data/test_encoder", "training/test_loop"))
LOGPROBS, REFERENCES = "tests/policies/test_logprobs.py::", "tests/policies/test_references.py::"
EVERY, SOURCES = "tests/methods/test_every_loss.py::", "tests/data/test_sources.py::"
ROLLOUT, ONLINE = "tests/policies/test_rollout.py::", "tests/training/test_online.py::"
TABLES, GRADIENT = "tests/training/test_tables.py::", "tests/methods/test_policy_gradient.py::"
SCORERS, REWARD_MODEL = "tests/policies/test_scorers.py::", "tests/training/test_reward_model.py::"
POPULATION, PARITY = "tests/methods/test_population.py::", "tests/methods/test_trl_parity.py::"
METRICS, CONVERSIONS = "tests/training/test_metrics.py::", "tests/data/test_conversions.py::"

# number: (the trap, its tests) or (the trap, why it cannot occur)
TRAPS: dict[int, tuple[str, tuple[str, ...] | str]] = {
    1: (
        "A token spans prompt and response, so part of the response is scored as prompt.",
        (ENCODER + "test_no_token_spans_the_boundary", ENCODER + "test_tokenised_together_they_would_merge"),
    ),
    2: (
        "A prompt taken to be what two responses begin with eats the words that both share.",
        (
            SOURCES + "test_hh_dialogues_split_at_the_last_shared_assistant",
            SOURCES + "test_hh_prompt_and_response_are_the_dialogue_again",
            SOURCES + "test_pairs_of_whole_conversations",
        ),
    ),
    3: (
        "Two BOS: the template writes one and the tokenizer adds another.",
        (ENCODER + "test_bos_and_eos_stand_once", ENCODER + "test_a_template_with_its_own_bos_and_eos"),
    ),
    4: (
        "Two EOS: the template writes one and the code appends another.",
        (ENCODER + "test_bos_and_eos_stand_once", ENCODER + "test_chatml_ends_at_its_end_of_turn"),
    ),
    5: (
        "A response that was cut is given an EOS, as if it had ended.",
        (ENCODER + "test_a_response_that_is_cut_does_not_end",),
    ),
    6: (
        "Only one of two responses loses its EOS to the cut, and nobody is told.",
        (ENCODER + "test_a_response_that_is_cut_does_not_end",),
    ),
    7: (
        "The pad token is the EOS token, and a mask by token id hides the real EOS.",
        (
            ENCODER + "test_a_template_with_its_own_bos_and_eos",
            BATCH + "test_every_token_is_predicted_from_its_prompt_and_its_past",
        ),
    ),
    8: (
        "A mask or a count made of values that are not 0: before the first step all rewards are 0.",
        (
            METRICS + "test_each_is_the_mean_computed_by_hand",
            "tests/training/test_run.py::test_a_fresh_run_begins_with_rewards_of_zero",
        ),
    ),
    9: (
        "(B,) and (B, T) broadcast to something plausible.",
        (EVERY + "test_a_wrong_shape_is_refused_however_it_would_broadcast", EVERY + "test_one_number_per_example"),
    ),
    10: (
        "Dropout is on in the policy and off in its reference, so the first margins are not 0.",
        (
            REFERENCES + "test_implicit_rewards_are_exactly_zero_at_step_0",
            REFERENCES + "test_a_models_own_dropout_is_found",
        ),
    ),
    11: (
        "With adapters off, modules that are trained as a whole stay on, and the reference moves.",
        (REFERENCES + "test_training_leaves_the_reference_as_it_was_to_the_bit",),
    ),
    12: (
        "Training goes on with an adapter, and the reference is the model under it.",
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
        "A reference computed beforehand is computed in another precision than the policy.",
        (
            LOOP + "test_a_reference_computed_once_has_the_policy_s_precision",
            REFERENCES + "test_zero_under_autocast_as_well",
        ),
    ),
    17: (
        "A response's log-prob depends on what else is in its micro-batch.",
        (LOGPROBS + "test_the_company_in_a_batch_makes_no_difference",),
    ),
    18: (
        "Responses are drawn at one temperature and scored at another, so the first ratio is not 1.",
        (
            ROLLOUT + "test_sampler_has_no_temperature_top_k_or_top_p",
            ROLLOUT + "test_temperature_changes_the_samples_and_not_their_log_probs",
            ONLINE + "test_in_ppo_s_first_update_the_ratio_is_one_and_the_values_are_zero",
            ONLINE + "test_what_would_be_wrong_online_is_refused",
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
            ONLINE + "test_what_a_rollout_measures_by_hand",
            "tests/policies/test_merging.py::test_each_of_the_two_limits_refuses_a_merge",
        ),
    ),
    21: (
        "The rollout stands where the reference belongs: rewards are 0 in the first pass, and nothing holds π.",
        (
            TABLES + "test_they_reach_the_optimum_of_a_table",
            TABLES + "test_the_authors_loss_leaves_the_optimum_behind",
            GRADIENT + "test_the_authors_online_loss_is_anchored_at_the_rollout",
        ),
    ),
    22: (
        "An f-divergence used response by response, as if log Z cancelled there too: another optimum.",
        (
            POPULATION + "test_iupo_as_printed_learns_something_else",
            POPULATION + "test_iupo_learns_the_optimum_of_its_divergence",
            POPULATION + "test_f_dpo_learns_the_optimum_of_its_divergence",
        ),
    ),
    23: (
        "Forward KL's exp(−log π/π_ref) is infinite as soon as a chosen response has become unlikely.",
        (EVERY + "test_finite_at_the_extremes", PARITY + "test_pairs_with_label_smoothing_or_a_divergence"),
    ),
    24: (
        "log(sigmoid(x)) and its kin overflow where they saturate.",
        (EVERY + "test_finite_at_the_extremes", "tests/methods/test_shapes.py::test_far_out_nothing_is_lost"),
    ),
    25: (
        "Gradient accumulation weighs micro-batches, not rows.",
        (
            LOOP + "test_a_batch_cut_into_micro_batches_has_the_gradient_of_the_whole",
            LOOP + "test_two_processes_have_the_gradient_and_the_metrics_of_one",
        ),
    ),
    26: (
        "A sum goes for a mean, and the learning rate grows with the batch.",
        (LOOP + "test_a_batch_given_twice_has_the_same_gradient",),
    ),
    27: ("The first row's label is taken for all rows.", (LOOP + "test_losses_move_with_their_rows",)),
    28: (
        "KTO's mismatched pairs meet their own prompt, or are made for another batch than the one in hand.",
        (
            LOOP + "test_no_response_meets_its_own_prompt",
            LOOP + "test_kto_refuses_a_batch_of_one_prompt",
            LOOP + "test_the_kl_estimate_is_that_of_the_whole_batch_and_has_no_gradient",
        ),
    ),
    29: (
        "KTO's estimate of the KL lets the gradient through, goes below 0, or differs between processes.",
        (
            LOOP + "test_the_kl_estimate_is_that_of_the_whole_batch_and_has_no_gradient",
            LOOP + "test_a_negative_estimate_counts_as_zero",
            LOOP + "test_two_processes_have_the_gradient_and_the_metrics_of_one",
        ),
    ),
    30: (
        "Label smoothing is a setting that nothing reads.",
        (
            POPULATION + "test_cdpo_asks_for_a_smaller_margin_and_a_finite_one",
            PARITY + "test_pairs_with_label_smoothing_or_a_divergence",
        ),
    ),
    31: (
        "Log-probs are summed here and averaged there, and β means two things.",
        (LOGPROBS + "test_the_sum_over_tokens_not_their_mean", "tests/methods/test_trl_parity.py::test_pairs"),
    ),
    32: (
        "A head for values or scores begins large, or is lost when the model is loaded again.",
        (
            SCORERS + "test_head_starts_small_and_depends_on_the_seed",
            SCORERS + "test_saved_scorer_loads_with_the_same_rewards",
            REWARD_MODEL + "test_stock_transformers_loads_it_whole",
            ONLINE + "test_in_ppo_s_first_update_the_ratio_is_one_and_the_values_are_zero",
        ),
    ),
    33: (
        "A reward is read at a pad, or one token before the last.",
        (
            SCORERS + "test_rewards_in_both_layouts_equal_the_models_own_forward",
            SCORERS + "test_reward_depends_on_the_last_token_and_not_on_other_responses",
            GRADIENT + "test_rewards_of_tokens_add_up_to_that_of_the_response",
        ),
    ),
    34: (
        "The penalty for a missing EOS finds one in the prompt.",
        (ONLINE + "test_the_penalty_looks_for_eos_in_the_response_and_not_in_the_prompt",),
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
            REWARD_MODEL + "test_it_sees_text_whatever_the_policy_s_ids_are",
            "tests/policies/test_classifier.py::test_tokenizer_of_another_model_is_refused",
        ),
    ),
    37: (
        "A reward model reads another template than in its training.",
        (
            REWARD_MODEL + "test_the_source_gives_the_rewards_of_training",
            REWARD_MODEL + "test_so_it_does_with_a_base_that_has_a_template_and_rows_that_are_cut",
            "tests/policies/test_classifier.py::test_dialogue_is_read_through_the_models_own_chat_template",
        ),
    ),
    38: (
        "An estimate of the KL stands in the loss, where its gradient is not that of the KL.",
        (
            GRADIENT + "test_a_kl_estimate_in_the_loss_is_not_the_gradient_of_the_kl",
            GRADIENT + "test_its_expected_update_is_the_policy_gradient",
        ),
    ),
    39: (
        "Each token answers for its own KL only, and the cross terms of the sequence's are lost.",
        (GRADIENT + "test_token_by_token_reinforce_loses_the_cross_terms_of_a_sequence_kl",),
    ),
    40: (
        "Metrics are means over padding, of one process, or of micro-batches.",
        (
            METRICS + "test_each_is_the_mean_computed_by_hand",
            METRICS + "test_parts_add_up_to_the_whole",
            LOOP + "test_two_processes_have_the_gradient_and_the_metrics_of_one",
        ),
    ),
    41: ("A reference that no loss asks for fills memory.", (REFERENCES + "test_no_reference_no_second_model",)),
    43: (
        "A resumed run has another order, dropout, optimizer or reference.",
        (
            "tests/training/test_fit.py::test_interrupted_and_killed_it_ends_with_the_same_bytes",
            LOOP + "test_every_epoch_is_a_permutation_that_seed_and_step_alone_decide",
            LOOP + "test_dropout_depends_on_seed_and_step_alone",
        ),
    ),
    44: (
        "A special token that the model has no embedding for, or a marker that falls into pieces.",
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
        "Scores leave [0, 1] on their way to labels, and ties become a win.",
        (
            SOURCES + "test_helpsteer2_ranges",
            CONVERSIONS + "test_ties_are_dropped_and_counted_or_keep_the_first",
            CONVERSIONS + "test_equal_scores_have_no_median_label",
            "tests/data/test_rows.py::test_malformed_rows_are_named",
        ),
    ),
    47: (
        "Nothing is left of a response behind a long prompt, and its loss is empty.",
        (
            ENCODER + "test_a_prompt_that_leaves_no_room_is_dropped_and_counted",
            "tests/training/test_run.py::test_all_rows_too_long_are_refused",
        ),
    ),
}


def test_every_trap_that_was_asked_for_is_here():
    assert set(TRAPS) == ASKED


def test_every_guard_is_a_test_that_exists():
    for number, (trap, guards) in TRAPS.items():
        assert trap.endswith(".") and guards
        for guard in guards if isinstance(guards, tuple) else ():
            path, _, name = guard.partition("::")
            tree = ast.parse((ROOT / path).read_text("utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (number, guard)
