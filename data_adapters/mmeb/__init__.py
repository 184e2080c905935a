"""The 78 data sets of the Massive Multimodal Embedding Benchmark, read from local files."""
