"""``lm-eval-ensemble select``: every selector over the stored records of a run, without a model."""
