"""Frames of speech, and what encoders say of each: phones, ABX, units."""
