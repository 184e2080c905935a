"""The rerank routes give the scores of `Reranker`, best first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.server.bodies import load, recorded, sent
from tests.server.door import Door

DOCUMENTS = ["a dog in the rain", "a red apple moving left", "a car", "una manzana roja"]


@pytest.mark.parametrize("name", recorded("rerank"))
def test_a_body_of_the_public_pages_gives_the_scores_of_the_reranker(door: Door, name: str) -> None:
    case = load(name)
    results = door.answer(case["path"], case["body"])["results"]
    reference = door.reranker.score(case["query"], case["documents"])
    found = {result["index"]: result["relevance_score"] for result in results}
    assert sorted(found) == list(range(len(reference)))
    np.testing.assert_allclose([found[at] for at in range(len(found))], reference, atol=1e-5)
    for result in results:
        assert ("document" in result) == case["returned"][result["index"]]


def test_results_are_ordered_and_cut_at_top_n(door: Door) -> None:
    body = {"query": "a red apple", "documents": DOCUMENTS}
    scores = [each["relevance_score"] for each in door.answer("/v1/rerank", body)["results"]]
    assert scores == sorted(scores, reverse=True)
    best = door.answer("/v1/rerank", {**body, "top_n": 2})["results"]
    assert [each["relevance_score"] for each in best] == scores[:2]
    assert all(each["document"]["text"] == DOCUMENTS[each["index"]] for each in best)


@pytest.mark.parametrize(
    "query",
    [
        {"content": [{"type": "image_url", "image_url": {"url": "$PNG"}}]},
        {"image": "data:image/png;base64,$PNG"},
        [{"type": "image", "image": "$PNG"}],
    ],
)
def test_a_query_may_be_a_picture(door: Door, query: Any) -> None:
    body = sent({"query": query, "documents": DOCUMENTS})
    scores = {r["index"]: r["relevance_score"] for r in door.answer("/rerank", body)["results"]}
    picture = load("rerank_jina")["documents"][2]
    reference = door.reranker.score(picture, DOCUMENTS)
    np.testing.assert_allclose([scores[at] for at in range(4)], reference, atol=1e-5)


def test_the_instruction_reaches_the_model(door: Door) -> None:
    body = {"query": "a red apple", "documents": DOCUMENTS, "instruction": "You are a helpful"}
    scores = {r["index"]: r["relevance_score"] for r in door.answer("/rerank", body)["results"]}
    reference = door.reranker.score("a red apple", DOCUMENTS, instruction="You are a helpful")
    np.testing.assert_allclose([scores[at] for at in range(4)], reference, atol=1e-5)


def test_a_bad_document_is_last_and_says_why(door: Door) -> None:
    documents = ["a dog", {"image": "data:image/png;base64,AAAA"}, "a car", {"image": "/etc/hosts"}]
    body = {"query": "a red apple", "documents": documents}
    assert door.refusal("/v1/rerank", body)[1]["index"] == 3  # before anything was decoded
    results = door.answer("/v1/rerank", {**body, "on_error": "null"})["results"]
    assert sorted(each["index"] for each in results[:2]) == [0, 2]
    assert [each["index"] for each in results[2:]] == [1, 3]
    assert all(each["relevance_score"] is None and each["error"]["code"] for each in results[2:])


def test_a_bad_query_is_named_as_the_query(door: Door) -> None:
    for query in ({"image": "/etc/hosts"}, {"image": "data:image/png;base64,AAAA"}, "\ud800"):
        error = door.refusal("/v1/rerank", {"query": query, "documents": DOCUMENTS})[1]
        assert error["param"] == "query" and error["index"] is None
