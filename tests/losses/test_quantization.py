"""Quantisation-aware training: LSQ's golden gradients, the quantised grid, the wrapper."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mmembed.encoder.head import quantize
from mmembed.losses.cosent import CoSENT
from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.quantization import (
    QuantizationAware,
    initial_step,
    lsq_quantize,
    sign_quantize,
)
from mmembed.losses.sigmoid import Sigmoid
from tests.losses.graded_batch import (
    assert_equal_over_processes,
    assert_unchanged_by_autocast,
    graded_batch,
    leaves,
    local,
    value_and_gradients,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASE = next(case for case in GOLDEN["tests"] if case["id"] == "lsq")
TAU = torch.tensor(0.1, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lsq_equals_the_golden_value_and_gradients(dtype: torch.dtype):
    inputs, expected = CASE["inputs"], CASE["expected"]
    qn, qp = 2 ** (inputs["bits"] - 1), 2 ** (inputs["bits"] - 1) - 1
    v = torch.tensor(inputs["v"], dtype=dtype, requires_grad=True)
    step = torch.tensor(inputs["step"], dtype=dtype, requires_grad=True)
    precision = 2e-9 if dtype == torch.float64 else 1e-5
    v_hat = lsq_quantize(v, step, qn, qp)
    assert v_hat.tolist() == pytest.approx(expected["v_hat"], abs=precision)
    v_hat.sum().backward()
    assert v.grad.tolist() == expected["dvhat_dv"]
    assert step.grad.item() == pytest.approx(expected["dstep_for_unit_upstream"], abs=precision)
    for element, slope in enumerate(expected["dvhat_dstep"]):
        (gradient,) = torch.autograd.grad(lsq_quantize(v, step, qn, qp)[element], step)
        found = gradient.item() / expected["grad_scale"]
        assert found == pytest.approx(slope, abs=10 * precision)
    assert initial_step(v, qp).item() == pytest.approx(expected["step_init"], abs=precision)


@settings(max_examples=50, deadline=None, database=None)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=8),
    st.floats(0.01, 1.0),
    st.sampled_from([(4, 3), (128, 127)]),
)
def test_quantised_values_are_the_nearest_of_the_grid(values: list, step: float, limits: tuple):
    v, s = torch.tensor(values, dtype=torch.float64), torch.tensor(step, dtype=torch.float64)
    grid = torch.arange(-limits[0], limits[1] + 1) * s
    nearest = (v[:, None] - grid).abs().min(-1).values
    torch.testing.assert_close((lsq_quantize(v, s, *limits) - v).abs(), nearest)


def test_the_steps_gradient_does_not_depend_on_how_rows_are_split():
    v = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(lsq_quantize(v, step, 4, 3).sum(), step)
    parts = [torch.autograd.grad(lsq_quantize(p, step, 4, 3).sum(), step)[0] for p in v.split(2)]
    torch.testing.assert_close(sum(parts), whole)


def test_sign_has_the_mean_size_of_its_row_and_the_gradient_of_the_identity():
    v = torch.tensor([[0.5, -0.1, 0.0], [3.0, 2.0, -1.0]], requires_grad=True)
    quantized = sign_quantize(v)
    assert quantized.tolist()[0] == pytest.approx([0.2, -0.2, -0.2])
    assert quantized.tolist()[1] == pytest.approx([2.0, 2.0, -2.0])
    quantized.mul(torch.arange(6.0).reshape(2, 3)).sum().backward()
    assert v.grad.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_signs_are_the_bits_that_the_encoder_writes():
    v = normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    v[0, 0] = 0.0
    bits = torch.from_numpy(quantize(v.numpy(), "ubinary"))
    unpacked = (bits[:, :, None] >> torch.arange(7, -1, -1)) & 1
    assert torch.equal(sign_quantize(v) > 0, unpacked.flatten(1).bool())


class Recorded:
    """An objective that keeps the batches it is called with."""

    def __init__(self) -> None:
        self.seen: list[ContrastiveEmbeddings] = []

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        self.seen.append(e)
        return LossOutput((e.queries @ e.documents.T).sum() / temperature.mean())


@pytest.mark.parametrize("bits", ["int8", "binary"])
def test_the_objective_sees_full_precision_and_then_unit_rows_of_the_grid(bits: str):
    recorded, e = Recorded(), leaves(graded_batch())
    loss = QuantizationAware(recorded, bits)
    loss(e, TAU)
    full, quantized = recorded.seen
    assert full is e
    assert torch.equal(quantized.full.documents, e.documents)
    assert not quantized.full.documents.requires_grad
    assert quantized.draw_seed == e.draw_seed
    if bits == "binary":
        expected = torch.where(e.documents > 0, 1.0, -1.0).double() / math.sqrt(8)
    else:
        step = loss.step.double()
        expected = normalize((e.documents / step).clamp(-128, 127).round() * step, dim=-1)
    torch.testing.assert_close(quantized.documents, expected)


@pytest.mark.parametrize("bits", ["int8", "binary"])
def test_the_loss_is_the_plain_one_plus_the_weighted_quantised_one(bits: str):
    e = graded_batch()
    plain = InfoNCE()(e, TAU)
    output = QuantizationAware(InfoNCE(), bits, weight=0.3)(e, TAU)
    torch.testing.assert_close(
        output.loss, plain.loss + 0.3 * output.metrics["loss_quantized"], rtol=1e-12, atol=0
    )
    for name, value in plain.metrics.items():
        assert torch.equal(output.metrics[name], value)


def test_fine_steps_change_the_loss_by_little_and_signs_by_more():
    e = graded_batch(dim=256)
    plain = InfoNCE()(e, TAU).loss
    changes = [
        (QuantizationAware(InfoNCE(), bits)(e, TAU).metrics["loss_quantized"] - plain).abs()
        for bits in ("int8", "binary")
    ]
    assert 0 < changes[0] < changes[1] / 5


def test_the_step_is_set_by_the_first_batch_and_then_only_learnt():
    loss = QuantizationAware(InfoNCE(), "int8")
    assert loss.step.item() == 0
    assert loss.step.dtype == torch.float32
    e = graded_batch()
    output = loss(e, TAU)
    values = torch.cat([e.queries, e.documents])
    expected = 2 * values.abs().mean().item() / math.sqrt(127)
    assert loss.step.item() == pytest.approx(expected)
    assert output.metrics["quantization_step"] == loss.step
    output.loss.backward()
    assert loss.step.grad.abs() > 0
    loss(graded_batch(seed=1), TAU)
    assert loss.step.item() == pytest.approx(expected)
    again = QuantizationAware(InfoNCE(), "int8")
    again.load_state_dict(loss.state_dict())
    again(graded_batch(seed=2), TAU)
    assert again.step == loss.step


def test_all_processes_start_from_the_same_step():
    e = graded_batch()
    steps = set()
    for rows in (slice(0, 2), slice(2, 6), slice(0, 6)):
        loss = QuantizationAware(InfoNCE(), "int8")
        loss(local(e, rows), TAU)
        steps.add(loss.step.item())
    assert len(steps) == 1


def test_a_step_that_was_learnt_past_zero_mirrors_the_grid_and_turns_no_vector_round():
    v = torch.tensor([-9.0, -0.2, 0.1, 9.0], dtype=torch.float64)
    step = torch.tensor(0.1, dtype=torch.float64)
    torch.testing.assert_close(lsq_quantize(v, -step, 4, 3), -lsq_quantize(-v, step, 4, 3))


def test_gradient_of_binary_has_the_size_of_full_precision():
    # To first order sign(v) mean|v| is as long as v; a bare sign would be sqrt(D) times longer.
    e = graded_batch(dim=256)
    recorded = Recorded()
    full = value_and_gradients(recorded, e, TAU)[1]
    both = value_and_gradients(QuantizationAware(recorded, "binary"), e, TAU)[1]
    ratio = (both - full).norm() / full.norm()
    assert 0.5 < ratio < 2


def test_a_mask_drops_the_same_pairs_at_every_precision():
    e = graded_batch()
    masked = InfoNCE(similarity_mask=DocumentSimilarityMask(0.2))

    class MaskedFraction:
        def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
            return LossOutput(masked(e, temperature).metrics["masked_fraction"])

    output = QuantizationAware(MaskedFraction(), "binary")(e, TAU)
    quantised_alone = masked(e.mapped(sign_quantize).mapped(lambda x: normalize(x)), TAU)
    expected = masked(e, TAU).metrics["masked_fraction"]
    assert output.metrics["loss_quantized"] == expected
    assert quantised_alone.metrics["masked_fraction"] != expected


@pytest.mark.parametrize("bits", ["int8", "binary"])
@pytest.mark.parametrize("loss", [InfoNCE(), CoSENT()], ids=lambda x: type(x).__name__)
def test_processes_together_give_the_value_and_gradients_of_one(loss: object, bits: str):
    wrapped = QuantizationAware(loss, bits).double()
    if bits == "int8":
        torch.nn.init.constant_(wrapped.step, 0.05)
    assert_equal_over_processes(wrapped, graded_batch(), TAU, rtol=1e-9, atol=1e-12)


def test_it_composes_with_matryoshka_and_parameters_stay_reachable():
    inner = Sigmoid()
    loss = Matryoshka(QuantizationAware(inner, "int8"), [8, 4])
    assert {name for name, _ in loss.named_parameters()} == {"loss.step", "loss.loss.bias"}
    value, *_, step, bias = value_and_gradients(loss, graded_batch(), TAU)
    assert value.isfinite()
    assert step.isfinite() and bias.isfinite()


def test_at_step_reaches_the_objective_and_shares_the_step():
    late = InfoNCE(similarity_mask=DocumentSimilarityMask(0.9, from_step=10))
    wrapped = QuantizationAware(late, "int8", weight=0.5)
    early = wrapped.at_step(9)
    assert early.loss == late.at_step(9)
    assert (early.bits, early.weight) == ("int8", 0.5)
    assert early.step is wrapped.step
    sigmoid = QuantizationAware(Sigmoid(), "binary")
    assert sigmoid.at_step(9) is sigmoid


def test_autocast_does_not_change_the_value():
    for bits in ("int8", "binary"):
        assert_unchanged_by_autocast(QuantizationAware(InfoNCE(), bits), graded_batch(), TAU)


def test_options_that_cannot_be_used_are_named():
    with pytest.raises(ValueError, match="'int4'; allowed: int8, binary"):
        QuantizationAware(InfoNCE(), "int4")
    with pytest.raises(ValueError, match="weight is 0; it must be positive"):
        QuantizationAware(InfoNCE(), "int8", weight=0)
