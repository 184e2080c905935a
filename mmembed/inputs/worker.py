"""The decode process: reads requests from its standard input, answers on its standard output.

Started by `sandbox.MediaDecoder` as `python -P -B -m mmembed.inputs.worker`. A message is a pair
of lengths, a JSON header and raw bytes in both directions; nothing is ever unpickled. Each request
names a slot of `SharedSlots`: the bytes of the file may be there instead of in the message
(`body_bytes`), and the frames are put there when they fit (`in_slot`: from where to where). Behind
such an answer come positions in the slot, each when the frames are there as far as it says.

The process limits its own memory and file size, keeps no core, and silences what decoders print.
It ends when its input ends, so a dead parent leaves no orphan; should a decoder hang while the
parent dies, an alarm ends it.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.media import DecodedMedia, MediaPart, MediaPolicy, decode, join, part_name
from mmembed.inputs.shared_slots import SharedSlots
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, MediaSource, Page, Video

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "LENGTHS",
    "POSITION",
    "Message",
    "decode_request",
    "main",
    "page_request",
    "policy_request",
]

LENGTHS = struct.Struct("<IQ")  # bytes of the JSON header, of the raw body
POSITION = struct.Struct("<Q")
SHARED_BYTES = 1 << 19  # put in a slot between two positions
ALARM_SLACK_SECONDS = 10  # the parent kills first; the alarm is for a parent that is gone

Message = tuple[dict[str, Any], bytes]
_KINDS: dict[str, Callable[..., MediaPart]] = {"image": Image, "video": Video, "pdf": Page}


def policy_request(policy: MediaPolicy, shared: tuple[int, int, int] | None) -> Message:
    """The first message of every decode process; `shared`: the arguments of `SharedSlots.open`."""
    roots = policy.allowed_roots
    values = {
        **asdict(policy),
        "allowed_roots": None if roots is None else [str(root) for root in roots],
    }
    return {"policy": values, "shared": shared}, b""


def decode_request(
    part: MediaPart, budget: MediaBudget, name: str | None, share: tuple[int, int] = (0, 1)
) -> Message:
    """Ask for the pictures of a part whose source is a file or bytes; `share` (i, n): of a PDF."""
    source, body = _describe_source(part.source)
    options = {
        field.name: getattr(part, field.name) for field in fields(part) if field.name != "source"
    }
    header = {
        "operation": "decode",
        "kind": part_name(part),
        "source": source,
        "options": options,
        "budget": vars(budget),
        "name": name,
        "share": share,
    }
    return header, body


def page_request(operation: str, source: MediaSource, name: str | None, **options: Any) -> Message:
    """Ask for `page_count` or `page_blocks` of a PDF."""
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
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # decoders print to 1 and 2; none may read our requests
        os.dup2(silence, descriptor)
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which ends us
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    # pymupdf imports its page-layout model when it can; rendering never uses it, and loading it
    # takes longer than all the rest of a worker's start
    sys.modules.setdefault("pymupdf.layout", cast(ModuleType, None))
    first = _read(requests)
    if first is None:
        return
    policy = _policy(first[0]["policy"])
    shared = first[0]["shared"]
    slots = None if shared is None else SharedSlots.open(*shared)
    _limit_resources(policy)
    _write(answers, {"ready": True})
    while (message := _read(requests)) is not None:
        header, body = message
        if slots is not None and "body_bytes" in header:
            body = bytes(slots.view(header["slot"], 0, header["body_bytes"]))
        limit = max(policy.timeout_seconds, policy.page_timeout_seconds)
        used = 0
        try:
            for answer, frames in _answers(header, body, policy):
                signal.alarm(0)
                end = used + sum(frame.nbytes for frame in frames)
                if slots is not None and used < end <= slots.slot_bytes:
                    answer["in_slot"] = (used, end)
                    _share(answers, answer, frames, slots, header["slot"])
                    used = end  # the parent may still be copying: the next page goes behind
                else:
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
) -> Iterator[tuple[dict[str, Any], Sequence[np.ndarray]]]:
    operation = header["operation"]
    source = body if header["source"] is None else Path(header["source"])
    limit = policy.timeout_seconds if header.get("kind") != "pdf" else policy.page_timeout_seconds
    signal.alarm(math.ceil(limit) + ALARM_SLACK_SECONDS)
    if operation == "decode":
        part = _KINDS[header["kind"]](source, **header["options"])
        budget = MediaBudget(**header["budget"])
        share = tuple(header["share"])
        pieces = decode(part, budget, policy, name=header["name"], share=share)
        if header["kind"] == "pdf":
            for piece in pieces:
                yield _describe_media(piece, done=False), piece.frames
            yield {"done": True}, ()
        else:
            piece = join(pieces)
            yield _describe_media(piece, done=True), piece.frames
        return
    from mmembed.inputs import documents

    if operation == "page_blocks":
        for page in documents.page_blocks(source, policy, name=header["name"], **header["options"]):
            yield {"entry": page}, ()
        yield {"entries": True}, ()
        return
    assert operation == "page_count", operation
    value = documents.page_count(source, policy, name=header["name"], **header["options"])
    yield {"value": value}, ()


def _describe_media(media: DecodedMedia, *, done: bool) -> dict[str, Any]:
    return {
        "shapes": [frame.shape for frame in media.frames],
        "timestamps": media.timestamps,
        "pages": media.pages,
        "warnings": media.warnings,
        "done": done,
    }


def _describe_error(error: InputError) -> dict[str, Any]:
    return {
        "code": error.code,
        "detail": error.detail,
        "part": error.part,
        "source": error.source,
        "index": error.index,
    }


def _read(stream: BinaryIO) -> Message | None:
    """The next request, or None when the parent is gone."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header_length, body_length = LENGTHS.unpack(lengths)
    header, body = stream.read(header_length), stream.read(body_length)
    if len(header) < header_length or len(body) < body_length:
        return None
    return json.loads(header), body


def _write(stream: BinaryIO, header: dict[str, Any], frames: Sequence[np.ndarray] = ()) -> None:
    _write_all(stream, _encode(header, sum(frame.nbytes for frame in frames)))
    for frame in frames:
        _write_all(stream, _bytes_of(frame))


def _share(
    stream: BinaryIO,
    header: dict[str, Any],
    frames: Sequence[np.ndarray],
    slots: SharedSlots,
    slot: int,
) -> None:
    """An answer with its frames in a slot; the parent copies the first part during the second."""
    message = _encode(header, 0)
    position, end = header["in_slot"]
    told = position
    for pixels in map(_bytes_of, frames):
        for start in range(0, len(pixels), SHARED_BYTES):
            part = pixels[start : start + SHARED_BYTES]
            slots.put(slot, position, part)
            position += len(part)
            if position - told >= SHARED_BYTES or position == end:
                _write_all(stream, message + POSITION.pack(position))
                message, told = b"", position


def _encode(header: dict[str, Any], body_bytes: int) -> bytes:
    encoded = json.dumps(header).encode()
    return LENGTHS.pack(len(encoded), body_bytes) + encoded


def _write_all(stream: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _bytes_of(frame: np.ndarray) -> memoryview:
    return memoryview(frame.reshape(-1))  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)  # the parent is gone
