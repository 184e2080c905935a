"""Answers of one input row: the steps in order, each until its rules are met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmembed.errors import EndpointError, InputError
from mmembed.synthesis.acceptance import Accepted, problem_of
from mmembed.synthesis.answers import BadAnswer, read_answer
from mmembed.synthesis.chat import Chat, first_request, next_request
from mmembed.synthesis.draws import draw
from mmembed.synthesis.personas import PersonaFinder
from mmembed.synthesis.pictures import PictureReader, Shown
from mmembed.synthesis.pipeline import Pipeline, Step
from mmembed.synthesis.rows import InputRow
from mmembed.synthesis.templates import MissingField

__all__ = ["RowWork", "RowWriting", "own_fields"]

# What a server answers to a request that is wrong in itself: too long, or against its rules.
_OF_THIS_REQUEST = frozenset({400, 413, 422})


@dataclass
class RowWork:
    """What became of a row so far.

    Attributes:
        fields: of the row, drawn, and of all accepted answers.
        requests: key of the accepted or last answer of each step, and how many tries it took.
        problem: why the row is rejected; None: it is not.
        is_refused: by the server, which has not read the request.
    """

    fields: dict[str, Any]
    requests: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None
    is_refused: bool = False


class RowWriting:
    """Runs the steps of a pipeline for a row. Thread-safe."""

    def __init__(
        self,
        pipeline: Pipeline,
        chat: Chat,
        reader: PictureReader,
        accepted: Accepted,
        personas: PersonaFinder | None,
    ) -> None:
        self._pipeline = pipeline
        self._chat = chat
        self._reader = reader
        self._accepted = accepted
        self._personas = personas

    def write(self, row: InputRow) -> RowWork:
        """All steps.

        Raises:
            EndpointError: no answer; the row may be tried again later, or the run must end.
            BudgetSpent: a limit of the run is reached; the row stays as it is.
        """
        work = RowWork(own_fields(self._pipeline, row, self._personas))
        shown: dict[str, Shown] = {}
        for step in self._pipeline.steps:
            try:
                picture = self._shown(step, row, shown)
                if picture is not None and picture.duration is not None:
                    work.fields["duration"] = round(picture.duration, 1)
                self._step(step, row, picture, work)
            except (MissingField, InputError) as problem:
                work.problem = f"{step.name}: {problem}"
            except EndpointError as error:
                if error.status not in _OF_THIS_REQUEST:
                    raise
                work.problem = f"{step.name}: {error}"
                work.is_refused = True
            if work.problem is not None:
                break
        return work

    def _step(self, step: Step, row: InputRow, shown: Shown | None, work: RowWork) -> None:
        first = first_request(self._pipeline, step, work.fields, shown, row.id)
        request, problem = first, ""
        for attempt in range(step.tries):
            record = self._chat.ask(request, row=row.key)
            spent = {"step": step.name, "key": record["key"], "tries": attempt + 1}
            try:
                if record["finish"] == "length":
                    raise BadAnswer(f"the answer was cut off after {step.max_tokens} tokens")
                answer = read_answer(record["text"], step.answer)
                fields = {**work.fields, **_named(step, answer)}
                found = problem_of(step.accept, fields, row=row.key, accepted=self._accepted)
                if found is not None:
                    raise BadAnswer(found)
            except BadAnswer as bad:
                problem = str(bad)
                request = next_request(
                    self._pipeline, first, attempt + 1, record["text"], problem, row.id
                )
                continue
            work.fields = fields
            work.requests.append(spent)
            return
        work.requests.append(spent)
        work.problem = f"{step.name}: {problem} (after {step.tries} tries)"

    def _shown(self, step: Step, row: InputRow, known: dict[str, Shown]) -> Shown | None:
        if step.media is None:
            return None
        if step.media not in known:
            item = row.query if step.media == "query" else row.document
            if item is None:
                raise MissingField("the row has no query")
            known[step.media] = self._reader.show(item)
        return known[step.media]


def own_fields(pipeline: Pipeline, row: InputRow, personas: PersonaFinder | None) -> dict[str, Any]:
    """What is known of a row before anything is asked."""
    fields = row.fields()
    for name, shares in pipeline.draws.items():
        fields[name] = draw(shares, seed=pipeline.seed, row=row.id, name=name)
    if personas is not None:
        fields["personas"] = personas.nearest(fields["document"])
    return fields


def _named(step: Step, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{step.name}.{key}": value for key, value in answer.items()}
