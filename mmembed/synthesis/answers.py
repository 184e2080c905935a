"""What a step asks the model for, as JSON schema, and the check of what came back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from mmembed.config.validation import StrictModel

__all__ = ["AnswerField", "BadAnswer", "json_schema", "read_answer"]

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^```[a-z]*\s*\n(.*)\n\s*```$", re.DOTALL)
_SHOWN = 80
_BEYOND = 1e15  # no number that is asked for; floats below hold whole numbers exactly


class BadAnswer(Exception):  # noqa: N818  is told to the model
    """The answer is not what was asked for; the message is for the model that gave it."""


class AnswerField(StrictModel):
    """One key of the answer's JSON object; all keys are required.

    Args:
        about: what belongs there, for the model.
        values: the only allowed ones; only for strings.
        least, most: bounds of a number, or of the length of `strings`.
    """

    type: Literal["string", "integer", "number", "boolean", "strings"] = "string"
    about: str = ""
    values: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> AnswerField:
        if self.values and self.type != "string":
            raise ValueError(f"values are for strings, not for {self.type}")
        if self.type in {"string", "boolean"} and (self.least, self.most) != (None, None):
            raise ValueError(f"least and most are not for {self.type}")
        return self

    def schema_of(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": self.type}
        if self.type == "strings":
            found = {"type": "array", "items": {"type": "string"}}
        if self.about:
            found["description"] = self.about
        if self.values:
            found["enum"] = list(self.values)
        return found

    def read(self, name: str, value: Any) -> Any:
        """The value, or why it is none."""
        if self.type == "string":
            if not isinstance(value, str) or not value.strip():
                raise BadAnswer(f"{name} must be a non-empty string, not {_shown(value)}")
            value = value.strip()
            if self.values and value not in self.values:
                raise BadAnswer(
                    f"{name} must be one of {', '.join(self.values)}, not {_shown(value)}"
                )
        elif self.type == "boolean":
            if not isinstance(value, bool):
                raise BadAnswer(f"{name} must be true or false, not {_shown(value)}")
        elif self.type == "strings":
            good = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
            if not good:
                raise BadAnswer(f"{name} must be a list of non-empty strings")
            self._bound(f"the length of {name}", len(value))
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not abs(value) < _BEYOND:
                raise BadAnswer(f"{name} must be a number, not {_shown(value)}")
            if self.type == "integer" and value != int(value):
                raise BadAnswer(f"{name} must be a whole number, not {_shown(value)}")
            value = int(value) if self.type == "integer" else float(value)
            self._bound(name, value)
        return value

    def _bound(self, name: str, value: float) -> None:
        if self.least is not None and value < self.least:
            raise BadAnswer(f"{name} is {value}; at least {self.least:g} is allowed")
        if self.most is not None and value > self.most:
            raise BadAnswer(f"{name} is {value}; at most {self.most:g} is allowed")


def json_schema(fields: Mapping[str, AnswerField]) -> dict[str, Any]:
    """Strict: every key, and no other. Bounds are left out, which not all servers know."""
    return {
        "type": "object",
        "properties": {name: field.schema_of() for name, field in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def read_answer(text: str | None, fields: Mapping[str, AnswerField]) -> dict[str, Any]:
    """The fields of an answer. Thoughts before it and a code fence around it are passed over.

    Raises:
        BadAnswer: no JSON object, a key missing, or a value that is not allowed.
    """
    if text is None or not text.strip():
        raise BadAnswer("the answer was empty")
    text = _THOUGHT.sub("", text).strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        raise BadAnswer("the answer was not one JSON object and nothing else") from None
    if not isinstance(value, dict):
        raise BadAnswer("the answer was JSON, but not an object")
    if not _is_unicode(value):
        raise BadAnswer("the answer holds half of a surrogate pair, which is no character")
    missing = [name for name in fields if name not in value]
    if missing:
        raise BadAnswer(f"the answer lacks the key {', '.join(missing)}")
    return {name: field.read(name, value[name]) for name, field in fields.items()}


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
