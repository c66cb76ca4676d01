"""What the intervals and tests hold of what they promise, by simulation: the share of data sets in which a 95 % interval holds
the truth, in which a test at 5 % rejects a truth, and in which a threshold breaks its promise.

    python benchmarks/coverage.py [--quick] [--sets N] [--seed N] [--jobs N] [--markdown]

Clusters are drawn once, with a fixed seed, from the programs of HumanEval-Infilling (164 of 1 to 29 single-line documents), or
are 35 texts of 11 questions, as 400 of SQuAD. Within a cluster the chance of being right is Beta distributed with the
intraclass correlation (ICC) named. ``before`` is what stood before: Student's t on CR1 with C - 1 degrees of freedom, the
percentile bootstrap of s, DeLong with normal quantiles and all answers taken for independent, the widest of several scores'
thresholds.
Tests are simulated under their stated assumption. Sets in which nothing differs at all count like the others: they have an
interval too. Where there is none and the reason is printed (a class in one cluster only), the set does not count, and the
share of such sets stands under ``without``.

Every cell has a seed of its own, so its figure does not depend on the others. ``--quick`` leaves the easier cells out and takes
the same number of sets. The last line is JSON: over the cells of the table the lowest coverage of each interval (that of s
includes the recovered share), the highest rate of false findings, and the most often broken promise of a threshold. What is
printed under "not promised" counts in no figure: it says what choosing after looking does, and how far power is estimated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from lm_eval_ensemble.metrics.abstention import abstain
from lm_eval_ensemble.metrics.clustered import Spread, share_interval, spread
from lm_eval_ensemble.metrics.delong import auroc_interval, delong, paired, unpaired
from lm_eval_ensemble.metrics.paired import detectable_difference, paired_difference, sign_flip, simultaneous
from lm_eval_ensemble.metrics.recovered import recovered_interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.intp]
Random = np.random.Generator
#: documents of a program -> how many programs have so many (HumanEval-Infilling, single line).
SIZES = {1: 37, 2: 10, 3: 10, 4: 8, 5: 17, 6: 17, 7: 10, 8: 8, 9: 12, 10: 4, 11: 9, 12: 3, 13: 4, 14: 5, 15: 3, 16: 2}
SIZES |= {19: 1, 20: 1, 21: 1, 22: 1, 29: 1}
PROGRAMS = np.array([size for size, count in SIZES.items() for _ in range(count)])
CLUSTERS, CORRELATIONS = (10, 30, 164), (0.0, 0.1, 0.3)
TEXTS = 35
SCORES = 12
FLIPS = 499


class Found(NamedTuple):
    """Shares of the sets: what stood before (NaN: nothing did), what stands now, and those without an interval."""

    before: float
    now: float
    without: float = 0.0


@dataclass(frozen=True)
class Cell:
    """``measure`` takes a random stream and the number of sets. ``hard``: also in ``--quick``."""

    part: str
    name: str
    measure: Callable[[Random, int], Found]
    hard: bool = True


def sizes(count: int) -> Codes:
    """Documents of each of ``count`` clusters: texts of 11, all programs, or a fixed draw of these."""
    if count == TEXTS:
        return np.full(count, 11)
    return PROGRAMS if count == len(PROGRAMS) else np.random.default_rng(1).choice(PROGRAMS, count, replace=False)


def codes_of(count: int) -> Codes:
    return np.repeat(np.arange(count), sizes(count))


def chances(random: Random, mean: float, icc: float, shape: tuple[int, ...]) -> Floats:
    """Beta distributed chances of clusters, so that two documents of one correlate by ``icc``."""
    if not icc:
        return np.full(shape, mean)
    total = max(1 / icc - 1, 1e-3)
    return random.beta(total * mean, total * (1 - mean), shape)


def of_sums(sums: Floats, squares: Floats, size: Codes) -> tuple[Floats, Spread]:
    """Mean and spread of S data sets, from the sums (S, C) of their clusters and the sum (S,) of squared values."""
    n = size.sum()
    mean = sums.sum(1) / n
    alone = (squares - n * mean**2) / (1 - 1 / n) ** 2
    alone = np.where(alone > 1e-9, alone, 0.0)
    return mean, spread(
        sums - mean[:, None] * size, np.broadcast_to(size, sums.shape).astype(float), alone, np.asarray(float(n))
    )


def student(sums: Floats, size: Codes) -> tuple[Floats, Floats]:
    """Mean and half width as they stood before: CR1, C - 1 degrees of freedom."""
    n, count = size.sum(), len(size)
    mean = sums.sum(1) / n
    error = np.sqrt(count / (count - 1) * ((sums - mean[:, None] * size) ** 2).sum(1)) / n
    return mean, stdtrit(count - 1, 0.975) * error


def share(condition: NDArray[np.bool_]) -> float:
    return float(np.mean(condition))


# Intervals


def score(random: Random, sets: int, count: int, accuracy: float, icc: float) -> Found:
    size = sizes(count)
    sums = random.binomial(size, chances(random, accuracy, icc, (sets, count))).astype(float)
    mean, found = of_sums(sums, sums.sum(1), size)
    low, high = share_interval(mean, found)
    _, half = student(sums, size)
    return Found(share(np.abs(mean - accuracy) <= half), share((low <= accuracy) & (accuracy <= high)))


def difference(random: Random, sets: int, count: int, differ: float, leaning: float, icc: float) -> Found:
    """A share ``differ`` of documents differs, in favour of one side with a chance of the cluster's own, ``leaning`` on
    average. Correlation of the differences above ``differ`` does not exist."""
    size = sizes(count)
    discordant, sums = differing(random, (sets, count), size, differ, leaning, icc)
    mean, found = of_sums(sums, discordant.sum(1).astype(float), size)
    half = np.sqrt(found.variance) * stdtrit(found.df, 0.975)
    # Where no document differs the interval is that of the share that does.
    half = np.where(discordant.sum(1) == 0, 1 - share_interval(np.ones(sets), found)[0], half)
    truth = differ * (2 * leaning - 1)
    _, old = student(sums, size)
    return Found(share(np.abs(mean - truth) <= old), share(np.abs(mean - truth) <= half))


def differing(
    random: Random, shape: tuple[int, ...], size: Codes, differ: float, leaning: float, icc: float
) -> tuple[Codes, Floats]:
    """Documents that differ in each cluster, and the sum of their differences."""
    lean = chances(random, leaning, min(icc / differ, 0.999), shape)
    discordant = random.binomial(size, differ, shape)
    return discordant, (2.0 * random.binomial(discordant, lean) - discordant).astype(np.float64)


def selection(random: Random, sets: int, count: int, choices: int, accuracy: float, icc: float) -> Found:
    """s: right choices of decisive ones; the clusters of a set hold 1 to 4 decisive choices each."""
    size = np.full(count, choices // count)
    right = random.binomial(size, chances(random, accuracy, icc, (sets, count))).astype(float)
    mean, found = of_sums(right, right.sum(1), size)
    low, high = share_interval(mean, found)
    # What stood before is seen well enough in 500 sets.
    drawn = random.multinomial(count, np.full(count, 1 / count), size=500)
    below, above = np.quantile((right[:500] @ drawn.T) / (drawn @ size), [0.025, 0.975], axis=1)
    return Found(share((below <= accuracy) & (accuracy <= above)), share((low <= accuracy) & (accuracy <= high)))


def recovery(random: Random, sets: int, count: int, s: float) -> Found:
    """Recovered share of the gap of the better of two members: ``s`` of the decisive choices are right."""
    codes, hits = codes_of(count), 0
    for _ in range(sets):
        kind = random.random(len(codes))
        gap = (kind < 0.15).astype(float)
        against = (kind >= 0.15) & (kind < 0.3)
        right = random.random(len(codes)) < chances(random, s, 0.1, (count,))[codes]
        gain = np.where(gap > 0, right, 0.0) - np.where(against, ~right, 0.0)
        found = recovered_interval(gain, gap, codes)
        hits += found is None or found[0] <= s - (1 - s) <= found[1]
    return Found(float("nan"), hits / sets)


def area(random: Random, sets: int, n: int, few: int, truth: float) -> Found:
    """AUROC of normal scores, the wrong ones shifted; answers are independent."""
    wrong, shift, old, new = np.arange(n) < few, float(ndtri(truth)) * 2**0.5, 0, 0
    for values in random.normal(size=(sets, n)) + shift * wrong:
        (value,), ((variance,),) = delong(values[None, :], wrong)
        old += abs(value - truth) <= 1.959964 * variance**0.5
        _, low, high, *_ = auroc_interval(values, wrong)
        new += low is not None and high is not None and low <= truth <= high
    return Found(old / sets, new / sets)


def answers(random: Random, codes: Codes, icc: float, truth: float, errors: float) -> tuple[Floats, Floats, Bools]:
    """Two scores of one area whose values, like being wrong (a share ``errors``), correlate by ``icc`` within a cluster."""
    count = int(codes.max()) + 1
    wrong = random.random(len(codes)) < chances(random, errors, icc, (count,))[codes]
    shared, own = random.normal(size=(2, count))[:, codes], random.normal(size=(2, len(codes)))
    first, second = icc**0.5 * shared + (1 - icc) ** 0.5 * own + float(ndtri(truth)) * 2**0.5 * wrong
    return first, second, wrong


def clustered_area(random: Random, sets: int, count: int, truth: float, errors: float, icc: float) -> Found:
    codes, known, old, new = codes_of(count), 0, 0, 0
    for _ in range(sets):
        values, _, wrong = answers(random, codes, icc, truth, errors)
        if wrong.all() or not wrong.any():
            continue
        _, low, high, *_ = auroc_interval(values, wrong, codes)
        if low is None or high is None:
            continue
        (value,), ((variance,),) = delong(values[None, :], wrong)
        known += 1
        old += abs(value - truth) <= 1.959964 * variance**0.5
        new += low <= truth <= high
    return Found(old / known, new / known, 1 - known / sets)


# Tests


def flip(random: Random, sets: int, count: int, icc: float) -> Found:
    size, hits = sizes(count), 0
    _, sums = differing(random, (sets, count), size, 0.35, 0.5, icc)
    for values, seed in zip(sums, random.integers(2**31, size=sets), strict=True):
        hits += sign_flip(values, np.arange(count), flips=FLIPS, seed=int(seed)) <= 0.05
    return Found(float("nan"), hits / sets)


def largest(random: Random, sets: int, count: int) -> Found:
    """One or more of 20 selectors found, which choose alike in four of five documents."""
    codes, hits = codes_of(count), 0
    for seed in random.integers(2**31, size=sets):
        common, *others = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(21, len(codes)))
        own = [np.where(random.random(len(codes)) < 0.2, other, common) for other in others]
        hits += min(one.p for one in simultaneous(own, codes, flips=FLIPS, seed=int(seed))) <= 0.05
    return Found(float("nan"), hits / sets)


def two_scores(random: Random, sets: int, few: int) -> Found:
    hits, wrong = 0, np.arange(400) < few
    for _ in range(sets):
        common = random.normal(size=400) + wrong
        first, second = common + random.normal(size=(2, 400))
        p = paired(first, second, wrong).p
        hits += p is not None and p <= 0.05
    return Found(float("nan"), hits / sets)


def two_models(random: Random, sets: int, few: int, together: bool) -> Found:
    """Two models of one area, each with its own errors, on the same questions (Obuchowski) or on others."""
    hits = 0
    for _ in range(sets):
        wrong = np.arange(400) < few, random.permutation(400) < few
        hard = random.normal(size=(2, 400))
        if together:
            hard[1] = hard[0]
        first, second = (own + random.normal(size=400) + 1.2 * label for own, label in zip(hard, wrong, strict=True))
        p = (paired if together else unpaired)(first, second, *wrong).p
        hits += p is not None and p <= 0.05
    return Found(float("nan"), hits / sets)


def clustered_scores(random: Random, sets: int, count: int, errors: float, icc: float) -> Found:
    codes, hits, old, known = codes_of(count), 0, 0, 0
    for _ in range(sets):
        first, second, wrong = answers(random, codes, icc, 0.75, errors)
        p = paired(first, second, wrong, codes=codes).p
        if p is None:
            continue
        alone = paired(first, second, wrong).p
        known, hits, old = known + 1, hits + (p <= 0.05), old + (alone is not None and alone <= 0.05)
    return Found(old / known, hits / known, 1 - known / sets)


# Thresholds


def threshold(random: Random, sets: int, n: int, slope: float) -> Found:
    """Wrong with chance slope * u at the score u, uniform: the error below t is slope * t / 2."""
    broken = 0
    for values in random.random((sets, n)):
        found = abstain(values, random.random(n) < slope * values, alpha=0.05)
        limit = 0.0 if found.threshold is None else min(found.threshold, 1.0)
        broken += slope * limit / 2 > 0.05
    return Found(float("nan"), broken / sets)


def useless(random: Random, sets: int, n: int, errors: float) -> Found:
    """Scores that know nothing, and slightly more errors than the 5 % promised: any threshold breaks it. Now one score that was
    named; before the widest of twelve."""
    broken = named = 0
    for _ in range(sets):
        wrong = random.random(n) < errors
        found = [abstain(values, wrong, alpha=0.05).coverage > 0 for values in random.random((SCORES, n))]
        named, broken = named + found[0], broken + any(found)
    return Found(broken / sets, named / sets)


def clustered_threshold(random: Random, sets: int, count: int, mean: float, icc: float) -> Found:
    """Thresholds for an error of 10 %: 11 questions of each text, wrong with chance min(1, 2 p u) at the score u, p the text's
    own. Before: the questions taken for independent."""
    codes = np.repeat(np.arange(count), 11)
    texts, broken = chances(random, mean, icc, (100_000,)), [0, 0]
    for _ in range(sets):
        values, own = random.random(len(codes)), chances(random, mean, icc, (count,))[codes]
        wrong = random.random(len(codes)) < 2 * own * values
        for i, clusters in enumerate((None, codes)):
            limit = abstain(values, wrong, alpha=0.1, clusters=clusters).threshold
            if limit is not None:
                t = min(limit, 1.0)
                below = np.where(2 * t * texts <= 1, texts * t, 1 - 0.25 / np.maximum(texts * t, 0.5))
                broken[i] += float(below.mean()) > 0.1
    return Found(broken[0] / sets, broken[1] / sets)


# Not promised


def power(random: Random, sets: int, count: int, icc: float) -> Found:
    """How often the difference said to be "found in four runs of five" is: the median of what 200 sets say, as the truth.
    ``without``: the sets in which p and interval disagree about 0."""
    size, codes, differ = sizes(count), codes_of(count), 0.35
    told = []
    for _ in range(200):
        discordant, sums = differing(random, (count,), size, differ, 0.5, icc)
        gaps = np.concatenate([
            np.r_[np.ones(int(k + s) // 2), -np.ones(int(k - s) // 2), np.zeros(n - int(k))]
            for k, s, n in zip(discordant, sums, size, strict=True)
        ])  # fmt: skip
        told.append(detectable_difference(gaps, codes, paired_difference(gaps, codes, True)))
    known = [value for value in told if value is not None]
    truth = float(np.median(known))
    discordant, sums = differing(random, (sets, count), size, differ, (1 + truth / differ) / 2, icc)
    mean, found = of_sums(sums, discordant.sum(1).astype(float), size)
    outside = np.abs(mean) > np.sqrt(found.variance) * stdtrit(found.df, 0.975)
    seeds = random.integers(2**31, size=sets)
    seen = np.array([sign_flip(row, np.arange(count), FLIPS, int(k)) <= 0.05 for row, k in zip(sums, seeds, strict=True)])
    return Found(float("nan"), share(seen), share(seen != outside))


def all_cells() -> Iterator[Cell]:
    for count, accuracy, icc in itertools.product(CLUSTERS, (0.5, 0.7, 0.9, 0.95), CORRELATIONS):
        yield Cell(
            "score", f"score {accuracy}, {count} clusters, ICC {icc}", partial(score, count=count, accuracy=accuracy, icc=icc)
        )
    for icc in CORRELATIONS:
        yield Cell("score", f"accuracy 0.7, {TEXTS} texts, ICC {icc}", partial(score, count=TEXTS, accuracy=0.7, icc=icc))
    for count in CLUSTERS:
        for differ, leaning, icc in (
            *((0.35, lean, icc) for lean in (0.5, 0.7) for icc in CORRELATIONS),
            *((0.15, lean, icc) for lean in (0.5, 0.7, 0.95) for icc in CORRELATIONS[:2]),
            *((0.033, lean, 0.0) for lean in (0.5, 0.95)),
        ):
            points = f"{100 * differ * (2 * leaning - 1):+.1f} points, {100 * differ:.1f} % differ"
            name = f"difference {points}, {count} clusters, ICC {icc}"
            yield Cell("difference", name, partial(difference, count=count, differ=differ, leaning=leaning, icc=icc))
    for count, choices in ((11, 11), (10, 20), (30, 60), (164, 330)):
        for accuracy, icc in itertools.product((0.55, 0.8, 0.95), (0.0,) if choices == count else CORRELATIONS):
            name = f"s {accuracy}, {choices} choices of {count} clusters, ICC {icc}"
            yield Cell("s", name, partial(selection, count=count, choices=choices, accuracy=accuracy, icc=icc))
    for count, s in itertools.product(CLUSTERS, (0.6, 0.8, 0.95)):
        yield Cell(
            "s", f"recovered {2 * s - 1:.1f}, {count} clusters, ICC 0.1", partial(recovery, count=count, s=s), count == 10
        )
    for (n, few), truth in itertools.product(((400, 10), (400, 20), (400, 40), (400, 200), (60, 10)), (0.5, 0.75, 0.9, 0.97)):
        name = f"AUROC {truth}, {few} wrong of {n}, independent"
        yield Cell("auroc", name, partial(area, n=n, few=few, truth=truth), few in (10, 200))
    for count, errors, truth, icc in itertools.product((*CLUSTERS, TEXTS), (0.5, 0.1), (0.75, 0.9), CORRELATIONS):
        name = f"AUROC {truth}, {100 * errors:.0f} % wrong, {count} {'texts' if count == TEXTS else 'clusters'}, ICC {icc}"
        hard = icc == 0.3 and count != 30
        yield Cell("auroc", name, partial(clustered_area, count=count, truth=truth, errors=errors, icc=icc), hard)
    for count, icc in itertools.product(CLUSTERS, CORRELATIONS):
        yield Cell("test", f"sign flip, {count} clusters, ICC {icc}", partial(flip, count=count, icc=icc))
    for count in CLUSTERS:
        yield Cell("test", f"max-t, one of 20 selectors found, {count} clusters", partial(largest, count=count), count == 10)
    for few in (10, 40, 200):
        yield Cell("test", f"paired DeLong, {few} wrong of 400", partial(two_scores, few=few))
        yield Cell(
            "test",
            f"two models, the same questions, {few} wrong of 400",
            partial(two_models, few=few, together=True),
            few < 200,
        )
        yield Cell(
            "test", f"two models, other questions, {few} wrong of 400", partial(two_models, few=few, together=False), few < 200
        )
    for count, errors, icc in itertools.product((*CLUSTERS, TEXTS), (0.5, 0.1), CORRELATIONS):
        name = f"paired AUROCs, {100 * errors:.0f} % wrong, {count} {'texts' if count == TEXTS else 'clusters'}, ICC {icc}"
        hard = icc == 0.3 and count != 30
        yield Cell("test", name, partial(clustered_scores, count=count, errors=errors, icc=icc), hard)
    for n, slope in itertools.product((400, 2000), (0.1, 0.2, 0.4)):
        yield Cell(
            "threshold",
            f"threshold, {n} answers, wrong up to {slope} at the top",
            partial(threshold, n=n, slope=slope),
            n == 400,
        )
    for n, errors in ((400, 0.0501), (2000, 0.0501)):
        name = f"threshold by one of {SCORES} scores (before: the widest), {n} answers"
        yield Cell("threshold", name, partial(useless, n=n, errors=errors), n == 400)
    for count, (mean, icc) in itertools.product((12, TEXTS), ((0.13, 0.1), (0.13, 0.3), (0.25, 0.3))):
        name = f"threshold, {count} texts, wrong {100 * mean:.0f} %, ICC {icc}"
        yield Cell("threshold", name, partial(clustered_threshold, count=count, mean=mean, icc=icc), (mean, icc) == (0.13, 0.3))
    for count, icc in itertools.product(CLUSTERS, CORRELATIONS):
        yield Cell(
            "power", f"difference of four runs in five found, {count} clusters, ICC {icc}", partial(power, count=count, icc=icc)
        )


#: part -> heading, key of the last line, whether its worst cell is the lowest.
PARTS: dict[str, tuple[str, str, bool]] = {
    "score": ("95 % interval of a score", "score_min_coverage", True),
    "difference": ("95 % interval of a difference", "difference_min_coverage", True),
    "s": ("95 % interval of s and of the recovered share", "s_min_coverage", True),
    "auroc": ("95 % interval of an AUROC", "auroc_min_coverage", True),
    "test": ("test at 5 %, wrongly", "max_type1", False),
    "threshold": ("promise kept with 95 %, broken", "abstention_max_violation", False),
    "power": ("not promised: power, and p against interval in `without`", "", False),
}


def measured(cell: Cell, sets: int, seed: int) -> Found:
    return cell.measure(np.random.default_rng([seed, zlib.crc32(cell.name.encode())]), sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the harder cells only, under ten minutes on two cores")
    parser.add_argument("--sets", type=int, default=4000, help="data sets of a cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core, %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    asked = parser.parse_args()
    cells = [cell for cell in all_cells() if cell.hard or not asked.quick]
    begin, worst, part = time.perf_counter(), {key: 0.0 for _, key, _ in PARTS.values() if key}, ""
    print(f"{len(cells)} cells of {asked.sets} sets, seed {asked.seed}")
    with ProcessPoolExecutor(asked.jobs) as pool:
        every = pool.map(partial(measured, sets=asked.sets, seed=asked.seed), cells)
        for cell, found in zip(cells, every, strict=True):
            heading, key, lowest = PARTS[cell.part]
            if cell.part != part:
                print(_line(asked.markdown, heading, "before", "now", "without", True), flush=True)
                worst |= {key: 1.0} if key and lowest else {}
            part = cell.part
            if key:
                worst[key] = min(worst[key], found.now) if lowest else max(worst[key], found.now)
            before, now, without = ("-" if np.isnan(value) else f"{100 * value:.1f} %" for value in found)
            print(_line(asked.markdown, cell.name, before, now, without), flush=True)
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    print(json.dumps(worst))


def _line(markdown: bool, name: str, before: str, now: str, without: str, head: bool = False) -> str:
    if not markdown:
        return f"{name:76} {before:>8} {now:>8} {without:>8}"
    line = f"| {name} | {before} | {now} | {without} |"
    return f"\n{line}\n|---|---:|---:|---:|" if head else line


if __name__ == "__main__":
    main()
