"""`mmembed export`: what it says, writes and refuses, and its exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmembed.cli import app
from mmembed.encoder.checkpoint import load_encoder, save_encoder


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def saved(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    encoder, processor = load_encoder(tiny_checkpoint)
    save_encoder(folder, encoder, processor)
    processor.close()
    return folder


def test_a_saved_folder_is_shown_for_every_server_with_what_each_lacks(saved: Path) -> None:
    shown = run(saved)
    assert shown.exit_code == 0
    assert "sentence-transformers: yes" in shown.stdout
    assert f"SentenceTransformer('{saved}')" in shown.stdout
    assert "vllm: no" in shown.stdout and "tei: no" in shown.stdout
    assert run(saved, "--for", "vllm").exit_code == 2


def test_out_writes_a_folder_that_vllm_takes_and_verify_compares_it(
    saved: Path, tmp_path: Path
) -> None:
    shown = run(saved, "--for", "vllm", "--out", tmp_path / "served")
    assert shown.exit_code == 0
    assert "vllm: yes" in shown.stdout
    assert "not run with mmembed" in shown.stdout
    assert f"vllm serve {tmp_path / 'served'}" in shown.stdout
    pytest.importorskip("sentence_transformers")
    checked = run(tmp_path / "served", "--for", "sentence-transformers", "--verify")
    assert checked.exit_code == 0
    assert "images with a text: largest difference" in checked.stdout
    assert "gives the same vectors, within 1e-05" in checked.stdout


def test_a_model_that_no_other_library_can_express_is_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    encoder, processor = load_encoder(tiny_checkpoint, encoder={"attention": "bidirectional"})
    save_encoder(tmp_path / "model", encoder, processor)
    processor.close()
    refused = run(tmp_path / "model", "--verify")
    assert refused.exit_code == 2
    assert "causal" in refused.stdout and "yes" not in refused.stdout
    written = run(tmp_path / "model", "--out", tmp_path / "out")
    assert written.exit_code == 2
    assert written.stderr.startswith("error: ") and "causal" in written.stderr


def test_what_is_no_embedder_is_refused(tiny_reranker: Path, tmp_path: Path) -> None:
    assert "not a folder" in run(tmp_path / "absent").stderr
    assert run(tiny_reranker).exit_code == 2
