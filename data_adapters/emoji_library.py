"""A folder that a person might have: pictures, films, documents and notes, all about emoji.

`mmembed demo --quickstart` shows it. Some things are in several files, drawn or described each
time, so that one question finds a picture, a scene, a page and a note.

    pictures/animals/IMG_0001.webp   one emoji on a coloured ground, 120 in all
    films/animals.mp4                scenes of four seconds, in each one emoji that moves
    documents/animals.pdf            a page for each emoji: heading, figure, words that can be read
    notes/animals.md                 a heading and some words for each emoji
"""

from __future__ import annotations

import colorsys
import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage

from data_adapters.emoji_drawing import ACTIONS, Style, draw_clip, draw_page, draw_picture
from data_adapters.emoji_source import Emoji, emoji_of_split, templates
from data_adapters.emoji_tasks import distinct_emoji, encode_mp4, join_pages
from mmembed.types import Page

__all__ = ["EmojiLibrary", "write_library"]

_GROUPS = {
    "animals": "Animals & Nature",
    "food": "Food & Drink",
    "travel": "Travel & Places",
    "objects": "Objects",
    "activities": "Activities",
    "faces": "Smileys & Emotion",
}
_FILMED = ("animals", "food", "travel")
_FPS = 10
_SCENE_SECONDS = 4
_PICTURE_SIDE = 224
_FILM_SIDE = 320
_OTHER_LANGUAGES = ("de", "es", "fr")
_FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("webp", {"quality": 85}),
    ("jpg", {"quality": 88}),
    ("png", {}),
)
_FIRST_DAY = datetime(2024, 1, 5, 12, tzinfo=UTC)


class EmojiLibrary(NamedTuple):
    """What was written.

    Attributes:
        content: what each file shows, by its path relative to the folder; pages and scenes are
            `documents/animals.pdf#2` and `films/animals.mp4#2`, counted from 1.
        examples: questions with an answer in the folder, for `all` kinds and for each.
    """

    content: dict[str, str]
    examples: dict[str, list[str]]


def write_library(
    folder: Path,
    *,
    pictures_per_group: int = 20,
    scenes_per_film: int = 6,
    pages_per_document: int = 5,
    split: str = "train",
    vendor: str = "noto",
    seed: int = 0,
) -> EmojiLibrary:
    """Write the library; the same arguments give the same bytes and dates.

    The default drawings are those that the quickstart trains on, in new colours and sizes: a model
    of ten minutes then finds most things.

    Raises:
        ImportError: PyAV or pymupdf is missing.
    """
    folder = Path(folder)
    usable = [one for one in distinct_emoji(emoji_of_split(split), vendor) if "en" in one.keywords]
    content: dict[str, str] = {}
    examples: dict[str, list[str]] = {kind: [] for kind in ("all", "image", "video", "pdf", "text")}
    numbers = itertools.count(1)
    for name, group in _GROUPS.items():
        rng = Random(f"mmembed emoji library/{seed}/{name}")
        chosen = _of_group(usable, group, pictures_per_group, rng)
        for one in chosen:
            number = next(numbers)
            suffix, options = _FORMATS[number % len(_FORMATS)]
            path = folder / "pictures" / name / f"IMG_{number:04d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw_picture(vendor, one.id, _ground(rng.random(), scale=0.8), _PICTURE_SIDE)
            PILImage.fromarray(pixels).save(path, **options)
            content[_key(path, folder)] = one.names["en"]
        scenes, paged = [], []
        if name in _FILMED:
            scenes, paged = chosen[:scenes_per_film], chosen[1 : 1 + pages_per_document]
            film = folder / "films" / f"{name}.mp4"
            content |= _write_film(film, scenes, vendor, folder)
            document = folder / "documents" / f"{name}.pdf"
            content |= _write_document(document, paged, vendor, folder)
        content |= _write_notes(folder / "notes" / f"{name}.md", name, chosen[:4], folder)
        _add_examples(examples, chosen, scenes, paged)
    for number, name in enumerate(sorted({name.partition("#")[0] for name in content})):
        day = (_FIRST_DAY + timedelta(days=4 * number)).timestamp()
        os.utime(folder / name, (day, day))
    return EmojiLibrary(content, examples)


