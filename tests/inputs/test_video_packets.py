"""Jumping to the needed packets gives exactly what reading through the file gives."""

from __future__ import annotations

import io
import re

import pytest

from mmembed.inputs.containers import open_container, video_stream
from mmembed.inputs.media import MediaPolicy, open_media
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.inputs.video_packets import LostPlaceError, Packets, scan_packets, walk_packets
from mmembed.types import Video
from tests import media_files as files

av = pytest.importorskip("av")
BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=64 * 784)
LONG = 250
GROUP = {"g": "25", "bf": "2", "sc_threshold": "0"}


class CountingFile(io.BytesIO):
    """Counts what is read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def walk(clip: bytes, begin, *, jump: bool, change=None):
    """Index and time stamp of the packets that come, and how many bytes were read for them."""
    with open_media(clip, MediaPolicy(), "video") as media:
        with open_container(media) as container:
            packets = scan_packets(media, container, video_stream(media, container))
        media.file = counting = CountingFile(clip)
        if change is not None:
            packets = change(packets)
        with open_container(media) as container:
            stream = video_stream(media, container)
            counting.count = 0
            walked = walk_packets(container, stream, packets, begin, jump=jump)
            return [(index, packet.pts, follows) for index, packet, follows in walked], counting


def noisy(number: int, width: int, height: int):
    """Frames that do not compress, so that a clip is larger than one read of FFmpeg."""
    import numpy as np

    frame = files.numbered_frame(number, width, height)
    noise = np.random.default_rng(number).integers(0, 40, frame.shape, dtype=np.uint8)
    return frame // 2 + noise


@pytest.fixture(scope="module", params=["mp4", "matroska", "fragmented", "mpegts", "avi"])
def clip(request) -> bytes:
    options = {"options": GROUP, "picture": noisy, "container": request.param}
    if request.param == "fragmented":
        fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        options |= {"container": "mp4", "container_options": fragments}
    if request.param == "avi":
        options |= {"codec": "mpeg4"}
    return files.video(LONG, **options)


@pytest.mark.parametrize("targets", [[0], [25], [200], [50, 125, 225], [225, 0]])
def test_jumping_gives_the_packets_that_reading_gives(clip, targets):
    def begin_at(targets):
        waiting = list(targets)

        def begin():
            return waiting[0]

        def step(index):
            if len(waiting) > 1 and index >= waiting[0] + 3:
                waiting.pop(0)

        return begin, step

    found = []
    for jump in (False, True):
        begin, step = begin_at(targets)
        with (
            open_media(clip, MediaPolicy(), "video") as media,
            open_container(media) as container,
        ):
            stream = video_stream(media, container)
            packets = scan_packets(media, container, stream)
            walked = []
            with open_container(media) as again:
                stream = video_stream(media, again)
                for index, packet, follows in walk_packets(
                    again, stream, packets, begin, jump=jump
                ):
                    walked.append((index, packet.pts, bytes(packet), follows))
                    step(index)
        found.append(walked)
    assert found[0] == found[1]
    assert found[0][0][0] == targets[0] or found[0][0][0] == max(targets[0], 0)


def test_a_jump_reads_less():
    clip = files.video(LONG, options=GROUP, picture=noisy)
    (through, all_of_it), (jumped, part) = (
        walk(clip, lambda: 225, jump=jump) for jump in (False, True)
    )
    assert [entry[:2] for entry in through] == [entry[:2] for entry in jumped]
    assert part.count < all_of_it.count / 3


def test_a_place_that_is_not_known_is_not_used():
    clip = files.video(LONG, options=GROUP)

    def elsewhere(packets: Packets) -> Packets:
        keys = [type(key)(key.index, key.pts, key.dts, 7) for key in packets.keys]
        return Packets(packets.stamps.tolist(), keys, [])

    with pytest.raises(LostPlaceError):
        walk(clip, lambda: 200, jump=True, change=elsewhere)


def test_an_index_that_lies_does_not_change_the_frames():
    clip = files.video(LONG, container="matroska", options=GROUP)
    start = clip.rindex(bytes.fromhex("1C53BB6B"))  # Cues
    places = [match.span() for match in re.finditer(rb"\xf1([\x82\x83])", clip[start:])]
    assert len(places) > 3
    lying = bytearray(clip)
    first, last = (start + places[index][1] for index in (0, -1))
    length = clip[first - 1] & 15
    assert clip[last - 1] == clip[first - 1]
    lying[last : last + length] = clip[first : first + length]
    decoder = MediaDecoder(MediaPolicy(isolate=False))
    for sampling in ("uniform", "keyframes"):
        part = {"start": 16.0, "num_frames": 4, "sampling": sampling}
        right, same = (
            decoder.decode(Video(data, **part), BUDGET)  # type: ignore[arg-type]
            for data in (clip, bytes(lying))
        )
        assert right.timestamps == same.timestamps
        assert all((a == b).all() for a, b in zip(right.frames, same.frames, strict=True))


def test_a_file_is_read_through_once_for_all_its_windows_and_again_when_it_changes(tmp_path):
    def scanned(path):
        with open_media(path, MediaPolicy(), "video") as media, open_container(media) as container:
            return scan_packets(media, container, video_stream(media, container))

    path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    path.write_bytes(files.video(20))
    other.write_bytes(files.video(30))
    first = scanned(path)
    assert scanned(path) is first
    assert len(scanned(other)) == 30 and len(scanned(path)) == 20
    path.write_bytes(files.video(21))
    assert len(scanned(path)) == 21
    data = path.read_bytes()
    assert scanned(data) is not scanned(data)


def test_windows_of_a_file_equal_windows_of_its_bytes(tmp_path):
    clip = files.video(LONG, options=GROUP)
    path = tmp_path / "long.mp4"
    path.write_bytes(clip)
    decoder = MediaDecoder(MediaPolicy(isolate=False))
    for start in (0.0, 4.0, 12.5):
        left, right = (
            decoder.decode(Video(source, start=start, end=start + 2, num_frames=4), BUDGET)
            for source in (path, clip)
        )
        assert left.timestamps == right.timestamps
        assert all((a == b).all() for a, b in zip(left.frames, right.frames, strict=True))
