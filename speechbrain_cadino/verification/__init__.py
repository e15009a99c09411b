"""Trial lists, scores, error rates and baselines of speaker verification."""
