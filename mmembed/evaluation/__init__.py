"""Judging: plans, rankings, metrics and reports."""
