import json
from pathlib import Path
from typing import Any

import pytest

from data_adapters.formats.messages import Chat, Swift
from mmembed.data.adapter import check_adapter
from mmembed.errors import InputError
from tests.data_adapters.formats.described import described

GOLDENS = Path(__file__).parents[1] / "goldens"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def golden(name: str) -> Any:
    return json.loads((GOLDENS / f"format_{name}.json").read_text())


def all_rows(rows: Any, root: Path) -> list[dict[str, Any]]:
    check_adapter(rows, "rows")
    return [described(rows[number], root) for number in range(len(rows))]


SWIFT = [
    {"messages": [user("sentence1")], "positive_messages": [[user("sentence2")]]},
    {
        "messages": [user("<image>")],
        "images": ["some/images1.jpg"],
        "positive_messages": [[user("<image>sentence")]],
        "positive_images": [["some/images2.jpg"]],
    },
    {
        "messages": [user("<image>sentence1")],
        "images": ["q.jpg"],
        "positive_messages": [[user("<image>sentence2")]],
        "positive_images": [["p.jpg"]],
        "negative_messages": [[user("<image><image>sentence3")], [user("first<image> then")]],
        "negative_images": [["n1.jpg", "n2.jpg"], ["n3.jpg"]],
    },
    {
        "messages": [system("Answer briefly."), user("Anchor")],
        "positive_messages": [
            [system("Instruction"), user("Positive")],
            [user("Second positive")],
        ],
        "negative_messages": [[user("Negative")]],
    },
    {
        "messages": [user("before <video>between\n<image>")],
        "images": "i.jpg",
        "videos": ["/data/v.mp4"],
        "positive_messages": [user("no place for it")],
        "positive_videos": ["p.mp4"],
        "negative_messages": [[user("<image>")]],
        "negative_images": [["https://example.org/n.png"]],
    },
]

ANSWERS = [
    {
        "messages": [
            system("You are kind."),
            user("Tell me tomorrow's weather"),
            answer("It will be sunny"),
        ],
        "rejected_response": "I don't know",
    },
    {
        "messages": [user("<image>What is it?"), answer("a cat")],
        "images": ["a.jpg"],
        "rejected_messages": [user("<image>What is it?"), answer("a dog")],
    },
    {
        "messages": [user("<image>What is it?"), answer("a cat")],
        "images": ["a.jpg"],
        "rejected_messages": [answer("a ship")],
        "rejected_images": [],
        "negative_messages": [[answer("<image>")]],
        "negative_images": [["c.jpg"]],
    },
    {"query": "q", "response": "right", "rejected_response": ["wrong", "also wrong"]},
    {
        "query": "<image><image>which",
        "response": "the first",
        "rejected_response": ["the last"],
        "images": ["a.jpg", "b.jpg"],
    },
]

CHAT = [
    {
        "messages": [
            user(
                [
                    {"type": "image_url", "image_url": {"url": "a.png"}},
                    {"type": "text", "text": "what is it"},
                ]
            ),
            answer([{"type": "text", "text": "a cat"}]),
        ]
    },
    {
        "id": "r2",
        "messages": [system("Be short."), user("capital of France"), answer("Paris")],
        "negatives": ["Lyon", {"image": "lyon.png"}],
    },
    {
        "messages": [user([{"type": "image"}, {"type": "text", "text": "find this"}])],
        "images": ["https://example.org/b.png"],
        "positives": ["a boat", {"image": "boat.png"}],
    },
    {"messages": [user("two messages"), answer("one answer")], "images": []},
    {
        "messages": [user("what happens"), answer("it rains")],
        "videos": ["v.mp4"],
        "images": ["i.png"],
    },
]

SHAREGPT = [
    {
        "id": 1,
        "image": "coco/1.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "A bus."},
        ],
    },
    {
        "id": 2,
        "video": "clips/2.mp4",
        "conversations": [
            {"from": "human", "value": "Describe\n<video>"},
            {"from": "gpt", "value": "A man runs."},
        ],
    },
]


