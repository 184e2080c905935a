"""Bidirectional attention: what it sees, and equality with plain transformers under a full mask."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmembed.encoder import checkpoint
from mmembed.encoder.checkpoint import load_encoder, read_description, save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.sentence_transformers_layout import layout_problem
from mmembed.errors import CheckpointError
from mmembed.inputs.collator import pack
from mmembed.types import MultimodalInput
from tests.conftest import TINY_TEXTS
from tests.encoder.architectures import TEXT, VISION, build
from tests.encoder.plain_forward import PICTURE, PlainForward, picture, prompt

BUDGET = {"image_tokens": {"min": 4, "max": 16}}
# of several lengths, some equal: packed attention makes batches of them
TEXTS = ["a dog", "the rain", "a dog", "a red apple moving left " * 4, "", "x", "a cat"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("architectures")
    return {name: build(root / name, name, TINY_TEXTS * 4) for name in TEXT + VISION}


def embedder(folder, attention, pooling="last_token"):
    encoder = {"attention": attention, "pooling": pooling}
    return Embedder.from_pretrained(folder, encoder=encoder, inputs=BUDGET, num_workers=1)


def assert_equal(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize("architecture", TEXT + VISION)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_last_token_moves_the_first_state_only_when_attention_is_bidirectional(
    folders, architecture, attention
):
    with embedder(folders[architecture], attention) as model:
        items = [model.processor.prepare(MultimodalInput.of(text)) for text in TEXTS]
        for chosen in ([3], list(range(len(items)))):  # alone, and with neighbours in the row
            at = chosen.index(3)
            batch = pack([items[number] for number in chosen])
            begin, end = batch["cu_seqlens"][at : at + 2].tolist()
            with torch.inference_mode():
                before = model.encoder.backbone.hidden_states(batch).clone()
                batch["input_ids"][end - 1] = batch["input_ids"][end - 2]
                moved = (model.encoder.backbone.hidden_states(batch) - before).abs().amax(1)
            assert moved[end - 1] > 1e-3
            if attention == "bidirectional":
                assert moved[begin:end].min() > 1e-4
            else:
                assert moved[begin : end - 1].max() <= 1e-6
            neighbours = torch.cat([moved[:begin], moved[end:]])
            assert neighbours.numel() == 0 or neighbours.max() <= 1e-6


@pytest.mark.parametrize("architecture", TEXT + VISION)
@pytest.mark.parametrize("pooling", ["last_token", "mean"])
def test_vectors_equal_plain_transformers_with_a_full_mask(folders, architecture, pooling):
    plain = PlainForward(folders[architecture])
    prompts, pictures = [prompt(text) for text in TEXTS], [[] for _ in TEXTS]
    items = list(TEXTS)
    if architecture in VISION:
        one, two = picture(1), picture(2, 90, 50)
        items += [["see", one, "and", two], one]
        prompts += [prompt(f"see{PICTURE}and{PICTURE}"), prompt(PICTURE)]
        pictures += [[one, two], [one]]
    items = [MultimodalInput.of(item) for item in items]
    with embedder(folders[architecture], "bidirectional", pooling) as model:
        ours = model.encode(items)
        assert_equal(ours, np.stack([model.encode(item) for item in items]))
    for side in ("left", "right"):
        options = {"side": side, "pooling": pooling}
        theirs = plain.embed(prompts, pictures, attention="bidirectional", **options)
        assert_equal(ours, theirs)
        causal = plain.embed(prompts, pictures, **options)
        assert np.abs(ours - causal).max() > 1e-3


def test_gradients_flow_from_the_first_state_to_the_last_token(folders):
    encoder, processor = load_encoder(
        folders["qwen3"], encoder={"attention": "bidirectional"}, num_workers=1
    )
    item = processor.prepare(MultimodalInput.of("a red apple"))
    processor.close()
    encoder.backbone.hidden_states(pack([item]))[0].sum().backward()
    gradient = encoder.backbone.model.get_input_embeddings().weight.grad
    assert gradient[item.input_ids[-1]].abs().max() > 0


def test_the_setting_is_saved_and_names_another_embedding_space(folders, tmp_path, caplog):
    with embedder(folders["qwen2"], "bidirectional") as model:
        expected = model.encode(TEXTS)
        save_encoder(tmp_path / "saved", model.encoder, model.processor)
        with embedder(folders["qwen2"], "causal") as causal:
            assert model.fingerprint != causal.fingerprint
    assert read_description(tmp_path / "saved")["encoder"]["attention"] == "bidirectional"
    with Embedder.from_pretrained(tmp_path / "saved", num_workers=1) as again:
        assert_equal(again.encode(TEXTS), expected, 0.0)


def test_no_files_for_sentence_transformers_which_would_attend_causally(folders, tmp_path, caplog):
    with embedder(folders["qwen2"], "bidirectional") as model:
        assert "causal" in layout_problem(model.processor.config, model.encoder.config)
        checkpoint._say_once.cache_clear()
        for name in ("saved", "again"):
            save_encoder(tmp_path / name, model.encoder, model.processor)
    assert caplog.text.count("not written for sentence-transformers") == 1
    assert not (tmp_path / "saved" / "modules.json").exists()


def test_an_unknown_attention_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="'causal' or 'bidirectional'"):
        load_encoder(folders["qwen2"], encoder={"attention": "both"})


def test_a_layer_that_cannot_be_switched_is_named():
    from mmembed.encoder.attention import set_causal

    with pytest.raises(CheckpointError, match="Linear has no self_attn"):
        set_causal([torch.nn.Linear(1, 1)], False)


def test_bidirectional_layers_with_a_window_see_the_whole_item(folders, tmp_path):
    """Items beyond the window are refused, so a window never cuts."""
    import shutil

    folder = shutil.copytree(folders["qwen2"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    options = {"inputs": {"max_tokens": 64}, "encoder": {"attention": "bidirectional"}}
    with (
        Embedder.from_pretrained(folder, num_workers=1, **options) as windowed,
        embedder(folders["qwen2"], "bidirectional") as whole,
    ):
        assert_equal(windowed.encode(["a dog"]), whole.encode(["a dog"]), 0.0)
