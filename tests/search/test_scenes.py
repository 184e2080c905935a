"""Scene changes in clips that were made with known ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search import scenes
from mmembed.search.scenes import choose_cuts, find_scenes, frame_changes
from mmembed.types import Video
from tests import media_files

FPS = 15
SAMPLE_SECONDS = 0.27  # four frames a second, at the nearest of fifteen


@pytest.fixture(scope="module")
def decoder() -> Iterator[MediaDecoder]:
    with MediaDecoder() as opened:
        yield opened


def panning(cuts: Sequence[float]) -> Any:
    """A camera that moves over one picture after another."""

    def picture(number: int, width: int, height: int) -> np.ndarray:
        scene = sum(number >= cut * FPS for cut in cuts)
        return media_files.photo(2 * width, height, seed=scene)[:, number // 2 :][:, :width]

    return picture


def fading(number: int, width: int, height: int) -> np.ndarray:
    share = min(max(number / FPS - 4, 0) / 3, 1)
    one, other = (media_files.photo(width, height, seed=seed) for seed in (1, 2))
    return (one * (1 - share) + other * share).astype(np.uint8)


def clip(path: Path, seconds: float, picture: Any) -> Path:
    path.write_bytes(media_files.video(round(seconds * FPS), fps=FPS, picture=picture))
    return path


@pytest.mark.parametrize("cuts", [(), (3.0,), (3.0, 7.5, 8.9, 12.0)])
def test_each_cut_is_found_and_no_scene_shows_a_frame_of_another(
    tmp_path: Path, decoder: MediaDecoder, cuts: tuple[float, ...]
) -> None:
    path = clip(tmp_path / "clip.mp4", 15, panning(cuts))
    notes: list[str] = []
    found = find_scenes(path, 14.9, decoder, min_seconds=1.0, notes=notes)
    assert (len(found), notes) == (len(cuts) + 1, [])
    assert (found[0][0], found[-1][1]) == (0.0, 14.9)
    for cut, before, after in zip(cuts, found, found[1:], strict=False):
        assert before[1] < cut <= after[0] + 1e-6
        assert after[0] - before[1] <= SAMPLE_SECONDS


def test_a_slow_fade_is_no_cut(tmp_path: Path, decoder: MediaDecoder) -> None:
    path = clip(tmp_path / "fade.mp4", 12, fading)
    assert find_scenes(path, 11.9, decoder, min_seconds=1.0, notes=[]) == [(0.0, 11.9)]


def test_a_fade_of_one_colour_to_another_has_no_jumps() -> None:
    shades = np.linspace((200, 20, 20), (20, 20, 200), 48).astype(np.uint8)
    frames = [np.broadcast_to(shade, (8, 8, 3)) for shade in shades]
    scores = [frame_changes(one, other) for one, other in pairwise(frames)]
    assert max(scores) < scenes.MIN_SCORE / 2
    assert frame_changes(frames[0], frames[-1]) > 4 * scenes.MIN_SCORE


def test_a_long_video_is_read_in_chunks_that_change_nothing(
    tmp_path: Path, decoder: MediaDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(tmp_path / "clip.mp4", 15, panning((4.0, 9.0)))
    whole = find_scenes(path, 14.9, decoder, min_seconds=1.0, notes=[])
    monkeypatch.setattr(scenes, "_CHUNK_SECONDS", 2.0)
    in_chunks = find_scenes(path, 14.9, decoder, min_seconds=1.0, notes=[])
    assert np.allclose(whole, in_chunks, atol=SAMPLE_SECONDS)


class EndlessClip(MediaDecoder):
    """Another picture every ten seconds, for ever; some minutes cannot be decoded."""

    def __init__(self, broken: float = -1) -> None:
        super().__init__()
        self.broken = broken
        self.num_frames = 0

    def decode(self, part: object, budget: object) -> DecodedMedia:
        assert isinstance(part, Video) and part.fps and part.end is not None
        assert part.start is not None and part.end - part.start <= 60
        if part.start <= self.broken < part.end:
            raise InputError("decode_timeout", "took too long")
        times = np.arange(part.start, part.end, 1 / part.fps)
        self.num_frames += len(times)
        frames = [np.full((4, 4, 3), 80 * (int(time / 10) % 4), np.uint8) for time in times]
        return DecodedMedia(tuple(frames), timestamps=tuple(times.tolist()))


def test_what_is_read_of_a_video_of_ten_hours_is_bounded() -> None:
    decoder, notes = EndlessClip(), []
    found = find_scenes(Path("x.mp4"), 36_000.0, decoder, min_seconds=2, notes=notes)
    assert notes == ["scenes are looked for in the first 3 hours only"]
    assert decoder.num_frames <= scenes.MAX_SCAN_SECONDS * 4 + 200
    assert found[0] == (0.0, 9.75) and found[1][0] == 10.0
    assert found[-1][0] >= scenes.MAX_SCAN_SECONDS - 10 and found[-1][1] == 36_000.0


def test_a_minute_that_cannot_be_read_costs_its_own_scenes_and_is_told() -> None:
    notes: list[str] = []
    found = find_scenes(Path("x.mp4"), 180.0, EndlessClip(70), min_seconds=2, notes=notes)
    assert notes == ["no scenes looked for from 60 s on: took too long"]
    begins = [start for start, _ in found]
    assert begins == [0, 10, 20, 30, 40, 50, *range(130, 180, 10)]


def test_frames_differ_by_colour_and_by_place() -> None:
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
    assert frame_changes(black, black) == 0
    assert frame_changes(black, white) == pytest.approx(1)
    half = black.copy()
    half[:, :3] = 255
    assert frame_changes(half, half[:, ::-1]) == pytest.approx(0.5), "same colours, other places"


def test_a_cut_stands_out_from_what_is_around_it_and_keeps_its_distance() -> None:
    times = [number / 4 for number in range(80)]
    calm = [0.0] + [0.01] * 79
    assert choose_cuts(times, calm, min_seconds=1, end=20) == []
    one = list(calm)
    one[40] = 0.5
    assert choose_cuts(times, one, min_seconds=1, end=20) == [40]
    one[42] = 0.5  # half a second later
    assert choose_cuts(times, one, min_seconds=1, end=20) == [40]
    assert choose_cuts(times, one, min_seconds=10.1, end=20.7) == [42]
    restless = [0.0] + [0.3] * 79
    restless[40] = 0.6
    assert choose_cuts(times, restless, min_seconds=1, end=20) == []
    assert choose_cuts([], [], min_seconds=1, end=0) == []
