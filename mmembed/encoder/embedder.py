"""The user API of embeddings: items in, vectors out, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmembed.encoder.calibration import sample_texts
from mmembed.encoder.checkpoint import load_encoder, resolve_folder
from mmembed.encoder.explanation import Explanation, explain
from mmembed.encoder.head import Precision, quantize
from mmembed.encoder.loaded_model import LoadedModel, OnError
from mmembed.encoder.options import (
    ROLES,
    as_list,
    check_choice,
    check_count,
    check_encode,
    loading_options,
    resolve_device,
)
from mmembed.encoder.report import EncodeReport, EncodeRun
from mmembed.encoder.vector_cache import VectorCache, open_store
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.items import Pair
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.store.vectors import EmbeddingStore
from mmembed.types import MultimodalInput, Role

__all__ = ["Embedder", "EncodeReport"]


class Embedder(LoadedModel):
    """Embeds text, images, videos and document pages with one model.

    embedder = Embedder.from_pretrained("path/or/hub-id")
    embedder.encode(["a cat", {"image": "cat.jpg"}, Path("talk.mp4"), {"pdf": "a.pdf"}])
    """

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
        compile: bool = False,
        **options: Any,
    ) -> Embedder:
        """Load a model folder or a hub id.

        Args:
            device: default: CUDA when there is one, else the CPU.
            dtype: default: bfloat16 on CUDA, float32 elsewhere.
            media: limits and permissions for opening media (URLs are refused by default), or a
                `MediaDecoder` that several embedders share.
            num_workers: decode processes and preparing threads; default: cores, at most 8.
            compile: compile the layers of both towers. The first batches take a minute or more;
                worth it for long jobs, on a GPU above all.
            options: `inputs={...}` / `encoder={...}` replace fields of the model folder's
                settings; `text_errors="replace"`, `allow_special_tokens=True`.

        Raises:
            CheckpointError, ConfigError: naming what is wrong with the folder or the options.
        """
        folder = resolve_folder(path_or_hub_id, revision=revision)
        loading = loading_options(device, dtype, num_workers, options)
        encoder, processor = load_encoder(folder, media=media, **loading)
        if compile:
            encoder.backbone.compile_layers()
        return cls(encoder, processor, folder=folder)

    @property
    def embedding_dimension(self) -> int:
        return self.encoder.embedding_dimension

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
        cache: str | Path | EmbeddingStore | None = None,
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
                caches it fits, 16384 on CUDA, or what `calibrate` found.
            num_workers: preparing threads; default: as given to `from_pretrained`.
            cache: a folder, or an `EmbeddingStore`, of vectors by content. Items that it has are
                not encoded; the others join it while the call runs, so that a call that is cut
                goes on from there. A vector is found again for equal content, role, instruction
                and options under the same model, dtype and kind of device. Media behind
                addresses and items that fail are not kept.
            return_report: return `(vectors, EncodeReport)`.

        Returns:
            (N, D) float32 array; (D,) for a single item that was not skipped.

        Raises:
            InputError: under `on_error="raise"`.
            ConfigError: contradictory or unknown options.
            SpaceMismatchError: `cache` holds vectors of another model, or shorter ones.
            StoreError: `cache` is damaged or cannot be written.
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
        kept = self._opened(cache, truncate_dim, normalize_embeddings)
        # a cache keeps the model's own vectors; it cuts and normalises them itself
        truncate = truncate_dim if kept is None else kept.dimension
        normalize = normalize_embeddings if kept is None else None
        report = EncodeReport(ok=np.zeros(len(listed), dtype=bool))
        vectors = np.full(
            (len(listed), truncate_dim or self.embedding_dimension), np.nan, np.float32
        )
        self._run(
            EncodeRun(vectors, report, _parsed(listed, shared, report)),
            lambda inputs: self.encoder(inputs, truncate_dim=truncate, normalize=normalize),
            role=role,
            label="encoding",
            on_error=on_error,
            show_progress_bar=show_progress_bar,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            num_workers=num_workers,
            cache=kept,
        )
        if on_error == "skip":
            vectors = vectors[report.ok]
        output: Any = quantize(vectors, precision, step=self.encoder.int8_step)
        if convert_to_tensor or not convert_to_numpy:
            output = torch.from_numpy(output).to(self.device)
        if single and len(output):
            output = output[0]
        return (output, report) if return_report else output

    def explain(
        self, item: Any, *, role: Role = "query", instruction: str | None = None
    ) -> Explanation:
        """What `encode` would give the model for one item; the model itself does not run.

        Raises:
            InputError: as `encode`, without an index.
            ConfigError: no such role, or an instruction that is no string.
        """
        check_choice("role", role, ROLES)
        shared = self._instruction(None, None, instruction)
        return explain(self.processor, _with_instruction(item, shared), role=role)

    def calibrate(self, items: Any = None) -> int:
        """Find the `batch_tokens` with which this machine is fastest, and remember it.

        Large calls of `encode` do so by themselves, on their own items, where nothing is
        remembered yet.

        Args:
            items: a sample of what will be encoded; default: made-up texts of common lengths.

        Raises:
            ConfigError: too few items to measure anything.
        """
        tokens = self.batch_tokens()
        sample = sample_texts(tokens.round_cost) if items is None else as_list(items)[1]
        tokens.forget()
        tokens.insists = True
        try:
            while before := tokens.trial_cost():
                self.encode(sample, on_error="skip", show_progress_bar=False)
                if tokens.trial_cost() == before:
                    raise ConfigError(
                        f"calibrate needs items of more than {tokens.round_cost:,} tokens and "
                        "patches together; give more of them"
                    )
        finally:
            tokens.insists = False
        return tokens.best

    def _opened(
        self, cache: Any, truncate_dim: int | None, normalize: bool | None
    ) -> VectorCache | None:
        if cache is None:
            return None
        native, on_model = self.embedding_dimension, self.encoder.config.normalize
        return VectorCache(
            open_store(cache, fingerprint=self.fingerprint, dimension=native),
            native=native,
            truncate_dim=truncate_dim,
            normalize=on_model if normalize is None else normalize,
            on_model=on_model,
            policy=self.processor.decoder.policy,
            numerics=self.numerics,
        )

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """Cosine of all pairs: (N, D) and (M, D) vectors -> (N, M) float32."""
        left, right = _unit_rows(a), _unit_rows(b)
        if left.shape[1] != right.shape[1]:
            raise ConfigError(
                f"vectors have {left.shape[1]} and {right.shape[1]} dimensions; encode both alike"
            )
        return left @ right.T


def _parsed(
    items: list[Any], shared: str | None, report: EncodeReport
) -> list[MultimodalInput | Pair | None]:
    """The items with their instruction; None where one is no item, which `report` then says."""
    parsed: list[MultimodalInput | Pair | None] = []
    for index, item in enumerate(items):
        try:
            parsed.append(_with_instruction(item, shared))
        except InputError as error:
            report.errors.append(error.at(index))
            parsed.append(None)
    return parsed


def _with_instruction(item: Any, shared: str | None) -> MultimodalInput:
    built = MultimodalInput.of(item)
    if built.instruction is None and shared is not None:
        return MultimodalInput(built.parts, shared)
    return built


def _unit_rows(vectors: Any) -> np.ndarray:
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
