"""The folder of what is kept between runs: converted weights and log-probs of references."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """UNA_REF_CACHE, or una_ref in the user's cache folder."""
    folder = os.environ.get("UNA_REF_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "una_ref"
