"""LLM alignment from pairs, binary labels and scores: reference implementations, checked against exact optima.

``METHODS["una-score"].loss(logps=..., ref_logps=..., scores=..., beta=0.03)`` is one number per response.
"""

from una_ref.methods import METHODS

__version__ = "0.2.0"
__all__ = ["METHODS", "__version__"]
