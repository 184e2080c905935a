"""Scores against the logits of plain transformers, written out here; ranking; errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mmembed import Embedder, Reranker
from mmembed.encoder.checkpoint import load_encoder, save_encoder
from mmembed.encoder.reranker_model import load_reranker
from mmembed.errors import CheckpointError, ConfigError, InputError
from mmembed.inputs.prompt import load_template

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
BEGIN = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: "
)
DEFAULT = "Given a search query, retrieve relevant candidates that answer the query."
WEB = "Given a web search query, retrieve relevant passages that answer the query"


def prompt(query: str, document: str, instruction: str = DEFAULT) -> str:
    return (
        f"{BEGIN}{instruction}<Query>:{query}\n<Document>:{document}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def picture(seed: int, height: int = 60, width: int = 80) -> PILImage.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return PILImage.fromarray(noise).resize((width, height), PILImage.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def reranker(tiny_reranker):
    with Reranker.from_pretrained(tiny_reranker, num_workers=1) as loaded:
        yield loaded


class Reference:
    """Plain transformers: one prompt at a time, logits of the last position."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = AutoProcessor.from_pretrained(folder).image_processor

    @torch.no_grad()
    def score(self, text: str, pictures=()) -> float:
        features = {}
        if pictures:
            size = {"shortest_edge": 16 * 28 * 28, "longest_edge": 16 * 28 * 28}
            features = self.images(images=list(pictures), size=size, return_tensors="pt")
            for grid in features["image_grid_thw"]:
                text = text.replace("<|image_pad|>", "<|x|>" * (int(grid.prod()) // 4), 1)
        ids = self.tokenizer(text.replace("<|x|>", "<|image_pad|>"), return_tensors="pt")
        if pictures:
            pad = self.model.config.image_token_id
            ids["mm_token_type_ids"] = (ids["input_ids"] == pad).int()
        logits = self.model(**ids, **features).logits[0, -1]
        yes, no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        return float(torch.sigmoid(logits[yes] - logits[no]))


@pytest.fixture(scope="module")
def reference(tiny_reranker):
    return Reference(tiny_reranker)


def cases():
    one, two = picture(1), picture(2, 90, 50)
    return [
        ("a dog", "a cat in the rain", prompt("a dog", "a cat in the rain"), []),
        ("a dog", one, prompt("a dog", PICTURE), [one]),
        (one, "a dog", prompt(PICTURE, "a dog"), [one]),
        ({"image": two, "text": "Find it"}, one, prompt(PICTURE + "Find it", PICTURE), [two, one]),
        ("a dog", ["a", one, "b"], prompt("a dog", f"a{PICTURE}b"), [one]),
        ("a dog", "", prompt("a dog", "NULL"), []),
    ]


def test_scores_equal_the_logits_of_plain_transformers(reranker, reference):
    scores = reranker.score([(query, document) for query, document, _, _ in cases()])
    expected = [reference.score(text, pictures) for _, _, text, pictures in cases()]
    assert scores.dtype == np.float32
    assert np.ptp(expected) > 0.05
    assert np.abs(scores - expected).max() <= 1e-5


@pytest.mark.parametrize("name", ["instruction", "prompt"])
def test_the_instruction_of_the_query_wins_over_the_call(reranker, reference, name):
    scores = reranker.score(
        [("a", "b"), ({"text": "a", "instruction": "Own."}, "b")], **{name: "x"}
    )
    expected = [reference.score(prompt("a", "b", text)) for text in ("x", "Own.")]
    assert np.abs(scores - expected).max() <= 1e-5
    assert abs(expected[0] - expected[1]) > 1e-3


def mixed() -> list[tuple[object, object]]:
    documents = [
        "a cat",
        picture(3),
        {"text": "look", "image": picture(4, 33, 99)},
        "",
        "word " * 60,
    ]
    return [(query, document) for query in ("a dog", picture(5)) for document in documents]


def test_a_batch_equals_its_pairs_one_by_one(reranker):
    together = reranker.score(mixed())
    alone = [reranker.score(query, document) for query, document in mixed()]
    assert np.abs(together - alone).max() <= 1e-5


@pytest.mark.parametrize("options", [{"batch_tokens": 64}, {"batch_size": 2}, {"num_workers": 3}])
def test_order_batch_and_workers_change_nothing(reranker, options):
    pairs = mixed()
    order = np.random.default_rng(0).permutation(len(pairs))
    shuffled = reranker.score([pairs[i] for i in order], **options)
    assert np.abs(reranker.score(pairs)[order] - shuffled).max() <= 1e-5


def test_equal_pairs_run_once_and_swapped_ones_are_not_equal(reranker):
    scores, report = reranker.score([("a", "b"), ("b", "a"), ("a", "b")], return_report=True)
    _, unique = reranker.score([("a", "b"), ("b", "a")], return_report=True)
    assert report.num_tokens == unique.num_tokens
    assert scores[0] == scores[2] != scores[1]
    parts = [(["a", "b"], "c"), ("a", ["b", "c"])]
    assert len(set(reranker.score(parts).tolist())) == 2


def test_rank_sorts_by_score_and_names_what_it_was_given(reranker):
    documents = ["a cat", "a red apple", picture(3), "a dog", "a dog"]
    scores = reranker.score("a dog", documents)
    ranking = reranker.rank("a dog", documents, return_documents=True)
    assert [entry["score"] for entry in ranking] == sorted(scores.tolist(), reverse=True)
    assert all(entry["score"] == scores[entry["corpus_id"]] for entry in ranking)
    assert all(entry["text"] is documents[entry["corpus_id"]] for entry in ranking)
    places = [entry["corpus_id"] for entry in ranking]
    assert places.index(4) == places.index(3) + 1
    short = reranker.rank("a dog", documents, top_k=2)
    assert short == [{"corpus_id": e["corpus_id"], "score": e["score"]} for e in ranking[:2]]
    assert reranker.rank("a dog", []) == []


def test_a_megabyte_of_text_is_cut_and_said_to_be(tiny_reranker):
    with Reranker.from_pretrained(
        tiny_reranker, inputs={"max_tokens": 300}, num_workers=1
    ) as short:
        scores, report = short.score("a dog", ["word " * 200_000, "b"], return_report=True)
    assert report.truncated == [0]
    assert np.isfinite(scores).all()


BAD = [
    ({"image": b"no picture"}, "unsupported_format"),
    ({}, "empty"),
    (17, "invalid_type"),
    (Path("no/such/cat.png"), "not_found"),
    ({"text": "a", "instruction": "Mine."}, "invalid_type"),
]


def test_null_gives_nan_and_leaves_the_good_scores_untouched(reranker):
    documents = [item for bad, _ in BAD for item in (bad, "a cat")]
    scores, report = reranker.score("a dog", documents, on_error="null", return_report=True)
    assert np.isnan(scores[::2]).all()
    assert np.abs(scores[1::2] - reranker.score("a dog", "a cat")).max() <= 1e-5
    assert [error.code for error in report.errors] == [code for _, code in BAD]
    assert [error.index for error in report.errors] == [(2 * n, "document") for n in range(5)]
    ranking = reranker.rank("a dog", documents, on_error="null")
    assert [entry["corpus_id"] for entry in ranking] == [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]
    kept = reranker.rank("a dog", documents, on_error="skip")
    assert [entry["corpus_id"] for entry in kept] == [1, 3, 5, 7, 9]


def test_skip_returns_the_good_scores_and_says_which(reranker):
    pairs = [("a", "b"), ("a", 17), ("a",), ("c", "d")]
    scores, report = reranker.score(pairs, on_error="skip", return_report=True)
    assert report.kept.tolist() == [0, 3]
    assert np.abs(scores - reranker.score([pairs[0], pairs[3]])).max() <= 1e-5
    assert [error.index for error in report.errors] == [(1, "document"), (2,)]


@pytest.mark.parametrize("query", [{"image": b"no picture"}, 17])
def test_raise_names_the_pair_and_its_side(reranker, query):
    with pytest.raises(InputError, match=r"^item \(1, 'query'\)") as caught:
        reranker.score([("a", "b"), (query, "b"), ("a", {})])
    assert [error.index for error in caught.value.errors] == [(1, "query"), (2, "document")]
    assert np.isnan(caught.value.partial[1])
    with pytest.raises(InputError, match="query"):
        reranker.rank(query, ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "raise, skip, null"),
        ({"batch_tokens": 0}, "1 or more"),
        ({"prompt": "a", "instruction": "b"}, "one of"),
        ({"top_k": 0}, "1 or more"),
        ({"return_report": True}, "score"),
    ],
)
def test_impossible_options_are_refused(reranker, options, message):
    with pytest.raises(ConfigError, match=message):
        reranker.rank("a", ["b"], **options)


