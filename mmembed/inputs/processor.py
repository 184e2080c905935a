"""MultimodalInput -> PreparedItem: decode, resize, render the prompt, tokenise, place positions.

Everything that is decided about one item is decided here and for that item alone, so an item's
vector cannot depend on its neighbours. Positions and grids are computed here too (vectorised), so
no state inside the model matters. Runs in threads beside the forward pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer

from mmembed.errors import InputError
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.pictures import VisionGeometry, flat_positions, rotary_positions
from mmembed.inputs.prompt import Placeholder, PromptTemplate, Run, UserText, load_template
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.tokens import Outline, PromptTokenizer, TokenPlan
from mmembed.inputs.visuals import OpenedPart, ShownPart, Visual, VisualReader
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["ClipFormat", "InputConfig", "Processor", "TokenRange"]

# A clip as one grid of patches, or as one picture for each temporal patch behind its time in words.
ClipFormat = Literal["grid", "timestamps"]
Opened = Mapping[int, OpenedPart | InputError]  # by the id of the part


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


# Prompts without text of their own that are remembered, and the longest of them: 16 MiB at most.
_MOST_KNOWN = 256
_LONGEST_KNOWN = 2048


@dataclass
class _Draft:
    """An item between its pictures and its tokens."""

    content: list[UserText | Placeholder] = field(default_factory=list)
    visuals: list[Visual] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    plan: TokenPlan = field(default_factory=TokenPlan)
    shown: list[ShownPart] = field(default_factory=list)
    shape: Hashable = None  # of a prompt that depends on nothing else, where there is one


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
        self._known_config = config  # what follows holds for
        self._outlines: dict[Hashable, Outline] = {}
        self._known: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}  # ids, positions
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

        All texts are tokenised in one call, and a media part that several items hold is opened
        once: they share its arrays. `max_tokens` replaces the config's.
        """
        most = max_tokens or self.config.max_tokens
        return [result for result, _ in self._prepare_all(items, role, most)]

    def dissect(
        self, item: MultimodalInput, *, role: Role = "document"
    ) -> tuple[PreparedItem, list[ShownPart], list[int]]:
        """`prepare`, with what it showed of each media part and the tokens of each text part.

        Raises:
            InputError: without an index; the caller knows it.
        """
        result, draft = self._prepare_all([item], role, self.config.max_tokens)[0]
        if isinstance(result, InputError):
            raise result
        texts = [self._checked(part.text) for part in item.parts if isinstance(part, Text)]
        special = self.allow_special_tokens
        counts = self.tokens.count_tokens(draft.plan, texts, allow_special_tokens=special)
        return result, draft.shown, counts

    def _prepare_all(
        self, items: Sequence[MultimodalInput | Pair], role: Role, limit: int
    ) -> list[tuple[PreparedItem | InputError, _Draft]]:
        items = list(items)  # parts are known by identity
        if self._known_config is not self.config:
            self._outlines, self._known, self._known_config = {}, {}, self.config
        reader = VisualReader(self.decoder, self.config, self.clip_format)
        opened = reader.read(
            part for item in items for part in item.parts if not isinstance(part, Text)
        )
        results: list[Any] = [None] * len(items)
        to_encode: list[tuple[int, _Draft, bool]] = []
        for position, item in enumerate(items):
            try:
                draft = self._draft(item, role, opened)
                known = self._known.get(draft.shape)
                if known is not None and len(known[0]) <= limit:
                    results[position] = _prepared(draft, *known), draft
                    continue
                to_encode.append((position, draft, self._fit(draft, limit)))
            except InputError as error:
                results[position] = error, _Draft()
        chunks = [draft.plan.chunks() for _, draft, _ in to_encode]
        encoded = iter(self.tokens.encode([chunk.text for part in chunks for chunk in part]))
        for (position, draft, truncated), part in zip(to_encode, chunks, strict=True):
            ids = [next(encoded) for _ in part]
            results[position] = self._finish(draft, ids, truncated), draft
        return results

    def _draft(self, item: MultimodalInput | Pair, role: Role, opened: Opened) -> _Draft:
        if not isinstance(item, Pair):
            draft = self._open(item, opened)
            instruction = self._instruction(item)
            contents = [draft.content]
        else:
            sides = []
            for name, side in (("query", item.query), ("document", item.document)):
                try:
                    sides.append(self._open(side, opened))
                except InputError as error:
                    raise error.at((name,)) from None
            query, document = sides
            instruction = self._instruction(item.query)
            contents = [query.content, document.content]
            draft = _Draft(
                visuals=query.visuals + document.visuals,
                warnings=query.warnings + document.warnings,
            )
        draft.plan, prompt = self._plan(contents, instruction, role)
        if prompt is not None and not any(
            isinstance(piece, UserText) for content in contents for piece in content
        ):
            draft.shape = (prompt, *(visual.grid for visual in draft.visuals))
        return draft

    def _plan(
        self, contents: Sequence[list[UserText | Placeholder]], instruction: str | None, role: Role
    ) -> tuple[TokenPlan, Hashable]:
        """The plan of a prompt, and what it depends on but for texts and sizes of pictures.

        What does not depend on the texts is rendered once for all prompts that are alike.
        """
        texts = [piece for content in contents for piece in content if isinstance(piece, UserText)]
        if self.allow_special_tokens or not all(piece.text for piece in texts):
            runs = self._render(contents, instruction, role)
            special = self.allow_special_tokens
            return self.tokens.plan(runs, allow_special_tokens=special), None
        kinds = tuple(
            tuple(
                piece.medium if isinstance(piece, Placeholder) else piece.body for piece in content
            )
            for content in contents
        )
        prompt = (role, instruction, kinds)
        outline = self._outlines.get(prompt)
        if outline is None:
            outline = self.tokens.outline(self._render(contents, instruction, role), texts)
            if len(self._outlines) >= _MOST_KNOWN:
                self._outlines.clear()
            self._outlines[prompt] = outline
        return self.tokens.fill(outline, [piece.text for piece in texts]), prompt

    def _render(
        self, contents: Sequence[list[UserText | Placeholder]], instruction: str | None, role: Role
    ) -> list[Run]:
        template = self.config.prompt
        if len(contents) == 1:
            return template.render(contents[0], instruction=instruction, role=role)
        return template.render_pair(*contents, instruction=instruction)

    def _open(self, item: MultimodalInput, opened: Opened) -> _Draft:
        """The item's content, without a prompt round it."""
        draft = _Draft()
        for part in item.parts:
            if isinstance(part, Text):
                draft.content.append(UserText(self._checked(part.text)))
                continue
            shown = opened[id(part)]
            if isinstance(shown, InputError):
                raise shown
            draft.warnings.extend(shown.warnings)
            draft.shown.append(shown.shown)
            for visual in shown.visuals:
                if visual.time is not None:
                    draft.content.append(UserText(f"<{visual.time:.1f} seconds>", body=False))
                draft.content.append(Placeholder(visual.medium))
            draft.visuals.extend(shown.visuals)
        return draft

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
        visual = sum(one.num_tokens for one in draft.visuals)
        room = max_tokens - visual - draft.plan.fixed_tokens
        # a token is at least one byte, and normalisation makes at most 12 bytes of a character
        if sum(len(chunk.text) for chunk in draft.plan.chunks()) * 12 <= room:
            return False
        try:
            return self.tokens.shorten(draft.plan, room)
        except InputError as error:
            raise InputError(
                error.code,
                f"{error.detail} (max_tokens is {max_tokens:,}, pictures take {visual:,})",
                part="text" if not visual else "item",
            ) from None

    def _finish(
        self, draft: _Draft, encoded: Sequence[Sequence[int]], truncated: bool
    ) -> PreparedItem | InputError:
        pads = [(self.pad_ids[visual.medium], visual.num_tokens) for visual in draft.visuals]
        ids = self.tokens.ids(draft.plan, encoded, pads)
        if not len(ids):
            return InputError(
                "empty", "the prompt has no token; this template needs some text", part="text"
            )
        geometry = self.config.geometry
        if not pads or geometry is None or self.config.position_ids == "flat":
            positions = flat_positions(len(ids))
        else:
            shown = np.zeros(len(ids), dtype=bool)
            for pad in self.pad_ids.values():
                shown |= ids == pad
            grids = np.array([visual.grid for visual in draft.visuals])
            positions = rotary_positions(shown, grids, geometry.merge_size)
        if draft.shape is not None and not truncated and len(ids) <= _LONGEST_KNOWN:
            for array in (ids, positions):  # items share them from now on
                array.flags.writeable = False
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[draft.shape] = ids, positions
        return _prepared(draft, ids, positions, truncated)


def _prepared(
    draft: _Draft, ids: np.ndarray, positions: np.ndarray, truncated: bool = False
) -> PreparedItem:
    visuals = draft.visuals
    if not visuals:
        patches = grids = None
    else:
        grids = np.array([visual.grid for visual in visuals], dtype=np.int64)
        patches = visuals[0].patches
        if len(visuals) > 1:
            patches = np.concatenate([visual.patches for visual in visuals])
    return PreparedItem(
        input_ids=ids,
        position_ids=positions,
        patches=patches,
        grid_thw=grids,
        truncated=truncated,
        warnings=tuple(draft.warnings),
        picture_ids=tuple(visual.key for visual in visuals) if visuals else None,
    )