def _of_group(emoji: Sequence[Emoji], group: str, number: int, rng: Random) -> list[Emoji]:
    """Some of a group, no two of a family."""
    families: dict[str, Emoji] = {}
    for one in emoji:
        if one.group == group:
            families.setdefault(one.family, one)
    found = list(families.values())
    return rng.sample(found, min(number, len(found)))


def _ground(hue: float, *, scale: float) -> Style:
    """On a light colour."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.3, 0.97)
    return Style(background=(int(red * 255), int(green * 255), int(blue * 255)), scale=scale)


def _write_film(path: Path, scenes: Sequence[Emoji], vendor: str, folder: Path) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = [
        # scenes that follow each other differ in their ground, so that their cut can be seen
        (one, ACTIONS[number % len(ACTIONS)], _ground(0.38 * number, scale=1.0))
        for number, one in enumerate(scenes)
    ]

    def frames() -> Iterator[np.ndarray]:
        for one, action, style in plan:
            yield from draw_clip(
                vendor,
                (one.id,),
                action,
                num_frames=_FPS * _SCENE_SECONDS,
                style=style,
                size=_FILM_SIDE,
            )

    path.write_bytes(encode_mp4(frames(), fps=_FPS, quality=24))
    return {
        f"{_key(path, folder)}#{number}": _action_caption(one, action)
        for number, (one, action, _) in enumerate(plan, start=1)
    }


def _write_document(
    path: Path, chosen: Sequence[Emoji], vendor: str, folder: Path
) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [
        draw_page(one.names["en"], _lines(one), draw_picture(vendor, one.id, size=192), layout=1)
        for one in chosen
    ]
    path.write_bytes(join_pages([Page(page) for page in pages]))
    return {
        f"{_key(path, folder)}#{number}": one.names["en"]
        for number, one in enumerate(chosen, start=1)
    }


def _write_notes(path: Path, title: str, chosen: Sequence[Emoji], folder: Path) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    passages = [f"## {one.names['en']}\n\n{', '.join(one.keywords['en'])}." for one in chosen]
    path.write_text("\n\n".join([f"# {title}", *passages]) + "\n", encoding="utf-8")
    return {_key(path, folder): ", ".join(one.names["en"] for one in chosen)}


def _lines(one: Emoji) -> list[str]:
    """Keywords, then the name in other languages."""
    words = one.keywords["en"]
    names = [one.names[language] for language in _OTHER_LANGUAGES if language in one.names]
    return [", ".join(words[start : start + 3]) for start in range(0, len(words), 3)][:3] + names


def _add_examples(
    examples: dict[str, list[str]],
    chosen: Sequence[Emoji],
    scenes: Sequence[Emoji],
    paged: Sequence[Emoji],
) -> None:
    # the second is in a picture, a note and, where there are such, a scene and a page
    examples["all"].append(chosen[1].names["en"])
    if not scenes and "de" in chosen[0].names:
        examples["all"].append(chosen[0].names["de"])
    examples["image"].append(chosen[-1].names["en"])
    examples["text"].append(", ".join(chosen[2].keywords["en"][:3]))
    for number in (0, len(scenes) - 1) if scenes else ():
        caption = _action_caption(scenes[number], ACTIONS[number % len(ACTIONS)])
        examples["video"].append(caption)
    frame: str = templates()["en"]["page"][0]
    examples["pdf"] += [frame.format(name=one.names["en"]) for one in paged[:2]]


def _action_caption(one: Emoji, action: str) -> str:
    return str(templates()["en"][action]).format(name=one.names["en"])


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
