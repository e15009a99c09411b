"""From signals to embeddings, in memory and in files."""
