"""UNA's losses as one regression: notebooks 04 and 07."""

from __future__ import annotations
