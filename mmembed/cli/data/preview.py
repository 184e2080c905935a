"""`mmembed data preview`: rows as people see them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import say
from mmembed.cli.data.options import Arguments, Format, Root, Target, check_output, opened

__all__ = ["preview"]


def preview(
    target: Target,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to show, of all data sets.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the rows that are drawn.")] = 0,
    prompt: Annotated[
        str | None,
        typer.Option(help="Also show the exact prompts of this template, such as plain."),
    ] = None,
    root: Root = Path("data"),
    format: Format = None,
    arguments: Arguments = None,
) -> None:
    """Write rows as one HTML file: pictures, texts, negatives, ids, scores, and histograms.

    Rows are drawn at random, the same for the same seed; those with the longest and the shortest
    texts come after them. A recipe or a mixture shows every data set in it.

    \b
    Examples:
      mmembed data preview rows.jsonl --out preview.html
      mmembed data preview my_mixture.yaml --out preview.html --rows 100 --prompt plain
    """
    from mmembed.inputs.prompt import load_template
    from mmembed.inspection.preview import write_preview

    check_output(out, "--out", ".html", ".htm")
    template = None if prompt is None else load_template(prompt)
    datasets = opened(target, root=root, format=format, arguments=arguments)
    write_preview(
        out, datasets, title=f"Preview of {target}", num_rows=rows, seed=seed, template=template
    )
    say(f"wrote {out}")
