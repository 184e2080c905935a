"""The first layer of a run: tasks are read, every item is named, the data are written down.

Needs no model. `mmembed eval prepare` stops here, `run` goes on with what this gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.errors import DataError
from mmembed.evaluation.manifest import check_manifest, make_manifest, read_manifest
from mmembed.evaluation.plan import Plan, make_plan, media_files, sides
from mmembed.evaluation.scoring import check_task
from mmembed.evaluation.suites import OpenSuite, Selection, load_suite
from mmembed.progress import shown_progress
from mmembed.store.file_hashes import FileHashes
from mmembed.tasks import LoadedTask, Profile, TaskCard

__all__ = ["Prepared", "hashes_file", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Tasks that were read, and the plan to encode them."""

    suite: OpenSuite
    tasks: Mapping[str, tuple[TaskCard, LoadedTask]]
    plan: Plan
    manifest: Mapping[str, Any]


def prepare(
    suite: str | Path,
    data_root: Path | None = None,
    *,
    profile: Profile | str | None = None,
    selection: Selection | None = None,
    allow_missing: bool = False,
    manifest: Path | None = None,
    hashes: FileHashes | None = None,
    show_progress_bar: bool | None = None,
) -> Prepared:
    """Read the tasks of a suite and plan what is to be encoded.

    Args:
        profile: default: that of the suite.
        manifest: of an earlier call, or its folder; other data are refused.
        hashes: of files that were read before.

    Raises:
        ConfigError: an unknown suite, profile, task, modality or group.
        DataError: files are missing (the list of them), damaged, or not those of
            `manifest`.
    """
    expected = None if manifest is None else read_manifest(manifest)
    opened = load_suite(suite).open(data_root, profile).select(selection or Selection())
    digest = hashes or FileHashes()
    count = len(opened.cards)
    with shown_progress(show_progress_bar, "reading tasks", count, "tasks") as advance:
        tasks = opened.load_all(allow_missing=allow_missing, on_progress=advance)
    _check_not_empty(tasks)
    for card, loaded in tasks.values():
        check_task(card, loaded.task)
    listed = [media_files(loaded.task).values() for _, loaded in tasks.values()]
    files = sorted({path for kinds in listed for paths in kinds for path in paths})
    with shown_progress(show_progress_bar, "hashing media", len(files), "files") as advance:
        digest.read_all(files, on_progress=advance)
    with shown_progress(show_progress_bar, "naming items", count, "tasks") as advance:
        plan = make_plan(tasks, digest=digest, on_progress=advance)
    found = make_manifest(opened, tasks, plan, digest)
    if expected is not None:
        check_manifest(expected, found)
    return Prepared(opened, tasks, plan, found)


def hashes_file() -> Path | None:
    """The database of hashes of files in the user's cache folder; None without a home."""
    from mmembed.encoder.calibration import memory_file

    beside = memory_file()
    return None if beside is None else beside.with_name("file_hashes.sqlite")


def _check_not_empty(tasks: Mapping[str, tuple[TaskCard, LoadedTask]]) -> None:
    empty = [
        name
        for name, (_, loaded) in tasks.items()
        if loaded.missing and not all(items for _, _, _, items in sides(loaded.task))
    ]
    if empty:
        raise DataError(
            f"nothing is left of {', '.join(empty)} without the files that are missing; fetch "
            "them, or name the other tasks with --only, --modality or --group",
            missing=tuple(dict.fromkeys(file for name in empty for file in tasks[name][1].missing)),
        )
