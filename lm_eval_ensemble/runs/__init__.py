"""The files of a run: found (``load``), a line written and read (``samples``, ``answer``), a document's rows (``rows``)."""
