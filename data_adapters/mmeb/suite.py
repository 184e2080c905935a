"""The benchmark as a source of tasks: finds the data set, its parser and its files, checks counts.

`data_adapters.mmeb.suite:MMEB(root, profile, version="v2")`. `root` is a clone of
`TIGER-Lab/MMEB-V2` with its archives unpacked; annotations that have repositories of their own
are snapshots in `root/annotations/<organisation>/<repository>/` (see `files`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from data_adapters.mmeb import (
    moments,
    pages,
    video_classification,
    video_questions,
    video_retrieval,
)
from data_adapters.mmeb.catalog import Entry, load_entries
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.image_tasks import ANNOTATION_COPIES, IMAGE_FAMILIES
from data_adapters.mmeb.legacy_image import legacy_entry
from mmembed.errors import ConfigError, DataError
from mmembed.tasks import LoadedTask, Profile, RetrievalTask, TaskCard

__all__ = ["FAMILIES", "MMEB"]

Loader = Callable[[Entry, MediaFiles, Profile], RetrievalTask]

FAMILIES: dict[str, Loader] = {
    **IMAGE_FAMILIES,
    "video_classification": video_classification.load,
    "video_question": video_questions.load,
    "video_retrieval": video_retrieval.load,
    "moment_folders": moments.load_folders,
    "moment_seeker": moments.load_seeker,
    "pages": pages.load,
}


class MMEB:
    """The 78 data sets of version `v2`, or the 36 of `v1`, which are the image tasks of `v2`.

    Args:
        root: folder of the downloaded data; only `cards` works without.
        profile: how the items are worded.
        version: `v2` or `v1`.
        form: of the image annotations: `instruct` (instructions in columns of their own),
            `merged` (the older files, instruction and text in one column), or `auto`: what is
            there, `instruct` first. Both make the same tasks.
        check_counts: refuse other numbers of queries and candidates than those of the card. False
            is for samples of the data.
    """

    def __init__(
        self,
        root: str | Path | None,
        profile: Profile,
        *,
        version: str = "v2",
        form: str = "auto",
        check_counts: bool = True,
    ) -> None:
        _one_of("version", version, ("v1", "v2"))
        _one_of("form", form, ("auto", "instruct", "merged"))
        self.root = None if root is None else Path(root)
        self.profile = profile
        self.form = form
        self.check_counts = check_counts
        kept = [e for e in load_entries() if version == "v2" or e.card.modality == "image"]
        self._entries = {entry.card.name: entry for entry in kept}

    def cards(self) -> Sequence[TaskCard]:
        return tuple(entry.card for entry in self._entries.values())

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        _one_of("task", name, tuple(self._entries))
        if self.root is None:
            raise DataError(f"{name}: no folder of data was given (`root`)")
        media = MediaFiles(self.root, allow_missing)
        entry = self._in_its_form(self._entries[name], media)
        if not self.check_counts:
            entry = replace(entry, card=replace(entry.card, num_queries=None, num_documents=None))
        try:
            task = FAMILIES[entry.family](entry, media, self.profile)
        except DataError as error:
            if str(error).startswith(name):
                raise
            raise DataError(f"{name}: {error}", missing=error.missing) from None
        media.raise_if_missing(name)
        _check_not_empty(name, task, media)
        if not media.missing:
            _check_counts(entry.card, task)
        return LoadedTask(task, tuple(media.files), tuple(media.missing))

    def _in_its_form(self, entry: Entry, media: MediaFiles) -> Entry:
        if entry.card.modality != "image" or self.form == "instruct":
            return entry
        older = legacy_entry(entry)
        place = (entry.config, entry.split)
        if self.form == "merged":
            return older
        if media.has_table(entry.repo, *place, also=ANNOTATION_COPIES):
            return entry
        return older if media.has_table(older.repo, *place) else entry


def _check_not_empty(name: str, task: RetrievalTask, media: MediaFiles) -> None:
    if task.queries:
        return
    why = "its tables hold no query"
    if media.missing:
        why = (
            f"every query misses its media ({len(media.missing)} files or folders, such as "
            f"{media.missing[0]}). Were the archives unpacked in {media.root}?"
        )
    raise DataError(f"{name}: nothing is left to judge: {why}", missing=media.missing)


def _check_counts(card: TaskCard, task: RetrievalTask) -> None:
    """The number of queries, and of documents or at most so many in each pool.

    Raises:
        DataError: another number than that of the card.
    """
    counts = [("queries", card.num_queries, len(task.queries))]
    if task.pools is None:
        counts.append(("documents", card.num_documents, len(task.corpus)))
    elif card.num_documents is not None:
        # A parser compares the lists of the data; equal candidates have become one by now.
        largest = max(map(len, task.pools.values()), default=0)
        most = max(largest, card.num_documents)
        counts.append(("documents in the largest pool", card.num_documents, most))
    for what, expected, found in counts:
        if expected is not None and found != expected:
            raise DataError(
                f"{card.name} ({card.source}): {found} {what}, expected {expected}. Is it another "
                "revision of the data? A sample is read with check_counts=False."
            )


def _one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{what} {value!r} is unknown; known: {', '.join(allowed)}")
