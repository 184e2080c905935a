"""What mining and filtering share: a teacher has read the data, and every row has its scores.

data sets -> Catalogue -> vectors of the teacher -> scores of positives -> Taught
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.baselines.stored_vectors import StoredVectors
from mmembed.config.validation import StrictModel
from mmembed.data.adapter import DatasetAdapter
from mmembed.data.opening import OpenedDataset
from mmembed.errors import ConfigError, InputError
from mmembed.mining.catalogue import Catalogue, read_catalogue
from mmembed.mining.vectors import RowScores, TeacherVectors, encode_all
from mmembed.progress import shown_progress
from mmembed.store.content import Digest, content_key
from mmembed.store.file_hashes import FileHashes

__all__ = ["Taught", "file_names", "hashes_beside", "job_id", "job_record", "teach"]


@dataclass(frozen=True)
class Taught:
    """Data with a teacher's vectors.

    Attributes:
        positive_scores: of each data set.
        num_encoded: items that had no vector before.
    """

    catalogue: Catalogue
    vectors: TeacherVectors
    positive_scores: Sequence[RowScores]
    digest: Digest
    num_encoded: int


def teach(
    opened: Sequence[OpenedDataset],
    encoder: ItemEncoder,
    store: Path,
    digest: Digest,
    *,
    corpus: Sequence[str] = (),
    query_instruction: str | None = None,
    document_instruction: str | None = None,
    part: tuple[int, int] = (0, 1),
    show_progress_bar: bool | None = None,
) -> Taught:
    """Read every row, encode what the store does not have, and score all positives.

    Args:
        digest: sha256 of a file, as `hashes_beside` has it.
        query_instruction, document_instruction: in place of those of the data sets.

    Raises:
        ConfigError: a corpus file that cannot be used, or no usable row.
        DataError: the teacher cannot encode what the data hold.
    """
    opened = [
        replace(
            each,
            query_instruction=query_instruction or each.query_instruction,
            document_instruction=document_instruction or each.document_instruction,
        )
        for each in opened
    ]
    total = sum(len(each.adapter) for each in opened)
    with shown_progress(show_progress_bar, "reading", total, "rows") as advance:
        catalogue = read_catalogue(
            opened,
            corpus=corpus,
            digest=digest,
            corpus_instruction=document_instruction,
            advance=advance,
        )
    num_queries = sum(len(rows.usable) for rows in catalogue.rows)
    if not num_queries:
        named = "; ".join(f"{w}: {why}" for rows in catalogue.rows for w, why in rows.unusable[:3])
        raise ConfigError(f"not one of {total:,} rows can be used: {named or 'there is none'}")
    stored = StoredVectors(encoder, store, digest=digest)
    size = num_queries + len(catalogue)
    with shown_progress(show_progress_bar, "encoding", size, "items") as advance:
        vectors = encode_all(catalogue, stored, part=part, advance=advance)
    usable = sum(int(ok.sum()) for ok in vectors.queries_ok)
    with shown_progress(show_progress_bar, "scoring", usable, "rows") as advance:
        scores = [vectors.positive_scores(source, advance=advance) for source in range(len(opened))]
    return Taught(catalogue, vectors, scores, digest, stored.num_encoded)


def hashes_beside(store: Path) -> FileHashes:
    """Hashes of media, kept with the vectors that are named by them; close it."""
    store.mkdir(parents=True, exist_ok=True)
    return FileHashes(store / "file_hashes.sqlite")


def file_names(opened: Sequence[OpenedDataset]) -> list[str]:
    """A name for a file of each data set, without what a path must not hold.

    Raises:
        ConfigError: two data sets would be one file.
    """
    names = [re.sub(r"[^\w.-]+", "-", each.name).strip("-.") or "rows" for each in opened]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"several data sets are called {', '.join(twice)}; give them other names, or mine them "
            "into folders of their own"
        )
    return names


def job_id(
    kind: str, opened: Sequence[OpenedDataset], space: str, config: StrictModel, **more: Any
) -> str:
    """Names all that decides a job's output: data, teacher and settings.

    Rows that come from files are named by those, others are read. Media are not: who replaces a
    picture and nothing else mines into another folder.
    """
    digest = FileHashes()
    data = [
        [
            each.name,
            each.reference,
            repr(sorted(each.arguments.items())),
            each.adapter.revision,
            len(each.adapter),
            each.query_instruction,
            each.document_instruction,
            [digest(path) for path in getattr(each.adapter, "files", ())]
            or _rows_digest(each.adapter, digest),
        ]
        for each in opened
    ]
    files = [digest(Path(path)) for path in getattr(config, "corpus", ())]
    fields = [kind, 1, data, files, space, config.model_dump(mode="json"), sorted(more.items())]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _rows_digest(adapter: DatasetAdapter, digest: Digest) -> str:
    hasher = hashlib.sha256()
    for row in range(len(adapter)):
        try:
            example = adapter[row]
            items = (example.query, *example.positives, *example.hard_negatives)
            keys = [content_key(item, "document", digest=digest) for item in items]
        except InputError as error:
            said = [str(error)]
        else:
            rest = (example.positive_ids, example.label, example.negative_labels, example.scores)
            said = [*keys, str(len(example.positives)), example.query_id, repr(rest)]
        hasher.update(json.dumps(said).encode())
    return hasher.hexdigest()


def job_record(
    opened: Sequence[OpenedDataset],
    encoder: ItemEncoder,
    files: Sequence[Path],
    counts: Sequence[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """What a finished job says of its teacher and its data.

    Args:
        files: the first of each data set.
        seconds: of this process.
    """
    return {
        "teacher": {"name": encoder.name, "space": encoder.space},
        "seconds": round(seconds, 1),
        "data": {
            each.name: {
                "reference": each.reference,
                "arguments": json.loads(json.dumps(dict(each.arguments), default=str)),
                "file": file.name,
                "counts": count,
            }
            for each, file, count in zip(opened, files, counts, strict=True)
        },
    }
