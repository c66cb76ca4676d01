"""Grids of runs: one file describes them, ``lm-eval-ensemble sweep`` runs them, each in its own process, and resumes.

Start reading in ``command.py``: grid -> cells -> run or submit -> manifest and table.
"""
