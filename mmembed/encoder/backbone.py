"""The pretrained model behind one call: packed inputs in, post-norm token states out.

One of the two files that may name an architecture. The language-model head is never loaded or
computed. Position ids always come with the inputs, so the model's own (stateful) position logic is
never reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mmembed.encoder.attention import cumulative, use_packed_attention
from mmembed.encoder.model_files import read_json
from mmembed.encoder.prefix import share_prefix
from mmembed.encoder.tower_cache import TowerCache
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.collator import EncoderInputs
from mmembed.inputs.pictures import VisionGeometry, patch_positions
from mmembed.inputs.processor import ClipFormat

__all__ = ["Backbone", "load_backbone", "read_config", "takes_pictures"]

_TEXT = ("qwen2", "qwen3")
_VISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_SUPPORTED = _TEXT + _VISION
# How a clip enters natively. Towers that are not listed scale positions by seconds; there, clips
# go in as single frames only.
_CLIPS: dict[str, ClipFormat] = {"qwen2_vl": "grid", "qwen3_vl": "timestamps"}
# Rotary scalings that follow the longest sequence seen: a vector would depend on its neighbours.
_ROTARY_BY_LENGTH = ("dynamic", "longrope")


class Backbone(nn.Module):
    """A language model, alone or with a vision tower, without its head.

    Attributes:
        model: the transformers model; its parameter names are those of the checkpoint.
        hidden_size: width D of the token states.
        clip_format: how a clip enters natively; None when it can enter as frames only.
        sliding_window: most tokens of an item for which local layers still see all of it.
    """

    def __init__(self, model: PreTrainedModel, geometry: VisionGeometry | None) -> None:
        super().__init__()
        self.model = model
        use_packed_attention(model)
        config = model.config
        self.hidden_size: int = config.get_text_config().hidden_size
        self.image_token_id: int | None = getattr(config, "image_token_id", None)
        self.video_token_id: int | None = getattr(config, "video_token_id", None)
        self.clip_format: ClipFormat | None = _CLIPS.get(config.model_type)
        windows = [getattr(layer.self_attn, "sliding_window", None) for layer in self.layers]
        self.sliding_window: int | None = min((w for w in windows if w is not None), default=None)
        self._last_layer = _LastLayer(self.layers[-1])
        self._features: TowerCache | None = None
        assert (self.tower is None) == (geometry is None), "pictures need a tower and its geometry"
        if self.tower is None or geometry is None:
            return
        embed = self.tower.patch_embed
        embed.forward = _PatchProjection(embed.proj)
        mean, std = torch.tensor(geometry.image_mean), torch.tensor(geometry.image_std)
        repeats = geometry.temporal_patch_size * geometry.patch_size**2
        # (x / 255 - mean) / std with the constants folded the way transformers folds them
        self.register_buffer(
            "pixel_mean", (mean * 255).repeat_interleave(repeats), persistent=False
        )
        self.register_buffer("pixel_std", (std * 255).repeat_interleave(repeats), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    @property
    def tower(self) -> Any:
        """The vision tower, or None. A second attribute would give its weights a second name."""
        return getattr(self.model, "visual", None)

    @property
    def language_model(self) -> Any:
        return getattr(self.model, "language_model", self.model)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers of the language model."""
        return self.language_model.layers

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def recompute_activations(self) -> None:
        """Gradient checkpointing: keep the input of each layer and compute the layer again.

        Of both towers, without the last decoder layer: the backward pass begins there, at the
        peak of memory, so its activations would be needed at once.
        """
        again = partial(checkpoint, use_reentrant=False)
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer) and module is not self.layers[-1]:
                module.gradient_checkpointing = True
                module._gradient_checkpointing_func = again

    def keep_features(self, capacity_bytes: int) -> None:
        """From now on the vision tower sees each picture once, if inputs have `picture_keys`.

        Under one setting of autocast: features are kept in the dtype in which they came.

        Raises:
            ConfigError: there is no tower, or it is not frozen.
        """
        if self.tower is None:
            raise ConfigError("tower_cache_mb: this model has no vision tower; leave it out")
        trained = [name for name, p in self.tower.named_parameters() if p.requires_grad]
        if trained:
            raise ConfigError(
                f"tower_cache_mb keeps what a frozen vision tower gives, but {len(trained)} of its "
                f"parameters are trained, {trained[0]} for one; set freeze: [visual], or "
                "tower_cache_mb: 0"
            )
        self._features = TowerCache(capacity_bytes)

    @contextmanager
    def keeping_features(self, capacity_bytes: int) -> Iterator[None]:
        """`keep_features` inside the block, of any tower: no weight may change there.

        What `keep_features` keeps rests meanwhile: keys of one call are of no use to another.
        """
        before = self._features
        if self.tower is not None:
            self._features = TowerCache(capacity_bytes)
        try:
            yield
        finally:
            self._features = before

    def compile_layers(self) -> None:
        """Compile the layers of both towers, each by itself, for any number of tokens.

        Attention stays as it is: it groups sequences by their lengths, anew for each batch.

        Raises:
            ConfigError: this machine cannot compile for the model's device.
        """
        try:
            # the smallest graph there is; fails like any other where a compiler is missing
            torch.compile(_plus_one)(torch.zeros(2, device=self.device))
        except Exception as error:  # of the compiler's own many kinds
            raise ConfigError(
                f"compile: torch.compile does not work for {self.device} here "
                f"({str(error).splitlines()[0]}); install a C++ compiler (on a GPU also triton), "
                "or set compile: false"
            ) from error
        for layer in (*self.layers, *getattr(self.tower, "blocks", ())):
            layer.compile(dynamic=True)

    def last_token_states(self, inputs: EncoderInputs) -> Tensor:
        """Post-norm states (B, D) of each item's last token, in the model's dtype.

        The last layer's feed-forward part runs for these tokens only, and what all items begin
        with is computed once (`prefix.py`).
        """
        if self._may_share:
            visual = (self.image_token_id, self.video_token_id)
            inputs = share_prefix(inputs, visual_ids=[i for i in visual if i is not None])
        self._last_layer.rows = inputs["cu_seqlens"][1:].to(self.device).long() - 1
        try:
            return self.hidden_states(inputs)
        finally:
            self._last_layer.rows = None

    @property
    def _may_share(self) -> bool:
        # On a GPU, the gradient of a token that was copied by index is a sum in no fixed order.
        layers: Iterable[Any] = self.layers
        is_causal = all(layer.self_attn.is_causal for layer in layers)
        return is_causal and not (self.training and self.device.type == "cuda")

    def hidden_states(self, inputs: EncoderInputs) -> Tensor:
        """Post-norm states (T, D) of all tokens of the packed row, in the model's dtype."""
        device = self.device
        ids = inputs["input_ids"].to(device, non_blocking=True)
        embeds = self.model.get_input_embeddings()(ids)  # (T, D)
        deeper: dict[str, Any] = {}
        if inputs["pixel_values"] is not None:
            assert self.image_token_id is not None and self.video_token_id is not None
            seen = inputs["input_ids"]  # counted where they are: a GPU would have to be waited for
            visual = (seen == self.image_token_id) | (seen == self.video_token_id)
            features, levels = self.visual_features(inputs)  # (tokens, D)
            where = visual.nonzero().squeeze(1).to(device, non_blocking=True)
            assert len(where) == len(features), "placeholders and pictures differ"
            embeds = embeds.index_copy(0, where, features.to(embeds.dtype))
            if levels:
                deeper = {
                    "visual_pos_masks": visual.to(device, non_blocking=True).unsqueeze(0),
                    "deepstack_visual_embeds": levels,
                }
        positions = inputs["position_ids"].to(device, non_blocking=True)  # (3, T)
        borders = inputs["cu_seqlens"]
        longest = int(torch.diff(borders).max())
        output = self.language_model(
            inputs_embeds=embeds.unsqueeze(0),
            position_ids=positions[:1] if self.tower is None else positions.unsqueeze(1),
            # none is built either: transformers knows no mask for this name of attention
            attention_mask=None,
            use_cache=False,
            cu_seq_lens_q=borders,
            cu_seq_lens_k=borders,
            max_length_q=longest,
            max_length_k=longest,
            **deeper,
        )
        return output.last_hidden_state[0]

    def visual_features(self, inputs: EncoderInputs) -> tuple[Tensor, list[Tensor]]:
        """Merged features (visual tokens, D) of all pictures of the packed row.

        Also those of the tower's inner levels, to be added behind the first decoder layers; most
        towers have none.
        """
        pixels, grids, keys = inputs["pixel_values"], inputs["grid_thw"], inputs["picture_keys"]
        assert pixels is not None and grids is not None
        if self._features is None or keys is None:
            features, *levels = self._run_tower(pixels, grids)
        else:
            features, *levels = self._features.of_pictures(
                keys, pixels, grids, lambda *new: torch.stack(self._run_tower(*new)), self.device
            ).unbind()
        return features, levels

    def _run_tower(self, pixels: Tensor, grids: Tensor) -> list[Tensor]:
        """Features, then those of inner levels, of patch rows (P, patch_dim) on grids (V, 3)."""
        tower, device = self.tower, self.device
        rows = pixels.to(device, non_blocking=True).to(torch.float32, copy=True)
        rows = rows.sub_(self.pixel_mean).div_(self.pixel_std)
        dtype = tower.patch_embed.proj.weight.dtype
        # computed here, vectorised and on the CPU; the tower's own code loops over pictures
        positions = torch.from_numpy(patch_positions(grids.numpy(), tower.spatial_merge_size))
        sizes = (grids[:, 1] * grids[:, 2]).repeat_interleave(grids[:, 0])  # patches of each frame
        # a table of positions is read on the grid's device; windows are cut on the CPU
        has_table = hasattr(tower, "pos_embed")
        output = tower(
            rows.to(dtype),
            grid_thw=grids.to(device) if has_table else grids,
            position_ids=positions.to(device, non_blocking=True),
            cu_seqlens=cumulative(sizes),
            max_seqlen=int(sizes.max()),
        )
        return [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]


