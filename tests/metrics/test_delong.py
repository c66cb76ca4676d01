"""DeLong's interval and tests: a case by hand, the published formula, and agreement with the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtr, stdtrit
from sklearn.metrics import roc_auc_score

from lm_eval_ensemble.metrics.delong import NO_VARIANCE, TOO_FEW, _moved, auroc_interval, delong, paired, unpaired
from lm_eval_ensemble.metrics.uncertainty import auroc, auroc_within, usable


def test_by_hand() -> None:
    # wrong: 3, 1; right: 2, 0. Pairs won: 3>2, 3>0, 1>0 of 4: area 3/4. V10 = (1, 1/2), V01 = (1/2, 1):
    # both have sample variance 1/8, so the variance is (1/8)/2 + (1/8)/2 = 1/8.
    areas, covariance = delong(np.array([[3.0, 1.0, 2.0, 0.0]]), np.array([True, True, False, False]))
    assert areas[0] == 0.75
    assert covariance[0, 0] == pytest.approx(1 / 8)
    found = auroc([3, 1, 2, 0], [1, 1, 0, 0])
    # All four components are 1/4 from the area, so Welch's df is 1/(1/8 * 8)... = 2: t = 4.302653 on the logit scale.
    half = 4.302653 * math.sqrt(1 / 8) / (0.75 * 0.25)
    assert found.low == pytest.approx(1 / (1 + math.exp(half) / 3), abs=1e-6)
    assert found.high == pytest.approx(1 / (1 + math.exp(-half) / 3), abs=1e-6)


def test_against_the_definition_with_ties() -> None:
    """The quadratic definition of 1988: psi = 1 above, 1/2 equal, 0 below; S10 and S01 its sample covariances."""
    generator = np.random.default_rng(3)
    scores = generator.integers(0, 6, (3, 50)).astype(float)
    wrong = generator.random(50) < 0.4
    areas, covariance = delong(scores, wrong)
    psi = np.stack([(s[wrong][:, None] > s[~wrong]) + 0.5 * (s[wrong][:, None] == s[~wrong]) for s in scores])
    n1, n0 = int(wrong.sum()), int((~wrong).sum())
    expected = np.cov(psi.mean(axis=2)) / n1 + np.cov(psi.mean(axis=1)) / n0
    assert areas == pytest.approx([roc_auc_score(wrong, s) for s in scores])
    assert covariance == pytest.approx(expected)


def rated(right: list[int], wrong: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ratings 1 to 5 from how often each was given to either class."""
    ratings = np.arange(1.0, 6.0)
    return np.r_[np.repeat(ratings, right), np.repeat(ratings, wrong)], np.arange(sum(right) + sum(wrong)) >= sum(right)


@pytest.mark.parametrize(
    ("right", "wrong", "area", "error", "digits"),
    [
        # 109 CT images (Hanley and McNeil 1982, Radiology 143:29, table 1). Stata's manual of `roctab`, whose default is
        # DeLong's variance: area 0.8932, standard error 0.0307, 95 % interval 0.83295 to 0.95339.
        ([33, 6, 6, 11, 2], [3, 2, 2, 11, 33], 0.893171, (0.95339 - 0.83295) / 2 / 1.959964, 5e-6),
        # WFNS grades of 113 patients (Turck et al. 2010, Intensive Care Medicine 36:107), `aSAH` of R's pROC, whose own tests
        # have this area and this variance.
        ([37, 20, 3, 8, 4], [2, 12, 1, 8, 18], 0.823678861788618, math.sqrt(0.00146991470882363), 1e-12),
    ],
)
def test_published_examples(right: list[int], wrong: list[int], area: float, error: float, digits: float) -> None:
    score, label = rated(right, wrong)
    (found,), ((variance,),) = delong(score[None, :], label)
    assert found == pytest.approx(area, abs=1e-6)
    assert math.sqrt(variance) == pytest.approx(error, abs=digits)
    # Ours is on the logit scale and wider, and holds the published one's centre.
    own = auroc(score, label)
    assert own.low is not None
    assert own.high is not None
    assert own.low < found - 1.96 * error
    assert found < own.high < found + 2.2 * error


numbers = st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=2, max_size=60)


