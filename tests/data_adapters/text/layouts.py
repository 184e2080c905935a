"""Five rows of every layout of texts, in the files that its sources publish."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_adapters.catalog import Entry, find_entry
from data_adapters.text import judgements
from data_adapters.text.judgements import Part
from mmembed.datasets import DatasetCard

Row = dict[str, Any]


def write_rows(file: Path, rows: Sequence[Row], *, header: bool = True) -> None:
    """Rows in the format that the name of the file says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
        return
    if name.endswith((".csv", ".tsv", ".txt")):
        text = _cells(rows, "," if name.endswith(".csv") else "\t", header)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = text.encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def _cells(rows: Sequence[Row], separator: str, header: bool) -> str:
    out = io.StringIO()
    if separator == ",":
        writer = csv.writer(out)
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)
    else:
        lines = [list(rows[0]), *(row.values() for row in rows)][0 if header else 1 :]
        out.write("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return out.getvalue()


def write_card(card: DatasetCard, folder: Path) -> None:
    """Five rows of a data set of the catalogue, in the folder that is its own below the root."""
    entry = find_entry(card.name)
    if entry.family == "text.judgements":
        root = folder.parents[len(Path(entry.place).parts) - 1]
        layout = judgements.LAYOUTS[str(entry.options.get("layout", "beir"))]
        _write_judgements(entry, folder, root, layout)
        return
    rows = _ROWS[entry.family](entry.options, entry)
    write_rows(folder / _file(entry, str(entry.options.get("table", ""))), rows)


def write_entry(entry: Entry, root: Path) -> None:
    write_card(entry.card, root / entry.place)


def _file(entry: Entry, table: str) -> str:
    card = entry.card
    if table:
        named = table.format(config=card.config, split=card.split)
        return named.replace("**/", "some/").replace("*", "part-")
    where = f"{card.config}/" if card.config else "data/"
    shards = f"{where}{card.split}-*.parquet"
    named = next((pattern for pattern in card.files if pattern != "README.md"), shards)
    return named.replace("*", "00000-of-00001")


def _pairs(options: Mapping[str, Any], entry: Entry) -> list[Row]:
    are_lists = options["positive"] == "pos" or entry.card.repo == "BeastyZ/E5-R"
    rows = []
    for n in range(5):
        row: Row = {options["query"]: f"query {n}"}
        positive = f"document {n % 4}"  # the last row has that of the first
        row[options["positive"]] = [positive] if are_lists else positive
        for name in options.get("negatives", ()):
            columns = [name.replace("*", str(m)) for m in (1, 2, 3)] if "*" in name else [name]
            for column in columns:
                other = f"{column} of {n}"
                row[column] = [other, f"another {other}"] if are_lists else other
        if "instruction" in options:
            row |= {"category": "", "type": "normal", "prompt": f"instruction {n % 2}"}
            row |= {"pos_scores": [0.9], "neg_scores": [0.1, 0.2]}
        rows.append(row)
    return rows


def _passages(options: Mapping[str, Any], entry: Entry) -> list[Row]:
    def passage(name: str) -> Row:
        has_title = options.get("title", "title")
        return {"docid": name, **({"title": f"Title {name}"} if has_title else {}), "text": name}

    return [
        {
            "query_id": str(n),
            "query": f"query {n}",
            "positive_passages": [passage(f"document {n % 4}")],
            "negative_passages": [passage(f"negative {n}{m}") for m in range(3)],
        }
        for n in range(5)
    ]


def _graded(options: Mapping[str, Any], entry: Entry) -> list[Row]:
    first, second = options.get("first", "sentence1"), options.get("second", "sentence2")
    score = options.get("score", "score")
    return [{first: f"text {n}", second: f"text {n % 4}", score: n % 2} for n in range(5)]


def _classes(options: Mapping[str, Any], entry: Entry) -> list[Row]:
    return [
        {"id": n, "text": f"text {n}", "label": n % 2, "label_text": ("no", "yes")[n % 2]}
        for n in range(5)
    ]


def _claims(options: Mapping[str, Any], entry: Entry) -> list[Row]:
    in_lists = "gold" in entry.card.name
    rows = []
    for n, label in enumerate(["SUPPORTS", "REFUTES", "SUPPORTS", "NOT ENOUGH INFO", "SUPPORTS"]):
        evidence: Any = f"evidence {n}"
        if in_lists:
            evidence = [["Title", str(n), evidence]]
        rows.append({"id": n, "claim": f"claim {n // 2}", "evidence": evidence, "label": label})
    return rows


def _reading(options: Mapping[str, Any], entry: Entry) -> list[Row]:
    return [
        {
            "id": str(n),
            "title": "Title",
            "context": f"passage {n // 2}",
            "question": f"question {n}",
            "answers": {"text": [f"answer {n}"], "answer_start": [0]},
        }
        for n in range(5)
    ]


_ROWS = {
    "text.pairs": _pairs,
    "text.passages": _passages,
    "text.graded": _graded,
    "text.classes": _classes,
    "text.claims": _claims,
    "text.reading": _reading,
}


def _write_judgements(entry: Entry, folder: Path, root: Path, layout: Any) -> None:
    def place(part: Part) -> Path:
        named = part.patterns[0].format(config=entry.card.config, split=entry.card.split)
        return (root / part.repo if part.repo else folder) / named.replace("*", "0")

    def texts(part: Part, rows: Mapping[str, str]) -> list[Row]:
        (name, body), title = part.columns, part.title
        return [
            {name: n, **({title: f"Title {n}"} if title else {}), body: words}
            for n, words in rows.items()
        ]

    documents = {f"d{n}": f"document {n % 4}" for n in range(5)}
    asked = {f"q{n}": f"query {n}" for n in range(5)}
    judged = []
    for n in range(5):
        names = layout.judgements.names or layout.judgements.columns
        cells = dict.fromkeys(names, "0")
        cells[layout.judgements.columns[0]] = f"q{n}"
        cells[layout.judgements.columns[1]] = f"d{n}"
        if len(layout.judgements.columns) == 3:
            cells[layout.judgements.columns[2]] = "1"
        judged.append(cells)
    for part, rows in (
        (layout.corpus, texts(layout.corpus, documents)),
        (layout.queries, texts(layout.queries, asked)),
        (layout.judgements, judged),
    ):
        write_rows(place(part), rows, header=part.names is None)


LAYOUTS = dict.fromkeys([*_ROWS, "text.judgements"], write_card)
