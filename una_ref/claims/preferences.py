"""UPO and IUPO, preferences and f-divergences: notebooks 05 and 06."""

from __future__ import annotations
