"""The user API: items in, vectors out, in order.

Three phases overlap: threads prepare the next window of items (decode, resize, tokenise) while the
model runs the present one and finished rows are copied back. Items are packed by token budget, not
by count; equal items are encoded once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmembed.encoder.batching import Window, batches, unique_items, windows
from mmembed.encoder.checkpoint import load_encoder, resolve_folder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.head import Precision, quantize
from mmembed.encoder.identity import fingerprint
from mmembed.encoder.options import (
    as_list,
    check_count,
    check_encode,
    resolve_device,
    resolve_dtype,
)
from mmembed.encoder.report import EncodeReport, EncodeRun
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.collator import pack
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.processor import PreparedItem, Processor
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["Embedder", "EncodeReport"]

OnError = Literal["raise", "skip", "null"]
_OPTIONS = {"inputs", "encoder", "text_errors", "allow_special_tokens"}
_TEXTS_PER_TASK = 512
_MEDIA_PER_TASK = 4


class Embedder:
    """Embeds text, images, videos and document pages with one model.

    embedder = Embedder.from_pretrained("path/or/hub-id")
    embedder.encode(["a cat", {"image": "cat.jpg"}, Path("talk.mp4"), {"pdf": "a.pdf"}])
    """

    def __init__(
        self, encoder: Encoder, processor: Processor, *, folder: Path | None = None
    ) -> None:
        self.encoder = encoder
        self.processor = processor
        self.folder = folder
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        media: MediaPolicy | MediaDecoder | None = None,
        num_workers: int | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Embedder:
        """Load a model folder or a hub id.

        Args:
            device: default: CUDA when there is one, else the CPU.
            dtype: default: bfloat16 on CUDA, float32 elsewhere.
            media: limits and permissions for opening media (URLs are refused by default), or a
                `MediaDecoder` that several embedders share.
            num_workers: decode processes and preparing threads; default: cores, at most 8.
            options: `inputs={...}` / `encoder={...}` replace fields of the model folder's
                settings; `text_errors="replace"`, `allow_special_tokens=True`.

        Raises:
            CheckpointError, ConfigError: naming what is wrong with the folder or the options.
        """
        folder = resolve_folder(path_or_hub_id, revision=revision)
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ConfigError(
                f"unknown option {', '.join(unknown)}; known: {', '.join(sorted(_OPTIONS))}"
            )
        check_count("num_workers", num_workers)
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        encoder, processor = load_encoder(
            folder,
            device=device,
            dtype=dtype,
            media=media,
            num_workers=num_workers or min(8, os.cpu_count() or 1),
            **options,
        )
        return cls(encoder, processor, folder=folder)

    @property
    def embedding_dimension(self) -> int:
        return self.encoder.embedding_dimension

    @property
    def fingerprint(self) -> str:
        """Names the embedding space; see `checkpoint.fingerprint`. Computed on first use."""
        if self._fingerprint is None:
            if self.folder is None:
                raise ConfigError("save the model first: only a model folder has a fingerprint")
            self._fingerprint = fingerprint(
                self.folder,
                self.processor.config,
                self.encoder.config,
                self.processor.decoder.policy,
                allow_special_tokens=self.processor.allow_special_tokens,
            )
        return self._fingerprint

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def to(self, device: str | torch.device) -> Embedder:
        self.encoder.to(device)
        return self

    def close(self) -> None:
        """End the decode processes. They also end with the program."""
        self.processor.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode_query(self, items: Any, **options: Any) -> Any:
        """`encode` with `role="query"`: the query's default instruction, if the model has one."""
        return self.encode(items, role="query", **options)

    def encode_document(self, items: Any, **options: Any) -> Any:
        """`encode` with `role="document"`."""
        return self.encode(items, role="document", **options)

    def encode(
        self,
        items: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        *,
        role: Role = "document",
        instruction: str | None = None,
        on_error: OnError = "raise",
        batch_tokens: int | None = None,
        num_workers: int | None = None,
        return_report: bool = False,
    ) -> Any:
        """Embed items; row i belongs to item i.

        Args:
            items: one item or a list of items; see `MultimodalInput.of`. A `str` is always text.
            prompt_name: name of an instruction stored with the model.
            prompt, instruction: the instruction for all items that bring none (synonyms).
            batch_size: most items in one forward; default: as many as `batch_tokens` allows.
            precision: `float32`, `int8`, `uint8`, `binary` or `ubinary`; see `head.quantize`.
            convert_to_tensor: return a tensor on the model's device instead of an array.
            normalize_embeddings: default: as the model says (yes, normally).
            truncate_dim: keep the first dimensions, then normalise (Matryoshka models).
            on_error: `raise` an `InputError` for the first bad item (its `errors` and `partial`
                hold the others), `null` for a NaN row, `skip` to leave bad rows out.
            batch_tokens: tokens of both towers in one forward; default: 2048 on a CPU, whose
                caches it fits, 16384 on CUDA.
            num_workers: preparing threads; default: as given to `from_pretrained`.
            return_report: return `(vectors, EncodeReport)`.

        Returns:
            (N, D) float32 array; (D,) for a single item that was not skipped.

        Raises:
            InputError: under `on_error="raise"`.
            ConfigError: contradictory or unknown options.
        """
        single, listed = as_list(items)
        check_encode(
            role=role,
            on_error=on_error,
            precision=precision,
            normalize=normalize_embeddings,
            on_model=self.encoder.config.normalize,
        )
        check_count("batch_size", batch_size)
        check_count("batch_tokens", batch_tokens)
        check_count("num_workers", num_workers)
        check_count("truncate_dim", truncate_dim, most=self.embedding_dimension)
        if device is not None:
            self.to(resolve_device(device))
        shared = self._instruction(prompt_name, prompt, instruction)
        run = EncodeRun(
            np.full((len(listed), truncate_dim or self.embedding_dimension), np.nan, np.float32),
            EncodeReport(ok=np.zeros(len(listed), dtype=bool)),
        )
        parsed: list[MultimodalInput | None] = []
        for index, item in enumerate(listed):
            try:
                built = MultimodalInput.of(item)
                parsed.append(
                    built
                    if built.instruction is not None or shared is None
                    else MultimodalInput(built.parts, shared)
                )
            except InputError as error:
                run.report.errors.append(error.at(index))
                parsed.append(None)
        groups = unique_items(parsed)
        show = show_progress_bar
        if show is None:
            show = len(listed) >= 64 and sys.stderr.isatty()
        budget = batch_tokens or (16384 if self.device.type == "cuda" else 2048)
        with _progress(show, len(listed)) as advance:
            for window, prepared in self._prepared(windows(groups), role, num_workers):
                advance(run.note(window, prepared))
                if on_error == "raise":
                    run.raise_first(before=window.end)
                for batch in batches(prepared, batch_tokens=budget, batch_size=batch_size):
                    chosen = [item for _, item in batch]
                    rows = self._forward(chosen, truncate_dim, normalize_embeddings)
                    for (position, _), row in zip(batch, rows, strict=True):
                        run.enter(window.indices[position], row)
                        advance(len(window.indices[position]))
        if on_error == "raise":
            run.raise_first(before=len(listed))
        run.report.sort()
        vectors = run.vectors if on_error != "skip" else run.vectors[run.report.ok]
        output: Any = quantize(vectors, precision)
        if convert_to_tensor or not convert_to_numpy:
            output = torch.from_numpy(output).to(self.device)
        if single and len(output):
            output = output[0]
        return (output, run.report) if return_report else output

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """Cosine of all pairs: (N, D) and (M, D) vectors -> (N, M) float32."""
        left, right = _unit_rows(a), _unit_rows(b)
        if left.shape[1] != right.shape[1]:
            raise ConfigError(
                f"vectors have {left.shape[1]} and {right.shape[1]} dimensions; encode both alike"
            )
        return left @ right.T

    def _instruction(
        self, prompt_name: str | None, prompt: str | None, instruction: str | None
    ) -> str | None:
        given = [value for value in (prompt_name, prompt, instruction) if value is not None]
        if any(not isinstance(value, str) for value in given):
            raise ConfigError("prompt_name, prompt and instruction are strings or None")
        if len(given) > 1:
            raise ConfigError("give one of prompt_name, prompt and instruction, not several")
        if prompt_name is None:
            return given[0] if given else None
        known = self.processor.config.prompts
        if prompt_name not in known:
            raise ConfigError(
                f"prompt_name {prompt_name!r} is not stored with this model; it has: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        return known[prompt_name]

    def _prepared(
        self, all_windows: Iterator[Window], role: Role, num_workers: int | None
    ) -> Iterator[tuple[Window, list[PreparedItem | InputError]]]:
        """Windows with their prepared items; the next window is prepared meanwhile."""
        workers = num_workers or self.processor.decoder.num_workers
        executor = ThreadPoolExecutor(max(1, workers), thread_name_prefix="mmembed-prepare")
        try:
            pending: list[tuple[Window, list[tuple[list[int], Future[Any]]]]] = []
            for window in all_windows:
                pending.append((window, self._submit(executor, window, role)))
                if len(pending) > 1:
                    yield _collect(*pending.pop(0))
            for window, tasks in pending:
                yield _collect(window, tasks)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, executor: ThreadPoolExecutor, window: Window, role: Role
    ) -> list[tuple[list[int], Future[Any]]]:
        texts: list[int] = []
        media: list[int] = []
        for position, item in enumerate(window.items):
            only_text = all(isinstance(part, Text) for part in item.parts)
            (texts if only_text else media).append(position)
        tasks = []
        for positions, size in ((texts, _TEXTS_PER_TASK), (media, _MEDIA_PER_TASK)):
            for begin in range(0, len(positions), size):
                chosen = positions[begin : begin + size]
                items = [window.items[position] for position in chosen]
                tasks.append(
                    (chosen, executor.submit(self.processor.prepare_all, items, role=role))
                )
        return tasks

    def _forward(
        self,
        prepared: Sequence[PreparedItem],
        truncate_dim: int | None,
        normalize: bool | None,
    ) -> list[np.ndarray | InputError]:
        """A float32 row (D,) for each item; halves the batch when memory runs out."""
        try:
            with torch.inference_mode():
                rows = self.encoder(pack(prepared), truncate_dim=truncate_dim, normalize=normalize)
                return list(rows.cpu().numpy())
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if len(prepared) == 1:
            detail = f"{prepared[0].cost:,} tokens and patches do not fit on {self.device}"
            return [InputError("out_of_memory", f"{detail}; lower the number of pixels or tokens")]
        half = len(prepared) // 2
        first, second = (
            self._forward(part, truncate_dim, normalize)
            for part in (prepared[:half], prepared[half:])
        )
        return first + second


def _collect(
    window: Window, tasks: Sequence[tuple[list[int], Future[Any]]]
) -> tuple[Window, list[PreparedItem | InputError]]:
    prepared: list[Any] = [None] * len(window.items)
    for positions, future in tasks:
        for position, result in zip(positions, future.result(), strict=True):
            prepared[position] = result
    return window, prepared


def _unit_rows(vectors: Any) -> np.ndarray:
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _progress(show: bool, total: int) -> Any:
    """A context manager giving `advance(n)`; silent when not shown."""
    if not show:
        return nullcontext(lambda count: None)
    from mmembed.encoder.progress import progress_bar

    return progress_bar("encoding", total, unit="items")
