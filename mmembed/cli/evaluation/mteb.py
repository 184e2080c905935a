"""`mmembed eval mteb`: a model on benchmarks of mteb."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli.console import Device, Workers, printable, say
from mmembed.cli.evaluation.options import DataRoot, Only, ProfileName, selection
from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.evaluation.mteb_runs.benchmarks import Chosen
    from mmembed.evaluation.mteb_runs.prompts import Prompts
    from mmembed.evaluation.mteb_runs.running import MtebScore
    from mmembed.evaluation.mteb_runs.tasks import LocalTasks

__all__ = ["mteb"]

_POINT = 0.01
_SHOWN_INSTRUCTION = 60


def mteb(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model, as for `mmembed eval run`.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(help="Instead of a model: a reranker, for tasks that have candidates."),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", "-b", help="Of mteb, or a short name (--list).")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", "-t", help="A task of mteb; repeatable.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="A suite of ours, judged by mteb: mmeb-v2, nano-emoji.")
    ] = None,
    data_root: DataRoot = None,
    profile: ProfileName = None,
    only: Only = None,
    prompts: Annotated[
        str,
        typer.Option(help="Instructions: task (mteb's own), none, table:NAME or table:FILE."),
    ] = "task",
    localize: Annotated[
        Path | None, typer.Option(help="map.json of `mmembed eval fetch`: data without a network.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Refuse to look anything up.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="Keep vectors here; shared with `mmembed eval run`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of mteb's result files.")
    ] = None,
    beta: Annotated[bool, typer.Option("--beta", help="Allow --tasks that are in beta.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="With tasks whose data need an account.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also tasks that have results.")] = False,
    stop_on_error: Annotated[
        bool, typer.Option("--stop-on-error", help="End with the first task that fails.")
    ] = False,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Keep this many dimensions (Matryoshka).")
    ] = None,
    num_frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 8,
    mteb_search: Annotated[
        bool, typer.Option("--mteb-search", help="Leave searching to mteb, to compare.")
    ] = False,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="Task of mteb whose training data the model saw; repeatable."),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Show benchmarks, or the tasks chosen; run nothing.")
    ] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Judge a model on benchmarks of mteb, offline if need be.

    Writes mteb's own result files under --out and prints the scores. A task that has a result is
    not run again. With --suite our own tasks are judged by mteb, as a second opinion on their
    numbers.

    \b
    Examples:
      mmembed eval mteb --list
      mmembed eval mteb --benchmark vidore-v2 --list
      mmembed eval mteb -m run/model -b eng --localize data/map.json --out results
      mmembed eval mteb -m run/model -t STS12 -t SciFact --prompts table:qwen3 --out results
      mmembed eval mteb -m run/model --suite nano-emoji --out results
      mmembed eval mteb --reranker run/reranker -t AskUbuntuDupQuestions --out results
    """
    from mmembed.evaluation.mteb_runs.benchmarks import choose_tasks
    from mmembed.evaluation.mteb_runs.localize import offline as without_network
    from mmembed.evaluation.mteb_runs.prompts import load_prompts

    given = [name for name in (benchmark, tasks, suite) if name]
    if list_only and not given:
        _show_benchmarks()
        return
    if len(given) != 1:
        raise ConfigError("give one of --benchmark, --tasks and --suite; --list shows benchmarks")
    setting = load_prompts(prompts)
    with contextlib.ExitStack() as stack:
        if offline or localize is not None or suite is not None:
            stack.enter_context(without_network())
        listed, local = _tasks(benchmark, tasks, suite, beta, data_root, profile, only)
        if list_only:
            _show_tasks(listed, setting)
            return
        if (model is None) == (reranker is None) or out is None:
            raise ConfigError("give --out, and one of --model and --reranker")
        judged = stack.enter_context(
            _judged(
                model,
                reranker,
                setting,
                local,
                store,
                dimension=dimension,
                num_frames=num_frames,
                own_search=not mteb_search,
                trained_on=trained_on,
                num_workers=num_workers,
                device=device,
            )
        )
        chosen = choose_tasks(
            listed,
            modalities=judged.mteb_model_meta.modalities,
            public_only=not private,
            only_pooled=reranker is not None,
        )
        _say_left_out(chosen, setting)
        if localize is not None:
            from mmembed.evaluation.mteb_runs.localize import localize as localized
            from mmembed.evaluation.mteb_runs.localize import read_map

            chosen = type(chosen)(localized(chosen.tasks, read_map(localize)), chosen.left_out)
        started = time.monotonic()
        scores = _run(judged, chosen, out, again=again, stop_on_error=stop_on_error)
        _record(judged, setting, chosen, out, localize, seconds=time.monotonic() - started)
    failed = _show_scores(scores)
    say(f"results under {out / 'results'}")
    if failed:
        raise typer.Exit(2)


