"""Shorter and coarser vectors: equal to scoring vectors that were made so."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.encoder.head import quantize
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.scoring import score_retrieval
from mmembed.evaluation.sweeps import coarse_rows, dimensions_of, sweep
from mmembed.tasks import LoadedTask, RetrievalTask, SimilarityTask
from mmembed.types import MultimodalInput, Text
from tests.evaluation.made_up_runs import card

ITEM = MultimodalInput((Text("x"),))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(num: int, dimension: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(num, dimension)))


def stored(name: str, *, modality: str = "text", noise: float = 1.0, num: int = 60, dim: int = 64):
    ids = [f"{number:03}" for number in range(num)]
    task = RetrievalTask(
        name,
        dict.fromkeys(ids, ITEM),
        dict.fromkeys(ids, ITEM),
        {each: {each: 1.0} for each in ids},
    )
    documents = vectors(num, dim, 1)
    queries = unit(documents + noise * vectors(num, dim, 2))
    return card(name, modality, "G"), LoadedTask(task), queries, documents


def test_full_length_and_precision_is_the_run_itself():
    of, loaded, queries, documents = stored("a", noise=3.0)
    expected = score_retrieval(of, loaded.task, queries, documents).value()
    assert 0 < expected < 1
    found = sweep([stored("a", noise=3.0)], dimensions=[64], precisions=["float32"])
    assert found.cells[0].overall == expected


def test_cells_are_means_over_data_sets_and_modalities():
    tasks = [stored("a", noise=3.0), stored("b", noise=2.0), stored("c", modality="image")]
    found = sweep(tasks, dimensions=[64, 16])
    alone = [sweep([task], dimensions=[64, 16]) for task in tasks]
    assert found.tasks == ("a", "b", "c")
    for number, cell in enumerate(found.cells):
        parts = [each.cells[number].overall for each in alone]
        assert cell.overall == pytest.approx(sum(parts) / 3)
        assert cell.modalities == pytest.approx({"text": sum(parts[:2]) / 2, "image": parts[2]})
    sizes = {(cell.dimension, cell.precision): cell.num_bytes for cell in found.cells}
    assert sizes == {
        (64, "float32"): 256, (64, "int8"): 64, (64, "binary"): 8,
        (16, "float32"): 64, (16, "int8"): 16, (16, "binary"): 2,
    }  # fmt: skip


def test_what_is_lost_grows_as_vectors_shrink():
    found = sweep([stored("a", noise=2.5, num=200, dim=256)])
    exact = [cell.overall for cell in found.cells if cell.precision == "float32"]
    assert exact[0] > exact[-1] + 0.1
    by = {(cell.dimension, cell.precision): cell.overall for cell in found.cells}
    assert by[256, "int8"] == pytest.approx(by[256, "float32"], abs=0.03)
    assert by[256, "binary"] < by[256, "float32"]


@pytest.mark.parametrize("dimension", [64, 37, 8])
def test_signs_order_documents_as_the_hamming_distance_does(dimension: int):
    queries, documents = vectors(5, 64, 3), vectors(40, 64, 4)
    found = (
        coarse_rows(queries, dimension, "binary") @ coarse_rows(documents, dimension, "binary").T
    )
    packed = [quantize(rows[:, :dimension], "ubinary") for rows in (queries, documents)]
    for q in range(5):
        for d in range(40):
            distance = sum(
                bin(a ^ b).count("1")
                for a, b in zip(
                    *(p[i].tolist() for p, i in zip(packed, (q, d), strict=True)), strict=True
                )
            )
            assert found[q, d] == pytest.approx(1 - 2 * distance / dimension, abs=1e-5)


def test_bytes_are_those_that_encode_gives():
    rows = vectors(6, 64, 5)
    kept = unit(rows[:, :16])
    expected = unit(quantize(kept, "int8").astype(np.float32))
    assert coarse_rows(rows, 16, "int8") == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(coarse_rows(rows, 16, "int8"), axis=1) == pytest.approx(1.0)


def test_dimensions_fall_by_powers_of_two_from_the_full_length():
    assert dimensions_of(3584) == (3584, 2048, 1024, 512, 256, 128)
    assert dimensions_of(64) == (64, 32, 16)
    assert dimensions_of(8) == (8,)


def test_partial_tasks_are_left_out_and_nothing_gives_nothing():
    of, loaded, queries, documents = stored("a")
    torn = LoadedTask(loaded.task, missing=("x.png",))
    assert sweep([(of, torn, queries, documents)]) is None
    assert sweep([]) is None


def test_pairs_are_swept_too():
    ids = [f"{number}" for number in range(30)]
    task = SimilarityTask("s", dict.fromkeys(ids, (ITEM, ITEM)), {n: float(n) for n in ids})
    first = vectors(30, 64, 1)
    mixed = np.linspace(0, 1, 30)[:, None]
    second = unit(mixed * first + (1 - mixed) * vectors(30, 64, 2))
    of = card("s", "text", "STS", main_metric="spearman")
    found = sweep([(of, LoadedTask(task), first, second)], dimensions=[64])
    assert all(cell.overall > 0.8 for cell in found.cells)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match="128 dimensions asked of vectors of 64"):
        sweep([stored("a")], dimensions=[128])
    of, loaded, queries, documents = stored("a")
    empty = documents.copy()
    empty[7, :16] = 0
    with pytest.raises(DataError, match="007"):
        sweep([(of, loaded, queries, unit(empty))], dimensions=[16], precisions=["float32"])
