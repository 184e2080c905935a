"""`POST /v1/rerank`, `/v2/rerank` and `/rerank`: the body of Jina, Cohere and vLLM.

The answer holds what clients of all three read: `results` from the best to the worst, `usage` and
`meta`. A document goes back as text; media are not sent back.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmembed.errors import InputError
from mmembed.server.dialects.call import Context, OnError, error_body, first_error, fit_items
from mmembed.server.dialects.call import on_error as read_on_error
from mmembed.server.dialects.content import content_item, object_item, text_item
from mmembed.server.dialects.fields import Fields, refusal, shown
from mmembed.server.engine import RerankEngine
from mmembed.server.errors import input_request_error
from mmembed.types import MultimodalInput, Text

__all__ = ["RerankCall", "rerank_answer", "rerank_call", "score"]

_KNOWN = frozenset(
    "model query documents top_n return_documents instruction on_error truncation rank_fields "
    "max_tokens_per_doc max_chunks_per_doc return_embeddings truncate_prompt_tokens".split()
)
_HARMLESS = frozenset({"user", "priority", "request_id"})
_HINT = '{"KIND": "data:...;base64,..."} in its place'


@dataclass(frozen=True)
class RerankCall:
    """A query and documents, in order; a document that could not be read is its error."""

    query: MultimodalInput
    documents: tuple[MultimodalInput | InputError, ...]
    top_n: int
    return_documents: bool
    on_error: OnError


def rerank_call(body: Any, context: Context, *, return_documents: bool) -> RerankCall:
    """
    Args:
        return_documents: what holds when the request does not say.

    Raises:
        RequestError: naming the field.
    """
    fields = Fields(body, known=_KNOWN, harmless=_HARMLESS)
    context.check_model(fields)
    for name in ("rank_fields", "max_tokens_per_doc", "max_chunks_per_doc"):
        fields.only(name, [], "leave it out: a document is read whole, up to the model's limit")
    fields.only("return_embeddings", [False], "allowed: false")
    fields.only("truncation", [True], "long documents lose their end; allowed: true")
    fields.only("truncate_prompt_tokens", [-1, context.max_tokens], "leave it out")
    instruction = fields.text("instruction")
    query = _item(
        fields.required("query", "a string or content"), context, "query", None, instruction
    )
    if isinstance(query, InputError):
        raise input_request_error(query, param="query")
    fields.required("documents", "a list of strings or objects")
    value = fields.get("documents")
    if isinstance(value, Mapping) and set(value) == {"content"}:  # vLLM: each part is a document
        value = value["content"]
    if not isinstance(value, list):
        raise refusal("documents", f"expected a list, found {shown(value)}", code="invalid_type")
    documents = [
        _item(each, context, f"documents[{index}]", index, None)
        for index, each in enumerate(fit_items(value, context.settings, "documents"))
    ]
    asked = fields.flag("return_documents")
    return RerankCall(
        query,
        tuple(documents),
        top_n=fields.whole("top_n", 1, 2**31) or len(documents),
        return_documents=return_documents if asked is None else asked,
        on_error=read_on_error(fields),
    )


def _item(
    value: Any, context: Context, where: str, index: int | None, instruction: str | None
) -> MultimodalInput | InputError:
    if isinstance(value, str):
        return text_item(value, context, instruction=instruction, hint=_HINT)
    if isinstance(value, list):
        return content_item(value, context, where=where, index=index, instruction=instruction)
    if isinstance(value, Mapping):
        if index is not None and value.get("instruction") is not None:
            raise refusal(
                f"{where}.instruction", "the instruction belongs to the query", index=index
            )
        return object_item(value, context, where=where, index=index, instruction=instruction)
    raise refusal(
        where, f"expected a string or an object, found {shown(value)}",
        code="invalid_type", index=index,
    )  # fmt: skip


async def score(engine: RerankEngine, call: RerankCall) -> list[float | InputError]:
    """
    Raises:
        RequestError: of the first bad document under `on_error="raise"`, and those of the engine.
    """
    scores: list[float | InputError] = [
        each if isinstance(each, InputError) else 0.0 for each in call.documents
    ]
    _raise_first(call, scores)
    sent = [at for at, each in enumerate(call.documents) if isinstance(each, MultimodalInput)]
    documents = [each for each in call.documents if isinstance(each, MultimodalInput)]
    if documents:
        try:
            found = await engine.score(call.query, documents)
        except InputError as error:
            raise input_request_error(_of_query(error), param="query") from None
        for at, result in zip(sent, found, strict=True):
            scores[at] = result
    _raise_first(call, scores)
    return scores


def _of_query(error: InputError) -> InputError:
    """Without the position that the query had among pairs."""
    return InputError(error.code, error.detail, part=error.part, source=error.source)


def _raise_first(call: RerankCall, scores: Sequence[float | InputError]) -> None:
    bad = {at: each for at, each in enumerate(scores) if isinstance(each, InputError)}
    if bad and call.on_error == "raise":
        raise first_error(bad, "documents")


def rerank_answer(
    call: RerankCall, scores: Sequence[float | InputError], context: Context
) -> dict[str, Any]:
    """Best first, equal scores in the order of the request, failed documents last."""

    def rank(at: int) -> tuple[bool, float]:
        found = scores[at]
        return (True, 0.0) if isinstance(found, InputError) else (False, -found)

    results: list[dict[str, Any]] = []
    for at in sorted(range(len(scores)), key=rank)[: call.top_n]:
        found = scores[at]
        result: dict[str, Any] = {"index": at, "relevance_score": None}
        if isinstance(found, InputError):
            result["error"] = error_body(at, found.at(at))
        else:
            result["relevance_score"] = found
        document = call.documents[at]
        if call.return_documents and isinstance(document, MultimodalInput):
            texts = [part.text for part in document.parts if isinstance(part, Text)]
            if len(texts) == len(document.parts):
                result["document"] = {"text": "\n".join(texts)}
        results.append(result)
    return {
        "id": str(uuid.uuid4()),
        "object": "list",
        "model": context.names[0],
        "results": results,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
