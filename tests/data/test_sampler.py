"""Batches: homogeneous, free of duplicates, complete, and restartable from two numbers."""

from __future__ import annotations

import json
from collections import Counter, deque
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmembed.config.stage import SamplingConfig
from mmembed.data.mixture import Mixture, MixtureEntry
from mmembed.data.sampler import BatchSampler, group_shares
from mmembed.errors import ConfigError
from mmembed.types import ContrastiveExample, Image, MultimodalInput

GOLDEN = {
    test["id"]: test
    for test in json.loads(
        (Path(__file__).parent.parent / "golden" / "losses.json").read_text(encoding="utf-8")
    )["tests"]
}


class Rows:
    name, revision, license = "rows", "1", "CC0-1.0"

    def __init__(self, size: int, num_documents: int, task: str = "retrieval") -> None:
        self.size, self.num_documents, self.task = size, num_documents, task

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> ContrastiveExample:
        document = str(index % self.num_documents)
        return ContrastiveExample(
            MultimodalInput.of(f"query {index}"),
            (MultimodalInput.of(document),),
            positive_ids=(document,),
        )


def entry(name: str, size: int, num_documents: int | None = None, **options) -> MixtureEntry:
    rows = Rows(size, num_documents or size, options.pop("task", "retrieval"))
    return MixtureEntry(rows, name, options.pop("group", name), "retrieval", **options)


def test_every_row_is_used_once_and_tails_are_kept():
    sampler = BatchSampler(Mixture([entry("a", 23), entry("b", 11)]), batch_size=5)
    batches = sampler.epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(34))
    assert Counter(len(batch.rows) for batch in batches) == {5: 6, 3: 1, 1: 1}


def test_every_batch_comes_from_one_group():
    mixture = Mixture([entry("a", 20), entry("b", 20), entry("c", 20, group="b")])
    for batch in BatchSampler(mixture, batch_size=8).epoch_batches(0):
        groups = {"a": {"a"}, "b": {"b", "c"}}[batch.group]
        assert {mixture.row(row).source for row in batch.rows} <= groups


@pytest.mark.parametrize(("size", "num_documents"), [(100, 60), (100, 7), (40, 1), (64, 64)])
def test_no_document_is_twice_in_a_batch(size: int, num_documents: int):
    mixture = Mixture([entry("a", size, num_documents)])
    batches = BatchSampler(mixture, batch_size=16).epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(size))
    for batch in batches:
        documents = [row % num_documents for row in batch.rows]
        assert len(set(documents)) == len(documents) <= 16


def test_duplicates_cost_no_more_batches_than_they_must():
    mixture = Mixture([entry("a", 100, 20)])
    # 20 documents, five rows each: batches of ten can all be full.
    assert len(BatchSampler(mixture, batch_size=10).epoch_batches(0)) <= 12


def test_batches_are_a_function_of_seed_and_epoch():
    def rows(seed: int, epoch: int) -> list:
        return BatchSampler(Mixture([entry("a", 50)], seed=seed), 7).epoch_batches(epoch)

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)


def test_two_numbers_restart_the_stream_of_batches():
    def sampler() -> BatchSampler:
        return BatchSampler(Mixture([entry("a", 23), entry("b", 11)]), batch_size=5)

    straight = list(islice(sampler().batches(), 30))
    cut = straight[12]
    assert list(islice(sampler().batches(cut.epoch, cut.number), 18)) == straight[12:]


def test_batches_of_the_groups_are_interleaved():
    mixture = Mixture([entry("a", 100), entry("b", 100)])
    groups = [batch.group for batch in BatchSampler(mixture, batch_size=5).epoch_batches(0)]
    assert groups != sorted(groups)


def test_weights_that_leave_no_row_are_refused():
    sampler = BatchSampler(Mixture([entry("a", 10, weight=0.01)]), batch_size=5)
    with pytest.raises(ConfigError, match="no rows; raise the weights of a"):
        next(sampler.batches())


