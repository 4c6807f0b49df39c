"""The records: one `Method` for each method, a module for each family."""

from una_ref.methods.records import (
    of_games,
    of_grpo,
    of_lists,
    of_pairs,
    of_samples,
    of_scored_pairs,
    of_scorers,
    of_single_responses,
    of_tokens,
    of_trl,
    reference_free,
    una,
)

RECORDS = (
    *una.RECORDS,
    *of_pairs.RECORDS,
    *reference_free.RECORDS,
    *of_scored_pairs.RECORDS,
    *of_trl.RECORDS,
    *of_single_responses.RECORDS,
    *of_lists.RECORDS,
    *of_tokens.RECORDS,
    *of_samples.RECORDS,
    *of_grpo.RECORDS,
    *of_games.RECORDS,
    *of_scorers.RECORDS,
)
"""Every method, in the order of the tables."""
