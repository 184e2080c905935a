"""One request to a chat server: its messages, its key, and its logged answer."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mmembed.endpoints.client import EndpointClient
from mmembed.errors import EndpointError
from mmembed.synthesis.answers import json_schema
from mmembed.synthesis.budget import Budget, text_tokens, tokens_of_messages
from mmembed.synthesis.draws import seed_of
from mmembed.synthesis.journal import Journal
from mmembed.synthesis.pictures import Shown
from mmembed.synthesis.pipeline import Pipeline, Step
from mmembed.synthesis.templates import render

__all__ = ["Chat", "ChatRequest", "first_request", "next_request"]

_logger = logging.getLogger(__name__)

PATH = "chat/completions"
NOT_UNDERSTOOD = frozenset({400, 422, 501})  # what servers say to a field that they do not know
_FORM = (
    "Answer with one JSON object and nothing else. "
    "It has exactly the keys of this schema:\n{schema}"
)


@dataclass(frozen=True)
class ChatRequest:
    """What is asked in one try of one step."""

    step: Step
    attempt: int
    messages: tuple[Mapping[str, Any], ...]
    picture_tokens: float
    seed: int | None

    def key(self, model: str) -> str:
        """The same for the same request, whenever and from wherever it is sent.

        How the form of the answer is asked for does not count: it is found out while running.
        """
        body = [self.step.name, self.attempt, model, self.messages, self.parameters()]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def parameters(self) -> dict[str, Any]:
        chosen = {
            "max_tokens": self.step.max_tokens,
            "temperature": self.step.temperature,
            "top_p": self.step.top_p,
            "seed": self.seed,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def input_tokens(self) -> float:
        return tokens_of_messages(self.messages, self.picture_tokens)


def first_request(
    pipeline: Pipeline, step: Step, fields: Mapping[str, Any], shown: Shown | None, row: str
) -> ChatRequest:
    """The first try of a step.

    Raises:
        MissingField: the row lacks what the prompt asks for.
    """
    schema = json.dumps(json_schema(step.answer), ensure_ascii=False)
    text = render(step.prompt, fields).strip() + "\n\n" + _FORM.replace("{schema}", schema)
    content: Any = text
    if shown is not None:
        content = [*shown.parts, {"type": "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if step.system.strip():
        messages.insert(0, {"role": "system", "content": render(step.system, fields).strip()})
    seed = seed_of(pipeline.seed, row, f"{step.name}/0") if pipeline.send_seed else None
    return ChatRequest(step, 0, tuple(messages), shown.num_tokens if shown else 0.0, seed)


def next_request(
    pipeline: Pipeline, first: ChatRequest, attempt: int, answer: str | None, problem: str, row: str
) -> ChatRequest:
    """Another try: the first request, the last answer and what was wrong with it."""
    told = (
        {"role": "assistant", "content": answer or "(no answer)"},
        {"role": "user", "content": f"This cannot be used: {problem}. Answer again, in full."},
    )
    seed = seed_of(pipeline.seed, row, f"{first.step.name}/{attempt}")
    return replace(
        first,
        attempt=attempt,
        messages=(*first.messages, *told),
        seed=seed if pipeline.send_seed else None,
    )


class Chat:
    """Asks each request once: a logged answer is taken from the journal. Thread-safe."""

    def __init__(
        self, client: EndpointClient, pipeline: Pipeline, journal: Journal, budget: Budget
    ) -> None:
        self._client = client
        self._journal = journal
        self._budget = budget
        self._max_tokens_field = pipeline.max_tokens_field
        self._extra = pipeline.extra
        asked = pipeline.structured
        every = ("json_schema", "json_object", "none")
        self._forms: Sequence[str] = every if asked == "auto" else (asked,)
        self._lock = threading.Lock()

    def ask(self, request: ChatRequest, *, row: str) -> dict[str, Any]:
        """The record of an answer: `text` (None: the server gave none), `finish`, tokens.

        Raises:
            EndpointError: the server refused, or did not answer.
            BudgetSpent: the request was not sent.
        """
        key = request.key(self._client.model)
        record = self._journal.answer(key)
        if record is not None:
            return record
        try:
            record = self._answered(request, key)
        except BaseException:
            self._journal.give_up(key)
            raise
        return self._journal.add_answer(
            key, {**record, "step": request.step.name, "row": row, "attempt": request.attempt}
        )

    def _answered(self, request: ChatRequest, key: str) -> dict[str, Any]:
        expected = request.input_tokens()
        reserved = self._budget.reserve(expected, request.step.max_tokens)
        tokens = (0.0, 0.0)
        began = time.monotonic()
        try:
            reply = self._sent(request, key, expected + request.step.expected_tokens)
            text, finish = _content(reply)
            usage = reply.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            tokens = (
                _count(usage.get("prompt_tokens"), expected),
                _count(usage.get("completion_tokens"), text_tokens(text or "")),
            )
        finally:
            self._budget.settle(reserved, *tokens)
        return {
            "text": text,
            "finish": finish,
            "input_tokens": round(tokens[0]),
            "output_tokens": round(tokens[1]),
            "model": str(reply.get("model") or self._client.model),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 3),
        }

    def _sent(self, request: ChatRequest, key: str, num_tokens: float) -> dict[str, Any]:
        """The reply, in the strictest form that the server understands."""
        refusal: EndpointError | None = None
        for form in list(self._forms):
            body = {**self._body(request), **_form(form, request)}
            try:
                reply = self._client.post(
                    PATH, body, headers={"Idempotency-Key": key}, num_tokens=num_tokens
                )
            except EndpointError as error:
                if error.status not in NOT_UNDERSTOOD or form == "none":
                    raise refusal or error from None
                refusal = refusal or error
                continue
            if refusal is not None:
                self._settle_for(form)
            return reply
        assert refusal is not None
        raise refusal

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        parameters = request.parameters()
        parameters[self._max_tokens_field] = parameters.pop("max_tokens")
        return {"messages": request.messages, **parameters, **self._extra}

    def _settle_for(self, form: str) -> None:
        with self._lock:
            if self._forms[0] != form:
                _logger.warning("the server does not know %s; asking by %s", self._forms[0], form)
                self._forms = self._forms[self._forms.index(form) :]


def _form(form: str, request: ChatRequest) -> dict[str, Any]:
    if form == "json_schema":
        schema = {
            "name": request.step.name,
            "strict": True,
            "schema": json_schema(request.step.answer),
        }
        return {"response_format": {"type": form, "json_schema": schema}}
    return {"response_format": {"type": form}} if form == "json_object" else {}


def _content(reply: Mapping[str, Any]) -> tuple[str | None, str]:
    """Text and reason of the end; (None, "malformed") of a reply of another shape."""
    try:
        choice = reply["choices"][0]
        content = choice["message"]["content"]
        finish = str(choice.get("finish_reason") or "")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None, "malformed"
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return (content if isinstance(content, str) else None), finish


def _count(value: Any, otherwise: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e12 else otherwise
