"""The emoji retrieval tests are answerable, deterministic and of the size that they say."""

from __future__ import annotations

import pytest

from data_adapters.emoji_source import emoji_of_split, load_emoji
from data_adapters.emoji_tasks import (
    MODALITIES,
    cross_lingual,
    image_to_image,
    items_by_modality,
    modality_grid,
    text_to_image,
    text_to_page,
    text_to_video,
    write_mixed_folder,
)

MAGIC = {".png": b"\x89PNG", ".mp4": b"ftyp", ".pdf": b"%PDF-"}
BUILDERS = {
    "text_to_image": lambda: text_to_image(num_queries=50),
    "text_to_image_held_out": lambda: text_to_image(split="held_out", corpus="split"),
    "image_to_image": lambda: image_to_image(num_queries=50),
    "cross_lingual": lambda: cross_lingual(num_queries=50),
    "text_to_video": lambda: text_to_video(num_emoji=4, num_frames=2),
    "text_to_page": lambda: text_to_page(num_pages=4),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_query_has_an_answer_in_the_corpus(name):
    task = BUILDERS[name]()
    assert set(task.queries) == set(task.relevant)
    for relevant in task.relevant.values():
        assert relevant and set(relevant) <= set(task.corpus)
    assert task.name.endswith(f"corpus {len(task.corpus)}")


@pytest.mark.parametrize("name", BUILDERS)
def test_building_twice_gives_the_same_task(name):
    first, second = BUILDERS[name](), BUILDERS[name]()
    assert repr(first) == repr(second)


def test_trained_emoji_are_searched_among_all_of_the_other_vendor():
    task = text_to_image()
    train = {one.id for one in emoji_of_split("train")}
    assert set(task.queries) == train
    assert len(task.corpus) == 1911
    pictures = {one.id: one.pictures["twemoji"] for one in load_emoji()}
    assert all(item.parts[0].source == pictures[name] for name, item in task.corpus.items())


def test_held_out_queries_are_the_held_out_emoji():
    held_out = {one.id for one in emoji_of_split("held_out")}
    task = text_to_image(split="held_out", corpus="split")
    assert set(task.queries) == set(task.corpus) == held_out
    assert len(text_to_image(split="held_out").corpus) == 1911
    assert set(image_to_image(split="held_out").queries) == held_out


def test_emoji_that_look_alike_answer_each_other():
    name = {one.names["en"]: one.id for one in load_emoji()}
    relevant = text_to_image().relevant[name["norway flag"]]
    assert name["svalbard & jan mayen flag"] in relevant
    assert name["france flag"] not in relevant


def test_pictures_are_searched_across_vendors():
    task = image_to_image(num_queries=5)
    for query_id, item in task.queries.items():
        assert item.parts[0].source != task.corpus[query_id].parts[0].source


def test_clips_of_one_emoji_compete_with_each_other():
    task = text_to_video(num_emoji=4, num_frames=2)
    assert len(task.corpus) == 8 * 4
    texts = [item.parts[0].text for item in task.queries.values()]
    assert len(set(texts)) == len(texts)


def test_grid_asks_every_modality_for_every_other():
    pytest.importorskip("pymupdf")
    items = items_by_modality(num_emoji=3, num_frames=2)
    grid = modality_grid(items)
    assert set(items) == set(MODALITIES)
    assert len(grid) == len(MODALITIES) * (len(MODALITIES) - 1)
    for (asked, searched), task in grid.items():
        assert len(task.queries) == len(task.corpus) == 3
        assert {item.modality for item in task.queries.values()} == {asked.replace("page", "pdf")}
        assert {item.modality for item in task.corpus.values()} == {searched.replace("page", "pdf")}


def test_mixed_folder_holds_real_files_of_four_kinds(tmp_path):
    pytest.importorskip("pymupdf")
    av = pytest.importorskip("av")
    content = write_mixed_folder(tmp_path / "a", num_emoji=8)
    assert content == write_mixed_folder(tmp_path / "b", num_emoji=8)
    names = {name.partition("#")[0] for name in content}
    assert names == {path.name for path in (tmp_path / "a").iterdir()}
    kinds = [(tmp_path / "a" / name).suffix for name in names]
    assert sorted(kinds) == [".md"] * 2 + [".mp4"] * 2 + [".pdf"] * 2 + [".png"] * 2
    for name in sorted(names):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        if name.endswith(".md"):
            assert content[name] in data.decode()
        else:
            assert MAGIC[name[-4:]] in data[:8]
        if name.endswith(".mp4"):
            with av.open(str(tmp_path / "a" / name)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 16


def test_unknown_language_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="en, es, de"):
        text_to_image(language="xx")
