"""Training data of pictures: one module for each published layout."""
