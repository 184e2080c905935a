"""Passages of Markdown: where they begin, what stands above them, and that nothing is lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mmembed.search.passages import markdown_passages

GUIDE = """# Guide

Before all.

## Install

### Linux

Use the package.

### Windows

Use the other.

Setext
------

Words.

```sh
# no heading

ls
```
"""


def shown(text: str, size: int) -> list[tuple[str, str]]:
    found = markdown_passages(text, size)
    return [(context, text[start:end]) for start, end, context in found]


def test_a_section_is_a_passage_and_knows_the_headings_above_it() -> None:
    assert shown(GUIDE, 500) == [
        ("", "# Guide\n\nBefore all."),
        ("Guide", "## Install\n\n### Linux\n\nUse the package."),
        ("Guide > Install", "### Windows\n\nUse the other."),
        ("Guide", "Setext\n------\n\nWords.\n\n```sh\n# no heading\n\nls\n```"),
    ]


def test_later_passages_of_a_long_section_are_told_its_heading() -> None:
    text = "# A\n## B ##\n" + "word " * 30
    found = shown(text, 60)
    assert [context for context, _ in found] == ["", *["A > B"] * (len(found) - 1)]
    assert found[0][1].startswith("# A\n## B ##\nword")
    deep = "\n".join(f"{'#' * level} {'x' * 90}" for level in range(1, 4)) + "\n" + "y " * 400
    assert len(shown(deep, 300)[-1][0]) == 200


def test_code_is_torn_only_where_it_is_longer_than_a_passage() -> None:
    code = "```\n" + "\n\n".join(f"line {number}" for number in range(6)) + "\n```"
    text = f"{'Some words before. ' * 4}\n\n{code}\n\nAnd after.\n"
    for size in range(len(code), 200):
        whole = [passage for _, passage in shown(text, size) if code in passage]
        assert len(whole) == 1, size
        assert all(len(passage) <= size for _, passage in shown(text, size))
    assert all(code not in passage for _, passage in shown(text, len(code) - 1))
    unclosed = "# A\n\n```\n# no heading\n"
    assert shown(unclosed, 100) == [("", unclosed.strip())]


def test_front_matter_rules_and_lists_are_no_headings() -> None:
    assert shown("---\ntitle: x\n---\n\n# Real\n\nText.", 200) == [
        ("", "---\ntitle: x\n---"),
        ("", "# Real\n\nText."),
    ]
    assert shown("- one\n---\n#no heading\n\ntwo\nlines\n===\n", 200) == [
        ("", "- one\n---\n#no heading\n\ntwo\nlines\n===")
    ]


def test_a_line_of_a_million_characters_is_no_trap() -> None:
    for line in ("# " + " " * 10**6, "#" * 10**6, "`" * 10**6, "-" * 10**6 + "x", "# #" * 10**6):
        assert markdown_passages(line, 10**7)


MARKS = ("# ", "## ", "### ", "#", "\n", "\n\n", "\r\n", "```", "~~~~", "---", "===", " ", "\t")
PIECES = st.sampled_from((*MARKS, "a", "\u00e9", "\u2028"))


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=8), max_size=60).map("".join), st.integers(1, 60))
def test_passages_cover_all_text_in_order_within_the_bound(text: str, size: int) -> None:
    found = markdown_passages(text, size)
    assert all(0 < end - start <= size for start, end, _ in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    lost = text
    for start, end, _ in reversed(found):
        assert text[start:end] == text[start:end].strip()
        lost = lost[:start] + lost[end:]
    assert not lost.strip()
