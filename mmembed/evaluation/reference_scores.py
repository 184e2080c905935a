"""Published numbers as data, and a run beside them.

`configs/evaluation/references/*.json` hold rows of tables, in per cent, each with its source. Where
data sets of a benchmark exist in two versions (page sets), a row says which one it is of; a number
of one version is never set against a run over the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from mmembed.config.files import list_configs
from mmembed.config.validation import StrictModel, did_you_mean, validate
from mmembed.errors import ConfigError
from mmembed.evaluation.aggregation import Mean
from mmembed.tasks import TaskCard

__all__ = [
    "MATCH",
    "NOISE_OF_DATA_SET",
    "NOISE_OF_MODALITY",
    "Delta",
    "ReferenceRow",
    "References",
    "compare_with",
    "list_references",
    "load_references",
    "matches",
    "page_sets",
]

# Points; under them a difference may come from how batches were put together alone.
NOISE_OF_DATA_SET = 0.3  # and of a group, which is a few of them
NOISE_OF_MODALITY = 0.1  # of a mean over many: modality, split, everything
MATCH = 0.5  # "matches a row": every modality mean lies this near
_FOLDER = "evaluation/references"
_OTHER_SIZE = "not compared: published over"


class ReferenceRow(StrictModel):
    """One row of a published table, in per cent.

    Attributes:
        source: where it is printed.
        page_set: version of the data sets that have several.
        groups, modalities, splits, tasks: by the names of cards; `overall` over all data sets.
        benchmarks: of mteb: name -> `mean_task`, `mean_type`.
    """

    model: str
    source: str
    page_set: str | None = None
    note: str = ""
    overall: float | None = None
    modalities: dict[str, float] = Field(default_factory=dict)
    groups: dict[str, float] = Field(default_factory=dict)
    splits: dict[str, float] = Field(default_factory=dict)
    tasks: dict[str, float] = Field(default_factory=dict)
    benchmarks: dict[str, dict[str, float]] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.model if self.page_set is None else f"{self.model} ({self.page_set} page sets)"


class References(StrictModel):
    """A file of rows.

    Attributes:
        page_sets: version -> repositories that hold it.
        sizes: how many data sets a published mean is over, by its name (`all`: everything).
    """

    benchmark: str
    unit: Literal["percent"]
    rows: tuple[ReferenceRow, ...]
    note: str = ""
    page_sets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    sizes: dict[str, int] = Field(default_factory=dict)

    def page_set(self, card: TaskCard) -> str | None:
        """Which version of its data set a card is of; None where there is one only."""
        repository = card.source.split(" / ")[0]
        return next((name for name, held in self.page_sets.items() if repository in held), None)


@dataclass(frozen=True)
class Delta:
    """A cell of a row beside the run, in per cent.

    Attributes:
        level: `task`, or that of a mean.
        found: the run's value; None: not known, or not complete.
        refusal: why there is no difference although both sides have a number.
    """

    row: ReferenceRow
    level: str
    name: str
    found: float | None
    published: float
    refusal: str = ""

    @property
    def difference(self) -> float | None:
        if self.found is None or self.refusal:
            return None
        return self.found - self.published

    @property
    def verdict(self) -> str:
        if self.refusal:
            return self.refusal
        if self.difference is None:
            return "no complete result"
        bound = NOISE_OF_DATA_SET if self.level in ("task", "group") else NOISE_OF_MODALITY
        if abs(self.difference) < bound - 1e-9:
            return "within noise"
        return "above" if self.difference > 0 else "below"


def list_references() -> dict[str, Path]:
    """Name -> bundled file."""
    return list_configs(_FOLDER, suffix=".json")


def load_references(file_and_row: str) -> tuple[References, tuple[ReferenceRow, ...]]:
    """`FILE` or `FILE:ROW`; the file is a path or a bundled name, the row the name of a model.

    Raises:
        ConfigError: no such file or row, or not a file of references.
    """
    path, row = _path(file_and_row)
    try:
        fields = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds no JSON object")
    references = validate(References, fields, where=str(path))
    if row is None:
        return references, references.rows
    chosen = tuple(each for each in references.rows if each.model == row)
    if not chosen:
        names = list(dict.fromkeys(each.model for each in references.rows))
        raise ConfigError(
            f"{path.name} has no row {row!r}{did_you_mean(row, names)}; it has {', '.join(names)}"
        )
    return references, chosen


def _path(file_and_row: str) -> tuple[Path, str | None]:
    """A colon may also be part of a path or of a row: the longest file wins."""
    known = list_references()
    parts = file_and_row.split(":")
    for end in range(len(parts), 0, -1):
        name, row = ":".join(parts[:end]), ":".join(parts[end:])
        path = Path(name).expanduser()
        if not path.is_file():
            path = known.get(name.removesuffix(".json"), path)
        if path.is_file():
            return path, row if end < len(parts) else None
    raise ConfigError(
        f"no file of references {file_and_row!r}; give a path or one of: {', '.join(known)}, with "
        ":ROW behind it for one row"
    )


def page_sets(references: References, expected: Sequence[TaskCard]) -> tuple[str, ...]:
    """The versions that a suite is over: none where it has no such data set."""
    found = [name for card in expected if (name := references.page_set(card)) is not None]
    return tuple(dict.fromkeys(found))


def compare_with(
    references: References,
    rows: Sequence[ReferenceRow],
    found: Sequence[Mean],
    values: dict[str, float],
    expected: Sequence[TaskCard],
) -> tuple[Delta, ...]:
    """Every published cell that the suite has too, beside the run.

    Args:
        found: strict means of the run; `values` its data sets, shares both.

    Raises:
        ConfigError: no cell of any row can be set against the run; says why.
    """
    versions = {card.name: references.page_set(card) for card in expected}
    deltas = []
    for row in rows:
        cells: list[tuple[str, str, tuple[str, ...], float | None]] = [
            ("task", name, (name,), values.get(name)) for name in versions
        ]
        cells += [(each.level, each.name, each.members, each.value) for each in found]
        for level, name, members, value in cells:
            published = _published(row, level, name)
            if published is None:
                continue
            refusal = _refusal(references, row, name, [versions[member] for member in members])
            percent = None if value is None else 100 * value
            deltas.append(Delta(row, level, name, percent, published, refusal))
    if not any(delta.difference is not None for delta in deltas):
        named = (
            rows[0].title if len(rows) == 1 else f"the {len(rows)} rows of {references.benchmark}"
        )
        raise ConfigError(
            f"nothing of {named} can be set against this run: {_why(references, deltas)}"
        )
    return tuple(deltas)


def matches(deltas: Sequence[Delta]) -> bool | None:
    """Whether every modality mean of one row is within `MATCH`; None if one cannot be compared."""
    differences = [each.difference for each in deltas if each.level == "modality"]
    if not differences or None in differences:
        return None
    return all(abs(each) <= MATCH + 1e-9 for each in differences if each is not None)


def _refusal(
    references: References, row: ReferenceRow, name: str, members: Sequence[str | None]
) -> str:
    """Why a published number and the run's are not of the same test; empty if they are."""
    size = references.sizes.get(name, len(members))
    if size != len(members):
        return f"{_OTHER_SIZE} {size} data sets, the suite has {len(members)}"
    other = sorted({each for each in members if each is not None and each != row.page_set})
    return f"not compared: the run is over {other[0]} page sets" if other else ""


def _published(row: ReferenceRow, level: str, name: str) -> float | None:
    if level == "overall":
        return row.overall
    tables = {
        "task": row.tasks,
        "group": row.groups,
        "modality": row.modalities,
        "split": row.splits,
    }
    return tables[level].get(name)


def _why(references: References, deltas: Sequence[Delta]) -> str:
    """One reason, the most general: other data sets, other page sets, or no complete result."""
    if not deltas:
        return "they have no data set or mean in common"
    other_size = [delta.refusal for delta in deltas if delta.refusal.startswith(_OTHER_SIZE)]
    if len(other_size) == len(deltas):
        largest = next((d.refusal for d in deltas if d.level == "overall"), other_size[0])
        return f"it is over other data sets ({largest.removeprefix('not compared: ')})"
    reasons = dict.fromkeys(delta.verdict for delta in deltas)
    pages = f"; rows by page set: {_by_page_set(references)}" if references.page_sets else ""
    return "; ".join(reasons) + pages


def _by_page_set(references: References) -> str:
    named: dict[str, list[str]] = {}
    for row in references.rows:
        named.setdefault(row.page_set or "any", []).append(row.model)
    return "; ".join(f"{name}: {', '.join(models)}" for name, models in named.items())
