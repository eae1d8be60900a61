"""Tables and databases of embeddings that products keep."""
