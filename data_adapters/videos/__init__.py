"""Clips and what is said of them, in the layouts that data sets of video are published in."""
