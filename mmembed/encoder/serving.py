"""Whether other servers can run a model folder with equal vectors, and how.

What they are told is in the files of `sentence_transformers_layout`; this module checks that a
folder has them, says what no file can express, and writes a folder whose weights carry the names
that servers know (`write_served_folder`).
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mmembed.encoder.backbone import read_config, takes_pictures
from mmembed.encoder.checkpoint import (
    INT8_STEP,
    load_extra_tensors,
    quiet_transformers,
    read_description,
    read_settings,
    write_description,
)
from mmembed.encoder.encoder import EncoderConfig
from mmembed.encoder.identity import EXTRA_TENSORS_FILE
from mmembed.encoder.model_files import SIDE_FILES, read_json, with_budget
from mmembed.encoder.sentence_transformers_layout import layout_files, layout_problem
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.processor import InputConfig
from mmembed.inputs.prompt import UserText

__all__ = ["SERVERS", "Server", "ServingPlan", "plan_serving", "write_served_folder"]

Server = Literal["sentence-transformers", "vllm", "tei"]
SERVERS: tuple[Server, ...] = get_args(Server)

_TEMPLATE = "chat_template.jinja"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ServingPlan:
    """How one server runs one folder.

    Args:
        problems: why it would not load, or would give other vectors; empty: it can be used.
        command: starts it, or loads the model.
        request: asks it.
        differences: what does not carry over although vectors of short texts and images do.
        is_tested: mmembed's own tests compare vectors with this server.
    """

    server: Server
    folder: Path
    problems: tuple[str, ...]
    command: str
    request: str
    differences: tuple[str, ...]
    is_tested: bool


@dataclass(frozen=True)
class _Model:
    folder: Path
    inputs: InputConfig
    encoder: EncoderConfig
    width: int
    is_generative: bool  # weights are named as in a model that generates

    @property
    def path(self) -> str:
        return shlex.quote(str(self.folder))

    @property
    def has_pictures(self) -> bool:
        return self.inputs.geometry is not None


def plan_serving(folder: Path, server: Server) -> ServingPlan:
    """What `server` would make of `folder`. Reads no weights.

    Raises:
        CheckpointError, ConfigError: no model folder, or a reranker.
    """
    if server not in SERVERS:
        raise ConfigError(f"unknown server {server!r}; known: {', '.join(SERVERS)}")
    model = _read(folder)
    how = {"sentence-transformers": _sentence_transformers, "vllm": _vllm, "tei": _tei}[server]
    return how(model)


def _read(folder: Path) -> _Model:
    inputs, encoder = read_settings(folder, EncoderConfig)
    config = read_config(folder)
    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    return _Model(
        folder,
        inputs,
        encoder,
        config.get_text_config().hidden_size,
        not takes_pictures(config) or name in (config.architectures or ()),
    )


def _sentence_transformers(model: _Model) -> ServingPlan:
    command = (
        "from sentence_transformers import SentenceTransformer\n"
        f"model = SentenceTransformer({str(model.folder)!r})"
    )
    request = (
        'model.encode_query(["a red apple"])\n'
        'model.encode_document(["a red apple"])\n'
        'model.encode(["a red apple"], prompt="INSTRUCTION")'
    )
    if model.has_pictures:
        request += (
            '\nmodel.encode([PIL.Image.open("apple.jpg")])'
            '\nmodel.encode([{"image": PIL.Image.open("apple.jpg"), "text": "a red apple"}])'
        )
    too_long = "sentence-transformers does not cut there"
    return ServingPlan(
        "sentence-transformers",
        model.folder,
        tuple(_layout_problems(model)),
        command,
        request,
        tuple(_differences(model, too_long)),
        is_tested=True,
    )


def _vllm(model: _Model) -> ServingPlan:
    problems = list(_layout_problems(model))
    if not model.is_generative:
        problems.append(
            "its weights are named as AutoModel of transformers saves them; vLLM knows the names "
            "of models that generate. --out FOLDER writes a copy with those names"
        )
    pooling = "LAST" if model.encoder.pooling == "last_token" else "MEAN"
    pooler: dict[str, Any] = {"pooling_type": pooling}
    if not model.encoder.normalize:  # vLLM does by itself; up to 0.15 it called this `normalize`
        pooler["use_activation"] = False
    options = [
        f"vllm serve {model.path}",
        "--runner pooling --convert embed",
        f"--chat-template {shlex.quote(str(model.folder / _TEMPLATE))}",
        "--chat-template-content-format openai",
        f"--pooler-config '{json.dumps(pooler)}'",
        f"--max-model-len {model.inputs.max_tokens}",
    ]
    content: list[dict[str, Any]] = [{"type": "text", "text": "a red apple"}]
    if model.has_pictures:
        clips = 1 if model.inputs.prompt.video_as == "video" else 0
        options.append(f"--limit-mm-per-prompt '{json.dumps({'image': 8, 'video': clips})}'")
        data = {"url": "data:image/png;base64,..."}
        content.insert(0, {"type": "image_url", "image_url": data})
    dims = sorted(_trained_dims(read_description(model.folder).get("recipe")))
    if dims:
        options.append(f"--hf-overrides '{json.dumps({'matryoshka_dimensions': dims})}'")
    instruction = model.inputs.prompt.resolve_instruction(None, "query") or "INSTRUCTION"
    body = {
        "model": str(model.folder),
        "messages": [
            {"role": "system", "content": instruction},
            {"role": "user", "content": content},
        ],
    }
    differences = list(_differences(model, "vLLM refuses them"))
    differences += [
        "ask with `messages`, one item a request: strings under `input` skip the chat template",
        "the system message is the instruction (none: leave it out); vLLM adds no default by "
        "itself" + _defaults(model),
        "vLLM runs float32 weights in 16 bits unless told --dtype float32; vectors move within "
        "rounding",
    ]
    if not dims:
        differences.append(
            "`dimensions` in a request needs --hf-overrides '{\"is_matryoshka\": true}', and a "
            "model that was trained for it"
        )
    return ServingPlan(
        "vllm",
        model.folder,
        tuple(problems),
        " \\\n  ".join(options),
        _curl("/v1/embeddings", 8000, body),
        tuple(differences),
        is_tested=False,
    )


def _tei(model: _Model) -> ServingPlan:
    problems = []
    if model.has_pictures:
        problems.append("text-embeddings-inference takes texts only; this model has a vision tower")
    problems += _layout_problems(model)
    tokenizer = model.folder / "tokenizer.json"
    after = (read_json(tokenizer) if tokenizer.is_file() else {}).get("post_processor")
    if after and after.get("type") != "ByteLevel":
        problems.append(
            "its tokenizer.json adds tokens of its own to each text (post_processor), which this "
            "server cannot leave out"
        )
    template = model.inputs.prompt
    whole = template.text(template.render([UserText("a red apple")], role="query"))
    pooling = "last-token" if model.encoder.pooling == "last_token" else "mean"
    return ServingPlan(
        "tei",
        model.folder,
        tuple(problems),
        f"text-embeddings-router --model-id {model.path} --pooling {pooling}",
        _curl("/embed", 8080, {"inputs": [whole], "normalize": model.encoder.normalize}),
        (
            *_differences(model, "this server cuts the end of the prompt, or refuses them"),
            "the server knows no template: send the whole prompt, as in the request above",
        ),
        is_tested=False,
    )


def _curl(path: str, port: int, body: dict[str, Any]) -> str:
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl http://localhost:{port}{path} -H 'content-type: application/json' \\\n  -d {text}"


def _layout_problems(model: _Model) -> Iterator[str]:
    problem = layout_problem(model.inputs, model.encoder)
    if problem:
        yield f"it would give other vectors: {problem}"
        return
    needed = layout_files(model.inputs, model.encoder, model.width)
    found = {name: model.folder / name for name in needed}
    missing = sorted(name for name, path in found.items() if not path.is_file())
    if missing:
        names = ", ".join(missing)
        yield f"files that describe it to other libraries are missing: {names}; --out writes them"
    stale = sorted(
        name
        for name, path in found.items()
        if path.is_file() and path.read_text(encoding="utf-8") != needed[name]
    )
    if stale:
        yield f"files that describe it to other libraries say something else: {', '.join(stale)}"
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = model.folder / name
        if path.is_file() and not _has_budget(name, path.read_bytes(), model.inputs):
            yield f"{name} does not have this model's sizes of images"
    if not (model.folder / "tokenizer.json").is_file():
        yield "it has no tokenizer.json"
    if not _weights(model.folder):
        yield "it has no weights in safetensors"


def _weights(folder: Path) -> list[Path]:
    found = folder.glob("*.safetensors")
    return sorted(path for path in found if path.name != EXTRA_TENSORS_FILE)


def _has_budget(name: str, content: bytes, inputs: InputConfig) -> bool:
    return bool(json.loads(content) == json.loads(with_budget(name, content, inputs)))


def _differences(model: _Model, too_long: str) -> Iterator[str]:
    inputs = model.inputs
    yield (
        f"texts of more than {inputs.max_tokens:,} tokens, prompt included, lose their end here; "
        f"{too_long}"
    )
    yield (
        "strings such as <|im_end|> in a text are plain characters here and control tokens there; "
        "take them out of texts that strangers write"
    )
    if model.has_pictures:
        image, frame, page = inputs.image_tokens, inputs.frame_tokens, inputs.page_tokens
        yield (
            "clips are sampled by other rules, and PDF pages are not opened: send pages as images, "
            f"which get {image.min} to {image.max} tokens there; here pages get {page.min} to "
            f"{page.max} and frames {frame.min} to {frame.max}"
        )
    step = load_extra_tensors(model.folder).get(INT8_STEP)
    if step is not None:
        yield (
            f"this model learnt its own int8 step ({step.item():.4g}); int8 vectors of other "
            "servers have another. Take float vectors there"
        )


def _defaults(model: _Model) -> str:
    told = [
        f"{role}: {json.dumps(text, ensure_ascii=False)}"
        for role, text in sorted(model.inputs.prompt.instructions.items())
        if text
    ]
    return f"; this model's are {', '.join(told)}" if told else ""


def _trained_dims(recipe: Any) -> set[int]:
    """Dimensions that any stage of the recipe trained beside the full one."""
    if isinstance(recipe, list):
        return {dim for entry in recipe for dim in _trained_dims(entry)}
    if not isinstance(recipe, dict):
        return set()
    own = recipe.get("matryoshka")
    dims = own.get("dims") if isinstance(own, dict) else None
    found = set(dims or ())
    return found | {dim for entry in recipe.values() for dim in _trained_dims(entry)}


def write_served_folder(folder: Path, out: Path) -> None:
    """Write `out`: the same model with every file that servers read. All or nothing.

    Weights keep their values. Where they are renamed, `out` has a fingerprint of its own.

    Raises:
        CheckpointError: `out` exists, or no server could give equal vectors.
    """
    model = _read(folder)
    problem = layout_problem(model.inputs, model.encoder)
    if problem:
        raise CheckpointError(f"{folder} cannot be served elsewhere with equal vectors: {problem}")
    if out.exists():
        raise CheckpointError(f"{out} exists; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp-{uuid.uuid4().hex[:8]}")
    aside.mkdir()
    try:
        _write_checkpoint(model, aside)
        _copy_extras(model, aside)
        for name in SIDE_FILES:
            if (folder / name).is_file():
                content = (folder / name).read_bytes()
                (aside / name).write_bytes(with_budget(name, content, model.inputs))
        for name, text in layout_files(model.inputs, model.encoder, model.width).items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        description = read_description(folder)
        write_description(
            aside,
            model.inputs,
            model.encoder,
            embedding_dimension=model.width,
            recipe=description.get("recipe"),
        )
        aside.rename(out)
    finally:
        if aside.exists():
            shutil.rmtree(aside)


def _write_checkpoint(model: _Model, out: Path) -> None:
    """Weights and `config.json`, named as published for a model that generates."""
    files = _weights(model.folder)
    if model.is_generative:
        for path in [*files, model.folder / "config.json", model.folder / _INDEX]:
            if path.is_file():
                shutil.copyfile(path, out / path.name)
        return
    with torch.device("meta"):
        published = AutoModelForImageTextToText.from_config(read_config(model.folder))
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            tensors |= {f"model.{name}": file.get_tensor(name) for name in file.keys()}
    with quiet_transformers(), redirect_stdout(sys.stderr):
        published.save_pretrained(out, state_dict=tensors)
    (out / "generation_config.json").unlink(missing_ok=True)
    # servers read these from the config, where ours left them at the architecture's own numbers
    fields = read_json(out / "config.json")
    for token in read_json(model.folder / "tokenizer.json").get("added_tokens", []):
        if token["content"] in ("<|vision_start|>", "<|vision_end|>"):
            fields[f"{token['content'][2:-2]}_token_id"] = token["id"]
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _copy_extras(model: _Model, out: Path) -> None:
    path = model.folder / EXTRA_TENSORS_FILE
    if path.is_file():
        shutil.copyfile(path, out / path.name)
