"""Every published data set: its card is complete, its family reads it, a fixture opens it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from data_adapters.catalog import Catalog, Dataset, Entry, load_entries
from mmembed.data.adapter import check_example
from mmembed.data.downloads import is_pinned, presence
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, DataError
from mmembed.types import Task

ENTRIES = list(load_entries().values())
NAMES = [entry.card.name for entry in ENTRIES]
ROOMS = ("text", "images", "videos", "documents")
MODALITIES = {"text", "image", "video", "pdf"}


def layouts() -> dict[str, Callable[[DatasetCard, Path], None]]:
    """What writes five rows in the layout of a family; each room of tests has its own."""
    found: dict[str, Callable[[DatasetCard, Path], None]] = {}
    for room in ROOMS:
        module = f"tests.data_adapters.{room}.layouts"
        if importlib.util.find_spec(module) is not None:
            found |= importlib.import_module(module).LAYOUTS
    return found


def of_all(check: Callable[[Entry], bool]) -> list[str]:
    return [entry.card.name for entry in ENTRIES if not check(entry)]


def test_names_are_unique_and_of_lower_case_words():
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert of_all(lambda e: re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", e.card.name) is not None) == []


def test_every_card_says_task_modalities_terms_and_source():
    assert of_all(lambda e: e.card.task in get_args(Task)) == []
    for role in ("query", "document"):
        wrong = of_all(
            lambda e, role=role: set(re.split(r"[+/]", getattr(e.card, role))) <= MODALITIES
        )
        assert wrong == []
    assert of_all(lambda e: bool(e.card.license.strip())) == []
    assert of_all(lambda e: bool(e.card.revision.strip())) == []
    assert of_all(lambda e: len(e.card.citation) > 10) == []
    assert of_all(lambda e: bool(e.card.repo or e.card.url)) == []


def test_a_pinned_revision_of_the_hub_is_a_whole_commit():
    hub = [entry for entry in ENTRIES if entry.card.repo and is_pinned(entry.card)]
    short = [e.card.name for e in hub if not re.fullmatch(r"[0-9a-f]{40}", e.card.revision)]
    assert short == []


def test_one_repository_is_pinned_to_one_revision():
    revisions: dict[str, set[str]] = {}
    for entry in ENTRIES:
        if entry.card.repo:
            revisions.setdefault(entry.card.repo, set()).add(entry.card.revision)
    assert {repo: found for repo, found in revisions.items() if len(found) > 1} == {}


def test_every_family_loads_and_takes_the_options_of_its_cards():
    for entry in ENTRIES:
        signature = inspect.signature(entry.load)
        signature.bind(entry.card, Path("folder"), **entry.options)
        assert list(signature.parameters)[:2] == ["card", "folder"], entry.family
        assert entry.load.__doc__, entry.family


def test_every_family_has_a_fixture():
    assert sorted({entry.family for entry in ENTRIES} - set(layouts())) == []


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_five_rows_in_its_layout_open_under_the_name_of_the_card(entry, tmp_path):
    make = layouts().get(entry.family)
    assert make is not None, f"no fixture for {entry.family}"
    folder = tmp_path / entry.place
    folder.mkdir(parents=True)
    make(entry.card, folder)
    assert presence(entry.card, tmp_path, entry.place) == "present"
    rows = Dataset(entry.card.name, tmp_path)
    assert isinstance(rows, ExampleRows)
    assert len(rows) >= 3
    assert rows.files and all(file.is_file() for file in rows.files)
    assert (rows.name, rows.task) == (entry.card.name, entry.card.task)
    queries, documents = (
        set(modality.split("/")) for modality in (entry.card.query, entry.card.document)
    )
    for index in range(len(rows)):
        example = rows[index]
        check_example(example, rows.where(index))
        assert rows.where(index)
        assert example.query.modality in queries
        assert {item.modality for item in example.positives} <= documents


def test_a_data_set_that_is_not_there_says_how_to_get_it(tmp_path):
    for entry in ENTRIES[:: max(1, len(ENTRIES) // 20)]:
        how = "mmembed data fetch" if entry.card.repo else "get it as"
        with pytest.raises(DataError, match=how):
            Dataset(entry.card.name, tmp_path)


def test_the_catalogue_says_what_it_has_and_refuses_the_rest(tmp_path):
    catalog = Catalog()
    assert [card.name for card in catalog.cards()] == NAMES
    assert catalog.files(NAMES[0], tmp_path) == ()
    for name in NAMES:
        assert all(isinstance(option, str) for option in catalog.options(name))
    with pytest.raises(ConfigError, match="no data set 'nope'"):
        catalog.open("nope", tmp_path)
    with pytest.raises(ConfigError, match="its options are"):
        catalog.open(NAMES[0], tmp_path, nonsense=1)
