"""What the model reads of one item: the prompt as tokens, sizes of pictures, frames, pages.

Beside `Embedder.encode`, out of the same processor; nothing runs through the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmembed.inputs.processor import Processor
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["ExplainedPart", "Explanation", "explain"]


@dataclass(frozen=True)
class ExplainedPart:
    """One part of the item. Sizes are (width, height) in pixels.

    Args:
        num_tokens: of the text after truncation, or of the pictures.
        source_size: as it was given, where that is known: not for clips and pages.
        sizes: of each picture, frame or page as the model gets it.
        times: seconds of the frames taken from a clip.
        pages: numbers of the pages.
    """

    kind: Literal["text", "image", "video", "pdf"]
    num_tokens: int
    source_size: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    times: tuple[float, ...] = ()
    pages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """One item as the model reads it.

    Args:
        prompt: the text of the tokens; the pads of a picture as `<|image_pad|> x 256`.
        num_tokens: of the whole prompt, as in `EncodeReport`; those of the template belong to no
            part.
        num_visual_tokens: of them, of all pictures.
        instruction: as written: the item's, the caller's or the role's default; None: none.
        truncated: text was cut at the model's `max_tokens`.
        parts: in the order of the item.
        warnings: what was decoded with a loss.
    """

    prompt: str
    num_tokens: int
    num_visual_tokens: int
    instruction: str | None
    role: Role
    truncated: bool
    parts: tuple[ExplainedPart, ...]
    warnings: tuple[str, ...]


def explain(processor: Processor, item: MultimodalInput, *, role: Role) -> Explanation:
    """Prepare `item` as `encode` does, and say what came of it.

    Raises:
        InputError: as `encode`, without an index.
    """
    prepared, shown, counts = processor.dissect(item, role=role)
    pictures, texts = iter(shown), iter(counts)
    parts = []
    for part in item.parts:
        if isinstance(part, Text):
            parts.append(ExplainedPart("text", next(texts)))
            continue
        seen = next(pictures)
        parts.append(
            ExplainedPart(
                seen.kind, seen.num_tokens, seen.source_size, seen.sizes, seen.times, seen.pages
            )
        )
    return Explanation(
        prompt=processor.tokens.text(prepared.input_ids),
        num_tokens=prepared.num_tokens,
        num_visual_tokens=sum(part.num_tokens for part in shown),
        instruction=processor.config.prompt.resolve_instruction(item.instruction, role) or None,
        role=role,
        truncated=prepared.truncated,
        parts=tuple(parts),
        warnings=prepared.warnings,
    )
