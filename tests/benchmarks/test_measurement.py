"""The arithmetic of the benchmarks on numbers that a reader can check, and their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.encoding import growth_notes, largest_difference, utilisation
from benchmarks.measurement import Case, Start, measure, ratios, spread
from benchmarks.process import InThisProcess, SideProcess
from benchmarks.settings import Settings
from benchmarks.tables import markdown


def runs(*seconds: float, **more: float) -> list[dict[str, float]]:
    return [{"seconds": s, "cpu_seconds": 2 * s, "peak_mib": 10 * s, **more} for s in seconds]


def record(**changes: object) -> dict[str, object]:
    sides = {"mmembed": runs(1.0, 2.0, 4.0, loss=0.5), "other": runs(3.0, 4.0, 4.0, loss=0.5)}
    result = {
        "case": "8 texts",
        "count": 8,
        "unit": "texts",
        "parameters": 2_500_000,
        "facts": {"other": {"max_1_minus_cos": 2e-7}},
        "ratios": ratios(sides),
        "sides": sides,
    }
    return {
        "suite": "text",
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc",
        "settings": {"dtype": "float32", "device": "cpu", "threads": 1},
        "machine": {"cores": 4},
        "results": [result],
        "notes": ["A sentence."],
        **changes,
    }


def test_the_spread_is_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_ratios_are_taken_within_a_round_before_their_median() -> None:
    found = ratios({"ours": runs(1.0, 2.0, 4.0), "theirs": runs(3.0, 2.0, 8.0)})
    assert found == {"theirs": dict.fromkeys(("time", "CPU time", "memory"), (2.0, 1.0, 3.0))}


def test_what_the_system_does_not_tell_has_no_ratio() -> None:
    unknown = [{"seconds": 1.0, "cpu_seconds": 1.0, "peak_mib": None}]
    assert set(ratios({"ours": unknown, "theirs": runs(1.0)})["theirs"]) == {"time", "CPU time"}


def test_every_side_goes_first_in_turn() -> None:
    order: list[str] = []

    class Named:
        def __init__(self, start: Start) -> None:
            self.name = start.target

        def measure(self) -> dict[str, float]:
            order.append(self.name)
            return runs(1.0)[0]

        def close(self) -> None:
            order.append(f"-{self.name}")

    sides = {name: Start(name, {}) for name in "abc"}
    case = Case("work", sides, 5, "texts")
    result = measure(case, rounds=4, begin=Named, progress=lambda _: None)
    assert "".join(order[:12]) == "abc" + "bca" + "cab" + "abc"
    assert sorted(order[12:]) == ["-a", "-b", "-c"]
    assert [len(done) for done in result["sides"].values()] == [4, 4, 4]
    order.clear()
    fresh = Case("work", sides, 5, "texts", fresh=True)
    measure(fresh, rounds=1, begin=Named, progress=lambda _: None)
    assert order == ["a", "-a", "b", "-b", "c", "-c"]


def test_the_peak_is_what_a_call_needs_above_what_was_there_before() -> None:
    code = """
