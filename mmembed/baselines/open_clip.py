"""CLIP and its kin, by open_clip, as encoders of items.

Two towers, one for a text and one for a picture, so everything else is put together from their
unit vectors:

- a clip, or several pages, is the normalised mean over its frames (mean pooling of CLIP4Clip,
  arXiv 2104.08860, section 3.3);
- an item of several parts is the normalised sum over its parts: late score fusion, CLIP_SF of
  UniIR (arXiv 2311.17136, section 4). An empty text beside other parts is left out;
- an instruction stands in front of the item's first text, with a blank between. An item without a
  text has no place for one.

Pictures, frames and pages are opened by mmembed's decoder within its limits and go through the
model's own preprocessing, which may crop. Text beyond the context length is cut, as the library
does; `num_truncated` counts such texts.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import normalize

from mmembed.baselines.distinct_items import check_rows, distinct_items, raise_all
from mmembed.baselines.open_clip_checkpoint import load_checkpoint
from mmembed.encoder.identity import package_versions
from mmembed.encoder.options import loading_options
from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.progress import progress_bar
from mmembed.types import Image, MultimodalInput, Page, Role, Text, Video

__all__ = ["OpenClip"]

logger = logging.getLogger(__name__)

_NUM_FRAMES = 8
_TEXTS_PER_BATCH = 256
_PICTURES_PER_BATCH = 64
_PARTS_PER_BLOCK = 32  # decoded together


class OpenClip:
    """See `ItemEncoder`; `weights` as in `open_clip_checkpoint`. Both roles have one vector.

    Attributes:
        num_truncated: texts that were cut since the model was loaded, each once a call.
    """

    def __init__(
        self,
        architecture: str,
        weights: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        num_workers: int | None = None,
    ) -> None:
        options = loading_options(device, dtype, num_workers, {})
        self.device: torch.device = options["device"]
        self._loaded = load_checkpoint(
            architecture, weights, device=self.device, dtype=options["dtype"]
        )
        self.name = f"open_clip:{architecture}:{weights}"
        self.decoder = MediaDecoder(num_workers=options["num_workers"])
        self.num_truncated = 0
        side = self._loaded.pictures["size"]
        longest = side if isinstance(side, int) else max(side)
        # frames and pages arrive at most this large, pictures whole; `factor` 1 keeps their shape
        self._budget = MediaBudget(1, (4 * longest) ** 2, factor=1, num_frames=_NUM_FRAMES)

    @cached_property
    def embedding_dimension(self) -> int:
        return int(self._loaded.config["embed_dim"])

    @cached_property
    def space(self) -> str:
        dtype = str(self._loaded.input_dtype)
        fields = ("open_clip 1", self._loaded.sha256, dtype, self.device.type, torch.__version__)
        return hashlib.sha256(" ".join(fields).encode()).hexdigest()

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        groups = distinct_items(items)
        errors: list[InputError] = []
        contents = [_content(item) for item, _ in groups]
        for (_, (place, *_)), content in zip(groups, contents, strict=True):
            errors += [error.at(place) for error in map(_text_error, content) if error]
        raise_all(errors)
        texts = dict.fromkeys(
            part for content in contents for part in content if isinstance(part, str)
        )
        media = [
            (place, part)
            for (_, (place, *_)), content in zip(groups, contents, strict=True)
            for part in content
            if not isinstance(part, str)
        ]
        if show_progress_bar is None:
            show_progress_bar = len(items) >= 64 and sys.stderr.isatty()
        with (
            _progress(show_progress_bar, len(texts) + len(media)) as advance,
            torch.inference_mode(),
        ):
            found = dict(zip(texts, self._texts(list(texts), advance), strict=True))
            pictures = self._media(media, errors, advance)
            rows = np.empty((len(items), self.embedding_dimension), dtype=np.float32)
            for (_, places), content in zip(groups, contents, strict=True):
                parts = [
                    found[part] if isinstance(part, str) else next(pictures) for part in content
                ]
                rows[places] = normalize(torch.stack(parts).sum(0), dim=-1).numpy()
        raise_all(errors)
        return check_rows(rows)

    def _texts(self, texts: list[str], advance: Callable[[int], None]) -> Iterator[Tensor]:
        """(D,) unit float32 for each text."""
        num_cut = 0
        for begin in range(0, len(texts), _TEXTS_PER_BATCH):
            part = texts[begin : begin + _TEXTS_PER_BATCH]
            ids = self._loaded.tokenizer(part)
            num_cut += self._num_cut(part, ids)
            vectors = self._loaded.model.encode_text(ids.to(self.device))
            yield from normalize(vectors.float(), dim=-1).cpu()
            advance(len(part))
        self.num_truncated += num_cut
        if num_cut:
            logger.warning(
                "%s: %d of %d texts are longer than %d tokens and were cut",
                self.name, num_cut, len(texts), self._loaded.tokenizer.context_length,
            )  # fmt: skip

    def _num_cut(self, texts: list[str], ids: Tensor) -> int:
        """How many texts would fill more than the context length."""
        tokenizer = self._loaded.tokenizer
        pad = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", 0) or 0
        lengths = (ids != pad).sum(1)
        full = torch.nonzero(lengths >= ids.shape[1]).flatten().tolist()
        if not full:
            return 0
        longer = tokenizer([texts[row] for row in full], ids.shape[1] + 1)
        return int(((longer != pad).sum(1) > ids.shape[1]).sum())

    def _media(
        self,
        media: list[tuple[int, Any]],
        errors: list[InputError],
        advance: Callable[[int], None],
    ) -> Iterator[Tensor]:
        """(D,) unit float32 for each part; `media` is (position of the item, part).

        What cannot be opened goes into `errors` and has NaN.
        """
        for begin in range(0, len(media), _PARTS_PER_BLOCK):
            block = media[begin : begin + _PARTS_PER_BLOCK]
            parts = [part for _, part in block]
            budgets, takes = [self._budget] * len(parts), [self._tensors] * len(parts)
            decoded = self.decoder.decode_many(parts, budgets, takes)
            good = [each for each in decoded if not isinstance(each, InputError)]
            vectors = iter(self._pictures(good))
            for (place, _), outcome in zip(block, decoded, strict=True):
                if isinstance(outcome, InputError):
                    errors.append(outcome.at(place))
                    yield torch.full((self.embedding_dimension,), torch.nan)
                else:
                    yield normalize(next(vectors).mean(0), dim=-1)
            advance(len(parts))

    def _tensors(self, media: DecodedMedia) -> Tensor:
        """(F, 3, height, width) of the frames of one part."""
        made = [self._loaded.preprocess(PILImage.fromarray(frame)) for frame in media.frames]
        return torch.stack(made)

    def _pictures(self, parts: list[Tensor]) -> list[Tensor]:
        """(F, 3, height, width) of each part -> (F, D) unit float32 of each part."""
        if not parts:
            return []
        found = [
            self._loaded.model.encode_image(batch.to(self.device, self._loaded.input_dtype))
            for batch in torch.cat(parts).split(_PICTURES_PER_BATCH)
        ]
        rows = normalize(torch.cat(found).float().cpu(), dim=-1)
        return list(rows.split([len(part) for part in parts]))

    def describe(self) -> Mapping[str, Any]:
        loaded = self._loaded
        return {
            "kind": "open_clip",
            "space": self.space,
            "architecture": loaded.architecture,
            "weights": loaded.weights,
            "sha256": loaded.sha256,
            "quick_gelu": bool(loaded.config.get("quick_gelu")),
            "dtype": str(loaded.input_dtype).removeprefix("torch."),
            "context_length": loaded.tokenizer.context_length,
            "pictures": loaded.pictures,
            "num_frames": _NUM_FRAMES,
            "parts": "normalised sum of part vectors; clips and pages: normalised mean of frames",
            "embedding_dimension": self.embedding_dimension,
            "device": str(self.device),
            "versions": {**package_versions(), "open_clip_torch": version("open_clip_torch")},
        }

    def close(self) -> None:
        self.decoder.close()


def _content(item: MultimodalInput) -> list[str | Image | Video | Page]:
    """What is encoded: texts as strings, the instruction in front of the first."""
    content: list[str | Image | Video | Page] = []
    instruction = item.instruction or ""
    for part in item.parts:
        if not isinstance(part, Text):
            content.append(part)
        elif part.text or len(item.parts) == 1:
            content.append(f"{instruction} {part.text}" if instruction else part.text)
            instruction = ""
    return content or [instruction]


def _text_error(part: str | Image | Video | Page) -> InputError | None:
    try:
        if isinstance(part, str):
            part.encode("utf-8")
    except UnicodeEncodeError:
        detail = "it holds a lone surrogate; decode the source as UTF-8"
        return InputError("invalid_text", detail, part="text")
    return None


def _progress(show: bool, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return (
        progress_bar("encoding", total, unit="parts") if show else nullcontext(lambda count: None)
    )
