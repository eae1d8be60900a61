"""Tables of embeddings that products keep."""
