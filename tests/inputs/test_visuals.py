"""Pictures become patches in order, each distinct part once, whoever asks for it and how often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.pictures import VisionGeometry, patchify
from mmembed.inputs.processor import Processor
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.types import Image, MultimodalInput, Text, Video
from tests import media_files as files


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Processor:
    return load_encoder(tiny_checkpoint, media=MediaPolicy(isolate=False))[1]


def item(*parts: object, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput(
        tuple(Text(part) if isinstance(part, str) else part for part in parts), instruction
    )


def same(left, right) -> bool:
    names = ("input_ids", "position_ids", "patches", "grid_thw")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


def slow_patches(frames: list[np.ndarray], geometry: VisionGeometry) -> np.ndarray:
    """Patch by patch, number by number, as the image processor of Qwen2-VL defines them."""
    size, merge, depth = geometry.patch_size, geometry.merge_size, geometry.temporal_patch_size
    frames = frames + [frames[-1]] * (-len(frames) % depth)
    height, width, _ = frames[0].shape
    rows = []
    for t in range(0, len(frames), depth):
        for top in range(0, height, size * merge):
            for left in range(0, width, size * merge):
                for y in range(top, top + size * merge, size):
                    for x in range(left, left + size * merge, size):
                        patch = [
                            frame[y : y + size, x : x + size, colour]
                            for colour in range(3)
                            for frame in frames[t : t + depth]
                        ]
                        rows.append(np.concatenate([one.ravel() for one in patch]))
    return np.stack(rows)


@pytest.mark.parametrize("geometry", [VisionGeometry(), VisionGeometry(patch_size=16)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("colours_first", [False, True])
def test_patches_equal_a_loop_over_patches(geometry, count, colours_first):
    factor = geometry.factor
    shape = (count, 2 * factor, 3 * factor, 3)
    clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    frames = list(clip)
    if colours_first:  # as pictures come out of a resize
        frames = [np.ascontiguousarray(f.transpose(2, 0, 1)).transpose(1, 2, 0) for f in frames]
    patches, grid = patchify(frames, geometry)
    assert grid == ((count + 1) // 2, 4, 6)
    assert patches.dtype == np.uint8 and patches.shape == (np.prod(grid), geometry.patch_dim)
    assert (patches == slow_patches(list(clip), geometry)).all()


def test_a_part_of_many_items_is_opened_once_and_its_patches_are_shared(processor, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(files.encode_image(files.photo(200, 150)))
    clip = Video((files.photo(90, 80, seed=1), files.photo(90, 80, seed=2)))
    questions = [item(Image(path), f"question {number}") for number in range(3)]
    about_clip = [item(clip, "what?"), item("what?", clip, Image(path))]
    prepared = processor.prepare_all([*questions, *about_clip])
    first = prepared[0]
    assert all(one.patches is first.patches for one in prepared[1:3])
    assert len({one.picture_ids for one in prepared[:3]}) == 1
    assert prepared[3].picture_ids + first.picture_ids == prepared[4].picture_ids
    assert len(set(prepared[4].picture_ids)) == 3
    for one, alone in zip(prepared, [*questions, *about_clip], strict=True):
        assert same(one, processor.prepare(alone))


def test_a_shared_part_is_decoded_once(tiny_checkpoint):
    with MediaDecoder(MediaPolicy()) as decoder:
        processor = load_encoder(tiny_checkpoint, media=decoder)[1]
        data = files.encode_image(files.photo())
        processor.prepare_all([item(Image(data), f"question {number}") for number in range(5)])
        (process,) = decoder._pool._all
        assert process.served == 1


def test_pictures_have_one_id_only_where_they_are_known_to_be_equal(processor, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(files.encode_image(files.photo()))
    array = files.photo()
    parts = [
        Image(path),
        Image(path, max_tokens=16),
        Image(array),
        Image(array),
        Image(array.copy()),
        Video((path, array)),
        Video((path, array), num_frames=1),
    ]
    once = processor.prepare_all([item(part) for part in parts])
    again = processor.prepare_all([item(part) for part in parts])
    assert once[2].picture_ids == once[3].picture_ids
    known = [key for one in (*once[:3], *once[4:], *again[:3]) for key in one.picture_ids]
    assert len(set(known)) == len(known)
    assert processor.prepare(item("text")).picture_ids is None


def test_a_bad_part_is_bad_in_each_item_and_the_first_problem_of_an_item_is_named(processor):
    bad, absent = Image(b"bad"), Image(Path("/absent.png"))
    items = [item(bad, "a"), item("good"), item("b", absent, bad), item("\ud800", bad), item(bad)]
    codes = [
        one.code if isinstance(one, InputError) else "" for one in processor.prepare_all(items)
    ]
    assert codes == [
        "unsupported_format",
        "",
        "not_found",
        "invalid_text",
        "unsupported_format",
    ]


@pytest.mark.parametrize("isolate", [False, True])
def test_workers_change_nothing(tiny_checkpoint, isolate, tmp_path):
    random = np.random.default_rng(0)
    sizes = random.integers(20, 700, (12, 2))
    pictures = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    items = [item(Image(files.encode_image(picture))) for picture in pictures[:8]]
    items += [item(Image(picture), "words") for picture in pictures]
    items += [item(Video((pictures[0], files.encode_image(pictures[1])))), item(Image(b"bad"))]
    results = []
    for workers in (1, 3):
        with MediaDecoder(MediaPolicy(isolate=isolate), num_workers=workers) as decoder:
            results.append(load_encoder(tiny_checkpoint, media=decoder)[1].prepare_all(items))
    for left, right in zip(*results, strict=True):
        if isinstance(left, InputError):
            assert str(left) == str(right)
        else:
            assert same(left, right)


def test_a_remembered_prompt_equals_a_new_one(tiny_checkpoint):
    media = MediaPolicy(isolate=False)
    processor = load_encoder(tiny_checkpoint, media=media)[1]
    wide, tall = files.photo(224, 112), files.photo(112, 224)
    items = [
        item(Image(wide)),
        item(Image(tall)),
        item(Image(wide), Image(tall)),
        item(Image(wide), instruction="Describe."),
        item(Image(wide), instruction=""),
        item(Image(wide), "some words"),
        item("some words", Image(wide)),
        item("other words"),
        item("two ", "texts"),
        item("", "text behind nothing"),
        item(""),
    ]
    for role in ("query", "document"):
        for one in items:
            new = load_encoder(tiny_checkpoint, media=media)[1].prepare(one, role=role)
            assert same(processor.prepare(one, role=role), new)
            assert same(processor.prepare(one, role=role), new)


def test_a_remembered_prompt_obeys_the_limit_of_the_call(processor):
    one = item(Image(files.photo(224, 224)))
    length = processor.prepare(one).num_tokens
    (fits,) = processor.prepare_all([one], max_tokens=length)
    (too_long,) = processor.prepare_all([one], max_tokens=length - 1)
    assert fits.num_tokens == length
    assert too_long.code == "too_many_tokens"


def test_a_changed_config_forgets_remembered_prompts(tiny_checkpoint):
    processor = load_encoder(tiny_checkpoint, media=MediaPolicy(isolate=False))[1]
    one = item(Image(files.photo(224, 224)))
    assert (processor.prepare(one).position_ids[0] != processor.prepare(one).position_ids[1]).any()
    processor.config = processor.config.model_copy(update={"position_ids": "flat"})
    flat = processor.prepare(one).position_ids
    assert (flat == np.arange(flat.shape[1])).all()


def test_shared_arrays_cannot_be_written(processor):
    one = item(Image(files.photo(224, 224)))
    first = processor.prepare(one)
    with pytest.raises(ValueError, match="read-only"):
        first.input_ids[0] = 1
    assert processor.prepare(one).input_ids is first.input_ids
