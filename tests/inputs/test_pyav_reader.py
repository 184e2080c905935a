"""Decoding only what is needed is exact at once, so that nothing is decoded twice."""

from __future__ import annotations

import pytest

from mmembed.inputs.containers import open_container, video_stream
from mmembed.inputs.frame_scaling import FrameScaler
from mmembed.inputs.media import MediaPolicy, open_media
from mmembed.inputs.pyav_reader import _Clip
from mmembed.inputs.sizing import MediaBudget
from mmembed.inputs.video_packets import KeyPacket, Packets, scan_packets
from tests import media_files as files

pytest.importorskip("av")
BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=64 * 784)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "12", "bf": "2"}),
        ("mp4", "libx264", {"g": "30", "bf": "3", "x264-params": "b-pyramid=normal"}),
        ("mp4", "libx264", {"g": "10", "bf": "2", "x264-params": "open-gop=1"}),
        ("matroska", "libx264", {"g": "12", "bf": "2"}),
        ("mpegts", "libx264", {"g": "12", "bf": "2"}),
        ("webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_each_frame_of_a_healthy_clip_is_hit_without_a_second_pass(container, codec, options):
    clip = files.video(60, codec=codec, container=container, options=options)
    policy = MediaPolicy()
    with open_media(clip, policy, "video") as media:
        with open_container(media) as opened:
            packets = scan_packets(media, opened, video_stream(media, opened))
        reader = _Clip(media, packets, FrameScaler(media, policy, BUDGET))
        stamps = sorted(packets.stamps.tolist())
        for numbers in ([0, 59], [7, 8, 31, 50], [13], [58], [11, 23, 35]):
            frames, exact = reader._collect([stamps[n] for n in numbers], sparse=True)
            assert exact and reader.num_errors == 0
            assert [files.read_number(frame) for _, frame in frames.values()] == numbers


def test_pictures_shown_before_a_key_frame_but_stored_after_it_begin_at_the_group_before():
    stamps = [0, 2, 1, 6, 4, 3, 5, 8, 7]  # the second key frame, 6, has 3 to 5 stored behind it
    keys = [KeyPacket(0, 0, None, None), KeyPacket(3, 6, None, None)]
    packets = Packets(list(stamps), keys, [])
    starts = {stamp: packets.start_for(stamp) for stamp in stamps}
    assert starts == {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 3, 7: 3, 8: 3}
    assert Packets([1, 2], [], []).start_for(2) == -1
