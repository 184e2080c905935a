"""One training step on rows of every modality, through our code and written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor

from mmembed.config.lora import LoraConfig
from mmembed.config.stage import StageConfig
from mmembed.data.mixture import build_mixture
from mmembed.data.sampler import GlobalBatch
from mmembed.encoder.checkpoint import load_encoder
from mmembed.encoder.lora import add_lora
from mmembed.encoder.reranker_model import load_reranker
from mmembed.inputs.collator import EncoderInputs
from mmembed.inputs.contrastive import ContrastiveBatch
from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput
from mmembed.training import distributed
from mmembed.training.forward import Batch, batch_gradients, collator, hashed_seed
from mmembed.training.objectives import build_objectives
from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["LOSSES", "MixedRows", "Step"]

WORDS = "a red apple moving left first dog then car the grinning face of cat in rain".split()

LOSSES: dict[str, dict[str, Any]] = {
    "contrast with everything": {
        "query_query": True,
        "document_document": "all",
        "mixed_negatives": {"pair": [2, 2], "list": True},
        "margin_mask": {"margin": 0.1},
        "document_mask": {"threshold": 0.99, "max_masked_fraction": 0.2},
        "same_class": True,
        "hardness": {"alpha": 2.0},
        "focal": {"gamma": 0.5},
        "symmetric": True,
    },
    "graded pairs": {"objective": "cosent"},
    "pairs one by one": {"objective": "sigmoid"},
    "a teacher": {"distillation": {"weight": 0.5, "divergence": "kl"}},
    "many widths": {"matryoshka": {"dims": [32, 16], "weights": [1.0, 0.3]}},
    "int8": {"quantization": {"bits": "int8"}, "matryoshka": {"dims": [16]}},
}


class MixedRows:
    """Texts, pictures, clips and mixtures of them, each with hard negatives, a class and scores."""

    name, task, revision, license = "mixed", "retrieval", "1", "CC0-1.0"

    def __init__(self, size: int, *, kinds: Sequence[str]) -> None:
        self._size = size
        self._kinds = kinds

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> ContrastiveExample:
        random = np.random.default_rng(index)
        kind = self._kinds[index % len(self._kinds)]

        def words() -> str:
            return " ".join(random.choice(WORDS, random.integers(1, 9)))

        def picture() -> np.ndarray:
            height, width = 28 * random.integers(1, 3, 2)
            return random.integers(0, 256, (height, width, 3), dtype=np.uint8)

        def document() -> MultimodalInput:
            if kind == "text":
                return MultimodalInput.of(words())
            media = picture() if kind == "image" else [picture()] * 3
            return MultimodalInput.of({kind: media, "text": words()})

        query: Any = words() if index % 4 else {"text": words(), "image": picture()}
        return ContrastiveExample(
            MultimodalInput.of(query if kind != "text" else words()),
            (document(),),
            (document(), MultimodalInput.of(words())),
            label=f"class {index % 3}",
            negative_labels=("other", f"class {index % 2}"),
            scores=(3.0 - index % 3, 0.5, 0.2),
        )


@dataclass
class Step:
    """Loss and gradients of one step.

    Args:
        loss, stage: settings of the loss and of the stage.
        kinds, size: of the rows.
        dropout: of the language model's attention.
        rows: the first of this process's rows, and the one behind its last; None = all.
    """

    checkpoint: Path
    loss: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("text", "image", "video")
    size: int = 5
    dropout: float = 0.0
    lora: LoraConfig | None = None
    rows: tuple[int, int] | None = None
    equal_chunks: bool = False

    def __post_init__(self) -> None:
        self.config = StageConfig.model_validate(
            {
                "data": [
                    {
                        "adapter": "tests.training.steps:MixedRows",
                        "arguments": {"size": self.size, "kinds": self.kinds},
                    }
                ],
                "steps": 1,
                "loss": self.loss,
                "temperature": {"init": 0.2, "learnable": True},
                **self.stage,
            }
        )
        self.mixture = build_mixture(self.config.data, seed=0)
        inputs = {"image_tokens": {"min": 1, "max": 4}}
        load = load_reranker if self.loss.get("objective") == "yes_no" else load_encoder
        self.encoder, self.processor = load(self.checkpoint, inputs=inputs)
        if self.lora is not None:
            add_lora(self.encoder, self.lora)
            with torch.no_grad():  # B is zero and would leave A without gradient
                for name, parameter in self.encoder.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
        for layer in self.encoder.backbone.layers:
            layer.self_attn.attention_dropout = self.dropout
        if self.config.gradient_checkpointing:
            self.encoder.backbone.recompute_activations()
        self.encoder.train()
        self.objectives = build_objectives(self.config, self.mixture)
        self.at = GlobalBatch(0, 0, self.mixture.groups[0], tuple(range(self.size)))

    def batch(self, chunk_tokens: int | None) -> Batch:
        stage = self.config.model_copy(update={"chunk_tokens": chunk_tokens})
        rows = [self.mixture.row(index) for index in self.at.rows]
        return collator(self.encoder, self.processor, stage)(rows[slice(*(self.rows or (None,)))])

    @cached_property
    def run(self) -> Callable[[Batch], LossOutput]:
        """Our code, prepared as by the trainer."""
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator = Accelerator(cpu=True, kwargs_handlers=[ddp])
        model = accelerator.prepare(self.encoder)
        gradients = batch_gradients(
            self.encoder,
            self.config,
            self.mixture,
            self.objectives,
            accelerator,
            seed=0,
            equal_chunks=self.equal_chunks,
        )
        return lambda batch: gradients(model, batch, self.at, 0)

    def ours(self, chunk_tokens: int | None = None) -> dict[str, Tensor]:
        """The loss, its metrics and all gradients, by name, as the trainer takes them."""
        self._begin()
        output = self.run(self.batch(chunk_tokens))
        distributed.average_gradients(self.objectives.parameters())
        return self._found(output)

    def written_out(self, chunk_tokens: int | None = None) -> dict[str, Tensor]:
        """The same on one process in one backward pass: the graphs of all chunks are kept."""
        batch = self.batch(chunk_tokens)
        assert isinstance(batch, ContrastiveBatch)
        self._begin()
        parts = []
        for chunk in batch.inputs[::-1]:  # longest first
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.dtype == "bfloat16"):
                parts.append(self.encoder(chunk))
        rows = torch.cat(parts[::-1])[batch.place]
        e = ContrastiveEmbeddings.of_one_process(
            rows[: batch.num_queries],
            rows[batch.num_queries :],
            batch.positive,
            batch.owner,
            batch.ids,
            query_ids=batch.query_ids,
            query_classes=batch.query_classes,
            document_classes=batch.document_classes,
            scores=batch.scores,
            draw_seed=hashed_seed("loss 0 0"),
        )
        tau = self.objectives.tau(batch.tasks)
        output = self.objectives(e, key="retrieval", temperature=tau, step=0)
        output.loss.backward()
        return self._found(output)

    def _begin(self) -> None:
        self.encoder.zero_grad(set_to_none=True)
        self.objectives.zero_grad(set_to_none=True)
        torch.manual_seed(7)

    def _found(self, output: LossOutput) -> dict[str, Tensor]:
        named = [*self.encoder.named_parameters(), *self.objectives.named_parameters()]
        gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        return {"loss": output.loss.detach(), **output.metrics, **gradients}

    @contextmanager
    def memory_of(self, tokens: int, only_with_graph: bool = False) -> Iterator[list[int]]:
        """A forward pass of more tokens runs out of memory; gives the sizes of those that fitted.

        `only_with_graph`: where a graph is built, and a chunk without one has been run before.
        """
        sizes: list[int] = []

        def measure(_: Any, arguments: tuple[EncoderInputs]) -> None:
            size = len(arguments[0]["input_ids"])
            counts = not only_with_graph or (torch.is_grad_enabled() and sizes)
            if size > tokens and counts:
                raise torch.OutOfMemoryError("no room")
            sizes.append(size)

        handle = self.encoder.register_forward_pre_hook(measure)
        try:
            yield sizes
        finally:
            handle.remove()
