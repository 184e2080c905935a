"""OpenAI's own Python client gets equal vectors, and its own exceptions."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.server.bodies import media
from tests.server.door import Door, opened

KEY = "a-key-of-sufficient-length"
EQUAL = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{door.url}/v1", api_key="any", max_retries=0) as found:
        yield found


def vectors(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    return np.array([each.embedding for each in answer.data], dtype=np.float32)


def test_a_string_a_list_and_token_ids_give_the_vectors_of_encode(
    door: Door, client: openai.OpenAI
) -> None:
    texts = ["a red apple moving left", "a dog in the rain"]
    reference = door.embedder.encode(texts)
    ids = door.embedder.processor.tokens.encode(texts)
    for given, rows in ((texts, [0, 1]), (texts[1], [1]), (ids, [0, 1]), (ids[0], [0])):
        answer = client.embeddings.create(model="tiny", input=given)
        np.testing.assert_allclose(vectors(answer), reference[rows], **EQUAL)
    assert answer.model == "tiny" and answer.usage.total_tokens > 0


def test_the_default_and_both_encodings_are_the_same_floats(client: openai.OpenAI) -> None:
    default = vectors(client.embeddings.create(model="tiny", input="a dog"))
    floats = client.embeddings.create(model="tiny", input="a dog", encoding_format="float")
    packed = client.embeddings.create(model="tiny", input="a dog", encoding_format="base64")
    raw = packed.data[0].embedding
    assert isinstance(raw, str)
    assert base64.b64decode(raw) == vectors(floats).tobytes() == default.tobytes()


def test_dimensions_are_cut_and_normalised(door: Door, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny", input="a dog", dimensions=20, user="me")
    reference = door.embedder.encode(["a dog"], truncate_dim=20)
    np.testing.assert_allclose(vectors(answer), reference, **EQUAL)


def test_media_and_roles_go_through_extra_body(door: Door, client: openai.OpenAI) -> None:
    picture = media()["$PNG"]
    uri = "data:image/png;base64," + base64.b64encode(picture).decode()
    content = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "but at night"},
    ]
    answer = client.embeddings.create(
        model="tiny",
        input=None,  # type: ignore[arg-type]
        extra_body={"messages": [{"role": "user", "content": content}], "input_type": "query"},
    )
    item = {"content": [{"image": picture}, {"text": "but at night"}]}
    reference = door.embedder.encode([item], role="query")
    np.testing.assert_allclose(vectors(answer), reference, **EQUAL)
    listed = client.embeddings.create(model="tiny", input=[{"image": uri}])  # type: ignore
    np.testing.assert_allclose(vectors(listed), door.embedder.encode([{"image": picture}]), **EQUAL)


def test_a_failed_item_is_null_for_the_client_too(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model="tiny",
        input=["good", {"image": "/etc/passwd"}],  # type: ignore[list-item]
        extra_body={"on_error": "null"},
    )
    assert answer.data[0].embedding and answer.data[1].embedding is None


def test_the_async_client_gets_the_same(door: Door) -> None:
    texts = [f"text number {number}" for number in range(12)]

    async def ask() -> list[np.ndarray]:
        async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="any") as client:
            answers = [client.embeddings.create(model="tiny", input=text) for text in texts]
            return [vectors(answer)[0] for answer in await asyncio.gather(*answers)]

    np.testing.assert_allclose(asyncio.run(ask()), door.embedder.encode(texts), **EQUAL)


def test_errors_are_the_classes_that_clients_catch(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="tiny", input="https://example.org/cat.jpg")
    assert bad.value.code == "invalid_text" and bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="tiny", input="a", dimensions=65)
    assert bad.value.param == "dimensions"
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="text-embedding-9", input="a")
    assert missing.value.code == "model_not_found"
    assert "tiny" in [model.id for model in client.models.list()]


def test_a_key_is_asked_for_and_overload_is_said(tiny_checkpoint: Path) -> None:
    with opened(tiny_checkpoint, None, api_keys=(KEY,), max_queue_cost=1) as url:
        base = f"{url}/v1"
        name = tiny_checkpoint.name
        with openai.OpenAI(base_url=base, api_key="wrong", max_retries=0) as wrong:
            with pytest.raises(openai.AuthenticationError):
                wrong.embeddings.create(model=name, input="a")
        with openai.OpenAI(base_url=base, api_key=KEY, max_retries=0) as right:
            assert right.embeddings.create(model=name, input="a").data[0].embedding

        async def flood() -> list[object]:
            async with openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0) as many:
                asked = [
                    many.embeddings.create(model=name, input=[f"{n} {m}" for m in range(200)])
                    for n in range(16)
                ]
                return await asyncio.gather(*asked, return_exceptions=True)

        outcomes = asyncio.run(flood())
        refused = [each for each in outcomes if isinstance(each, openai.RateLimitError)]
        answered = [each for each in outcomes if not isinstance(each, BaseException)]
        assert refused and answered and len(refused) + len(answered) == len(outcomes)
        assert int(refused[0].response.headers["retry-after"]) >= 1
