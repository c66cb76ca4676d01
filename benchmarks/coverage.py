"""What the intervals and tests hold of what they promise, by simulation: the share of data sets in which a 95 % interval holds
the truth, and in which a test at 5 % rejects a truth.

    python benchmarks/coverage.py [--quick] [--sets N] [--seed N]

Clusters are drawn once, with a fixed seed, from the programs of HumanEval-Infilling (164 of 1 to 29 single-line documents).
Within a cluster the chance of being right is Beta distributed with the intraclass correlation (ICC) named. ``before`` is what
stood before: Student's t on CR1 with C - 1 degrees of freedom, the percentile bootstrap of s, DeLong with normal quantiles.
Tests are simulated under their stated assumption. Sets in which nothing differs at all count like the others: they have an
interval too. ``--quick`` takes the same 4,000 sets a cell, and fewer resamples for what stood before. The last line is JSON:
over the cells of the table the lowest coverage of each interval (that of s includes the recovered share), the highest rate of
false findings, and the most often broken promise of a threshold. For the best of several scores no threshold is promised: that
line is printed for comparison and counts in no figure. ``before`` of clustered AUROCs takes the answers for independent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from lm_eval_ensemble.metrics.abstention import abstain
from lm_eval_ensemble.metrics.clustered import Spread, share_interval, spread
from lm_eval_ensemble.metrics.delong import auroc_interval, delong, paired
from lm_eval_ensemble.metrics.paired import sign_flip, simultaneous
from lm_eval_ensemble.metrics.recovered import recovered_interval

Floats = NDArray[np.float64]
#: documents of a program -> how many programs have so many (HumanEval-Infilling, single line).
SIZES = {1: 37, 2: 10, 3: 10, 4: 8, 5: 17, 6: 17, 7: 10, 8: 8, 9: 12, 10: 4, 11: 9, 12: 3, 13: 4, 14: 5, 15: 3, 16: 2}
SIZES |= {19: 1, 20: 1, 21: 1, 22: 1, 29: 1}
PROGRAMS = np.array([size for size, count in SIZES.items() for _ in range(count)])
CLUSTERS, CORRELATIONS = (10, 30, 164), (0.0, 0.1, 0.3)


def sizes(count: int) -> NDArray[np.intp]:
    """Documents of each of ``count`` programs; all of them, or a fixed draw."""
    return PROGRAMS if count == len(PROGRAMS) else np.random.default_rng(1).choice(PROGRAMS, count, replace=False)


def chances(random: np.random.Generator, mean: float, icc: float, shape: tuple[int, ...]) -> Floats:
    """Beta distributed chances of clusters, so that two documents of one correlate by ``icc``."""
    if not icc:
        return np.full(shape, mean)
    total = max(1 / icc - 1, 1e-3)
    return random.beta(total * mean, total * (1 - mean), shape)


def of_sums(sums: Floats, squares: Floats, size: NDArray[np.intp]) -> tuple[Floats, Spread]:
    """Mean and spread of S data sets, from the sums (S, C) of their clusters and the sum (S,) of squared values."""
    n = size.sum()
    mean = sums.sum(1) / n
    alone = (squares - n * mean**2) / (1 - 1 / n) ** 2
    alone = np.where(alone > 1e-9, alone, 0.0)
    return mean, spread(
        sums - mean[:, None] * size, np.broadcast_to(size, sums.shape).astype(float), alone, np.asarray(float(n))
    )


def student(sums: Floats, size: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Mean and half width as they stood before: CR1, C - 1 degrees of freedom."""
    n, count = size.sum(), len(size)
    mean = sums.sum(1) / n
    error = np.sqrt(count / (count - 1) * ((sums - mean[:, None] * size) ** 2).sum(1)) / n
    return mean, t.ppf(0.975, count - 1) * error


