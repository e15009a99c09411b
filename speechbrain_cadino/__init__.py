"""Self-supervised speaker verification on top of SpeechBrain."""

__version__ = "0.3.0.dev0"
