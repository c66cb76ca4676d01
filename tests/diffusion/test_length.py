from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.diffusion.length import DEFAULT_FIXED, FIXED_MEAN, LengthChoice, LengthPolicy, Search
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.types import InfillRequest

POLICIES = [
    "oracle",
    "ar",
    "ar:0",
    "ar:3",
    "fixed:7",
    "fixed:900",
    "fixed-mean",
    "search",
    "grid",
    "grid:2+ar+99",
    "grid:4,8",
    None,
]


def choose(policy: str | None, limit: int = 64, **fields: Any) -> LengthChoice:
    request = InfillRequest("p", "s", task="t", doc_id=3, **fields)
    return LengthPolicy.parse(policy, limit).candidates(request, len)


def test_policies() -> None:
    assert choose("oracle", reference="abc") == LengthChoice("oracle", [3])
    assert choose("ar", reference="abc", hint="abcde") == LengthChoice("ar", [5], 5)
    assert choose("fixed:7") == LengthChoice("fixed:7", [7])
    assert choose("ar:2", hint="abcde") == LengthChoice("ar:2", [3, 4, 5, 6, 7], 5)
    assert choose("search") == LengthChoice("search", [1, 2, 4, 8, 16, 32, 64])


@pytest.mark.parametrize("policy", ["grid:4+2+ar", "grid:4,2,ar"])
def test_a_grid_offers_exactly_its_lengths_one_per_variant(policy: str) -> None:
    parsed = LengthPolicy.parse(policy, 64)
    assert (parsed.offers, parsed.wants_partner, parsed.is_averaged) == (3, True, False)
    assert [choose(policy, hint="abcdefg", variant=v).lengths for v in range(3)] == [[4], [2], [7]]


def test_fixed_mean_is_the_five_published_lengths() -> None:
    parsed = LengthPolicy.parse("fixed-mean", 64)
    assert (parsed.offers, parsed.wants_partner, parsed.is_averaged) == (5, False, True)
    assert tuple(choose("fixed-mean", variant=v).lengths[0] for v in range(5)) == FIXED_MEAN == (4, 8, 16, 32, 64)


def test_default_prefers_the_reference_then_the_partner() -> None:
    assert choose(None, reference="abc", hint="abcde").mode == "oracle"
    assert choose(None, hint="abcde") == LengthChoice("ar", [5], 5)
    assert choose(None) == LengthChoice(f"fixed:{DEFAULT_FIXED}", [DEFAULT_FIXED])


@given(
    policy=st.sampled_from(POLICIES),
    limit=st.integers(1, 512),
    own=st.integers(1, 512) | st.none(),
    hint=st.text("ab \n", max_size=90),
    reference=st.text("ab", max_size=90),
    data=st.data(),
)
def test_every_length_is_within_the_limits(
    policy: str | None, limit: int, own: int | None, hint: str, reference: str, data: st.DataObject
) -> None:
    parsed = LengthPolicy.parse(policy, limit)
    variant = data.draw(st.integers(0, parsed.offers - 1))
    request = InfillRequest("p", "s", hint=hint, reference=reference, variant=variant)
    found = parsed.candidates(request, len, own).lengths
    assert found
    assert found == sorted(set(found))
    assert 1 <= found[0] <= found[-1] <= min(limit, own or limit)


@given(hint=st.text("ab \n", max_size=90), limit=st.integers(1, 80))
def test_no_neighbours_is_the_partners_length(hint: str, limit: int) -> None:
    assert choose("ar:0", limit, hint=hint) == choose("ar", limit, hint=hint)


@pytest.mark.parametrize("hint", ["", " \n", "x" * 64, "x" * 99])
def test_a_blank_or_endless_answer_of_the_partner_is_not_believed(hint: str) -> None:
    found = choose("ar:1", hint=hint)
    assert {2, 4, 8, 16} < set(found.lengths)
    assert found.centre is None


def test_distance_from_the_partner_costs_half_a_nat_a_token() -> None:
    choice = LengthChoice("ar:2", [3, 4, 5, 6, 7], 5)
    assert choice.best({3: 0, 4: 0, 5: 0, 6: 0, 7: 0}) == 5
    assert choice.best({3: 0, 4: 0, 5: 0, 6: 0.4, 7: 0.9}) == 5
    assert choice.best({3: 0, 4: 0, 5: 0, 6: 0.6, 7: 0.9}) == 6
    assert choice.best({3: 0, 4: 0, 5: 0, 6: 0.6, 7: 1.2}) == 7


@given(limit=st.integers(1, 512), peak=st.integers(1, 512))
def test_the_search_ends_and_finds_the_top_of_a_hill(limit: int, peak: int) -> None:
    search, asked = Search(limit), 0
    while search.wanted:
        assert all(1 <= n <= limit and n not in search.values for n in search.wanted)
        asked += len(search.wanted)
        search.tell({n: -abs(math.log(n / peak)) for n in search.wanted})
    assert asked == len(search.values) <= 5 * math.log2(limit) + 3
    assert search.best == min(peak, limit)


@given(st.lists(st.floats(-5, 5), min_size=256, max_size=256))
def test_the_search_ends_on_any_landscape(values: list[float]) -> None:
    search = Search(256)
    while search.wanted:
        search.tell({n: values[n - 1] for n in search.wanted})
    assert search.values[search.best] == max(search.values.values())


@pytest.mark.parametrize(("policy", "word"), [("oracle", "no reference"), ("ar", "no other member"), ("grid:ar+4", "no other")])
def test_what_is_missing_is_said_with_its_place(policy: str, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"length={policy.partition(':')[0]}, task 't', document 3.*{word}"):
        choose(policy)
