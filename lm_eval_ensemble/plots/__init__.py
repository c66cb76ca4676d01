"""Plots and a written summary of runs, from their files alone (extra ``[plots]``). Every plot is a matplotlib ``Figure``."""
