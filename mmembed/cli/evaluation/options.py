"""Options that several commands of `mmembed eval` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmembed.evaluation.suites import Selection

__all__ = [
    "AllowMissing",
    "DataRoot",
    "Groups",
    "Modalities",
    "Only",
    "ProfileName",
    "SuiteName",
    "selection",
]

SuiteName = Annotated[
    str, typer.Option("--suite", "-s", help="A bundled suite (`mmembed eval suites`) or a file.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the downloaded data, where the suite needs one.")
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile", help="How items are worded: a name or a JSON file; default: the suite's."
    ),
]
Only = Annotated[list[str] | None, typer.Option("--only", help="Only this task; repeatable.")]
Modalities = Annotated[
    list[str] | None, typer.Option("--modality", help="Only tasks of this modality; repeatable.")
]
Groups = Annotated[
    list[str] | None, typer.Option("--group", help="Only tasks of this group; repeatable.")
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Drop queries and documents whose files are missing; such scores are partial.",
    ),
]


def selection(
    only: list[str] | None, modality: list[str] | None, group: list[str] | None
) -> Selection:
    from mmembed.evaluation.suites import Selection

    return Selection(
        only=tuple(only or ()), modality=tuple(modality or ()), group=tuple(group or ())
    )
