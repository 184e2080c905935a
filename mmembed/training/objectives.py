"""What a stage minimises: a loss for each task of its data, and the temperature of their scores.

Built from the recipe's knobs alone. A batch has one loss, named by its task or by its data; it is
looked up here. Everything
learnt besides the encoder lives here: thetas, the bias of a sigmoid loss, a quantiser's step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmembed.config.objective import LossConfig
from mmembed.config.stage import StageConfig
from mmembed.data.mixture import Mixture
from mmembed.losses.cosent import CoSENT
from mmembed.losses.distillation import Distillation
from mmembed.losses.embeddings import ContrastiveEmbeddings, Loss, LossOutput
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask, MarginMask
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.mixing import MixedNegatives
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.sigmoid import Sigmoid
from mmembed.losses.temperature import Temperature
from mmembed.losses.weighted_sum import WeightedSum
from mmembed.losses.weights import Focal, Hardness
from mmembed.training.observation import observe

__all__ = ["Objectives", "build_loss", "build_objectives", "build_temperature"]


class Objectives(nn.Module):
    """The losses of a stage by their keys, see `Mixture.loss`, and the temperature.

    `named_parameters` names what is learnt: `temperature.theta.<n>`, `learnt.<key>.<name>`.

    Attributes:
        observing: metrics of the embeddings come beside those of the loss; see `observation`.
    """

    observing = False

    def __init__(
        self,
        losses: dict[str, Loss],
        temperature: Temperature,
        configs: Mapping[str, LossConfig] | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self._configs = configs or {}
        self._losses = losses
        self.learnt = nn.ModuleDict(
            {key: loss for key, loss in losses.items() if isinstance(loss, nn.Module)}
        )
        _share_quantizer_step(self.learnt)

    def forward(
        self, e: ContrastiveEmbeddings, *, key: str, temperature: Tensor, step: int
    ) -> LossOutput:
        """The loss `key` of a batch at `step` (masks may start later)."""
        loss = self._losses[key]
        at_step = getattr(loss, "at_step", None)
        current: Loss = loss if at_step is None else at_step(step)
        output = current(e, temperature)
        if not self.observing:
            return output
        seen = observe(e, self._configs.get(key, LossConfig()))
        return LossOutput(output.loss, seen | output.metrics)

    def tau(self, groups: Sequence[str]) -> Tensor:
        """(B,) temperatures of rows by their temperature group."""
        values: Tensor = self.temperature(groups)
        return values

    @property
    def quantizer_step(self) -> Tensor | None:
        """The learnt step of int8 embeddings, if they are trained."""
        found = _quantizers(self.learnt)
        return found[0].step if found else None

    def loss_parameters(self) -> list[nn.Parameter]:
        """What the losses learn, without the temperature."""
        return [parameter for parameter in self.learnt.parameters() if parameter.requires_grad]


def build_objectives(stage: StageConfig, mixture: Mixture) -> Objectives:
    """The losses and the temperature that a stage's knobs describe."""
    keys = dict.fromkeys(mixture.loss(group) for group in mixture.groups)
    configs = {key: stage.loss_of(key) for key in keys}
    losses: dict[str, Loss] = {
        key: build_loss(config)
        for key, config in configs.items()
        if config.objective != "yes_no"  # of a reranker; see `forward`
    }
    return Objectives(losses, build_temperature(stage, mixture), configs)


def build_loss(config: LossConfig) -> Loss:
    """One loss."""
    terms: list[tuple[float, Loss]] = []
    if config.objective == "infonce":
        terms.append((1.0, _info_nce(config)))
    elif config.objective == "cosent":
        terms.append((1.0, CoSENT()))
    elif config.objective == "sigmoid":
        terms.append((1.0, Sigmoid(duplicate_id=config.duplicate_id)))
    teacher = config.distillation
    if teacher.weight:
        distillation = Distillation(
            divergence=teacher.divergence,
            teacher_temperature=teacher.teacher_temperature,
            student_temperature=teacher.student_temperature,
        )
        terms.append((teacher.weight, distillation))
    loss: Loss = terms[0][1] if terms[0][0] == 1.0 and len(terms) == 1 else WeightedSum(terms)
    if config.quantization.bits is not None:
        loss = QuantizationAware(loss, config.quantization.bits, weight=config.quantization.weight)
    if config.matryoshka.dims:
        loss = Matryoshka(loss, config.matryoshka.dims, config.matryoshka.weights)
    return loss


def _info_nce(config: LossConfig) -> InfoNCE:
    document_mask = config.document_mask
    similarity_mask = None
    if document_mask.threshold is not None:
        similarity_mask = DocumentSimilarityMask(**_fields(document_mask))
    return InfoNCE(
        in_batch=config.in_batch,
        hard_negatives=config.hard_negatives,
        query_query=config.query_query,
        document_document=config.document_document,
        own_documents=config.own_documents,
        mixed_negatives=MixedNegatives(**_fields(config.mixed_negatives)),
        duplicate_id=config.duplicate_id,
        same_class=config.same_class,
        margin_mask=MarginMask(**_fields(config.margin_mask)),
        similarity_mask=similarity_mask,
        hardness=Hardness(**_fields(config.hardness)),
        focal=Focal(**_fields(config.focal)),
        symmetric=config.symmetric,
    )


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in type(config).model_fields}


def build_temperature(stage: StageConfig, mixture: Mixture) -> Temperature:
    """The temperature of a stage, for the temperature groups of its mixture."""
    config = stage.temperature
    return Temperature(
        mixture.temperature_groups,
        init=config.init,
        learnable=config.learnable,
        per_task=config.per_task,
        minimum=config.min,
        maximum=config.max,
    )


def _quantizers(losses: nn.Module) -> list[QuantizationAware]:
    return [
        module
        for module in losses.modules()
        if isinstance(module, QuantizationAware) and module.step is not None
    ]


def _share_quantizer_step(losses: nn.Module) -> None:
    """One step for the model, whatever the number of tasks: vectors of all tasks share a space."""
    found = _quantizers(losses)
    for module in found[1:]:
        module.step = found[0].step
