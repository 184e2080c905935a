"""Model soups: one model made of the weights of several. The door is `soup`."""

from mmembed.soup.souping import soup

__all__ = ["soup"]