@given(numbers)
@settings(deadline=None)
def test_laws_of_the_area(pairs: list[tuple[int, bool]]) -> None:
    score, wrong = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    found = auroc(score, wrong)
    if wrong.all() or not wrong.any():
        assert found.value is None
        assert found.reason in ("all answers are wrong", "all answers are right")
        return
    assert found.value is not None
    assert found.value == pytest.approx(float(roc_auc_score(wrong, score)))
    # a monotone map changes nothing, not even the interval; a turned sign turns the area
    assert auroc(np.exp(score / 7), wrong) == found
    assert auroc(-score, wrong).value == pytest.approx(1 - found.value)
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_unknown_and_infinite_scores() -> None:
    found = auroc([None, float("nan"), math.inf, 1.0, 0.5], [1, 0, 1, 0, 0])
    assert (found.value, found.n, found.excluded) == (1.0, 3, 2)
    assert auroc([None, None], [1, 0]).reason == "no document has this score"
    assert auroc([], []).value is None
    with pytest.raises(ValueError, match="2 scores for 1 answers"):
        usable([1.0, 2.0], [True])


def test_separated_classes_get_an_exact_bound() -> None:
    # 20 disjoint pairs, all in order: (alpha/2)^(1/20)
    found = auroc(range(40), [0] * 20 + [1] * 20)
    assert (found.value, found.high, found.method) == (1.0, 1.0, "exact pairs")
    assert found.low == pytest.approx(0.025 ** (1 / 20))
    turned = auroc(range(40), [1] * 20 + [0] * 20)
    assert (turned.value, turned.low) == (0.0, 0.0)
    assert turned.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_the_bound_of_few_answers_is_a_quantile_away() -> None:
    """Where DeLong's variance is small by luck, the bound is where Hanley and McNeil's is not."""
    score, wrong = [float(k) for k in (*range(100), *range(200, 210))], [0] * 100 + [1] * 10
    score[98] = 200.5  # above one wrong answer: 999 of 1,000 pairs are in order
    found = auroc(score, wrong)
    assert found.value is not None
    assert found.low is not None
    far = found.low
    error = math.sqrt((far * (1 - far) + 108 * (2 * far**2 / (1 + far) - far**2)) / 1000)
    assert found.value - far == pytest.approx(1.959964 * error, rel=1e-5)
    assert found.method == "logit delong, score"


@pytest.mark.parametrize("area", [0.5, 0.9, 0.97])
def test_coverage_with_ten_wrong_answers(area: float) -> None:
    from scipy.special import ndtri

    generator, held, wrong = np.random.default_rng(4), 0, np.arange(400) < 10
    for _ in range(200):
        found = auroc(generator.normal(size=400) + math.sqrt(2) * float(ndtri(area)) * wrong, wrong)
        held += found.low is not None and found.high is not None and found.low <= area <= found.high
    assert held / 200 >= 0.91


def test_where_there_is_no_variance() -> None:
    assert auroc([1, 1, 1, 1], [1, 0, 1, 0]).reason == "all scores are equal"
    single = auroc([1, 3, 2], [0, 0, 1])
    assert (single.value, single.low, single.reason) == (0.5, None, "one wrong or one right answer only: no variance")


def test_coverage_of_the_interval() -> None:
    """Normal scores with a known area: about 95 % of 400 intervals hold it (3 standard errors are 3.3 points)."""
    generator = np.random.default_rng(11)
    shift = 0.9538726  # sqrt(2) * Phi^-1(0.75): the area is 0.75
    held = 0
    for _ in range(400):
        wrong = generator.random(150) < 0.4
        found = auroc(generator.normal(size=150) + shift * wrong, wrong)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.75 <= found.high
    assert 0.915 <= held / 400 <= 0.985


def test_paired_scores_of_one_run() -> None:
    generator = np.random.default_rng(5)
    wrong = generator.random(200) < 0.5
    first = generator.normal(size=200) + wrong
    second = first + 0.5 * generator.normal(size=200)
    found = paired(first, second, wrong)
    areas, covariance = delong(np.stack([first, second]), wrong)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.value == pytest.approx(areas[0] - areas[1])
    assert found.df is not None
    assert 50 < found.df < 199
    assert found.low == pytest.approx(areas[0] - areas[1] - stdtrit(found.df, 0.975) * error, abs=1e-9)
    assert found.p == pytest.approx(2 * stdtr(found.df, -abs(areas[0] - areas[1]) / error))
    # the same documents make the test sharper than two independent sets would
    loose = unpaired(first, second, wrong, wrong)
    assert found.p is not None
    assert loose.p is not None
    assert found.p < loose.p
    alike = paired(first, np.exp(first), wrong)
    assert (alike.value, alike.p) == (0.0, 1.0)


