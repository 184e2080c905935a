"""`mmembed eval`: its commands in the order of the help."""

from __future__ import annotations

import typer

from mmembed.cli.evaluation.calibrate import calibrate
from mmembed.cli.evaluation.compare import compare
from mmembed.cli.evaluation.export_official import export_official
from mmembed.cli.evaluation.fetch import fetch
from mmembed.cli.evaluation.mteb import mteb
from mmembed.cli.evaluation.prepare import prepare
from mmembed.cli.evaluation.report import report
from mmembed.cli.evaluation.run import run
from mmembed.cli.evaluation.score import score
from mmembed.cli.evaluation.selfcheck import selfcheck
from mmembed.cli.evaluation.suites import suites
from mmembed.cli.evaluation.verify import verify

__all__ = ["evaluation"]

evaluation = typer.Typer(
    no_args_is_help=True,
    help="Judge models on suites of tasks: MMEB, mteb, nano suites.\n\n\b\n"
    "First steps:\n"
    "  mmembed eval selfcheck\n"
    "  mmembed eval suites\n"
    "  mmembed eval prepare --suite mmeb-v2 --data-root MMEB-V2 --out plan\n"
    "  mmembed eval run --suite mmeb-v2 --data-root MMEB-V2 --plan plan --model M --out results/M",
)

evaluation.command()(suites)
evaluation.command()(prepare)
evaluation.command()(run)
evaluation.command()(report)
evaluation.command()(compare)
evaluation.command()(score)
evaluation.command()(export_official)
evaluation.command()(verify)
evaluation.command()(calibrate)
evaluation.command()(selfcheck)
evaluation.command()(mteb)
evaluation.command()(fetch)
