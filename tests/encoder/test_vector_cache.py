"""Vectors of earlier calls are found again, exactly where they are the same, and nowhere else."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.encoder import vector_cache
from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError, SpaceMismatchError
from mmembed.inputs import fetch
from mmembed.inputs.media import MediaPolicy
from mmembed.store.vectors import EmbeddingStore
from mmembed.types import Image, MultimodalInput, Page
from tests.encoder.forwards import counted


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=2) as loaded:
        yield loaded


def noise(seed: int, size: int = 40) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return PILImage.fromarray(pixels)


def mixed(folder: Path) -> list[object]:
    path = folder / "noise.png"
    noise(1).save(path)
    return ["a cat", path, {"text": "look", "image": noise(2)}, np.asarray(noise(3)), "a dog"]


def test_a_second_call_encodes_nothing_and_gives_the_same_bits(embedder, tmp_path):
    items = mixed(tmp_path)
    plain = embedder.encode(items)
    first, before = embedder.encode(items, cache=tmp_path / "kept", return_report=True)
    with counted(embedder) as forwards:
        again, after = embedder.encode(items, cache=tmp_path / "kept", return_report=True)
    assert forwards == []
    assert np.array_equal(first, plain)
    assert np.array_equal(again, plain)
    assert (before.num_cached, before.num_encoded) == (0, 5)
    assert (after.num_cached, after.num_encoded, after.num_tokens) == (5, 0, 0)
    assert after.ok.all()


def test_only_new_items_are_encoded_in_their_places(embedder, tmp_path):
    embedder.encode(["b", "d"], cache=tmp_path)
    vectors, report = embedder.encode(list("abcdab"), cache=tmp_path, return_report=True)
    assert np.abs(vectors - embedder.encode(list("abcdab"))).max() <= 1e-5
    assert (report.num_cached, report.num_encoded) == (3, 2)


def test_a_file_is_found_by_its_bytes_under_any_name(embedder, tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.bin"
    noise(4).save(first)
    embedder.encode([first], cache=tmp_path / "kept")
    second.write_bytes(first.read_bytes())
    with counted(embedder) as forwards:
        embedder.encode([second, {"image": first.read_bytes()}], cache=tmp_path / "kept")
    assert forwards == []
    noise(5).save(first)  # another picture in the same place
    with counted(embedder) as forwards:
        embedder.encode([first], cache=tmp_path / "kept")
    assert len(forwards) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"role": "query"},
        {"instruction": "Find it: "},
        {"items": [Image(noise(6), max_tokens=4)]},
        {"items": [{"image": noise(6), "text": "x"}]},
    ],
    ids=["role", "instruction", "option", "text"],
)
def test_what_changes_a_vector_changes_its_key(embedder, tmp_path, changed):
    embedder.encode([noise(6)], cache=tmp_path)
    options = {"items": [noise(6)], **changed}
    vectors, report = embedder.encode(**options, cache=tmp_path, return_report=True)
    assert report.num_cached == 0
    assert np.array_equal(vectors, embedder.encode(**options))


def test_the_cache_of_another_model_is_refused_by_name(embedder, tiny_checkpoint, tmp_path):
    embedder.encode(["a"], cache=tmp_path)
    with Embedder.from_pretrained(
        tiny_checkpoint, encoder={"pooling": "mean"}, num_workers=1
    ) as other:
        for cache in (tmp_path, EmbeddingStore(tmp_path)):
            with pytest.raises(SpaceMismatchError, match=f"{embedder.fingerprint}.*model"):
                other.encode(["a"], cache=cache)


def test_a_row_of_another_dtype_is_not_found(embedder, tiny_checkpoint, tmp_path):
    full, report = embedder.encode(["a cat"], cache=tmp_path, return_report=True)
    with Embedder.from_pretrained(tiny_checkpoint, dtype="bfloat16", num_workers=1) as half:
        assert half.fingerprint == embedder.fingerprint and half.space != embedder.space
        rows, report = half.encode(["a cat"], cache=tmp_path, return_report=True)
        assert report.num_cached == 0
        assert np.array_equal(rows, half.encode(["a cat"]))
        assert not np.array_equal(rows, full)
        rows, report = half.encode(["a cat"], cache=tmp_path, return_report=True)
        assert report.num_cached == 1
    rows, report = embedder.encode(["a cat"], cache=tmp_path, return_report=True)
    assert report.num_cached == 1 and np.array_equal(rows, full)


def test_what_is_no_store_is_refused(embedder):
    with pytest.raises(ConfigError, match="cache is a dict"):
        embedder.encode(["a"], cache={})


def test_short_vectors_and_integers_are_cut_from_the_cached_ones(embedder, tmp_path):
    texts = ["a cat", "a dog", "a bird"]
    embedder.encode(texts, cache=tmp_path)
    with counted(embedder) as forwards:
        short = embedder.encode(texts, truncate_dim=16, cache=tmp_path)
        bits = embedder.encode(texts, precision="ubinary", cache=tmp_path)
    assert forwards == []
    assert np.abs(short - embedder.encode(texts, truncate_dim=16)).max() <= 1e-6
    assert np.array_equal(bits, embedder.encode(texts, precision="ubinary"))


def test_a_store_of_short_vectors_serves_them_and_refuses_longer_ones(embedder, tmp_path):
    store = EmbeddingStore(tmp_path, fingerprint=embedder.fingerprint, dimension=32)
    expected = embedder.encode(["a cat"], truncate_dim=32)
    assert np.abs(embedder.encode(["a cat"], truncate_dim=32, cache=store) - expected).max() < 1e-6
    assert len(store) == 1
    eight = embedder.encode(["a cat"], truncate_dim=8, cache=store)
    assert np.abs(eight - embedder.encode(["a cat"], truncate_dim=8)).max() < 1e-6
    with pytest.raises(SpaceMismatchError, match="32 dimensions; this call needs 64"):
        embedder.encode(["a cat"], cache=store)


def test_lengths_that_the_cache_does_not_have_are_refused(embedder, tmp_path):
    with pytest.raises(ConfigError, match="keeps unit vectors"):
        embedder.encode(["a"], normalize_embeddings=False, cache=tmp_path)


def test_a_model_without_normalisation_keeps_lengths_and_can_give_unit_vectors(
    tiny_checkpoint, tmp_path
):
    with Embedder.from_pretrained(
        tiny_checkpoint, encoder={"normalize": False}, num_workers=1
    ) as raw:
        long = raw.encode(["a cat"], cache=tmp_path)
        assert np.linalg.norm(long) > 1.01
        with counted(raw) as forwards:
            assert np.array_equal(raw.encode(["a cat"], cache=tmp_path), long)
            unit = raw.encode(["a cat"], normalize_embeddings=True, cache=tmp_path)
        assert forwards == []
        assert np.abs(unit - raw.encode(["a cat"], normalize_embeddings=True)).max() <= 1e-6


def test_bad_items_and_addresses_are_never_kept(embedder, tmp_path):
    cut = tmp_path / "cut.png"
    noise(7).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    items = [cut, "good", {"image": "https://127.0.0.1/a.png"}, 17, Path("missing.png")]
    for _ in range(2):
        _, report = embedder.encode(
            items, on_error="null", cache=tmp_path / "kept", return_report=True
        )
        assert report.ok.tolist() == [False, True, False, False, False]
        assert len(report.errors) == 4
    assert len(EmbeddingStore(tmp_path / "kept")) == 1


def test_an_address_is_fetched_again_each_time(embedder, tmp_path, monkeypatch):
    """Its bytes may have changed; here they have."""
    monkeypatch.setattr(embedder.processor.decoder, "policy", MediaPolicy(allow_urls=True))
    seeds = iter([8, 9])

    def body(*_: object) -> tuple[bytes, str]:
        file = io.BytesIO()
        noise(next(seeds)).save(file, "png")
        return file.getvalue(), "example.org"

    monkeypatch.setattr(fetch, "fetch", body)
    item = {"image": "https://example.org/a.png"}
    first = embedder.encode([item], cache=tmp_path)
    second = embedder.encode([item], cache=tmp_path)
    assert np.abs(first - second).max() > 1e-3
    assert len(EmbeddingStore(tmp_path)) == 0


def test_a_file_outside_the_allowed_folders_is_not_found_by_its_content(tiny_checkpoint, tmp_path):
    inside, outside = tmp_path / "in" / "a.png", tmp_path / "b.png"
    inside.parent.mkdir()
    noise(10).save(inside)
    outside.write_bytes(inside.read_bytes())
    policy = MediaPolicy(allowed_roots=(inside.parent,))
    with Embedder.from_pretrained(tiny_checkpoint, media=policy, num_workers=1) as strict:
        for cache in (None, tmp_path / "kept", tmp_path / "kept"):
            _, report = strict.encode(
                [inside, outside], on_error="null", cache=cache, return_report=True
            )
            assert report.ok.tolist() == [True, False]
            assert report.errors[0].code == "forbidden_path"


def test_a_file_that_changes_during_the_call_is_not_kept(embedder, tmp_path):
    path = tmp_path / "a.png"
    noise(11).save(path)

    def replace(*_: object) -> None:
        noise(12, 48).save(path)

    hook = embedder.encoder.register_forward_pre_hook(replace)
    try:
        embedder.encode([path], cache=tmp_path / "kept")
    finally:
        hook.remove()
    assert len(EmbeddingStore(tmp_path / "kept")) == 0


def test_a_call_that_fails_keeps_what_was_done_before(embedder, tmp_path):
    missing = Path("missing.png")
    texts = [f"text {number}" for number in range(1100)]  # more than the first window
    with pytest.raises(InputError):
        embedder.encode([*texts, missing], cache=tmp_path)
    assert len(EmbeddingStore(tmp_path)) >= 1000


def test_rows_reach_the_disk_while_the_call_runs(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(vector_cache, "_SHARD_ROWS", 4)
    sizes: list[int] = []

    def look(*_: object) -> None:
        known = (tmp_path / "store.json").exists()
        sizes.append(len(EmbeddingStore(tmp_path)) if known else 0)

    hook = embedder.encoder.register_forward_pre_hook(look)
    try:
        embedder.encode([f"t{number}" for number in range(12)], batch_size=2, cache=tmp_path)
    finally:
        hook.remove()
    assert sizes[-1] >= 4
    assert len(EmbeddingStore(tmp_path)) == 12


KILLED = """
import os, signal, sys
from mmembed.encoder import vector_cache
from mmembed.encoder.embedder import Embedder
vector_cache._SHARD_ROWS = 4
count = 0

