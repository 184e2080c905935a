"""Samples of webdataset archives, compared with reading the archive from the front."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import DataError, InputError
from mmembed.tables.archives import TarIndex

MEMBERS = {
    "part/0001.jpg": b"picture 1",
    "part/0001.JSON": b"{}",
    "part/0002.jpg": b"",
    "part/0002.seg.png": b"mask",
    "0003.txt": b"x" * 2000,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def archive(members: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def contents(index: TarIndex) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (sample.key, {name: index.read(member) for name, member in sample.members.items()})
        for sample in index.samples
    ]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_with_one_name_are_a_sample(tmp_path: Path, name: str, format: int) -> None:
    content = archive({**MEMBERS, f"{'long/' * 40}x.txt": b"long"}, format=format)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    index = TarIndex([tmp_path / name])
    assert contents(index) == [
        ("part/0001", {"jpg": b"picture 1", "json": b"{}"}),
        ("part/0002", {"jpg": b"", "seg.png": b"mask"}),
        ("0003", {"txt": b"x" * 2000}),
        (f"{'long/' * 40}x", {"txt": b"long"}),
    ]
    assert index.where(1) == f"{name}, sample part/0002"
    assert index.samples[1:3] == [index[1], index[2]]
    with pytest.raises(IndexError):
        index[4]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "d/a"]), st.sampled_from(["x", "y.z"]), st.binary()),
        max_size=12,
    ),
    st.integers(1, 3),
)
def test_samples_are_runs_of_members(members: list[tuple[str, str, bytes]], shards: int) -> None:
    """Numbered so that a name never comes twice in a run."""
    import tempfile

    expected: list[tuple[str, dict[str, bytes]]] = []
    parts: list[dict[str, bytes]] = [{} for _ in range(shards)]
    for shard, part in enumerate(parts):
        last = None
        for number, (key, extension, content) in enumerate(members[shard::shards]):
            extension = f"{extension}{number}"
            part[f"{key}.{extension}"] = content
            if key != last:
                expected.append((key, {}))
            expected[-1][1][extension] = content
            last = key
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.tar") for number in range(shards)]
        for file, part in zip(files, parts, strict=True):
            file.write_bytes(archive(part))
        assert contents(TarIndex(files, cache=Path(folder))) == expected


def test_what_is_no_plain_file_of_the_archive_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("/etc/x.txt", "../x.txt", "a/../../x.txt", "noextension", ".hidden.txt"):
            tar.addfile(tarfile.TarInfo(name))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("b.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("good.txt"))
    assert [sample.key for sample in TarIndex([tmp_path / "a.tar"])] == ["good"]


def test_an_extension_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive({"a.jpg": b"", "a.JPG": b""}))
    with pytest.raises(DataError, match=r"a\.tar: the sample a has two members \.jpg"):
        TarIndex([tmp_path / "a.tar"])


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_an_archive_that_was_cut_off_is_named(tmp_path: Path, kept: float) -> None:
    whole = archive({f"{n}.txt": bytes([n]) * 700 for n in range(20)})
    end = 20 * (512 + 1024)
    (tmp_path / "a.tar").write_bytes(whole[: int(end * kept)])
    with pytest.raises(DataError, match=r"a\.tar: damaged"):
        TarIndex([tmp_path / "a.tar"])


def test_a_broken_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    whole = bytearray(archive({f"{n}.txt": b"x" for n in range(9)}))
    whole[4 * 1024 + 150] ^= 1  # in the checksum of the fifth header
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(DataError, match=r"no member and no end of the archive at byte 4096"):
        TarIndex([tmp_path / "a.tar"])


def test_an_archive_that_shrinks_under_its_reader_is_one_bad_member(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(archive(MEMBERS))
    index = TarIndex([file])
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(InputError, match="truncated"):
        index.read(index[2].members["txt"])
    file.unlink()
    with pytest.raises(InputError, match="not_found"):
        index.read(index[0].members["jpg"])
    with pytest.raises(DataError, match="cannot be read"):
        TarIndex([file])
