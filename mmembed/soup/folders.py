"""New folders, all or nothing: written aside, flushed to disk, then renamed into place."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmembed.encoder.checkpoint import DESCRIPTION_FILE
from mmembed.errors import CheckpointError, ConfigError

__all__ = ["CARD_FILE", "aside_of", "copy_side_files", "new_folder", "refuse_folders"]

CARD_FILE = "soup.json"
# Of one training run or of one member; the soup is not a point of any run.
_LEFT_OUT = {"manifest.json", "training_state.json", "training", "adapter", "README.md", CARD_FILE}


def refuse_folders(folders: list[Path], output: Path) -> None:
    """Say before any work is done which input is no folder and why `output` cannot be written.

    Raises:
        CheckpointError, ConfigError.
    """
    for folder in folders:
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a model folder")
        if output.resolve() == folder.resolve():
            raise ConfigError(f"output {output} is one of the members; choose another folder")
    known = any((output / name).is_file() for name in (DESCRIPTION_FILE, CARD_FILE))
    if output.exists() and not known:
        raise CheckpointError(f"{output} exists and is not a model folder; choose another")


def aside_of(output: Path) -> Path:
    """A free hidden name beside `output`, on the same disk."""
    return output.with_name(f".{output.name}.tmp-{uuid.uuid4().hex[:8]}")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a path to make a folder at; it becomes `output` when the block ends without error.

    Otherwise, Ctrl-C included, it is removed and an earlier `output` stays as it was.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(output)
    try:
        yield aside
        for path in aside.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _replace(aside, output)
    finally:
        if aside.exists():
            shutil.rmtree(aside)


def copy_side_files(source: Path, target: Path) -> None:
    """Copy what is neither weights nor a record of the run that made them."""
    shutil.copytree(
        source,
        target,
        ignore=lambda _, names: [
            name for name in names if name in _LEFT_OUT or name.endswith(".safetensors")
        ],
    )


def _replace(aside: Path, output: Path) -> None:
    if not output.exists():
        aside.rename(output)
        return
    old = aside_of(output)
    output.rename(old)
    try:
        aside.rename(output)
    except BaseException:
        old.rename(output)
        raise
    shutil.rmtree(old)
