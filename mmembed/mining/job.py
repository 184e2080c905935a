"""Mine hard negatives for the rows of data sets: out/<name>.jsonl and out/mining.json.

    data sets -> teaching.py -> pool_search.py -> negatives.py -> chunks.py -> files of rows

A call that was cut goes on when it is repeated and ends in the same bytes; several processes share
one folder as parts, and the one that is last merges.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.baselines.stored_vectors import with_instruction
from mmembed.config.mining import MiningConfig
from mmembed.data.opening import OpenedDataset
from mmembed.data.row_items import MediaFolder
from mmembed.data.row_writer import row_line
from mmembed.encoder.reranker import Reranker
from mmembed.mining.chunks import CHUNK_ROWS, Chunks, check_part, finished, merged
from mmembed.mining.counts import MiningCounts
from mmembed.mining.negatives import Mined, RowMiner
from mmembed.mining.pool_search import PoolSearch
from mmembed.mining.selection import bounds_of
from mmembed.mining.teaching import (
    Taught,
    file_names,
    hashes_beside,
    job_id,
    job_record,
    teach,
)
from mmembed.progress import shown_progress
from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["MiningReport", "mine"]

_FORMAT = "mmembed-mining/1"


@dataclass(frozen=True)
class MiningReport:
    """What was mined.

    Attributes:
        files: data set -> rows with negatives, to be trained on.
        counts: data set -> what became of rows and candidates; see `counts.py`.
        is_complete: False while other parts are at work; then there are no files.
        record: of `mining.json`.
    """

    files: dict[str, Path]
    counts: dict[str, dict[str, Any]]
    is_complete: bool
    record: dict[str, Any]


def mine(
    opened: Sequence[OpenedDataset],
    encoder: ItemEncoder,
    config: MiningConfig,
    out: Path,
    *,
    seed: int,
    show_progress_bar: bool | None = None,
    store: Path | None = None,
    part: tuple[int, int] = (0, 1),
    chunk_rows: int = CHUNK_ROWS,
) -> MiningReport:
    """Give the rows of data sets hard negatives.

    Args:
        encoder: the teacher.
        out: gets <name>.jsonl for each data set, and mining.json.
        seed: of what is drawn at random.
        store: folder of the teacher's vectors; default: out/vectors.
        part: (number from 0, of how many) where several processes share `out`.
        chunk_rows: after how many rows results are kept. No output depends on it.

    Raises:
        ConfigError, DataError, StoreError: settings, data or what lies in `out` cannot be used.
    """
    check_part(part)
    names = file_names(opened)
    out.mkdir(parents=True, exist_ok=True)
    job = job_id("mine", opened, encoder.space, config, seed=seed, chunk_rows=chunk_rows)
    paths = [out / f"{name}.jsonl" for name in names]
    done = finished(out / "mining.json", job, paths)
    if done is not None:
        return _report(opened, paths, done)
    began = time.monotonic()
    sizes = [len(each.adapter) for each in opened]
    chunks = Chunks(out / f".mining-{job[:16]}", sizes, ["rows"], chunk_rows=chunk_rows)
    pending = chunks.pending(part)
    if pending or not chunks.is_complete:  # who has no chunk helps to encode
        vectors = store or out / "vectors"
        with hashes_beside(vectors) as digest:
            taught = teach(
                opened,
                encoder,
                vectors,
                digest,
                corpus=config.corpus,
                query_instruction=config.query_instruction,
                document_instruction=config.document_instruction,
                part=part,
                show_progress_bar=show_progress_bar,
            )
            _mine_chunks(taught, config, chunks, pending, out, seed, show_progress_bar)
    seconds = time.monotonic() - began
    settings = {"config": config.model_dump(mode="json"), "seed": seed}
    done = merged(
        out / "mining.json",
        job,
        chunks,
        [[path] for path in paths],
        lambda counts: {
            "format": _FORMAT,
            **job_record(opened, encoder, paths, counts, seconds),
            **settings,
        },
    )
    if done is None:
        return MiningReport({}, {}, False, {})
    return _report(opened, paths, done)


def _report(
    opened: Sequence[OpenedDataset], paths: Sequence[Path], record: dict[str, Any]
) -> MiningReport:
    counts = {each.name: record["data"][each.name]["counts"] for each in opened}
    files = {each.name: path for each, path in zip(opened, paths, strict=True)}
    return MiningReport(files, counts, True, record)


def _mine_chunks(
    taught: Taught,
    config: MiningConfig,
    chunks: Chunks,
    pending: Sequence[tuple[int, int, int]],
    out: Path,
    seed: int,
    show_progress_bar: bool | None,
) -> None:
    total = sum(end - begin for _, begin, end in pending)
    folder = config.reranker
    loaded = nullcontext() if folder is None else closing(Reranker.from_pretrained(folder))
    sources: dict[int, _Source] = {}
    with loaded as reranker, shown_progress(show_progress_bar, "mining", total, "rows") as advance:
        for place in pending:
            source, begin, end = place
            if source not in sources:
                sources = {source: _Source(taught, source, config, out, seed, reranker)}
            counts, lines = sources[source].mine(begin, end)
            chunks.write(place, counts.as_dict(), {"rows": lines})
            advance(end - begin)


class _Source:
    """Mines blocks of rows of one data set."""

    def __init__(
        self,
        taught: Taught,
        source: int,
        config: MiningConfig,
        out: Path,
        seed: int,
        reranker: Reranker | None,
    ) -> None:
        self.taught, self.source, self.config = taught, source, config
        self.reranker = reranker
        self.media = MediaFolder(out)
        self.scores = taught.positive_scores[source]
        self.search = PoolSearch(
            taught.catalogue,
            taught.vectors,
            source,
            pool=config.pool,
            use_labels=config.use_labels,
        )
        self.miner = RowMiner(
            taught.catalogue,
            taught.vectors,
            source,
            config,
            pool=self.search.pool,
            bounds=bounds_of(self.scores.flat, config),
            seed=seed,
            digest=taught.digest,
        )

    def mine(self, begin: int, end: int) -> tuple[MiningCounts, list[bytes]]:
        """What became of rows begin to end - 1, and the lines of those that are kept."""
        ok = self.taught.vectors.queries_ok[self.source]
        rows = begin + np.flatnonzero(ok[begin:end])
        is_row = self.taught.catalogue.rows[self.source].queries[begin:end] >= 0
        counts = MiningCounts(self.config.num_negatives)
        counts.rows = end - begin
        counts.unusable = int((~is_row).sum())
        counts.not_encoded = int((is_row & ~ok[begin:end]).sum())
        queries = self.taught.vectors.queries(self.source, rows)
        kept: list[tuple[int, Mined]] = []
        if len(rows):
            found = self.search.hits(rows, self.config.depth)
            for row, query, hits in zip(rows.tolist(), queries, found, strict=True):
                positives = self.scores.of(row)
                mined = self.miner.mine(row, query, *hits, positives)
                counts.add(mined, positives)
                if mined.problem is None:
                    kept.append((row, mined))
        examples = [(row, mined, self._example(row, mined)) for row, mined in kept]
        scores = self._scores(examples)
        return counts, [
            row_line(replace(example, scores=score), self._meta(row, mined), self.media)
            for (row, mined, example), score in zip(examples, scores, strict=True)
        ]

    def _example(self, row: int, mined: Mined) -> ContrastiveExample:
        catalogue = self.taught.catalogue
        example = catalogue.example(self.source, row)
        documents = [each.document for each in mined.negatives]
        labels = catalogue.labels(self.source, np.array(documents, dtype=np.int64)).tolist()
        known = [catalogue.label_names[label][1] for label in labels if label >= 0]
        return replace(
            example,
            query_id=example.query_id or f"{catalogue.opened[self.source].name}/{row}",
            hard_negatives=tuple(map(catalogue.item, documents)),
            negative_labels=tuple(known) if len(known) == len(documents) else (),
            scores=None,
        )

    def _scores(
        self, examples: Sequence[tuple[int, Mined, ContrastiveExample]]
    ) -> list[tuple[float, ...] | None]:
        if self.config.scores == "teacher":
            return [
                (
                    *_rounded(self.scores.of(row)),
                    *_rounded([each.score for each in mined.negatives]),
                )
                for row, mined, _ in examples
            ]
        if self.reranker is None or not examples:
            return [None] * len(examples)
        pairs, ends = [], [0]
        for _, _, example in examples:
            instruction = self.taught.catalogue.opened[self.source].query_instruction
            query = with_instruction(example.query, instruction)
            documents = (*example.positives, *example.hard_negatives)
            pairs += [(query, MultimodalInput(each.parts)) for each in documents]
            ends.append(len(pairs))
        scored = self.reranker.score(pairs, show_progress_bar=False)
        return [tuple(_rounded(scored[first:last])) for first, last in pairwise(ends)]

    def _meta(self, row: int, mined: Mined) -> dict[str, Any]:
        return {
            "row": row,
            "positive_scores": _rounded(self.scores.of(row)),
            "negative_scores": _rounded([each.score for each in mined.negatives]),
            "negative_ranks": [each.rank for each in mined.negatives],
            "negative_origins": [each.origin for each in mined.negatives],
        }


def _rounded(scores: Any) -> list[float]:
    """Six digits: below them a float32 has nothing to say."""
    return [round(float(score), 6) for score in scores]
