"""Bad rows: replaced one for one, the same on any number of processes, and all written down."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pytest

from mmembed.data.bad_rows import BadRows, SkippedRow
from mmembed.data.loader import BatchLoader
from mmembed.data.mixture import Mixture, MixtureEntry
from mmembed.data.sampler import BatchSampler
from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import InputError
from mmembed.inputs.contrastive import ContrastiveCollator, content_id
from mmembed.inputs.media import MediaPolicy
from mmembed.types import ContrastiveExample, Image, MultimodalInput
from tests import media_files
from tests.inputs.test_sandbox import FAULTY_DECODER

SURROGATE = "\ud800"  # no tokenizer takes it


class Rows:
    task, revision, license = "retrieval", "1", "CC0-1.0"

    def __init__(self, name: str, size: int, bad: set[int], num_documents: int | None = None):
        self.name, self.size, self.bad = name, size, bad
        self.num_documents = num_documents or size
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.size

    def query(self, index: int) -> MultimodalInput:
        return MultimodalInput.of(f"{self.name} {index}")

    def __getitem__(self, index: int) -> ContrastiveExample:
        self.reads.append(index)
        document = f"{self.name} document {index % self.num_documents}"
        if index in self.bad:
            document += SURROGATE
        return ContrastiveExample(
            self.query(index),
            (MultimodalInput.of(document),),
            positive_ids=self.document_ids(index),
        )

    def document_ids(self, index: int) -> tuple[str, ...]:
        return (f"{self.name} {index % self.num_documents}",)


@pytest.fixture(scope="module")
def collator(tiny_checkpoint: Path) -> ContrastiveCollator:
    return ContrastiveCollator(load_encoder(tiny_checkpoint)[1])


def loader_of(
    collator, rows: list[Rows], path: Path, *, start=(0, 0), batch_size=8, exchange=None, **options
) -> BatchLoader:
    mixture = Mixture([MixtureEntry(each, each.name, each.name, "retrieval") for each in rows])
    sampler = BatchSampler(mixture, batch_size)
    limits = {"max_fraction": options.pop("max_fraction", 1.0)}
    bad_rows = BadRows(sampler, path, exchange=exchange or (lambda lines: lines), **limits)
    options.setdefault("num_workers", 0)
    return BatchLoader(sampler.batches(*start), mixture, collator, bad_rows=bad_rows, **options)


def load(collator, rows: list[Rows], path: Path, count: int, **options) -> list:
    batches = iter(loader_of(collator, rows, path, **options))
    loaded = list(islice(batches, count))
    batches.close()
    return loaded


def ids(loaded: list) -> list[list[int]]:
    return [batch.query_ids.tolist() for _, batch in loaded]


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def two_sets() -> list[Rows]:
    return [Rows("a", 60, {3, 4, 17, 40}), Rows("b", 30, {1, 2, 29})]


def test_another_row_of_the_group_stands_in_for_a_bad_one(collator, tmp_path: Path):
    rows = two_sets()
    names = {content_id(each.query(row)): each.name for each in rows for row in range(each.size)}
    good = [content_id(each.query(row)) for each in rows for row in range(each.size)]
    bad = {content_id(each.query(row)) for each in rows for row in each.bad}
    replaced = 0
    for at, batch in load(collator, rows, tmp_path / "skipped.jsonl", 12):
        found = batch.query_ids.tolist()
        assert len(set(found)) == len(found) == len(at.rows)
        assert {names[id_] for id_ in found} == {at.group}
        assert not bad & set(found)
        for id_, row in zip(found, at.rows, strict=True):
            if good[row] in bad:
                replaced += 1
                assert good.index(id_) not in at.rows
            else:
                assert id_ == good[row]
    assert replaced == 7


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 3])
def test_stand_ins_do_not_depend_on_who_prepares_them(
    collator, tmp_path: Path, world_size: int, num_workers: int
):
    whole = ids(load(collator, two_sets(), tmp_path / "whole.jsonl", 20))
    parts = [
        ids(
            load(
                collator,
                two_sets(),
                tmp_path / f"{rank}.jsonl",
                20,
                rank=rank,
                world_size=world_size,
                num_workers=num_workers,
            )
        )
        for rank in range(world_size)
    ]
    joined = [[id_ for share in shares for id_ in share] for shares in zip(*parts, strict=True)]
    assert joined == whole
    by_rank = [row for rank in range(world_size) for row in records(tmp_path / f"{rank}.jsonl")]
    # two processes may both try a bad row as a stand-in; `exchange` then makes one record of it
    assert set(map(json.dumps, by_rank)) == set(map(json.dumps, records(tmp_path / "whole.jsonl")))


def test_a_resumed_run_has_the_batches_and_the_record_of_the_straight_one(collator, tmp_path: Path):
    straight = load(collator, two_sets(), tmp_path / "straight.jsonl", 30)
    path = tmp_path / "skipped.jsonl"
    load(collator, two_sets(), path, 17, num_workers=2)
    path.write_bytes(path.read_bytes() + b'{"epoch": 1, "data')  # killed while it wrote
    at = straight[9][0]
    resumed = load(collator, two_sets(), path, 21, start=(at.epoch, at.number))
    assert ids(resumed) == ids(straight[9:])
    assert records(path) == records(tmp_path / "straight.jsonl")


def test_each_skipped_row_is_written_once_for_each_epoch(collator, tmp_path: Path):
    rows = [Rows("a", 40, {5, 6})]
    path = tmp_path / "skipped.jsonl"
    loader = loader_of(collator, rows, path)
    batches = iter(loader)
    list(islice(batches, 10))  # two epochs
    batches.close()
    found = records(path)
    assert sorted((row["epoch"], row["dataset"], row["row"]) for row in found) == [
        (epoch, "a", row) for epoch in (0, 1) for row in (5, 6)
    ]
    assert {row["code"] for row in found} == {"invalid_text"}
    assert {(*row["item"], row["part"]) for row in found} == {("positive 0", "text")}
    assert all(row["reason"].startswith("a lone surrogate") for row in found)
    assert loader.skipped_rows == 4


def test_rows_of_all_processes_are_written_by_the_first(collator, tmp_path: Path):
    theirs = asdict(SkippedRow(0, "a", 30, (), "image", None, "corrupt", "x", 30))

    def exchange(lines: bytes) -> bytes:
        return lines + json.dumps(theirs).encode() + b"\n"

    path = tmp_path / "skipped.jsonl"
    load(collator, [Rows("a", 40, {5})], path, 5, exchange=exchange)
    assert sorted(row["row"] for row in records(path)) == [5, 30]


def test_a_bad_row_is_not_tried_again(collator, tmp_path: Path):
    path = tmp_path / "skipped.jsonl"
    first, again = Rows("a", 40, {5}), Rows("a", 40, {5})
    load(collator, [first], path, 10)
    assert first.reads.count(5) == 1
    load(collator, [again], path, 10)
    assert again.reads.count(5) == 0


def test_rows_without_distinct_stand_ins_still_get_one(collator, tmp_path: Path):
    # two documents: every row that could stand in has a document of the batch
    rows = Rows("a", 12, {0, 1}, num_documents=2)
    for at, batch in load(collator, [rows], tmp_path / "skipped.jsonl", 6, batch_size=2):
        assert batch.num_queries == len(at.rows) == 2
        bad = {content_id(rows.query(row)) for row in rows.bad}
        assert not bad & set(batch.query_ids.tolist())


def test_too_many_bad_rows_stop_the_run_early(collator, tmp_path: Path):
    rows = Rows("a", 1000, set(range(0, 1000, 4)))
    with pytest.raises(InputError, match=r"11 of the \d+ rows.*max_bad_fraction 0\.05.*\('a', "):
        load(collator, [rows], tmp_path / "skipped.jsonl", 100, max_fraction=0.05)
    assert len(rows.reads) < 100


def test_few_bad_rows_do_not_stop_the_run(collator, tmp_path: Path):
    rows = Rows("a", 400, set(range(0, 400, 40)))
    load(collator, [rows], tmp_path / "skipped.jsonl", 50, max_fraction=0.05)
    assert len(records(tmp_path / "skipped.jsonl")) == 10


def test_data_without_a_good_row_stop_the_run(collator, tmp_path: Path):
    rows = Rows("a", 20, set(range(20)))
    with pytest.raises(InputError, match="no row of group 'a' that was tried in its place"):
        load(collator, [rows], tmp_path / "skipped.jsonl", 1)


def test_without_a_policy_the_first_bad_row_is_named(collator):
    mixture = Mixture([MixtureEntry(Rows("a", 20, {7}), "a", "a", "retrieval")])
    batches = BatchSampler(mixture, 20).batches()
    with pytest.raises(InputError, match=r"\('a', 7, 'positive 0'\) \(text\): invalid_text"):
        next(iter(BatchLoader(batches, mixture, collator, num_workers=1)))


class Unreadable(Rows):
    """A row that the adapter itself cannot make, also when batches are planned."""

    document_ids = None  # type: ignore[assignment]

    def __getitem__(self, index: int) -> ContrastiveExample:
        if index == 3:
            raise InputError("corrupt", "the archive is damaged there", source="part-3.tar")
        return ContrastiveExample(self.query(index), (MultimodalInput.of(f"document {index}"),))


def test_a_row_that_its_adapter_cannot_make_is_skipped_by_name(collator, tmp_path: Path):
    load(collator, [Unreadable("a", 20, set())], tmp_path / "skipped.jsonl", 3)
    [row] = records(tmp_path / "skipped.jsonl")
    assert (row["dataset"], row["row"], row["code"]) == ("a", 3, "corrupt")


class FaultyPictures(Rows):
    """One picture of each kind of fault among good ones."""

    faults: dict[int, object]

    def __getitem__(self, index: int) -> ContrastiveExample:
        good = media_files.encode_image(media_files.photo(40, 40, seed=index))
        source = self.faults.get(index, good)
        return ContrastiveExample(
            self.query(index),
            (MultimodalInput((Image(source),)),),  # type: ignore[arg-type]
            positive_ids=self.document_ids(index),
        )


def test_faulty_media_cost_their_rows_and_nothing_else(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sitecustomize.py").write_text(FAULTY_DECODER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    whole = media_files.encode_image(media_files.photo(40, 40))
    rows = FaultyPictures("pictures", 30, set())
    rows.faults = {
        2: whole[: len(whole) // 2],
        9: tmp_path / "gone.png",
        11: whole + b"HANG",
        20: whole + b"CRASH",
    }
    processor = load_encoder(tiny_checkpoint, media=MediaPolicy(timeout_seconds=4))[1]
    collator = ContrastiveCollator(processor)
    loaded = load(collator, [rows], tmp_path / "skipped.jsonl", 4, num_workers=1)
    processor.close()
    assert [batch.num_queries for _, batch in loaded] == [len(at.rows) for at, _ in loaded]
    found = {row["row"]: row["code"] for row in records(tmp_path / "skipped.jsonl")}
    assert found[2] in ("truncated", "corrupt")
    assert found == {2: found[2], 9: "not_found", 11: "decode_timeout", 20: "decoder_crash"}
