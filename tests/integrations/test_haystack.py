"""The vectors in Haystack are those of `encode`, and its pipelines survive being written."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore

from mmembed.errors import ConfigError, InputError, MissingDependencyError
from mmembed.integrations.haystack import MMEmbedDocumentEmbedder, MMEmbedTextEmbedder
from mmembed.types import Image, MultimodalInput, Page, Text, Video
from tests import media_files as files

TEXTS = ["a red apple moving left", "the grinning face of a cat", "una manzana roja"]
PHOTO = files.encode_image(files.photo())


def test_a_query_is_text_or_image_or_both(embedder):
    component = MMEmbedTextEmbedder(embedder, instruction="Find it: ", truncate_dim=16)
    options = {"role": "query", "instruction": "Find it: ", "truncate_dim": 16}
    text = embedder.encode("a cat", **options).tolist()
    assert component.run(text="a cat")["embedding"] == text
    assert component.run("a cat")["meta"] == {"model": str(embedder.folder)}
    assert asyncio.run(component.run_async("a cat"))["embedding"] == text
    image = component.run(image=ByteStream(PHOTO))["embedding"]
    assert image == embedder.encode(Image(PHOTO), **options).tolist()
    both = component.run("a cat", ByteStream(PHOTO))["embedding"]
    fused = MultimodalInput((Image(PHOTO), Text("a cat")))
    assert both == embedder.encode(fused, **options).tolist()


@pytest.mark.parametrize("arguments", [{}, {"text": 3}, {"text": [Document(content="a")]}])
def test_what_is_no_query_is_refused(embedder, arguments):
    with pytest.raises(ConfigError, match="MMEmbedTextEmbedder"):
        MMEmbedTextEmbedder(embedder).run(**arguments)


def test_documents_are_texts_blobs_and_files(embedder, tmp_path):
    page = tmp_path / "a.pdf"
    page.write_bytes(files.pdf(3))
    clip = files.video(10)
    given = {
        "text": (Document(content="a cat", meta={"file_path": str(page)}), "a cat"),
        "empty text": (Document(content=""), ""),
        "path as text": (Document(content=str(page)), str(page)),
        "image": (Document(blob=ByteStream(PHOTO)), Image(PHOTO)),
        "clip": (Document(blob=ByteStream(clip)), Video(clip)),
        "fused": (
            Document(content="a cat", blob=ByteStream(PHOTO)),
            {"content": [Image(PHOTO), "a cat"]},
        ),
        "page": (Document(meta={"file_path": str(page), "page_number": 2}), Page(page, pages="2")),
        "file": (Document(meta={"file_path": str(page)}), Page(page)),
    }
    component = MMEmbedDocumentEmbedder(embedder, instruction="Read it: ")
    documents = [document for document, _ in given.values()]
    expected = embedder.encode(
        [item for _, item in given.values()], role="document", instruction="Read it: "
    )
    found = component.run(documents)["documents"]
    assert [document.embedding for document in found] == expected.tolist()
    assert [document.id for document in found] == [document.id for document in documents]
    assert all(document.embedding is None for document in documents)
    again = asyncio.run(component.run_async(documents))["documents"]
    assert again == found
    assert component.run([])["documents"] == []


def test_fields_of_the_meta_are_written_in_front_of_the_text(embedder):
    component = MMEmbedDocumentEmbedder(
        embedder, meta_fields_to_embed=["title", "absent"], embedding_separator=": "
    )
    (found,) = component.run([Document(content="a cat", meta={"title": "Pets"})])["documents"]
    assert found.embedding == embedder.encode("Pets: a cat").tolist()


def test_a_document_that_cannot_be_embedded_is_named_by_its_number(embedder):
    component = MMEmbedDocumentEmbedder(embedder)
    good = Document(content="a cat")
    for bad, code in (
        (Document(meta={"other": "x"}), "empty"),
        (Document(blob=ByteStream(b"plain characters")), "unsupported_format"),
        (Document(blob=ByteStream(PHOTO[:60])), "truncated"),
    ):
        with pytest.raises(InputError) as error:
            component.run([good, bad])
        assert (error.value.code, error.value.index) == (code, 1)
    with pytest.raises(ConfigError, match="list of Documents"):
        component.run("a cat")


def test_a_pipeline_that_was_written_and_read_finds_what_exact_search_finds(
    embedder, tiny_checkpoint
):
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    indexing = Pipeline()
    indexing.add_component("embedder", MMEmbedDocumentEmbedder(str(tiny_checkpoint)))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    documents = [Document(content=text) for text in TEXTS] + [Document(blob=ByteStream(PHOTO))]
    indexing.run({"embedder": {"documents": documents}})

    asking = Pipeline()
    asking.add_component("embedder", MMEmbedTextEmbedder(str(tiny_checkpoint), instruction="Find:"))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store))
    asking.connect("embedder.embedding", "retriever.query_embedding")
    written = asking.dumps()
    assert len(written) < 4000
    restored = Pipeline.loads(written, allowed_modules=["mmembed.integrations.haystack"])
    assert restored.get_component("embedder").instruction == "Find:"
    assert not restored.get_component("embedder")._model.is_loaded

    query = embedder.encode("a cat", role="query", instruction="Find:")
    scores = embedder.encode([*TEXTS, Image(PHOTO)]) @ query
    found = asking.run({"embedder": {"text": "a cat"}})["retriever"]["documents"]
    order = np.argsort(-scores)
    assert [document.id for document in found] == [documents[at].id for at in order]
    again = restored.get_component("embedder").run("a cat")["embedding"]
    assert again == asking.get_component("embedder").run("a cat")["embedding"]


def test_the_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "haystack", None)
    monkeypatch.delitem(sys.modules, "mmembed.integrations.haystack")
    with pytest.raises(MissingDependencyError, match=r"mmembed\[haystack\]"):
        import mmembed.integrations.haystack  # noqa: F401


def test_without_instructions_each_role_has_the_models_own(prompted):
    query = prompted.encode("a dog", role="query").tolist()
    document = prompted.encode("a dog", role="document").tolist()
    assert MMEmbedTextEmbedder(prompted).run("a dog")["embedding"] == query
    (found,) = MMEmbedDocumentEmbedder(prompted).run([Document(content="a dog")])["documents"]
    assert found.embedding == document
