"""The batch keeps apart who is whose positive, who brought what, and what is the same document."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import InputError
from mmembed.inputs.contrastive import (
    ContrastiveBatch,
    ContrastiveCollator,
    TrainingRow,
    content_id,
    document_id,
    query_id,
)
from mmembed.inputs.processor import Processor
from mmembed.types import ContrastiveExample, MultimodalInput


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Processor:
    return load_encoder(tiny_checkpoint)[1]


def example(query: str, document: object, *hard: object, id_: str | None = None):
    return ContrastiveExample(
        MultimodalInput.of(query),
        (MultimodalInput.of(document),),
        tuple(MultimodalInput.of(item) for item in hard),
        positive_ids=() if id_ is None else (id_,),
    )


def rows(*examples: ContrastiveExample, **options) -> list[TrainingRow]:
    return [TrainingRow(each, "data", index, **options) for index, each in enumerate(examples)]


def items_of(batch: ContrastiveBatch) -> list[list[int]]:
    """Token ids of each item, queries first."""
    borders = batch.inputs[0]["cu_seqlens"].tolist()
    packed = [batch.inputs[0]["input_ids"][b:e].tolist() for b, e in pairwise(borders)]
    return [packed[place] for place in batch.place.tolist()]


def test_queries_come_first_then_positives_then_hard_negatives(processor: Processor):
    batch = ContrastiveCollator(processor)(
        rows(example("a", "A red apple"), example("b", "B", "C", "D"), example("c", "E", "F"))
    )
    order = [("a", "query"), ("b", "query"), ("c", "query")]
    order += [(text, "document") for text in ("A red apple", *"BECDF")]
    expected = [processor.prepare(MultimodalInput.of(t), role=r).input_ids for t, r in order]
    assert items_of(batch) == [ids.tolist() for ids in expected]
    lengths = torch.diff(batch.inputs[0]["cu_seqlens"])
    assert torch.equal(lengths, lengths.sort().values)
    assert batch.positive.tolist() == [0, 1, 2]
    assert batch.owner.tolist() == [0, 1, 2, 1, 1, 2]
    assert batch.num_queries == 3
    assert batch.num_tokens == sum(map(len, expected))
    assert batch.tasks == ("retrieval",) * 3
    assert batch.sources == ("data",)


def test_hard_negatives_can_be_capped(processor: Processor):
    capped = [
        replace(row, max_hard_negatives=1)
        for row in rows(example("a", "A", "B", "C"), example("b", "D"))
    ]
    assert ContrastiveCollator(processor)(capped).owner.tolist() == [0, 1, 0]


def test_queries_and_documents_have_their_own_longest_length(processor: Processor):
    long = "one two three four five six seven eight nine ten"
    whole = len(processor.prepare(MultimodalInput.of(long)).input_ids)
    batch = ContrastiveCollator(processor, max_tokens={"query": whole - 4, "document": whole - 2})(
        rows(example(long, long))
    )
    assert sorted(map(len, items_of(batch))) == [whole - 4, whole - 2]


def test_classes_and_scores_belong_to_their_documents(processor: Processor):
    graded = ContrastiveExample(
        MultimodalInput.of("q"),
        (MultimodalInput.of("p"), MultimodalInput.of("other")),
        (MultimodalInput.of("n"), MultimodalInput.of("m")),
        label="cat",
        negative_labels=("dog", "cat"),
        scores=(5.0, 4.0, 2.0, 1.0),
    )
    plain = example("x", "y", "z")
    batch = ContrastiveCollator(processor)(rows(graded, plain))
    cat = batch.query_classes[0]
    assert batch.document_classes[0] == cat  # columns: p, y, n, m, z
    assert batch.document_classes[3] == cat != batch.document_classes[2]
    assert len(set(batch.document_classes.tolist())) == 4  # y and z are classes of their own
    assert batch.scores[[0, 2, 3]].tolist() == [5.0, 2.0, 1.0]
    assert batch.scores[[1, 4]].isnan().all()
    assert batch.query_ids[0] != batch.query_ids[1]


def test_hard_negative_that_is_a_positive_elsewhere_gets_its_id(processor: Processor):
    batch = ContrastiveCollator(processor)(
        rows(example("a", "A", "B", "Z", id_="first"), example("b", "B", "A", id_="second"))
    )
    first, second, hard_b, hard_z, hard_a = batch.ids.tolist()
    assert hard_b == second
    assert hard_a == first
    assert len({first, second, hard_z}) == 3


def test_ids_follow_content_where_the_adapter_gives_none():
    same = [
        example("a", {"image": b"12", "text": "x"}),
        example("b", {"image": b"12", "text": "x"}),
    ]
    assert document_id(same[0], 0) == document_id(same[1], 0)
    contents = ["12", "1", {"image": b"12"}, {"text": ["1", "2"]}, {"image": [b"1", b"2"]}]
    assert len({content_id(MultimodalInput.of(content)) for content in contents}) == 5
    array = torch.zeros(2, 3, 3, dtype=torch.uint8).numpy()
    numbers = {
        content_id(MultimodalInput.of({"image": array.reshape(s)})) for s in [(2, 9), (3, 6)]
    }
    assert len(numbers) == 2


def test_instruction_of_the_dataset_is_used_where_the_item_has_none(processor: Processor):
    own = ContrastiveExample(
        MultimodalInput.of("a", instruction="a dog"), (MultimodalInput.of("b"),)
    )
    collator = ContrastiveCollator(processor)
    batch = collator(rows(own, query_instruction="the cat", document_instruction="the rain"))
    expected = [
        processor.prepare(MultimodalInput.of("a", instruction="a dog"), role="query"),
        processor.prepare(MultimodalInput.of("b", instruction="the rain"), role="document"),
    ]
    assert items_of(batch) == [item.input_ids.tolist() for item in expected]


def test_bad_item_is_named_by_dataset_row_and_place(processor: Processor):
    bad = rows(example("a", "A"), example("b", {"image": b"not a picture"}))
    with pytest.raises(InputError) as caught:
        ContrastiveCollator(processor)(bad)
    assert caught.value.index == ("data", 1, "positive 0")
    assert caught.value.code == "unsupported_format"


def test_queries_of_text_are_known_by_what_they_say_and_pictures_by_their_name():
    def asked(item: object, name: str) -> int:
        positive = MultimodalInput.of("answer")
        return query_id(ContrastiveExample(MultimodalInput.of(item), (positive,), query_id=name))

    assert asked("who?", "data/1") == asked("who?", "data/2") == asked("who?", "")
    assert asked("who?", "data/1") != asked("what?", "data/1")
    absent = {"image": "no-such-file.png"}  # its name is enough, nothing is read
    assert asked(absent, "cat") == asked({"image": "another.png"}, "cat") != asked(absent, "dog")
