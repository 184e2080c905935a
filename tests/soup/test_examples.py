"""Scores of a model on a few examples, against slow loops over its vectors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mmembed import Embedder
from mmembed.errors import ConfigError
from mmembed.soup.examples import Examples, read_examples, retrieval_scores
from tests import media_files

LINES = [
    {"query": "a red apple", "positive": "first a dog", "negatives": ["a car", "the rain"]},
    {"query": "a dog", "positive": {"image": "photo.png"}},
    {"query": "eine Katze", "positive": "first a dog", "negatives": ["a cat"]},
    {"query": {"text": "a cat", "instruction": "Find it."}, "positive": "a cat"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(media_files.encode_image(media_files.photo(seed=0)))
    path = tmp_path / "few.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in LINES) + "\n")
    return path


def test_loss_and_ranks_are_those_of_plain_loops(file: Path, tiny_checkpoint: Path) -> None:
    scores = Examples(read_examples(file), num_workers=1)(tiny_checkpoint)
    contents = ["first a dog", file.parent / "photo.png", "a cat", "a car", "the rain"]
    answers = [0, 1, 0, 2]
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        queries = embedder.encode_query([line["query"] for line in LINES])
        documents = embedder.encode_document(contents)
    # columns: every positive and every negative of the file, the copies of the answer left out
    columns = [0, 1, 0, 2, 3, 4, 2]
    losses, ranks = [], []
    for row, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        similar = [float(query @ document) / 0.05 for document in documents]
        others = [similar[c] for n, c in enumerate(columns) if n != row and c != answer]
        total = math.fsum(math.exp(value - similar[answer]) for value in others)
        losses.append(math.log1p(total))
        ranks.append(1 + sum(similar[c] >= similar[answer] for c in (0, 1, 2) if c != answer))
    assert scores.loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert scores.mrr == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert scores.recall_at_1 == np.mean([rank == 1 for rank in ranks])


def test_a_folder_is_scored_once(file: Path, tiny_checkpoint: Path) -> None:
    scores = Examples(read_examples(file), num_workers=1)
    assert scores(tiny_checkpoint) is scores(tiny_checkpoint)


def test_a_collapsed_model_scores_badly_and_a_perfect_one_well() -> None:
    same = np.ones((3, 1), dtype=np.float32)
    assert retrieval_scores(same, same, np.arange(3)) == (pytest.approx(1 / 3), 0.0)
    assert retrieval_scores(np.eye(3), np.eye(3), np.arange(3)) == (1.0, 1.0)
    # documents that are nobody's positive are not in the corpus
    assert retrieval_scores(np.eye(3)[:1], np.eye(3)[[1, 0]], np.array([0]))[0] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"query": "a"}', "line 1: .*query, positive"),
        ('\n{"query": "a", "positive": "b", "negative": "c"}', "line 2: .*negatives"),
        ('{"query": "a", "positive": "b", "negatives": "c"}', "negatives must be a list"),
        ('{"query": "a", "positive": 3}', "line 1: "),
        ("{", "line 1: "),
        ("\n", "holds no examples"),
        (None, "cannot be read"),
    ],
)
def test_lines_that_are_no_examples_are_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "few.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_examples(path)
