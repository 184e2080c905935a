"""What a client is told when a request fails: a status, a code and one sentence."""

from __future__ import annotations

from typing import Any, Self

from mmembed.errors import InputError

__all__ = [
    "EngineFault",
    "EngineTimeout",
    "Overloaded",
    "RequestError",
    "Stopping",
    "input_request_error",
]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
# of InputError codes that are not simply a bad request
_STATUS = {"too_large": 413, "unsupported_format": 415, "out_of_memory": 413}


class RequestError(Exception):
    """A request cannot be answered.

    Attributes:
        status: of HTTP.
        code: a word for programs.
        message: for people; nothing of this machine and nothing of another library's text.
        index: of the item that is at fault.
        param: the field of the request that is at fault, `input.3.image_url`.
        retry_after: seconds after which to try again.
        closes: the connection ends, because the rest of the body was not read.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        index: int | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.index = index
        self.param = param
        self.retry_after = retry_after
        self.closes = status == 408

    @property
    def type(self) -> str:
        """The coarse kind, in the words of OpenAI's API."""
        if self.status == 429:
            return "rate_limit_error"
        if self.status >= 500:
            return "server_error"
        return _TYPES.get(self.status, "invalid_request_error")

    def closing(self) -> Self:
        """The same; the connection ends with the answer."""
        self.closes = True
        return self

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON of the answer."""
        error = {
            "message": self.message,
            "type": self.type,
            "code": self.code,
            "param": self.param,
            "index": self.index,
            "request_id": request_id,
        }
        return {"error": error}


class Overloaded(RequestError):  # noqa: N818  what the server is
    """The queue is full."""

    def __init__(self, retry_after_seconds: float) -> None:
        seconds = max(1, round(retry_after_seconds + 0.5))
        super().__init__(
            429,
            "overloaded",
            f"the server has as much to do as it accepts; try again in {seconds} s",
            retry_after=seconds,
        )


class EngineTimeout(RequestError):  # noqa: N818  what happened
    """There was no answer within the time of a request."""

    def __init__(self, seconds: float) -> None:
        message = f"not done within {seconds:g} s; send fewer or smaller items in one request"
        super().__init__(504, "timeout", message)


class Stopping(RequestError):  # noqa: N818  what the server does
    """The server starts or stops."""

    def __init__(self) -> None:
        super().__init__(503, "not_ready", "the server is starting or stopping", retry_after=5)


class EngineFault(RequestError):  # noqa: N818  whose fault it is
    """The model failed on this request; the log has the reason."""

    def __init__(self) -> None:
        super().__init__(500, "internal_error", "the server failed on this request")


def input_request_error(
    error: InputError, *, index: int | None = None, param: str | None = None
) -> RequestError:
    """An item's error as that of the whole request, for dialects that have no other place."""
    where = error.index[0] if isinstance(error.index, tuple) else error.index
    index = where if index is None and isinstance(where, int) else index
    status = _STATUS.get(error.code, 400)
    return RequestError(status, error.code, str(error), index=index, param=param)