def test_shares_are_powers_of_sizes():
    sizes = {"a": 100, "b": 400, "c": 900}
    shares = group_shares(sizes, dict.fromkeys(sizes, "retrieval"), exponent=0.5)
    golden = GOLDEN["sampling_power"]
    assert golden["inputs"]["sizes"] == list(sizes.values())
    assert list(shares.values()) == pytest.approx(golden["expected"]["p"], abs=1e-8)


def test_a_task_can_have_a_fixed_share():
    golden = GOLDEN["sampling_eta"]
    inputs, expected = golden["inputs"], golden["expected"]
    sizes = dict(zip("abcd", inputs["ret_sizes"] + inputs["other_sizes"], strict=True))
    tasks = {"a": "retrieval", "b": "retrieval", "c": "sts", "d": "classification"}
    shares = group_shares(
        sizes, tasks, exponent=inputs["alpha"], task_shares={"retrieval": inputs["eta_ret"]}
    )
    assert list(shares.values()) == pytest.approx(expected["p_ret"] + expected["p_other"], abs=1e-8)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_groups_give_batches_by_their_share(exponent: float):
    mixture = Mixture([entry("a", 400), entry("b", 100), entry("c", 25)], seed=3)
    sampler = BatchSampler(mixture, 5, SamplingConfig(exponent=exponent))
    counts: Counter[str] = Counter()
    for epoch in range(20):
        batches = sampler.epoch_batches(epoch)
        assert len(batches) == 105  # as many as one pass over all rows
        counts.update(batch.group for batch in batches)
    total = sum(size**exponent for size in (400, 100, 25))
    for group, size in {"a": 400, "b": 100, "c": 25}.items():
        # each epoch rounds a group by less than one batch
        assert abs(counts[group] / 20 - 105 * size**exponent / total) < 1


def test_a_group_smaller_than_its_share_comes_again_in_another_order():
    sampler = BatchSampler(
        Mixture([entry("a", 90), entry("b", 10)]), 5, SamplingConfig(exponent=0.0)
    )
    rows = [row for b in sampler.epoch_batches(0) if b.group == "b" for row in b.rows]
    assert len(rows) == 50 and set(Counter(rows).values()) == {5}
    assert rows[:10] != rows[10:20]


def test_sampled_epochs_are_a_function_of_seed_and_epoch():
    def batches() -> list[object]:
        mixture = Mixture([entry("a", 30), entry("b", 7)], seed=5)
        return BatchSampler(mixture, 4, SamplingConfig(exponent=0.3)).epoch_batches(2)

    assert batches() == batches()


def test_a_share_for_a_task_without_data_is_refused():
    mixture = Mixture([entry("a", 30)])
    sampling = SamplingConfig(exponent=1.0, task_shares={"sts": 0.3})
    with pytest.raises(ConfigError, match="names sts, but no data has that task; there are retr"):
        BatchSampler(mixture, 4, sampling).epoch_batches(0)


def test_a_rest_without_tasks_is_refused():
    sampling = SamplingConfig(exponent=1.0, task_shares={"retrieval": 0.7})
    with pytest.raises(ConfigError, match=r"sum to 0\.7 and no other task is left"):
        BatchSampler(Mixture([entry("a", 30)]), 4, sampling).epoch_batches(0)


def test_a_group_of_two_tasks_is_refused():
    mixture = Mixture([entry("a", 9, group="g"), entry("b", 9, group="g", task="sts")])
    with pytest.raises(ConfigError, match="group 'g' mixes tasks: a is retrieval, b is sts"):
        mixture.task("g")


def apart_one_by_one(rows: list[int], documents: list[set[int]], size: int) -> list[list[int]]:
    """The slow, obvious way to cut rows into batches: look at each row."""
    fresh, waiting, batches = deque(rows), {}, []
    while fresh or waiting:
        batch, present = [], set()
        for line in list(waiting):
            if len(batch) < size and present.isdisjoint(documents[waiting[line][0]]):
                batch.append(waiting[line].popleft())
                present |= documents[batch[-1]]
                if not waiting[line]:
                    del waiting[line]
        while fresh and len(batch) < size:
            row = fresh.popleft()
            if present.isdisjoint(documents[row]):
                batch.append(row)
                present |= documents[row]
            else:
                waiting.setdefault(min(present & documents[row]), deque()).append(row)
        batches.append(batch)
    return batches


