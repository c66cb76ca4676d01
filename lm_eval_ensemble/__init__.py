"""Ensembles of diffusion and autoregressive code infillers for lm-evaluation-harness.

Kept empty on purpose: the interpreter imports this package at every start (see ``_autoload``), so it
must cost nothing. Import what you need from its rooms, e.g. ``from lm_eval_ensemble.execution import judge``.
"""

__version__ = "0.2.0"
