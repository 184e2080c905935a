"""A CLIP small enough for tests, known to open_clip by the name `tiny-clip`."""

from __future__ import annotations

import json

import pytest

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> str:
    open_clip = pytest.importorskip("open_clip")
    path = tmp_path_factory.mktemp("open_clip") / "tiny-clip.json"
    path.write_text(json.dumps(TINY_CLIP), encoding="utf-8")
    open_clip.add_model_config(path)
    return "tiny-clip"
