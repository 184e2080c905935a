"""Pictures, clips and pages drawn from emoji, for `emoji.py` and `emoji_tasks.py`.

A `Style` is everything about a drawing but its content: background, colours, sharpness. Training
draws it at random, because two vendors agree on shapes and disagree on colours (a blue and a red
teapot), shading (gradients and flat areas) and outlines, and a model that saw one vendor is tested
on the other. It is drawn once for a clip, so that its frames belong together.

Sizes are pixels; a picture is uint8 (size, size, 3), RGB.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from data_adapters.emoji_source import Emoji, load_emoji
from mmembed.types import Page

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = [
    "ACTIONS",
    "PAGE_LANGUAGES",
    "PLAIN",
    "Style",
    "draw_clip",
    "draw_page",
    "draw_picture",
    "page_of",
    "random_style",
]

# Written in the Latin alphabet, which the font of the pages has.
PAGE_LANGUAGES = ("en", "es", "de", "fr", "pt", "sw")
ACTIONS = ("left", "right", "up", "down", "grow", "shrink")
_SPRITE_SIZE = 64
_LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Style:
    """How something is drawn.

    Attributes:
        background: RGB.
        rotation, shear: degrees and horizontal shear of the emoji.
        scale, shift: size of the emoji beside the default, and its offset in parts of the picture.
        colors: the 12 values of a (3, 4) matrix applied to RGB and 1, or None for unchanged.
        num_levels: flatten shading to so many levels of each colour, or None.
        outline: 0 (none) to 1 (nothing but edges).
        blur: radius in pixels.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    rotation: float = 0.0
    shear: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    colors: tuple[float, ...] | None = None
    num_levels: int | None = None
    outline: float = 0.0
    blur: float = 0.0


PLAIN = Style()


def random_style(rng: Random, strength: float = 1.0) -> Style:
    """A style for training; `strength` 0 is `PLAIN`, 1 as different as another vendor's."""
    if strength <= 0:
        return PLAIN

    def spread(width: float) -> float:
        return rng.uniform(-width, width) * strength

    def happens(probability: float) -> bool:
        return rng.random() < probability * strength

    background = (255, 255, 255)
    if happens(0.5):
        shade = colorsys.hsv_to_rgb(rng.random(), rng.random() * 0.6, rng.uniform(0.5, 1))
        background = (int(shade[0] * 255), int(shade[1] * 255), int(shade[2] * 255))
    return Style(
        background=background,
        rotation=spread(12),
        shear=spread(0.15),
        scale=1 - 0.3 * strength * rng.random(),
        shift=(spread(0.07), spread(0.07)),
        colors=_color_matrix(
            hue=spread(math.pi) if happens(0.35) else spread(0.2),
            saturation=0.0 if happens(0.15) else 1 + spread(0.5),
            contrast=1 + spread(0.3),
            brightness=spread(0.12),
        ),
        num_levels=rng.choice((3, 4, 5, 6)) if happens(0.4) else None,
        outline=rng.uniform(0.3, 1) if happens(0.15) else 0.0,
        blur=rng.uniform(0.3, 1.2) if happens(0.25) else 0.0,
    )


def draw_picture(vendor: str, emoji_id: str, style: Style = PLAIN, size: int = 64) -> np.ndarray:
    """One emoji that fills the picture."""
    return _finish(_place(_sprite(vendor, emoji_id), style, size), style)


