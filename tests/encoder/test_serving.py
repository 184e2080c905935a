"""Other servers are promised equal vectors only where the folder can keep the promise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mmembed import Embedder
from mmembed.baselines.sentence_transformers import SentenceTransformersModel
from mmembed.encoder.checkpoint import load_encoder, load_extra_tensors, save_encoder
from mmembed.encoder.identity import EXTRA_TENSORS_FILE
from mmembed.encoder.serving import SERVERS, plan_serving, write_served_folder
from mmembed.encoder.serving_check import TOLERANCE, compare
from mmembed.errors import CheckpointError, ConfigError
from mmembed.types import Image, MultimodalInput, Text
from tests import media_files as files


@pytest.fixture(scope="module")
def saved(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_checkpoint, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def served(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "model"
    write_served_folder(saved, out)
    return out


def save(folder: Path, out: Path, *, step: float | None = None, **options: Any) -> Path:
    encoder, processor = load_encoder(folder, **options)
    encoder.int8_step = step
    save_encoder(out, encoder, processor)
    processor.close()
    return out


def test_sentence_transformers_runs_a_saved_folder_and_a_served_one_with_equal_vectors(
    saved, served
):
    pytest.importorskip("sentence_transformers")
    for folder in (saved, served):
        assert plan_serving(folder, "sentence-transformers").problems == ()
        peer = SentenceTransformersModel(folder, device="cpu", dtype="float32")
        with Embedder.from_pretrained(folder) as embedder:
            found = compare(embedder, peer)
        peer.close()
        assert set(found) >= {"texts", "images with an instruction", "images with a text"}
        assert max(found.values()) <= TOLERANCE


def test_the_comparison_sees_another_prompt_and_other_sizes(saved, tmp_path):
    peer = SentenceTransformersModel(saved, device="cpu", dtype="float32")
    changed = {
        "texts": {"prompt": {"name": "x", "template": "{content}.<|endoftext|>"}},
        "images": {"image_tokens": {"min": 4, "max": 4}},
    }
    for kind, inputs in changed.items():
        with Embedder.from_pretrained(saved, inputs=inputs) as embedder:
            assert compare(embedder, peer)[kind] > 100 * TOLERANCE
    peer.close()


def test_a_nan_of_the_other_library_is_a_difference(saved):
    class Broken:
        def encode(self, items: Any, *, role: str) -> np.ndarray:
            vectors = embedder.encode(items, role=role)
            vectors[0, 0] = np.nan
            return vectors

    with Embedder.from_pretrained(saved) as embedder:
        found = compare(embedder, Broken())
    assert all(np.isnan(difference) for difference in found.values())


def test_a_served_folder_holds_the_weights_under_published_names(tiny_checkpoint, saved, served):
    def read(folder: Path) -> dict[str, torch.Tensor]:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    published, found = read(tiny_checkpoint), read(served)
    assert set(read(saved)) != set(found)
    assert set(found) == {name for name in published if not name.startswith("lm_head")}
    assert all(torch.equal(found[name], published[name]) for name in found)
    ours, theirs = (
        json.loads((folder / "config.json").read_text()) for folder in (tiny_checkpoint, served)
    )
    for name in ("architectures", "vision_start_token_id", "image_token_id"):
        assert theirs[name] == ours[name]


def test_a_served_folder_is_a_model_folder_with_equal_vectors(saved, served):
    items = [Text("a red apple"), Image(files.encode_image(files.photo()))]
    with Embedder.from_pretrained(saved) as before, Embedder.from_pretrained(served) as after:
        np.testing.assert_allclose(before.encode(items), after.encode(items), atol=1e-6)
        assert before.processor.config == after.processor.config


def test_vllm_is_refused_the_names_of_a_saved_folder_and_told_everything_of_a_served_one(
    saved, served
):
    (problem,) = plan_serving(saved, "vllm").problems
    assert "named as AutoModel" in problem
    plan = plan_serving(served, "vllm")
    assert plan.problems == () and not plan.is_tested
    for words in (
        "--runner pooling --convert embed",
        f"--chat-template {served}/chat_template.jinja",
        "--chat-template-content-format openai",
        """--pooler-config '{"pooling_type": "LAST"}'""",
        "--max-model-len 8192",
        """--limit-mm-per-prompt '{"image": 8, "video": 0}'""",
    ):
        assert words in plan.command
    body = json.loads(plan.request.split("-d '")[1][:-1])
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert any("skip the chat template" in text for text in plan.differences)


def test_vllm_is_told_of_vectors_that_keep_their_length(tiny_checkpoint, tmp_path):
    folder = save(tiny_checkpoint, tmp_path / "model", encoder={"normalize": False})
    assert '"use_activation": false' in plan_serving(folder, "vllm").command


def test_the_chat_template_writes_the_prompt_of_encode_for_the_request_of_vllm(served):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(served)
    messages = json.loads(plan_serving(served, "vllm").request.split("-d '")[1][:-1])["messages"]
    messages[1]["content"][0] = {"type": "image"}  # what vLLM makes of an image_url
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    with Embedder.from_pretrained(served) as embedder:
        item = MultimodalInput((Image(files.photo()), Text("a red apple")), "INSTRUCTION")
        found = embedder.explain(item)
    pads = f"<|image_pad|> x {found.num_visual_tokens}"
    assert found.prompt.replace(pads, "<|image_pad|>") == text


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": {"attention": "bidirectional"}}, "causal"),
        ({"inputs": {"position_ids": "flat"}}, "M-RoPE"),
        ({"inputs": {"resize_passes": 2}}, "resizes pictures once"),
        ({"encoder": {"truncate_dim": 16}}, "truncates"),
    ],
)
def test_what_no_server_can_express_is_refused_with_the_reason(
    tiny_checkpoint, tmp_path, server, options, words
):
    folder = save(tiny_checkpoint, tmp_path / "model", **options)
    assert any(words in problem for problem in plan_serving(folder, server).problems)
    with pytest.raises(CheckpointError, match=words):
        write_served_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plain_checkpoint_lacks_the_files_and_export_writes_them(tiny_checkpoint, tmp_path):
    problems = plan_serving(tiny_checkpoint, "vllm").problems
    assert any("chat_template.jinja" in problem and "missing" in problem for problem in problems)
    write_served_folder(tiny_checkpoint, tmp_path / "out")
    assert plan_serving(tmp_path / "out", "vllm").problems == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chat_template.jinja", "say something else: chat_template.jinja"),
        ("1_Pooling/config.json", "say something else: 1_Pooling"),
        ("preprocessor_config.json", "sizes of images"),
        ("model.safetensors", "no weights"),
    ],
)
def test_a_file_that_was_changed_or_lost_is_named(served, tmp_path, name, words):
    folder = tmp_path / "model"
    shutil.copytree(served, folder)
    if name == "model.safetensors":
        (folder / name).rename(folder / EXTRA_TENSORS_FILE)
    elif name == "preprocessor_config.json":
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**fields, "size": {"shortest_edge": 3136}}))
    else:
        (folder / name).write_text("{}")
    for server in ("sentence-transformers", "vllm"):
        assert any(words in problem for problem in plan_serving(folder, server).problems)


def test_a_learnt_step_of_int8_goes_along_and_is_said_to_be_ours(tiny_checkpoint, tmp_path):
    folder = save(tiny_checkpoint, tmp_path / "model", step=0.0123)
    write_served_folder(folder, tmp_path / "out")
    assert load_extra_tensors(tmp_path / "out")["int8_step"].item() == pytest.approx(0.0123)
    for server in ("sentence-transformers", "vllm"):
        told = plan_serving(tmp_path / "out", server).differences
        assert any("int8 step (0.0123)" in text for text in told)


def test_text_embeddings_inference_is_refused_a_vision_tower(served):
    assert any("texts only" in problem for problem in plan_serving(served, "tei").problems)


def test_an_existing_folder_is_left_alone(saved, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        write_served_folder(saved, tmp_path / "out")
    with pytest.raises(ConfigError, match="known: sentence-transformers, vllm, tei"):
        plan_serving(saved, "triton")  # type: ignore[arg-type]
