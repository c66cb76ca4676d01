"""One HTML file that shows a run: its figures, and every sample."""