def draw_clip(
    vendor: str,
    emoji_ids: Sequence[str],
    action: str,
    *,
    num_frames: int = 8,
    style: Style = PLAIN,
    size: int = 64,
) -> tuple[np.ndarray, ...]:
    """An emoji that moves or changes its size, or several that appear in order.

    Args:
        emoji_ids: one, or two and more for the action `sequence`.
        action: one of `ACTIONS`, or `sequence`.
        num_frames: at least two.
    """
    if num_frames < max(2, len(emoji_ids)):
        raise ValueError(
            f"num_frames is {num_frames}; a clip of {len(emoji_ids)} emoji needs at least "
            f"{max(2, len(emoji_ids))}"
        )
    frames = []
    for index in range(num_frames):
        time = index / (num_frames - 1)
        scale, x, y = 0.85, 0.0, 0.0
        shown = emoji_ids[0]
        if action == "sequence":
            shown = emoji_ids[index * len(emoji_ids) // num_frames]
        elif action in ("grow", "shrink"):
            scale = 0.3 + 0.7 * (time if action == "grow" else 1 - time)
        elif action in ("left", "right", "up", "down"):
            scale, along = 0.5, 0.5 * time - 0.25
            x = {"left": -along, "right": along}.get(action, 0.0)
            y = {"up": -along, "down": along}.get(action, 0.0)
        else:
            known = ", ".join((*ACTIONS, "sequence"))
            raise ValueError(f"action is {action!r}; it must be one of: {known}")
        frame = _place(_sprite(vendor, shown), style, size, scale=scale, x=x, y=y)
        frames.append(_finish(frame, style))
    return tuple(frames)


def draw_page(
    heading: str,
    lines: Sequence[str],
    figure: np.ndarray,
    *,
    layout: int = 0,
    width: int = 168,
    height: int = 224,
) -> bytes:
    """One PDF page: a heading, a figure, lines of text; large type for small renderings.

    Text is set in the built-in Helvetica, which has the Latin alphabets only; other characters
    come out as `?`. The same arguments give the same bytes.

    Args:
        layout: 0 to 3: figure below the heading, above it, left of the lines
            (which then break at commas), or at the bottom.
        width, height: points; at one pixel a point the heading is 18 pixels high.

    Raises:
        ImportError: pymupdf is missing.
    """
    try:
        import pymupdf
    except ImportError:
        raise ImportError(
            "pymupdf is not installed. Install it with: pip install 'mmembed[documents]'"
        ) from None
    margin, line_height = 8, 15
    with pymupdf.open() as document:
        page = document.new_page(width=width, height=height)
        side = min(width - 2 * margin, height // 2 - margin)
        heading_top, figure_top = margin, margin + 26
        figure_left, lines_left = (width - side) // 2, margin
        lines_top = figure_top + side + 4
        if layout % 4 == 1:
            figure_top, heading_top = margin, margin + side + 2
            lines_top = heading_top + 26
        elif layout % 4 == 2:
            side = (width - 3 * margin) // 2
            figure_left, lines_left, lines_top = margin, 2 * margin + side, figure_top
            lines = [word for line in lines for word in line.split(", ")]
        elif layout % 4 == 3:
            figure_top, lines_top = height - margin - side, margin + 26
        box = (figure_left, figure_top, figure_left + side, figure_top + side)
        rows, columns, _ = figure.shape
        pixels = pymupdf.Pixmap(pymupdf.csRGB, columns, rows, figure.tobytes(), False)
        page.insert_image(pymupdf.Rect(*box), pixmap=pixels)

        bottom = figure_top if layout % 4 == 3 else height - margin
        shown = list(lines[: max(0, bottom - lines_top) // line_height])
        for texts, left, top, size in (
            ([heading], margin, heading_top, 18.0),
            (shown, lines_left, lines_top, 12.0),
        ):
            texts = [_latin(text) for text in texts]
            widths = [sum(map(_helvetica_widths().__getitem__, text)) for text in texts]
            room = (width - margin - left) / max([*widths, 1e-3])
            size = max(min(size, room), 0.6 * size)
            page.insert_text(
                (left, top + size), texts, fontsize=size, lineheight=line_height / size
            )
        return bytes(document.tobytes(no_new_id=True))


def page_of(
    emoji: Emoji,
    vendor: str,
    rng: Random,
    *,
    style: Style,
    languages: Sequence[str] = PAGE_LANGUAGES,
) -> Page:
    """Lay out one page about an emoji, in random languages and one of four layouts."""
    usable = [language for language in languages if language in PAGE_LANGUAGES]
    usable = [language for language in usable if language in emoji.names] or ["en"]
    heading = emoji.names[rng.choice(usable)]
    with_keywords = [language for language in usable if language in emoji.keywords]
    lines = [
        ", ".join(rng.sample(words, min(3, len(words))))
        for language in rng.sample(with_keywords, min(4, len(with_keywords)))
        for words in (emoji.keywords[language],)
    ]
    figure = draw_picture(vendor, emoji.id, style, 96)
    return Page(draw_page(heading, lines, figure, layout=rng.randrange(4)), pages="1")


@lru_cache(maxsize=4096)  # both vendors: 16 KiB each
def _sprite(vendor: str, emoji_id: str) -> PILImage:
    with Image.open(io.BytesIO(_pictures(vendor)[emoji_id])) as picture:
        return picture.convert("RGBA")


@lru_cache(maxsize=2)
def _pictures(vendor: str) -> dict[str, bytes]:
    return {emoji.id: emoji.pictures[vendor] for emoji in load_emoji()}


def _place(
    sprite: PILImage, style: Style, size: int, *, scale: float = 1.0, x: float = 0.0, y: float = 0.0
) -> PILImage:
    """The sprite on its background; `x` and `y` are offsets from the centre, in picture widths."""
    zoom = scale * style.scale * size / _SPRITE_SIZE
    angle = math.radians(style.rotation)
    # the inverse map, from picture to sprite coordinates, is what PIL wants
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    a, b, d, e = cosine, sine - style.shear / zoom, -sine, cosine
    center_x = size * (0.5 + x + style.shift[0])
    center_y = size * (0.5 + y + style.shift[1])
    half = _SPRITE_SIZE / 2
    moved = sprite.transform(
        (size, size),
        Image.Transform.AFFINE,
        (a, b, half - a * center_x - b * center_y, d, e, half - d * center_x - e * center_y),
        resample=Image.Resampling.BILINEAR,
    )
    picture = Image.new("RGB", (size, size), style.background)
    picture.paste(moved, mask=moved)
    return picture


def _finish(picture: PILImage, style: Style) -> np.ndarray:
    if style.num_levels is not None:
        picture = picture.point(_steps(style.num_levels) * 3)
    if style.outline > 0:
        picture = Image.blend(picture, picture.filter(ImageFilter.CONTOUR), style.outline)
    if style.blur > 0:
        picture = picture.filter(ImageFilter.BoxBlur(style.blur))
    if style.colors is not None:
        # a linear map; the background takes part in it, as under coloured light
        picture = picture.convert("RGB", style.colors)
    return np.array(picture)


@lru_cache(maxsize=16)
def _steps(num_levels: int) -> list[int]:
    top = num_levels - 1
    return [round(round(value / 255 * top) * 255 / top) for value in range(256)]


def _color_matrix(
    *, hue: float, saturation: float, contrast: float, brightness: float
) -> tuple[float, ...]:
    """Rotate hue about the grey axis (radians), then scale distances from grey and mid-level."""
    cosine, sine = math.cos(hue), math.sin(hue)
    third, root = (1 - cosine) / 3, sine / math.sqrt(3)
    rotation = np.array(
        [
            [cosine + third, third - root, third + root],
            [third + root, cosine + third, third - root],
            [third - root, third + root, cosine + third],
        ],
        dtype=np.float32,
    )
    grey = np.tile(_LUMA, (3, 1))
    matrix = contrast * (grey + saturation * (np.eye(3, dtype=np.float32) - grey) @ rotation)
    offset = 127.5 * (1 - contrast) + 255 * brightness
    return tuple(float(value) for row in matrix for value in (*row, offset))


@lru_cache(maxsize=1)
def _helvetica_widths() -> dict[str, float]:
    """Advance of each Latin-1 character at size 1; asking the library for each line is slow."""
    import pymupdf

    font = pymupdf.Font("helv")
    return {chr(code): font.glyph_advance(code) for code in range(256)}


def _latin(text: str) -> str:
    return text.replace("\u2019", "'").encode("latin-1", "replace").decode("latin-1")
