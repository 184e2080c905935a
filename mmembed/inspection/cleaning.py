"""Writes the rows of a check that nothing is wrong with, in our own format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmembed.data.row_files import RowWriter
from mmembed.errors import ConfigError
from mmembed.inspection.check import CheckReport
from mmembed.progress import shown_progress

__all__ = ["refuse_existing", "write_rows"]

_PARTIAL = "partial-"


def refuse_existing(path: Path) -> None:
    """Before the work of a check: `write_rows` replaces nothing.

    Raises:
        ConfigError: the file is there, or is not named as one of JSON lines.
    """
    if path.suffix != ".jsonl":
        raise ConfigError(
            f"{path}: rows are written as JSON lines; give a name that ends in .jsonl"
        )
    if path.exists():
        raise ConfigError(f"{path} is there already; delete it, or give another name")


def write_rows(
    report: CheckReport, path: Path, dropped: np.ndarray, *, show_progress_bar: bool | None = None
) -> int:
    """Write all rows but those `dropped`, a bool for each row of the report; how many were written.

    What cannot be read is left out too. The file appears when it is whole.

    Raises:
        ConfigError: see `refuse_existing`, or the check has not seen all rows.
    """
    refuse_existing(path)
    if not report.is_whole:
        raise ConfigError(
            f"{report.num_checked:,} of {len(report.rows):,} rows were checked; rows are written "
            "after a check of all of them (--all)"
        )
    partial = path.with_name(_PARTIAL + path.name)
    partial.unlink(missing_ok=True)
    kept = np.flatnonzero(~(dropped | report.findings.unreadable))
    with (
        RowWriter(partial) as writer,
        shown_progress(show_progress_bar, "writing", len(kept), "rows") as advance,
    ):
        for row in map(int, kept):
            number, index = report.rows.locate(row)
            meta = getattr(report.rows.datasets[number].adapter, "meta", None)
            writer.write(report.rows.example(row), **(meta(index) if meta else {}))
            advance(1)
    partial.replace(path)
    return len(kept)
