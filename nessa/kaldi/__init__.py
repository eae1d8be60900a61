"""Kaldi's files: arks, scps, embeddings directories and data directories."""
