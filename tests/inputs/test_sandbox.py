"""A bad file costs its own item: decode processes crash, hang and are replaced unnoticed."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia, MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, Page, Url, Video
from tests import media_files as files

BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=16 * 784)
ROOT = Path(__file__).resolve().parents[2]

# A decoder with four defects, loaded by the decode processes of a test through PYTHONPATH: it
# stands for the libraries that crash, hang, print or exhaust memory on files nobody can write down.
FAULTY_DECODER = """
import os, signal, time
import PIL.Image

opening = PIL.Image.open

def open_with_defects(file, *arguments, **options):
    data = file.read()
    file.seek(0)
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in data:
        time.sleep(1000)
    if b"NOISE" in data:
        os.write(1, b"noise" * 100)
        os.write(2, b"noise" * 100)
        data += os.read(0, 100)
    if b"MEMORY" in data:
        bytearray(1 << 40)
    return opening(file, *arguments, **options)

PIL.Image.open = open_with_defects
"""


@pytest.fixture(scope="module")
def shared():
    with MediaDecoder(num_workers=1) as decoder:
        yield decoder


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Path of a folder that makes decode processes load the faulty decoder."""
    (tmp_path / "sitecustomize.py").write_text(FAULTY_DECODER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def picture(number: int = 0, trailer: bytes = b"") -> bytes:
    return files.encode_image(files.photo(seed=number)) + trailer


def codes(outcomes) -> list[str]:
    return [item.code if isinstance(item, InputError) else "ok" for item in outcomes]


def processes(decoder) -> list[int]:
    return sorted(process._process.pid for process in decoder._pool._all)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_isolated_decoding_equals_decoding_in_process(shared, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pymupdf")
    path = tmp_path / "picture.png"
    path.write_bytes(picture(1))
    parts = [
        Image(path),
        Image(picture(2)),
        Image(files.photo(seed=3)),
        Video(files.video(12), num_frames=3),
        Video((picture(4), files.photo(seed=5), path)),
        Page(files.pdf(2)),
        Image(tmp_path / "absent.png"),
        Image(b"no picture"),
        Video((picture(4), b"")),
        Page(files.pdf(1), pages="9"),
        Image(Url("https://example.com/p.png")),
    ]
    budgets = [BUDGET] * len(parts)
    inside = MediaDecoder(MediaPolicy(isolate=False)).decode_many(parts, budgets)
    outside = shared.decode_many(parts, budgets)
    for left, right in zip(inside, outside, strict=True):
        assert type(left) is type(right)
        if isinstance(left, DecodedMedia):
            assert all((a == b).all() for a, b in zip(left.frames, right.frames, strict=True))
            assert (left.timestamps, left.pages, left.warnings) == (
                right.timestamps,
                right.pages,
                right.warnings,
            )
        else:
            assert str(left) == str(right) and left.index == right.index
    assert codes(outside)[:6] == ["ok"] * 6
    assert codes(outside)[6:] == [
        "not_found",
        "unsupported_format",
        "empty",
        "page_out_of_range",
        "forbidden_url",
    ]


def test_many_parts_come_back_in_order_whatever_their_size(shared):
    pictures = [files.photo(8 + 40 * (number % 7), 8, seed=number) for number in range(200)]
    parts = [Image(files.encode_image(one)) for one in pictures]
    for outcome, expected in zip(
        shared.decode_many(parts, [BUDGET] * len(parts)), pictures, strict=True
    ):
        assert (outcome.frames[0] == expected).all()


def test_frames_do_not_change_when_more_are_decoded(shared):
    first = shared.decode(Image(picture(1)), BUDGET).frames[0]
    shared.decode_many([Image(picture(2))] * 9, [BUDGET] * 9)
    assert (first == files.photo(seed=1)).all()


def test_a_crash_costs_only_the_item_that_crashed(faulty):
    items = [picture(0), picture(1, b"CRASH"), picture(2), b"", picture(3, b"CRASH"), picture(4)]
    with MediaDecoder() as decoder:
        outcomes = decoder.decode_many([Image(item) for item in items], [BUDGET] * 6)
    assert codes(outcomes) == ["ok", "decoder_crash", "ok", "empty", "decoder_crash", "ok"]
    for position in (0, 2, 5):
        expected = files.photo(seed={0: 0, 2: 2, 5: 4}[position])
        assert (outcomes[position].frames[0] == expected).all()
    assert outcomes[1].source.startswith("bytes:") and outcomes[1].part == "image"


def test_a_hanging_decoder_is_stopped_and_the_others_go_on(faulty):
    items = [picture(0), picture(1, b"HANG"), picture(2)]
    with MediaDecoder(MediaPolicy(timeout_seconds=3.0)) as decoder:
        outcomes = decoder.decode_many([Image(item) for item in items], [BUDGET] * 3)
    assert codes(outcomes) == ["ok", "decode_timeout", "ok"]


def test_exhausted_memory_is_an_error_of_the_item(faulty):
    items = [picture(0), picture(1, b"MEMORY"), picture(2)]
    with MediaDecoder() as decoder:
        outcomes = decoder.decode_many([Image(item) for item in items], [BUDGET] * 3)
    assert codes(outcomes) == ["ok", "out_of_memory", "ok"]


def test_a_decoder_that_prints_and_reads_disturbs_nothing(faulty, capfd):
    items = [picture(0), picture(1, b"NOISE"), picture(2)]
    with MediaDecoder() as decoder:
        outcomes = decoder.decode_many([Image(item) for item in items], [BUDGET] * 3)
    assert codes(outcomes) == ["ok"] * 3
    assert capfd.readouterr() == ("", "")


def test_a_document_that_never_ends_is_stopped(tmp_path):
    pytest.importorskip("pymupdf")
    forms = b"".join(
        b"%d 0 obj<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F %d 0 R>>>>"
        b"/Length 11>>stream\n/F Do /F Do\nendstream endobj\n" % (number, number + 1)
        for number in range(10, 40)
    )
    bomb = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R"
        b"/Resources<</XObject<</F 10 0 R>>>>>>endobj\n"
        b"4 0 obj<</Length 5>>stream\n/F Do\nendstream endobj\n"
        + forms
        + b"40 0 obj<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Length 9>>stream\n0 0 1 1 re\n"
        b"endstream endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    )
    with MediaDecoder(MediaPolicy(page_timeout_seconds=2.0)) as decoder:
        outcomes = decoder.decode_many([Page(bomb), Image(picture())], [BUDGET] * 2)
    assert codes(outcomes) == ["decode_timeout", "ok"]


def test_a_killed_process_is_replaced(shared):
    shared.decode(Image(picture()), BUDGET)
    (before,) = processes(shared)
    os.kill(before, signal.SIGKILL)
    assert (shared.decode(Image(picture()), BUDGET).frames[0] == files.photo()).all()
    assert processes(shared) != [before]


def test_processes_are_replaced_after_their_share_of_items():
    with MediaDecoder(MediaPolicy(items_per_worker=3)) as decoder:
        seen = []
        for _ in range(4):
            decoder.decode(Image(picture()), BUDGET)
            seen.append(processes(decoder))
    assert seen[0] == seen[1] and seen[2] == [] and seen[3] not in (seen[0], [])


def test_nothing_starts_before_it_is_needed_and_nothing_stays():
    decoder = MediaDecoder()
    decoder.decode(Image(files.photo()), BUDGET)
    assert processes(decoder) == []
    decoder.decode(Image(picture()), BUDGET)
    (pid,) = processes(decoder)
    decoder.close()
    assert not is_running(pid)
    decoder.decode(Image(picture()), BUDGET)
    (pid,) = processes(decoder)
    del decoder
    assert not is_running(pid)


def test_threads_share_a_decoder():
    failures = []
    with MediaDecoder(num_workers=2) as decoder:

        def work(number: int) -> None:
            for _ in range(5):
                frame = decoder.decode(Image(picture(number)), BUDGET).frames[0]
                if not (frame == files.photo(seed=number)).all():
                    failures.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(processes(decoder)) <= 2
        outcomes = decoder.decode_many([Image(picture(n)) for n in range(9)], [BUDGET] * 9)
    assert failures == []
    assert codes(outcomes) == ["ok"] * 9


def test_a_decoder_travels_to_another_process_without_its_processes(shared):
    shared.decode(Image(picture()), BUDGET)
    copy = pickle.loads(pickle.dumps(shared))
    assert copy.policy == shared.policy and processes(copy) == []


def test_limits_hold_inside_the_process(shared):
    shared.decode(Image(picture()), BUDGET)
    (pid,) = processes(shared)
    limits = Path(f"/proc/{pid}/limits").read_text()
    rows = {line[:25].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert rows["Max address space"] == str(MediaPolicy().memory_bytes)
    assert rows["Max core file size"] == "0" and rows["Max file size"] == "0"


def test_the_process_starts_without_torch(shared):
    shared.decode(Image(picture()), BUDGET)
    (pid,) = processes(shared)
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "numpy" in maps
    for heavy in ("torch", "transformers", "tokenizers", "pymupdf", "/av/", "pydantic"):
        assert heavy not in maps


def run_script(script: str, *, wait: bool = True) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if wait:
        process.wait(60)
    return process


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image
from tests import media_files as files
decoder = MediaDecoder()
decoder.decode(Image(files.encode_image(files.photo())), MediaBudget(3136, 12544))
print(*[p._process.pid for p in decoder._pool._all], flush=True)
"""


def test_a_script_without_a_main_guard_works_and_leaves_no_process():
    process = run_script(SCRIPT)
    output, complaints = process.communicate()
    assert process.returncode == 0 and complaints == ""
    assert not is_running(int(output))


def test_a_fork_decodes_in_processes_of_its_own():
    process = run_script(
        SCRIPT
        + """
import os
wide = files.photo(640, 480)
frame = decoder.decode(Image(files.encode_image(wide)), MediaBudget(3136, 12544)).frames[0]
child = os.fork()
other = files.photo(640, 480, seed=9)
mine = other if child == 0 else wide
for _ in range(3):
    again = decoder.decode(Image(files.encode_image(mine)), MediaBudget(3136, 12544)).frames[0]
    assert (again == mine).all() and (frame == wide).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    )
    _, complaints = process.communicate()
    assert process.returncode == 0 and complaints == ""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_parent_ends_no_process_stays(end):
    process = run_script(SCRIPT + "import signal; signal.pause()", wait=False)
    worker = os.pidfd_open(int(process.stdout.readline()))
    process.send_signal(end)
    process.communicate()
    ended, _, _ = select.select([worker], [], [], 30)
    os.close(worker)
    assert ended


def test_a_module_in_the_working_folder_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "PIL.py").write_text("raise SystemExit('wrong module')")
    monkeypatch.chdir(tmp_path)
    with MediaDecoder() as decoder:
        relative = Path("picture.png")
        relative.write_bytes(picture())
        assert decoder.decode(Image(relative), BUDGET).frames[0].shape == (48, 64, 3)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_open_files_do_not_pile_up(shared):
    shared.decode(Image(picture()), BUDGET)
    before = open_files()
    for _ in range(3):
        shared.decode_many([Image(picture()), Image(b"bad"), Image(Path("/absent"))], [BUDGET] * 3)
        for process in list(shared._pool._all):
            os.kill(process._process.pid, signal.SIGKILL)
    shared.decode(Image(picture()), BUDGET)
    assert open_files() == before


def test_frames_from_a_process_can_be_written_to(shared):
    frame = shared.decode(Image(picture()), BUDGET).frames[0]
    assert frame.flags.writeable and frame.flags.c_contiguous and frame.dtype == np.uint8
