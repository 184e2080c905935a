"""Models that are judged: ours, and those of other libraries behind the same few methods."""
