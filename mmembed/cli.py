"""The command line: a thin skin over the library, one function for each command.

Nothing heavy is imported before a command runs, so that `mmembed --help` answers at once. Results
go to standard output, everything else to standard error. Exit codes: 0 all done, 2 refused or
done with failed items, 130 interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from mmembed import __version__
from mmembed.errors import ConfigError, InputError, MMEmbedError

if TYPE_CHECKING:
    from mmembed.encoder.embedder import Embedder

__all__ = ["app", "main"]

_SHOWN_FAILURES = 10


class _Commands(TyperGroup):
    """Turns the errors that mmembed raises on purpose into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted; run the same command again to go on")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `mmembed search ... | head`: typer ends quietly
            raise
        except (MMEmbedError, OSError) as error:
            _say(f"error: {error}")
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option("--model", "-m", help="A model folder or a hub id.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: a GPU when there is one.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that decode media; default: the cores.")
]
TruncateDim = Annotated[
    int | None, typer.Option(min=1, help="Keep this many dimensions (Matryoshka models).")
]


def main() -> None:
    """The console script."""
    app(prog_name="mmembed")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"mmembed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Text, images, video and document pages in one vector space.

    \b
    First steps:
      mmembed quickstart --output run
      mmembed index ~/Pictures --model run/model --out pictures.index
      mmembed search pictures.index "a dog in the snow"
    """


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for models, report and index.")] = Path(
        "quickstart"
    ),
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 0,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="About how long to train; default: as tuned.")
    ] = None,
) -> None:
    """Train, evaluate and search on bundled data, offline.

    \b
    Example:
      mmembed quickstart --output run
    """
    from mmembed.quickstart import pipeline

    pipeline.run(output=output, seed=seed, minutes=minutes)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
    ] = None,
) -> None:
    """Run the stages of a recipe.

    \b
    Example:
      mmembed train tiny --output run --set stages.0.steps=50
    """
    from rich.console import Console

    from mmembed.config.files import load_recipe
    from mmembed.training import stages

    resolved = load_recipe(recipe, overrides=overrides or [])
    with stages.training_progress(console=Console(stderr=True)) as progress:
        result = stages.train(resolved, output=output, progress=progress)
    typer.echo(result.model)
    if result.interrupted:
        raise KeyboardInterrupt


@app.command()
def soup(
    checkpoints: Annotated[list[Path], typer.Argument(help="Model folders of one architecture.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new model folder.")],
    weights: Annotated[
        str | None, typer.Option(help="One number for each model, e.g. 0.6,0.4; default: equal.")
    ] = None,
    method: Annotated[str, typer.Option(help="How to average.")] = "linear",
) -> None:
    """Average the weights of several models into one.

    \b
    Example:
      mmembed soup run/a run/b --out run/soup --weights 0.6,0.4
    """
    from mmembed import soup as pot

    pot.soup(checkpoints, output=out, weights=_numbers(weights), method=method)
    typer.echo(out)


@app.command()
def encode(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .npy or .safetensors file.")],
    items: Annotated[
        Path | None, typer.Argument(help="JSON lines: one item a line, media beside the file.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; repeatable.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="An image; repeatable.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A video; repeatable.")] = None,
    pdf: Annotated[list[Path] | None, typer.Option(help="A PDF, all pages; repeatable.")] = None,
    role: Annotated[Literal["query", "document"], typer.Option(help="What they are.")] = "document",
    instruction: Annotated[
        str | None, typer.Option(help="For items that bring no instruction of their own.")
    ] = None,
    truncate_dim: TruncateDim = None,
    on_error: Annotated[
        Literal["raise", "null", "skip"],
        typer.Option(help="Stop at a bad item, give it a NaN row, or leave it out."),
    ] = "raise",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens in a batch.")] = None,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Turn items into vectors.

    Writes the vectors, and beside them OUT.ids.jsonl (the id of each row) and OUT.errors.jsonl
    (the items that failed, and why).

    \b
    Examples:
      mmembed encode items.jsonl --model run/model --out vectors.npy --on-error null
      mmembed encode --text "a dog" --image dog.jpg --model run/model --out two.safetensors
    """
    import numpy as np

    from mmembed.inputs.item_files import FileItem, read_items
    from mmembed.search.vector_files import check_vector_file, write_vectors
    from mmembed.types import MultimodalInput

    check_vector_file(out)
    entries = read_items(items) if items is not None else []
    for kind, values in (("text", text), ("image", image), ("video", video), ("pdf", pdf)):
        for value in values or []:
            entries.append(FileItem(str(value), MultimodalInput.of({kind: value})))
    if not entries:
        raise ConfigError("nothing to encode: give a JSON-lines file, --text, --image, ...")
    errors = {n: each.item for n, each in enumerate(entries) if isinstance(each.item, InputError)}
    if errors and on_error == "raise":
        first = min(errors)
        raise errors[first].at(first)
    good = [number for number in range(len(entries)) if number not in errors]
    embedder = _load(model, device, num_workers)
    vectors, report = embedder.encode(
        [entries[number].item for number in good],
        role=role,
        instruction=instruction,
        truncate_dim=truncate_dim,
        on_error="raise" if on_error == "raise" else "null",
        batch_tokens=batch_tokens,
        return_report=True,
    )
    for error in report.errors:
        place = error.index[0] if isinstance(error.index, tuple) else error.index
        errors[good[place]] = error
    rows = np.full((len(entries), vectors.shape[1]), np.nan, dtype=np.float32)
    rows[good] = vectors
    write_vectors(
        out,
        [entry.id for entry in entries],
        rows,
        errors,
        fingerprint=embedder.fingerprint,
        keep_failed=on_error != "skip",
    )
    typer.echo(f"{out}: {len(rows) - len(errors)} of {len(rows)} items, {rows.shape[1]} dimensions")
    _say_failures([(entries[n].id, error) for n, error in sorted(errors.items())])


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Images, videos, PDFs, .txt and .md files.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The index folder; made or updated.")],
    instruction: Annotated[str | None, typer.Option(help="Given with every item.")] = None,
    passage_chars: Annotated[int, typer.Option(min=1, help="Longest passage of a text.")] = 1000,
    window_seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of the clips of a long video.")
    ] = 30.0,
    max_clip_seconds: Annotated[
        float, typer.Option(min=0.0, help="Videos up to this length stay whole.")
    ] = 60.0,
    truncate_dim: TruncateDim = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also enter linked folders.")
    ] = False,
    check_content: Annotated[
        bool,
        typer.Option("--check-content", help="Hash also files whose size and date are unchanged."),
    ] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Make a folder searchable, or bring its index up to date.

    Only new content is encoded. Files that cannot be used are listed, also in OUT/errors.jsonl,
    and tried again the next time; the exit code is then 2.

    \b
    Example:
      mmembed index ~/Pictures --model run/model --out pictures.index
    """
    from mmembed.search.corpus import index_folder
    from mmembed.search.index import ExactIndex
    from mmembed.search.segments import Segmentation

    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    embedder = _load(model, device, num_workers)
    dimension = truncate_dim or embedder.embedding_dimension
    if dimension > embedder.embedding_dimension:
        raise ConfigError(f"--truncate-dim: the model has {embedder.embedding_dimension}")
    target = ExactIndex(out, fingerprint=embedder.fingerprint, dimension=dimension)
    summary = index_folder(
        folder,
        embedder=embedder,
        index=target,
        segmentation=Segmentation(
            passage_chars=passage_chars,
            window_seconds=window_seconds,
            max_clip_seconds=max_clip_seconds,
            instruction=instruction,
        ),
        decoder=embedder.processor.decoder,
        follow_links=follow_links,
        check_content=check_content,
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        show_progress_bar=True,
    )
    typer.echo(summary)
    if summary.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.ignored.most_common(5))
        _say(f"not indexed: {kinds}")
    for warning in summary.warnings[:_SHOWN_FAILURES]:
        _say(f"warning: {_printable(warning)}")
    _say_failures([(failure.id, failure) for failure in summary.failures])


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="A folder made by `mmembed index`.")],
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to look for, alone or with a text.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many results.")] = 10,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only text, image, video or pdf; repeatable."),
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What kind of match is meant.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Default: the model the index was made with."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Find the items nearest to a text or a picture.

    \b
    Examples:
      mmembed search pictures.index "a dog in the snow" --k 5
      mmembed search pictures.index --image dog.jpg --kind video --json
    """
    from mmembed.search.index import ExactIndex
    from mmembed.search.searcher import Searcher

    query: dict[str, Any] = {"text": text, "image": image}
    if text is None and image is None:
        raise ConfigError("nothing to look for: give a text, --image, or both")
    source = ExactIndex(index)
    model = model or source.settings.get("model")
    if model is None:
        raise ConfigError(f"{index} does not say which model made it; give --model")
    searcher = Searcher(_load(model, device, num_workers), source)
    hits = searcher.search(query, k, kinds=kind, instruction=instruction)
    if as_json:
        typer.echo(json.dumps([asdict(hit) for hit in hits], indent=2))
        return
    for hit in hits:
        typer.echo(f"{hit.score:7.4f}  {hit.kind:5}  {_printable(hit.path)}  {hit.place}".rstrip())
        if hit.text:
            typer.echo(f"{'':16}{_printable(' '.join(hit.text.split())[:80])}")
    if not hits:
        _say("no results")


def _load(model: str, device: str | None, num_workers: int | None) -> Embedder:
    from mmembed.encoder.embedder import Embedder

    return Embedder.from_pretrained(model, device=device, num_workers=num_workers)


def _say_failures(failures: Sequence[tuple[str, Any]]) -> None:
    """Name the first failed items and end with exit code 2; nothing when there are none."""
    if not failures:
        return
    _say(f"{len(failures)} failed:")
    for name, failure in failures[:_SHOWN_FAILURES]:
        _say(f"  {_printable(name)}: {failure.code}: {failure.detail}")
    if len(failures) > _SHOWN_FAILURES:
        _say(f"  and {len(failures) - _SHOWN_FAILURES} more")
    raise typer.Exit(2)


def _printable(text: str) -> str:
    """Without what could break a terminal: control characters and undecodable bytes of names."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights is {text!r}; give numbers, e.g. 0.6,0.4") from None


def _say(message: str) -> None:
    typer.echo(message, err=True)
