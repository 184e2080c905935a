"""`soup`: several model folders in, one out (RzenEmbed 3.4.5, Qwen3-Embedding 3.2).

    members -> same settings? same tensors? -> weights -> tensor by tensor -> card -> model folder

Members come from the last stage with several seeds, mixtures or checkpoints. Tensors are read,
merged in float32 and written one at a time, so memory holds a tensor of each member and no model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmembed.encoder.checkpoint import DESCRIPTION_FILE, read_description, write_description
from mmembed.encoder.encoder import EncoderConfig
from mmembed.encoder.identity import EXTRA_TENSORS_FILE
from mmembed.encoder.reranker_model import RerankerConfig
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.processor import InputConfig
from mmembed.soup.adapters import (
    CONFIG_FILE,
    read_adapter,
    refuse_other_adapters,
    write_adapter,
    write_merged,
)
from mmembed.soup.card import Results, compare, write_card
from mmembed.soup.folders import aside_of, copy_side_files, new_folder, refuse_folders
from mmembed.soup.greedy import choose_greedily
from mmembed.soup.members import (
    extra_tensors,
    fingerprint_of,
    refuse_other_settings,
    refuse_other_tensors,
    short_names,
)
from mmembed.soup.methods import cocktail_weights, mean, normalised, slerp_fold
from mmembed.soup.tensors import TensorFolder, refuse_nonfinite, write_tensors

__all__ = ["METHODS", "Method", "soup"]

Method = Literal["linear", "slerp", "greedy", "cocktail", "lora"]
METHODS: tuple[str, ...] = get_args(Method)

Blend = Callable[[Iterable[Tensor]], Tensor]
_OPTIONS = {  # which options each method reads
    "linear": {"weights"},
    "slerp": {"t"},
    "greedy": {"score"},
    "cocktail": {"losses", "temperature"},
    "lora": {"weights", "base"},
}


@dataclass
class _Plan:
    """What a method has decided: the share of each member and how a tensor is made of theirs."""

    shares: list[float]
    blend: Blend
    settings: dict[str, Any] = field(default_factory=dict)  # for the card
    measured: list[dict[str, float]] | None = None  # of each member, for the card


def soup(
    checkpoints: Sequence[str | Path],
    *,
    output: str | Path,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    t: float | None = None,
    score: Callable[[Path], float] | None = None,
    losses: Sequence[float] | Callable[[Path], float] | None = None,
    temperature: float | None = None,
    base: str | Path | None = None,
    evaluate: Callable[[Path], Results] | None = None,
    show_progress: bool = False,
) -> Path:
    """Merge model folders into one and write down what it is made of (soup.json, README.md).

    Args:
        output: must not exist, or be a model folder that will be replaced.
        method: `linear`: weighted mean. `slerp`: see `methods.slerp_fold`. `greedy`: the uniform
            mean of the members that help. `cocktail`: mean weighted by losses. `lora`: adapter
            folders, averaged by their products.
        weights: linear, lora: one for each checkpoint, normalised to sum 1; uniform if None.
        t: slerp of two members: how far to go from the first to the second, in [0, 1]; 0.5 if
            None.
        score: greedy: a development metric of a model folder; higher is better.
        losses: cocktail: of each checkpoint, or a function of a model folder.
        temperature: cocktail: of the softmax over losses; 5 if None.
        base: lora: the model to add the soup to. None keeps it an adapter, whose rank is the sum
            of the ranks.
        evaluate: results of a folder, {task: {metric: value}}, higher is better. Called for every
            member and for the soup; their differences go into the card.

    Raises:
        ConfigError: no checkpoints, an unknown method, or options that it does not take.
        CheckpointError: members that do not fit together, naming the tensor or setting, or a
            tensor with NaN or infinity.
    """
    folders, output = [Path(checkpoint) for checkpoint in checkpoints], Path(output)
    given = {
        "weights": weights,
        "t": t,
        "score": score,
        "losses": losses,
        "temperature": temperature,
        "base": base,
    }
    _refuse_options(method, given, len(folders))
    shares = normalised(weights, len(folders))
    refuse_folders(folders, output)
    if method == "lora":
        return _soup_adapters(
            folders,
            output,
            shares=shares,
            base=None if base is None else Path(base),
            evaluate=evaluate,
            show_progress=show_progress,
        )
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            raise CheckpointError(f"{folder} is an adapter; souping adapters is the method lora")
    for folder in folders[1:]:
        refuse_other_settings(folders[0], folder)
    members = [TensorFolder(folder) for folder in folders]
    refuse_other_tensors(members)
    if method == "slerp":
        shares = shares if t is None else [1 - t, t]
        plan = _Plan(shares, partial(slerp_fold, t=t), {} if t is None else {"t": t})
    elif method == "greedy":
        assert score is not None
        plan = _greedy_plan(members, score, output, show_progress)
    elif method == "cocktail":
        assert losses is not None
        plan = _cocktail_plan(folders, losses, 5.0 if temperature is None else temperature)
    else:
        plan = _linear_plan(shares)
    with new_folder(output) as aside:
        _write_model(aside, members, plan, show_progress)
        _finish(aside, output, folders, method, plan, evaluate)
    return output


def _refuse_options(method: str, given: dict[str, Any], count: int) -> None:
    if method not in METHODS:
        raise ConfigError(f"soup method {method!r} is unknown; methods: {', '.join(METHODS)}")
    if count == 0:
        raise ConfigError("a soup needs at least one checkpoint")
    for name, value in given.items():
        if value is not None and name not in _OPTIONS[method]:
            takers = [taker for taker in METHODS if name in _OPTIONS[taker]]
            raise ConfigError(f"{name} is not for the method {method}, but for {', '.join(takers)}")
    for name in ("score", "losses"):
        if name in _OPTIONS[method] and given[name] is None:
            raise ConfigError(f"the method {method} needs {name}")
    t = given["t"]
    if t is not None and (count != 2 or not 0 <= t <= 1):
        raise ConfigError(f"t is {t} for {count} checkpoints; it goes from one to another, 0 to 1")


# -- what each method decides -----------------------------------------------------------------


def _linear_plan(shares: list[float]) -> _Plan:
    return _Plan(shares, partial(mean, weights=shares))


def _cocktail_plan(
    folders: Sequence[Path],
    losses: Sequence[float] | Callable[[Path], float],
    temperature: float,
) -> _Plan:
    found = [losses(folder) for folder in folders] if callable(losses) else list(losses)
    if len(found) != len(folders):
        raise ConfigError(f"{len(found)} losses for {len(folders)} checkpoints; give one each")
    plan = _linear_plan(cocktail_weights(found, temperature))
    plan.settings = {"temperature": temperature}
    plan.measured = [{"loss": float(loss)} for loss in found]
    return plan


def _greedy_plan(
    members: Sequence[TensorFolder],
    score: Callable[[Path], float],
    output: Path,
    show_progress: bool,
) -> _Plan:
    @contextmanager
    def candidate(chosen: Sequence[int]) -> Iterator[Path]:
        folder = aside_of(output)
        plan = _linear_plan([1 / len(chosen)] * len(chosen))
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_model(folder, [members[n] for n in chosen], plan, show_progress)
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder)

    result = choose_greedily([member.folder for member in members], score, candidate)
    share = 1 / len(result.chosen)
    plan = _linear_plan([share if n in result.chosen else 0.0 for n in range(len(members))])
    plan.settings = {"score": result.score}
    plan.measured = [{"score": each} for each in result.scores]
    return plan


# -- writing ----------------------------------------------------------------------------------


def _write_model(
    folder: Path, members: Sequence[TensorFolder], plan: _Plan, show_progress: bool
) -> None:
    """Write the merged weights with the first member's files around them."""
    first = members[0]
    copy_side_files(first.folder, folder)
    with _progress(show_progress, f"souping {len(members)} models", len(first.layouts)) as advance:

        def make(name: str) -> Tensor:
            advance(1)
            return _blended(members, name, plan.blend)

        for file, names in first.files.items():
            write_tensors(folder / file, {name: first.layouts[name] for name in names}, make)
    _write_extra(folder, [member.folder for member in members], plan.shares)
    _describe(folder)


