"""Everything that speaks to other processes. The only file that imports torch.distributed.

Local queries meet the documents of all processes, with gradient: a document's gradient is the sum
over the processes that used it as a negative. Averaging parameter gradients over processes then
gives exactly the gradient of the loss over the global batch; see recipes in the tests for the two
schemes that do not. On one process everything here is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings

__all__ = [
    "LocalEmbeddings",
    "allow_unequal_forwards",
    "average_gradients",
    "exchange_gradients_of",
    "gather",
    "greatest",
    "is_main_process",
    "joined",
    "local_part",
    "mean",
    "number_of_main",
    "process_rank",
    "row_share",
    "shard",
    "sharded_like",
    "share_of",
    "sum_of",
    "true_on_any",
    "wait_for_all",
    "whole",
    "world_size",
]


@dataclass(frozen=True)
class LocalEmbeddings:
    """One process's share of a global batch; indices are local.

    Args:
        queries: (b, D); documents: (m, D).
        positive: (b,) column of each query's positive among the local documents.
        owner: (m,) local row of the query that brought each document.
        ids: (m,) content ids.
        positive_contents: (b,) ids of what the positives hold. Adapters name positives only: with
            these, a hard negative that is a positive of another process gets that one's id.
        query_ids, query_classes: (b,); document_classes, scores: (m,). See
            `ContrastiveEmbeddings`; each is given on all processes or on none.
    """

    queries: Tensor
    documents: Tensor
    positive: Tensor
    owner: Tensor
    ids: Tensor
    positive_contents: Tensor | None = None
    query_ids: Tensor | None = None
    query_classes: Tensor | None = None
    document_classes: Tensor | None = None
    scores: Tensor | None = None


# Fields that a batch may lack; True: one value for each query, False: for each document.
_OPTIONAL = {"query_ids": True, "query_classes": True, "document_classes": False, "scores": False}


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)


def gather(
    local: LocalEmbeddings, *, draw_seed: int = 0, split: bool = True
) -> ContrastiveEmbeddings:
    """Local rows against all columns, in the order of the ranks. Carries gradient.

    Processes may hold different numbers of rows, at least one; without `split`, all of them hold
    the whole batch. `draw_seed` must be equal on all of them.
    """
    device = local.queries.device
    positive, owner, ids = (x.to(device) for x in (local.positive, local.owner, local.ids))
    if world_size() == 1 or not split:
        optional = {name: _on(getattr(local, name), device) for name in _OPTIONAL}
        return ContrastiveEmbeddings.of_one_process(
            local.queries, local.documents, positive, owner, ids, draw_seed=draw_seed, **optional
        )
    counts = _gather_counts(len(local.queries), len(local.documents), device)  # (W, 2)
    first_row, first_column = (counts.cumsum(0) - counts)[process_rank()].tolist()
    num_queries, num_documents = counts.T.tolist()
    all_positive = _gather_rows(first_column + positive, num_queries)
    all_ids = _gather_rows(ids, num_documents)
    if (contents := _on(local.positive_contents, device)) is not None:
        all_ids = _with_names(all_ids, all_positive, _gather_rows(contents, num_queries))
    return ContrastiveEmbeddings(
        queries=local.queries,
        all_queries=_gather_rows(local.queries, num_queries),
        documents=_gather_rows(local.documents, num_documents),
        row=first_row + torch.arange(len(local.queries), device=device),
        positive=first_column + positive,
        all_positive=all_positive,
        owner=_gather_rows(first_row + owner, num_documents),
        ids=all_ids,
        draw_seed=draw_seed,
        **{  # type: ignore[arg-type]
            name: None
            if (value := _on(getattr(local, name), device)) is None
            else _gather_rows(value, num_queries if of_queries else num_documents)
            for name, of_queries in _OPTIONAL.items()
        },
    )


def _with_names(ids: Tensor, positive: Tensor, contents: Tensor) -> Tensor:
    """Hard negatives that hold what a positive holds get its id.

    Args:
        ids: (M,); positive: (G,) columns of positives; contents: (G,) what they hold.
    """
    named = dict(zip(contents.tolist(), ids[positive].tolist(), strict=True))
    columns = set(positive.tolist())
    return torch.tensor(
        [id_ if n in columns else named.get(id_, id_) for n, id_ in enumerate(ids.tolist())],
        device=ids.device,
    )


def row_share(e: ContrastiveEmbeddings) -> float:
    """Factor of the local mean loss under which the average over processes is the global mean."""
    return len(e.queries) * world_size() / len(e.all_queries)


def share_of(count: int, device: torch.device) -> float:
    """`row_share` for a loss that is the mean over `count` local terms."""
    if world_size() == 1:
        return 1.0
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return count * world_size() / float(total.item())


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Mean over processes of the gradients of parameters outside the wrapped model.

    A parameter without gradient on every process keeps none, so its optimizer state rests.
    """
    if world_size() == 1:
        return
    for parameter in parameters:
        used = torch.tensor(float(parameter.grad is not None), device=parameter.device)
        dist.all_reduce(used)
        if not used.item():
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()