def _plus_one(x: Tensor) -> Tensor:
    return x + 1


class _PatchProjection:
    """The patch embedding as a matrix product: same weights, kernel equal to stride."""

    def __init__(self, conv: nn.Conv3d) -> None:
        self.conv = conv

    def __call__(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.conv.weight.flatten(1), self.conv.bias)


class _LastLayer:
    """The last decoder layer; with `rows` set, its states are computed for these tokens only.

    Every token still takes part in the attention as key and value.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.whole = layer.forward
        self.rows: Tensor | None = None
        layer.forward = self

    def __call__(self, hidden_states: Tensor, **options: Any) -> Any:
        if self.rows is None:
            return self.whole(hidden_states, **options)
        layer: Any = self.layer
        mixed, _ = layer.self_attn(
            hidden_states=layer.input_layernorm(hidden_states), **options
        )  # (1, T, D)
        states = hidden_states.index_select(1, self.rows) + mixed.index_select(1, self.rows)
        return states + layer.mlp(layer.post_attention_layernorm(states))  # (1, B, D)


def read_config(folder: Path) -> PreTrainedConfig:
    """The architecture config of a checkpoint folder, after refusing what could run code.

    Raises:
        CheckpointError: not a supported architecture, or a config that names remote code.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json; is it a model folder?")
    fields = read_json(path)
    forbidden = sorted(_remote_code_keys(fields))
    if forbidden:
        raise CheckpointError(
            f"{folder.name}/config.json asks to run code from the checkpoint "
            f"({', '.join(forbidden)}); mmembed never does"
        )
    if fields.get("model_type") not in _SUPPORTED:
        raise CheckpointError(
            f"{folder.name} is a {fields.get('model_type')!r} model; supported: "
            f"{', '.join(_SUPPORTED)}"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None) or {}
    if rotary.get("rope_type") in _ROTARY_BY_LENGTH:
        raise CheckpointError(
            f"{folder.name}/config.json asks for rotary positions of type "
            f"{rotary['rope_type']!r}, which follow the longest sequence seen, so that a vector "
            "would depend on its neighbours; use 'default', 'linear' or 'yarn'"
        )
    levels = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", ())
    if len(levels) >= text.num_hidden_layers:
        raise CheckpointError(
            f"{folder.name}/config.json has {len(levels)} vision levels for "
            f"{text.num_hidden_layers} decoder layers; there must be more layers than levels"
        )
    return config


