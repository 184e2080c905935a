"""Servers that run a model for us, over the OpenAI-compatible HTTP interface."""
