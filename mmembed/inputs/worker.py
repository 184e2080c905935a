"""The decode process: reads requests from its standard input, answers on its standard output.

Started by `sandbox.MediaDecoder` as `python -P -B -m mmembed.inputs.worker`. A message is a pair
of lengths, a JSON header and raw bytes in both directions; nothing is ever unpickled. The process
limits its own memory and file size, keeps no core, and silences what decoders print. It ends when
its input ends, so a dead parent leaves no orphan; should a decoder hang while the parent dies, an
alarm ends it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.media import DecodedMedia, MediaPart, MediaPolicy, decode, part_name
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, MediaSource, Page, Video

__all__ = ["LENGTHS", "Message", "decode_request", "main", "page_request", "policy_request"]

LENGTHS = struct.Struct("<IQ")  # bytes of the JSON header, of the raw body
ALARM_SLACK_SECONDS = 10  # the parent kills first; the alarm is for a parent that is gone

Message = tuple[dict[str, Any], bytes]
_KINDS: dict[str, Callable[..., MediaPart]] = {"image": Image, "video": Video, "pdf": Page}


def policy_request(policy: MediaPolicy) -> Message:
    """The first message of every decode process."""
    roots = policy.allowed_roots
    return {
        **asdict(policy),
        "allowed_roots": None if roots is None else [str(root) for root in roots],
    }, b""


def decode_request(part: MediaPart, budget: MediaBudget, name: str | None) -> Message:
    """Ask for the pictures of a part whose source is a file or bytes."""
    source, body = _describe_source(part.source)
    options = {
        field.name: getattr(part, field.name) for field in fields(part) if field.name != "source"
    }
    header = {
        "operation": "decode",
        "kind": part_name(part),
        "source": source,
        "options": options,
        "budget": asdict(budget),
        "name": name,
    }
    return header, body


def page_request(operation: str, source: MediaSource, name: str | None, **options: Any) -> Message:
    """Ask for `page_count` or `page_text` of a PDF."""
    description, body = _describe_source(source)
    return {
        "operation": operation,
        "source": description,
        "options": options,
        "name": name,
    }, body


def _describe_source(source: object) -> tuple[str | None, bytes]:
    if isinstance(source, bytes):
        return None, source
    assert isinstance(source, Path), type(source)
    return str(source.absolute()), b""


def main() -> None:
    """Serve requests until the input ends."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # decoders print to 1 and 2; none may read our requests
        os.dup2(silence, descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    # pymupdf imports its page-layout model when it can; rendering never uses it, and loading it
    # takes longer than all the rest of a worker's start
    sys.modules.setdefault("pymupdf.layout", cast(ModuleType, None))
    first = _read(requests)
    if first is None:
        return
    policy = _policy(first[0])
    _limit_resources(policy)
    _write(answers, {"ready": True})
    while (message := _read(requests)) is not None:
        header, body = message
        limit = max(policy.timeout_seconds, policy.page_timeout_seconds)
        try:
            for answer, frames in _answers(header, body, policy):
                signal.alarm(0)
                _write(answers, answer, frames)
                signal.alarm(math.ceil(limit) + ALARM_SLACK_SECONDS)
        except InputError as error:
            _write(answers, {"error": _describe_error(error)})
        except MissingDependencyError as error:
            _write(answers, {"missing": [error.package, error.extra]})
        except MemoryError:
            _write(answers, {"error": {"code": "out_of_memory", "detail": _MEMORY_TEXT}})
        except Exception as error:  # a defect of ours must cost one item, not the process
            detail = f"the decoder failed with {type(error).__name__}"
            _write(answers, {"error": {"code": "decoder_crash", "detail": detail}})
        finally:
            signal.alarm(0)


_MEMORY_TEXT = "decoding needs more memory than the media policy allows (memory_bytes)"


def _policy(header: Mapping[str, Any]) -> MediaPolicy:
    roots = header["allowed_roots"]
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in header.items()
    }
    values["allowed_roots"] = None if roots is None else tuple(Path(root) for root in roots)
    return MediaPolicy(**values)  # type: ignore[arg-type]


def _limit_resources(policy: MediaPolicy) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, policy.memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _answers(
    header: Mapping[str, Any], body: bytes, policy: MediaPolicy
) -> Iterator[tuple[dict[str, Any], DecodedMedia | None]]:
    operation = header["operation"]
    source = body if header["source"] is None else Path(header["source"])
    limit = policy.timeout_seconds if header.get("kind") != "pdf" else policy.page_timeout_seconds
    signal.alarm(math.ceil(limit) + ALARM_SLACK_SECONDS)
    if operation == "decode":
        part = _KINDS[header["kind"]](source, **header["options"])
        budget = MediaBudget(**header["budget"])
        for piece in decode(part, budget, policy, name=header["name"]):
            yield (
                {
                    "shapes": [frame.shape for frame in piece.frames],
                    "timestamps": piece.timestamps,
                    "pages": piece.pages,
                    "warnings": piece.warnings,
                },
                piece,
            )
        yield {"done": True}, None
        return
    from mmembed.inputs import documents

    readers: dict[str, Callable[..., Any]] = {
        "page_count": documents.page_count,
        "page_text": documents.page_text,
    }
    value = readers[operation](source, policy, name=header["name"], **header["options"])
    yield {"value": value}, None


def _describe_error(error: InputError) -> dict[str, Any]:
    return {
        "code": error.code,
        "detail": error.detail,
        "part": error.part,
        "source": error.source,
        "index": error.index,
    }


def _read(stream: BinaryIO) -> Message | None:
    lengths = _read_exactly(stream, LENGTHS.size)
    if lengths is None:
        return None
    header_length, body_length = LENGTHS.unpack(lengths)
    header = _read_exactly(stream, header_length)
    body = _read_exactly(stream, body_length)
    if header is None or body is None:
        return None
    return json.loads(header), body


def _read_exactly(stream: BinaryIO, count: int) -> bytes | None:
    """`count` bytes, or None when the other side is gone."""
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        received = stream.readinto(view)  # type: ignore[attr-defined]
        if not received:
            return None
        view = view[received:]
    return bytes(buffer)


def _write(stream: BinaryIO, header: dict[str, Any], media: DecodedMedia | None = None) -> None:
    frames = media.frames if media is not None else ()
    encoded = json.dumps(header).encode()
    lengths = LENGTHS.pack(len(encoded), sum(frame.nbytes for frame in frames))
    for chunk in (lengths + encoded, *(frame.reshape(-1) for frame in frames)):
        view = memoryview(chunk)  # type: ignore[arg-type]
        while view:
            view = view[stream.write(view) :]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)  # the parent is gone
