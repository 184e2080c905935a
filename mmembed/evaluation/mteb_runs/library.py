"""mteb, imported when it is first needed.

Nothing in this folder imports mteb or `datasets` at its top, so that all of it can be imported
where they are not installed.
"""

from __future__ import annotations

import importlib
from typing import Any

from mmembed.errors import MissingDependencyError

__all__ = ["load_datasets", "load_mteb"]


def load_mteb(module: str = "mteb") -> Any:
    """mteb, or one of its modules.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return _load(module, "mteb")


def load_datasets(module: str = "datasets") -> Any:
    """The `datasets` library, which mteb brings, or one of its modules; errors as `load_mteb`."""
    return _load(module, "datasets")


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise MissingDependencyError(package, "evaluation") from None
        raise
