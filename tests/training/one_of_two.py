"""Run as `python one_of_two.py RANK WORLD_SIZE STORE OUT`: one process's share of two losses.

Writes its share's gradients, averaged as the trainer does, for test_distributed.py to compare.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mmembed.losses.info_nce import Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask
from mmembed.losses.temperature import Temperature
from mmembed.training import distributed

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
CASES = {case["id"]: case for case in json.loads(GOLDEN.read_text())["tests"]}


def share(count: int, rank: int, world_size: int) -> slice:
    size, rest = divmod(count, world_size)
    begin = rank * size + min(rank, rest)
    return slice(begin, begin + size + (rank < rest))


def shared_scalar(rank: int, world_size: int) -> dict[str, float]:
    """Golden case ddp_scaling: embeddings (cos, sin)(a + phi u) of one shared phi."""
    inputs = CASES["ddp_scaling"]["inputs"]
    rows = share(4, rank, world_size)
    phi = torch.nn.Parameter(torch.tensor(inputs["phi"], dtype=torch.float64))
    theta = torch.nn.Parameter(torch.tensor(math.log(inputs["tau"]), dtype=torch.float64))

    def embed(name: str) -> torch.Tensor:
        angle, slope = (
            torch.tensor(inputs[f"{name}_{kind}"], dtype=torch.float64)[rows]
            for kind in ("angle", "u")
        )
        turned = angle + phi * slope
        return torch.stack([turned.cos(), turned.sin()], dim=1)

    count = rows.stop - rows.start
    gathered = distributed.gather(
        distributed.LocalEmbeddings(
            embed("q"),
            embed("p"),
            torch.arange(count),
            torch.arange(count),
            torch.arange(rows.start, rows.stop),
        )
    )
    loss = InfoNCE()(gathered, theta.exp()).loss * distributed.row_share(gathered)
    loss.backward()
    distributed.average_gradients([phi, theta])
    return {"phi": phi.grad.item(), "theta": theta.grad.item()}


def full_loss(rank: int, world_size: int) -> dict[str, object]:
    """Five queries with one hard negative each, through every mask and weight; uneven shares."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.eye(4, dtype=torch.float64))
    rows = share(5, rank, world_size)
    temperature = Temperature(["a", "b"], learnable=True, per_task=True).double()
    local = torch.nn.functional.normalize(raw[:, rows] @ weight, dim=-1)
    count = rows.stop - rows.start
    gathered = distributed.gather(
        distributed.LocalEmbeddings(
            queries=local[0],
            documents=torch.cat([local[1], local[2]]),
            positive=torch.arange(count),
            owner=torch.arange(count).repeat(2),
            ids=torch.cat([torch.arange(rows.start, rows.stop), 100 + torch.arange(count)]),
        )
    )
    loss = InfoNCE(
        similarity_mask=DocumentSimilarityMask(0.5, max_masked_fraction=0.5),
        hardness=Hardness(3.0, detach=False),
        symmetric=True,
    )
    tau = temperature(["ab"[row % 2] for row in range(rows.start, rows.stop)])
    value = loss(gathered, tau).loss * distributed.row_share(gathered)
    value.backward()
    parameters = [weight, *temperature.parameters()]
    distributed.average_gradients(parameters)
    return {
        "gradients": [parameter.grad.flatten().tolist() for parameter in parameters],
        "stop": distributed.true_on_any(rank == 1, torch.device("cpu")),
    }


def main() -> None:
    rank, world_size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    result = {"scalar": shared_scalar(rank, world_size), "full": full_loss(rank, world_size)}
    Path(out).write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