from benchmarks.measurement import resident_mib, timed
held = b"1" * (50 << 20)
cost, _ = timed(lambda: len(b"1" * (100 << 20)), resident=resident_mib())
print(cost["peak_mib"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if ended.stdout.strip() == "None":
        pytest.skip("this system does not tell its memory")
    assert 95 < float(ended.stdout) < 110


def test_a_side_in_its_own_process_answers_like_one_in_this_process(tmp_path: Path) -> None:
    start = Start("benchmarks.media:mmembed_parts", photo_arguments(tmp_path))
    here = InThisProcess(start)
    there = SideProcess(start, threads=1)
    try:
        assert set(there.measure()) == set(here.measure())
        saved = Path(str(start.arguments["save"])).stat().st_size
        if hasattr(os, "sched_getaffinity"):
            assert len(os.sched_getaffinity(there.pid)) == 1
    finally:
        there.close()
    assert saved > 0


def photo_arguments(folder: Path) -> dict[str, object]:
    from benchmarks.items import make_photos, save_photos

    (path,) = save_photos(make_photos(1, side=56), folder)
    part = {"kind": "image", "path": str(path)}
    return {
        "parts": [part],
        "tokens": (4, 4),
        "save": str(folder / "saved.npy"),
        "isolate": False,
    }


def test_a_side_that_cannot_start_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="absent ended with 1"):
        SideProcess(Start("benchmarks.media:absent", {}), threads=None)
    assert "absent" in capfd.readouterr().err


def test_the_difference_is_the_worst_row_and_ignores_length() -> None:
    import numpy as np

    ours = np.array([[1.0, 0.0], [0.0, 2.0]])
    theirs = np.array([[3.0, 0.0], [1.0, 1.0]])
    assert largest_difference(ours, theirs) == pytest.approx(1 - 2**-0.5)


def test_utilisation_divides_the_counted_operations_by_time_and_peak() -> None:
    settings = Settings("text", (), rounds=1, peak_tflops=100.0)
    sides = {"mmembed": runs(2.0, tflop=50.0), "other": runs(4.0)}
    assert utilisation(settings, sides) == {"mmembed": 0.25, "other": 0.125}
    assert utilisation(settings, sides, passes=3) == {"mmembed": 0.75, "other": 0.375}
    assert utilisation(settings, {"mmembed": runs(2.0)}) == {}


def test_ten_million_rows_cost_what_the_last_rows_cost() -> None:
    def result(count: int, seconds: float, peak_mib: float) -> dict[str, object]:
        done = [{"seconds": seconds, "peak_mib": peak_mib}]
        return {"count": count, "model": {"hidden_size": 256}, "sides": {"mmembed": done}}

    results = [result(10, 99.0, 5.0), result(1000, 2.0, 10.0), result(3000, 9.2, 12.0)]
    first, second = growth_notes({"results": results})
    assert "3.6 ms and 1 KiB a row, of which 1 KiB are its vector" in first
    assert "10,000,000 rows: 10 hours of one process and 10.2 GB" in second
    assert growth_notes({"results": results[:1]}) == []


def test_a_table_is_made_from_a_stored_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record()))
    outcome = CliRunner().invoke(app, ["table", str(path)])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.strip().splitlines() == [
        "Suite text; 2.5M parameters; float32 on cpu; 1 core; 3 rounds; 2026-01-02, commit abc. "
        "Ratios: median (least to greatest).",
        "",
        "| work | side | speed | memory, MiB | time / first | CPU time / first | memory / first "
        "| largest 1 - cos | loss |",
        "|---|---|---|---|---|---|---|---|---|",
        "| 8 texts | mmembed | 4 texts/s | 20 |  |  |  |  | 0.50000 |",
        "| 8 texts | other | 2 texts/s | 40 | 2.00 (1.00 to 3.00) | 2.00 (1.00 to 3.00) "
        "| 2.00 (1.00 to 3.00) | 2.0e-07 | 0.50000 |",
        "",
        "A sentence.",
    ]


def test_one_side_alone_has_no_columns_of_ratios() -> None:
    (result,) = record()["results"]  # type: ignore[misc]
    alone = {"mmembed": result["sides"]["mmembed"]}
    text = markdown(record(results=[{**result, "sides": alone, "ratios": {}, "facts": {}}]))
    assert "first" not in text
    assert "| 8 texts | mmembed | 4 texts/s | 20 | 0.50000 |" in text


def test_a_record_of_an_earlier_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"suite": "text", "date": "2026-01-01", "rounds": []}))
    outcome = CliRunner().invoke(app, ["table", str(path)])
    assert outcome.exit_code == 2
    assert "earlier layout" in outcome.output


def test_unknown_peers_and_contradictions_are_refused_with_what_is_known() -> None:
    wrong = CliRunner().invoke(app, ["run", "--suite", "video", "--against", "transformers"])
    assert wrong.exit_code == 2
    assert "qwen-vl-utils" in wrong.output
    both = CliRunner().invoke(app, ["run", "--suite", "text", "--one-process", "--threads", "1"])
    assert both.exit_code == 2
    assert "--one-process" in both.output
