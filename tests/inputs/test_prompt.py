"""Templates against the byte-exact strings of the published systems (tests/golden)."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from mmembed.errors import ConfigError
from mmembed.inputs.prompt import (
    Placeholder,
    PromptTemplate,
    UserText,
    load_template,
    pair_templates,
)

GOLDEN = {
    entry["id"]: entry
    for entry in json.loads(
        (Path(__file__).parents[1] / "golden" / "losses.json").read_text(encoding="utf-8")
    )["templates"]
}
IMAGE = Placeholder("image")
CASES = [
    (
        "rzen_query_text",
        "rzen_release",
        [UserText("Fresh fridge full of berries yogurt milk and snacks.")],
        "Find me an everyday image that matches the given caption: ",
        "query",
    ),
    ("rzen_cand_image", "rzen_release", [IMAGE], "Represent the given image.", "document"),
    ("rzen_cand_text_plain", "rzen_release", [UserText("A curious kitten.")], None, "document"),
    (
        "rzen_video_8_frames",
        "rzen_release",
        [IMAGE] * 8,
        "Understand the content of the provided video.",
        "document",
    ),
    ("rzen_paper_prompt_text", "rzen_paper", [UserText("a cat")], None, "query"),
    ("qwen3_query", "qwen3", [UserText("What is the capital of China?")], None, "query"),
    ("qwen3_doc", "qwen3", [UserText("The capital of China is Beijing.")], None, "document"),
    ("qwen3_doc", "plain", [UserText("The capital of China is Beijing.")], None, "document"),
    (
        "kalm_query",
        "kalm",
        [UserText("what is rag")],
        "Given a query, retrieve documents that answer the query.",
        "query",
    ),
    (
        "kalm_doc_asymmetric",
        "kalm",
        [UserText("RAG combines retrieval and generation.")],
        None,
        "document",
    ),
    (
        "kalm_doc_symmetric",
        "kalm",
        [UserText("a man is playing a guitar")],
        "Retrieve semantically similar text",
        "document",
    ),
    (
        "qzhou_query_readme",
        "qzhou",
        [UserText("a man is playing a guitar")],
        "Retrieve semantically similar text",
        "query",
    ),
    (
        "qzhou_query_leaderboard",
        "qzhou_leaderboard",
        [UserText("a man is playing a guitar")],
        "Retrieve semantically similar text",
        "query",
    ),
    (
        "q3vl_doc_image_text_code",
        "qwen3_vl",
        [IMAGE, UserText("a beach")],
        None,
        "document",
    ),
    (
        "q3vl_query_code",
        "qwen3_vl",
        [UserText("a beach")],
        "Retrieve images or text relevant to the user's query.",
        "query",
    ),
    ("q3vl_doc_report", "qwen3_vl_report", [UserText("a beach")], None, "document"),
]


@pytest.mark.parametrize(("golden", "template", "content", "instruction", "role"), CASES)
def test_prompt_equals_the_published_bytes(golden, template, content, instruction, role):
    prompt = load_template(template)
    text = prompt.text(prompt.render(content, instruction=instruction, role=role))
    assert text == GOLDEN[golden]["string"]
    assert sha256(text.encode()).hexdigest() == GOLDEN[golden]["sha256"]


PAIRS = [
    (
        "qwen3_reranker",
        "qwen3_reranker",
        "What is the capital of China?",
        "The capital of China is Beijing.",
    ),
    (
        "qwen3_reranker_vllm",
        "qwen3_reranker_vllm",
        "What is the capital of China?",
        "The capital of China is Beijing.",
    ),
    ("q3vl_reranker_code", "qwen3_vl_reranker", "a beach", "sand and sea"),
]


@pytest.mark.parametrize(("golden", "template", "query", "document"), PAIRS)
def test_prompt_of_a_pair_equals_the_published_bytes(golden, template, query, document):
    prompt = load_template(template)
    text = prompt.text(prompt.render_pair([UserText(query)], [UserText(document)]))
    assert text == GOLDEN[golden]["string"]
    assert sha256(text.encode()).hexdigest() == GOLDEN[golden]["sha256"]


def test_every_published_pair_has_a_template():
    assert pair_templates() == sorted(template for _, template, _, _ in PAIRS)
    pairs = {name for name, entry in GOLDEN.items() if entry["role"] == "pair"}
    assert pairs == {golden for golden, _, _, _ in PAIRS}


def test_an_empty_side_of_a_pair_is_written_as_the_template_says():
    prompt = load_template("qwen3_vl_reranker")
    text = prompt.text(prompt.render_pair([UserText("")], [IMAGE], instruction="Find it."))
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"<Instruct>: Find it.<Query>:NULL\n<Document>:{picture}<|im_end|>" in text


@pytest.mark.parametrize(
    "template",
    [
        "{instruction}{query}",
        "{instruction}{document}{query}",
        "{instruction}{content}{query}{document}",
        "{instruction}{query}{query}{document}",
        "{query}{document}",
    ],
)
def test_a_template_that_is_no_pair_is_refused(template):
    with pytest.raises(ValueError, match=r"needs|must hold"):
        PromptTemplate(name="x", template=template)


def test_instruction_goes_behind_leading_pictures_and_before_the_first_text():
    prompt = load_template("plain")
    content = [IMAGE, UserText("one"), IMAGE, UserText("two")]
    text = prompt.text(prompt.render(content, instruction="Do: "))
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == f"{picture}Do: one{picture}two<|endoftext|>"


def test_an_empty_instruction_switches_the_default_off():
    prompt = load_template("qwen3")
    text = prompt.text(prompt.render([UserText("x")], instruction="", role="query"))
    assert text == "x<|endoftext|>"


def test_unknown_template_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="rzen_release"):
        load_template("no_such_prompt")


@pytest.mark.parametrize(
    "field", [{"image": "[picture]"}, {"video": "<|image_pad|>"}, {"instruction_format": "Do: "}]
)
def test_template_without_a_place_for_what_it_writes_is_refused(field):
    with pytest.raises(ValueError, match="exactly once"):
        PromptTemplate(name="x", template="{content}", **field)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x"}'])
def test_a_broken_template_file_is_named(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.json"):
        load_template(str(path))


def test_template_without_content_is_refused():
    with pytest.raises(ValueError, match="content"):
        PromptTemplate(name="x", template="{text}")
