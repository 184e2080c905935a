"""Runs of a prompt -> token ids, truncating the body text only.

Control tokens come from the template and enter as ids. Text from outside is tokenised by a copy of
the tokenizer that knows no added tokens, so `<|im_end|>` typed by a user is seven ordinary tokens
and can never move the readout token or be counted as a picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from tokenizers import Tokenizer

from mmembed.errors import ConfigError, InputError
from mmembed.inputs.prompt import Literals, Placeholder, Run, UserText

__all__ = ["Outline", "PromptTokenizer", "TokenPlan"]

# A first cut in characters, so that a megabyte of text costs no megabyte of tokenisation. Ordinary
# text has 1.5 (Chinese) to 5 (English) characters a token; a cut that was too tight is widened.
_CHARACTERS_PER_TOKEN = 12
_PADS = frozenset({"<|image_pad|>", "<|video_pad|>"})


@dataclass
class _Piece:
    """Plain characters; of those of a body, the first `keep` remain (None: all)."""

    full: str
    is_body: bool
    keep: int | None = None

    @property
    def text(self) -> str:
        return self.full if self.keep is None else self.full[: self.keep]


@dataclass
class _Chunk:
    """A stretch of plain characters between control tokens, tokenised as one."""

    pieces: list[_Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def bodies(self) -> list[_Piece]:
        return [piece for piece in self.pieces if piece.is_body]

    def append(self, text: str, *, is_body: bool) -> None:
        if self.pieces and self.pieces[-1].is_body == is_body:
            self.pieces[-1].full += text
        else:
            self.pieces.append(_Piece(text, is_body))


@dataclass
class TokenPlan:
    """A prompt taken apart: control ids, chunks of characters, and pictures, in order."""

    pieces: list[int | _Chunk | Placeholder] = field(default_factory=list)

    def chunks(self) -> list[_Chunk]:
        return [piece for piece in self.pieces if isinstance(piece, _Chunk)]

    def bodies(self) -> list[_Piece]:
        return [body for chunk in self.chunks() for body in chunk.bodies]

    @property
    def fixed_tokens(self) -> int:
        return sum(1 for piece in self.pieces if isinstance(piece, int))


# A control id, a picture, or characters and whether they are a body: themselves, or which of the
# texts that fill an outline.
_Step = int | Placeholder | tuple[str | int, bool]
Outline = tuple[_Step, ...]


class PromptTokenizer:
    """Two views of one `tokenizers.Tokenizer`: its control tokens, and plain characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        definition = json.loads(tokenizer.to_str())
        self._control = {entry["content"]: entry["id"] for entry in definition["added_tokens"]}
        self._names = {number: content for content, number in self._control.items()}
        definition["added_tokens"] = []
        definition["post_processor"] = _without_added_ids(definition.get("post_processor"))
        definition["truncation"] = definition["padding"] = None
        self._plain = Tokenizer.from_str(json.dumps(definition))
        longest_first = sorted(self._control, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self._split = re.compile(f"({pattern})")
        self._memory: dict[str, list[int]] = {}

    def control_id(self, token: str) -> int:
        """The id of a control token.

        Raises:
            ConfigError: the tokenizer has no such token.
        """
        if token not in self._control:
            raise ConfigError(
                f"the tokenizer has no control token {token!r}; it has {sorted(self._control)}"
            )
        return self._control[token]

    def plan(self, runs: Sequence[Run], *, allow_special_tokens: bool = False) -> TokenPlan:
        """Merge neighbouring characters into chunks; split control tokens off literals only.

        Raises:
            InputError: `invalid_text`: with `allow_special_tokens`, a text that stands for a
                picture nobody gave.
        """
        return _assemble(self._steps(runs, {}, allow_special_tokens))

    def outline(self, runs: Sequence[Run], texts: Sequence[UserText]) -> Outline:
        """What `fill` makes a plan of, for runs that hold these texts, which may change."""
        return tuple(self._steps(runs, {id(text): at for at, text in enumerate(texts)}, False))

    def fill(self, outline: Outline, texts: Sequence[str]) -> TokenPlan:
        """As `plan`, for the runs of the outline with these texts; none of them is empty."""
        return _assemble(outline, texts)

    def _steps(
        self, runs: Sequence[Run], holes: Mapping[int, int], allow_special_tokens: bool
    ) -> Iterator[_Step]:
        for run in runs:
            if isinstance(run, Placeholder):
                yield run
            elif id(run) in holes:
                yield holes[id(run)], _is_body(run)
            elif isinstance(run, Literals) or allow_special_tokens:
                for piece in self._split.split(run.text):
                    if piece in _PADS and isinstance(run, UserText):
                        raise InputError(
                            "invalid_text",
                            f"the text holds {piece}, which stands for a picture; give the "
                            "picture itself as a part",
                            part="text",
                        )
                    if piece in self._control:
                        yield self._control[piece]
                    elif piece:
                        yield piece, _is_body(run)
            else:
                yield run.text, run.body

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of plain texts, in one batched call; short template pieces are remembered."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._memory))
        found: dict[str, list[int]] = {}
        if missing:
            encoded = self._plain.encode_batch_fast(missing, add_special_tokens=False)
            found = {text: item.ids for text, item in zip(missing, encoded, strict=True)}
            if len(self._memory) < 256:
                self._memory.update((t, ids) for t, ids in found.items() if len(t) <= 64)
        return [found[text] if text in found else self._memory[text] for text in texts]

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """The characters that ids stand for; a picture as `<|image_pad|> x 256`."""
        written: list[str] = []
        for name, run in groupby(map(int, ids), self._names.get):
            numbers = list(run)
            if name is None:
                written.append(self._plain.decode(numbers, skip_special_tokens=False))
            else:
                written.append(f"{name} x {len(numbers)}" if name in _PADS else name * len(numbers))
        return "".join(written)

    def count_tokens(
        self, plan: TokenPlan, texts: Iterable[str], *, allow_special_tokens: bool = False
    ) -> list[int]:
        """Tokens of each text of the plan's bodies, as they were cut: those that begin in it."""
        begins: list[np.ndarray] = []  # of the tokens of each body
        for chunk in plan.chunks():
            encoding = self._plain.encode(chunk.text, add_special_tokens=False)
            places = np.array([begin for begin, _ in encoding.offsets], dtype=np.int64)
            at = 0
            for piece in chunk.pieces:
                inside = (places >= at) & (places < at + len(piece.text))
                if piece.is_body:
                    begins.append(places[inside] - at)
                at += len(piece.text)
        sizes = [len(body.full) for body in plan.bodies()]
        counts, body, start = [], 0, 0
        for text in texts:
            count = 0
            for written in self._split.split(text) if allow_special_tokens else [text]:
                if allow_special_tokens and written in self._control:
                    count += 1
                elif written:
                    if start == sizes[body]:
                        body, start = body + 1, 0
                    end = start + len(written)
                    count += int(((begins[body] >= start) & (begins[body] < end)).sum())
                    start = end
            counts.append(count)
        return counts

    def shorten(self, plan: TokenPlan, max_text_tokens: int) -> bool:
        """Cut the body text of the plan so that all its chunks fit; True when something was cut.

        The cut is made at a token border of the full tokenisation, from the end of the last body;
        when nothing is left of it, from the end of the one before.

        Raises:
            InputError: `too_many_tokens` when the prompt without any body is already too long.
        """
        chunks = plan.chunks()
        limit = max(max_text_tokens, 0) * _CHARACTERS_PER_TOKEN
        bodies = plan.bodies()
        for body in bodies:
            if len(body.full) > limit:
                body.keep = limit
        while True:
            encoded = self.encode([chunk.text for chunk in chunks])
            total = sum(map(len, encoded))
            clipped = [body for body in bodies if body.keep is not None]
            if not clipped or total >= max_text_tokens:
                break
            for body in clipped:  # unusually long tokens: widen the first cut
                body.keep = 2 * (body.keep or 1)
                if body.keep >= len(body.full):
                    body.keep = None
        cut = any(body.keep is not None for body in bodies)
        last_first = [(n, body) for n, chunk in enumerate(chunks) for body in chunk.bodies][::-1]
        for position, body in last_first:
            excess = total - max_text_tokens
            if excess <= 0:
                break
            before = len(encoded[position])
            self._drop_tokens(chunks[position], body, excess)
            encoded[position] = self.encode([chunks[position].text])[0]
            total -= before - len(encoded[position])
            cut = True
        if total > max_text_tokens:
            raise InputError(
                "too_many_tokens",
                f"the prompt without its text body needs {total:,} tokens and "
                f"{max(max_text_tokens, 0):,} are left. Raise max_tokens, shorten the "
                "instruction, or lower the number or size of pictures.",
                part="text",
            )
        return cut

    def _drop_tokens(self, chunk: _Chunk, body: _Piece, excess: int) -> None:
        """Set `body.keep` so that at least `excess` fewer tokens remain (or no body at all)."""
        at = next(n for n, piece in enumerate(chunk.pieces) if piece is body)
        start = sum(len(piece.text) for piece in chunk.pieces[:at])
        while excess > 0 and body.text:
            encoding = self._plain.encode(chunk.text, add_special_tokens=False)
            size = len(encoding.ids)
            end = start + len(body.text)
            starts = [s for s, e in encoding.offsets if s >= start and e <= end and s < e]
            body.keep = (starts[-excess] if excess <= len(starts) else start) - start
            excess -= size - len(self.encode([chunk.text])[0])

    def ids(
        self,
        plan: TokenPlan,
        encoded: Sequence[Sequence[int]],
        pictures: Sequence[tuple[int, int]],
    ) -> np.ndarray:
        """The final ids; `pictures` holds (pad id, number of tokens) of each placeholder."""
        out: list[int] = []
        texts, media = iter(encoded), iter(pictures)
        for piece in plan.pieces:
            if isinstance(piece, int):
                out.append(piece)
            elif isinstance(piece, Placeholder):
                pad, count = next(media)
                out.extend([pad] * count)
            else:
                out.extend(next(texts))
        return np.asarray(out, dtype=np.int64)


def _assemble(steps: Iterable[_Step], texts: Sequence[str] = ()) -> TokenPlan:
    """Neighbouring characters are one chunk."""
    pieces: list[int | _Chunk | Placeholder] = []
    chunk: _Chunk | None = None
    for step in steps:
        if not isinstance(step, tuple):
            pieces.append(step)
            chunk = None
            continue
        if chunk is None:
            chunk = _Chunk()
            pieces.append(chunk)
        text, is_body = step
        chunk.append(texts[text] if isinstance(text, int) else text, is_body=is_body)
    return TokenPlan(pieces)


def _is_body(run: Literals | UserText) -> bool:
    return isinstance(run, UserText) and run.body


def _without_added_ids(post_processor: dict | None) -> dict | None:
    """Keep the byte-level one; templates that add tokens are the prompt's business."""
    if post_processor and post_processor.get("type") == "ByteLevel":
        return post_processor
    return None
