"""What recipes there are, and how two of them differ once resolved.

    list_recipes() -> names with a line about each        `mmembed recipe list`
    differences(load_recipe(a), load_recipe(b))           `mmembed recipe diff a b`

Torch-free. `data.conformance` says whether a recipe's data fit its losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmembed.config.files import config_folders, read_yaml
from mmembed.config.recipe import Recipe

__all__ = ["ABSENT", "Difference", "RecipeFile", "differences", "list_recipes", "side_by_side"]

_VALUE_WIDTH = 48


class _Absent:
    """The value of a key that one side does not have; `None` is a value."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


@dataclass(frozen=True)
class RecipeFile:
    """A bundled recipe: the name to load it by, and the first line of its head comment."""

    name: str
    path: Path
    summary: str


@dataclass(frozen=True)
class Difference:
    """A key with two values; list entries are numbered from 0, as in `--set`."""

    key: str
    left: Any
    right: Any


def list_recipes() -> list[RecipeFile]:
    """All recipes that load by name, sorted; files without stages (bases) are left out."""
    found: dict[str, RecipeFile] = {}
    for folder in reversed(config_folders()):
        for path in folder.glob("*.yaml"):
            text = path.read_text(encoding="utf-8")
            fields = read_yaml(text, source=path.name)
            if isinstance(fields, Mapping) and "stages" in fields:
                found[path.stem] = RecipeFile(path.stem, path, _first_comment(text))
    return [found[name] for name in sorted(found)]


def differences(left: Recipe, right: Recipe) -> list[Difference]:
    """Every setting in which two resolved recipes differ, in the order of the models' fields."""
    return list(_walk(left.model_dump(mode="json"), right.model_dump(mode="json")))


def side_by_side(found: Sequence[Difference], names: tuple[str, str]) -> list[str]:
    """Lines of a table of differences; long values are cut, `recipe show` has them whole."""
    rows = [("", *names), *((each.key, _shown(each.left), _shown(each.right)) for each in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}".rstrip() for row in rows]


def _shown(value: Any) -> str:
    """A value as one line of YAML."""
    if value is ABSENT:
        return repr(value)
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6
    )
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= _VALUE_WIDTH else text[: _VALUE_WIDTH - 3] + "..."


def _walk(left: Any, right: Any, key: str = "") -> Iterator[Difference]:
    if isinstance(left, dict) and isinstance(right, dict):
        names = [*left, *(name for name in right if name not in left)]
        pairs = [(str(name), left.get(name, ABSENT), right.get(name, ABSENT)) for name in names]
    elif _entries(left) and _entries(right):
        pairs = [
            (str(number), _at(left, number), _at(right, number))
            for number in range(max(len(left), len(right)))
        ]
    else:
        if left != right:
            yield Difference(key, left, right)
        return
    for name, ours, theirs in pairs:
        yield from _walk(ours, theirs, f"{key}.{name}" if key else name)


def _entries(value: Any) -> bool:
    """A list of mappings (stages, data, members) is compared entry by entry, others as a whole."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _at(entries: list[Any], number: int) -> Any:
    return entries[number] if number < len(entries) else ABSENT


def _first_comment(text: str) -> str:
    first = text.partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
