"""Sort the rows of weak pairs into kept and dropped: out/<name>.jsonl, out/<name>.dropped.jsonl.

    data sets -> teaching.py -> pool_search.py -> filters.py -> chunks.py -> files of rows

Nothing is lost: a dropped row names its reason under `meta`, a kept one the positives that it lost.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.config.mining import FilterConfig
from mmembed.data.opening import OpenedDataset
from mmembed.data.row_items import MediaFolder, item_to_json
from mmembed.data.row_writer import row_line
from mmembed.mining.chunks import CHUNK_ROWS, Chunks, check_part, finished, merged
from mmembed.mining.counts import histogram
from mmembed.mining.filters import FilterBounds, Verdict, filter_bounds, judge
from mmembed.mining.pool_search import PoolSearch
from mmembed.mining.teaching import (
    Taught,
    file_names,
    hashes_beside,
    job_id,
    job_record,
    teach,
)
from mmembed.progress import shown_progress
from mmembed.types import ContrastiveExample

__all__ = ["FilterReport", "describe_filter", "filter_rows"]

_FORMAT = "mmembed-filter/1"
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class FilterReport:
    """What was kept.

    Attributes:
        kept, dropped: data set -> file of rows.
        counts: data set -> rows, kept, dropped by reason, positives that went, a histogram.
        is_complete: False while other parts are at work; then there are no files.
    """

    kept: dict[str, Path]
    dropped: dict[str, Path]
    counts: dict[str, dict[str, Any]]
    is_complete: bool


def filter_rows(
    opened: Sequence[OpenedDataset],
    encoder: ItemEncoder,
    config: FilterConfig,
    out: Path,
    *,
    show_progress_bar: bool | None = None,
    store: Path | None = None,
    part: tuple[int, int] = (0, 1),
    chunk_rows: int = CHUNK_ROWS,
) -> FilterReport:
    """Keep the rows whose query and positives belong together, as the teacher sees it.

    Args and errors are those of `mmembed.mining.job.mine`.
    """
    check_part(part)
    names = file_names(opened)
    out.mkdir(parents=True, exist_ok=True)
    job = job_id("filter", opened, encoder.space, config, chunk_rows=chunk_rows)
    kept = [out / f"{name}.jsonl" for name in names]
    dropped = [out / f"{name}.dropped.jsonl" for name in names]
    done = finished(out / "filter.json", job, [*kept, *dropped])
    if done is None:
        began = time.monotonic()
        chunks = Chunks(
            out / f".filter-{job[:16]}",
            [len(each.adapter) for each in opened],
            ["kept", "dropped"],
            chunk_rows=chunk_rows,
        )
        pending = chunks.pending(part)
        if pending:
            vectors = store or out / "vectors"
            with hashes_beside(vectors) as digest:
                taught = teach(
                    opened,
                    encoder,
                    vectors,
                    digest,
                    query_instruction=config.query_instruction,
                    document_instruction=config.document_instruction,
                    part=part,
                    show_progress_bar=show_progress_bar,
                )
                _filter_chunks(taught, config, chunks, pending, out, show_progress_bar)
        seconds = time.monotonic() - began
        done = merged(
            out / "filter.json",
            job,
            chunks,
            list(zip(kept, dropped, strict=True)),
            lambda counts: {
                "format": _FORMAT,
                **job_record(opened, encoder, kept, counts, seconds),
                "config": config.model_dump(mode="json"),
            },
        )
    if done is None:
        return FilterReport({}, {}, {}, False)
    return FilterReport(
        {each.name: path for each, path in zip(opened, kept, strict=True)},
        {each.name: path for each, path in zip(opened, dropped, strict=True)},
        {each.name: done["data"][each.name]["counts"] for each in opened},
        True,
    )


def _filter_chunks(
    taught: Taught,
    config: FilterConfig,
    chunks: Chunks,
    pending: Sequence[tuple[int, int, int]],
    out: Path,
    show_progress_bar: bool | None,
) -> None:
    total = sum(end - begin for _, begin, end in pending)
    sources: dict[int, _Source] = {}
    with shown_progress(show_progress_bar, "filtering", total, "rows") as advance:
        for place in pending:
            source, begin, end = place
            if source not in sources:
                sources = {source: _Source(taught, source, config, out)}
            chunks.write(place, *sources[source].judge(begin, end))
            advance(end - begin)


class _Source:
    """Judges blocks of rows of one data set."""

    def __init__(self, taught: Taught, source: int, config: FilterConfig, out: Path) -> None:
        self.taught, self.source, self.config = taught, source, config
        self.media = MediaFolder(out)
        self.name = taught.catalogue.opened[source].name
        self.rows = taught.catalogue.rows[source]
        self.scores = taught.positive_scores[source]
        self.ok = taught.vectors.queries_ok[source]
        self.search = PoolSearch(taught.catalogue, taught.vectors, source, pool=config.pool)
        self.bounds = self._bounds()
        self.duplicates = self._duplicates() if config.duplicates else np.zeros(len(self.rows))

    def judge(self, begin: int, end: int) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
        """Counts, and lines of kept and dropped rows."""
        rows = begin + np.flatnonzero(self.ok[begin:end])
        depth = max(self.config.top_k or 0, int(self.config.pseudo_positive is not None))
        nothing = (_NOTHING, _NOTHING.astype(np.float32))
        hits = self.search.hits(rows, depth) if depth and len(rows) else [nothing] * len(rows)
        found = dict(zip(rows.tolist(), hits, strict=True))
        lines: dict[str, list[bytes]] = {"kept": [], "dropped": []}
        reasons: Counter[str] = Counter()
        counts = {"rows": end - begin, "unusable": 0, "kept": 0, "positives_removed": 0}
        counts["pseudo_positives"] = 0
        best: list[float] = []
        for row in range(begin, end):
            if self.rows.queries[row] < 0:
                counts["unusable"] += 1
                continue
            example = self.taught.catalogue.example(self.source, row)
            example = replace(example, query_id=example.query_id or f"{self.name}/{row}")
            if row not in found:
                reasons["not_encoded"] += 1
                meta: dict[str, Any] = {"row": row, "reason": "not_encoded"}
                lines["dropped"].append(row_line(example, meta, self.media))
                continue
            verdict = self._verdict(row, *found[row])
            meta = self._meta(row, verdict)
            best.append(float(self.scores.of(row).max()))
            if verdict.problem is not None:
                reasons[verdict.problem] += 1
                lines["dropped"].append(row_line(example, meta, self.media))
                continue
            counts["kept"] += 1
            gone = [n for n in range(len(example.positives)) if n not in verdict.positives]
            if gone:
                counts["positives_removed"] += len(gone)
                meta["removed_positives"] = [
                    item_to_json(example.positives[n], self.media) for n in gone
                ]
            counts["pseudo_positives"] += verdict.pseudo_positive is not None
            lines["kept"].append(row_line(self._kept(example, verdict), meta, self.media))
        return {**counts, "dropped": dict(reasons), "best_histogram": histogram(best)}, lines

    def _verdict(self, row: int, hits: np.ndarray, hit_scores: np.ndarray) -> Verdict:
        return judge(
            self.scores.of(row),
            self.config,
            bounds=self.bounds,
            is_duplicate=bool(self.duplicates[row]),
            hits=hits,
            hit_scores=hit_scores,
        )

    def _meta(self, row: int, verdict: Verdict) -> dict[str, Any]:
        scores = [round(float(score), 6) for score in self.scores.of(row)]
        meta: dict[str, Any] = {"row": row, "positive_scores": scores}
        if self.config.top_k is not None:
            meta["positive_rank"] = verdict.rank
        if verdict.problem is not None:
            meta["reason"] = verdict.problem
        elif verdict.pseudo_positive is not None:
            meta["pseudo_positive"] = True
        return meta

    def _kept(self, example: ContrastiveExample, verdict: Verdict) -> ContrastiveExample:
        order, ids = verdict.positives, example.positive_ids
        kept = replace(
            example,
            positives=tuple(example.positives[n] for n in order),
            positive_ids=tuple(ids[n] for n in order) if ids else (),
            scores=example.scores
            and (*(example.scores[n] for n in order), *example.scores[len(example.positives) :]),
        )
        if verdict.pseudo_positive is None:
            return kept
        number, catalogue = verdict.pseudo_positive, self.taught.catalogue
        stays = [
            place
            for place, item in enumerate(example.hard_negatives)
            if catalogue.number(item, self.taught.digest) != number
        ]
        labels = example.negative_labels
        return replace(
            kept,
            positives=(catalogue.item(number), *kept.positives),
            positive_ids=(catalogue.key(number), *kept.positive_ids) if ids else (),
            hard_negatives=tuple(example.hard_negatives[n] for n in stays),
            negative_labels=tuple(labels[n] for n in stays) if labels else (),
            scores=None,  # nobody has graded the new one
        )

    def _bounds(self) -> FilterBounds:
        rows = np.flatnonzero(self.ok)
        best = np.array([self.scores.of(row).max() for row in rows.tolist()], dtype=np.float64)
        return filter_bounds(self.scores.flat, best, self.config)

    def _duplicates(self) -> np.ndarray:
        """Rows that say what an earlier row of the data set said."""
        seen: set[tuple[int, ...]] = set()
        found = np.zeros(len(self.rows), dtype=bool)
        for row in np.flatnonzero(self.ok).tolist():
            positives = sorted(set(self.rows.positives.of(row).tolist()))
            said = (int(self.rows.queries[row]), *positives)
            found[row] = said in seen
            seen.add(said)
        return found


def describe_filter(name: str, counts: Mapping[str, Any]) -> list[str]:
    """Lines for people."""
    lines = [f"{name}: {counts['kept']:,} of {counts['rows']:,} rows kept"]
    reasons = {"not readable": counts["unusable"], **counts["dropped"]}
    words = [f"{reason} {count:,}" for reason, count in reasons.items() if count]
    lines += [f"  dropped: {', '.join(words)}"] if words else []
    changed = {
        "positives removed": counts["positives_removed"],
        "pseudo-positives": counts["pseudo_positives"],
    }
    words = [f"{what} {count:,}" for what, count in changed.items() if count]
    return lines + ([f"  {', '.join(words)}"] if words else [])
