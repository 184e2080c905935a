"""`POST /v2/embed`: Cohere's body, with one embedding type or several in one answer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from mmembed.errors import InputError
from mmembed.server.dialects.call import (
    ROLES,
    Context,
    EmbedCall,
    Embedded,
    Encoding,
    error_body,
    fit_items,
    on_error,
    refuses_truncation,
)
from mmembed.server.dialects.content import media_item, object_item, text_item
from mmembed.server.dialects.fields import Fields, refusal, shown
from mmembed.types import MultimodalInput, Text

__all__ = ["cohere_answer", "cohere_call", "embedding_types"]

_KNOWN = frozenset(
    "model input_type texts images inputs output_dimension embedding_types max_tokens truncate "
    "instruction on_error".split()
)
_HARMLESS = frozenset({"priority"})
_INPUT_TYPES = ("search_query", "search_document", "classification", "clustering", "image")
_TYPES: dict[str, Encoding] = {
    "float": Encoding(),
    "int8": Encoding("int8"),
    "uint8": Encoding("uint8"),
    "binary": Encoding("binary"),
    "ubinary": Encoding("ubinary"),
    "base64": Encoding(base64=True),
}
_HINT = '{"images": ["data:...;base64,..."]} or inputs with a content part of type KIND'


def embedding_types(body: Any) -> list[str]:
    """The types asked for, each once; `float` without any."""
    fields = Fields(body, known=_KNOWN, harmless=_HARMLESS)
    names = fields.array("embedding_types")
    if names is None:
        return ["float"]
    for at, name in enumerate(names):
        if not isinstance(name, str) or name not in _TYPES:
            raise refusal(
                f"embedding_types[{at}]", f"found {shown(name)}; allowed: {', '.join(_TYPES)}"
            )
    return list(dict.fromkeys(names)) or ["float"]


def cohere_call(body: Any, context: Context) -> EmbedCall:
    """
    Raises:
        RequestError: naming the field.
    """
    fields = Fields(body, known=_KNOWN, harmless=_HARMLESS)
    context.check_model(fields)
    fields.required("input_type", f"one of {', '.join(_INPUT_TYPES)}")
    input_type = fields.choice("input_type", _INPUT_TYPES) or ""
    fields.only(
        "max_tokens", [context.max_tokens], f"each item is cut at {context.max_tokens:,} tokens"
    )
    given = [name for name in ("texts", "images", "inputs") if fields.get(name)]
    if len(given) != 1:
        raise fields.error(
            "texts", "give texts, images or inputs, one of them, not empty",
            code="missing_parameter",
        )  # fmt: skip
    if input_type == "image" and given[0] == "texts":
        raise fields.error("input_type", "image stands beside texts; give images")
    entries = fit_items(fields.array(given[0]) or [], context.settings, given[0])
    instruction = fields.text("instruction")
    items = tuple(
        _item(given[0], index, entry, context, instruction) for index, entry in enumerate(entries)
    )
    return EmbedCall(
        items,
        given[0],
        role=ROLES[input_type],
        dimension=context.truncate_dim(fields, "output_dimension"),
        on_error=on_error(fields),
        refuse_truncated=refuses_truncation(fields, "truncate"),
    )


def _item(
    field: str, index: int, entry: Any, context: Context, instruction: str | None
) -> MultimodalInput | InputError:
    where = f"{field}[{index}]"
    if field == "inputs" and isinstance(entry, Mapping) and "content" in entry:
        return object_item(entry, context, where=where, index=index, instruction=instruction)
    if field == "inputs":
        raise refusal(where, 'expected {"content": [...]}', code="invalid_type", index=index)
    if not isinstance(entry, str):
        raise refusal(
            where, f"expected a string, found {shown(entry)}", code="invalid_type", index=index
        )
    if field == "images":
        return media_item(entry, "image", context, instruction)
    return text_item(entry, context, instruction=instruction, hint=_HINT)


def cohere_answer(call: EmbedCall, embedded: Embedded, types: list[str]) -> dict[str, Any]:
    """`embeddings` by type; beside `errors`, an embedding that could not be made is null."""
    pictures = sum(
        not isinstance(part, Text)
        for index, item in enumerate(call.items)
        if isinstance(item, MultimodalInput) and index not in embedded.errors
        for part in item.parts
    )
    texts = [_text(item) for item in call.items]
    answer: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "response_type": "embeddings_by_type",
        "embeddings": {name: embedded.written(_TYPES[name]) for name in types},
        "texts": texts if all(text is not None for text in texts) else [],
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": embedded.num_tokens, "images": pictures},
        },
    }
    if embedded.errors:
        answer["errors"] = [error_body(at, error) for at, error in embedded.errors.items()]
    return answer


def _text(item: MultimodalInput | InputError) -> str | None:
    """The text of an item that is one text."""
    if isinstance(item, MultimodalInput) and len(item.parts) == 1:
        part = item.parts[0]
        return part.text if isinstance(part, Text) else None
    return None
