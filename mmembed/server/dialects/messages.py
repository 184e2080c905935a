"""`messages` on `/v1/embeddings`, as vLLM takes them: one chat is one item.

The system message is the instruction. A last assistant message without text, with which clients
make other servers end the prompt where the vector is read, says nothing here: the model's own
template does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmembed.errors import InputError
from mmembed.server.dialects.call import Context
from mmembed.server.dialects.content import content_item
from mmembed.server.dialects.fields import refusal, shown
from mmembed.types import MultimodalInput

__all__ = ["chat_item"]


def chat_item(
    messages: Any, context: Context, *, instruction: str | None
) -> MultimodalInput | InputError:
    """
    Raises:
        RequestError: this is no chat that an embedding could read.
    """
    if not isinstance(messages, list) or not messages:
        raise refusal("messages", "expected a list of messages", code="invalid_type")
    systems: list[str] = []
    content: list[Any] = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, Mapping):
            raise refusal(where, f"expected an object, found {shown(message)}", code="invalid_type")
        unknown = [key for key in message if key not in ("role", "content", "name")]
        if unknown:
            raise refusal(where, f"unknown field {shown(unknown[0])}", code="unknown_parameter")
        role, body = message.get("role"), message.get("content")
        pieces = body if isinstance(body, list) else [body]
        if role == "system":
            systems.append(_plain_text(pieces, where))
        elif role == "user":
            if body is None or body == []:
                raise refusal(f"{where}.content", "the message has no content", code="empty")
            content.extend(pieces)
        elif role != "assistant" or at != len(messages) - 1 or _says_something(pieces):
            raise refusal(
                f"{where}.role",
                f"found {shown(role)}; an embedding reads system (as the instruction) and user; "
                "a last assistant message must be empty",
            )
    if systems and instruction is not None:
        raise refusal("instruction", "the chat has a system message too; give one of them")
    return content_item(
        content,
        context,
        where="messages",
        index=0,
        instruction="".join(systems) if systems else instruction,
    )


def _plain_text(pieces: list[Any], where: str) -> str:
    texts = [piece.get("text") if isinstance(piece, Mapping) else piece for piece in pieces]
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(texts):
        raise refusal(f"{where}.content", "a system message holds text only", code="invalid_type")
    return "".join(strings)


def _says_something(pieces: list[Any]) -> bool:
    texts = [piece.get("text") if isinstance(piece, Mapping) else piece for piece in pieces]
    return any(text not in (None, "") for text in texts)