def scores(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float, float]]:
    for count in CLUSTERS:
        for accuracy in (0.5, 0.7, 0.9, 0.95):
            for icc in CORRELATIONS:
                size = sizes(count)
                sums = random.binomial(size, chances(random, accuracy, icc, (sets, count))).astype(float)
                mean, found = of_sums(sums, sums.sum(1), size)
                low, high = share_interval(mean, found)
                _, half = student(sums, size)
                before = float(np.mean(np.abs(mean - accuracy) <= half))
                yield (
                    f"score {accuracy}, {count} clusters, ICC {icc}",
                    before,
                    float(np.mean((low <= accuracy) & (accuracy <= high))),
                )


def differences(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float, float]]:
    """A share ``differ`` of documents differs, in favour of one side with a chance of the cluster's own, ``leaning`` on
    average. Correlation of the differences above ``differ`` does not exist."""
    for count in CLUSTERS:
        size = sizes(count)
        for differ, leaning, icc in (
            *((0.35, lean, icc) for lean in (0.5, 0.7) for icc in CORRELATIONS),
            *((0.15, lean, icc) for lean in (0.5, 0.7, 0.95) for icc in CORRELATIONS[:2]),
            *((0.033, lean, 0.0) for lean in (0.5, 0.95)),
        ):
            lean = chances(random, leaning, min(icc / differ, 0.999), (sets, count))
            discordant = random.binomial(size, differ, (sets, count))
            sums = (2.0 * random.binomial(discordant, lean) - discordant).astype(np.float64)
            mean, found = of_sums(sums, discordant.sum(1).astype(float), size)
            half = np.sqrt(found.variance) * t.ppf(0.975, found.df)
            # Where no document differs the interval is that of the share that does.
            half = np.where(discordant.sum(1) == 0, 1 - share_interval(np.ones(sets), found)[0], half)
            truth = differ * (2 * leaning - 1)
            _, old = student(sums, size)
            name = f"difference {100 * truth:+.1f} points, {100 * differ:.1f} % differ, {count} clusters, ICC {icc}"
            yield name, float(np.mean(np.abs(mean - truth) <= old)), float(np.mean(np.abs(mean - truth) <= half))


