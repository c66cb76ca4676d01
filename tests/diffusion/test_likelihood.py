from __future__ import annotations

from typing import Any

import pytest
import torch


def test_onepass_is_the_masked_prediction_of_every_token(diffusion: Any) -> None:
    encode = diffusion.encoder.encode
    prefix, middle, suffix = encode("def f(x):\n"), encode("    return x\n"), encode("\nprint(f(1))\n")
    found = diffusion.onepass_logprobs([(prefix, middle, suffix)])[0]
    ids = torch.tensor([[*prefix, *[diffusion.network.mask_id] * len(middle), *suffix]])
    for i, token in enumerate(middle):
        column = torch.tensor([len(prefix) + i])
        logits = diffusion.network.logits_at(ids, torch.tensor([ids.shape[1]]), torch.tensor([0]), column)
        assert found[i] == pytest.approx(float(logits.log_softmax(-1)[0, token]), abs=1e-4)


def test_batches_and_order_change_nothing(diffusion: Any) -> None:
    encode = diffusion.encoder.encode
    rows = [(encode(f"x{i} = {i}\n" * (i + 1)), encode(f"y = {i}\n"), encode("z = 3\n" * i)) for i in range(5)]
    together = diffusion.onepass_logprobs(rows)
    for row, found in zip(rows, together, strict=True):
        assert found == pytest.approx(diffusion.onepass_logprobs([row])[0], abs=1e-4)
