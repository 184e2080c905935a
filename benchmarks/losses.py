"""Contrastive losses on given embeddings: time and peak memory of one forward and backward pass.

Each measurement is a process of its own (`python -m benchmarks.losses SIDE ...`), so that no side
inherits memory from another. N queries against N documents; all sides compute the same InfoNCE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.measurement import Cost, spread, timed

__all__ = ["SIDES", "compare_losses", "losses_markdown", "main"]

TAU = 0.02
# (queries, documents) as leaves; leaves the gradients on them and returns the loss.
Step = Callable[[Tensor, Tensor], float]


def _ours(queries: Tensor, documents: Tensor) -> float:
    from mmembed.losses.embeddings import ContrastiveEmbeddings
    from mmembed.losses.info_nce import InfoNCE

    rows = torch.arange(len(queries))
    e = ContrastiveEmbeddings.of_one_process(queries, documents, rows, rows, rows)
    loss = InfoNCE()(e, torch.tensor(TAU)).loss
    loss.backward()
    return loss.item()


def _dense(queries: Tensor, documents: Tensor) -> float:
    """The textbook's two lines."""
    loss = cross_entropy(queries @ documents.T / TAU, torch.arange(len(queries)))
    loss.backward()
    return loss.item()


def _sentence_transformers(queries: Tensor, documents: Tensor) -> float:
    """The loss part of GradCache there: rows in chunks of 1,024, the backward pass in between."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=1 / TAU,
        similarity_fct=dot_score,
        mini_batch_size=1024,
    )
    return float(loss.calculate_loss([[queries], [documents]], with_backward=True))


SIDES: dict[str, Step] = {
    "mmembed": _ours,
    "dense": _dense,
    "sentence-transformers": _sentence_transformers,
}


def compare_losses(
    sizes: Sequence[int],
    *,
    width: int,
    rounds: int,
    threads: int | None,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Every side at every size, the sides in turn; dense only where its matrices fit."""
    results = []
    for size in sizes:
        # Scores, logits, probabilities and their gradient, and as much again for the machine.
        fits = 8 * 4 * size**2 < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        sides = [side for side in SIDES if fits or side != "dense"]
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                found[side].append(_in_own_process(side, size, width, threads))
                progress(f"N = {size}, {side}, round {number + 1} of {rounds}")
        results.append({"size": size, "width": width, "sides": found})
    return results


def losses_markdown(results: Sequence[dict[str, Any]]) -> str:
    """A table: medians, and the ratios to mmembed within the same round."""
    lines = [
        "| N | side | time, s | peak memory, MiB | time / ours | memory / ours | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours = result["sides"]["mmembed"]
        for side, runs in result["sides"].items():
            cells = [
                str(result["size"]),
                side,
                f"{_median(runs, 'seconds'):.3g}",
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


def _in_own_process(side: str, size: int, width: int, threads: int | None) -> dict[str, Any]:
    arguments = [side, str(size), str(width), str(threads or torch.get_num_threads())]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.losses", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _leaves(size: int, width: int) -> tuple[Tensor, Tensor]:
    """Documents near their queries, as after some training."""
    generator = torch.Generator().manual_seed(0)
    queries = normalize(torch.randn(size, width, generator=generator), dim=1)
    documents = torch.randn(size, width, generator=generator).mul_(6 * width**-0.5)
    documents = normalize(documents.add_(queries), dim=1)
    return queries.requires_grad_(), documents.requires_grad_()


def _measure(side: str, size: int, width: int) -> dict[str, Any]:
    SIDES[side](*_leaves(256, width))  # imports and first allocations do not count
    queries, documents = _leaves(size, width)
    losses: list[float] = []
    cost: Cost = timed(lambda: losses.append(SIDES[side](queries, documents)))
    assert queries.grad is not None
    assert documents.grad is not None
    norms = queries.grad.norm().item(), documents.grad.norm().item()
    return {**asdict(cost), "loss": losses[0], "gradient_norms": norms}


def main(side: str, size: str, width: str, threads: str) -> None:
    """One measurement, as JSON on standard output."""
    torch.set_num_threads(int(threads))
    sys.stdout.write(json.dumps(_measure(side, int(size), int(width))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
