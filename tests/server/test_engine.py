"""Items of many requests share batches, and each request gets what it would get alone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from mmembed import Embedder, Reranker
from mmembed.errors import InputError
from mmembed.server.engine import EncodeEngine, RerankEngine
from mmembed.server.errors import EngineFault, EngineTimeout, Overloaded, RequestError, Stopping
from mmembed.server.settings import ServerSettings
from mmembed.types import Image, MultimodalInput, Page, Role, Text, Video
from tests import media_files

EQUAL = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    policy = ServerSettings().media_policy()
    with Embedder.from_pretrained(tiny_checkpoint, media=policy, num_workers=2) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> Iterator[Reranker]:
    policy = ServerSettings().media_policy()
    with Reranker.from_pretrained(tiny_reranker, media=policy, num_workers=2) as reranker:
        yield reranker


def text(words: str) -> MultimodalInput:
    return MultimodalInput((Text(words),))


def png(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def picture(number: int, words: str = "") -> MultimodalInput:
    image = Image(png(60 + 7 * number, 90, (40 * number % 256, 90, 200)))
    return MultimodalInput((image, Text(words)) if words else (image,))


def broken() -> MultimodalInput:
    return MultimodalInput((Image(png(64, 64, (1, 2, 3))[:60]),))


def serve(
    model: Any, work: Callable[[Any], Awaitable[Any]], kind: Any = EncodeEngine, **settings: Any
) -> Any:
    """What `work` gives with a running engine; every engine is empty and stopped at the end."""

    async def run() -> Any:
        engine = kind(model, ServerSettings(**settings))
        engine.start()
        try:
            result = await work(engine)
        finally:
            await engine.stop(30)
        assert "queue_cost{engine" in (metrics := engine.metrics.render())
        assert f'mmembed_queue_cost{{engine="{engine.name}"}} 0\n' in metrics
        assert not any(thread.is_alive() for thread in engine._threads)
        return result

    return asyncio.run(run())


def mixed() -> list[MultimodalInput]:
    pages = media_files.pdf(2)
    return [
        text("a red apple"),
        picture(1),
        text("a red apple"),  # equal to the first
        picture(2, "but at night"),
        MultimodalInput((Page(pages, pages="2"),)),
        MultimodalInput((Text("the clip"), Video(media_files.video(12), num_frames=4))),
        MultimodalInput((Text("an instruction of its own"),), "Find the clip."),
        *(text(f"number {n} " + "of the " * (n % 40)) for n in range(60)),
    ]


def test_vectors_are_those_of_encode_whoever_shares_the_batch(embedder: Embedder) -> None:
    items = mixed()
    roles: tuple[Role, Role] = ("query", "document")
    expected = {role: embedder.encode(items, role=role) for role in roles}

    async def work(engine: EncodeEngine) -> Any:
        whole = [engine.encode(items, role=role) for role in roles]
        single = [engine.encode([item], role=role) for role in roles for item in items]
        return await asyncio.gather(*whole, *single)

    whole_query, whole_document, *single = serve(embedder, work)
    np.testing.assert_allclose(whole_query.vectors, expected["query"], **EQUAL)
    np.testing.assert_allclose(whole_document.vectors, expected["document"], **EQUAL)
    rows = np.concatenate([one.vectors for one in single])
    np.testing.assert_allclose(rows, np.concatenate([expected[role] for role in roles]), **EQUAL)
    lengths = [embedder.processor.prepare(item, role="query").num_tokens for item in items]
    assert whole_query.tokens == lengths
    assert not whole_query.errors


def test_a_bad_item_costs_its_own_row_and_no_neighbour(embedder: Embedder) -> None:
    good = [text("a dog"), picture(3)]
    expected = embedder.encode(good)

    async def work(engine: EncodeEngine) -> Any:
        both = engine.encode([good[0], broken(), good[1]], role="document")
        others = [engine.encode(good, role="document") for _ in range(3)]
        bad = [engine.encode([broken()], role="document") for _ in range(3)]
        return await asyncio.gather(both, *others, *bad)

    both, *rest = serve(embedder, work)
    assert list(both.errors) == [1] and both.errors[1].index == 1
    assert both.errors[1].code in {"corrupt", "truncated"}
    assert np.isnan(both.vectors[1]).all() and both.tokens[1] == 0
    np.testing.assert_allclose(both.vectors[[0, 2]], expected, **EQUAL)
    for other in rest[:3]:
        np.testing.assert_allclose(other.vectors, expected, **EQUAL)
    assert all(list(other.errors) == [0] for other in rest[3:])


def test_a_long_text_is_cut_as_encode_cuts_it(embedder: Embedder) -> None:
    item = text("apple " * 20_000)
    whole = serve(embedder, lambda engine: engine.encode([text("a"), item], role="document"))
    np.testing.assert_allclose(whole.vectors[1], embedder.encode([item])[0], **EQUAL)
    assert whole.truncated == [1]
    short = serve(
        embedder, lambda engine: engine.encode([item], role="document"), max_item_tokens=64
    )
    assert short.tokens == [64]


def test_small_requests_do_not_wait_for_a_large_one(embedder: Embedder) -> None:
    """The large one is thousands of tokens; the small ones come after it and end before it."""
    large = [text(f"{n} " + "of the " * 60) for n in range(400)]
    ended: list[str] = []

    async def work(engine: EncodeEngine) -> None:
        async def ask(name: str, items: list[MultimodalInput]) -> None:
            await engine.encode(items, role="document")
            ended.append(name)

        first = asyncio.create_task(ask("large", large))
        await asyncio.sleep(0)
        for n in range(3):
            await ask(f"small {n}", [text(f"dog {n}")])
        await first

    serve(embedder, work)
    assert ended == ["small 0", "small 1", "small 2", "large"]


def test_texts_do_not_wait_for_media_to_be_decoded(embedder: Embedder) -> None:
    clips = [
        MultimodalInput((Video(media_files.video(200 + n, size=(640, 360)), num_frames=8),))
        for n in range(4)
    ]
    ended: list[str] = []

    async def work(engine: EncodeEngine) -> None:
        async def ask(name: str, items: list[MultimodalInput]) -> None:
            await engine.encode(items, role="document")
            ended.append(name)

        slow = asyncio.create_task(ask("clips", clips))
        await asyncio.sleep(0)
        await ask("text", [text("a dog")])
        await slow

    serve(embedder, work)
    assert ended == ["text", "clips"]


def test_a_full_queue_refuses_and_says_when_to_come_back(embedder: Embedder) -> None:
    async def work(engine: EncodeEngine) -> Any:
        filling = asyncio.create_task(engine.encode([picture(n) for n in range(8)], role="query"))
        await asyncio.sleep(0)
        assert not engine.is_ready
        with pytest.raises(Overloaded) as refused:
            await engine.encode([text("a dog")], role="query")
        await filling
        assert engine.is_ready
        await engine.encode([text("a dog")], role="query")
        return refused.value

    error = serve(embedder, work, max_queue_cost=100)
    assert (error.status, error.code) == (429, "overloaded")
    assert error.retry_after is not None and error.retry_after >= 1


def test_a_request_above_the_queue_runs_when_nothing_waits(embedder: Embedder) -> None:
    items = [text(f"dog {n}") for n in range(50)]
    encoded = serve(
        embedder, lambda engine: engine.encode(items, role="document"), max_queue_cost=10
    )
    assert not encoded.errors


def test_a_cancelled_request_leaves_the_queue(embedder: Embedder) -> None:
    async def work(engine: EncodeEngine) -> Any:
        long = [text(f"{n} " + "of the " * 100) for n in range(300)]
        tasks = [asyncio.create_task(engine.encode(long, role="query")) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert all(task.cancelled() for task in tasks[:2])
        short = await engine.encode([text("a dog")], role="query")
        await tasks[2]
        assert engine.metrics.value("cancelled_total", engine="embed") == 2
        return short

    short = serve(embedder, work)
    np.testing.assert_allclose(short.vectors, embedder.encode(["a dog"], role="query"), **EQUAL)


def test_a_request_that_takes_too_long_is_given_up(embedder: Embedder) -> None:
    async def work(engine: EncodeEngine) -> Any:
        with pytest.raises(EngineTimeout) as late:
            await engine.encode([text("of the " * 3000)] + [picture(n) for n in range(9)],
                                role="query")  # fmt: skip
        return late.value

    assert serve(embedder, work, request_timeout_seconds=0.005).status == 504


def test_stopping_finishes_what_was_accepted_and_refuses_the_rest(embedder: Embedder) -> None:
    async def work() -> Any:
        engine = EncodeEngine(embedder, ServerSettings())
        with pytest.raises(Stopping):
            await engine.encode([text("too early")], role="query")
        engine.start()
        accepted = [
            asyncio.create_task(engine.encode([text(f"dog {n}"), picture(n)], role="query"))
            for n in range(8)
        ]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(engine.stop(30))
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await engine.encode([text("too late")], role="query")
        await stopping
        return [task.result() for task in accepted]

    assert all(not encoded.errors for encoded in asyncio.run(work()))


def test_stopping_without_grace_answers_that_it_stops(embedder: Embedder) -> None:
    async def work() -> Any:
        engine = EncodeEngine(embedder, ServerSettings())
        engine.start()
        items = [text(f"{n} " + "of the " * 200) for n in range(300)]
        task = asyncio.create_task(engine.encode(items, role="query"))
        await asyncio.sleep(0)
        await engine.stop(0)
        with pytest.raises(Stopping):
            await task

    asyncio.run(work())


def test_a_batch_on_which_the_model_raises_harms_the_request_at_fault_only(
    embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    bad = text("a poisoned text")
    length = embedder.processor.prepare(bad).num_tokens
    fine = text("a text of another length, which shares the batch with the poisoned one")

    def fault(module: Any, arguments: Any) -> None:
        if length in np.diff(arguments[0]["cu_seqlens"].numpy()):
            raise RuntimeError("kernel launch failed")

    async def work(engine: EncodeEngine) -> Any:
        hook = embedder.encoder.register_forward_pre_hook(fault)
        try:
            outcomes = await asyncio.gather(
                *(engine.encode([item], role="document") for item in (fine, bad, fine)),
                return_exceptions=True,
            )
        finally:
            hook.remove()
        return outcomes, await engine.encode([bad], role="document")

    (first, second, third), again = serve(embedder, work)
    assert isinstance(second, EngineFault) and second.status == 500
    assert "kernel" not in str(second) and "kernel" in caplog.text
    expected = embedder.encode([MultimodalInput(fine.parts)])
    np.testing.assert_allclose(first.vectors, expected, **EQUAL)
    np.testing.assert_allclose(third.vectors, expected, **EQUAL)
    assert not again.errors


def test_an_item_for_which_the_model_gives_nan_is_an_error_of_its_own(embedder: Embedder) -> None:
    def spoil(module: Any, arguments: Any, rows: Any) -> Any:
        rows = rows.clone()
        rows[0, 0] = float("nan")
        return rows

    async def work(engine: EncodeEngine) -> Any:
        hook = embedder.encoder.register_forward_hook(spoil)
        try:
            return await engine.encode([text("a dog"), text("a cat")], role="document")
        finally:
            hook.remove()

    encoded = serve(embedder, work)
    assert [error.code for error in encoded.errors.values()] == ["nonfinite"]
    assert np.isfinite(encoded.vectors).all(axis=1).sum() == 1


@pytest.mark.parametrize(
    ("items", "settings", "code"),
    [
        ([], {}, "empty"),
        ([text("a"), text("b"), text("c")], {"max_items": 2}, "too_many_items"),
        ([picture(1), picture(2)], {"max_media_items": 1}, "too_many_items"),
    ],
)
def test_the_number_of_items_has_a_limit(
    embedder: Embedder, items: Any, settings: Any, code: str
) -> None:
    async def work(engine: EncodeEngine) -> Any:
        with pytest.raises(RequestError) as refused:
            await engine.encode(items, role="document")
        return refused.value

    error = serve(embedder, work, **settings)
    assert (error.status, error.code) == (400, code)


def test_items_above_a_limit_are_refused_before_they_are_opened(embedder: Embedder) -> None:
    items = [
        text("a" * 101),
        MultimodalInput((Image(bytes(1001)),)),
        MultimodalInput((Page(bytes(1001)),)),
        MultimodalInput((Video(tuple(bytes(9) for _ in range(9))),)),
        text("fine"),
    ]
    encoded = serve(
        embedder,
        lambda engine: engine.encode(items, role="document"),
        max_text_chars=100,
        max_image_bytes=1000,
        max_pdf_bytes=1000,
        max_frames=8,
    )
    codes = {position: error.code for position, error in encoded.errors.items()}
    assert codes == {0: "too_large", 1: "too_large", 2: "too_large", 3: "too_many_frames"}


def test_files_of_the_server_cannot_be_read(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(png(9, 9, (0, 0, 0)))
    item = MultimodalInput((Image(path),))
    encoded = serve(embedder, lambda engine: engine.encode([item], role="document"))
    assert encoded.errors[0].code == "forbidden_path"


def test_scores_are_those_of_the_reranker(reranker: Reranker) -> None:
    query, documents = picture(4, "this, at night"), [text("a dog"), picture(5), broken()]
    documents += [text(f"the dog {n}") for n in range(20)]
    good = [n for n in range(len(documents)) if n != 2]
    expected = reranker.score(query, [documents[n] for n in good], instruction="Find it.")

    async def work(engine: RerankEngine) -> Any:
        asked = (engine.score(query, documents, "Find it.") for _ in range(2))
        return await asyncio.gather(*asked)

    for scores in serve(reranker, work, RerankEngine):
        assert isinstance(scores[2], InputError)
        assert scores[2].index == (2, "document")
        np.testing.assert_allclose([scores[n] for n in good], expected, **EQUAL)


def test_a_query_that_cannot_be_read_fails_the_whole_request(reranker: Reranker) -> None:
    async def work(engine: RerankEngine) -> Any:
        with pytest.raises(InputError) as refused:
            await engine.score(broken(), [text("a dog"), text("a cat")])
        return refused.value

    assert serve(reranker, work, RerankEngine).code in {"corrupt", "truncated"}
