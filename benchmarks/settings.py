"""What a run was asked for, and the random models that it may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from benchmarks.items import make_texts

__all__ = ["MODELS", "Dtype", "Part", "Settings", "model_folder"]

Dtype = Literal["float32", "bfloat16"]
Part = Literal["encode", "preprocessing"]

# In the words of `create_checkpoint`. About 0.2, 5 and 46 million parameters, and Qwen2-VL-2B
# without most of its vocabulary.
MODELS: dict[str, dict[str, int]] = {
    "micro": {
        "vocab_size": 2000,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "intermediate_size": 128,
        "vision_depth": 2,
        "vision_width": 32,
        "vision_heads": 2,
    },
    "tiny": {
        "vocab_size": 4000,
        "hidden_size": 256,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 768,
        "vision_depth": 4,
        "vision_width": 128,
        "vision_heads": 4,
    },
    "small": {
        "vocab_size": 4000,
        "hidden_size": 512,
        "num_layers": 12,
        "num_heads": 8,
        "num_kv_heads": 2,
        "intermediate_size": 1536,
        "vision_depth": 8,
        "vision_width": 256,
        "vision_heads": 4,
    },
    "2b": {
        "vocab_size": 4000,
        "hidden_size": 1536,
        "num_layers": 28,
        "num_heads": 12,
        "num_kv_heads": 2,
        "intermediate_size": 8960,
        "vision_depth": 32,
        "vision_width": 1280,
        "vision_heads": 16,
    },
}
# A real vocabulary has the words of the prompt; without them it would be most of a text.
_PROMPT_WORDS = "system user assistant You are a helpful assistant. Represent this in one word."


@dataclass(frozen=True)
class Settings:
    """The options of `python -m benchmarks run`, which explains them. None: the suite's default."""

    suite: str
    peers: tuple[str, ...]
    rounds: int
    items: int | None = None
    sizes: tuple[int, ...] | None = None
    length_spread: float | None = None
    images_from: Literal["memory", "file"] = "memory"
    image_tokens: tuple[int, int] = (4, 256)
    image_side: int | None = None
    part: Part = "encode"
    scaled_jpeg: bool = False
    width: int = 1024
    model: str | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"
    peak_tflops: float | None = None
    threads: int | None = None


def model_folder(
    scratch: Path, model: str, *, image_tokens: tuple[int, int] = (4, 256)
) -> tuple[Path, dict[str, Any]]:
    """A random checkpoint, saved the way a trained model is; its sizes, for the record."""
    from mmembed.encoder.checkpoint import load_encoder, save_encoder
    from mmembed.encoder.scratch import create_checkpoint

    least, most = image_tokens
    checkpoint = create_checkpoint(
        scratch / "checkpoint",
        make_texts(2000, seed=1) + [_PROMPT_WORDS] * 50,
        min_image_tokens=least,
        max_image_tokens=most,
        weight_scale=2.0,
        **cast(dict[str, Any], MODELS[model]),
    )
    # sentence-transformers and transformers read the budget of pictures from the saved folder
    encoder, processor = load_encoder(
        checkpoint,
        inputs={
            "image_tokens": {"min": least, "max": most},
            "page_tokens": {"min": least, "max": most},
        },
    )
    save_encoder(scratch / "model", encoder, processor)
    processor.close()
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    about = {"model": {"name": model, **MODELS[model]}, "parameters": parameters}
    return scratch / "model", about
