"""Faces beside voices: all that knows of faces."""
