"""Training rows from the bundled emoji: texts, pictures, clips and pages of the same things.

Every adapter is a sequence of `ContrastiveExample`s whose rows are drawn when they are asked for:
row `index` depends on the adapter's arguments and on `index`, on nothing else. An adapter has
`views` rows for each emoji, all different (other language, other caption, other style of drawing),
so one pass over `views=20` is twenty epochs of fresh augmentation without any state. Consecutive
rows are different emoji: rows i and j show the same one only if i = j modulo the number of emoji.

Document ids name content: the code points for a picture, a page or a text of an emoji, and the
code points with the action for a clip. Emoji that look alike share an id, so that
no row is ever told that a picture of the Norwegian flag is not one of the Norwegian flag.

    data_adapters.emoji:EmojiNames       name -> name in another language, or keywords
    data_adapters.emoji:EmojiCaptions    caption -> picture, or picture -> caption
    data_adapters.emoji:EmojiPictures    picture -> the same emoji drawn otherwise
    data_adapters.emoji:EmojiClips       caption -> frames ("a dog moving left")
    data_adapters.emoji:EmojiPages       caption -> PDF page with a figure, heading and text
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from data_adapters.emoji_drawing import (
    ACTIONS,
    Style,
    draw_clip,
    draw_picture,
    page_of,
    random_style,
)
from data_adapters.emoji_source import (
    LANGUAGES,
    LICENSE,
    REVISION,
    VENDORS,
    Emoji,
    emoji_of_split,
    picture_twins,
    templates,
)
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Task, Text, Video

__all__ = [
    "EmojiCaptions",
    "EmojiClips",
    "EmojiNames",
    "EmojiPages",
    "EmojiPictures",
]


class _EmojiRows(ABC):
    """What the adapters share: which emoji, in which languages, by which vendors, how often."""

    task: Task = "retrieval"
    revision = REVISION
    license = LICENSE
    citation = (
        "Noto Emoji (Google LLC), Twemoji (Twitter, Inc. and other contributors), "
        "Unicode CLDR 48.2 (Unicode, Inc.), emoji-data (Cal Henderson)"
    )
    name = "emoji"

    def __init__(
        self,
        *,
        split: str = "train",
        vendors: Sequence[str] = ("noto",),
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        augment: float = 1.0,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        self.vendors = _known("vendors", vendors, VENDORS)
        self.languages = _known("languages", languages, LANGUAGES)
        if views < 1:
            raise ValueError(f"views is {views}; it must be at least 1")
        if not 0 <= augment <= 1:
            raise ValueError(f"augment is {augment}; it must be between 0 (off) and 1")
        self.split = split
        self.views = views
        self.augment = float(augment)
        self.size = size
        self.seed = seed
        self.emoji = tuple(emoji for emoji in emoji_of_split(split) if self._is_usable(emoji))

    def __len__(self) -> int:
        return len(self.emoji) * self.views

    def __getitem__(self, index: int) -> ContrastiveExample:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        emoji = self.emoji[index % len(self.emoji)]
        return self._row(emoji, self._random(index), f"{self.name}/{index}")

    def _random(self, index: int) -> Random:
        # from text, as integers would be mixed by arithmetic that repeats rows under other seeds
        return Random(f"{self.name}/{self.seed}/{index}")

    def document_ids(self, index: int) -> tuple[str, ...]:
        """The `positive_ids` of a row without drawing it; batches are planned with them."""
        return (self._content_id(self.emoji[index % len(self.emoji)]),)

    def _is_usable(self, emoji: Emoji) -> bool:
        return any(language in emoji.names for language in self.languages)

    @abstractmethod
    def _row(self, emoji: Emoji, rng: Random, query_id: str) -> ContrastiveExample: ...

    def _vendor(self, rng: Random) -> str:
        return rng.choice(self.vendors)

    def _style(self, rng: Random) -> Style:
        return random_style(rng, self.augment)

    def _content_id(self, emoji: Emoji) -> str:
        return min(picture_twins(self.vendors[0])[emoji.id])

    def _language(self, emoji: Emoji, rng: Random) -> str:
        return rng.choice([language for language in self.languages if language in emoji.names])

    def _caption(self, emoji: Emoji, rng: Random, frames: str) -> str:
        """The name in a sentence frame, or some of the keywords."""
        language = self._language(emoji, rng)
        keywords = emoji.keywords.get(language, ())
        if len(keywords) > 1 and rng.random() < 0.3:
            return ", ".join(rng.sample(keywords, min(len(keywords), rng.randint(2, 4))))
        frame: str = rng.choice(templates()[language][frames])
        return frame.format(name=emoji.names[language])

    def _picture(self, emoji: Emoji, rng: Random, vendor: str | None = None) -> MultimodalInput:
        vendor = vendor or self._vendor(rng)
        if self.augment == 0:
            return MultimodalInput((Image(emoji.pictures[vendor]),))
        pixels = draw_picture(vendor, emoji.id, self._style(rng), self.size)
        return MultimodalInput((Image(pixels),))


class EmojiNames(_EmojiRows):
    """Text to text: a name, to the name in another language or to keywords of any language.

    Emoji of which the data have one name and no keywords (flags, families) are left out. With one
    language, only name to keywords remains.
    """

    name = "emoji/names"

    def _is_usable(self, emoji: Emoji) -> bool:
        named = sum(language in emoji.names for language in self.languages)
        return named > 1 or any(language in emoji.keywords for language in self.languages)

    def _row(self, emoji: Emoji, rng: Random, query_id: str) -> ContrastiveExample:
        source = self._language(emoji, rng)
        others = [
            emoji.names[language]
            for language in self.languages
            if language != source and language in emoji.names
        ]
        with_keywords = [language for language in self.languages if language in emoji.keywords]
        if not others or (with_keywords and rng.random() < 0.4):
            keywords = emoji.keywords[rng.choice(with_keywords)]
            document = ", ".join(rng.sample(keywords, min(len(keywords), 5)))
        else:
            document = rng.choice(others)
        query = emoji.names[source]
        if rng.random() < 0.5:
            query, document = document, query
        return ContrastiveExample(
            query=MultimodalInput((Text(query),)),
            positives=(MultimodalInput((Text(document),)),),
            query_id=query_id,
            positive_ids=(self._content_id(emoji),),
        )


class EmojiCaptions(_EmojiRows):
    """A caption and a picture of the same emoji, in either direction.

    With `augment` 0 pictures are the bundled WebP files, else uint8 arrays of `size` pixels.
    """

    def __init__(
        self,
        *,
        direction: Literal["text_to_image", "image_to_text"] = "text_to_image",
        split: str = "train",
        vendors: Sequence[str] = ("noto",),
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        augment: float = 1.0,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        if direction not in ("text_to_image", "image_to_text"):
            raise ValueError(
                f"direction is {direction!r}; it must be text_to_image or image_to_text"
            )
        self.direction = direction
        self.name = f"emoji/{direction}"
        super().__init__(
            split=split,
            vendors=vendors,
            languages=languages,
            views=views,
            augment=augment,
            size=size,
            seed=seed,
        )

    def _row(self, emoji: Emoji, rng: Random, query_id: str) -> ContrastiveExample:
        caption = MultimodalInput((Text(self._caption(emoji, rng, "picture")),))
        picture = self._picture(emoji, rng)
        to_image = self.direction == "text_to_image"
        return ContrastiveExample(
            query=caption if to_image else picture,
            positives=(picture if to_image else caption,),
            query_id=query_id,
            positive_ids=(self._content_id(emoji),),
        )


class EmojiPictures(_EmojiRows):
    """Image to image: two drawings of one emoji, by two vendors if two are given."""

    name = "emoji/pictures"

    def _row(self, emoji: Emoji, rng: Random, query_id: str) -> ContrastiveExample:
        vendors = rng.sample(self.vendors, min(2, len(self.vendors)))
        return ContrastiveExample(
            query=self._picture(emoji, rng, vendors[0]),
            positives=(self._picture(emoji, rng, vendors[-1]),),
            query_id=query_id,
            positive_ids=(self._content_id(emoji),),
        )


class EmojiClips(_EmojiRows):
    """A caption to a clip: one emoji moving, growing or shrinking, or two in order.

    Frames are uint8 arrays. The hard negatives of a row differ from its positive in the motion or
    the order only: without them a batch of different emoji never asks what happens in the clip.
    """

    name = "emoji/clips"

    def __init__(
        self,
        *,
        num_frames: int = 8,
        num_hard_negatives: int = 1,
        split: str = "train",
        vendors: Sequence[str] = ("noto",),
        languages: Sequence[str] = LANGUAGES,
        views: int = 1,
        augment: float = 1.0,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        if not 0 <= num_hard_negatives < len(ACTIONS):
            raise ValueError(
                f"num_hard_negatives is {num_hard_negatives}; it must be between 0 and "
                f"{len(ACTIONS) - 1}"
            )
        self.num_frames = num_frames
        self.num_hard_negatives = num_hard_negatives
        super().__init__(
            split=split,
            vendors=vendors,
            languages=languages,
            views=views,
            augment=augment,
            size=size,
            seed=seed,
        )

    def _row(self, emoji: Emoji, rng: Random, query_id: str) -> ContrastiveExample:
        plan = self._plan(emoji, rng)
        clips = [
            MultimodalInput(
                (
                    Video(
                        draw_clip(
                            plan.vendor,
                            emoji_ids,
                            action,
                            num_frames=self.num_frames,
                            style=plan.style,
                            size=self.size,
                        ),
                        num_frames=self.num_frames,
                    ),
                )
            )
            for emoji_ids, action in plan.clips
        ]
        return ContrastiveExample(
            query=MultimodalInput((Text(plan.caption),)),
            positives=(clips[0],),
            hard_negatives=tuple(clips[1:]),
            query_id=query_id,
            positive_ids=(plan.document_id,),
        )

    def document_ids(self, index: int) -> tuple[str, ...]:
        return (self._plan(self.emoji[index % len(self.emoji)], self._random(index)).document_id,)

    def _plan(self, emoji: Emoji, rng: Random) -> _ClipPlan:
        language = self._language(emoji, rng)
        frames = templates()[language]
        vendor, style = self._vendor(rng), self._style(rng)
        other = rng.choice(self.emoji)
        if rng.random() < 0.3 and other is not emoji and language in other.names:
            caption = frames["sequence"].format(
                first=emoji.names[language], second=other.names[language]
            )
            document_id = f"{self._content_id(emoji)}>{self._content_id(other)}"
            pair: tuple[str, ...] = (emoji.id, other.id)
            clips = [(pair, "sequence"), (pair[::-1], "sequence")]
        else:
            action = rng.choice(ACTIONS)
            caption = frames[action].format(name=emoji.names[language])
            siblings = rng.sample([name for name in ACTIONS if name != action], len(ACTIONS) - 1)
            document_id = f"{self._content_id(emoji)}/{action}"
            clips = [((emoji.id,), name) for name in (action, *siblings)]
        kept = tuple(clips[: 1 + self.num_hard_negatives])
        return _ClipPlan(caption, vendor, style, kept, document_id)


@dataclass(frozen=True)
class _ClipPlan:
    """What a row will show; `clips` are the positive, then its hard negatives."""

    caption: str
    vendor: str
    style: Style
    clips: tuple[tuple[tuple[str, ...], str], ...]
    document_id: str


class EmojiPages(_EmojiRows):
    """A caption to a one-page PDF: figure, heading, and keywords in several languages.

    Captions are in any of `languages`; pages are set in `PAGE_LANGUAGES`. The text of a page is in
    other words or languages than its caption more often than not.
    """

    name = "emoji/pages"

    def _row(self, emoji: Emoji, rng: Random, query_id: str) -> ContrastiveExample:
        page = page_of(
            emoji, self._vendor(rng), rng, style=self._style(rng), languages=self.languages
        )
        return ContrastiveExample(
            query=MultimodalInput((Text(self._caption(emoji, rng, "page")),)),
            positives=(MultimodalInput((page,)),),
            query_id=query_id,
            positive_ids=(self._content_id(emoji),),
        )


def _known(name: str, values: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        values = (values,)
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        found = ", ".join(map(repr, unknown)) if unknown else "empty"
        raise ValueError(f"{name}: {found}; choose from: {', '.join(known)}")
    return tuple(dict.fromkeys(values))
