"""Prompt templates: from (parts, instruction) to the exact character string and its token runs.

A template holds one item (`{content}`), or a query and a document that are judged together
(`{query}` and `{document}`). It is data (`configs/prompts/*.json`, or the `prompt` entry of a
model folder) and says where the content goes, how an instruction is written, and what stands for a
picture.
Nothing here tokenises; the result is a list of runs, so that the processor can insert control
tokens *as ids* and tokenise everything else as plain characters. What a user types is therefore
never a control token, whatever it looks like.

Byte-exact strings of the published systems: `tests/inputs/test_prompt.py` (shared golden strings).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from mmembed.errors import ConfigError
from mmembed.types import Role

__all__ = [
    "Literals",
    "Placeholder",
    "PromptTemplate",
    "Run",
    "UserText",
    "load_template",
    "pair_templates",
    "parse_template",
]


@dataclass(frozen=True)
class Literals:
    """Characters of the template itself; special-token strings in them are control tokens."""

    text: str


@dataclass(frozen=True)
class UserText:
    """Characters that came from outside. `body` text may be shortened, an instruction may not."""

    text: str
    body: bool = True


@dataclass(frozen=True)
class Placeholder:
    """One picture or one video; the processor repeats its pad token to the number of tokens."""

    medium: Literal["image", "video"]


Run = Literals | UserText | Placeholder

_FIELDS = re.compile(r"\{(system|instruction|content|query|document|representation)\}")


class PromptTemplate(BaseModel):
    """How an item, or a pair of query and document, becomes a prompt.

    `template` holds the field `{content}`, or `{query}` and behind it `{document}` (text is cut
    from the end), and optionally `{system}`, `{instruction}` and `{representation}`. A pair has
    the query's instruction, which needs its field. Without an `{instruction}` field, the
    instruction of an item is written directly in front of the first text of the content (behind
    all leading pictures), or at the end when there is no text. `instruction_format` is applied to
    a given instruction; with none given (and no default for the role) nothing is written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    template: str
    system: str = ""
    instruction_format: str = "{instruction}"
    instructions: dict[Role, str] = Field(default_factory=dict)
    representation: dict[Literal["text", "multimodal"], str] = Field(default_factory=dict)
    image: str = "<|vision_start|><|image_pad|><|vision_end|>"
    video: str = "<|vision_start|><|video_pad|><|vision_end|>"
    video_as: Literal["images", "video"] = "images"
    empty_text: str = ""
    instruction_ends_with: str = ""
    note: str = ""

    @field_validator("template")
    @classmethod
    def _has_content(cls, template: str) -> str:
        fields = _FIELDS.findall(template)
        if [name for name in fields if name in ("content", "query", "document")] not in (
            ["content"],
            ["query", "document"],
        ):
            raise ValueError(
                "template must hold the field {content} exactly once, or instead of it {query} "
                "and then {document}"
            )
        if "query" in fields and "instruction" not in fields:
            raise ValueError("a template with {query} and {document} needs {instruction} too")
        return template

    @field_validator("instruction_format", "image", "video")
    @classmethod
    def _has_its_place(cls, markup: str, info: ValidationInfo) -> str:
        name = info.field_name
        place = "{instruction}" if name == "instruction_format" else f"<|{name}_pad|>"
        if markup.count(place) != 1:
            raise ValueError(f"must hold {place} exactly once")
        return markup

    @property
    def is_pair(self) -> bool:
        """Whether a prompt holds a query and a document, for a reranker."""
        return "{query}" in self.template

    def resolve_instruction(self, instruction: str | None, role: Role) -> str:
        """The instruction text that will be written: the item's, else the role's default."""
        chosen = self.instructions.get(role, "") if instruction is None else instruction
        if chosen and self.instruction_ends_with:
            chosen = chosen.strip()
            if chosen and chosen[-1].isalnum():
                chosen += self.instruction_ends_with
        return chosen

    def render(
        self,
        content: Sequence[UserText | Placeholder],
        *,
        instruction: str | None = None,
        role: Role = "document",
    ) -> list[Run]:
        """The prompt as runs, in order.

        Args:
            content: the item's text pieces and pictures in prompt order; `UserText` bodies.
            instruction: overrides the role's default; `""` asks for none.
            role: `query` or `document`.
        """
        return self._render({"content": content}, instruction, role)

    def render_pair(
        self,
        query: Sequence[UserText | Placeholder],
        document: Sequence[UserText | Placeholder],
        *,
        instruction: str | None = None,
    ) -> list[Run]:
        """`render` for a template with `{query}` and `{document}`."""
        return self._render({"query": query, "document": document}, instruction, "query")

    def _render(
        self,
        contents: Mapping[str, Sequence[UserText | Placeholder]],
        instruction: str | None,
        role: Role,
    ) -> list[Run]:
        assert self.is_pair == ("query" in contents), "an item for a pair's template, or vice versa"
        chosen = self.resolve_instruction(instruction, role)
        written: list[Run] = []
        if chosen:
            before, _, after = self.instruction_format.partition("{instruction}")
            written = [Literals(before), UserText(chosen, body=False), Literals(after)]
        runs: list[Run] = []
        position = 0
        for match in _FIELDS.finditer(self.template):
            runs.append(Literals(self.template[position : match.start()]))
            position = match.end()
            field = match.group(1)
            if field == "system":
                runs.append(Literals(self.system))
            elif field == "instruction":
                runs.extend(written)
            elif field == "representation":
                has_media = any(
                    isinstance(piece, Placeholder)
                    for content in contents.values()
                    for piece in content
                )
                runs.append(
                    Literals(self.representation.get("multimodal" if has_media else "text", ""))
                )
            else:
                runs.extend(self._content(contents[field], written))
        runs.append(Literals(self.template[position:]))
        return [run for run in runs if isinstance(run, Placeholder) or run.text]

    def _content(
        self, content: Sequence[UserText | Placeholder], written: Sequence[Run]
    ) -> Iterable[Run]:
        inline = [] if "{instruction}" in self.template else list(written)
        placed = False
        empty = all(isinstance(piece, UserText) and not piece.text for piece in content)
        if empty and self.empty_text:
            content = [UserText(self.empty_text)]
        for piece in content:
            if isinstance(piece, UserText) and not placed:
                yield from inline
                placed = True
            if isinstance(piece, Placeholder):
                markup = self.image if piece.medium == "image" else self.video
                before, _, after = markup.partition(f"<|{piece.medium}_pad|>")
                yield Literals(before)
                yield piece
                yield Literals(after)
            else:
                yield piece
        if not placed:
            yield from inline

    def text(self, runs: Sequence[Run]) -> str:
        """The runs as one string, each picture as a single pad token (for tests and `explain`)."""
        return "".join(
            f"<|{run.medium}_pad|>" if isinstance(run, Placeholder) else run.text for run in runs
        )


