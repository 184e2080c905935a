"""Our vectors against a plain transformers forward of the same checkpoint, written out here.

The reference tokenises the whole prompt string, preprocesses with transformers' own image
processor, pads, and lets the model compute its own positions.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoProcessor, AutoTokenizer, Qwen2VLModel

from mmembed.encoder.checkpoint import save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import CheckpointError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.visuals import VisualReader
from mmembed.types import Image, MultimodalInput, Page, Text, Video

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
CLIP = "<|vision_start|><|video_pad|><|vision_end|>"
PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"


def picture(seed: int, height: int = 60, width: int = 80) -> PILImage.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return PILImage.fromarray(noise).resize((width, height), PILImage.Resampling.BICUBIC)


def page(tmp_path: Path) -> Path:
    pymupdf = pytest.importorskip("pymupdf")
    document = pymupdf.open()
    document.new_page(width=200, height=280).insert_text((30, 60), "Apple", fontsize=28)
    path = tmp_path / "page.pdf"
    document.save(path)
    return path


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


class Reference:
    """Plain transformers: one item at a time, or a padded batch."""

    def __init__(self, folder: Path) -> None:
        self.model = Qwen2VLModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = AutoProcessor.from_pretrained(folder).image_processor
        self.area = 28 * 28

    def pixels(self, pictures, least=16, most=16):
        size = {"shortest_edge": least * self.area, "longest_edge": most * self.area}
        return self.images(images=list(pictures), size=size, return_tensors="pt")

    def ids(self, text: str, grids) -> list[int]:
        for grid in grids:
            count = int(grid.prod()) // 4
            text = text.replace("<|image_pad|>", "<|placeholder|>" * count, 1)
        return self.tokenizer(text.replace("<|placeholder|>", "<|image_pad|>"))["input_ids"]

    @torch.no_grad()
    def embed(self, prompts, pictures, *, side="right", flat=False):
        """prompts[i] with pictures[i]; one padded batch. Returns (B, D)."""
        flat_pictures = [one for group in pictures for one in group]
        features = self.pixels(flat_pictures) if flat_pictures else {}
        grids = features.get("image_grid_thw", torch.zeros(0, 3, dtype=torch.long))
        rows, cursor = [], 0
        for prompt, group in zip(prompts, pictures, strict=True):
            rows.append(self.ids(prompt, grids[cursor : cursor + len(group)]))
            cursor += len(group)
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(0, len(row)) if side == "right" else slice(longest - len(row), None)
            ids[i, where] = torch.tensor(row)
            mask[i, where] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, **features}
        if flat_pictures:
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        self.model.rope_deltas = None
        if flat:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
        states = self.model(**inputs).last_hidden_state
        last = [longest - 1 if side == "left" else len(row) - 1 for row in rows]
        return torch.nn.functional.normalize(states[range(len(rows)), last], dim=-1).numpy()


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    return Reference(tiny_checkpoint)


def assert_equal(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance


def cases():
    one, two, three = picture(1), picture(2, 90, 50), picture(3, 40, 200)
    return {
        "text": (["a red apple"], "a red apple", []),
        "one image": ([one], PICTURE, [one]),
        "several images": ([{"image": [one, two, three]}], PICTURE * 3, [one, two, three]),
        "video frames": ([{"video": [one, one, three, two]}], PICTURE * 4, [one, one, three, two]),
        "image and text": ([{"text": "a dog", "image": two}], PICTURE + "a dog", [two]),
        "interleaved": (
            [["first", one, "then", two, "end"]],
            f"first{PICTURE}then{PICTURE}end",
            [one, two],
        ),
    }


def test_every_modality_equals_a_plain_transformers_forward(embedder, reference):
    for name, (items, content, pictures) in cases().items():
        if name == "video frames":
            continue  # frames have a budget of their own, below
        ours = embedder.encode(items)
        theirs = reference.embed([PREFIX + content + SUFFIX], [pictures])
        assert_equal(ours, theirs), name


def test_video_frames_are_images_within_the_frame_budget(embedder, reference):
    frames = [picture(seed) for seed in range(3)]
    ours = embedder.encode([Video(tuple(frames))])
    assert_equal(ours, reference.embed([PREFIX + PICTURE * 3 + SUFFIX], [frames]))


def test_a_pdf_page_equals_its_rendered_picture(embedder, reference, tmp_path):
    path = page(tmp_path)
    [decoded] = embedder.processor.decoder.decode(
        Page(path),
        VisualReader(embedder.processor.decoder, embedder.processor.config, "grid").budget(
            Page(path)
        ),
    ).frames
    theirs = reference.embed(
        [PREFIX + PICTURE + "Read it." + SUFFIX], [[PILImage.fromarray(decoded)]]
    )
    assert_equal(embedder.encode([{"pdf": path, "text": "Read it."}]), theirs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_of_the_reference_makes_no_difference(embedder, reference, side):
    pictures = [[], [picture(5)], [], [picture(6, 40, 150), picture(7)]]
    texts = ["short", "what is this?", "a much longer text than the others " * 4, "two"]
    prompts = [
        PREFIX + PICTURE * len(group) + text + SUFFIX
        for group, text in zip(pictures, texts, strict=True)
    ]
    items = [
        {"text": text, **({"image": group} if group else {})}
        for group, text in zip(pictures, texts, strict=True)
    ]
    assert_equal(embedder.encode(items), reference.embed(prompts, pictures, side=side))


def test_flat_positions_equal_a_forward_with_a_plain_range(tiny_checkpoint, reference):
    one = picture(9, 40, 120)
    with Embedder.from_pretrained(
        tiny_checkpoint, inputs={"position_ids": "flat"}, num_workers=1
    ) as flat:
        ours = flat.encode([{"image": one, "text": "x"}])
    prompt = [PREFIX + PICTURE + "x" + SUFFIX]
    assert_equal(ours, reference.embed(prompt, [[one]], flat=True))
    assert np.abs(ours - reference.embed(prompt, [[one]])).max() > 1e-3


def test_native_video_equals_the_model_called_with_video_inputs(tiny_checkpoint):
    frames = [picture(seed, 56, 56) for seed in range(5)]
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        prompt = loaded.processor.config.prompt.model_copy(update={"video_as": "video"})
        loaded.processor.config = loaded.processor.config.model_copy(update={"prompt": prompt})
        prepared = loaded.processor.prepare(MultimodalInput((Video(tuple(frames)), Text("go"))))
        ours = loaded.encode([MultimodalInput((Video(tuple(frames)), Text("go")))])
    model = Qwen2VLModel.from_pretrained(tiny_checkpoint).eval()
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    [grid] = prepared.grid_thw
    clip = np.stack([np.asarray(frame) for frame in [*frames, frames[-1]]])
    size = {"shortest_edge": 1, "longest_edge": 10**9}
    grown = [
        torch.nn.functional.interpolate(
            torch.from_numpy(frame).permute(2, 0, 1)[None],
            size=(int(grid[1]) * 14, int(grid[2]) * 14),
            mode="bicubic",
            antialias=True,
        )[0]
        for frame in clip
    ]
    videos = processor.video_processor(
        videos=[torch.stack(grown)], do_sample_frames=False, size=size, return_tensors="pt"
    )
    text = PREFIX + CLIP.replace("<|video_pad|>", "<|video_pad|>" * (int(grid.prod()) // 4))
    ids = processor.tokenizer(text + "go" + SUFFIX, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(
            input_ids=ids,
            mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
            **videos,
        ).last_hidden_state
    assert videos["video_grid_thw"].tolist() == [grid.tolist()]
    assert_equal(ours, torch.nn.functional.normalize(states[:, -1], dim=-1).numpy())


def mixed_items(tmp_path: Path):
    return [
        "a cat",
        picture(11),
        {"text": "look", "image": [picture(12), picture(13, 33, 99)]},
        Video(tuple(picture(seed) for seed in (14, 15))),
        {"pdf": page(tmp_path)},
        "a text of another length, long enough to be packed last",
        "",
        MultimodalInput((Text("a"), Image(picture(16)), Text("b"))),
        "a cat",
    ]


def test_a_batch_equals_its_items_one_by_one(embedder, tmp_path):
    items = mixed_items(tmp_path)
    together = embedder.encode(items)
    alone = np.stack([embedder.encode(item) for item in items])
    assert_equal(together, alone)


@pytest.mark.parametrize("options", [{"batch_tokens": 64}, {"batch_size": 2}, {"num_workers": 3}])
def test_batch_budget_and_workers_change_nothing(embedder, tmp_path, options):
    items = mixed_items(tmp_path)
    assert_equal(embedder.encode(items), embedder.encode(items, **options))


def test_shuffled_order_changes_nothing(embedder, tmp_path):
    items = mixed_items(tmp_path)
    order = np.random.default_rng(0).permutation(len(items))
    assert_equal(embedder.encode(items)[order], embedder.encode([items[i] for i in order]))


def test_equal_items_are_encoded_once(embedder):
    _, report = embedder.encode(["one", "two", "one"], return_report=True)
    _, unique = embedder.encode(["one", "two"], return_report=True)
    assert report.num_tokens == unique.num_tokens


def test_different_items_do_not_embed_alike(embedder, tmp_path):
    vectors = embedder.encode(mixed_items(tmp_path)[:6])
    cosines = vectors @ vectors.T - np.eye(6)
    assert cosines.max() < 0.99


def test_mean_pooling_averages_all_tokens(tiny_checkpoint, reference):
    with Embedder.from_pretrained(
        tiny_checkpoint, encoder={"pooling": "mean"}, num_workers=1
    ) as mean:
        ours = mean.encode(["a cat", "a longer text about a dog"])
    for row, text in zip(ours, ["a cat", "a longer text about a dog"], strict=True):
        ids = reference.tokenizer(PREFIX + text + SUFFIX, return_tensors="pt")
        with torch.no_grad():
            state = reference.model(**ids).last_hidden_state.mean(1)
        assert_equal(row[None], torch.nn.functional.normalize(state, dim=-1).numpy())


def test_saved_folder_gives_the_same_vectors(embedder, tmp_path):
    items = mixed_items(tmp_path)
    save_encoder(tmp_path / "saved", embedder.encoder, embedder.processor, recipe={"name": "x"})
    with Embedder.from_pretrained(tmp_path / "saved", num_workers=1) as again:
        assert_equal(embedder.encode(items), again.encode(items), 0.0)
        assert len(again.fingerprint) == 64


def test_sentence_transformers_loads_a_saved_folder_with_equal_vectors(embedder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    save_encoder(tmp_path / "saved", embedder.encoder, embedder.processor)
    peer = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    texts = ["a cat", "", 'quotes " and \\ and {{ braces }}', "ünïcode 苹果\nnew line  two"]
    pictures = [picture(21), picture(22, 40, 120)]
    assert_equal(embedder.encode(texts), peer.encode(texts))
    assert_equal(embedder.encode(pictures), peer.encode(pictures))
    with_prompt = peer.encode(texts[:1], prompt="Find it: ")
    assert_equal(embedder.encode(texts[:1], instruction="Find it: "), with_prompt)


def test_fingerprint_names_what_changes_a_vector_and_nothing_else(tiny_checkpoint, tmp_path):
    def named(**options):
        with Embedder.from_pretrained(tiny_checkpoint, num_workers=1, **options) as loaded:
            return loaded.fingerprint

    plain = named()
    assert plain == named(dtype="bfloat16") == named(media=MediaPolicy(timeout_seconds=5))
    others = [
        named(inputs={"position_ids": "flat"}),
        named(inputs={"image_tokens": {"min": 4, "max": 8}}),
        named(encoder={"pooling": "mean"}),
        named(media=MediaPolicy(page_dpi=72)),
        named(media=MediaPolicy(max_frames=4)),
        named(media=MediaPolicy(scaled_jpeg=True)),
    ]
    assert len({plain, *others}) == 7


def test_weights_that_were_written_again_after_loading_give_no_fingerprint(
    tiny_checkpoint, tmp_path
):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    with Embedder.from_pretrained(folder, num_workers=1) as loaded:
        (folder / "README.md").write_text("a note changes no vector")
        before = loaded.fingerprint
    with Embedder.from_pretrained(folder, num_workers=1) as loaded:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes())
        for _ in range(2):
            with pytest.raises(CheckpointError, match="written again after this model was loaded"):
                loaded.fingerprint  # noqa: B018
    with Embedder.from_pretrained(folder, num_workers=1) as again:
        assert again.fingerprint == before
