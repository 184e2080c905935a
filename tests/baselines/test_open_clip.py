"""open_clip models as encoders of items, against direct calls of the library."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file

from mmembed.baselines.loading import load_model
from mmembed.baselines.open_clip import OpenClip
from mmembed.errors import CheckpointError, InputError, MissingDependencyError
from mmembed.types import Image, MultimodalInput, Page, Text, Video
from tests import media_files

LONG = " ".join(["grinning face of a cat"] * 9)


@pytest.fixture(scope="module")
def encoder(tiny_clip):
    loaded = load_model(f"open_clip:{tiny_clip}:random", device="cpu", num_workers=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def peer(tiny_clip):
    """Model, preprocessing and tokenizer straight from the library, with the same weights."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _, preprocess = open_clip.create_model_and_transforms(tiny_clip)
    return model.eval(), preprocess, open_clip.get_tokenizer(tiny_clip)


def picture(seed: int, width: int = 70, height: int = 50) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(
        PILImage.fromarray(small).resize((width, height), PILImage.Resampling.BICUBIC)
    )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "png")
    return file.getvalue()


def text_vector(peer, text: str) -> torch.Tensor:
    model, _, tokenizer = peer
    with torch.no_grad():
        return model.encode_text(tokenizer([text]), normalize=True)[0]


def picture_vector(peer, pixels: np.ndarray) -> torch.Tensor:
    model, preprocess, _ = peer
    with torch.no_grad():
        return model.encode_image(preprocess(PILImage.fromarray(pixels))[None], normalize=True)[0]


def unit(vector: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vector, dim=-1).numpy()


def item(*parts, instruction: str | None = None) -> MultimodalInput:
    made = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return MultimodalInput(made, instruction)


def mixed_items() -> list[MultimodalInput]:
    frames = tuple(picture(seed) for seed in range(3))
    return [
        item("a cat"),
        item(Image(picture(1))),
        item(Image(png(picture(2, 30, 90)))),
        item(Video(frames)),
        item(Image(picture(3)), "a dog"),
        item("a dog", instruction="Find it:"),
        item(LONG),
        item(""),
    ]