def mean(value: Tensor) -> Tensor:
    """The mean over processes."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def sum_of(value: Tensor) -> Tensor:
    """The sum over processes."""
    total = value.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def shard(parts: Sequence[torch.nn.Module], model: torch.nn.Module, device: torch.device) -> None:
    """Cut the parameters of `model` over the processes (FSDP2), in place.

    Each of `parts` gathers its own when it runs, and the model those that are left; none of them
    keeps what it has gathered. Gradients are averaged.
    """
    mesh = init_device_mesh(device.type, (world_size(),))
    for module in (*parts, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is cut over the processes; called by all of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is cut over the processes; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A tensor that all processes have, cut like `example` and on its device."""
    value = tensor.to(example.device)
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return value
    return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)


def allow_unequal_forwards(model: torch.nn.Module) -> None:
    """Let processes run different numbers of forward passes: buffers, all constant, stay put."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.broadcast_buffers = False


def exchange_gradients_of(model: torch.nn.Module, loss: Tensor) -> None:
    """Let the backward pass of `loss` exchange gradients, though its forward pass was `no_sync`.

    `Accelerator.trigger_sync_in_backward` does this for models without unused parameters.
    """
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.reducer.prepare_for_backward([loss])


def true_on_any(flag: bool, device: torch.device) -> bool:
    """Whether any process says True; all processes get the same answer."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def greatest(value: int, device: torch.device) -> int:
    """The greatest of the processes' values; all of them get the same answer."""
    if world_size() == 1:
        return value
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found.item())


def number_of_main(value: int, device: torch.device) -> int:
    """The first process's value, on all processes."""
    if world_size() == 1:
        return value
    number = torch.tensor(value, device=device)
    dist.broadcast(number, src=0)
    return int(number.item())


def joined(payload: bytes, device: torch.device) -> bytes:
    """The bytes of all processes end to end, in the order of the ranks."""
    if world_size() == 1:
        return payload
    lengths = _gather_counts(len(payload), 0, device)[:, 0].tolist()
    if not any(lengths):
        return b""
    mine = torch.tensor(list(payload), dtype=torch.uint8, device=device)
    return bytes(_gather_rows(mine, lengths).tolist())


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def world_size() -> int:
    return dist.get_world_size() if _is_running() else 1


def process_rank() -> int:
    return dist.get_rank() if _is_running() else 0


def is_main_process() -> bool:
    return process_rank() == 0


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gather_counts(num_queries: int, num_documents: int, device: torch.device) -> Tensor:
    mine = torch.tensor([num_queries, num_documents], device=device)
    counts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(counts, mine)
    return torch.stack(counts)


def _gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Concatenate the rows of all processes; `counts` says how many each has."""
    longest = max(counts)
    padding = rows.new_zeros(longest - len(rows), *rows.shape[1:])
    gathered = _AllGather.apply(torch.cat([rows, padding]))  # (W * longest, ...)
    blocks = gathered.split(longest)
    return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])


class _AllGather(torch.autograd.Function):
    """all_gather whose backward sums every process's gradient for a row into that row's owner."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        blocks = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(blocks, rows.contiguous())
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        begin = process_rank() * ctx.count
        return total[begin : begin + ctx.count]
