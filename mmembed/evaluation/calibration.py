"""What a nano suite's numbers are worth: subsets of runs against full runs of the same models.

A subset is another, easier task: its distractors are fewer. Only runs of both kinds say how far
its numbers are off and whether it ranks models as the whole does. Without that, it is
`uncalibrated`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.aggregation import complete_values, means
from mmembed.evaluation.results import RunResults

__all__ = ["MIN_MODELS", "calibrate", "read_calibration"]

MIN_MODELS = 3
_FORMAT = "mmembed-calibration/1"


def calibrate(pairs: Sequence[tuple[RunResults, RunResults]]) -> dict[str, Any]:
    """Compare (nano, full) runs of several models.

    Returns:
        For every mean that all runs have, over the same tasks: `bias` (mean of full - nano),
        `spread` (standard deviation of that difference), `correlation` (Pearson) and
        `rank_agreement` (share of pairs of models that both order alike, ties counting half).

    Raises:
        DataError: too few models, or two runs that cannot be compared.
    """
    for nano, full in pairs:
        _check_pair(nano, full)
    spaces = {nano.record["space"] for nano, _ in pairs}
    if len(spaces) < MIN_MODELS:
        raise DataError(
            f"{len(spaces)} distinct models; a calibration needs at least {MIN_MODELS}, each with "
            "a nano and a full run"
        )
    kinds = {json.dumps([n.record["suite"], n.record["subset"]]) for n, _ in pairs}
    if len(kinds) > 1:
        raise DataError(f"the nano runs are of different subsets: {sorted(kinds)}")
    values: dict[str, list[tuple[float, float]]] = {}
    for nano, full in pairs:
        found = [_aggregates(nano, nano), _aggregates(full, nano)]
        for name in found[0].keys() & found[1].keys():
            values.setdefault(name, []).append((found[0][name], found[1][name]))
    return {
        "format": _FORMAT,
        "suite": pairs[0][0].record["suite"],
        "subset": pairs[0][0].record["subset"],
        "models": [
            {"model": nano.record["model"], "space": nano.record["space"]} for nano, _ in pairs
        ],
        "aggregates": {
            name: _agreement(np.array(both))
            for name, both in sorted(values.items())
            if len(both) == len(pairs)
        },
    }


def read_calibration(path: Path) -> dict[str, Any]:
    """What `mmembed eval calibrate` wrote.

    Raises:
        DataError: missing, damaged or of another format.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"the calibration {path} of the suite is missing") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise DataError(f"{path} is no calibration of this version ({_FORMAT})")
    return found


def _check_pair(nano: RunResults, full: RunResults) -> None:
    for run in (nano, full):
        if not run.record:
            raise DataError(f"{run.folder} has no run.json; run it again")
    if nano.record["subset"] is None or full.record["subset"] is not None:
        raise DataError(
            f"give a nano run and then a full run; {nano.folder} has subset "
            f"{nano.record['subset']}, {full.folder} {full.record['subset']}"
        )
    if nano.record["space"] != full.record["space"]:
        raise DataError(f"{nano.folder} and {full.folder} are of different models")
    if nano.record["profile"]["sha256"] != full.record["profile"]["sha256"]:
        raise DataError(f"{nano.folder} and {full.folder} are of different profiles")
    lacking = sorted(nano.tasks.keys() - full.tasks.keys())
    if lacking:
        raise DataError(f"{full.folder} lacks {', '.join(lacking)} of {nano.folder}")


def _aggregates(run: RunResults, nano: RunResults) -> dict[str, float]:
    """Means over the tasks of the nano run, by `level modality/name`."""
    cards = [result.card for result in nano.tasks.values()]
    values = {
        name: value for name, value in complete_values(run.tasks).items() if name in nano.tasks
    }
    return {
        f"{mean.level} {mean.modality}/{mean.name}": mean.value
        for mean in means(values, cards)
        if mean.value is not None
    }


def _agreement(both: np.ndarray) -> Mapping[str, float | None]:
    """(models, 2) of nano and full."""
    nano, full = both.T
    off = full - nano
    alike = [
        0.5 + 0.5 * np.sign(nano[a] - nano[b]) * np.sign(full[a] - full[b])
        for a, b in combinations(range(len(both)), 2)
    ]
    varies = bool(np.ptp(nano) > 0 and np.ptp(full) > 0)
    return {
        "bias": float(off.mean()),
        "spread": float(off.std(ddof=1)),
        "correlation": float(np.corrcoef(nano, full)[0, 1]) if varies else None,
        "rank_agreement": float(np.mean(alike)),
    }
