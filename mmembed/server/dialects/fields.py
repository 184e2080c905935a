"""Reading a JSON object field by field, with errors that name the field.

A field that nobody knows is refused when it holds a value: ignoring `dimention: 64`, or an option
of another service that changes vectors, would give other vectors without a word. Fields that
cannot change a vector (`user`, `priority`, ...) are listed as harmless and are not read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mmembed.config.validation import did_you_mean
from mmembed.server.errors import RequestError

__all__ = ["Fields", "refusal", "shown"]


def refusal(
    param: str, message: str, *, code: str = "invalid_value", index: int | None = None
) -> RequestError:
    """400 for one field."""
    return RequestError(400, code, f"{param}: {message}", index=index, param=param)


def shown(value: Any) -> str:
    """A value of the request in a message: short, printable, one line."""
    if value is None or isinstance(value, bool | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a very large number"
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:40] + "...")
    names = {"dict": "an object", "list": "a list"}
    return names.get(type(value).__name__, type(value).__name__)


class Fields:
    """The fields of one object of the request.

    Args:
        where: what the object is called in messages; empty for the whole body.
        index: of the item that the object belongs to.
    """

    def __init__(
        self,
        value: Any,
        *,
        known: Collection[str],
        harmless: Collection[str] = (),
        where: str = "",
        index: int | None = None,
    ) -> None:
        self.where, self.index = where, index
        if not isinstance(value, Mapping):
            raise self.error("", f"expected an object, found {shown(value)}", code="invalid_type")
        self.values: Mapping[str, Any] = value
        for name, content in value.items():
            if name not in known and name not in harmless and content is not None:
                guess = did_you_mean(name[:100], known)
                raise self.error(
                    name if name.isascii() and name.isprintable() and len(name) < 60 else "",
                    f"unknown field{guess}; known: {', '.join(sorted(known))}",
                    code="unknown_parameter",
                )

    def path(self, name: str) -> str:
        """`inputs[3].content`."""
        return f"{self.where}.{name}" if self.where and name else self.where or name or "body"

    def error(self, name: str, message: str, *, code: str = "invalid_value") -> RequestError:
        return refusal(self.path(name), message, code=code, index=self.index)

    def get(self, name: str) -> Any:
        """None where the field is absent or null."""
        return self.values.get(name)

    def required(self, name: str, what: str) -> Any:
        if self.get(name) is None:
            raise self.error(name, f"is required: {what}", code="missing_parameter")
        return self.values[name]

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, f"expected a string, found {shown(value)}", code="invalid_type")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(
                name, f"expected true or false, found {shown(value)}", code="invalid_type"
            )
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(
                name, f"expected a whole number, found {shown(value)}", code="invalid_type"
            )
        if not least <= value <= most:
            raise self.error(name, f"found {shown(value)}; allowed: {least} to {most}")
        return value

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        value = self.get(name)
        if value is not None and not (isinstance(value, str) and value in allowed):
            raise self.error(name, f"found {shown(value)}; allowed: {', '.join(allowed)}")
        return value

    def array(self, name: str) -> list[Any] | None:
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise self.error(name, f"expected a list, found {shown(value)}", code="invalid_type")
        return value

    def only(self, name: str, allowed: Collection[Any], reason: str) -> None:
        """Accept an option at the values that ask for what happens anyway."""
        value = self.get(name)
        if value is not None and not any(
            value == each and type(value) is type(each) for each in allowed
        ):
            raise self.error(name, f"found {shown(value)}; {reason}", code="not_supported")
