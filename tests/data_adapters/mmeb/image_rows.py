"""Five rows of each of the 36 image data sets, written the way the sources store them.

The rows are ours; columns, markers, line breaks and the shape of the texts are those of the data.
Candidate i of a row is number (row + i) modulo five of the set's candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

MARKER = "<|image_1|>\n"
ROWS = 5
POOL = 4


@dataclass(frozen=True)
class Source:
    """What one data set says: see the columns of the instruct form."""

    family: str
    qry_inst: str
    texts: Sequence[str] = ("",) * ROWS
    tgt_inst: str = ""
    candidates: Sequence[str] = ("",) * ROWS  # labels, answers or captions
    pictures: Sequence[int] = tuple(range(ROWS))  # of the candidates; two may share one


def _cls(what: str, *labels: str) -> Source:
    return Source("cls", MARKER + what, candidates=labels)


def _qa(*pairs: tuple[str, str]) -> Source:
    questions, answers = zip(*pairs, strict=True)
    instruction = "Represent the given image with the following question:"
    return Source("qa", MARKER + instruction, questions, candidates=answers)


def _t2i(instruction: str, target: str, *texts: str) -> Source:
    return Source("t2i", instruction, texts, MARKER + target)


def _i2t(instruction: str, *captions: str) -> Source:
    return Source("i2t", MARKER + instruction, candidates=captions)


def _i2i(instruction: str, *texts: str) -> Source:
    target = MARKER + "Represent the given image.\n"
    return Source("i2i", MARKER + instruction, texts or ("",) * ROWS, target)


def _vg(instruction: str, *texts: str) -> Source:
    target = MARKER + "Represent the given cropped image of the object"
    return Source("vg", MARKER + instruction, texts, target)


_WIKI = "Represent the given Wikipedia image with related text information:"
_REFER = "Select the portion of the image that follows the language expressions"
_REFERRED = ('"cup left"', '"red hat"', '"man in \'87 shirt"', '"the dog, no leash"', '"2nd bus"')

SOURCES: dict[str, Source] = {
    "ImageNet-1K": _cls(
        "Represent the given image for classification",
        "tench, Tinca tinca", "crane", "goldfish", "crane", "coucal",
    ),
    "N24News": Source(
        "cls",
        MARKER + "Represent the given news image with the following caption for domain "
        "classification:",
        ("A new wing. ", "Two \n lines", "Ann Lee", "\u201cHamlet\u201d, again", "Rain  in May"),
        candidates=("Travel", "Opinion", "Real Estate", "Theater", "Science"),
    ),
    "HatefulMemes": _cls(
        "Represent the given image for binary classification to determine whether it constitutes "
        "hateful speech or not",
        "Yes", "No", "Yes", "No", "No",
    ),
    "VOC2007": _cls(
        "Identify the object shown in the image", "chair", "bus", "cat", "tv/monitor", "sheep"
    ),
    "SUN397": _cls(
        "Identify the scene shown in the image",
        "firing range indoor", "abbey", "airport terminal", "alley", "amphitheater",
    ),
    "Place365": _cls(
        "Identify the scene shown in the image", "berth", "airfield", "arch", "attic", "bakery"
    ),
    "ImageNet-A": _cls(
        "Represent the given image for classification",
        "Rottweiler", "stingray", "goldfinch", "junco, snowbird", "bullfrog",
    ),
    "ImageNet-R": _cls(
        "Represent the given image for classification",
        "flute", "hen", "axolotl", "scuba diver", "pizza",
    ),
    "ObjectNet": _cls(
        "Identify the object shown in the image", "tray", "Band Aid", "T-shirt", "mug", "air pump"
    ),
    "Country211": _cls(
        "Identify the country depicted in the image",
        "Fiji", "C\u00f4te d'Ivoire", "Japan", "\u00c5land Islands", "Peru",
    ),
    "OK-VQA": _qa(
        ("What sport is this?", "race"), ("Who made it?", "ford"), ("Why?", "safety"),
        ("Which  breed?", "pug"), ("What year?", "1960's"),
    ),
    "A-OKVQA": _qa(
        ("What is in his mouth?", "cigarette"), ("What may she do?", "cook"), ("Where?", "zoo"),
        ("What style is it?", "modern"), ("Which is red?", "left one"),
    ),
    "DocVQA": _qa(
        ("What is the \u2018actual\u2019 value?", "0.28"), ("Who signed?", "R. H. Honeycutt"),
        ("What is the date?", "January 8, 1999"), ("To whom?", "Mr. Lee"), ("Page?", "4"),
    ),
    "InfographicsVQA": _qa(
        ("Which platform leads?", "pinterest"), ("What share is it?", "53%"),
        ("How many?", "5"), ("Which colour?", "blue"), ("Which two?", "a, b"),
    ),
    "ChartQA": _qa(
        ("How many bars are there?", "14"), ("Is it higher than 2?", "Yes"), ("Sum?", "0.57"),
        ("Which year?", "2012"), ("Which line ends low?", "Favorable view"),
    ),
    "Visual7W": _qa(
        ("What color is it?", "Gray."), ("Where is he?", "At home."), ("How many?", "Two."),
        ("When was it?", "During the day."), ("Who is it?", "A boy."),
    ),
    "ScienceQA": _qa(
        ("Which could the test show?", "how steady it was"), ("Which ocean?", "the Arctic Ocean"),
        ("What is the direction?", "push"), ("Which is solid?", "vase"), ("Compare.", "Neither."),
    ),
    "VizWiz": _qa(
        ("Can you tell me what this is please?", "night time"), ("What's on  the can?", "soup"),
        ("Is it on?", "no"), ("what color", "grey"), ("What?", "unanswerable"),
    ),
    "GQA": _qa(
        ("What is this bird called?", "This is a parrot."), ("Is it open?", "Yes, it is open."),
        ("Who?", "The girl."), ("Which side?", "It's on the left."), ("What?", "It's a fork."),
    ),
    "TextVQA": _qa(
        ("what is the brand?", "dakota"), ("what does it say?", "STOP"), ("when?", "1:45"),
        ("who wrote it?", "n. gaiman"), ("which number?", "23"),
    ),
    "VisDial": _t2i(
        "Represent the given dialogue about an image, which is used for image retrieval:",
        "Represent the given image",
        "Q:is it in color\nA:yes", "Q:is it  late \nA:no \nQ:why\nA:sun", "Q:a cat\nA:2",
        " Q:who\nA:me", "Q:how old\nA:old",
    ),
    "CIRR": _i2i(
        "Given an image, find a similar everyday image with the described changes:",
        "Show three bottles.", "Same dog \n on grass.", "Less light.", "Add a cup.", "No people.",
    ),
    "VisualNews_t2i": _t2i(
        "Retrieve an image of this news caption.", "Represent the given image.",
        "The mayor speaks.", "Rain in Rome.", "A vote is held.", "Two rivals.", "The last day.",
    ),
    "VisualNews_i2t": _i2t(
        "Find a caption for the news in the given photo.",
        "The mayor speaks.", "Rain in Rome.", "A vote is held.", "Two rivals.", "The last day.",
    ),
    "MSCOCO_t2i": _t2i(
        "Find me an everyday image that matches the given caption:", "Represent the given image.",
        "A man on a moped.", "A dog.", "Two zebras next to each other.", "A cake", "An oven.",
    ),
    "MSCOCO_i2t": _i2t(
        "Find an image caption describing the given everyday image.",
        "A man on a moped.", "A dog.", "Two zebras next to each other.", "A cake", "An oven.",
    ),
    "NIGHTS": _i2i("Find a day-to-day image that looks similar to the provided image."),
    "WebQA": replace(
        _t2i(
            "Find a Wikipedia image that answers this question:", _WIKI,
            "Is the petal cup-shaped?", "Which is taller?", "Is it round?", "Whose?", "How many?",
        ),
        candidates=('"Flower" at dusk.', "Tower.", "Tower, seen from the east.", "Coin.", "Gate."),
        pictures=(0, 1, 1, 2, 3),
    ),
    "FashionIQ": _i2i(
        "Find an image to match the fashion image and style note:",
        "Is shiny and silver.", "Is longer.", "Has no sleeves.", "More formal.", "Is red.",
    ),
    "Wiki-SS-NQ": _t2i(
        "Find the document image that can answer the given query:", "Represent the given image",
        "who knows about the jet stream", "when was it", "where is it", "who sang it", "how far",
    ),
    "OVEN": replace(
        _i2i(
            "Retrieve a Wikipedia image-description pair that provides evidence for the question "
            "of this image:",
            "What is this place?", "Which model is it?", "What is it?", "Who?", "What species?",
        ),
        tgt_inst=MARKER + _WIKI,
        candidates=("Titisee. A lake.", "F900. A jet.", "Moka. A pot.", "Ada. \n Born.", "Elm."),
    ),
    "EDIS": replace(
        _t2i(
            "Find a news image that matches the provided caption:",
            "Represent the given image with related text information:",
            "The president arrives.", "Police search.", "Fans wait.", "A queue.", "Fire.",
        ),
        candidates=("WorldTributes paid.", "U.S.Searches.", "ArtsFans.", "Queues.", "Fire."),
        pictures=(0, 1, 2, 2, 4),
    ),
    "MSCOCO": _vg(
        "Crop the image to to isolate the object labeled as",
        '"dog"', '"dining table"', '"tv"', '"dog"', '"sports ball"',
    ),
    "RefCOCO": _vg(_REFER + ".", *_REFERRED),
    "RefCOCO-Matching": replace(
        _vg(_REFER + ":", *_REFERRED),
        tgt_inst=MARKER + _REFER + ":",
        candidates=('"Dish in corner"', '"dish"', '"left bus"', '"right bus"', '"man"'),
        pictures=(0, 0, 1, 1, 2),
    ),
    "Visual7W-Pointing": _vg(
        "Select the portion of the image that answers the question",
        '"Which box frames the toilet?"', '"Which is higher?"', '"Which door?"', '"Which?"',
        '"Which cup is blue?"',
    ),
}  # fmt: skip


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of the instruct form."""
    source = SOURCES[name]
    with_pictures = source.family in ("t2i", "i2i", "vg")
    rows = []
    for number in range(ROWS):
        pool = [(number + step) % ROWS for step in range(POOL)]
        seen = source.family != "t2i"
        rows.append(
            {
                "qry_inst": source.qry_inst,
                "qry_text": source.texts[number],
                "qry_img_path": f"{name}/query_{number}.jpg" if seen else "",
                "tgt_inst": source.tgt_inst,
                "tgt_text": [source.candidates[c] for c in pool],
                "tgt_img_path": [
                    f"{name}/target_{source.pictures[c]}.png" if with_pictures else "" for c in pool
                ],
            }
        )
    return rows


