"""Every exception that mmembed raises on purpose.

MMEmbedError
|-- InputError (ValueError)          one item of the caller's input cannot be used
|-- ConfigError (ValueError)         a YAML file, an option or a combination of options is wrong
|-- CheckpointError (ValueError)     a model folder is incomplete, unsafe or of another format
|-- SpaceMismatchError (ValueError)  vectors of two different embedding spaces would be mixed
|-- StoreError (ValueError)          stored vectors or an index are damaged, in use or unknown
|-- DataError (ValueError)         rows or media of a data set are missing, damaged or unexpected
|-- EndpointError (RuntimeError)     a model server refused, or gave no usable answer in time
|-- TrainingDiverged (RuntimeError)  a loss or gradient is not finite; no weight was changed
`-- MissingDependencyError (ImportError)  an optional extra is not installed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

__all__ = [
    "INPUT_ERROR_CODES",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EndpointError",
    "InputError",
    "InputErrorCode",
    "MMEmbedError",
    "MissingDependencyError",
    "SpaceMismatchError",
    "StoreError",
    "TrainingDiverged",
]

InputErrorCode = Literal[
    "invalid_type",
    "empty",
    "not_found",
    "not_a_file",
    "permission",
    "forbidden_path",
    "forbidden_url",
    "fetch_failed",
    "fetch_timeout",
    "too_large",
    "unsupported_format",
    "corrupt",
    "truncated",
    "too_many_pixels",
    "aspect_ratio",
    "nonfinite",
    "no_video_stream",
    "no_frames",
    "too_many_frames",
    "encrypted",
    "wrong_password",
    "no_pages",
    "page_out_of_range",
    "too_many_pages",
    "page_too_large",
    "invalid_text",
    "too_many_tokens",
    "decode_timeout",
    "decoder_crash",
    "out_of_memory",
]
INPUT_ERROR_CODES: frozenset[str] = frozenset(get_args(InputErrorCode))


class MMEmbedError(Exception):
    """Base of all errors that mmembed raises on purpose."""


class InputError(MMEmbedError, ValueError):
    """One item of the caller's input cannot be used; all others can.

    Attributes:
        index: position in the caller's list; nested for a part of an item, `(3, "frames", 7)`;
            None when the failing call saw a single item.
        part: `text`, `image`, `video`, `pdf` or `item`.
        source: basename, host or `bytes:<sha256[:12]>`; never a full path.
        code: one of `INPUT_ERROR_CODES`.
        detail: one sentence for people; never the text of another library's exception.
        errors: all errors found so far, this one first (only on the error that `encode` raises).
        partial: what had been computed when the error was raised (idem).
    """

    def __init__(
        self,
        code: InputErrorCode,
        detail: str,
        *,
        part: str = "item",
        source: str | None = None,
        index: int | tuple[Any, ...] | None = None,
    ) -> None:
        assert code in INPUT_ERROR_CODES, code
        self.code: InputErrorCode = code
        self.detail = detail
        self.part = part
        self.source = source
        self.index = index
        self.errors: Sequence[InputError] = (self,)
        self.partial: Any = None
        super().__init__(code, detail)

    def at(self, index: int | tuple[Any, ...]) -> InputError:
        """A copy of this error with the position in the caller's list filled in.

        An index that a deeper layer already set, e.g. `("frames", 7)`, is kept behind it.
        """
        where: Any = index
        if self.index is not None:
            outer = index if isinstance(index, tuple) else (index,)
            where = outer + (self.index if isinstance(self.index, tuple) else (self.index,))
        return InputError(self.code, self.detail, part=self.part, source=self.source, index=where)

    def __str__(self) -> str:
        where = "item" if self.index is None else f"item {self.index}"
        what = " ".join(word for word in (self.part, self.source) if word and word != "item")
        return f"{where}{f' ({what})' if what else ''}: {self.code}: {self.detail}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_input_error, (
            self.code,
            self.detail,
            self.part,
            self.source,
            self.index,
        )


def _rebuild_input_error(
    code: InputErrorCode, detail: str, part: str, source: str | None, index: Any
) -> InputError:
    return InputError(code, detail, part=part, source=source, index=index)


class ConfigError(MMEmbedError, ValueError):
    """A configuration file, an option or a combination of options is wrong."""


class CheckpointError(MMEmbedError, ValueError):
    """A model folder is incomplete, unsafe, or of a kind that mmembed does not load."""


class SpaceMismatchError(MMEmbedError, ValueError):
    """Vectors of two embedding spaces would be compared or stored together."""


class StoreError(MMEmbedError, ValueError):
    """Stored vectors or an index on disk are damaged, in use by another process, or unknown."""


class DataError(MMEmbedError, ValueError):
    """Rows or media of a data set are missing, damaged or not those expected.

    Attributes:
        missing: every file that is not there, relative to the data root.
    """

    def __init__(self, message: str, *, missing: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(missing))
        self.missing = tuple(missing)

    def __str__(self) -> str:
        return str(self.args[0])


class EndpointError(MMEmbedError, RuntimeError):
    """A model server refused a request, or gave no usable answer after all retries.

    Attributes:
        status: of the last answer; None when there was none.
        retryable: the same request may succeed later.
    """

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class TrainingDiverged(MMEmbedError, RuntimeError):  # noqa: N818  the field's word
    """A loss or gradient norm is not finite. Raised before any weight changes.

    Attributes:
        rows: of the global batch by data set.
    """

    def __init__(
        self, *, step: int, loss: float, grad_norm: float, rows: Mapping[str, Sequence[int]]
    ) -> None:
        self.step = step
        self.loss = loss
        self.grad_norm = grad_norm
        self.rows = rows
        named = "; ".join(f"{name}: rows {_some(numbers)}" for name, numbers in rows.items())
        super().__init__(
            f"step {step} ({named}): loss {loss}, gradient norm {grad_norm}; no weight was "
            "changed. Lower learning_rate, raise warmup_ratio, or inspect this batch."
        )


def _some(numbers: Sequence[int], shown: int = 32) -> str:
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return ", ".join(map(str, numbers[:shown])) + more


class MissingDependencyError(MMEmbedError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{package} is not installed. Install it with: pip install 'mmembed[{extra}]'"
        )
