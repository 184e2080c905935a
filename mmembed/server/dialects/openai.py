"""`POST /v1/embeddings`: OpenAI's body, with what vLLM, Jina and infinity add on the same path.

`input` is a string, a list of strings, token ids, a list of lists of token ids, or (Jina) a list
that also holds objects; or `messages` (vLLM) stands in its place. Without `input_type`, `role` or
`task` items are documents, as with `Embedder.encode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmembed.errors import InputError
from mmembed.inputs.tokens import PromptTokenizer
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
from mmembed.server.dialects.content import media_item, object_item, text_item
from mmembed.server.dialects.fields import Fields, refusal, shown
from mmembed.server.dialects.jina import jina_role, refuse_other_outputs
from mmembed.server.dialects.messages import chat_item
from mmembed.types import MultimodalInput

__all__ = ["openai_answer", "openai_call"]

_KNOWN = frozenset(
    "model input messages encoding_format dimensions instruction input_type role task "
    "embedding_type late_chunking return_multivector truncate normalized modality on_error "
    "truncate_prompt_tokens mm_processor_kwargs embed_dtype endianness".split()
)
# OpenAI: user. vLLM: of its queue, or about how a chat template ends, which ours decides.
_HARMLESS = frozenset(
    "user priority request_id cache_salt metadata add_special_tokens continue_final_message "
    "add_generation_prompt".split()
)
_HINT = (
    '{"input": [{"KIND": "data:...;base64,..."}]}; a server that is started with '
    "--allow-url-strings embeds such texts as they are"
)


def openai_call(body: Any, context: Context, tokens: PromptTokenizer) -> EmbedCall:
    """
    Raises:
        RequestError: naming the field.
    """
    fields = Fields(body, known=_KNOWN, harmless=_HARMLESS)
    context.check_model(fields)
    refuse_other_outputs(fields)
    fields.only("embed_dtype", ["float32"], "allowed: float32; see encoding_format")
    fields.only("endianness", ["native", "little"], "allowed: little")
    fields.only("mm_processor_kwargs", [{}], "give fps, num_frames, max_tokens beside the medium")
    fields.only(
        "truncate_prompt_tokens", [-1, context.max_tokens], "the model's own limit applies: null"
    )
    by_role, by_task = role(fields), jina_role(fields)
    if by_role is not None and by_task is not None and by_role != by_task:
        raise fields.error("task", "task and input_type contradict each other")
    instruction = fields.text("instruction")
    if (fields.get("messages") is None) == (fields.get("input") is None):
        raise fields.error("input", "give input or messages, one of them", code="missing_parameter")
    items: Sequence[MultimodalInput | InputError]
    if fields.get("messages") is not None:
        items = [chat_item(fields.get("messages"), context, instruction=instruction)]
    else:
        items = _items(fields, context, tokens, instruction)
    return EmbedCall(
        tuple(items),
        "input" if fields.get("messages") is None else "messages",
        role=by_role or by_task or "document",
        dimension=context.truncate_dim(fields, "dimensions"),
        encoding=encoding(fields, "encoding_format", "embedding_type"),
        on_error=on_error(fields),
        refuse_truncated=refuses_truncation(fields, "truncate"),
    )


def _items(
    fields: Fields, context: Context, tokens: PromptTokenizer, instruction: str | None
) -> list[MultimodalInput | InputError]:
    value = fields.get("input")
    kind: Any = fields.choice("modality", ("text", "image", "video", "pdf")) or "text"
    if isinstance(value, list) and value and all(map(_is_number, value)):
        value = [value]
    entries = value if isinstance(value, list) else [value]
    items: list[MultimodalInput | InputError] = []
    for index, entry in enumerate(fit_items(entries, context.settings, "input")):
        where = f"input[{index}]" if isinstance(value, list) else "input"
        if isinstance(entry, str) and kind != "text":
            items.append(media_item(entry, kind, context, instruction))
        elif isinstance(entry, str):
            items.append(text_item(entry, context, instruction=instruction, hint=_HINT))
        elif isinstance(entry, dict):
            items.append(
                object_item(entry, context, where=where, index=index, instruction=instruction)
            )
        elif isinstance(entry, list) and entry and all(map(_is_number, entry)):
            text = _text_of_ids(entry, tokens, context, where, index)
            items.append(MultimodalInput.of(text, instruction))
        else:
            found = "an empty list" if entry == [] else shown(entry)
            raise refusal(
                where,
                f"expected a string, a list of token ids or an object, found {found}",
                code="invalid_type",
                index=index,
            )
    return items


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_of_ids(
    ids: list[int], tokens: PromptTokenizer, context: Context, where: str, index: int
) -> str:
    """The text that these ids are the tokens of.

    The model reads its prompt as text, so ids are taken only when they are exactly the tokens of
    some text: not control tokens, pieces of a character, or ids of another model's tokenizer.
    """
    if len(ids) > context.max_tokens:
        raise refusal(
            where, f"{len(ids):,} token ids; the model reads {context.max_tokens:,}", index=index
        )
    text = ""
    if all(0 <= number < 2**31 for number in ids):
        text = tokens.text(ids)
    if not text or tokens.encode([text])[0] != ids:
        raise refusal(
            where,
            "these token ids are not the tokens of a text in this model's tokenizer; send the "
            "text (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
            code="invalid_token_ids",
            index=index,
        )
    return text


def openai_answer(call: EmbedCall, embedded: Embedded, context: Context) -> dict[str, Any]:
    """The answer to OpenAI's clients, which is also that of vLLM, Jina and infinity."""
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(embedded.written(call.encoding)):
        row = {"object": "embedding", "index": index, "embedding": vector}
        if index in embedded.errors:
            row["error"] = error_body(index, embedded.errors[index])
        if index in embedded.truncated:
            row["truncated"] = True
        data.append(row)
    count = embedded.num_tokens
    return {
        "object": "list",
        "data": data,
        "model": context.names[0],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
