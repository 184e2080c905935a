"""The vectors in LlamaIndex are those of `encode`, and its components survive being written."""

from __future__ import annotations

import asyncio
import io
import pickle
import sys

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import ImageNode, MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from mmembed.errors import ConfigError, MissingDependencyError, SpaceMismatchError
from mmembed.integrations.llama_index import MMEmbedEmbedding
from mmembed.types import Image
from tests import media_files as files

TEXTS = ["a red apple moving left", "the grinning face of a cat", "una manzana roja"]


@pytest.fixture
def model(embedder):
    return MMEmbedEmbedding(
        embedder, query_instruction="Find it: ", document_instruction="Read it: "
    )


def documents(embedder, items):
    return embedder.encode(items, role="document", instruction="Read it: ")


def test_texts_and_queries_have_their_role_and_instruction(embedder, model):
    expected = documents(embedder, TEXTS).tolist()
    query = embedder.encode(TEXTS[0], role="query", instruction="Find it: ").tolist()
    assert model.get_text_embedding_batch(TEXTS) == expected
    assert asyncio.run(model.aget_text_embedding_batch(TEXTS)) == expected
    assert model.get_text_embedding(TEXTS[1]) == documents(embedder, TEXTS[1]).tolist()
    assert asyncio.run(model.aget_text_embedding(TEXTS[1])) == model.get_text_embedding(TEXTS[1])
    assert model.get_query_embedding(TEXTS[0]) == query
    assert asyncio.run(model.aget_query_embedding(TEXTS[0])) == query


def test_images_are_files_or_bytes_and_texts_never_are(embedder, model, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(files.encode_image(files.photo()))
    expected = documents(embedder, Image(path)).tolist()
    assert model.get_image_embedding(str(path)) == expected
    assert asyncio.run(model.aget_image_embedding(io.BytesIO(path.read_bytes()))) == expected
    assert model.get_image_embedding_batch([str(path)] * 2) == [expected] * 2
    assert asyncio.run(model.aget_image_embedding_batch([str(path)])) == [expected]
    assert model.get_text_embedding(str(path)) == documents(embedder, str(path)).tolist()


def test_an_index_of_llama_index_finds_what_exact_search_finds(embedder, model):
    nodes = [TextNode(text=text, id_=str(at)) for at, text in enumerate(TEXTS)]
    index = VectorStoreIndex(nodes, embed_model=model)
    query = embedder.encode("a cat", role="query", instruction="Find it: ")
    scores = documents(embedder, TEXTS) @ query
    found = index.as_retriever(similarity_top_k=3).retrieve("a cat")
    assert [int(hit.node_id) for hit in found] == np.argsort(-scores).tolist()
    assert np.allclose([hit.score for hit in found], sorted(scores)[::-1], atol=1e-6)


def test_a_pipeline_gives_nodes_their_vectors(embedder, model):
    nodes = IngestionPipeline(transformations=[model]).run(
        nodes=[TextNode(text=text) for text in TEXTS]
    )
    assert [node.embedding for node in nodes] == documents(embedder, TEXTS).tolist()


def test_an_image_node_resolves_to_what_the_model_takes(embedder, model, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(files.encode_image(files.photo()))
    node = ImageNode(image_path=str(path))
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == ""
    found = model.get_image_embedding(node.resolve_image())
    assert found == documents(embedder, Image(path)).tolist()


def test_a_component_is_written_and_copied_without_weights(embedder, model):
    told = model.to_dict()
    assert told["model"] == str(embedder.folder)
    assert told["fingerprint"] == embedder.fingerprint
    written = model.to_json()
    assert len(written) < 1500
    restored = MMEmbedEmbedding.from_json(written)
    assert not restored._shared.is_loaded
    assert restored.get_query_embedding("a cat") == model.get_query_embedding("a cat")
    copied = pickle.loads(pickle.dumps(model))
    assert len(pickle.dumps(model)) < 4000 and not copied._shared.is_loaded
    assert copied.query_instruction == "Find it: "


def test_a_restored_component_refuses_another_model(embedder, model):
    with pytest.raises(SpaceMismatchError):
        MMEmbedEmbedding.from_dict(
            {**model.to_dict(), "fingerprint": "0" * 64}
        ).get_query_embedding("a cat")


def test_a_cache_that_mixes_roles_is_refused(embedder):
    with pytest.raises(ConfigError, match="without its role"):
        MMEmbedEmbedding(embedder, embeddings_cache=SimpleKVStore())


def test_the_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_index.core.embeddings", None)
    monkeypatch.delitem(sys.modules, "mmembed.integrations.llama_index")
    with pytest.raises(MissingDependencyError, match=r"mmembed\[llama-index\]"):
        import mmembed.integrations.llama_index  # noqa: F401


def test_without_instructions_each_role_has_the_models_own(prompted):
    query = prompted.encode("a dog", role="query").tolist()
    document = prompted.encode("a dog", role="document").tolist()
    model = MMEmbedEmbedding(prompted)
    assert model.get_query_embedding("a dog") == query
    assert model.get_text_embedding("a dog") == document
