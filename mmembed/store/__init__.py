"""Vectors on disk by content: what names an item, files that survive a crash, the store."""
