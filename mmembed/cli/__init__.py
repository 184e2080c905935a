"""The command line: a thin skin over the library, one module for each command."""

from mmembed.cli.application import app, main

__all__ = ["app", "main"]
