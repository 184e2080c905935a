"""Batch tokens: what is tried, what is remembered, and what wins."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mmembed.encoder import calibration
from mmembed.encoder.batching import Batch
from mmembed.encoder.calibration import BatchTokens, CallBudget, memory_file
from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError
from tests.encoder.forwards import counted

TEXTS = [f"{number} a text of a few words" for number in range(40)]


@pytest.fixture
def memory(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))
    found = memory_file()
    assert found is not None
    return found


@pytest.fixture
def embedder(tiny_checkpoint, memory):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


def run_trials(tokens: BatchTokens, seconds_of, *, rounds: int = 5) -> None:
    """One call of that many rounds; `seconds_of(budget, round)` is the time of a full batch."""
    call = CallBudget(tokens, None, can_try=True)
    call.expect(10**9)
    for number in range(rounds):
        for _ in tokens.plan():
            budget = call.next()
            call.measured(Batch(budget, cost=budget), seconds_of(budget, number))


def proportional(speeds: dict[int, float]):
    return lambda budget, number: budget / speeds.get(budget, 1.0)


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({}, 2048),
        ({4096: 1.04}, 2048),
        ({4096: 1.06}, 4096),
        ({1024: 1.2, 4096: 1.1}, 1024),
        ({1024: 0.5, 4096: 0.9}, 2048),
    ],
)
def test_what_is_clearly_faster_is_chosen_and_else_the_default(memory, speeds, expected):
    tokens = BatchTokens("model on device", "cpu", memory)
    run_trials(tokens, proportional(speeds))
    assert tokens.best == expected
    assert BatchTokens("model on device", "cpu", memory).chosen == expected
    assert BatchTokens("another", "cpu", memory).chosen is None


def test_noise_that_helps_in_some_rounds_only_chooses_nothing(memory):
    tokens = BatchTokens("model", "cpu", memory)
    slow = {0, 1}  # the default was disturbed in two rounds of five
    run_trials(
        tokens, lambda budget, n: budget * (9 if budget == tokens.default and n in slow else 1)
    )
    assert tokens.best == tokens.default


def test_batches_that_grow_cheaper_along_a_window_do_not_favour_the_later_ones(memory):
    tokens = BatchTokens("model", "cpu", memory)
    place = itertools.cycle(range(len(tokens.plan())))
    run_trials(tokens, lambda budget, _: budget * (1 - 0.05 * next(place)))
    assert tokens.best == tokens.default


def test_the_rest_of_a_window_is_not_measured(memory):
    tokens = BatchTokens("model", "cpu", memory)
    call = CallBudget(tokens, None, can_try=True)
    call.expect(10**9)
    for _ in range(20):
        for budget in tokens.plan():
            assert call.next() == budget
            call.measured(Batch(budget, cost=budget // 10), 1.0)
    assert tokens.chosen is None


def test_a_small_call_tries_nothing(memory):
    tokens = BatchTokens("model", "cpu", memory)
    for cost, tries in ((tokens.trial_cost(), False), (2 * tokens.trial_cost(), True)):
        call = CallBudget(tokens, None, can_try=True)
        call.expect(cost)
        assert (len({call.next() for _ in tokens.plan()}) > 1) is tries


@pytest.mark.parametrize("options", [{"explicit": 500, "can_try": True}, {"can_try": False}])
def test_what_the_caller_gave_is_not_tried_with(memory, options):
    call = CallBudget(BatchTokens("model", "cpu", memory), options.pop("explicit", None), **options)
    call.expect(10**9)
    assert len({call.next() for _ in range(10)}) == 1


def remember(memory: Path, tokens: BatchTokens, value: object) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({tokens._setting: value}))


def test_a_remembered_choice_is_used_and_an_explicit_one_wins(embedder, memory, tiny_checkpoint):
    remember(memory, embedder.batch_tokens(), 1024)
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as later:
        with counted(later) as forwards:
            later.encode(TEXTS * 3 + ["x " * 60] * 2 + [f"{n} " + "y " * 90 for n in range(40)])
        assert 512 < max(forwards) <= 1024
        with counted(later) as forwards:
            later.encode(TEXTS, batch_tokens=100)
        assert max(forwards) <= 100


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1]", b"\xff\x00", b"[" * 10**5, b'{"x": 1}', b"", b"null", b" " * (2**20 + 1)],
)
def test_a_file_that_is_not_ours_is_ignored_and_replaced(memory, content):
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    tokens = BatchTokens("model", "cpu", memory)
    assert tokens.best == 2048
    run_trials(tokens, proportional({4096: 2.0}))
    assert json.loads(memory.read_text())["model"] == 4096


@pytest.mark.parametrize("value", [0, -5, 10**9, "4096", 4096.0, True, None, {}])
def test_a_remembered_value_that_could_not_have_been_tried_is_ignored(embedder, memory, value):
    tokens = embedder.batch_tokens()
    remember(memory, tokens, value)
    assert BatchTokens(tokens._setting, "cpu", memory).best == 2048


def test_a_cache_folder_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for memory in (None, tmp_path / "file" / "batch_tokens.json"):
        tokens = BatchTokens("model", "cpu", memory)
        run_trials(tokens, proportional({4096: 2.0}))
        assert tokens.best == 4096


def test_other_settings_in_the_file_stay_up_to_a_bound(memory):
    for number in range(300):
        run_trials(BatchTokens(f"model {number}", "cpu", memory), proportional({}))
    kept = json.loads(memory.read_text())
    assert list(kept) == [f"model {number}" for number in range(300 - len(kept), 300)]
    assert len(kept) == 256


def test_the_file_lies_where_the_platform_says(monkeypatch, tmp_path):
    monkeypatch.delenv("MMEMBED_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert memory_file() == tmp_path / "xdg" / "mmembed" / "batch_tokens.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert memory_file() == tmp_path / ".cache" / "mmembed" / "batch_tokens.json"


def test_device_dtype_threads_and_shape_are_told_apart(embedder, tiny_checkpoint):
    first = embedder.batch_tokens()
    assert embedder.batch_tokens() is first
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert embedder.batch_tokens()._setting != first._setting
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert embedder.batch_tokens()._setting != first._setting
    finally:
        torch.set_num_threads(before)
    for options in ({"dtype": "bfloat16"}, {"encoder": {"attention": "bidirectional"}}):
        with Embedder.from_pretrained(tiny_checkpoint, num_workers=1, **options) as other:
            assert other.batch_tokens()._setting != first._setting


def test_a_large_call_tries_budgets_on_its_own_batches(embedder, memory, monkeypatch):
    monkeypatch.setattr(calibration, "_ELSEWHERE", 128)
    texts = [f"{number} some words" for number in range(600)]
    expected = embedder.encode(texts, batch_tokens=128)
    with counted(embedder) as forwards:
        vectors, report = embedder.encode(texts, return_report=True)
    assert sum(forwards) == report.num_tokens, "every token once"
    assert np.abs(vectors - expected).max() <= 1e-5
    chosen = embedder.batch_tokens().chosen
    assert chosen in (64, 128, 256)
    assert list(json.loads(memory.read_text()).values()) == [chosen]
    with counted(embedder) as forwards:
        embedder.encode(texts)
    assert max(forwards) <= chosen, "nothing is tried again"


def test_calibrate_decides_and_remembers(embedder, memory, monkeypatch):
    monkeypatch.setattr(calibration, "_ELSEWHERE", 128)
    chosen = embedder.calibrate()
    assert chosen in (64, 128, 256)
    assert list(json.loads(memory.read_text()).values()) == [chosen]
    assert embedder.calibrate(TEXTS * 2 + [f"more {number}" for number in range(40)]) in (
        64,
        128,
        256,
    )
    with pytest.raises(ConfigError, match="give more"):
        embedder.calibrate(["one", "two"])


def test_memory_that_runs_out_halves_the_batch_and_those_after_it(embedder, memory):
    expected = embedder.encode(TEXTS)
    with counted(embedder, fits=150) as forwards:
        vectors = embedder.encode(TEXTS)
    too_large = [cost for cost in forwards if cost > 150]
    assert np.abs(vectors - expected).max() <= 1e-5
    assert 1 <= len(too_large) <= 5, "once for each halving, and then never again"
    with counted(embedder, fits=150) as forwards:
        embedder.encode(TEXTS)
    assert max(forwards) <= 150, "later calls know it"
    with counted(embedder) as forwards:
        embedder.encode(TEXTS, batch_tokens=10_000)
    assert len(forwards) == 1, "what the caller gives wins"
    assert not memory.exists(), "another process may have held the memory"


def test_an_explicit_budget_that_does_not_fit_shrinks_for_this_call_only(embedder):
    with counted(embedder, fits=150) as forwards:
        embedder.encode(TEXTS, batch_tokens=300)
    assert 1 <= len([cost for cost in forwards if cost > 150]) <= 2
    with counted(embedder) as forwards:
        embedder.encode(TEXTS)
    assert len(forwards) == 1


def test_memory_that_runs_out_ends_the_trials(memory):
    tokens = BatchTokens("model", "cpu", memory)
    call = CallBudget(tokens, None, can_try=True)
    call.expect(10**9)
    while call.next() != 4096:
        pass
    call.out_of_memory(4000)
    assert {call.next() for _ in range(10)} == {2000}
    assert tokens.trial_cost() == 0


@pytest.mark.skipif(os.name == "nt", reason="one path convention is enough")
def test_nothing_is_written_for_a_small_call(embedder, memory):
    embedder.encode(TEXTS)
    assert not memory.exists()
