"""The command line: what it imports, what it says, what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mmembed
from mmembed.cli import app
from tests import media_files

COMMANDS = (
    "quickstart",
    "plan",
    "train",
    "launch",
    "report",
    "soup",
    "soup-card",
    "encode",
    "eval",
    "rank",
    "index",
    "search",
    "ablate",
    "recipe",
)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        picture = media_files.encode_image(media_files.photo(seed=seed))
        (folder / f"photo{seed}.png").write_bytes(picture)
    (folder / "note.txt").write_text("a red apple moving left")
    return folder


def test_help_imports_neither_torch_nor_anything_else_that_is_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "PIL", "av", "pymupdf", "rich.console")
    for arguments in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        script = (
            "import sys\n"
            "from mmembed.cli import app\n"
            f"app({arguments!r}, standalone_mode=False)\n"
            f"found = [name for name in {heavy!r} if name in sys.modules]\n"
            "assert not found, found\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_help_names_every_command_and_each_has_an_example() -> None:
    overview = run("--help").stdout
    for name in COMMANDS:
        assert name in overview
        assert f"mmembed {name} " in run(name, "--help").stdout


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"mmembed {mmembed.__version__}\n"


def test_index_and_search_from_end_to_end(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    index = tmp_path / "index"
    first = run("index", photos, "--model", tiny_checkpoint, "--out", index)
    assert first.exit_code == 0, first.stderr
    assert "3 files: 3 items encoded" in first.stdout
    again = run("index", photos, "--model", tiny_checkpoint, "--out", index)
    assert "0 items encoded" in again.stdout and "3 files unchanged" in again.stdout

    found = run("search", index, "a red apple", "--k", 2, "--json")
    assert found.exit_code == 0, found.stderr
    hits = json.loads(found.stdout)
    assert len(hits) == 2
    assert hits[0]["score"] >= hits[1]["score"]
    assert set(hits[0]) >= {"score", "path", "kind", "page", "start_seconds", "end_seconds", "text"}

    # a random model reads a picture the same way as query and as document, up to the prompt
    listed = run("search", index, "--image", photos / "photo1.png", "--k", 3, "--kind", "image")
    lines = listed.stdout.splitlines()
    assert len(lines) == 2, listed.stdout
    assert lines[0].endswith("photo1.png")

    both = run("search", index, "left", "--image", photos / "photo1.png", "--json")
    assert len(json.loads(both.stdout)) == 3


def test_a_broken_file_gives_exit_code_2_and_the_rest_is_searchable(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (photos / "broken.png").write_text("this is no picture")
    index = tmp_path / "index"
    done = run("index", photos, "--model", tiny_checkpoint, "--out", index)
    assert done.exit_code == 2
    assert "3 rows in all" in done.stdout
    assert "broken.png: unsupported_format: " in done.stderr
    assert "broken.png" in (index / "errors.jsonl").read_text()


def test_another_model_is_refused_in_one_line(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from mmembed.search.exact_index import ExactIndex

    ExactIndex(tmp_path / "index", fingerprint="b" * 64, dimension=64).commit()
    for arguments in (
        ("index", photos, "--model", tiny_checkpoint, "--out", tmp_path / "index"),
        ("search", tmp_path / "index", "x", "--model", tiny_checkpoint),
    ):
        done = run(*arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")
        assert "b" * 64 in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere", "x"], "there is no index in nowhere"),
        (["index", "nowhere", "--model", "m", "--out", "o"], "nowhere is not a folder"),
        (["encode", "--text", "x", "--model", "m", "--out", "o.txt"], "must end in .npy"),
        (["encode", "--model", "m", "--out", "o.npy"], "nothing to encode"),
        (["encode", "nowhere.jsonl", "--model", "m", "--out", "o.npy"], "cannot be read"),
        (["soup", "a", "b", "--out", "c", "--weights", "a,b"], "give numbers, e.g. 0.6,0.4"),
        (["soup", "a", "b", "--out", "c", "--method", "greedy"], "needs --examples FILE.jsonl"),
        (["soup", "a", "b", "--out", "c", "--t", "0.3"], "t is not for the method linear"),
        (["soup", "a", "b", "--out", "c", "--examples", "x"], "x cannot be read"),
        (["soup", "a", "b", "--out", "c", "--losses", "1,x"], "--losses is '1,x'; give numbers"),
        (["soup-card", "a", "--soup", "s", "--member", "m"], "m cannot be read"),
        (["train", "no_such_recipe", "--output", "o"], "no recipe file 'no_such_recipe'"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_with_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--debug", "search", tmp_path, "x")
    assert "there is no index" in str(done.exception)


def test_a_model_that_is_none_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    done = run("index", photos, "--model", photos, "--out", tmp_path / "index")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "index").exists()


def test_more_dimensions_than_the_model_has_are_refused(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    out = tmp_path / "index"
    done = run("index", photos, "--model", tiny_checkpoint, "--out", out, "--truncate-dim", 65)
    assert (done.exit_code, done.stderr) == (2, "error: --truncate-dim: the model has 64\n")
    assert not out.exists()


def test_ctrl_c_is_exit_code_130_and_leaves_a_valid_index(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmembed.search.file_encoder as file_encoder

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(file_encoder, "cut_file", interrupt)
    index = tmp_path / "index"
    done = run("index", photos, "--model", tiny_checkpoint, "--out", index)
    assert done.exit_code == 130
    assert "interrupted; " in done.stderr and "Traceback" not in done.stderr
    monkeypatch.undo()
    assert run("index", photos, "--model", tiny_checkpoint, "--out", index).exit_code == 0


def test_train_runs_a_recipe_and_prints_the_model_that_encode_takes(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    recipe = tmp_path / "one.yaml"
    recipe.write_text(
        f"name: one\nmodel: {{path: {tiny_checkpoint}}}\n"
        "defaults: {batch_size: 4, learning_rate: 1.0e-3, dtype: float32, num_workers: 0}\n"
        "stages: [{name: only, steps: 9, data: [{adapter: 'data_adapters.emoji:EmojiNames'}]}]\n"
    )
    done = run("train", recipe, "--output", tmp_path / "run", "--set", "stages.0.steps=1")
    assert done.exit_code == 0, (done.stderr, done.exception)
    model = done.stdout.strip()
    out = tmp_path / "v.npy"
    assert run("encode", "--text", "a dog", "--model", model, "--out", out).exit_code == 0
    assert np.load(out).shape == (1, 64)


def test_a_soup_of_one_model_with_itself_is_the_model(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from mmembed.encoder.checkpoint import load_encoder, save_encoder

    save_encoder(tmp_path / "model", *load_encoder(tiny_checkpoint))
    done = run("soup", tmp_path / "model", tmp_path / "model", "--out", tmp_path / "soup")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'soup'}\n"
    vectors = []
    for name in ("model", "soup"):
        out = tmp_path / f"{name}.npy"
        assert not run("encode", "--text", "a", "--model", tmp_path / name, "--out", out).exit_code
        vectors.append(np.load(out))
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.fixture
def two_models(tmp_path: Path, tiny_checkpoint: Path) -> list[Path]:
    """A model, and one whose norms are spoilt so that it hardly tells items apart."""
    from mmembed.encoder.checkpoint import load_encoder, save_encoder

    encoder, processor = load_encoder(tiny_checkpoint)
    save_encoder(tmp_path / "good", encoder, processor)
    encoder.backbone.model.language_model.norm.weight.data[1:] = 0
    save_encoder(tmp_path / "bad", encoder, processor)
    return [tmp_path / "good", tmp_path / "bad"]


def test_soups_by_examples_weigh_and_choose_the_members(
    tmp_path: Path, two_models: list[Path]
) -> None:
    examples = tmp_path / "few.jsonl"
    texts = ("a red apple", "first a dog", "the rain", "una manzana roja")
    examples.write_text("".join(f'{{"query": "{x}", "positive": "{x}"}}\n' for x in texts))
    out = tmp_path / "soup"
    cards = {}
    for method in ("greedy", "cocktail", "linear"):
        arguments = ("--out", out, "--method", method, "--examples", examples)
        done = run("soup", *two_models, *arguments)
        assert done.exit_code == 0, done.stderr
        assert done.stdout == f"{out}\n"
        cards[method] = json.loads((out / "soup.json").read_text())
    chosen, weighted, plain = (
        [member["weight"] for member in cards[method]["members"]] for method in cards
    )
    assert plain == [0.5, 0.5] and 1 > weighted[0] > 0.5 and chosen[0] >= 0.5
    rows = {row["metric"]: row for row in cards["linear"]["results"]}
    assert rows["mrr"]["task"] == "few"
    assert rows["mrr"]["members"] == [member["score"] for member in cards["greedy"]["members"]]
    assert rows["mrr"]["members"][0] > rows["mrr"]["members"][1]

    for name, value in (("good", 0.5), ("bad", 0.25), ("made", 0.75)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"news": {"ndcg@10": value}}))
    files = [tmp_path / f"{name}.json" for name in ("made", "good", "bad")]
    done = run("soup-card", out, "--soup", files[0], "--member", files[1], "--member", files[2])
    assert (done.exit_code, done.stdout) == (0, f"{out / 'README.md'}\n"), done.stderr
    assert "| 0.7500 | 0.3750 | 0.5000 | +0.3750 | +0.2500 |" in (out / "README.md").read_text()


def test_slerp_on_the_shell_takes_t(tmp_path: Path, two_models: list[Path]) -> None:
    out = tmp_path / "soup"
    done = run("soup", *two_models, "--out", out, "--method", "slerp", "--t", 0)
    assert done.exit_code == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (
        two_models[0] / "model.safetensors"
    ).read_bytes()


def test_encode_writes_vectors_ids_and_errors(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from mmembed import Embedder

    items = photos / "items.jsonl"
    items.write_text(
        '{"id": "both", "image": "photo0.png", "text": "a cat"}\n'
        '{"id": "gone", "image": "missing.png"}\n'
        "{broken\n"
        '"only text"\n'
    )
    arguments = ("encode", items, "--image", photos / "photo1.png", "--model", tiny_checkpoint)
    out = tmp_path / "out" / "vectors.npy"
    done = run(*arguments, "--out", out, "--on-error", "null", "--role", "query")
    assert done.exit_code == 2
    assert "2 failed:" in done.stderr and "gone: not_found" in done.stderr
    vectors = np.load(out)
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        expected = embedder.encode_query(
            [
                {"image": photos / "photo0.png", "text": "a cat"},
                "only text",
                photos / "photo1.png",
            ]
        )
        fingerprint = embedder.fingerprint
    assert np.isnan(vectors[1:3]).all()
    np.testing.assert_allclose(vectors[[0, 3, 4]], expected, atol=1e-5)
    ids = [json.loads(line) for line in Path(f"{out}.ids.jsonl").read_text().splitlines()]
    names = ["both", "gone", "3", "4", str(photos / "photo1.png")]
    assert [entry["id"] for entry in ids] == names
    assert [entry["ok"] for entry in ids] == [True, False, False, True, True]
    errors = [json.loads(line) for line in Path(f"{out}.errors.jsonl").read_text().splitlines()]
    assert [(e["id"], e["item"], e["code"]) for e in errors] == [
        ("gone", 1, "not_found"),
        ("3", 2, "invalid_type"),
    ]

    from safetensors import safe_open

    out = tmp_path / "short.safetensors"
    done = run(*arguments, "--out", out, "--on-error", "skip", "--truncate-dim", 16)
    with safe_open(out, "np") as file:
        assert file.get_tensor("embeddings").shape == (3, 16)
        assert file.metadata() == {"fingerprint": fingerprint}
    ids = [json.loads(line) for line in Path(f"{out}.ids.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in ids] == ["both", "4", names[-1]]

    out = tmp_path / "strict.npy"
    done = run(*arguments, "--out", out)
    assert done.exit_code == 2 and not out.exists()
    assert done.stderr.startswith("error: item 2: invalid_type: line 3 is not valid JSON")
