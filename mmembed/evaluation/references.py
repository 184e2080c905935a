"""Things that an experiment file names as `package.module:name`: texts, tasks, items."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pydantic import Field

from mmembed.config.validation import StrictModel
from mmembed.errors import ConfigError

__all__ = ["Reference", "TaskEntry", "resolve"]


class Reference(StrictModel):
    """Something to call: `package.module:name` with keyword arguments."""

    reference: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    def call(self, *positional: Any) -> Any:
        return resolve(self.reference)(*positional, **self.arguments)


class TaskEntry(Reference):
    """A row of a results table."""

    title: str


def resolve(reference: str) -> Callable[..., Any]:
    """The function or class behind `package.module:name`, from an installed module.

    Raises:
        ConfigError: no such module or name.
    """
    module_name, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"{reference!r} cannot be resolved: {error}") from error
    return found
