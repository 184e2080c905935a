"""Quantisation-aware training: an objective also holds for quantised embeddings.

    loss = loss(x) + weight * loss(normalize(quantise(x)))

int8 is learned step size quantisation (LSQ, Esser et al. 2020, arXiv 1902.08153): one step for the
model, QN = 128, QP = 127, and with v the embedding, s the step and D its width

    v_hat = s * round(clip(v / s, -QN, QP))                               (equations 1 and 2)
    d v_hat / d s = round(v/s) - v/s inside, -QN below, QP above          (equation 3)
    d v_hat / d v = 1 inside, 0 outside                                   (equation 5)

with the gradient of s multiplied by 1 / sqrt(D * QP) and s at first 2 mean|v| / sqrt(QP) (2.1,
2.2). D, and not D times rows, because the paper counts the features of an activation: so the
gradient does not depend on how rows are split over processes.

binary is sign(v) * mean|v| of each row (XNOR-Net, arXiv 1603.05279, 3.1) with x > 0 as in
`encoder.head`, and the gradient of the identity. After normalising, the scale has no effect on the
value; it gives the gradient the size it has at full precision, which a bare sign would divide by
about the square root of D.

Masks are computed from full precision, detached, as in `losses.matryoshka`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mmembed.losses.embeddings import ContrastiveEmbeddings, Loss, LossOutput, at_least_float32

__all__ = ["Bits", "QuantizationAware", "initial_step", "lsq_quantize", "sign_quantize"]

Bits = Literal["int8", "binary"]

_QN, _QP = 128, 127


class QuantizationAware(nn.Module):
    """Wraps any objective. Put it inside `Matryoshka`: a prefix is cut first, then quantised.

    Args:
        loss: called at full precision and quantised.
        bits: `int8` has a learnable step, fp32, which the first batch sets; it is 0 until then.
        weight: of the quantised loss.

    Metrics: those of `loss` at full precision under their own names; `loss_quantized`, unweighted;
    `quantization_step` (int8).

    Raises:
        ValueError: unknown bits, or a weight that is not positive.
    """

    loss: Loss

    def __init__(self, loss: Loss, bits: Bits, *, weight: float = 1.0) -> None:
        super().__init__()
        if bits not in get_args(Bits):
            raise ValueError(
                f"QuantizationAware: bits is {bits!r}; allowed: {', '.join(get_args(Bits))}"
            )
        if not weight > 0:
            raise ValueError(f"QuantizationAware: weight is {weight}; it must be positive")
        self.loss = loss
        self.bits = bits
        self.weight = weight
        self.step = nn.Parameter(torch.zeros((), dtype=torch.float32)) if bits == "int8" else None

    def at_step(self, step: int) -> QuantizationAware:
        """This loss with the objective as it applies at `step`; parameters are shared."""
        if not hasattr(self.loss, "at_step"):
            return self
        same = QuantizationAware(self.loss.at_step(step), self.bits, weight=self.weight)
        same.step = self.step
        return same

    def forward(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        with torch.autocast(e.queries.device.type, enabled=False):
            output = self.loss(e, temperature)
            metrics = dict(output.metrics)
            if self.step is not None:
                if self.step.item() == 0:
                    with torch.no_grad():
                        # of the whole batch, so that all processes start alike
                        values = torch.cat([e.all_queries, e.documents])
                        self.step.copy_(initial_step(values, _QP))
                metrics["quantization_step"] = self.step.detach().clone()
            full = e.mapped(torch.detach) if e.full is None else e.full
            quantized = self.loss(e.mapped(self._quantize, full=full), temperature)
            metrics["loss_quantized"] = quantized.loss.detach()
        return LossOutput(output.loss + self.weight * quantized.loss, metrics)

    def _quantize(self, embeddings: Tensor) -> Tensor:
        embeddings = at_least_float32(embeddings)
        if self.step is None:
            quantized = sign_quantize(embeddings)
        else:
            quantized = lsq_quantize(embeddings, self.step.to(embeddings.dtype), _QN, _QP)
        return nn.functional.normalize(quantized, dim=-1)


def initial_step(v: Tensor, qp: int) -> Tensor:
    """LSQ 2.1: 2 mean|v| / sqrt(QP)."""
    return 2 * at_least_float32(v).abs().mean() / math.sqrt(qp)


def lsq_quantize(v: Tensor, step: Tensor, qn: int, qp: int) -> Tensor:
    """(..., D) values -> the nearest of step * (-qn .. qp), with LSQ's gradients of v and step.

    `step` is a scalar of v's dtype, not 0; its sign only decides on which side QN applies.
    """
    quantized: Tensor = _LSQ.apply(v, step, qn, qp)
    return quantized


def sign_quantize(v: Tensor) -> Tensor:
    """(..., D) values -> mean|v| where positive, else -mean|v|; the gradient is the identity's."""
    scale = v.detach().abs().mean(-1, keepdim=True)
    quantized = torch.where(v.detach() > 0, scale, -scale)
    return quantized + (v - v.detach())


class _LSQ(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, qn: int, qp: int) -> Tensor:
        ctx.save_for_backward(v, step)
        ctx.limits = -qn, qp
        return (v / step).clamp(-qn, qp).round() * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        v, step = ctx.saved_tensors
        low, high = ctx.limits
        ratio = v / step
        inside = (ratio > low) & (ratio < high)
        of_step = torch.where(inside, ratio.round() - ratio, ratio.clamp(low, high))
        scale = 1 / math.sqrt(v.shape[-1] * high)
        return gradient * inside, (gradient * of_step).sum() * scale, None, None
