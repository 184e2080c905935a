"""The model: backbone, attention over packed rows, pooling, head, checkpoints, and the user API."""
