"""`mmembed data check`: what is wrong with rows, and where."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli.console import Workers, say
from mmembed.cli.data.options import Arguments, Format, Root, Target, check_output, opened
from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.data.opening import OpenedDataset
    from mmembed.inspection.leakage import EvaluationItem

__all__ = ["check"]

_SAMPLE = 100_000


def check(
    target: Target,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help=f"Look at so many rows; default: {_SAMPLE:,}, or all if fewer."),
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Look at every row.")] = False,
    decode: Annotated[
        bool, typer.Option(help="Open media; else only look whether the files are there.")
    ] = True,
    near: Annotated[bool, typer.Option(help="Look for near duplicates.")] = True,
    distance: Annotated[
        int,
        typer.Option(min=0, max=16, help="Bits of 63 in which pictures that look alike differ."),
    ] = 4,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUITE_OR_FILE",
            help="Report rows that share something with this evaluation suite or file of rows; "
            "repeatable.",
        ),
    ] = None,
    suite_root: Annotated[
        Path | None, typer.Option(help="Folder with the data of suites; default: --root.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Count tokens with its tokenizer too.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write everything that was found.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write it as a page, with histograms.")
    ] = None,
    write_clean: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Write the rows without faulty, leaked and repeated ones; needs all rows.",
        ),
    ] = None,
    drop_leaked: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Write the rows without leaked ones; needs all rows."
        ),
    ] = None,
    root: Root = Path("data"),
    format: Format = None,
    arguments: Arguments = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    workers: Workers = None,
) -> None:
    """Find what is wrong with rows before a model is trained on them.

    Every fault is named with its file, line and field: rows that cannot be read, missing and
    broken media, repeated ids, empty and damaged texts, contradictions, exact and near duplicates,
    and what evaluation suites hold too. Exit code 2: there are errors.

    \b
    Examples:
      mmembed data check rows.jsonl --html check.html
      mmembed data check rows.jsonl --against nano-emoji --write-clean clean.jsonl
      mmembed data check my_mixture.yaml --sample 10000 --report check.json
    """
    from mmembed.cli.data.check_text import lines_of
    from mmembed.inspection.check import check_rows
    from mmembed.inspection.cleaning import refuse_existing, write_rows
    from mmembed.inspection.pages import write_check_page

    if sample is not None and (all_rows or write_clean or drop_leaked):
        raise ConfigError("--sample looks at some rows; --all, --write-clean, --drop-leaked at all")
    if drop_leaked is not None and not against:
        raise ConfigError("--drop-leaked needs --against: a suite, or a file of rows")
    for path in (write_clean, drop_leaked):
        if path is not None:
            refuse_existing(path)
    if report is not None:
        check_output(report, "--report", ".json")
    if html is not None:
        check_output(html, "--html", ".html", ".htm")
    datasets = opened(target, root=root, format=format, arguments=arguments)
    if report is not None and any(map(report.samefile, _existing(report, datasets))):
        raise ConfigError(f"--report {report} is one of the files that are checked")
    tasks = sorted({each.adapter.task for each in datasets})
    if (write_clean or drop_leaked) and len(tasks) > 1:
        raise ConfigError(
            f"{target} has rows of {len(tasks)} tasks ({', '.join(tasks)}), and a file of rows has "
            "one; check its data sets singly"
        )
    whole = bool(all_rows or write_clean or drop_leaked)
    found = check_rows(
        datasets,
        sample=None if whole else sample or _SAMPLE,
        seed=seed,
        decode=decode,
        near=near,
        distance=distance,
        against=None if not against else _items(against, root, suite_root or root),
        count_tokens=None if model is None else _token_counter(model),
        num_workers=workers or min(8, os.cpu_count() or 1),
    )
    for line in lines_of(found):
        typer.echo(line)
    if report is not None:
        text = json.dumps(found.as_dict(), indent=1, ensure_ascii=True)
        report.write_text(text + "\n", encoding="utf-8")
    if html is not None:
        write_check_page(html, found, title=f"Check of {target}")
    if found.was_interrupted:
        say("interrupted; this is what was found so far")
        raise typer.Exit(130)
    for path, dropped in (
        (write_clean, found.findings.dropped),
        (drop_leaked, found.findings.leaked),
    ):
        if path is not None:
            count = write_rows(found, path, dropped)
            say(f"{path}: {count:,} of {len(found.rows):,} rows")
    if found.findings.count("error"):
        raise typer.Exit(2)


def _existing(report: Path, datasets: Sequence[OpenedDataset]) -> list[Path]:
    files = [Path(file) for each in datasets for file in getattr(each.adapter, "files", ())]
    return [file for file in files if file.exists()] if report.exists() else []


def _items(names: Sequence[str], root: Path, suite_root: Path) -> Iterator[EvaluationItem]:
    for name in names:
        say(f"reading {name}")
        yield from _suite_items(name, suite_root) if _is_suite(name) else _row_items(name, root)


def _is_suite(name: str) -> bool:
    from mmembed.evaluation.suites import list_suites

    return name in list_suites() or Path(name).suffix in (".yaml", ".yml")


def _suite_items(name: str, root: Path) -> Iterator[EvaluationItem]:
    from mmembed.evaluation.suites import load_suite
    from mmembed.inspection.leakage import EvaluationItem
    from mmembed.tasks import RetrievalTask

    suite = load_suite(name).open(root if root.is_dir() else None)
    for task_name in suite.cards:
        task = suite.load(task_name).task
        where = f"{name}, {task_name}"
        if isinstance(task, RetrievalTask):
            for key, item in task.queries.items():
                yield EvaluationItem(f"{where}, query {key}", "query", item)
            for key, item in task.corpus.items():
                yield EvaluationItem(f"{where}, document {key}", "document", item)
        else:
            for key, pair in task.pairs.items():
                for item in pair:
                    yield EvaluationItem(f"{where}, pair {key}", "query", item)


def _row_items(name: str, root: Path) -> Iterator[EvaluationItem]:
    from mmembed.errors import InputError
    from mmembed.inspection.leakage import EvaluationItem
    from mmembed.inspection.rows import RowSpace

    rows = RowSpace(opened(name, root=root))
    unread = 0
    for row in range(len(rows)):
        try:
            example = rows.example(row)
        except InputError:
            unread += 1
            continue
        where = rows.place(row)
        yield EvaluationItem(f"{where}, query", "query", example.query)
        for number, item in enumerate(example.positives):
            yield EvaluationItem(f"{where}, positives[{number}]", "document", item)
    if unread:
        say(f"warning: {unread:,} rows of {name} cannot be read and were not compared with")


def _token_counter(model: str) -> Callable[[str], int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {model}: no tokenizer can be loaded: {error}") from None
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
