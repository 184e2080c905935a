"""Vectors of every architecture against a plain transformers forward of the same checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from mmembed.encoder.checkpoint import load_encoder, save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import CheckpointError, ConfigError, InputError
from mmembed.inputs.prompt import load_template
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import MultimodalInput, Text, Video
from tests.conftest import TINY_TEXTS
from tests.encoder.architectures import TEXT, VISION, build
from tests.encoder.plain_forward import PICTURE, PREFIX, SUFFIX, PlainForward, picture, prompt

ONE, TWO, THREE = picture(1), picture(2, 90, 50), picture(3, 40, 200)
BUDGET = {name: {"min": 4, "max": 16} for name in ("image_tokens", "frame_tokens")}
TEXTS = ["a red apple", "", "a dog in the rain and a cat on the mat " * 5, "x"]


class Model:
    """One architecture: its folder, our embedder, and the plain forward."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.embedder = Embedder.from_pretrained(folder, inputs=BUDGET, num_workers=1)
        self.plain = PlainForward(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("architectures")
    built: dict[str, Model] = {}

    def get(architecture: str) -> Model:
        if architecture not in built:
            built[architecture] = Model(build(root / architecture, architecture, TINY_TEXTS * 4))
        return built[architecture]

    yield get
    for model in built.values():
        model.embedder.close()


def assert_equal(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize("architecture", TEXT + VISION)
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_equal_a_padded_batch(models, architecture, side):
    model = models(architecture)
    theirs = model.plain.embed([prompt(text) for text in TEXTS], side=side)
    assert_equal(model.embedder.encode(TEXTS), theirs)


def items_with_pictures():
    """(our item, content of the prompt, its pictures)."""
    return [
        (ONE, PICTURE, [ONE]),
        ({"image": [ONE, TWO, THREE]}, PICTURE * 3, [ONE, TWO, THREE]),
        (["first", ONE, "then", TWO, "end"], f"first{PICTURE}then{PICTURE}end", [ONE, TWO]),
        ("only text", "only text", []),
        ({"video": [ONE, ONE, TWO]}, PICTURE * 3, [ONE, ONE, TWO]),
    ]


@pytest.mark.parametrize("architecture", VISION)
@pytest.mark.parametrize("number", range(5))
def test_each_kind_of_item_equals_a_plain_forward(models, architecture, number):
    item, content, pictures = items_with_pictures()[number]
    model = models(architecture)
    ours = model.embedder.encode([MultimodalInput.of(item)])
    assert_equal(ours, model.plain.embed([prompt(content)], [pictures]))


@pytest.mark.parametrize("architecture", VISION)
@pytest.mark.parametrize("side", ["left", "right"])
def test_mixed_items_equal_a_padded_batch_in_any_order(models, architecture, side):
    model = models(architecture)
    items = [MultimodalInput.of(item) for item, _, _ in items_with_pictures()]
    prompts = [prompt(content) for _, content, _ in items_with_pictures()]
    pictures = [pictures for _, _, pictures in items_with_pictures()]
    together = model.embedder.encode(items)
    assert_equal(together, model.plain.embed(prompts, pictures, side=side))
    order = [3, 0, 4, 2, 1]
    assert_equal(together[order], model.embedder.encode([items[i] for i in order]))
    assert_equal(together, np.stack([model.embedder.encode(item) for item in items]))
    cosines = together @ together.T - np.eye(len(items))
    assert cosines.max() < 0.99


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_mean_pooling_equals_the_mean_of_plain_states(models, architecture):
    model = models(architecture)
    with Embedder.from_pretrained(model.folder, encoder={"pooling": "mean"}, num_workers=1) as mean:
        ours = mean.encode(TEXTS)
    theirs = model.plain.embed([prompt(text) for text in TEXTS], pooling="mean")
    assert_equal(ours, theirs)


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_a_saved_folder_gives_equal_vectors_here_and_in_transformers(
    models, architecture, tmp_path
):
    model = models(architecture)
    items = TEXTS[:3] if architecture in TEXT else [TEXTS[0], ONE, {"image": THREE, "text": "x"}]
    save_encoder(tmp_path / "saved", model.embedder.encoder, model.embedder.processor)
    with Embedder.from_pretrained(tmp_path / "saved", num_workers=1) as again:
        assert_equal(model.embedder.encode(items), again.encode(items), 0.0)
        assert again.processor.config == model.embedder.processor.config
    _, report = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    reread = PlainForward(tmp_path / "saved").embed([prompt("a dog")])
    assert_equal(reread, model.plain.embed([prompt("a dog")]), 0.0)


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_sentence_transformers_loads_a_saved_folder_with_equal_vectors(
    models, architecture, tmp_path
):
    library = pytest.importorskip("sentence_transformers")
    model = models(architecture)
    save_encoder(tmp_path / "saved", model.embedder.encoder, model.embedder.processor)
    peer = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    items = ["a cat", "ünïcode 苹果\nnew line  two"]
    assert_equal(model.embedder.encode(items), peer.encode(items))
    if architecture in VISION:
        assert_equal(model.embedder.encode([ONE, THREE]), peer.encode([ONE, THREE]))


@pytest.mark.parametrize("architecture", TEXT)
def test_a_text_model_refuses_pictures_and_embeds_the_rest(models, architecture):
    embedder = models(architecture).embedder
    with pytest.raises(InputError, match=r"item 1 \(image\).*takes text only"):
        embedder.encode(["a dog", ONE])
    items = ["a dog", ONE, {"video": [ONE]}, {"text": "x", "image": ONE}, "x"]
    vectors, report = embedder.encode(items, on_error="null", return_report=True)
    assert report.ok.tolist() == [True, False, False, False, True]
    assert_equal(vectors[[0, 4]], embedder.encode(["a dog", "x"]))


@pytest.mark.parametrize("architecture", TEXT)
def test_a_text_tokenizer_needs_no_picture_tokens(models, architecture, tmp_path):
    folder = shutil.copytree(models(architecture).folder, tmp_path / "model")
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    kept = [entry for entry in fields["added_tokens"] if "vision" not in entry["content"]]
    fields["added_tokens"] = [entry for entry in kept if "_pad|" not in entry["content"]]
    path.write_text(json.dumps(fields), encoding="utf-8")
    with Embedder.from_pretrained(folder, num_workers=1) as embedder:
        assert_equal(embedder.encode(TEXTS), models(architecture).embedder.encode(TEXTS), 0.0)


def test_tensors_without_the_model_prefix_are_found(models, tmp_path):
    """As embedding models that were saved from the headless class are published."""
    folder = shutil.copytree(models("qwen3").folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    with Embedder.from_pretrained(folder, num_workers=1) as embedder:
        assert_equal(embedder.encode(TEXTS), models("qwen3").embedder.encode(TEXTS), 0.0)


def edited(source: Path, target: Path, **fields) -> Path:
    folder = shutil.copytree(source, target)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **fields}), encoding="utf-8")
    return folder