def _blended(members: Sequence[TensorFolder], name: str, blend: Blend) -> Tensor:
    tensors = (refuse_nonfinite(member.read(name), member.folder, name) for member in members)
    if members[0].is_floating(name):
        return blend(tensors)
    first = next(tensors)
    for member, tensor in zip(members[1:], tensors, strict=True):
        if not torch.equal(first, tensor):
            raise CheckpointError(
                f"{member.folder}: {name} holds integers that differ from those of "
                f"{members[0].folder}; they have no mean"
            )
    return first


def _soup_adapters(
    folders: Sequence[Path],
    output: Path,
    *,
    shares: list[float],
    base: Path | None,
    evaluate: Callable[[Path], Results] | None,
    show_progress: bool,
) -> Path:
    adapters = [read_adapter(folder) for folder in folders]
    refuse_other_adapters(adapters)
    for folder in folders[1:]:
        refuse_other_settings(folders[0], folder, ("the input settings", "the encoder settings"))
    plan = _linear_plan(shares)
    if base is not None:
        refuse_folders([base], output)
        plan.settings = {"base": fingerprint_of(base)}
    around = folders[0] if base is None else base
    model = None if base is None else TensorFolder(base)
    total = 2 * len(adapters[0].modules) if model is None else len(model.layouts)
    with new_folder(output) as aside:
        copy_side_files(around, aside)
        with _progress(show_progress, f"souping {len(folders)} adapters", total) as advance:
            if model is None:
                write_adapter(aside, adapters, shares, advance)
            else:
                write_merged(aside, model, adapters, shares, advance)
        _write_extra(aside, folders, shares)
        _describe(aside)
        _finish(aside, output, folders, "lora", plan, evaluate)
    return output


