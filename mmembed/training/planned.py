"""What a stage will train on: how many steps, and the batches of its first epoch by group.

For the planner; the trainer takes batches as they come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmembed.config.mining import MiningConfig
from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.adapter import DatasetAdapter
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import BatchSampler, GlobalBatch
from mmembed.data.selected_rows import SelectedRows
from mmembed.errors import InputError
from mmembed.training.heldout import checked_pools
from mmembed.training.stages import stage_mixture
from mmembed.training.trainer import count_steps
from mmembed.types import ContrastiveExample, MultimodalInput, Text

__all__ = ["Planned", "planned_runs"]

_UNREADABLE = MultimodalInput((Text("unreadable"),))


@dataclass(frozen=True)
class Planned:
    """Runs that differ in seed and length only.

    Args:
        name, stage, seed, mixture: of the first run; so are `batches`, those of its first epoch
            that will be trained on, by group.
        steps: of each run, by its folder.
        epoch_steps: batches in an epoch.
    """

    name: str
    stage: StageConfig
    seed: int
    steps: dict[str, int]
    epoch_steps: int
    mixture: Mixture
    batches: dict[str, list[GlobalBatch]]

    def share(self, group: str) -> float:
        """Of the steps."""
        return len(self.batches[group]) / sum(map(len, self.batches.values()))

    def mean_rows(self, group: str) -> float:
        """Of its batches."""
        return sum(len(batch.rows) for batch in self.batches[group]) / len(self.batches[group])


def planned_runs(recipe: Recipe, runs: Sequence[tuple[str, StageConfig]]) -> Planned:
    """Of runs by name; reads what they will train on and search in.

    Raises:
        ConfigError, InputError: the data of a run cannot be used, or not be searched as it says.
    """
    steps: dict[str, int] = {}
    for name, stage in reversed(runs):  # the first one is the last to be read, and kept
        seed = recipe.seed if stage.seed is None else stage.seed
        mixture = _with_negatives(stage, stage_mixture(stage, seed))
        sampler = BatchSampler(
            mixture, stage.batch_size, stage.sampling, batch_sizes=stage.batch_sizes
        )
        steps = {name: count_steps(stage, sampler), **steps}
    checked_pools(stage, seed=seed, reranker=recipe.kind == "reranker")  # reads them
    epoch = sampler.epoch_batches(0)
    batches: dict[str, list[GlobalBatch]] = defaultdict(list)
    for batch in epoch[: max(steps.values())]:
        batches[batch.group].append(batch)
    return Planned(name, stage, seed, steps, len(epoch), mixture, batches)


class _OthersAsNegatives(SelectedRows):
    """Stands in for rows that will be mined: the positives of the next rows, as many as asked."""

    def __init__(self, adapter: DatasetAdapter, mining: MiningConfig) -> None:
        super().__init__(adapter, range(len(adapter)))
        self._mining = mining

    def __getitem__(self, index: int) -> ContrastiveExample:
        example = super().__getitem__(index)
        count = self._mining.num_negatives
        negatives = tuple(self._document((index + n) % len(self)) for n in range(1, count + 1))
        scores = None
        if self._mining.scores != "none":
            scores = (0.0,) * (len(example.positives) + len(negatives))
        return replace(example, hard_negatives=negatives, negative_labels=(), scores=scores)

    def _document(self, index: int) -> MultimodalInput:
        try:
            return super().__getitem__(index).positives[0]
        except InputError:
            return _UNREADABLE


def _with_negatives(stage: StageConfig, mixture: Mixture) -> Mixture:
    entries = []
    for entry in mixture.entries:
        mining = stage.mining_of(mixture.loss(entry.group))
        if mining is not None:
            rows = _OthersAsNegatives(entry.adapter, mining)
            entry = replace(entry, adapter=rows)
        entries.append(entry)
    return Mixture(entries, seed=mixture.seed)
