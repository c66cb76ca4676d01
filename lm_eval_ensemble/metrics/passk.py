"""pass@k from n samples of a problem, c of which pass."""

from __future__ import annotations

__all__ = ["pass_at_k"]


def pass_at_k(n: int, c: int, k: int) -> float:
    """The probability that at least one of k samples, drawn without replacement, passes. Higher is better.

    1 - C(n - c, k) / C(n, k), as a product so that nothing overflows (Chen et al. 2021, arXiv:2107.03374,
    equation 1). Unbiased, unlike 1 - (1 - c/n)^k.

    >>> pass_at_k(n=4, c=1, k=2)
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k(n={n}, c={c}, k={k}): needs 0 <= c <= n and 1 <= k <= n")
    if n - c < k:
        return 1.0
    miss = 1.0
    for i in range(n - c + 1, n + 1):
        miss *= 1.0 - k / i
    return 1.0 - miss
