"""What a diligent model would answer to the prompts of all bundled pipelines."""

from __future__ import annotations

import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any

from mmembed.endpoints.client import EndpointClient
from mmembed.synthesis.pipeline import Pipeline, load_pipeline
from tests.endpoints.server import ModelServer

NOUNS = "river engine garden letter window market winter bridge forest teacher".split()
VERBS = "carries follows repairs describes measures collects".split()

SMALL = """
summary: one question for each document
steps:
  - name: ask
    prompt: "Ask something that is answered by: {document}"
    answer: {question: {about: the question}}
    accept:
      - {rule: not_duplicate, of: "{ask.question}", than: ["{document}"]}
    tries: 4
    max_tokens: 50
    expected_tokens: 10
  - name: label
    prompt: "Which kind is {ask.question}?"
    answer: {kind: {values: [fact, opinion]}}
    tries: 2
    max_tokens: 20
    expected_tokens: 5
output:
  task: retrieval
  query: "{ask.question}"
  positives: [{item: document}]
  label: "{label.kind}"
"""


def sentence(number: int) -> str:
    noun, other = NOUNS[number % 10], NOUNS[number // 10 % 10]
    return f"Every {noun} {VERBS[number % 6]} the old {other} number {number} slowly."


def document(number: int) -> str:
    return " ".join(sentence(7 * number + place) for place in range(3))


def mirrored(text: str) -> str:
    """Each word backwards: as long as before, and no word in common."""
    return re.sub(r"[A-Za-z]+", lambda match: match.group()[::-1], text)


def field(prompt: str, name: str, end: str = "\n\n") -> str:
    return prompt.partition(f"{name}:\n")[2].partition(end)[0].strip()


class DiligentModel:
    """Answers by what the prompt asks for; `wanted` are the keys of the schema in it."""

    def __init__(self) -> None:
        self._number = itertools.count()
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> str:
        content = body["messages"][0]["content"]  # a later try repeats the question in front
        prompt = content if isinstance(content, str) else content[-1]["text"]
        wanted = list(json.loads(prompt.rpartition("schema:\n")[2])["properties"])
        return json.dumps({key: self.value(key, prompt) for key in wanted}, ensure_ascii=False)

    def value(self, key: str, prompt: str) -> Any:
        with self._lock:
            number = next(self._number)
        text = field(prompt, "Document") or field(prompt, "Text") or "a plain description"
        words = int(re.search(r"about (\d+) words", prompt + " about 5 words").group(1))  # type: ignore[union-attr]
        about_words = " ".join(f"{NOUNS[(number + i) % 10]}{number}" for i in range(words))
        if key == "query":
            return mirrored(field(prompt, "Query")) or about_words
        if key == "label" and "belongs to the class" in prompt:
            return re.search(r'class "(.*?)"', prompt).group(1)  # type: ignore[union-attr]
        spans = {"start": 0.0, "end": 1.0, "other_start": 3.0, "other_end": 4.0}
        fixed = {
            "character": "A sailor",
            "question_type": "background",
            "difficulty": "phd",
            "question": f"what is number {number}",
            "kind": "fact",
            "answer": f"right {number}",
            "distractor": f"wrong {number}",
            "label": "cat",
            "wrong_label": "dog",
            "instruction": f"Identify the animal {number}",
            "intent": "to know",
            "sentence": mirrored(field(prompt, "Sentence A")),
            "document": mirrored(text),
            "hard_negative": mirrored(text)[::-1],
            "text": mirrored(text),
        }
        return spans[key] if key in spans else fixed[key]


def small_pipeline(folder: Path, *overrides: str) -> Pipeline:
    path = folder / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return load_pipeline(str(path), overrides=overrides)


def documents_file(folder: Path, count: int) -> Path:
    path = folder / "documents.jsonl"
    lines = (json.dumps({"id": f"d{n}", "text": document(n)}) for n in range(count))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def client_of(server: ModelServer, **options: Any) -> EndpointClient:
    settings = {"model": "toy", "first_backoff_seconds": 0.001, "concurrency": 4, **options}
    return EndpointClient(server.url, **settings)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