def takes_pictures(config: PreTrainedConfig) -> bool:
    """Whether a model has a vision tower."""
    return config.model_type in _VISION


def load_backbone(
    folder: Path, geometry: VisionGeometry | None, *, dtype: torch.dtype = torch.float32
) -> Backbone:
    """Load a checkpoint folder (safetensors only), without its language-model head.

    Args:
        geometry: of the pictures; None for a model of text only.

    Raises:
        CheckpointError: no safetensors, missing or unexpected weights, unsupported architecture.
    """
    config = read_config(folder)
    if takes_pictures(config) != (geometry is not None):
        found = "has a vision tower" if geometry is None else "has no vision tower"
        raise CheckpointError(
            f"{folder.name} {found}, but its input settings say otherwise (inputs.geometry is "
            f"{'null' if geometry is None else 'given'}); they belong to different models"
        )
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder} holds no readable model.safetensors ({type(error).__name__}); other "
            "formats are not loaded. Copy or download the folder again"
        ) from error
    missing = sorted(report["missing_keys"])
    unexpected = sorted(key for key in report["unexpected_keys"] if not key.startswith("lm_head"))
    if missing or unexpected or report.get("mismatched_keys"):
        raise CheckpointError(
            f"{folder.name}: missing weights {missing[:3]}, unexpected {unexpected[:3]}, "
            f"of another shape {sorted(map(str, report.get('mismatched_keys', [])))[:3]}; "
            "refusing to run on partly random weights"
        )
    return Backbone(model, geometry)


def _remote_code_keys(fields: Any, at: str = "") -> set[str]:
    found: set[str] = set()
    if isinstance(fields, dict):
        for key, value in fields.items():
            if key in {"auto_map", "trust_remote_code", "custom_pipelines"}:
                found.add(at + key)
            found |= _remote_code_keys(value, f"{at}{key}.")
    elif isinstance(fields, list):
        for value in fields:
            found |= _remote_code_keys(value, at)
    return found