def _tasks(
    benchmark: str | None,
    tasks: list[str] | None,
    suite: str | None,
    beta: bool,
    data_root: Path | None,
    profile: str | None,
    only: list[str] | None,
) -> tuple[Sequence[Any], LocalTasks | None]:
    from mmembed.evaluation.mteb_runs.benchmarks import (
        benchmark_names,
        find_benchmark,
        find_tasks,
    )

    if benchmark is not None:
        return find_benchmark(benchmark), None
    if suite is None:
        return find_tasks(tasks or [], beta=beta), None
    from mmembed.evaluation.mteb_runs.tasks import local_tasks
    from mmembed.evaluation.suites import load_suite

    opened = load_suite(suite).open(data_root, profile).select(selection(only, None, None))
    name = opened.suite.name
    prefix = benchmark_names().prefixes.get(name, Path(name).stem)
    local = local_tasks(opened.cards, opened.load, prefix=prefix)
    for left_out in local.left_out:
        say(f"left out: {left_out}: it is no retrieval")
    return local.tasks, local


@contextlib.contextmanager
def _judged(
    model: str | None,
    reranker: str | None,
    prompts: Prompts,
    local: LocalTasks | None,
    store: Path | None,
    *,
    dimension: int | None,
    num_frames: int,
    own_search: bool,
    trained_on: list[str] | None,
    num_workers: int | None,
    device: str | None,
) -> Iterator[Any]:
    find = (lambda name: None) if local is None else local.retrieval_task
    if reranker is not None:
        from mmembed.encoder.reranker import Reranker
        from mmembed.evaluation.mteb_runs.reranker_model import mteb_reranker

        with Reranker.from_pretrained(reranker, device=device, num_workers=num_workers) as loaded:
            yield mteb_reranker(
                loaded,
                name=reranker,
                prompts=prompts,
                num_frames=num_frames,
                training_datasets=trained_on,
                local_tasks=find,
            )
        return
    from mmembed.baselines.loading import load_model
    from mmembed.baselines.stored_vectors import StoredVectors
    from mmembed.evaluation.mteb_runs.model import mteb_model
    from mmembed.evaluation.preparation import hashes_file
    from mmembed.store.file_hashes import FileHashes

    assert model is not None
    encoder = load_model(model, device=device, num_workers=num_workers)
    try:
        with FileHashes(hashes_file()) as hashes:
            vectors = StoredVectors(encoder, store, digest=hashes)
            yield mteb_model(
                encoder,
                vectors,
                prompts=prompts,
                num_frames=num_frames,
                own_search=own_search,
                dimension=dimension,
                training_datasets=trained_on,
                local_tasks=find,
            )
            say(f"{vectors.num_encoded:,} items encoded, {vectors.num_found:,} found")
    finally:
        encoder.close()


def _run(
    judged: Any, chosen: Chosen, out: Path, *, again: bool, stop_on_error: bool
) -> list[MtebScore]:
    from mmembed.evaluation.mteb_runs.running import run_tasks
    from mmembed.progress import shown_progress

    with shown_progress(None, "judging", len(chosen.tasks), "tasks") as advance:
        return run_tasks(
            judged,
            chosen.tasks,
            out,
            again=again,
            stop_on_error=stop_on_error,
            on_progress=lambda name: advance(1),
        )


