"""Several processes share the work of a call: none waits, and each fault costs its own item."""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia, MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, Video
from tests import media_files as files

BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=16 * 784)

# Loaded by the decode processes through PYTHONPATH: some pictures end the process.
CRASHING_DECODER = """
import os, signal
import PIL.Image

opening = PIL.Image.open

def open_or_crash(file, *arguments, **options):
    data = file.read()
    file.seek(0)
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return opening(file, *arguments, **options)

PIL.Image.open = open_or_crash
"""


def picture(number: int = 0, trailer: bytes = b"") -> bytes:
    return files.encode_image(files.photo(seed=number)) + trailer


def codes(outcomes) -> list[str]:
    return [one.code if isinstance(one, InputError) else "ok" for one in outcomes]


def test_a_call_of_many_items_replaces_processes_too():
    with MediaDecoder(MediaPolicy(items_per_worker=3)) as decoder:
        outcomes = decoder.decode_many([Image(picture(n)) for n in range(10)], [BUDGET] * 10)
        (process,) = decoder._pool._all
        assert process.served == 1
    assert codes(outcomes) == ["ok"] * 10


def test_what_becomes_of_pictures_is_the_outcome_and_they_are_not_kept():
    alive: list[int] = []
    frames: list[weakref.ref[np.ndarray]] = []

    def take(number: int, media: DecodedMedia) -> int:
        frames.append(weakref.ref(media.frames[0]))
        alive.append(sum(one() is not None for one in frames))
        if number == 5:
            raise InputError("invalid_type", "no sixes")
        return number

    parts = [Image(picture(number)) for number in range(9)]
    parts += [Image(b"bad"), Image(files.photo()), Video((picture(1), files.photo()))]
    takes = [partial(take, number) for number in range(12)]
    with MediaDecoder(num_workers=2) as decoder:
        outcomes = decoder.decode_many(parts, [BUDGET] * 12, takes)
    expected = [0, 1, 2, 3, 4, "no sixes", 6, 7, 8, "unsupported_format", 10, 11]
    found = [one if isinstance(one, int) else str(one) for one in outcomes]
    assert all(str(want) in str(one) for one, want in zip(found, expected, strict=True))
    assert len(alive) == 11 and max(alive) <= 3  # one of each worker, one of the caller


def test_a_defect_behind_the_decoder_is_raised_and_spoils_no_later_call():
    def take(_: DecodedMedia) -> None:
        raise ZeroDivisionError

    parts = [Image(picture(number)) for number in range(8)]
    with MediaDecoder(num_workers=2) as decoder:
        with pytest.raises(ZeroDivisionError):
            decoder.decode_many(parts, [BUDGET] * 8, [take] * 8)
        for outcome, number in zip(decoder.decode_many(parts, [BUDGET] * 8), range(8), strict=True):
            assert (outcome.frames[0] == files.photo(seed=number)).all()


def test_crashes_cost_only_their_items_when_several_processes_share_the_work(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(CRASHING_DECODER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    items = [picture(n, b"CRASH" if n % 3 == 1 else b"") for n in range(10)]
    with MediaDecoder(num_workers=2) as decoder:
        outcomes = decoder.decode_many([Image(one) for one in items], [BUDGET] * 10)
    assert codes(outcomes) == ["decoder_crash" if n % 3 == 1 else "ok" for n in range(10)]
    for number in (0, 2, 9):
        assert (outcomes[number].frames[0] == files.photo(seed=number)).all()