def test_pairs_are_a_list(reranker):
    with pytest.raises(ConfigError, match="list of pairs"):
        reranker.score("a dog")
    assert reranker.score([]).shape == (0,)
    assert reranker.score("a", ["b"]).shape == (1,)
    assert reranker.score("a", "b").shape == ()


def test_a_saved_folder_gives_the_same_scores_here_and_in_transformers(
    reranker, reference, tmp_path
):
    save_encoder(tmp_path / "saved", reranker.encoder, reranker.processor)
    pairs = mixed()
    with Reranker.from_pretrained(tmp_path / "saved", num_workers=1) as again:
        assert np.array_equal(reranker.score(pairs), again.score(pairs))
        described = json.loads((tmp_path / "saved" / "mmembed.json").read_text(encoding="utf-8"))
        assert again.fingerprint == described["fingerprint"]
    assert described["kind"] == "reranker"
    text = prompt("a", "b")
    assert Reference(tmp_path / "saved").score(text) == reference.score(text)


def plain_copy(folder: Path, target: Path) -> Path:
    """The checkpoint without the file that is ours."""
    shutil.copytree(folder, target)
    (target / "mmembed.json").unlink()
    return target


def test_a_plain_checkpoint_needs_a_prompt(reranker, tiny_reranker, tmp_path):
    folder = plain_copy(tiny_reranker, tmp_path / "plain")
    with Reranker.from_pretrained(folder, prompt="qwen3_vl_reranker", num_workers=1) as loaded:
        assert loaded.score("a", "b") == reranker.score("a", "b")
    with pytest.raises(ConfigError, match="qwen3_vl_reranker"):
        Reranker.from_pretrained(folder)
    with pytest.raises(ConfigError, match=r"\{query\}"):
        Reranker.from_pretrained(folder, prompt="plain")


