"""What is measured when a masked-diffusion model is loaded, on one short text.

1. The fast path's logits equal the model's own forward pass, alone and beside padding; else the own forward pass is used.
2. Attention is bidirectional: the first half of the text is read differently when its last token is another one.
3. The shift that was asked for, or is the family's, predicts masked tokens; a shift that predicts them far better, or left to
   right, is an error. Where nobody says which shift it is, the better one is taken.

Random weights predict nothing, so 3 may stay undecided; that is a note. In all about ten times the text is read.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.loading import broken_code
from lm_eval_ensemble.errors import ModelError
from lm_eval_ensemble.families import Family
from lm_eval_ensemble.tokens import PlainEncoder

__all__ = ["Probed", "check", "set_causal"]

logger = logging.getLogger(__name__)

# A short program in the style of the data every code model has seen.
_TEXT = '''def mean(values):
    """Return the arithmetic mean of the values."""
    total = 0
    for value in values:
        total += value
    if len(values) == 0:
        return None
    return total / len(values)
'''
# nats per token by which one reading must predict better than another before the other is called wrong. Measured: the tiny
# causal checkpoint predicts left to right 2.0 better than masked tokens, the tiny diffusion one 2.4 worse; random weights
# are within 0.2.
_CLEAR = 1.0
# Largest difference of logits, as a part of the largest logit, that is rounding.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Probed(Protocol):
    """What of a model is probed; see ``model.MaskedDiffusionModel``."""

    model: Any
    family: Family
    own_code: bool
    fast: bool
    encoder: PlainEncoder
    mask_id: int
    frame: tuple[int, int] | None

    @property
    def device(self) -> torch.device: ...

    def backbone(self, ids: Tensor, attention: Tensor | None) -> Tensor: ...

    def head(self, states: Tensor) -> Tensor: ...

    def forward(self, ids: Tensor, places: Tensor | None = None) -> Tensor: ...

    def read(self, ids: Tensor, lengths: Tensor, rows: Tensor, sources: Tensor) -> Tensor: ...

    def logits_of(self, states: Tensor, ending: Tensor | None = None) -> Tensor: ...


@torch.no_grad()
def check(network: Probed, shift: bool | None) -> tuple[bool, dict[str, Any]]:
    """Settle ``network.fast`` and the shift.

    :param shift: the one asked for, or None.
    :returns: the shift, and what was found, for the record: losses are nats per token.
    :raises ModelError: attention is causal, or another shift or direction is the right one.
    """
    ids = torch.tensor([network.encoder.encode(_TEXT)], device=network.device)
    if network.encoder.decode(ids[0].tolist()) != _TEXT:
        logger.warning(
            "%s: its tokenizer does not give a program back as it was (that of BERT loses line breaks and indentation), so "
            "what it fills is not right where they count.",
            type(network.model).__name__,
        )
    hidden = _settle_path(network, ids) if network.fast else None
    try:
        _check_attention(network, ids, hidden)
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        if not network.own_code:
            raise
        name, files = type(network.model).__name__, vars(network.model.config)
        raise broken_code(f"{name} gives no logits", files, error) from error
    shifted, plain = _masked_losses(network, ids)
    if not math.isfinite(shifted + plain):
        raise ModelError(
            f"The diffusion model ({type(network.model).__name__}, {network.model.dtype}) gives logits that are not finite: "
            "its weights are damaged, or too large for this dtype. Give a whole checkpoint, or dtype=float32."
        )
    causal = _causal_loss(network, ids, hidden)
    asked, source = (shift, "settings") if shift is not None else (network.family.shift, "family")
    if asked is None:
        asked, source = (shifted <= plain, "probe") if abs(shifted - plain) > _CLEAR else (True, "default")
        if source == "default":
            logger.warning(
                "%s: a probe at load does not tell whether the state before a position predicts it (%.2f nats per token) or "
                "the state at it (%.2f); shift=true is assumed. Give shift= if you know it.",
                type(network.model).__name__,
                shifted,
                plain,
            )
    _refuse_contradictions(asked, source, shifted, plain, causal)
    facts = {
        "family": network.family.name,
        "class": type(network.model).__name__,
        "own_code": network.own_code,
        "logits": "fast path" if network.fast else "own forward",
        "attention": "full",
        "mask_token": network.encoder.tokenizer.convert_ids_to_tokens(network.mask_id),
        "mask_id": network.mask_id,
        "frame": network.frame,
        "shift": asked,
        "shift_by": source,
        "probe": {
            "shifted": round(shifted, 3),
            "unshifted": round(plain, 3),
            "left_to_right": None if causal is None else round(causal, 3),
        },
    }
    return asked, facts


def set_causal(model: Any, causal: bool) -> None:
    """Set the direction of attention on the config (mask builders) and on each layer (kernels)."""
    model.config.is_causal = causal
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = causal


def _beside_padding(network: Probed, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``(2, L)``: the text, and its first half with padding after it; and which of them are text."""
    half = ids.shape[1] // 2
    rows = ids.repeat(2, 1)
    rows[1, half:] = network.mask_id
    mask = torch.ones_like(rows)
    mask[1, half:] = 0
    return rows, mask


