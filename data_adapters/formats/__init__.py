"""Formats of files that users have: one module for each; `configs/datasets.yaml` names them."""
