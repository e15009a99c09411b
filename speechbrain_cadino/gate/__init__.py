"""The dynamic loss gate, whole."""
