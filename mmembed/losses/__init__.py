"""Training objectives on embeddings: what may be compared, what is left out, what counts more."""
