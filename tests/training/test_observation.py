"""What a logged step measures, against loops over pairs; and when the alarm of a collapse rings."""

from __future__ import annotations

import itertools
import logging
import math

import numpy as np
import pytest
import torch

from mmembed.config.objective import LossConfig
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.training.observation import (
    COLLAPSED_ROWS,
    SAMPLE_ROWS,
    CollapseAlarm,
    observe,
)
from tests.losses.dense_info_nce import make_batch

SHARED = LossConfig()


def batch(*, rows: int = 5, hard: int = 2, repeats: int = 1) -> ContrastiveEmbeddings:
    """Rows with hard negatives; the last document has the content of the first."""
    generator = torch.Generator().manual_seed(rows)
    queries = torch.randn(rows, 6, generator=generator)
    documents = torch.randn(rows * (1 + hard), 6, generator=generator)
    documents[-1] = documents[0]
    ids = torch.arange(len(documents))
    ids[-1] = ids[0]
    owner = torch.cat([torch.arange(rows), torch.arange(rows).repeat_interleave(hard)])
    unit = torch.nn.functional.normalize
    repeated = [
        each.repeat_interleave(repeats, 0) for each in (unit(queries), unit(documents), ids)
    ]
    positive = torch.arange(rows).repeat_interleave(repeats) * repeats
    return ContrastiveEmbeddings.of_one_process(
        repeated[0].requires_grad_(),
        repeated[1].requires_grad_(),
        positive,
        owner.repeat_interleave(repeats) * repeats,
        repeated[2],
    )


def values(e: ContrastiveEmbeddings, loss: LossConfig = SHARED) -> dict[str, float]:
    return {name: value.item() for name, value in observe(e, loss).items()}


POOLS = [(True, "none"), (True, "own"), (True, "shared"), (False, "own"), (False, "shared")]


@pytest.mark.parametrize(("in_batch", "hard_negatives"), POOLS)
@pytest.mark.parametrize("scope", ["all", "hard", "in_batch"])
def test_negatives_are_those_that_the_loss_compares(in_batch: bool, hard_negatives: str, scope):
    loss = LossConfig(
        in_batch=in_batch,
        hard_negatives=hard_negatives,
        hardness={"alpha": 3.0, "scope": scope},
    )
    e = batch()
    scores, weights = [], []
    for i, c in itertools.product(range(5), range(15)):
        is_hard, mine = c >= 5, int(e.owner[c]) == i
        allowed = hard_negatives == "shared" or (hard_negatives == "own" and mine)
        if e.ids[c] == e.ids[i] or not (allowed if is_hard else in_batch):
            continue
        scores.append((e.queries[i] @ e.documents[c]).item())
        if scope == "all" or (scope == "hard") == is_hard:
            weights.append(math.exp(3.0 * scores[-1]))
    found = values(e, loss)
    for name, level in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        expected = pytest.approx(np.quantile(scores, level), abs=1e-5)
        assert found[f"negative_similarity_{name}"] == expected
    assert found["hardness_weight_mean"] == pytest.approx(np.mean(weights or [1.0]), rel=1e-5)
    assert found["hardness_weight_max"] == pytest.approx(max(weights or [1.0]), rel=1e-5)


def test_alignment_and_uniformity_are_those_of_the_paper():
    e = batch(hard=1)
    documents = e.documents[:-1]  # the last one repeats the first

    def uniformity(points: torch.Tensor) -> float:
        pairs = [
            math.exp(-2 * (points[i] - points[j]).square().sum().item())
            for i, j in itertools.combinations(range(len(points)), 2)
        ]
        return math.log(np.mean(pairs))

    distances = (e.queries - e.documents[:5]).square().sum(1)
    found = values(e)
    assert found["alignment"] == pytest.approx(distances.mean().item(), abs=1e-5)
    expected = (uniformity(e.queries) + uniformity(documents)) / 2
    assert found["uniformity"] == pytest.approx(expected, abs=1e-5)


def test_document_similarity_leaves_repeated_documents_out():
    e = batch(hard=1)
    cosines = [
        (e.documents[i] @ e.documents[j]).item() for i, j in itertools.combinations(range(9), 2)
    ]
    found = values(e)
    assert found["document_similarity"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found["duplicate_fraction"] == pytest.approx(1 / 10)


def test_hardness_off_weighs_one():
    found = values(batch())
    assert found["hardness_weight_mean"] == found["hardness_weight_max"] == 1


def test_a_batch_above_the_sample_is_measured_at_even_distances():
    small, large = batch(rows=SAMPLE_ROWS, hard=0), batch(rows=SAMPLE_ROWS, hard=0, repeats=3)
    assert len(large.queries) == 3 * SAMPLE_ROWS
    found, expected = values(large), values(small)
    for name in ("negative_similarity_q95", "uniformity", "document_similarity", "alignment"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert found["duplicate_fraction"] == pytest.approx(1 - (SAMPLE_ROWS - 1) / len(large.ids))


def test_observing_leaves_no_gradient_and_draws_nothing():
    e = batch()
    before = torch.get_rng_state()
    assert not any(value.requires_grad for value in observe(e, SHARED).values())
    assert torch.equal(torch.get_rng_state(), before)
    assert e.queries.grad is None


def test_a_single_pair_gives_only_what_it_has():
    found = values(batch(rows=1, hard=0))
    assert "uniformity" not in found
    assert "negative_similarity_q50" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_collapsed_embeddings_have_similarity_one_and_uniformity_zero():
    e = make_batch().mapped(lambda x: torch.nn.functional.normalize(torch.ones_like(x), dim=-1))
    found = values(e)
    assert found["document_similarity"] == pytest.approx(1, abs=1e-6)
    assert found["uniformity"] == pytest.approx(0, abs=1e-5)


def rings(similarities: list[float], **options) -> list[bool]:
    alarm = CollapseAlarm("stage1", **options)
    return [
        alarm(step, {"document_similarity": value})
        for step, value in enumerate(similarities, start=1)
    ]


def test_the_alarm_rings_after_a_few_collapsed_rows_and_warns_once(caplog):
    with caplog.at_level(logging.WARNING):
        found = rings([0.5] + [0.999] * (COLLAPSED_ROWS + 2) + [0.3, 0.999])
    assert found == [False] * COLLAPSED_ROWS + [True] * 3 + [False] * 2
    (record,) = caplog.records
    assert "stage1, step 6: the embeddings have collapsed" in record.getMessage()
    assert "learning_rate" in record.getMessage()


def test_an_untrained_model_that_spreads_out_is_no_alarm(caplog):
    assert not any(rings([0.9995, 0.9990, 0.998, 0.996, 0.994, 0.992, 0.9905, 0.98]))
    assert not any(rings([0.9999] * 20, from_step=21))
    assert not caplog.records


def test_rows_without_documents_do_not_ring():
    alarm = CollapseAlarm("stage1")
    assert not any(alarm(step, {"accuracy": 1.0}) for step in range(10))
