"""Fetches the public data sets from their published addresses, for the tests and for runs without a network.

    python -m scripts.fetch_data FOLDER        then LM_EVAL_ENSEMBLE_DATA=FOLDER

Addresses and sha256 are those of ``lm_eval_ensemble.data`` and ``lm_eval_ensemble.questions``: what is not the published file
is refused. A file that is there is checked and kept. Prints a line per file; ends with 1 if one could not be had.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lm_eval_ensemble.data import SETS, Source, fetch
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.questions import QUESTION_SETS

__all__ = ["main", "published"]


def published() -> list[Source]:
    """Every file that has a public address, once, in the order of the sets."""
    sources = [source for infill in SETS.values() for source in infill.sources]
    sources += [source for questions in QUESTION_SETS.values() for source in questions.sources]
    return list({source.path: source for source in sources if source.url}.values())


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    folder, failed = Path(arguments[0]).expanduser(), 0
    for source in published():
        there = (folder / source.path).is_file()
        try:
            size = len(fetch(source, folder))
            print(f"{source.path}: {size:,} bytes, sha256 right{' (was there)' if there else ''}", flush=True)
        except (DataError, OSError) as error:
            failed += 1
            print(f"{source.path}: NOT fetched from {source.url}: {error}", flush=True)
    print(f"{len(published()) - failed} of {len(published())} files are in {folder}.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
