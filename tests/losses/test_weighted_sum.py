"""A sum of objectives is the sum of their values and of their gradients."""

from __future__ import annotations

import pytest
import torch

from mmembed.losses.distillation import Distillation
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.weighted_sum import WeightedSum
from tests.losses.graded_batch import graded_batch, value_and_gradients

TAU = torch.tensor(0.1, dtype=torch.float64)


def test_value_and_gradient_are_the_weighted_sums():
    terms = [(0.5, InfoNCE()), (2.0, Distillation(divergence="kl"))]
    batch = graded_batch()
    tau = TAU.expand(len(batch.queries))
    summed = value_and_gradients(WeightedSum(terms), batch, tau)
    apart = [value_and_gradients(loss, batch, tau) for _, loss in terms]
    for value, first, second in zip(summed, *apart, strict=True):
        torch.testing.assert_close(value, 0.5 * first + 2.0 * second, atol=1e-12, rtol=0)


def test_metrics_of_all_terms_are_kept_with_the_loss_of_each():
    batch = graded_batch()
    metrics = WeightedSum([(1.0, InfoNCE()), (1.0, Distillation())])(
        batch, TAU.expand(len(batch.queries))
    ).metrics
    assert {"accuracy", "agreement", "infonce_loss", "distillation_loss"} <= metrics.keys()


def test_terms_follow_the_step():
    late = InfoNCE(similarity_mask=DocumentSimilarityMask(0.0, from_step=10))
    batch = graded_batch()
    tau = TAU.expand(len(batch.queries))
    values = [
        WeightedSum([(1.0, late), (1.0, InfoNCE())]).at_step(step)(batch, tau).loss
        for step in (9, 10)
    ]
    expected = [
        late.at_step(step)(batch, tau).loss + InfoNCE()(batch, tau).loss for step in (9, 10)
    ]
    assert values == expected and values[0] != values[1]


def test_parameters_of_the_terms_are_reachable():
    quantized = QuantizationAware(InfoNCE(), "int8")
    assert list(WeightedSum([(1.0, InfoNCE()), (1.0, quantized)]).parameters()) == [quantized.step]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float):
    with pytest.raises(ValueError, match="must be above 0"):
        WeightedSum([(weight, InfoNCE())])
