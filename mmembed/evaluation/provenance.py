"""`run.json` for people: what was judged, in which words, on which data, how and where.

A row for each setting; what is empty, said twice or of no use to a reader is left to `run.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["provenance"]

_DATA = "suite summary subset calibration data_root plan store allow_missing tasks".split()
_MODEL = "model embedding_dimension space loader encoder".split()
_GROUPS = {"Model": _MODEL, "Prompts": ["profile"], "Data": _DATA}
_REST = "Run"
_OPENED = ("encoder", "profile")  # mappings whose entries are rows
_LEFT_OUT = {"format", "encoder.model", "encoder.embedding_dimension", "encoder.space",
             "encoder.inputs.geometry"}  # fmt: skip
_SHOWN = 8
_DIGEST = re.compile(r"[0-9a-f]{40,64}")


def provenance(record: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Group -> name -> words; groups without a row are left out. Digests are shortened."""
    group_of = {name: group for group, names in _GROUPS.items() for name in names}
    ordered = [*group_of, *(name for name in record if name not in group_of)]
    found: dict[str, dict[str, str]] = {}
    for name in filter(record.__contains__, ordered):
        value = record[name]
        rows = {name: value}
        if name == "tasks" and isinstance(value, Mapping):
            rows = {name: len(value)}
        elif name in _OPENED and isinstance(value, Mapping):
            rows = {f"{name}.{key}": each for key, each in value.items()}
        for path, each in rows.items():
            words = "" if path in _LEFT_OUT else _in_words(each, path)
            if words:
                label = path.removeprefix(f"{name}.").replace("_", " ")
                found.setdefault(group_of.get(name, _REST), {})[label] = words
    return found


def _in_words(value: Any, path: str) -> str:
    """Empty for what says nothing: None, no, nothing in it."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return _mapping_in_words(value, path)
    if isinstance(value, list | tuple):
        words = [word for each in value if (word := _in_words(each, path))]
        return f"{len(words)} entries" if len(words) > _SHOWN else ", ".join(words)
    text = str(value)
    return f"{text[:16]}..." if _DIGEST.fullmatch(text) else text


def _mapping_in_words(value: Mapping[str, Any], path: str) -> str:
    if set(value) == {"min", "max"}:
        low, high = value["min"], value["max"]
        return str(low) if low == high else f"{low} to {high}"
    parts = {
        str(key).replace("_", " "): words
        for key, each in value.items()
        if f"{path}.{key}" not in _LEFT_OUT and (words := _in_words(each, f"{path}.{key}"))
    }
    if len(parts) > 2 * _SHOWN:
        return f"{len(parts)} entries"
    return ", ".join(f"{key} {words}" for key, words in parts.items())