def _write_extra(folder: Path, members: Sequence[Path], shares: Sequence[float]) -> None:
    tensors = extra_tensors(members, shares)
    if tensors:
        save_file(tensors, folder / EXTRA_TENSORS_FILE)


def _describe(folder: Path) -> None:
    """Renew the fingerprint, which is that of the member whose files were copied."""
    description = read_description(folder)
    if not description:
        return  # members are plain Hugging Face folders, so is their soup
    if not (folder / "config.json").is_file():  # an adapter alone is no embedding space
        text = json.dumps({**description, "fingerprint": None}, indent=2, ensure_ascii=False)
        (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
        return
    write_description(
        folder,
        InputConfig(**description["inputs"]),
        (RerankerConfig if description.get("kind") == "reranker" else EncoderConfig)(
            **description.get("encoder", {})
        ),
        embedding_dimension=description["embedding_dimension"],
        recipe=description.get("recipe"),
    )


def _finish(
    aside: Path,
    output: Path,
    folders: Sequence[Path],
    method: str,
    plan: _Plan,
    evaluate: Callable[[Path], Results] | None,
) -> None:
    measured = plan.measured or [{} for _ in folders]
    members = [
        {"name": name, "fingerprint": fingerprint_of(folder), "weight": share, **found}
        for name, folder, share, found in zip(
            short_names(folders), folders, plan.shares, measured, strict=True
        )
    ]
    card: dict[str, Any] = {
        "method": method,
        "settings": plan.settings,
        "fingerprint": fingerprint_of(aside),
        "members": members,
    }
    if evaluate is not None:
        card["results"] = compare([evaluate(folder) for folder in folders], evaluate(aside))
    write_card(aside, card, title=output.name)


def _progress(show: bool, label: str, total: int) -> Any:
    if not show:
        return nullcontext(lambda count: None)
    from mmembed.progress import progress_bar

    return progress_bar(label, total, unit="tensors")
