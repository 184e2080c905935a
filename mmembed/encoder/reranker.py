"""The user API of rerankers: a query and documents in, scores or a ranking out.

A reranker reads the query and one document together. That is slower than comparing vectors and
tells finer: rank the best hits of a search with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmembed.encoder.checkpoint import resolve_folder
from mmembed.encoder.loaded_model import LoadedModel, OnError
from mmembed.encoder.options import (
    ON_ERROR,
    as_list,
    check_choice,
    check_count,
    loading_options,
    resolve_device,
)
from mmembed.encoder.report import EncodeReport, EncodeRun
from mmembed.encoder.reranker_model import RerankerModel, load_reranker
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.items import Pair
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.prompt import PromptTemplate
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.types import MultimodalInput

__all__ = ["Reranker"]


class Reranker(LoadedModel):
    """Scores how well documents answer a query; both may be text, images, videos and pages.

    reranker = Reranker.from_pretrained("path/to/reranker")
    reranker.rank("a red bicycle", ["a car", Path("bicycle.jpg")])
    """

    encoder: RerankerModel

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        prompt: str | PromptTemplate | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        media: MediaPolicy | MediaDecoder | None = None,
        num_workers: int | None = None,
        revision: str | None = None,
        compile: bool = False,
        **options: Any,
    ) -> Reranker:
        """Load a reranker's model folder or a hub id.

        Args:
            prompt: a template or the name of a shipped one. A plain Hugging Face checkpoint needs
                it; a folder that was saved by mmembed brings its own.
            options: `inputs={...}` / `encoder={...}` replace fields of the model folder's
                settings, `encoder={"yes": ..., "no": ...}` the two answers;
                `text_errors="replace"`, `allow_special_tokens=True`.

        The other arguments are those of `Embedder.from_pretrained`.

        Raises:
            CheckpointError, ConfigError: naming what is wrong with the folder or the options.
        """
        folder = resolve_folder(path_or_hub_id, revision=revision)
        loading = loading_options(device, dtype, num_workers, options)
        model, processor = load_reranker(folder, prompt=prompt, media=media, **loading)
        if compile:
            model.backbone.compile_layers()
        return cls(model, processor, folder=folder)

    def score(
        self,
        query: Any,
        documents: Any = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        instruction: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        device: str | torch.device | None = None,
        on_error: OnError = "raise",
        batch_tokens: int | None = None,
        num_workers: int | None = None,
        return_report: bool = False,
    ) -> Any:
        """`score(query, documents)`, or `score(pairs)` with a list of (query, document).

        A prompt that is too long loses text from the end of the document, then from the end of
        the query; pictures and everything else of the prompt stay whole.

        Args:
            query, documents: one item, and one item or a list; see `MultimodalInput.of`.
            prompt_name: name of an instruction stored with the model.
            prompt, instruction: the instruction for all queries that bring none (synonyms).
            batch_size: most pairs in one forward; default: as many as `batch_tokens` allows.
            on_error, batch_tokens, num_workers, return_report: as in `Embedder.encode`; an
                error's index is (pair, "query" | "document"), and a failed pair's score is NaN.

        Returns:
            (N,) float32 array of scores in [0, 1]; a number for a single document.

        Raises:
            InputError: under `on_error="raise"`.
            ConfigError: contradictory or unknown options.
        """
        check_choice("on_error", on_error, ON_ERROR)
        check_count("batch_size", batch_size)
        check_count("batch_tokens", batch_tokens)
        check_count("num_workers", num_workers)
        if device is not None:
            self.to(resolve_device(device))
        shared = self._instruction(prompt_name, prompt, instruction)
        if documents is None:
            single, pairs = False, _as_pairs(query)
        else:
            single, listed = as_list(documents)
            pairs = [(query, document) for document in listed]
        report = EncodeReport(ok=np.zeros(len(pairs), dtype=bool))
        scores: Any = np.full(len(pairs), np.nan, np.float32)
        self._run(
            EncodeRun(scores, report, _parsed(pairs, shared, report)),
            lambda inputs: self.encoder.scores(self.encoder(inputs)),
            label="scoring",
            on_error=on_error,
            show_progress_bar=show_progress_bar,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            num_workers=num_workers,
        )
        if on_error == "skip":
            scores = scores[report.ok]
        if single and len(scores):
            scores = scores[0]
        return (scores, report) if return_report else scores

    def rank(
        self,
        query: Any,
        documents: Any,
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        instruction: str | None = None,
        on_error: OnError = "raise",
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The documents from best to worst; of equal scores the earlier one first.

        Args:
            top_k: return the best ones only.
            return_documents: with the document itself, as it was given, under `text`.
            on_error: `null` ranks documents that failed last, with a score of NaN; `skip` leaves
                them out.
            options: further ones of `score`.

        Returns:
            A dict for each document: `corpus_id` (its position), `score`, and perhaps `text`.
        """
        check_count("top_k", top_k)
        if "return_report" in options:
            raise ConfigError("rank has no return_report; score(query, documents) has")
        listed = as_list(documents)[1]
        scores, report = self.score(
            query,
            listed,
            instruction=instruction,
            on_error="null" if on_error == "skip" else on_error,
            return_report=True,
            **options,
        )
        positions = np.arange(len(listed)) if on_error != "skip" else report.kept
        order = positions[np.argsort(-scores[positions], kind="stable")]  # NaN comes last
        return [
            {"corpus_id": at, "score": float(scores[at])}
            | ({"text": listed[at]} if return_documents else {})
            for at in order[:top_k].tolist()
        ]


def _as_pairs(pairs: Any) -> list[Any]:
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise ConfigError("give score(query, documents), or score(pairs) with a list of pairs")
    return list(pairs)


def _parsed(pairs: list[Any], shared: str | None, report: EncodeReport) -> list[Any]:
    """A `Pair` for each pair; None where one of its sides is no item, which `report` then says.

    A query that stands in many pairs becomes one object, so that it is opened once.
    """
    queries: dict[int, MultimodalInput] = {}
    parsed: list[Pair | None] = []
    for index, pair in enumerate(pairs):
        where: tuple[Any, ...] = (index,)
        try:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise InputError("invalid_type", "a pair is (query, document)")
            where = (index, "query")
            query = queries.get(id(pair[0]))
            if query is None:
                query = queries[id(pair[0])] = _query(pair[0], shared)
            where = (index, "document")
            parsed.append(Pair(query, _document(pair[1])))
        except InputError as error:
            report.errors.append(error.at(where))
            parsed.append(None)
    return parsed


def _query(item: Any, shared: str | None) -> MultimodalInput:
    query = MultimodalInput.of(item)
    return query if query.instruction is not None else MultimodalInput(query.parts, shared)


def _document(item: Any) -> MultimodalInput:
    document = MultimodalInput.of(item)
    if document.instruction is not None:
        raise InputError(
            "invalid_type", "a reranker takes one instruction, with the query or for the call"
        )
    return document
