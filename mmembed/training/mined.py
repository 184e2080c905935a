"""Hard negatives that a teacher finds for the rows of a stage, before its first step.

The teacher is the model that enters the stage, unless `mining.teacher` names another. Every process
mines a part; `<stage>/mined/` gets the rows, which the stage then trains on in place of its data,
and the stage's fingerprint when they are complete: a run that goes on with equal settings reads
what is there. Graded pairs are not mined. Soup members share the vectors of their teacher. Stages
with `mining` one after another mine anew each time, as ANCE (arXiv 2007.00808) does.
"""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.baselines.loading import load_model
from mmembed.baselines.our_model import OurModel
from mmembed.config.mining import StageMiningConfig
from mmembed.config.stage import DataConfig, StageConfig, first_phrasing
from mmembed.data.mixture import Mixture
from mmembed.data.opening import OpenedDataset
from mmembed.data.row_files import RowFile
from mmembed.data.selected_rows import SelectedRows
from mmembed.encoder.embedder import Embedder
from mmembed.inputs.media import MediaPolicy
from mmembed.mining.job import mine
from mmembed.mining.teaching import file_names
from mmembed.store.durable import write_atomically
from mmembed.training import distributed

__all__ = ["mine_for_stage"]

logger = logging.getLogger(__name__)

FOLDER = "mined"
_VECTORS = "mining-vectors"  # beside the stages; a space of its own for each teacher
_READER = f"{RowFile.__module__}:{RowFile.__name__}"


def mine_for_stage(
    stage: StageConfig,
    mixture: Mixture,
    *,
    start: Path,
    folder: Path,
    seed: int,
    device: str,
    overrides: dict[str, Any],
    fingerprint: str,
    media: MediaPolicy | None = None,
    show_progress_bar: bool | None = None,
) -> StageConfig:
    """The stage with the rows that were mined in place of its data. Called by all processes.

    Args:
        mixture: of the stage; rows that a cap leaves out are not mined.
        start: the model folder that the stage starts from.
        folder: of the stage.
        overrides: the recipe's settings that replace those of `start`.
        fingerprint: of all that decides the stage.

    Raises:
        ConfigError, DataError: data or settings cannot be mined.
    """
    config = stage.mining
    assert config is not None
    opened = _opened(stage, mixture)
    out = folder / FOLDER
    mark = out / "fingerprint"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint:
        with closing(_teacher(config, start, device, overrides, media)) as encoder:
            report = mine(
                list(opened.values()),
                encoder,
                config,
                out,
                seed=seed,
                store=folder.parent / _VECTORS,
                part=(distributed.process_rank(), distributed.world_size()),
                show_progress_bar=show_progress_bar,
            )
        if report.is_complete:
            logger.info("%s: mined %s", folder.name, report.counts)
    distributed.wait_for_all()
    if distributed.is_main_process():
        write_atomically(mark, fingerprint.encode())
    data = list(stage.data)
    for number, name in zip(opened, file_names(list(opened.values())), strict=True):
        data[number] = _mined(data[number], opened[number].name, out / f"{name}.jsonl")
    return stage.model_copy(update={"mining": None, "data": tuple(data)})


def _opened(stage: StageConfig, mixture: Mixture) -> dict[int, OpenedDataset]:
    """What is mined, by its place among the data of the stage."""
    opened = {}
    for number, (entry, config) in enumerate(zip(mixture.entries, stage.data, strict=True)):
        if stage.mining_of(mixture.loss(entry.group)) is None:
            continue
        rows = entry.adapter
        if entry.cap is not None and entry.cap < len(rows):
            rows = SelectedRows(rows, mixture.kept_rows(number).tolist())
        opened[number] = OpenedDataset(
            entry.name,
            rows,
            config.adapter,
            config.arguments,
            query_instruction=first_phrasing(entry.query_instruction),
            document_instruction=first_phrasing(entry.document_instruction),
        )
    return opened


def _mined(entry: DataConfig, name: str, file: Path) -> DataConfig:
    return entry.model_copy(
        update={
            "adapter": _READER,
            "arguments": {"path": str(file), "name": name},
            "name": name,
            "cap": None,
        }
    )


def _teacher(
    config: StageMiningConfig,
    start: Path,
    device: str,
    overrides: dict[str, Any],
    media: MediaPolicy | None,
) -> ItemEncoder:
    if config.teacher is not None:
        return load_model(config.teacher, device=device)
    embedder = Embedder.from_pretrained(start, device=device, media=media, **overrides)
    return OurModel(embedder, name=str(start))
