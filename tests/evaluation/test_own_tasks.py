"""Tasks of one's own: a file of Python beside a suite, as the README shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError
from mmembed.evaluation import runs
from mmembed.evaluation.preparation import prepare
from mmembed.evaluation.suites import load_suite

TASKS = """
import csv
from dataclasses import dataclass
from mmembed.tasks import LoadedTask, RetrievalTask, TaskCard
from mmembed.types import MultimodalInput

@dataclass
class MyTasks:
    root: object
    profile: object
    metric: str = "ndcg_linear@5"

    def cards(self):
        return [TaskCard("my-search", "text", "MINE", self.metric, source="our logs")]

    def load(self, name, *, allow_missing=False):
        path = self.root / "clicks.csv"
        with path.open() as file:
            rows = list(csv.reader(file))
        queries = {query: MultimodalInput.of(query) for query, _ in rows}
        corpus = {words: MultimodalInput.of(words) for _, words in rows}
        relevant = {query: {words: 1.0} for query, words in rows}
        return LoadedTask(RetrievalTask(name, queries, corpus, relevant), (path,))

class NoTasks:
    def __init__(self, root, profile): pass

text = "not a class"
"""
LOADER = """
from mmembed.evaluation.example_tasks import HashingEncoder

def load(spec, **options):
    return HashingEncoder(spec)
"""


def write(folder: Path, reference: str = "my_tasks.py:MyTasks", **arguments: Any) -> Path:
    (folder / "my_tasks.py").write_text(TASKS)
    (folder / "clicks.csv").write_text("a cat,a cat in the rain\na dog,a dog on the roof\n")
    (folder / "my.yaml").write_text(
        f"summary: our logs\ndata: clicks.csv\nprofile: plain\nsources:\n"
        f"  - reference: {reference!r}\n    arguments: {arguments}\n"
    )
    return folder / "my.yaml"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_source_in_a_file_beside_the_suite_runs_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    suite = write(tmp_path)
    (tmp_path / "loader.py").write_text(LOADER)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    results = runs.run(
        suite, "any", Path("out"), data_root=tmp_path, loader="../loader.py:load",
        processes=processes, device="cpu", show_progress_bar=False,
    )  # fmt: skip
    assert results.tasks["my-search"].value() == 1.0
    assert results.record["suite"] == str(suite)


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        suite = write(tmp_path / name)
        source = tmp_path / name / "my_tasks.py"
        source.write_text(TASKS.replace("my-search", f"search-{name}"))
        assert list(load_suite(suite).open(tmp_path).cards) == [f"search-{name}"]


def test_a_manifest_names_a_file_where_it_stands_and_not_where_it_links_to(tmp_path: Path) -> None:
    suite = write(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "clicks.csv").symlink_to(tmp_path / "clicks.csv")
    manifest = prepare(suite, tmp_path / "root", show_progress_bar=False).manifest
    assert [entry["path"] for entry in manifest["files"]] == ["clicks.csv"]


@pytest.mark.parametrize(
    ("reference", "arguments", "message"),
    [
        (
            "my_tasks:MyTasks",
            {},
            r"No module named 'my_tasks'; for a file write .* my_tasks\.py:My",
        ),
        ("mytasks.py:MyTasks", {}, r"the file .*mytasks\.py does not exist"),
        ("my_tasks.py:Tasks", {}, r"my_tasks\.py has no 'Tasks'"),
        ("my_tasks.py:text", {}, "cannot call its 'text'"),
        ("my_tasks.py", {}, "not of the form"),
        ("my_tasks.py:MyTasks", {"colour": "red"}, "unexpected keyword argument 'colour'"),
        ("my_tasks.py:NoTasks", {}, r"gives NoTasks; a source has the methods cards\(\) and load"),
    ],
)
def test_a_source_that_is_not_found_or_is_none_says_what_to_write(
    tmp_path: Path, reference: str, arguments: dict[str, Any], message: str
) -> None:
    suite = write(tmp_path, reference, **arguments)
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(suite).open(tmp_path)
    assert "my.yaml" in str(caught.value)


def test_a_file_that_is_no_python_says_so(tmp_path: Path) -> None:
    suite = write(tmp_path)
    (tmp_path / "my_tasks.py").write_text("def :")
    with pytest.raises(ConfigError, match=r"invalid syntax.*line 1"):
        load_suite(suite).open(tmp_path)
