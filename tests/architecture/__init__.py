"""The rules of the architecture and the code that proves them."""
