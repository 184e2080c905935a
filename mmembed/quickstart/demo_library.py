"""What `mmembed demo --quickstart` shows: the trained model over a library that is written first.

pipeline.run -> model; DemoEntry -> library -> index_folder -> index with example questions
"""

from __future__ import annotations

from pathlib import Path

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError
from mmembed.quickstart import pipeline
from mmembed.quickstart.experiment import load_experiment
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from mmembed.search.segments import Segmentation

__all__ = ["is_trained", "model_folder", "prepare_index"]


def is_trained(output: Path) -> bool:
    """Whether a quickstart has ended in this folder; its report is the last thing it writes."""
    return (output / pipeline.REPORT_FILE).is_file() and model_folder(output).is_dir()


def model_folder(output: Path) -> Path:
    return output / "run" / "model"


def prepare_index(
    output: Path, embedder: Embedder, *, experiment: str = "quickstart"
) -> ExactIndex:
    """The index of the library, made where it is missing or another model's.

    Raises:
        ConfigError: the experiment has no library for a demo.
    """
    entry = load_experiment(experiment).demo
    if entry is None:
        raise ConfigError(f"the experiment {experiment!r} has no `demo`: no library to show")
    index = pipeline.fresh_index(output / "emoji.index", embedder)
    if "examples" in index.settings:
        return index
    folder = output / "emoji"
    written = entry.library.call(folder)
    index_folder(
        folder,
        embedder=embedder,
        index=index,
        segmentation=Segmentation.of(entry.segmentation),
        decoder=embedder.processor.decoder,
        model=str(model_folder(output).resolve()),
        show_progress_bar=True,
    )
    with index.writing():
        index.settings["examples"] = written.examples
        index.commit()
    return index
