"""Output folders of runs that never were: results made from values of queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.evaluation.metrics import METRICS
from mmembed.evaluation.results import (
    TIES,
    QueryResult,
    RunResults,
    TaskResult,
    read_results,
    write_run_record,
    write_task_result,
)
from mmembed.tasks import TaskCard

__all__ = ["card", "hits", "result", "run"]


def card(name: str, modality: str = "image", group: str = "I-CLS", **fields: Any) -> TaskCard:
    return TaskCard(name, modality, group, fields.pop("main_metric", "hit@1"),
                    fields.pop("source", f"made/{name} / test"), **fields)  # fmt: skip


def hits(num: int, rate: float) -> list[float]:
    """As many ones as the rate says, then zeros."""
    found = round(num * rate)
    return [1.0] * found + [0.0] * (num - found)


def result(
    of: TaskCard | str,
    values: Sequence[float],
    *,
    official: Sequence[float] | None = None,
    missing: tuple[str, ...] = (),
    num_documents: int = 50,
    ids: Sequence[str] | None = None,
    tops: Sequence[tuple[tuple[str, float], ...]] = (),
    relevant: Sequence[tuple[bool, ...]] = (),
) -> TaskResult:
    """A result whose main metric, and every other, is the mean of `values`."""
    of = card(of) if isinstance(of, str) else of
    by_ties = {ties: values for ties in TIES} | ({} if official is None else {"official": official})
    metrics = {
        ties: {
            **dict.fromkeys(METRICS, float(np.mean(each))),
            "num_pred": len(values),
            "num_data": len(values),
        }
        for ties, each in by_ties.items()
    }
    queries = tuple(
        QueryResult(
            ids[row] if ids else f"q{row}",
            {ties: float(each[row]) for ties, each in by_ties.items()},
            tops[row] if tops else (),
            relevant[row] if relevant else (),
        )
        for row in range(len(values))
    )
    affected = sum(len({query.value[ties] for ties in TIES}) > 1 for query in queries)
    return TaskResult(of, metrics, len(values), num_documents, affected, missing, queries)


def run(folder: Path, *results: TaskResult, **record: Any) -> RunResults:
    """Written and read again."""
    for each in results:
        write_task_result(folder, each)
    if record:
        write_run_record(folder, record)
    return read_results(folder, with_queries=True)
