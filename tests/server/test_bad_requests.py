"""What is wrong with a request is said with a 4xx, and where it is wrong."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tests import media_files
from tests.server.bodies import sent
from tests.server.door import Door

OPENAI = "/v1/embeddings"
COHERE = "/v2/embed"
VOYAGE = "/v1/multimodalembeddings"
RERANK = "/v1/rerank"
HTML = base64.b64encode(b"<!DOCTYPE html><html></html>").decode()
BIG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(1_000_001)).decode()


def texts(**more: Any) -> dict[str, Any]:
    return {"input": ["good", "also good"], **more}


def cohere(**more: Any) -> dict[str, Any]:
    return {"texts": ["good"], "input_type": "search_document", **more}


def voyage(*content: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"content": list(content)}], **more}


def image(value: Any) -> dict[str, Any]:
    return {"input": ["good", {"image": value}]}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# path, body, words that the message has to hold
CASES: list[tuple[str, Any, str]] = [
    (OPENAI, [], "body"),
    (OPENAI, None, "body"),
    (OPENAI, {}, "input"),
    (OPENAI, {"input": None}, "input"),
    (OPENAI, {"input": []}, "input"),
    (OPENAI, {"input": 5}, "input"),
    (OPENAI, {"input": True}, "input"),
    (OPENAI, {"input": [1.5]}, r"input\[0\]"),
    (OPENAI, {"input": ["good", None]}, r"input\[1\]"),
    (OPENAI, {"input": ["good", []]}, r"input\[1\]"),
    (OPENAI, {"input": [[1, "a"]]}, r"input\[0\]"),
    (OPENAI, {"input": ["good"] * 65}, "input: 65 items; allowed: 64"),
    (OPENAI, {"input": [[999_999_999]]}, r"input\[0\].*token ids"),
    (OPENAI, {"input": [[-1]]}, r"input\[0\].*token ids"),
    (OPENAI, {"input": [10**18]}, r"input\[0\].*token ids"),
    (OPENAI, {"input": [["good"]]}, r"input\[0\]"),
    (OPENAI, {"input": [0] * 513}, "513 token ids"),
    (OPENAI, {"input": [{"image": "x"}] * 65, "on_error": "null"}, "input: 65 items"),
    (OPENAI, texts(dimensions=0), "dimensions.*1 to 64"),
    (OPENAI, texts(dimensions=65), "dimensions.*1 to 64"),
    (OPENAI, texts(dimensions=1.5), "dimensions.*whole number"),
    (OPENAI, texts(dimensions=True), "dimensions.*whole number"),
    (OPENAI, texts(dimensions="8"), "dimensions.*whole number"),
    (OPENAI, texts(dimension=8), "dimension: .*did you mean 'dimensions'"),
    (OPENAI, texts(encoding_format="float64"), "encoding_format.*base64"),
    (OPENAI, texts(encoding_format=["float"]), "encoding_format"),
    (OPENAI, texts(encoding_format="int8", embedding_type="binary"), "several precisions"),
    (OPENAI, texts(late_chunking=True), "late_chunking"),
    (OPENAI, texts(return_multivector=True), "return_multivector"),
    (OPENAI, texts(normalized=False), "normalized"),
    (OPENAI, texts(task="retrieval.question"), "task.*retrieval.query"),
    (OPENAI, texts(input_type="passages"), "input_type.*passage"),
    (OPENAI, texts(input_type="query", role="document"), "contradict"),
    (OPENAI, texts(input_type="query", task="retrieval.passage"), "contradict"),
    (OPENAI, texts(truncate="START"), "truncate.*START"),
    (OPENAI, texts(truncate="maybe"), "truncate"),
    (OPENAI, texts(instruction=["a"]), "instruction"),
    (OPENAI, texts(modality="audio"), "modality.*image"),
    (OPENAI, texts(modality="image"), "0"),
    (OPENAI, texts(on_error="skip"), "on_error"),
    (OPENAI, texts(mm_processor_kwargs={"fps": 2}), "mm_processor_kwargs"),
    (OPENAI, texts(messages=[]), "input or messages"),
    (OPENAI, texts(model=7), "model"),
    (OPENAI, {"input": "https://example.org/cat.jpg"}, '0.*address.*"image"'),
    (OPENAI, {"input": ["good", "http://example.org/a/b.MP4?x=1"]}, '1.*"video"'),
    (OPENAI, {"input": "file:///home/me/talk.pdf"}, '"pdf"'),
    (OPENAI, {"input": "data:image/png;base64,iVBORw0KGgo="}, '"image"'),
    (OPENAI, {"input": sent("$PNG")}, '"image"'),
    (OPENAI, {"input": sent("$MP4")}, '"video"'),
    (OPENAI, {"input": sent("$PDF")}, '"pdf"'),
    (OPENAI, image("https://example.org/cat.jpg"), "1.*--allow-host"),
    (OPENAI, image("http://127.0.0.1:9/cat.jpg"), "1.*--allow-host"),
    (OPENAI, image("file:///etc/passwd"), "1.*data URI"),
    (OPENAI, image("ftp://example.org/a.png"), "1.*scheme"),
    (OPENAI, image("/etc/passwd"), "1.*data URI"),
    (OPENAI, image("../../cat.png"), "1.*data URI"),
    (OPENAI, image("C:\\cat.png"), "1.*scheme"),
    (OPENAI, image(""), "1.*data URI"),
    (OPENAI, image(17), "1"),
    (OPENAI, image({}), "1.*url"),
    (OPENAI, image({"url": "a", "bytes": "b"}), "1.*url"),
    (OPENAI, image({"url": sent("data:;base64,$PNG"), "detail": "low"}), "1.*detail"),
    (OPENAI, image("data:image/png;base64"), "1.*comma"),
    (OPENAI, image("data:image/png;base64,"), "1.*no bytes"),
    (OPENAI, image("data:image/png;base64,@@@@"), "1.*base64"),
    (OPENAI, image("data:image/png;base64,A"), "1.*base64"),
    (OPENAI, image(f"data:text/html;base64,{HTML}"), "1.*markup"),
    (OPENAI, image(f"data:image/svg+xml;base64,{HTML}"), "1.*markup"),
    (OPENAI, image(f"data:image/png;base64,{HTML}"), "1"),
    (OPENAI, image(sent("data:image/png;base64,$PDF")), "1.*pdf"),
    (OPENAI, image(f"data:image/png;base64,{BIG}"), "1.*allowed: 1,000,000"),
    (OPENAI, {"input": [{"video": [BIG, BIG]}]}, "0.*allowed: 1,000,000"),
    (OPENAI, {"input": [{"pdf": sent("$PNG")}]}, "0.*image"),
    (OPENAI, {"input": [{"pdf": sent("$PDF"), "pages": "9"}]}, "0"),
    (OPENAI, {"input": [{"video": sent("$MP4"), "num_frames": 0}]}, "0.*num_frames"),
    (OPENAI, {"input": [{"video": sent("$MP4"), "num_frames": 65}]}, "0.*64"),
    (OPENAI, {"input": [{"video": sent("$MP4"), "fps": "fast"}]}, "0.*fps"),
    (OPENAI, {"input": [{"image": sent("$PNG"), "max_tokens": 10**6}]}, "0.*max_tokens"),
    (OPENAI, {"input": [{"image": sent("$PNG"), "fps": 2}]}, "0.*fps"),
    (OPENAI, {"input": [{"audio": "x"}]}, "0.*audio"),
    (OPENAI, {"input": [{}]}, "0"),
    (OPENAI, {"input": ["good", {"content": []}]}, r"input\[1\]\.content"),
    (OPENAI, {"input": [{"content": [{"type": "audio", "audio": "x"}]}]}, r"content\[0\].*audio"),
    (OPENAI, {"input": [{"content": [{"type": "image_url"}]}]}, r"content\[0\].*image_url"),
    (OPENAI, {"input": [{"content": ["a"], "text": "b"}]}, r"input\[0\].*text"),
    (OPENAI, {"input": [{"content": [{"content": ["a"]}]}]}, r"content\[0\]"),
    (OPENAI, {"input": ["good", "\ud800"]}, "1.*invalid_text"),
    (OPENAI, {"input": ["x" * 2_000_001]}, "0.*2,000,000"),
    (OPENAI, chat(), "messages|input"),
    (OPENAI, chat("hello"), r"messages\[0\]"),
    (OPENAI, chat({"role": "tool", "content": "a"}), r"messages\[0\]\.role"),
    (OPENAI, chat({"role": "user", "content": None}), r"messages\[0\]\.content"),
    (OPENAI, chat({"role": "system", "content": "only"}), "messages"),
    (OPENAI, chat(user("a"), {"role": "assistant", "content": "b"}), r"messages\[1\]"),
    (OPENAI, chat({"role": "assistant", "content": ""}, user("b")), r"messages\[0\]"),
    (OPENAI, chat({"role": "user", "content": "a", "weight": 2}), "weight"),
    (
        OPENAI,
        chat({"role": "system", "content": "a"}, {"role": "user", "content": "b"}, instruction="c"),
        "instruction",
    ),
    (COHERE, cohere(input_type=None), "input_type"),
    (COHERE, cohere(input_type="query"), "input_type.*search_query"),
    (COHERE, cohere(input_type="image"), "input_type"),
    (COHERE, cohere(texts=[]), "texts"),
    (COHERE, cohere(images=["data:image/png;base64,AAAA"]), "texts, images or inputs"),
    (COHERE, cohere(texts="good"), "texts.*list"),
    (COHERE, cohere(texts=["good", 5]), r"texts\[1\]"),
    (COHERE, cohere(texts=["https://example.org/cat.jpg"]), '0.*"images"'),
    (COHERE, cohere(embedding_types=["float16"]), r"embedding_types\[0\].*ubinary"),
    (COHERE, cohere(embedding_types="float"), "embedding_types"),
    (COHERE, cohere(output_dimension=1000), "output_dimension.*1 to 64"),
    (COHERE, cohere(truncate="START"), "truncate"),
    (COHERE, cohere(max_tokens=10), "max_tokens"),
    (COHERE, {"inputs": ["good"], "input_type": "search_document"}, r"inputs\[0\]"),
    (VOYAGE, {}, "inputs"),
    (VOYAGE, {"inputs": []}, "inputs"),
    (VOYAGE, {"inputs": [["good", "x"]]}, r"inputs\[0\]"),
    (VOYAGE, voyage("good", input_type="search_query"), "input_type"),
    (VOYAGE, voyage("good", output_encoding="hex"), "output_encoding"),
    (VOYAGE, voyage("good", output_dtype="float16"), "output_dtype"),
    (VOYAGE, voyage("good", truncation="END"), "truncation"),
    (VOYAGE, voyage({"type": "image_base64", "image_base64": "aGVsbG8="}), "0.*data URI"),
    (VOYAGE, voyage({"type": "text", "text": "a", "image": "b"}), "content.*image"),
    (RERANK, {"documents": ["a"]}, "query"),
    (RERANK, {"query": "a"}, "documents"),
    (RERANK, {"query": "a", "documents": []}, "documents"),
    (RERANK, {"query": "a", "documents": "b"}, "documents"),
    (RERANK, {"query": "a", "documents": ["b", 5]}, r"documents\[1\]"),
    (RERANK, {"query": 5, "documents": ["b"]}, "query"),
    (RERANK, {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
    (RERANK, {"query": "a", "documents": ["b"], "rank_fields": ["title"]}, "rank_fields"),
    (RERANK, {"query": "a", "documents": ["b"], "max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    (RERANK, {"query": "a", "documents": [{"text": "b", "instruction": "c"}]}, "instruction"),
    (RERANK, {"query": "a", "documents": [{"title": "b"}]}, "0.*title"),
    (RERANK, {"query": "https://example.org/cat.jpg", "documents": ["b"]}, '"image"'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "words"), CASES)
def test_a_bad_request_is_refused_with_its_reason(
    door: Door, path: str, body: Any, words: str
) -> None:
    status, error = door.refusal(path, body)
    assert status in (400, 413, 415)
    assert re.search(words, error["message"], re.DOTALL), error["message"]
    assert error["code"] and error["request_id"] and error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1000
    assert_nothing_leaks(json.dumps(error))


def assert_nothing_leaks(text: str) -> None:
    """No address of memory, path of this machine, or words of a library."""
    assert not re.search(r"0x[0-9a-f]{6,}|/tmp/|/usr/|/home/(?!me)|Traceback|File \"", text)
    assert not re.search(r"PIL|pymupdf|libav|ffmpeg|pydantic|torch|numpy", text, re.IGNORECASE)


@pytest.mark.parametrize("path", [OPENAI, COHERE, VOYAGE, RERANK])
def test_another_model_is_not_found_and_the_answer_lists_what_is(door: Door, path: str) -> None:
    bodies = {
        OPENAI: {"input": "a"},
        COHERE: cohere(),
        VOYAGE: voyage("a"),
        RERANK: {"query": "a", "documents": ["b"]},
    }
    for name in ("gpt-4", "../secret", "/etc"):
        status, error = door.refusal(path, {**bodies[path], "model": name})
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "tiny" in error["message"]
    assert door.answer(path, {**bodies[path], "model": None})


def test_harmless_fields_of_other_clients_and_empty_ones_are_accepted(door: Door) -> None:
    more = {"user": "me", "priority": 3, "add_special_tokens": False, "chat_template": None}
    assert door.answer(OPENAI, texts(**more))
    assert door.answer(COHERE, cohere(priority=0, max_tokens=None, truncate="END"))
    assert door.answer(VOYAGE, voyage("a", truncation=True, output_encoding=None))


def test_a_body_that_is_no_json_is_refused(door: Door) -> None:
    kinds = {"content-type": "application/json"}
    for content in (b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"input": NaN}', b'{"a":1,"a":2}'):
        response = door.client.post(door.url + OPENAI, content=content, headers=kinds)
        assert response.status_code == 400 and response.json()["error"]["message"], content
    form = door.client.post(door.url + OPENAI, data={"input": "a"})
    assert form.status_code == 415


def test_of_two_bad_items_one_is_named(door: Door) -> None:
    good = media_files.encode_image(media_files.photo(seed=5))
    uri = f"data:image/png;base64,{base64.b64encode(good).decode()}"
    cut = f"data:image/png;base64,{base64.b64encode(good[:60]).decode()}"
    _, error = door.refusal(OPENAI, {"input": [{"image": uri}, {"image": cut}, {"image": cut}]})
    assert error["index"] == 1 and "item 1 (image" in error["message"]
