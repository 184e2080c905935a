"""Folders `step-000123` of a stage, and model folders beside them: whole or not there.

A folder is written beside its final name, every file is flushed to disk, a manifest with the
checksum of each file is added, and then the folder is renamed. A crash leaves the whole folder, or
one that no reader looks at and the next run removes. What is inside is the business of `state`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mmembed.errors import CheckpointError
from mmembed.store.durable import dump_record, parse_record, sync_folder

__all__ = [
    "TRAINING_FOLDER",
    "TrainingState",
    "best_checkpoint",
    "checkpoint_folder",
    "checkpoints",
    "is_intact",
    "latest_checkpoint",
    "new_checkpoint",
    "publish_checkpoint",
    "read_manifest",
    "read_state",
    "remove_leftovers",
    "remove_older_checkpoints",
    "step_of",
]

logger = logging.getLogger(__name__)

TRAINING_FOLDER = "training"  # of a checkpoint: what only training needs
_MANIFEST_FILE = "manifest.json"
_STATE_FILE = "training_state.json"
_FORMAT = "mmembed checkpoint 1"
_STEP_FOLDER = re.compile(r"step-(\d{6,})")
_LEFTOVER = re.compile(r"\..*\.(tmp|old)-[0-9a-f]{8}|\.tmp-\d+-.*")  # here and in durable.py


@dataclass(frozen=True)
class TrainingState:
    """Where a stage stands. Randomness is a function of seeds and these numbers.

    Args:
        step: optimizer steps done.
        epoch, batch: the next global batch.
        fingerprint: of the settings; a checkpoint continues only the run it came from.
        sources: digests and revisions of what the settings name: model, prompt, data sets.
        score: of an evaluation at this step, higher is better.
    """

    step: int
    epoch: int
    batch: int
    fingerprint: str
    sources: dict[str, str] = field(default_factory=dict)
    score: float | None = None


@contextmanager
def new_checkpoint(folder: Path, state: TrainingState) -> Iterator[Path]:
    """Yield a path to make a folder at; with its state and manifest it becomes `folder`.

    Raises:
        OSError: the disk is full, ...; nothing is left, and an earlier `folder` is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        yield aside
        place = json.dumps(asdict(state), indent=2, sort_keys=True) + "\n"
        (aside / _STATE_FILE).write_text(place, encoding="utf-8")
        _commit(aside, folder, state)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{folder} could not be written ({error}). Nothing of it was left; the checkpoints "
            "before it are untouched. Make room, then run the same command again to go on"
        ) from error
    finally:
        if aside.exists():
            shutil.rmtree(aside)


def _commit(aside: Path, folder: Path, state: TrainingState) -> None:
    files = {}
    for path in sorted(path for path in aside.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(aside).as_posix()] = {
            "sha256": digest,
            "bytes": path.stat().st_size,
        }
    manifest = {"format": _FORMAT, "fingerprint": state.fingerprint, "files": files}
    _write(aside / _MANIFEST_FILE, dump_record(manifest) + b"\n")
    for path in (aside, *(path for path in aside.rglob("*") if path.is_dir())):
        sync_folder(path)
    _remove(folder)
    aside.rename(folder)
    sync_folder(folder.parent)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint after comparing every file with it.

    Raises:
        CheckpointError: naming the first file that is missing or differs.
    """
    try:
        content = (folder / _MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no readable {_MANIFEST_FILE} ({type(error).__name__}); "
            "it is not a complete checkpoint"
        ) from None
    manifest = parse_record(content.removesuffix(b"\n"))
    if manifest is None or manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{folder / _MANIFEST_FILE} is damaged or of another format")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} lacks {name}")
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from None
        if digest != expected["sha256"]:
            raise CheckpointError(f"{path} differs from its checksum; the file is damaged")
    return manifest


def is_intact(folder: Path) -> bool:
    """Whether every file is as it was written; says in a warning what is not."""
    try:
        read_manifest(folder)
    except CheckpointError as error:
        logger.warning("checkpoint passed over: %s", error)
        return False
    return True


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint of a stage folder; damaged ones are named and passed over."""
    return next(filter(is_intact, reversed(checkpoints(folder))), None)


def best_checkpoint(folder: Path) -> Path | None:
    """The intact checkpoint with the highest score; of equal ones the first. None without scores"""
    scored = []
    for path in checkpoints(folder):
        try:
            score = read_state(path).score
        except (OSError, ValueError, TypeError):  # damaged
            continue
        if score is not None:
            scored.append((-score, path))
    return next((path for _, path in sorted(scored) if is_intact(path)), None)


def publish_checkpoint(checkpoint: Path, model_folder: Path) -> Path:
    """Copy a checkpoint, e.g. the best one, as the model of its stage; all or nothing.

    Raises:
        CheckpointError: the checkpoint is damaged.
        OSError: the disk is full, ...; nothing is left under the final name.
    """
    read_manifest(checkpoint)
    with new_checkpoint(model_folder, read_state(checkpoint)) as aside:
        left_out = shutil.ignore_patterns(_MANIFEST_FILE, TRAINING_FOLDER)
        shutil.copytree(checkpoint, aside, ignore=left_out)
    return model_folder


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage folder in the order of their steps."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _STEP_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found)]


def remove_older_checkpoints(folder: Path, *, kept: int, every: int | None = None) -> None:
    """Keep the newest checkpoint, the newest `kept` regular ones and the best one.

    Called after a new one has been committed. Damaged ones do not count, and nothing is removed
    before `kept` others are known to be intact.

    Args:
        every: steps between regular checkpoints; others were written when a run was interrupted.
    """
    newest_first = checkpoints(folder)[::-1]
    keep: set[Path] = set()
    regular = 0
    for path in newest_first:
        counts = step_of(path) % (every or 1) == 0
        if (counts or not keep) and is_intact(path):
            keep.add(path)
            regular += counts
        if regular == kept:
            break
    else:
        return
    best = best_checkpoint(folder)
    for path in newest_first:
        if path not in keep and path != best:
            _remove(path)


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where a stage's checkpoint of a step is."""
    return folder / f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing; the caller holds the lock of the run."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_state(folder: Path) -> TrainingState:
    """The place in the data at which a checkpoint was written."""
    return TrainingState(**json.loads((folder / _STATE_FILE).read_text(encoding="utf-8")))


def _remove(folder: Path) -> None:
    """Out of the readers' sight at once, so that no half of it is taken for a checkpoint."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
        folder.rename(old)
        shutil.rmtree(old)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