def test_two_models_on_the_same_documents() -> None:
    generator = np.random.default_rng(9)
    ease = generator.normal(size=500)
    wrong = [ease + generator.normal(size=500) > 0 for _ in range(2)]
    score = [ease + generator.normal(size=500) for _ in range(2)]
    # with one set of labels it must be DeLong's own test, up to the n/(n-1) of the variances
    same = paired(score[0], score[1], wrong[0], wrong[0].copy())
    own = paired(score[0], score[1], wrong[0])
    assert same.low == pytest.approx(own.low, rel=0.02)
    # with two, the spread is that of a bootstrap of documents
    found = paired(score[0], score[1], wrong[0], wrong[1])
    areas = [roc_auc_score(w, s) for s, w in zip(score, wrong, strict=True)]
    assert found.value == pytest.approx(areas[0] - areas[1])
    draws = []
    for _ in range(500):
        pick = generator.integers(0, 500, 500)
        draws.append(
            np.subtract(*[roc_auc_score(w[pick], s[pick]) for s, w in zip(score, wrong, strict=True)]),
        )
    assert found.value is not None
    assert found.high is not None
    assert (found.high - found.value) / 1.959964 == pytest.approx(float(np.std(draws)), rel=0.12)


def test_one_class_is_a_reason() -> None:
    zeros, ones = np.zeros(3), np.ones(3, bool)
    assert paired(zeros, zeros, ones).reason == "all answers are wrong"
    assert unpaired(zeros, zeros, ~ones, ones).reason == "all answers are right"


def test_clusters_by_hand() -> None:
    """Wrong 5 5 5 | 1 1 1, right 3 3 3 | 0 0 0: area 3/4. Without each of the four clusters it is 1/2, 1, 1, 1/2, so each moves
    it by 1/4 and the variance is 4/16, ten times DeLong's 1/40."""
    score = np.repeat([5.0, 1, 3, 0], 3)
    wrong, codes = np.arange(12) < 6, np.repeat(np.arange(4), 3)
    assert _moved(score, wrong, codes, 4).moved.tolist() == [0.25, -0.25, -0.25, 0.25]
    assert delong(score[None, :], wrong)[1][0, 0] == pytest.approx(1 / 40)
    # against a score without any information: a difference of 1/4 with a standard error of 1/2
    found = paired(score, np.zeros(12), wrong, codes=codes)
    assert (found.value, found.method) == (0.25, "paired by cluster")
    assert found.df is not None
    assert found.low == pytest.approx(0.25 - 0.5 * stdtrit(found.df, 0.975))
    assert found.p == pytest.approx(2 * stdtr(found.df, -0.5))
    # two models whose questions are of the same clusters are paired by these: here they rank alike
    same = unpaired(score, score, wrong, wrong, (codes, codes))
    assert (same.value, same.method) == (0.0, "unpaired by cluster")
    assert same.p == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 4)), min_size=4, max_size=40))
@settings(deadline=None, max_examples=50)
def test_leaving_out_a_cluster_is_what_it_says(rows: list[tuple[int, bool, int]]) -> None:
    score, wrong = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    codes = np.unique([row[2] for row in rows], return_inverse=True)[1]
    if wrong.all() or not wrong.any():
        return
    found = _moved(score, wrong, codes, int(codes.max()) + 1)
    for cluster, moved in enumerate(found.moved):
        kept = codes != cluster
        if not kept.any() or wrong[kept].all() or not wrong[kept].any():
            assert not np.isfinite(moved)
        else:
            assert moved == pytest.approx(found.area - roc_auc_score(wrong[kept], score[kept]))
    # clusters of one document are none; larger ones never make an interval narrower
    alone, known = auroc(score, wrong), auroc(score, wrong, codes)
    assert auroc(score, wrong, range(len(score))) == alone
    if None not in (known.low, known.high, alone.low, alone.high):
        assert known.high - known.low >= alone.high - alone.low - 1e-9  # type: ignore[operator]


def test_few_clusters_refuse_what_they_cannot_tell() -> None:
    score, wrong = np.array([1.0, 2, 3, 2]), np.array([True, True, False, False])
    assert auroc(score, wrong, "aaaa").low is None
    assert auroc(score, wrong, "aabc").reason == "all wrong or all right answers are in one cluster: no variance"
    # areas of 0 and 1 by disjoint pairs of clusters: one of two clusters, where there were two of four answers
    apart = auroc([3, 4, 1, 2], [1, 1, 0, 0], "aabb")
    assert apart.value == 1.0
    assert apart.low == pytest.approx(0.025)


