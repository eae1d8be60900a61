"""Evaluation: kinds of trials, and identification in galleries and households."""
