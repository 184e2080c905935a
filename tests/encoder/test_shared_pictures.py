"""Many questions about one picture or clip: opened once, through the vision tower once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.encoder.embedder import Embedder
from mmembed.encoder.preparation import _tasks
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.types import MultimodalInput
from tests.encoder.plain_forward import picture
from tests.encoder.test_tower_cache import tower_rows


@pytest.fixture
def decoded(monkeypatch):
    parts = []
    many = MediaDecoder.decode_many

    def note(self, given, *arguments):
        parts.extend(given)
        return many(self, given, *arguments)

    monkeypatch.setattr(MediaDecoder, "decode_many", note)
    return parts


def test_questions_about_one_picture_open_and_see_it_once(tiny_checkpoint, tmp_path, decoded):
    path = tmp_path / "shown.png"
    picture(1).save(path)
    frames = tuple(picture(seed) for seed in range(2, 6))
    questions = [f"question {number}" for number in range(40)]
    asked = [{"image": path, "text": question} for question in questions]
    about_a_clip = [{"video": frames, "text": question} for question in questions[:7]]
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=2) as embedder:
        with tower_rows(embedder.encoder.backbone) as rows:
            ours = embedder.encode([*asked, picture(9), *about_a_clip], batch_tokens=400)
        frames_of_the_clip = 4
        assert len(decoded) == 3 + frames_of_the_clip
        distinct = sum(rows)
        alone = np.stack(
            [embedder.encode(item) for item in (*asked[:2], picture(9), *about_a_clip[:2])]
        )
        with tower_rows(embedder.encoder.backbone) as rows:
            embedder.encode([asked[0], picture(9), about_a_clip[0]])
        assert distinct == sum(rows)
    assert np.abs(ours[[0, 1, 40, 41, 42]] - alone).max() <= 1e-5


def test_a_call_prepares_texts_together_and_few_videos():
    def image(name):
        return MultimodalInput.of({"image": name, "text": "what is it"})

    items = [
        *(MultimodalInput.of(f"text {number}") for number in range(600)),
        *(image(f"{number % 40}.png") for number in range(80)),
        *(MultimodalInput.of({"video": f"{number}.mp4"}) for number in range(6)),
    ]
    tasks = _tasks(items)
    assert sorted(position for task in tasks for position in task) == list(range(len(items)))
    assert [len(task) for task in tasks] == [512, 88, 64, 16, 4, 2]
    assert all(
        (position + 40 in task) for task in tasks[2:4] for position in task if position < 640
    )


def test_pictures_in_memory_are_shared_by_identity(tiny_checkpoint, decoded):
    shown = PILImage.new("RGB", (40, 40), "red")
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        embedder.encode([{"image": shown, "text": str(number)} for number in range(5)])
    assert len(decoded) == 1


def test_threads_that_share_a_model_get_the_vectors_of_their_own_items(tiny_checkpoint):
    calls = [
        [f"{n} {word}" for n in range(30)] for word in ("cat", "dog under a tree", "sea", "up")
    ]
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        alone = [embedder.encode(items) for items in calls]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(embedder.encode, calls * 3))
    for number, vectors in enumerate(together):
        assert np.abs(vectors - alone[number % 4]).max() <= 1e-6
