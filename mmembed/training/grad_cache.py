"""Batches larger than memory: gradient caching, for every loss and every kind of input.

A contrastive loss couples all items of a batch, so its graph cannot be cut into pieces, but its
embeddings are small. GradCache (Gao et al. 2021, arXiv 2101.06983): embed the batch chunk by chunk
without a graph, take the loss's gradient of the embeddings, then embed each chunk again with a
graph and send that gradient through it. Loss and gradients are those of one pass.

The first chunk keeps its graph: one must fit into memory anyway. So one chunk is embedded once,
as in a plain backward pass.

Processes may have different numbers of chunks: gradients are exchanged in the last one, and what
comes before communicates nothing but what the loss gathers. Where the forward pass communicates
too, all run as many chunks, with pictures in the same ones; see `backends`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from mmembed.errors import ConfigError
from mmembed.inputs.collator import EncoderInputs, chunk_cost, split
from mmembed.losses.embeddings import LossOutput
from mmembed.training import distributed
from mmembed.training.blank_item import with_last_item

__all__ = ["ChunkLoss", "ChunkedBackward", "DoesNotFit", "Exchange", "WholeLoss"]

logger = logging.getLogger(__name__)

# Of the embeddings of all items: the loss, and the factor under which its average over processes
# is the loss of the global batch.
WholeLoss = Callable[[Tensor], tuple[LossOutput, float]]
# Of the states of one chunk, and which items of the batch they are: the mean loss over them.
ChunkLoss = Callable[[Tensor, slice], LossOutput]
_Result = TypeVar("_Result")


class DoesNotFit(ConfigError):  # noqa: N818  it says what
    """A step does not fit into memory: an item of it alone, or the chunks that were asked for."""


class Exchange(Protocol):
    """What prepared the model: an `Accelerator`, or a `Backend`."""

    @property
    def device(self) -> torch.device: ...

    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]: ...

    def backward(self, loss: Tensor) -> None: ...


@dataclass(frozen=True)
class _Chunk:
    """`num_items` of a packed row count; a blank picture may stand behind them."""

    inputs: EncoderInputs
    num_items: int


class ChunkedBackward:
    """Backward passes in chunks that fit into memory.

    Where memory runs out, all processes halve their chunks and repeat the batch; the smaller
    budget stays.

    Args:
        accelerator: has prepared the model.
        autocast: of the encoder; losses run outside.
        clear_gradients: forgets the gradients of a batch that has to be repeated.
        equal_chunks: run as many forward passes on all processes, for backends whose forward
            pass communicates; what is added counts nothing. A batch is not repeated there.
        blank: with `equal_chunks`, an item for chunks without a picture where others have one.
        always_blank: the first and the last chunk have a picture in any case.

    Attributes:
        chunk_tokens: most tokens of a chunk since memory ran out; None = it has not.
    """

    def __init__(
        self,
        accelerator: Exchange,
        autocast: AbstractContextManager[object],
        clear_gradients: Callable[[], None],
        *,
        equal_chunks: bool = False,
        blank: EncoderInputs | None = None,
        always_blank: bool = False,
    ) -> None:
        self.chunk_tokens: int | None = None
        self._accelerator = accelerator
        self._autocast = autocast
        self._clear_gradients = clear_gradients
        self._equal_chunks = equal_chunks
        self._blank = blank
        self._always_blank = always_blank

    def coupled(
        self, model: nn.Module, chunks: Sequence[EncoderInputs], loss_of: WholeLoss
    ) -> LossOutput:
        """Gradients of a loss of all embeddings (N, D), which stand in the order of the chunks.

        Returns:
            The loss of the global batch, and this process's metrics.

        Raises:
            DoesNotFit: an item does not fit into memory even alone.
        """
        distributed.allow_unequal_forwards(model)
        return self._fitting(chunks, lambda fitting: self._cached(model, fitting, loss_of))

    def additive(
        self, model: nn.Module, chunks: Sequence[EncoderInputs], loss_of: ChunkLoss
    ) -> LossOutput:
        """Gradients of a loss that is a mean over items: chunks are added up. Raises likewise."""
        distributed.allow_unequal_forwards(model)
        return self._fitting(chunks, lambda fitting: self._accumulated(model, fitting, loss_of))

    def _cached(
        self, model: nn.Module, chunks: Sequence[EncoderInputs], loss_of: WholeLoss
    ) -> LossOutput:
        queue = self._queue(chunks)
        last = len(queue) - 1
        random: list[_RandomState] = []

        def embed_all() -> list[Tensor]:
            found = []
            for number, inputs in enumerate(queue):
                random.append(_RandomState(self._accelerator.device))
                with torch.set_grad_enabled(number == 0):
                    found.append(self._forward(model, inputs))
            return found

        def replay(numbers: range) -> None:
            for number in numbers:
                if number > 0:
                    random[number].restore()
                    embeddings[number] = self._forward(model, queue[number])
                gradient = gradients[number]
                through = (embeddings[number] * gradient).sum()
                self._backward(model, through, last=number == last)
                embeddings[number] = gradient  # frees the graph

        embeddings = self._together(embed_all)
        parts = [part.detach() for part in embeddings[: len(chunks)][::-1]]
        whole = (parts[0] if len(parts) == 1 else torch.cat(parts)).requires_grad_()
        output, share = loss_of(whole)
        (output.loss * share).backward()
        assert whole.grad is not None
        gradients = list(whole.grad.split([len(part) for part in parts]))[::-1]
        gradients += [torch.zeros_like(part) for part in embeddings[len(chunks) :]]
        self._together(lambda: replay(range(last)))
        replay(range(last, last + 1))
        return LossOutput(distributed.mean(output.loss.detach() * share), output.metrics)

    def _accumulated(
        self, model: nn.Module, chunks: Sequence[EncoderInputs], loss_of: ChunkLoss
    ) -> LossOutput:
        queue = self._queue(chunks)
        last = len(queue) - 1
        ends = [0]
        for chunk in chunks:
            ends.append(ends[-1] + len(chunk["cu_seqlens"]) - 1)
        items = [slice(*ends[at : at + 2]) for at in range(len(chunks))][::-1]
        weights = [(part.stop - part.start) / ends[-1] for part in items]
        items += [items[-1]] * (len(queue) - len(chunks))
        weights += [0.0] * (len(queue) - len(chunks))
        share = distributed.share_of(ends[-1], self._accelerator.device)
        outputs: list[LossOutput] = []

        def forward(number: int) -> LossOutput:
            return loss_of(self._forward(model, queue[number]), items[number])

        def backward(number: int, output: LossOutput) -> None:
            weighted = output.loss * weights[number]
            self._backward(model, weighted * share, last=number == last)
            metrics = {name: value * weights[number] for name, value in output.metrics.items()}
            outputs.append(LossOutput(weighted.detach(), metrics))

        def accumulate() -> LossOutput:
            for number in range(last):
                backward(number, forward(number))
            return forward(last)

        backward(last, self._together(accumulate))
        return LossOutput(
            distributed.mean(torch.stack([output.loss for output in outputs]).sum() * share),
            {
                name: torch.stack([output.metrics[name] for output in outputs]).sum()
                for name in outputs[0].metrics
            },
        )

    def _queue(self, chunks: Sequence[EncoderInputs]) -> list[_Chunk]:
        """Longest items first: what does not fit shows before much is done.

        Where all processes must run as often, the shortest chunk again, and pictures in the same
        places.
        """
        queue = [_Chunk(chunk, len(chunk["cu_seqlens"]) - 1) for chunk in reversed(chunks)]
        if not self._equal_chunks:
            return queue
        device = self._accelerator.device
        queue += [queue[-1]] * (distributed.greatest(len(chunks), device) - len(chunks))
        if self._blank is None:
            return queue
        seen = [float(chunk.inputs["pixel_values"] is not None) for chunk in queue]
        seen[0] += self._always_blank
        seen[-1] += self._always_blank
        wanted = distributed.sum_of(torch.tensor(seen, device=device)).tolist()
        return [
            _Chunk(with_last_item(chunk.inputs, self._blank), chunk.num_items)
            if number and chunk.inputs["pixel_values"] is None
            else chunk
            for chunk, number in zip(queue, wanted, strict=True)
        ]

    def _forward(self, model: nn.Module, chunk: _Chunk) -> Tensor:
        with self._accelerator.no_sync(model), self._autocast:
            states: Tensor = model(chunk.inputs)
        return states[: chunk.num_items]

    def _backward(self, model: nn.Module, loss: Tensor, *, last: bool) -> None:
        """Only `last` exchanges gradients; the others may be left out if they have no effect.

        That is so where nothing in the chunk is trained, e.g. for texts if only the vision tower
        is.
        """
        alone = self._equal_chunks or not last or distributed.world_size() == 1
        if not loss.requires_grad and alone:
            return
        with nullcontext() if last else self._accelerator.no_sync(model):
            if last:
                distributed.exchange_gradients_of(model, loss)
            self._accelerator.backward(loss)

    def _fitting(
        self,
        chunks: Sequence[EncoderInputs],
        attempt: Callable[[Sequence[EncoderInputs]], LossOutput],
    ) -> LossOutput:
        """`attempt(chunks)`, with smaller chunks until they fit."""
        begin = _RandomState(self._accelerator.device)
        while True:
            parts = [part for chunk in chunks for part in split(chunk, self.chunk_tokens)]
            try:
                return attempt(parts)
            except _MemoryRanOutError:
                pass
            except torch.OutOfMemoryError as error:
                if distributed.world_size() > 1:  # the others wait inside an exchange
                    raise ConfigError(
                        "memory ran out where other processes cannot repeat the step; set "
                        f"chunk_tokens below {max(map(chunk_cost, parts)):,}"
                    ) from error
            self._halve(parts)
            begin.restore()

    def _halve(self, chunks: Sequence[EncoderInputs]) -> None:
        device = self._accelerator.device
        self._clear_gradients()
        clear_device_cache(garbage_collection=True)
        largest = distributed.greatest(max(map(chunk_cost, chunks)), device)
        if not distributed.true_on_any(any(len(c["cu_seqlens"]) > 2 for c in chunks), device):
            raise DoesNotFit(
                f"an item of {largest:,} tokens (patch rows of pictures included) does not fit "
                f"into the memory of {device} even alone; lower max_query_tokens, "
                "max_document_tokens or model.image_tokens, or set gradient_checkpointing: true"
            )
        self.chunk_tokens = max(1, min(self.chunk_tokens or largest, largest) // 2)
        if distributed.is_main_process():
            logger.warning(
                "memory ran out in a chunk of %s tokens; chunk_tokens is %s from here on",
                f"{largest:,}",
                f"{self.chunk_tokens:,}",
            )

    def _together(self, run: Callable[[], _Result]) -> _Result:
        """`run()`; where memory runs out on any process, all of them raise."""
        if self._equal_chunks and distributed.world_size() > 1:
            return run()  # those that still have memory wait inside it
        results: list[_Result] = []
        try:
            results.append(run())
        except torch.OutOfMemoryError:
            pass
        # raised outside the handler, whose traceback would keep the tensors alive
        if distributed.true_on_any(not results, self._accelerator.device):
            raise _MemoryRanOutError
        return results[0]


class _MemoryRanOutError(Exception):
    """On some process, and all know it."""


class _RandomState:
    """Of the generators that dropout draws from, now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self._host)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
