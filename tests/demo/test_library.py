"""Opaque names, what is offered to filter by, and spaces."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.demo.catalog import Catalog, opaque
from mmembed.demo.library import Library, model_label, shortened
from mmembed.demo.requests import SearchRequest
from mmembed.demo.results import describe_boxes, describe_hit
from mmembed.demo.settings import DemoSettings
from mmembed.errors import ConfigError
from mmembed.search.rows import Box, Row
from mmembed.search.searcher import Hit
from mmembed.server.errors import RequestError


def row(path: str, kind: str = "image", **fields) -> Row:
    return Row(id=fields.pop("id", path), path=path, kind=kind, **fields)


def test_names_of_rows_are_stable_and_say_nothing():
    name = opaque("/home/ada/photo.png", "k" * 64)
    assert name == opaque("/home/ada/photo.png", "k" * 64)
    assert name != opaque("/home/ada/photo.png", "m" * 64)
    assert len(name) == 24 and int(name, 16) >= 0
    assert opaque("/bad\udcff.png", "k") != opaque("/bad\udcfe.png", "k")


def test_folders_are_counted_with_all_below_them():
    rows = [row(f"/a/b/{name}") for name in ("x/1.png", "x/y/2.png", "x/y/3.png", "z/4.jpg")]
    catalog = Catalog.of(rows, "k")
    folders = {folder.label: folder.rows for folder in catalog.folders.values()}
    assert folders == {"b": 4, "b/x": 3, "b/x/y": 2, "b/z": 1}
    assert [folder.path for folder in catalog.folders.values()][1] == "/a/b/x"
    assert catalog.folder_label("/a/b/x/y/2.png") == "b/x/y"
    assert catalog.folder_label("/elsewhere/far/9.png") == "far"
    assert Catalog.of([], "k").describe()["folders"] == []
    assert Catalog.of([row("/1.png")], "k").describe()["folders"][0]["label"] == "/"


def test_a_large_library_offers_its_largest_folders():
    rows = [row(f"/a/{n}/{m}.png") for n in range(300) for m in range(1 + (n == 7))]
    folders = Catalog.of(rows, "k").folders.values()
    assert len(folders) == 200
    assert {"a", "a/7"} <= {folder.label for folder in folders}


def test_a_long_text_is_shown_where_its_words_are():
    text = "start " + "filler " * 300 + "the needle is here " + "filler " * 300
    catalog = Catalog("k")
    page = row("/p.pdf", "pdf", text=text, page=1)
    hit = Hit(score=0.5, path="/p.pdf", kind="pdf", page=1)
    shown = describe_hit(hit, page, catalog, words="a NEEDLE")["text"]
    assert "the needle is here" in shown and len(shown) < 450
    assert shown.startswith("... ") and shown.endswith(" ...")
    assert describe_hit(hit, page, catalog)["text"].startswith("start filler")
    short = row("/p.pdf", "pdf", text="all of it", page=1)
    assert describe_hit(hit, short, catalog, words="it")["text"] == "all of it"


def test_blocks_match_by_the_beginnings_of_their_words():
    text = "Gross margins grew\nNothing else"
    page = row("/p.pdf", "pdf", text=text,
               boxes=(Box(0, 0, 1, 0.5, 0, 18), Box(0, 0.5, 1, 1, 19, 31)))  # fmt: skip
    assert [box["matches"] for box in describe_boxes(page, "MARGIN of")] == [True, False]
    assert [box["text"] for box in describe_boxes(page)] == ["Gross margins grew", "Nothing else"]


def test_folders_of_models_are_named_without_their_place():
    assert model_label("/home/ada/run/model") == "run/model"
    assert model_label("org/model") == "org/model"


def test_cut_vectors_are_unit_vectors():
    vectors = np.random.default_rng(0).normal(size=(5, 8))
    cut = shortened(vectors, 3)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(cut[2], vectors[2, :3] / np.linalg.norm(vectors[2, :3]), rtol=1e-5)


def test_dimensions_beyond_the_index_are_refused(embedder, index):
    with pytest.raises(ConfigError, match="the index has 64"):
        Library([("model", embedder, index)], dimension=65)


def test_a_large_index_is_searched_with_its_own_dimensions_only(embedder, index):
    library = Library([("model", embedder, index)], settings=DemoSettings(max_short_rows=3))
    with pytest.raises(RequestError, match="--truncate-dim 32"), library.first.reading(32):
        pass
    with library.first.reading() as searcher:
        assert searcher.index is index


def test_a_row_that_left_the_index_is_not_found(embedder, own_index):
    library = Library([("model", embedder, own_index)], settings=DemoSettings(refresh_seconds=0))
    names = list(library.catalog().ids)
    for name in names:
        assert library.row(name)[1].id == library.catalog().ids[name]
    own_index.delete([library.catalog().ids[names[0]]])
    with pytest.raises(RequestError, match="not in the index any more"):
        library.row(names[0])


def test_white_space_is_no_query():
    request = SearchRequest(text=" \n", instruction="", like="")
    assert (request.text, request.instruction, request.like) == (None, None, None)
