"""From dataset adapters to batches of row numbers: adapters, mixtures, the batch sampler."""
