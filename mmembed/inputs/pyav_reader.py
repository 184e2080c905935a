"""The default video reader: FFmpeg through PyAV, frames by time stamp.

Called by `video.decode_video`. FFmpeg reads our own opened file and never sees a name or an
address, so a playlist cannot lead it anywhere. A first pass lists the packets that are really
there (headers lie about counts, rates and durations); the second decodes what leads to the chosen
frames and scales those to the size that the model reads. Groups of pictures without a chosen
frame are read but not decoded, which gives what seeking gives without depending on an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import InputErrorCode
from mmembed.inputs.containers import open_container, video_stream
from mmembed.inputs.images import boxes_overrun
from mmembed.inputs.media import DecodedMedia, MediaFile, MediaPolicy
from mmembed.inputs.sampling import choose_frames
from mmembed.inputs.sizing import MediaBudget, check_aspect_ratio
from mmembed.types import Video

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

__all__ = ["decode_with_pyav"]

# Samples of these containers are whole pictures, so one can be skipped without harming another.
_WHOLE_SAMPLES = ("mov", "matroska", "ivf")


END_SLACK_SECONDS = 0.75  # durations count the last frame and may be rounded


@dataclass(frozen=True, slots=True)
class _Claims:
    """What the header promises; 0 where it promises nothing. Never used to choose frames."""

    num_frames: int
    seconds: float
    cut_packet: bool


@dataclass(frozen=True, slots=True)
class _Packet:
    """What is known of a compressed picture without decoding it; in decode order."""

    pts: int | None
    key: bool
    damaged: bool


def decode_with_pyav(
    media: MediaFile, part: Video, budget: MediaBudget, policy: MediaPolicy
) -> DecodedMedia:
    with open_container(media) as container:
        stream = video_stream(media, container)
        context = stream.codec_context
        media.check_pixels(context.width, context.height, policy)
        if context.width and context.height:
            check_aspect_ratio(context.height, context.width)
        packets = _scan(media, container, stream)
        claims = _claims(media, container, stream)
        clip = _Clip(media, policy, budget, packets)
        time_base = float(stream.time_base) if stream.time_base else 0.0
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    notes: list[str] = []
    found: list[tuple[float, np.ndarray]]
    if _has_usable_times(packets):
        stamps = sorted({p.pts for p in packets if p.pts is not None and not p.damaged})
        times = [(stamp - stamps[0]) * time_base for stamp in stamps]
        chosen = choose_frames(times, part, budget, policy, notes)
        taken = clip.frames_at([stamps[index] for index in chosen])
        found = [((stamp - stamps[0]) * time_base, frame) for stamp, frame in taken]
    else:
        total = len(packets)
        for _ in range(2):  # again when some packets gave no picture of their own
            times = [index / rate for index in range(total)]
            chosen = choose_frames(times, part, budget, policy, notes)
            found = [(index / rate, frame) for index, frame in clip.frames_numbered(chosen)]
            if clip.num_decoded in {0, total}:
                break
            total = clip.num_decoded
    if not found:
        code: InputErrorCode = "truncated" if claims.num_frames > len(packets) else "corrupt"
        raise media.error(code, "not one frame of the clip can be decoded")
    _report_losses(media, clip, claims, times[-1], policy, notes)
    return DecodedMedia(
        frames=tuple(frame for _, frame in found),
        timestamps=tuple(round(time, 6) for time, _ in found),
        warnings=tuple(notes),
    )


def _report_losses(
    media: MediaFile,
    clip: _Clip,
    claims: _Claims,
    last: float,
    policy: MediaPolicy,
    notes: list[str],
) -> None:
    """Compare what was read with what the header and the container promise."""
    intact = sum(not packet.damaged for packet in clip.packets)
    expected = max(claims.num_frames, len(clip.packets))
    code: InputErrorCode = "truncated"
    if intact < expected:
        text = f"partial video {intact}/{expected} frames"
    elif claims.seconds - last > END_SLACK_SECONDS:
        text = f"partial video {last:.1f}/{claims.seconds:.1f} s"
    elif claims.cut_packet:
        text = "partial video: the file ends inside a packet"
    elif clip.num_errors:
        code = "corrupt"
        text = f"partial video: {clip.num_errors} of {expected} frames are damaged"
    else:
        return
    if policy.strict_video:
        raise media.error(code, text)
    notes.append(text)


def _scan(media: MediaFile, container: InputContainer, stream: Any) -> list[_Packet]:
    """All packets of the stream that are meant to be shown."""
    import av.error

    packets: list[_Packet] = []
    num_hidden = 0
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                packets.append(_Packet(packet.pts, packet.is_keyframe, packet.is_corrupt))
            elif packet.size:
                num_hidden += 1
    except (av.error.FFmpegError, OSError, EOFError):
        pass  # what was read so far is what there is; the claims tell the loss
    if num_hidden > len(packets) and stream.time_base >= 1:
        # a track without a time scale hides nearly all frames behind its edit list
        raise media.error("corrupt", "the track has no usable time scale")
    if not packets:
        code: InputErrorCode = "truncated" if stream.frames or boxes_overrun(media) else "no_frames"
        raise media.error(code, "the video stream holds no frames")
    if all(packet.damaged for packet in packets):
        raise media.error("corrupt", "every frame of the clip is damaged")
    return packets


def _claims(media: MediaFile, container: InputContainer, stream: Any) -> _Claims:
    seconds = 0.0
    match = re.match(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska
    if match is not None:
        hours, minutes, rest = match.groups()
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    is_stream = container.format.name == "mpegts" and media.head[188:189] == b"G"
    return _Claims(stream.frames, seconds, is_stream and media.size % 188 != 0)


def _has_usable_times(packets: Sequence[_Packet]) -> bool:
    stamps = [p.pts for p in packets if p.pts is not None and not p.damaged]
    return len(set(stamps)) > len(packets) // 2 and len(stamps) >= len(packets) * 0.9


class _Clip:
    """The second pass over a clip: decode what leads to the chosen frames, scale, keep those.

    Attributes:
        num_decoded: pictures that came out of the last complete pass.
        num_errors: packets that the decoder refused in the last pass.
    """

    def __init__(
        self,
        media: MediaFile,
        policy: MediaPolicy,
        budget: MediaBudget,
        packets: Sequence[_Packet],
    ) -> None:
        self.media = media
        self.policy = policy
        self.budget = budget
        self.packets = packets
        self.num_decoded = 0
        self.num_errors = 0

    def frames_at(self, stamps: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """(time stamp, frame) nearest to each stamp, in order."""
        wanted = sorted(set(stamps))
        frames, exact = self._collect(wanted, sparse=True)
        if not exact:
            # a damaged or unusual stream: trust no key frame, decode everything in order
            frames, _ = self._collect(wanted, sparse=False)
        return [frames[stamp] for stamp in stamps if stamp in frames]

    def frames_numbered(self, numbers: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """(number, frame) of the pictures with these numbers in order of display."""
        kept: dict[int, np.ndarray] = {}
        wanted = set(numbers)
        number = -1
        last = None
        for number, frame in enumerate(self._decoded(lambda index: True)):
            if number in wanted:
                kept[number] = self._scaled(frame)
            last = frame
        self.num_decoded = number + 1
        if last is not None and numbers[-1] not in kept:
            kept[numbers[-1]] = self._scaled(last)
        return [(number, kept[number]) for number in numbers if number in kept]

    def _collect(
        self, wanted: list[int], *, sparse: bool
    ) -> tuple[dict[int, tuple[int, np.ndarray]], bool]:
        """Nearest frame for each wanted stamp, and whether each was hit exactly."""
        frames: dict[int, tuple[int, np.ndarray]] = {}
        pending = list(wanted)
        chains = self._chains(wanted) if sparse else {}
        exact = True
        previous: Any = None

        def needed(index: int) -> bool:
            return not sparse or any(chains[stamp] <= index for stamp in pending)

        def keep(stamp: int, frame: Any) -> None:
            nonlocal exact
            exact = exact and _stamp(frame) == stamp and not frame.is_corrupt
            frames[stamp] = (_stamp(frame), self._scaled(frame))

        for frame in self._decoded(needed, set(wanted) if sparse else None):
            stamp = _stamp(frame)
            if stamp is None:
                continue
            while pending and stamp >= pending[0]:
                earlier = previous is not None and (
                    pending[0] - _stamp(previous) < stamp - pending[0]
                )
                keep(pending.pop(0), previous if earlier else frame)
            if not pending:
                break
            previous = frame
        for stamp in pending:
            if previous is None:
                exact = False
                break
            keep(stamp, previous)
        return frames, exact

    def _chains(self, wanted: Sequence[int]) -> dict[int, int]:
        """For each stamp the packet index at which decoding must begin.

        That is the last key frame before it in decode order that is also displayed before it:
        pictures displayed before a key frame but stored after it depend on the group before.
        """
        targets = set(wanted)
        chains: dict[int, int] = {}
        keys: list[tuple[int, int]] = []
        for index, packet in enumerate(self.packets):
            if packet.key and packet.pts is not None:
                keys.append((index, packet.pts))
            if packet.pts in targets and packet.pts not in chains:
                chains[packet.pts] = next(
                    (start for start, shown in reversed(keys) if shown <= packet.pts), 0
                )
        return chains

    def _decoded(
        self, needed: Callable[[int], bool], wanted: set[int] | None = None
    ) -> Iterator[av.VideoFrame]:
        """Pictures in order of display, from the packets that are needed.

        With `wanted`, pictures that nothing depends on are not decoded unless wanted themselves.
        """
        import av.error

        self.num_errors = 0
        with open_container(self.media) as container:
            stream = video_stream(self.media, container)
            context = stream.codec_context
            skips = wanted is not None and container.format.name.startswith(_WHOLE_SAMPLES)
            index, idle = -1, True
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except (StopIteration, av.error.FFmpegError, OSError, EOFError):
                    break
                if not packet.size:
                    break
                if not packet.is_discard:
                    index += 1
                if not needed(index):
                    idle = True
                    continue
                if idle and index > 0:
                    context.flush_buffers()
                idle = False
                if skips:
                    plain = packet.pts is None or packet.pts in wanted  # type: ignore[operator]
                    context.skip_frame = "DEFAULT" if plain else "NONREF"
                yield from self._pictures(context, packet)
            if not idle:
                yield from self._pictures(context, None)

    def _pictures(self, context: Any, packet: Any) -> Iterator[av.VideoFrame]:
        import av.error

        try:
            yield from context.decode(packet)
        except MemoryError:
            raise self.media.error(
                "out_of_memory", "not enough memory for the frames of this clip"
            ) from None
        except (av.error.FFmpegError, OSError, EOFError, ValueError):
            self.num_errors += 1

    def _scaled(self, frame: Any) -> np.ndarray:
        """Upright RGB at the size that the budget asks for, scaled by FFmpeg in one step."""
        self.media.check_pixels(frame.width, frame.height, self.policy)
        swap, flip_x, flip_y = _display_moves(frame)
        height, width = float(frame.height), float(frame.width)
        aspect = _pixel_aspect(frame)
        width *= aspect
        rows, columns = self.budget.resize(*((width, height) if swap else (height, width)))
        if swap:
            rows, columns = columns, rows
        picture = frame.reformat(
            width=columns, height=rows, format="rgb24", interpolation="BICUBIC"
        ).to_ndarray()
        if swap:
            picture = picture.swapaxes(0, 1)
        if flip_x:
            picture = picture[:, ::-1]
        if flip_y:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)


def _stamp(frame: Any) -> Any:
    return frame.pts if frame.pts is not None else frame.dts


def _pixel_aspect(frame: Any) -> float:
    """Width of a pixel by its height; values no camera writes are taken as 1."""
    ratio = getattr(frame, "sample_aspect_ratio", None)
    value = float(ratio) if ratio else 1.0
    return value if 0.1 <= value <= 10.0 else 1.0


def _display_moves(frame: Any) -> tuple[bool, bool, bool]:
    """What the display matrix asks for: swap rows and columns, then mirror x, then mirror y.

    The matrix maps stored (x, y) to shown (a x + c y, b x + d y), in 16.16 fixed point
    (ISO/IEC 14496-12, 6.2.2). Cameras write multiples of 90 degrees and mirrors; others are
    rounded to the nearest of these.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
