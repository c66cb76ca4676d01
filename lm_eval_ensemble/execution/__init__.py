"""The judge: runs programs that nobody has read, and gives verdicts that they cannot forge.

Start with ``worker.py``, which draws who talks to whom; ``docs/judge.md`` says what is defended and what is not.
"""

from lm_eval_ensemble.execution.jobs import Job, Verdict
from lm_eval_ensemble.execution.pool import Judge, judge

__all__ = ["Job", "Judge", "Verdict", "judge"]
