"""Rows of files: JSON lines, parquet, arrow, csv, archives, in the layouts of the hub."""
