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
    """The files that the examples name: pictures, a clip of 41 seconds, eight pages, items."""
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
    (folder / "items.jsonl").write_text('{"text": "one"}\n{"image": "cat.jpg"}\n', "utf-8")


def test_the_python_examples_run(
    tmp_path: Path, tiny_checkpoint: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_media(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("python"))
    for name, folder in (("path/or/hub-id", tiny_checkpoint), ("path/or/reranker", tiny_reranker)):
        assert code.count(name) == 1
        code = code.replace(name, str(folder))
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    report = scope["report"]
    assert report.ok.all()  # type: ignore[attr-defined]
    assert np.asarray(scope["vectors"]).shape[0] == 8
    assert [len(scope[name]) for name in ("ranked", "scores")] == [2, 2]  # type: ignore[arg-type]
    scope["embedder"].close()  # type: ignore[attr-defined]
    scope["reranker"].close()  # type: ignore[attr-defined]


def test_the_data_and_recipe_of_ones_own_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [data] = (block for block in blocks("python") if "class Capitals" in block)
    [recipe] = (block for block in blocks("yaml") if "base:" in block)
    (tmp_path / "my_data.py").write_text(data, "utf-8")
    (tmp_path / "my-recipe.yaml").write_text(recipe, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["recipe", "check", str(tmp_path / "my-recipe.yaml")])
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.strip() in " ".join(README.split())


def test_the_suite_of_ones_own_is_judged(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [source] = (block for block in blocks("python") if "class MySearch" in block)
    [suite] = (block for block in blocks("yaml") if "MySearch" in block)
    (tmp_path / "my_search.py").write_text(source, "utf-8")
    (tmp_path / "my-suite.yaml").write_text(suite, "utf-8")
    monkeypatch.chdir(tmp_path)
    words = "eval run --suite my-suite.yaml --out results --model".split()
    result = CliRunner().invoke(app, [*words, str(tiny_checkpoint)])
    assert result.exit_code == 0, result.stderr
    assert "clicks" in result.stdout and "ndcg_linear@5" in result.stdout
    assert (tmp_path / "results" / "scores" / "clicks.json").is_file()


def shell_commands() -> list[list[str]]:
    """Words after `mmembed`; what stands behind `--` is of `mmembed train`."""
    found = []
    for line in "\n".join(blocks("sh")).splitlines():
        shown = re.search(r"(?:^|--no-python )mmembed ([^#>|&]*)", line)
        if shown:
            before, _, behind = shown[1].partition(" -- ")
            found += [before.split()] + ([["train", *behind.split()]] if behind else [])
    return found


def test_the_shell_examples_name_commands_and_options_that_exist() -> None:
    commands = shell_commands()
    shown = {words[0] for words in commands}
    every = {
        "train",
        "recipe",
        "soup",
        "encode",
        "rank",
        "index",
        "search",
        "ablate",
        "launch",
        "eval",
        "data",
        "mine",
        "filter",
        "synthesize",
        "serve",
        "demo",
        "export",
    }
    assert every <= shown
    for words in commands:
        name = words[:2] if words[0] in ("recipe", "eval", "data") else words[:1]
        if words[0] == "index":  # `mmembed index FOLDER` is `mmembed index add FOLDER`
            known = ("add", "info", "migrate", "optimize")
            name = words[:2] if words[1] in known else ["index", "add"]
        result = CliRunner().invoke(app, [*name, "--help"])
        assert result.exit_code == 0, words
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", result.output), (words, option)
