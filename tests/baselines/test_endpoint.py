"""A server of vectors behind the common interface, against a real one on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmembed.baselines.endpoint import EndpointModel
from mmembed.baselines.loading import load_model
from mmembed.errors import CheckpointError, ConfigError, EndpointError, InputError
from mmembed.types import Image, MultimodalInput, Text
from tests.endpoints.server import Fault, ModelServer, vector_of

pytest.importorskip("httpx2")


def text(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


def at(faults: dict[int, Fault]) -> Callable[[int, Any], Fault | None]:
    """Faults by the number of the request."""
    return lambda number, body: faults.get(number)


def unit(words: str) -> np.ndarray:
    row = np.array(vector_of(words))
    return row / np.linalg.norm(row)


def test_rows_are_the_servers_vectors_of_unit_length_in_the_order_of_the_items() -> None:
    with ModelServer() as server:
        model = load_model(f"endpoint:{server.url}#some-model")
        words = [f"text {n % 70}" for n in range(100)]
        rows = model.encode([text(each) for each in words], role="document")
        bodies = [asked.body for asked in server.requests]
        model.close()
    assert rows.dtype == np.float32 and rows.shape == (100, model.embedding_dimension) == (100, 8)
    np.testing.assert_allclose(rows, [unit(each) for each in words], atol=1e-6)
    sent = [each for body in bodies for each in body["input"] if each.startswith("text")]
    assert sorted(sent) == sorted(set(words))  # each text once
    assert {body["model"] for body in bodies} == {"some-model"}


def test_an_instruction_stands_in_front_and_texts_are_joined() -> None:
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m")
        items = [text("a", "Find it:"), MultimodalInput((Text("a"), Text("b")), "Find: ")]
        rows = model.encode(items, role="query")
        model.close()
    np.testing.assert_allclose(rows, [unit("Find it: a"), unit("Find: a b")], atol=1e-6)


def test_a_picture_is_refused_with_its_index() -> None:
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m")
        picture = MultimodalInput((Image(np.zeros((8, 8, 3), np.uint8)),))
        with pytest.raises(InputError, match="texts only") as caught:
            model.encode([text("a"), picture], role="query")
        assert caught.value.index == 1 and not server.requests
        model.close()


def test_the_space_is_of_the_address_and_the_model() -> None:
    names = ["http://a/v1#m", "http://a/v1/#m", "http://b/v1#m", "http://a/v1#n"]
    spaces = [EndpointModel(name).space for name in names]
    assert spaces[0] == spaces[1] and len(set(spaces)) == 3 and len(spaces[0]) == 64


def test_the_key_is_taken_from_the_named_variable(monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m#SOME_KEY")
        model.encode([text("a")], role="query")
        sent = {key.lower(): value for key, value in server.requests[0].headers.items()}
        model.close()
    assert sent["authorization"] == "Bearer secret"
    assert "secret" not in model.name and "SOME_KEY" not in model.name


def answer(*vectors: list[float] | str) -> bytes:
    data = [{"index": n, "embedding": each} for n, each in enumerate(vectors)]
    return json.dumps({"data": data}).encode()


def test_vectors_are_told_apart_by_their_index() -> None:
    rows = [{"index": n, "embedding": vector_of(word)} for n, word in enumerate("ab")]
    body = json.dumps({"data": rows[::-1]}).encode()
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m")
        assert model.embedding_dimension == 8
        server.fault = at({1: Fault("body", body)})
        found = model.encode([text("a"), text("b")], role="query")
        model.close()
    np.testing.assert_allclose(found, [unit("a"), unit("b")], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"data": [{"index": [0], "embedding": []}]}', r"the index \[0\]"),
        (b"{}", "0 embeddings for 2 texts"),
        (answer([1.0, 2.0]), "1 embeddings for 2 texts"),
        (answer([1.0] * 8, "base64"), "entry 1 has no `embedding`"),
        (answer([1.0] * 8, [1.0, 2.0]), "embeddings of 2 and of 8 numbers"),
        (answer([1.0] * 8, [None] * 8), "no number|NaN"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(body: bytes, message: str) -> None:
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m")
        assert model.embedding_dimension == 8
        server.fault = at({1: Fault("body", body)})
        with pytest.raises((EndpointError, InputError), match=message):
            model.encode([text("a"), text("b")], role="query")
        model.close()


def test_a_refused_batch_is_asked_again_text_by_text_and_only_the_bad_one_is_named() -> None:
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m")
        assert model.embedding_dimension == 8
        server.fault = at({1: Fault("status", 400), 3: Fault("status", 400)})
        with pytest.raises(InputError, match="status 400") as caught:
            model.encode([text("a"), text("b"), text("c")], role="query")
        assert caught.value.index == 1 and len(caught.value.errors) == 1
        model.close()


def test_other_refusals_end_it() -> None:
    with ModelServer() as server:
        model = EndpointModel(f"{server.url}#m")
        server.fault = at({0: Fault("status", 401)})
        with pytest.raises(EndpointError, match="status 401"):
            model.encode([text("a")], role="query")
        assert len(server.requests) == 1
        model.close()


def test_an_address_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no model"):
        load_model("endpoint:http://localhost:8000/v1")
    with pytest.raises(CheckpointError, match="endpoint:URL#MODEL"):
        load_model("endpont:http://localhost:8000/v1#m")
