"""Perplexities of a candidate: computed once, recorded for every candidate.

``scores`` defines them, ``rules`` joins them, ``passes`` asks the models, ``sheets`` puts both together.
"""

from lm_eval_ensemble.scoring.base import CausalScorer, DiffusionScorer, Score, Scorers, Span, Statistic
from lm_eval_ensemble.scoring.rules import DEFAULT_RULE, Term, apply_rule, parse_rule, parse_terms
from lm_eval_ensemble.scoring.scores import SCORES
from lm_eval_ensemble.scoring.sheets import Sheet, check_terms, score_all

__all__ = [
    "DEFAULT_RULE",
    "SCORES",
    "CausalScorer",
    "DiffusionScorer",
    "Score",
    "Scorers",
    "Sheet",
    "Span",
    "Statistic",
    "Term",
    "apply_rule",
    "check_terms",
    "parse_rule",
    "parse_terms",
    "score_all",
]
