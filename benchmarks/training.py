"""One training step of a contrastive loss: forward and backward pass over N pairs of texts.

Each measurement is a process of its own (`python -m benchmarks.training SIDE ...`), so that no side
inherits memory from another. Both sides load the same folder, get the same texts, already
tokenised, compute the same InfoNCE in float32, and bound their memory by chunks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.items import make_texts
from benchmarks.measurement import Cost, spread, timed

__all__ = ["SIDES", "compare_training", "main", "training_markdown"]

TAU = 0.05
OURS = "mmembed, 4,096 tokens"
# (folder, queries, documents) -> the model and one step, which returns the loss.
Prepare = Callable[[Path, list[str], list[str]], tuple[nn.Module, Callable[[], float]]]


def _ours(chunk_tokens: int) -> Prepare:
    def prepare(
        folder: Path, queries: list[str], documents: list[str]
    ) -> tuple[nn.Module, Callable[[], float]]:
        from accelerate import Accelerator

        from mmembed.encoder.checkpoint import load_encoder
        from mmembed.inputs.contrastive import ContrastiveCollator, TrainingRow
        from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput
        from mmembed.losses.info_nce import InfoNCE
        from mmembed.training.grad_cache import ChunkedBackward
        from mmembed.types import ContrastiveExample, MultimodalInput

        encoder, processor = load_encoder(folder)
        rows = [
            TrainingRow(
                ContrastiveExample(MultimodalInput.of(query), (MultimodalInput.of(document),)),
                "texts",
                index,
            )
            for index, (query, document) in enumerate(zip(queries, documents, strict=True))
        ]
        batch = ContrastiveCollator(processor, chunk_tokens=chunk_tokens)(rows)

        def loss_of(embeddings: torch.Tensor) -> tuple[LossOutput, float]:
            ordered = embeddings[batch.place]
            e = ContrastiveEmbeddings.of_one_process(
                ordered[: len(rows)],
                ordered[len(rows) :],
                batch.positive,
                batch.owner,
                torch.arange(len(rows)),  # texts may repeat; the peer does not look
            )
            return InfoNCE()(e, torch.tensor(TAU)), 1.0

        encoder.train()
        accelerator = Accelerator(cpu=True)
        backward = ChunkedBackward(accelerator, torch.autocast("cpu", enabled=False), lambda: None)
        return encoder, lambda: backward.coupled(encoder, batch.inputs, loss_of).loss.item()

    return prepare


def _sentence_transformers(mini_batch_size: int) -> Prepare:
    def prepare(
        folder: Path, queries: list[str], documents: list[str]
    ) -> tuple[nn.Module, Callable[[], float]]:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
        )

        model = SentenceTransformer(str(folder), device="cpu")
        loss_of = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TAU, mini_batch_size=mini_batch_size
        )
        roles = {"query": queries, "document": documents}
        prepared = [
            model.preprocess(texts, prompt=model.prompts.get(role)) for role, texts in roles.items()
        ]
        model.train()

        def step() -> float:
            loss = loss_of([dict(features) for features in prepared], None)
            loss.backward()
            return float(loss)

        return model, step

    return prepare


SIDES: dict[str, Prepare] = {
    OURS: _ours(4096),
    "sentence-transformers, 32 texts": _sentence_transformers(32),
    "sentence-transformers, 128 texts": _sentence_transformers(128),
}


def compare_training(
    folder: Path,
    sizes: Sequence[int],
    *,
    rounds: int,
    threads: int | None,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Every side at every number of pairs, the sides in turn."""
    results = []
    for size in sizes:
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                found[side].append(_in_own_process(side, folder, size, threads))
                progress(f"{size} pairs, {side}, round {number + 1} of {rounds}")
        results.append({"size": size, "sides": found})
    return results


def training_markdown(results: Sequence[dict[str, Any]]) -> str:
    """A table: medians, and the ratios to mmembed within the same round."""
    lines = [
        "| pairs | side | pairs/s | peak memory, MiB | time / ours | memory / ours | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours = result["sides"][OURS]
        for side, runs in result["sides"].items():
            cells = [
                str(result["size"]),
                side,
                f"{result['size'] / _median(runs, 'seconds'):.3g}",
                f"{_median(runs, 'peak_mib'):.0f}",
            ]
            for name in ("seconds", "peak_mib"):
                pairs = zip(runs, ours, strict=True)
                ratios = [(a[name] or 0.0) / max(b[name] or 0.0, 1e-9) for a, b in pairs]
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*spread(ratios)))
            lines.append("| " + " | ".join([*cells, f"{runs[0]['loss']:.5f}"]) + " |")
    return "\n".join(lines)


def _median(runs: Sequence[dict[str, Any]], name: str) -> float:
    return spread([run[name] or 0.0 for run in runs])[0]


def _in_own_process(side: str, folder: Path, size: int, threads: int | None) -> dict[str, Any]:
    arguments = [side, str(folder), str(size), str(threads or torch.get_num_threads())]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _measure(side: str, folder: Path, size: int) -> dict[str, Any]:
    queries, documents = make_texts(size, median_words=12, seed=2), make_texts(size, seed=3)
    _, first = SIDES[side](folder, queries[:8], documents[:8])
    first()  # imports and first allocations do not count
    model, step = SIDES[side](folder, queries, documents)
    losses: list[float] = []
    cost: Cost = timed(lambda: losses.append(step()))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    return {**asdict(cost), "loss": losses[0], "gradient_norm": norm}


def main(side: str, folder: str, size: str, threads: str) -> None:
    """One measurement, as JSON on standard output."""
    torch.set_num_threads(int(threads))
    sys.stdout.write(json.dumps(_measure(side, Path(folder), int(size))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
