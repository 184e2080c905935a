"""The reranker under training: its loss is that of the plain model, and its scores move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmembed.encoder.reranker_model import RerankerModel, load_reranker
from mmembed.inputs.contrastive import TrainingRow
from mmembed.inputs.pairs import PairBatch, PairCollator
from mmembed.losses.pointwise import yes_no_loss_from_states
from mmembed.types import ContrastiveExample, MultimodalInput

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def rows(*, pictures: bool) -> list[TrainingRow]:
    """Is this the colour of that name? The other one is the hard negative."""
    examples = []
    for name in COLOURS:
        documents = {
            other: MultimodalInput.of(
                {"image": np.full((28, 28, 3), rgb, np.uint8)} if pictures else f"colour {other}"
            )
            for other, rgb in COLOURS.items()
        }
        hard = tuple(documents[other] for other in COLOURS if other != name)
        examples.append(ContrastiveExample(MultimodalInput.of(name), (documents[name],), hard))
    return [TrainingRow(example, "colours", n) for n, example in enumerate(examples)]


def loss_of(model: RerankerModel, batch: PairBatch, form: str = "full_vocabulary"):
    return yes_no_loss_from_states(
        model(batch.inputs[0]), model.head, batch.labels, model.yes_id, model.no_id, form
    )


@pytest.mark.parametrize("form", ["full_vocabulary", "two_way"])
def test_loss_and_gradients_equal_those_of_plain_transformers(tiny_reranker: Path, form: str):
    model, processor = load_reranker(tiny_reranker)
    batch = PairCollator(processor)(rows(pictures=False))
    output = loss_of(model, batch, form)
    output.loss.backward()

    plain = AutoModelForImageTextToText.from_pretrained(tiny_reranker, attn_implementation="eager")
    losses = []
    borders = batch.inputs[0]["cu_seqlens"].tolist()
    for begin, end, label in zip(borders, borders[1:], batch.labels.tolist(), strict=False):
        logits = plain(input_ids=batch.inputs[0]["input_ids"][None, begin:end]).logits[0, -1]
        answers = [model.no_id, model.yes_id]
        if form == "full_vocabulary":
            losses.append(-torch.log_softmax(logits, 0)[answers[label]])
        else:
            losses.append(-torch.log_softmax(logits[answers], 0)[int(label)])
    torch.stack(losses).mean().backward()

    assert output.loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)
    ours = dict(model.backbone.model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        if parameter.grad is not None:
            difference = (ours[name].grad - parameter.grad).abs().max()
            assert difference <= 1e-4 * parameter.grad.abs().max().clamp(min=1e-2), name


@pytest.mark.parametrize(("pictures", "num_queries"), [(False, 2), (True, 1)])
def test_a_few_steps_lower_the_loss_and_move_every_score_to_its_label(
    tiny_reranker: Path, pictures: bool, num_queries: int
):
    model, processor = load_reranker(tiny_reranker)
    batch = PairCollator(processor)(rows(pictures=pictures)[:num_queries])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = loss_of(model, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        scores = model.scores(model(batch.inputs[0]))
    assert losses[-1] < losses[0] / 10
    assert torch.equal(scores > 0.5, batch.labels)
    assert (scores - batch.labels.float()).abs().max() < 0.2
