"""The compressed pictures of a clip, as they are really in the file: times, key frames, damage.

First pass of `pyav_reader`, and how its second pass gets from one packet to the next. Headers lie
about counts, rates and durations, so a clip is read once without decoding anything. A long video
is embedded window after window: the list of its packets is kept for the next window.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import InputErrorCode
from mmembed.inputs.images import boxes_overrun
from mmembed.inputs.media import MediaFile

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["KeyPacket", "LostPlaceError", "Packets", "scan_packets", "walk_packets"]

_NO_TIME = np.iinfo(np.int64).min
# These find a place in the file through an index; others search for it and may miss it.
_INDEXED = ("mov", "matroska")
_MIN_JUMP = 8  # packets that must lie between before a jump costs less than reading them


_latest: tuple[tuple[int, ...], Packets] | None = None  # of the file that was scanned last


class LostPlaceError(Exception):
    """After a jump the container is at a packet that is not known."""


@dataclass(frozen=True, slots=True)
class KeyPacket:
    """A picture that can be decoded alone; `index` counts all packets in decode order."""

    index: int
    pts: int | None
    dts: int | None
    place: int | None


class Packets:
    """All packets that are meant to be shown, in decode order.

    Attributes:
        stamps: int64 (n,), the presentation time of each; see `has_time`.
        keys: those that are key frames.
        damaged: bool (n,), whether the container says that a packet is.
    """

    def __init__(self, stamps: list[int | None], keys: list[KeyPacket], damaged: list[int]) -> None:
        self.stamps = np.array([_NO_TIME if s is None else s for s in stamps], np.int64)
        self.keys = keys
        self.damaged = np.zeros(len(stamps), bool)
        self.damaged[damaged] = True
        self._indices = [key.index for key in keys]

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def usable(self) -> np.ndarray:
        """bool (n,): not damaged and with a time."""
        return ~self.damaged & (self.stamps != _NO_TIME)

    def has_usable_times(self) -> bool:
        stamps = self.stamps[self.usable]
        return len(np.unique(stamps)) > len(self) // 2 and len(stamps) >= len(self) * 0.9

    def start_for(self, stamp: int) -> int:
        """The packet index at which decoding must begin to get the picture of this time.

        That is the last key frame before it in decode order that is also displayed before it:
        pictures displayed before a key frame but stored after it depend on the group before. When
        there is none: -1, which takes in the packets that an edit list hides.
        """
        index = int(np.flatnonzero(self.stamps == stamp)[0])
        for key in reversed(self.keys[: bisect_right(self._indices, index)]):
            if key.pts is not None and key.pts <= stamp:
                return key.index
        return -1

    def key_at(self, index: int) -> KeyPacket | None:
        """The key frame with this index."""
        position = bisect_right(self._indices, index) - 1
        found = self.keys[position] if position >= 0 else None
        return found if found is not None and found.index == index else None


def scan_packets(media: MediaFile, container: InputContainer, stream: Any) -> Packets:
    """Read a clip through without decoding it.

    Raises:
        InputError: `corrupt`, `truncated` or `no_frames`.
    """
    import av.error

    global _latest
    identity = _identity(media)
    if _latest is not None and _latest[0] == identity:
        return _latest[1]
    stamps: list[int | None] = []
    keys: list[KeyPacket] = []
    damaged: list[int] = []
    num_hidden = 0
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_discard:
                num_hidden += 1
                continue
            if packet.is_keyframe:
                keys.append(KeyPacket(len(stamps), packet.pts, packet.dts, packet.pos))
            if packet.is_corrupt:
                damaged.append(len(stamps))
            stamps.append(packet.pts)
    except (av.error.FFmpegError, OSError, EOFError):
        identity = None  # what was read so far is what there is; the header's claims tell the loss
    if num_hidden > len(stamps) and stream.time_base >= 1:
        # a track without a time scale hides nearly all frames behind its edit list
        raise media.error("corrupt", "the track has no usable time scale")
    if not stamps:
        code: InputErrorCode = "truncated" if stream.frames or boxes_overrun(media) else "no_frames"
        raise media.error(code, "the video stream holds no frames")
    if len(damaged) == len(stamps):
        raise media.error("corrupt", "every frame of the clip is damaged")
    packets = Packets(stamps, keys, damaged)
    if identity is not None:
        _latest = identity, packets
    return packets


def _identity(media: MediaFile) -> tuple[int, ...] | None:
    """What tells the opened file from all others and from itself changed; None of bytes."""
    if media.path is None:
        return None
    status = os.fstat(media.file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def walk_packets(
    container: InputContainer,
    stream: Any,
    packets: Packets,
    begin: Callable[[], int],
    *,
    jump: bool = True,
) -> Iterator[tuple[int, Any, bool]]:
    """(index, packet, whether it follows another) of the packets that are needed.

    `begin()` is the index of the first packet that is needed from now on; what lies before it is
    jumped over where the container has an index, else read.

    Raises:
        LostPlaceError: start again without `jump`.
    """
    import av.error

    jump = jump and container.format.name.startswith(_INDEXED)
    index, follows = -1, True
    source = container.demux(stream)
    while True:
        target = begin()
        landed = False
        if jump and target - index > _MIN_JUMP and (key := packets.key_at(target)) is not None:
            # MP4 is indexed by decode time, Matroska by presentation time
            time = key.pts if container.format.name.startswith("matroska") else key.dts
            if time is not None:
                try:
                    container.seek(time, stream=stream)
                except (av.error.FFmpegError, OSError, EOFError, OverflowError):
                    raise LostPlaceError from None
                source = container.demux(stream)
                landed = True
        try:
            packet = next(source)
        except (StopIteration, av.error.FFmpegError, OSError, EOFError):
            if landed:
                raise LostPlaceError from None
            return
        if landed:
            place = _place_of(packet, packets, target)
            jump = place > index  # an index with gaps: do not go back again
            index, follows = place - 1, False
        if not packet.size:
            return
        if not packet.is_discard:
            index += 1
        if index < target:
            follows = False
            continue
        yield index, packet, follows
        follows = True


def _place_of(packet: Any, packets: Packets, target: int) -> int:
    """The index of the key frame that a jump led to, at or before the target."""
    if packet.size and not packet.is_discard and packet.pos is not None:
        position = bisect_right(packets.keys, target, key=lambda key: key.index)
        for key in reversed(packets.keys[:position]):
            if key.place == packet.pos and key.pts == packet.pts:
                return key.index
    raise LostPlaceError
