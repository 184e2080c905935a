"""A program that kills writers of a Lance index at random moments and looks at what they left.

It imports once and forks: each writer, and each look at what a writer left, is a process of its
own. Prints one JSON line for each kill.

    python -m tests.search.killed_lance commit|optimize FOLDER KILLS SEED
    python -m tests.search.killed_lance together|read FOLDER PROCESSES SEED
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lancedb  # noqa: F401
import numpy as np

from mmembed.search.lance_index import LanceIndex
from mmembed.search.rows import Row

DIMENSION, COMMITS, BATCH = 16, 8, 30
NUM_BUILT = 400


def vector(number: int) -> np.ndarray:
    found = np.random.default_rng(number).normal(size=DIMENSION)
    return (found / np.linalg.norm(found)).astype(np.float32)


def row(number: int) -> Row:
    return Row(f"{number}", f"/{number}.png", "image", key=f"{number:064x}", text="fox")


def state(commits: int) -> set[int]:
    """The rows after so many commits: each adds a batch and removes 5 rows of the one before."""
    added = set(range(commits * BATCH))
    return added - {BATCH * n + place for n in range(commits - 1) for place in range(5)}


def opened(folder: Path) -> LanceIndex:
    return LanceIndex(
        folder, fingerprint="a" * 64, dimension=DIMENSION, exact_below=300, keep_seconds=0
    )


def write(folder: Path, acknowledge: Callable[[], None]) -> None:
    """All batches; those that are there are written again."""
    index = opened(folder)
    for commit in range(COMMITS):
        numbers = range(commit * BATCH, (commit + 1) * BATCH)
        index.upsert([row(n) for n in numbers], np.stack([vector(n) for n in numbers]))
        index.delete([row(n - BATCH).id for n in numbers[:5]])
        index.settings = {"commits": commit + 1}
        index.commit()
        acknowledge()


def optimize(folder: Path, acknowledge: Callable[[], None]) -> None:
    opened(folder).optimize(min_recall=0.5)
    acknowledge()


def check(folder: Path, numbers: set[int]) -> None:
    """The index holds these rows, each once, and finds them by vector and by word."""
    index = opened(folder)
    names = [each.id for each in index.rows()]
    assert sorted(names) == sorted(map(str, numbers)), f"{len(names)} rows, not {len(numbers)}"
    assert len(index) == len(numbers)
    stored = index.vectors(names)
    assert stored.tolist() == [vector(int(name)).tolist() for name in names]
    for name in names[:: max(1, len(names) // 5)]:
        for exact in (True, False):
            assert index.search(vector(int(name)), 1, exact=exact)[0][0].row.id == name
    assert {match.row.id for match in index.search_text("fox", 2000)} == set(names)


def forked(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def passes(action: Callable[[], None]) -> bool:
    return os.waitpid(forked(action), 0)[1] == 0


def killed_after(action: Callable[[Callable[[], None]], None], seconds: float) -> tuple[int, bool]:
    """How often the writer acknowledged, and whether it was killed before its end."""
    reader, writer = os.pipe()

    def acknowledge() -> None:
        os.write(writer, b".")

    child = forked(lambda: action(acknowledge))
    os.close(writer)
    deadline, acknowledged, ended = time.monotonic() + seconds, 0, False
    while not ended and select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
        received = os.read(reader, 64)
        acknowledged += len(received)
        ended = not received
    os.kill(child, signal.SIGKILL)
    while received := os.read(reader, 64):
        acknowledged += len(received)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return acknowledged, os.WIFSIGNALED(status)


def kill(
    folder: Path,
    action: Callable[[Path, Callable[[], None]], None],
    kills: int,
    rng: random.Random,
    expected: Callable[[int], list[set[int]]],
) -> None:
    """Kill `action` again and again; look at what it left, then let it finish.

    Args:
        folder: with `rows`, the index that each begins with.
        expected: the states that are right after so many acknowledgements; the last is the end.
    """
    shutil.copytree(folder / "rows", folder / "whole")
    started = time.monotonic()
    assert passes(lambda: action(folder / "whole", lambda: None))
    duration = time.monotonic() - started
    for number in range(kills):
        place = folder / str(number)
        shutil.copytree(folder / "rows", place)
        moment = rng.uniform(0, duration)
        count, killed = killed_after(partial(action, place), moment)
        is_whole = any(passes(partial(check, place, state)) for state in expected(count))
        is_finished = passes(partial(action, place, lambda: None)) and passes(
            partial(check, place, expected(COMMITS)[-1])
        )
        tell(killed=killed, acknowledged=count, whole=is_whole, finished=is_finished)


def fill(folder: Path) -> None:
    index = opened(folder)
    for start in range(0, NUM_BUILT, 100):
        chosen = range(start, start + 100)
        index.upsert([row(n) for n in chosen], np.stack([vector(n) for n in chosen]))
        index.commit()


def write_together(folder: Path, writers: int) -> None:
    """All write the same ids, in other orders, while one more optimizes."""
    numbers = list(range(60))

    def write_all(seed: int) -> None:
        index = opened(folder)
        for _ in range(4):
            order = random.Random(seed).sample(numbers, len(numbers))
            for start in range(0, len(order), 20):
                chosen = order[start : start + 20]
                index.upsert([row(n) for n in chosen], np.stack([vector(n) for n in chosen]))
                index.commit()

    def keep_optimizing() -> None:
        for _ in range(6):
            opened(folder).optimize()

    actions = [partial(write_all, seed) for seed in range(writers)]
    children = [forked(action) for action in [*actions, keep_optimizing]]
    ended = [os.waitpid(child, 0)[1] for child in children]
    tell(ended=ended, whole=passes(lambda: check(folder, set(numbers))))


def read_meanwhile(folder: Path, readers: int) -> None:
    """A writer commits and optimizes; readers must see states that were committed."""
    states = [state(commits) for commits in range(COMMITS + 1)]
    done = folder.with_name("done")

    def read() -> None:
        index = LanceIndex(folder)
        seen = set()
        while not done.exists():
            index.refresh()
            names = {int(row.id) for row in index.rows()}
            seen.add(states.index(names))
            if names:
                assert {int(match.row.id) for match in index.search(vector(7), 9)[0]} <= names
        tell(seen=len(seen))

    def write_and_optimize() -> None:
        write(folder, lambda: LanceIndex(folder).optimize() and None)
        done.touch()

    assert passes(lambda: len(opened(folder)) and None)
    children = [forked(action) for action in [write_and_optimize, *[read] * readers]]
    tell(ended=[os.waitpid(child, 0)[1] for child in children])


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(mode: str, folder: Path, count: int, seed: int) -> None:
    warnings.filterwarnings("ignore", message="lancedb fork support", category=RuntimeWarning)
    rng = random.Random(seed)
    if mode == "together":
        write_together(folder / "index", count)
    elif mode == "read":
        read_meanwhile(folder / "index", count)
    elif mode == "commit":
        (folder / "rows").mkdir()
        kill(folder, write, count, rng, lambda n: [state(n), state(min(n + 1, COMMITS))])
    else:
        assert passes(lambda: fill(folder / "rows"))
        kill(folder, optimize, count, rng, lambda _: [set(range(NUM_BUILT))])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
