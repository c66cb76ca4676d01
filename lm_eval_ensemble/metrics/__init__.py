"""Numbers out of records. Pure functions; nothing here loads a model or runs code."""