def test_another_architecture_is_refused_by_naming_the_supported_ones(models, tmp_path):
    folder = edited(models("qwen2").folder, tmp_path / "model", model_type="llama")
    with pytest.raises(
        CheckpointError,
        match="'llama' model; supported: qwen2, qwen3, qwen2_vl, qwen2_5_vl, qwen3_vl",
    ):
        load_encoder(folder)


def test_rotary_positions_that_follow_the_batch_are_refused(models, tmp_path):
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000000.0}
    folder = edited(models("qwen2").folder, tmp_path / "model", rope_scaling=scaling)
    with pytest.raises(CheckpointError, match="'dynamic'"):
        load_encoder(folder)


def test_more_vision_levels_than_decoder_layers_are_refused(models, tmp_path):
    folder = edited(models("qwen3_vl").folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["deepstack_visual_indexes"] = [0, 1, 2]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="3 vision levels for 3 decoder layers"):
        load_encoder(folder)


def test_sliding_layers_are_exact_within_the_window_and_refused_beyond(models, tmp_path):
    folder = edited(
        models("qwen2").folder,
        tmp_path / "model",
        use_sliding_window=True,
        sliding_window=64,
        max_window_layers=1,
    )
    with pytest.raises(ConfigError, match=r"sliding_window.*'max_tokens': 64"):
        load_encoder(folder)
    with Embedder.from_pretrained(folder, inputs={"max_tokens": 64}, num_workers=1) as embedder:
        theirs = PlainForward(folder).embed([prompt(text) for text in ("a dog", "x")])
        assert_equal(embedder.encode(["a dog", "x"]), theirs)