def selections(random: np.random.Generator, sets: int, resamples: int) -> Iterator[tuple[str, float, float]]:
    """s: right choices of decisive ones; the clusters of a set hold 1 to 4 decisive choices each."""
    for count, choices in ((11, 11), (10, 20), (30, 60), (164, 330)):
        size = np.full(count, choices // count)
        for accuracy in (0.55, 0.8, 0.95):
            for icc in (0.0,) if choices == count else CORRELATIONS:
                right = random.binomial(size, chances(random, accuracy, icc, (sets, count))).astype(float)
                mean, found = of_sums(right, right.sum(1), size)
                low, high = share_interval(mean, found)
                drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
                some = right[: min(sets, 500)]
                shares = (some @ drawn.T) / (drawn @ size)
                below, above = np.quantile(shares, [0.025, 0.975], axis=1)
                before = float(np.mean((below <= accuracy) & (accuracy <= above)))
                yield (
                    f"s {accuracy}, {choices} choices of {count} clusters, ICC {icc}",
                    before,
                    float(np.mean((low <= accuracy) & (accuracy <= high))),
                )


def recoveries(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float, float]]:
    """Recovered share of the gap of the better of two members: ``s`` of the decisive choices are right."""
    for count in CLUSTERS:
        codes = np.repeat(np.arange(count), sizes(count))
        for s in (0.6, 0.8, 0.95):
            hits = []
            for _ in range(max(200, sets // 8)):
                kind = random.random(len(codes))
                gap = (kind < 0.15).astype(float)
                against = (kind >= 0.15) & (kind < 0.3)
                right = random.random(len(codes)) < chances(random, s, 0.1, (count,))[codes]
                gain = np.where(gap > 0, right, 0.0) - np.where(against, ~right, 0.0)
                found = recovered_interval(gain, gap, codes)
                truth = s - (1 - s)
                hits.append(found is None or found[0] <= truth <= found[1])
            yield f"recovered {2 * s - 1:.1f}, {count} clusters, ICC 0.1", float("nan"), float(np.mean(hits))


def areas(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float, float]]:
    """AUROC of normal scores, the wrong ones shifted; answers are independent."""
    for n, few in ((400, 10), (400, 20), (400, 40), (400, 200), (60, 10)):
        for area in (0.5, 0.75, 0.9, 0.97):
            wrong, shift, old, new = np.arange(n) < few, float(norm.ppf(area)) * 2**0.5, 0, 0
            for _ in range(sets):
                score = random.normal(size=n) + shift * wrong
                (value,), ((variance,),) = delong(score[None, :], wrong)
                old += abs(value - area) <= 1.959964 * variance**0.5
                _, low, high, *_ = auroc_interval(score, wrong)
                new += low is not None and high is not None and low <= area <= high
            yield f"AUROC {area}, {few} wrong of {n}", old / sets, new / sets


def clustered_answers(
    random: np.random.Generator, codes: NDArray[np.intp], icc: float, area: float
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Two scores of one area whose values, like being wrong (half of the answers), correlate by ``icc`` within a cluster."""
    count = int(codes.max()) + 1
    wrong = random.random(len(codes)) < chances(random, 0.5, icc, (count,))[codes]
    shared, own = random.normal(size=(2, count))[:, codes], random.normal(size=(2, len(codes)))
    first, second = icc**0.5 * shared + (1 - icc) ** 0.5 * own + float(norm.ppf(area)) * 2**0.5 * wrong
    return first, second, wrong


def clustered_areas(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float, float]]:
    """AUROC of questions that come in clusters; sets without an interval (a class in one cluster only) do not count."""
    for count in CLUSTERS:
        codes = np.repeat(np.arange(count), sizes(count))
        for area, icc in ((0.75, 0.1), (0.75, 0.3), (0.9, 0.3)):
            known = old = new = 0
            for _ in range(sets):
                score, _, wrong = clustered_answers(random, codes, icc, area)
                if wrong.all() or not wrong.any():
                    continue
                _, low, high, *_ = auroc_interval(score, wrong, codes)
                _, below, above, *_ = auroc_interval(score, wrong)
                if low is None or high is None or below is None or above is None:
                    continue
                known, old, new = known + 1, old + (below <= area <= above), new + (low <= area <= high)
            yield f"AUROC {area}, {count} clusters, ICC {icc}", old / known, new / known


def clustered_tests(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float]]:
    for count in CLUSTERS:
        codes, hits = np.repeat(np.arange(count), sizes(count)), 0
        for _ in range(sets):
            first, second, wrong = clustered_answers(random, codes, 0.3, 0.75)
            p = paired(first, second, wrong, codes=codes).p
            hits += p is not None and p <= 0.05
        yield f"paired AUROCs, {count} clusters, ICC 0.3", hits / sets


def clustered_promises(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float]]:
    """Thresholds for an error of 10 %: 11 questions of each text, wrong with chance min(1, 2 p u) at the score u, p the text's
    own."""
    for count in (12, 35):
        codes = np.repeat(np.arange(count), 11)
        for mean, icc in ((0.13, 0.1), (0.13, 0.3), (0.25, 0.3)):
            texts, broken = chances(random, mean, icc, (100_000,)), 0
            for _ in range(sets):
                score, own = random.random(len(codes)), chances(random, mean, icc, (count,))[codes]
                found = abstain(score, random.random(len(codes)) < 2 * own * score, alpha=0.1, clusters=codes)
                if found.threshold is not None:
                    t = min(found.threshold, 1.0)
                    below = np.where(2 * t * texts <= 1, texts * t, 1 - 0.25 / np.maximum(texts * t, 0.5))
                    broken += float(below.mean()) > 0.1
            yield f"threshold, {count} texts, wrong {100 * mean:.0f} %, ICC {icc}", broken / sets


def best_of_twelve(random: np.random.Generator, sets: int) -> float:
    """How often the promise of the widest of twelve thresholds is broken, by scores that know equally little."""
    broken = 0
    for _ in range(sets):
        wrong = random.random(400) < 0.06
        found = [abstain(random.random(400), wrong, alpha=0.05) for _ in range(12)]
        broken += max(one.coverage for one in found) > 0
    return broken / sets


def tests(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float]]:
    """How often a test at 5 % finds what is not there, clusters included where it knows of them."""
    for count in CLUSTERS:
        size, codes = sizes(count), np.repeat(np.arange(count), sizes(count))
        for icc in CORRELATIONS:
            hits = 0
            for _ in range(sets):
                lean = chances(random, 0.5, min(icc / 0.35, 0.999), (count,))
                discordant = random.binomial(size, 0.35)
                sums = 2.0 * random.binomial(discordant, lean) - discordant
                hits += sign_flip(sums, np.arange(count), flips=499, seed=int(random.integers(2**31))) <= 0.05
            yield f"sign flip, {count} clusters, ICC {icc}", hits / sets
        hits, few = 0, max(200, sets // 2)
        for _ in range(few):
            common, *others = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(21, len(codes)))
            own = [np.where(random.random(len(codes)) < 0.2, other, common) for other in others]
            hits += min(one.p for one in simultaneous(own, codes, flips=499, seed=int(random.integers(2**31)))) <= 0.05
        yield f"max-t of 20 selectors, one or more found, {count} clusters ({few} sets)", hits / few
    for few in (40, 200):
        hits, wrong = 0, np.arange(400) < few
        for _ in range(sets):
            common = random.normal(size=400) + wrong
            first, second = (common + random.normal(size=400) for _ in range(2))
            p = paired(first, second, wrong).p
            hits += p is not None and p <= 0.05
        yield f"paired DeLong, {few} wrong of 400", hits / sets


def promises(random: np.random.Generator, sets: int) -> Iterator[tuple[str, float]]:
    """How often the answers below the threshold of :func:`abstain` are wrong more often than it promised (at most 5 %)."""
    for n in (400, 2000):
        for slope in (0.1, 0.2, 0.4):
            # Wrong with chance slope * u at the score u, uniform: the error below t is slope * t / 2.
            broken = 0
            for _ in range(sets):
                score = random.random(n)
                found = abstain(score, random.random(n) < slope * score, alpha=0.05)
                limit = 0.0 if found.threshold is None else min(found.threshold, 1.0)
                broken += slope * limit / 2 > 0.05
            yield f"threshold, {n} answers, wrong up to {slope} at the top", broken / sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under ten minutes on one core")
    parser.add_argument("--sets", type=int, default=4000, help="data sets of a cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    asked = parser.parse_args()
    random, sets, begin = np.random.default_rng(asked.seed), asked.sets, time.perf_counter()
    # Of their own, so that the cells above print what they printed before.
    other = np.random.default_rng(asked.seed + 1)
    found: dict[str, float] = {}
    intervals = {
        "score_min_coverage": scores(random, sets),
        "difference_min_coverage": differences(random, sets),
        "s_min_coverage": itertools.chain(selections(random, sets, 500 if asked.quick else 2000), recoveries(random, sets)),
        "auroc_min_coverage": itertools.chain(areas(random, sets), clustered_areas(other, sets)),
    }
    for key, cells in intervals.items():
        print(f"{'95 % interval of':70}  before     now")
        rows = []
        for name, before, now in cells:
            rows.append(float(now))
            print(f"{name:70}  {'     -' if np.isnan(before) else f'{100 * before:5.1f}%'}  {100 * now:5.1f}%", flush=True)
        found[key] = min(rows)
    rates_of = {
        "max_type1": itertools.chain(tests(random, sets), clustered_tests(other, sets)),
        "abstention_max_violation": itertools.chain(promises(random, sets), clustered_promises(other, sets)),
    }
    for key, rates in rates_of.items():
        print(f"{'at 5 %, wrongly':70}     now")
        worst = 0.0
        for name, rate in rates:
            worst = max(worst, float(rate))
            print(f"{name:70}  {100 * rate:5.1f}%", flush=True)
        found[key] = worst
    few = max(200, sets // 8)
    print(f"{f'not promised: the best of 12 scores ({few} sets)':70}  {100 * best_of_twelve(other, few):5.1f}%")
    print(f"{time.perf_counter() - begin:.0f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
