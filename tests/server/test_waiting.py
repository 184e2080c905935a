"""Who comes next: small requests pass large ones, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mmembed.server.waiting import FairQueue, Lane, Request, Throughput, Unit


def request(loop: asyncio.AbstractEventLoop) -> Request:
    return Request(1, "document", loop)


@pytest.fixture
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def order(queue: FairQueue, budget: int = 1) -> list[Request]:
    taken = []
    while units := queue.take(budget):
        taken += [unit.request for unit in units]
    return taken


def test_a_small_request_passes_a_large_one_that_came_first(loop: Any) -> None:
    queue, large, small = FairQueue(), request(loop), request(loop)
    for _ in range(100):
        queue.push(Unit(large, [], 10))
    assert [unit.request for unit in queue.take(25)] == [large, large]
    queue.push(Unit(small, [], 10))
    later = order(queue)
    assert later.index(small) <= 1
    assert later.count(large) == 98


def test_equal_requests_share_equally(loop: Any) -> None:
    queue, requests = FairQueue(), [request(loop) for _ in range(3)]
    for each in requests:
        for _ in range(10):
            queue.push(Unit(each, [], 5))
    taken = order(queue)
    for share in range(3, 31, 3):
        assert {taken[:share].count(each) for each in requests} == {share // 3}


def test_a_stream_of_small_requests_does_not_keep_a_large_one_out(loop: Any) -> None:
    queue, large = FairQueue(), request(loop)
    queue.push(Unit(large, [], 100))
    taken: list[Request] = []
    while large not in taken:
        queue.push(Unit(request(loop), [], 1))
        taken += [unit.request for unit in queue.take(1)]
    assert len(taken) <= 101  # what the large one costs, in small ones


def test_a_batch_is_filled_up_to_its_budget_and_never_empty(loop: Any) -> None:
    queue = FairQueue()
    for cost in (4, 4, 4, 50):
        queue.push(Unit(request(loop), [], cost))
    assert [unit.cost for unit in queue.take(9)] == [4, 4]
    assert [unit.cost for unit in queue.take(9)] == [4]
    assert [unit.cost for unit in queue.take(9)] == [50]
    assert (queue.take(9), queue.cost, len(queue)) == ([], 0, 0)


def test_what_was_given_up_takes_no_room(loop: Any) -> None:
    queue, gone, here = FairQueue(), request(loop), request(loop)
    for each in (gone, gone, here):
        queue.push(Unit(each, [], 10))
    gone.close()
    assert [unit.request for unit in queue.take(10)] == [here]
    assert (queue.cost, gone.ready_cost) == (0, 0)


def test_a_lane_takes_a_unit_of_each_request_in_turn(loop: Any) -> None:
    lane, requests = Lane(), [request(loop) for _ in range(2)]
    for each, count in zip(requests, (3, 1), strict=True):
        lane.add([Unit(each, [], 1) for _ in range(count)])
    taken = [lane.take(lambda _: True) for _ in range(4)]
    first, second = requests
    assert [unit.request for unit in taken if unit] == [first, second, first, first]
    assert lane.take(lambda _: True) is None


def test_a_lane_passes_over_requests_that_may_not_go_on(loop: Any) -> None:
    lane, held, free = Lane(), request(loop), request(loop)
    lane.add([Unit(held, [], 1)])
    lane.add([Unit(free, [], 1)])
    unit = lane.take(lambda each: each is not held)
    assert unit is not None and unit.request is free
    assert lane.take(lambda each: each is not held) is None
    held.close()
    assert lane.take(lambda _: True) is None
    assert lane.num_to_come == 1  # the one that was taken


def test_throughput_follows_recent_work() -> None:
    throughput = Throughput()
    assert throughput.per_second is None
    for _ in range(100):
        throughput.add(100, 1.0)
    assert throughput.per_second == pytest.approx(100)
    for _ in range(100):
        throughput.add(500, 1.0)
    assert throughput.per_second == pytest.approx(500, rel=0.02)