def test_an_embedder_is_no_reranker_and_the_other_way_round(tiny_reranker, tiny_checkpoint):
    with pytest.raises(CheckpointError, match=r"kind 'embedder'.*load it as Embedder"):
        Reranker.from_pretrained(tiny_checkpoint, prompt="qwen3_reranker")
    with pytest.raises(CheckpointError, match=r"kind 'reranker'.*load it as Reranker"):
        Embedder.from_pretrained(tiny_reranker)
    with pytest.raises(ConfigError, match=r"an embedder one with \{content\}"):
        load_encoder(tiny_checkpoint, inputs={"prompt": load_template("qwen3_reranker")})


def test_answers_are_two_different_single_tokens(tiny_reranker):
    with pytest.raises(CheckpointError, match=r"'perhaps' is \d tokens"):
        load_reranker(tiny_reranker, encoder={"yes": "perhaps"})
    with pytest.raises(CheckpointError, match="same token"):
        load_reranker(tiny_reranker, encoder={"yes": "no"})
    swapped = Reranker.from_pretrained(tiny_reranker, encoder={"yes": "no", "no": "yes"})
    with swapped, Reranker.from_pretrained(tiny_reranker) as straight:
        assert abs(swapped.score("a", "b") + straight.score("a", "b") - 1) <= 1e-6
        assert swapped.fingerprint != straight.fingerprint


def untied_copy(folder: Path, target: Path) -> Path:
    plain_copy(folder, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = False
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(target / "model.safetensors")
    noise = torch.randn(
        tensors["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(3)
    )
    tensors["lm_head.weight"] = noise * 0.1
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_head_of_its_own_is_read_and_saved(reranker, tiny_reranker, tmp_path):
    folder = untied_copy(tiny_reranker, tmp_path / "untied")
    options = {"num_workers": 1}
    with Reranker.from_pretrained(folder, prompt="qwen3_vl_reranker", **options) as loaded:
        score = loaded.score("a dog", "a cat")
        save_encoder(tmp_path / "saved", loaded.encoder, loaded.processor)
    text = prompt("a dog", "a cat")
    assert abs(score - Reference(folder).score(text)) <= 1e-5
    assert abs(score - reranker.score("a dog", "a cat")) > 1e-3
    assert Reference(tmp_path / "saved").score(text) == Reference(folder).score(text)
    with Reranker.from_pretrained(tmp_path / "saved", **options) as again:
        assert again.score("a dog", "a cat") == score


def test_a_checkpoint_without_its_head_is_refused(tiny_reranker, tmp_path):
    folder = untied_copy(tiny_reranker, tmp_path / "untied")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no lm_head\.weight"):
        load_reranker(folder, prompt="qwen3_vl_reranker")


@pytest.mark.parametrize("tied", [True, False])
def test_a_text_only_checkpoint_equals_its_causal_model(tiny_reranker, tmp_path, tied):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=tied,
            initializer_range=0.2,
        )
    ).eval()
    model.save_pretrained(tmp_path / "text")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_reranker / name, tmp_path / "text" / name)
    options = {"prompt": "qwen3_reranker", "num_workers": 1}
    with Reranker.from_pretrained(tmp_path / "text", **options) as loaded:
        scores = loaded.score("a dog", ["a cat in the rain", "b"])
        save_encoder(tmp_path / "saved", loaded.encoder, loaded.processor)
    with Reranker.from_pretrained(tmp_path / "saved", num_workers=1) as again:
        assert np.array_equal(again.score("a dog", ["a cat in the rain", "b"]), scores)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    for document, score in zip(["a cat in the rain", "b"], scores, strict=True):
        text = (
            f"{BEGIN}{WEB}\n<Query>: a dog\n<Document>: {document}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**ids).logits[0, -1]
            other = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(**ids).logits[0, -1]
        assert abs(float(torch.sigmoid(logits[yes] - logits[no])) - score) <= 1e-5
        assert torch.allclose(other, logits, atol=1e-5)
