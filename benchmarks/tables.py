"""Markdown tables from records, for the README: made, never typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.measurement import MEASURES

__all__ = ["markdown"]

_FACTS = {  # key in a run or in the facts of a side -> (column, format)
    "max_1_minus_cos": ("largest 1 - cos", "{:.1e}"),
    "grey_levels": ("mean difference, of 255", "{:.2f}"),
    "loss": ("loss", "{:.5f}"),
    "p50_ms": ("p50, ms", "{:.1f}"),
    "p95_ms": ("p95, ms", "{:.1f}"),
    "recall_at_10": ("recall@10", "{:.3f}"),
    "disk_mb": ("disk, MB", "{:,.0f}"),
    "mfu": ("MFU", "{:.1%}"),
    "mfu_with_recompute": ("MFU with recompute", "{:.1%}"),
}


def markdown(record: Mapping[str, Any]) -> str:
    """A heading and a table: medians over the rounds, and ratios within a round.

    Raises:
        ValueError: a record of an earlier layout.
    """
    results = record["results"] if "settings" in record else []
    if not results:
        raise ValueError(
            f"the record of {record['date']} ({record['suite']}) has an earlier layout; run the "
            "suite again"
        )
    compared = any(result["ratios"] for result in results)
    on_gpu = any(_runs(result)[0].get("gpu_peak_mib") is not None for result in results)
    measures = [name for name in MEASURES if on_gpu or name != "GPU memory"]
    facts = [key for key in _FACTS if any(_fact(r, s, key) for r in results for s in r["sides"])]
    columns = ["work", "side", "speed", "memory, MiB"]
    columns += ["GPU memory, MiB"] * on_gpu
    if compared:
        columns += [f"{name} / first" for name in measures]
    columns += [_FACTS[key][0] for key in facts]
    lines = [_heading(record), "", _row(columns), "|" + "---|" * len(columns)]
    for result in results:
        for side, runs in result["sides"].items():
            cells = [
                result["case"],
                side,
                f"{result['count'] / _middle(runs, 'seconds'):.3g} {result['unit']}/s",
                f"{_middle(runs, 'peak_mib'):,.0f}",
            ]
            cells += [f"{_middle(runs, 'gpu_peak_mib'):,.0f}"] * on_gpu
            if compared:
                cells += [_ratio(result["ratios"].get(side, {}).get(name)) for name in measures]
            cells += [_fact(result, side, key) for key in facts]
            lines.append(_row(cells))
    return "\n".join([*lines, *(f"\n{note}" for note in record.get("notes", ()))])


def _heading(record: Mapping[str, Any]) -> str:
    settings, first = record["settings"], record["results"][0]
    parts = [f"Suite {record['suite']}"]
    if "parameters" in first:
        parts.append(f"{first['parameters'] / 1e6:.1f}M parameters")
        parts.append(f"{settings['dtype']} on {settings['device']}")
    cores = settings["threads"] or record["machine"]["cores"]
    parts += [
        f"{cores} core{'s' * (cores > 1)}",
        f"{len(_runs(first))} round{'s' * (len(_runs(first)) > 1)}",
        f"{record['date'][:10]}, commit {record['commit']}",
    ]
    return "; ".join(parts) + ". Ratios: median (least to greatest)."


def _runs(result: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    runs: Sequence[Mapping[str, Any]] = next(iter(result["sides"].values()))
    return runs


def _middle(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return median(run.get(name) or 0.0 for run in runs)


def _ratio(found: Sequence[float] | None) -> str:
    return "" if found is None else "{:.2f} ({:.2f} to {:.2f})".format(*found)


def _fact(result: Mapping[str, Any], side: str, key: str) -> str:
    value = {**result["sides"][side][0], **result["facts"].get(side, {})}.get(key)
    return "" if value is None else _FACTS[key][1].format(value)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
