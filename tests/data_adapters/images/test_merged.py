"""MMEB-train and the mmE5 sets: instruction and text in one string, empty strings, negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_adapters.catalog import Dataset
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.types import Text
from tests.data_adapters.images.described import check_rows, described, golden
from tests.data_adapters.images.files import write_parquet, write_pictures

REPO = "TIGER-Lab/MMEB-train"
MARKER = "<|image_1|>\n"
NEWS = "Represent the given news image with the following caption for domain classification:"
WIKI = "Represent the given Wikipedia image with related text information:"


def row(qry: str, image: str, positive: str, shown: str, *negative: str) -> dict[str, str]:
    names = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
    return dict(zip(names, (qry, image, positive, shown, *negative, "", ""), strict=False))


ROWS = {
    "N24News": [
        row(
            f"{MARKER}{NEWS} A new wing.\nIt opens in May.\n",
            "images/N24News/Train/N24News_image_0.jpg",
            "Travel",
            "",
            "Global Business",
        ),
        row(
            f"{MARKER}{NEWS} \u201cHamlet\u201d, again\n",
            "images/N24News/Train/N24News_image_1.jpg",
            "Theater ",
            "",
            "Theater",
        ),
    ],
    "VisDial": [
        row(
            "Represent the given dialogue about an image, which is used for image retrieval: "
            "Q:is it a dog\nA:yes\n\n",
            "",
            f"{MARKER}Represent the given image\n",
            "images/VisDial/Train/VisDial_image_0.jpg",
            "",
            "images/VisDial/Train/VisDial_image_7.jpg",
        )
    ],
    "WebQA": [
        row(
            f"{MARKER}Find a Wikipedia image that answers this question: Which coin is older?\n",
            "",
            f"{MARKER}{WIKI} A half of 1913.\n",
            "images/WebQA/Train/30272327.jpg",
        )
    ],
    "MSCOCO": [
        row(
            f"{MARKER}Select the portion of the image that isolates the object labeled as "
            '"hot dog"\n',
            "images/MSCOCO/Train/000000558840.jpg",
            f"{MARKER}Represent the given cropped image of the object",
            "images/MSCOCO/Train/558840_object_hot dog.jpg",
        )
    ],
}


def write(root: Path, config: str, rows: list[Any], split: str = "original") -> Path:
    folder = root / REPO
    write_parquet(folder / config / f"{split}-00000-of-00001.parquet", rows)
    paths = {value for row in rows for key, value in row.items() if key.endswith("path") and value}
    write_pictures(folder, sorted(path for path in paths if not path.startswith(("/", ".."))))
    return folder


def opened(root: Path, rows: list[Any], config: str = "N24News", **options: Any) -> Dataset:
    write(root, config, rows)
    return Dataset(f"mmeb-{config.lower()}", root, **options)


@pytest.mark.parametrize("name", golden("image_merged"))
def test_rows_are_those_of_the_golden(name: str, tmp_path: Path) -> None:
    config = next(config for config in ROWS if f"mmeb-{config.lower()}" == name)
    folder = write(tmp_path, config, ROWS[config])
    examples = check_rows(Dataset(name, tmp_path))
    assert [described(example, folder) for example in examples] == golden("image_merged")[name]


def test_the_text_may_stay_as_it_was_published(tmp_path: Path) -> None:
    folder = write(tmp_path, "WebQA", ROWS["WebQA"])
    examples = check_rows(Dataset("mmeb-webqa", tmp_path, instruction="text"))
    assert [described(example, folder) for example in examples] == golden("image_merged_text")


def test_a_negative_picture_without_words_is_worded_as_the_positive_without_its_caption(
    tmp_path: Path,
) -> None:
    bare = {**ROWS["WebQA"][0], "neg_image_path": "images/WebQA/Train/1.jpg"}
    (negative,) = opened(tmp_path, [bare], "WebQA")[0].hard_negatives
    assert (negative.instruction, len(negative.parts)) == (WIKI, 1)
    (negative,) = opened(tmp_path, [bare], "WebQA", instruction="text")[0].hard_negatives
    assert negative.parts[1:] == (Text(f"\n{WIKI}"),)


def test_instructions_worded_anew_end_where_the_text_of_the_original_begins(tmp_path: Path) -> None:
    write(tmp_path, "N24News", ROWS["N24News"])
    anew = [
        row(
            f"{MARKER}Which section of the paper? A new wing.\nIt opens in May.\n", "1.jpg", "T", ""
        ),
        row(f"{MARKER}\u201cHamlet\u201d, again: name its section\n", "1.jpg", "T", ""),
    ]
    write(tmp_path, "N24News", anew, "diverse_instruction")
    rows = Dataset("mmeb-n24news", tmp_path, split="diverse_instruction")
    assert len(rows.files) == 2
    first = rows[0].query
    assert first.instruction == "Which section of the paper? "
    assert first.parts[-1] == Text("A new wing.\nIt opens in May.")
    with pytest.raises(InputError, match=r"diverse_instruction-.*row 2, column 'qry'.*=text"):
        rows[1]
    as_text = Dataset("mmeb-n24news", tmp_path, split="diverse_instruction", instruction="text")
    assert as_text[1].query.parts[-1] == Text("\n\u201cHamlet\u201d, again: name its section\n")


def test_splits_of_different_revisions_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "N24News", ROWS["N24News"])
    write(tmp_path, "N24News", ROWS["N24News"][:1], "diverse_instruction")
    with pytest.raises(DataError, match=r"1 rows and .* 2; they must be of one revision"):
        Dataset("mmeb-n24news", tmp_path, split="diverse_instruction")


def test_equal_labels_and_equal_pictures_have_one_id(tmp_path: Path) -> None:
    rows = opened(tmp_path, [ROWS["N24News"][0], ROWS["N24News"][1], ROWS["N24News"][0]])
    ids = [rows[index].positive_ids for index in range(3)]
    assert ids[0] == ids[2] != ids[1]
    elsewhere = opened(tmp_path / "elsewhere", ROWS["VisDial"], "VisDial")
    here = opened(tmp_path / "here", ROWS["VisDial"], "VisDial")
    assert elsewhere[0].positive_ids == here[0].positive_ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qry_image_path": "/etc/passwd"}, "column 'qry_image_path'.*relative"),
        ({"qry_image_path": "a/../../b.jpg"}, "column 'qry_image_path'.*relative"),
        ({"neg_image_path": "../b.jpg"}, "column 'neg_image_path'.*relative"),
        ({"pos_text": ""}, "the positive has neither text nor picture"),
        ({"pos_text": None}, "the positive has neither text nor picture"),
        ({"qry": "", "qry_image_path": ""}, "does not begin with|neither text nor picture"),
        ({"qry": f"{MARKER}Name the section: Rain\n"}, "does not begin with"),
    ],
)
def test_a_bad_row_is_refused_and_the_others_stay(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    good = ROWS["N24News"][0]
    rows = opened(tmp_path, [good, {**good, **change}, good])
    with pytest.raises(InputError, match=rf"original-00000-of-00001.parquet, row 2.*({message})"):
        rows[1]
    assert rows[0].positives == rows[2].positives


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    bad = [{"query": "a", "pos_text": "b"}]
    write_parquet(tmp_path / REPO / "N24News" / "original-00000-of-00001.parquet", bad)
    with pytest.raises(InputError, match="row 1: no column 'qry'; found query, pos_text"):
        Dataset("mmeb-n24news", tmp_path)[0]


def test_a_query_without_a_table_says_how_to_get_it(tmp_path: Path) -> None:
    write(tmp_path, "N24News", ROWS["N24News"])
    with pytest.raises(DataError, match="mmembed data fetch mmeb-cirr"):
        Dataset("mmeb-cirr", tmp_path)
    with pytest.raises(ConfigError, match="instruction 'first' is unknown"):
        Dataset("mmeb-n24news", tmp_path, instruction="first")
    with pytest.raises(ConfigError, match="negatives 'all' is unknown"):
        Dataset("mmeb-n24news", tmp_path, negatives="all")
    with pytest.raises(ConfigError, match="no data set 'News'"):
        Dataset("mmeb-n24news", tmp_path, same_as="News")


SYNTHETIC = [
    {
        "qry": f"{MARKER}Trova un'immagine simile.\nUn cane sulla neve",
        "qry_image_path": "",
        "pos_text": f"{MARKER}Represent the given image.",
        "pos_image_path": "images/LAION_Synthetic/1.jpg",
        "neg_text": str(["", f"{MARKER}A cat's bed", f"{MARKER}Represent the given image."]),
        "neg_image_path": str([f"images/LAION_Synthetic/{number}.jpg" for number in (2, 3, 1)]),
    },
    {
        "qry": f"{MARKER}Was ist das?",
        "qry_image_path": "images/LAION_Synthetic/2.jpg",
        "pos_text": "Ein Bett",
        "pos_image_path": "",
        "neg_text": ["", "Ein Bett", "Ein Tisch"],
        "neg_image_path": [],
    },
]


def synthetic(root: Path, *rows: dict[str, Any], **options: Any) -> Dataset:
    folder = root / "intfloat" / "mmE5-synthetic"
    write_parquet(folder / "Retrieval" / "Retrieval.parquet", rows)
    write_pictures(folder, [f"images/LAION_Synthetic/{number}.jpg" for number in (1, 2, 3)])
    return Dataset("mme5-synthetic-retrieval", root, **options)


@pytest.mark.parametrize("number", [0, 1])
def test_lists_of_negatives_are_those_of_the_golden(number: int, tmp_path: Path) -> None:
    rows = synthetic(tmp_path, SYNTHETIC[number])
    (example,) = check_rows(rows)
    expected = {**golden("image_mme5")[number], "query_id": "mme5-synthetic-retrieval/0"}
    assert described(example, tmp_path / "intfloat" / "mmE5-synthetic") == expected


def test_where_instructions_end_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use instruction=text"):
        synthetic(tmp_path, SYNTHETIC[0], instruction="item")


@pytest.mark.parametrize("cell", ["[1, 2]", "['a'", "[open('x')]", "[" * 10_000])
def test_a_broken_list_of_negatives_is_refused(cell: str, tmp_path: Path) -> None:
    rows = synthetic(tmp_path, {**SYNTHETIC[0], "neg_text": cell}, SYNTHETIC[0])
    with pytest.raises(InputError, match=r"Retrieval\.parquet, row 1, column 'neg_text'"):
        rows[0]
    assert rows[1].hard_negatives
