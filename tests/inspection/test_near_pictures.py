"""Pictures that look alike are found without comparing all with all, and none is missed."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.inspection.content import COLOURS, PictureSignature, picture_signature
from mmembed.inspection.near_pictures import (
    MAX_COLOUR_DIFFERENCE,
    PictureColumn,
    _candidates,
    near_pictures,
)
from tests.inspection.planted import emoji_picture, recompressed

GREY = bytes([128] * COLOURS)


def column(*signatures: PictureSignature) -> PictureColumn:
    pictures = PictureColumn()
    for owner, signature in enumerate(signatures):
        pictures.add(signature, owner, owner)
    return pictures


def random_hashes(rng: np.random.Generator, count: int) -> list[int]:
    """Half of them a few flipped bits away from another one."""
    hashes = [int(value) for value in rng.integers(0, 1 << 63, count // 2, dtype=np.uint64)]
    for at in range(count - len(hashes)):
        flipped = rng.choice(64, int(rng.integers(0, 8)), replace=False)
        hashes.append(hashes[at] ^ sum(1 << int(bit) for bit in flipped))
    return hashes


@pytest.mark.parametrize("distance", [0, 1, 4, 6])
def test_the_nearest_of_another_set_is_that_of_all_comparisons(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes = random_hashes(rng, 240)
    mine, others = hashes[:120], hashes[:119:-1]
    found = near_pictures(
        column(*(PictureSignature(each, GREY) for each in mine)),
        column(*(PictureSignature(each, GREY) for each in others)),
        distance=distance,
    )
    slow = []
    for one, left in enumerate(mine):
        bits, other = min(((left ^ right).bit_count(), at) for at, right in enumerate(others))
        if bits <= distance:
            slow.append((one, other, bits))
    assert list(found) == slow
    assert slow


@pytest.mark.parametrize("distance", [0, 3, 4, 7])
def test_no_pair_within_the_distance_escapes_the_blocks(distance: int) -> None:
    hashes = np.array(random_hashes(np.random.default_rng(distance), 200), np.uint64)
    found = {
        (int(a), int(b))
        for first, second in _candidates(hashes, hashes, distance, True)
        for a, b in zip(first, second, strict=True)
    }
    for a in range(len(hashes)):
        for b in range(a + 1, len(hashes)):
            if int(hashes[a] ^ hashes[b]).bit_count() <= distance:
                assert (a, b) in found


def test_within_a_set_each_copy_is_named_once_with_an_earlier_one() -> None:
    far, near = PictureSignature(0, GREY), PictureSignature(0b1011, GREY)
    other = PictureSignature((1 << 63) - 1, GREY)
    assert list(near_pictures(column(far, other, near, far))) == [(2, 0, 3), (3, 0, 0)]


def test_pictures_of_other_colours_are_not_alike() -> None:
    limit = bytes([128 + MAX_COLOUR_DIFFERENCE, *GREY[1:]])
    beyond = bytes([128 + MAX_COLOUR_DIFFERENCE + 1, *GREY[1:]])
    plain = PictureSignature(5, GREY)
    assert list(near_pictures(column(plain, PictureSignature(5, limit)))) == [(1, 0, 0)]
    assert not list(near_pictures(column(plain, PictureSignature(5, beyond))))


def test_a_picture_that_every_row_has_is_compared_once() -> None:
    many = [PictureSignature(7, GREY)] * 20_000
    found = list(near_pictures(column(*many)))
    assert found == [(at, 0, 0) for at in range(1, len(many))]


def test_nothing_is_near_where_there_is_nothing() -> None:
    one = column(PictureSignature(1, GREY))
    assert not list(near_pictures(column()))
    assert not list(near_pictures(one, column())) and not list(near_pictures(column(), one))


def test_half_an_added_picture_is_taken_back() -> None:
    pictures = column(PictureSignature(1, GREY))
    pictures._owners.append(9)  # Ctrl-C came here
    pictures.add(PictureSignature(2, GREY), 3)
    assert pictures.owners().tolist() == [0, 3] and pictures.hashes().tolist() == [1, 2]


@pytest.fixture(scope="module")
def emoji() -> list[np.ndarray]:
    return [emoji_picture(number, size=128) for number in range(250, 900, 4)]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ("half", 0.98),
        ("enlarged", 0.98),
        ("jpeg", 0.98),
        ("small jpeg", 0.98),
        ("cropped by 1 %", 0.9),
    ],
)
def test_changed_copies_of_emoji_are_found(
    emoji: list[np.ndarray], change: str, least: float
) -> None:
    def changed(picture: np.ndarray) -> np.ndarray:
        if change == "half":
            return recompressed(picture, 95, 0.5)
        if change == "enlarged":
            return recompressed(picture, 95, 2.0)
        if change == "jpeg":
            return recompressed(picture, 40, 1.0)
        if change == "small jpeg":
            return recompressed(picture, 60, 0.6)
        return picture[1:-1, 1:-1]

    originals = column(*map(picture_signature, emoji))
    copies = column(*(picture_signature(changed(picture)) for picture in emoji))
    found = list(near_pictures(copies, originals))
    right = sum(one == other for one, other, _ in found)
    assert right / len(emoji) >= least, "recall"
    assert right / len(found) >= 0.97, "precision"


def test_different_emoji_are_hardly_ever_taken_for_copies(emoji: list[np.ndarray]) -> None:
    found = list(near_pictures(column(*map(picture_signature, emoji))))
    assert len(found) <= 0.02 * len(emoji)  # people who differ in their hair only