def _record(
    judged: Any,
    prompts: Prompts,
    chosen: Chosen,
    out: Path,
    localize: Path | None,
    *,
    seconds: float,
) -> None:
    """`OUT/run.json`: of the last run; what mteb's own files do not say."""
    from importlib.metadata import version

    from mmembed.evaluation.results import write_run_record
    from mmembed.store.content import hash_file

    vectors = getattr(judged, "vectors", None)
    record: dict[str, Any] = {
        "kind": "mteb",
        "mteb": version("mteb"),
        "model": judged.mteb_model_meta.name,
        "revision": judged.mteb_model_meta.revision,
        "experiment": dict(judged.mteb_model_meta.experiment_kwargs or {}),
        "prompts": prompts.name,
        "prompts_sha256": prompts.sha256 or None,
        "map_sha256": None if localize is None else hash_file(localize),
        "tasks": [task.metadata.name for task in chosen.tasks],
        "left_out": dict(chosen.left_out),
        "seconds": round(seconds, 3),
    }
    if vectors is not None:
        record |= {
            "description": dict(vectors.encoder.describe()),
            "num_encoded": vectors.num_encoded,
            "num_found": vectors.num_found,
        }
    write_run_record(out, record)


def _say_left_out(chosen: Chosen, prompts: Prompts) -> None:
    from mmembed.evaluation.mteb_runs.prompts import tasks_without_entry

    for name, reason in chosen.left_out.items():
        say(f"left out: {name}: {reason}")
    if not chosen.tasks:
        raise ConfigError("no task is left to run")
    if prompts.table is not None:
        lacking = tasks_without_entry(prompts.table, chosen.tasks)
        if lacking:
            say(f"prompts of mteb are used for what {prompts.name} lacks: {', '.join(lacking)}")


def _show_benchmarks() -> None:
    from mmembed.evaluation.mteb_runs.benchmarks import known_benchmarks
    from mmembed.evaluation.mteb_runs.prompts import table_names

    for name, aliases in known_benchmarks().items():
        typer.echo(f"{name}{'  = ' if aliases else ''}{', '.join(aliases)}")
    say(f"prompt tables: {', '.join(table_names())}")


def _show_tasks(tasks: Sequence[Any], prompts: Prompts) -> None:
    width = max((len(task.metadata.name) for task in tasks), default=0)
    for task in tasks:
        metadata = task.metadata
        words = prompts.instruction(metadata, "query")
        shown = "" if words is None else repr(words[:_SHOWN_INSTRUCTION])
        typer.echo(f"{metadata.name.ljust(width)}  {metadata.type}  {metadata.main_score}  {shown}")
    if prompts.table is not None:
        from mmembed.evaluation.mteb_runs.prompts import tasks_without_entry

        lacking = tasks_without_entry(prompts.table, tasks)
        say(f"{len(lacking)} of {len(tasks)} tasks have no entry: {', '.join(lacking)}")


def _show_scores(scores: Sequence[MtebScore]) -> bool:
    """The table; True when a task failed."""
    from mmembed.evaluation.mteb_runs.running import mean_scores

    width = max([len(score.task) for score in scores] + [len("Mean (TaskType)")])
    for score in scores:
        value = "failed" if score.value is None else f"{score.value / _POINT:.2f}"
        typer.echo(f"{score.task.ljust(width)}  {value:>6}  {score.main_score}  {score.type}")
    for name, mean in mean_scores(scores).items():
        typer.echo(f"{name.ljust(width)}  {'-' if mean is None else f'{mean / _POINT:.2f}':>6}")
    failed = [score for score in scores if score.value is None]
    for score in failed:
        say(f"failed: {score.task}: {printable(score.error)}")
    return bool(failed)
