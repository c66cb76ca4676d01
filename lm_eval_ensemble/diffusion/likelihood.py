"""How likely a given middle is under the diffusion model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right

__all__ = ["onepass_logprobs"]


def onepass_logprobs(model: MaskedDiffusionModel, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[list[float]]:
    """Log-probability (nats) of each middle token with the whole middle masked: one forward per row.

    It ignores the dependence between the tokens of the middle, and conditions on their number.

    :param rows: (prefix ids, middle ids, suffix ids), each middle non-empty.
    :returns: per row one log-probability per middle token.
    """
    masked = [[*prefix, *([model.mask_id] * len(middle)), *suffix] for prefix, middle, suffix in rows]
    ids, lengths = pad_right(masked, model.mask_id, model.device)
    row_of = [r for r, (_, middle, _) in enumerate(rows) for _ in middle]
    column_of = [len(prefix) + i for prefix, middle, _ in rows for i in range(len(middle))]
    target = torch.tensor([t for _, middle, _ in rows for t in middle], device=model.device)
    logits = model.logits_at(
        ids, lengths, torch.tensor(row_of, device=model.device), torch.tensor(column_of, device=model.device)
    )
    flat = iter(logits.log_softmax(-1).gather(-1, target[:, None])[:, 0].tolist())
    return [[next(flat) for _ in middle] for _, middle, _ in rows]
