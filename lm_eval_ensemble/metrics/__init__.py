"""Numbers from verdicts and texts. Pure functions."""
