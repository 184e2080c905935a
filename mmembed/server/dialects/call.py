"""What every front door translates a request into, and how vectors are written down again."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmembed.encoder.head import PRECISIONS, Precision, quantize
from mmembed.errors import InputError
from mmembed.inputs.media import part_name
from mmembed.server.dialects.fields import Fields, shown
from mmembed.server.dialects.media import MediaReader
from mmembed.server.engine import EncodeEngine
from mmembed.server.errors import RequestError, input_request_error
from mmembed.server.settings import ServerSettings
from mmembed.types import MultimodalInput, Role, Text

__all__ = [
    "ROLES",
    "Context",
    "EmbedCall",
    "Embedded",
    "Encoding",
    "OnError",
    "checked_item",
    "embed",
    "encoding",
    "error_body",
    "first_error",
    "fit_items",
    "on_error",
    "refuses_truncation",
    "role",
    "shortened",
]

OnError = Literal["raise", "null"]

# The words for a role. Tasks other than retrieval have none here: they are documents, which carry
# no instruction unless the request gives one.
ROLES: dict[str, Role] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "classification": "document",
    "clustering": "document",
    "image": "document",
}


@dataclass(frozen=True)
class Context:
    """What a translation needs to know about the server.

    Args:
        names: under which the model may be asked for; the first is the one in answers.
        dimension: of the model; shorter vectors may be asked for.
        max_tokens: of one item, after which its text is cut.
    """

    names: tuple[str, ...]
    dimension: int
    max_tokens: int
    media: MediaReader
    settings: ServerSettings

    def check_model(self, fields: Fields) -> None:
        """
        Raises:
            RequestError: 404, `model_not_found`.
        """
        name = fields.text("model")
        if name and name not in self.names:
            raise RequestError(
                404,
                "model_not_found",
                f"model {shown(name)} is not served here; served: {', '.join(self.names)}",
                param="model",
            )

    def truncate_dim(self, fields: Fields, *names: str) -> int | None:
        """The dimension asked for under any of these names; None for the model's own."""
        found = {fields.whole(name, 1, self.dimension) for name in names} - {None}
        if len(found) > 1:
            raise fields.error(names[0], f"{' and '.join(names)} differ; give one")
        return found.pop() if found else None


@dataclass(frozen=True)
class Encoding:
    """How a vector is written: numbers of a precision, as a list or as base64 of their bytes."""

    precision: Precision = "float32"
    base64: bool = False


@dataclass(frozen=True)
class EmbedCall:
    """Items to embed, in order; an item that could not be read is its error.

    Args:
        dimension: keep the first so many dimensions, then normalise; None: all.
        on_error: `raise`: the request fails with the first bad item; `null`: such items are null
            and the others are answered.
        refuse_truncated: an item whose text had to be cut is an error.
        param: the field of the request that holds the items.
    """

    items: tuple[MultimodalInput | InputError, ...]
    param: str
    role: Role = "document"
    dimension: int | None = None
    encoding: Encoding = Encoding()
    on_error: OnError = "raise"
    refuse_truncated: bool = False


@dataclass(frozen=True)
class Embedded:
    """The vectors of a call: (N, d) float32, unit, NaN where `errors` says why.

    Attributes:
        num_pixels: of all pictures, as the model saw them.
        num_visual_tokens: those of `tokens` that stand for pictures.
    """

    vectors: np.ndarray
    errors: dict[int, InputError]
    tokens: list[int]
    truncated: frozenset[int]
    int8_step: float | None
    num_pixels: int = 0
    num_visual_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens)

    def written(self, encoding: Encoding) -> list[Any]:
        """Each vector as JSON takes it; None where an item failed."""
        good = [index for index in range(len(self.vectors)) if index not in self.errors]
        rows = quantize(self.vectors[good], encoding.precision, step=self.int8_step)
        rows = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
        written: list[Any] = [None] * len(self.vectors)
        for index, row in zip(good, rows, strict=True):
            packed = base64.b64encode(row.tobytes()).decode() if encoding.base64 else None
            written[index] = row.tolist() if packed is None else packed
        return written


