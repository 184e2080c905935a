"""What is judged: tasks as plain data, their provenance, and how a family of prompts words them.

Adapters in `data_adapters/` build tasks, `evaluation/` encodes and scores them. Torch-free, and
nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from mmembed.types import MultimodalInput

__all__ = [
    "EvaluationTask",
    "LoadedTask",
    "Profile",
    "RetrievalTask",
    "SimilarityTask",
    "TaskCard",
    "TaskSource",
]


@dataclass(frozen=True)
class RetrievalTask:
    """A retrieval test: every query is ranked against the whole corpus, or its own pool.

    `relevant[query_id]` maps document ids to a positive grade; ids absent from it are irrelevant.
    `pools[query_id]`, where `pools` is given, are the ids of the query's candidates, in the order
    of the source. Classification is retrieval of labels. The two instructions are for items that
    bring none.
    """

    name: str
    queries: Mapping[str, MultimodalInput]
    corpus: Mapping[str, MultimodalInput]
    relevant: Mapping[str, Mapping[str, float]]
    query_instruction: str | None = None
    document_instruction: str | None = None
    pools: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class SimilarityTask:
    """Pairs with a graded similarity, any scale: judged by rank correlation (STS).

    Both sides have the role `query`; `instruction` is for items that bring none.
    """

    name: str
    pairs: Mapping[str, tuple[MultimodalInput, MultimodalInput]]
    scores: Mapping[str, float]
    instruction: str | None = None


EvaluationTask: TypeAlias = RetrievalTask | SimilarityTask


@dataclass(frozen=True)
class TaskCard:
    """Where a task is from and what its result means.

    Attributes:
        name: of the result file; unique within a suite.
        modality: first level of aggregation, such as `image`, `video`, `visdoc`, `text`.
        group: second level, such as `I-CLS` or `VDRv1`.
        main_metric: a key of `evaluation.metrics`, or `spearman`.
        source: what a person would look for: a hub repository with its configuration and split.
        revision, license: None where nobody could say; a report shows that.
        num_queries, num_documents: what the source is known to hold; other counts are refused.
            Documents are those of the corpus, or of each pool where `has_pools`. None: unknown.
        leaderboard_name: key in the public leaderboard's files, where it is another one.
        split: `IND` or `OOD` where the source tells them apart.
    """

    name: str
    modality: str
    group: str
    main_metric: str
    source: str
    revision: str | None = None
    license: str | None = None
    num_queries: int | None = None
    num_documents: int | None = None
    has_pools: bool = False
    leaderboard_name: str | None = None
    split: str = ""
    note: str = ""


@dataclass(frozen=True)
class LoadedTask:
    """A task that was read from files.

    Attributes:
        files: annotation files and tables it was read from (media are named by its items).
        missing: media that are not there, whose queries or documents were dropped. A task with
            any is partial.
    """

    task: EvaluationTask
    files: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """How a family of models words the items of a task. Data: `configs/evaluation/profiles/`.

    Attributes:
        prompts: id of a prompt -> its exact string, separators included.
        template: name of the prompt template for checkpoints that bring none of their own.
        instruction_in_text: write the instruction in front of the text, joined by `separator`,
            instead of leaving it to the template.
        document_instructions: whether candidates get an instruction at all.
        num_frames: frames of a clip: `linspace(0, n - 1, num_frames)` truncated; all when fewer.
        letters: whether options of a choice are embedded with their letter, by name of task.
        reference_defects: repeat what the reference implementation does wrongly to the data.
        options: anything else that a parser of one source asks for; each parser documents its own.
    """

    name: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    instruction_in_text: bool = False
    separator: str = ""
    document_instructions: bool = True
    num_frames: int = 8
    letters: Mapping[str, bool] = field(default_factory=dict)
    reference_defects: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class TaskSource(Protocol):
    """A family of tasks. Suites name a factory `package.module:Name(root, profile, **arguments)`.

    `root` is the folder of the downloaded data, or None for a source that brings its own.
    """

    def cards(self) -> Sequence[TaskCard]:
        """All tasks, in the order of reports. Needs no data."""
        ...

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        """Read one task.

        Raises:
            DataError: files are missing (the list of them, unless `allow_missing`), a
                file is not what it should be, or a count is not that of the card.
        """
        ...
