"""`mmembed index info`: what is in an index."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mmembed.cli.console import printable

__all__ = ["info"]


def info(
    index: Annotated[str, typer.Argument(help="The address given to `mmembed index --out`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an index holds, which model made it and how it is searched.

    \b
    Example:
      mmembed index info pictures.index --json
    """
    from mmembed.search.error_list import local_folder, read_errors
    from mmembed.search.opening import open_index

    source = open_index(index)
    stats = source.stats()
    own = local_folder(source.uri)
    found: dict[str, Any] = {
        "uri": source.uri,
        "model": source.settings.get("model"),
        "fingerprint": source.fingerprint,
        "dimension": source.dimension,
        "rows": stats.rows,
        "rows_by_kind": dict(sorted(stats.rows_by_kind.items())),
        "folders": source.settings.get("folders", []),
        "segmentation": source.settings.get("segmentation"),
        "method": stats.method,
        "unindexed_rows": stats.unindexed_rows,
        "bytes_on_disk": stats.bytes_on_disk,
        "failures": len(read_errors(own / "errors.jsonl")) if own else None,
    }
    source.close()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["rows_by_kind"].items())
    lines = {
        "index": found["uri"],
        "model": found["model"] or "not said",
        "space": f"{found['dimension']} dimensions, fingerprint {found['fingerprint'][:12]}",
        "rows": f"{stats.rows:,}" + (f" ({kinds})" if kinds else ""),
        "folders": ", ".join(found["folders"]) or "not said",
        "search": stats.method
        + (f", {stats.unindexed_rows:,} rows beside it" if stats.unindexed_rows else ""),
    }
    if stats.bytes_on_disk is not None:
        lines["on disk"] = f"{stats.bytes_on_disk / 1e6:,.1f} MB"
    if found["failures"]:
        lines["failures"] = f"{found['failures']:,}, listed in errors.jsonl"
    for name, value in lines.items():
        typer.echo(f"{name:9} {printable(str(value))}")
