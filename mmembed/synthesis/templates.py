"""Prompt templates: `{name}` is a field; every other brace is a character like any other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["MissingField", "fields_in", "render"]

_FIELD = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)\}")


class MissingField(Exception):  # noqa: N818  decides about a row, is no failure of the program
    """The row lacks what a template asks for."""


def fields_in(template: str) -> list[str]:
    """Names of the fields, in order."""
    return _FIELD.findall(template)


def render(template: str, fields: Mapping[str, Any]) -> str:
    """The template with its fields; what stands in a field is never looked at again.

    Raises:
        MissingField: a field is absent, None or blank.
    """

    def value(match: re.Match[str]) -> str:
        found = fields.get(match.group(1))
        text = "\n".join(map(str, found)) if isinstance(found, list | tuple) else str(found)
        if found is None or not text.strip():
            raise MissingField(f"the row has no {match.group(1)}")
        return text

    return _FIELD.sub(value, template)
