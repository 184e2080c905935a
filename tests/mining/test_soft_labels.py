"""Scores of a reranker as soft labels, and media that are only in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from mmembed.config.mining import MiningConfig
from mmembed.data.row_files import RowFile
from mmembed.encoder.reranker import Reranker
from mmembed.mining.job import mine
from mmembed.types import ContrastiveExample, Image, MultimodalInput
from tests.mining.rows import ChosenVectors, ListedRows, opened, row, text


def test_a_reranker_scores_positives_and_negatives(tmp_path: Path, tiny_reranker: Path) -> None:
    pairs = [row(f"question {n}", [f"answer {n}", f"other answer {n}"]) for n in range(4)]
    config = MiningConfig(
        num_negatives=2,
        scores="reranker",
        reranker=str(tiny_reranker),
        query_instruction="Answer it.",
    )
    report = mine(
        opened(ListedRows(pairs)), ChosenVectors(), config, tmp_path,
        seed=0, show_progress_bar=False,
    )  # fmt: skip
    mined = RowFile(report.files["listed"])
    with Reranker.from_pretrained(tiny_reranker, device="cpu", num_workers=1) as reranker:
        for number in range(len(pairs)):
            example = mined[number]
            documents = [*example.positives, *example.hard_negatives]
            expected = reranker.score(example.query, documents, instruction="Answer it.")
            assert example.scores == pytest.approx(expected.tolist(), abs=1e-5)
            assert len(documents) == 4


class Heard(ChosenVectors):
    """Writes down what it was asked."""

    def encode(self, items, *, role, show_progress_bar=None):  # type: ignore[no-untyped-def]
        self.asked |= {(role, item.parts[0].text, item.instruction) for item in items}
        return super().encode(items, role=role)


def test_the_teacher_reads_each_data_set_with_its_own_instruction(tmp_path: Path) -> None:
    data = [ListedRows([row(f"{name} {n}", [f"{name} answer {n}"]) for n in range(3)], name=name)
            for name in ("web", "news")]  # fmt: skip
    asked = [
        replace(each, query_instruction=f"Search the {each.name}.", document_instruction=said)
        for each, said in zip(opened(*data), (None, "An article."), strict=True)
    ]
    teacher = Heard()
    teacher.asked = set()
    config = MiningConfig(num_negatives=1, pool="all")
    report = mine(asked, teacher, config, tmp_path, seed=0, show_progress_bar=False)
    said = {(role, words.split()[0], instruction) for role, words, instruction in teacher.asked}
    assert said == {
        ("query", "web", "Search the web."),
        ("query", "news", "Search the news."),
        ("document", "web", None),
        ("document", "news", "An article."),
    }
    for file in report.files.values():
        rows = RowFile(file)
        items = [item for n in range(3) for item in (rows[n].query, *rows[n].hard_negatives)]
        assert all(item.instruction is None for item in items), "training words it anew"


class Pixels(ChosenVectors):
    """Sees the mean of a picture."""

    def encode(self, items, *, role, show_progress_bar=None):  # type: ignore[no-untyped-def]
        rows = []
        for item in items:
            (part,) = item.parts
            source = getattr(part, "source", None)
            level = float(np.mean(source)) / 255 if source is not None else float(part.text)
            rows.append([np.cos(level), np.sin(level)])
        return np.array(rows, dtype=np.float32)


def picture(level: int) -> MultimodalInput:
    return MultimodalInput((Image(np.full((8, 8, 3), level, np.uint8)),))


def test_pictures_in_memory_become_files_beside_the_rows(tmp_path: Path) -> None:
    levels = [0, 60, 120, 180]
    examples = [ContrastiveExample(text(str(level / 255)), (picture(level),)) for level in levels]
    report = mine(
        opened(ListedRows(examples)), Pixels(dimension=2), MiningConfig(num_negatives=1),
        tmp_path, seed=0, show_progress_bar=False,
    )  # fmt: skip
    mined = RowFile(report.files["listed"])
    for number, nearest in enumerate([60, 0, 60, 120]):
        (part,) = mined[number].hard_negatives[0].parts
        assert isinstance(part, Image) and isinstance(part.source, Path)
        with Pictures.open(part.source) as opened_picture:
            assert (np.asarray(opened_picture) == nearest).all()
    assert len(list((tmp_path / "media").iterdir())) == 4