async def embed(engine: EncodeEngine, call: EmbedCall) -> Embedded:
    """
    Raises:
        RequestError: of the first bad item under `on_error="raise"`, and those of the engine.
    """
    bad = {at: item for at, item in enumerate(call.items) if isinstance(item, InputError)}
    if bad and call.on_error == "raise":
        raise first_error(bad, call.param)
    sent = [at for at in range(len(call.items)) if at not in bad]
    items = [item for item in call.items if isinstance(item, MultimodalInput)]
    vectors = np.full((len(call.items), engine.dimension), np.nan, dtype=np.float32)
    tokens, truncated, num_patches = [0] * len(call.items), set[int](), 0
    if items:
        encoded = await engine.encode(items, role=call.role)
        vectors[sent] = encoded.vectors
        bad |= {sent[at]: error for at, error in encoded.errors.items()}
        truncated = {sent[at] for at in encoded.truncated}
        for at, count in zip(sent, encoded.tokens, strict=True):
            tokens[at] = count
        num_patches = sum(encoded.patches)
    if call.refuse_truncated:
        bad |= {at: _TOO_LONG for at in truncated if at not in bad}
    if bad and call.on_error == "raise":
        raise first_error(bad, call.param)
    vectors[list(bad)] = np.nan
    geometry = engine.embedder.processor.config.geometry
    side, merged = (geometry.patch_size, geometry.merge_size) if geometry else (0, 1)
    return Embedded(
        shortened(vectors, call.dimension),
        {at: _placed(error, at) for at, error in sorted(bad.items())},
        tokens,
        frozenset(truncated - set(bad)),
        engine.embedder.encoder.int8_step,
        num_pixels=num_patches * side**2,
        num_visual_tokens=num_patches // merged**2,
    )


_TOO_LONG = InputError(
    "too_many_tokens", "the text is longer than the model reads; shorten it, or let it be cut",
    part="text",
)  # fmt: skip


def first_error(errors: Mapping[int, InputError], param: str) -> RequestError:
    """The error of the lowest index, as that of the whole request."""
    index = min(errors)
    return input_request_error(_placed(errors[index], index), index=index, param=param)


def _placed(error: InputError, index: int) -> InputError:
    """Named by its place in the request; the engine may have seen it at another one."""
    return InputError(error.code, error.detail, part=error.part, source=error.source, index=index)


def error_body(index: int, error: InputError) -> dict[str, Any]:
    """What stands for a failed item under `on_error="null"`."""
    return {"code": error.code, "message": str(error), "index": index}


def shortened(vectors: np.ndarray, dimension: int | None) -> np.ndarray:
    """(N, D) unit rows -> (N, dimension) unit rows, as `head.project` does it."""
    if dimension is None or dimension == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimension]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def encoding(fields: Fields, *names: str) -> Encoding:
    """From fields that hold `float`, `base64` or a precision: `base64` beside a precision packs it.

    `embedding_type: int8` and `encoding_format: base64` together give base64 of int8 bytes.
    """
    allowed = ("float", "base64", *PRECISIONS)
    words = [word for name in names if (word := fields.choice(name, allowed)) is not None]
    precisions = {word for word in words if word not in ("float", "base64", "float32")}
    if len(precisions) > 1:
        raise fields.error(names[0], f"{' and '.join(names)} ask for several precisions; give one")
    precision: Any = precisions.pop() if precisions else "float32"
    return Encoding(precision, base64="base64" in words)


def on_error(fields: Fields) -> OnError:
    """`raise` unless the request says `null`, as a word."""
    return "null" if fields.choice("on_error", ("raise", "null")) == "null" else "raise"


def refuses_truncation(fields: Fields, name: str) -> bool:
    """`true` and `END` let long texts lose their end, `false` and `NONE` refuse them."""
    value = fields.get(name)
    word = value.upper() if isinstance(value, str) else value
    if word == "START":
        raise fields.error(
            name, "START would drop the beginning of a text, which is not supported; allowed: "
            "END, NONE, true, false", code="not_supported",
        )  # fmt: skip
    if word is None or word is True or word == "END":
        return False
    if word is False or word == "NONE":
        return True
    raise fields.error(name, f"found {shown(value)}; allowed: END, NONE, true, false")


def fit_items(values: Sequence[Any], settings: ServerSettings, name: str) -> Sequence[Any]:
    """
    Raises:
        RequestError: none, or more than one request may hold.
    """
    if not values:
        raise RequestError(400, "empty", f"{name}: the list is empty", param=name)
    if len(values) > settings.max_items:
        raise RequestError(
            400,
            "too_many_items",
            f"{name}: {len(values):,} items; allowed: {settings.max_items:,} in one request",
            param=name,
        )
    return values


def role(fields: Fields, names: Collection[str] = ("input_type", "role")) -> Role | None:
    """The role under any of these names; None where none is given."""
    words = [word for name in names if (word := fields.choice(name, tuple(ROLES))) is not None]
    found = {ROLES[word] for word in words}
    if len(found) > 1:
        raise fields.error(next(iter(names)), f"{' and '.join(names)} contradict each other")
    return found.pop() if found else None


def checked_item(item: MultimodalInput, context: Context) -> MultimodalInput:
    """
    Raises:
        InputError: a part asks for more visual tokens than the model reads in all.
    """
    for part in item.parts:
        for name in ("min_tokens", "max_tokens"):
            if (getattr(part, name, None) or 0) > context.max_tokens:
                assert not isinstance(part, Text)
                message = f"{name}: the model reads at most {context.max_tokens:,} tokens"
                raise InputError("too_many_tokens", message, part=part_name(part))
    return item
