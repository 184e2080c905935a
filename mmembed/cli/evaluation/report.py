"""`mmembed eval report`: a run as tables, as a page, or as the leaderboard's file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmembed.cli.console import printable, say
from mmembed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mmembed.evaluation.reference_scores import Delta
    from mmembed.evaluation.results import RunResults
    from mmembed.evaluation.suites import OpenSuite
    from mmembed.evaluation.summary import Summary
    from mmembed.evaluation.sweeps import StoredTask, Sweep
    from mmembed.tasks import LoadedTask, TaskCard

__all__ = ["report"]

_FORM = Literal["md", "csv", "json", "leaderboard", "leaderboard-schema", "html"]
_TIES = Literal["pessimistic", "official", "docid"]
_NO_DATA = "The data of the suite are not here: items are shown by their ids."


def report(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of `mmembed eval run`.")],
    form: Annotated[_FORM, typer.Option("--format", "-f", help="What to write.")] = "md",
    to: Annotated[
        Path | None,
        typer.Option(help="The file; default: standard output, for html OUT/report.html."),
    ] = None,
    ties: Annotated[
        _TIES | None,
        typer.Option(
            help="How equal scores are ordered: pessimistic (default), docid, or official, which "
            "the leaderboard's file always has."
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Give means over the complete data sets where some are lacking."
        ),
    ] = False,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:ROW]",
            help="Published numbers beside the run: mmeb-v2, mmeb-v1 or a file, and a row of it.",
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Another run of the suite, such as of a CLIP; repeatable."
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="For the leaderboard: model_name, model_backbone, model_size (billions), "
            "embedding_dimension, max_length_tokens, model_release_date, url, ...",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Score the stored vectors again, shorter and coarser (md, html, json).",
        ),
    ] = False,
    suite: Annotated[
        str | None, typer.Option(help="The suite, where results name none or a file.")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Data of the suite, for pictures of html; default: where the run was."),
    ] = None,
) -> None:
    """Tables, page or leaderboard file of a finished run.

    Means are plain: over data sets, not over groups or queries. A mean stays empty while a data
    set of the suite has no complete result; --partial gives it with its coverage.

    \b
    Examples:
      mmembed eval report --out results/M
      mmembed eval report --out results/M --format html --compare mmeb-v2
      mmembed eval report --out results/M --beside results/clip --beside results/siglip
      mmembed eval report --out results/M --format leaderboard --to M.json
          --metadata model_name=M --metadata model_size=2.2
    """
    from mmembed.evaluation import tables
    from mmembed.evaluation.results import read_results

    _check_options(form, {"--sweep": sweep, "--compare": compare, "--metadata": metadata,
                          "--partial": partial, "--beside": beside})  # fmt: skip
    run = read_results(out, with_queries=not form.startswith("leaderboard"))
    expected = _expected(run, suite)
    if form.startswith("leaderboard"):
        if ties not in (None, "official"):
            raise ConfigError(f"--ties {ties}: the leaderboard takes official ties")
        content = (
            _leaderboard(run, expected, metadata or [])
            if form == "leaderboard"
            else _leaderboard_schema(expected)
        )
        _write(to, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return
    others = [read_results(folder) for folder in beside or []]
    summary = _summary(
        run, expected, ties or "pessimistic", partial, compare or [], others, sweep, suite
    )
    if form == "html":
        _write_page(run, summary, to or out / "report.html", suite, data_root)
    elif form == "md":
        _write(to, tables.as_markdown(summary))
    elif form == "csv":
        _write(to, tables.as_csv(summary))
    else:
        _write(to, json.dumps(tables.as_json(summary), indent=2, allow_nan=False) + "\n")
    if form != "md":
        for flag in summary.flags:
            say(printable(flag))


def _check_options(form: _FORM, given: Mapping[str, Any]) -> None:
    """Refuse options that a format has no place for."""
    without: Mapping[str, Sequence[str]] = {
        "csv": ("--sweep", "--compare", "--beside", "--metadata"),
        "leaderboard": ("--sweep", "--compare", "--beside", "--partial"),
        "leaderboard-schema": ("--sweep", "--compare", "--beside", "--partial", "--metadata"),
    }
    idle = [name for name in without.get(form, ("--metadata",)) if given[name]]
    if idle:
        raise ConfigError(f"--format {form} does not show {', '.join(idle)}")


def _expected(run: RunResults, suite: str | None) -> tuple[TaskCard, ...]:
    """The data sets that the means are over."""
    from mmembed.evaluation.suites import recorded_suite

    named = run.record.get("suite")
    if suite is None and named is None:
        say("the results name no suite: means are over what is there; --suite NAME gives one")
        return tuple(result.card for result in run.tasks.values())
    return tuple(recorded_suite(str(named), suite).open(cards_only=True).cards.values())


def _summary(
    run: RunResults,
    expected: Sequence[TaskCard],
    ties: _TIES,
    partial: bool,
    compare: Sequence[str],
    others: Sequence[RunResults],
    sweep: bool,
    suite: str | None,
) -> Summary:
    from mmembed.evaluation.summary import summarise

    swept = _swept(run, ties, suite) if sweep else None
    deltas = [delta for each in compare for delta in _deltas(run, expected, ties, each)]
    return summarise(
        run, expected, ties=ties, partial=partial, deltas=deltas, sweep=swept, others=others
    )


def _swept(run: RunResults, ties: _TIES, suite: str | None) -> Sweep | None:
    from mmembed.evaluation.runs import stored_tasks
    from mmembed.evaluation.sweeps import sweep
    from mmembed.progress import shown_progress

    with shown_progress(None, "scoring shorter vectors", len(run.tasks), "tasks") as advance:

        def counted() -> Iterator[StoredTask]:
            for each in stored_tasks(run.folder, suite=suite):
                yield each
                advance(1)

        return sweep(counted(), ties=ties)


def _deltas(
    run: RunResults, expected: Sequence[TaskCard], ties: _TIES, file_and_row: str
) -> tuple[Delta, ...]:
    from mmembed.evaluation.aggregation import complete_values, means
    from mmembed.evaluation.reference_scores import compare_with, load_references

    references, rows = load_references(file_and_row)
    if run.record.get("subset") is not None:
        raise ConfigError(
            f"--compare {file_and_row}: the run is over a subset of each task, published numbers "
            "are over whole tasks; compare it with runs of the same suite (mmembed eval compare)"
        )
    values = complete_values(run.tasks, ties)
    return compare_with(references, rows, means(values, expected), values, expected)


def _leaderboard(
    run: RunResults, expected: Sequence[TaskCard], pairs: Sequence[str]
) -> dict[str, Any]:
    from mmembed.config.validation import validate
    from mmembed.evaluation.leaderboard import Metadata, leaderboard

    model = str(run.record.get("model") or "")
    fields: dict[str, Any] = {
        **({"model_name": model} if model and not Path(model).is_absolute() else {}),
        "report_generated_date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if "embedding_dimension" in run.record:
        fields["embedding_dimension"] = run.record["embedding_dimension"]
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--metadata {pair!r}; give KEY=VALUE, e.g. model_size=2.2")
        fields[key] = value
    content = leaderboard(run, expected, validate(Metadata, fields, where="--metadata"))
    written = sum(map(len, content["metrics"].values()))
    if written < len(expected):
        say(f"{written} of {len(expected)} data sets; the others have no complete result")
    return content


def _leaderboard_schema(expected: Sequence[TaskCard]) -> dict[str, Any]:
    from mmembed.evaluation.leaderboard import json_schema

    return json_schema(expected)


def _write_page(
    run: RunResults, summary: Summary, path: Path, suite: str | None, data_root: Path | None
) -> None:
    from mmembed.evaluation.gallery import modality_matrix, worst_examples
    from mmembed.evaluation.run_page import RunPage, write_run_page

    opened = _opened(run, suite, data_root)
    loaded: dict[str, LoadedTask] = {}
    notes: tuple[str, ...] = (_NO_DATA,)
    if opened is not None:
        loaded, notes = _loaded(run, opened)
    page = RunPage(
        summary,
        matrix=modality_matrix(run, loaded, summary.ties),
        examples=worst_examples(run, loaded, ties=summary.ties),
        notes=notes,
    )
    typer.echo(write_run_page(path, page))


def _opened(run: RunResults, suite: str | None, data_root: Path | None) -> OpenSuite | None:
    """The suite of the run with its data; None where they are not here."""
    from mmembed.evaluation.profiles import parse_profile
    from mmembed.evaluation.suites import recorded_suite

    named = run.record.get("suite")
    if suite is None and named is None:
        return None
    root = data_root or (Path(known) if (known := run.record.get("data_root")) else None)
    profile = None
    if isinstance(run.record.get("profile"), Mapping):
        fields = {key: value for key, value in run.record["profile"].items() if key != "sha256"}
        profile = parse_profile(fields, where=f"{run.folder}/run.json")
    try:
        return recorded_suite(str(named), suite).open(root, profile)
    except DataError as error:
        if data_root is not None:
            raise
        say(str(error).splitlines()[0])
        return None


def _loaded(run: RunResults, opened: OpenSuite) -> tuple[dict[str, LoadedTask], tuple[str, ...]]:
    """The tasks of the run that can be read again."""
    from mmembed.progress import shown_progress

    found, notes = {}, []
    names = [name for name in opened.cards if name in run.tasks]
    with shown_progress(None, "reading tasks", len(names), "tasks") as advance:
        for name in names:
            try:
                found[name] = opened.load(name, allow_missing=True)
            except (DataError, OSError) as error:
                why = str(error).splitlines()[0]
                notes.append(f"{name} cannot be read again, its items are only ids: {why}")
            advance(1)
    return found, tuple(notes)


def _write(to: Path | None, text: str) -> None:
    from mmembed.store.durable import write_atomically

    if to is None:
        typer.echo(text.encode("utf-8", "replace").decode("utf-8"), nl=False)
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(to, text.encode("utf-8", "replace"))
    typer.echo(to)
