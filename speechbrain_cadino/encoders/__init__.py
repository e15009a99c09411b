"""The encoder folder: loading, exporting, adopting, trusting."""
