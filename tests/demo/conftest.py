"""A small library of real files, indexed with a tiny real model, behind the real application."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from mmembed.demo.app import create_demo
from mmembed.demo.library import Library
from mmembed.demo.settings import DemoSettings
from mmembed.encoder.embedder import Embedder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.index import Index
from mmembed.search.opening import open_index
from mmembed.server.settings import ServerSettings
from tests import media_files
from tests.demo.library import ADDRESS, make_index, write_library

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.demo.browsing import Visit, Visitor


@pytest.fixture(scope="session")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change them."""
    return write_library(tmp_path_factory.mktemp("files") / "things")


@pytest.fixture(scope="session")
def index(files: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> ExactIndex:
    made = make_index(files, embedder, tmp_path_factory.mktemp("index"))
    made.settings["examples"] = {"all": ["a cat"], "pdf": ["a page"]}
    made.commit()
    return made


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """A library that a test may change."""
    return write_library(tmp_path / "things")


@pytest.fixture
def own_index(own_files: Path, embedder: Embedder, tmp_path: Path) -> ExactIndex:
    return make_index(own_files, embedder, tmp_path / "things.index")


Opener = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def open_demo(embedder: Embedder) -> Opener:
    """`open_demo(index, **fields)`: a client of a demo with those settings."""

    @contextmanager
    def opened(
        *indexes: Index,
        settings: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        **library: Any,
    ) -> Iterator[TestClient]:
        chosen = DemoSettings.model_validate({"decode_workers": 1, **(settings or {})})
        spaces = [(f"model-{number}", embedder, one) for number, one in enumerate(indexes, 1)]
        shown = Library(spaces, settings=chosen, **library)
        app = create_demo(shown, chosen, ServerSettings.model_validate(server or {}))
        with TestClient(app, base_url=ADDRESS, raise_server_exceptions=False) as client:
            yield client

    return opened


@pytest.fixture(scope="module")
def client(embedder: Embedder, index: ExactIndex) -> Iterator[TestClient]:
    """Of a demo over the shared library."""
    settings = DemoSettings(decode_workers=1)
    app = create_demo(Library([("model", embedder, index)], settings=settings), settings)
    with TestClient(app, base_url=ADDRESS, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a server for the tests in the browser."""
    from mmembed.encoder.reranker import Reranker
    from tests.demo.browsing import MARKUP, served

    given = os.environ.get("MMEMBED_DEMO_INDEX")
    if given is not None:
        index = open_index(given)
        model = index.settings["model"]
        with (
            Embedder.from_pretrained(model) as embedder,
            served(create_demo(Library([(model, embedder, index)]))) as found,
        ):
            yield found
        return
    embedder = request.getfixturevalue("embedder")
    reranker = Reranker.from_pretrained(request.getfixturevalue("tiny_reranker"), num_workers=1)
    folder = tmp_path_factory.mktemp("page")
    files = write_library(folder / "things")
    (files / MARKUP).write_bytes(media_files.encode_image(media_files.photo(seed=3)))
    (files / "film.mp4").write_bytes(media_files.video(90, fps=15))
    index = make_index(files, embedder, folder / "index")
    index.settings["examples"] = {"all": ["a cat"], "pdf": ["a page"]}
    settings = DemoSettings(decode_workers=1)
    library = Library([("tiny", embedder, index)], settings=settings, reranker=reranker)
    with reranker, served(create_demo(library, settings)) as found:
        yield found


@pytest.fixture(scope="module")  # while it is open, no other test of this process can asyncio.run
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    from tests.demo.browsing import ARGUMENTS, chromium

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def visitor(browser: Browser, address: str, tmp_path: Path) -> Visitor:
    """`with visitor(viewport=..., color_scheme=...) as visit`."""
    from tests.demo.browsing import visiting

    kept = Path(os.environ.get("MMEMBED_SCREENSHOTS", tmp_path))

    def come(**context: Any) -> AbstractContextManager[Visit]:
        return visiting(browser, address, kept, **context)

    return come


@pytest.fixture
def visit(visitor: Visitor) -> Iterator[Visit]:
    """On a desktop."""
    with visitor() as opened:
        yield opened
