"""Training rows written by a language model: pipelines as data, run exactly once per row."""
