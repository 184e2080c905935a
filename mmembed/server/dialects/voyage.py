"""`POST /v1/multimodalembeddings`: Voyage's body, a content list for each item."""

from __future__ import annotations

from typing import Any

from mmembed.server.dialects.call import (
    Context,
    EmbedCall,
    Embedded,
    encoding,
    error_body,
    fit_items,
    on_error,
    refuses_truncation,
    role,
)
from mmembed.server.dialects.content import object_item
from mmembed.server.dialects.fields import Fields, refusal

__all__ = ["voyage_answer", "voyage_call"]

_KNOWN = frozenset(
    "model inputs input_type truncation output_encoding output_dtype output_dimension "
    "instruction on_error".split()
)


def voyage_call(body: Any, context: Context) -> EmbedCall:
    """
    Raises:
        RequestError: naming the field.
    """
    fields = Fields(body, known=_KNOWN)
    context.check_model(fields)
    fields.flag("truncation")
    fields.choice("input_type", ("query", "document"))
    fields.choice("output_encoding", ("base64",))
    instruction = fields.text("instruction")
    fields.required("inputs", 'a list of {"content": [...]}')
    entries = fit_items(fields.array("inputs") or [], context.settings, "inputs")
    items = []
    for index, entry in enumerate(entries):
        where = f"inputs[{index}]"
        if not isinstance(entry, dict) or "content" not in entry:
            raise refusal(where, 'expected {"content": [...]}', code="invalid_type", index=index)
        items.append(object_item(entry, context, where=where, index=index, instruction=instruction))
    return EmbedCall(
        tuple(items),
        "inputs",
        role=role(fields, ["input_type"]) or "document",
        dimension=context.truncate_dim(fields, "output_dimension"),
        encoding=encoding(fields, "output_dtype", "output_encoding"),
        on_error=on_error(fields),
        refuse_truncated=refuses_truncation(fields, "truncation"),
    )


def voyage_answer(call: EmbedCall, embedded: Embedded, context: Context) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(embedded.written(call.encoding)):
        row = {"object": "embedding", "index": index, "embedding": vector}
        if index in embedded.errors:
            row["error"] = error_body(index, embedded.errors[index])
        data.append(row)
    return {
        "object": "list",
        "data": data,
        "model": context.names[0],
        "usage": {
            "text_tokens": embedded.num_tokens - embedded.num_visual_tokens,
            "image_pixels": embedded.num_pixels,
            "total_tokens": embedded.num_tokens,
        },
    }
