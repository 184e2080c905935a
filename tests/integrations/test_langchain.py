"""The vectors in LangChain's stores are those of `encode`; its retriever answers from our index."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from mmembed.errors import MissingDependencyError
from mmembed.integrations.langchain import MMEmbedEmbeddings, MMEmbedRetriever
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.searcher import Searcher
from mmembed.types import Image
from tests import media_files as files

TEXTS = ["a red apple moving left", "the grinning face of a cat", "una manzana roja"]


@pytest.fixture
def embeddings(embedder):
    return MMEmbedEmbeddings(
        embedder, query_instruction="Find it: ", document_instruction="Read it: "
    )


def test_documents_and_queries_have_their_role_and_instruction(embedder, embeddings):
    documents = embedder.encode(TEXTS, role="document", instruction="Read it: ")
    query = embedder.encode(TEXTS[0], role="query", instruction="Find it: ")
    assert embeddings.embed_documents(TEXTS) == documents.tolist()
    assert embeddings.embed_query(TEXTS[0]) == query.tolist()
    assert asyncio.run(embeddings.aembed_documents(TEXTS)) == documents.tolist()
    assert asyncio.run(embeddings.aembed_query(TEXTS[0])) == query.tolist()
    assert not np.array_equal(documents[0], query)


def test_a_text_is_never_a_path_and_an_image_is_a_file(embedder, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(files.encode_image(files.photo()))
    embeddings = MMEmbedEmbeddings(embedder, truncate_dim=16)
    (as_text,) = embeddings.embed_documents([str(path)])
    (as_image,) = embeddings.embed_image([str(path)])
    assert as_text == embedder.encode(str(path), truncate_dim=16).tolist()
    assert as_image == embedder.encode(Image(path), truncate_dim=16).tolist()


def test_a_vector_store_finds_what_exact_search_finds(embedder, embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, id=str(at)) for at, text in enumerate(TEXTS)])
    query = embedder.encode("a cat", role="query", instruction="Find it: ")
    documents = embedder.encode(TEXTS, instruction="Read it: ")
    expected = [TEXTS[at] for at in np.argsort(-documents @ query)]
    found = store.similarity_search_with_score("a cat", k=3)
    assert [document.page_content for document, _ in found] == expected
    assert np.allclose([score for _, score in found], sorted(documents @ query)[::-1], atol=1e-6)
    chain = store.as_retriever(search_kwargs={"k": 1}) | RunnableLambda(lambda found: found[0].id)
    assert TEXTS[int(chain.invoke("a cat"))] == expected[0]
    assert TEXTS[int(asyncio.run(chain.ainvoke("a cat")))] == expected[0]


@pytest.fixture(scope="module")
def searcher(embedder, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("library")
    (folder / "photo.png").write_bytes(files.encode_image(files.photo()))
    (folder / "paper.pdf").write_bytes(files.pdf(2))
    (folder / "note.md").write_text(TEXTS[1])
    index = ExactIndex(
        tmp_path_factory.mktemp("index"),
        fingerprint=embedder.fingerprint,
        dimension=embedder.embedding_dimension,
    )
    index_folder(folder, embedder=embedder, index=index, decoder=embedder.processor.decoder)
    return Searcher(embedder, index)


def test_the_retriever_gives_the_hits_of_the_searcher(searcher):
    hits = searcher.search("a cat", 4)
    found = MMEmbedRetriever(searcher=searcher, k=4).invoke("a cat")
    assert [document.id for document in found] == [hit.id for hit in hits]
    assert len(found) == 4
    for document, hit in zip(found, hits, strict=True):
        assert document.page_content == (hit.text or "")
        assert document.metadata["source"] == hit.path
        assert document.metadata["score"] == hit.score
        assert document.metadata.get("page") == hit.page
    assert {"image", "pdf", "text"} == {document.metadata["kind"] for document in found}


def test_the_retriever_passes_on_what_limits_a_search(searcher):
    retriever = MMEmbedRetriever(searcher=searcher, k=4, search_options={"kinds": ["pdf"]})
    found = asyncio.run(retriever.ainvoke("a cat"))
    assert [document.metadata["kind"] for document in found] == ["pdf", "pdf"]


def test_the_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_core.documents", None)
    monkeypatch.delitem(sys.modules, "mmembed.integrations.langchain")
    with pytest.raises(MissingDependencyError, match=r"mmembed\[langchain\]"):
        import mmembed.integrations.langchain  # noqa: F401


def test_without_instructions_each_role_has_the_models_own(prompted):
    query = prompted.encode("a dog", role="query").tolist()
    document = prompted.encode("a dog", role="document").tolist()
    model = MMEmbedEmbeddings(prompted)
    assert model.embed_query("a dog") == query
    assert model.embed_documents(["a dog"]) == [document]
