"""`mmembed eval report`: every format of a real small run, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from mmembed.cli.application import app
from mmembed.evaluation.results import read_results
from mmembed.evaluation.runs import run as run_suite
from tests.evaluation.made_up_runs import card, hits, result, run

LOADER = "mmembed.evaluation.example_tasks:load_hashing_encoder"


def call(*arguments: Any) -> Result:
    words = [*map(str, arguments)]
    out = next(at for at, word in enumerate(words) if word in ("--out", "-o"))
    own = Path(words[out + 1]).parent / "suite.yaml"
    if own.is_file() and "--suite" not in words:
        words += ["--suite", str(own)]
    return CliRunner().invoke(app, ["eval", "report", *words])


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the suite `example`."""
    folder = tmp_path_factory.mktemp("example") / "out"
    run_suite("example", "hashing", folder, loader=LOADER, show_progress_bar=False)
    return folder


def page(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text("utf-8").removeprefix("<!DOCTYPE html>"))


def test_markdown_goes_to_standard_output(example: Path):
    done = call("--out", example)
    assert done.exit_code == 0, done.output
    assert "## Means" in done.stdout and "| all " in done.stdout
    assert "Provenance" in done.stdout


def test_csv_and_json_hold_the_values_of_the_run(example: Path, tmp_path: Path):
    tasks = read_results(example).tasks
    rows = list(csv.DictReader(io.StringIO(call("--out", example, "--format", "csv").stdout)))
    values = {row["name"]: float(row["value"]) for row in rows if row["level"] == "task"}
    assert values == {name: each.value() for name, each in tasks.items()}
    assert call("--out", example, "-f", "json", "--to", tmp_path / "r" / "a.json").exit_code == 0
    content = json.loads((tmp_path / "r" / "a.json").read_text())
    assert content["suite"] == "example"
    mean = sum(values.values()) / len(values)
    assert content["means"][-1]["value"] == pytest.approx(mean)
    assert all(task["interval"] for task in content["tasks"])  # pairs too


def test_the_page_shows_items_modalities_and_shorter_vectors(example: Path):
    done = call("--out", example, "--format", "html", "--sweep")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(example / "report.html")
    found = page(example / "report.html")
    headings = ["".join(each.itertext()) for each in found.iter("h2")]
    assert "Shorter and coarser vectors" in headings
    assert "Modality of queries by modality of documents" in headings
    assert "Worst queries" in headings
    assert any(each.text for each in found.iter("blockquote"))


def test_a_lacking_task_empties_means_unless_partial(example: Path, tmp_path: Path):
    done = read_results(example, with_queries=True)
    fewer = run(tmp_path / "out", *list(done.tasks.values())[1:], **done.record)
    strict = call("--out", fewer.folder, "--format", "json")
    assert json.loads(strict.stdout)["means"][-1]["value"] is None
    assert "No result for 1 data sets" in strict.stderr
    partial = json.loads(call("--out", fewer.folder, "-f", "json", "--partial").stdout)
    assert partial["means"][-1]["value"] is not None
    assert partial["means"][-1]["coverage"] == f"{len(fewer.tasks)}/{len(done.tasks)}"


def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "summary: of a test\nprofile: plain\nsources:\n"
        "  - reference: tests.cli.evaluation.test_eval_report:Source\n"
    )
    return path


class Source:
    """Cards only, as of a suite whose data are elsewhere."""

    def __init__(self, root: Any, profile: Any) -> None:
        pass

    def cards(self) -> Any:
        fields = {"num_queries": 20, "leaderboard_name": "fixed"}
        return [card("a", "image", "I-CLS", num_queries=10), card("b", "visdoc", "VDRv1", **fields)]

    def load(self, name: str, *, allow_missing: bool = False) -> Any:
        raise AssertionError("the data are elsewhere")


def made_up(tmp_path: Path, **record: Any) -> Path:
    results = [result(each, hits(each.num_queries, 0.7)) for each in Source(None, None).cards()]
    record = {"suite": str(suite_file(tmp_path)), "model": "org/m", **record}
    return run(tmp_path / "out", *results, **record).folder


