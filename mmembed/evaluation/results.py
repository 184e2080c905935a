"""What a run of a suite leaves behind: one result for each task, and what made them.

    OUT/
      run.json              model, profile, hashes, hardware, seconds, counts: `RunRecord`
      scores/TASK.json      metrics under every tie policy; equal bytes for equal vectors
      queries/TASK.jsonl    one line for each query: its value, its first documents

Scores hold nothing that differs between two runs of the same plan over the same vectors; whatever
does (time, hardware, cache hits) is in `run.json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mmembed.errors import DataError
from mmembed.store.durable import write_atomically
from mmembed.tasks import TaskCard

__all__ = [
    "TIES",
    "QueryResult",
    "RunResults",
    "TaskResult",
    "TiePolicy",
    "file_stem",
    "read_results",
    "read_task_result",
    "write_run_record",
    "write_task_result",
]

# pessimistic: of equal scores, what is not relevant comes first. official: what comes first in the
# pool does, as in the public scorers. docid: the larger id does, as in trec_eval and mteb.
TiePolicy = Literal["pessimistic", "official", "docid"]
TIES: tuple[TiePolicy, ...] = get_args(TiePolicy)

_FORMAT = "mmembed-score/1"
_NO_FILE_NAME = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff<>:"/\\|?*]|^[. ]|[. ]$')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 200  # bytes, so that an ending fits behind it


@dataclass(frozen=True)
class QueryResult:
    """One query of a task.

    Attributes:
        id: of the query (or of the pair).
        value: main metric of this query under each tie policy; for pairs the cosine.
        top: ids and scores of the first documents under `pessimistic`, best first, at most 10.
        relevant: which of `top` are relevant.
        target: the graded similarity of a pair, which the interval of a correlation needs.
    """

    id: str
    value: Mapping[str, float]
    top: tuple[tuple[str, float], ...] = ()
    relevant: tuple[bool, ...] = ()
    target: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """One task under one model.

    Attributes:
        metrics: tie policy -> metric -> value in [0, 1] (`spearman` in [-1, 1]). The counts
            `num_pred` and `num_data` are among them for retrieval.
        tie_affected: queries whose value differs between two tie policies.
        missing: what was dropped; a task with any is partial.
    """

    card: TaskCard
    metrics: Mapping[str, Mapping[str, float]]
    num_queries: int
    num_documents: int
    tie_affected: int = 0
    missing: tuple[str, ...] = ()
    queries: tuple[QueryResult, ...] = ()

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def is_partial(self) -> bool:
        return bool(self.missing)

    def value(self, ties: TiePolicy = "pessimistic") -> float:
        """The main metric."""
        return self.metrics[ties][self.card.main_metric]


@dataclass(frozen=True)
class RunResults:
    """All results of an output folder.

    Attributes:
        record: the content of `run.json`; empty for a run that never ended.
        unrecorded: tasks with a score of which `run.json` does not say that it was written: a run
            is going on, or was broken off. They are not among `tasks`.
    """

    folder: Path
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    unrecorded: tuple[str, ...] = ()

    @property
    def profile_name(self) -> str:
        profile = self.record.get("profile", "unknown")
        return str(profile.get("name", "unknown") if isinstance(profile, Mapping) else profile)


def file_stem(name: str) -> str:
    """`name`, which must do as the name of a file on every system and stay in its folder.

    Raises:
        DataError: it does not.
    """
    if (
        not name
        or len(name.encode("utf-8", "surrogatepass")) > _LONGEST
        or _NO_FILE_NAME.search(name)
        or _RESERVED.fullmatch(name)
    ):
        raise DataError(
            f"{name!r} cannot be the name of a task, which is that of its files: at most "
            f'{_LONGEST} bytes, none of <>:"/\\|?* or control characters, no dot or space at '
            "either end, no name that Windows reserves"
        )
    return name


def write_task_result(folder: Path, result: TaskResult) -> Path:
    """Write `scores/TASK.json` and `queries/TASK.jsonl`, each atomically; the former last.

    Raises:
        DataError: the task's name cannot be that of a file.
    """
    stem = file_stem(result.name)
    for name in ("scores", "queries"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(query), sort_keys=True) + "\n" for query in result.queries)
    write_atomically(folder / "queries" / f"{stem}.jsonl", "".join(lines).encode("ascii"))
    score = {"format": _FORMAT, **asdict(result), "missing": list(result.missing)}
    del score["queries"]
    path = folder / "scores" / f"{stem}.json"
    write_atomically(path, (json.dumps(score, sort_keys=True, indent=2) + "\n").encode("ascii"))
    return path


def write_run_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `run.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    payload = json.dumps(record, sort_keys=True, indent=2) + "\n"
    write_atomically(folder / "run.json", payload.encode("ascii"))


def read_results(folder: Path, *, with_queries: bool = False) -> RunResults:
    """Everything in an output folder, tasks in the order of their names.

    Raises:
        DataError: no results there, or a damaged file.
    """
    paths = sorted((folder / "scores").glob("*.json"))
    if not paths:
        raise DataError(
            f"{folder} has no results (scores/*.json); make them with `mmembed eval run --out`"
        )
    path = folder / "run.json"
    record = _parsed(path, _text(path)) if path.is_file() else {}
    known = [path for path in paths if _is_recorded(path.stem, record.get("tasks"))]
    tasks = {path.stem: read_task_result(path, with_queries=with_queries) for path in known}
    unrecorded = tuple(path.stem for path in paths if path.stem not in tasks)
    return RunResults(folder, tasks, record, unrecorded)


def _is_recorded(name: str, listed: Any) -> bool:
    """Whether the run that `run.json` is of wrote the score of this task."""
    if not isinstance(listed, Mapping):
        return True
    entry = listed.get(name)
    return entry is not None and not (isinstance(entry, Mapping) and entry.get("files", "") is None)


def read_task_result(path: Path, *, with_queries: bool = False) -> TaskResult:
    """One `scores/TASK.json`, and its queries if asked for.

    Raises:
        DataError: damaged, or a value that is no finite number.
    """
    score = _parsed(path, _text(path))
    if score.pop("format", None) != _FORMAT:
        raise DataError(f"{path} is no result file of this version ({_FORMAT})")
    try:
        result = TaskResult(
            **{**score, "card": TaskCard(**score["card"]), "missing": tuple(score["missing"])}
        )
        for ties in TIES:
            for name, value in {result.card.main_metric: math.nan, **result.metrics[ties]}.items():
                _finite(value, f"{name} under {ties}")
        if result.name != path.stem:
            raise ValueError(f"it holds the result of {result.name!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {_words(error)}; score it again") from None
    if not with_queries:
        return result
    lines = path.parent.parent / "queries" / f"{path.stem}.jsonl"
    if not lines.is_file():
        raise DataError(f"{lines} is missing; run the task again")
    queries = []
    for number, line in enumerate(_text(lines).splitlines(), start=1):
        try:
            queries.append(_query(json.loads(line)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{lines}, line {number} is damaged: {_words(error)}; score the task again"
            ) from None
    return TaskResult(**{**vars(result), "queries": tuple(queries)})


def _query(record: dict[str, Any]) -> QueryResult:
    top = tuple((str(name), float(score)) for name, score in record["top"])
    value: dict[str, float] = {ties: _finite(record["value"][ties], ties) for ties in TIES}
    target = record.get("target")
    if target is not None:
        _finite(target, "target")
    return QueryResult(str(record["id"]), value, top, tuple(record["relevant"]), target)


def _finite(value: Any, what: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}, no number")
    return value


def _words(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path} holds no JSON object")
    return record
