"""The emoji adapters: what is held out, what a row holds, and that rows can be drawn again."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from data_adapters.emoji import (
    EmojiCaptions,
    EmojiClips,
    EmojiNames,
    EmojiPages,
    EmojiPictures,
)
from data_adapters.emoji_drawing import ACTIONS, PLAIN, draw_clip, draw_page, draw_picture
from data_adapters.emoji_source import (
    LANGUAGES,
    NUM_HELD_OUT,
    VENDORS,
    emoji_of_split,
    load_emoji,
    picture_twins,
    templates,
    texts,
)
from mmembed.types import ContrastiveExample, Image, Page, Text, Video

ADAPTERS = (EmojiNames, EmojiCaptions, EmojiPictures, EmojiClips, EmojiPages)
APPLE, DOG, CAR = "1f34e", "1f415", "1f697"


def fingerprint(example: ContrastiveExample) -> str:
    """A hash of everything in a row, media content included."""
    digest = hashlib.sha256(repr((example.query_id, example.positive_ids)).encode())
    for item in (example.query, *example.positives, *example.hard_negatives):
        for part in item.parts:
            if isinstance(part, Text):
                digest.update(part.text.encode())
            elif isinstance(part, Video):
                for frame in part.source:
                    digest.update(frame.tobytes())
            elif isinstance(part.source, np.ndarray):
                digest.update(part.source.tobytes())
            else:
                digest.update(part.source)
    return digest.hexdigest()


def small(picture: bytes) -> np.ndarray:
    with PILImage.open(io.BytesIO(picture)) as opened:
        sprite = opened.convert("RGBA")
    white = PILImage.new("RGBA", sprite.size, "white")
    white.alpha_composite(sprite)
    reduced = white.convert("RGB").resize((32, 32), PILImage.Resampling.BOX)
    return np.asarray(reduced, dtype=np.float32).ravel() / 255


def centre(frame: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(np.any(frame != 255, axis=2))
    return float(rows.mean()), float(columns.mean())


def inked(frame: np.ndarray) -> int:
    return int(np.any(frame != 255, axis=2).sum())


# -- source -----------------------------------------------------------------------------------


def test_table_has_two_drawings_and_an_english_name_of_everything():
    emoji = load_emoji()
    assert len(emoji) == 1911
    assert len({one.id for one in emoji}) == 1911
    for one in emoji:
        assert one.names["en"]
        for vendor in VENDORS:
            assert one.pictures[vendor][8:12] == b"WEBP"
    assert Counter(language for one in emoji for language in one.names).keys() == set(LANGUAGES)


def test_held_out_emoji_are_two_hundred_and_stay_the_same():
    held_out = emoji_of_split("held_out")
    assert len(held_out) == NUM_HELD_OUT == 200
    ids = ",".join(one.id for one in held_out)
    # changing this list makes published numbers incomparable
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "c5ba3e7540429b60"


def test_splits_are_disjoint_and_divide_no_family():
    held_out, train = emoji_of_split("held_out"), emoji_of_split("train")
    assert len(held_out) + len(train) == len(load_emoji())
    assert not {one.id for one in held_out} & {one.id for one in train}
    assert not {one.family for one in held_out} & {one.family for one in train}


def test_twins_are_all_pictures_that_look_alike():
    for vendor in VENDORS:
        pixels = np.stack([small(one.pictures[vendor]) for one in load_emoji()])
        squares = (pixels**2).sum(axis=1)
        distance = squares[:, None] + squares[None] - 2 * pixels @ pixels.T
        near = distance / pixels.shape[1] < 0.02**2
        ids = np.array([one.id for one in load_emoji()])
        found = {name: tuple(ids[row]) for name, row in zip(ids, near, strict=True)}
        assert found == picture_twins(vendor)


def test_no_held_out_picture_looks_like_one_of_the_training_split():
    held_out = {one.id for one in emoji_of_split("held_out")}
    for vendor in VENDORS:
        for name, twins in picture_twins(vendor).items():
            assert {twin in held_out for twin in twins} == {name in held_out}


def test_gender_variants_and_clock_faces_are_families():
    family = {one.names["en"]: one.family for one in load_emoji()}
    assert family["woman surfing"] == family["man surfing"] == family["person surfing"]
    assert family["man farmer"] == family["woman farmer"]
    assert family["one o\u2019clock"] == family["seven-thirty"]
    assert family["norway flag"] == family["svalbard & jan mayen flag"]
    assert family["red apple"] != family["green apple"]
    assert family["alarm clock"] != family["one o\u2019clock"]


def test_held_out_groups_have_their_share():
    whole = Counter(one.group for one in load_emoji())
    held_out = Counter(one.group for one in emoji_of_split("held_out"))
    for group, number in whole.items():
        assert abs(held_out[group] - 200 * number / 1911) <= 1


def test_flags_that_are_shared_are_twins():
    by_name = {one.names["en"]: one.id for one in load_emoji()}
    twins = picture_twins("twemoji")
    assert by_name["norway flag"] in twins[by_name["bouvet island flag"]]
    assert twins[APPLE] == (APPLE,)


def test_every_language_has_every_sentence_frame():
    for language in LANGUAGES:
        frames = templates()[language]
        assert frames["picture"] and frames["page"]
        for frame in (*frames["picture"], *frames["page"], *(frames[name] for name in ACTIONS)):
            assert "{name}" in frame
        assert frames["sequence"].index("{first}") < frames["sequence"].index("{second}")


def test_tokenizer_texts_come_from_the_split_only():
    names = set(texts(("en",), split="train"))
    assert "red apple" in names
    assert not names & {one.names["en"] for one in emoji_of_split("held_out")} - {
        word for one in emoji_of_split("train") for word in one.keywords.get("en", ())
    }


def test_unknown_split_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="train, held_out, all"):
        emoji_of_split("test")


# -- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter_class", ADAPTERS)
def test_rows_satisfy_the_adapter_contract(adapter_class):
    adapter = adapter_class(views=2)
    assert adapter.name.startswith("emoji/")
    assert adapter.task == "retrieval"
    assert adapter.revision and adapter.citation and "CC-BY-4.0" in adapter.license
    assert len(adapter) == 2 * len(adapter.emoji)
    example = adapter[0]
    assert isinstance(example, ContrastiveExample)
    assert len(example.positive_ids) == len(example.positives) == 1
    assert example.query.instruction is None
    with pytest.raises(IndexError):
        adapter[len(adapter)]


@pytest.mark.parametrize("adapter_class", ADAPTERS)
def test_a_row_depends_on_seed_and_index_only(adapter_class):
    first, second = adapter_class(views=2, seed=1), adapter_class(views=2, seed=1)
    second[3]
    assert fingerprint(first[7]) == fingerprint(second[7])
    assert fingerprint(first[7]) != fingerprint(adapter_class(views=2, seed=2)[7])
    number = len(first.emoji)
    assert (
        first[7].positive_ids[0].split("/")[0].split(">")[0]
        == (first[7 + number].positive_ids[0].split("/")[0].split(">")[0])
    )
    assert fingerprint(first[7]) != fingerprint(first[7 + number])


def test_rows_are_equal_in_another_process():
    code = (
        "import sys; from tests.data_adapters.test_emoji import EmojiClips, fingerprint;"
        "sys.stdout.write(fingerprint(EmojiClips(num_frames=2)[5]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "123"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == fingerprint(EmojiClips(num_frames=2)[5])


@pytest.mark.parametrize("adapter_class", ADAPTERS)
def test_rows_of_the_training_split_hold_no_held_out_emoji(adapter_class):
    held_out = {one.id for one in emoji_of_split("held_out")}
    assert not held_out & {one.id for one in adapter_class().emoji}
    assert held_out >= {one.id for one in adapter_class(split="held_out").emoji}


def test_names_pair_languages_and_leave_out_emoji_with_one_name_only():
    adapter = EmojiNames(languages=("en", "de"))
    for index in range(0, len(adapter), 97):
        example = adapter[index]
        query, document = example.query.parts[0].text, example.positives[0].parts[0].text
        emoji = adapter.emoji[index]
        known = {emoji.names["en"], emoji.names["de"]}
        assert query in known or document in known
        assert query != document or emoji.names["en"] == emoji.names["de"]
    assert not any(one.subgroup == "country-flag" for one in adapter.emoji)


def test_plain_pictures_are_the_bundled_files_and_augmented_ones_are_arrays():
    plain = EmojiCaptions(augment=0)
    assert plain[5].positives[0].parts == (Image(plain.emoji[5].pictures["noto"]),)
    picture = EmojiCaptions(size=48)[5].positives[0].parts[0].source
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8


def test_captions_name_the_emoji_in_one_of_the_languages():
    adapter = EmojiCaptions(languages=("de",), augment=0)
    for index in range(0, len(adapter), 101):
        emoji, caption = adapter.emoji[index], adapter[index].query.parts[0].text
        words = emoji.keywords.get("de", ())
        assert emoji.names["de"] in caption or all(word in words for word in caption.split(", "))


def test_the_other_direction_swaps_query_and_document():
    example = EmojiCaptions(direction="image_to_text")[5]
    assert isinstance(example.query.parts[0], Image)
    assert isinstance(example.positives[0].parts[0], Text)


def test_only_the_given_vendor_is_drawn():
    adapter = EmojiCaptions(vendors="noto", augment=0, views=3)
    noto = {one.pictures["noto"] for one in adapter.emoji}
    assert all(adapter[index].positives[0].parts[0].source in noto for index in range(0, 5000, 50))
    pair = EmojiPictures(vendors=VENDORS, augment=0)[5]
    emoji = load_emoji()
    by_id = {one.id: one for one in emoji}
    drawn = {pair.query.parts[0].source, pair.positives[0].parts[0].source}
    assert drawn == set(by_id[pair.positive_ids[0]].pictures.values())


def test_emoji_that_look_alike_share_a_document_id():
    adapter = EmojiCaptions(split="all", augment=0)
    ids = {
        one.names["en"]: adapter[index].positive_ids[0]
        for index, one in enumerate(adapter.emoji)
        if one.names["en"] in ("norway flag", "bouvet island flag", "france flag")
    }
    assert ids["norway flag"] == ids["bouvet island flag"] != ids["france flag"]


def test_hard_negatives_of_a_clip_differ_in_motion_or_order_only():
    adapter = EmojiClips(num_frames=4, num_hard_negatives=2, augment=0, languages=("en",))
    seen = set()
    for index in range(60):
        example = adapter[index]
        kind = example.positive_ids[0].partition("/")[2] or "sequence"
        seen.add(kind)
        clip = example.positives[0].parts[0].source
        assert len(example.hard_negatives) == (1 if kind == "sequence" else 2)
        for negative in example.hard_negatives:
            frames = negative.parts[0].source
            assert any((one != other).any() for one, other in zip(clip, frames, strict=True))
        if kind == "sequence":
            reverse = example.hard_negatives[0].parts[0].source
            assert (clip[0] == reverse[-1]).all() and (clip[-1] == reverse[0]).all()
    assert seen == {*ACTIONS, "sequence"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"languages": ("en", "xx")}, "'xx'"),
        ({"languages": ()}, "empty"),
        ({"vendors": ("apple",)}, "noto, twemoji"),
        ({"split": "test"}, "held_out"),
        ({"views": 0}, "views"),
        ({"augment": 1.5}, "augment"),
        ({"direction": "sideways"}, "image_to_text"),
    ],
)
def test_wrong_arguments_are_answered_with_the_right_ones(arguments, named):
    with pytest.raises(ValueError, match=named):
        EmojiCaptions(**arguments)


# -- drawing ----------------------------------------------------------------------------------


def test_plain_drawing_is_the_bundled_picture_on_white():
    emoji = next(one for one in load_emoji() if one.id == APPLE)
    with PILImage.open(io.BytesIO(emoji.pictures["noto"])) as picture:
        sprite = picture.convert("RGBA")
    white = PILImage.new("RGBA", sprite.size, "white")
    white.alpha_composite(sprite)
    expected = np.asarray(white.convert("RGB"), dtype=int)
    assert np.abs(draw_picture("noto", APPLE) - expected).max() <= 3


def test_clips_move_and_grow_as_their_action_says():
    def ends(action: str) -> tuple[np.ndarray, np.ndarray]:
        clip = draw_clip("noto", (APPLE,), action, num_frames=5)
        assert len(clip) == 5
        return clip[0], clip[-1]

    for action, axis, sign in (("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)):
        start, end = ends(action)
        assert (centre(end)[axis] - centre(start)[axis]) * sign > 25
        assert abs(centre(end)[1 - axis] - centre(start)[1 - axis]) < 1
    start, end = ends("grow")
    assert inked(end) > 4 * inked(start)
    start, end = ends("shrink")
    assert inked(start) > 4 * inked(end)


def test_a_sequence_shows_its_emoji_in_order():
    first = draw_clip("noto", (DOG, CAR), "sequence", num_frames=4)
    second = draw_clip("noto", (CAR, DOG), "sequence", num_frames=4)
    assert (first[0] == first[1]).all() and (first[2] == first[3]).all()
    assert (first[0] == second[2]).all() and (first[2] == second[0]).all()


def test_too_few_frames_and_unknown_actions_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        draw_clip("noto", (DOG, CAR, APPLE), "sequence", num_frames=2)
    with pytest.raises(ValueError, match="sequence"):
        draw_clip("noto", (DOG,), "spin")


@pytest.mark.parametrize("layout", range(4))
def test_pages_hold_their_text_and_figure(layout):
    pymupdf = pytest.importorskip("pymupdf")
    figure = draw_picture("noto", APPLE, PLAIN, 96)
    heading, lines = "manzana roja", ["Apfel, rot", "fr\u00fcchte, \u82f9\u679c"]
    page_bytes = draw_page(heading, lines, figure, layout=layout)
    assert page_bytes == draw_page(heading, lines, figure, layout=layout)
    with pymupdf.open(stream=page_bytes, filetype="pdf") as document:
        assert len(document) == 1
        text = document[0].get_text()
        assert "manzana roja" in text and "Apfel" in text
        assert "fr\u00fcchte" in text and "??" in text
        assert len(document[0].get_images()) == 1
        box = document[0].get_image_bbox(document[0].get_images()[0][7])
        words = [pymupdf.Rect(word[:4]) for word in document[0].get_text("words")]
        inside = pymupdf.Rect(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)
        assert document[0].rect.contains(box)
        assert all(document[0].rect.contains(word) for word in words)
        assert not any(word.intersects(inside) for word in words)


def test_pages_are_single_pages_of_bytes():
    pytest.importorskip("pymupdf")
    part = EmojiPages()[5].positives[0].parts[0]
    assert isinstance(part, Page) and part.pages == "1"
    assert part.source.startswith(b"%PDF-")
