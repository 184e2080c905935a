"""The embedding store: what survives, what is refused, what is found."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.errors import InputError, SpaceMismatchError, StoreError
from mmembed.store.content import content_key
from mmembed.store.vectors import EmbeddingStore
from mmembed.types import Image, MultimodalInput, Page, Text, Url, Video

SPACE = {"fingerprint": "a" * 64, "dimension": 4}


def key(number: int) -> str:
    return f"{number:064x}"


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def two_shards(folder: Path) -> tuple[EmbeddingStore, np.ndarray]:
    store = EmbeddingStore(folder, **SPACE)
    vectors = rows(5)
    store.add([key(n) for n in range(3)], vectors[:3])
    store.add([key(n) for n in range(3, 5)], vectors[3:])
    return store, vectors


def test_rows_come_back_bit_equal_in_any_order_from_another_process_view(tmp_path: Path) -> None:
    _, vectors = two_shards(tmp_path)
    store = EmbeddingStore(tmp_path)
    assert len(store) == 5
    order = [4, 0, 3, 1, 2, 0]
    assert np.array_equal(store.get([key(n) for n in order]), vectors[order])
    assert (store.fingerprint, store.dimension) == ("a" * 64, 4)


def test_a_known_key_keeps_its_vector_and_costs_no_shard(tmp_path: Path) -> None:
    store, vectors = two_shards(tmp_path)
    assert store.add([key(0), key(9), key(9)], rows(3, seed=1)) == 1
    assert np.array_equal(store.get([key(0)])[0], vectors[0])
    assert np.array_equal(store.get([key(9)])[0], rows(3, seed=1)[1])
    assert store.add([key(0)], rows(1, seed=2)) == 0
    assert store.num_shards == 3
    assert store.missing([key(7), key(0), key(7), key(6)]) == [key(7), key(6)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1e300])
def test_a_row_that_is_not_finite_or_zero_is_refused_and_nothing_is_written(
    tmp_path: Path, bad: float
) -> None:
    store = EmbeddingStore(tmp_path, **SPACE)
    vectors = rows(2).astype(np.float64)
    vectors[1] = bad
    with pytest.raises(ValueError, match=r"row 1 .*1 of 2 rows"):
        store.add([key(0), key(1)], vectors)
    assert len(EmbeddingStore(tmp_path)) == 0
    assert not list((tmp_path / "shards").iterdir())


def test_wrong_shapes_dtypes_and_keys_are_refused(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, **SPACE)
    with pytest.raises(ValueError, match=r"need \(2, 4\)"):
        store.add([key(0), key(1)], rows(1))
    with pytest.raises(ValueError, match="int8"):
        store.add([key(0)], np.ones((1, 4), dtype=np.int8))
    with pytest.raises(ValueError, match="64 lower-case hex"):
        store.add(["../../etc/passwd"], rows(1))


def test_another_model_or_dimension_is_refused_naming_both(tmp_path: Path) -> None:
    two_shards(tmp_path)
    with pytest.raises(SpaceMismatchError, match=f"{'a' * 64}.*{'b' * 64}"):
        EmbeddingStore(tmp_path, fingerprint="b" * 64, dimension=4)
    with pytest.raises(SpaceMismatchError, match=r"4 dimensions.*got 8"):
        EmbeddingStore(tmp_path, fingerprint="a" * 64, dimension=8)


def test_a_kill_between_shard_and_manifest_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    _, vectors = two_shards(tmp_path)
    stray = tmp_path / "shards" / f"{'e' * 64}.npy"
    stray.write_bytes(b"\x93NUMPY half a shard")
    temporary = tmp_path / "shards" / ".tmp-1-x.npy"
    temporary.write_bytes(b"half")
    store = EmbeddingStore(tmp_path)
    assert len(store) == 5
    assert np.array_equal(store.get([key(4)])[0], vectors[4])
    assert store.verify() == []
    store.add([key(8)], rows(1))
    assert not stray.exists() and not temporary.exists(), "the next writer removes them"
    assert len(EmbeddingStore(tmp_path)) == 6


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_manifest_line_that_was_cut_is_not_committed_and_the_next_write_heals_it(
    tmp_path: Path, kept: int
) -> None:
    _, vectors = two_shards(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    first, second = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first + second[:kept])
    store = EmbeddingStore(tmp_path)
    assert list(store.keys()) == [key(0), key(1), key(2)]
    assert "a write that was cut" in " ".join(store.verify()).replace("\n", " ")
    store.add([key(3), key(4)], vectors[3:])
    again = EmbeddingStore(tmp_path)
    assert np.array_equal(again.get([key(n) for n in range(5)]), vectors)
    assert again.verify() == []


def test_verify_finds_every_single_flipped_byte(tmp_path: Path) -> None:
    store, _ = two_shards(tmp_path)
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"):
        original = path.read_bytes()
        for place in range(len(original)):
            flipped = bytearray(original)
            flipped[place] ^= 1
            path.write_bytes(bytes(flipped))
            assert store.verify(), f"{path.name}: byte {place}"
        path.write_bytes(original)
    assert store.verify() == []


def test_a_flipped_byte_is_found_before_the_vector_is_used(tmp_path: Path) -> None:
    two_shards(tmp_path)
    shard = sorted((tmp_path / "shards").iterdir())[0]
    payload = bytearray(shard.read_bytes())
    payload[-1] ^= 0x40
    shard.write_bytes(bytes(payload))
    store = EmbeddingStore(tmp_path)
    with pytest.raises(StoreError, match="sha256 differs"):
        store.get(list(store.keys()))


def test_a_shard_that_is_cut_or_missing_is_refused_on_opening(tmp_path: Path) -> None:
    two_shards(tmp_path)
    shard = sorted((tmp_path / "shards").iterdir())[0]
    payload = shard.read_bytes()
    shard.write_bytes(payload[: len(payload) // 2])
    with pytest.raises(StoreError, match=r"the manifest promises \d+ bytes"):
        EmbeddingStore(tmp_path)
    shard.unlink()
    with pytest.raises(StoreError, match="is missing"):
        EmbeddingStore(tmp_path)


def test_a_folder_that_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.json is missing"):
        EmbeddingStore(tmp_path)
    two_shards(tmp_path)
    (tmp_path / "store.json").unlink()
    with pytest.raises(StoreError, match="space is unknown"):
        EmbeddingStore(tmp_path, **SPACE)


def test_a_full_disk_is_a_named_error_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = two_shards(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; earlier rows are unharmed"):
        store.add([key(7)], rows(1))
    monkeypatch.undo()
    assert EmbeddingStore(tmp_path).verify() == []
    assert store.add([key(7)], rows(1)) == 1
    assert len(EmbeddingStore(tmp_path)) == 6


def test_two_writers_share_one_store(tmp_path: Path) -> None:
    mine = EmbeddingStore(tmp_path, **SPACE)
    other = EmbeddingStore(tmp_path, **SPACE)
    mine.add([key(0)], rows(1))
    assert other.add([key(0), key(1)], rows(2, seed=1)) == 1
    assert mine.missing([key(1)]) == [key(1)]
    mine.refresh()
    assert mine.missing([key(1)]) == []
    assert EmbeddingStore(tmp_path).verify() == []


def test_eight_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, **SPACE)
    script = (
        "import sys, numpy as np\n"
        "from mmembed.store.vectors import EmbeddingStore\n"
        "store, base = EmbeddingStore(sys.argv[1]), int(sys.argv[2])\n"
        "for n in range(base, base + 5):\n"
        "    store.add([f'{n:064x}'], np.full((1, 4), n + 1, dtype=np.float32))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(base)])
        for base in range(0, 40, 5)
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 8
    store = EmbeddingStore(tmp_path)
    assert store.verify() == []
    assert np.array_equal(store.get([key(n) for n in range(40)])[:, 0], np.arange(1, 41))


# content keys


def image(mode: str, size: tuple[int, int], data: bytes) -> MultimodalInput:
    return MultimodalInput((Image(PILImage.frombytes(mode, size, data)),))


def palette(colour: tuple[int, int, int]) -> MultimodalInput:
    picture = PILImage.new("P", (4, 4))
    picture.putpalette(list(colour) * 256)
    return MultimodalInput((Image(picture),))


def beside(part: object) -> MultimodalInput:
    return MultimodalInput((part, Text("what is this?")))  # type: ignore[arg-type]


COLLISIONS = {
    "shape": (
        image("L", (30, 150), bytes(range(250)) * 18),
        image("L", (150, 30), bytes(range(250)) * 18),
    ),
    "palette": (palette((255, 0, 0)), palette((0, 0, 255))),
    "mode": (image("L", (4, 3), bytes(range(12))), image("RGB", (2, 2), bytes(range(12)))),
    "video": (beside(Video(b"clip one")), beside(Video(b"clip two"))),
    "kind": (beside(Video(b"same bytes")), beside(Page(b"same bytes"))),
    "array shape": (
        MultimodalInput((Image(np.zeros((2, 3, 3), dtype=np.uint8)),)),
        MultimodalInput((Image(np.zeros((3, 2, 3), dtype=np.uint8)),)),
    ),
    "split": (
        MultimodalInput((Text("ab"), Text("c"))),
        MultimodalInput((Text("a"), Text("bc"))),
    ),
    "instruction": (
        MultimodalInput((Text("a"),), instruction=""),
        MultimodalInput((Text("a"),), instruction=None),
    ),
    "text or instruction": (
        MultimodalInput((Text("a"),), instruction="b"),
        MultimodalInput((Text("b"),), instruction="a"),
    ),
    "page": (MultimodalInput((Page(b"x", "1"),)), MultimodalInput((Page(b"x", "2"),))),
    "clip": (
        MultimodalInput((Video(b"x", start=0.0, end=5.0),)),
        MultimodalInput((Video(b"x", start=5.0),)),
    ),
    "budget": (
        MultimodalInput((Image(b"x", max_tokens=64),)),
        MultimodalInput((Image(b"x", min_tokens=64),)),
    ),
    "frames": (
        MultimodalInput((Video((b"one", b"two")),)),
        MultimodalInput((Video((b"two", b"one")),)),
    ),
}


@pytest.mark.parametrize("pair", COLLISIONS.values(), ids=COLLISIONS.keys())
def test_items_that_mean_different_things_have_different_keys(
    pair: tuple[MultimodalInput, MultimodalInput],
) -> None:
    assert content_key(pair[0], "document") != content_key(pair[1], "document")


def test_the_role_is_part_of_the_key() -> None:
    item = MultimodalInput((Text("a"),))
    assert content_key(item, "document") != content_key(item, "query")


def test_the_key_follows_the_bytes_and_not_the_path(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.jpg"
    first.write_bytes(b"some bytes")
    second.write_bytes(b"some bytes")
    keys = {
        content_key(MultimodalInput((Image(source),)), "document")
        for source in (first, second, b"some bytes")
    }
    assert len(keys) == 1
    second.write_bytes(b"other bytes")
    assert content_key(MultimodalInput((Image(second),)), "document") not in keys


def test_equal_options_and_passwords_do_not_split_a_key() -> None:
    clips = [MultimodalInput((Video(b"x", fps=fps),)) for fps in (2, 2.0)]
    pages = [MultimodalInput((Page(b"x", password=word),)) for word in (None, "secret")]
    for one, other in (clips, pages):
        assert content_key(one, "document") == content_key(other, "document")


def test_a_lone_surrogate_has_a_key() -> None:
    lone = content_key(MultimodalInput((Text("\ud800"),)), "document")
    assert lone != content_key(MultimodalInput((Text("?"),)), "document")


def test_what_cannot_be_hashed_says_why(tmp_path: Path) -> None:
    def code(source: object) -> str:
        with pytest.raises(InputError) as caught:
            content_key(MultimodalInput((Image(source),)), "document")  # type: ignore[arg-type]
        return caught.value.code

    assert code(tmp_path / "missing.png") == "not_found"
    assert code(tmp_path) == "not_a_file"
    assert code(tmp_path / "a\0b") == "not_found"
    assert code(Url("https://example.org/a.png")) == "forbidden_url"
    path = tmp_path / "cut.png"
    PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with PILImage.open(path) as broken:
        assert code(broken) == "corrupt"
