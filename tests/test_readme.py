"""The README's Python runs as it stands, and its shell commands exist."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pymupdf
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmembed.cli import app

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def write_media(folder: Path) -> None:
    """The files that the examples name: pictures, a clip of 41 seconds, eight pages."""
    random = np.random.default_rng(0)
    for name in ("cat.jpg", "dog.png", "0.png", "1.png", "2.png"):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    with av.open(str(folder / "talk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, 1)
        for number in range(41):
            pixels = np.full((64, 64, 3), 6 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    document = pymupdf.open()
    for number in range(1, 9):
        document.new_page(width=100, height=140).insert_text((10, 50), f"page {number}")
    document.save(folder / "paper.pdf")


def test_the_python_examples_run(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_media(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("python"))
    assert code.count("path/or/hub-id") == 1
    scope: dict[str, object] = {}
    exec(compile(code.replace("path/or/hub-id", str(tiny_checkpoint)), "README.md", "exec"), scope)
    report = scope["report"]
    assert report.ok.all()  # type: ignore[attr-defined]
    assert np.asarray(scope["vectors"]).shape[0] == 8
    scope["embedder"].close()  # type: ignore[attr-defined]


def test_the_shell_examples_name_commands_and_options_that_exist() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line.split("#")[0].split() for line in lines if line.startswith("mmembed ")]
    assert {words[1] for words in commands} == {"train", "soup", "encode", "index", "search"}
    for words in commands:
        help_text = CliRunner().invoke(app, [words[1], "--help"]).output
        for option in (word for word in words if word.startswith("--")):
            assert option in help_text, (words, option)
