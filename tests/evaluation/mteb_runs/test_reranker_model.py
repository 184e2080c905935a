"""A reranker under mteb: tasks that hand over candidates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol

from mmembed.encoder.reranker import Reranker
from mmembed.evaluation.mteb_runs.prompts import Prompts
from mmembed.evaluation.mteb_runs.reranker_model import mteb_reranker
from mmembed.evaluation.mteb_runs.running import run_tasks
from mmembed.types import MultimodalInput
from tests.evaluation.mteb_runs.mteb_data import WORDS, local_task, picture, pool_task, text_task


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> Iterator[Reranker]:
    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as loaded:
        yield loaded


POOLS = {"q0": ["d0", "d1"], "q1": ["d1", "d2", "d3"]}


def reranking(name: str = "LocalReranking", prompt: str | None = "Find it.") -> Any:
    corpus = {"id": [f"d{n}" for n in range(5)], "text": list(WORDS)}
    queries = {"id": ["q0", "q1"], "text": ["an apple", "a car"]}
    relevant = {"q0": {"d0": 1}, "q1": {"d1": 1}}
    return local_task(
        name, "t2t", corpus, queries, relevant, top_ranked=POOLS, type="Reranking", prompt=prompt
    )


def test_it_is_a_cross_encoder_of_mteb(reranker: Reranker) -> None:
    model = mteb_reranker(reranker, name="test/reranker")
    assert isinstance(model, CrossEncoderProtocol)
    assert not isinstance(model, EncoderProtocol)
    assert model.mteb_model_meta.is_cross_encoder


def test_scores_are_those_of_the_reranker(reranker: Reranker, tmp_path: Path) -> None:
    from mteb.models.search_wrappers import SearchCrossEncoderWrapper

    task = reranking()
    task.load_data()
    split = task.dataset["default"]["test"]
    search = SearchCrossEncoderWrapper(mteb_reranker(reranker, name="test/reranker"))
    shared: dict[str, Any] = {
        "task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default",
        "encode_kwargs": {"batch_size": 2},
    }  # fmt: skip
    search.index(split["corpus"], **shared)
    found = search.search(split["queries"], top_k=10, top_ranked=POOLS, **shared)
    for query, text in zip(POOLS, ["an apple", "a car"], strict=True):
        documents = [WORDS[int(name[1:])] for name in POOLS[query]]
        expected = reranker.score(text, documents, instruction="Find it.")
        assert found[query] == pytest.approx(
            dict(zip(POOLS[query], expected.tolist(), strict=True)), abs=1e-5
        )


def test_text_and_picture_tasks_run_and_others_fail_loudly(
    reranker: Reranker, tmp_path: Path
) -> None:
    model = mteb_reranker(reranker, name="test/reranker")
    scores = run_tasks(model, [reranking(), pool_task(), text_task()], tmp_path)
    assert [score.value is not None for score in scores] == [True, True, False]
    assert "top_ranked" in scores[2].error


def test_no_instruction_is_left_from_the_task_before(reranker: Reranker) -> None:
    """The released script of one family carried it over."""
    model = mteb_reranker(reranker, name="test/reranker")
    with_prompt, without = reranking(), reranking("LocalOther", prompt=None)

    def instructions(task: Any, prompts: Prompts) -> set[str | None]:
        model.prompts = prompts
        rows = [{"id": ["q0"], "text": ["a"]}]
        return {each.instruction for each in model._items(_Loader(rows), task.metadata, "query")}

    assert instructions(with_prompt, Prompts("task")) == {"Find it."}
    assert instructions(without, Prompts("task")) == {None}
    assert instructions(with_prompt, Prompts("none")) == {""}


def test_a_query_of_many_pairs_is_one_object(reranker: Reranker) -> None:
    rows = [{"id": ["q0", "q0", "q1"], "image": [picture(0), picture(0), picture(1)]}]
    model = mteb_reranker(reranker, name="test/reranker")
    first, second, third = model._items(_Loader(rows), pool_task().metadata, "query")
    assert first is second and second is not third
    assert isinstance(first, MultimodalInput)


class _Loader:
    """What a `DataLoader` has, over batches that are ready."""

    dataset = ()

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.batches)
