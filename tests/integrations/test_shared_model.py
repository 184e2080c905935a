"""Components hold a model by name; what is copied or written is the name and the space."""

from __future__ import annotations

import gc
import pickle
import shutil
import weakref

import pytest
from safetensors.torch import load_file, save_file

from mmembed import Embedder
from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import ConfigError, SpaceMismatchError
from mmembed.integrations.shared_model import SharedModel


def test_a_model_by_name_is_loaded_when_it_is_used_and_once_for_all_that_name_it(tiny_checkpoint):
    one, other = SharedModel(str(tiny_checkpoint)), SharedModel(tiny_checkpoint)
    different = SharedModel(tiny_checkpoint, options={"num_workers": 1})
    assert not one.is_loaded and not other.is_loaded
    assert one.embedder is other.embedder
    assert one.embedder is not different.embedder


def test_a_folder_that_was_written_again_is_loaded_again(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    before = SharedModel(folder)
    assert SharedModel(folder).embedder is before.embedder
    fingerprint = before.embedder.fingerprint
    weights = folder / "model.safetensors"
    save_file({name: -values for name, values in load_file(weights).items()}, weights)
    assert SharedModel(folder).embedder.fingerprint != fingerprint


def test_the_last_component_that_goes_takes_the_model_with_it(tiny_checkpoint):
    model = SharedModel(tiny_checkpoint, options={"num_workers": 2})
    embedder = weakref.ref(model.embedder)
    del model
    gc.collect()
    assert embedder() is None


def test_vectors_are_those_of_encode_bit_by_bit(embedder):
    texts = ["a red apple", "a dog", "C:/no/path.png"]
    for role in ("query", "document"):
        found = SharedModel(embedder).encode(texts, role=role, instruction="Find: ")
        assert found == embedder.encode(texts, role=role, instruction="Find: ").tolist()
    assert SharedModel(embedder).encode([], role="query") == []


def test_a_copy_in_another_process_carries_no_weights(embedder):
    model = SharedModel(embedder)
    written = pickle.dumps(model)
    assert len(written) < 1000
    copy = pickle.loads(written)
    assert not copy.is_loaded and copy.name == str(embedder.folder)
    assert copy.fingerprint == embedder.fingerprint


def test_a_model_loaded_with_options_that_were_lost_is_refused_where_vectors_differ(
    tiny_checkpoint,
):
    with Embedder.from_pretrained(tiny_checkpoint, inputs={"max_tokens": 64}) as changed:
        restored = SharedModel(**SharedModel(changed).description())
    with pytest.raises(SpaceMismatchError, match="space"):
        restored.encode(["a dog"], role="query")


@pytest.mark.parametrize("asked", ["0" * 64])
def test_another_space_than_asked_for_is_refused_before_anything_is_encoded(embedder, asked):
    with pytest.raises(SpaceMismatchError, match="000000000000 was asked for"):
        SharedModel(embedder, fingerprint=asked)


def test_what_cannot_be_written_says_so(tiny_checkpoint, embedder):
    encoder, processor = load_encoder(tiny_checkpoint)
    with pytest.raises(ConfigError, match="save it first"):
        SharedModel(Embedder(encoder, processor)).description()
    processor.close()
    with pytest.raises(ConfigError, match="options cannot be written"):
        SharedModel(tiny_checkpoint, options={"media": object()}).description()
    with pytest.raises(ConfigError, match="allowed: an Embedder, a folder or a hub id"):
        SharedModel(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="loaded already"):
        SharedModel(embedder, options={"dtype": "float32"})
