"""What a user names becomes rows: files, published sets, adapters, recipes, mixtures."""

from __future__ import annotations

import json

import pytest

from mmembed.config.files import load_recipe
from mmembed.data.opening import list_cards, open_datasets, open_entries, recipe_entries
from mmembed.errors import ConfigError, DataError

EMOJI = "data_adapters.emoji:EmojiNames"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def test_an_adapter_takes_key_value_arguments_as_yaml():
    (one,) = open_datasets(EMOJI, arguments=["languages=[de]", "views=2"])
    assert one.arguments == {"languages": ["de"], "views": 2}
    assert (one.reference, one.card) == (EMOJI, None)
    assert one.name == one.adapter.name
    with pytest.raises(ConfigError, match="not of the form key=value"):
        open_datasets(EMOJI, arguments=["languages"])


def test_a_file_is_opened_by_the_format_that_its_columns_fit(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"query": "a", "pos": ["b"], "neg": ["c"]}) + "\n")
    (one,) = open_datasets(file)
    assert one.adapter[0].hard_negatives[0].parts[0].text == "c"
    assert one.reference.endswith(":FlagEmbedding")
    (same,) = open_datasets(str(file), format="flagembedding")
    assert same.adapter[0] == one.adapter[0]
    with pytest.raises(ConfigError, match="did you mean 'flagembedding'"):
        open_datasets(file, format="flagembeding")
    with pytest.raises(ConfigError, match=r"no file 'absent\.jsonl'"):
        open_datasets("absent.jsonl", format="jsonl")


def test_a_recipe_gives_each_entry_once_with_the_names_of_training():
    opened = open_datasets("tiny")
    entries = recipe_entries(load_recipe("tiny"))
    assert len(opened) == len({(one.reference, repr(one.arguments)) for one in opened})
    assert {(one.reference, repr(dict(one.arguments))) for one in opened} == {
        (entry.adapter, repr(dict(entry.arguments))) for entry in entries
    }
    assert len({one.name for one in opened}) == len(opened)
    with pytest.raises(ConfigError, match="entries of its own"):
        open_datasets("tiny", arguments=["views=1"])


def test_a_mixture_file_has_entries_over_its_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "defaults: {arguments: {languages: [en]}}\n"
        f"data:\n  - adapter: {EMOJI}\n  - adapter: {EMOJI}\n"
        f"  - adapter: {EMOJI}\n"
        "    arguments: {seed: 1}\n"
        "    query_instruction: [Find it., Seek it.]\n"
    )
    opened = open_datasets(file)
    assert [dict(one.arguments) for one in opened] == [
        {"languages": ["en"]},
        {"languages": ["en"], "seed": 1},
    ]
    assert [one.name for one in opened] == ["emoji/names", "emoji/names-2"]
    assert [one.query_instruction for one in opened] == [None, "Find it."]
    with pytest.raises(ConfigError, match="no entries"):
        open_entries([])


def test_a_published_set_that_is_not_here_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"mmembed data fetch colpali-train --root"):
        open_datasets("colpali-train", root=tmp_path)


def test_an_unknown_name_gets_the_nearest_of_data_sets_and_recipes():
    with pytest.raises(ConfigError, match="did you mean 'colpali-train'"):
        open_datasets("colpali-trian")
    with pytest.raises(ConfigError, match="did you mean 'qwen3_reranker'"):
        open_datasets("qwen3_rerankr")
    with pytest.raises(ConfigError, match=r"nothing is called 'no/such\.jsonl'"):
        open_datasets("no/such.jsonl")


def test_every_card_has_a_catalogue_that_gives_its_options_and_place():
    for name, (card, catalog) in list_cards().items():
        assert card.name == name
        assert catalog.place(name)
        assert set(catalog.options(name)) >= set()
