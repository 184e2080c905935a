"""Run as `python cached_of_two.py RANK FOLDER CHECKPOINT RERANKER`: one process's share of steps.

The processes have other numbers of rows, chunks and kinds of input; on one of them memory runs out.
Writes what each case gave, for test_grad_cache.py to compare.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from tests.training.steps import LOSSES, Step

__all__ = ["CASES", "environment", "of_case", "step"]

EVERYTHING = LOSSES["contrast with everything"]
YES_NO = {"objective": "yes_no", "in_batch": False, "hard_negatives": "own"}
# Chunk tokens of rank 0 and rank 1, and how many tokens fit into "memory" there.
CASES: dict[str, tuple[dict[str, Any], tuple[int | None, int | None], tuple[int, int]]] = {
    "one pass": (EVERYTHING, (None, None), (10**6, 10**6)),
    "cached": (EVERYTHING, (200, 70), (10**6, 10**6)),
    "one chunk beside many": (EVERYTHING, (None, 70), (10**6, 10**6)),
    "memory runs out on one": (EVERYTHING, (None, None), (10**6, 150)),
    "as many chunks": (EVERYTHING, (None, 70), (10**6, 10**6)),
    "reranker": (YES_NO, (None, 500), (10**6, 10**6)),
    "reranker, as many chunks": (YES_NO, (None, 500), (10**6, 10**6)),
}


def environment(rank: int) -> dict[str, str]:
    return {
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",  # asked for, though the store is a file
        "MASTER_PORT": "29500",
    }


def step(case: str, checkpoint: Path, reranker: Path, *, rank: int | None) -> Step:
    """Seven rows; rank 0 has four of them. None = all of them on one process."""
    loss = CASES[case][0]
    rows = None if rank is None else [(0, 4), (4, 7)][rank]
    folder = reranker if loss is YES_NO else checkpoint
    return Step(folder, loss, size=7, rows=rows, equal_chunks="as many chunks" in case)


def of_case(case: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    begin = f"{case}/"
    return {name.removeprefix(begin): t for name, t in found.items() if name.startswith(begin)}


def main() -> None:
    rank, folder, checkpoint, reranker = int(sys.argv[1]), *map(Path, sys.argv[2:5])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    assert PartialState(cpu=True).num_processes == 2
    found: dict[str, Tensor] = {}
    for case, (_, chunk_tokens, memory) in CASES.items():
        share = step(case, checkpoint, reranker, rank=rank)
        with share.memory_of(memory[rank]) as passes:
            share.ours(chunk_tokens[rank])
            del passes[:]
            # a second step, which must not meet leftovers of the first
            gave = {**share.ours(chunk_tokens[rank]), "passes": torch.tensor(0)}
            gave["passes"] += len(passes)
        found |= {f"{case}/{name}": tensor for name, tensor in gave.items()}
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
