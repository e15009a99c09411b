"""Around the training step: record, checkpoints, schedules, plots."""
