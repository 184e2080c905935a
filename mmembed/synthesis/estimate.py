"""What a run would cost, from a sample of its rows, before anything is asked."""

from __future__ import annotations

from dataclasses import dataclass

from mmembed.errors import ConfigError, InputError
from mmembed.synthesis.budget import Budget
from mmembed.synthesis.chat import first_request
from mmembed.synthesis.personas import PersonaFinder
from mmembed.synthesis.pictures import PictureReader
from mmembed.synthesis.pipeline import Pipeline, Step
from mmembed.synthesis.rows import InputRow, InputRows
from mmembed.synthesis.templates import MissingField
from mmembed.synthesis.writing import own_fields

__all__ = ["Estimate", "check_limits", "estimate"]

SAMPLE = 20
CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True)
class Estimate:
    """Of all rows, each step asked once.

    Attributes:
        num_skipped: of the sample; rows that lack what the prompts need, or cannot be read.
        most_cost: when every answer is as long as `max_tokens` allows and every try is needed.
    """

    num_rows: int
    num_sampled: int
    num_skipped: int
    num_requests: int
    input_tokens: int
    output_tokens: int
    cost: float
    most_cost: float
    is_priced: bool

    def __str__(self) -> str:
        price = (
            f"cost about {self.cost:.4f}, at most {self.most_cost:.4f}"
            if self.is_priced
            else "no cost: give limits.price_per_million.input and .output"
        )
        return (
            f"{self.num_rows:,} rows, about {self.num_requests:,} requests, "
            f"{self.input_tokens:,} input and {self.output_tokens:,} output tokens, {price} "
            f"(from {self.num_sampled} rows, {self.num_skipped} of them unusable)"
        )


def estimate(pipeline: Pipeline, rows: InputRows, *, limit: int | None = None) -> Estimate:
    """Render the prompts of rows spread over the input and count.

    A later step sees earlier answers, which do not exist yet: texts of `expected_tokens` stand in.

    Raises:
        ConfigError: no row of the sample can be used.
    """
    indices = rows.select(limit)
    count = min(SAMPLE, len(indices))
    sample = [indices[place * len(indices) // count] for place in range(count)]
    personas = PersonaFinder(pipeline.personas) if pipeline.personas else None
    tokens_in = 0.0
    problems: list[str] = []
    with PictureReader(pipeline.pictures) as reader:
        for index in sample:
            try:
                tokens_in += _input_tokens(pipeline, rows[index], reader, personas)
            except (InputError, MissingField) as problem:
                problems.append(str(problem))
    good = count - len(problems)
    if good == 0:
        raise ConfigError(f"none of {count} sampled rows can be used; the first: {problems[0]}")
    num_rows = len(indices)
    scale = num_rows / count
    steps = pipeline.steps
    budget = Budget(pipeline.limits, num_requests=0, tokens=(0, 0))
    tokens_out = good * sum(step.expected_tokens for step in steps)
    longest = good * sum(step.tries * step.max_tokens for step in steps)
    most_tries = max(step.tries for step in steps)
    return Estimate(
        num_rows=num_rows,
        num_sampled=count,
        num_skipped=len(problems),
        num_requests=round(scale * good * len(steps)),
        input_tokens=round(scale * tokens_in),
        output_tokens=round(scale * tokens_out),
        cost=scale * budget.cost(tokens_in, tokens_out),
        # a later try repeats the prompt, the last answer and what was wrong with it
        most_cost=scale * budget.cost(most_tries * tokens_in + longest, longest),
        is_priced=pipeline.limits.price_per_million is not None,
    )


def check_limits(pipeline: Pipeline, found: Estimate, num_done: int) -> None:
    """Refuse a run that is expected to go beyond its limits.

    Args:
        num_done: rows that earlier runs in the same folder have done; they cost no more.

    Raises:
        ConfigError: with both numbers.
    """
    if num_done:
        return  # the limits of a run that goes on are held request by request
    limits = pipeline.limits
    advice = "Raise it, or take fewer rows with --limit"
    if limits.max_cost is not None and found.cost > limits.max_cost:
        raise ConfigError(
            f"the run is expected to cost {found.cost:.4f}, more than max_cost "
            f"{limits.max_cost:g}. {advice}"
        )
    if limits.max_requests is not None and found.num_requests > limits.max_requests:
        raise ConfigError(
            f"the run is expected to make {found.num_requests:,} requests, more than max_requests "
            f"{limits.max_requests:,}. {advice}"
        )


def _input_tokens(
    pipeline: Pipeline, row: InputRow, reader: PictureReader, personas: PersonaFinder | None
) -> float:
    fields = own_fields(pipeline, row, personas)
    total = 0.0
    for step in pipeline.steps:
        shown = None
        if step.media is not None:
            item = row.query if step.media == "query" else row.document
            if item is None:
                raise MissingField("the row has no query")
            shown = reader.show(item)
            if shown.duration is not None:
                fields["duration"] = shown.duration
        total += first_request(pipeline, step, fields, shown, row.id).input_tokens()
        fields.update(_stand_ins(step))
    return total


def _stand_ins(step: Step) -> dict[str, str]:
    length = step.expected_tokens * CHARACTERS_PER_TOKEN // len(step.answer)
    return {f"{step.name}.{key}": "x" * max(1, length) for key in step.answer}
