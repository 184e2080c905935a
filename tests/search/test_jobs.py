"""Encode jobs in one process: what they write, how they go on, what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed import Embedder
from mmembed.errors import ConfigError, InputError, SpaceMismatchError, StoreError
from mmembed.search.job_folder import JobFolder, JobSettings, read_vectors, verify_job
from mmembed.search.jobs import Workers, encode_dataset, forecast
from mmembed.search.shard_worker import WorkerSpec
from mmembed.store.durable import dump_record, lock_folder
from tests.search.jobs import all_rows, contents, texts, write_lines


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


def settings(**changes: Any) -> JobSettings:
    return JobSettings(**{"shard_rows": 4, **changes})


def test_the_rows_are_those_of_encode_in_the_order_of_the_sources(
    tmp_path: Path, embedder: Embedder
) -> None:
    rows = texts(11)
    first = write_lines(tmp_path / "first.jsonl", rows[:7])
    second = write_lines(tmp_path / "second.jsonl", rows[7:])
    chosen = settings(role="query", instruction="Find it.", truncate_dim=16)
    summary = encode_dataset([first, second], embedder, tmp_path / "out", settings=chosen)
    assert (summary.rows, summary.encoded, summary.failed) == (11, 11, 0)

    ids, vectors = all_rows(tmp_path / "out")
    expected = embedder.encode_query(
        [row["text"] for row in rows], instruction="Find it.", truncate_dim=16
    )
    assert ids == [row["id"] for row in rows]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    # no shard has rows of two files
    shards = list(read_vectors(tmp_path / "out"))
    assert [(shard.first, len(shard.ids)) for shard in shards] == [(0, 4), (4, 3), (7, 4)]
    assert isinstance(shards[0].vectors, np.memmap)
    assert verify_job(tmp_path / "out")[1] == []


def test_bad_rows_are_listed_and_cost_no_good_one(tmp_path: Path, embedder: Embedder) -> None:
    rows: list[Any] = texts(6)
    rows[1] = {"id": "odd", "colour": "red"}
    rows[3] = {"id": "gone", "image": "gone.png"}
    source = write_lines(tmp_path / "items.jsonl", rows)
    good = embedder.encode([rows[n]["text"] for n in (0, 2, 4, 5)])
    for on_error in ("null", "skip"):
        out = tmp_path / on_error
        summary = encode_dataset(source, embedder, out, settings=settings(on_error=on_error))
        assert (summary.finished, summary.failed) == (6, 2)
        errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
        assert [(e["id"], e["item"], e["code"]) for e in errors] == [
            ("odd", 1, "invalid_type"),
            ("gone", 3, "not_found"),
        ]
        ids, vectors = all_rows(out)
        ok = np.concatenate([shard.ok for shard in read_vectors(out)])
        if on_error == "null":
            assert ids == ["row0", "odd", "row2", "gone", "row4", "row5"]
            assert np.isnan(vectors[~ok]).all() and list(~ok).count(True) == 2
        else:
            assert ids == ["row0", "row2", "row4", "row5"] and ok.all()
        np.testing.assert_allclose(vectors[ok], good, atol=1e-6)


def test_a_bad_row_stops_the_job_which_then_goes_on_past_it(
    tmp_path: Path, embedder: Embedder
) -> None:
    rows: list[Any] = texts(9)
    rows[5] = {"id": "odd", "colour": "red"}
    source = write_lines(tmp_path / "items.jsonl", rows)
    with pytest.raises(InputError, match=r"item 5: .*unknown key 'colour'.*id 'odd'.*--on-error"):
        encode_dataset(source, embedder, tmp_path / "out", settings=settings())
    summary = encode_dataset(source, embedder, tmp_path / "out", settings=settings(on_error="skip"))
    assert (summary.encoded, summary.finished, summary.failed) == (5, 9, 1)
    encode_dataset(source, embedder, tmp_path / "whole", settings=settings(on_error="skip"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(StoreError, match="begun with on_error 'skip'; this command has 'null'"):
        encode_dataset(source, embedder, tmp_path / "out", settings=settings(on_error="null"))


def test_shards_without_a_whole_manifest_line_are_encoded_again(
    tmp_path: Path, embedder: Embedder
) -> None:
    source, out = write_lines(tmp_path / "items.jsonl", texts(14)), tmp_path / "out"
    encode_dataset(source, embedder, out, settings=settings())
    whole = contents(out)
    manifest = out / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    manifest.write_bytes(b"".join(lines[:2]) + lines[2][:-1])
    summary, problems = verify_job(out)
    assert "2 of 4 shards, 8 of 14 rows" in summary
    assert "not encoded yet" in problems[0] and "a write that was cut" in problems[1]
    again = encode_dataset(source, embedder, out, settings=settings())
    assert (again.encoded, again.finished) == (6, 14)
    assert contents(out) == whole

    manifest.write_bytes(lines[0] + lines[1].replace(b'"rows":4', b'"rows":5') + lines[2])
    for use in (verify_job, lambda out: encode_dataset(source, embedder, out)):
        with pytest.raises(StoreError, match=r"line 2 is damaged\. Delete the line"):
            use(out)


def test_what_a_stopped_worker_left_is_removed(tmp_path: Path, embedder: Embedder) -> None:
    source, out = write_lines(tmp_path / "items.jsonl", texts(5)), tmp_path / "out"
    (out / "staged").mkdir(parents=True)
    (out / "staged" / "abc-000000.npy").write_bytes(b"half")
    encode_dataset(source, embedder, out, settings=settings())
    assert list((out / "staged").iterdir()) == []


def test_verify_finds_a_flipped_byte_and_a_missing_file(tmp_path: Path, embedder: Embedder) -> None:
    rows: list[Any] = [*texts(5), {"colour": "red"}]
    source, out = write_lines(tmp_path / "items.jsonl", rows), tmp_path / "out"
    encode_dataset(source, embedder, out, settings=settings(on_error="skip"))
    files = sorted([*(out / "shards").iterdir(), *(out / "errors").iterdir()])
    assert [path.relative_to(out).as_posix() for path in files] == [
        "errors/000001.npy.errors.jsonl",
        "shards/000000.npy",
        "shards/000000.npy.ids.jsonl",
        "shards/000001.npy",
        "shards/000001.npy.ids.jsonl",
    ]
    for path in files:
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
        name = path.relative_to(out).as_posix()
        assert verify_job(out)[1] == [f"{name}: the bytes are not those that were written"]
        path.unlink()
        assert verify_job(out)[1] == [f"{name} is missing"]
        path.write_bytes(before)
    assert verify_job(out)[1] == []


def test_other_settings_models_and_sources_are_refused_by_name(
    tmp_path: Path, embedder: Embedder, tiny_reranker: Path, tiny_checkpoint: Path
) -> None:
    source, out = write_lines(tmp_path / "items.jsonl", texts(5)), tmp_path / "out"
    encode_dataset(source, embedder, out, settings=settings())
    before = contents(out)
    with pytest.raises(StoreError, match="begun with truncate_dim None; this command has 8"):
        encode_dataset(source, embedder, out, settings=settings(truncate_dim=8))

    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    description = json.loads((other / "mmembed.json").read_text())
    description["encoder"]["pooling"] = "mean"
    (other / "mmembed.json").write_text(json.dumps(description))
    with Embedder.from_pretrained(other, num_workers=1) as stranger:
        fingerprints = f"{embedder.fingerprint}; got model {stranger.fingerprint}"
        with pytest.raises(SpaceMismatchError, match=fingerprints):
            encode_dataset(source, stranger, out, settings=settings())

    copy = write_lines(tmp_path / "copy.jsonl", texts(5))
    with pytest.raises(StoreError, match=r"items\.jsonl; this command names .*copy\.jsonl"):
        encode_dataset(copy, embedder, out, settings=settings())
    write_lines(source, texts(5))  # the same bytes at another date
    assert encode_dataset(source, embedder, out, settings=settings()).encoded == 0
    write_lines(source, [*texts(4), {"id": "row4", "text": "another"}])
    with pytest.raises(StoreError, match=r"other data: .*items\.jsonl had .* has changed"):
        encode_dataset(source, embedder, out, settings=settings())
    assert contents(out) == before


def test_two_jobs_do_not_share_a_folder_and_no_job_takes_a_foreign_one(
    tmp_path: Path, embedder: Embedder
) -> None:
    source, out = write_lines(tmp_path / "items.jsonl", texts(2)), tmp_path / "out"
    out.mkdir()
    with lock_folder(out, wait=False), pytest.raises(StoreError, match="another process"):
        encode_dataset(source, embedder, out)
    (out / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"other files in it \(thesis\.tex\)"):
        encode_dataset(source, embedder, out)


def test_a_parquet_job_has_ids_and_vectors_in_one_table(tmp_path: Path, embedder: Embedder) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[Any] = texts(5)
    rows[2] = {"id": "odd", "colour": "red"}
    source = write_lines(tmp_path / "items.jsonl", rows)
    for kind in ("npy", "parquet"):
        chosen = settings(on_error="null", format=kind)
        encode_dataset(source, embedder, tmp_path / kind, settings=chosen)
    table = parquet.read_table(tmp_path / "parquet" / "shards")
    assert table.column_names == ["id", "vector"] and table["vector"].null_count == 1
    (ids, vectors), (plain_ids, plain) = all_rows(tmp_path / "parquet"), all_rows(tmp_path / "npy")
    assert ids == plain_ids == table["id"].to_pylist()
    np.testing.assert_array_equal(vectors, plain)
    assert [shard.ok.tolist() for shard in read_vectors(tmp_path / "parquet")] == [
        [True, True, False, True],
        [True],
    ]


def test_a_job_can_be_quantised(tmp_path: Path, embedder: Embedder) -> None:
    rows = texts(5)
    source = write_lines(tmp_path / "items.jsonl", rows)
    with pytest.raises(ConfigError, match="cannot carry the NaN rows"):
        encode_dataset(
            source, embedder, tmp_path / "a", settings=settings(precision="int8", on_error="null")
        )
    for kind in ("npy", "parquet"):
        out = tmp_path / kind
        encode_dataset(source, embedder, out, settings=settings(precision="int8", format=kind))
        _, vectors = all_rows(out)
        expected = embedder.encode([row["text"] for row in rows], precision="int8")
        assert vectors.dtype == np.int8
        assert np.abs(vectors.astype(int) - expected).max() <= 1  # rounding of a last bit


def test_a_folder_gives_its_pictures_and_passages_and_names_what_it_could_not_use(
    photos: Path, tmp_path: Path, embedder: Embedder
) -> None:
    (photos / "latin.txt").write_bytes(b"caf\xe9")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"latin\.txt.*--on-error null"):
        encode_dataset(photos, embedder, out)
    summary = encode_dataset(photos, embedder, out, settings=settings(on_error="null"))
    assert (summary.finished, summary.failed) == (4, 1)
    ids, vectors = all_rows(out)
    names = ["deep/blue.png", "green.png", "note.md#char=0,23", "red.png"]
    assert sorted(ids) == [str(photos / name) for name in names]
    np.testing.assert_allclose(
        vectors[ids.index(str(photos / "red.png"))], embedder.encode(photos / "red.png"), atol=1e-6
    )
    assert "latin.txt" in (out / "errors.jsonl").read_text()
    again = encode_dataset(photos, embedder, out, settings=settings(on_error="null"))
    assert again.encoded == 0
    (photos / "red.png").touch()
    with pytest.raises(StoreError, match="added, removed or changed"):
        encode_dataset(photos, embedder, out, settings=settings(on_error="null"))


def test_a_forecast_counts_rows_and_bytes_and_leaves_nothing(
    tmp_path: Path, embedder: Embedder
) -> None:
    source = write_lines(tmp_path / "items.jsonl", texts(50))
    expected = forecast(source, embedder, settings=settings(truncate_dim=16), sample=8)
    assert (expected.rows, expected.shards, expected.sampled) == (50, 13, 8)
    assert expected.bytes_per_row == 64 and expected.seconds_per_row > 0
    assert "50 rows in 13 shards" in str(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]


def test_options_that_contradict_each_other_are_refused(tmp_path: Path, embedder: Embedder) -> None:
    source = write_lines(tmp_path / "items.jsonl", texts(2))
    for workers in (Workers(processes=2), Workers(runner="ray")):
        with pytest.raises(ConfigError, match="a loaded model works in this process only"):
            encode_dataset(source, embedder, tmp_path / "out", workers=workers)
    with pytest.raises(ConfigError, match="goes with the runner ray"):
        encode_dataset(source, embedder, tmp_path / "out", workers=Workers(ray_address="auto"))
    with pytest.raises(ConfigError, match="truncate_dim is 65; this model has 64"):
        encode_dataset(source, embedder, tmp_path / "out", settings=settings(truncate_dim=65))


def test_what_is_no_job_is_refused_before_anything_is_written(
    tmp_path: Path, embedder: Embedder
) -> None:
    source = write_lines(tmp_path / "items.jsonl", texts(3))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "cat.png").write_bytes(b"png")
    with pytest.raises(ConfigError, match="other files in it"):
        encode_dataset(source, embedder, pictures)
    assert [path.name for path in pictures.iterdir()] == ["cat.png"]
    with pytest.raises(ConfigError, match="not the folder of an encode job"):
        verify_job(pictures)
    with pytest.raises(ConfigError, match="is a file; a job needs a folder"):
        encode_dataset(source, embedder, source)


def test_verify_finds_rows_that_are_nowhere(tmp_path: Path, embedder: Embedder) -> None:
    source = write_lines(tmp_path / "items.jsonl", texts(6))
    encode_dataset(source, embedder, tmp_path / "job", settings=settings())
    manifest = tmp_path / "job" / "manifest.jsonl"
    job = JobFolder(tmp_path / "job")
    records = [{**record, "written": record["written"] - 1} for record in job.committed.values()]
    manifest.write_bytes(b"".join(dump_record(record) + b"\n" for record in records))
    assert any("does not have all of its rows" in text for text in verify_job(tmp_path / "job")[1])


def test_a_worker_understands_any_file_name() -> None:
    name = "dir\udcff/items.jsonl"
    spec = WorkerSpec(model="m", folder=name, settings=settings(), files=())
    assert WorkerSpec(**json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
