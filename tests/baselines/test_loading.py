"""Models by name, and ours behind the common interface."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmembed.baselines.loading import load_model
from mmembed.baselines.our_model import OurModel
from mmembed.encoder.checkpoint import DESCRIPTION_FILE, save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import CheckpointError, ConfigError, InputError
from mmembed.types import Image, MultimodalInput, Text


def text(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


@pytest.fixture(scope="module")
def plain_checkpoint(tiny_checkpoint, tmp_path_factory) -> Path:
    """The same weights without settings of ours."""
    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / DESCRIPTION_FILE).unlink()
    return folder


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint):
    loaded = load_model(str(tiny_checkpoint), device="cpu", num_workers=1)
    yield loaded
    loaded.close()


def test_our_rows_are_those_of_the_embedder(encoder, tiny_checkpoint):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    items = [text("a cat"), text("a dog", "Find it: "), MultimodalInput((Image(pixels),))]
    with Embedder.from_pretrained(tiny_checkpoint, device="cpu", num_workers=1) as embedder:
        for role in ("query", "document"):
            rows = encoder.encode(items, role=role)
            expected = embedder.encode(items, role=role)
            np.testing.assert_allclose(rows, expected, atol=1e-6, rtol=0)
        assert encoder.space == embedder.space != embedder.fingerprint
    assert rows.shape == (3, encoder.embedding_dimension)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert encoder.encode([], role="query").shape == (0, encoder.embedding_dimension)
    assert encoder.encode(items, role=role).tobytes() == rows.tobytes()


def test_our_rows_have_unit_norm_whatever_the_folder_says(tiny_checkpoint, tmp_path):
    options = {"encoder": {"normalize": False}, "num_workers": 1}
    with Embedder.from_pretrained(tiny_checkpoint, **options) as embedder:
        save_encoder(tmp_path / "model", embedder.encoder, embedder.processor)
    loaded = load_model(tmp_path / "model", device="cpu", num_workers=1)
    row = loaded.encode([text("a cat")], role="query")[0]
    assert abs(float(np.linalg.norm(row)) - 1) < 1e-6


def test_a_bad_item_is_named_by_its_place(encoder):
    with pytest.raises(InputError) as error:
        encoder.encode([text("a cat"), MultimodalInput((Image(b"none"),))], role="document")
    assert error.value.index == 1


def test_what_is_said_about_a_model_is_json_and_enough_to_tell_it(encoder, plain_checkpoint):
    said = json.loads(json.dumps(encoder.describe()))
    assert said["fingerprint"] == encoder.embedder.fingerprint
    assert {"numerics", "attention", "pooling", "inputs", "device", "versions"} <= set(said)
    model = encoder.embedder.encoder.backbone.model
    assert said["num_parameters"] == model.num_parameters()
    assert said["modalities"] == ["text", "image", "video"]
    other = load_model(
        str(plain_checkpoint), device="cpu", dtype="bfloat16", profile_template="plain"
    )
    assert other.describe()["prompt_sha256"] != said["prompt_sha256"]
    assert other.space != encoder.space


def test_a_plain_checkpoint_takes_the_profiles_template_and_a_trained_folder_keeps_its_own(
    tiny_checkpoint, plain_checkpoint
):
    def prompt(folder, template):
        loaded = load_model(folder, device="cpu", num_workers=1, profile_template=template)
        return loaded.describe()["prompt"]

    assert prompt(plain_checkpoint, "qwen3_vl") == "qwen3_vl"
    assert prompt(plain_checkpoint, "plain") == "plain"
    own = prompt(tiny_checkpoint, None)
    assert own != "qwen3_vl"
    assert prompt(tiny_checkpoint, "qwen3_vl") == own
    with pytest.raises(ConfigError, match="shipped"):
        prompt(plain_checkpoint, "qwen3_vx")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("openclip:ViT-B-32:random", "did you mean 'open_clip'"),
        ("sentence_transformers:folder", "did you mean 'sentence-transformers'"),
        ("nowhere", "is not a folder"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_known(spec, words):
    with pytest.raises(CheckpointError, match=words):
        load_model(spec, device="cpu")


def test_a_folder_that_is_no_embedder_says_what_it_is_or_lacks(
    tiny_checkpoint, tiny_reranker, tmp_path
):
    with pytest.raises(CheckpointError, match="Reranker"):
        load_model(tiny_reranker, device="cpu", num_workers=1)
    shutil.copytree(tiny_checkpoint, tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"weights|safetensors"):
        load_model(tmp_path / "bare", device="cpu", num_workers=1)
    (tmp_path / "empty").mkdir()
    for spec in (tmp_path / "empty", f"sentence-transformers:{tmp_path / 'empty'}"):
        with pytest.raises(CheckpointError, match="empty"):
            load_model(spec, device="cpu", num_workers=1)


def test_items_whose_text_is_cut_are_counted(tiny_checkpoint):
    with Embedder.from_pretrained(
        tiny_checkpoint, inputs={"max_tokens": 300}, num_workers=1
    ) as short:
        model = OurModel(short)
        model.encode([text("a cat")], role="query")
        assert model.num_truncated == 0
        model.encode([text("word " * n) for n in (2000, 1, 3000)], role="query")
        assert model.num_truncated == 2
        model.encode([text("word " * 2500)], role="query")
        assert model.num_truncated == 3


def test_an_existing_folder_is_never_taken_for_another_kind(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "open_clip:model").symlink_to(tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    loaded = load_model("open_clip:model", device="cpu", num_workers=1)
    assert loaded.describe()["kind"] == "mmembed"
