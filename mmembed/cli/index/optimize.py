"""`mmembed index optimize`: what makes search in a large index fast."""

from __future__ import annotations

from typing import Annotated

import typer

from mmembed.errors import ConfigError

__all__ = ["optimize"]


def optimize(
    index: Annotated[str, typer.Argument(help="The address given to `mmembed index --out`.")],
    min_recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Exact search stays where less is reached.")
    ] = 0.99,
    coarse: Annotated[
        str | None,
        typer.Option(
            help="Of a numpy: index: compare codes in memory first, e.g. int8, 256:int8 (the first "
            "256 dimensions), binary."
        ),
    ] = None,
) -> None:
    """Build or renew the approximate index of a large index, and free old space.

    The approximate index is compared with exact search on held-out queries and used only when it
    finds enough of the same neighbours. Searches go on meanwhile.

    \b
    Example:
      mmembed index optimize pictures.index
    """
    from mmembed.search.compressed import parse_coarse
    from mmembed.search.exact_index import ExactIndex
    from mmembed.search.opening import open_index

    target = open_index(index)
    if coarse is not None:
        if not isinstance(target, ExactIndex):
            raise ConfigError(
                "--coarse is for numpy: indexes; LanceDB makes its own codes, and Qdrant those "
                "that a new index's address asks for: qdrant://HOST:6333/NAME?quantization=int8"
            )
        target.settings["coarse"] = str(parse_coarse(coarse, target.dimension))
    report = target.optimize(min_recall=min_recall)
    target.close()
    recall = "" if report.recall is None else f", recall@10 {report.recall:.4f}"
    typer.echo(f"{report.method}{recall} ({report.reason}), {report.seconds:.1f} s")
