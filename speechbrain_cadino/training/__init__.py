"""Record, checkpoints, schedules and plots: all around the training step."""
