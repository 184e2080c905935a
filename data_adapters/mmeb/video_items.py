"""What the parsers of clips and pages share: wording by profile, frames, and gathering a task.

A clip is the frames that were chosen from a folder of saved ones, each a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from data_adapters.cells import Kind, check_row
from data_adapters.mmeb.catalog import Entry
from data_adapters.mmeb.files import MediaFiles, frame_indices
from mmembed.errors import DataError
from mmembed.tasks import Profile, RetrievalTask
from mmembed.types import Image, MultimodalInput, Text, Video

__all__ = ["Gathering", "annotation_rows", "clip", "document", "label", "query"]

# The clone of the benchmark brings copies of the annotations of clips: `k700.jsonl`, ...
_COPIES = "video-tasks/data"


def annotation_rows(
    entry: Entry, media: MediaFiles, kinds: Mapping[str, Kind], config: str | None = None
) -> list[dict[str, Any]]:
    """Columns of the data set: of its repository, else of the copy that `options.copy` names.

    A `{config}` in the name of the copy stands for the configuration. `options.first` keeps only
    that many rows.

    Raises:
        DataError: a column is not there or holds something else.
    """
    config = entry.config if config is None else config
    copy = str(entry.options.get("copy", "")).replace("{config}", config)
    source = (entry.repo, config, entry.split)
    if copy and not media.has_table(*source) and media.has_table(_COPIES, copy, entry.split):
        source = (_COPIES, copy, entry.split)
    rows = list(islice(media.each_row(*source, columns=tuple(kinds)), entry.options.get("first")))
    where = entry.card.name + (f" ({config})" if config else "")
    for number, row in enumerate(rows):
        check_row(where, number, row, kinds)
    return rows


def clip(entry: Entry, media: MediaFiles, profile: Profile, name: str) -> Video | None:
    """The chosen frames of a folder below one of `options.frames`; None when there are none."""
    saved = media.frames(*(f"{folder}/{name}" for folder in entry.options["frames"]))
    chosen = frame_indices(len(saved), profile.num_frames)
    return Video(tuple(saved[index] for index in chosen)) if saved else None


def query(
    entry: Entry,
    profile: Profile,
    medium: Image | Video | None = None,
    text: str = "",
    *,
    prompt: str = "",
) -> MultimodalInput:
    """A query with the instruction of the entry, or of another prompt."""
    return _worded(profile, _prompt(entry, profile, prompt or entry.query_prompt), medium, text)


def document(entry: Entry, profile: Profile, medium: Image | Video) -> MultimodalInput:
    """A clip or page as a candidate, with the entry's instruction where the profile has any."""
    if not profile.document_instructions:
        return MultimodalInput((medium,))
    return _worded(profile, _prompt(entry, profile, entry.document_prompt), medium, "")


def label(text: str) -> MultimodalInput:
    """A text as a candidate: never with an instruction."""
    return MultimodalInput((Text(text),))


def _prompt(entry: Entry, profile: Profile, name: str) -> str:
    if name in profile.prompts:
        return profile.prompts[name]
    raise DataError(
        f"{entry.card.name} needs the prompt {name!r}, which the profile {profile.name!r} does not "
        f"have; it has {', '.join(profile.prompts) or 'none'}. Add it to the profile's `prompts`."
    )


def _worded(
    profile: Profile, instruction: str, medium: Image | Video | None, text: str
) -> MultimodalInput:
    """The separator ends an instruction that a text follows, unless a blank of its own does."""
    parts = [] if medium is None else [medium]
    if profile.instruction_in_text:
        written = instruction + profile.separator + text if text else instruction
        before = str(profile.options.get("media_separator", "")) if parts else ""
        return MultimodalInput((*parts, Text(before + written)))
    if not text:
        return MultimodalInput(tuple(parts), instruction)
    if not instruction[-1:].isspace():
        instruction += profile.separator
    return MultimodalInput((*parts, Text(text)), instruction)


class Gathering:
    """A task that grows query by query; what misses its media is left out.

    `media.missing` already has the names of what is left out.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._queries: dict[str, MultimodalInput] = {}
        self._corpus: dict[str, MultimodalInput] = {}
        self._relevant: dict[str, dict[str, float]] = {}
        self._pools: dict[str, tuple[str, ...]] = {}

    def add_document(self, name: str, item: MultimodalInput | None) -> None:
        if item is not None:
            self._corpus.setdefault(name, item)

    def add_query(
        self,
        name: str,
        item: MultimodalInput | None,
        relevant: Iterable[str] | Mapping[str, float],
        pool: Sequence[str] = (),
    ) -> None:
        """Add a query after its documents. `relevant` without grades means 1.0.

        Raises:
            DataError: the source has no relevant document for it.
        """
        grades = dict(relevant) if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1.0)
        if not grades:
            raise DataError(
                f"{self._entry.card.name}: query {name} has no relevant document in "
                f"{self._entry.card.source}"
            )
        found = {key: grade for key, grade in grades.items() if key in self._corpus}
        if item is None or not found:
            return
        assert name not in self._queries
        self._queries[name] = item
        self._relevant[name] = found
        if self._entry.card.has_pools:
            self._pools[name] = tuple(key for key in dict.fromkeys(pool) if key in self._corpus)

    def task(self) -> RetrievalTask:
        corpus, pools = self._corpus, None
        if self._entry.card.has_pools:
            pools = self._pools
            used = {key for pool in pools.values() for key in pool}
            corpus = {key: item for key, item in corpus.items() if key in used}
        return RetrievalTask(
            self._entry.card.name, self._queries, corpus, self._relevant, pools=pools
        )
