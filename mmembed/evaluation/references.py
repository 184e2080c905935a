"""Things that a file names as `package.module:name` or `file.py:name`: texts, tasks, encoders."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from mmembed.config.validation import StrictModel
from mmembed.errors import ConfigError

__all__ = ["Reference", "TaskEntry", "resolve"]


class Reference(StrictModel):
    """Something to call with keyword arguments.

    Attributes:
        reference: `package.module:name` of an installed module, or `file.py:name`; a relative path
            is beside the file that names it.
    """

    reference: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    def call(self, *positional: Any, beside: Path | None = None) -> Any:
        """The result; `beside` is the folder of relative paths.

        Raises:
            ConfigError: nothing of that name, or it does not take these arguments.
        """
        called = resolve(self.reference, beside=beside)
        try:
            inspect.signature(called).bind(*positional, **self.arguments)
        except TypeError as error:
            raise ConfigError(f"{self.reference!r} cannot be called: {error}") from None
        return called(*positional, **self.arguments)


class TaskEntry(Reference):
    """A row of a results table."""

    title: str


def resolve(reference: str, *, beside: Path | None = None) -> Callable[..., Any]:
    """The function or class behind `package.module:name` or `file.py:name`.

    Args:
        beside: folder of relative paths; default: the current one.

    Raises:
        ConfigError: no such module, file or name, or it cannot be imported.
    """
    module_name, colon, name = reference.rpartition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"{reference!r} is not of the form package.module:name or file.py:name")
    try:
        module = (
            _load_file((beside or Path()) / module_name)
            if module_name.endswith(".py")
            else importlib.import_module(module_name)
        )
    except (ImportError, SyntaxError) as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]:
            hint = f"; for a file write its path, such as {module_name.split('.')[0]}.py:{name}"
        raise ConfigError(f"{reference!r} cannot be resolved: {error}{hint}") from error
    found = getattr(module, name, None)
    if not callable(found):
        problem = "has no" if found is None else "cannot call its"
        raise ConfigError(f"{reference!r} cannot be resolved: {module_name} {problem} {name!r}")
    called: Callable[..., Any] = found
    return called


def _load_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"the file {path} does not exist")
    # a name of its own, since dataclasses look their module up
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
