"""The catalogue of published training data: cards as JSON, one parser for each layout.

`cards/*.json` are lists under `entries`; `defaults` of a file hold what its entries share. An entry
has the fields of `DatasetCard`, `family` (the module below `data_adapters` whose `load` reads its
layout, such as `text.pairs`) and `options` (arguments of that `load`; users may override them).
`folder` is where a download that is not on the hub belongs, if not under the name of the data set.

A recipe names one data set as

    adapter: data_adapters.catalog:Dataset
    arguments: {name: msmarco-passage, root: data}
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, DataError
from mmembed.tables.layouts import repository_folders
from mmembed.types import ContrastiveExample

__all__ = ["Catalog", "Dataset", "Entry", "find_entry", "load_entries"]

_FOLDER = Path(__file__).parent / "cards"


@dataclass(frozen=True)
class Entry:
    """A data set and how to read it."""

    card: DatasetCard
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def place(self) -> str:
        """The folder of its files, below the root."""
        return self.card.repo or self.folder or self.card.name

    @property
    def load(self) -> Callable[..., ExampleRows]:
        """`load(card, folder, **options)` of its family; `folder` holds the files of the card."""
        loader: Callable[..., ExampleRows] = importlib.import_module(
            f"data_adapters.{self.family}"
        ).load
        return loader


@cache
def load_entries() -> Mapping[str, Entry]:
    """All data sets by name, in the order of the files and their lists."""
    entries: dict[str, Entry] = {}
    for file in sorted(_FOLDER.glob("*.json")):
        table = json.loads(file.read_text(encoding="utf-8"))
        for row in table["entries"]:
            entry = _entry({**table.get("defaults", {}), **row}, file.name)
            assert entry.card.name not in entries, f"{entry.card.name} is there twice"
            entries[entry.card.name] = entry
    return entries


_OF_CARD = {item.name: item for item in fields(DatasetCard)}


def _entry(row: dict[str, Any], file: str) -> Entry:
    unknown = sorted(set(row) - set(_OF_CARD) - {"family", "options", "folder"})
    assert not unknown, f"{file}, {row.get('name')}: unknown keys {unknown}"
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in row.items()
        if key in _OF_CARD
    }
    return Entry(
        DatasetCard(**values), row["family"], row.get("options", {}), row.get("folder", "")
    )


def find_entry(name: str) -> Entry:
    """Raises ConfigError for an unknown name."""
    entries = load_entries()
    if name not in entries:
        raise ConfigError(
            f"no data set {name!r} in the catalogue; it has {', '.join(sorted(entries))}"
        )
    return entries[name]


class Catalog:
    """See `mmembed.datasets.DatasetCatalog`."""

    adapter = "data_adapters.catalog:Dataset"

    def place(self, name: str) -> str:
        return find_entry(name).place

    def options(self, name: str) -> Mapping[str, Any]:
        entry = find_entry(name)
        known = list(inspect.signature(entry.load).parameters.values())[2:]
        return {option.name: entry.options.get(option.name, option.default) for option in known}

    def cards(self) -> Sequence[DatasetCard]:
        return tuple(entry.card for entry in load_entries().values())

    def open(self, name: str, root: str | Path, **options: Any) -> ExampleRows:
        return Dataset(name, root, **options)

    def files(self, name: str, root: str | Path) -> tuple[Path, ...]:
        try:
            return Dataset(name, root).files
        except DataError:
            return ()


class Dataset:
    """The rows of one data set of the catalogue.

    Args:
        name: see `mmembed data list`.
        root: folder of the downloads; the repository `owner/name` lies in `root/owner/name`.
        options: override those of the entry.

    Raises:
        ConfigError: an unknown name or option.
        DataError: the files are not there, or damaged.
    """

    def __init__(self, name: str, root: str | Path = "data", **options: Any) -> None:
        entry = find_entry(name)
        self.card = entry.card
        self.name, self.task = entry.card.name, entry.card.task
        self.revision, self.license = entry.card.revision, entry.card.license
        self._rows = self._load(entry, Path(root), options)
        for optional in ("document_ids", "sibling_key", "take"):
            if hasattr(self._rows, optional):
                setattr(self, optional, getattr(self._rows, optional))

    @property
    def files(self) -> tuple[Path, ...]:
        return self._rows.files

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ContrastiveExample:
        return self._rows[index]

    def where(self, index: int) -> str:
        return self._rows.where(index)

    def _load(self, entry: Entry, root: Path, options: Mapping[str, Any]) -> ExampleRows:
        load = entry.load
        given = {**entry.options, **options}
        try:
            inspect.signature(load).bind(entry.card, root, **given)
        except TypeError as error:
            known = list(inspect.signature(load).parameters)[2:]
            raise ConfigError(
                f"data set {self.name!r}: {error}; its options are {', '.join(known) or '(none)'}"
            ) from None
        tried: list[str] = []
        for folder in repository_folders(root, entry.place):
            if folder.is_dir():
                return load(entry.card, folder, **given)
            tried.append(str(folder))
        how = f"mmembed data fetch {self.name} --root {root}"
        if not entry.card.repo:
            how = f"get it as {entry.card.url} says and put it in {tried[0]}"
        raise DataError(f"data set {self.name!r} is not in {', '.join(tried)}; {how}")