@pytest.mark.parametrize(("architecture", "given"), [("qwen2", {}), ("qwen2_vl", None)])
def test_a_geometry_that_contradicts_the_model_is_refused(models, architecture, given):
    with pytest.raises(CheckpointError, match=r"inputs\.geometry"):
        load_encoder(models(architecture).folder, inputs={"geometry": given})


def test_a_vision_model_without_processor_settings_is_refused(models, tmp_path):
    folder = shutil.copytree(models("qwen3_vl").folder, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="no preprocessor_config"):
        load_encoder(folder)


def native(folder: Path) -> Embedder:
    template = load_template("rzen_release").model_copy(update={"video_as": "video"})
    return Embedder.from_pretrained(folder, inputs={**BUDGET, "prompt": template}, num_workers=1)


def test_a_clip_is_refused_where_its_positions_would_need_seconds(models):
    with native(models("qwen2_5_vl").folder) as embedder:
        with pytest.raises(InputError, match="video_as to 'images'"):
            embedder.encode([{"video": [ONE, TWO]}])
        assert_equal(embedder.encode([ONE]), models("qwen2_5_vl").embedder.encode([ONE]), 0.0)


def test_a_clip_with_time_stamps_equals_the_model_called_with_video_inputs(models):
    model = models("qwen3_vl")
    frames = [picture(seed, 64, 96) for seed in range(5)]
    item = MultimodalInput((Video(tuple(frames)), Text("go")))
    with native(model.folder) as embedder:
        budget = MediaBudget(min_pixels=1, max_pixels=10**6)
        times = embedder.processor.decoder.decode(item.parts[0], budget).timestamps
        ours = embedder.encode([item])
    assert len(times) == 5
    times = [*times, times[-1]]
    clip = torch.stack([torch.from_numpy(np.array(f)).permute(2, 0, 1) for f in frames])
    size = {"shortest_edge": 1, "longest_edge": 10**9}
    videos = AutoProcessor.from_pretrained(model.folder).video_processor(
        videos=[torch.cat([clip, clip[-1:]])],
        do_sample_frames=False,
        do_resize=False,
        size=size,
        return_tensors="pt",
    )
    assert videos["video_grid_thw"].tolist() == [[3, 4, 6]]
    stretches = [
        f"<{(times[i] + times[i + 1]) / 2:.1f} seconds>"
        + "<|vision_start|>"
        + "<|video_pad|>" * 6
        + "<|vision_end|>"
        for i in (0, 2, 4)
    ]
    ids = model.plain.tokenizer(PREFIX + "".join(stretches) + "go" + SUFFIX, return_tensors="pt")
    model.plain.model.rope_deltas = None
    with torch.no_grad():
        states = model.plain.model(
            input_ids=ids["input_ids"],
            mm_token_type_ids=2 * (ids["input_ids"] == model.plain.model.config.video_token_id),
            pixel_values_videos=videos["pixel_values_videos"],
            video_grid_thw=videos["video_grid_thw"],
        ).last_hidden_state
    assert_equal(ours, torch.nn.functional.normalize(states[:, -1], dim=-1).numpy())
