"""MultimodalInput -> PreparedItem: decode, resize, render the prompt, tokenise, place positions.

Everything that is decided about one item is decided here and for that item alone, so an item's
vector cannot depend on its neighbours. Positions and grids are computed here too (vectorised), so
no state inside the model matters. Runs in threads beside the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer
from torch import Tensor

from mmembed.errors import InputError
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.inputs.media import DecodedMedia, MediaPolicy
from mmembed.inputs.pictures import (
    VisionGeometry,
    flat_positions,
    on_grid,
    patchify,
    rotary_positions,
)
from mmembed.inputs.prompt import Placeholder, PromptTemplate, UserText, load_template
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.inputs.tokens import PromptTokenizer, TokenPlan
from mmembed.types import Image, MultimodalInput, Page, Role, Text, Video

__all__ = ["ClipFormat", "InputConfig", "Processor", "TokenRange"]

# A clip as one grid of patches, or as one picture for each temporal patch behind its time in words.
ClipFormat = Literal["grid", "timestamps"]


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
    Without a `geometry` the model takes text only.
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
    geometry: VisionGeometry | None = VisionGeometry()


@dataclass
class _Draft:
    """An item between its pictures and its tokens."""

    plan: TokenPlan = field(default_factory=TokenPlan)
    content: list[UserText | Placeholder] = field(default_factory=list)
    pictures: list[tuple[int, int]] = field(default_factory=list)  # (pad id, tokens) of each
    patches: list[np.ndarray] = field(default_factory=list)
    grids: list[np.ndarray] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Processor:
    """Turns items into tensors for one model. Thread-safe; `close()` ends its decode processes.

    Args:
        media: limits for opening media, or a decoder that several processors share.
        num_workers: decode processes, when no decoder is given.
        clip_format: how the model takes a clip when the prompt says `video_as: video`; None when
            it takes frames only.
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
        clip_format: ClipFormat | None = "grid",
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
        self.clip_format = clip_format
        self.text_errors = text_errors
        self.allow_special_tokens = allow_special_tokens
        media_kinds = ("image", "video") if config.geometry is not None else ()
        self.pad_ids = {kind: self.tokens.control_id(f"<|{kind}_pad|>") for kind in media_kinds}
        self.side_files: dict[str, bytes] = {}  # tokenizer and settings files, to save again

    def close(self) -> None:
        """End the decode processes; a decoder that was passed in stays open."""
        if self._owns_decoder:
            self.decoder.close()

    def prepare(self, item: MultimodalInput | Pair, *, role: Role = "document") -> PreparedItem:
        """Decode, resize and tokenise one item.

        Raises:
            InputError: without an index; the caller knows it.
        """
        result = self.prepare_all([item], role=role)[0]
        if isinstance(result, InputError):
            raise result
        return result

    def prepare_all(
        self,
        items: Sequence[MultimodalInput | Pair],
        *,
        role: Role = "document",
        max_tokens: int | None = None,
    ) -> list[PreparedItem | InputError]:
        """One result for each item, in order; a bad item gives its error and harms no other.

        All texts are tokenised in one call. `max_tokens` replaces the config's.
        """
        limit = max_tokens or self.config.max_tokens
        drafts: list[_Draft | InputError] = []
        opened: dict[int, _Draft | InputError] = {}
        for item in items:
            try:
                drafts.append(
                    self._draft_pair(item, opened)
                    if isinstance(item, Pair)
                    else self._draft(item, role)
                )
            except InputError as error:
                drafts.append(error)
        chunks = [draft.plan.chunks() for draft in drafts if isinstance(draft, _Draft)]
        cut: list[bool | InputError] = []
        for draft in drafts:
            if isinstance(draft, _Draft):
                try:
                    cut.append(self._fit(draft, limit))
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
        draft = self._open(item)
        runs = self.config.prompt.render(
            draft.content, instruction=self._instruction(item), role=role
        )
        draft.plan = self.tokens.plan(runs, allow_special_tokens=self.allow_special_tokens)
        return draft

    def _draft_pair(self, pair: Pair, opened: dict[int, _Draft | InputError]) -> _Draft:
        """`opened` remembers the queries and documents of one call: a query has many documents."""
        sides = []
        for name, item in (("query", pair.query), ("document", pair.document)):
            if id(item) not in opened:
                try:
                    opened[id(item)] = self._open(item)
                except InputError as error:
                    opened[id(item)] = error
            side = opened[id(item)]
            if isinstance(side, InputError):
                raise side.at((name,))
            sides.append(side)
        query, document = sides
        runs = self.config.prompt.render_pair(
            query.content, document.content, instruction=self._instruction(pair.query)
        )
        return _Draft(
            self.tokens.plan(runs, allow_special_tokens=self.allow_special_tokens),
            [],
            query.pictures + document.pictures,
            query.patches + document.patches,
            query.grids + document.grids,
            query.warnings + document.warnings,
        )

    def _open(self, item: MultimodalInput) -> _Draft:
        """The item's content, its media decoded and resized, without a prompt round it."""
        draft = _Draft()
        as_images = self.config.prompt.video_as == "images"
        for part in item.parts:
            if isinstance(part, Text):
                draft.content.append(UserText(self._checked(part.text)))
                continue
            as_clip = isinstance(part, Video) and not as_images
            geometry = self._geometry(part, as_clip)
            budget = self._budget(part, geometry)
            decoded = self.decoder.decode(part, budget)
            draft.warnings.extend(decoded.warnings)
            medium: Literal["image", "video"] = "video" if as_clip else "image"
            for frames, time in self._groups(decoded, budget, geometry, as_clip):
                patches, grid = patchify(frames, geometry)
                draft.patches.append(patches)
                draft.grids.append(grid)
                count = len(patches) // geometry.merge_size**2
                draft.pictures.append((self.pad_ids[medium], count))
                if time is not None:
                    draft.content.append(UserText(f"<{time:.1f} seconds>", body=False))
                draft.content.append(Placeholder(medium))
        return draft

    def _geometry(self, part: Image | Video | Page, as_clip: bool) -> VisionGeometry:
        """The geometry of this part's pictures, after refusing what the model cannot take."""
        kind = "image" if isinstance(part, Image) else "video" if isinstance(part, Video) else "pdf"
        if self.config.geometry is None:
            raise InputError(
                "unsupported_format",
                "this model takes text only; give text, or load a model with a vision tower",
                part=kind,
            )
        if as_clip and self.clip_format is None:
            raise InputError(
                "unsupported_format",
                "mmembed gives this model clips as single frames only; set the prompt's video_as "
                "to 'images'",
                part=kind,
            )
        return self.config.geometry

    def _groups(
        self, decoded: DecodedMedia, budget: MediaBudget, geometry: VisionGeometry, as_clip: bool
    ) -> list[tuple[list[Tensor], float | None]]:
        """Frames on the grid, grouped into what one placeholder stands for.

        Each group has the time in seconds that is written in front of it, or None.
        """
        frames = on_grid(
            decoded.frames, budget, twice=self.config.resize_passes == 2, together=as_clip
        )
        if not as_clip:
            return [([frame], None) for frame in frames]
        if self.clip_format == "grid":
            return [(frames, None)]
        depth, times = geometry.temporal_patch_size, decoded.timestamps
        groups: list[tuple[list[Tensor], float | None]] = []
        for begin in range(0, len(frames), depth):
            end = min(begin + depth, len(frames))
            groups.append((frames[begin:end], (times[begin] + times[end - 1]) / 2))
        return groups

    def _budget(self, part: Image | Video | Page, geometry: VisionGeometry) -> MediaBudget:
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
        area = geometry.factor**2
        return MediaBudget(
            min_pixels=least * area,
            max_pixels=most * area,
            factor=geometry.factor,
            num_frames=config.num_frames,
        )

    def _instruction(self, item: MultimodalInput) -> str | None:
        return None if item.instruction is None else self._checked(item.instruction)

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

    def _fit(self, draft: _Draft, max_tokens: int) -> bool:
        visual = sum(count for _, count in draft.pictures)
        room = max_tokens - visual - draft.plan.fixed_tokens
        # a token is at least one byte, and normalisation makes at most 12 bytes of a character
        if sum(len(chunk.text) for chunk in draft.plan.chunks()) * 12 <= room:
            return False
        try:
            return self.tokens.shorten(draft.plan, room)
        except InputError as error:
            for body in draft.plan.bodies():
                body.keep = 0
            raise InputError(
                error.code,
                f"{error.detail} (max_tokens is {max_tokens:,}, pictures take {visual:,})",
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
        if grids is None or geometry is None or self.config.position_ids == "flat":
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
