"""The ledger of what the papers say: claim, check, verdict, number, notebook.

The entries stand in one module per part of the story; importing this package fills `CLAIMS`.
"""

from una_ref.claims import (  # noqa: F401
    baselines,
    divergences,
    floors,
    information,
    iupo,
    js_iupo,
    labels,
    offline,
    online,
    optima,
    pairs,
    released,
    sampling,
    scores,
)
from una_ref.claims.ledger import CLAIMS, Claim, Evidence, markdown, recompute, sort

sort()

__all__ = ["CLAIMS", "Claim", "Evidence", "markdown", "recompute"]
