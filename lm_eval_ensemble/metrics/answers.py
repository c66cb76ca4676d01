"""Is a short answer right? SQuAD's F1 and exact match over several references, and ROUGE-L.

The normaliser and both measures follow the official evaluation script of SQuAD 2.0 (Rajpurkar et al. 2018,
arXiv:1806.03822), so published figures can be reproduced to the last digit. All are in [0, 1]; higher is better.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

__all__ = ["normalise", "rouge_l", "squad_em", "squad_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Ideographs, kana, and the scripts of Thai, Lao, Burmese and Khmer, which put no space between words.
_UNSPACED = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED += "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without English articles, single spaces; in this order.

    >>> normalise("The  Eiffel-Tower!")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_em(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the answer equals a reference after :func:`normalise`, else 0.0. No reference: the right answer is empty."""
    found = normalise(prediction)
    return float(any(found == normalise(reference) for reference in _gold(references)))


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """The best F1 of shared words over the references, after :func:`normalise`.

    References that are empty after it do not count (the official script drops them). No reference left means that the
    question has no answer: an empty prediction gets 1.0, any other 0.0.
    """
    found = normalise(prediction).split()
    return max(_f1(found, normalise(reference).split()) for reference in _gold(references))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """The best ROUGE-L F-measure over the references, words stemmed (package ``rouge_score``).

    Only letters a-z and digits count there. A reference with any other letter or digit is compared by its own words,
    unstemmed; where a script has no spaces between words (Chinese, Japanese, Thai, ...) every character is one. Equal texts are
    1.0 whatever they are made of. No reference: 1.0 for an empty prediction, else 0.0, as in :func:`squad_f1`.
    """
    gold = _gold(references)
    if gold == [""]:
        return float(not normalise(prediction))
    if prediction.strip() in (reference.strip() for reference in gold):
        return 1.0
    scorers = [_scorer(any_script=any(c.isalnum() and not c.isascii() for c in reference)) for reference in gold]
    pairs = zip(scorers, gold, strict=True)
    return max(float(scorer.score(reference, prediction)["rougeL"].fmeasure) for scorer, reference in pairs)


def _gold(references: Sequence[str]) -> list[str]:
    return [reference for reference in references if normalise(reference)] or [""]


def _f1(found: Sequence[str], gold: Sequence[str]) -> float:
    if not found or not gold:
        return float(not found and not gold)
    shared = sum((Counter(found) & Counter(gold)).values())
    # precision = shared/len(found), recall = shared/len(gold); their harmonic mean in one fraction
    return 2 * shared / (len(found) + len(gold))


class _Words:
    """The tokenizer of ``rouge_score`` for any script."""

    def tokenize(self, text: str) -> list[str]:
        return _word().findall(text.lower())


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    """Letters, digits and the marks that combine with them (no ``\\w``), or one character of an unspaced script."""
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_]|[{re.escape(marks)}])+")


@lru_cache(maxsize=2)
def _scorer(any_script: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk: seconds to import, so only where it is needed

    return RougeScorer(["rougeL"], use_stemmer=True, tokenizer=_Words() if any_script else None)
