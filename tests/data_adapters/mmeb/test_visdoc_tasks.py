"""The 24 visual-document data sets: questions and pages in the sources' files become the items."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_adapters.mmeb import pages
from data_adapters.mmeb.files import MediaFiles
from data_adapters.mmeb.suite import MMEB
from mmembed.errors import DataError
from mmembed.evaluation.profiles import load_profile
from mmembed.tasks import LoadedTask, Profile, RetrievalTask
from mmembed.types import Image, MultimodalInput
from tests.data_adapters.mmeb.described import PROFILES, described, golden
from tests.data_adapters.mmeb.picture import PNG
from tests.data_adapters.mmeb.visdoc_data import (
    ENTRIES,
    page_file,
    page_ids,
    repository,
    tables,
    write_pages,
    write_tables,
    write_visdoc_data,
)

BY_NAME = {entry.card.name: entry for entry in ENTRIES}
LOADED = {name: load_profile(name) for name in PROFILES}
RZEN = LOADED["rzen"]
GOLDEN = golden("visdoc")
# Specification 1.5: queries and pages.
TABLE = {
    "ViDoRe_arxivqa": ("vidore/arxivqa_test_subsampled_beir", 500, 500),
    "ViDoRe_docvqa": ("vidore/docvqa_test_subsampled_beir", 451, 500),
    "ViDoRe_infovqa": ("vidore/infovqa_test_subsampled_beir", 494, 500),
    "ViDoRe_tabfquad": ("vidore/tabfquad_test_subsampled_beir", 280, 70),
    "ViDoRe_tatdqa": ("vidore/tatdqa_test_beir", 1646, 277),
    "ViDoRe_shiftproject": ("vidore/shiftproject_test_beir", 100, 1000),
    "ViDoRe_syntheticDocQA_artificial_intelligence": (
        "vidore/syntheticDocQA_artificial_intelligence_test_beir", 100, 968,
    ),
    "ViDoRe_syntheticDocQA_energy": ("vidore/syntheticDocQA_energy_test_beir", 100, 977),
    "ViDoRe_syntheticDocQA_government_reports": (
        "vidore/syntheticDocQA_government_reports_test_beir", 100, 972,
    ),
    "ViDoRe_syntheticDocQA_healthcare_industry": (
        "vidore/syntheticDocQA_healthcare_industry_test_beir", 100, 965,
    ),
    "ViDoRe_esg_reports_human_labeled_v2": ("vidore/esg_reports_human_labeled_v2", 52, 1538),
    "ViDoRe_biomedical_lectures_v2_multilingual": ("vidore/biomedical_lectures_v2", 640, 1016),
    "ViDoRe_economics_reports_v2_multilingual": ("vidore/economics_reports_v2", 232, 452),
    "ViDoRe_esg_reports_v2_multilingual": ("vidore/esg_reports_v2", 228, 1538),
    "VisRAG_ArxivQA": ("openbmb/VisRAG-Ret-Test-ArxivQA", 816, 8066),
    "VisRAG_ChartQA": ("openbmb/VisRAG-Ret-Test-ChartQA", 63, 500),
    "VisRAG_MP-DocVQA": ("openbmb/VisRAG-Ret-Test-MP-DocVQA", 591, 741),
    "VisRAG_SlideVQA": ("openbmb/VisRAG-Ret-Test-SlideVQA", 556, 1284),
    "VisRAG_InfoVQA": ("openbmb/VisRAG-Ret-Test-InfoVQA", 718, 459),
    "VisRAG_PlotQA": ("openbmb/VisRAG-Ret-Test-PlotQA", 863, 9593),
    "ViDoSeek-page": ("VLM2Vec/ViDoSeek-page-fixed", 1142, 5349),
    "ViDoSeek-doc": ("VLM2Vec/ViDoSeek", 1142, 5349),
    "MMLongBench-page": ("VLM2Vec/MMLongBench-page-fixed", 838, 6492),
    "MMLongBench-doc": ("VLM2Vec/MMLongBench-doc", 838, 6492),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visdoc")
    write_visdoc_data(folder)
    return folder


def loaded(
    root: Path, name: str, profile: Profile = RZEN, allow_missing: bool = False
) -> LoadedTask:
    return MMEB(root, profile, check_counts=False).load(name, allow_missing=allow_missing)


def task(root: Path, name: str, profile: Profile = RZEN) -> RetrievalTask:
    found = loaded(root, name, profile).task
    assert isinstance(found, RetrievalTask)
    return found


def written(root: Path, name: str, **changed: list) -> Path:
    """One data set with its pages embedded, some tables replaced."""
    entry = BY_NAME[name]
    write_tables(repository(root, entry.repo), entry, {**tables(entry), **changed})
    return root


def test_the_catalog_says_what_the_table_of_the_specification_says():
    found = {
        name: (entry.repo, entry.card.num_queries, entry.card.num_documents)
        for name, entry in BY_NAME.items()
    }
    assert found == TABLE
    assert sum(queries for _, queries, _ in TABLE.values()) == 12_590
    assert sum(documents for _, _, documents in TABLE.values()) == 55_598
    renamed = {n: e.card.leaderboard_name for n, e in BY_NAME.items() if e.card.leaderboard_name}
    assert renamed == {n: f"{n}-fixed" for n in ("ViDoSeek-page", "MMLongBench-page")}
    for entry in ENTRIES:
        assert entry.card.main_metric == "ndcg_linear@5"
        assert entry.split == ("train" if entry.card.group == "VisRAG" else "test")
        assert "revision" in entry.card.note and "size" in entry.card.note
    graded = {e.card.name for e in ENTRIES if "raded" in e.card.note}
    assert graded == {"ViDoRe_esg_reports_human_labeled_v2", "ViDoSeek-doc", "MMLongBench-doc"}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", TABLE)
def test_five_questions_become_exactly_the_golden_items(root, name, profile):
    assert described(task(root, name, LOADED[profile]), root) == GOLDEN[name][profile]


@pytest.mark.parametrize("name", TABLE)
def test_the_image_archive_may_be_unpacked_in_each_known_way(tmp_path, name):
    entry = BY_NAME[name]
    assert {f"visdoc-tasks/{name}", f"visdoc-tasks/images/{name}"} <= set(entry.options["folders"])
    for number, folder in enumerate(entry.options["folders"]):
        here = tmp_path / str(number)
        contents = tables(entry)
        contents["corpus"] = [{"corpus-id": row["corpus-id"]} for row in contents["corpus"]]
        write_tables(here / entry.options["data"], entry, contents)  # the benchmark's own copy
        write_pages(here / folder, entry, page_ids(entry))
        found = task(here, name)
        names = [page_file(entry, page) for page in page_ids(entry)]
        assert [item.parts[0] for item in found.corpus.values()] == [
            Image(here / folder / page) for page in names
        ]


@pytest.mark.parametrize("name", ["ViDoRe_docvqa", "VisRAG_ArxivQA"])
def test_embedded_pages_are_taken_where_no_file_is_there(tmp_path, name):
    entry = BY_NAME[name]
    written(tmp_path, name)
    found = task(tmp_path, name)
    assert [item.parts for item in found.corpus.values()] == [(Image(PNG),)] * 4
    write_pages(tmp_path / entry.options["folders"][1], entry, page_ids(entry)[:1])
    first, second, *_ = task(tmp_path, name).corpus.values()
    assert isinstance(first.parts[0], Image) and isinstance(first.parts[0].source, Path)
    assert second.parts == (Image(PNG),)


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}])
def test_an_empty_cell_is_a_missing_page(tmp_path, cell):
    name = "ViDoRe_docvqa"
    rows = [dict(row) for row in tables(BY_NAME[name])["corpus"]]
    rows[2]["image"] = cell
    written(tmp_path, name, corpus=rows)
    with pytest.raises(DataError, match=r"visdoc-tasks/ViDoRe_docvqa/20\.png"):
        loaded(tmp_path, name)


@pytest.mark.parametrize("name", ["ViDoRe_docvqa", "VisRAG_ChartQA"])
def test_a_very_long_id_and_a_dangerous_one_are_no_other_error(tmp_path, name):
    for page in ("x" * 5000 + ".jpg", "../" * 9 + "secret"):
        corpus = [{"corpus-id": page, "image": {"bytes": PNG, "path": "x.png"}}]
        qrels = [{"query-id": "1", "corpus-id": page, "score": 1}]
        queries = [{"query-id": "1", "query": "Who?"}]
        written(tmp_path, name, corpus=corpus, qrels=qrels, queries=queries)
        if "secret" in page:
            with pytest.raises(DataError, match=f"^{name}: .*must be relative"):
                loaded(tmp_path, name)
        else:
            with_page = task(tmp_path, name).corpus[page]
            assert with_page.parts == (Image(PNG),)


@pytest.mark.parametrize("name", ["ViDoRe_tatdqa", "VisRAG_PlotQA"])
def test_a_corpus_without_any_page_is_refused_even_where_missing_ones_are_allowed(
    root, tmp_path, name
):
    shutil.copytree(repository(root, BY_NAME[name].repo), repository(tmp_path, BY_NAME[name].repo))
    with pytest.raises(DataError, match=f"^{name}: nothing is left to judge"):
        loaded(tmp_path, name, allow_missing=True)


@pytest.mark.parametrize(
    ("table", "column", "value", "expected"),
    [
        ("qrels", "score", None, "a number"),
        ("qrels", "score", float("nan"), "a number"),
        ("qrels", "corpus-id", None, "a name"),
        ("queries", "query", None, "a text"),
        ("corpus", "corpus-id", None, "a name"),
    ],
)
def test_a_broken_cell_is_named(tmp_path, table, column, value, expected):
    name = "ViDoRe_shiftproject"
    rows = [dict(row) for row in tables(BY_NAME[name])[table]]
    rows[1][column] = value
    written(tmp_path, name, **{table: rows})
    where = rf"^{name} \({table}\), row 1, column '{column}': found .*; expected {expected}"
    with pytest.raises(DataError, match=where):
        loaded(tmp_path, name)


@pytest.mark.parametrize("name", TABLE)
def test_missing_pages_fail_with_their_names_or_make_the_task_partial(root, tmp_path, name):
    entry = BY_NAME[name]
    here = tmp_path / "data"
    shutil.copytree(repository(root, entry.repo), repository(here, entry.repo))
    folder = entry.options["folders"][0]
    write_pages(here / folder, entry, page_ids(entry)[1:])
    relative = f"{folder}/{page_file(entry, page_ids(entry)[0])}"
    with pytest.raises(DataError, match="allow missing") as caught:
        loaded(here, name)
    assert relative in str(caught.value)
    partial = loaded(here, name, allow_missing=True)
    assert partial.missing == (relative,)
    left = partial.task
    assert isinstance(left, RetrievalTask)
    # Two questions are about the missing page alone.
    assert (len(left.queries), len(left.corpus)) == (3, 3)
    assert set(left.relevant) == set(left.queries)


def test_grades_are_kept_the_highest_of_several_and_none_that_is_not_positive(root):
    entry = BY_NAME["ViDoSeek-doc"]
    assert task(root, entry.card.name).relevant["1"] == {"10": 2.0, "20": 2.0}
    assert "30" not in task(root, entry.card.name).relevant["0"]


def test_a_question_without_a_page_is_an_error(tmp_path):
    name = "ViDoRe_tatdqa"
    qrels = [row for row in tables(BY_NAME[name])["qrels"] if row["query-id"] != 3]
    written(tmp_path, name, qrels=[*qrels, {"query-id": 3, "corpus-id": 0, "score": 0}])
    with pytest.raises(DataError, match="query 3 has no relevant document"):
        loaded(tmp_path, name)


def test_judgements_of_unknown_pages_are_an_error(tmp_path):
    name = "ViDoRe_syntheticDocQA_energy"
    qrels = [*tables(BY_NAME[name])["qrels"], {"query-id": 1, "corpus-id": 77, "score": 1}]
    written(tmp_path, name, qrels=qrels)
    with pytest.raises(DataError, match="not in the corpus: 77"):
        loaded(tmp_path, name)


@pytest.mark.parametrize("table", ["corpus", "queries"])
def test_a_page_or_question_that_is_listed_twice_is_an_error(tmp_path, table):
    name = "ViDoRe_infovqa"
    rows = tables(BY_NAME[name])[table]
    written(tmp_path, name, **{table: [*rows, rows[0]]})
    with pytest.raises(DataError, match="listed twice: 0"):
        loaded(tmp_path, name)


def test_questions_in_all_languages_are_pooled_unless_one_is_asked_for(root):
    entry = BY_NAME["ViDoRe_economics_reports_v2_multilingual"]
    assert set(task(root, entry.card.name).queries) == {"0", "1", "2", "3", "4"}
    english = replace(entry, options={**entry.options, "language": "english"})
    found = pages.load(english, MediaFiles(root), RZEN)
    assert set(found.queries) == {"0", "4"} == set(found.relevant)
    assert len(found.corpus) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ViDoSeek-page", "ViDoSeek-doc"),
        ("MMLongBench-page", "MMLongBench-doc"),
        ("ViDoRe_esg_reports_human_labeled_v2", "ViDoRe_esg_reports_v2_multilingual"),
    ],
)
def test_sets_that_share_their_pages_say_so(one, other):
    assert f"the pages of {one}" in BY_NAME[other].card.note
    assert BY_NAME[one].card.num_documents == BY_NAME[other].card.num_documents


@pytest.mark.parametrize("name", TABLE)
def test_five_questions_are_refused_because_the_card_knows_the_number(root, name):
    with pytest.raises(DataError, match=f"5 queries, expected {TABLE[name][1]}"):
        MMEB(root, RZEN).load(name)


def test_line_breaks_and_double_blanks_of_a_question_stay(root):
    item = task(root, "ViDoRe_arxivqa", LOADED["qwen3vl"]).queries["0"]
    instruction = "Find a document image that matches the given query."
    assert item == MultimodalInput.of("Who wrote  page 0?\n", instruction)
