"""A row is worded in training as it is when the benchmark is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset, load_entries
from data_adapters.mmeb.suite import MMEB
from mmembed.evaluation.profiles import load_profile
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput, Text
from tests.data_adapters.images.files import write_parquet
from tests.data_adapters.mmeb.image_rows import merged_rows_of, write_instruct

SETS = {
    name: entry
    for name, entry in load_entries().items()
    if entry.card.repo == "TIGER-Lab/MMEB-train"
}


def _words(item: MultimodalInput) -> tuple[Any, ...]:
    kinds = [part.text if isinstance(part, Text) else type(part).__name__ for part in item.parts]
    return (item.instruction, *kinds)


@pytest.mark.parametrize("name", SETS)
def test_queries_and_documents_are_those_of_the_evaluation(name: str, tmp_path: Path) -> None:
    entry = SETS[name]
    evaluated = entry.options["same_as"]
    rows = [
        {
            "qry": row["qry_text"],
            "qry_image_path": row["qry_img_path"],
            "pos_text": row["tgt_text"][0],
            "pos_image_path": row["tgt_img_path"][0],
        }
        for row in merged_rows_of(evaluated)
    ]
    folder = tmp_path / entry.card.repo / entry.card.config
    write_parquet(folder / "original-00000-of-00001.parquet", rows)
    examples = [Dataset(name, tmp_path)[index] for index in range(len(rows))]

    write_instruct(tmp_path / "benchmark", evaluated)
    suite = MMEB(tmp_path / "benchmark", load_profile("rzen"), check_counts=False)
    task = suite.load(evaluated).task
    assert isinstance(task, RetrievalTask)
    found = sorted(map(repr, (_words(example.query) for example in examples)))
    assert found == sorted(map(repr, map(_words, task.queries.values())))
    documents = {_words(example.positives[0]) for example in examples}
    assert documents <= set(map(_words, task.corpus.values()))
