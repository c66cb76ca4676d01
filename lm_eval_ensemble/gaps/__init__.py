"""``lm-eval-ensemble gaps``: gaps cut out of a person's own code, as ``infill_file`` reads them."""
