"""Every front door gives the vectors that `Embedder.encode` gives."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed import Embedder
from mmembed.encoder.head import quantize
from mmembed.server.routes import served_names
from mmembed.types import MultimodalInput
from tests.server.bodies import load, media, recorded, sent
from tests.server.door import Door, opened, rows

EQUAL = {"rtol": 0, "atol": 1e-5}
EMBEDDING_BODIES = [name for name in recorded() if not name.startswith("rerank")]

ITEMS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": "a red apple moving left"}],
    "image": [{"image": "$PNG"}],
    "pdf page": [{"pdf": "$PDF"}],
    "clip": [{"video": "$MP4"}],
    "picture and text": [{"image": "$JPEG"}, {"text": "but at night"}],
}


def expected(door: Door, parts: list[dict[str, Any]], **options: Any) -> np.ndarray:
    content = [{key: media().get(value, value) for key, value in part.items()} for part in parts]
    return door.embedder.encode([{"content": content}], **options)


def data_uri(kind: str, word: str) -> str:
    types = {"$PNG": "image/png", "$JPEG": "image/jpeg", "$MP4": "video/mp4"}
    return f"data:{types.get(word, 'application/pdf')};base64,{word}" if kind != "text" else word


def in_dialect(dialect: str, parts: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """A request for one item, whose parts are written as the users of this dialect do."""
    pieces = [(kind, data_uri(kind, word)) for part in parts for kind, word in part.items()]
    typed = {
        "openai": [{"type": kind, kind: word} for kind, word in pieces],
        "messages": [
            {"type": "text", "text": word}
            if kind == "text"
            else {"type": "document", "document": word}
            if kind == "pdf"
            else {"type": f"{kind}_url", f"{kind}_url": {"url": word}}
            for kind, word in pieces
        ],
        "voyage": [
            {"type": kind, kind: word}
            if kind in ("text", "pdf")
            else {"type": f"{kind}_base64", f"{kind}_base64": word}
            for kind, word in pieces
        ],
    }
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "openai": ("/v1/embeddings", {"input": [{"content": typed["openai"]}]}),
        "messages": (
            "/v1/embeddings",
            {"messages": [{"role": "user", "content": typed["messages"]}]},
        ),
        "jina": ("/v1/embeddings", {"input": [dict(pieces)]}),
        "cohere": (
            "/v2/embed",
            {"inputs": [{"content": typed["messages"]}], "input_type": "search_document"},
        ),
        "voyage": ("/v1/multimodalembeddings", {"inputs": [{"content": typed["voyage"]}]}),
    }
    path, body = bodies[dialect]
    return path, sent(body)


@pytest.mark.parametrize("name", EMBEDDING_BODIES)
def test_a_body_of_the_public_pages_gives_the_vectors_of_encode(door: Door, name: str) -> None:
    case = load(name)
    vectors = door.vectors(case["path"], case["body"])
    reference = door.embedder.encode(
        case["items"], role=case.get("role", "document"), truncate_dim=case.get("dimension")
    )
    np.testing.assert_allclose(vectors, reference, **EQUAL)


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("dialect", ["openai", "messages", "jina", "cohere", "voyage"])
def test_an_item_has_the_same_vector_in_every_dialect(door: Door, dialect: str, item: str) -> None:
    path, body = in_dialect(dialect, ITEMS[item])
    np.testing.assert_allclose(door.vectors(path, body), expected(door, ITEMS[item]), **EQUAL)


def test_base64_holds_the_very_floats_of_the_list(door: Door) -> None:
    body = {"input": ["a red apple", "a dog"]}
    floats = door.vectors("/v1/embeddings", {**body, "encoding_format": "float"})
    packed = door.answer("/v1/embeddings", {**body, "encoding_format": "base64"})["data"]
    unpacked = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed]
    assert np.array(unpacked).tobytes() == floats.tobytes()


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_are_those_of_encode(door: Door, precision: Any) -> None:
    reference = door.embedder.encode(["a red apple"], precision=precision, truncate_dim=32)
    body = {"input": "a red apple", "dimensions": 32}
    for field in ("encoding_format", "embedding_type"):
        answer = door.answer("/v1/embeddings", {**body, field: precision})
        assert np.abs(np.array(answer["data"][0]["embedding"]) - reference[0]).max() <= 1
    listed = door.answer("/v1/embeddings", {**body, "embedding_type": precision})
    for formats in (("base64", precision), (precision, "base64")):
        both = dict(zip(("encoding_format", "embedding_type"), formats, strict=True))
        packed = door.answer("/v1/embeddings", {**body, **both})["data"][0]["embedding"]
        found = np.frombuffer(base64.b64decode(packed), reference.dtype)
        assert found.tolist() == listed["data"][0]["embedding"]


def test_cohere_gives_several_types_at_once_all_of_the_same_vector(door: Door) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"texts": ["hello", "goodbye"], "input_type": "clustering", "embedding_types": types}
    found = door.answer("/v2/embed", body)["embeddings"]
    assert list(found) == types
    floats = np.array(found["float"], np.float32)
    step = door.embedder.encoder.int8_step
    for precision in ("int8", "uint8", "binary", "ubinary"):
        assert quantize(floats, precision, step=step).tolist() == found[precision]
    assert [base64.b64decode(each) for each in found["base64"]] == [
        row.astype("<f4").tobytes() for row in floats
    ]


@pytest.mark.parametrize("dimension", [1, 17, 63])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/embeddings", {"input": "a dog"}, "dimensions"),
        ("/v2/embed", {"texts": ["a dog"], "input_type": "search_document"}, "output_dimension"),
        ("/v1/multimodalembeddings", {"inputs": [{"content": ["a dog"]}]}, "output_dimension"),
    ],
)
def test_dimensions_cut_first_and_normalise_then(
    door: Door, path: str, body: dict[str, Any], field: str, dimension: int
) -> None:
    found = door.vectors(path, {**body, field: dimension})
    reference = door.embedder.encode(["a dog"], truncate_dim=dimension)
    np.testing.assert_allclose(found, reference, **EQUAL)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "words", [{"input_type": "query"}, {"role": "query"}, {"task": "retrieval.query"}]
)
def test_a_query_is_encoded_as_a_query_and_with_its_instruction(
    door: Door, words: dict[str, str]
) -> None:
    body = {"input": "a red apple"}
    vectors = [
        door.vectors("/v1/embeddings", body),
        door.vectors("/v1/embeddings", {**body, **words}),
        door.vectors("/v1/embeddings", {**body, **words, "instruction": "Find the fruit: "}),
    ]
    reference = [
        door.embedder.encode(["a red apple"]),
        door.embedder.encode_query(["a red apple"]),
        door.embedder.encode_query(["a red apple"], instruction="Find the fruit: "),
    ]
    np.testing.assert_allclose(vectors, reference, **EQUAL)
    for one, other in ((0, 1), (1, 2)):
        assert np.abs(vectors[one] - vectors[other]).max() > 1e-3


def test_an_item_may_bring_an_instruction_of_its_own(door: Door) -> None:
    items = [{"text": "a dog", "instruction": "Represent the animal."}, {"text": "a dog"}]
    body = {"input": items, "instruction": "Represent the text.", "input_type": "query"}
    reference = door.embedder.encode(items, instruction="Represent the text.", role="query")
    np.testing.assert_allclose(door.vectors("/v1/embeddings", body), reference, **EQUAL)


def test_token_ids_are_embedded_as_the_text_that_they_are_the_tokens_of(door: Door) -> None:
    texts = ["a red apple moving left", "苹果 りんご"]
    ids = door.embedder.processor.tokens.encode(texts)
    reference = door.embedder.encode(texts)
    found = door.vectors("/v1/embeddings", {"input": ids})
    np.testing.assert_allclose(found, reference, **EQUAL)
    np.testing.assert_allclose(
        door.vectors("/v1/embeddings", {"input": ids[0]}), reference[:1], **EQUAL
    )


def test_ids_that_are_not_the_tokens_of_a_text_are_refused(door: Door) -> None:
    tokens = door.embedder.processor.tokens
    (whole,) = tokens.encode(["apple"])
    pieces = [number for letter in tokens.encode(list("apple")) for number in letter]
    assert whole != pieces and tokens.text(pieces) == "apple"
    for ids in (pieces, [tokens.control_id("<|im_end|>")], [*whole, 10**6]):
        status, error = door.refusal("/v1/embeddings", {"input": [whole, ids]})
        assert (status, error["code"], error["index"]) == (400, "invalid_token_ids", 1)
        assert "check_embedding_ctx_length=False" in error["message"]


def test_options_beside_a_medium_are_those_of_encode(door: Door) -> None:
    clip = media()["$MP4"]
    body = sent({"input": [{"video": "data:video/mp4;base64,$MP4", "num_frames": 2, "end": 1.0}]})
    reference = door.embedder.encode([{"video": clip, "num_frames": 2, "end": 1.0}])
    np.testing.assert_allclose(door.vectors("/v1/embeddings", body), reference, **EQUAL)


def test_pictures_under_video_are_the_frames_of_one_clip(door: Door) -> None:
    frames = [media()["$PNG"], media()["$JPEG"]]
    reference = door.embedder.encode([{"video": frames}])
    found = door.vectors("/v1/embeddings", sent({"input": [{"video": ["$PNG", "$JPEG"]}]}))
    np.testing.assert_allclose(found, reference, **EQUAL)


@pytest.mark.parametrize(
    "written",
    [
        "data:image/png;base64,$PNG",
        "DATA:image/jpeg;name=x.png;BASE64,$PNG",  # the content decides
        "data:;base64,$PNG",
        "$PNG",
        {"url": "data:image/png;base64,$PNG", "detail": "auto"},
        {"bytes": "$PNG"},
    ],
)
def test_spellings_of_the_same_picture_have_the_same_vector(door: Door, written: Any) -> None:
    reference = door.embedder.encode([{"image": media()["$PNG"]}])
    found = door.vectors("/v1/embeddings", sent({"input": [{"image": written}]}))
    np.testing.assert_allclose(found, reference, **EQUAL)


def test_one_bad_item_of_many_does_not_disturb_the_others(door: Door) -> None:
    good = ["a red apple", {"image": "$PNG"}, "a dog"]
    bad: list[Any] = [{"image": "data:image/png;base64,AAAA"}, {"image": "nonsense"}, "\ud800"]
    mixed = [good[0], bad[0], good[1], bad[1], bad[2], good[2]]
    body = sent({"input": mixed, "encoding_format": "float"})
    answer = door.answer("/v1/embeddings", {**body, "on_error": "null"})
    assert [row["embedding"] is None for row in answer["data"]] == [
        False, True, False, True, True, False,
    ]  # fmt: skip
    for at in (1, 3, 4):
        error = answer["data"][at]["error"]
        assert error["index"] == at and str(at) in error["message"] and error["code"]
    for at in (0, 2, 5):
        alone = door.vectors("/v1/embeddings", sent({"input": [mixed[at]]}))
        np.testing.assert_allclose(answer["data"][at]["embedding"], alone[0], **EQUAL)
    status, error = door.refusal("/v1/embeddings", body)
    assert status == 400
    assert (error["index"], error["param"]) == (3, "input")  # before anything was decoded


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v2/embed",
            {
                "inputs": [{"content": ["a"]}, {"content": [{"type": "image", "image": "x"}]}],
                "input_type": "search_document",
                "embedding_types": ["float", "int8"],
            },
        ),
        (
            "/v1/multimodalembeddings",
            {"inputs": [{"content": ["a"]}, {"content": [{"type": "image", "image": "x"}]}]},
        ),
    ],
)
def test_every_dialect_has_a_place_for_the_error_of_one_item(
    door: Door, path: str, body: dict[str, Any]
) -> None:
    assert door.refusal(path, body)[1]["index"] == 1
    answer = door.answer(path, {**body, "on_error": "null"})
    if "data" in answer:
        assert answer["data"][1]["embedding"] is None
        assert answer["data"][1]["error"]["code"] == "forbidden_path"
    else:
        assert [each[1] for each in answer["embeddings"].values()] == [None, None]
        assert answer["errors"][0]["index"] == 1


@pytest.mark.parametrize("encoding", ["float", "base64", "int8", "ubinary"])
def test_a_request_of_failed_items_only_is_answered_too(door: Door, encoding: str) -> None:
    body = {"input": [{"image": "x"}] * 2, "on_error": "null", "encoding_format": encoding}
    answer = door.answer("/v1/embeddings", body)
    assert [row["embedding"] for row in answer["data"]] == [None, None]
    assert answer["usage"]["total_tokens"] == 0


def test_a_long_text_loses_its_end_and_the_answer_says_so(door: Door) -> None:
    texts = ["short", "a dog in the rain " * 400]
    answer = door.answer("/v1/embeddings", {"input": texts})
    assert [row.get("truncated", False) for row in answer["data"]] == [False, True]
    assert answer["usage"]["prompt_tokens"] <= 2 * 512
    embedded = door.vectors("/v2/embed", {"texts": texts, "input_type": "search_document"})
    np.testing.assert_allclose(embedded, rows(answer), **EQUAL)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["short", "LONG"], "truncate": False}),
        ("/v1/embeddings", {"input": ["short", "LONG"], "truncate": "NONE"}),
        (
            "/v2/embed",
            {"texts": ["short", "LONG"], "input_type": "search_query", "truncate": "NONE"},
        ),
        (
            "/v1/multimodalembeddings",
            {"inputs": [{"content": ["short"]}, {"content": ["LONG"]}], "truncation": False},
        ),
    ],
)
def test_truncation_can_be_refused(door: Door, path: str, body: dict[str, Any]) -> None:
    written = json.loads(json.dumps(body).replace("LONG", "a dog in the rain " * 400))
    status, error = door.refusal(path, written)
    assert (status, error["code"], error["index"]) == (400, "too_many_tokens", 1)


def test_usage_counts_the_tokens_of_the_prompt(door: Door) -> None:
    texts = ["a red apple", "a dog in the rain"]
    _, report = door.embedder.encode(texts, return_report=True)
    found = door.answer("/v1/embeddings", {"input": texts})["usage"]
    assert found == {"prompt_tokens": report.num_tokens, "total_tokens": report.num_tokens}
    cohere = door.answer("/v2/embed", {"texts": texts, "input_type": "search_document"})
    assert cohere["meta"]["billed_units"] == {"input_tokens": report.num_tokens, "images": 0}
    assert cohere["texts"] == texts and cohere["response_type"] == "embeddings_by_type"


def test_usage_of_voyage_tells_text_from_pixels(door: Door) -> None:
    text = {"content": [{"type": "text", "text": "a dog"}]}
    picture = {"content": [{"type": "image_base64", "image_base64": "$PNG"}]}
    path = "/v1/multimodalembeddings"
    words = door.answer(path, {"inputs": [text]})["usage"]
    both = door.answer(path, sent({"inputs": [text, picture]}))["usage"]
    prepared = door.embedder.processor.prepare(MultimodalInput.of({"image": media()["$PNG"]}))
    geometry = door.embedder.processor.config.geometry
    assert prepared.patches is not None and geometry is not None
    num_patches = len(prepared.patches)
    assert both["image_pixels"] == num_patches * geometry.patch_size**2
    assert words["image_pixels"] == 0 and words["text_tokens"] == words["total_tokens"]
    visual = num_patches // geometry.merge_size**2
    assert both["total_tokens"] == words["total_tokens"] + prepared.num_tokens
    assert both["text_tokens"] == both["total_tokens"] - visual


def test_an_answer_names_the_model_and_the_space(door: Door) -> None:
    response = door.post("/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"})
    assert response.json()["model"] == "tiny"
    assert response.headers["x-embedding-space"]


def test_a_model_from_the_cache_of_the_hub_is_named_by_its_id(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models--org--some-name" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_checkpoint, folder)
    with Embedder.from_pretrained(folder, num_workers=1) as embedder:
        assert served_names(embedder, ("alias",)) == ("alias", "org/some-name")


def test_texts_that_are_addresses_are_embedded_where_the_operator_says_so(
    door: Door, tiny_checkpoint: Any
) -> None:
    address = "https://example.org/cat.png"
    assert door.refusal("/v1/embeddings", {"input": address})[1]["code"] == "invalid_text"
    with (
        opened(tiny_checkpoint, None, allow_url_strings=True) as url,
        Door(url, door.embedder, door.reranker) as there,
    ):
        reference = door.embedder.encode([address])
        np.testing.assert_allclose(
            there.vectors("/v1/embeddings", {"input": address}), reference, **EQUAL
        )
        status, error = there.refusal("/v1/rerank", {"query": "a", "documents": ["b"]})
        assert (status, error["code"]) == (404, "no_reranker")
