"""An encoder of items as a model of mteb: it encodes, and it searches.

    mteb's batches -> rows.py -> items with the task's instruction -> StoredVectors -> unit rows
    index + search -> streaming top-k over windows of the corpus (evaluation/ranking.py)

Vectors are found again by content, so that a second run, and MMEB over the same files, encodes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.baselines.stored_vectors import StoredVectors, with_instruction
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.mteb_runs.library import load_mteb
from mmembed.evaluation.mteb_runs.metadata import model_meta
from mmembed.evaluation.mteb_runs.prompts import Prompts, side_of
from mmembed.evaluation.mteb_runs.rows import (
    has_media,
    item_of,
    prefetched,
    rows_of,
    undecoded,
    windows,
)
from mmembed.evaluation.mteb_runs.streaming import Best, rank_window
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput, Role

__all__ = ["MAX_STORED_TEXTS", "MtebModel", "mteb_model"]

MAX_STORED_TEXTS = 2_000_000

# Classes are handed over as text without a prompt type, like the inputs that they are for.
_ZERO_SHOT = frozenset({"ZeroShotClassification", "VideoZeroshotClassification"})

LocalTasks = Callable[[str], RetrievalTask | None]


class MtebModel:
    """The protocol's methods. `mteb_model` makes one that mteb also knows by its base class.

    Attributes:
        vectors: the model's rows by content.
        prompts: which instruction goes with which item.
        num_frames: of a clip, evenly spaced.
        own_search: False leaves searching to mteb, for comparisons.
        dimension: first components that are kept (Matryoshka); None: all.
        max_stored_texts: texts of larger data sets are encoded without being kept.
        local_tasks: the task behind a name of mteb, for tasks that we brought: their items are
            taken as they are, with their own instructions, instead of mteb's rows.
    """

    def __init__(
        self,
        vectors: StoredVectors,
        meta: Any,
        *,
        prompts: Prompts,
        num_frames: int = 8,
        own_search: bool = True,
        dimension: int | None = None,
        max_stored_texts: int = MAX_STORED_TEXTS,
        local_tasks: LocalTasks = lambda name: None,
    ) -> None:
        self.vectors = vectors
        self.mteb_model_meta = meta
        self.prompts = prompts
        self.num_frames = num_frames
        self.own_search = own_search
        self.dimension = dimension
        self.max_stored_texts = max_stored_texts
        self.local_tasks = local_tasks
        self._corpus: Any = None
        self._theirs: Any = None

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """(N, D) float32 unit rows in the order of the loader.

        Batches of mteb only carry the rows: what is encoded together is decided by what it costs.

        Raises:
            ConfigError: another `precision` than float32; mteb's own quantisation is not ours.
            DataError: a row that cannot be encoded.
        """
        if kwargs.get("precision", "float32") != "float32":
            raise ConfigError(f"precision {kwargs['precision']!r}: this model gives float32")
        found = [rows for _, rows in self._encoded(inputs, task_metadata, prompt_type)]
        width = self.dimension or self.vectors.encoder.embedding_dimension
        return np.concatenate(found) if found else np.empty((0, width), np.float32)

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Any,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the corpus; it is encoded while it is searched."""
        self._corpus = corpus
        if not self.own_search:
            self._theirs = load_mteb("mteb.models").SearchEncoderWrapper(self)
            self._theirs.index(
                corpus,
                task_metadata=task_metadata,
                hf_split=hf_split,
                hf_subset=hf_subset,
                encode_kwargs=encode_kwargs,
                num_proc=num_proc,
            )

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Any = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """At most `top_k` documents of each query, of its `top_ranked` ones where they are given.

        Of equal scores the larger id is kept, as in mteb and trec_eval.

        Raises:
            DataError: nothing was indexed, or `top_ranked` names a document that the
                corpus does not have.
        """
        if self._corpus is None:
            raise DataError("search before index: there is no corpus")
        if self._theirs is not None:
            found: dict[str, dict[str, float]] = self._theirs.search(
                queries,
                task_metadata=task_metadata,
                hf_split=hf_split,
                hf_subset=hf_subset,
                top_k=top_k,
                encode_kwargs=encode_kwargs,
                top_ranked=top_ranked,
                num_proc=num_proc,
            )
            return found
        corpus, self._corpus = self._corpus, None
        types = load_mteb("mteb.types").PromptType

        def encoded(dataset: Any, prompt_type: Any) -> Iterator[tuple[int, np.ndarray]]:
            loader = load_mteb("mteb._create_dataloaders").create_dataloader(
                dataset,
                task_metadata=task_metadata,
                prompt_type=prompt_type,
                num_proc=num_proc,
                batch_size=encode_kwargs.get("batch_size", 32),
            )
            return self._encoded(loader, task_metadata, prompt_type)

        query_ids = [str(name) for name in queries["id"]]
        query_rows = np.concatenate([rows for _, rows in encoded(queries, types.query)])
        ids = [str(name) for name in corpus["id"]]
        pools = None
        if top_ranked is not None:
            ids, needed, pools = _pools(query_ids, ids, top_ranked)
            corpus = corpus.select(needed)
            rows = [rows for _, rows in encoded(corpus, types.document)] if needed else []
            if not rows:
                return {query: {} for query in query_ids}
            return rank_window(
                query_rows, np.concatenate(rows), ids, pools=pools, k=top_k
            ).by_query(query_ids, ids)
        best = Best(len(query_ids), ids, top_k)
        for begin, rows_here in encoded(corpus, types.document):
            best.merge(query_rows, rows_here, begin)
        return best.by_query(query_ids, ids)

    def _encoded(
        self, loader: Any, metadata: Any, prompt_type: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(place of the first row, rows), window by window."""
        is_stored = True
        begin = 0
        batches = prefetched(undecoded(loader))
        for window in windows(self._items(batches, metadata, prompt_type)):
            if begin == 0:
                is_stored = self._is_stored(window, loader)
            is_label = _has_labels(metadata) and window[0].modality == "text"
            role: Role = side_of(metadata, prompt_type, is_label=is_label)
            if is_stored:
                rows = self.vectors.rows(window, role)
            else:
                rows = self.vectors.encoder.encode(window, role=role, show_progress_bar=False)
            yield begin, self._cut(np.asarray(rows, dtype=np.float32))
            begin += len(window)

    def _is_stored(self, window: Sequence[MultimodalInput], loader: Any) -> bool:
        """Media always; texts unless there are too many of them."""
        if any(item.modality != "text" for item in window):
            return True
        return len(loader.dataset) <= self.max_stored_texts

    def _items(
        self, batches: Iterable[Mapping[str, Any]], metadata: Any, prompt_type: Any
    ) -> Iterator[MultimodalInput]:
        task = self.local_tasks(metadata.name)
        side = side_of(metadata, prompt_type)
        may_be_label = _has_labels(metadata)
        for batch in batches:
            for row in rows_of(batch):
                if task is not None:
                    is_query = side == "query"
                    item = (task.queries if is_query else task.corpus)[row["id"]]
                    instruction = task.query_instruction if is_query else task.document_instruction
                    yield with_instruction(item, instruction)
                    continue
                is_label = may_be_label and not has_media(row)
                asked = side_of(metadata, prompt_type, is_label=is_label)
                instruction = self.prompts.instruction(metadata, asked)
                yield item_of(row, instruction, self.num_frames)

    def _cut(self, rows: np.ndarray) -> np.ndarray:
        if self.dimension is None:
            return rows
        rows = rows[:, : self.dimension]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.ascontiguousarray(rows / np.maximum(norms, np.finfo(np.float32).tiny))


def _has_labels(metadata: Any) -> bool:
    """Whether a batch of text only must be classes, which get no instruction of the task."""
    return metadata.type in _ZERO_SHOT and set(metadata.modalities) != {"text"}


def _pools(
    query_ids: Sequence[str], ids: Sequence[str], top_ranked: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[int], list[np.ndarray]]:
    """Ids of the documents in any pool, their places in the corpus, and the pools as places in
    the former. A query without a pool has an empty one."""
    place_of = {name: place for place, name in enumerate(ids)}
    listed = {query: list(dict.fromkeys(top_ranked.get(query) or ())) for query in query_ids}
    unknown = sorted({name for pool in listed.values() for name in pool} - set(place_of))
    if unknown:
        raise DataError(
            f"top_ranked names {len(unknown)} documents that the corpus does not have, such as "
            f"{unknown[0]!r}"
        )
    needed = sorted({place_of[name] for pool in listed.values() for name in pool})
    chosen = [ids[place] for place in needed]
    new_place = {name: place for place, name in enumerate(chosen)}
    pools = [
        np.array([new_place[name] for name in listed[query]], dtype=np.int64) for query in query_ids
    ]
    return chosen, needed, pools


def mteb_model(
    encoder: ItemEncoder,
    vectors: StoredVectors | None = None,
    *,
    prompts: Prompts | None = None,
    num_frames: int = 8,
    own_search: bool = True,
    dimension: int | None = None,
    training_datasets: Collection[str] | None = None,
    max_stored_texts: int = MAX_STORED_TEXTS,
    local_tasks: LocalTasks = lambda name: None,
) -> Any:
    """A model for `mteb.evaluate`: `AbsEncoder`, `EncoderProtocol` and `SearchProtocol` in one.

    Args:
        vectors: of this encoder; None keeps its rows in memory. Others: see `MtebModel`.
        prompts: default: what mteb says about each task.
        training_datasets: names of mteb's tasks whose training data the model saw.

    Raises:
        MissingDependencyError: mteb is not installed.
        ConfigError: `dimension` is not one the model has.
    """
    prompts = prompts or Prompts("task")
    if dimension is not None and not 1 <= dimension <= encoder.embedding_dimension:
        raise ConfigError(
            f"dimension is {dimension}; this model has 1 to {encoder.embedding_dimension}"
        )
    meta = model_meta(
        encoder.name,
        encoder.space,
        encoder.describe(),
        embedding_dimension=dimension or encoder.embedding_dimension,
        prompts=prompts.name,
        settings={
            "dimension": dimension,
            "num_frames": num_frames if num_frames != 8 else None,
            "search": None if own_search else "mteb",
        },
        training_datasets=training_datasets,
    )
    base = load_mteb("mteb.models.abs_encoder").AbsEncoder

    class Model(MtebModel, base):  # type: ignore[misc, valid-type]
        """See `MtebModel`."""

    return Model(
        vectors or StoredVectors(encoder),
        meta,
        prompts=prompts,
        num_frames=num_frames,
        own_search=own_search,
        dimension=dimension,
        max_stored_texts=max_stored_texts,
        local_tasks=local_tasks,
    )