def test_the_leaderboard_file_takes_metadata_and_is_checked(tmp_path: Path):
    folder = made_up(tmp_path, embedding_dimension=64)
    options = ("--metadata", "model_size=2.2", "--metadata", "url=https://example.org/a=b")
    done = call("-o", folder, "-f", "leaderboard", "--to", tmp_path / "m.json", *options)
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["metadata"]["model_name"] == "org/m"
    assert content["metadata"]["model_size"] == 2.2
    assert content["metadata"]["url"] == "https://example.org/a=b"
    assert content["metadata"]["embedding_dimension"] == 64
    assert content["metrics"]["visdoc"]["fixed"]["hit@1"] == 0.7
    schema = json.loads(call("-o", folder, "-f", "leaderboard-schema").stdout)
    assert "metrics_of_visdoc" in schema["$defs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", "leaderboard", "--ties", "docid"), "official ties"),
        (("-f", "leaderboard", "--metadata", "model_size"), "KEY=VALUE"),
        (("-f", "leaderboard", "--metadata", "size=2"), "unknown key 'size'"),
        (("--compare", "mmeb-v2:nobody"), "no row 'nobody'"),
        (("--compare", "mteb"), "no data set or mean in common"),
        (("--suite", "nothing"), "nothing"),
        (("--sweep",), "run"),
        (("-f", "csv", "--sweep"), "--format csv does not show --sweep"),
        (("-f", "leaderboard", "--partial"), "does not show --partial"),
        (("--metadata", "model_size=2"), "--format md does not show --metadata"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
):
    done = call("--out", made_up(tmp_path), *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_published_numbers_stand_beside_the_run_and_never_beside_a_subset(tmp_path: Path):
    path = tmp_path / "refs.json"
    rows = [{"model": "x", "source": "a table", "modalities": {"image": 69.0}}]
    path.write_text(json.dumps({"benchmark": "b", "unit": "percent", "rows": rows}))
    done = call("--out", made_up(tmp_path), "--compare", f"{path}:x")
    assert done.exit_code == 0, done.output
    assert "+1.00 | above" in done.stdout and "a table" in done.stdout
    (tmp_path / "nano").mkdir()
    again = made_up(tmp_path / "nano", subset={"queries": 5})
    refused = call("--out", again, "--compare", str(path))
    assert refused.exit_code == 2
    assert "subset of each task" in refused.output


def test_results_without_a_suite_are_averaged_over_what_is_there(tmp_path: Path):
    folder = run(tmp_path / "out", result("a", hits(10, 0.5))).folder
    done = call("--out", folder)
    assert done.exit_code == 0, done.output
    assert "name no suite" in done.stderr
    assert ["all", "50.00", "1/1"] in [
        line.replace("|", "").split() for line in done.stdout.splitlines()
    ]
    assert "No run.json" in done.stdout


def test_without_the_data_the_page_shows_ids_and_says_so(tmp_path: Path):
    tops = [(("d1", 0.5),)]
    judged = result("a", [0.0], tops=tops, relevant=[(False,)])
    folder = run(tmp_path / "out", judged).folder
    done = call("--out", folder, "--format", "html", "--to", tmp_path / "p.html")
    assert done.exit_code == 0, done.output
    content = "".join(page(tmp_path / "p.html").itertext())
    assert "items are shown by their ids" in content and "d1" in content


def test_no_results_are_an_error(tmp_path: Path):
    done = call("--out", tmp_path)
    assert done.exit_code == 2
    assert "has no results" in done.output


def test_a_folder_of_this_machine_is_no_name_on_a_leaderboard(tmp_path: Path):
    folder = made_up(tmp_path, model=str(tmp_path / "m"))
    done = call("-o", folder, "-f", "leaderboard")
    assert done.exit_code == 2 and "model_name is required" in done.output
    named = call("-o", folder, "-f", "leaderboard", "--metadata", "model_name=mine")
    assert json.loads(named.stdout)["metadata"]["model_name"] == "mine"
