"""Sampling of key frames: the nearest to the asked times, and nothing else is decoded."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sampling import choose_key_frames
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.store.content import content_key
from mmembed.types import MultimodalInput, Video
from tests import media_files as files

av = pytest.importorskip("av")
BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=64 * 784)
decoder = MediaDecoder(MediaPolicy(isolate=False))
FIXED = {"g": "12", "bf": "2", "sc_threshold": "0"}


def decode(source, **options):
    return decoder.decode(Video(source, sampling="keyframes", **options), BUDGET)


def numbers(source, **options):
    return [files.read_number(frame) for frame in decode(source, **options).frames]


def packets_of(clip: bytes):
    """(pts, whether a key frame, place, size) of every packet."""
    with av.open(io.BytesIO(clip)) as container:
        return [(p.pts, p.is_keyframe, p.pos, p.size) for p in container.demux(video=0) if p.size]


def key_numbers(clip: bytes) -> list[int]:
    packets = packets_of(clip)
    order = sorted(pts for pts, *_ in packets)
    return sorted(order.index(pts) for pts, is_key, *_ in packets if is_key)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return files.video(60, options=FIXED)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "12", "bf": "2"}),
        ("mp4", "libx264", {"g": "10", "bf": "2", "x264-params": "open-gop=1:scenecut=0"}),
        ("mp4", "libx264", {"g": "7", "bf": "3", "x264-params": "b-pyramid=normal:scenecut=0"}),
        ("mpegts", "libx264", {"g": "12", "bf": "2"}),
        ("matroska", "libx264", {"g": "12", "bf": "2"}),
        ("avi", "mpeg4", {"g": "12", "bf": "2"}),
        ("mpegts", "mpeg2video", {"g": "12", "bf": "2"}),
        ("webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
        ("flv", "flv1", {"g": "9"}),
        ("matroska", "ffv1", {}),
    ],
)
def test_every_container_and_codec_gives_its_key_frames_as_full_decoding_does(
    container, codec, options
):
    clip = files.video(60, fps=25, codec=codec, container=container, options=options)
    keys = key_numbers(clip)
    found = decode(clip, num_frames=60)
    assert [files.read_number(frame) for frame in found.frames] == keys
    every = decoder.decode(Video(clip, num_frames=60), BUDGET)
    for number, time, frame in zip(keys, found.timestamps, found.frames, strict=True):
        assert time == every.timestamps[number]
        assert (frame == every.frames[number]).all()


@pytest.mark.parametrize("container", ["h264", "ivf"])
def test_streams_without_an_index_give_their_key_frames(container):
    codec, options = ("libx264", FIXED) if container == "h264" else ("libvpx", {"g": "12"})
    clip = files.video(60, container=container, codec=codec, options=options)
    found = numbers(clip, num_frames=60)
    assert found == [0, 12, 24, 36, 48]


def test_the_nearest_key_frame_to_each_time_is_taken_once(clip):
    assert numbers(clip, num_frames=3) == [0, 24, 48]  # of 0, 29.5 and 59
    assert numbers(clip, num_frames=2) == [0, 48]
    assert numbers(clip) == [0, 12, 24, 36, 48]  # 8 frames asked
    assert decode(clip).warnings == ("took 5 key frames for 8 frames",)
    assert decode(clip, num_frames=2).warnings == ()
    assert decode(clip, fps=2).timestamps == pytest.approx([0, 0.8, 1.6, 2.4, 3.2])


def test_choosing_key_frames_equals_the_obvious_search():
    random = np.random.default_rng(0)
    for _ in range(200):
        times = np.cumsum(random.uniform(0.01, 0.1, 80)) - 0.005
        keys = np.sort(random.choice(80, random.integers(1, 30), replace=False))
        start = float(random.uniform(0, times[-1]))
        part = Video(b"", num_frames=int(random.integers(1, 9)), start=start, end=start + 2)
        chosen = choose_key_frames(times, keys, part, BUDGET, MediaPolicy(), [])
        inside = [key for key in keys if start <= times[key] <= start + 2]
        if not inside:
            inside = [key for key in keys if times[key] <= start + 0.1][-1:] or [keys[0]]
        window = [time for time in times if start <= time <= start + 2]
        asked = np.linspace(window[0], window[-1], min(part.num_frames, len(window)))
        frames = [times[np.abs(times - time).argmin()] for time in asked]
        expected = {min(inside, key=lambda key, t=time: abs(times[key] - t)) for time in frames}
        assert [keys[number] for number in chosen] == sorted(expected)


def test_a_window_takes_its_own_key_frames_or_the_last_before_it(clip):
    assert numbers(clip, start=1, end=2.5, num_frames=8) == [24, 36]
    assert numbers(clip, start=1, end=1.4, num_frames=4) == [12]
    assert numbers(clip, start=3.5) == [48]
    with pytest.raises(InputError, match="last frame"):
        decode(clip, start=10)


def test_what_lies_between_key_frames_is_not_decoded(clip):
    damaged = bytearray(clip)
    for _, is_key, place, size in packets_of(clip):
        if not is_key:
            damaged[place + 4 : place + size] = bytes(size - 4)
    whole, spoiled = decode(clip), decode(bytes(damaged))
    assert spoiled.warnings == whole.warnings
    for left, right in zip(whole.frames, spoiled.frames, strict=True):
        assert (left == right).all()


def test_a_damaged_key_frame_is_told_or_left_out(clip):
    place, size = [packet[2:] for packet in packets_of(clip) if packet[1]][2]
    for kept in (4, size // 2):
        damaged = bytearray(clip)
        damaged[place + kept : place + size] = bytes(size - kept)
        decoded = decode(bytes(damaged))
        found = [files.read_number(frame) for frame in decoded.frames]
        assert [number for number in found if number in (0, 12, 36, 48)] == [0, 12, 36, 48]
        if len(found) == 5:
            assert "partial video: 1 of 60 frames are damaged" in decoded.warnings


def test_damaged_clips_that_are_jumped_through_never_raise_foreign_errors(clip, capfd):
    random = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(clip)
        for place in random.integers(0, len(data), 8):
            data[place] = random.integers(0, 256)
        part = Video(bytes(data), start=1.7, sampling=("keyframes", "uniform")[number % 2])  # type: ignore[arg-type]
        try:
            decoder.decode(part, BUDGET)
        except InputError as refused:
            assert "0x" not in str(refused)
    assert capfd.readouterr().err == ""


def test_pictures_that_are_all_whole_are_sampled_evenly():
    frames = tuple(files.numbered_frame(number) for number in range(20))
    assert numbers(frames, num_frames=4) == [0, 6, 13, 19]
    pictures = [PILImage.fromarray(frame) for frame in frames[:6]]
    gif = files.encode_image(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    assert numbers(gif, num_frames=3) == [0, 2, 5]


def test_a_cut_clip_gives_the_key_frames_that_exist_with_a_warning(clip):
    cut = files.with_index_first(clip)
    decoded = decode(cut[: len(cut) * 7 // 10])
    found = [files.read_number(frame) for frame in decoded.frames]
    assert found == [0, 12, 24, 36, 48][: len(found)] and 1 < len(found) < 5
    assert any(text.startswith("partial video") for text in decoded.warnings)


def test_the_option_is_reachable_from_a_dict_and_other_values_are_refused(clip, tmp_path):
    item = MultimodalInput.of({"video": tmp_path / "a.mp4", "sampling": "keyframes", "fps": 1})
    assert item.parts == (Video(tmp_path / "a.mp4", fps=1.0, sampling="keyframes"),)
    with pytest.raises(InputError, match="'uniform' or 'keyframes'") as caught:
        decoder.decode(Video(clip, sampling="keyframe"), BUDGET)  # type: ignore[arg-type]
    assert caught.value.code == "invalid_type"
    with pytest.raises(InputError, match="str as sampling"):
        MultimodalInput.of({"video": tmp_path / "a.mp4", "sampling": 3})


def test_the_decord_reader_refuses_what_it_cannot_do(clip):
    with pytest.raises(InputError, match="use the pyav reader"):
        MediaDecoder(MediaPolicy(isolate=False, video_reader="decord")).decode(
            Video(clip, sampling="keyframes"), BUDGET
        )


def test_other_frames_are_other_content(clip):
    keys = {
        content_key(MultimodalInput((Video(clip, sampling=sampling),)), "document")  # type: ignore[arg-type]
        for sampling in ("uniform", "keyframes")
    }
    assert len(keys) == 2


def test_a_decode_process_gives_the_same_key_frames(clip):
    with MediaDecoder(MediaPolicy()) as isolated:
        outside = isolated.decode(Video(clip, sampling="keyframes"), BUDGET)
    inside = decode(clip)
    assert outside.timestamps == inside.timestamps and outside.warnings == inside.warnings
    assert all((a == b).all() for a, b in zip(outside.frames, inside.frames, strict=True))
