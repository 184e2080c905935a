"""Acceptance: near-duplicates of the bundled emoji are found, planted false negatives are not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.planted_negatives import Meaning, PlantedRows, measure
from mmembed.config.mining import MiningConfig
from mmembed.types import Image, MultimodalInput, Role, Text


class KnowsMeanings:
    """A teacher that sees thing and subgroup, and each surface a little differently."""

    embedding_dimension = 256
    name = "knows meanings"
    space = hashlib.sha256(b"knows meanings").hexdigest()

    def __init__(self, data: PlantedRows) -> None:
        self.meanings: dict[Any, Meaning] = dict(data.meanings)
        for query, _, _, meaning in data.entries:
            self.meanings[query] = meaning

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        rows = np.stack([self._row(item) for item in items])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _row(self, item: MultimodalInput) -> np.ndarray:
        (part,) = item.parts
        assert isinstance(part, Text | Image)
        content: Any = part.text if isinstance(part, Text) else part.source
        meaning = self.meanings[content]
        return (
            0.75 * direction(f"thing {meaning.thing}")
            + 0.55 * direction(f"subgroup {meaning.subgroup}")
            + 0.35 * direction(f"surface {content!r}")
        )

    def describe(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...


def direction(words: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")
    row = np.random.default_rng(seed).normal(size=KnowsMeanings.embedding_dimension)
    return row / np.linalg.norm(row)


@pytest.mark.parametrize("data", [PlantedRows.pictures(120), PlantedRows.names(120)])
def test_near_duplicates_are_found_and_false_negatives_are_filtered(
    data: PlantedRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num_false = len(data) - len({meaning.thing for meaning in data.row_meanings})
    assert num_false >= 50
    config = MiningConfig(ranks=(1, 30), relative_margin=0.05, max_similarity=0.7)
    without, filtered = measure(data, KnowsMeanings(data), config, tmp_path)
    with capsys.disabled():
        print(f"\n{data.name}, no filter:   {without}\n{data.name}, with filter: {filtered}")  # noqa: T201
    assert without.filter_recall == 0 and without.negative_precision < 0.95
    assert filtered.filter_recall == filtered.filter_precision == 1
    assert filtered.negative_precision > without.negative_precision
    assert filtered.negative_recall > 0.95
