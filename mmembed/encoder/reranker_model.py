"""The reranker's network: the state of a prompt's last token, read by the language-model head.

The prompt holds a query and a document and asks for a yes or a no. The score is
sigmoid(z_yes - z_no), z the logits of the next token: one linear layer of width 1 with the weight
W_yes - W_no. Training needs the whole head, for the probability over the full vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmembed.encoder.backbone import Backbone
from mmembed.encoder.checkpoint import load_parts, resolve_folder
from mmembed.encoder.encoder import Encoder, EncoderConfig
from mmembed.encoder.heap import keep_freed_memory
from mmembed.encoder.linear import use_faster_linears
from mmembed.errors import CheckpointError
from mmembed.inputs.processor import Processor
from mmembed.inputs.prompt import PromptTemplate, load_template

__all__ = ["RerankerConfig", "RerankerModel", "load_reranker"]

_HEAD = "lm_head.weight"


class RerankerConfig(EncoderConfig):
    """How the last token's state becomes a score. Part of the model folder.

    `yes` and `no` are the two answers, one token each.
    """

    kind: ClassVar[Literal["embedder", "reranker"]] = "reranker"

    attention: Literal["causal"] = "causal"
    pooling: Literal["last_token"] = "last_token"
    normalize: Literal[False] = False
    truncate_dim: None = None
    yes: str = "yes"
    no: str = "no"


class RerankerModel(Encoder):
    """`forward(inputs)` gives (B, D) float32 post-norm states of the last tokens, with gradients.

    Attributes:
        yes_id, no_id: tokens of the two answers, rows of `head`.
    """

    config: RerankerConfig

    def __init__(
        self, backbone: Backbone, config: RerankerConfig, *, yes_id: int, no_id: int
    ) -> None:
        super().__init__(backbone, config)
        self.yes_id = yes_id
        self.no_id = no_id

    @property
    def head(self) -> Tensor:
        """(V, D) weight of the language-model head; the token embeddings where it is tied."""
        model: Any = self.backbone.model
        tied = model.config.tie_word_embeddings
        return (model.get_input_embeddings() if tied else model.lm_head).weight

    def scores(self, states: Tensor) -> Tensor:
        """(B, D) states -> (B,) float32 in [0, 1]: how sure the answer is yes and not no."""
        yes, no = self.head[[self.yes_id, self.no_id]].float()  # (D,) each
        return torch.sigmoid(states.float() @ (yes - no))


def load_reranker(
    path: str | Path,
    *,
    prompt: str | PromptTemplate | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> tuple[RerankerModel, Processor]:
    """Load a model folder (or hub id) as a reranker in eval mode and its processor.

    Args:
        prompt: replaces the folder's; a plain Hugging Face checkpoint has none. A template, or
            the name of a shipped one.
        options: those of `load_parts`.

    Raises:
        CheckpointError: no head, or an answer that is not one token; and as `load_parts`.
        ConfigError: as `load_parts`.
    """
    folder = resolve_folder(path)
    if prompt is not None:
        template = load_template(prompt) if isinstance(prompt, str) else prompt
        options["inputs"] = {**(options.get("inputs") or {}), "prompt": template}
    backbone, config, processor = load_parts(folder, RerankerConfig, **options)
    yes_id, no_id = (_answer_id(word, processor, folder) for word in (config.yes, config.no))
    if yes_id == no_id:
        raise CheckpointError(
            f"{folder.name}: the answers {config.yes!r} and {config.no!r} are the same token"
        )
    if not backbone.model.config.tie_word_embeddings:
        _attach_head(backbone, folder)
    model = RerankerModel(backbone, config, yes_id=yes_id, no_id=no_id)
    model.to(device).eval()
    keep_freed_memory(torch.device(device))
    use_faster_linears(model)
    return model, processor


def _answer_id(word: str, processor: Processor, folder: Path) -> int:
    [ids] = processor.tokens.encode([word])
    if len(ids) != 1:
        raise CheckpointError(
            f"{folder.name}: the answer {word!r} is {len(ids)} tokens of its tokenizer and must be "
            "one. Use a model trained to answer, or other words: encoder={'yes': ..., 'no': ...}"
        )
    return ids[0]


def _attach_head(backbone: Backbone, folder: Path) -> None:
    """Put the head into the model under its published name: it is saved and trained with it."""
    embeddings = backbone.model.get_input_embeddings().weight
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if _HEAD not in file.keys():
                continue
            weight = file.get_tensor(_HEAD).to(embeddings.dtype)
        if weight.shape != embeddings.shape:
            raise CheckpointError(
                f"{folder.name}: {_HEAD} has shape {tuple(weight.shape)}, the token embeddings "
                f"{tuple(embeddings.shape)}"
            )
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        head.weight = nn.Parameter(weight)
        backbone.model.lm_head = head
        return
    raise CheckpointError(
        f"{folder.name} has no {_HEAD} and its head is not tied to the token embeddings "
        "(tie_word_embeddings); it was saved without the head, and a reranker needs it"
    )
