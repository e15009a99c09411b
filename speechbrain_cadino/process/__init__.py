"""Files, signals, locks and errors of processes."""
