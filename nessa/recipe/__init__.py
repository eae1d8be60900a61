"""Recipes: their settings, their stages and systems, and the layout of exp/."""