class Planned(Rows):
    """Rows that can be planned, but not read."""

    def __init__(self, documents: list[set[int]]) -> None:
        super().__init__(len(documents), 1)
        self.documents = documents

    def __getitem__(self, index: int) -> ContrastiveExample:
        raise AssertionError("planning reads a row")

    def document_ids(self, index: int) -> tuple[str, ...]:
        return tuple(map(str, sorted(self.documents[index])))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=1), min_size=1, max_size=60),
    st.integers(1, 7),
    st.integers(1, 40),
)
def test_planning_in_stretches_is_planning_row_by_row(
    repeated: list[set[int]], size: int, num_single: int
):
    documents = repeated + [{100 + number} for number in range(num_single)]
    mixture = Mixture([MixtureEntry(Planned(documents), "a", "a", "retrieval")])
    batches = BatchSampler(mixture, size).epoch_batches(0)
    rows = mixture.epoch_rows("a", 0).tolist()
    expected = apart_one_by_one(rows, documents, size)
    assert sorted(batch.rows for batch in batches) == sorted(map(tuple, expected))


def test_rows_with_several_documents_share_none_of_them_in_a_batch():
    documents = [{row % 7, 50 + row % 5, 1000 + row} for row in range(60)]
    mixture = Mixture([MixtureEntry(Planned(documents), "a", "a", "retrieval")])
    batches = BatchSampler(mixture, 6).epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(60))
    for batch in batches:
        present = Counter(document for row in batch.rows for document in documents[row])
        assert max(present.values()) == 1


