"""Where we meet lm_eval: the only package that imports it."""
