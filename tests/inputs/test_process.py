"""Pictures cross from a decode process unchanged, and nothing that it claims is believed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.inputs import process
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, Page, Video
from tests import media_files as files

BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=16 * 784)


@pytest.mark.parametrize("way", ["slots", "small slots", "pipes"])
def test_pictures_are_equal_whichever_way_they_come(way, monkeypatch, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pymupdf")
    if way == "small slots":
        monkeypatch.setattr(process, "SLOT_BYTES", 16_384)
    if way == "pipes":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    path.write_bytes(files.encode_image(noise))  # its bytes fit in no small slot and no pipe
    parts = [
        Image(files.encode_image(files.photo())),
        Image(path.read_bytes()),
        Image(path),
        Video(files.video(12), num_frames=4),
        Page(files.pdf(6)),  # the next page is drawn while one is taken
        *(Image(files.encode_image(noise[: 60 * k])) for k in range(1, 11)),
    ]
    budgets = [BUDGET] * len(parts)
    inside = MediaDecoder(MediaPolicy(isolate=False)).decode_many(parts, budgets)
    with MediaDecoder() as decoder:
        outside = decoder.decode_many(parts, budgets)
    for left, right in zip(inside, outside, strict=True):
        assert len(left.frames) == len(right.frames)
        assert all((a == b).all() for a, b in zip(left.frames, right.frames, strict=True))


# A decode process that was taken over: it changes the answer about the picture 6 pixels wide.
LYING_WORKER = """
import json, os, struct

dumps, plain = json.dumps, struct.Struct
told = []

def lying_dumps(value, **options):
    told.clear()
    if isinstance(value, dict) and value.get("in_slot") and value["shapes"][0][1] in (6, 700):
        value = dict(value)
        told.append(None)
        HEADER
    return dumps(value, **options)

class LyingStruct(plain):
    def pack(self, *values):
        if self.format == "<Q" and told:
            told.append(values)
            POSITION
        return super().pack(*values)

json.dumps, struct.Struct = lying_dumps, LyingStruct
"""


@pytest.mark.parametrize(
    ("header", "position"),
    [
        ("value['in_slot'] = 0, 1 << 40", "pass"),
        ("value['in_slot'] = -9000, 0", "pass"),
        ("value['in_slot'] = 9000, 0", "pass"),
        ("value['in_slot'] = 9000", "pass"),
        ("value['in_slot'] = 'much'", "pass"),
        ("value['in_slot'] = 1, 9000", "pass"),
        ("value['shapes'] = [[1 << 20, 1 << 20, 3]]", "pass"),
        ("value['shapes'] = [[-1, -1, 3]]", "pass"),
        ("value['shapes'] = [[1, 1, 3]]", "pass"),
        ("value['shapes'] = 7", "pass"),
        ("del value['timestamps']", "pass"),
        ("pass", "values = [1 << 40]"),
        ("pass", "values = [0]"),
        ("pass", "if len(told) == 3: os.kill(os.getpid(), 9)"),
    ],
)
def test_a_process_that_lies_or_dies_while_it_answers_costs_only_its_item(
    header, position, tmp_path, monkeypatch
):
    text = LYING_WORKER.replace("HEADER", header).replace("POSITION", position)
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    wide = files.photo(700, 700) if "told" in position else files.photo(6, 500)
    pictures = [files.photo(), wide, files.photo(seed=1)]
    with MediaDecoder() as decoder:
        before, lied, after = decoder.decode_many(
            [Image(files.encode_image(one)) for one in pictures], [BUDGET] * 3
        )
    assert isinstance(lied, InputError) and lied.code == "decoder_crash"
    assert (before.frames[0] == pictures[0]).all() and (after.frames[0] == pictures[2]).all()
