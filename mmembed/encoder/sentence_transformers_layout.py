"""The extra files that let `SentenceTransformer(folder)` load a model folder with equal vectors.

Text and images go through our prompt, written here as a chat template. What that library cannot
express (bidirectional attention, flat positions of pictures, templates whose native form has no
chat template) is refused by `layout_problem`, and then these files are not written: an absent
feature is better than other vectors.
"""

from __future__ import annotations

import json

from mmembed.encoder.encoder import EncoderConfig
from mmembed.inputs.processor import InputConfig
from mmembed.inputs.prompt import PromptTemplate

__all__ = ["chat_template", "layout_files", "layout_problem"]

_POOLING = {"last_token": "lasttoken", "mean": "mean"}


def layout_problem(inputs: InputConfig, encoder: EncoderConfig) -> str | None:
    """Why sentence-transformers could not reproduce this model; None when it can."""
    if inputs.prompt.is_pair:
        return "mmembed writes such files for embedders only"
    if encoder.attention != "causal":
        return "without code of ours it runs this architecture with causal attention"
    if inputs.geometry is not None and inputs.position_ids != "mrope":
        return "it always uses M-RoPE and this model uses flat positions"
    if inputs.resize_passes != 1:
        return "it resizes pictures once"
    if encoder.truncate_dim is not None:
        return "it truncates after normalising"
    if inputs.prompt.empty_text or inputs.prompt.instruction_ends_with:
        return "its chat templates cannot rewrite empty texts or instructions"
    return None


def layout_files(inputs: InputConfig, encoder: EncoderConfig, width: int) -> dict[str, str]:
    """File name -> content, to be written beside the checkpoint. `width` is the hidden size."""
    # with clips as single frames, its own video path would give other vectors
    kinds: tuple[str, ...] = ("text",)
    if inputs.geometry is not None:
        kinds += ("image", "video") if inputs.prompt.video_as == "video" else ("image",)
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    modules = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ]
    if encoder.normalize:
        modules.append(("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"))
    listing = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(modules)
    ]
    prompts = {role: inputs.prompt.instructions.get(role, "") for role in ("query", "document")}
    files = {
        "modules.json": listing,
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {
                **dict.fromkeys(kinds, forward),
                "message": {**forward, "format": "structured"},
            },
            "module_output_name": "token_embeddings",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {**prompts, **inputs.prompts},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "embedding_dimension": width,
            "pooling_mode": _POOLING[encoder.pooling],
            "include_prompt": True,
        },
    }
    if encoder.normalize:
        files["2_Normalize/config.json"] = {}
    written = {name: json.dumps(value, indent=2) + "\n" for name, value in files.items()}
    written["chat_template.jinja"] = chat_template(inputs.prompt)
    return written


def chat_template(prompt: PromptTemplate) -> str:
    """Our template in Jinja: system text is the instruction, user parts are the content."""
    image_before, _, image_after = prompt.image.partition("<|image_pad|>")
    video_before, _, video_after = prompt.video.partition("<|video_pad|>")
    before, _, after = prompt.instruction_format.partition("{instruction}")
    inline = "{instruction}" not in prompt.template
    written = (
        "{%- if ns.instruction -%}"
        + _literal(before)
        + "{{- ns.instruction -}}"
        + _literal(after)
        + "{%- endif -%}"
    )
    place = (
        "{%- if not ns.placed -%}{%- set ns.placed = true -%}" + written + "{%- endif -%}"
        if inline
        else ""
    )
    content = (
        "{%- for part in ns.parts -%}"
        "{%- if part is not string and part['type'] == 'image' -%}"
        + _literal(image_before + "<|image_pad|>" + image_after)
        + "{%- elif part is not string and part['type'] == 'video' -%}"
        + _literal(video_before + "<|video_pad|>" + video_after)
        + "{%- else -%}"
        + place
        + "{{- part if part is string else part['text'] -}}"
        "{%- endif -%}{%- endfor -%}" + place
    )
    representation = (
        "{%- if ns.media -%}"
        + _literal(prompt.representation.get("multimodal", ""))
        + "{%- else -%}"
        + _literal(prompt.representation.get("text", ""))
        + "{%- endif -%}"
    )
    fields = {
        "{system}": _literal(prompt.system),
        "{instruction}": written,
        "{content}": content,
        "{representation}": representation,
    }
    body = ""
    rest = prompt.template
    while rest:
        at, field = min(
            ((rest.find(name), name) for name in fields if name in rest), default=(len(rest), "")
        )
        body += _literal(rest[:at]) + fields.get(field, "")
        rest = rest[at + len(field) :]
    return _GATHER + body + "\n"


_GATHER = """\
{%- set ns = namespace(instruction='', parts=[], placed=false, media=false) -%}
{%- for message in messages -%}
{%- set parts = [message['content']] if message['content'] is string else message['content'] -%}
{%- for part in parts -%}
{%- if message['role'] == 'system' -%}
{%- set ns.instruction = ns.instruction + (part if part is string else part['text']) -%}
{%- else -%}
{%- set ns.parts = ns.parts + [part] -%}
{%- if part is not string and part['type'] != 'text' -%}{%- set ns.media = true -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""


def _literal(text: str) -> str:
    """Text as a Jinja output statement that no whitespace control can touch."""
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""
