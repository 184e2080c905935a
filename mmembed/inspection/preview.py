"""Rows as people see them: one HTML file with pictures, texts, ids, scores and, if asked, prompts.

Which rows are shown depends on the seed: some drawn at random, then those with the longest and the
shortest texts of a larger sample, where the oddest faults are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmembed.data.opening import OpenedDataset
from mmembed.errors import InputError
from mmembed.html.item_cards import item_card
from mmembed.html.markup import Child, Markup, element
from mmembed.html.page import section, write_page
from mmembed.html.row_cards import DocumentCard, RowCard, row_article
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.prompt import Placeholder, PromptTemplate, UserText
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inspection.content import item_text
from mmembed.inspection.media_facts import MediaReader
from mmembed.inspection.pages import statistics_section, table
from mmembed.inspection.rows import RowSpace, fields_of, sampled_rows
from mmembed.inspection.statistics import DatasetStatistics
from mmembed.progress import shown_progress
from mmembed.types import ContrastiveExample, MultimodalInput, Text, Video

__all__ = ["exact_prompts", "write_preview"]

_SCANNED = 500  # rows of a data set that are read for its histograms and extremes
_EXTREMES = 2
_SHOWN_NEGATIVES = 12


def write_preview(
    path: Path,
    datasets: Sequence[OpenedDataset],
    *,
    title: str,
    num_rows: int = 24,
    seed: int = 0,
    template: PromptTemplate | None = None,
    policy: MediaPolicy | None = None,
    show_progress_bar: bool | None = None,
) -> Path:
    """Write the page.

    Args:
        num_rows: of all data sets, at least one of each, and the extremes besides.
        template: also shows the exact prompts of a row's query and first positive.
    """
    spaces = [RowSpace([each]) for each in datasets]
    share = max(1, num_rows // len(spaces))
    total = sum(min(len(space), _SCANNED) + min(len(space), share) for space in spaces)
    sections: list[Child] = []
    with (
        MediaDecoder(policy, num_workers=2) as decoder,
        shown_progress(show_progress_bar, "previewing", total, "rows") as advance,
    ):
        for space in spaces:
            facts, extremes = _scan(space, seed, advance)
            shown = {int(row): "" for row in sampled_rows(len(space), share, seed=seed)}
            shown |= {row: words for row, words in extremes.items() if row not in shown}
            articles = []
            for row, why in shown.items():
                articles.append(_article(space, row, why, facts, decoder, template))
                advance(0 if why else 1)
            words = _card_words(space.datasets[0])
            sections.append(statistics_section(facts, articles, before=words))
    sets = "1 data set" if len(datasets) == 1 else f"{len(datasets)} data sets"
    summary = (
        f"{sets}, {sum(map(len, spaces)):,} rows. Rows are drawn by seed {seed}; numbers are of up "
        f"to {_SCANNED:,} rows of each."
    )
    head = element("section", element("p", summary), class_="summary")
    composition = _composition(spaces) if len(spaces) > 1 else ""
    return write_page(path, title, [head, composition, sections])


def exact_prompts(template: PromptTemplate, example: ContrastiveExample) -> list[str]:
    """What a model would read, each medium as a single pad token: query, first positive."""
    query, positive = example.query, example.positives[0]
    if template.is_pair:
        runs = template.render_pair(
            _content(query, template), _content(positive, template), instruction=query.instruction
        )
        return [f"pair: {template.text(runs)}"]
    prompts = []
    for role, item in (("query", query), ("document", positive)):
        runs = template.render(
            _content(item, template),
            instruction=item.instruction,
            role="query" if role == "query" else "document",
        )
        prompts.append(f"{role}: {template.text(runs)}")
    return prompts


def _content(item: MultimodalInput, template: PromptTemplate) -> list[UserText | Placeholder]:
    content: list[UserText | Placeholder] = []
    for part in item.parts:
        if isinstance(part, Text):
            content.append(UserText(part.text))
        else:
            as_clip = isinstance(part, Video) and template.video_as == "video"
            content.append(Placeholder("video" if as_clip else "image"))
    return content


def _scan(
    space: RowSpace, seed: int, advance: Callable[[int], None]
) -> tuple[DatasetStatistics, dict[int, str]]:
    """Statistics of a sample, and its rows with the most and the fewest letters."""
    facts = DatasetStatistics(space.datasets[0].name)
    facts.num_rows = len(space)
    lengths: list[tuple[int, int]] = []
    for row in map(int, sampled_rows(len(space), _SCANNED, seed=seed + 1)):
        try:
            example = space.example(row)
        except Exception:  # of anybody's adapter; it is shown where it is drawn, `check` lists all
            continue
        finally:
            advance(1)
        facts.add(example)
        lengths.append((sum(len(item_text(item)) for _, item in fields_of(example)), row))
    lengths.sort()
    extremes = {row: "shortest texts" for _, row in lengths[:_EXTREMES]}
    extremes |= {row: "longest texts" for _, row in lengths[-_EXTREMES:]}
    return facts, extremes


def _article(
    space: RowSpace,
    row: int,
    words: str,
    facts: DatasetStatistics,
    decoder: MediaDecoder,
    template: PromptTemplate | None,
) -> Markup:
    place = space.place(row)
    try:
        example = space.example(row)
    except InputError as error:
        return _unreadable(place, error.detail)
    except Exception as error:  # of anybody's adapter
        return _unreadable(place, str(error) or type(error).__name__)
    media = [part for _, item in fields_of(example) for part in item.parts]
    for outcome in MediaReader(decoder).read([p for p in media if not isinstance(p, Text)]):
        if not isinstance(outcome, InputError):
            facts.add_media(outcome)
    title = ", ".join(filter(None, [place, example.query_id and f"id {example.query_id}", words]))
    notes = [f"task {example.task}"]
    notes += [f"label {example.label!r}"] if example.label is not None else []
    left_out = len(example.hard_negatives) - _SHOWN_NEGATIVES
    notes += [f"{left_out:,} more negatives"] if left_out > 0 else []
    query = item_card(example.query, decoder, caption=_instruction(example.query))
    exact = exact_prompts(template, example) if template is not None else []
    card = RowCard(title, query, _documents(example, decoder), [", ".join(notes)], exact)
    return row_article(card)


def _documents(example: ContrastiveExample, decoder: MediaDecoder) -> list[DocumentCard]:
    cards = []
    scores = example.scores or ()
    num_positives = len(example.positives)
    documents = (*example.positives, *example.hard_negatives)
    for number, item in enumerate(documents[: num_positives + _SHOWN_NEGATIVES]):
        is_positive = number < num_positives
        words = ["positive" if is_positive else "negative"]
        if is_positive and number < len(example.positive_ids):
            words.append(f"id {example.positive_ids[number]}")
        if not is_positive and number - num_positives < len(example.negative_labels):
            words.append(f"label {example.negative_labels[number - num_positives]!r}")
        if number < len(scores):
            words.append(f"score {scores[number]:.3f}")
        card = item_card(item, decoder, caption=_instruction(item))
        cards.append(DocumentCard(card, ", ".join(words), "positive" if is_positive else ""))
    return cards


def _instruction(item: MultimodalInput) -> str:
    return f"instruction: {item.instruction}" if item.instruction is not None else ""


def _unreadable(place: str, message: str) -> Markup:
    words = message if message.startswith(place) else f"{place}: {message}"
    return element("article", element("h3", place), element("p", f"cannot be read: {words}"))


def _card_words(dataset: OpenedDataset) -> Child:
    """Where the data are from; nothing for files that no catalogue knows."""
    card = dataset.card
    if card is None:
        return element("p", f"{dataset.reference} {dict(dataset.arguments) or ''}", class_="muted")
    facts = {
        "task": card.task,
        "source": f"{card.repo or card.url} {card.config} {card.split}",
        "revision": card.revision,
        "license": card.license,
        "citation": card.citation,
        "note": card.note,
    }
    named = [(element("dt", name), element("dd", value)) for name, value in facts.items() if value]
    return element("dl", named)


def _composition(spaces: Sequence[RowSpace]) -> Markup:
    total = max(sum(map(len, spaces)), 1)
    rows = [
        (
            space.datasets[0].name,
            f"{len(space):,}",
            f"{len(space) / total:.1%}",
            space.datasets[0].adapter.task,
            space.datasets[0].reference,
        )
        for space in spaces
    ]
    return section("Composition", table(("data set", "rows", "share", "task", "adapter"), rows))
