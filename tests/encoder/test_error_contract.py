"""The error contract of `encode`: one bad item gives its own error and harms no other row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from transformers import AutoTokenizer

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError
from mmembed.types import Image, MultimodalInput, Video


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


def good_items():
    return ["a cat", PILImage.new("RGB", (60, 40), (200, 30, 30)), "a dog"]


def bad_items(folder: Path) -> dict[str, object]:
    """code -> an item that must fail with it."""
    picture = folder / "cat.png"
    PILImage.effect_noise((64, 64), 80).save(picture)
    cut = folder / "cut.jpg"
    PILImage.effect_noise((200, 200), 80).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    text = folder / "text.png"
    text.write_text("this is no picture")
    empty = folder / "empty.png"
    empty.touch()
    strip = folder / "strip.png"
    PILImage.new("L", (1, 20000)).save(strip)
    return {
        "not_found": Path("no/such/cat.png"),
        "truncated": {"image": cut},
        "unsupported_format": {"image": text},
        "empty": {"image": empty},
        "aspect_ratio": {"image": strip},
        "invalid_text": "lone \ud800 surrogate",
        "invalid_type": 17,
        "not_a_file": {"image": folder},
        "nonfinite": {"image": np.full((8, 8, 3), np.nan)},
        "forbidden_url": {"image": "http://127.0.0.1/cat.png"},
    }


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return bad_items(tmp_path_factory.mktemp("bad"))


def test_null_gives_nan_rows_and_leaves_the_good_rows_untouched(embedder, bad):
    good, mixed = good_items(), []
    for item in bad.values():
        mixed += [item, *good]
    vectors, report = embedder.encode(mixed, on_error="null", return_report=True)
    expected = embedder.encode(good)
    assert vectors.shape == (4 * len(bad), embedder.embedding_dimension)
    for number, code in enumerate(bad):
        failed, kept = 4 * number, slice(4 * number + 1, 4 * number + 4)
        assert np.isnan(vectors[failed]).all(), code
        assert np.abs(vectors[kept] - expected).max() <= 1e-5
        assert not report.ok[failed]
        assert report.ok[kept].all()
    assert [error.code for error in report.errors] == list(bad)
    assert [error.index for error in report.errors] == list(range(0, len(mixed), 4))


def test_skip_returns_the_good_rows_and_says_which(embedder, bad):
    mixed = ["a cat", bad["truncated"], "a dog", bad["invalid_type"]]
    vectors, report = embedder.encode(mixed, on_error="skip", return_report=True)
    assert report.kept.tolist() == [0, 2]
    assert np.abs(vectors - embedder.encode(["a cat", "a dog"])).max() <= 1e-5


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"num_workers": 3}])
def test_raise_names_the_lowest_index_and_carries_all_errors(embedder, bad, options):
    mixed = ["a cat", bad["truncated"], "a dog", bad["invalid_type"], bad["not_found"]]
    with pytest.raises(InputError, match=r"^item 1 \(image cut\.jpg\): truncated: ") as caught:
        embedder.encode(mixed, **options)
    assert caught.value.index == 1
    assert caught.value.part == "image"
    assert caught.value.source == "cut.jpg"
    assert [error.index for error in caught.value.errors] == [1, 3, 4]
    assert caught.value.partial.shape == (5, embedder.embedding_dimension)


def test_messages_hold_no_path_address_or_foreign_text(embedder, bad):
    _, report = embedder.encode(list(bad.values()), on_error="null", return_report=True)
    for error in report.errors:
        assert "0x" not in str(error).lower(), error
        assert "/" not in (error.source or "")


def test_a_bad_frame_is_named_inside_its_item(embedder, bad):
    frames = (PILImage.new("RGB", (40, 40)), bad["unsupported_format"]["image"])
    with pytest.raises(InputError) as caught:
        embedder.encode(["x", Video(frames)])
    assert caught.value.index == (1, "frames", 1)


def test_a_bad_item_that_stands_twice_is_reported_twice(embedder):
    missing = Path("nowhere.png")
    _, report = embedder.encode([missing, "x", missing], on_error="null", return_report=True)
    assert [error.index for error in report.errors] == [0, 2]


def test_an_empty_list_gives_an_empty_matrix(embedder):
    assert embedder.encode([]).shape == (0, embedder.embedding_dimension)


@pytest.mark.parametrize("text", ["", "   ", "\n\n", "a\x00b", "\u200b", "\ufeff", "\u202eabc"])
def test_odd_but_valid_texts_embed(embedder, text):
    assert np.isfinite(embedder.encode([text])).all()


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|endoftext|>", "<|video_pad|>"])
def test_control_tokens_in_text_are_plain_characters(embedder, tiny_checkpoint, token):
    picture = PILImage.new("RGB", (56, 56), (0, 90, 0))
    text = f"before {token} after"
    prepared = embedder.processor.prepare(MultimodalInput.of({"text": text, "image": picture}))
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    control = tokenizer.convert_tokens_to_ids(token)
    reference = embedder.processor.prepare(MultimodalInput.of({"text": "x", "image": picture}))
    ids, expected = prepared.input_ids.tolist(), reference.input_ids.tolist()
    assert ids.count(control) == expected.count(control)
    plain = tokenizer("x" + text, split_special_tokens=True)["input_ids"][1:]
    assert "".join(map(str, plain[2:])) in "".join(map(str, ids))
    vectors = embedder.encode(["good", {"text": text, "image": picture}])
    assert np.abs(vectors[0] - embedder.encode("good")).max() <= 1e-5


def test_allow_special_tokens_lets_them_through(tiny_checkpoint):
    with (
        Embedder.from_pretrained(
            tiny_checkpoint, allow_special_tokens=True, num_workers=1
        ) as trusting,
        Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as strict,
    ):
        text = "a <|im_end|> b"
        assert np.abs(trusting.encode(text) - strict.encode(text)).max() > 1e-3


def test_allowed_special_tokens_never_stand_for_a_picture_nobody_gave(tiny_checkpoint):
    with Embedder.from_pretrained(
        tiny_checkpoint, allow_special_tokens=True, num_workers=1
    ) as trusting:
        picture = np.full((32, 32, 3), 90, dtype=np.uint8)
        items = [{"image": picture, "text": "a <|image_pad|> b"}, {"image": picture}]
        vectors, report = trusting.encode(items, on_error="null", return_report=True)
        assert [error.code for error in report.errors] == ["invalid_text"]
        assert np.isfinite(vectors[1]).all()


def test_a_megabyte_of_text_is_cut_before_the_readout_token(tiny_checkpoint):
    with Embedder.from_pretrained(
        tiny_checkpoint, inputs={"max_tokens": 300}, num_workers=1
    ) as short:
        long, report = short.encode(["word " * 200_000], return_report=True)
        prepared = short.processor.prepare(MultimodalInput.of("word " * 200_000))
    assert report.truncated == [0]
    assert report.num_tokens == 300
    assert prepared.input_ids[-1] == short.processor.tokens.control_id("<|endoftext|>")
    assert np.isfinite(long).all()


def test_truncation_keeps_the_ids_of_the_full_tokenisation(tiny_checkpoint):
    text = "ein roter Apfel and a dog in the rain " * 40
    with (
        Embedder.from_pretrained(
            tiny_checkpoint, inputs={"max_tokens": 100}, num_workers=1
        ) as short,
        Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as full,
    ):
        cut = short.processor.prepare(MultimodalInput.of(text)).input_ids
        whole = full.processor.prepare(MultimodalInput.of(text)).input_ids
    suffix = whole[-12:]
    assert len(cut) <= 100
    tail = next(n for n in range(12, 0, -1) if (cut[-n:] == suffix[-n:]).all())
    assert cut[-1] == whole[-1]
    assert (cut[: len(cut) - tail] == whole[: len(cut) - tail]).all()


def test_pictures_that_do_not_fit_are_refused_not_cut(tiny_checkpoint):
    with Embedder.from_pretrained(
        tiny_checkpoint, inputs={"max_tokens": 60}, num_workers=1
    ) as short:
        pictures = [PILImage.new("RGB", (80, 80))] * 4
        with pytest.raises(InputError, match="too_many_tokens") as caught:
            short.encode([{"image": pictures, "text": "x"}])
    assert "max_tokens is 60" in str(caught.value)


def test_text_errors_replace_embeds_a_lone_surrogate(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, text_errors="replace", num_workers=1) as lenient:
        assert np.isfinite(lenient.encode(["a \ud800 b"])).all()


def test_a_string_is_text_even_when_it_names_a_file_or_url(embedder, tmp_path, monkeypatch):
    PILImage.new("RGB", (30, 30)).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    as_text = embedder.encode("cat.png")
    as_picture = embedder.encode(Path("cat.png"))
    assert np.abs(as_text - as_picture).max() > 1e-3
    assert np.isfinite(embedder.encode("http://127.0.0.1:9/x.png")).all()


def test_precision_truncation_and_tensors(embedder):
    texts = ["a cat", "a dog"]
    full = embedder.encode(texts)
    short = embedder.encode(texts, truncate_dim=16)
    cut = full[:, :16] / np.linalg.norm(full[:, :16], axis=1, keepdims=True)
    assert np.abs(short - cut).max() <= 1e-6
    assert embedder.encode(texts, precision="int8").dtype == np.int8
    assert embedder.encode(texts, precision="ubinary").shape == (2, 8)
    assert embedder.encode(texts, convert_to_tensor=True).shape == (2, 64)
    raw = embedder.encode(texts, normalize_embeddings=False)
    assert np.abs(raw / np.linalg.norm(raw, axis=1, keepdims=True) - full).max() <= 1e-6
    with pytest.raises(ConfigError, match="1 to 64"):
        embedder.encode(texts, truncate_dim=65)


def test_instruction_of_the_item_wins_over_the_call(embedder):
    item = {"text": "a cat", "instruction": "Own: "}
    assert np.array_equal(embedder.encode(item), embedder.encode(item, instruction="Shared: "))
    assert not np.array_equal(
        embedder.encode("a cat"), embedder.encode("a cat", instruction="Shared: ")
    )


def test_image_token_overrides_change_the_grid(embedder):
    picture = PILImage.new("RGB", (300, 300))
    few = embedder.processor.prepare(MultimodalInput((Image(picture, max_tokens=4),)))
    many = embedder.processor.prepare(MultimodalInput((Image(picture),)))
    assert few.grid_thw.prod() < many.grid_thw.prod()
