"""mteb's data from folders, without a network.

Replacing the path of a task by the folder of a snapshot is the one way that works offline for
every kind of task: hub caches fail for retrieval, and with a cache of `datasets` the pools of
reranking tasks are silently not seen. A map says which folder holds which `repo@revision` and what
must be in it; after loading, that is checked.

    {"org/name@0123abc": {"folder": "snapshots/org--name", "sha256": "...", "has": ["top_ranked"]}}
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mmembed.config.validation import StrictModel, validate
from mmembed.errors import DataError
from mmembed.evaluation.mteb_runs.library import load_datasets
from mmembed.store.content import hash_file

__all__ = [
    "DataMap",
    "LocalData",
    "folder_sha256",
    "localize",
    "offline",
    "parts_of_task",
    "read_map",
    "repository_key",
]

Extra = Literal["top_ranked", "instruction"]


class LocalData(StrictModel):
    """An entry of a map.

    Attributes:
        folder: relative to the file of the map, or absolute.
        sha256: of its content, see `folder_sha256`; None is not checked.
        has: what every task loaded from it must have.
    """

    folder: str
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    has: tuple[Extra, ...] = ()


class _MapFile(StrictModel):
    entries: dict[str, LocalData]


@dataclass(frozen=True)
class DataMap:
    """A map and the folder that its paths are relative to."""

    root: Path
    entries: Mapping[str, LocalData]

    def folder(self, key: str) -> Path:
        return self.root / self.entries[key].folder


def repository_key(metadata: Any) -> str:
    """`repo@revision` of a task."""
    return f"{metadata.dataset['path']}@{metadata.dataset.get('revision')}"


def read_map(path: Path) -> DataMap:
    """A map from a file.

    Raises:
        DataError: no such file, or not JSON.
        ConfigError: an unknown key or a wrong value.
    """
    try:
        fields = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no map {path}; `mmembed eval fetch` makes one") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DataError(f"{path} holds no JSON object")
    checked = validate(_MapFile, {"entries": fields}, where=str(path))
    return DataMap(path.parent, checked.entries)


def folder_sha256(folder: Path, *, digest: Callable[[Path], str] = hash_file) -> str:
    """sha256 over the relative path and the sha256 of every file below, in order.

    Files of a download tool in folders that begin with a dot do not count.
    """
    hasher = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts[:-1]):
            hasher.update(f"{relative.as_posix()}\0{digest(path)}\n".encode())
    return hasher.hexdigest()


def parts_of_task(task: Any) -> list[Any]:
    """The tasks that an aggregate is made of; a plain task itself."""
    parts = getattr(task.metadata, "tasks", None)
    return [task] if parts is None else [leaf for part in parts for leaf in parts_of_task(part)]


def localize(
    tasks: Iterable[Any], data: DataMap, *, digest: Callable[[Path], str] = hash_file
) -> list[Any]:
    """Copies of tasks that load from the folders of a map. The tasks given stay as they are.

    Loading such a task fails where the map says that there are pools or instructions and mteb saw
    none: otherwise a reranking task would be judged as full retrieval.

    Args:
        digest: sha256 of a file.

    Raises:
        DataError: tasks without an entry (all of them), a folder that is not there or
            whose content is another one.
    """
    listed = list(tasks)
    wanted = {repository_key(leaf.metadata): leaf for t in listed for leaf in parts_of_task(t)}
    absent = [f"{leaf.metadata.name} ({key})" for key, leaf in wanted.items()
              if key not in data.entries]  # fmt: skip
    if absent:
        raise DataError(
            f"the map in {data.root} has no entry for {len(absent)} data sets; fetch them, or "
            f"leave the tasks out:\n  " + "\n  ".join(absent)
        )
    for key in wanted:
        _check_folder(key, data, digest)
    return [_localized(task, data) for task in listed]


def _check_folder(key: str, data: DataMap, digest: Callable[[Path], str]) -> None:
    folder, expected = data.folder(key), data.entries[key].sha256
    if not folder.is_dir():
        raise DataError(f"{key}: {folder} is no folder", missing=[str(folder)])
    found = None if expected is None else folder_sha256(folder, digest=digest)
    if found != expected:
        raise DataError(
            f"{key}: the content of {folder} has sha256 {found}, the map says {expected}; fetch it "
            "again"
        )


def _localized(task: Any, data: DataMap) -> Any:
    task = copy.copy(task)
    parts = getattr(task.metadata, "tasks", None)
    if parts is not None:
        task.tasks = [_localized(part, data) for part in parts]
        task.taskname_to_task = {part.metadata.name: part for part in task.tasks}
        task.metadata = task.metadata.model_copy(update={"tasks": task.tasks})
        return task
    key = repository_key(task.metadata)
    dataset = {**task.metadata.dataset, "path": str(data.folder(key).resolve())}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    load_data, has = task.load_data, data.entries[key].has

    def load_and_check(*args: Any, **kwargs: Any) -> None:
        load_data(*args, **kwargs)
        _check_loaded(task, key, has)

    task.load_data = load_and_check
    return task


def _check_loaded(task: Any, key: str, has: Sequence[Extra]) -> None:
    for extra in has:
        lacking = [place for place, split in _splits(task) if not _has(task, split, extra)]
        if lacking:
            raise DataError(
                f"{task.metadata.name}: {key} should have {extra}, but mteb loaded none for "
                f"{', '.join(lacking)}; without it this would be another task. Look at the "
                "configurations in the README of the snapshot"
            )


def _splits(task: Any) -> Iterator[tuple[str, Any]]:
    for subset, splits in (task.dataset or {}).items():
        for name in task.metadata.eval_splits:
            split = splits.get(name) if isinstance(splits, Mapping) else None
            yield f"{subset}/{name}", split


def _has(task: Any, split: Any, extra: Extra) -> bool:
    older = "top_ranked" if extra == "top_ranked" else "instructions"
    if getattr(task, older, None):  # tasks that fill attributes instead of `dataset`
        return True
    if not isinstance(split, Mapping):
        return False
    if extra == "top_ranked":
        return bool(split.get("top_ranked"))
    return "instruction" in getattr(split.get("queries"), "column_names", ())


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within it, the hub's library and `datasets` refuse to look anything up.

    It sets what `HF_HUB_OFFLINE` would have set when they were imported, and restores it; the
    environment stays as it is.
    """
    config = load_datasets("datasets.config")
    import huggingface_hub.constants

    places = [
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
        (config, "HF_HUB_OFFLINE"),
        (config, "HF_DATASETS_OFFLINE"),
    ]
    before = [(module, name, getattr(module, name)) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, True)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
