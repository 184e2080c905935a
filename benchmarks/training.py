"""The suite train: one step of a contrastive loss over N pairs of texts, forward and backward.

All sides load the same folder, get the same texts, already tokenised, compute the same InfoNCE,
and bound their memory by chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.encoding import utilisation
from benchmarks.flops import forward_flops
from benchmarks.items import make_texts
from benchmarks.measurement import Case, Run, Side, Start
from benchmarks.settings import MODELS, Settings, model_folder

__all__ = ["train_cases", "train_side"]

TAU = 0.05
OURS = "mmembed, 4,096 tokens"
# The model, one step, which returns the loss, and the tokens of each text where it is known.
Prepared = tuple[nn.Module, Callable[[], float], list[int]]
# (folder, queries, documents, device, dtype) -> what takes the step.
Prepare = Callable[[str, list[str], list[str], str, torch.dtype], Prepared]


def _ours(chunk_tokens: int) -> Prepare:
    def prepare(
        folder: str, queries: list[str], documents: list[str], device: str, dtype: torch.dtype
    ) -> Prepared:
        from accelerate import Accelerator

        from mmembed.encoder.checkpoint import load_encoder
        from mmembed.inputs.contrastive import ContrastiveCollator, TrainingRow
        from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput
        from mmembed.losses.info_nce import InfoNCE
        from mmembed.training.grad_cache import ChunkedBackward
        from mmembed.types import ContrastiveExample, MultimodalInput

        encoder, processor = load_encoder(folder, device=device)
        rows = [
            TrainingRow(
                ContrastiveExample(MultimodalInput.of(query), (MultimodalInput.of(document),)),
                "texts",
                index,
            )
            for index, (query, document) in enumerate(zip(queries, documents, strict=True))
        ]
        batch = ContrastiveCollator(processor, chunk_tokens=chunk_tokens)(rows)
        on_device = [tensor.to(device) for tensor in (batch.place, batch.positive, batch.owner)]
        place, positive, owner = on_device

        def loss_of(embeddings: torch.Tensor) -> tuple[LossOutput, float]:
            ordered = embeddings[place]
            e = ContrastiveEmbeddings.of_one_process(
                ordered[: len(rows)],
                ordered[len(rows) :],
                positive,
                owner,
                torch.arange(len(rows), device=device),  # texts may repeat; the peer does not look
            )
            return InfoNCE()(e, torch.tensor(TAU, device=device)), 1.0

        encoder.train()
        backward = ChunkedBackward(
            Accelerator(cpu=device == "cpu"), _autocast(device, dtype), lambda: None
        )
        lengths = [
            length for chunk in batch.inputs for length in chunk["cu_seqlens"].diff().tolist()
        ]
        return (
            encoder,
            lambda: backward.coupled(encoder, batch.inputs, loss_of).loss.item(),
            lengths,
        )

    return prepare


def _sentence_transformers(mini_batch_size: int) -> Prepare:
    def prepare(
        folder: str, queries: list[str], documents: list[str], device: str, dtype: torch.dtype
    ) -> Prepared:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
        )
        from sentence_transformers.util import batch_to_device

        model = SentenceTransformer(folder, device=device)
        # as accelerate does under its trainer
        model.forward = _autocast(device, dtype)(model.forward)
        loss_of = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TAU, mini_batch_size=mini_batch_size
        )
        roles = {"query": queries, "document": documents}
        prepared = [
            batch_to_device(
                model.preprocess(texts, prompt=model.prompts.get(role)), torch.device(device)
            )
            for role, texts in roles.items()
        ]
        model.train()

        def step() -> float:
            loss = loss_of([dict(features) for features in prepared], None)
            loss.backward()
            return float(loss.item())

        return model, step, []

    return prepare


_SIDES: dict[str, Prepare] = {
    OURS: _ours(4096),
    "sentence-transformers, 32 texts": _sentence_transformers(32),
    "sentence-transformers, 128 texts": _sentence_transformers(128),
}


def train_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """Every side at every number of pairs."""
    model = settings.model or "tiny"
    folder, about = model_folder(scratch, model)
    names = [OURS, *(side for side in _SIDES if side.split(",")[0] in settings.peers)]
    for size in settings.sizes or (256, 1024, 4096):
        common = {
            "folder": str(folder),
            "size": size,
            "dtype": settings.dtype,
            "device": settings.device,
            "sizes": MODELS[model] if settings.device != "cpu" else None,
        }
        sides = {
            name: Start("benchmarks.training:train_side", {"name": name, **common})
            for name in names
        }

        def facts(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
            # a backward pass is two forward ones; chunks of the first forward pass are run again
            once, twice = (utilisation(settings, runs, passes=passes) for passes in (3, 4))
            return {side: {"mfu": once[side], "mfu_with_recompute": twice[side]} for side in once}

        yield Case(f"{size:,} pairs", sides, size, "pairs", fresh=True, facts=facts, about=about)


def train_side(
    *,
    name: str,
    folder: str,
    size: int,
    dtype: str,
    device: str,
    sizes: dict[str, int] | None,
) -> Side:
    queries, documents = make_texts(size, median_words=12, seed=2), make_texts(size, seed=3)
    given = device, getattr(torch, dtype)
    _, first, _ = _SIDES[name](folder, queries[:8], documents[:8], *given)
    model, step, lengths = _SIDES[name](folder, queries, documents, *given)

    def facts(loss: float) -> Run:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        counted: dict[str, Any] = {}
        if sizes is not None and lengths:
            counted = {"tflop": forward_flops(sizes, lengths, []) / 1e12}
        return {"loss": loss, "gradient_norm": norm, **counted}

    return Side(step, first, facts)


def _autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16)
