from __future__ import annotations

import pytest

from lm_eval_ensemble.diffusion.length import DEFAULT_FIXED, Length, LengthPolicy
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.types import InfillRequest


def choose(policy: str | None, reference: str | None = None, hint: str | None = None, limit: int = 64) -> Length:
    request = InfillRequest("p", "s", task="t", doc_id=3, reference=reference, hint=hint)
    return LengthPolicy.parse(policy, limit).choose(request, len)


def test_policies() -> None:
    assert choose("oracle", reference="abc") == Length(3, "oracle")
    assert choose("ar", reference="abc", hint="abcde") == Length(5, "ar")
    assert choose("fixed:7") == Length(7, "fixed:7")


def test_default_prefers_the_reference_then_the_partner() -> None:
    assert choose(None, reference="abc", hint="abcde") == Length(3, "oracle")
    assert choose(None, hint="abcde") == Length(5, "ar")
    assert choose(None) == Length(DEFAULT_FIXED, f"fixed:{DEFAULT_FIXED}")


def test_lengths_are_bounded() -> None:
    assert choose("oracle", reference="x" * 99) == Length(64, "oracle")
    assert choose("ar", hint="") == Length(1, "ar")


@pytest.mark.parametrize(("policy", "word"), [("oracle", "no reference"), ("ar", "no other member")])
def test_what_is_missing_is_said_with_its_place(policy: str, word: str) -> None:
    with pytest.raises(ConfigError, match=f"length={policy}, task 't', document 3.*{word}"):
        choose(policy)
