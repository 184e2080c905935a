"""A grid of recipe changes x data x seeds, and what its differences amount to."""
