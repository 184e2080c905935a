"""What a stage will train on: how many steps, and the batches of its first epoch by group.

For the planner; the trainer takes batches as they come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import BatchSampler, GlobalBatch
from mmembed.training.heldout import checked_pools
from mmembed.training.stages import stage_mixture
from mmembed.training.trainer import count_steps

__all__ = ["Planned", "planned_runs"]


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
        mixture = stage_mixture(stage, seed)
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