def close_to(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_texts_and_pictures_equal_direct_calls(encoder, peer):
    pixels = [picture(1), picture(2, 30, 90)]
    items = [item("a cat"), item(LONG), item(""), *(item(Image(png(one))) for one in pixels)]
    rows = encoder.encode(items, role="document")
    expected = [text_vector(peer, text) for text in ("a cat", LONG, "")]
    expected += [picture_vector(peer, one) for one in pixels]
    assert rows.dtype == np.float32
    close_to(rows, torch.stack(expected).numpy())
    close_to(encoder.encode(items, role="query"), rows)


def test_a_clip_is_the_normalised_mean_of_its_frames(encoder, peer):
    frames = [picture(seed) for seed in range(3)]
    rows = encoder.encode([item(Video(tuple(frames), num_frames=3))], role="document")
    mean = torch.stack([picture_vector(peer, frame) for frame in frames]).mean(0)
    close_to(rows[0], unit(mean))


def test_a_video_file_gives_the_frames_that_were_asked_for(encoder, peer):
    pytest.importorskip("av")
    clip = media_files.video(30, fps=15, size=(96, 96), codec="libx264", pix_fmt="yuv444p",
                             options={"crf": "0"})  # fmt: skip
    rows = encoder.encode([item(Video(clip, num_frames=2))], role="document")
    ends = [media_files.numbered_frame(number, 96, 96) for number in (0, 29)]
    mean = torch.stack([picture_vector(peer, frame) for frame in ends]).mean(0)
    assert float(rows[0] @ unit(mean)) > 0.999  # not equal: the codec's colours


def test_a_page_is_rendered_and_goes_the_way_of_a_picture(encoder, peer):
    pymupdf = pytest.importorskip("pymupdf")
    with pymupdf.open() as document:
        for text in ("first", "second"):
            document.new_page(width=72, height=72).insert_text((8, 40), text, fontsize=20)
        source = document.tobytes()
    first, second, both = encoder.encode(
        [item(Page(source, pages="1")), item(Page(source, pages="2")), item(Page(source))],
        role="document",
    )
    assert float(first @ second) < 0.9999
    close_to(both, unit(torch.from_numpy(first + second)))
    with pymupdf.open(stream=source, filetype="pdf") as document:
        drawn = document[0].get_pixmap(dpi=192)  # 192 x 192 pixels: the largest for this model
    pixels = np.frombuffer(drawn.samples, np.uint8).reshape(drawn.h, drawn.w, 3)
    assert float(first @ picture_vector(peer, pixels).numpy()) > 0.999


def test_an_item_of_several_parts_is_the_normalised_sum_of_their_vectors(encoder, peer):
    pixels = picture(3)
    rows = encoder.encode(
        [item(Image(pixels), "a dog"), item("a dog", Image(pixels)), item(Image(pixels), "")],
        role="query",
    )
    seen = picture_vector(peer, pixels)
    both = unit(seen + text_vector(peer, "a dog"))
    close_to(rows, np.stack([both, both, seen.numpy()]))


def test_an_instruction_stands_in_front_of_the_first_text_and_nowhere_else(encoder, peer):
    pixels = picture(4)
    rows = encoder.encode(
        [
            item("a dog", instruction="Find it:"),
            item(Image(pixels), instruction="Find it:"),
            item(Image(pixels), "a dog", instruction="Find it:"),
            item("a dog", "a cat", instruction="Find it:"),
        ],
        role="query",
    )
    words, seen = text_vector(peer, "Find it: a dog"), picture_vector(peer, pixels)
    both = unit(words + text_vector(peer, "a cat"))
    close_to(rows, np.stack([words.numpy(), seen.numpy(), unit(words + seen), both]))


def test_rows_do_not_depend_on_order_or_neighbours(encoder):
    items = mixed_items()
    rows = encoder.encode(items, role="document")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    close_to(encoder.encode(items[::-1], role="document")[::-1], rows)
    close_to(np.concatenate([encoder.encode([one], role="document") for one in items]), rows)
    assert encoder.encode(items, role="document").tobytes() == rows.tobytes()


def test_many_items_fill_several_batches(encoder):
    items = [item(f"text {number}") for number in range(300)]
    items += [item(Image(picture(number))) for number in range(70)]
    rows = encoder.encode(items, role="document", show_progress_bar=True)
    some = [0, 255, 256, 299, 300, 331, 332, 369]
    close_to(encoder.encode([items[place] for place in some], role="document"), rows[some])


def test_equal_items_are_encoded_once(encoder):
    seen = []
    hook = encoder._loaded.model.visual.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    data = png(picture(9))
    rows = encoder.encode([item(Image(data))] * 3 + [item(Image(bytes(data)))], role="document")
    hook.remove()
    assert seen == [1]
    assert (rows == rows[0]).all()


def test_no_items_give_no_rows(encoder):
    assert encoder.encode([], role="query").shape == (0, 32)


def test_texts_that_are_cut_are_counted(tiny_clip, caplog):
    encoder = OpenClip(tiny_clip, "random", device="cpu", num_workers=1)
    exact = " ".join(["cat"] * 10)  # with the two special tokens as long as the context
    encoder.encode([item("a cat"), item(exact), item("")], role="query")
    assert encoder.num_truncated == 0
    encoder.encode([item(exact + " cat"), item(LONG), item(exact)], role="query")
    assert encoder.num_truncated == 2
    assert "2 of 3 texts are longer than 12 tokens" in caplog.text


def test_bad_items_are_named_by_their_places(encoder):
    good, bad = item("a cat"), item(Image(b"\x89PNG no picture"))
    with pytest.raises(InputError) as error:
        encoder.encode([good, item(Image(picture(1))), bad, good, bad], role="document")
    assert [each.index for each in error.value.errors] == [2]  # equal items are one
    with pytest.raises(InputError) as error:
        encoder.encode([good, bad, item(Image(b"GIF89a no picture"))], role="document")
    assert [each.index for each in error.value.errors] == [1, 2]
    with pytest.raises(InputError) as error:
        encoder.encode([good, item("broken \ud800 text")], role="document")
    assert (error.value.code, error.value.index) == ("invalid_text", 1)


def test_the_space_is_that_of_the_weights_whatever_they_are_called(
    encoder, peer, tmp_path, tiny_clip
):
    model = peer[0]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    tensors["visual.ln_pre.weight"][0] += 1
    save_file(tensors, tmp_path / "others.safetensors")
    same, other = (
        load_model(f"open_clip:{tiny_clip}:{tmp_path / name}", device="cpu", num_workers=1)
        for name in ("weights.safetensors", "others.safetensors")
    )
    items = mixed_items()
    assert len(same.space) == 64
    assert same.space == encoder.space != other.space
    rows = encoder.encode(items, role="document")
    assert same.encode(items, role="document").tobytes() == rows.tobytes()
    assert not np.array_equal(other.encode(items, role="document"), rows)
    half = load_model(f"open_clip:{tiny_clip}:random", device="cpu", dtype="bfloat16")
    assert half.space != encoder.space
    assert float((half.encode(items, role="document") * rows).sum(1).min()) > 0.99
    json.dumps([half.describe(), same.describe()])


def test_a_tag_brings_its_safetensors_and_its_settings(tiny_clip, tmp_path, monkeypatch, peer):
    """The table of tags and the download stand in for the network; the loading is real."""
    import huggingface_hub
    from open_clip import pretrained

    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    tag = {"hf_hub": "owner/name/", "quick_gelu": True, "interpolation": "bicubic", **half}
    monkeypatch.setitem(pretrained._PRETRAINED, tiny_clip, {"one": tag})
    tensors = {name: tensor.clone() for name, tensor in peer[0].state_dict().items()}
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repository, name: asked.append((repository, name)) or str(tmp_path / name),
    )
    said = OpenClip(tiny_clip, "one", device="cpu", num_workers=1).describe()
    assert asked == [("owner/name", "open_clip_model.safetensors")]
    assert said["quick_gelu"] and said["pictures"].items() >= half.items()
    # weights that come without settings take those on which all tags agree, else the library's
    said = OpenClip(tiny_clip, "random", device="cpu", num_workers=1).describe()
    assert not said["quick_gelu"] and said["pictures"].items() >= half.items()
    other = {**tag, "resize_mode": "longest"}
    monkeypatch.setitem(pretrained._PRETRAINED, tiny_clip, {"one": tag, "two": other})
    said = OpenClip(tiny_clip, "random", device="cpu", num_workers=1).describe()
    assert said["pictures"]["resize_mode"] == "shortest"