def die(*_):
    global count
    count += 1
    if count == 6:
        os.kill(os.getpid(), signal.SIGKILL)

with Embedder.from_pretrained(sys.argv[1], num_workers=1) as embedder:
    embedder.encoder.register_forward_pre_hook(die)
    embedder.encode([f"text {n}" for n in range(20)], batch_size=2, cache=sys.argv[2])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills itself with a POSIX signal")
def test_a_killed_call_loses_the_shard_in_flight_and_no_more(embedder, tiny_checkpoint, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tiny_checkpoint), str(tmp_path)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert EmbeddingStore(tmp_path).verify() == []
    texts = [f"text {number}" for number in range(20)]
    vectors, report = embedder.encode(texts, cache=tmp_path, return_report=True)
    assert report.num_cached == 8  # five batches of two ran; two shards of four were full
    assert np.abs(vectors - embedder.encode(texts)).max() <= 1e-5


WRITER = """
import sys
from mmembed.encoder import vector_cache
from mmembed.encoder.embedder import Embedder
vector_cache._SHARD_ROWS = 3
first = int(sys.argv[3])
with Embedder.from_pretrained(sys.argv[1], num_workers=1) as embedder:
    texts = [f"text {n}" for n in range(first, first + 20)]
    embedder.encode(texts, batch_size=2, cache=sys.argv[2])
"""


def test_two_processes_write_one_cache(embedder, tiny_checkpoint, tmp_path):
    command = [sys.executable, "-c", WRITER, str(tiny_checkpoint), str(tmp_path)]
    writers = [subprocess.Popen([*command, first]) for first in ("0", "10")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert EmbeddingStore(tmp_path).verify() == []
    texts = [f"text {number}" for number in range(30)]
    vectors, report = embedder.encode(texts, cache=tmp_path, return_report=True)
    assert report.num_cached == 30
    assert np.abs(vectors - embedder.encode(texts)).max() <= 1e-5


def test_a_locked_page_is_not_mistaken_for_its_twin_with_the_password(embedder, tmp_path):
    pymupdf = pytest.importorskip("pymupdf")
    path = tmp_path / "locked.pdf"
    document = pymupdf.open()
    document.new_page(width=200, height=280)
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="open", owner_pw="x")
    items = [MultimodalInput((Page(path),)), MultimodalInput((Page(path, password="open"),))]
    _, report = embedder.encode(items, on_error="null", cache=tmp_path / "c", return_report=True)
    assert report.ok.tolist() == [False, True]
