"""Rows of chat messages: those of ms-swift for embedding models, and plain conversations.

Layout of ms-swift: modelscope/ms-swift, docs/source_en/BestPractices/Embedding.md, "Dataset
Format". `messages` is the query, `positive_messages` and `negative_messages` are lists of
conversations; each has media of its own (`images`, `positive_images`, ...), one list for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.formats.conversations import Conversation, Media
from data_adapters.formats.rows import FormatRows, number_of
from mmembed.errors import InputError
from mmembed.types import ContrastiveExample, MultimodalInput, Task

__all__ = ["Chat", "Swift"]

_SWIFT = (
    "positive_messages",
    "negative_messages",
    "rejected_messages",
    "rejected_response",
)


class _Messages(FormatRows):
    def media(self, row: Mapping[str, Any], prefix: str = "") -> Media:
        if row.get(f"{prefix}audios") or row.get(f"{prefix}audio"):
            raise InputError("unsupported_format", f"{prefix}audios: sound is not supported")
        images = row.get(f"{prefix}images")
        videos = row.get(f"{prefix}videos")
        images = row.get(f"{prefix}image") if images is None else images
        videos = row.get(f"{prefix}video") if videos is None else videos
        return Media(images, videos, self.media_root)


class Swift(_Messages):
    """Every positive is kept, where ms-swift trains on the first one only.

    A pair with a `label` has it under `scores` and is an `sts` row. Without `positive_messages`
    the answer in `messages` is the positive; `rejected_messages` and `rejected_response` are hard
    negatives. The older `query`, `response`, `rejected_response` are read, too.
    """

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        older = {"query", "response", "rejected_response"} <= set(columns)
        return older or ("messages" in columns and not set(columns).isdisjoint(_SWIFT))

    def task_of(self, row: Mapping[str, Any]) -> Task:
        return "retrieval" if row.get("label") is None else "sts"

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        negatives: tuple[MultimodalInput, ...]
        if row.get("positive_messages") is not None:
            query = self._item(row["messages"], self.media(row), "messages")
            positives = self._several(row, "positive")
            negatives = self._several(row, "negative")
        else:
            query, positives, negatives = self._answered(row)
        if not positives:
            raise InputError("empty", f"no positive_messages; found {', '.join(row)}")
        label = row.get("label")
        if label is not None and (len(positives) > 1 or negatives):
            raise InputError("invalid_type", "a label, but not one pair: it grades one positive")
        scores = None if label is None else (number_of(label, "label"),)
        self.check_task(row, "label")
        return ContrastiveExample(
            query=query,
            positives=positives,
            hard_negatives=negatives,
            task=self.task,
            scores=scores,
        )

    def _several(self, row: Mapping[str, Any], side: str) -> tuple[MultimodalInput, ...]:
        name = f"{side}_messages"
        value = row.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise InputError("invalid_type", f"{name}: found {shortened(value)}; expected a list")
        several = [value] if value and isinstance(value[0], Mapping) else value
        media = {
            kind: _for_each(row.get(f"{side}_{kind}"), len(several), f"{side}_{kind}")
            for kind in ("images", "videos", "audios")
        }
        return tuple(
            self._item(
                messages,
                self.media({kind: lists[number] for kind, lists in media.items()}),
                f"{name}[{number}]",
            )
            for number, messages in enumerate(several)
        )

    def _answered(
        self, row: Mapping[str, Any]
    ) -> tuple[MultimodalInput, tuple[MultimodalInput, ...], tuple[MultimodalInput, ...]]:
        """The answer is the positive; what was rejected are negatives."""
        rejected = row.get("rejected_response")
        rejected = [rejected] if isinstance(rejected, str) else rejected or []
        if not isinstance(rejected, list) or not all(isinstance(each, str) for each in rejected):
            raise InputError(
                "invalid_type",
                f"rejected_response: found {shortened(rejected)}; expected a text or a list",
            )
        messages = row.get("messages")
        if messages is None:
            system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
            messages = [
                *system,
                {"role": "user", "content": row.get("query")},
                {"role": "assistant", "content": row.get("response")},
            ]
        answers = [{"role": "assistant", "content": each} for each in rejected]
        media = self.media(row)  # placeholders of what was rejected take what is left
        conversation = self._conversation([*messages, *answers], media, "messages")
        answered = len(conversation.turns) - len(answers)
        told = Conversation(conversation.instruction, conversation.turns[:answered])
        query, positive = told.before_answer(None)
        negatives = [Conversation(None, (turn,)).item() for turn in conversation.turns[answered:]]
        if row.get("rejected_messages") is not None:
            has_own = row.get("rejected_images") is not None or row.get("rejected_videos")
            media = self.media(row, "rejected_") if has_own else self.media(row)
            other = self._conversation(row["rejected_messages"], media, "rejected_messages")
            negatives.append(other.last_answer())
        return query, (positive,), (*negatives, *self._several(row, "negative"))

    def _item(self, messages: Any, media: Media, name: str) -> MultimodalInput:
        return self._conversation(messages, media, name).item()

    def _conversation(self, messages: Any, media: Media, name: str) -> Conversation:
        try:
            return Conversation.of(messages, media)
        except InputError as error:
            raise InputError(error.code, f"{name}: {error.detail}", part=error.part) from None


def _for_each(value: Any, count: int, name: str) -> list[Any]:
    """A list of media for each of `count` conversations."""
    if value is None:
        return [None] * count
    if isinstance(value, list) and count == 1 and not any(isinstance(v, list) for v in value):
        return [value]
    if not isinstance(value, list) or len(value) != count:
        raise InputError(
            "invalid_type", f"{name}: found {shortened(value)}; expected {count} lists, one each"
        )
    return value


class Chat(_Messages):
    """Conversations: what the user says is the query, the answer is the positive.

    `messages` with `role` and `content` (texts, or lists of parts as in chat completions), or
    `conversations` with `from` and `value`. Media may also stand beside them, under `images`,
    `image`, `videos` or `video`. Columns `positives` and `negatives`, or one of each, take the
    place of an answer.

    Args:
        turn: which answer, from 0, where conversations have several.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        turn: int | None = None,
        task: Task | None = None,
        media_root: str | Path | None = None,
        name: str | None = None,
        split: str = "train",
    ) -> None:
        super().__init__(path, task=task, media_root=media_root, name=name, split=split)
        self._turn = turn

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        messages = "messages" in columns or "conversations" in columns
        return messages and not Swift.matches(columns, row)

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        messages = row.get("messages")
        messages = row.get("conversations") if messages is None else messages
        conversation = Conversation.of(messages, self.media(row))
        positives = self._items(row, "positive")
        if positives:
            query = conversation.item()
        else:
            query, answer = conversation.before_answer(self._turn)
            positives = (answer,)
        return ContrastiveExample(
            query=query,
            positives=positives,
            hard_negatives=self._items(row, "negative"),
            task=self.task,
            query_id="" if row.get("id") is None else str(row["id"]),
        )

    def _items(self, row: Mapping[str, Any], side: str) -> tuple[MultimodalInput, ...]:
        """Of the column `positive`, `positives`, ...: one item or a list of them."""
        name = f"{side}s" if row.get(f"{side}s") is not None else side
        value = row.get(name)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        return tuple(self.item(each, f"{name}[{n}]") for n, each in enumerate(values))
