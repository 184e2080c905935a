"""From what a user names to rows: a file, a published data set, an adapter, a recipe or a mixture.

Every command over data (`mmembed data ...`, `mine`, `filter`, `synthesize`) begins here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.data.adapter import DatasetAdapter
from mmembed.datasets import DatasetCard

__all__ = ["OpenedDataset", "open_datasets"]


@dataclass(frozen=True)
class OpenedDataset:
    """Rows under a name.

    Attributes:
        reference, arguments: what a recipe would write under `adapter` and `arguments`.
        card: None for what no catalogue knows.
    """

    name: str
    adapter: DatasetAdapter
    reference: str
    arguments: Mapping[str, Any]
    card: DatasetCard | None = None


def open_datasets(
    target: str | Path,
    *,
    root: Path = Path("data"),
    format: str | None = None,
    arguments: Sequence[str] = (),
) -> list[OpenedDataset]:
    """Open what `target` names.

    Args:
        target: a file of rows (its format is found by its columns), the name of a published data
            set (its files lie under `root`), `package.module:Name`, or a recipe or mixture in YAML
            (all its entries, each once).
        format: of a file, a name of `configs/datasets.yaml`; None = found out.
        arguments: `key=value` of the adapter; values are YAML.

    Raises:
        ConfigError: nothing of that name; the message says what was looked for.
        DataError: its files are not there or damaged.
    """
