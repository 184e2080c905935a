"""Prompts of a query and a document: their tokens, what is cut from them, and their labels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mmembed.encoder.reranker_model import load_reranker
from mmembed.errors import InputError
from mmembed.inputs.contrastive import TrainingRow
from mmembed.inputs.items import Pair
from mmembed.inputs.pairs import PairBatch, PairCollator
from mmembed.inputs.processor import Processor
from mmembed.types import ContrastiveExample, MultimodalInput

BEGIN = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Judge it.<Query>:"
)
MIDDLE = "\n<Document>:"
END = "<|im_end|>\n<|im_start|>assistant\n"
WORDS = "ein roter Apfel and a dog in the rain "


@pytest.fixture(scope="module")
def processor(tiny_reranker: Path) -> Processor:
    return load_reranker(tiny_reranker)[1]


@pytest.fixture(scope="module")
def short(tiny_reranker: Path) -> Processor:
    return load_reranker(tiny_reranker, inputs={"max_tokens": 240})[1]


@pytest.fixture(scope="module")
def plain(tiny_reranker: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    return lambda text: tokenizer(text)["input_ids"]


def pair(query: object, document: object) -> Pair:
    return Pair(MultimodalInput.of(query, "Judge it."), MultimodalInput.of(document))


def test_the_tokens_are_those_of_the_whole_string(plain, processor):
    prepared = processor.prepare(pair("a dog", "a cat in the rain"))
    text = BEGIN + "a dog" + MIDDLE + "a cat in the rain" + END
    assert prepared.input_ids.tolist() == plain(text)


def test_control_tokens_in_either_text_are_plain_characters(plain, processor):
    token = "<|im_end|>"
    ids = processor.prepare(pair(f"a {token}", f"{token}<|image_pad|> b")).input_ids.tolist()
    untouched = processor.prepare(pair("a", "b")).input_ids.tolist()
    for control in (token, "<|image_pad|>"):
        [number] = plain(control)
        assert ids.count(number) == untouched.count(number)


def test_pictures_of_both_sides_stand_where_their_pixels_do(processor):
    wide, tall = (np.full(size, 90, np.uint8) for size in ((28, 84, 3), (112, 28, 3)))
    prepared = processor.prepare(pair({"image": wide, "text": "a"}, ["b", {"image": tall}]))
    alone = [processor.prepare(pair({"image": one}, "c")).grid_thw for one in (wide, tall)]
    assert prepared.grid_thw.tolist() == np.concatenate(alone).tolist()
    is_pad = np.concatenate([[0], prepared.input_ids == processor.pad_ids["image"], [0]])
    runs = np.flatnonzero(np.diff(is_pad)).reshape(-1, 2)
    assert (runs[:, 1] - runs[:, 0]).tolist() == (prepared.grid_thw.prod(1) // 4).tolist()
    assert len(prepared.patches) == prepared.grid_thw.prod(1).sum()


@pytest.mark.parametrize("repeats", [1, 100, 1_000_000 // len(WORDS)])
def test_only_the_document_is_cut_and_the_rest_stays_token_by_token(plain, short, repeats):
    prepared = short.prepare(pair("a red apple", WORDS * repeats))
    ids = prepared.input_ids.tolist()
    before, after = plain(BEGIN + "a red apple" + MIDDLE), plain(END)
    assert len(ids) <= 240
    assert prepared.truncated == (repeats > 1)
    assert ids[: len(before)] == before
    assert ids[-len(after) :] == after
    body = ids[len(before) : -len(after)]
    whole = plain(WORDS * min(repeats, 100))
    assert body == (whole[: len(body)] if prepared.truncated else whole)
    assert not prepared.truncated or len(ids) >= 238


def test_the_query_is_cut_when_nothing_is_left_of_the_document(plain, short):
    prepared = short.prepare(pair(WORDS * 100, WORDS * 100))
    ids = prepared.input_ids.tolist()
    before, after = plain(BEGIN), plain(MIDDLE + END)
    assert prepared.truncated
    assert 238 <= len(ids) <= 240
    assert ids[: len(before)] == before
    assert ids[-len(after) :] == after
    body = ids[len(before) : -len(after)]
    assert body == plain(WORDS * 100)[: len(body)]


def test_an_instruction_is_never_cut(short):
    with pytest.raises(InputError, match="too_many_tokens"):
        short.prepare(Pair(MultimodalInput.of("a", WORDS * 100), MultimodalInput.of("b")))


def test_a_picture_is_never_cut(tiny_reranker):
    tight = load_reranker(tiny_reranker, inputs={"max_tokens": 200})[1]
    picture = np.full((112, 112, 3), 90, np.uint8)
    kept = tight.prepare(pair("a dog", {"image": picture, "text": WORDS * 9}))
    assert (kept.input_ids == tight.pad_ids["image"]).sum() == kept.grid_thw.prod() // 4
    with pytest.raises(InputError, match="too_many_tokens"):
        tight.prepare(pair({"image": [picture] * 3}, {"image": [picture] * 3}))


def example(query: str, document: object, *hard: object) -> ContrastiveExample:
    return ContrastiveExample(
        MultimodalInput.of(query, "Judge it."),
        (MultimodalInput.of(document),),
        tuple(MultimodalInput.of(item) for item in hard),
    )


def rows(*examples: ContrastiveExample, **options) -> list[TrainingRow]:
    return [TrainingRow(each, "data", index, **options) for index, each in enumerate(examples)]


def capped(*examples: ContrastiveExample) -> list[TrainingRow]:
    return [replace(row, max_hard_negatives=1) for row in rows(*examples)]


def prompts_of(batch: PairBatch) -> dict[tuple[int, ...], bool]:
    """Token ids of each prompt -> its label."""
    borders = batch.inputs[0]["cu_seqlens"].tolist()
    packed = [tuple(batch.inputs[0]["input_ids"][b:e].tolist()) for b, e in pairwise(borders)]
    assert len(set(packed)) == len(packed) == len(batch.labels)
    return dict(zip(packed, batch.labels.tolist(), strict=True))


def expected(processor: Processor, *labelled: tuple[str, str, bool]) -> dict[tuple[int, ...], bool]:
    return {
        tuple(processor.prepare(pair(query, document)).input_ids.tolist()): label
        for query, document, label in labelled
    }


def test_a_positive_is_relevant_and_a_hard_negative_is_not(processor):
    batch = PairCollator(processor)(
        rows(example("a", "A red apple"), example("b", "B", "C", "a dog"), example("c", "E", "F"))
    )
    assert prompts_of(batch) == expected(
        processor,
        ("a", "A red apple", True),
        ("b", "B", True),
        ("b", "C", False),
        ("b", "a dog", False),
        ("c", "E", True),
        ("c", "F", False),
    )
    lengths = torch.diff(batch.inputs[0]["cu_seqlens"])
    assert torch.equal(lengths, lengths.sort().values)
    assert batch.labels.dtype == torch.bool
    assert batch.num_queries == 3
    assert batch.num_tokens == int(lengths.sum())
    assert batch.sources == ("data",)


def test_hard_negatives_can_be_capped(processor):
    batch = PairCollator(processor)(capped(example("a", "A", "B", "C")))
    assert prompts_of(batch) == expected(processor, ("a", "A", True), ("a", "B", False))


def test_the_row_says_which_of_its_positives_is_used(processor):
    both = ContrastiveExample(
        MultimodalInput.of("a", "Judge it."), tuple(map(MultimodalInput.of, "AB"))
    )
    batch = PairCollator(processor)([TrainingRow(both, "data", 0, positive=1)])
    assert prompts_of(batch) == expected(processor, ("a", "B", True))


def test_a_hard_negative_that_is_a_positive_is_left_out(processor):
    batch = PairCollator(processor)(capped(example("a", "A", "A", "B")))
    assert prompts_of(batch) == expected(processor, ("a", "A", True), ("a", "B", False))


def test_instruction_of_the_dataset_is_used_where_the_query_has_none(processor):
    bare = ContrastiveExample(MultimodalInput.of("a"), (MultimodalInput.of("A"),))
    batch = PairCollator(processor)(rows(bare, query_instruction="Judge it."))
    assert prompts_of(batch) == expected(processor, ("a", "A", True))


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (example("b", {"image": b"no picture"}), ("positive 0", "document")),
        (example("b", "B", "C", {"image": b"no picture"}), ("hard negative 1", "document")),
        (
            ContrastiveExample(
                MultimodalInput.of({"image": b"no picture"}), (MultimodalInput.of("B"),)
            ),
            ("positive 0", "query"),
        ),
    ],
)
def test_bad_item_is_named_by_dataset_row_and_place(processor, bad, place):
    with pytest.raises(InputError) as caught:
        PairCollator(processor)(rows(example("a", "A"), bad))
    assert caught.value.index == ("data", 1, *place)
    assert caught.value.code == "unsupported_format"


def test_a_prepared_row_knows_its_size(processor):
    picture = np.full((56, 56, 3), 90, np.uint8)
    [row] = PairCollator(processor).prepare(rows(example("a", {"image": picture}, "B")))
    patches = row.prompts[0].patches
    tokens = sum(prompt.num_tokens for prompt in row.prompts)
    assert row.num_bytes == patches.nbytes + 8 * 4 * tokens + 8 * 3
