"""Searching over HTTP: queries of every kind, filters, spaces, explanations."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmembed.search.searcher import Searcher
from mmembed.store.durable import dump_record, read_record
from tests import media_files
from tests.demo.library import error, hit, hits, make_index


def test_info_says_what_can_be_asked(client, files, index):
    info = client.get("/api/info").json()
    assert info["title"] == "things"
    assert info["rows"] == len(index) == sum(info["kinds"].values())
    assert info["kinds"] == {"text": 1, "image": 3, "video": 4, "pdf": 3}
    assert [folder["label"] for folder in info["folders"]] == ["things", "things/holiday"]
    assert [folder["rows"] for folder in info["folders"]] == [11, 2]
    assert info["suffixes"] == ["jpg", "md", "mp4", "pdf", "png"]
    assert info["max_page"] == 3
    assert info["max_duration"] == pytest.approx(4, abs=0.1)
    assert info["modified"] == {"min": "2023-11-14", "max": "2023-11-19"}
    assert info["examples"]["all"] == ["a cat"] and info["examples"]["video"] == []
    (space,) = info["spaces"]
    assert space["fingerprint"] == index.fingerprint
    assert space["dimension"] == index.dimension == max(space["dimensions"])
    assert not info["reranker"]


def test_a_text_finds_what_the_searcher_finds(client, embedder, index):
    expected = Searcher(embedder, index).search("a red apple", k=5)
    found = hits(client, text="a red apple", k=5)
    assert [one["name"] for one in found] == [Path(one.path).name for one in expected]
    np.testing.assert_allclose(
        [one["score"] for one in found], [one.score for one in expected], atol=1e-4
    )


def test_no_answer_names_a_folder_of_this_machine(client, files):
    row = hit(client, "paper.pdf")["id"]
    answers = [
        client.get("/api/info"),
        client.post("/api/search", json={"text": "a cat", "k": 50}),
        client.get(f"/api/rows/{row}"),
        client.post("/api/explain", json={"row": row}),
        client.post("/api/search", json={"like": "0" * 24}),
    ]
    for answer in answers:
        assert str(files.parent) not in answer.text


def test_a_result_says_where_it_is(client):
    page = hit(client, "paper.pdf", kinds=["pdf"], pages=[2, 2])
    assert (page["page"], page["pages"], page["place"]) == (2, 3, "page 2")
    assert page["folder"] == "things" and page["media"] is None
    assert "page 2 of the test document" in page["text"]
    clip = hit(client, "clip.mp4", kinds=["video"])
    assert clip["end"] - clip["start"] == pytest.approx(1, abs=0.2)
    assert clip["duration"] == pytest.approx(4, abs=0.1)
    note = hit(client, "note.md")
    assert note["thumbnail"] is None and note["media"] is None
    assert hit(client, "blue.png")["folder"] == "things/holiday"
    assert hit(client, "blue.png")["modified"].startswith("2023-11-1")


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"kinds": ["image"]}, {"red.png", "blue.png", "harbour.jpg"}),
        ({"kinds": ["text", "pdf"]}, {"note.md", "paper.pdf"}),
        ({"suffixes": ["jpg", "mp4"]}, {"harbour.jpg", "clip.mp4"}),
        ({"pages": [2, None]}, {"paper.pdf"}),
        ({"duration": [3.5, 10]}, {"clip.mp4"}),
        ({"duration": [10, None]}, set()),
        ({"before": "2023-11-14"}, {"clip.mp4"}),
        ({"after": "2023-11-16", "before": "2023-11-17"}, {"blue.png", "note.md"}),
    ],
)
def test_filters_leave_only_what_fits(client, wanted, names):
    found = {one["name"] for one in hits(client, text="a cat", k=50, **wanted)}
    if "after" in wanted:  # folders of the walk decide about the order of dates
        assert len(found) == 2
    else:
        assert found == names


def test_a_folder_is_chosen_by_its_id(client):
    folders = client.get("/api/info").json()["folders"]
    inner = next(one["id"] for one in folders if one["label"] == "things/holiday")
    found = {one["name"] for one in hits(client, text="a cat", k=50, folder=inner)}
    assert found == {"blue.png", "harbour.jpg"}
    answer = client.post("/api/search", json={"text": "a cat", "folder": "f" * 24})
    assert error(answer, 404) == "no_folder"


def test_like_compares_stored_vectors_and_leaves_the_row_itself_out(client, index):
    one = hit(client, "red.png")
    answer = client.post("/api/search", json={"like": one["id"], "k": 50}).json()
    assert one["id"] not in [other["id"] for other in answer["hits"]]
    assert len(answer["hits"]) == len(index) - 1
    assert answer["took"]["encode_ms"] == 0 and answer["query"]["tokens"] == 0
    path = next(row.id for row in index.rows() if row.path.endswith("red.png"))
    expected = index.search(index.vectors([path]), 2)[0][1]
    assert answer["hits"][0]["score"] == pytest.approx(expected.score, abs=1e-5)


def test_like_and_a_text_are_one_query(client, embedder, index, files):
    one = hit(client, "red.png")
    query = {"image": files / "red.png", "text": "at night"}
    expected = Searcher(embedder, index).search(query, k=50)
    expected = [found for found in expected if not found.path.endswith("red.png")]
    found = hits(client, like=one["id"], text="at night", k=50)
    np.testing.assert_allclose(
        [each["score"] for each in found], [each.score for each in expected], atol=1e-4
    )


def test_an_uploaded_picture_finds_its_equal(client, files):
    data = (files / "red.png").read_bytes()
    upload = client.post("/api/uploads", params={"name": "x.png"}, content=data).json()
    found = hits(client, uploads=[upload["id"]], k=3)
    assert found[0]["name"] == "red.png" and found[0]["score"] == pytest.approx(1, abs=1e-3)
    other = hits(client, uploads=[upload["id"]], text="the rain", k=3)
    assert other[0]["score"] < 0.9999


def test_a_page_and_some_seconds_of_an_upload_are_queries(client, files):
    document = client.post("/api/uploads", content=(files / "paper.pdf").read_bytes()).json()
    page = {"id": document["id"], "page": 3}
    found = hits(client, uploads=[page], kinds=["pdf"], k=3)
    assert found[0]["page"] == 3 and found[0]["score"] == pytest.approx(1, abs=1e-3)
    film = client.post("/api/uploads", content=(files / "clip.mp4").read_bytes()).json()
    seconds = {"id": film["id"], "start": 1.0, "end": 2.0}
    best = hits(client, uploads=[seconds], kinds=["video"], k=1)[0]
    assert best["start"] == pytest.approx(1, abs=0.2)


def test_words_are_found_without_the_model(client):
    answer = client.post("/api/search", json={"text": "grinning", "mode": "text"}).json()
    assert [one["name"] for one in answer["hits"]] == ["note.md"]
    assert answer["mode"] == "text" and answer["took"]["encode_ms"] == 0
    both = client.post("/api/search", json={"text": "grinning", "mode": "hybrid", "k": 50}).json()
    assert len(both["hits"]) > 1


def test_fewer_dimensions_are_an_exact_search_of_cut_vectors(client, embedder, index):
    answer = client.post("/api/search", json={"text": "a cat", "dimension": 32, "k": 50}).json()
    assert answer["dimension"] == 32 and answer["method"] == "exact"
    rows = list(index.rows())
    stored = index.vectors([row.id for row in rows])[:, :32]
    query = embedder.encode(["a cat"], role="query")[0, :32]
    scores = stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
    expected = sorted(scores.tolist(), reverse=True)
    np.testing.assert_allclose([one["score"] for one in answer["hits"]], expected, atol=1e-4)
    answer = client.post("/api/search", json={"text": "a cat", "dimension": 33})
    assert error(answer, 400) == "dimension"


def test_two_spaces_answer_side_by_side(open_demo, index, own_index):
    with open_demo(index, own_index, dimension=32) as client:
        spaces = client.get("/api/info").json()["spaces"]
        assert [space["dimension"] for space in spaces] == [index.dimension] * 2 + [32]
        assert len({space["id"] for space in spaces}) == 3
        answers = [
            client.post("/api/search", json={"text": "a cat", "k": 50, "space": space["id"]}).json()
            for space in spaces
        ]
        assert [len(answer["hits"]) for answer in answers] == [len(index)] * 3
        assert answers[2]["dimension"] == 32
        # a row of the second index is shown, and searched in the first by its content
        stranger = answers[1]["hits"][0]
        assert client.get(f"/api/rows/{stranger['id']}").status_code == 200
        like = {"like": stranger["id"], "k": 1, "space": spaces[0]["id"]}
        (twin,) = client.post("/api/search", json=like).json()["hits"]
        assert twin["name"] == stranger["name"]
        missing = client.post("/api/search", json={"text": "a", "space": "9"})
        assert error(missing, 404) == "no_space"


def test_the_reranker_orders_the_best_results(open_demo, index, tiny_reranker):
    from mmembed.encoder.reranker import Reranker

    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as reranker:
        expected = reranker.score("a cat", ["the grinning face of a cat in the rain"])[0]
        with open_demo(index, reranker=reranker, settings={"rerank_depth": 4}) as client:
            assert client.get("/api/info").json()["reranker"]
            answer = client.post("/api/search", json={"text": "a cat", "rerank": True}).json()
            scores = [one["rerank_score"] for one in answer["hits"]]
            assert scores[:4] == sorted(scores[:4], reverse=True)
            assert set(scores[4:]) == {None}
            note = {"text": "a cat", "rerank": True, "kinds": ["text"]}
            (only,) = client.post("/api/search", json=note).json()["hits"]
            assert only["rerank_score"] == pytest.approx(expected, abs=1e-3)
    with open_demo(index) as client:
        answer = client.post("/api/search", json={"text": "a cat", "rerank": True})
        assert error(answer, 400) == "no_reranker"


def test_explain_shows_what_the_model_reads(client, files, embedder):
    data = (files / "red.png").read_bytes()
    upload = client.post("/api/uploads", content=data).json()["id"]
    request = {"uploads": [upload], "text": "a cat", "instruction": "Find it.", "k": 3}
    shown = client.post("/api/explain", json=request).json()
    assert shown["role"] == "query" and shown["instruction"] == "Find it."
    assert [part["kind"] for part in shown["parts"]] == ["image", "text"]
    assert shown["parts"][0]["source_size"] == [160, 120]
    assert "a cat" in shown["prompt"] and "Find it." in shown["prompt"]
    row = client.post("/api/explain", json={"row": hit(client, "clip.mp4")["id"]}).json()
    assert row["role"] == "document" and row["parts"][0]["times"]
    like = client.post("/api/explain", json={"like": hit(client, "note.md")["id"]}).json()
    assert "grinning" in like["prompt"]


def test_a_row_has_its_whole_text_and_other_pages_their_boxes(client):
    page = hit(client, "paper.pdf", kinds=["pdf"], pages=[1, 1])
    row = client.get(f"/api/rows/{page['id']}").json()
    assert row["name"] == "paper.pdf" and "score" not in row
    boxes = client.get(f"/api/rows/{page['id']}/boxes", params={"number": 2, "words": "TEST page"})
    (box,) = boxes.json()["boxes"]
    assert "page 2" in box["text"] and box["matches"]
    assert 0 <= box["left"] < box["right"] <= 1 and 0 <= box["top"] < box["bottom"] <= 1
    (box,) = client.get(f"/api/rows/{page['id']}/boxes", params={"words": "cat"}).json()["boxes"]
    assert not box["matches"]
    answer = client.get(f"/api/rows/{page['id']}/boxes", params={"number": 9})
    assert error(answer, 404) == "no_page"


@pytest.mark.parametrize(
    ("request_body", "status", "code"),
    [
        ({}, 400, "empty_query"),
        ({"text": "  "}, 400, "empty_query"),
        ({"text": "a", "k": 0}, 422, "invalid_request"),
        ({"text": "a", "k": 100_000}, 400, "k"),
        ({"text": "a", "k": "3"}, 422, "invalid_request"),
        ({"text": 1}, 422, "invalid_request"),
        ({"txt": "a"}, 422, "invalid_request"),
        ({"text": "a", "kinds": ["sound"]}, 422, "invalid_request"),
        ({"text": "a", "after": "tomorrow"}, 422, "invalid_request"),
        ({"text": "a", "after": "2024-02-31"}, 400, "filter"),
        ({"text": "a", "mode": "magic"}, 422, "invalid_request"),
        ({"like": "0" * 24, "mode": "text"}, 400, "no_words"),
        ({"like": "0" * 24}, 404, "no_row"),
        ({"uploads": ["nothing"]}, 404, "no_upload"),
        ({"text": "a" * 20_001}, 413, "too_long"),
        ([], 422, "invalid_request"),
    ],
)
def test_a_wrong_request_is_told_why(client, request_body, status, code):
    assert error(client.post("/api/search", json=request_body), status) == code


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"text": NaN}', 400, "invalid_json"),
        (b'{"text": "a", "text": "b"}', 400, "invalid_json"),
        (b"[" * 5000, 400, "invalid_json"),
        (b'"' + b"a" * 1_000_001 + b'"', 413, "too_large"),
    ],
)
def test_a_body_that_is_no_json_is_told_why(client, body, status, code):
    answer = client.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert error(answer, status).endswith(code) or status == 413


def test_a_form_of_another_page_is_no_request(client):
    body = json.dumps({"text": "a cat"})
    answer = client.post("/api/search", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_many_visitors_get_the_answers_that_one_gets(client):
    texts = ["a cat", "a dog", "the rain", "a red apple"]
    alone = {text: hits(client, text=text, k=5) for text in texts}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: hits(client, text=text, k=5), texts * 6))
    for text, found in zip(texts * 6, together, strict=True):
        assert [one["id"] for one in found] == [one["id"] for one in alone[text]]


def test_a_running_indexer_is_seen(open_demo, own_files, own_index, embedder):
    with open_demo(own_index, settings={"refresh_seconds": 0}) as client:
        before = len(hits(client, text="a cat", k=50))
        assert len(hits(client, text="a cat", k=50, dimension=32)) == before
        picture = media_files.encode_image(media_files.photo(64, 48, seed=9))
        (own_files / "new.png").write_bytes(picture)
        make_index(own_files, embedder, own_index.folder)
        assert client.get("/api/info").json()["rows"] == before + 1
        found = hits(client, text="a cat", k=50)
        assert len(found) == before + 1
        new = next(one for one in found if one["name"] == "new.png")
        assert client.get(new["thumbnail"]).status_code == 200
        # vectors that were cut before the change are cut again
        assert len(hits(client, text="a cat", k=50, dimension=32)) == before + 1


def test_an_index_that_became_another_models_is_not_searched(open_demo, own_index):
    with open_demo(own_index, settings={"refresh_seconds": 0}) as client:
        header = own_index.folder / "index.json"
        record = dict(read_record(header, "mmembed-index/1"))
        record.pop("check", None)
        record["fingerprint"] = "f" * 64
        header.write_bytes(dump_record(record) + b"\n")
        answer = client.post("/api/search", json={"text": "a cat"})
        assert error(answer, 503) == "index_changed"
        assert error(client.get("/api/info"), 503) == "index_changed"
