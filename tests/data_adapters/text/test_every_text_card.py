"""Each data set of texts opens on five rows of its own layout, and keeps what adapters promise."""

from __future__ import annotations

import pytest

from data_adapters.catalog import Dataset, load_entries
from mmembed.datasets import ExampleRows
from tests.data_adapters.text.described import described, words
from tests.data_adapters.text.layouts import write_entry

NAMES = [name for name, entry in load_entries().items() if entry.family.startswith("text.")]


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_opens_on_five_rows_of_its_layout(name, tmp_path):
    entry = load_entries()[name]
    write_entry(entry, tmp_path)
    rows = Dataset(name, tmp_path)
    assert isinstance(rows, ExampleRows)
    examples = [rows[index] for index in range(len(rows))]
    assert len(examples) == (3 if entry.family == "text.claims" else 5)
    assert [rows[index] for index in reversed(range(len(rows)))] == examples[::-1]
    again = Dataset(name, tmp_path)
    assert [again[index] for index in range(len(again))] == examples
    assert len({example.query_id for example in examples}) == len(examples)
    ids: dict[str, set[str]] = {}
    for example in examples:
        assert example.task == entry.card.task == rows.task
        assert len(example.positive_ids) == len(example.positives) > 0
        assert example.query_id.startswith(f"{name}/")
        for item, document_id in zip(example.positives, example.positive_ids, strict=True):
            ids.setdefault(words(item), set()).add(document_id)
        taken = set(map(words, example.positives))
        assert not taken & set(map(words, example.hard_negatives)), described(example)
    assert all(len(each) == 1 for each in ids.values())
    assert len(set.union(*ids.values())) == len(ids)
    assert all(file.is_relative_to(tmp_path) for file in rows.files)
    assert all(rows.where(index) for index in range(len(rows)))


def test_every_card_says_where_it_is_from_and_what_its_texts_are_for():
    for name in NAMES:
        card = load_entries()[name].card
        assert card.citation and card.license and card.revision, name
        assert card.repo or card.url, name
        assert card.group in (
            "text_retrieval",
            "text_similarity",
            "text_classification",
            "text_clustering",
        ), name
        assert card.query == card.document == "text", name
