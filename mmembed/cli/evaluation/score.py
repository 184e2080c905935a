"""`mmembed eval score`: metrics of vectors that any program wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli.console import printable, say
from mmembed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mmembed.evaluation.results import TaskResult, TiePolicy
    from mmembed.tasks import TaskCard

__all__ = ["score"]

_SHOWN = ("hit@1", "recall@10", "mrr@10", "ndcg_linear@5")
_POINT = 0.01  # of a metric


def score(
    folder: Annotated[Path, typer.Option("--dir", help="Folder with the three files of each set.")],
    ties: Annotated[
        str,
        typer.Option(help="Of equal scores first: pessimistic (not relevant), official, docid."),
    ] = "pessimistic",
    suite: Annotated[
        str | None,
        typer.Option(
            help="Suite that the data sets are of, such as mmeb-v2: their cards are used."
        ),
    ] = None,
    main_metric: Annotated[
        str, typer.Option(help="Without --suite: hit@1 (images, video), ndcg_linear@5 (pages).")
    ] = "hit@1",
    modality: Annotated[
        str, typer.Option(help="Without --suite: image, video, visdoc or text.")
    ] = "image",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write NAME_score.json here, and what `mmembed eval report` reads.",
        ),
    ] = None,
) -> None:
    """Score the vectors of a folder: NAME_qry, NAME_tgt and NAME_info.jsonl for each data set.

    The public scorers of MMEB write these files, and so does `mmembed eval export-official`. The
    pickles among them cannot run code: only numbers and names are read from them.

    \b
    Examples:
      mmembed eval score --dir embeddings
      mmembed eval score --dir embeddings --suite mmeb-v2 --ties official --out scores
      mmembed eval score --dir pages --main-metric ndcg_linear@5 --modality visdoc
    """
    from mmembed.evaluation.official_files import list_official, read_official, write_score
    from mmembed.evaluation.results import TIES, write_task_result
    from mmembed.evaluation.scoring import score_retrieval
    from mmembed.progress import shown_progress
    from mmembed.tasks import TaskCard

    if out is not None and (out / "run.json").exists():
        raise ConfigError(f"--out {out} is the folder of a run; give another one")
    policy = next((each for each in TIES if each == ties), None)
    if policy is None:
        raise ConfigError(f"--ties is {ties!r}; one of {', '.join(TIES)}")
    names = list_official(folder)
    if suite is not None:
        cards = _cards(suite, folder, names)
    else:
        cards = {
            name: TaskCard(name, modality, modality, main_metric, f"files of {name}")
            for name in names
        }
    results = []
    with shown_progress(None, "scoring", len(names), "data sets") as advance:
        for name in names:
            found = read_official(folder, name)
            result = score_retrieval(cards[name], found.task, found.queries, found.documents)
            results.append(result)
            if out is not None:
                write_score(out, result, policy)
                write_task_result(out, result)
            advance(1)
    _show(results, policy)


def _cards(suite: str, folder: Path, names: Sequence[str]) -> Mapping[str, TaskCard]:
    from mmembed.evaluation.suites import load_suite

    cards = load_suite(suite).open(folder).cards  # cards need no data
    unknown = [name for name in names if name not in cards]
    if unknown:
        raise DataError(
            f"{folder} has data sets that suite {suite} does not have: {', '.join(unknown)}; move "
            "their files away, or leave --suite out"
        )
    return cards


def _show(results: Sequence[TaskResult], ties: TiePolicy) -> None:
    shown = tuple(dict.fromkeys((*(result.card.main_metric for result in results), *_SHOWN)))
    head = ["data set", "queries", "documents", *shown, "in ties"]
    rows = [
        [
            printable(result.name),
            f"{result.num_queries:,}",
            f"{result.num_documents:,}",
            *(f"{result.metrics[ties][metric] / _POINT:.2f}" for metric in shown),
            f"{result.tie_affected:,}",
        ]
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        name, *values = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join([row[0].ljust(len(name)), *values]))
    say(f"in per cent, ties: {ties}")
    for result in results:
        gap = (result.value("official") - result.value("pessimistic")) / _POINT
        if abs(gap) > 0.1:
            say(
                f"warning: {printable(result.name)}: {result.card.main_metric} is {gap:+.2f} "
                f"points under official ties, which the order of the candidates decides"
            )