@given(st.integers(1, 40), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_shares_of_the_processes_are_the_batch_in_order(size: int, world_size: int):
    batch = BatchSampler(Mixture([entry("a", 40)]), size).epoch_batches(0)[0]
    shares = [batch.share(rank, world_size) for rank in range(world_size)]
    if len(batch.rows) < world_size:  # a process without rows could take no part in the step
        assert set(shares) == {range(len(batch.rows))}
        return
    assert [place for share in shares for place in share] == list(range(len(batch.rows)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_epoch_that_is_continued_by_more_processes_uses_each_row_once():
    def rows(numbers: slice, world_size: int) -> list[int]:
        batches = BatchSampler(Mixture([entry("a", 50), entry("b", 31)]), 8).epoch_batches(0)
        return [
            batch.rows[place]
            for batch in batches[numbers]
            for rank in range(world_size if batch.is_split(world_size) else 1)
            for place in batch.share(rank, world_size)
        ]

    straight = rows(slice(None), 1)
    assert rows(slice(None, 5), 2) + rows(slice(5, None), 3) == straight
    assert sorted(straight) == list(range(81))


def interleaving(**options) -> SamplingConfig:
    return SamplingConfig(sub_batch_size=4, **options)


def test_sub_batches_are_of_one_group_and_batches_of_several():
    names = {"a": 200, "b": 120, "c": 80}
    mixture = Mixture([entry(name, size) for name, size in names.items()])
    batches = BatchSampler(mixture, 12, interleaving()).epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(400))
    mixed = 0
    for batch in batches:
        groups = [mixture.group_of(row) for row in batch.rows]
        assert batch.group == groups[0]
        subs = [set(groups[begin : begin + 4]) for begin in range(0, len(groups), 4)]
        assert all(len(sub) == 1 for sub in subs)
        mixed += len(set(groups)) > 1
        assert len(batch.rows) == 12 or batch.number < len(batches)
    assert mixed > len(batches) / 2
    assert sum(len(batch.rows) == 12 for batch in batches) >= len(batches) - 1


def test_sub_batches_stay_within_a_task():
    entries = [entry("a", 40), entry("b", 40), entry("s", 40, task="sts"), entry("t", 9, task="qa")]
    mixture = Mixture([*entries, entry("u", 40, task="sts")])
    batches = BatchSampler(mixture, 8, interleaving()).epoch_batches(0)
    for batch in batches:
        assert len({mixture.task(mixture.group_of(row)) for row in batch.rows}) == 1
    alone = [len(batch.rows) for batch in batches if batch.group == "t"]
    assert sorted(alone) == [1, 8]  # its task has no other group: whole batches


def test_no_document_is_twice_in_a_batch_of_sub_batches():
    # all groups have documents 0..19
    mixture = Mixture([entry(name, 60, 20) for name in "abc"])
    batches = BatchSampler(mixture, 12, interleaving()).epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(180))
    for batch in batches:
        documents = [mixture.row(row).index % 20 for row in batch.rows]
        assert len(set(documents)) == len(documents)


def test_sub_batches_follow_the_shares_of_their_groups():
    mixture = Mixture([entry("a", 400), entry("b", 100), entry("s", 100, task="sts")], seed=1)
    sampling = interleaving(exponent=0.5, task_shares={"sts": 0.25})
    sampler = BatchSampler(mixture, 12, sampling)
    rows: Counter[str] = Counter()
    for epoch in range(20):
        for batch in sampler.epoch_batches(epoch):
            rows.update(mixture.group_of(row) for row in batch.rows)
    share = {group: count / rows.total() for group, count in rows.items()}
    assert share == pytest.approx({"a": 0.5, "b": 0.25, "s": 0.25}, abs=0.03)


def test_interleaving_without_two_groups_of_a_task_is_refused():
    mixture = Mixture([entry("a", 9), entry("b", 9, task="sts")])
    with pytest.raises(ConfigError, match=r"no two groups have one task: a is retr.*, b is sts"):
        BatchSampler(mixture, 8, interleaving())


def test_sub_batches_that_do_not_fill_the_batch_are_refused():
    mixture = Mixture([entry("a", 9), entry("b", 9)])
    with pytest.raises(ConfigError, match="is 4, which does not divide the batch size 10"):
        BatchSampler(mixture, 10, interleaving())


class Copies(Rows):
    """Rows `i` and `i + size / 2` have other ids and the same content."""

    def __init__(self, folder: Path, size: int, what: str) -> None:
        super().__init__(size, size)
        self.what = what
        self.files = [folder / f"{index}.png" for index in range(size)]
        for index, file in enumerate(self.files):
            file.write_bytes(b"picture %d" % (index % (size // 2)))

    def __getitem__(self, index: int) -> ContrastiveExample:
        text = f"text {index % (self.size // 2)}"
        query = text if self.what == "query" else f"query {index}"
        document = text if self.what == "document" else f"document {index}"
        positive = MultimodalInput.of(document)
        if self.what == "file":
            positive = MultimodalInput((Image(self.files[index]),))
        return ContrastiveExample(
            MultimodalInput.of(query), (positive,), positive_ids=(str(index),)
        )

    def document_ids(self, index: int) -> tuple[str, ...]:
        return (str(index),)


@pytest.mark.parametrize("what", ["query", "document", "file"])
def test_equal_contents_under_other_ids_are_kept_apart_on_request(tmp_path: Path, what: str):
    mixture = Mixture([MixtureEntry(Copies(tmp_path, 20, what), "a", "a", "retrieval")])

    def copies(distinct: str) -> int:
        sampler = BatchSampler(mixture, 10, SamplingConfig(distinct=distinct))
        batches = sampler.epoch_batches(0)
        assert sorted(row for batch in batches for row in batch.rows) == list(range(20))
        return sum(len(b.rows) - len({row % 10 for row in b.rows}) for b in batches)

    assert copies("documents") > 0
    assert copies("contents") == 0


def test_a_text_may_be_the_query_of_one_row_and_the_document_of_another():
    class Chain(Rows):
        def __getitem__(self, index: int) -> ContrastiveExample:
            return ContrastiveExample(
                MultimodalInput.of(f"text {index}"), (MultimodalInput.of(f"text {index + 1}"),)
            )

    mixture = Mixture([MixtureEntry(Chain(10, 10), "a", "a", "retrieval")])
    sampler = BatchSampler(mixture, 10, SamplingConfig(distinct="contents"))
    assert len(sampler.epoch_batches(0)) == 1