def _settle_path(network: Probed, ids: Tensor) -> Tensor | None:
    """Hidden states ``(2, L, H)`` of the text and its padded half; None, and no fast path, where their logits differ from
    those of the own forward pass."""
    half = ids.shape[1] // 2
    given: list[Tensor] = []  # by the output layer, while the model computes its logits
    head = network.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *call: given.append(call[2][0])) if head is not None else None
    try:
        own = [network.forward(ids)[0], network.forward(ids[:, :half])[0]]
    finally:
        if hook is not None:
            hook.remove()
    # To the last bit: a scale of 1.05 or a high cap is less than the rounding of 16 bits that is allowed below.
    untouched = len(given) == 2 and all(torch.equal(a.float(), b.float()) for a, b in zip(given, own, strict=True))
    try:
        hidden = network.backbone(*_beside_padding(network, ids))
        found = [network.head(hidden[0]), network.head(hidden[1, :half])]
        apart = max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(found, own, strict=True))
    except (AttributeError, TypeError, RuntimeError):  # a backbone or a head of another kind
        apart = float("inf")
    network.fast = untouched and apart <= _SAME.get(own[0].dtype, 1e-1)
    if network.fast:
        return hidden
    logger.info("%s: the output layer alone gives other logits; its own forward pass is used.", type(network.model).__name__)
    return None


def _check_attention(network: Probed, ids: Tensor, hidden: Tensor | None) -> None:
    """Refuse attention that does not see the end of the text from its first half.

    Both readings have one shape, so that they are the same to the last bit where attention is causal."""
    other, half = ids.clone(), ids.shape[1] // 2
    other[0, -1] = ids[0, 0]
    if hidden is not None:
        rows, mask = _beside_padding(network, ids)
        seen, expected = network.backbone(torch.cat([other, rows[1:]]), mask)[0, :half], hidden[0, :half]
    else:
        seen, expected = network.forward(other)[0, :half], network.forward(ids)[0, :half]
    if torch.equal(seen, expected):
        raise ModelError(
            f"The diffusion model ({type(network.model).__name__}, family {network.family.name}) still attends causally: the "
            "first half of a text is read as if its last token were not there. Give a checkpoint with full attention, or "
            "another class for it (family=)."
        )


def _masked_losses(network: Probed, ids: Tensor) -> tuple[float, float]:
    """Mean negative log-likelihood (nats per token) of a quarter of the tokens masked at a time, by the state before a
    position and by the state at it."""
    count = ids.shape[1]
    rows = ids.repeat(4, 1)
    columns = torch.arange(1, count, device=ids.device)
    phases = (columns - 1) % 4
    rows[phases, columns] = network.mask_id
    lengths = torch.full((4,), count, device=ids.device)
    states = network.read(rows, lengths, phases.repeat(2), torch.cat([columns - 1, columns]))
    logprobs = network.logits_of(states).log_softmax(-1)
    found = -logprobs.gather(-1, ids[0, columns].repeat(2)[:, None].to(logprobs.device))[:, 0]
    return float(found[: count - 1].mean()), float(found[count - 1 :].mean())


def _causal_loss(network: Probed, ids: Tensor, hidden: Tensor | None) -> float | None:
    """Mean negative log-likelihood (nats per token) of the text from left to right; None where the model has no such mode."""
    if network.own_code or network.family.masked_head:
        return None
    set_causal(network.model, True)
    try:
        output = network.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    finally:
        set_causal(network.model, False)
    if hidden is not None and torch.allclose(output.hidden_states[-1][0], hidden[0], rtol=1e-2, atol=1e-3):
        return None  # it attends to everything whatever is asked for, and would be told the answer
    logprobs = output.logits[0, :-1].float().log_softmax(-1)
    return -float(logprobs.gather(-1, ids[0, 1:, None].to(logprobs.device)).mean())


def _refuse_contradictions(shift: bool, source: str, shifted: float, plain: float, causal: float | None) -> None:
    """:raises ModelError: a reading that nobody asked for is far better than the one that was."""
    used, other = (shifted, plain) if shift else (plain, shifted)
    if causal is not None and min(used, other) > causal + _CLEAR:
        raise ModelError(
            f"The checkpoint given as the diffusion model predicts left to right ({causal:.2f} nats per token) much "
            f"better than masked tokens ({min(used, other):.2f}): it is an autoregressive model. Give a masked-diffusion "
            "checkpoint (dllm=...), e.g. fredzzp/open-dcoder-0.5B, or use preset=tiny."
        )
    if used > other + _CLEAR:
        here = "the settings say" if source == "settings" else "its family says"
        raise ModelError(
            f"{here.capitalize()} shift={str(shift).lower()} for the diffusion model, which predicts masked tokens with "
            f"{used:.2f} nats per token; with shift={str(not shift).lower()} it takes {other:.2f}. Give "
            f"shift={str(not shift).lower()}."
        )