def _prompt_folders() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    return [package.parent / "configs" / "prompts", package / "_configs" / "prompts"]


def load_template(name: str) -> PromptTemplate:
    """A shipped template by name, or one from a `.json` file.

    Raises:
        ConfigError: no such template (the message lists the shipped ones), or a broken file.
    """
    candidates = [Path(name)] if name.endswith(".json") else []
    candidates += [folder / f"{name}.json" for folder in _prompt_folders()]
    for path in candidates:
        if path.is_file():
            try:
                fields = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ConfigError(f"prompt template {path} is not valid JSON: {error}") from None
            if not isinstance(fields, dict):
                raise ConfigError(f"prompt template {path} is no JSON object")
            return parse_template(fields, str(path))
    known = _shipped()
    raise ConfigError(
        f"prompt {name!r} is neither a shipped template nor a .json file; shipped: "
        f"{', '.join(known)}"
    )


def _shipped() -> list[str]:
    return sorted({path.stem for folder in _prompt_folders() for path in folder.glob("*.json")})


def pair_templates() -> list[str]:
    """Names of the shipped templates that hold a query and a document."""
    return [name for name in _shipped() if load_template(name).is_pair]


def parse_template(fields: Mapping[str, Any], where: str) -> PromptTemplate:
    """Validate the fields of a template; `where` names their origin in the error."""
    try:
        return PromptTemplate(**fields)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise ConfigError(f"prompt template {where}: {problems}") from None
