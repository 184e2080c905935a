"""MultimodalInput -> PreparedItem: decode, resize, render the prompt, tokenise, place positions.

Everything that is decided about one item is decided here and for that item alone, so an item's
vector cannot depend on its neighbours. Positions and grids are computed here too (vectorised), so
no state inside the model matters. Runs in threads beside the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer
from torch import Tensor

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia, MediaPolicy
from mmembed.inputs.pictures import (
    VisionGeometry,
    first_resize,
    first_size,
    flat_positions,
    patchify,
    resize,
    rotary_positions,
)
from mmembed.inputs.prompt import Placeholder, PromptTemplate, UserText, load_template
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget, smart_resize
from mmembed.inputs.tokens import PromptTokenizer, TokenPlan
from mmembed.types import Image, MultimodalInput, Page, Role, Text, Video

__all__ = ["InputConfig", "PreparedItem", "Processor", "TokenRange"]


class TokenRange(BaseModel):
    """Least and most visual tokens of one picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> TokenRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")
        return self


class InputConfig(BaseModel):
    """Everything between an item and its tensors that changes a vector. Part of the model folder.

    Budgets default to those of the released RzenEmbed inference code: 256..1280 tokens for an
    image or page, 8 frames of 160..180 tokens for a video. That code also resizes every picture
    twice, first to 4..16384 tokens; `resize_passes: 2` and `position_ids: flat` reproduce it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: PromptTemplate = Field(default_factory=lambda: load_template("rzen_release"))
    prompts: dict[str, str] = Field(default_factory=dict)
    position_ids: Literal["mrope", "flat"] = "mrope"
    image_tokens: TokenRange = TokenRange(min=256, max=1280)
    frame_tokens: TokenRange = TokenRange(min=160, max=180)
    page_tokens: TokenRange = TokenRange(min=256, max=1280)
    num_frames: int = Field(default=8, ge=1)
    max_tokens: int = Field(default=8192, ge=8)
    resize_passes: Literal[1, 2] = 1
    geometry: VisionGeometry = VisionGeometry()


@dataclass
class PreparedItem:
    """One item, ready to be packed. L tokens, P patch rows, V pictures."""

    input_ids: np.ndarray  # (L,) int64
    position_ids: np.ndarray  # (3, L) int64
    patches: np.ndarray | None = None  # (P, patch_dim) uint8
    grid_thw: np.ndarray | None = None  # (V, 3) int64
    truncated: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def cost(self) -> int:
        """Tokens of both towers, the unit of `batch_tokens`: a patch row counts as one."""
        return len(self.input_ids) + (0 if self.patches is None else len(self.patches))


@dataclass
class _Draft:
    """An item between its pictures and its tokens."""

    plan: TokenPlan
    pictures: list[tuple[int, int]]  # (pad id, tokens) of each placeholder
    patches: list[np.ndarray]
    grids: list[np.ndarray]
    warnings: list[str]


class Processor:
    """Turns items into tensors for one model. Thread-safe; `close()` ends its decode processes.

    Args:
        media: limits for opening media, or a decoder that several processors share.
        num_workers: decode processes, when no decoder is given.
        text_errors: what to do with lone surrogates.
        allow_special_tokens: treat special-token strings in the user's text as control tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: InputConfig,
        *,
        media: MediaPolicy | MediaDecoder | None = None,
        num_workers: int = 1,
        text_errors: Literal["raise", "replace"] = "raise",
        allow_special_tokens: bool = False,
    ) -> None:
        self.tokens = PromptTokenizer(tokenizer)
        self.config = config
        self._owns_decoder = not isinstance(media, MediaDecoder)
        self.decoder = (
            media
            if isinstance(media, MediaDecoder)
            else MediaDecoder(media or MediaPolicy(), num_workers=num_workers)
        )
        self.text_errors = text_errors
        self.allow_special_tokens = allow_special_tokens
        self.pad_ids = {
            "image": self.tokens.control_id("<|image_pad|>"),
            "video": self.tokens.control_id("<|video_pad|>"),
        }
        self.side_files: dict[str, bytes] = {}  # tokenizer and settings files, to save again

    def close(self) -> None:
        """End the decode processes; a decoder that was passed in stays open."""
        if self._owns_decoder:
            self.decoder.close()

    def prepare(self, item: MultimodalInput, *, role: Role = "document") -> PreparedItem:
        """Decode, resize and tokenise one item.

        Raises:
            InputError: without an index; the caller knows it.
        """
        result = self.prepare_all([item], role=role)[0]
        if isinstance(result, InputError):
            raise result
        return result

    def prepare_all(
        self, items: Sequence[MultimodalInput], *, role: Role = "document"
    ) -> list[PreparedItem | InputError]:
        """One result for each item, in order; a bad item gives its error and harms no other.

        All texts are tokenised in one call.
        """
        drafts: list[_Draft | InputError] = []
        for item in items:
            try:
                drafts.append(self._draft(item, role))
            except InputError as error:
                drafts.append(error)
        chunks = [draft.plan.chunks() for draft in drafts if isinstance(draft, _Draft)]
        cut: list[bool | InputError] = []
        for draft in drafts:
            if isinstance(draft, _Draft):
                try:
                    cut.append(self._fit(draft))
                except InputError as error:
                    cut.append(error)
        encoded = iter(self.tokens.encode([chunk.text for part in chunks for chunk in part]))
        verdicts = iter(cut)
        results: list[PreparedItem | InputError] = []
        for draft in drafts:
            if isinstance(draft, InputError):
                results.append(draft)
                continue
            ids = [next(encoded) for _ in draft.plan.chunks()]
            verdict = next(verdicts)
            results.append(
                verdict if isinstance(verdict, InputError) else self._finish(draft, ids, verdict)
            )
        return results

    def _draft(self, item: MultimodalInput, role: Role) -> _Draft:
        content: list[UserText | Placeholder] = []
        draft = _Draft(TokenPlan(), [], [], [], [])
        as_images = self.config.prompt.video_as == "images"
        for part in item.parts:
            if isinstance(part, Text):
                content.append(UserText(self._checked(part.text)))
                continue
            decoded = self.decoder.decode(part, self._budget(part))
            draft.warnings.extend(decoded.warnings)
            groups = self._groups(part, decoded, as_images)
            medium: Literal["image", "video"] = (
                "video" if isinstance(part, Video) and not as_images else "image"
            )
            for frames in groups:
                patches, grid = patchify(frames, self.config.geometry)
                draft.patches.append(patches)
                draft.grids.append(grid)
                count = len(patches) // self.config.geometry.merge_size**2
                draft.pictures.append((self.pad_ids[medium], count))
                content.append(Placeholder(medium))
        instruction = item.instruction
        if instruction is not None:
            instruction = self._checked(instruction)
        runs = self.config.prompt.render(content, instruction=instruction, role=role)
        draft.plan = self.tokens.plan(runs, allow_special_tokens=self.allow_special_tokens)
        return draft

    def _groups(
        self, part: Image | Video | Page, decoded: DecodedMedia, as_images: bool
    ) -> list[list[Tensor]]:
        """Frames on the grid, grouped into what one placeholder stands for."""
        budget = self._budget(part)
        shapes = [(frame.shape[0], frame.shape[1]) for frame in decoded.frames]
        if self.config.resize_passes == 2:
            shapes = [first_size(height, width, budget.factor) for height, width in shapes]
        sizes = [
            smart_resize(
                *shape,
                factor=budget.factor,
                min_pixels=budget.min_pixels,
                max_pixels=budget.max_pixels,
            )
            for shape in shapes
        ]
        together = isinstance(part, Video) and not as_images
        if together:
            sizes = [sizes[0]] * len(sizes)  # one grid for the whole clip
        pictures = decoded.frames
        if self.config.resize_passes == 2:
            pictures = tuple(first_resize(frame, budget.factor) for frame in pictures)
        frames = [resize(frame, *size) for frame, size in zip(pictures, sizes, strict=True)]
        return [frames] if together else [[frame] for frame in frames]

    def _budget(self, part: Image | Video | Page) -> MediaBudget:
        config = self.config
        default = (
            config.image_tokens
            if isinstance(part, Image)
            else config.frame_tokens
            if isinstance(part, Video)
            else config.page_tokens
        )
        most = part.max_tokens or default.max
        least = getattr(part, "min_tokens", None) or min(default.min, most)
        if least > most:
            raise InputError(
                "invalid_type",
                f"min_tokens {least} is greater than max_tokens {most}",
                part="image",
            )
        area = config.geometry.factor**2
        return MediaBudget(
            min_pixels=least * area,
            max_pixels=most * area,
            factor=config.geometry.factor,
            num_frames=config.num_frames,
        )

    def _checked(self, text: str) -> str:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self.text_errors == "replace":
                return text.encode("utf-8", errors="replace").decode("utf-8")
            raise InputError(
                "invalid_text",
                f"a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}; "
                "decode the source as UTF-8, or use text_errors='replace'",
                part="text",
            ) from None
        return text

    def _fit(self, draft: _Draft) -> bool:
        visual = sum(count for _, count in draft.pictures)
        room = self.config.max_tokens - visual - draft.plan.fixed_tokens
        # a token is at least one byte, and normalisation makes at most 12 bytes of a character
        if sum(len(chunk.text) for chunk in draft.plan.chunks()) * 12 <= room:
            return False
        try:
            return self.tokens.shorten(draft.plan, room)
        except InputError as error:
            for chunk in draft.plan.chunks():
                chunk.keep = 0
            raise InputError(
                error.code,
                f"{error.detail} (max_tokens is {self.config.max_tokens:,}, pictures take "
                f"{visual:,})",
                part="text" if not visual else "item",
            ) from None

    def _finish(
        self, draft: _Draft, encoded: Sequence[Sequence[int]], truncated: bool
    ) -> PreparedItem | InputError:
        ids = self.tokens.ids(draft.plan, encoded, draft.pictures)
        if not len(ids):
            return InputError(
                "empty", "the prompt has no token; this template needs some text", part="text"
            )
        geometry = self.config.geometry
        grids = np.stack(draft.grids) if draft.grids else None
        if grids is None or self.config.position_ids == "flat":
            positions = flat_positions(len(ids))
        else:
            visual = np.isin(ids, list(self.pad_ids.values()))
            positions = rotary_positions(visual, grids, geometry.merge_size)
        return PreparedItem(
            input_ids=ids,
            position_ids=positions,
            patches=np.concatenate(draft.patches) if draft.patches else None,
            grid_thw=grids,
            truncated=truncated,
            warnings=tuple(draft.warnings),
        )
