"""The three files of a data set that the public scorers read and write, in both directions.

    NAME_qry          pickle of a float32 array (Q, D)
    NAME_tgt          pickle of a dictionary: candidate -> float32 row, in the order of the pool
    NAME_info.jsonl   a line for each query: `label_name`, one or a list; `cand_names`, where the
                      query has a pool of its own; `rel_scores`, grades aligned with the labels

With all three present those programs skip encoding. `query_id` is ours; they pass over it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.metrics import COUNTS, METRICS
from mmembed.evaluation.pickled_vectors import (
    read_array,
    read_named_rows,
    write_array,
    write_named_rows,
)
from mmembed.evaluation.ranking import named
from mmembed.evaluation.results import TaskResult, TiePolicy, file_stem
from mmembed.store.durable import write_atomically
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput

__all__ = ["OfficialFiles", "list_official", "read_official", "write_official", "write_score"]

_NAME_ONLY = MultimodalInput.of("known by its name and its vector")


@dataclass(frozen=True)
class OfficialFiles:
    """One data set of a folder. The items of the task say nothing; only their names count.

    Attributes:
        queries, documents: (Q, D), (M, D) in the order of `task`.
    """

    task: RetrievalTask
    queries: np.ndarray
    documents: np.ndarray


def list_official(folder: Path) -> list[str]:
    """The data sets of a folder, sorted.

    Raises:
        DataError: none, or one of its three files is missing.
    """
    kinds = ("_info.jsonl", "_qry", "_tgt")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names = sorted(
        {name.removesuffix(kind) for name in found for kind in kinds if name.endswith(kind)}
    )
    if not names:
        raise DataError(f"{folder} has no NAME_qry, NAME_tgt and NAME_info.jsonl")
    absent = [name + kind for name in names for kind in kinds if name + kind not in found]
    if absent:
        raise DataError(f"{folder} lacks {named(absent)}", missing=absent)
    return names


def write_official(
    folder: Path, name: str, task: RetrievalTask, queries: np.ndarray, documents: np.ndarray
) -> None:
    """Write the three files, each atomically; existing ones are replaced.

    Raises:
        DataError: `name` cannot be that of a file.

    Args:
        queries, documents: (Q, D) and (M, D) in the order of the task.
    """
    name = file_stem(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_array(folder / f"{name}_qry", queries)
    write_named_rows(folder / f"{name}_tgt", dict(zip(task.corpus, documents, strict=True)))
    lines = (json.dumps(_info(task, query_id)) + "\n" for query_id in task.queries)
    write_atomically(folder / f"{name}_info.jsonl", "".join(lines).encode("ascii"))


def read_official(folder: Path, name: str) -> OfficialFiles:
    """Read one data set. The queries are named by `query_id`, or by their line.

    Raises:
        DataError: a file that is missing, damaged, or does not fit the others; a label
            that stands twice, whose grade would be a matter of luck.
    """
    queries = read_array(folder / f"{name}_qry")
    documents = read_named_rows(folder / f"{name}_tgt")
    path = folder / f"{name}_info.jsonl"
    infos = _read_lines(path)
    if len(infos) != len(queries):
        raise DataError(f"{path} has {len(infos)} lines for {len(queries)} vectors")
    ids = [str(info.get("query_id", line)) for line, info in enumerate(infos)]
    twice = [each for each, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: query_id stands twice: {named(twice)}")
    relevant = {
        query_id: _labels(info, f"{path}: line {line}")
        for line, (query_id, info) in enumerate(zip(ids, infos, strict=True), start=1)
    }
    with_pool = sum("cand_names" in info for info in infos)
    if with_pool not in (0, len(infos)):
        raise DataError(f"{path}: {with_pool} of {len(infos)} lines have cand_names")
    pools = None
    if with_pool:
        pools = {
            query_id: _names(info["cand_names"], f"{path}: line {line}: cand_names")
            for line, (query_id, info) in enumerate(zip(ids, infos, strict=True), start=1)
        }
    task = RetrievalTask(
        name=name,
        queries=dict.fromkeys(ids, _NAME_ONLY),
        corpus=dict.fromkeys(documents, _NAME_ONLY),
        relevant=relevant,
        pools=pools,
    )
    return OfficialFiles(task, queries, np.stack(list(documents.values())))


def write_score(folder: Path, result: TaskResult, ties: TiePolicy) -> Path:
    """Write `NAME_score.json` with its 26 keys, as the public scorers do."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_stem(result.name)}_score.json"
    metrics = {key: result.metrics[ties][key] for key in (*METRICS, *COUNTS)}
    write_atomically(path, (json.dumps(metrics, indent=4) + "\n").encode("ascii"))
    return path


def _info(task: RetrievalTask, query_id: str) -> dict[str, Any]:
    grades = {name: grade for name, grade in task.relevant[query_id].items() if grade > 0}
    labels: list[str] = list(grades)
    info: dict[str, Any] = {"query_id": query_id}
    if set(grades.values()) == {1}:
        info["label_name"] = labels[0] if len(labels) == 1 else labels
    else:
        info["label_name"], info["rel_scores"] = labels, list(grades.values())
    if task.pools is not None:
        info["cand_names"] = list(task.pools[query_id])
    return info


def _read_lines(path: Path) -> list[Mapping[str, Any]]:
    infos: list[Mapping[str, Any]] = []
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")  # a name may hold U+2028
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            info = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(info, dict) or "label_name" not in info:
            raise DataError(f"{path}: line {number} has no label_name")
        infos.append(info)
    return infos


def _labels(info: Mapping[str, Any], where: str) -> dict[str, float]:
    names = info["label_name"]
    names = _names([names] if isinstance(names, str) else names, f"{where}: label_name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: labels stand twice: {named(twice)}")
    scores = info.get("rel_scores")
    if scores is None:
        return dict.fromkeys(names, 1.0)
    if (
        not isinstance(scores, list)
        or len(scores) != len(names)
        or not all(isinstance(score, int | float) for score in scores)
    ):
        raise DataError(
            f"{where}: rel_scores {scores!r} for {len(names)} labels; expected a number for each"
        )
    return {name: float(score) for name, score in zip(names, scores, strict=True)}


def _names(found: Any, where: str) -> Sequence[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{where} is {found!r}; expected a list of strings")
    return found
