"""Whether a file can hold what its name says; asked before it is parsed."""

from __future__ import annotations

from pathlib import Path

from mmembed.errors import DataError

__all__ = ["check_content", "damaged"]

_POINTER = b"version https://git-lfs"


def check_content(file: Path) -> None:
    """Raises DataError for a file that cannot be read, or only points to its content."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_POINTER))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if start == _POINTER:
        raise DataError(
            f"{file}: damaged, or not a table: it only points to its content in Git LFS. Run "
            "`git lfs pull` there, or download it with `hf download`."
        )


def damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file}: damaged, or not a table ({type(error).__name__}: {str(error)[:200]})"
    )
