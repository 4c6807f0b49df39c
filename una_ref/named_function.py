"""Python functions that a user names as ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def named_function(path: str) -> Any:
    """What stands at ``module:function`` or ``file.py:function``. The module may lie in the current folder.

    Raises:
        ImportError, AttributeError: nothing of that name.
        TypeError, ValueError: no name of a module, as in ``:f``.
    """
    name, _, function = path.rpartition(":") if ".py:" in path else path.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script has its own folder there, not the current one
    return getattr(_of_file(name) if name.endswith(".py") else importlib.import_module(name), function)


def _of_file(name: str) -> ModuleType:
    """The module in a file. A second call gives the same module."""
    file = Path(name).expanduser().resolve()
    if not file.is_file():
        raise ImportError(f"no file {name}")
    for module in [*sys.modules.values()]:
        if getattr(module, "__file__", None) == str(file):
            return module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # for the modules beside it; behind the others, so that it hides none
    known = file.stem if file.stem not in sys.modules else str(file)
    spec = importlib.util.spec_from_file_location(known, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = sys.modules[known] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module
