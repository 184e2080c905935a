"""What is trained on: cards of published data sets and the catalogue that opens them.

Adapters in `data_adapters/` give cards and rows, `mmembed data` lists, fetches, checks and locks
them. Torch-free, and nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmembed.types import ContrastiveExample, Task

__all__ = ["FLOATING", "DatasetCard", "DatasetCatalog", "ExampleRows"]

# The revision of a data set whose commit nobody has pinned: whatever the hub has today. A
# `data.lock` records the commit that was fetched.
FLOATING = "main"


@dataclass(frozen=True)
class DatasetCard:
    """Where a data set is from, what it holds, and on which terms.

    Attributes:
        name: of the catalogue, lower case with hyphens; what recipes and the command line say.
        task: of its rows.
        query, document: modalities, as `MultimodalInput.modality` writes them: `text`, `image`,
            `image+text`, `video`, `pdf`; several with a slash, `image/text`.
        repo: `owner/name` on the hub; empty for a data set that is elsewhere.
        url: where a person reads about it, and gets what the hub does not have.
        config, split: of the repository; empty where it has only one.
        revision: commit, tag or branch of the hub, or the version of the source; see `FLOATING`.
        license: SPDX id, or the words of the source; `unknown` where it says nothing.
        citation: authors, title, year, arXiv id or venue.
        num_rows: rows that it gives with its default options; None where nobody has counted.
        num_bytes: of a download.
        languages: codes of ISO 639-1; empty: not stated.
        files: glob patterns of the repository that are downloaded; empty: all of it.
        media: what to do about pictures and clips that are not in the repository.
        group: the group whose rows share batches by default, such as `image_classification`.
        query_instructions, document_instructions: phrasings that recipes use.
    """

    name: str
    task: Task
    query: str
    document: str
    repo: str = ""
    url: str = ""
    config: str = ""
    split: str = "train"
    revision: str = FLOATING
    license: str = "unknown"
    citation: str = ""
    num_rows: int | None = None
    num_bytes: int | None = None
    languages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    media: str = ""
    group: str = ""
    query_instructions: tuple[str, ...] = ()
    document_instructions: tuple[str, ...] = ()
    note: str = ""


@runtime_checkable
class ExampleRows(Protocol):
    """Rows that were opened: a `mmembed.data.adapter.DatasetAdapter` that knows its files.

    `__getitem__` raises `InputError` for a row that is no example, naming file and line; all other
    rows stay usable. It is thread-safe and gives the same row every time. May also have
    `document_ids(index) -> tuple[str, ...]` (the `positive_ids` of a row without the row) and
    `sibling_key(index) -> str` (rows with equal keys come from one whole, such as the clips of a
    long video, and are hard negatives of each other; empty: from none).
    """

    name: str
    task: Task
    revision: str
    license: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Tables and annotation files that the rows are read from; not the media."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ContrastiveExample: ...

    def where(self, index: int) -> str:
        """For people: `train.jsonl, line 17`."""
        ...


class DatasetCatalog(Protocol):
    """A family of published data sets. `configs/datasets.yaml` names the catalogues.

    `adapter` is what a recipe names to open one, called with `name`, `root` and the options.
    """

    adapter: str

    def place(self, name: str) -> str:
        """The folder of its files below the root: `owner/name` for what is on the hub."""
        ...

    def options(self, name: str) -> Mapping[str, Any]:
        """What `open` takes for this data set besides, with the values it has when not given."""
        ...

    def cards(self) -> Sequence[DatasetCard]: ...

    def open(self, name: str, root: str | Path, **options: Any) -> ExampleRows:
        """The rows of a data set.

        Args:
            root: the folder with the downloads: `root/owner/name/...`.
            options: what the data set asks for besides; each says which.

        Raises:
            DataError: the files are not there (with the command that fetches them) or damaged.
            ConfigError: an unknown name or option, with the known ones.
        """
        ...

    def files(self, name: str, root: str | Path) -> tuple[Path, ...]:
        """The files under `root` that `open` would read; empty when they are not there."""
        ...
