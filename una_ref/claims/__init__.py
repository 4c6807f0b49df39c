"""The ledger of the papers' claims: claim, check, verdict, number, notebook.

Each module holds the claims about one question; importing this package fills `CLAIMS`.
"""

from una_ref.claims import (  # noqa: F401
    baselines,
    exact_board,
    f_divergences,
    floors,
    implicit_reward,
    information,
    iupo,
    js_iupo,
    label_loss,
    offline_order,
    online_learning,
    online_noise,
    pair_loss,
    partition_function,
    printed_tables,
    released,
    released_online,
    sampling,
    score_loss,
    survey_divergences,
    survey_games,
    survey_lengths,
    survey_likelihoods,
    survey_lists,
    survey_pairs,
    survey_references,
    survey_rlhf,
    survey_singles,
    survey_tokens,
)
from una_ref.claims.ledger import CLAIMS, Claim, Evidence, markdown, recompute, sort

sort()

__all__ = ["CLAIMS", "Claim", "Evidence", "markdown", "recompute"]
