"""What data a suite found: files with their hashes, counts of each task, the hash of the plan.

`mmembed eval prepare` writes it before any model is needed; `run --plan` refuses other data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmembed.errors import DataError
from mmembed.evaluation.plan import Plan, media_files
from mmembed.evaluation.profiles import dump_profile, profile_sha256
from mmembed.evaluation.suites import OpenSuite
from mmembed.store.content import Digest
from mmembed.store.durable import write_atomically
from mmembed.tasks import LoadedTask, RetrievalTask, TaskCard

__all__ = ["check_manifest", "make_manifest", "read_manifest", "write_manifest"]

_FORMAT = "mmembed-manifest/1"
_NAME = "manifest.json"


def make_manifest(
    suite: OpenSuite,
    tasks: Mapping[str, tuple[TaskCard, LoadedTask]],
    plan: Plan,
    digest: Digest,
) -> dict[str, Any]:
    """The manifest of tasks that were read (EV-3).

    Paths are relative to the data root where they are under it. Media are counted here; their
    content is in the hash of the plan.
    """
    paths = sorted({path for _, loaded in tasks.values() for path in loaded.files})
    return {
        "format": _FORMAT,
        "suite": suite.suite.name,
        "profile": {**dump_profile(suite.profile), "sha256": profile_sha256(suite.profile)},
        "plan": {
            "sha256": plan.sha256,
            "asked": plan.asked,
            "distinct": len(plan.items),
        },
        "files": [
            {
                "path": _relative(path, suite.root),
                "bytes": path.stat().st_size,
                "sha256": digest(path),
            }
            for path in paths
        ],
        "tasks": {
            name: {**_counts(card, loaded), "sha256": plan.tasks[name]}
            for name, (card, loaded) in tasks.items()
        },
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Write `manifest.json`; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    payload = json.dumps(manifest, sort_keys=True, indent=2) + "\n"
    write_atomically(path, payload.encode("ascii"))
    return path


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises:
        DataError: missing, damaged or of another format.
    """
    path = folder / _NAME if folder.is_dir() else folder
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing; make it with `mmembed eval prepare --out {folder}`"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise DataError(f"{path} is no manifest of this version ({_FORMAT})")
    return manifest


def check_manifest(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse data that are not those of a manifest; fewer tasks than it has are fine.

    Raises:
        DataError: naming what differs: suite, profile, files, tasks.
    """
    problems = []
    if expected["suite"] != found["suite"]:
        problems.append(f"suite {found['suite']} instead of {expected['suite']}")
    if expected["profile"]["sha256"] != found["profile"]["sha256"]:
        names = f"{found['profile']['name']} instead of {expected['profile']['name']}"
        problems.append(f"another profile ({names})")
    before = {entry["path"]: entry["sha256"] for entry in expected["files"]}
    for entry in found["files"]:
        known = before.get(entry["path"])
        if known != entry["sha256"]:
            problems.append(f"{entry['path']} {'is new' if known is None else 'has changed'}")
    for name, task in found["tasks"].items():
        planned = expected["tasks"].get(name)
        if planned is None:
            problems.append(f"task {name} was not prepared")
        elif planned["sha256"] != task["sha256"]:
            differing = [key for key in task if key != "sha256" and planned.get(key) != task[key]]
            what = ", ".join(f"{key} {planned.get(key)} -> {task[key]}" for key in differing)
            problems.append(f"task {name} has changed ({what or 'contents of items'})")
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:20])
        raise DataError(
            f"these are not the data that were prepared; restore them, or prepare again:{shown}"
        )


def _counts(card: TaskCard, loaded: LoadedTask) -> dict[str, Any]:
    task = loaded.task
    if isinstance(task, RetrievalTask):
        counts = {"queries": len(task.queries), "candidates": len(task.corpus)}
    else:
        counts = {"pairs": len(task.pairs)}
    return {
        **counts,
        **{f"{kind}s": len(paths) for kind, paths in sorted(media_files(task).items())},
        "missing": sorted(loaded.missing),
        "modality": card.modality,
        "group": card.group,
        "source": card.source,
        "revision": card.revision,
        "license": card.license,
    }


def _relative(path: Path, root: Path | None) -> str:
    if root is not None and path.is_relative_to(root):  # where it stands, not where it links to
        return path.relative_to(root).as_posix()
    return path.as_posix()
