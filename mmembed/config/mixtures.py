"""Mixture files: lists of data under a name, that recipes and other mixtures take in.

    description: Retrieval in two languages
    defaults:                      # under every entry, keys of `DataConfig`; `arguments` are merged
      adapter: data_adapters.catalog:Dataset
    data:
      - arguments: {name: msmarco-passage}
      - {mixture: chinese, weight: 0.5, cap: 100000, query_instruction: ...}

A recipe names one as `data: NAME`, or in an entry `{mixture: NAME, ...}`. A mixture is looked for
beside the file that names it, then in `configs/data/`. It is expanded when the recipe is read, so
that what is validated, shown and fingerprinted are plain entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmembed.config.validation import did_you_mean, merge
from mmembed.errors import ConfigError

__all__ = ["expand_data", "expand_recipe"]

Find = Callable[[str, Path | None], Path]
Read = Callable[[Path], Any]

_KEYS = ("description", "defaults", "data")


def expand_recipe(
    fields: Mapping[str, Any], *, beside: Path | None, find: Find, read: Read
) -> dict[str, Any]:
    """The fields of a recipe with entries in the place of the mixtures that its stages name.

    Args:
        beside: the folder where mixtures are looked for first.
        find, read: the file of a name, and what it holds.

    Raises:
        ConfigError: no such mixture, a file that is none, or one that takes in itself.
    """

    def stage(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        found = {
            key: expand_data(given[key], beside=beside, find=find, read=read)
            for key in ("data", "evaluation")
            if key in given
        }
        return {**given, **found}

    expanded = dict(fields)
    if "defaults" in fields:
        expanded["defaults"] = stage(fields["defaults"])
    if isinstance(fields.get("stages"), list):
        expanded["stages"] = [stage(each) for each in fields["stages"]]
    soup = fields.get("soup")
    if isinstance(soup, Mapping) and isinstance(soup.get("members"), list):
        expanded["soup"] = {**soup, "members": [stage(each) for each in soup["members"]]}
    return expanded


def expand_data(
    data: Any, *, beside: Path | None, find: Find, read: Read, inside: Sequence[Path] = ()
) -> Any:
    """Entries in the place of mixtures; what is no list and no name is left to the validation.

    Args:
        inside: the mixtures that take this one in, outermost first.
    """
    if isinstance(data, str):
        data = [{"mixture": data}]
    if not isinstance(data, list | tuple):
        return data
    entries: list[Any] = []
    for entry in data:
        if not isinstance(entry, Mapping) or "mixture" not in entry:
            entries.append(entry)
            continue
        over = {key: value for key, value in entry.items() if key != "mixture"}
        path = find(str(entry["mixture"]), beside)
        if path.resolve() in inside:
            trail = " > ".join(each.name for each in (*inside, path))
            raise ConfigError(f"mixture {path.name} takes in itself: {trail}")
        found = _entries(path, read(path), find, read, (*inside, path.resolve()))
        entries += [_over(each, over) for each in found]
    return entries


def _entries(
    path: Path, fields: Any, find: Find, read: Read, inside: Sequence[Path]
) -> list[dict[str, Any]]:
    if not isinstance(fields, Mapping) or not isinstance(fields.get("data"), list | tuple | str):
        raise ConfigError(f"{path.name} is no mixture: expected a list under data:")
    for key in fields:
        if key not in _KEYS:
            guess = did_you_mean(str(key), _KEYS)
            raise ConfigError(
                f"{path.name}: unknown key {key!r}{guess}; known keys: {', '.join(_KEYS)}"
            )
    defaults = fields.get("defaults") or {}
    if not isinstance(defaults, Mapping):
        raise ConfigError(f"{path.name}: defaults holds {defaults!r}; expected keys of an entry")
    found = expand_data(fields["data"], beside=path.parent, find=find, read=read, inside=inside)
    for number, entry in enumerate(found):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{path.name}: data.{number} is {entry!r}; expected keys of an entry")
    return [merge(defaults, entry) for entry in found]


def _over(entry: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Weights and shares multiply, the lower cap holds, every other key of `over` wins."""
    merged = merge(entry, over)
    try:
        for key in ("weight", "share"):
            if key in entry and key in over:
                merged[key] = entry[key] * over[key]
        caps = [each["cap"] for each in (entry, over) if each.get("cap") is not None]
        if caps:
            merged["cap"] = min(caps)
    except TypeError:
        return merge(entry, over)  # the validation says which value is no number
    return merged
