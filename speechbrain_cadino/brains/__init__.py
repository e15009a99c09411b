"""Brains, SpeechBrain's: each is what one training step does."""
