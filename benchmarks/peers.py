"""Encoding, side by side: the same folder and items in, vectors out, default settings of each.

A side gets the items in the form that it understands and that costs it least. Called by
`process.py`, in a process for each side.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.flops import forward_flops
from benchmarks.measurement import Run, Side

__all__ = ["PEERS", "ItemKind", "mmembed", "sample", "sentence_transformers", "transformers"]

# A page is [PDF, page number]; the peers, which know no PDF, draw it at 200 dpi.
ItemKind = Literal["text", "memory", "file", "page"]
_BATCH = 32  # the default batch size of sentence-transformers
PAGE_DPI = 200

PEERS = {
    "sentence-transformers": "benchmarks.peers:sentence_transformers",
    "transformers": "benchmarks.peers:transformers",
}


@dataclass(frozen=True)
class _Work:
    """Arguments of a side, as they come from another process.

    `listed` is a JSON list of texts, paths or pages; `save` is where the vectors go; `sizes`, if
    given, are those of the model, whose operations are then counted.
    """

    folder: str
    listed: str
    kind: ItemKind
    save: str
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    preprocessing: bool = False
    scaled_jpeg: bool = False
    sizes: dict[str, Any] | None = None

    def items(self, *, draws_pages: bool) -> list[Any]:
        found = json.loads(Path(self.listed).read_text(encoding="utf-8"))
        if self.kind == "memory":
            return [_opened(path) for path in found]
        if self.kind == "page" and draws_pages:
            return [{"pdf": Path(path), "page": number} for path, number in found]
        return [Path(path) for path in found] if self.kind == "file" else found

    def side(
        self,
        call: Callable[[list[Any]], Any],
        items: list[Any],
        close: Callable[[], None] = lambda: None,
    ) -> Side:
        return Side(lambda: call(items), lambda: call(sample(items)), self._facts, close)

    def _facts(self, result: np.ndarray | None) -> Run:
        if result is not None:
            np.save(self.save, result)
        return {}


def sample(items: Sequence[Any]) -> list[Any]:
    """One to two hundred of many items, evenly."""
    return list(items[:: max(1, len(items) // 100)])


def mmembed(**work: Any) -> Side:
    from mmembed.encoder.embedder import Embedder
    from mmembed.inputs.media import MediaPolicy
    from mmembed.types import MultimodalInput

    given = _Work(**work)
    embedder = Embedder.from_pretrained(
        given.folder,
        device=given.device,
        dtype=given.dtype,
        num_workers=given.threads,
        media=MediaPolicy(scaled_jpeg=given.scaled_jpeg),
    )
    items = given.items(draws_pages=True)

    def prepare(chosen: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for batch in _batches(chosen):
            parsed = [MultimodalInput.of(item) for item in batch]
            found.extend(embedder.processor.prepare_all(parsed))
        return found

    def encode(chosen: Sequence[Any]) -> np.ndarray | None:
        if given.preprocessing:
            prepare(chosen)
            return None
        vectors: np.ndarray = embedder.encode_document(list(chosen), show_progress_bar=False)
        return vectors

    side = given.side(encode, items, embedder.close)
    if given.sizes is None:
        return side
    prepared = prepare(items)
    tokens = [item.num_tokens for item in prepared]
    patches = [int(grid.prod()) for item in prepared for grid in _grids(item)]
    work_done = {"tflop": forward_flops(given.sizes, tokens, patches) / 1e12}
    return replace(side, facts=lambda vectors: {**side.facts(vectors), **work_done})


def sentence_transformers(**work: Any) -> Side:
    """It sorts by length itself."""
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    given = _Work(**work)
    model = SentenceTransformer(
        given.folder, device=given.device, model_kwargs={"dtype": given.dtype}
    )
    items = given.items(draws_pages=False)
    prompt = model.prompts.get("document")

    def call(chosen: Sequence[Any]) -> np.ndarray | None:
        if given.kind == "page":
            chosen = _drawn(chosen)
        elif given.kind == "file":
            chosen = [{"image": str(path)} for path in chosen]
        if given.preprocessing:
            for batch in _batches(chosen):
                model.preprocess(batch, prompt=prompt)
            return None
        return model.encode_document(list(chosen), show_progress_bar=False)

    return given.side(call, items)


def transformers(**work: Any) -> Side:
    """`AutoModel` and `AutoProcessor` in a loop: sorted by length, padded, last token, no cache."""
    import torch
    from torch.nn.functional import normalize
    from transformers import AutoModel, AutoProcessor

    given = _Work(**work)
    model = AutoModel.from_pretrained(given.folder, dtype=given.dtype).eval().to(given.device)
    processor = AutoProcessor.from_pretrained(given.folder)
    processor.tokenizer.padding_side = "right"
    items = given.items(draws_pages=False)

    def prepare(batch: Sequence[Any]) -> Any:
        if given.kind == "file":
            batch = [_opened(path) for path in batch]
        contents = [
            [{"type": "text", "text": item} if given.kind == "text" else {"type": "image"}]
            for item in batch
        ]
        prompts = [
            processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
            for content in contents
        ]
        pictures = None if given.kind == "text" else list(batch)
        return processor(text=prompts, images=pictures, padding=True, return_tensors="pt")

    def call(chosen: Sequence[Any]) -> np.ndarray | None:
        if given.kind == "page":
            chosen = _drawn(chosen)
        order = list(range(len(chosen)))
        if given.kind == "text":
            order.sort(key=lambda index: len(chosen[index]), reverse=True)
        rows: list[torch.Tensor] = []
        for batch in _batches(order):
            inputs = prepare([chosen[index] for index in batch])
            if given.preprocessing:
                continue
            inputs = inputs.to(given.device)
            with torch.inference_mode():
                hidden = model(**inputs, use_cache=False).last_hidden_state
            last = inputs["attention_mask"].sum(1) - 1
            rows.extend(normalize(hidden[torch.arange(len(last)), last].float()).cpu())
        return None if given.preprocessing else torch.stack(rows)[np.argsort(order)].numpy()

    return given.side(call, items)


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[begin : begin + _BATCH] for begin in range(0, len(items), _BATCH)]


def _grids(item: Any) -> Any:
    return () if item.grid_thw is None else item.grid_thw


def _opened(path: str | Path) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


def _drawn(pages: Sequence[tuple[str, int]]) -> list[Any]:
    import pymupdf
    from PIL import Image

    found = []
    documents = {path: pymupdf.open(path) for path, _ in pages}
    for path, number in pages:
        drawn = documents[path][number - 1].get_pixmap(dpi=PAGE_DPI)
        found.append(Image.frombytes("RGB", (drawn.width, drawn.height), drawn.samples))
    return found
