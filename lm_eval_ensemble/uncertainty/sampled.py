"""Scores that need several sampled answers to the same prompt (``n_samples=M``). Higher = more uncertain.

With s_1..s_M the samples, L_i = sum of the log-probabilities of s_i, l_i their mean, c the clusters of equal meaning:

======================  ======================================================================================
``pe``                  -(1/M) sum L_i (predictive entropy; Malinin and Gales, arXiv:2002.07650)
``ln_pe``               -(1/M) sum l_i (Kuhn et al., arXiv:2302.09664)
``se_discrete``         -sum_c P_c log P_c with P_c = |c| / M (Farquhar et al., Nature 2024): no probabilities needed
``se``                  the same with P_c the share of c in sum_i exp(l_i)
``num_sets``            number of clusters (Lin et al., arXiv:2305.19187)
``lexical``             1 - mean ROUGE-L of all pairs of samples (Fomicheva et al. 2020)
``sent_sar``            -(1/M) sum_i log(p_i + (1/t) sum_{j != i} g(s_i, s_j) p_j), p_i = exp(L_i), t = 0.001
                        (Duan et al. 2024)
``sar``                 the same with p_i = exp(-TokenSAR(s_i))
======================  ======================================================================================

Samples without log-probabilities are left out of what needs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from lm_eval_ensemble.metrics.answer_scores import free_scores
from lm_eval_ensemble.metrics.answers import rouge_l
from lm_eval_ensemble.uncertainty.clusters import Clusters
from lm_eval_ensemble.uncertainty.relevance import relevance_scores, with_question
from lm_eval_ensemble.uncertainty.similarity import Similarity

__all__ = ["SAMPLED_SCORES", "entropy_of", "lexical_dissimilarity", "sampled_scores", "sentence_sar"]

SAMPLED_SCORES = ("pe", "ln_pe", "se_discrete", "se", "num_sets", "lexical", "sent_sar", "sar")
TEMPERATURE = 0.001
Scores = dict[str, float | None]


def sampled_scores(records: Sequence[Mapping[str, Any]], clusters: Clusters, similarity: Similarity | None) -> list[Scores]:
    """:data:`SAMPLED_SCORES` of each record; None for a record without samples, SentSAR and SAR None without a similarity."""
    groups = [_samples(record) for record in records]
    questions = [str(record["question"]) for record in records]
    labels = clusters(questions, [[sample["answer"] for sample in group] for group in groups])
    found = [_scores(group, own) for group, own in zip(groups, labels, strict=True)]
    if similarity is not None:
        for scores, sars in zip(found, _sars(questions, groups, similarity), strict=True):
            scores.update(sars)
    return found


def entropy_of(weights: Sequence[float], labels: Sequence[int]) -> float:
    """Entropy (nats) of the clusters' shares of the total weight."""
    total = math.fsum(weights)
    shares = [math.fsum(w for w, own in zip(weights, labels, strict=True) if own == label) / total for label in set(labels)]
    # the clamp turns the -0.0 of a single cluster into 0.0
    return max(0.0, -math.fsum(share * math.log(share) for share in shares if share > 0))


def lexical_dissimilarity(texts: Sequence[str]) -> float | None:
    """1 - mean ROUGE-L over all pairs, in [0, 1]; None for fewer than two texts."""
    values = [1.0 if a == b else rouge_l(a, [b]) for a, b in combinations(texts, 2)]
    return 1.0 - math.fsum(values) / len(values) if values else None


def sentence_sar(logs: Sequence[float], similarity: Sequence[Sequence[float]], temperature: float = TEMPERATURE) -> float:
    """SentSAR of log p (m,) and similarities (m, m), whose diagonal is not read; computed in logarithms."""
    terms = []
    for i, own in enumerate(logs):
        others = [
            logs[j] + math.log(similarity[i][j] / temperature) for j in range(len(logs)) if j != i and similarity[i][j] > 0
        ]
        top = max([own, *others])
        terms.append(top + math.log(math.fsum(math.exp(value - top) for value in [own, *others])))
    return -math.fsum(terms) / len(terms)


def _samples(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The samples in the form of a record, so that they are scored as the greedy answer is."""
    samples = record.get("samples") or []
    return [{**sample, "answer": str(sample["text"]).strip(), "question": record["question"]} for sample in samples]


def _scores(samples: Sequence[Mapping[str, Any]], labels: Sequence[int]) -> Scores:
    found: Scores = dict.fromkeys(SAMPLED_SCORES)
    if not samples:
        return found
    found["se_discrete"] = entropy_of([1.0] * len(samples), labels)
    found["num_sets"] = float(len(set(labels)))
    found["lexical"] = lexical_dissimilarity([sample["answer"] for sample in samples])
    free = [free_scores(sample) for sample in samples]
    totals = [scores["g_nll"] for scores in free if scores["g_nll"] is not None]
    means = [(scores["ln_nll"], label) for scores, label in zip(free, labels, strict=True) if scores["ln_nll"] is not None]
    if totals:
        found["pe"] = math.fsum(totals) / len(totals)
    known = [(value, label) for value, label in means if value is not None]
    if known:
        found["ln_pe"] = math.fsum(value for value, _ in known) / len(known)
        # relative to the likeliest sample: the shares are the same and nothing underflows
        best = min(value for value, _ in known)
        if math.isfinite(best):
            found["se"] = entropy_of([math.exp(best - value) for value, _ in known], [label for _, label in known])
    return found


def _sars(questions: Sequence[str], groups: Sequence[Sequence[Mapping[str, Any]]], similarity: Similarity) -> list[Scores]:
    flat = [sample for group in groups for sample in group]
    weighted = iter(relevance_scores(flat, similarity))
    texts = [[with_question(q, s["answer"]) for s in group] for q, group in zip(questions, groups, strict=True)]
    # asked in one call; what follows reads the same pairs again
    pairs = [(a, b) for group in texts for i, a in enumerate(group) for j, b in enumerate(group) if i != j]
    known = dict(zip(pairs, similarity(pairs).tolist(), strict=True))
    found = []
    for group, own in zip(groups, texts, strict=True):
        token_sars = [next(weighted)["rw_g_nll"] for _ in group]
        totals = [free_scores(sample)["g_nll"] for sample in group]
        found.append({"sent_sar": _sar(totals, own, known), "sar": _sar(token_sars, own, known)})
    return found


def _sar(nlls: Sequence[float | None], texts: Sequence[str], known: Mapping[tuple[str, str], float]) -> float | None:
    kept = [(-nll, text) for nll, text in zip(nlls, texts, strict=True) if nll is not None and math.isfinite(nll)]
    if not kept:
        return None
    table = [[known.get((a, b), 1.0) for _, b in kept] for _, a in kept]
    return sentence_sar([log for log, _ in kept], table)
