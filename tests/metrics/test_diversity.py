"""Diversity of two outcomes against scikit-learn, and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef

from lm_eval_ensemble.metrics.diversity import Agreement, agreement


def test_by_hand() -> None:
    found = agreement([(True, True)] * 4 + [(True, False)] * 3 + [(False, True)] * 2 + [(False, False)])
    assert found == Agreement(4, 3, 2, 1)
    assert found.disagreement == pytest.approx(0.5)
    assert found.double_fault == pytest.approx(0.1)
    assert found.q == pytest.approx((4 * 1 - 3 * 2) / (4 * 1 + 3 * 2))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_kappa_and_phi_are_those_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = agreement(pairs)
    if found.kappa is not None:
        assert found.kappa == pytest.approx(cohen_kappa_score(first, second, labels=[True, False]))
    else:
        assert len({*first, *second}) == 1
    if found.phi is not None:
        assert found.phi == pytest.approx(matthews_corrcoef(first, second))
    turned = agreement([(b, a) for a, b in pairs])
    assert (turned.q, turned.disagreement, turned.double_fault) == (found.q, found.disagreement, found.double_fault)


def test_what_does_not_exist_is_none() -> None:
    assert (agreement([]).disagreement, agreement([]).kappa, agreement([]).double_fault) == (None, None, None)
    assert (Agreement(5, 0, 0, 0).q, Agreement(5, 0, 0, 0).kappa, Agreement(5, 0, 0, 0).phi) == (None, None, None)
