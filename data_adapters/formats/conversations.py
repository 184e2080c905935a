"""Messages to items: placeholders take the media of their conversation in order.

`<image>` and `<video>` in a text stand for the next picture and clip. Media without a placeholder
come before the first message, videos first, as ms-swift adds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from data_adapters.cells import shortened
from data_adapters.formats.rows import item_of, media_part
from mmembed.errors import InputError
from mmembed.types import MultimodalInput, Part, Text

__all__ = ["Conversation", "Media", "Turn"]

_Kind = Literal["image", "video"]
_TAG = re.compile(r"<(image|video|audio)>")
_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Turn:
    role: str
    parts: tuple[Part, ...]


class Media:
    """Pictures and clips that placeholders take, each once."""

    def __init__(self, images: Any, videos: Any, root: Path) -> None:
        self.root = root
        self._waiting: dict[str, list[Any]] = {
            "image": _listed(images, "images"),
            "video": _listed(videos, "videos"),
        }

    def next(self, kind: str) -> Part:
        if kind == "audio":
            raise InputError("unsupported_format", "sound is not supported")
        waiting = self._waiting[kind]
        if not waiting:
            raise InputError("empty", f"more <{kind}> than {kind}s", part=cast(_Kind, kind))
        return media_part(cast(_Kind, kind), waiting.pop(0), self.root)

    def without_place(self, num_tags: Mapping[str, int]) -> list[Part]:
        """The media that no placeholder is left for."""
        early: list[Part] = []
        for kind in ("video", "image"):
            while len(self._waiting[kind]) > num_tags[kind]:
                early.append(self.next(kind))
        return early


@dataclass(frozen=True)
class Conversation:
    """Turns without the system's, whose text is the instruction."""

    instruction: str | None
    turns: tuple[Turn, ...]

    @classmethod
    def of(cls, messages: Any, media: Media) -> Conversation:
        """Of `[{role, content}]`, or `[{from, value}]`; a text alone is one of the user.

        Raises:
            InputError: something else, or placeholders and media that do not fit.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not messages:
            raise InputError("invalid_type", f"found {shortened(messages)}; expected messages")
        spoken = [_role_and_content(message) for message in messages]
        system = [content for role, content in spoken if role == "system"]
        if not all(isinstance(content, str) for content in system):
            raise InputError("invalid_type", "a system message may only hold text")
        others = [(role, content) for role, content in spoken if role != "system"]
        counts = {kind: 0 for kind in ("image", "video", "audio")}
        for _, content in others:
            for kind in _tags(content):
                counts[kind] += 1
        early = media.without_place(counts)
        turns: list[Turn] = []
        for role, content in others:
            turns.append(Turn(role, (*early, *_parts(content, media))))
            early = []
        return cls("\n".join(text for text in system if text) or None, tuple(turns))

    def item(self) -> MultimodalInput:
        """All turns as one item."""
        return self._item(self.turns)

    def before_answer(self, turn: int | None) -> tuple[MultimodalInput, MultimodalInput]:
        """What the user says and the answer of the assistant.

        Args:
            turn: which answer, from 0, where there are several; what comes before is left out.
        """
        answers = [n for n, each in enumerate(self.turns) if each.role == "assistant"]
        if not answers:
            raise InputError("empty", "no message of the assistant, and no positive")
        if turn is None and len(answers) > 1:
            raise InputError(
                "invalid_type", f"{len(answers)} answers; choose one with turn=0, turn=1, ..."
            )
        if turn is not None and turn >= len(answers):
            raise InputError("empty", f"turn {turn} of {len(answers)}")
        answer = answers[turn or 0]
        begin = max((n for n in answers if n < answer), default=-1) + 1
        asked = self._item(self.turns[begin:answer])
        return asked, MultimodalInput(_some(self.turns[answer].parts))

    def last_answer(self) -> MultimodalInput:
        answers = [turn for turn in self.turns if turn.role == "assistant"]
        if not answers:
            raise InputError("empty", "no message of the assistant")
        return MultimodalInput(_some(answers[-1].parts))

    def _item(self, turns: Sequence[Turn]) -> MultimodalInput:
        parts = tuple(part for turn in turns for part in turn.parts)
        return MultimodalInput(_some(parts), self.instruction)


def _some(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if not parts:
        raise InputError("empty", "messages without content")
    return parts


def _role_and_content(message: Any) -> tuple[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError("invalid_type", f"found {shortened(message)}; expected a message")
    role = message.get("role") or message.get("from")
    content = message["content"] if "content" in message else message.get("value")
    role = _ROLES.get(str(role), role)
    if role not in ("system", "user", "assistant"):
        raise InputError(
            "invalid_type", f"role {role!r}; roles are system, user and assistant (human, gpt)"
        )
    if not isinstance(content, str | list):
        raise InputError("empty", f"a message of the {role} with {shortened(content)} as content")
    return str(role), content


def _tags(content: Any) -> list[str]:
    if isinstance(content, str):
        return _TAG.findall(content)
    tags: list[str] = []
    for entry in content:
        kind = _asked_kind(entry)
        tags += [kind] if kind else []
    return tags


def _asked_kind(entry: Any) -> str | None:
    """The kind of `{"type": "image"}`, which takes the next one."""
    if isinstance(entry, Mapping) and entry.get("type") in ("image", "video"):
        kind = str(entry["type"])
        return kind if entry.get(kind) is None else None
    return None


def _parts(content: Any, media: Media) -> list[Part]:
    if isinstance(content, list):
        parts: list[Part] = []
        for entry in content:
            kind = _asked_kind(entry)
            found = (media.next(kind),) if kind else item_of([entry], media.root).parts
            parts += found
        return parts
    pieces = _TAG.split(content)
    if len(pieces) == 1:
        return [Text(content)] if content.strip() else []
    parts = []
    for number, piece in enumerate(pieces):  # text and names of tags take turns
        if number % 2:
            parts.append(media.next(piece))
        elif piece.strip():
            parts.append(Text(piece.strip()))
    return parts


def _listed(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str | bytes | Mapping):
        return [value]
    if not isinstance(value, list):
        raise InputError("invalid_type", f"{name}: found {shortened(value)}; expected a list")
    return list(value)
