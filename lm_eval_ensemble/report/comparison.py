"""What a comparison finds: plain values, JSON-able with ``dataclasses.asdict``."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LEVEL", "Comparison", "Contrast", "Overlap", "RunRow", "TaskComparison"]

#: p below which a difference is called significant (after Holm).
LEVEL = 0.05


@dataclass(frozen=True)
class Contrast:
    """A run against the baseline on the same documents, in units of the metric: ``difference`` = run - baseline.

    ``low`` and ``high`` bound it (95 %, clustered), from a quantile of ``df`` degrees of freedom. ``p`` is the sign flip's,
    ``p_holm`` the same corrected for the number of tasks, ``p_mcnemar`` exact but unclustered (None unless all values are 0 or
    1). A ``win`` is a document where the run is better. ``detectable`` is the smallest true difference that this comparison had
    80 % chance to show (None where no difference is that sure to be seen). Without an interval there is one problem only, or a
    constant gap of another metric.
    """

    n: int
    clusters: int
    difference: float
    se: float | None
    low: float | None
    high: float | None
    deff: float | None
    df: float | None
    p: float
    p_holm: float
    p_mcnemar: float | None
    wins: int
    losses: int
    ties: int
    detectable: float | None


@dataclass(frozen=True)
class Overlap:
    """Documents of a run and of the baseline: ``shared`` by both, ``only_run``, ``only_baseline``, and ``changed``: of the same
    number in both, with another content."""

    shared: int
    only_run: int
    only_baseline: int
    changed: int


@dataclass(frozen=True)
class RunRow:
    """One line of a table. ``kind`` is ``run``, ``member`` (from the samples of the ensemble) or ``bound`` (oracle, floor).

    ``low`` and ``high`` are the clustered 95 % interval, from a quantile of ``df`` degrees of freedom; ``wilson`` takes
    documents for independent and is for the record (0/1 metrics only). ``row_forwards`` and ``memory_mib`` are per member
    (``""`` where the model ran alone); ``seconds`` is the whole command's time per document. What is not recorded is None.
    Without a ``contrast`` ``overlap`` says how far the documents were the same.
    """

    label: str
    kind: str
    model: str
    n: int
    clusters: int | None
    score: float | None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    wilson: tuple[float, float] | None = None
    deff: float | None = None
    df: float | None = None
    contrast: Contrast | None = None
    overlap: Overlap | None = None
    seconds: float | None = None
    row_forwards: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, float] = field(default_factory=dict)
    length_mode: str | None = None


@dataclass(frozen=True)
class TaskComparison:
    """``baseline`` is a label of ``rows``, None if there is none. ``share``: all values lie between 0 and 1, so differences can
    be told in points (hundredths). ``verdicts`` answer "is it better?" in a sentence each."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool
    share: bool
    baseline: str | None
    rows: list[RunRow]
    verdicts: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """``problems`` are files and lines that could not be used; ``notes`` hold for all tables. ``cautions`` say what would make
    the scores misread."""

    tasks: list[TaskComparison]
    notes: list[str]
    problems: list[str]
    cautions: list[str] = field(default_factory=list)
