"""Python functions that a user names as ``module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def named_function(path: str) -> Any:
    """What stands at ``module:function``. The module may lie in the current folder.

    Raises:
        ImportError, AttributeError: nothing of that name.
        TypeError, ValueError: no name of a module, as in ``./file.py:f`` and ``:f``.
    """
    module, _, function = path.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script has its own folder there, not the current one
    return getattr(importlib.import_module(module), function)
