"""Indexing and searching real files with a real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError, SpaceMismatchError
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.searcher import Searcher
from mmembed.search.segments import Segmentation
from mmembed.search.summary import IndexSummary
from tests import media_files

SEGMENTATION = Segmentation(passage_chars=60, window_seconds=1.0, max_clip_seconds=2.0)
NOTE = "The grinning face of a cat in the rain.\n\nA dog, then a car, then one red apple."


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pymupdf

    folder = tmp_path_factory.mktemp("library")
    for seed in range(3):
        picture = media_files.encode_image(media_files.photo(seed=seed))
        (folder / f"photo{seed}.png").write_bytes(picture)
    (folder / "clip.mp4").write_bytes(media_files.video(45, fps=15))
    (folder / "paper.pdf").write_bytes(media_files.pdf(2))
    (folder / "note.md").write_text(NOTE, encoding="utf-8")
    (folder / "a_text.png").write_text("this is a text and not a picture")
    (folder / "cut.png").write_bytes((folder / "photo0.png").read_bytes()[:200])
    (folder / "locked.pdf").write_bytes(
        media_files.pdf(1, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret")
    )
    return folder


def update(library: Path, embedder: Embedder, folder: Path, dimension: int = 64) -> IndexSummary:
    return index_folder(
        library,
        embedder=embedder,
        index=ExactIndex(folder, fingerprint=embedder.fingerprint, dimension=dimension),
        segmentation=SEGMENTATION,
        decoder=embedder.processor.decoder,
    )


@pytest.fixture(scope="module")
def indexed(
    library: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, IndexSummary]:
    folder = tmp_path_factory.mktemp("index")
    return folder, update(library, embedder, folder)


def test_every_kind_is_indexed_and_broken_files_are_listed(
    indexed: tuple[Path, IndexSummary],
) -> None:
    folder, summary = indexed
    found = {failure.path.rsplit("/", 1)[-1]: failure.code for failure in summary.failures}
    assert found == {
        "a_text.png": "unsupported_format",
        "cut.png": "truncated",
        "locked.pdf": "encrypted",
    }
    kinds = [row.kind for row in ExactIndex(folder).rows()]
    assert sorted(kinds) == ["image"] * 3 + ["pdf"] * 2 + ["text"] * 2 + ["video"] * 3
    assert summary.rows == summary.encoded == 10


def test_rows_hold_the_vectors_that_the_model_gives(
    indexed: tuple[Path, IndexSummary], embedder: Embedder, library: Path
) -> None:
    index = ExactIndex(indexed[0])
    rows = {row.id.rsplit("/", 1)[-1]: row for row in index.rows()}
    pages = {"pdf": library / "paper.pdf", "pages": "2"}
    clip = {"video": library / "clip.mp4", "start": 1.0, "end": 2.0}
    items = {
        "photo1.png": library / "photo1.png",
        "paper.pdf#page=2": pages,
        "clip.mp4#t=1,2": clip,
        "note.md#char=0,39": NOTE[:39],
    }
    expected = embedder.encode_document(list(items.values()))
    stored = index.store.get([rows[name].key for name in items])
    np.testing.assert_allclose(stored, expected, atol=1e-5)


def test_indexing_again_encodes_nothing(
    indexed: tuple[Path, IndexSummary], embedder: Embedder, library: Path
) -> None:
    before = next(indexed[0].glob("rows-*.jsonl")).read_bytes()
    summary = update(library, embedder, indexed[0])
    assert (summary.encoded, summary.reused, summary.unchanged) == (0, 0, 6)
    assert next(indexed[0].glob("rows-*.jsonl")).read_bytes() == before


def test_search_equals_ranking_by_hand(
    indexed: tuple[Path, IndexSummary], embedder: Embedder, library: Path
) -> None:
    index = ExactIndex(indexed[0])
    searcher = Searcher(embedder, index)
    rows = list(index.rows())
    stored = index.store.get([row.key for row in rows])
    queries = ["red apple", library / "photo2.png", {"text": "a cat", "image": library / "cut2"}]
    for query in queries[:2]:
        scores = stored @ embedder.encode_query(query)
        expected = [rows[place].id for place in np.argsort(-scores, kind="stable")[:4]]
        hits = searcher.search(query, k=4)
        assert [hit.id for hit in hits] == expected
        np.testing.assert_allclose(
            [hit.score for hit in hits], np.sort(-scores)[:4] * -1, atol=1e-6
        )
    with pytest.raises(InputError, match="not_found"):
        searcher.search(queries[2])


def test_hits_say_where_they_are(
    indexed: tuple[Path, IndexSummary], embedder: Embedder, library: Path
) -> None:
    searcher = Searcher(embedder, ExactIndex(indexed[0]))
    hits = searcher.search("a car", k=10)
    assert len(hits) == 10
    assert {hit.place for hit in hits if hit.kind == "pdf"} == {"page 1", "page 2"}
    clips = sorted(hit.place for hit in hits if hit.kind == "video")
    assert clips == ["0:00-0:01", "0:01-0:02", "0:02-0:03"]
    passages = {hit.text for hit in hits if hit.kind == "text"}
    assert passages == set(NOTE.split("\n\n"))
    assert {Path(hit.path).parent for hit in hits} == {library}
    assert {hit.kind for hit in searcher.search("a car", kinds=["text", "image"])} == {
        "text",
        "image",
    }
    with pytest.raises(ConfigError, match="unknown kind"):
        searcher.search("a car", kinds=["audio"])


def test_an_index_of_shortened_vectors_is_searched_with_shortened_queries(
    library: Path, embedder: Embedder, tmp_path: Path
) -> None:
    summary = update(library, embedder, tmp_path, dimension=32)
    assert summary.encoded == 10
    hits = Searcher(embedder, ExactIndex(tmp_path)).search("red apple", k=10)
    assert max(abs(hit.score) for hit in hits) <= 1 + 1e-6
    with pytest.raises(SpaceMismatchError, match="32 dimensions"):
        ExactIndex(tmp_path, fingerprint=embedder.fingerprint, dimension=64)


def test_another_model_is_refused(
    indexed: tuple[Path, IndexSummary], tiny_checkpoint: Path
) -> None:
    inputs = {"position_ids": "flat"}
    with Embedder.from_pretrained(tiny_checkpoint, inputs=inputs, num_workers=1) as other:
        index = ExactIndex(indexed[0])
        with pytest.raises(SpaceMismatchError, match=f"{index.fingerprint}.*{other.fingerprint}"):
            Searcher(other, index)


def test_a_bad_query_among_many_is_named(
    embedder: Embedder, indexed: tuple[Path, IndexSummary]
) -> None:
    with pytest.raises(InputError) as caught:
        Searcher(embedder, ExactIndex(indexed[0])).search_all(["a cat", None])
    assert caught.value.index == 1
