"""What a server's failures look like to people, for all members that are servers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from lm_eval_ensemble.errors import HostError

__all__ = ["server_faults"]

#: the HTTP libraries of lm_eval's API models, known by name: lm_eval may be installed without them.
_LIBRARIES = ("requests", "aiohttp")


@contextlib.contextmanager
def server_faults(name: str, url: str) -> Iterator[None]:
    """What is left of a server's failures when lm_eval has asked again often enough, as one message.

    :raises HostError: instead of the errors of the HTTP libraries.
    """
    try:
        yield
    except Exception as error:
        kind = type(error)
        if kind.__module__.partition(".")[0] not in _LIBRARIES and not isinstance(error, TimeoutError | json.JSONDecodeError):
            raise
        raise HostError(
            f"{name}: the server at {url} gave no usable response ({kind.__name__}: {str(error)[:200]}). Is it running, and is "
            "base_url that of its completions? max_retries= and timeout= make lm_eval more patient."
        ) from error
