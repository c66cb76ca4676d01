"""A masked-diffusion language model, through the fast path where it is proven to compute the same as the model itself.

A checkpoint such as Open-dCoder has the weights of an ordinary Qwen2 model, trained with attention in both
directions. Loaded the ordinary way it runs, without any error, causally, and only the score suffers. So nothing is taken
for granted: which class, which shift and which mask belong to a checkpoint stands in ``families``, and what can be
measured is measured when it is loaded (``diffusion.probe``).

The fast path runs the backbone once and sends only the positions asked for through the LM head. Where the model does
more than that (logits that are scaled or capped, a head of several layers, code that came with the checkpoint) its own
forward pass is used, row lengths apart, so that it never sees padding.

Letters: B = rows, L = row length, N = positions asked for, V = vocabulary rows of the embedding, H = hidden size.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.loading import load_checkpoint
from lm_eval_ensemble.diffusion.probe import check, set_causal
from lm_eval_ensemble.errors import ModelError
from lm_eval_ensemble.families import FAMILIES, Family
from lm_eval_ensemble.tokens import PlainEncoder

__all__ = ["MaskedDiffusionModel", "pad_right", "resolve_mask_id"]

_EXPAND = "<|expand|>"

logger = logging.getLogger(__name__)


class MaskedDiffusionModel:
    """A bidirectional transformer that predicts masked tokens.

    The logits that predict position i come from hidden state i-1 (``shift=True``: models adapted from
    autoregressive ones, as Open-dCoder and Dream) or from hidden state i (``shift=False``: LLaDA).

    ``shift`` starts as what was asked for, else what the family says; None is settled by ``probe.check``. ``fast``: whether
    the fast path is used. ``facts``: what was found at load, for the record.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        family: Family = FAMILIES["other"],
        own_code: bool = False,
        mask_token: str | int | None = None,
        shift: bool | None = None,
    ) -> None:
        self.model = model.eval()
        if not own_code:
            set_causal(model, False)
        self.family, self.own_code = family, own_code
        self.encoder = PlainEncoder(tokenizer)
        self.vocabulary_rows = rows = int(model.get_input_embeddings().weight.shape[0])
        self.mask_id = resolve_mask_id(tokenizer, mask_token, model.config, rows, family)
        if tokenizer.mask_token_id not in (None, self.mask_id) and tokenizer.mask_token_id < rows:
            logger.warning(
                "%s is masked with token %d, as mask_token= says; its tokenizer has another mask, %r (%d).",
                type(model).__name__,
                self.mask_id,
                tokenizer.mask_token,
                tokenizer.mask_token_id,
            )
        known = set(tokenizer.get_vocab().values())  # not always the first len(tokenizer) ids
        if (highest := max(known - self.encoder.control_ids)) >= rows:
            raise ModelError(
                f"The tokenizer of the diffusion model has tokens up to {highest}, its embedding {rows} rows: they do not "
                "belong together. Give the tokenizer files that were published with these weights."
            )
        # Never sampled: the mask, padding rows of the vocabulary, and control tokens (a middle is plain text).
        forbidden = self.encoder.control_ids | {self.mask_id} | (set(range(rows)) - known)
        self._forbidden = torch.tensor(sorted(i for i in forbidden if i < rows), device=self.device)
        #: ids that end a text; drawn only where nothing follows the gap.
        self.end_ids = sorted(i for i in _end_ids(tokenizer, model) if i < rows and i != self.mask_id)
        #: the token that makes two masks of one (DreamOn); None where the vocabulary has none.
        expand = self.encoder.token_id(_EXPAND)
        self.expand_id = expand if expand is not None and expand < rows else None
        #: what the published code puts after the suffix of the shorter rows of a batch.
        self.pad_id = _first(rows, tokenizer.pad_token_id, tokenizer.eos_token_id, self.mask_id)
        #: the tokens that open and close every row, where the family's texts have them.
        self.frame = _frame(tokenizer, rows) if family.framed else None
        if family.framed and self.frame is None:
            logger.warning(
                "The texts of the family %s stand between two tokens, one of which the tokenizer of this checkpoint lacks "
                "(bos_token or cls_token, eos_token or sep_token): they are read without.",
                family.name,
            )
        self._directed = not own_code and _takes(model.forward, "is_causal")
        self._keeps = _takes(model.forward, "logits_to_keep", named=True)
        self.fast = not own_code
        self.shift, self.facts = check(self, shift)

    @classmethod
    def load(
        cls,
        pretrained: str,
        *,
        device: str,
        device_map: str | Mapping[str, Any] | None = None,
        mask_token: str | int | None = None,
        shift: bool | None = None,
        **options: Any,
    ) -> MaskedDiffusionModel:
        """Load a checkpoint from a folder or the Hub.

        :param device_map: spreads the layers over devices as transformers does; ``device`` is not used then.
        :param mask_token: the mask by its text or id, where it cannot be found.
        :param shift: None: as its family, else as the probe finds it.
        :param options: the others of ``loading.load_checkpoint``.
        :raises ModelError: weights not found, no mask token, or not a masked-diffusion model.
        """
        model, tokenizer, family, own_code = load_checkpoint(pretrained, device_map=device_map, **options)
        placed = model if device_map else model.to(device)
        return cls(placed, tokenizer, family=family, own_code=own_code, mask_token=mask_token, shift=shift)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def max_positions(self) -> int:
        """Tokens that a row should have at most, those of the frame not counted."""
        configured = int(getattr(self.model.config, "max_position_embeddings", 2048))
        most = min(configured, self.family.context or configured) - (2 if self.frame else 0)
        return most if self.places is None else min(most, self.places)

    @property
    def places(self) -> int | None:
        """Tokens that a row can have, those of the frame not counted; None: any number, since places are computed."""
        table = getattr(getattr(self.model.base_model, "embeddings", None), "position_embeddings", None)
        if not isinstance(table, torch.nn.Embedding):
            return None
        unused = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts from the place after it
        return table.num_embeddings - unused - (2 if self.frame else 0)

    @torch.no_grad()
    def logits_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits that predict ``ids[rows, columns]``.

        Padding is clean: no token attends to it, so a row does not depend on its batch.

        :param ids: ``(B, L)``, right-padded; ``lengths`` ``(B,)`` the true lengths.
        :param rows: ``(N,)`` and ``columns`` ``(N,)``: the positions asked for. Only they pass the LM head.
        :returns: ``(N, V)`` float32 with mask, control and out-of-vocabulary ids at minus infinity.
        """
        return self.logits_of(self.states_at(ids, lengths, rows, columns))

    @torch.no_grad()
    def states_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """What ``logits_at`` makes its logits of, for a whole batch: hidden states ``(N, H)`` on the fast path, else the
        model's own logits ``(N, V)``."""
        return self.read(ids, lengths, rows, columns - int(bool(self.shift)))

    @torch.no_grad()
    def read(self, ids: Tensor, lengths: Tensor, rows: Tensor, sources: Tensor) -> Tensor:
        """As ``states_at``, at the places ``sources`` ``(N,)`` of the model's output; the first place stands for -1."""
        if self.frame:
            ids, lengths, sources = self._framed(ids, lengths, sources)
        sources = sources.clamp_min(0)
        if not self.fast:
            return self._own_logits(ids, lengths, rows, sources)
        mask = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        hidden = self.backbone(ids, None if bool(mask.all()) else mask.long())
        return hidden[rows.to(hidden.device), sources.to(hidden.device)]

    def _framed(self, ids: Tensor, lengths: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, last = self.frame or (0, 0)
        edge = ids.new_full((len(ids), 1), first)
        framed = torch.cat([edge, ids, edge], 1)
        framed[torch.arange(len(ids), device=ids.device), lengths + 1] = last
        return framed, lengths + 2, places + 1

    @torch.no_grad()
    def logits_of(self, states: Tensor, ending: Tensor | None = None, expanding: Tensor | None = None) -> Tensor:
        """Logits ``(N, V)`` of what ``states_at`` gave, as ``logits_at`` gives them.

        :param ending: ``(N,)`` bool: where an id that ends a text is allowed too; expanding: where the expand token is.
        """
        logits: Tensor = self.head(states).float() if self.fast else states.to(torch.float32, copy=True)
        grows = [] if self.expand_id is None else [self.expand_id]
        allowed = [(ids, where) for ids, where in ((self.end_ids, ending), (grows, expanding)) if where is not None]
        kept = [logits[:, ids] for ids, _ in allowed]
        logits[:, self._forbidden.to(logits.device)] = float("-inf")
        for (ids, where), values in zip(allowed, kept, strict=True):
            logits[:, ids] = values.masked_fill(~where.to(logits.device)[:, None], float("-inf"))
        return logits

    def head(self, states: Tensor) -> Tensor:
        """The output embeddings alone, as the fast path has them."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits

    def backbone(self, ids: Tensor, attention: Tensor | None) -> Tensor:
        """Hidden states ``(B, L, H)``; the keyword makes every mask builder of transformers 5 bidirectional."""
        output = self.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False, **self._direction)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def forward(self, ids: Tensor, places: Tensor | None = None) -> Tensor:
        """The model's own logits ``(B, K, V)`` of rows without padding, at ``places`` ``(K,)``; None: everywhere."""
        if places is not None and self._keeps:
            output: Tensor = self.model(input_ids=ids, logits_to_keep=places, **self._direction).logits
            return output
        logits: Tensor = self.model(input_ids=ids, **self._direction).logits
        return logits if places is None else logits[:, places.to(logits.device)]

    @property
    def _direction(self) -> dict[str, bool]:
        return {"is_causal": False} if self._directed else {}

    def _own_logits(self, ids: Tensor, lengths: Tensor, rows: Tensor, sources: Tensor) -> Tensor:
        """``(N, V)`` by the model's own forward pass; rows of one length at a time, and only as long as they are."""
        found: Tensor | None = None
        for length in sorted(set(lengths.tolist())):
            chosen = (lengths == length).nonzero()[:, 0]
            asked = torch.isin(rows, chosen)
            if not bool(asked.any()):
                continue
            places, at = torch.unique(sources[asked], return_inverse=True)
            logits = self.forward(ids[chosen, :length], places)
            local = torch.searchsorted(chosen, rows[asked])
            found = logits.new_empty(len(rows), logits.shape[-1]) if found is None else found
            found[asked.to(found.device)] = logits[local.to(logits.device), at.to(logits.device)]
        assert found is not None
        return found


def resolve_mask_id(
    tokenizer: Any,
    mask_token: str | int | None = None,
    config: Any = None,
    rows: int | None = None,
    family: Family = FAMILIES["other"],
) -> int:
    """The mask's id: the one asked for (text or id); else the tokenizer's; else the model configuration's; else that of its
    family; else a text that training is known to have added in other families.

    It is never added to the vocabulary: that would be an untrained row.

    :param rows: rows of the embedding; an id beyond them is no mask.
    :raises ModelError: no mask token.
    """
    known = dict.fromkeys(name for other in FAMILIES.values() for name in other.masks if isinstance(name, str))
    asked = mask_token is not None and mask_token != ""
    configured = getattr(config, "mask_token_id", None)
    names = (mask_token,) if asked else (tokenizer.mask_token, configured, *family.masks, *known)
    tried = [name for name in dict.fromkeys(names) if name is not None]
    for name in tried:
        found = name if isinstance(name, int) else tokenizer.convert_tokens_to_ids(name)
        if found is None or (found == tokenizer.unk_token_id and name not in (found, tokenizer.unk_token)):
            continue
        if 0 <= found < (rows if rows is not None else found + 1):
            if not asked and name == tokenizer.mask_token and configured != found and configured in range(rows or 0):
                raise ModelError(
                    f"The tokenizer of the diffusion model says that its mask is {name!r} ({found}), its config.json that it "
                    f"is {configured}. Say which one it was trained with: mask_token={found} or mask_token={configured}."
                )
            return int(found)
    if asked:
        raise ModelError(
            f"mask_token={mask_token!r} is no token of the diffusion model. Give the text or the id of the one that it was "
            "trained with, or leave mask_token= out."
        )
    raise ModelError(
        f"The diffusion model has no mask token (looked for {', '.join(map(repr, tried))}). Give a checkpoint that was trained "
        "by masking; if this one was, name its token with mask_token=."
    )


def _end_ids(tokenizer: Any, model: Any) -> set[int]:
    """Ids that end a text, by the tokenizer and by the checkpoint's generation settings."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return {int(i) for i in found if i is not None}


def _first(rows: int, *ids: int | None) -> int:
    """The first id that the embedding has a row for: tokenizers may know more tokens than the model. -1: none of them."""
    return next((int(i) for i in ids if i is not None and i < rows), -1)


def _frame(tokenizer: Any, rows: int) -> tuple[int, int] | None:
    """The ids that open and close a text; None where the tokenizer lacks one of them."""
    opens = _first(rows, tokenizer.bos_token_id, tokenizer.cls_token_id)
    closes = _first(rows, tokenizer.eos_token_id, tokenizer.sep_token_id)
    return None if min(opens, closes) < 0 else (opens, closes)


def _takes(function: Any, name: str, named: bool = False) -> bool:
    """Whether a function takes a keyword, by its name or (unless ``named``) as one of any."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or (p.kind is p.VAR_KEYWORD and not named) for p in parameters)


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids as one right-padded ``(B, L)`` tensor, and their lengths ``(B,)``."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(list(row), dtype=torch.long)
    return ids.to(device), lengths
