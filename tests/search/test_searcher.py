"""Modes, filters and reranking of searches; the model's own part is in `test_search`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmembed.encoder.reranker import Reranker
from mmembed.errors import ConfigError, InputError
from mmembed.search.exact_index import ExactIndex
from mmembed.search.filters import OneOf, row_filter
from mmembed.search.fusion import reciprocal_rank_fusion
from mmembed.search.row_items import row_item
from mmembed.search.rows import Row
from mmembed.search.searcher import Hit, Searcher
from mmembed.types import MultimodalInput
from tests.search.conftest import HashEncoder, picture

PASSAGES = ["a red apple", "an apple pie", "a red car", "the green sea", "a car and a car", "pears"]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """Passages and three pictures, one of which is no file any more."""
    folder = tmp_path_factory.mktemp("searched")
    encoder = HashEncoder()
    index = ExactIndex(folder / "index", fingerprint=encoder.fingerprint, dimension=32)
    rows = [
        Row(f"/n/{n}.md", f"/n/{n}.md", "text", f"{n:064x}", text=text, mtime_ns=n * 86_400 * 10**9)
        for n, text in enumerate(PASSAGES)
    ]
    for n, name in enumerate(("red", "blue", "lost"), start=len(rows)):
        path = str(picture(folder / f"{name}.png", (200, n, 0)))
        rows.append(Row(path, path, "image", f"{n:064x}"))
    index.upsert(rows, encoder.encode([row_item(row) for row in rows]))
    index.commit()
    (folder / "lost.png").unlink()
    return Searcher(encoder, index)


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> Iterator[Reranker]:
    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as loaded:
        yield loaded


def ids(hits: list[Hit]) -> list[str]:
    return [Path(hit.id).name for hit in hits]


def test_words_find_what_has_them(searcher: Searcher) -> None:
    hits = searcher.search("car", mode="text")
    assert ids(hits) == ["4.md", "2.md"]
    assert hits[0].score > hits[1].score > 0
    assert ids(searcher.search("lost", mode="text")) == ["lost.png"], "names of files count"
    assert searcher.search("nowhere", mode="text") == []


def test_hybrid_joins_both_rankings(searcher: Searcher) -> None:
    asked = "the green sea"
    near = searcher.search(asked, 100)
    words = searcher.search(asked, 100, mode="text")
    expected = reciprocal_rank_fusion([[h.id for h in near], [h.id for h in words]])
    hits = searcher.search(asked, 4, mode="hybrid")
    assert [(hit.id, hit.score) for hit in hits] == expected[:4]
    assert hits[0].score == 2 / 61


def test_filters_hold_in_every_mode(searcher: Searcher) -> None:
    where = row_filter(suffixes=["md"], modified_after=2 * 86_400)
    for mode in ("vector", "text", "hybrid"):
        assert ids(searcher.search("a red car", mode=mode, where=where))[0] == "2.md"
        names = set(ids(searcher.search("a red car", mode=mode, where=where)))
        assert names <= {"2.md", "3.md", "4.md", "5.md"}
        assert searcher.search("red", kinds=["pdf"], mode=mode, where=where) == []
    assert ids(searcher.search("red", kinds=["image"], where=OneOf("suffix", ("md",)))) == []


def test_words_need_a_query_with_text(searcher: Searcher, tmp_path: Path) -> None:
    path = picture(tmp_path / "q.png", (1, 2, 3))
    for mode in ("text", "hybrid"):
        with pytest.raises(ConfigError, match=r"query 1 has no text; .*mode='vector'"):
            searcher.search_all(["red", path], mode=mode)
    both = searcher.search({"text": "car", "image": path}, mode="text")
    assert ids(both) == ["4.md", "2.md"]
    with pytest.raises(InputError) as caught:
        searcher.search_all(["red", None], mode="text")
    assert caught.value.index == 1


def test_vectors_are_searched_as_they_are(searcher: Searcher) -> None:
    vectors = searcher.embedder.encode(["a red car", "pears"])
    assert searcher.search_vectors(vectors, 3) == searcher.search_all(["a red car", "pears"], 3)
    hybrid = searcher.search_vectors(vectors[0], 3, queries=["a red car"], mode="hybrid")
    assert hybrid == [searcher.search("a red car", 3, mode="hybrid")]
    with pytest.raises(ConfigError, match="need the queries"):
        searcher.search_vectors(vectors, mode="hybrid")


def test_similar_items_leave_out_the_item_itself(searcher: Searcher) -> None:
    vector = searcher.index.vectors(["/n/2.md"])
    expected = [name for name in ids(searcher.search_vectors(vector, 5)[0]) if name != "2.md"]
    assert ids(searcher.search_similar("/n/2.md", 4)) == expected
    with pytest.raises(KeyError):
        searcher.search_similar("unknown")


def test_hits_carry_what_filters_look_at(searcher: Searcher) -> None:
    hit = searcher.search("pears", 1)[0]
    assert (hit.id, hit.modified, hit.duration_seconds) == ("/n/5.md", 5 * 86_400, None)


def test_the_reranker_orders_the_best_and_keeps_what_it_cannot_open(
    searcher: Searcher, reranker: Reranker
) -> None:
    both = Searcher(searcher.embedder, searcher.index, reranker=reranker)
    plain = searcher.search("a red thing", 9)
    opened = [hit for hit in plain if Path(hit.path).name != "lost.png"]
    items = [row_item(row) for row in searcher.index.get([hit.id for hit in opened])]
    scores = dict(
        zip((hit.id for hit in opened), reranker.score("a red thing", items), strict=True)
    )
    hits = both.search("a red thing", 9)
    assert [hit.id for hit in hits[:-1]] == sorted(scores, key=lambda name: -scores[name])
    for hit in hits[:-1]:
        assert hit.rerank_score == pytest.approx(scores[hit.id], abs=1e-5)
    assert (Path(hits[-1].path).name, hits[-1].rerank_score) == ("lost.png", None)
    first_stage = {hit.id: hit.score for hit in plain}
    assert all(hit.score == first_stage[hit.id] for hit in hits)
    assert ids(both.search("a red thing", 9, rerank=False)) == ids(plain)


def test_reranking_looks_deeper_than_what_is_asked_for(
    searcher: Searcher, reranker: Reranker
) -> None:
    both = Searcher(searcher.embedder, searcher.index, reranker=reranker)
    deep = both.search("a red thing", 9, kinds=["text"])
    assert both.search("a red thing", 2, kinds=["text"]) == deep[:2]
    shallow = both.search("a red thing", 6, kinds=["text"], rerank_depth=2)
    plain = ids(searcher.search("a red thing", 6, kinds=["text"]))
    assert sorted(ids(shallow[:2])) == sorted(plain[:2])
    assert ids(shallow[2:]) == plain[2:]
    assert [hit.rerank_score is None for hit in shallow] == [False] * 2 + [True] * 4
    text = both.search("apple", 2, mode="text")
    assert sorted(ids(text)) == ["0.md", "1.md"] and text[0].rerank_score is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "words"}, "mode is 'words'; allowed: vector, text, hybrid"),
        ({"rerank": True}, "no reranker"),
        ({"k": 0}, "k is 0"),
        ({"rerank_depth": 0}, "rerank_depth is 0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    searcher: Searcher, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        searcher.search("red", **options)  # type: ignore[arg-type]


def test_a_query_may_be_an_item_of_several_parts(searcher: Searcher) -> None:
    item = MultimodalInput.of([{"type": "text", "text": "red"}, {"type": "text", "text": "car"}])
    assert ids(searcher.search(item, 1, mode="text")) == ["2.md"]
