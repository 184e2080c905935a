"""Downloads: from a server that speaks the hub's calls, and from a folder in its layout."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmembed.data.downloads import presence
from mmembed.data.fetch import fetch, noted_commits, plan_fetch
from mmembed.data.hub import Hub, Mirror
from mmembed.data.lock import check_lock, read_lock
from mmembed.data.samples import sample_name, write_sample
from mmembed.datasets import DatasetCard
from mmembed.errors import DataError
from mmembed.tables.layouts import find_table, read_rows
from tests.data.hub_server import COMMIT, HubServer

REPO = "someone/pairs"
CARD = DatasetCard(
    "pairs", "retrieval", "text", "text", repo=REPO, license="mit", files=("data/train-*.parquet",)
)


def write_repository(root: Path, repo: str = REPO) -> Path:
    """Two shards of 600 rows, a file that the card does not name, and a README."""
    folder = root / repo
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        rows = [{"query": f"q{shard}.{n}", "positive": "words " * 50} for n in range(600)]
        name = f"train-{shard:05}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / name, row_group_size=100)
    (folder / "data" / "test-00000-of-00001.parquet").write_bytes(b"not wanted")
    (folder / "README.md").write_text("# pairs\n")
    (folder / "pictures.tar").write_bytes(b"\0" * 3000)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: body for name, body in named.items() if not name.startswith(".cache")}


@pytest.fixture
def server(tmp_path):
    write_repository(tmp_path / "served")
    with HubServer(tmp_path / "served").running() as running:
        yield running


def hub_at(url: str) -> Hub:
    from huggingface_hub import HfApi

    hub = Hub()
    hub._api = HfApi(endpoint=url)
    return hub


def test_the_hub_gives_the_files_of_the_card_and_the_commit_is_noted(server, tmp_path):
    root = tmp_path / "data"
    (result,) = fetch(plan_fetch([CARD]), root, hub_at(server.url))
    served = content(tmp_path / "served" / REPO)
    wanted = {name for name in served if "train" in name} | {"README.md"}
    assert content(root / REPO) == {name: served[name] for name in wanted}
    assert (result.commit, result.num_files) == (COMMIT, 3)
    (noted,) = read_lock(root / "data.lock").datasets
    assert (noted.name, noted.revision, noted.commit) == ("pairs", "main", COMMIT)
    assert set(noted.files) == wanted
    assert noted_commits(root) == {"pairs": COMMIT}
    assert presence(CARD, root, REPO) == "present"


def test_what_is_there_is_not_sent_again_and_a_cut_transfer_goes_on(server, tmp_path):
    root, hub = tmp_path / "data", hub_at(server.url)
    server.cut_after = 1000
    fetch(plan_fetch([CARD]), root, hub)  # the hub's library asks again for the rest
    assert server.cut_after is None
    served = content(tmp_path / "served" / REPO)
    assert all(served[name] == body for name, body in content(root / REPO).items())
    begun = len(server.requests)
    fetch(plan_fetch([CARD]), root, hub)
    again = server.requests[begun:]
    assert not [request for request in again if request.startswith("GET /datasets")]


def test_rows_takes_the_first_rows_by_pieces_in_the_layout_of_the_whole(server, tmp_path):
    root = tmp_path / "data"
    fetch(plan_fetch([CARD], rows=7), root, hub_at(server.url))
    assert set(content(root / REPO)) == {"README.md", "data/train-00000-of-00001.parquet"}
    (table,) = find_table(root / REPO, "", "train")
    assert [row["query"] for row in read_rows(table)] == [f"q0.{n}" for n in range(7)]
    assert read_lock(root / "data.lock").datasets[0].sample_rows == 7
    assert not [request for request in server.requests if "00001-of-00002" in request]


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (replace(CARD, repo="someone/else"), "no such repository or revision"),
        (replace(CARD, revision="v9"), "no such repository or revision"),
        (replace(CARD, files=("train/*.tsv",)), "has no file like train/"),
        (replace(CARD, repo="", url="https://x.org"), "get it as https://x.org says"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_what_to_do(card, says, server, tmp_path):
    with pytest.raises(DataError, match=says):
        fetch(plan_fetch([card]), tmp_path / "data", hub_at(server.url))


def test_without_a_network_the_message_names_source(tmp_path):
    with pytest.raises(DataError, match="--source"):
        fetch(plan_fetch([CARD]), tmp_path, hub_at("http://127.0.0.1:9"))


def test_a_folder_in_the_hubs_layout_is_copied_and_checked(tmp_path):
    write_repository(tmp_path / "copy")
    root = tmp_path / "data"
    (result,) = fetch(plan_fetch([CARD]), root, Mirror(tmp_path / "copy"))
    assert result.commit == ""
    served = content(tmp_path / "copy" / REPO)
    assert all(served[name] == body for name, body in content(root / REPO).items())
    assert check_lock(root / "data.lock") == []
    (root / REPO / "README.md").write_text("# other\n!")
    (root / REPO / "data/train-00001-of-00002.parquet").unlink()
    assert check_lock(root / "data.lock") == [
        "pairs: README.md has changed (8 bytes, now 9)",
        "pairs: data/train-00001-of-00002.parquet is missing",
    ]
    assert presence(CARD, root, REPO) == "partial"
    with pytest.raises(DataError, match="has no someone/none"):
        fetch(plan_fetch([replace(CARD, repo="someone/none")]), root, Mirror(tmp_path / "copy"))


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    write_repository(tmp_path / "copy")
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="GB free"):
        fetch(plan_fetch([CARD]), tmp_path / "data", Mirror(tmp_path / "copy"))
    assert not (tmp_path / "data").exists()


def test_presence_follows_what_lies_there(tmp_path):
    assert presence(CARD, tmp_path, REPO) == "absent"
    folder = write_repository(tmp_path)
    assert presence(CARD, tmp_path, REPO) == "present"
    waiting = folder / ".cache/huggingface/download/data"
    waiting.mkdir(parents=True)
    (waiting / "x.incomplete").touch()
    assert presence(CARD, tmp_path, REPO) == "partial"
    assert presence(replace(CARD, files=("images/*.tar",)), tmp_path, REPO) == "absent"
    both = replace(CARD, files=("data/train-*.parquet", "images/*.tar"))
    (waiting / "x.incomplete").unlink()
    assert presence(both, tmp_path, REPO) == "present"


ROWS = [{"a": n, "text": f"row {n}\n\u2028" if n == 1 else "é" * n} for n in range(9)]


@pytest.mark.parametrize("count", [1, 3, 9, 50])
@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.jsonl.gz", "t.json", "t.csv", "t.tsv"])
def test_a_sample_holds_the_first_rows_of_every_format(name, count, tmp_path):
    source, target = tmp_path / name, tmp_path / "out" / name
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), source, row_group_size=4)
    elif name.endswith("gz"):
        source.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith("json"):
        source.write_text(json.dumps(ROWS))
    elif name.endswith("jsonl"):
        source.write_text(lines)
    else:
        mark = "," if name == "t.csv" else "\t"
        quote = '"' if name == "t.csv" else ""
        cells = [f"{row['a']}{mark}{quote}{row['text'].strip()}{quote}\n" for row in ROWS]
        source.write_text(f"a{mark}text\n" + "".join(cells), encoding="utf-8")
    with source.open("rb") as opened:
        write_sample(opened, target, count)
    expected = ROWS[:count]
    if name.endswith("parquet"):
        assert pq.read_table(target).to_pylist() == expected
    elif name.endswith("json"):
        assert json.loads(target.read_text()) == expected
    elif "jsonl" in name:
        raw = target.read_bytes()
        text = (gzip.decompress(raw) if name.endswith("gz") else raw).decode()
        assert [json.loads(line) for line in text.split("\n") if line] == expected
    else:
        assert len(target.read_text("utf-8").split("\n")) - 2 == len(expected)


def test_a_large_list_in_json_is_read_only_as_far_as_needed(tmp_path):
    rows = [{"n": n, "nested": [{"text": "é]}," * 40}]} for n in range(4000)]
    file = tmp_path / "big.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    with file.open("rb") as opened:
        write_sample(opened, tmp_path / "small.json", 500)
        assert opened.tell() < file.stat().st_size / 4
    assert json.loads((tmp_path / "small.json").read_text("utf-8")) == rows[:500]


def test_a_damaged_table_is_refused_and_leaves_nothing(tmp_path):
    for name, body in {
        "a.parquet": b"PAR1 no",
        "a.json": b'[{"a": 1}, {',
        "a.csv.gz": b"no",
    }.items():
        (tmp_path / name).write_bytes(body)
        with (tmp_path / name).open("rb") as opened, pytest.raises(DataError, match=name):
            write_sample(opened, tmp_path / "out" / name, 5)
    assert not list((tmp_path / "out").iterdir())


def test_a_shard_is_renamed_so_that_none_seems_missing():
    assert sample_name("data/train-00000-of-00082.parquet") == "data/train-00000-of-00001.parquet"
    assert sample_name("a/train-00003-of-01106-8ce5201aa40b0141.parquet") == (
        "a/train-00000-of-00001.parquet"
    )
    assert sample_name("train.jsonl") == "train.jsonl"
