"""What every objective refuses before it computes anything, and in which words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmembed.losses.cosent import CoSENT
from mmembed.losses.distillation import Distillation
from mmembed.losses.embeddings import Loss
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.sigmoid import Sigmoid
from mmembed.losses.validation import NonFiniteEmbeddings, row_temperatures
from mmembed.losses.weighted_sum import WeightedSum
from tests.losses.graded_batch import graded_batch, local

LOSSES: dict[str, Loss] = {
    "info_nce": InfoNCE(),
    "cosent": CoSENT(),
    "distillation": Distillation(),
    "sigmoid": Sigmoid(),
    "matryoshka": Matryoshka(CoSENT(), [8, 4]),
    "int8": QuantizationAware(Sigmoid(), "int8"),
    "binary": QuantizationAware(Distillation(), "binary"),
    "sum": WeightedSum([(1.0, CoSENT()), (0.5, InfoNCE())]),
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@EVERY_LOSS
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["queries", "documents"])
def test_embeddings_that_are_not_finite_are_refused_with_their_row_on_every_process(
    loss: Loss, name: str, value: float
):
    e = graded_batch()
    e = replace(e, **{name: getattr(e, name).clone()})
    getattr(e, name)[3, 1] = value
    e = replace(e, all_queries=e.queries)
    with pytest.raises(NonFiniteEmbeddings, match=rf"{name} has .* 1 of \d+ .* first in row 3"):
        loss(local(e, slice(0, 2)), torch.tensor(0.1))


@EVERY_LOSS
@pytest.mark.parametrize("value", [0.0, -0.1, math.nan])
def test_a_temperature_that_is_not_above_zero_is_refused_with_its_row(loss: Loss, value: float):
    tau = torch.tensor([0.1, 0.1, value, 0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match=r"temperature is .* in row 2; .* must be above 0"):
        loss(graded_batch(), tau)
    with pytest.raises(ValueError, match=r"temperature is .* in row 0"):
        loss(graded_batch(), torch.tensor(value))


@EVERY_LOSS
def test_a_temperature_of_the_wrong_length_is_refused(loss: Loss):
    with pytest.raises(ValueError, match=r"shape \(3,\); expected a scalar or \(6,\)"):
        loss(graded_batch(), torch.full((3,), 0.1))


def test_temperatures_of_bfloat16_embeddings_are_not_rounded():
    e = graded_batch().mapped(lambda x: x.bfloat16())
    assert row_temperatures(torch.tensor(0.013), e).tolist() == [torch.tensor(0.013).item()] * 6


@pytest.mark.parametrize("name", ["row", "positive", "all_positive", "owner", "ids"])
def test_an_index_of_the_wrong_length_is_refused_by_name(name: str):
    with pytest.raises(ValueError, match=rf"ContrastiveEmbeddings\.{name} has shape"):
        replace(graded_batch(), **{name: torch.arange(2)})


@pytest.mark.parametrize(
    ("name", "limit"), [("row", 5), ("positive", 14), ("all_positive", 14), ("owner", 5)]
)
@pytest.mark.parametrize("below", [True, False])
def test_an_index_out_of_range_is_refused_with_what_is_allowed(name: str, limit: int, below: bool):
    e = graded_batch()
    index = getattr(e, name).clone()
    index[1] = -1 if below else limit + 1
    found = rf"{name} has an index out of range: .*{index[1].item()}.*; allowed: 0\.\.{limit}"
    with pytest.raises(ValueError, match=found):
        replace(e, **{name: index})
