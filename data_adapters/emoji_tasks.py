"""Retrieval tests on the bundled emoji, and a folder of real files to index.

Each builder returns a `RetrievalTask` whose corpus size, and with it chance, is fixed by its
arguments: `chance = k / len(task.corpus)` for recall at k with one relevant document. A document
is relevant if it shows the same content, not only if it has the same id: emoji that share their
picture or their name in the query's language answer each other's queries.

`vendor` is the drawing style of the corpus. A model trained on `noto` only has never seen a
`twemoji` picture, so `split="train", vendor="twemoji"` asks for known things in an unknown style
and `split="held_out"` for unknown things in an unknown style.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from data_adapters.emoji_drawing import (
    ACTIONS,
    PAGE_LANGUAGES,
    PLAIN,
    draw_clip,
    draw_picture,
    page_of,
)
from data_adapters.emoji_source import Emoji, emoji_of_split, load_emoji, picture_twins, templates
from mmembed.tasks import RetrievalTask
from mmembed.types import Image, MultimodalInput, Page, Text, Video

__all__ = [
    "MODALITIES",
    "cross_lingual",
    "distinct_emoji",
    "encode_mp4",
    "image_to_image",
    "items_by_modality",
    "join_pages",
    "modality_grid",
    "text_to_image",
    "text_to_page",
    "text_to_video",
    "write_mixed_folder",
]

MODALITIES = ("text", "image", "video", "page")
_EVALUATION_SEED = "mmembed emoji evaluation"


def text_to_image(
    *,
    split: str = "train",
    vendor: str = "twemoji",
    language: str = "en",
    corpus: Literal["all", "split"] = "all",
    num_queries: int | None = None,
) -> RetrievalTask:
    """Names to pictures. The corpus is every emoji (1,911), or those of the split only."""
    asked = _sample(_named(emoji_of_split(split), language), num_queries)
    searched = load_emoji() if corpus == "all" else emoji_of_split(split)
    same_name = _by_name(searched, language)
    twins = picture_twins(vendor)
    ids = {emoji.id for emoji in searched}
    return RetrievalTask(
        name=f"emoji text->image, {split}, {vendor}, {language}, corpus {len(searched)}",
        queries={emoji.id: _text(emoji.names[language]) for emoji in asked},
        corpus={emoji.id: _image(emoji, vendor) for emoji in searched},
        relevant={
            emoji.id: _relevant(same_name[emoji.names[language]], twins, ids) for emoji in asked
        },
    )


def image_to_image(
    *,
    split: str = "train",
    vendors: tuple[str, str] = ("noto", "twemoji"),
    corpus: Literal["all", "split"] = "all",
    num_queries: int | None = None,
) -> RetrievalTask:
    """A picture by the first vendor to the picture of the same emoji by the second."""
    asked = _sample(emoji_of_split(split), num_queries)
    searched = load_emoji() if corpus == "all" else emoji_of_split(split)
    query_twins, twins = picture_twins(vendors[0]), picture_twins(vendors[1])
    ids = {emoji.id for emoji in searched}
    return RetrievalTask(
        name=f"emoji image->image, {split}, {vendors[0]}->{vendors[1]}, corpus {len(searched)}",
        queries={emoji.id: _image(emoji, vendors[0]) for emoji in asked},
        corpus={emoji.id: _image(emoji, vendors[1]) for emoji in searched},
        relevant={emoji.id: _relevant(query_twins[emoji.id], twins, ids) for emoji in asked},
    )


def cross_lingual(
    *,
    query_language: str = "de",
    language: str = "en",
    split: str = "train",
    num_queries: int | None = None,
) -> RetrievalTask:
    """Names in one language to names in another; the corpus is every emoji that has both."""
    searched = _named(_named(load_emoji(), language), query_language)
    chosen = {emoji.id for emoji in emoji_of_split(split)}
    asked = _sample([emoji for emoji in searched if emoji.id in chosen], num_queries)
    query_names, names = _by_name(searched, query_language), _by_name(searched, language)
    by_id = {emoji.id: emoji for emoji in searched}
    relevant = {
        emoji.id: {
            name: 1.0
            for twin in query_names[emoji.names[query_language]]
            for name in names[by_id[twin].names[language]]
        }
        for emoji in asked
    }
    return RetrievalTask(
        name=f"emoji text->text, {query_language}->{language}, {split}, corpus {len(searched)}",
        queries={emoji.id: _text(emoji.names[query_language]) for emoji in asked},
        corpus={emoji.id: _text(emoji.names[language]) for emoji in searched},
        relevant=relevant,
    )


def text_to_video(
    *,
    split: str = "train",
    vendor: str = "twemoji",
    language: str = "en",
    num_emoji: int = 50,
    num_frames: int = 8,
    size: int = 64,
) -> RetrievalTask:
    """Captions to clips: six motions of each of `num_emoji` emoji, and as many ordered pairs.

    The corpus holds every motion of every emoji and every pair in both orders, that is
    8 * `num_emoji` clips, so that a model which only names the emoji finds the right clip no more
    often than once in six.
    """
    chosen = _sample(distinct_emoji(_named(emoji_of_split(split), language), vendor), num_emoji)
    frames = templates()[language]
    queries: dict[str, MultimodalInput] = {}
    corpus: dict[str, MultimodalInput] = {}

    def add(caption: str, emoji_ids: Sequence[str], action: str) -> None:
        document_id = f"{'>'.join(emoji_ids)}/{action}"
        queries[document_id] = _text(caption)
        drawn = draw_clip(vendor, emoji_ids, action, num_frames=num_frames, size=size)
        corpus[document_id] = MultimodalInput((Video(drawn, num_frames=num_frames),))

    for index, emoji in enumerate(chosen):
        name = emoji.names[language]
        for action in ACTIONS:
            add(frames[action].format(name=name), (emoji.id,), action)
        other = chosen[(index + 1) % len(chosen)]
        for first, second in ((emoji, other), (other, emoji)):
            caption = frames["sequence"].format(
                first=first.names[language], second=second.names[language]
            )
            add(caption, (first.id, second.id), "sequence")
    return RetrievalTask(
        name=f"emoji text->video, {split}, {vendor}, {language}, corpus {len(corpus)}",
        queries=queries,
        corpus=corpus,
        relevant={document_id: {document_id: 1.0} for document_id in corpus},
    )


def text_to_page(
    *,
    split: str = "train",
    vendor: str = "twemoji",
    language: str = "en",
    num_pages: int = 300,
) -> RetrievalTask:
    """`a page about NAME` to one-page PDFs; page texts are in six languages of Latin script."""
    chosen = _sample(distinct_emoji(_named(emoji_of_split(split), language), vendor), num_pages)
    frame: str = templates()[language]["page"][0]
    same_name = _by_name(chosen, language)
    return RetrievalTask(
        name=f"emoji text->page, {split}, {vendor}, {language}, corpus {len(chosen)}",
        queries={emoji.id: _text(frame.format(name=emoji.names[language])) for emoji in chosen},
        corpus={emoji.id: MultimodalInput((_page(emoji, vendor),)) for emoji in chosen},
        relevant={
            emoji.id: dict.fromkeys(same_name[emoji.names[language]], 1.0) for emoji in chosen
        },
    )


def items_by_modality(
    *,
    split: str = "train",
    vendor: str = "twemoji",
    language: str = "en",
    num_emoji: int = 100,
    num_frames: int = 8,
) -> dict[str, dict[str, MultimodalInput]]:
    """The same emoji as text, image, video and page: `{modality: {emoji id: item}}`.

    Each emoji has one clip, whose motion is fixed by its position, and its text says nothing of
    the motion. Emoji are chosen so that no two share a picture or a name.
    """
    chosen = _sample(distinct_emoji(_named(emoji_of_split(split), language), vendor), num_emoji)
    items: dict[str, dict[str, MultimodalInput]] = {modality: {} for modality in MODALITIES}
    for index, emoji in enumerate(chosen):
        clip = draw_clip(vendor, (emoji.id,), ACTIONS[index % len(ACTIONS)], num_frames=num_frames)
        items["text"][emoji.id] = _text(emoji.names[language])
        items["image"][emoji.id] = _image(emoji, vendor)
        items["video"][emoji.id] = MultimodalInput((Video(clip, num_frames=num_frames),))
        items["page"][emoji.id] = MultimodalInput((_page(emoji, vendor),))
    return items


def modality_grid(
    items: Mapping[str, Mapping[str, MultimodalInput]],
) -> dict[tuple[str, str], RetrievalTask]:
    """Every modality searched in every other one: `{(query modality, corpus modality): task}`.

    The items are shared between the tasks, so that each needs to be embedded once only.
    """
    return {
        (asked, searched): RetrievalTask(
            name=f"emoji {asked}->{searched}, corpus {len(items[searched])}",
            queries=items[asked],
            corpus=items[searched],
            relevant={name: {name: 1.0} for name in items[asked]},
        )
        for asked in items
        for searched in items
        if asked != searched
    }


def write_mixed_folder(
    folder: Path,
    *,
    num_emoji: int = 24,
    split: str = "train",
    vendor: str = "twemoji",
    seed: int = 0,
) -> dict[str, str]:
    """Write pictures, clips, PDF and text files as a person would have them in a folder.

    A quarter of the emoji each become PNG pictures, MP4 clips, three-page PDFs and
    Markdown notes. File names say nothing about the content.

    Returns:
        For each file, relative to `folder`, what it shows in English; pages are `name.pdf#2`.

    Raises:
        ImportError: PyAV or pymupdf is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(f"{_EVALUATION_SEED}/folder/{seed}")
    emoji = [one for one in distinct_emoji(emoji_of_split(split), vendor) if "en" in one.keywords]
    chosen = rng.sample(emoji, min(num_emoji, len(emoji)))
    frames = templates()["en"]
    content: dict[str, str] = {}
    for index, one in enumerate(chosen):
        name = one.names["en"]
        if index % 4 == 0:
            path = folder / f"picture_{index:03d}.png"
            PILImage.fromarray(draw_picture(vendor, one.id, PLAIN, 128)).save(path)
            content[path.name] = name
        elif index % 4 == 1:
            action = ACTIONS[index // 4 % len(ACTIONS)]
            clip = draw_clip(vendor, (one.id,), action, num_frames=16, size=128)
            path = folder / f"clip_{index:03d}.mp4"
            path.write_bytes(encode_mp4(clip))
            content[path.name] = str(frames[action]).format(name=name)
        elif index % 4 == 2:
            pages = [one, *rng.sample(emoji, 2)]
            path = folder / f"document_{index:03d}.pdf"
            path.write_bytes(join_pages([_page(entry, vendor) for entry in pages]))
            for number, entry in enumerate(pages, start=1):
                content[f"{path.name}#{number}"] = entry.names["en"]
        else:
            path = folder / f"note_{index:03d}.md"
            words = ", ".join(one.keywords["en"])
            path.write_text(f"# {name}\n\n{words}.\n", encoding="utf-8")
            content[path.name] = name
    return content


def _text(text: str) -> MultimodalInput:
    return MultimodalInput((Text(text),))


def _image(emoji: Emoji, vendor: str) -> MultimodalInput:
    return MultimodalInput((Image(emoji.pictures[vendor]),))


def _page(emoji: Emoji, vendor: str) -> Page:
    rng = Random(f"{_EVALUATION_SEED}/page/{emoji.id}")
    return page_of(emoji, vendor, rng, style=PLAIN, languages=PAGE_LANGUAGES)


def _named(emoji: Iterable[Emoji], language: str) -> list[Emoji]:
    if language not in templates():
        raise ValueError(f"language is {language!r}; choose from: {', '.join(templates())}")
    return [one for one in emoji if language in one.names]


def _sample(emoji: Sequence[Emoji], number: int | None) -> list[Emoji]:
    """A fixed random part, in the order of the table."""
    if number is None or number >= len(emoji):
        return list(emoji)
    chosen = Random(_EVALUATION_SEED).sample(range(len(emoji)), number)
    return [emoji[index] for index in sorted(chosen)]


def _by_name(emoji: Iterable[Emoji], language: str) -> Mapping[str, list[str]]:
    ids: dict[str, list[str]] = defaultdict(list)
    for one in emoji:
        if language in one.names:
            ids[one.names[language]].append(one.id)
    return ids


def _relevant(
    ids: Iterable[str], twins: Mapping[str, Sequence[str]], corpus: set[str]
) -> dict[str, float]:
    return {twin: 1.0 for name in ids for twin in twins[name] if twin in corpus}


def distinct_emoji(emoji: Iterable[Emoji], vendor: str) -> list[Emoji]:
    """Without emoji that look like an earlier one."""
    twins = picture_twins(vendor)
    return [one for one in emoji if twins[one.id][0] == one.id]


def encode_mp4(frames: Iterable[np.ndarray], *, fps: int = 8, quality: int = 18) -> bytes:
    """H.264 without B-frames.

    Args:
        quality: the constant rate factor of x264; higher is smaller and worse.

    Raises:
        ImportError: PyAV is missing.
    """
    try:
        import av
    except ImportError:
        raise ImportError(
            "PyAV is not installed. Install it with: pip install 'mmembed[video]'"
        ) from None
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": str(quality), "bf": "0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def join_pages(pages: Sequence[Page]) -> bytes:
    """One PDF of several."""
    import pymupdf

    with pymupdf.open() as document:
        for page in pages:
            with pymupdf.open(stream=page.source, filetype="pdf") as other:
                document.insert_pdf(other)
        return bytes(document.tobytes(no_new_id=True, deflate=True))
