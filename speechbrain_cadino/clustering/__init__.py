"""From embeddings to clusters: k-means, its quality, the number of clusters."""
