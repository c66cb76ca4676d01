"""``python -m lm_eval_ensemble``."""

from lm_eval_ensemble.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
