"""Runs of mteb: our models as its models, MMEB as its tasks, its data without a network."""