@pytest.mark.parametrize(
    ("form", "rows", "name"),
    [
        (Swift, SWIFT, "swift"),
        (Swift, ANSWERS, "swift_answers"),
        (Chat, CHAT, "chat"),
        (Chat, SHAREGPT, "sharegpt"),
    ],
)
def test_rows_are_those_of_the_golden(
    tmp_path: Path, form: type[Any], rows: list[Any], name: str
) -> None:
    found = form(lines(tmp_path / "m.jsonl", *rows))
    assert all_rows(found, tmp_path) == golden(name)


def test_a_label_grades_a_pair(tmp_path: Path) -> None:
    pair = {"messages": [user("a")], "positive_messages": [[user("b")]], "label": 0.8}
    rows = Swift(lines(tmp_path / "m.jsonl", pair, {**pair, "label": 0}))
    assert rows.task == "sts" and (rows[0].scores, rows[1].scores) == ((0.8,), (0.0,))


def test_one_of_several_answers_is_chosen(tmp_path: Path) -> None:
    talk = [system("s"), user("q1"), answer("a1"), user("q2"), user("q3"), answer("a2")]
    path = lines(tmp_path / "m.jsonl", {"messages": talk})
    assert described(Chat(path, turn=1)[0], tmp_path) == {
        "query": {"instruction": "s", "item": ["q2", "q3"]},
        "positives": ["a2"],
        "task": "retrieval",
    }
    with pytest.raises(InputError, match="2 answers; choose one with turn=0"):
        Chat(path)[0]
    with pytest.raises(InputError, match="turn 2 of 2"):
        Chat(path, turn=2)[0]


ONE = {"messages": [user("q")], "positive_messages": [[user("p")]]}
TOLD = {"messages": [user("q"), answer("a")]}
BAD: list[tuple[type[Any], Any, str]] = [
    (Swift, {**ONE, "images": []} | {"messages": [user("<image>q")]}, "more <image> than images"),
    (Swift, {**ONE, "positive_images": [["a"], ["b"]]}, "positive_images: .*expected 1 lists"),
    (Swift, {**ONE, "positive_messages": []}, "no positive_messages"),
    (Swift, {**ONE, "positive_messages": "p"}, "positive_messages: found 'p'"),
    (Swift, {**ONE, "positive_messages": [[{"role": "tool", "content": "x"}]]}, "role 'tool'"),
    (Swift, {**ONE, "messages": [user("<audio>q")]}, "sound"),
    (Swift, {**ONE, "audios": ["a.wav"]}, "sound"),
    (Swift, {**ONE, "label": 1, "negative_messages": [[user("n")]]}, "not one pair"),
    (Swift, {**ONE, "label": "high"}, "label: found 'high'"),
    (Swift, {**ONE, "rejected_messages": [user("q")]} | {"positive_messages": None}, "no message"),
    (Chat, {"messages": [user("q")]}, "no message of the assistant"),
    (Chat, {"messages": [answer("a")]}, "messages without content"),
    (Chat, {"messages": [user(None), answer("a")]}, "with None as content"),
    (Chat, {"messages": "talk"}, "no message of the assistant"),
    (Chat, {"messages": []}, "expected messages"),
    (Chat, {**TOLD, "images": [7]}, "no picture or clip: 7"),
    (Chat, {**TOLD, "positives": [1]}, r"positives\[0\]: found 1"),
]


@pytest.mark.parametrize(("form", "bad", "words"), BAD)
def test_a_bad_row_names_file_line_and_fault(
    tmp_path: Path, form: type[Any], bad: Any, words: str
) -> None:
    good = ONE if form is Swift else TOLD
    rows = form(lines(tmp_path / "m.jsonl", good, bad, good))
    with pytest.raises(InputError, match=rf"m\.jsonl, line 2: .*{words}"):
        rows[1]
    assert rows[0] == rows[2]


def test_a_label_in_a_file_that_begins_without_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", ONE, {**ONE, "label": 0.0})
    with pytest.raises(InputError, match=r"line 2: label: 0\.0 means the task sts"):
        Swift(path)[1]
