"""The default video reader: FFmpeg through PyAV, frames by time stamp.

Called by `video.decode_video`. FFmpeg reads our own opened file and never sees a name or an
address, so a playlist cannot lead it anywhere. A first pass (`video_packets`) lists the packets
that are really there; the second decodes what leads to the chosen frames and scales those
(`frame_scaling`). Groups of pictures without a chosen frame are jumped over or read without
decoding, and pictures that nothing depends on are skipped: the frames are those that decoding
everything gives. One thread decodes a clip: more gain little on one clip and cost more in all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmembed.errors import InputErrorCode
from mmembed.inputs.containers import open_container, video_stream
from mmembed.inputs.frame_scaling import FrameScaler
from mmembed.inputs.media import DecodedMedia, MediaFile, MediaPolicy
from mmembed.inputs.sampling import choose_frames, choose_key_frames
from mmembed.inputs.sizing import MediaBudget, check_aspect_ratio
from mmembed.inputs.video_packets import LostPlaceError, Packets, scan_packets, walk_packets
from mmembed.types import Video

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

__all__ = ["decode_with_pyav"]

T = TypeVar("T")

# Samples of these containers are whole pictures, so one can be skipped without harming another.
_WHOLE_SAMPLES = ("mov", "matroska", "ivf")


END_SLACK_SECONDS = 0.75  # durations count the last frame and may be rounded


@dataclass(frozen=True, slots=True)
class _Claims:
    """What the header promises; 0 where it promises nothing. Never used to choose frames."""

    num_frames: int
    seconds: float
    cut_packet: bool


def decode_with_pyav(
    media: MediaFile, part: Video, budget: MediaBudget, policy: MediaPolicy
) -> DecodedMedia:
    with open_container(media) as container:
        stream = video_stream(media, container)
        context = stream.codec_context
        media.check_pixels(context.width, context.height, policy)
        if context.width and context.height:
            check_aspect_ratio(context.height, context.width)
        packets = scan_packets(media, container, stream)
        claims = _claims(media, container, stream)
        clip = _Clip(media, packets, FrameScaler(media, policy, budget))
        time_base = float(stream.time_base) if stream.time_base else 0.0
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    notes: list[str] = []
    total = len(packets)
    timed = packets.has_usable_times()
    stamps = np.unique(packets.stamps[packets.usable]) if timed else np.arange(total)
    times = (stamps - stamps[0]) * time_base if timed else stamps / rate
    found: list[tuple[float, np.ndarray]]
    if part.sampling == "keyframes":
        fit = packets.usable if timed else ~packets.damaged
        keys = np.array([key.index for key in packets.keys if fit[key.index]], np.int64)
        if not len(keys):
            raise media.error(
                "no_frames", "no picture is marked as a key frame; use sampling='uniform'"
            )
        places = np.searchsorted(stamps, packets.stamps[keys]) if timed else keys
        chosen = choose_key_frames(times, places, part, budget, policy, notes)
        time_of = {int(keys[number]): float(times[places[number]]) for number in chosen}
        found = [(time_of[index], frame) for index, frame in clip.key_frames(sorted(time_of))]
        found.sort(key=lambda timed_frame: timed_frame[0])
    elif timed:
        chosen = choose_frames(times, part, budget, policy, notes)
        taken = clip.frames_at(stamps[chosen].tolist())
        found = [((stamp - int(stamps[0])) * time_base, frame) for stamp, frame in taken]
    else:
        for _ in range(2):  # again when some packets gave no picture of their own
            times = np.arange(total) / rate
            chosen = choose_frames(times, part, budget, policy, notes)
            found = [(index / rate, frame) for index, frame in clip.frames_numbered(chosen)]
            if clip.num_decoded in {0, total}:
                break
            total = clip.num_decoded
    if not found:
        code: InputErrorCode = "truncated" if claims.num_frames > len(packets) else "corrupt"
        raise media.error(code, "not one frame of the clip can be decoded")
    _report_losses(media, clip, claims, float(times[-1]), policy, notes)
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
    intact = int((~clip.packets.damaged).sum())
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


def _claims(media: MediaFile, container: InputContainer, stream: Any) -> _Claims:
    seconds = 0.0
    match = re.match(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska
    if match is not None:
        hours, minutes, rest = match.groups()
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    is_stream = container.format.name == "mpegts" and media.head[188:189] == b"G"
    return _Claims(stream.frames, seconds, is_stream and media.size % 188 != 0)


class _Clip:
    """The second pass over a clip: decode what leads to the chosen frames, scale, keep those.

    Attributes:
        num_decoded: pictures that came out of the last complete pass.
        num_errors: packets that the decoder refused in the last pass.
    """

    def __init__(self, media: MediaFile, packets: Packets, scaled: FrameScaler) -> None:
        self.media = media
        self.packets = packets
        self.num_decoded = 0
        self.num_errors = 0
        self._scaled = scaled
        self._jumps = True

    def frames_at(self, stamps: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """(time stamp, frame) nearest to each stamp, in order."""
        wanted = sorted(set(stamps))
        frames, exact = self._settled(lambda: self._collect(wanted, sparse=True))
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
        for number, frame in enumerate(self._decoded(lambda: -1)):
            if number in wanted:
                kept[number] = self._scaled(frame)
            last = frame
        self.num_decoded = number + 1
        if last is not None and numbers[-1] not in kept:
            kept[numbers[-1]] = self._scaled(last)
        return [(number, kept[number]) for number in numbers if number in kept]

    def key_frames(self, indices: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        """(packet index, frame) of these key frames, ascending; nothing else is decoded."""
        return self._settled(lambda: list(self._decoded_alone(indices)))

    def _settled(self, collect: Callable[[], T]) -> T:
        """What `collect` returns; again without jumps when one led to an unknown place."""
        try:
            return collect()
        except LostPlaceError:
            self._jumps = False
            return collect()

    def _decoded_alone(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        self.num_errors = 0
        pending = list(reversed(indices))
        with open_container(self.media) as container:
            stream = video_stream(self.media, container)
            context = stream.codec_context
            walk = walk_packets(
                container, stream, self.packets, lambda: pending[-1], jump=self._jumps
            )
            for index, packet, _ in walk:
                if index != pending[-1] or packet.is_discard:
                    continue
                num_errors = self.num_errors
                frames = [*self._pictures(context, packet), *self._pictures(context, None)]
                context.flush_buffers()
                self.num_errors = num_errors + (not frames or frames[0].is_corrupt)
                if frames:
                    yield index, self._scaled(frames[0])
                pending.pop()
                if not pending:
                    return

    def _collect(
        self, wanted: list[int], *, sparse: bool
    ) -> tuple[dict[int, tuple[int, np.ndarray]], bool]:
        """Nearest frame for each wanted stamp, and whether each was hit exactly."""
        frames: dict[int, tuple[int, np.ndarray]] = {}
        starts = [self.packets.start_for(stamp) if sparse else -1 for stamp in wanted]
        for number in reversed(range(len(starts) - 1)):
            starts[number] = min(starts[number : number + 2])
        num_found = 0
        exact = True
        previous: Any = None

        def keep(frame: Any) -> None:
            nonlocal exact, num_found
            stamp = wanted[num_found]
            exact = exact and _stamp(frame) == stamp and not frame.is_corrupt
            frames[stamp] = (_stamp(frame), self._scaled(frame))
            num_found += 1

        for frame in self._decoded(lambda: starts[num_found], set(wanted) if sparse else None):
            stamp = _stamp(frame)
            if stamp is None:
                continue
            while num_found < len(wanted) and stamp >= wanted[num_found]:
                earlier = previous is not None and (
                    wanted[num_found] - _stamp(previous) < stamp - wanted[num_found]
                )
                keep(previous if earlier else frame)
            if num_found == len(wanted):
                break
            previous = frame
        while num_found < len(wanted):
            if previous is None:
                exact = False
                break
            keep(previous)
        return frames, exact

    def _decoded(
        self, begin: Callable[[], int], wanted: set[int] | None = None
    ) -> Iterator[av.VideoFrame]:
        """Pictures in order of display, from packet `begin()` on; it may move on meanwhile.

        With `wanted`, pictures that nothing depends on are not decoded unless wanted themselves.
        """
        self.num_errors = 0
        with open_container(self.media) as container:
            stream = video_stream(self.media, container)
            context = stream.codec_context
            skips = wanted is not None and container.format.name.startswith(_WHOLE_SAMPLES)
            skipping = False
            walk = walk_packets(container, stream, self.packets, begin, jump=self._jumps)
            for _, packet, follows in walk:
                if not follows:
                    context.flush_buffers()
                if skips and skipping is (packet.pts is None or packet.pts in wanted):  # type: ignore[operator]
                    skipping = not skipping
                    context.skip_frame = "NONREF" if skipping else "DEFAULT"
                yield from self._pictures(context, packet)
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


def _stamp(frame: Any) -> Any:
    return frame.pts if frame.pts is not None else frame.dts
