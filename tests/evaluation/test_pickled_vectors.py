"""Pickles of arrays: both ways bit for bit; nothing but numbers and names comes out of a file."""

from __future__ import annotations

import os
import pickle
import pickletools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import DataError
from mmembed.evaluation import pickled_vectors
from mmembed.evaluation.pickled_vectors import (
    read_array,
    read_named_rows,
    write_array,
    write_named_rows,
)

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_what_is_written_comes_back_bit_for_bit(tmp_path):
    write_array(tmp_path / "rows", ROWS)
    assert read_array(tmp_path / "rows").tobytes() == ROWS.tobytes()
    named = {f"name {place}": row for place, row in enumerate(ROWS)}
    write_named_rows(tmp_path / "named", named)
    back = read_named_rows(tmp_path / "named")
    assert list(back) == list(named)
    assert all(back[name].tobytes() == row.tobytes() for name, row in named.items())


def test_the_plain_unpickler_reads_the_same(tmp_path):
    write_array(tmp_path / "rows", ROWS)
    plain = pickle.loads((tmp_path / "rows").read_bytes())
    assert plain.dtype == np.float32
    assert plain.tobytes() == ROWS.tobytes()
    write_named_rows(tmp_path / "named", {"a": ROWS[0]})
    [(name, row)] = pickle.loads((tmp_path / "named").read_bytes()).items()
    assert name == "a"
    assert row.tobytes() == ROWS[0].tobytes()


LAYOUTS = {
    "plain": ROWS,
    "fortran": np.asfortranarray(ROWS),
    "strided": ROWS[::2, ::-1],
    "big endian": ROWS.astype(">f4"),
    "half": ROWS.astype(np.float16),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_all_protocols_layouts_and_numpy_versions_are_read(tmp_path, protocol, layout, core):
    rows = LAYOUTS[layout]
    path = tmp_path / "rows"
    payload = pickle.dumps(rows, protocol=protocol)
    path.write_bytes(renamed(payload, core))
    assert read_array(path).tolist() == rows.astype(np.float32).tolist()


def renamed(payload: bytes, core: bytes) -> bytes:
    """The same pickle as the other version of numpy writes it: names of modules have a length."""
    for module in (b"multiarray", b"numeric"):
        new = core + b"." + module
        for old in (b"numpy.core." + module, b"numpy._core." + module):
            short = bytes([len(old)]) + old, bytes([len(new)]) + new
            payload = payload.replace(b"\x8c" + short[0], b"\x8c" + short[1])
            payload = payload.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    return without_frames(payload)


def without_frames(payload: bytes) -> bytes:
    """Frames state their length; a pickle without them is as good."""
    frames = [at for opcode, _, at in pickletools.genops(payload) if opcode.name == "FRAME"]
    for at in reversed(frames):
        payload = payload[:at] + payload[at + 9 :]
    return payload


def test_numbers_of_numpy_are_read_beside_arrays(tmp_path):
    path = tmp_path / "named"
    path.write_bytes(pickle.dumps({"a": np.float32(2.5)}))
    with pytest.raises(DataError, match="float under the name 'a'; expected a row"):
        read_named_rows(path)


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("found", [Command(), {"a": Command()}, [ROWS, Command()]])
def test_a_file_that_asks_for_a_command_is_refused_before_it_runs(
    tmp_path, monkeypatch, protocol, found
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows"
    path.write_bytes(pickle.dumps(found, protocol=protocol))
    for read in (read_array, read_named_rows):
        with pytest.raises(DataError, match=r"rows: asks for (posix|nt)\.system"):
            read(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())  # it would have run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.lib.npyio\nload\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
        b"cmmembed.evaluation.pickled_vectors\nos\n.",
        b"Pidentifier\n.",
    ],
)
def test_any_other_name_is_refused(tmp_path, payload):
    path = tmp_path / "rows"
    path.write_bytes(payload)
    with pytest.raises(DataError, match=r"rows: (asks for|refers to)"):
        read_array(path)


@pytest.mark.parametrize(
    "found",
    [
        np.array([["a", object()]], dtype=object),
        np.zeros(3, dtype=[("x", "f4")]),
        np.array(["text"]),
        np.arange(6).reshape(2, 3),
        ROWS[0],
        {"a": ROWS[0]},
        None,
        {"a": 1.0},
    ],
)
def test_anything_but_a_matrix_of_floats_is_refused(tmp_path, found):
    path = tmp_path / "rows"
    path.write_bytes(pickle.dumps(found))
    with pytest.raises(DataError, match="rows"):
        read_array(path)


@pytest.mark.parametrize(
    "found", [ROWS, {}, {1: ROWS[0]}, {"a": ROWS}, {"a": ROWS[0], "b": ROWS[0, :2]}, {"a": [1.0]}]
)
def test_anything_but_rows_under_names_is_refused(tmp_path, found):
    path = tmp_path / "named"
    path.write_bytes(pickle.dumps(found))
    with pytest.raises(DataError, match="named"):
        read_named_rows(path)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_gives_an_array_or_a_refusal(tmp_path_factory, place, value):
    payload = bytearray(pickle.dumps(ROWS))
    payload[place % len(payload)] = value
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(payload)
    try:
        assert read_array(path).dtype == np.float32
    except DataError as error:
        assert "changed" in str(error)


def test_a_file_cannot_ask_for_memory_that_it_does_not_fill(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(pickle.dumps(ROWS)[:-1] + b"r\xff\xff\xff\x00.")  # object number 2^24 - 1
    tracemalloc.start()
    try:
        assert read_array(path).tolist() == ROWS.tolist()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="toy_qry is missing") as caught:
        read_array(tmp_path / "toy_qry")
    assert caught.value.missing == (str(tmp_path / "toy_qry"),)


def test_a_file_cannot_change_our_functions(tmp_path):
    """BUILD with a pair of mappings sets attributes of whatever lies below it on the stack."""
    target = pickled_vectors._new_array
    payload = b"cnumpy._core.multiarray\n_reconstruct\n(N(V__doc__\nVchanged\ndtb."
    (tmp_path / "rows").write_bytes(payload)
    before = target.__doc__
    with pytest.raises(DataError, match="sets the state of what is no array"):
        read_array(tmp_path / "rows")
    assert target.__doc__ == before
