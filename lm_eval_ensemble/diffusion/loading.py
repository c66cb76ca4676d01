"""A checkpoint's folder as a model and a tokenizer: through a class of transformers wherever that computes the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lm_eval_ensemble.errors import ModelError, missing_weights
from lm_eval_ensemble.families import Family, find_family

__all__ = ["Checkpoint", "load_checkpoint"]

#: weights that a class may leave aside without computing anything else: heads of other tasks, tables it makes itself.
_ASIDE = ("pooler", "seq_relationship", "inv_freq", "position_ids", "lm_head.weight", "decoder.")
_ROLES = ("bos_token", "eos_token", "pad_token", "mask_token", "unk_token")


class Checkpoint(NamedTuple):
    """``own_code``: the model is of a class that came with the checkpoint."""

    model: Any
    tokenizer: Any
    family: Family
    own_code: bool


def load_checkpoint(
    pretrained: str,
    *,
    dtype: torch.dtype,
    revision: str = "main",
    trust_remote_code: bool = False,
    family: str | None = None,
    peft: str | None = None,
    attn_implementation: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    gpus: Sequence[int] | None = None,
) -> Checkpoint:
    """Load a checkpoint from a folder or the Hub.

    :param family: a name of ``FAMILIES``, where config.json would choose another.
    :param peft: an adapter of peft for these weights, a folder or a Hub name.
    :raises ModelError: weights not found, not all there, or of a family that cannot fill gaps.
    """
    from transformers.utils.hub import cached_file

    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    extra |= {"device_map": device_map} if device_map else {}
    if isinstance(device_map, str) and gpus is not None:
        from accelerate.utils import get_max_memory

        extra["max_memory"] = {place: room for place, room in get_max_memory().items() if place in (*gpus, "cpu")}
    try:
        config = json.loads(Path(cached_file(pretrained, "config.json", revision=revision)).read_text(encoding="utf-8"))
        found = find_family(pretrained, config, family)
        stock = _stock_config(pretrained, config, found, trust_remote_code)
        extra |= {"trust_remote_code": True} if stock is None else {"config": stock, "key_mapping": dict(found.weights) or None}
        tokenizer = _load_tokenizer(pretrained, revision, found, trust_remote_code)
        model, told = _model_class(config, found, stock).from_pretrained(
            pretrained, dtype=dtype, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **extra
        )
    except (OSError, ValueError) as error:
        raise missing_weights(pretrained, error) from error
    _refuse_missing(pretrained, type(model).__name__, told)
    if peft:
        _add_adapter(model, peft, found)
    return Checkpoint(model, tokenizer, found, stock is None)


def _stock_config(pretrained: str, config: Mapping[str, Any], family: Family, trust_remote_code: bool) -> Any:
    """The configuration of the class of transformers that computes the same; None: the checkpoint's own code is to run."""
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = family.stock_type(config)
    brought = [name for name in config.get("auto_map") or {} if name != "AutoConfig"]
    # What is absent has the default of the checkpoint's own class, which is another one.
    lacking = [f"no {name}" for name in (*family.settings, *family.needs) if name not in config]
    lacking += [f"{name}={config[name]!r}" for name, value in family.needs.items() if config.get(name, value) != value]
    unknown_code = not family.types and brought
    if kind in CONFIG_MAPPING and not lacking and not unknown_code:
        kept = {name: value for name, value in config.items() if name not in ("auto_map", "architectures", "model_type")}
        if kept.get("rope_scaling", 0) is None:  # the older way to say nothing
            del kept["rope_scaling"]
        if family.settings:
            kept = {own: config[name] for name, own in family.settings.items() if config.get(name) is not None}
        return AutoConfig.for_model(kind, **kept)
    if trust_remote_code and brought:
        return None
    why = f"model type {config.get('model_type')!r}"
    why += f", which is a {kind} only otherwise: {', '.join(lacking[:3])}" if lacking else ""
    if brought:
        raise ModelError(
            f"{pretrained!r} ({why}) brings its own model class, and transformers has none that is known to compute the same. "
            "Say trust_remote_code=true to run its code."
        )
    raise ModelError(
        f"{pretrained!r} ({why}): transformers has no class for it, and it brings no code of its own. Give a checkpoint with "
        "its files complete, or a newer transformers."
    )


def _model_class(config: Mapping[str, Any], family: Family, stock: Any) -> Any:
    import transformers

    names = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel")
    if stock is None:
        brought = config["auto_map"]
        return getattr(transformers, next(name for name in names if name in brought))
    return getattr(transformers, names[1] if family.masked_head else names[0])


def _load_tokenizer(pretrained: str, revision: str, family: Family, trust_remote_code: bool) -> Any:
    """By transformers' class where the files name code of their own for a family whose class is known."""
    import transformers
    from transformers.models.auto.tokenization_auto import get_tokenizer_config
    from transformers.utils.hub import cached_file

    settings = get_tokenizer_config(pretrained, revision=revision)
    if not (family.tokenizer and "auto_map" in settings):
        auto: Any = transformers.AutoTokenizer
        return auto.from_pretrained(pretrained, revision=revision, trust_remote_code=trust_remote_code)
    # Put together here: transformers gives added tokens the ids after the vocabulary, whatever the files say.
    files = (Path(cached_file(pretrained, name, revision=revision)) for name in ("vocab.json", "merges.txt"))
    vocabulary, merges = (path.read_text(encoding="utf-8") for path in files)
    added = {int(i): token for i, token in settings["added_tokens_decoder"].items()}
    roles = {name: text for name, text in settings.items() if name in _ROLES and text}
    tokenizer = getattr(transformers, family.tokenizer)(
        vocab={**json.loads(vocabulary), **{token["content"]: i for i, token in added.items()}},
        merges=[tuple(line.split()) for line in merges.splitlines() if line and not line.startswith("#version")],
        **roles,
    )
    tokenizer.add_tokens([transformers.AddedToken(**added[i]) for i in sorted(added)])
    return tokenizer


def _refuse_missing(pretrained: str, name: str, told: Mapping[str, Any]) -> None:
    """transformers fills what is missing with random numbers, and only warns."""
    missing = sorted({*told["missing_keys"], *(key for key, *_ in told.get("mismatched_keys", ()))})
    left = sorted(key for key in told["unexpected_keys"] if not any(part in key for part in _ASIDE))
    for what, keys in (("lacks weights of", missing), ("has weights that have no place in", left)):
        if keys:
            raise ModelError(
                f"{pretrained!r} {what} the class {name} ({len(keys)}, as {keys[0]!r}): it would be computed wrongly. Give the "
                "family it belongs to (family=), or a whole checkpoint."
            )


def _add_adapter(model: Any, peft: str, family: Family) -> None:
    from transformers.utils import is_peft_available

    if not is_peft_available():
        raise ModelError(f"peft={peft!r} needs the package peft: pip install 'lm_eval_ensemble[peft]'")
    try:
        told = model.load_adapter(peft)
    except (OSError, ValueError) as error:
        raise missing_weights(peft, error) from error
    lost = sorted({*getattr(told, "missing_keys", ()), *getattr(told, "unexpected_keys", ())})
    if lost:
        raise ModelError(
            f"The adapter {peft!r} does not fit {type(model).__name__} (family {family.name}): {len(lost)} of its weights have "
            f"no counterpart, as {lost[0]!r}. Merge it into the weights with the program it was trained with."
        )
