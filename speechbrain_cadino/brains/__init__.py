"""What one training step is: subclasses of SpeechBrain's Brain."""
