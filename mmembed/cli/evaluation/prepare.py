"""`mmembed eval prepare`: are all data there, and what is to be encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import printable, say
from mmembed.cli.evaluation.options import (
    AllowMissing,
    DataRoot,
    Groups,
    Modalities,
    Only,
    ProfileName,
    SuiteName,
    selection,
)
from mmembed.errors import DataError

__all__ = ["prepare"]


def prepare(
    suite: SuiteName,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for manifest.json; `run --plan` takes it.")
    ],
    data_root: DataRoot = None,
    profile: ProfileName = None,
    only: Only = None,
    modality: Modalities = None,
    group: Groups = None,
    allow_missing: AllowMissing = False,
) -> None:
    """Read the data of a suite, check counts, hash files, list what is missing. Needs no model.

    Writes OUT/manifest.json: every file with bytes and sha256, the counts of each task and the
    hash of the plan. When files are missing, OUT/missing.txt has all of them and the exit code
    is 2.

    \b
    Examples:
      mmembed eval prepare --suite mmeb-v2 --data-root MMEB-V2 --out plan
      mmembed eval prepare -s mmeb-v2 --data-root MMEB-V2 -o plan --modality visdoc
    """
    from mmembed.evaluation import preparation
    from mmembed.evaluation.manifest import write_manifest
    from mmembed.store.durable import write_atomically
    from mmembed.store.file_hashes import FileHashes

    out.mkdir(parents=True, exist_ok=True)
    lists_missing = out / "missing.txt"
    lists_missing.unlink(missing_ok=True)
    try:
        with FileHashes(preparation.hashes_file()) as hashes:
            prepared = preparation.prepare(
                suite,
                data_root,
                profile=profile,
                selection=selection(only, modality, group),
                allow_missing=allow_missing,
                hashes=hashes,
            )
    except DataError as error:
        if error.missing:
            listed = "".join(f"{name}\n" for name in error.missing)
            write_atomically(lists_missing, listed.encode("utf-8", "surrogateescape"))
            say(f"all of them: {lists_missing}")
        raise
    path = write_manifest(out, prepared.manifest)
    width = max(map(len, prepared.tasks))
    for name, counts in prepared.manifest["tasks"].items():
        shown = ", ".join(
            f"{count:,} {kind}" for kind, count in counts.items() if isinstance(count, int)
        )
        lost = f", {len(counts['missing']):,} MISSING" if counts["missing"] else ""
        typer.echo(f"{printable(name):{width}}  {shown}{lost}")
    asked, distinct = prepared.plan.asked, len(prepared.plan.items)
    typer.echo(f"{asked:,} items asked, {distinct:,} distinct; wrote {path}")
