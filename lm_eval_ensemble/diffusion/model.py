"""A masked-diffusion language model on stock transformers classes.

A checkpoint such as Open-dCoder has the weights of an ordinary Qwen2 model, trained with attention in both
directions. Loaded the ordinary way it runs, without any error, causally, and only the score suffers. So the
direction is set *and* measured at load, and a model that was trained causally is refused.

Letters: B = rows, L = row length, N = positions asked for, V = vocabulary rows of the embedding, H = hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_eval_ensemble.errors import ModelError, missing_weights
from lm_eval_ensemble.tokens import PlainEncoder

__all__ = ["MaskedDiffusionModel", "make_bidirectional", "resolve_mask_id"]

#: mask tokens that training is known to have added: Open-dCoder, Dream and DreamOn, LLaDA, others.
_MASK_TOKENS = ("<M>", "<|mask|>", "<|mdm_mask|>", "[MASK]")
#: their ids, for checkpoints of these types whose tokenizer files have lost the token's name.
_MASK_IDS = {"dream": 151666, "llada": 126336}
#: model types that are another type in all but name; loaded by the stock class unless remote code is asked for.
_SHAPES = {"Dream": "qwen2"}

# A short program in the style of the data every code model has seen: the text the load-time probe masks.
_PROBE_TEXT = '''def mean(values):
    """Return the arithmetic mean of the values."""
    total = 0
    for value in values:
        total += value
    if len(values) == 0:
        return None
    return total / len(values)
'''
# nats per token by which masked prediction must lose to left-to-right prediction before a model is called causal.
# Measured: the tiny causal checkpoint loses by 2.0, the tiny diffusion one wins by 2.4, random weights are within 0.2.
_CAUSAL_MARGIN = 1.0


class MaskedDiffusionModel:
    """A bidirectional transformer that predicts masked tokens.

    The logits that predict position i come from hidden state i-1 (``shift=True``: models adapted from
    autoregressive ones, as Open-dCoder and Dream) or from hidden state i (``shift=False``: LLaDA).
    """

    def __init__(self, model: Any, tokenizer: Any, *, mask_token: str | int | None = None, shift: bool = True) -> None:
        self.model = make_bidirectional(model.eval())
        self.encoder = PlainEncoder(tokenizer)
        self.vocabulary_rows = rows = int(model.get_input_embeddings().weight.shape[0])
        self.mask_id = resolve_mask_id(tokenizer, mask_token, model.config, rows)
        self.shift = shift
        # Never sampled: the mask, padding rows of the vocabulary, and control tokens (a middle is plain text).
        forbidden = sorted(self.encoder.control_ids | {self.mask_id} | set(range(self.encoder.vocabulary, rows)))
        self._forbidden = torch.tensor([i for i in forbidden if i < rows], device=self.device)
        #: ids that end a text; drawn only where nothing follows the gap.
        self.end_ids = sorted(i for i in _end_ids(tokenizer, model) if i < rows and i != self.mask_id)
        #: what the published code puts after the suffix of the shorter rows of a batch.
        self.pad_id = int(next((i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None), self.mask_id))
        self._backbone_takes_direction = _takes(model.base_model.forward, "is_causal")
        self._probe()

    @classmethod
    def load(
        cls,
        pretrained: str,
        *,
        dtype: torch.dtype,
        device: str,
        revision: str = "main",
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        gpus: Sequence[int] | None = None,
        mask_token: str | int | None = None,
        shift: bool = True,
    ) -> MaskedDiffusionModel:
        """Load a checkpoint from a folder or the Hub.

        :param device_map: spreads the layers over devices as transformers does; ``device`` is not used then.
        :param gpus: the GPUs it may use; None: all.
        :param mask_token: the mask by its text or id, where it cannot be found.
        :raises ModelError: weights not found, no mask token, or not a masked-diffusion model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
        extra |= {"device_map": device_map} if device_map else {}
        if isinstance(device_map, str) and gpus is not None:
            from accelerate.utils import get_max_memory

            extra["max_memory"] = {place: room for place, room in get_max_memory().items() if place in (*gpus, "cpu")}
        common = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(pretrained, **common)
            extra |= {} if trust_remote_code else _stock_config(pretrained, revision)
            model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=dtype, **common, **extra)
        except (OSError, ValueError) as error:
            raise missing_weights(pretrained, error) from error
        return cls(model if device_map else model.to(device), tokenizer, mask_token=mask_token, shift=shift)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def max_positions(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", 2048))

    @torch.no_grad()
    def logits_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits that predict ``ids[rows, columns]``.

        Padding is clean: right pads are masked out of attention, so a row does not depend on its batch.

        :param ids: ``(B, L)``, right-padded; ``lengths`` ``(B,)`` the true lengths.
        :param rows: ``(N,)`` and ``columns`` ``(N,)``: the positions asked for. Only they pass the LM head.
        :returns: ``(N, V)`` float32 with mask, control and out-of-vocabulary ids at minus infinity.
        """
        return self.logits_of(self.states_at(ids, lengths, rows, columns))

    @torch.no_grad()
    def states_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The hidden states ``(N, H)`` behind ``logits_at``: small enough to keep for a whole batch."""
        mask = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        attention = None if bool(mask.all()) else mask.long()
        source = (columns - 1).clamp_min(0) if self.shift else columns
        hidden = self._backbone(ids, attention)
        return hidden[rows.to(hidden.device), source.to(hidden.device)]

    @torch.no_grad()
    def logits_of(self, states: Tensor, ending: Tensor | None = None) -> Tensor:
        """Logits ``(N, V)`` of hidden states, as ``logits_at`` gives them.

        :param ending: ``(N,)`` bool: where an id that ends a text is allowed too.
        """
        logits: Tensor = self.model.get_output_embeddings()(states).float()
        ends = logits[:, self.end_ids] if ending is not None else None
        logits[:, self._forbidden.to(logits.device)] = float("-inf")
        if ending is not None and ends is not None:
            logits[:, self.end_ids] = ends.masked_fill(~ending.to(logits.device)[:, None], float("-inf"))
        return logits

    def _backbone(self, ids: Tensor, attention: Tensor | None) -> Tensor:
        """Hidden states ``(B, L, H)``; the keyword makes every mask builder of transformers 5 bidirectional."""
        direction = {"is_causal": False} if self._backbone_takes_direction else {}
        output = self.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False, **direction)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.no_grad()
    def _probe(self) -> None:
        """Refuse a model whose attention is causal, or that was trained to predict left to right."""
        text = self.encoder.encode(_PROBE_TEXT)
        ids = torch.tensor([text], device=self.device)
        other = ids.clone()
        other[0, -1] = ids[0, 0]
        lengths = torch.tensor([len(text)], device=self.device)
        if torch.equal(self._backbone(ids, None)[0, 0], self._backbone(other, None)[0, 0]):
            raise ModelError(
                f"The diffusion model ({type(self.model).__name__}) still attends causally: its first hidden state "
                "ignores the last token. Use transformers >= 5 and a stock Qwen2-, Qwen3- or Llama-shaped checkpoint."
            )
        masked, causal = self._masked_loss(ids, lengths), self._causal_loss(ids)
        if masked > causal + _CAUSAL_MARGIN:
            raise ModelError(
                f"The checkpoint given as the diffusion model predicts left to right ({causal:.2f} nats per token) much "
                f"better than masked tokens ({masked:.2f}): it is an autoregressive model. Give a masked-diffusion "
                "checkpoint (dllm=...), e.g. fredzzp/open-dcoder-0.5B, or use preset=tiny."
            )

    def _masked_loss(self, ids: Tensor, lengths: Tensor) -> float:
        """Mean negative log-likelihood of a quarter of the tokens masked at a time (nats per token)."""
        total, count = 0.0, ids.shape[1]
        for phase in range(4):
            columns = torch.arange(1 + phase, count, 4, device=ids.device)
            masked = ids.clone()
            masked[0, columns] = self.mask_id
            logits = self.logits_at(masked, lengths, torch.zeros_like(columns), columns)
            total -= float(logits.log_softmax(-1).gather(-1, ids[0, columns, None]).sum())
        return total / (count - 1)

    def _causal_loss(self, ids: Tensor) -> float:
        """Mean negative log-likelihood of the same tokens with causal attention (nats per token)."""
        _set_causal(self.model, True)
        try:
            logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        finally:
            _set_causal(self.model, False)
        return -float(logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).mean())


