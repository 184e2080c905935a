"""Batches in flight: results in order, errors that come late, and what the report says of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from mmembed import Embedder, Reranker
from mmembed.encoder import batching
from mmembed.encoder.batching import Batch, batches, windows
from mmembed.encoder.calibration import BatchTokens, CallBudget
from mmembed.encoder.device_queue import DeviceQueue
from mmembed.encoder.report import EncodeReport
from mmembed.inputs.items import PreparedItem
from mmembed.inputs.processor import InputConfig, Processor
from mmembed.types import Image, MultimodalInput, Page, Video
from tests.encoder.forwards import counted

CPU = torch.device("cpu")


def prepared(length: int, token: int = 0) -> PreparedItem:
    return PreparedItem(np.full(length, token), np.zeros((3, length), dtype=np.int64))


def batch(*lengths: int) -> Batch:
    return Batch(1000, list(range(len(lengths))), [prepared(n, n) for n in lengths], sum(lengths))


def first_tokens(inputs) -> torch.Tensor:
    """(B, 1): which items they were."""
    return inputs["input_ids"][inputs["cu_seqlens"][:-1].long()].float().unsqueeze(1)


def queue(forward, **options) -> DeviceQueue:
    tokens = BatchTokens("model", "cpu", None)
    options = {"halves_batches": True, **options}
    return DeviceQueue(forward, CPU, CallBudget(tokens, None, can_try=False), **options)


def test_results_come_in_order_and_the_next_batch_is_launched_before_they_are_read():
    events: list[str] = []

    def forward(inputs):
        events.append(f"launch {int(inputs['input_ids'][0])}")
        return first_tokens(inputs)

    for done, rows in queue(forward).run([batch(3, 2), batch(5), batch(4, 1)]):
        events.append(f"read {done.items[0].num_tokens}")
        assert [int(row[0]) for row in rows] == [item.num_tokens for item in done.items]
    assert events == ["launch 3", "launch 5", "read 3", "launch 4", "read 5", "read 4"]


class LateRows(torch.Tensor):
    """Rows whose computation turns out not to have fitted when they are read."""

    def numpy(self, **_):
        raise torch.OutOfMemoryError("late")

    def cpu(self):
        return self


@pytest.mark.parametrize("late", [False, True])
def test_memory_that_runs_out_halves_that_batch_whenever_it_shows(late):
    def forward(inputs):
        rows = first_tokens(inputs)
        if len(inputs["input_ids"]) <= 6:
            return rows
        if late:
            return rows.as_subclass(LateRows)
        raise torch.OutOfMemoryError("at once")

    given = [batch(2), batch(5, 4, 3, 2), batch(1), batch(9, 1)]
    found = list(queue(forward).run(given))
    order = [2, 5, 1, 9]
    assert [done.items[0].num_tokens for done, _ in found] == order
    assert [[int(row[0]) for row in rows] for _, rows in found[:3]] == [[2], [5, 4, 3, 2], [1]]
    failed, fitting = found[3][1]
    assert failed.code == "out_of_memory" and "9 tokens" in failed.detail
    assert int(fitting[0]) == 1


def test_a_generator_that_is_left_early_launches_nothing_more():
    launched: list[int] = []

    def forward(inputs):
        launched.append(1)
        return first_tokens(inputs)

    endless: Iterator[Batch] = iter(lambda: batch(1), None)
    running = queue(forward).run(endless)
    next(running)
    running.close()
    assert len(launched) == 2


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=2) as loaded:
        yield loaded


def picture(seed: int) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    return PILImage.fromarray(pixels)


def test_the_report_says_where_the_time_went(embedder):
    items = [f"text {number}" for number in range(30)] + [picture(1), picture(1), "text 0"]
    with counted(embedder) as forwards:
        _, report = embedder.encode(items, batch_size=4, return_report=True)
    assert 0 < report.data_wait_seconds < report.seconds
    assert 0 < report.data_wait_share < 1
    assert report.tokens_per_second == report.num_tokens / report.seconds
    assert (report.num_encoded, report.num_cached) == (31, 0)
    assert len(forwards) == 8
    nothing = EncodeReport(ok=np.zeros(0, dtype=bool))
    assert (nothing.tokens_per_second, nothing.data_wait_share) == (0.0, 0.0)


def test_a_reranker_reports_the_same(tiny_reranker):
    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as reranker:
        _, report = reranker.score("a", ["b", "c", "b"], return_report=True)
        with counted(reranker, fits=10_000) as forwards:
            reranker.score("a", ["b", "c", "b"])
    assert report.num_encoded == 2
    assert report.seconds > report.data_wait_seconds > 0
    assert len(forwards) == 1


def test_a_reranker_halves_too(tiny_reranker):
    documents = [f"document {number}" for number in range(8)]
    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as reranker:
        expected = reranker.score("a", documents)
        largest = len(reranker.processor.prepare(pair(documents[0])).input_ids)
        with counted(reranker, fits=3 * largest):
            assert np.abs(reranker.score("a", documents) - expected).max() <= 1e-6


def pair(document: str):
    from mmembed.inputs.items import Pair

    return Pair(MultimodalInput.of("a"), MultimodalInput.of(document))


def test_windows_start_small_and_stay_within_their_bound():
    config = InputConfig()
    texts = [(MultimodalInput.of(str(number)), [number]) for number in range(20_000)]
    sizes = [len(window.items) for window in windows(texts, config)]
    assert sizes[:3] == [1024, 2048, 4096]
    assert max(sizes) == 4096 and sum(sizes) == 20_000
    assert [len(w.items) for w in windows(texts[:1000], config)] == [1000]


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (Image(b"x"), 1280),
        (Image(b"x", max_tokens=256), 256),
        (Page(b"x", max_tokens=640), 640),
        (Video(b"x"), 8 * 180),
        (Video(b"x", num_frames=32, max_tokens=100), 3200),
        (Video((b"x",) * 4), 4 * 180),
        (Video(b"x", num_frames=768), 8192),
    ],
)
def test_media_weigh_what_they_take_in_memory(part, tokens):
    groups = [(MultimodalInput((part,)), [number]) for number in range(3000)]
    sizes = [len(window.items) for window in windows(groups, InputConfig())]
    assert max(sizes) == 4096 * 8 // tokens or max(sizes) == 4096 // (tokens // 8)


def test_the_budget_is_asked_for_each_batch():
    budgets = iter([10, 30, 20])
    found = list(batches([prepared(10)] * 6, budget=lambda: next(budgets), batch_size=None))
    assert [(each.budget, each.cost) for each in found] == [(10, 10), (30, 30), (20, 20)]


def test_two_windows_are_in_memory_and_not_more(embedder, monkeypatch):
    """Prepared items are gone as soon as their window is done."""
    monkeypatch.setattr(batching, "_FIRST_WINDOW_WEIGHT", 4)
    monkeypatch.setattr(batching, "_WINDOW_WEIGHT", 4)
    alive: list[weakref.ref[PreparedItem]] = []
    most = 0
    finish = Processor._finish

    def watched(*arguments):
        nonlocal most
        item = finish(*arguments)
        alive.append(weakref.ref(item))
        most = max(most, sum(each() is not None for each in alive))
        return item

    monkeypatch.setattr(Processor, "_finish", watched)
    embedder.encode([f"text {number}" for number in range(60)])
    assert len(alive) == 60
    assert 4 < most <= 8


@pytest.mark.parametrize("modality", ["text", "image"])
def test_bfloat16_on_a_cpu_keeps_the_direction(embedder, tiny_checkpoint, modality):
    items = [f"a text about number {n}" for n in range(8)]
    if modality == "image":
        items = [picture(seed) for seed in range(4)]
    expected = embedder.encode(items)
    with Embedder.from_pretrained(tiny_checkpoint, dtype="bfloat16", num_workers=1) as half:
        found = half.encode(items)
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() >= 0.999


def test_compiled_layers_give_the_same_vectors(embedder, tiny_checkpoint):
    layer = embedder.encoder.backbone.layers[0]
    assert layer._compiled_call_impl is None
    texts = ["a cat", "a longer text about a dog"]
    with Embedder.from_pretrained(tiny_checkpoint, compile=True, num_workers=1) as compiled:
        assert compiled.encoder.backbone.layers[0]._compiled_call_impl is not None
        assert np.abs(compiled.encode(texts) - embedder.encode(texts)).max() <= 1e-5


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(embedder, tiny_checkpoint):
    items = [f"text {n} " + "word " * (n % 40) for n in range(200)] + [picture(n) for n in range(9)]
    expected = embedder.encode(items)
    with Embedder.from_pretrained(
        tiny_checkpoint, device="cuda", dtype="float32", num_workers=2
    ) as fast:
        for budget in (64, 512, None):
            assert np.abs(fast.encode(items, batch_tokens=budget) - expected).max() <= 1e-4
