"""The synthetic corpus: voices made on the spot."""