def make_bidirectional(model: Any) -> Any:
    """Let every token attend to every other: on the config (mask builders) and on each layer (kernels)."""
    _set_causal(model, False)
    return model


def _set_causal(model: Any, causal: bool) -> None:
    model.config.is_causal = causal
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = causal


def resolve_mask_id(tokenizer: Any, mask_token: str | int | None = None, config: Any = None, rows: int | None = None) -> int:
    """The mask's id: the one asked for (text or id); else the tokenizer's; else the model configuration's; else a token
    that training is known to have added, by its name or, for Dream and LLaDA, by its id.

    It is never added to the vocabulary: that would be an untrained row.

    :param rows: rows of the embedding; an id beyond them is no mask.
    :raises ModelError: no mask token.
    """
    names: tuple[Any, ...] = (tokenizer.mask_token, getattr(config, "mask_token_id", None), *_MASK_TOKENS)
    kind = str(getattr(config, "model_type", "")).lower()
    names = (*names, *(found for name, found in _MASK_IDS.items() if name in kind))
    names = names if mask_token is None or mask_token == "" else (mask_token,)
    for name in names:
        found = name if isinstance(name, int) else None if name is None else tokenizer.convert_tokens_to_ids(name)
        if found is None or (found == tokenizer.unk_token_id and not isinstance(name, int)):
            continue
        if 0 <= found < (rows if rows is not None else found + 1):
            return int(found)
    raise ModelError(
        f"The diffusion model has no mask token (looked for {', '.join(repr(n) for n in names if n is not None)}): "
        "the checkpoint was not trained by masking. Give a masked-diffusion checkpoint, or name its token with mask_token=."
    )


def _end_ids(tokenizer: Any, model: Any) -> set[int]:
    """Ids that end a text, by the tokenizer and by the checkpoint's generation settings."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return {int(i) for i in found if i is not None}


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _stock_config(pretrained: str, revision: str) -> dict[str, Any]:
    """The configuration under the stock class's name, for checkpoints that differ from it in nothing else."""
    from transformers import AutoConfig, PretrainedConfig

    settings, _ = PretrainedConfig.get_config_dict(pretrained, revision=revision)
    shape = _SHAPES.get(settings.get("model_type", ""))
    if shape is None:
        return {}
    kept = {name: value for name, value in settings.items() if name not in ("auto_map", "architectures", "model_type")}
    return {"config": AutoConfig.for_model(shape, **kept)}


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids as one right-padded ``(B, L)`` tensor, and their lengths ``(B,)``."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(list(row), dtype=torch.long)
    return ids.to(device), lengths
