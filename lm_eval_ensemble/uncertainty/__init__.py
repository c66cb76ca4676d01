"""How uncertain a model was about an answer it generated: scores out of saved records, no language model needed."""
