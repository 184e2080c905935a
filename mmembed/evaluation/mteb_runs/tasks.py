"""Our tasks as tasks of mteb, so that a second scorer can produce their numbers (EV-25).

Any `RetrievalTask` becomes `PREFIX.NAME`: queries, corpus and grades as mteb has them, pools as
`top_ranked`. Data are read when mteb loads the task, pictures when a model opens them. Our own
model takes the items of such a task as they are; mteb's columns hold what mteb has a column for:
text, pictures, frames of clips, clips. Pages of PDF files have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.mteb_runs.library import load_datasets, load_mteb
from mmembed.tasks import LoadedTask, RetrievalTask, TaskCard
from mmembed.types import Image, MultimodalInput, Text, Video

__all__ = ["LocalTasks", "local_tasks", "main_score"]

Modality = Literal["text", "image", "video"]

_SPLIT = "test"
_SUBSET = "default"
_LETTERS: dict[Modality, str] = {"image": "i", "video": "v", "text": "t"}
# Before a task is read: what its modality may hold at most, as (modalities, category).
_MOST: dict[str, tuple[tuple[Modality, ...], str]] = {
    "text": (("text",), "t2t"),
    "visdoc": (("image", "text"), "t2i"),
    "image": (("image", "text"), "it2it"),
}
_ANYTHING: tuple[tuple[Modality, ...], str] = (("image", "text", "video"), "vt2vt")
# of mteb for the same numbers; its `map` divides by another count
_MAIN_SCORES = {
    "hit": "hit_rate_at_",
    "ndcg_linear": "ndcg_at_",
    "precision": "precision_at_",
    "recall": "recall_at_",
    "mrr": "mrr_at_",
}

Load = Callable[[str], LoadedTask]


def main_score(metric: str) -> str:
    """mteb's name of one of our metrics: `hit@1` is `hit_rate_at_1`.

    Raises:
        ConfigError: mteb has no such number.
    """
    family, _, k = metric.partition("@")
    if family not in _MAIN_SCORES:
        allowed = ", ".join(f"{name}@k" for name in _MAIN_SCORES)
        raise ConfigError(f"mteb has no score for {metric!r}; it has those of {allowed}")
    return _MAIN_SCORES[family] + k


class LocalTasks:
    """The tasks of a suite for mteb.

    Attributes:
        tasks: of mteb, in order.
        left_out: names of tasks that are no retrieval.
    """

    def __init__(self, tasks: Sequence[Any], left_out: Sequence[str]) -> None:
        self.tasks = list(tasks)
        self.left_out = tuple(left_out)
        self._by_name = {task.metadata.name: task for task in tasks}

    def retrieval_task(self, name: str) -> RetrievalTask | None:
        """What stands behind a name of mteb while its data are loaded; for `MtebModel`."""
        task = self._by_name.get(name)
        return None if task is None else task.items


def local_tasks(
    cards: Mapping[str, TaskCard] | Iterable[TaskCard], load: Load, *, prefix: str = "MMEB"
) -> LocalTasks:
    """Make `PREFIX.NAME` of each card; reads no data.

    Args:
        load: reads a task by the name on its card, such as `TaskSource.load`.

    Raises:
        MissingDependencyError: mteb is not installed.
    """
    listed = list(cards.values()) if isinstance(cards, Mapping) else list(cards)
    left_out = [card.name for card in listed if card.main_metric == "spearman"]
    tasks = [_task_class(card, load, prefix)() for card in listed if card.main_metric != "spearman"]
    return LocalTasks(tasks, left_out)


def _task_class(card: TaskCard, load: Load, prefix: str) -> Any:
    base = load_mteb("mteb.abstasks.retrieval").AbsTaskRetrieval

    def load_data(self: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        if self.data_loaded:
            return
        task = load(card.name).task
        if not isinstance(task, RetrievalTask):
            raise DataError(f"{card.name} is a {type(task).__name__}, no retrieval")
        found = _found(task)
        self.metadata = self.metadata.model_copy(update=found)
        # without a category mteb asks both sides for all modalities
        split = _split(card, task, with_text=found["category"] is None)
        self.dataset = {_SUBSET: {_SPLIT: split}}
        self.items = task
        self.data_loaded = True

    def unload_data(self: Any) -> None:
        self.items = None
        base.unload_data(self)

    members = {
        "__doc__": f"{card.name}: {card.source}",
        "metadata": _metadata(card, prefix),
        "items": None,
        "load_data": load_data,
        "unload_data": unload_data,
    }
    return type(f"Local{card.name}", (base,), members)


def _metadata(card: TaskCard, prefix: str) -> Any:
    modalities, category = _MOST.get(card.modality, _ANYTHING)
    kind = "Any2AnyRetrieval"
    if card.has_pools:
        kind = "VideoCentricQA" if card.modality == "video" else "VisionCentricQA"
    return load_mteb("mteb.abstasks.task_metadata").TaskMetadata(
        dataset={"path": card.source, "revision": card.revision or "local"},
        name=f"{prefix}.{card.name}",
        description=f"{card.name} ({card.group}) from local files: {card.source}. {card.note}",
        reference=_reference(card.source),
        type=kind,
        category=category,
        modalities=list(modalities),
        eval_splits=[_SPLIT],
        eval_langs=["eng-Latn"],
        main_score=main_score(card.main_metric),
        date=("2000-01-01", "2026-01-01"),
        domains=["Constructed"],
        task_subtypes=[],
        license="not specified",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
    )


def _reference(source: str) -> str | None:
    """The page of a source that begins with a repository."""
    match = re.match(r"[\w.-]+/[\w.-]+", source)
    return f"https://huggingface.co/datasets/{match.group()}" if match else None


def _found(task: RetrievalTask) -> dict[str, Any]:
    """What the items of a task are, for its metadata."""
    sides = [_modalities(task.queries.values()), _modalities(task.corpus.values())]
    category = "2".join("".join(_LETTERS[name] for name in side) for side in sides)
    known = load_mteb("mteb.abstasks.task_metadata").TaskCategory.__args__
    prompt = {"query": task.query_instruction, "document": task.document_instruction}
    return {
        "modalities": sorted(set(sides[0]) | set(sides[1])),
        "category": category if category in known else None,
        "prompt": {side: words for side, words in prompt.items() if words} or None,
    }


def _modalities(items: Iterable[MultimodalInput]) -> list[Modality]:
    kinds = {type(part) for item in items for part in item.parts}
    found: list[Modality] = []
    if Image in kinds:
        found.append("image")
    if Video in kinds:
        found.append("video")
    if Text in kinds or not found:
        found.append("text")
    return found


def _split(card: TaskCard, task: RetrievalTask, *, with_text: bool) -> dict[str, Any]:
    top_ranked = None
    if task.pools is not None:
        top_ranked = {query: list(pool) for query, pool in task.pools.items()}
    return {
        "corpus": _rows(task.corpus, with_text=with_text),
        "queries": _rows(task.queries, with_text=with_text),
        "relevant_docs": {query: _grades(card, task, query) for query in task.queries},
        "top_ranked": top_ranked,
    }


def _grades(card: TaskCard, task: RetrievalTask, query: str) -> dict[str, int]:
    grades = {name: grade for name, grade in task.relevant.get(query, {}).items() if grade > 0}
    if any(grade != int(grade) for grade in grades.values()):
        raise DataError(
            f"{card.name}: query {query!r} has a grade that is no whole number; mteb and trec_eval "
            "take whole ones only"
        )
    return {name: int(grade) for name, grade in grades.items()}


def _rows(items: Mapping[str, MultimodalInput], *, with_text: bool) -> Any:
    """A `Dataset` of id, and text, image and video as far as any item has them.

    Pictures stay files or bytes until somebody reads a row.

    Args:
        with_text: a column of text in any case.
    """
    library = load_datasets()
    kinds = _modalities(items.values())
    columns: dict[str, Any] = {"id": list(items)}
    features: dict[str, Any] = {"id": library.Value("string")}
    clips = [_clip(item) for item in items.values()] if "video" in kinds else []
    if "text" in kinds or with_text:
        texts = ["".join(p.text for p in i.parts if isinstance(p, Text)) for i in items.values()]
        columns["text"], features["text"] = texts, library.Value("string")
    if "image" in kinds:
        columns["image"] = [_picture(item) for item in items.values()]
        features["image"] = library.Image()
    if clips:
        is_file = any(isinstance(clip, Mapping) for clip in clips)
        columns["video"] = clips
        features["video"] = library.Video() if is_file else library.List(library.Image())
    return library.Dataset.from_dict(columns, features=library.Features(features))


def _picture(item: MultimodalInput) -> Any:
    """The first picture; mteb's rows have one."""
    return next((_stored(part.source) for part in item.parts if isinstance(part, Image)), None)


def _clip(item: MultimodalInput) -> Any:
    for part in item.parts:
        if isinstance(part, Video):
            if isinstance(part.source, tuple):
                return [_stored(frame) for frame in part.source]
            return _stored(part.source)
    return None


def _stored(source: Any) -> Any:
    """As `datasets` takes it without opening it, except pictures that are in memory only."""
    if isinstance(source, bytes):
        return {"bytes": source, "path": None}
    if isinstance(source, np.ndarray):
        from PIL import Image as Pictures

        return Pictures.fromarray(source)
    if hasattr(source, "save"):
        return source
    return {"bytes": None, "path": str(source)}
