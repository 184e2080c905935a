"""Memory does not grow with the number of clips, pages and pictures that were embedded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmembed import Embedder
from mmembed.types import Image, MultimodalInput, Page, Video
from tests import media_files as files

pytestmark = pytest.mark.slow
NUM_ITEMS = 1000
WARM_ITEMS = 200  # until then allocators and caches still fill
MAX_GROWTH_MIB = 32.0


def resident_mib(pid: int | str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def children() -> list[str]:
    listings = Path("/proc/self/task").glob("*/children")
    return [child for listing in listings for child in listing.read_text().split()]


def test_memory_is_flat_over_a_thousand_clips_pages_and_pictures(tiny_checkpoint):
    pytest.importorskip("av")
    pytest.importorskip("pymupdf")
    clips = [files.video(30, options={"g": str(10 + n)}, size=(320, 192)) for n in range(4)]
    document = files.pdf(2)
    random = np.random.default_rng(0)
    items = []
    for number in range(NUM_ITEMS):
        kind = number % 4
        if kind == 0:
            part = Video(clips[number // 4 % 4], num_frames=4, start=number / 1e4)
        elif kind == 1:
            sampling = "keyframes"
            part = Video(clips[number // 4 % 4], sampling=sampling, start=number / 1e4)
        elif kind == 2:
            part = Page(document + b"%" + str(number).encode(), pages=str(1 + number % 2))
        else:
            pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            part = Image(files.encode_image(pixels))
        items.append(MultimodalInput((part,)))
    embedder = Embedder.from_pretrained(tiny_checkpoint, device="cpu", num_workers=2)
    own, theirs = [], []
    for start in range(0, NUM_ITEMS, 100):
        vectors = embedder.encode_document(items[start : start + 100], show_progress_bar=False)
        assert np.isfinite(vectors).all()
        own.append(resident_mib("self"))
        theirs.append(sum(map(resident_mib, children())))
    warm = WARM_ITEMS // 100 - 1
    assert max(own[warm:]) - own[warm] < MAX_GROWTH_MIB, own
    assert max(theirs[warm:]) - theirs[warm] < MAX_GROWTH_MIB, theirs
