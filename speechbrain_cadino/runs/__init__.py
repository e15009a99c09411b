"""Whole runs: the chain of scripts and its report."""
