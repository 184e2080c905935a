"""`mmembed demo`: the web page of an index."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from mmembed.cli.console import (
    SHOWN_FAILURES,
    Device,
    Workers,
    load_embedder,
    printable,
    say,
)
from mmembed.config.validation import validate
from mmembed.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from mmembed.encoder.embedder import Embedder
    from mmembed.encoder.reranker import Reranker
    from mmembed.search.index import Index

__all__ = ["demo"]

Loader: TypeAlias = Callable[[str], "Embedder"]
Named: TypeAlias = tuple[str, "Embedder", "Index"]


def demo(
    index: Annotated[str | None, typer.Argument(help="An index, by its address.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Default: the model the index was made with."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Index this folder with --model first, into FOLDER.index beside it."),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="A second index of the same files, shown beside it.")
    ] = None,
    compare_model: Annotated[
        str | None, typer.Option(help="Default: the model the second index was made with.")
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option(min=1, help="Compare with so many dimensions (Matryoshka models)."),
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(help="A model folder or hub id that reads the best results.")
    ] = None,
    quickstart: Annotated[
        bool, typer.Option("--quickstart", help="The bundled library and its model.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Of the quickstart.")] = Path("quickstart"),
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys, one on a line; or set MMEMBED_API_KEY.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody in who can reach the host.")
    ] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Search an index in the browser: with text, pictures, clips, pages, or some of them together.

    With --quickstart it needs nothing else: the first time it trains a small model on bundled
    data, offline, in about ten minutes on two cores.

    \b
    Examples:
      mmembed demo pictures.index
      mmembed demo --folder ~/Pictures --model run/model
      mmembed demo --quickstart
    """
    if importlib.util.find_spec("fastapi") is None:
        raise MissingDependencyError("fastapi", "demo")
    from mmembed.server.listening import take_port
    from mmembed.server.settings import ServerSettings, read_api_keys

    _check_choice(index, folder, quickstart, model, compare, compare_model)
    server = validate(
        ServerSettings,
        {
            "host": host,
            "port": port,
            "api_keys": () if no_auth else read_api_keys(api_key_file),
            "no_auth": no_auth,
        },
        where="demo",
    )

    def load(name: str) -> Embedder:
        return load_embedder(name, device, num_workers)

    # the port first: one in use shows at once, and not after minutes
    with contextlib.closing(take_port(server.host, server.port)) as taken:
        if quickstart:
            first = _quickstart(output, load)
        elif folder is not None:
            assert model is not None
            first = _indexed(folder, model, load)
        else:
            assert index is not None
            first = _opened(index, model, load)
        spaces = [first]
        if compare is not None:
            spaces.append(_opened(compare, compare_model, load))

        from mmembed.demo.app import create_demo
        from mmembed.demo.library import Library
        from mmembed.server.running import run

        library = Library(spaces, reranker=_reranker(reranker, device), dimension=dimension)
        app = create_demo(library, server=server)

        def ready(address: str) -> None:
            say(f"the demo is at {address} (Ctrl-C ends it)")
            if server.api_keys:
                say("open it once with ?key=KEY behind the address")
            elif not no_open and _has_screen():
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        run(app, server, taken=taken, on_ready=ready, access_log=False)


def _check_choice(
    index: str | None,
    folder: Path | None,
    quickstart: bool,
    model: str | None,
    compare: str | None,
    compare_model: str | None,
) -> None:
    if sum((index is not None, folder is not None, quickstart)) != 1:
        raise ConfigError("give one of: an index, --folder FOLDER --model MODEL, --quickstart")
    if folder is not None and model is None:
        raise ConfigError("--folder needs --model: what to index it with")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    if quickstart and model is not None:
        raise ConfigError("--quickstart brings its own model; drop --model")
    if compare_model is not None and compare is None:
        raise ConfigError("--compare-model goes with --compare INDEX")


def _opened(address: str, model: str | None, load: Loader) -> Named:
    from mmembed.search.opening import open_index

    index = open_index(address)
    model = model or index.settings.get("model")
    if model is None:
        raise ConfigError(f"{address} does not say which model made it; give the model, too")
    say(f"loading {model}")
    return model, load(model), index


def _indexed(folder: Path, model: str, load: Loader) -> Named:
    """The index beside a folder, made or brought up to date."""
    from mmembed.search.corpus import index_folder
    from mmembed.search.opening import open_index
    from mmembed.search.segments import Segmentation

    embedder = load(model)
    folder = folder.resolve()
    place = folder.with_name(f"{folder.name}.index")
    is_small = importlib.util.find_spec("lancedb") is None and not place.exists()
    index = open_index(
        f"numpy:{place}" if is_small else place,
        fingerprint=embedder.fingerprint,
        dimension=embedder.embedding_dimension,
    )
    say(f"indexing {folder} into {place}")
    summary = index_folder(
        folder,
        embedder=embedder,
        index=index,
        segmentation=Segmentation.of(index.settings.get("segmentation", {})),
        decoder=embedder.processor.decoder,
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        show_progress_bar=True,
    )
    say(str(summary))
    for failure in summary.failures[:SHOWN_FAILURES]:
        say(f"  {printable(failure.id)}: {failure.code}: {failure.detail}")
    return model, embedder, index


def _quickstart(output: Path, load: Loader) -> Named:
    """The bundled library; what is there already is not made again."""
    from mmembed.quickstart.demo_library import is_trained, model_folder, prepare_index

    if not is_trained(output):
        from mmembed.quickstart import pipeline

        say(f"training a small model into {output}: once, about ten minutes on two cores")
        pipeline.run(output=output)
    embedder = load(str(model_folder(output)))
    return str(model_folder(output)), embedder, prepare_index(output, embedder)


def _has_screen() -> bool:
    """Else the system's browser may be one that takes the terminal over."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def _reranker(name: str | None, device: str | None) -> Reranker | None:
    if name is None:
        return None
    from mmembed.encoder.reranker import Reranker

    say(f"loading {name}")
    return Reranker.from_pretrained(name, device=device)
