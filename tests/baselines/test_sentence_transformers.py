"""Folders of sentence-transformers as encoders of items, against their own library."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from mmembed.baselines.loading import load_model
from mmembed.encoder.checkpoint import save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.errors import CheckpointError, InputError
from mmembed.types import Image, MultimodalInput, Page, Text, Video

library = pytest.importorskip("sentence_transformers")

POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
WORDS = "a the cat dog red apple find query passage : blue house runs".split()
TEXTS = ["a red apple", "the dog runs", "", "a blue house : the cat", "unknown words"]


def item(*parts, instruction: str | None = None) -> MultimodalInput:
    made = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return MultimodalInput(made, instruction)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "png")
    return file.getvalue()


def opened(data: bytes) -> PILImage.Image:
    return PILImage.open(io.BytesIO(data))


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """A two-layer random model with a prompt for queries, mean pooling and no normalisation."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("sentence-transformers")
    names = ["[PAD]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(names), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder / "plain")
    fast.save_pretrained(folder / "plain")
    modules = library.sentence_transformer.modules
    transformer = library.base.modules.Transformer(str(folder / "plain"))
    model = library.SentenceTransformer(
        modules=[transformer, modules.Pooling(32, pooling_mode="mean")],
        prompts={"query": "query : ", "document": "passage : "},
        device="cpu",
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def texts_only(text_folder):
    loaded = load_model(f"sentence-transformers:{text_folder}", device="cpu", num_workers=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def picture_folder(tiny_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "model"
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        save_encoder(folder, embedder.encoder, embedder.processor)
    return folder


@pytest.fixture(scope="module")
def pictures_too(picture_folder):
    loaded = load_model(f"sentence-transformers:{picture_folder}", device="cpu", num_workers=1)
    yield loaded
    loaded.close()


def close_to(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_texts_equal_the_librarys_own_encode(texts_only, text_folder):
    peer = library.SentenceTransformer(str(text_folder), device="cpu")
    items = [item(text) for text in TEXTS]
    queries = texts_only.encode(items, role="query")
    documents = texts_only.encode(items, role="document")
    close_to(queries, peer.encode_query(TEXTS, normalize_embeddings=True))
    close_to(documents, peer.encode_document(TEXTS, normalize_embeddings=True))
    assert np.abs(queries - documents).max() > 1e-3
    assert queries.dtype == np.float32
    assert queries.shape == (len(TEXTS), texts_only.embedding_dimension)


def test_an_instruction_is_the_prompt_and_an_empty_one_is_none(texts_only, text_folder):
    peer = library.SentenceTransformer(str(text_folder), device="cpu")
    items = [
        item("a cat", instruction="find :"),
        item("a cat", instruction=""),
        item("a cat"),
        item("a", "cat"),
    ]
    expected = [peer.encode("find : a cat"), peer.encode("a cat"), *peer.encode(
        ["query : a cat"] * 2)]  # fmt: skip
    rows = np.stack(expected) / np.linalg.norm(expected, axis=1, keepdims=True)
    close_to(texts_only.encode(items, role="query"), rows)


def test_pictures_and_mixes_equal_the_librarys_own_encode(pictures_too, picture_folder):
    peer = library.SentenceTransformer(str(picture_folder), device="cpu")
    first, second = png(1), png(2)
    items = [item("a cat"), item(Image(first)), item(Image(second), "a cat"), item(Image(second))]
    rows = pictures_too.encode(items, role="document")
    expected = [
        peer.encode({"text": "a cat"}),
        peer.encode(opened(first)),
        peer.encode({"image": opened(second), "text": "a cat"}),
        peer.encode(opened(second)),
    ]
    close_to(rows, np.stack(expected))
    asked = pictures_too.encode([item(Image(first), instruction="Find it:")], role="query")
    close_to(asked[0], peer.encode(opened(first), prompt="Find it:"))


def test_a_page_is_a_picture(pictures_too):
    pymupdf = pytest.importorskip("pymupdf")
    with pymupdf.open() as document:
        for text in ("first", "second"):
            document.new_page(width=72, height=72).insert_text((8, 40), text, fontsize=20)
        source = document.tobytes()
    rows = pictures_too.encode(
        [item(Page(source, pages="1")), item(Page(source, pages="2"))], role="document"
    )
    assert float(rows[0] @ rows[1]) < 0.9999
    with pytest.raises(InputError, match="2 pages") as error:
        pictures_too.encode([item("a cat"), item(Page(source))], role="document")
    assert error.value.index == 1


def test_a_text_that_looks_like_a_file_stays_a_text(pictures_too, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png(5))
    rows = pictures_too.encode([item(str(path)), item(Image(path))], role="document")
    assert float(rows[0] @ rows[1]) < 0.99
    pictures_too.encode([item("https://example.invalid/a.png")], role="document")


def test_rows_do_not_depend_on_order_or_neighbours(pictures_too):
    items = [
        item("a cat"),
        item(Image(png(1))),
        item(Image(png(1)), "a dog"),
        item("a longer text about a red apple"),
        item("a cat", instruction="Find it: "),
        item("a cat"),
    ]
    rows = pictures_too.encode(items, role="query")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    close_to(pictures_too.encode(items[::-1], role="query")[::-1], rows)
    close_to(np.concatenate([pictures_too.encode([one], role="query") for one in items]), rows)
    assert pictures_too.encode(items, role="query").tobytes() == rows.tobytes()
    assert (rows[0] == rows[5]).all()
    assert pictures_too.encode([], role="query").shape == (0, rows.shape[1])


def test_what_a_model_does_not_take_is_refused_by_its_place(texts_only, pictures_too):
    picture, clip = Image(png(1)), Video((np.zeros((8, 8, 3), np.uint8),) * 2)
    for encoder, bad, words in (
        (texts_only, item(picture), "takes texts; the item has a picture"),
        (texts_only, item(clip), "a video"),
        (pictures_too, item(clip), "takes texts, one picture or page, a picture with a text"),
        (pictures_too, item(picture, Image(png(2))), "2 pictures"),
    ):
        with pytest.raises(InputError, match=words) as error:
            encoder.encode([item("a cat"), bad], role="document")
        assert error.value.index == 1


def test_the_space_is_that_of_the_files_and_the_dtype(texts_only, text_folder, tmp_path):
    copy = tmp_path / "copy"
    for path in text_folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(text_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (copy / "README.md").write_text("another card", encoding="utf-8")

    def space(**options):
        return load_model(f"sentence-transformers:{copy}", device="cpu", **options).space

    assert len(texts_only.space) == 64
    assert space() == texts_only.space
    assert space(dtype="bfloat16") != texts_only.space
    named = copy / "config_sentence_transformers.json"
    settings = json.loads(named.read_text("utf-8"))
    settings["prompts"]["query"] = "find : "
    named.write_text(json.dumps(settings), "utf-8")
    assert space() != texts_only.space
    json.dumps(texts_only.describe())


def test_pickled_weights_foreign_code_and_damage_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_model(f"sentence-transformers:{tmp_path / 'none'}", device="cpu")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin could run code"):
        load_model(f"sentence-transformers:{tmp_path / 'pickled'}", device="cpu")
    (tmp_path / "odd" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "odd" / "1_Pooling" / "config.json").write_text('{"x": 1}', "utf-8")
    modules = [
        {"idx": 0, "name": "0", "path": "1_Pooling", "type": POOLING},
    ]
    (tmp_path / "odd" / "modules.json").write_text(json.dumps(modules), "utf-8")
    with pytest.raises(CheckpointError, match="cannot load"):
        load_model(f"sentence-transformers:{tmp_path / 'odd'}", device="cpu")
    (tmp_path / "code").mkdir()
    modules = [{"idx": 0, "name": "0", "path": "", "type": "modeling_own.Own"}]
    (tmp_path / "code" / "modules.json").write_text(json.dumps(modules), "utf-8")
    (tmp_path / "code" / "modeling_own.py").write_text("raise SystemExit", "utf-8")
    with pytest.raises(CheckpointError, match="third-party code"):
        load_model(f"sentence-transformers:{tmp_path / 'code'}", device="cpu")
