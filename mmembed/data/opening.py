"""From what a user names to rows: a file, a published data set, an adapter, a recipe or a mixture.

Every command over data (`mmembed data ...`, `mine`, `filter`, `synthesize`) begins here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from mmembed.config.files import (
    find_config,
    list_configs,
    load_mixture,
    load_recipe,
    read_yaml,
)
from mmembed.config.recipe import Recipe
from mmembed.config.stage import DataConfig, first_phrasing
from mmembed.config.validation import StrictModel, did_you_mean, validate
from mmembed.data.adapter import DatasetAdapter, resolve_adapter
from mmembed.datasets import DatasetCard, DatasetCatalog
from mmembed.errors import ConfigError

__all__ = [
    "DatasetSources",
    "OpenedDataset",
    "find_catalog",
    "list_cards",
    "open_datasets",
    "open_entries",
    "open_entry",
    "read_sources",
    "recipe_entries",
]

# Of mixtures, under `configs/`.
MIXTURES = "data"

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class DatasetSources(StrictModel):
    """`configs/datasets.yaml`.

    Args:
        catalogs: of published data sets, `package.module:Name` of a `DatasetCatalog` each.
        formats: of files, by name: `package.module:Name`, called with the path and options.
    """

    catalogs: tuple[str, ...] = ()
    formats: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class OpenedDataset:
    """Rows under a name.

    Attributes:
        reference, arguments: what a recipe would write under `adapter` and `arguments`.
        card: None for what no catalogue knows.
        query_instruction, document_instruction: of a recipe or mixture, for items that bring none;
            the first of several phrasings.
    """

    name: str
    adapter: DatasetAdapter
    reference: str
    arguments: Mapping[str, Any]
    card: DatasetCard | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None


def open_datasets(
    target: str | Path,
    *,
    root: Path = Path("data"),
    format: str | None = None,
    arguments: Sequence[str] = (),
) -> list[OpenedDataset]:
    """Open what `target` names.

    Args:
        target: a file of rows (its format is found by its columns), the name of a published data
            set (its files lie under `root`), `package.module:Name`, or a recipe or mixture in YAML
            (all its entries, each once).
        format: of a file, a name of `configs/datasets.yaml`; None = found out.
        arguments: `key=value` of the adapter; values are YAML.

    Raises:
        ConfigError: nothing of that name; the message says what was looked for.
        DataError: its files are not there or damaged.
    """
    name, path = str(target), Path(target).expanduser()
    options = _keyed(arguments)
    if _REFERENCE.fullmatch(name):
        return [open_entry(name, options)]
    catalog = None if format or path.is_file() else find_catalog(name)
    if catalog is not None:
        return [
            open_entry(catalog.adapter, {"name": name, "root": str(root), **options}, name=name)
        ]
    yaml_file = _yaml_file(name) if format is None else None
    if yaml_file is not None:
        if arguments:
            raise ConfigError(
                f"{name} has entries of its own; {arguments[0]!r} cannot be given to all of them. "
                "Write it under `arguments` of an entry"
            )
        return open_entries(_entries_of_file(yaml_file), where=name)
    if path.exists():
        return [_opened_file(path, format, options)]
    raise ConfigError(_not_found(name, format))


def open_entries(
    entries: Sequence[DataConfig], *, where: str = "the mixture"
) -> list[OpenedDataset]:
    """The entries of a mixture, each once; names as `build_mixture` gives them."""
    opened: list[OpenedDataset] = []
    seen: list[tuple[str, Mapping[str, Any]]] = []
    for entry in entries:
        if (entry.adapter, entry.arguments) in seen:
            continue
        seen.append((entry.adapter, entry.arguments))
        one = replace(
            open_entry(entry.adapter, entry.arguments, name=entry.name),
            query_instruction=first_phrasing(entry.query_instruction),
            document_instruction=first_phrasing(entry.document_instruction),
        )
        taken = {other.name for other in opened}
        if one.name in taken:
            numbered = (f"{one.name}-{number}" for number in range(2, len(taken) + 3))
            name = next(other for other in numbered if other not in taken)
            one = replace(one, name=name)
        opened.append(one)
    if not opened:
        raise ConfigError(f"{where} has no entries under `data`")
    return opened


def recipe_entries(recipe: Recipe) -> list[DataConfig]:
    """The training data of all stages, in order."""
    return [entry for stage in recipe.stages for entry in stage.data]


@cache
def read_sources() -> DatasetSources:
    """The catalogues and formats of `configs/datasets.yaml`."""
    path = find_config("datasets", kind="list of data sources")
    fields = read_yaml(path.read_text(encoding="utf-8"), source=path.name)
    return validate(DatasetSources, fields or {}, where=str(path))


def list_cards() -> dict[str, tuple[DatasetCard, DatasetCatalog]]:
    """All published data sets by name; the first catalogue that has a name gives it."""
    cards: dict[str, tuple[DatasetCard, DatasetCatalog]] = {}
    for catalog in _catalogs():
        for card in catalog.cards():
            cards.setdefault(card.name, (card, catalog))
    return cards


def find_catalog(name: str) -> DatasetCatalog | None:
    """The catalogue that has a data set of this name."""
    found = list_cards().get(name)
    return found[1] if found else None


@cache
def _catalogs() -> tuple[DatasetCatalog, ...]:
    return tuple(_resolve(reference, "catalogue")() for reference in read_sources().catalogs)


def _resolve(reference: str, kind: str) -> Any:
    module_name, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"configs/datasets.yaml: {kind} {reference!r} is not installed: {error}"
        ) from None


def open_entry(
    reference: str, arguments: Mapping[str, Any], *, name: str | None = None
) -> OpenedDataset:
    """One adapter, as a recipe names it; errors as `resolve_adapter`."""
    adapter = resolve_adapter(reference, arguments)
    card = getattr(adapter, "card", None)
    return OpenedDataset(
        name=name or adapter.name,
        adapter=adapter,
        reference=reference,
        arguments=dict(arguments),
        card=card if isinstance(card, DatasetCard) else None,
    )


def _opened_file(path: Path, format: str | None, options: Mapping[str, Any]) -> OpenedDataset:
    from mmembed.data.formats import detect_format, load_format

    name = format or detect_format(path)
    load_format(name)
    return open_entry(read_sources().formats[name], {"path": str(path), **options})


def _yaml_file(name: str) -> Path | None:
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    for folder in ("", MIXTURES):
        found = list_configs(folder).get(name)
        if found is not None and (folder or name != "datasets"):
            return found
    return None


def _entries_of_file(path: Path) -> Sequence[DataConfig]:
    fields = read_yaml(path.read_text(encoding="utf-8"), source=path.name)
    if isinstance(fields, Mapping) and fields.keys().isdisjoint(("stages", "base")):
        return load_mixture(path)
    return recipe_entries(load_recipe(path))


def _keyed(arguments: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ConfigError(f"option {argument!r} is not of the form key=value")
        options[key.strip()] = read_yaml(text, source=f"option {argument!r}")
    return options


def _not_found(name: str, format: str | None) -> str:
    if format is not None:
        return f"no file {name!r}; --format {format} reads files"
    names = list_cards()
    configs = {**list_configs(), **list_configs(MIXTURES)}
    configs.pop("datasets", None)
    guess = did_you_mean(name, [*names, *configs])
    return (
        f"nothing is called {name!r}{guess}. Looked for a file, a published data set "
        f"(`mmembed data list` shows {len(names)}), `package.module:Name`, a recipe and a mixture "
        f"({', '.join(configs)})"
    )