def test_two_areas_of_one_may_differ() -> None:
    """No error of ten pairs in either: each area is above 0.025^(1/10) but for a chance of 2.5 %, so they differ by less."""
    wrong, score = np.arange(20) >= 10, np.arange(20.0)
    other = np.where(wrong, score, -score)
    least = 0.025**0.1
    for found in (paired(score, other, wrong), paired(score, other, wrong, wrong), unpaired(score, other, wrong, wrong)):
        assert (found.value, found.p, found.method) == (0.0, 1.0, "exact pairs")
        assert [found.low, found.high] == pytest.approx([least - 1, 1 - least])
    same = paired(score, 3 * score, wrong)
    assert (same.low, same.high, same.method) == (0.0, 0.0, "paired delong")
    # By cluster as many pairs as clusters allow; none where there is one.
    by = paired(score, other, wrong, codes=np.arange(20) // 5)
    assert [by.low, by.high] == pytest.approx([0.025**0.5 - 1, 1 - 0.025**0.5])
    assert paired(score, other, wrong, codes=np.zeros(20, np.intp)).low is None


def test_an_area_of_one_against_one_below_has_no_p() -> None:
    """DeLong's variance of an area of 1 is zero, which would make the other one's error that of the difference."""
    wrong = np.arange(20) >= 10
    best, other = np.arange(20.0), np.arange(20.0)
    other[10] = 4.5  # above five of the ten right answers: 5 of 100 pairs are the wrong way round
    ours, theirs = (auroc_interval(score, wrong, level=0.975) for score in (best, other))
    assert ours.low is not None
    assert theirs.low is not None
    assert theirs.high is not None
    for found in (paired(best, other, wrong), paired(best, other, wrong, wrong), unpaired(best, other, wrong, wrong)):
        assert (found.p, found.reason) == (None, NO_VARIANCE)
        assert (found.value, found.low, found.high) == pytest.approx((0.05, ours.low - theirs.high, 1 - theirs.low))


def test_with_four_answers_of_a_class_there_is_no_p_and_with_five_there_is() -> None:
    generator = np.random.default_rng(0)
    for right, tested in ((4, False), (5, True)):
        wrong = np.arange(40) >= right
        first, second = generator.normal(size=(2, 40)) + wrong
        ours, theirs = (auroc_interval(score, wrong, level=0.975) for score in (first, second))
        for found in (paired(first, second, wrong), paired(first, second, wrong, wrong), unpaired(first, second, wrong, wrong)):
            assert (found.p is not None, found.reason) == (tested, None if tested else TOO_FEW)
            if not tested:
                assert ours.low is not None
                assert theirs.high is not None
                assert found.low == pytest.approx(ours.low - theirs.high)
        assert paired(first, 3 * first, wrong).p == 1.0  # they rank alike, however few there are


def test_clustered_interval_covers() -> None:
    """30 clusters of 7, wrong and score alike in them: the interval that takes answers for independent holds in 87 %."""
    generator, held, alone = np.random.default_rng(2), 0, 0
    codes = np.repeat(np.arange(30), 7)
    for _ in range(300):
        wrong = generator.random(210) < generator.beta(1.2, 1.2, 30)[codes]
        own = generator.normal(size=30)[codes] * math.sqrt(0.3) + generator.normal(size=210) * math.sqrt(0.7)
        score = own + 0.9538726 * wrong
        known, naive = auroc(score, wrong, codes), auroc(score, wrong)
        assert known.low is not None
        assert naive.low is not None
        held += known.low <= 0.75 <= (known.high or 0)
        alone += naive.low <= 0.75 <= (naive.high or 0)
    assert held / 300 >= 0.94
    assert alone / 300 < 0.92


def test_within_documents_by_hand() -> None:
    """a: wrong 3 over right 1, under right 4: 1 of 2 pairs. b: wrong 9 equal to right 9: 1/2 of 1. c has one class."""
    score, wrong = [3, 1, 4, 9, 9, 7], [1, 0, 0, 1, 0, 1]
    found = auroc_within(score, wrong, "aaabbc")
    assert (found.value, found.clusters) == (0.5, 2)
    # a score that only knows hard documents: all there is to know between them, nothing within
    hard = auroc_within([5, 5, 1, 1, 5, 5], [1, 0, 0, 0, 1, 1], "aabbcc")
    assert hard.value == 0.5
    assert auroc([5, 5, 1, 1, 5, 5], [1, 0, 0, 0, 1, 1]).value == pytest.approx(5 / 6)
    assert auroc_within([1.0, None], [1, 0], "aa").reason == "no document has right and wrong answers"
