"""Wrong options and damaged model folders are named before any work is done."""

from __future__ import annotations

import json
import shutil
from types import MappingProxyType

import numpy as np
import pytest
import torch

from mmembed.encoder.checkpoint import load_encoder, save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.sentence_transformers_layout import layout_problem
from mmembed.errors import CheckpointError, ConfigError, InputError
from mmembed.types import MultimodalInput


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    "options",
    [
        {"instruction": 3},
        {"prompt_name": ["x"]},
        {"prompt_name": "nobody"},
        {"prompt": "a", "instruction": "b"},
        {"role": "passage"},
        {"batch_size": 0},
        {"batch_size": True},
        {"batch_tokens": -1},
        {"truncate_dim": 8.0},
        {"truncate_dim": 65},
        {"precision": "int4"},
        {"precision": "int8", "on_error": "null"},
        {"precision": "int8", "normalize_embeddings": False},
        {"on_error": "ignore"},
        {"device": "nowhere"},
    ],
)
def test_wrong_encode_options_are_config_errors(embedder, options):
    with pytest.raises(ConfigError):
        embedder.encode(["a"], **options)


@pytest.mark.parametrize(
    "options",
    [{"device": "foo"}, {"dtype": "int8"}, {"dtype": torch.int64}, {"foo": 1}, {"num_workers": 0}],
)
def test_wrong_load_options_are_config_errors(tiny_checkpoint, options):
    with pytest.raises(ConfigError):
        Embedder.from_pretrained(tiny_checkpoint, **options)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("preprocessor_config.json", b"{"),
        ("tokenizer.json", b'{"version": "1.0"'),
        ("mmembed.json", b"{"),
        ("mmembed.json", b'{"format": 99}'),
        ("mmembed.json", b'{"format": 1, "inputs": []}'),
        ("model.safetensors", b"cut"),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_folder_is_a_checkpoint_error(tiny_checkpoint, tmp_path, name, content):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    if name == "preprocessor_config.json":
        (folder / "mmembed.json").unlink()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        load_encoder(folder)


def test_code_in_a_checkpoint_is_refused(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["auto_map"] = {"AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vision_config\.auto_map"):
        load_encoder(folder)


def test_missing_weights_are_refused_not_filled_with_random_ones(tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "q_proj.weight" in name))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing weights"):
        load_encoder(folder)


def test_a_vector_that_is_not_finite_is_an_error_of_its_item(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as broken:
        ids = broken.processor.prepare(MultimodalInput.of("苹果")).input_ids
        plain = set(broken.processor.prepare(MultimodalInput.of("a cat")).input_ids.tolist())
        special = next(int(i) for i in ids if int(i) not in plain)
        with torch.no_grad():
            table = broken.encoder.backbone.model.get_input_embeddings().weight
            table[special] = float("nan")
        vectors, report = broken.encode(["a cat", "苹果"], on_error="null", return_report=True)
        assert report.ok.tolist() == [True, False]
        assert [error.code for error in report.errors] == ["nonfinite"]
        assert np.isnan(vectors[1]).all()
        with pytest.raises(InputError, match=r"item 1: nonfinite"):
            broken.encode(["a cat", "苹果"])


def test_any_mapping_is_one_item(embedder):
    item = MappingProxyType({"text": "a cat"})
    assert np.array_equal(embedder.encode(item), embedder.encode({"text": "a cat"}))


def test_a_generator_gives_one_row_for_each_item(embedder):
    assert embedder.encode(text for text in ("a", "b", "c")).shape == (3, 64)


def test_text_that_grows_when_normalised_is_still_cut(tiny_checkpoint):
    with Embedder.from_pretrained(
        tiny_checkpoint, inputs={"max_tokens": 128}, num_workers=1
    ) as short:
        prepared = short.processor.prepare(MultimodalInput.of("\U0001d160" * 30))
    assert prepared.num_tokens <= 128
    assert prepared.truncated


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": {"position_ids": "flat"}},
        {"inputs": {"resize_passes": 2}},
        {"encoder": {"truncate_dim": 16}},
    ],
)
def test_a_model_that_peers_cannot_express_is_not_offered_to_them(
    tiny_checkpoint, tmp_path, changed
):
    encoder, processor = load_encoder(tiny_checkpoint, **changed)
    assert layout_problem(processor.config, encoder.config)
    save_encoder(tmp_path / "saved", encoder, processor)
    assert not (tmp_path / "saved" / "modules.json").exists()
    processor.close()
