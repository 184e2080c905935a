"""Recipes: strict YAML to typed models; nothing is built or opened here."""
