"""Many calls that wait for a server, a bounded number at a time, ended cleanly by Ctrl-C."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["work_through"]

Work = TypeVar("Work")


def work_through(
    do: Callable[[Work], object],
    items: Iterable[Work],
    *,
    num_threads: int,
    stop: Callable[[], None],
) -> Iterator[tuple[Work, Exception | None]]:
    """Call `do` with every item in `num_threads` threads; yields (item, its error) as they end.

    `items` is read in the caller's thread, at most `num_threads` ahead of the work. When the
    caller stops early, by Ctrl-C or by closing the generator, `stop` is called, calls in progress
    are waited for, and no other begins. A second Ctrl-C leaves without waiting: the threads are
    daemons.
    """
    todo: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Work, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            item = todo.get()
            if item is None:
                return
            error: Exception | None = None
            try:
                do(item)
            except Exception as raised:
                error = raised
            done.put((item, error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, num_threads))]
    for thread in threads:
        thread.start()
    num_running = 0
    source = iter(items)
    try:
        exhausted = False
        while num_running or not exhausted:
            while not exhausted and num_running < len(threads):
                try:
                    todo.put(next(source))
                except StopIteration:
                    exhausted = True
                    break
                num_running += 1
            if num_running:
                item, error = done.get()
                num_running -= 1
                yield item, error
    except BaseException:
        stop()
        raise
    finally:
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()
