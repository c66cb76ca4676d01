from __future__ import annotations

import inspect

from lm_eval_ensemble import errors
from lm_eval_ensemble.errors import EnsembleError, did_you_mean, missing_weights


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert len(kinds) > 4
    for kind in kinds:
        assert issubclass(kind, EnsembleError)
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


def test_did_you_mean_names_the_nearest_and_all() -> None:
    assert did_you_mean("fm", ["fim", "causal"]) == " Did you mean 'fim'? Known: causal, fim."
    assert did_you_mean("zzz", ["fim"]) == " Known: fim."


def test_missing_weights_say_what_to_do() -> None:
    text = str(missing_weights("a/b", OSError("no such repository\nlong explanation")))
    assert "Hub model 'a/b'" in text
    assert "no such repository" in text
    assert "long explanation" not in text
    assert "preset=tiny" in text