def merged_rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of the older form: instruction, text and line breaks in one string."""
    family = SOURCES[name].family
    lead = MARKER if name in ("WebQA", "EDIS") else ""
    rows = []
    for row in rows_of(name):
        query = lead + row["qry_inst"] + (f" {row['qry_text']}" if row["qry_text"] else "") + "\n"
        targets = row["tgt_text"]
        if family in ("t2i", "i2i", "vg"):
            end = "\n" if family == "t2i" else ""
            targets = [
                row["tgt_inst"] + (f" {text}\n" if text else end) for text in row["tgt_text"]
            ]
        rows.append(
            {
                "qry_text": query + ("\n" if name == "VisDial" else ""),
                "qry_img_path": row["qry_img_path"],
                "tgt_text": targets,
                "tgt_img_path": row["tgt_img_path"],
            }
        )
    return rows


def write_table(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)


def write_instruct(root: Path, name: str, rows: Sequence[dict[str, Any]] | None = None) -> None:
    """Annotations and images as they lie after `hf download` and unpacking `mmeb_v1.tar.gz`."""
    rows = rows_of(name) if rows is None else rows
    folder = root / "annotations" / "ziyjiang" / "MMEB_Test_Instruct" / name
    write_table(folder / "test-00000-of-00001.parquet", rows)
    write_images(root / "image-tasks", rows)


def write_merged(root: Path, name: str) -> None:
    """The older annotations, with the images of `images.zip`."""
    rows = merged_rows_of(name)
    folder = root / "annotations" / "TIGER-Lab" / "MMEB-eval" / name
    write_table(folder / "test-00000-of-00001.parquet", rows)
    write_images(root / "images", rows)


def write_images(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    paths = {path for row in rows for path in (row["qry_img_path"], *row["tgt_img_path"]) if path}
    for path in sorted(paths):
        file = folder / path
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            number = int(file.stem.rsplit("_", 1)[1])
            Image.new("RGB", (32, 32), (40 * number, 90, 10)).save(file)
