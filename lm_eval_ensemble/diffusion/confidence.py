"""How well L masks fit a gap, from one forward with L masks.

Two signals are read off the masks. ``confidence`` is the mean probability of the best token, as in CAL (arXiv
2602.00476). ``one_line`` is the log-probability (nats) that no mask but the last holds a newline, as if the masks were
independent; it counts only where the task asks for one line (``cut=line``).

Both change with L whatever the true length is, so they are calibrated: ``score(L) = sum of weight * signal + bias(L)``.
The weights and the bias are those that make the true length of gaps in unlabelled code most likely (a conditional
logit), which ``lm-eval-ensemble fit-length`` fits and stores with the model they belong to. Scores are log-odds between
the lengths of one gap, in nats; higher is better. Deviation from CAL, which divides the confidence by its mean over gaps
of other lengths: that finds fewer true lengths (docs/diffusion.md).
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_ensemble.errors import ConfigError, ModelError
from lm_eval_ensemble.types import Cut

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel

__all__ = ["BIAS_FILE", "Bias", "LengthBias", "Probe", "Signals", "fingerprint", "newline_ids", "read_signals"]

#: where a checkpoint's folder may hold its bias.
BIAS_FILE = "length_bias.json"
_FORMAT = 1


@dataclass(frozen=True)
class Probe:
    """A gap with ``length`` masks between a prefix and a suffix (token ids)."""

    prefix: Sequence[int]
    suffix: Sequence[int]
    length: int

    @property
    def tokens(self) -> int:
        return len(self.prefix) + self.length + len(self.suffix)


class Signals(NamedTuple):
    """``confidence`` in (0, 1]; ``one_line`` at most 0, in nats."""

    confidence: float
    one_line: float


def read_signals(model: MaskedDiffusionModel, probes: Sequence[Probe], newlines: Tensor) -> list[Signals]:
    """The signals of every probe; one batch, one forward.

    :param newlines: ``(W,)`` ids of the tokens whose text holds a newline.
    """
    import torch

    from lm_eval_ensemble.diffusion.model import pad_right

    texts = [[*p.prefix, *([model.mask_id] * p.length), *p.suffix] for p in probes]
    ids, lengths = pad_right(texts, model.mask_id, model.device)
    rows = torch.tensor([r for r, p in enumerate(probes) for _ in range(p.length)], device=model.device)
    columns = torch.tensor([len(p.prefix) + i for p in probes for i in range(p.length)], device=model.device)
    last = torch.tensor([i == p.length - 1 for p in probes for i in range(p.length)], device=model.device)
    logprobs = model.logits_at(ids, lengths, rows, columns).log_softmax(-1)
    best = logprobs.amax(-1).exp()
    # A newline that is all but certain counts as 1 - 1e-4, so that one place cannot outweigh everything else.
    stays = torch.log1p(-logprobs[:, newlines].exp().sum(-1).clamp_max(1 - 1e-4)).masked_fill(last, 0)
    sums = torch.zeros(len(probes), 2, device=model.device).index_add_(0, rows, torch.stack([best, stays], 1)).tolist()
    return [Signals(total / probe.length, one_line) for (total, one_line), probe in zip(sums, probes, strict=True)]


def newline_ids(model: MaskedDiffusionModel) -> Tensor:
    """Ids of the tokens whose text holds a newline, ``(W,)``."""
    import torch

    encoder = model.encoder
    ids = sorted(encoder.tokenizer.get_vocab().values())
    texts = encoder.tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    found = [i for i, text in zip(ids, texts, strict=True) if "\n" in text and i not in encoder.control_ids]
    return torch.tensor(found, dtype=torch.long, device=model.device)


@dataclass(frozen=True)
class LengthBias:
    """``bias`` in nats at some lengths, ascending; linear in log(length) between them, constant beyond the ends."""

    lengths: tuple[int, ...]
    bias: tuple[float, ...]
    confidence: float
    one_line: float = 0.0

    def score(self, signals: Signals, length: int) -> float:
        """Log-odds of this length, nats; higher is better."""
        own = self.confidence * signals.confidence + self.one_line * signals.one_line
        return own + _between(self.lengths, self.bias, length)


@dataclass(frozen=True)
class Bias:
    """Tables per kind of gap (the task's cut rule), the model they belong to, and what they were fitted on."""

    model: str
    tables: Mapping[Cut, LengthBias]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """As JSON; the same content gives the same bytes."""
        tables = {cut: asdict(table) for cut, table in sorted(self.tables.items())}
        content = {"format": _FORMAT, "model": self.model, "origin": dict(self.origin), "tables": tables}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, model: str) -> Bias:
        """Read a file of ``fit-length``.

        :param model: fingerprint of the model it is to be used with.
        :raises ConfigError: not readable, not such a file, or fitted with another model.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tables = {cut: _table(table) for cut, table in content["tables"].items()}
            found = cls(str(content["model"]), tables, dict(content["origin"]))
            known = content["format"] == _FORMAT and {"line", "none"} <= tables.keys()
        except OSError as error:
            raise ConfigError(f"length_bias={path}: {error.strerror or error}. {_ADVICE}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"length_bias={path}: not a file of fit-length ({error}). {_ADVICE}") from error
        if not known:
            raise ConfigError(f"length_bias={path}: not a complete file of fit-length, format {_FORMAT}. {_ADVICE}")
        if found.model != model:
            raise ConfigError(
                f"length_bias={path}: fitted with model {found.model}, but this model is {model}. How the signals change with "
                f"the length differs from model to model. {_ADVICE}"
            )
        return found


_ADVICE = "Fit one on any code: lm-eval-ensemble fit-length MODEL --code FOLDER --output bias.json"


def _table(content: Mapping[str, Any]) -> LengthBias:
    lengths, bias = tuple(map(int, content["lengths"])), tuple(map(float, content["bias"]))
    if not lengths or len(lengths) != len(bias) or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError("lengths and bias do not match")
    confidence, one_line = float(content["confidence"]), float(content["one_line"])
    if not all(map(math.isfinite, (*bias, confidence, one_line))):
        raise ValueError("a number is not finite")
    return LengthBias(lengths, bias, confidence, one_line)


def fingerprint(model: Any) -> str:
    """16 hex digits that name a network by its weights, whatever dtype it was loaded in.

    The first numbers of every parameter, rounded to bfloat16.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.is_meta:
            raise ModelError(f"{type(model).__name__}: weight {name} is offloaded; a length bias needs the weights in memory.")
        first = parameter.detach().reshape(-1)[:64].to("cpu", torch.bfloat16).float().tolist()
        digest.update(f"{name} {tuple(parameter.shape)} {first}\n".encode())
    return digest.hexdigest()[:16]


def _between(lengths: Sequence[int], values: Sequence[float], length: int) -> float:
    right = bisect.bisect_left(lengths, length)
    if right == 0 or right == len(lengths):
        return values[min(right, len(lengths) - 1)]
    low, high = math.log(lengths[right - 1]), math.log(lengths[right])
    share = (math.log(length) - low) / (high - low)
    return values[right - 1] + share * (values[right] - values[right - 1])
