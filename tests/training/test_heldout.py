"""Evaluation beside training: the pool, the ranks, and that training does not notice it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.encoder.checkpoint import load_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError
from mmembed.training.heldout import HeldOut, first_ranks, pools_of
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import train
from mmembed.training.step_folders import read_state
from mmembed.types import ContrastiveExample, MultimodalInput

PAIRS = "tests.training.pairs:ColourPairs"


class Colours:
    """Six rows of three queries; ids, several positives and hard negatives that are positives."""

    name, task, revision, license = "colours", "retrieval", "1", "CC0-1.0"

    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> ContrastiveExample:
        of = MultimodalInput.of
        query = ("red", "green", "blue")[index % 3]
        bad = of({"image": b"no picture"}) if self._broken and index == 4 else of("grey")
        return ContrastiveExample(
            of(query),
            (of(f"{query} {index}"), of("any colour")),
            (of("red 0"), of("red 0 again") if index else of("red 0"), bad),
            query_id=query,
            positive_ids=(f"{query} {index}", "any"),
        )


def recipe(checkpoint: Path, *, broken: bool = False, **stage: Any) -> Recipe:
    fields = {
        "data": [{"adapter": PAIRS, "arguments": {"pictures": False, "size": 12}}],
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 3e-3,
        **stage,
    }
    return Recipe.model_validate({"model": {"path": str(checkpoint)}, "stages": [fields]})


def evaluation(**arguments: Any) -> dict[str, Any]:
    data = [
        {"adapter": PAIRS, "arguments": {"pictures": False, "hard_negatives": 2}, "cap": 7},
        {"adapter": f"{__name__}:Colours", "arguments": arguments, "query_instruction": "find it"},
    ]
    return {"evaluation": data, "evaluate_every": 2}


def test_a_pool_has_each_query_and_document_once_and_shares_positives():
    stage = StageConfig(data=[{"adapter": PAIRS}], steps=1, **evaluation())
    capped, pool = pools_of(stage, seed=0)
    assert (capped.name, pool.name) == ("names", "colours")
    assert len(capped.queries) == 7
    assert [query.parts[0].text for query in pool.queries] == ["red", "green", "blue"]
    assert {query.instruction for query in pool.queries} == {"find it"}
    texts = [document.parts[0].text for document in pool.documents]
    names = "red 0,any colour,grey,red 0 again,green 1,blue 2,red 3,green 4,blue 5"
    assert sorted(texts) == sorted(names.split(","))
    relevant = [{texts[place] for place in places} for places in pool.relevant]
    assert relevant == [
        {"red 0", "red 3", "any colour"},
        {"green 1", "green 4", "any colour"},
        {"blue 2", "blue 5", "any colour"},
    ]
    assert pool.origins[0] == ("colours", 0, "query")
    assert pool.origins[3 + texts.index("grey")] == ("colours", 0, "hard negative 2")


def test_ranks_are_those_of_sorting_everything():
    random = np.random.default_rng(0)
    queries, documents = random.normal(size=(9, 4)), random.normal(size=(20, 4))
    relevant = [frozenset(random.permutation(20)[: 1 + row % 3].tolist()) for row in range(9)]
    found = first_ranks(queries, documents, relevant)
    for row, answers in enumerate(relevant):
        order = sorted(range(20), key=lambda place: -(queries[row] @ documents[place]))
        others = [place for place in order if place not in answers]
        best = min(order.index(place) for place in answers)
        assert found[row] == 1 + sum(order.index(place) < best for place in others)


def test_ties_count_against_a_collapsed_model():
    same = np.ones((6, 4), dtype=np.float32)
    assert first_ranks(same, same, [frozenset({0, 1})] * 6).tolist() == [5] * 6


def test_training_does_not_notice_its_evaluation(tiny_checkpoint: Path, tmp_path: Path):
    dropout = {"lora": {"rank": 2, "alpha": 4, "dropout": 0.3}}
    plain = train(recipe(tiny_checkpoint, **dropout), output=tmp_path / "a", cpu=True)
    seen = train(
        recipe(tiny_checkpoint, **dropout, **evaluation()), output=tmp_path / "b", cpu=True
    )
    one, other = (load_file(each.model / "model.safetensors") for each in (plain, seen))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    losses, rows = (
        read_metrics(tmp_path / name / "stage1" / "metrics.jsonl") for name in ("a", "b")
    )
    assert [row["loss"] for row in rows if "loss" in row] == [row["loss"] for row in losses]
    found = [row for row in rows if "evaluation/names/R@1" in row]
    assert [row["step"] for row in found] == [0, 2, 4]
    for row in found:
        assert set(row) - {"step"} == {
            f"evaluation/{name}/{metric}"
            for name in ("names", "colours")
            for metric in ("R@1", "R@10", "MRR")
        }
        assert all(0 <= value <= 1 for name, value in row.items() if name != "step")


@pytest.mark.parametrize("equal_chunks", [False, True])
def test_processes_in_step_do_not_halve_a_batch_that_does_not_fit(
    tiny_checkpoint: Path, tmp_path: Path, equal_chunks: bool
):
    stage = recipe(tiny_checkpoint, chunk_tokens=120, **evaluation()).stages[0]
    encoder, processor = load_encoder(tiny_checkpoint)
    tokens: list[int] = []

    def small_memory(_: Any, inputs: Any) -> None:
        tokens.append(len(inputs[0]["input_ids"]))
        if tokens[-1] > 60:
            raise torch.OutOfMemoryError

    encoder.register_forward_pre_hook(small_memory)
    held_out = HeldOut(
        stage,
        encoder,
        processor,
        folder=tmp_path,
        seed=0,
        total_steps=4,
        equal_chunks=equal_chunks,
    )
    if equal_chunks:
        with pytest.raises(ConfigError, match="lower chunk_tokens"):
            held_out.evaluate(2)
        assert 60 < tokens[-1] <= 120
    else:
        assert held_out.evaluate(2)
        assert max(tokens) > 120
    processor.close()


def test_numbers_are_those_of_the_saved_model(tiny_checkpoint: Path, tmp_path: Path):
    dropout = {"rank": 2, "alpha": 4, "dropout": 0.5}  # off in an evaluation
    settings = recipe(tiny_checkpoint, lora=dropout, **evaluation())
    model = train(settings, output=tmp_path, cpu=True).model
    row = read_metrics(tmp_path / "stage1" / "metrics.jsonl")[-1]
    pool = pools_of(settings.stages[0], seed=settings.seed)[1]
    with Embedder.from_pretrained(model, device="cpu") as embedder:
        ranks = first_ranks(
            embedder.encode_query(list(pool.queries)),
            embedder.encode_document(list(pool.documents)),
            pool.relevant,
        )
    assert row["evaluation/colours/R@1"] == (ranks <= 1).mean()
    assert row["evaluation/colours/MRR"] == pytest.approx((1 / ranks).mean())


def test_the_model_is_the_step_with_the_best_score(tiny_checkpoint: Path, tmp_path: Path):
    metric = "evaluation/names/MRR"
    settings = recipe(
        tiny_checkpoint,
        **{**evaluation(), "evaluate_every": 1, "keep_best": metric, "learning_rate": 0.1},
    )
    result = train(settings, output=tmp_path, cpu=True)
    rows = read_metrics(tmp_path / "stage1" / "metrics.jsonl")
    scores = {row["step"]: row[metric] for row in rows if metric in row and row["step"]}
    best = max(scores, key=lambda step: scores[step])  # of equal ones the first
    assert best < 4, scores  # or the test shows nothing
    assert read_state(result.model).step == best
    folder = tmp_path / "stage1" / f"step-{best:06d}"
    assert read_state(folder).score == scores[best]
    kept = load_file(folder / "model.safetensors")
    for name, tensor in load_file(result.model / "model.safetensors").items():
        assert torch.equal(tensor, kept[name])


def test_the_end_can_be_the_best(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(
        tiny_checkpoint, keep_best="evaluation/names/MRR", evaluation=evaluation()["evaluation"]
    )
    result = train(settings, output=tmp_path, cpu=True)
    assert read_state(result.model).step == 4


def test_an_item_that_cannot_be_used_is_named(tiny_checkpoint: Path, tmp_path: Path):
    broken = recipe(tiny_checkpoint, **evaluation(broken=True))
    with pytest.raises(InputError) as caught:
        train(broken, output=tmp_path, cpu=True)
    assert caught.value.index == ("colours", 4, "hard negative 2")


def test_a_score_that_is_not_measured_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    settings = recipe(tiny_checkpoint, keep_best="mrr", **evaluation())
    with pytest.raises(ConfigError, match=r"'mrr'.*it measures evaluation/names/R@1"):
        train(settings, output=tmp_path, cpu=True)


@pytest.mark.parametrize("knob", [{"evaluate_every": 5}, {"keep_best": "loss"}])
def test_knobs_without_data_are_refused(knob: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(knob))} needs evaluation"):
        StageConfig(data=[{"adapter": PAIRS}], steps=1, **knob)


def test_a_soup_of_checkpoints_needs_the_end(tiny_checkpoint: Path):
    stage = {"keep_best": "evaluation/names/MRR", "save_every": 1, **evaluation()}
    fields = recipe(tiny_checkpoint, **stage).model_dump(mode="json")
    soup = {"method": "linear", "checkpoints": 2}
    with pytest.raises(ValueError, match="give one of them"):
        Recipe.model_validate(fields | {"soup": soup})


def test_a_reranker_is_refused(tiny_reranker: Path, tmp_path: Path):
    settings = recipe(tiny_reranker, loss={"objective": "yes_no"}, **evaluation())
    settings.stages[0].data[0].arguments["hard_negatives"] = 1
    with pytest.raises(ConfigError, match="a reranker has no embeddings"):
        train(settings, output=tmp_path, cpu=True)


def test_looking_changes_no_fingerprint_until_it_chooses(tiny_checkpoint: Path):
    plain, looking = recipe(tiny_checkpoint), recipe(tiny_checkpoint, **evaluation())
    assert plain.fingerprint(1) == looking.fingerprint(1)
    best = {"keep_best": "evaluation/names/MRR"}
    choosing = recipe(tiny_checkpoint, **best, **evaluation())
    other = recipe(tiny_checkpoint, **best, **{**evaluation(), "evaluate_every": 3})
    assert len({each.fingerprint(1) for each in (plain, choosing, other)}) == 3
