"""Run as `python one_of_two.py RANK WORLD_SIZE STORE OUT`: one process's share of every loss.

Writes its share's loss and gradients, averaged as the trainer does, for test_distributed.py to
compare. Golden numbers come from tests/golden/losses.json.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmembed.losses.cosent import CoSENT
from mmembed.losses.distillation import Distillation
from mmembed.losses.embeddings import Loss
from mmembed.losses.info_nce import Focal, Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask, MarginMask
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.mixing import MixedNegatives
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.sigmoid import Sigmoid
from mmembed.losses.temperature import Temperature
from mmembed.losses.weighted_sum import WeightedSum
from mmembed.training import distributed

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
CASES = {case["id"]: case for case in json.loads(GOLDEN.read_text())["tests"]}
EVERYTHING = InfoNCE(
    query_query=True,
    document_document="all",
    own_documents=True,
    mixed_negatives=MixedNegatives((2.0, 2.0), True),
    same_class=True,
    margin_mask=MarginMask(0.4),
    similarity_mask=DocumentSimilarityMask(0.7, max_masked_fraction=0.5),
    hardness=Hardness(3.0, detach=False),
    focal=Focal(0.5),
    symmetric=True,
)


def losses() -> dict[str, Loss]:
    """New ones, since some learn."""
    return {
        "info_nce": EVERYTHING,
        "cosent": CoSENT(),
        "distillation": Distillation("kl", teacher_temperature=0.7),
        "sigmoid": Sigmoid(bias_init=-1.0).double(),
        "int8": Matryoshka(QuantizationAware(EVERYTHING, "int8"), [4, 3], [1.0, 0.3]).double(),
        "binary": QuantizationAware(InfoNCE(), "binary", weight=0.5),
        "sum": WeightedSum([(1.0, InfoNCE()), (0.5, Distillation(student_temperature=0.1))]),
    }


ONE_TEMPERATURE = {"cosent"}  # it compares rows with each other


def share(count: int, rank: int, world_size: int) -> slice:
    size, rest = divmod(count, world_size)
    begin = rank * size + min(rank, rest)
    return slice(begin, begin + size + (rank < rest))


def turned_batch(rows: slice, phi: Tensor) -> distributed.LocalEmbeddings:
    """Golden case ddp_scaling: embeddings (cos, sin)(a + phi u) of one shared phi."""
    inputs = CASES["ddp_scaling"]["inputs"]

    def embed(name: str) -> Tensor:
        angle, slope = (
            torch.tensor(inputs[f"{name}_{kind}"], dtype=torch.float64)[rows]
            for kind in ("angle", "u")
        )
        turned = angle + phi * slope
        return torch.stack([turned.cos(), turned.sin()], dim=1)

    count = torch.arange(rows.stop - rows.start)
    return distributed.LocalEmbeddings(embed("q"), embed("p"), count, count, rows.start + count)


def scalars() -> tuple[nn.Parameter, nn.Parameter]:
    """phi and theta."""
    inputs = CASES["ddp_scaling"]["inputs"]
    values = (inputs["phi"], math.log(inputs["tau"]))
    phi, theta = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values)
    return phi, theta


def shared_scalar(rank: int, world_size: int) -> dict[str, float]:
    phi, theta = scalars()
    gathered = distributed.gather(turned_batch(share(4, rank, world_size), phi))
    loss = InfoNCE()(gathered, theta.exp()).loss * distributed.row_share(gathered)
    loss.backward()
    distributed.average_gradients([phi, theta])
    return {"phi": phi.grad.item(), "theta": theta.grad.item()}


def rich_batch(weight: Tensor, rows: slice) -> distributed.LocalEmbeddings:
    """Five queries; two hard negatives each, the last one has one; ids, classes and scores."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 5, 4, generator=generator, dtype=torch.float64)
    scores = torch.randn(15, generator=generator, dtype=torch.float64)
    classes = torch.tensor([0, 1, 0, 2, 1, 2, 2, 1, 1, 0, 1, 0, 2, 0, 2])
    ids = torch.arange(15)
    ids[7] = ids[3]  # row 2 brings the positive of row 3
    kept = torch.arange(15).reshape(3, 5)[:, rows].flatten()
    kept = kept[kept < 14]
    local = nn.functional.normalize(raw @ weight, dim=-1)
    count = rows.stop - rows.start
    return distributed.LocalEmbeddings(
        queries=local[0, rows],
        documents=local[1:].reshape(15, 4)[kept],
        positive=torch.arange(count),
        owner=kept % 5 - rows.start,
        ids=ids[kept],
        query_ids=torch.tensor([7, 8, 9, 10, 7])[rows],
        query_classes=classes[:5][rows],
        document_classes=classes[kept],
        scores=scores[kept],
    )


def ids_of_all(rank: int, world_size: int) -> list[int]:
    """Row 1 brings as a hard negative what row 0 has as its positive, under the adapter's id."""
    content, name = 5, 100
    unit = torch.nn.functional.normalize(torch.ones(2, 4), dim=-1)
    ids, contents = ([name], [content]) if rank == 0 else ([200, content], [6])
    count = len(ids)
    local = distributed.LocalEmbeddings(
        queries=unit[:1],
        documents=unit[:count],
        positive=torch.tensor([0]),
        owner=torch.zeros(count, dtype=torch.int64),
        ids=torch.tensor(ids),
        positive_contents=torch.tensor(contents),
    )
    return list(distributed.gather(local).ids.tolist())


def every_loss(rank: int, world_size: int) -> dict[str, Any]:
    """Uneven shares; a temperature for each of two tasks, learnt."""
    rows = share(5, rank, world_size)
    found = {}
    for name, loss in losses().items():
        weight = nn.Parameter(torch.eye(4, dtype=torch.float64))
        temperature = Temperature(["a", "b"], init=0.1, learnable=True, per_task=True).double()
        tasks = "aaaaa" if name in ONE_TEMPERATURE else "ababb"
        gathered = distributed.gather(rich_batch(weight, rows), draw_seed=3)
        value = loss(gathered, temperature(tasks[rows])).loss * distributed.row_share(gathered)
        value.backward()
        parameters = [weight, *temperature.parameters()]
        parameters += list(loss.parameters()) if isinstance(loss, nn.Module) else []
        distributed.average_gradients(parameters)
        found[name] = {
            "loss": value.item(),
            "gradients": [
                None if parameter.grad is None else parameter.grad.flatten().tolist()
                for parameter in parameters
            ],
        }
    return found


def main() -> None:
    rank, world_size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    result = {
        "scalar": shared_scalar(rank, world_size),
        "losses": every_loss(rank, world_size),
        "ids": ids_of_all(rank, world_size),
        "joined": [
            distributed.joined(payload, torch.device("cpu")).decode()
            for payload in ("xyz"[: 2 * rank + 1].encode(), b"second" * rank, b"")
        ],
        "stop": distributed.true_on_any(rank == 1, torch.device("cpu")),
    }
    Path(out).write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
