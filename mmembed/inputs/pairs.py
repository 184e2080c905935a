"""Training rows -> one packed batch of (query, document) prompts, each labelled relevant or not.

For a reranker, which reads a query and one document in one prompt: a row's positive is relevant,
its own hard negatives are not. A row without hard negatives only teaches to say yes. Runs in
worker threads, ahead of the training loop, like `contrastive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmembed.errors import InputError
from mmembed.inputs.collator import EncoderInputs, pack, split
from mmembed.inputs.contrastive import TrainingRow, all_good, content_id
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.inputs.processor import Processor

__all__ = ["PairBatch", "PairCollator", "PreparedPairs"]


@dataclass(frozen=True)
class PairBatch:
    """n prompts of B queries.

    Args:
        inputs: n packed prompts in chunks, shortest first, because attention batches equal
            lengths.
        labels: (n,) bool, in the order of the prompts: the document is relevant.
        num_queries: B.
        sources: the datasets of the batch, for logs.
    """

    inputs: tuple[EncoderInputs, ...]
    labels: Tensor
    num_queries: int
    sources: tuple[str, ...]
    num_tokens: int


@dataclass(frozen=True)
class PreparedPairs:
    """A row as tensors: the prompt of its positive first, then those of its hard negatives."""

    prompts: tuple[PreparedItem, ...]
    source: str

    @property
    def num_bytes(self) -> int:
        return sum(prompt.num_bytes for prompt in self.prompts)


class PairCollator:
    """Turns rows into labelled batches with the reranker's own processor. Thread-safe.

    Args:
        processor: the processor of the reranker that is trained.
        chunk_tokens: most tokens of a chunk, patch rows included; None = one chunk.
        picture_keys: name the pictures of a batch by content, see `pack`.
    """

    def __init__(
        self, processor: Processor, *, chunk_tokens: int | None = None, picture_keys: bool = False
    ) -> None:
        self.processor = processor
        self.chunk_tokens = chunk_tokens
        self.picture_keys = picture_keys

    def __call__(self, rows: Sequence[TrainingRow]) -> PairBatch:
        """Prepare and pack; see `prepare`."""
        return self.collate(all_good(self.prepare(rows)))

    def prepare(self, rows: Sequence[TrainingRow]) -> list[PreparedPairs | InputError]:
        """Decode and tokenise all pairs of the rows in one call.

        A row with an item that cannot be used gives the error of the first such pair; its index
        is (dataset, row, which document) and then `query` or `document`.
        """
        pairs = [self._pairs(row) for row in rows]
        results = iter(self.processor.prepare_all([pair for row in pairs for _, pair in row]))
        prepared: list[PreparedPairs | InputError] = []
        for row, named in zip(rows, pairs, strict=True):
            of_row = [
                result.at((row.source, row.index, name))
                if isinstance(result, InputError)
                else result
                for (name, _), result in zip(named, [next(results) for _ in named], strict=True)
            ]
            try:
                prepared.append(PreparedPairs(tuple(all_good(of_row)), row.source))
            except InputError as error:
                prepared.append(error)
        return prepared

    def collate(self, rows: Sequence[PreparedPairs]) -> PairBatch:
        """Pack prepared rows."""
        labelled = [
            (prompt, position == 0) for row in rows for position, prompt in enumerate(row.prompts)
        ]
        labelled.sort(key=lambda pair: pair[0].num_tokens)
        packed = pack([prompt for prompt, _ in labelled], picture_keys=self.picture_keys)
        return PairBatch(
            inputs=split(packed, self.chunk_tokens),
            labels=torch.tensor([label for _, label in labelled]),
            num_queries=len(rows),
            sources=tuple(dict.fromkeys(row.source for row in rows)),
            num_tokens=sum(prompt.num_tokens for prompt, _ in labelled),
        )

    def _pairs(self, row: TrainingRow) -> list[tuple[str, Pair]]:
        """(which document, pair), the positive first.

        A hard negative with the content of a positive is left out: its label would be wrong.
        """
        example, query = row.example, row.example.query
        if query.instruction is None and row.query_instruction is not None:
            query = replace(query, instruction=row.query_instruction)
        positives = {content_id(item) for item in example.positives}
        hard = [
            (f"hard negative {position}", Pair(query, item))
            for position, item in enumerate(example.hard_negatives)
            if content_id(item) not in positives
        ]
        first = (f"positive {row.positive}", Pair(query, example.positives[row.positive]))
        return [first, *hard[: row.max_hard_negatives]]
