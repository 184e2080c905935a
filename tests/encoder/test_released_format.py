"""The wire format of the released RzenEmbed inference code, end to end.

Prompt bytes, image and frame budgets, frames as images, two resizes, flat positions and last-token
pooling together: with the released weights this path gives the released vectors. Here it is
compared with that code's steps written out, on a random checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoProcessor, AutoTokenizer, Qwen2VLModel

from mmembed.encoder.embedder import Embedder
from mmembed.types import Image, MultimodalInput, Text, Video

GOLDEN = {
    entry["id"]: entry["string"]
    for entry in json.loads(
        (Path(__file__).parents[1] / "golden" / "losses.json").read_text(encoding="utf-8")
    )["templates"]
}
RELEASED = {
    "position_ids": "flat",
    "resize_passes": 2,
    "image_tokens": {"min": 256, "max": 1280},
    "frame_tokens": {"min": 160, "max": 180},
}
AREA = 28 * 28


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, inputs=RELEASED, num_workers=1) as loaded:
        assert loaded.processor.config.prompt.name == "rzen_release"
        yield loaded


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return PILImage.fromarray(noise).resize((width, height), PILImage.Resampling.BICUBIC)


def released_vector(folder, prompt, pictures, least, most):
    """fetch (Pillow resize to 4..16384 tokens), processor (resize again), plain inner model."""
    from qwen_vl_utils import smart_resize

    fetched = []
    for one in pictures:
        height, width = smart_resize(one.height, one.width, 28, 4 * AREA, 16384 * AREA)
        fetched.append(one.resize((width, height), PILImage.Resampling.BICUBIC))
    model = Qwen2VLModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    embeds_of = model.get_input_embeddings()
    features = grids = None
    if fetched:
        images = AutoProcessor.from_pretrained(folder).image_processor(
            images=fetched,
            size={"shortest_edge": least * AREA, "longest_edge": most * AREA},
            return_tensors="pt",
        )
        grids = images["image_grid_thw"]
        for grid in grids:
            prompt = prompt.replace("<|image_pad|>", "<|x|>" * (int(grid.prod()) // 4), 1)
        prompt = prompt.replace("<|x|>", "<|image_pad|>")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        embeds = embeds_of(ids)
        if fetched:
            features = model.visual(images["pixel_values"], grid_thw=grids).pooler_output
            embeds[ids == model.config.image_token_id] = features
        state = model.language_model(inputs_embeds=embeds).last_hidden_state[0, -1]
    vector = torch.nn.functional.normalize(state, dim=0).numpy()
    return vector, [] if grids is None else [int(grid.prod()) // 4 for grid in grids]


def test_text_query_equals_the_released_steps(embedder, tiny_checkpoint):
    item = MultimodalInput(
        (Text("Fresh fridge full of berries yogurt milk and snacks."),),
        "Find me an everyday image that matches the given caption: ",
    )
    expected, _ = released_vector(tiny_checkpoint, GOLDEN["rzen_query_text"], [], 0, 0)
    assert np.abs(embedder.encode_query(item) - expected).max() <= 1e-5


@pytest.mark.parametrize("size", [(150, 100), (450, 700), (56, 560)])
def test_image_document_equals_the_released_steps(embedder, tiny_checkpoint, size):
    one = picture(*size)
    item = MultimodalInput((Image(one),), "Represent the given image.")
    expected, tokens = released_vector(tiny_checkpoint, GOLDEN["rzen_cand_image"], [one], 256, 1280)
    assert all(256 <= count <= 1280 for count in tokens)
    assert np.abs(embedder.encode_document(item) - expected).max() <= 1e-5


def test_video_is_eight_separate_images_of_160_to_180_tokens(embedder, tiny_checkpoint):
    frames = [picture(240, 320, seed) for seed in range(8)]
    item = MultimodalInput((Video(tuple(frames)),), "Understand the content of the provided video.")
    expected, tokens = released_vector(
        tiny_checkpoint, GOLDEN["rzen_video_8_frames"], frames, 160, 180
    )
    assert len(tokens) == 8
    assert all(160 <= count <= 180 for count in tokens)
    assert np.abs(embedder.encode_document(item) - expected).max() <= 1e-5


def test_positions_are_flat_and_the_last_token_is_read(embedder):
    prepared = embedder.processor.prepare(MultimodalInput((Image(picture(60, 60)), Text("a"))))
    assert (prepared.position_ids == np.arange(prepared.num_tokens)).all()
    assert prepared.input_ids[-1] == embedder.processor.tokens.control_id("<|endoftext|>")
    assert embedder.encoder.config.pooling == "last_token"
