"""`explain` says what `encode` reads: its numbers and its prompt come out of the same tensors."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmembed import Embedder, Image, MultimodalInput, Page, Text, Video
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.prompt import Placeholder, UserText
from tests import media_files as files

PROMPT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_checkpoint, media=MediaPolicy(isolate=False))


def tokens_of_encode(embedder: Embedder, item: object, **options: object) -> int:
    return embedder.encode(item, return_report=True, **options)[1].num_tokens


def picture(width: int, height: int) -> bytes:
    return files.encode_image(files.photo(width, height))


CLIP = files.video(40, fps=10)
PAGES = files.pdf(5)
ITEMS = {
    "text": "a red apple moving left",
    "empty text": "",
    "image": Image(picture(300, 200)),
    "clip": Video(CLIP, num_frames=4),
    "frames": Video((files.photo(80, 60), files.photo(80, 60, seed=1), files.photo(80, 60))),
    "pages": Page(PAGES, pages="2,4-5"),
    "fused": {"content": ["first", Image(picture(90, 90)), "then a dog", "苹果", Video(CLIP)]},
    "twice": {"content": [Image(picture(60, 60))] * 2},
}


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_the_total_is_what_encode_reports_and_pictures_are_what_the_model_gets(
    embedder, item, role
):
    found = embedder.explain(item, role=role, instruction="Find it: ")
    assert found.num_tokens == tokens_of_encode(embedder, item, role=role, instruction="Find it: ")
    given = MultimodalInput.of(item)
    prepared = embedder.processor.prepare(MultimodalInput(given.parts, "Find it: "), role=role)
    pads = np.isin(prepared.input_ids, list(embedder.processor.pad_ids.values()))
    assert found.num_visual_tokens == pads.sum()
    media = [part for part in found.parts if part.kind != "text"]
    assert found.num_visual_tokens == sum(part.num_tokens for part in media)
    assert len(found.parts) == len(given.parts) and found.role == role
    grids = [] if prepared.grid_thw is None else prepared.grid_thw.tolist()
    if embedder.processor.config.prompt.video_as == "images":
        sizes = [size for part in media for size in part.sizes]
        assert sizes == [(14 * w, 14 * h) for _, h, w in grids]


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_the_prompt_is_that_of_the_template_with_pads_counted(embedder, item):
    found = embedder.explain(item, instruction="Find it: ")
    content: list[UserText | Placeholder] = []
    pads = []
    for part, told in zip(MultimodalInput.of(item).parts, found.parts, strict=True):
        if isinstance(part, Text):
            content.append(UserText(part.text))
            continue
        content += [Placeholder("image")] * len(told.sizes)
        pads += [told.num_tokens // len(told.sizes)] * len(told.sizes)
    template = embedder.processor.config.prompt
    expected = template.text(template.render(content, instruction="Find it: ", role="query"))
    for count in pads:
        expected = expected.replace("<|image_pad|><", f"<|image_pad|> x {count}<", 1)
    assert found.prompt == expected


def test_text_is_counted_part_by_part_and_the_rest_belongs_to_the_template(embedder):
    texts = ["a red apple", "", " and a dog ", "苹果 in the rain"]
    found = embedder.explain({"content": texts})
    template = embedder.explain("").num_tokens
    assert [part.num_tokens for part in found.parts][1] == 0
    assert sum(part.num_tokens for part in found.parts) == found.num_tokens - template
    for text, part in zip(texts, found.parts, strict=True):
        assert abs(part.num_tokens - (embedder.explain(text).num_tokens - template)) <= 1


def test_an_image_has_its_own_size_and_that_on_the_grid(embedder):
    part = embedder.explain(Image(picture(300, 200))).parts[0]
    assert (part.kind, part.source_size) == ("image", (300, 200))
    ((width, height),) = part.sizes
    assert width % 28 == height % 28 == 0
    assert part.num_tokens == width * height // 28**2


def test_a_clip_tells_the_moments_of_the_frames_it_shows(embedder):
    part = embedder.explain(Video(CLIP, num_frames=4)).parts[0]
    assert part.kind == "video" and len(part.sizes) == len(part.times) == 4
    assert np.allclose(part.times, [0.0, 1.3, 2.6, 3.9])
    assert part.source_size is None and part.pages == ()


def test_frames_that_were_given_one_by_one_have_a_size_of_their_own(embedder):
    part = embedder.explain(ITEMS["frames"]).parts[0]
    assert part.source_size == (80, 60) and len(part.sizes) == 3


def test_pages_are_named_by_number(embedder):
    part = embedder.explain(Page(PAGES, pages="2,4-5")).parts[0]
    assert part.kind == "pdf" and part.pages == (2, 4, 5) and len(part.sizes) == 3


def test_the_instruction_is_the_items_else_the_callers_else_the_default_of_the_role(embedder):
    own = MultimodalInput.of("a cat", instruction="Mine: ")
    assert embedder.explain(own, instruction="Yours: ").instruction == "Mine: "
    found = embedder.explain("a cat", instruction="Yours: ")
    assert found.instruction == "Yours: " and found.prompt == PROMPT + "Yours: a cat" + END
    assert embedder.explain("a cat").instruction is None
    processor = embedder.processor
    before = processor.config
    default = before.prompt.model_copy(update={"instructions": {"query": "Default: "}})
    processor.config = before.model_copy(update={"prompt": default})
    try:
        assert embedder.explain("a cat").instruction == "Default: "
        assert embedder.explain("a cat", role="document").instruction is None
    finally:
        processor.config = before


def test_a_text_that_was_cut_says_so_and_shows_what_is_left(embedder):
    processor, text = embedder.processor, "a red apple moving left " * 40
    whole = embedder.explain(text)
    before = processor.config
    processor.config = before.model_copy(update={"max_tokens": 64})
    try:
        found = embedder.explain({"content": ["first a dog", text]})
        assert found.num_tokens == tokens_of_encode(embedder, ["first a dog" + text]) == 64
    finally:
        processor.config = before
    assert found.truncated and not whole.truncated
    left = found.prompt.removeprefix(PROMPT).removesuffix(END)
    assert ("first a dog" + text).startswith(left) and found.prompt.endswith(END)
    template = embedder.explain("").num_tokens
    assert sum(part.num_tokens for part in found.parts) == 64 - template


def test_control_tokens_that_a_user_typed_are_counted_as_the_text_they_are_in(tiny_checkpoint):
    text = "a dog<|im_end|>a cat<|im_end|>"
    for allowed in (False, True):
        with Embedder.from_pretrained(tiny_checkpoint, allow_special_tokens=allowed) as embedder:
            found = embedder.explain({"content": [text, "and rain"]})
            template = embedder.explain("").num_tokens
            assert sum(part.num_tokens for part in found.parts) == found.num_tokens - template
            assert found.num_tokens == tokens_of_encode(embedder, [{"text": [text, "and rain"]}])


def test_losses_in_decoding_are_told(embedder):
    frames = [files.photo(40, 30, seed=seed) for seed in range(3)]
    from PIL import Image as Pillow

    file = io.BytesIO()
    first, *rest = map(Pillow.fromarray, frames)
    first.save(file, "GIF", save_all=True, append_images=rest)
    found = embedder.explain(Image(file.getvalue()))
    assert (
        found.warnings
        == embedder.processor.prepare(MultimodalInput.of(Image(file.getvalue()))).warnings
    )
    assert found.warnings


def test_a_jpeg_that_may_be_decoded_smaller_has_no_certain_size(tiny_checkpoint):
    policy = replace(MediaPolicy(isolate=False), scaled_jpeg=True)
    with Embedder.from_pretrained(tiny_checkpoint, media=policy) as embedder:
        large = files.encode_image(files.photo(2000, 1000), "JPEG")
        assert embedder.explain(Image(large)).parts[0].source_size is None


def test_what_encode_refuses_explain_refuses_with_the_same_error(embedder):
    for item in (Image(b"nothing"), 3, Page(PAGES, pages="9")):
        with pytest.raises(InputError) as refused:
            embedder.encode([item])
        with pytest.raises(InputError) as found:
            embedder.explain(item)
        assert (found.value.code, found.value.detail) == (
            refused.value.code,
            refused.value.detail,
        )
    with pytest.raises(ConfigError, match="role is 'passage'"):
        embedder.explain("a cat", role="passage")
