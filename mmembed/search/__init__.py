"""Stored vectors, an exact index over them, and search: the room behind `index` and `search`."""
