"""`mmembed index add`, also `mmembed index FOLDER`: a folder made searchable."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli.console import (
    SHOWN_FAILURES,
    Device,
    Model,
    TruncateDim,
    Workers,
    load_embedder,
    printable,
    say,
    say_failures,
)
from mmembed.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from mmembed.search.index import Index
    from mmembed.search.segments import Segmentation
    from mmembed.search.summary import IndexSummary

__all__ = ["add"]

_MANY_CHANGES = 1000


def add(
    folder: Annotated[Path, typer.Argument(help="Images, videos, PDFs, .txt and .md files.")],
    model: Model,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="The index, made or updated: a folder, s3://..., qdrant://HOST:6333/NAME, ...",
        ),
    ],
    instruction: Annotated[str | None, typer.Option(help="Given with every item.")] = None,
    passage_chars: Annotated[
        int | None, typer.Option(min=1, help="Longest passage of a text; 1000.")
    ] = None,
    scenes: Annotated[
        bool | None,
        typer.Option("--scenes/--no-scenes", help="Cut videos where their scenes change."),
    ] = None,
    window_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Length of the clips of a long video; 30.")
    ] = None,
    max_clip_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Videos up to this length stay whole; 60.")
    ] = None,
    max_pages: Annotated[
        int | None, typer.Option(min=1, help="Of a longer PDF the first pages are taken; 5000.")
    ] = None,
    truncate_dim: TruncateDim = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also enter linked folders.")
    ] = False,
    check_content: Annotated[
        bool,
        typer.Option("--check-content", help="Hash also files whose size and date are unchanged."),
    ] = False,
    errors: Annotated[
        Path | None,
        typer.Option(help="List of what failed; default: errors.jsonl in the index's folder."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: index again whenever something changes.")
    ] = False,
    poll: Annotated[
        float | None,
        typer.Option(min=0.1, help="With --watch: look every so many seconds (network drives)."),
    ] = None,
    runner: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Ray actors; default: one for each GPU, or CPU.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A running cluster, or auto; default: one on this machine.")
    ] = None,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Make a folder searchable, or bring its index up to date.

    Only new content is encoded. Files that cannot be used are listed, also in the index's
    errors.jsonl, and tried again the next time; the exit code is then 2. How files are cut
    (passages, clips, pages, instruction) is kept with the index and holds for later runs.

    \b
    Examples:
      mmembed index ~/Pictures --model run/model --out pictures.index
      mmembed index ~/Films --model run/model --out films.index --scenes --watch
      mmembed index /share/scans --model run/model --out s3://bucket/scans --runner ray
    """
    from mmembed.search.corpus import index_folder
    from mmembed.search.opening import open_index
    from mmembed.search.watch import watch_folder

    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    if poll is not None and not watch:
        raise ConfigError("--poll goes with --watch")
    on_ray = _is_ray(runner, processes, ray_address)
    # the model of a run on Ray is loaded here only to name its space
    embedder = load_embedder(model, "cpu" if on_ray else device, num_workers)
    dimension = truncate_dim or embedder.embedding_dimension
    if dimension > embedder.embedding_dimension:
        raise ConfigError(f"--truncate-dim: the model has {embedder.embedding_dimension}")
    target = open_index(out, fingerprint=embedder.fingerprint, dimension=dimension)
    place = str(Path(model).resolve()) if Path(model).exists() else model
    options: dict[str, Any] = {
        "embedder": embedder,
        "index": target,
        "segmentation": _segmentation(
            target,
            instruction=instruction,
            passage_chars=passage_chars,
            windows=None if scenes is None else "scenes" if scenes else "fixed",
            window_seconds=window_seconds,
            max_clip_seconds=max_clip_seconds,
            max_pages_per_file=max_pages,
        ),
        "decoder": embedder.processor.decoder,
        "follow_links": follow_links,
        "check_content": check_content,
        "model": place,
        "errors": errors,
        "show_progress_bar": True,
    }
    if on_ray:
        from mmembed.search.ray_files import RayWorkers

        options["ray"] = RayWorkers(
            model=place,
            processes=processes,
            address=ray_address,
            device=device,
            num_workers=num_workers,
        )
    with contextlib.closing(target):
        if not watch:
            summary = index_folder(folder, **options)
            _tell(summary)
            if summary.num_changes:
                _optimize(target)
            say_failures([(failure.id, failure) for failure in summary.failures])
            return
        say(f"watching {folder}; Ctrl-C ends it")
        options["show_progress_bar"] = False
        watch_folder(folder, **options, poll_seconds=poll, on_run=_Watched(target))
        say("stopped; run the same command again to go on")


def _is_ray(runner: str, processes: int | None, address: str | None) -> bool:
    if runner not in ("local", "ray"):
        raise ConfigError(f"--runner is {runner!r}; it must be local or ray")
    if runner == "local" and (processes is not None or address is not None):
        raise ConfigError("--processes and --ray-address go with --runner ray")
    return runner == "ray"


def _segmentation(target: Index, **given: Any) -> Segmentation:
    """How the index was cut, with what was said now."""
    from mmembed.search.segments import Segmentation

    kept = Segmentation.of(target.settings.get("segmentation", {}))
    return replace(kept, **{name: value for name, value in given.items() if value is not None})


def _tell(summary: IndexSummary) -> None:
    typer.echo(summary)
    if summary.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.ignored.most_common(5))
        say(f"not indexed: {kinds}")
    for warning in summary.warnings[:SHOWN_FAILURES]:
        say(f"warning: {printable(warning)}")


def _optimize(target: Index) -> None:
    """What was indexed stays searchable when this fails or is stopped."""
    say("optimizing; stopping it now loses nothing")
    try:
        report = target.optimize()
    except StoreError as error:
        say(f"warning: not optimized: {error}; later: mmembed index optimize {target.uri}")
        return
    if report.method != "exact":
        say(f"{report.method}: {report.reason}")


class _Watched:
    """Told of each run of a watch: says what changed, and optimizes when that is much."""

    def __init__(self, target: Index) -> None:
        self.target = target
        self.num_changes = 0

    def __call__(self, summary: IndexSummary) -> None:
        if summary.num_changes or summary.failures:
            _tell(summary)
        for failure in summary.failures[:SHOWN_FAILURES]:
            say(f"  {printable(failure.id)}: {failure.code}: {failure.detail}")
        self.num_changes += summary.num_changes
        if self.num_changes >= max(_MANY_CHANGES, summary.rows // 10):
            _optimize(self.target)
            self.num_changes = 0
