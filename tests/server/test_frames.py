"""How many frames of a clip a request may ask for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from mmembed import Embedder
from mmembed.server.engine import Encoded, EncodeEngine
from mmembed.server.settings import ServerSettings
from mmembed.types import MultimodalInput, Video
from tests import media_files


async def encoded(
    embedder: Embedder, items: list[MultimodalInput], settings: ServerSettings
) -> Encoded:
    engine = EncodeEngine(embedder, settings)
    engine.start()
    try:
        return await engine.encode(items, role="document")
    finally:
        await engine.stop(30)


def test_fps_may_ask_for_no_more_frames_than_num_frames(tiny_checkpoint: Path) -> None:
    clip = media_files.video(40, fps=4)  # 10 seconds
    settings = ServerSettings(max_frames=8)
    policy = settings.media_policy()
    options: list[dict[str, Any]] = [{"fps": 1.0}, {"fps": 0.8}, {"fps": 2.0, "end": 3.0}, {}]
    items = [MultimodalInput((Video(clip, **each),)) for each in options]
    frames = tuple(media_files.encode_image(media_files.photo(seed=n)) for n in range(8))
    items.append(MultimodalInput((Video(frames, fps=2.0),)))
    with (
        Embedder.from_pretrained(tiny_checkpoint, media=policy, num_workers=1) as limited,
        Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as free,
    ):
        found = asyncio.run(encoded(limited, items, settings))
        assert limited.fingerprint == free.fingerprint
        np.testing.assert_allclose(found.vectors[1:], free.encode(items[1:]), rtol=0, atol=1e-5)
    assert list(found.errors) == [0] and found.errors[0].code == "too_many_frames"
    assert "10 frames" in str(found.errors[0]) and "allowed: 8" in str(found.errors[0])
