"""What shorter and coarser vectors cost: a run's own rows, truncated, quantised and scored again.

Nothing is encoded. A row is truncated, normalised, quantised as `Embedder.encode` does it, and
brought back to a float unit row, so that every cell is scored by the same code as the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mmembed.encoder.head import Precision, quantize
from mmembed.errors import ConfigError
from mmembed.evaluation.aggregation import complete_values, means
from mmembed.evaluation.results import TaskResult, TiePolicy
from mmembed.evaluation.scoring import score_retrieval, score_similarity
from mmembed.tasks import LoadedTask, RetrievalTask, TaskCard

__all__ = [
    "SWEPT_PRECISIONS",
    "StoredTask",
    "Sweep",
    "SweepCell",
    "coarse_rows",
    "dimensions_of",
    "sweep",
]

SWEPT_PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "binary")
_BITS = {"float32": 32, "int8": 8, "binary": 1}
_SMALLEST = 16
_NUM_DIMENSIONS = 6

StoredTask: TypeAlias = tuple[TaskCard, LoadedTask, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SweepCell:
    """One length and precision.

    Attributes:
        num_bytes: of a vector.
        overall: mean over the data sets; `modalities` over those of each modality.
    """

    dimension: int
    precision: Precision
    num_bytes: int
    overall: float
    modalities: dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """Cells by falling dimension, precisions in the order of `SWEPT_PRECISIONS`."""

    tasks: tuple[str, ...]
    cells: tuple[SweepCell, ...]


def sweep(
    stored: Iterable[StoredTask],
    *,
    dimensions: Sequence[int] | None = None,
    precisions: Sequence[Precision] = SWEPT_PRECISIONS,
    ties: TiePolicy = "pessimistic",
) -> Sweep | None:
    """Score every task at every dimension and precision; None without tasks.

    Tasks of which media are missing are left out.

    Raises:
        ConfigError: a dimension that the vectors do not have.
    """
    cards: list[TaskCard] = []
    found: dict[tuple[int, Precision], dict[str, TaskResult]] = {}
    for card, loaded, queries, documents in stored:
        if loaded.missing:
            continue
        cards.append(card)
        for dimension in dimensions or dimensions_of(queries.shape[1]):
            for precision in precisions:
                rows = [
                    coarse_rows(side, dimension, precision, f"{card.name}: ")
                    for side in (queries, documents)
                ]
                result = _score(card, loaded, *rows)
                found.setdefault((dimension, precision), {})[card.name] = result
    if not cards:
        return None
    return Sweep(
        tuple(card.name for card in cards),
        tuple(
            _cell(dimension, precision, results, cards, ties)
            for (dimension, precision), results in found.items()
        ),
    )


def dimensions_of(full: int) -> tuple[int, ...]:
    """The full length, then powers of two below it, at most six numbers."""
    below = [2**power for power in range(20, -1, -1) if _SMALLEST <= 2**power < full]
    return (full, *below[: _NUM_DIMENSIONS - 1])


def coarse_rows(
    rows: np.ndarray, dimension: int, precision: Precision, where: str = ""
) -> np.ndarray:
    """(N, D) unit rows -> (N, dimension) unit float32 rows of what the precision keeps.

    Signs become +-1 / sqrt(dimension), whose dot product orders as the Hamming distance does.

    Raises:
        ConfigError: more dimensions than the rows have.
    """
    if not 1 <= dimension <= rows.shape[1]:
        raise ConfigError(f"{where}{dimension} dimensions asked of vectors of {rows.shape[1]}")
    kept = _normalized(rows[:, :dimension])
    if precision == "float32":
        return kept
    if precision == "binary":
        bits = np.unpackbits(quantize(kept, "ubinary"), axis=1, count=dimension)
        return _normalized(2.0 * bits.astype(np.float32) - 1.0)
    if precision == "int8":
        return _normalized(quantize(kept, "int8").astype(np.float32))
    raise ConfigError(f"precision is {precision!r}; allowed: {', '.join(SWEPT_PRECISIONS)}")


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Unit rows; one of zeros stays one, and scoring names and refuses it."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _score(
    card: TaskCard, loaded: LoadedTask, queries: np.ndarray, documents: np.ndarray
) -> TaskResult:
    if isinstance(loaded.task, RetrievalTask):
        return score_retrieval(card, loaded.task, queries, documents)
    return score_similarity(card, loaded.task, queries, documents)


def _cell(
    dimension: int,
    precision: Precision,
    results: dict[str, TaskResult],
    cards: Sequence[TaskCard],
    ties: TiePolicy,
) -> SweepCell:
    scored = [card for card in cards if card.name in results]
    found = means(complete_values(results, ties), scored)
    modalities = {each.name: each.value for each in found if each.level == "modality"}
    return SweepCell(
        dimension,
        precision,
        -(-dimension * _BITS[precision] // 8),
        found[-1].value or 0.0,
        {name: value for name, value in modalities.items() if value is not None},
    )
