"""Data sources for training and tests: one file per source family, each imports only its types."""