def test_a_tag_that_cannot_be_downloaded_is_an_error(monkeypatch):
    import huggingface_hub

    def offline(repository, name):
        raise OSError(f"no route to {repository}/{name}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(CheckpointError, match="check the network, or download it"):
        load_model("open_clip:ViT-B-32:laion2b_s34b_b79k", device="cpu")


def test_loading_leaves_the_random_generator_alone(tiny_clip):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        OpenClip(tiny_clip, "random", device="cpu", num_workers=1)
        assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("open_clip:tiny-clip", "names no weights"),
        ("open_clip:tiny-clop:random", "did you mean 'tiny-clip'"),
        ("open_clip:tiny-clip:rendom", "did you mean 'random'"),
        ("open_clip:ViT-B-32:laion2b_s34b_b78k", "did you mean 'laion2b_s34b_b79k'"),
        ("open_clip:tiny-clip:{folder}/missing.safetensors", "neither a file nor a tag"),
        ("open_clip:tiny-clip:{folder}/weights.pt", "can run code"),
        ("open_clip:tiny-clip:{folder}/damaged.safetensors", "cannot be loaded"),
        ("open_clip:tiny-clip:{folder}/foreign.safetensors", "cannot be loaded"),
    ],
)
def test_weights_that_cannot_be_had_are_explained(tiny_clip, tmp_path, spec, words):
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04.")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 40)
    save_file({"one": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_model(spec.format(folder=tmp_path), device="cpu")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r"mmembed\[evaluation\]"):
        load_model("open_clip:ViT-B-32:random", device="cpu")
