"""Adapters are found by name and refused with a reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmembed.data.adapter import check_example, first_row, resolve_adapter
from mmembed.errors import ConfigError
from mmembed.types import ContrastiveExample, MultimodalInput

SOURCE = Path(__file__).with_name("rows.py").read_text()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package that mmembed has never heard of."""
    (tmp_path / "their_rows.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_rows", raising=False)
    return "their_rows"


def test_adapter_is_resolved_from_an_installed_module(module: str):
    adapter = resolve_adapter(f"{module}:WordRows", {"size": 3, "name": "three"})
    assert (len(adapter), adapter.name) == (3, "three")


@pytest.mark.parametrize(
    ("reference", "arguments", "message"),
    [
        ("no_such_package.rows:Rows", {}, "no module named 'no_such_package'"),
        ("their_rows:WordRow", {}, "did you mean 'WordRows'.*it has WordRows, broken_rows"),
        ("their_rows:WordRows", {"sise": 3}, "'sise'; its arguments are: size: 'int' = 10"),
        ("their_rows:broken_rows", {}, "without name, task, revision, license, __len__"),
        ("their_rows:WordRows", {"size": 0}, "has no rows"),
    ],
)
def test_unusable_adapter_says_why(module: str, reference: str, arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        resolve_adapter(reference, arguments)


def test_a_bad_first_row_does_not_spoil_the_others(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    good = '{"query": "q", "positives": ["p"]}\n'
    path.write_text("{\n" + good)
    reference = "mmembed.data.row_files:RowFile"
    adapter = resolve_adapter(reference, {"path": str(path)})
    assert first_row(adapter) == adapter[1]
    path.write_text("{\n{\n")
    with pytest.raises(ConfigError, match=r"no row that can be used; the first: .*line 1"):
        resolve_adapter(reference, {"path": str(path)})


GOOD = ContrastiveExample(MultimodalInput.of("q"), (MultimodalInput.of("d"),))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("text", "is str; expected ContrastiveExample"),
        (replace(GOOD, positives=()), "has no positive"),
        (replace(GOOD, positive_ids=("a", "b")), "1 positives and 2 positive_ids"),
        (replace(GOOD, hard_negatives=("text",)), "holds str where MultimodalInput"),
    ],
)
def test_unusable_row_says_why(example: object, message: str):
    with pytest.raises(ConfigError, match=f"row 7 .*{message}"):
        check_example(example, "row 7")
