"""The frames of a clip are the right ones, upright, at the size the budget asks for."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget, frame_indices
from mmembed.types import Video
from tests import media_files as files

pytest.importorskip("av")
BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=64 * 784)
decoder = MediaDecoder(MediaPolicy(isolate=False))
EIGHT_OF_60 = frame_indices(0, 59, 8)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return files.video()


def decode(source, *, policy=None, **options):
    chosen = MediaDecoder(MediaPolicy(isolate=False, **policy)) if policy else decoder
    return chosen.decode(Video(source, **options), BUDGET)


def numbers(source, **options):
    return [files.read_number(frame) for frame in decode(source, **options).frames]


def error(source, **options):
    with pytest.raises(InputError) as caught:
        decode(source, **options)
    assert caught.value.part == "video"
    return caught.value


# -- the right frames --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "12", "bf": "2"}),
        ("mp4", "libx264", {"g": "250", "bf": "3", "x264-params": "b-pyramid=normal"}),
        ("mp4", "libx264", {"g": "10", "bf": "2", "x264-params": "open-gop=1"}),
        ("mpegts", "libx264", {"g": "12", "bf": "2"}),
        ("matroska", "libx264", {"g": "12", "bf": "2"}),
        ("avi", "mpeg4", {"g": "12", "bf": "2"}),
        ("mp4", "mpeg4", {"g": "12", "bf": "2"}),
        ("mpegts", "mpeg2video", {"g": "12", "bf": "2"}),
        ("mpeg", "mpeg1video", {}),
        ("webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
        ("flv", "flv1", {}),
        ("matroska", "ffv1", {}),
    ],
)
def test_every_container_and_codec_gives_the_right_frames(container, codec, options):
    clip = files.video(60, fps=25, codec=codec, container=container, options=options)
    assert numbers(clip) == EIGHT_OF_60
    assert numbers(clip, num_frames=60) == list(range(60))
    assert numbers(clip, start=1.0, end=1.4, num_frames=3) == [25, 30, 35]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt"),
    [
        ("mp4", "libx265", "yuv420p"),
        ("mp4", "libx265", "yuv420p10le"),
        ("mp4", "libsvtav1", "yuv420p10le"),
        ("webm", "libsvtav1", "yuv420p"),
        ("mp4", "libx264", "yuv444p"),
        ("mov", "prores_ks", "yuv422p10le"),
        ("avi", "mjpeg", "yuvj420p"),
        ("webm", "libvpx", "yuv420p"),
    ],
)
def test_modern_and_deep_codecs_give_the_right_frames(container, codec, pix_fmt):
    clip = files.video(60, codec=codec, container=container, pix_fmt=pix_fmt, options={})
    assert numbers(clip) == EIGHT_OF_60
    assert numbers(clip, start=1.0, end=2.0, num_frames=3) == [15, 22, 30]


def test_sparse_decoding_equals_decoding_everything(clip):
    every = decode(clip, num_frames=60)
    for start, end in [(0.0, 0.1), (0.9, 1.3), (2.5, 3.933), (3.9, 9.0)]:
        part = decode(clip, start=start, end=end, num_frames=4)
        for time, frame in zip(part.timestamps, part.frames, strict=True):
            assert (frame == every.frames[round(time * 15)]).all()


def test_frames_come_scaled_with_their_times(clip):
    decoded = decode(clip, num_frames=5)
    assert {frame.shape for frame in decoded.frames} == {(*BUDGET.resize(96, 160), 3)}
    assert decoded.timestamps == tuple(round(n / 15, 6) for n in frame_indices(0, 59, 5))
    assert decoded.warnings == ()


def test_scaled_colours_are_those_of_the_picture():
    def picture(number, width, height):
        return np.full((height, width, 3), (200, 60, 30), np.uint8)

    (frame,) = decode(files.video(1, picture=picture)).frames
    assert np.abs(frame.reshape(-1, 3).mean(axis=0) - (200, 60, 30)).max() < 4


def test_fps_counts_as_qwen_vl_utils_does(clip):
    assert numbers(clip, fps=2) == frame_indices(0, 59, 8)
    assert numbers(clip, fps=0.01) == frame_indices(0, 59, 4)
    capped = decode(clip, fps=15, policy={"max_frames": 6})
    assert len(capped.frames) == 6 and "max_frames" in capped.warnings[0]


def test_windows_include_both_ends_and_may_hold_one_frame(clip):
    assert numbers(clip, start=1, end=2, num_frames=2) == [15, 30]
    assert numbers(clip, start=1, end=2, num_frames=3) == [15, 22, 30]
    assert numbers(clip, start=1.01, end=1.02) == [15]
    assert numbers(clip, end=0.0) == [0]
    assert numbers(clip, start=3.95) == [59]
    assert error(clip, start=10).code == "no_frames"


def test_variable_frame_rates_are_sampled_by_time():
    times = [number / 30 for number in range(30)] + [1.0 + number for number in range(30)]
    clip = files.video(60, fps=30, times=times)
    targets = np.linspace(0, times[-1], 8)
    expected = [int(np.abs(np.array(times) - target).argmin()) for target in targets]
    assert numbers(clip) == expected
    assert sum(number < 30 for number in expected) == 1


def test_a_clip_that_starts_late_starts_at_zero():
    times = [100 + number / 15 for number in range(30)]
    decoded = decode(files.video(30, times=times, container="mpegts"), num_frames=3)
    assert [files.read_number(frame) for frame in decoded.frames] == [0, 14, 29]
    assert decoded.timestamps[0] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_short_clips_give_the_frames_they_have(count):
    assert numbers(files.video(count)) == list(range(count))


@pytest.mark.parametrize("move", files.DISPLAY_MOVES)
def test_rotations_and_mirrors_are_applied(clip, move):
    upright = decode(clip, num_frames=2).frames
    shown = decode(files.with_display_matrix(clip, files.DISPLAY_MOVES[move]), num_frames=2).frames
    expected = {
        "rotate_90": lambda frame: np.rot90(frame, -1),
        "rotate_180": lambda frame: np.rot90(frame, 2),
        "rotate_270": lambda frame: np.rot90(frame, 1),
        "mirror": lambda frame: frame[:, ::-1],
        "flip": lambda frame: frame[::-1],
        "transpose": lambda frame: frame.swapaxes(0, 1),
    }[move]
    for before, after in zip(upright, shown, strict=True):
        assert (after == expected(before)).all()


def test_odd_and_tiny_sizes_work_and_strips_are_refused():
    assert numbers(files.video(4, size=(150, 98), codec="mpeg4")) == [0, 1, 2, 3]
    assert len(decode(files.video(3, size=(16, 16))).frames) == 3
    assert error(files.video(2, size=(2000, 8))).code == "aspect_ratio"


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_are_videos_when_asked(kind):
    pictures = [PILImage.fromarray(files.numbered_frame(number)) for number in range(6)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = files.encode_image(
        pictures[0], kind, save_all=True, append_images=pictures[1:], duration=100, **options
    )
    decoded = decode(data, num_frames=3)
    assert [files.read_number(frame) for frame in decoded.frames] == [0, 2, 5]
    assert decoded.timestamps == pytest.approx((0.0, 0.2, 0.5))
    assert decoded.frames[0].shape[:2] == BUDGET.resize(96, 160)


def test_decord_takes_the_frames_of_qwen_vl_utils(clip):
    pytest.importorskip("decord")
    policy = {"video_reader": "decord"}
    assert numbers(clip, policy=policy) == EIGHT_OF_60
    assert numbers(clip, policy=policy, num_frames=5) == frame_indices(0, 59, 4)
    assert numbers(clip, policy=policy, start=1, end=2, num_frames=4) == [15, 20, 25, 30]
    stream = files.video(container="mpegts")
    assert error(stream, policy=policy).code == "unsupported_format"


# -- lists of frames ---------------------------------------------------------------------------


def test_a_list_of_frames_is_used_whole_and_evenly_when_asked():
    frames = tuple(files.numbered_frame(number) for number in range(20))
    assert numbers(frames) == list(range(20))
    assert numbers(frames, num_frames=4) == frame_indices(0, 19, 4)
    assert numbers(frames, fps=1) == frame_indices(0, 19, 10)
    assert numbers(frames, start=2, end=4) == [4, 5, 6, 7, 8]
    assert decode(frames, num_frames=2).timestamps == (0.0, 9.5)


def test_frames_may_be_files_bytes_and_pictures(tmp_path):
    path = tmp_path / "f.png"
    path.write_bytes(files.encode_image(files.numbered_frame(7)))
    frames = (path, files.encode_image(files.numbered_frame(8)), files.numbered_frame(9))
    assert numbers(frames) == [7, 8, 9]


def test_a_bad_frame_of_a_list_is_named(tmp_path):
    frames = (files.numbered_frame(0), tmp_path / "absent.png")
    found = error(frames)
    assert (found.code, found.index, found.source) == ("not_found", ("frames", 1), "absent.png")
    assert found.at(3).index == (3, "frames", 1)


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 1, "num_frames": 2},
        {"fps": 0},
        {"fps": math.nan},
        {"num_frames": 0},
        {"start": -1},
        {"start": 3, "end": 2},
    ],
)
def test_options_that_mean_nothing_are_refused(clip, options):
    assert error(clip, **options).code == "invalid_type"
    assert error((files.numbered_frame(0),), **options).code == "invalid_type"


def test_more_frames_than_the_policy_allows_are_refused(clip):
    assert error(clip, num_frames=9, policy={"max_frames": 8}).code == "too_many_frames"
    frames = (files.numbered_frame(0),) * 9
    assert error(frames, policy={"max_frames": 8}).code == "too_many_frames"
    assert error(clip, policy={"max_pixels": 100}).code == "too_many_pixels"


@pytest.mark.parametrize(
    ("codec", "container"), [("aac", "mp4"), ("pcm_s16le", "matroska"), ("mp2", "mpegts")]
)
def test_sound_without_pictures_has_no_video_stream(codec, container):
    assert error(files.audio(codec, container)).code == "no_video_stream"


def test_the_cover_of_a_song_is_no_video():
    assert error(files.song_with_cover()).code == "no_video_stream"


@pytest.mark.parametrize("kind", ["text", "html", "svg", "hls", "concat", "dash", "eps"])
def test_text_and_playlists_named_as_clips_are_refused(tmp_path, kind):
    path = tmp_path / "clip.mp4"
    path.write_bytes(files.text_named_as(kind))
    assert error(path).code == "unsupported_format"


def test_stills_and_documents_named_as_clips_are_refused(tmp_path):
    pytest.importorskip("pymupdf")
    for data in [
        files.encode_image(files.photo()),
        files.encode_image(files.photo(), "JPEG"),
        files.encode_image(files.photo(), "WEBP"),
        files.encode_image(files.photo(), "PPM"),  # FFmpeg would make a clip of one frame of these
        files.encode_image(files.photo(), "JPEG2000"),
        files.encode_image(files.photo(), "ICO"),
        files.pdf(1),
    ]:
        path = tmp_path / "clip.mp4"
        path.write_bytes(data)
        assert error(path).code == "unsupported_format"


def test_a_playlist_cannot_lead_to_another_file(tmp_path):
    (tmp_path / "secret.ts").write_bytes(files.video(8, container="mpegts"))
    for name in ["list.m3u8", "list.mp4"]:
        (tmp_path / name).write_bytes(files.text_named_as("hls"))
        assert error(tmp_path / name).code == "unsupported_format"


def test_a_clip_without_its_index_is_truncated(clip):
    assert error(clip[: len(clip) // 2]).code == "truncated"
    assert error(clip[:20]).code == "truncated"
    assert error(b"").code == "empty"


@pytest.mark.parametrize("container", ["mp4", "mpegts", "matroska", "avi"])
def test_of_a_cut_clip_the_frames_that_exist_are_given_with_a_warning(clip, container):
    whole = clip
    if container == "mp4":
        whole = files.with_index_first(clip)
        assert numbers(whole) == EIGHT_OF_60
    else:
        codec = "mpeg4" if container == "avi" else "libx264"
        whole = files.video(codec=codec, container=container)
    cut = whole[: len(whole) * 7 // 10 | 1]
    decoded = decode(cut)
    found = [files.read_number(frame) for frame in decoded.frames]
    assert found == frame_indices(0, found[-1], 8) and 10 < found[-1] < 55
    assert decoded.warnings[0].startswith("partial video")
    assert error(cut, policy={"strict_video": True}).code == "truncated"


@pytest.mark.parametrize(
    ("box", "offset", "value"),
    [
        (b"mdhd", 12, b"\0\0\0\0"),  # time scale 0
        (b"stsz", 8, b"\x7f\xff\xff\xff"),  # number of samples
        (b"stts", 8, b"\x7f\xff\xff\xff"),  # samples of this duration
        (b"mdhd", 16, b"\x7f\xff\xff\xff"),  # duration
        (b"mvhd", 16, b"\x7f\xff\xff\xff"),  # duration of the file
        (b"avc1", 24, b"\xff\xff\xff\xff"),  # width and height
        (b"stsc", 4, b"\x7f\xff\xff\xff"),
        (b"stco", 8, b"\x7f\xff\xff\xff"),  # place of the samples
    ],
)
def test_lies_in_the_header_give_an_error_or_the_right_frames(clip, box, offset, value):
    try:
        found = numbers(files.with_box_field(clip, box, offset, value))
    except InputError as refused:
        assert refused.code in {"corrupt", "truncated", "no_frames", "too_many_pixels"}
    else:
        assert found == EIGHT_OF_60


def test_damaged_clips_never_raise_foreign_errors(clip, capfd):
    random = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(clip)
        for place in random.integers(0, len(data), 8):
            data[place] = random.integers(0, 256)
        try:
            decode(bytes(data))
        except InputError as refused:
            assert "0x" not in str(refused)
    assert capfd.readouterr().err == ""


def test_a_clip_in_memory_and_on_disk_are_equal(tmp_path, clip):
    path = tmp_path / "clip.with.odd name"
    path.write_bytes(clip)
    assert all(
        (left == right).all()
        for left, right in zip(decode(path).frames, decode(clip).frames, strict=True)
    )
    assert io.BytesIO(clip).read() == path.read_bytes()
