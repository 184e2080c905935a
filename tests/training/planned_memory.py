"""`python -m tests.training.planned_memory CHECKPOINT`: a plan, then steps that it foresaw.

In a process of its own, as a user plans: where others have run before, the heap has room that a
step takes without growing, and a line through such steps is too flat.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmembed.training.cores import cores_left_by
from mmembed.training.forecast import HEADROOM, settings_of
from mmembed.training.micro_steps import Workbench
from mmembed.training.planned import planned_runs
from mmembed.training.planner import plan
from tests.training.test_planner import LONG, recipe, stage


def measured(checkpoint: Path) -> dict[str, Any]:
    """Growth above rest, [predicted, observed] bytes; and how the advised chunks went."""
    settings = recipe(checkpoint, stage(LONG))
    (found,) = plan(settings, cpu=True).stages
    line, check = found.lines[0], found.check
    assert line is not None
    runs = planned_runs(settings, [("stage1", settings.stages[0])])
    bench = Workbench(
        settings, runs.stage, runs.mixture, Accelerator(cpu=True), media=None, seed=0, total_steps=5
    )
    rows = bench.prepare(runs.batches["long"][0])
    bench.step(rows.dearest(500), chunk_tokens=250, purpose="warm-up")
    most, rest = sum(rows.costs), bench.meter.begin()
    chunks = []
    for chunk in (most // 6, most // 3):
        assert chunk not in {step.chunk_cost for step in found.micro_steps}
        step = bench.step(rows, chunk_tokens=chunk, purpose="memory")
        predicted = line.peak(step.chunk_cost, step.num_chunks) - line.rest_bytes
        chunks.append([predicted, step.peak_bytes - rest])
    advised = settings_of(
        bench.stage,
        {False: line},
        cost=found.largest_cost,
        longest=found.longest_cost,
        memory_bytes=round(line.peak(found.largest_cost // 3, 3) / HEADROOM),
        data_bytes=0,
    )[1]
    last = bench.step(rows, chunk_tokens=advised.chunk_tokens, purpose="check")
    bench.close()
    return {
        "chunks": chunks,
        "check": [check.predicted_bytes - line.rest_bytes, check.observed_bytes - line.rest_bytes],
        "check_num_chunks": check.num_chunks,
        "largest_cost": found.largest_cost,
        "check_cost": check.cost,
        "advised": advised.chunk_tokens,
        "advised_num_chunks": last.num_chunks,
        "advised_peak": last.peak_bytes,
        "memory": line.peak(found.largest_cost // 3, 3) / HEADROOM,
    }


if __name__ == "__main__":
    with cores_left_by(1, Accelerator(cpu=True).device):
        measuring = measured(Path(sys.argv[1]))
    sys.stdout.write(json.dumps(measuring) + "\n")
