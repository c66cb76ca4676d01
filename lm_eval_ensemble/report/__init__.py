"""Reading lm_eval's result folders. Neither torch nor lm_eval is needed to read a run."""
