"""The loader keeps order, shares work between processes, and passes errors on."""

from __future__ import annotations

import os
import signal
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch

from mmembed.data.loader import BatchLoader
from mmembed.data.mixture import Mixture, MixtureEntry
from mmembed.data.sampler import BatchSampler
from mmembed.encoder.checkpoint import load_encoder
from mmembed.inputs.contrastive import ContrastiveCollator
from mmembed.inputs.media import MediaPolicy
from mmembed.types import ContrastiveExample, Image, MultimodalInput
from tests import media_files


class Rows:
    name, task, revision, license = "rows", "retrieval", "1", "CC0-1.0"

    def __init__(self, size: int = 20, broken: int | None = None, positives: int = 1) -> None:
        self.size, self.broken, self.positives = size, broken, positives
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> ContrastiveExample:
        self.reads.append(index)
        if index == self.broken:
            raise OSError(f"row {index} is on a broken disk")
        return ContrastiveExample(
            MultimodalInput.of(f"query {index}"),
            tuple(MultimodalInput.of(f"document {index} {n}") for n in range(self.positives)),
        )

    def document_ids(self, index: int) -> tuple[str, ...]:
        return (str(index),)


@pytest.fixture(scope="module")
def collator(tiny_checkpoint: Path) -> ContrastiveCollator:
    return ContrastiveCollator(load_encoder(tiny_checkpoint)[1])


def load(collator: ContrastiveCollator, rows: Rows, count: int, **options) -> list:
    mixture = Mixture([MixtureEntry(rows, "rows", "rows", "retrieval")])
    sampler = BatchSampler(mixture, batch_size=6)
    loader = BatchLoader(sampler.batches(), mixture, collator, **options)
    batches = iter(loader)
    loaded = list(islice(batches, count))
    batches.close()
    return loaded


def tokens(loaded: list) -> list[list[int]]:
    return [batch.inputs[0]["input_ids"].tolist() for _, batch in loaded]


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("cache_bytes", [0, 2_000, 10**8])
def test_threads_and_cache_change_nothing(collator, num_workers: int, cache_bytes: int):
    plain = load(collator, Rows(), 10, num_workers=0)
    fast = load(collator, Rows(), 10, num_workers=num_workers, cache_bytes=cache_bytes)
    assert tokens(fast) == tokens(plain)
    assert [at for at, _ in fast] == [at for at, _ in plain]


def test_cached_rows_are_read_once(collator: ContrastiveCollator):
    rows = Rows()
    load(collator, rows, 12, num_workers=0, cache_bytes=10**8)
    assert sorted(rows.reads) == list(range(20))


def test_row_with_several_positives_is_drawn_again_each_epoch(collator: ContrastiveCollator):
    rows = Rows(size=6, positives=50)
    first, second = load(collator, rows, 2, num_workers=0, cache_bytes=10**8)
    texts = [sorted(batch.inputs[0]["input_ids"].tolist()) for _, batch in (first, second)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_error_reaches_the_consumer(collator: ContrastiveCollator, num_workers: int):
    with pytest.raises(OSError, match="row 7 is on a broken disk"):
        load(collator, Rows(broken=7), 10, num_workers=num_workers)


def test_threads_end_when_the_consumer_stops(collator: ContrastiveCollator):
    load(collator, Rows(), 1, num_workers=3)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("mmembed-data")]


def test_processes_share_the_rows_of_a_batch(collator: ContrastiveCollator):
    whole = load(collator, Rows(), 1, num_workers=0)[0][1]
    parts = [
        load(collator, Rows(), 1, num_workers=0, rank=rank, world_size=4)[0][1] for rank in range(4)
    ]
    assert [part.num_queries for part in parts] == [2, 2, 1, 1]
    assert torch.cat([part.ids for part in parts]).tolist() == whole.ids.tolist()


def test_resume_late_in_an_epoch_reads_only_what_comes(collator: ContrastiveCollator):
    rows = Rows(20_000)
    mixture = Mixture([MixtureEntry(rows, "rows", "rows", "retrieval")])
    sampler = BatchSampler(mixture, batch_size=6)
    begin = 18_000 // 6
    loader = BatchLoader(sampler.batches(0, begin), mixture, collator, num_workers=0)
    batches = iter(loader)
    at, _ = next(batches)
    batches.close()
    assert at == sampler.epoch_batches(0)[begin]
    assert rows.reads == list(at.rows)


@pytest.mark.parametrize("ahead_bytes", [0, 10**9])
def test_no_more_is_prepared_ahead_than_fits(collator: ContrastiveCollator, ahead_bytes: int):
    rows = Rows(600)
    mixture = Mixture([MixtureEntry(rows, "rows", "rows", "retrieval")])
    sampler = BatchSampler(mixture, batch_size=6)
    loader = BatchLoader(
        sampler.batches(), mixture, collator, num_workers=3, ahead_bytes=ahead_bytes
    )
    batches = iter(loader)
    most = 0
    for number, _ in zip(range(1, 20), batches, strict=False):
        most = max(most, len(rows.reads) - 6 * number)
        assert most <= (6 if ahead_bytes == 0 else 18)
    batches.close()


class Pictures:
    name, task, revision, license = "pictures", "retrieval", "1", "CC0-1.0"

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> ContrastiveExample:
        encoded = media_files.encode_image(media_files.photo(40, 40, seed=index))
        return ContrastiveExample(
            MultimodalInput.of(f"query {index}"), (MultimodalInput((Image(encoded),)),)
        )


def test_killed_decode_processes_are_replaced_while_batches_are_prepared(tiny_checkpoint: Path):
    def pixels(*, kill: bool) -> list:
        processor = load_encoder(tiny_checkpoint, media=MediaPolicy(), num_workers=2)[1]
        mixture = Mixture([MixtureEntry(Pictures(), "pictures", "pictures", "retrieval")])
        sampler = BatchSampler(mixture, batch_size=4)
        collator = ContrastiveCollator(processor)
        batches = iter(BatchLoader(sampler.batches(), mixture, collator, num_workers=2))
        found, killed = [], 0
        for _, batch in islice(batches, 6):
            found.append(batch.inputs[0]["pixel_values"])
            if kill and not killed:  # a file that two processes die on counts as bad
                for process in list(processor.decoder._pool._all):
                    os.kill(process._process.pid, signal.SIGKILL)
                    killed += 1
        batches.close()
        processor.close()
        assert bool(killed) == kill
        return found

    for disturbed, plain in zip(pixels(kill=True), pixels(kill=False), strict=True):
        assert torch.equal(disturbed, plain)


def test_a_row_with_several_phrasings_is_prepared_again_each_epoch(collator: ContrastiveCollator):
    entry = MixtureEntry(
        Rows(size=12), "rows", "rows", "retrieval", query_instruction=("one", "another one")
    )
    mixture = Mixture([entry])

    def epochs(cache_bytes: int) -> list:
        batches = BatchSampler(mixture, batch_size=12).batches()
        loader = BatchLoader(batches, mixture, collator, num_workers=0, cache_bytes=cache_bytes)
        return tokens(list(islice(iter(loader), 4)))

    assert epochs(10**8) == epochs(0)
    assert len({tuple(sorted(each)) for each in epochs(0)}) > 1
