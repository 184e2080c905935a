"""Names of documents by their content, for `ContrastiveExample.positive_ids`.

Two rows whose positives are the same text, or the same file, have the same id, so neither is a
negative of the other. Cheap: no medium is opened, a file is named by its path below the folder of
its data set, and only bytes that a row already holds are hashed. Instructions do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mmembed.types import MultimodalInput, Part, Text

__all__ = ["document_id", "document_ids"]


def document_id(item: MultimodalInput, root: Path | None = None) -> str:
    """32 hexadecimal digits of what an item says and shows; options such as `num_frames` count.

    Args:
        root: paths below it count from there, so that the id is the same wherever the data lie.
    """
    digest = blake2b(digest_size=16)
    for part in item.parts:
        for piece in _pieces(part, root):
            digest.update(b"%d:" % len(piece) + piece)  # the length: "ab" "c" is not "a" "bc"
    return digest.hexdigest()


def document_ids(items: Iterable[MultimodalInput], root: Path | None = None) -> tuple[str, ...]:
    return tuple(document_id(item, root) for item in items)


def _pieces(part: Part, root: Path | None) -> Iterable[bytes]:
    yield type(part).__name__.encode()
    if isinstance(part, Text):
        yield part.text.encode("utf-8", "surrogatepass")
        return
    for name, value in vars(part).items():
        if name == "source":
            for source in value if isinstance(value, tuple) else (value,):
                yield _name(source, root)
        elif value is not None:
            yield f"{name}={value}".encode()


def _name(source: Any, root: Path | None) -> bytes:
    if isinstance(source, bytes):
        return b"bytes " + source
    if isinstance(source, Path):
        path = source.as_posix()
        return (path if root is None else path.removeprefix(f"{root.as_posix()}/")).encode()
    return str(getattr(source, "url", source)).encode()
