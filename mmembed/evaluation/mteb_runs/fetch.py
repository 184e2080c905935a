"""Download the data of mteb's tasks as snapshot folders, with the map that `--localize` reads.

For a machine with a network; everything else of this folder works without one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.config.files import read_yaml
from mmembed.data.hub import Hub
from mmembed.errors import DataError
from mmembed.evaluation.mteb_runs.localize import (
    LocalData,
    folder_sha256,
    parts_of_task,
    read_map,
    repository_key,
)
from mmembed.store.durable import write_atomically

__all__ = ["MAP_NAME", "Snapshot", "download_snapshot", "fetch", "plan_fetch", "what_it_has"]

MAP_NAME = "map.json"

Download = Callable[["Snapshot", Path], None]


@dataclass(frozen=True)
class Snapshot:
    """A repository of data at a revision, and the tasks that need it."""

    repo: str
    revision: str
    tasks: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def folder(self) -> str:
        """Relative to the map."""
        return f"snapshots/{self.repo.replace('/', '--')}/{self.revision}"


def plan_fetch(tasks: Iterable[Any]) -> list[Snapshot]:
    """What tasks need, each once, in the order of the tasks.

    Raises:
        DataError: a task whose data have no fixed revision.
    """
    needed: dict[str, list[Any]] = {}
    for task in tasks:
        for leaf in parts_of_task(task):
            needed.setdefault(repository_key(leaf.metadata), []).append(leaf.metadata)
    found = []
    for users in needed.values():
        path, revision = users[0].dataset["path"], users[0].dataset.get("revision")
        if not revision or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
            raise DataError(
                f"{users[0].name}: {path}@{revision} is no repository at a fixed revision; "
                "it cannot be fetched"
            )
        names = tuple(dict.fromkeys(user.name for user in users))
        found.append(Snapshot(path, revision, names))
    return found


def download_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """All files of a repository, by the hub's own library, which goes on where it was cut."""
    Hub().download(snapshot.repo, snapshot.revision, folder)


def fetch(
    snapshots: Sequence[Snapshot],
    output: Path,
    *,
    download: Download = download_snapshot,
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Path:
    """Fill `output` and its map, entry by entry; what the map has already is left alone.

    Args:
        download: fills an empty or partly filled folder.
        on_progress: called when a snapshot is complete.

    Returns:
        The map.

    Raises:
        DataError: a download left nothing behind.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / MAP_NAME
    entries = dict(read_map(path).entries) if path.is_file() else {}
    for snapshot in snapshots:
        folder = output / snapshot.folder
        if snapshot.key not in entries or not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            download(snapshot, folder)
            if not any(folder.iterdir()):
                raise DataError(f"{snapshot.key}: nothing was downloaded to {folder}")
            entries[snapshot.key] = LocalData(
                folder=snapshot.folder, sha256=folder_sha256(folder), has=what_it_has(folder)
            )
            dumped = {key: entry.model_dump(mode="json") for key, entry in entries.items()}
            text = json.dumps(dumped, indent=2, sort_keys=True) + "\n"
            write_atomically(path, text.encode("ascii"))
        if on_progress:
            on_progress(snapshot)
    return path


def what_it_has(folder: Path) -> Any:
    """Pools and instructions among the configurations in a snapshot's README.

    With several subsets, `has` claims what every subset of queries has.
    """
    names = _configurations(folder / "README.md")
    prefixes = {name[: -len("queries")] for name in names if re.fullmatch(r"(.+-)?queries", name)}
    found = []
    for extra in ("top_ranked", "instruction"):
        having = {name[: -len(extra)] for name in names if re.fullmatch(rf"(.+-)?{extra}", name)}
        if having and having >= prefixes:
            found.append(extra)
    return tuple(found)


def _configurations(readme: Path) -> list[str]:
    if not readme.is_file():
        return []
    match = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8"), re.DOTALL)
    header = read_yaml(match.group(1), source=str(readme)) if match else None
    configs = header.get("configs") if isinstance(header, dict) else None
    return [
        str(entry["config_name"])
        for entry in configs or ()
        if isinstance(entry, dict) and "config_name" in entry
    ]
