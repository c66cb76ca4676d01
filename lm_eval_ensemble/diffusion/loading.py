"""A checkpoint's folder as a model and a tokenizer: through a class of transformers wherever that computes the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from lm_eval_ensemble.errors import ModelError, missing_weights
from lm_eval_ensemble.families import Family, find_family

__all__ = ["Checkpoint", "broken_code", "load_checkpoint", "read_config", "stock_config"]

#: the classes of transformers that have logits, in the order in which a checkpoint's own code is looked for.
_HEADS = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel")

#: weights that a class may leave aside without computing anything else: heads of other tasks, tables it makes itself, an
#: output layer that is the embedding.
_ASIDE = re.compile(
    r".*(pooler|seq_relationship|inv_freq|position_ids)|lm_head\.weight|(cls\.predictions\.|lm_head\.)?decoder\."
)
#: settings whose null means the same everywhere: as many as there are heads, no such token.
_MAY_BE_NULL = ("kv_heads", "key_value_heads", "token_id")
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
    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    extra |= {"device_map": device_map} if device_map else {}
    if isinstance(device_map, str) and gpus is not None:
        from accelerate.utils import get_max_memory

        extra["max_memory"] = {place: room for place, room in get_max_memory().items() if place in (*gpus, "cpu")}
    config: Mapping[str, Any] = {}
    try:
        config = read_config(pretrained, revision)
        found = find_family(pretrained, config, family)
        stock = stock_config(pretrained, config, found, trust_remote_code)
        extra |= {"trust_remote_code": True} if stock is None else {"config": stock, "key_mapping": dict(found.weights) or None}
        tokenizer = _load_tokenizer(pretrained, revision, found, trust_remote_code, _tokenizer_config(config, stock))
        model, told = _model_class(config, found, stock).from_pretrained(
            pretrained, dtype=dtype, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **extra
        )
    except ModelError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise missing_weights(pretrained, error) from error
    except Exception as error:
        if trust_remote_code and config.get("auto_map"):
            raise broken_code(f"{pretrained!r} does not load", config, error) from error
        if isinstance(error, ImportError):
            raise missing_weights(pretrained, error) from error
        if isinstance(error, RuntimeError | MemoryError):  # of the machine, not of the files
            raise
        raise _unknown_files(pretrained, error) from error
    _refuse_missing(pretrained, type(model).__name__, told)
    if stock is not None:
        _refuse_untied(pretrained, model)
    if peft:
        _add_adapter(model, peft, found)
    return Checkpoint(model, tokenizer, found, stock is None)


def _unknown_files(pretrained: str, error: Exception) -> ModelError:
    import transformers

    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ModelError(
        f"{pretrained!r} does not load with transformers {transformers.__version__} ({what}): its files are damaged, or of "
        "another release."
    )


def broken_code(what: str, config: Mapping[str, Any], error: Exception) -> ModelError:
    """The checkpoint's own code, which may raise anything, was written for another release of transformers.

    :param what: a sentence without its end; config: the checkpoint's.
    """
    import transformers

    written = config.get("transformers_version") or "another release"
    first = next(iter(str(error).splitlines()), "")
    return ModelError(
        f"{what}: the checkpoint's own code fails with transformers {transformers.__version__} (its files are of {written}; "
        f"{type(error).__name__}: {first}). Its authors may have newer code."
    )


def read_config(pretrained: str, revision: str = "main") -> dict[str, Any]:
    """The config.json of a checkpoint.

    :raises ModelError: there is none, or it is damaged.
    """
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(pretrained, "config.json", revision=revision)
    except OSError as error:
        raise missing_weights(pretrained, error) from error
    if path is None:
        names = {entry.name for entry in Path(pretrained).glob("*")}
        advice = "Give the folder of a checkpoint as transformers saves it."
        if "adapter_config.json" in names:
            advice = "It is an adapter: give its base model, and the adapter as peft=."
        elif any(name.endswith(".gguf") for name in names):
            advice = "GGUF files are for other programs: give the weights they were made of."
        raise ModelError(f"{pretrained!r} has no config.json. {advice}")
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{pretrained!r}: config.json is no JSON object. Give the folder of a whole checkpoint.")
    return config


def stock_config(pretrained: str, config: Mapping[str, Any], family: Family, trust_remote_code: bool) -> Any:
    """The configuration of the class of transformers that computes the same; None: the checkpoint's own code is to run.

    :raises ModelError: there is no such class, and no own code, or it may not run.
    """
    import transformers

    kind, head = family.stock_type(config), _HEADS[int(family.masked_head)]
    table = transformers.MODEL_FOR_MASKED_LM_MAPPING if family.masked_head else transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    known = kind in transformers.CONFIG_MAPPING and transformers.CONFIG_MAPPING[kind] in table
    masked = known and transformers.CONFIG_MAPPING[kind] in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if masked and not (family.masked_head or family.types or config.get("is_decoder")):  # it would lose its frame
        raise ModelError(
            f"{pretrained!r} (model type {kind!r}) is a masked language model, but config.json names no ForMaskedLM class "
            f"(architectures: {config.get('architectures')}). Say family=masked-lm."
        )
    brought = [name for name in _HEADS if name in (config.get("auto_map") or {})]
    # What is absent has the default of the checkpoint's own class, which is another one.
    lacking = [f"no {name}" for name in family.settings if config.get(name) is None and not name.endswith(_MAY_BE_NULL)]
    lacking += [f"no {name}" for name in family.needs if name not in config]
    lacking += [f"{name}={config[name]!r}" for name, value in family.needs.items() if config.get(name, value) != value]
    unknown_code = not family.types and brought
    if known and not lacking and not unknown_code:
        kept = {name: value for name, value in config.items() if name not in ("auto_map", "architectures", "model_type")}
        if kept.get("rope_scaling", 0) is None:  # the older way to say nothing
            del kept["rope_scaling"]
        if family.settings:
            kept = {own: config[name] for name, own in family.settings.items() if config.get(name) is not None}
        elif kind != config.get("model_type") and "use_sliding_window" in kept:
            # The family's own class attends to everything in every layer, whatever window its files name.
            kept |= {"use_sliding_window": False, "layer_types": None}
        try:
            return transformers.AutoConfig.for_model(kind, **kept)
        except Exception as error:  # every check raises its own kind
            raise _unknown_files(pretrained, error) from error
    if trust_remote_code and brought:
        return None
    why = f"model type {config.get('model_type')!r}"
    why += f"; {', '.join(lacking[:3])}" if lacking else ""
    if brought:
        raise ModelError(
            f"{pretrained!r} ({why}) brings its own model class, and transformers has none that is known to compute the same. "
            "Say trust_remote_code=true to run its code."
        )
    raise ModelError(
        f"{pretrained!r} ({why}): transformers has no {head} that is known to compute it as family {family.name}, and it "
        "brings no such class of its own. Give a checkpoint with all its files, another family=, or a newer transformers."
    )


def _model_class(config: Mapping[str, Any], family: Family, stock: Any) -> Any:
    import transformers

    own = next((name for name in _HEADS if stock is None and name in config["auto_map"]), None)
    return getattr(transformers, own or _HEADS[int(family.masked_head)])


def _tokenizer_config(config: Mapping[str, Any], stock: Any) -> Any:
    """The configuration by which transformers chooses a class of tokenizer, for a model type that it does not know; there it
    would read config.json as one of no type, and stumble over rope_scaling. None: let it read config.json."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    known = stock is None or config.get("model_type") in CONFIG_MAPPING
    return None if known else PreTrainedConfig(tokenizer_class=config.get("tokenizer_class"))


def _load_tokenizer(pretrained: str, revision: str, family: Family, trust_remote_code: bool, config: Any) -> Any:
    """By transformers' class where the files name code of their own for a family whose class is known."""
    import transformers
    from transformers.models.auto.tokenization_auto import get_tokenizer_config
    from transformers.utils.hub import cached_file

    settings = get_tokenizer_config(pretrained, revision=revision)
    if not (family.tokenizer and "auto_map" in settings):
        auto: Any = transformers.AutoTokenizer
        found = auto.from_pretrained(pretrained, revision=revision, trust_remote_code=trust_remote_code, config=config)
        if len(found) <= len(found.added_tokens_decoder):  # what transformers makes of no files
            raise ModelError(f"{pretrained!r} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt.")
        return found

    def read(name: str) -> str:
        return Path(cached_file(pretrained, name, revision=revision)).read_text(encoding="utf-8")

    # Put together here: transformers gives added tokens the ids after the vocabulary, whatever the files say.
    added = {int(i): token for i, token in settings.get("added_tokens_decoder", {}).items()}
    # Older files have them by their text.
    added = added or {i: {"content": text, "special": True} for text, i in json.loads(read("added_tokens.json")).items()}
    roles = {name: value["content"] if isinstance(value, dict) else value for name, value in settings.items() if name in _ROLES}
    tokenizer = getattr(transformers, family.tokenizer)(
        vocab={**json.loads(read("vocab.json")), **{token["content"]: i for i, token in added.items()}},
        merges=[tuple(line.split()) for line in read("merges.txt").splitlines() if line and not line.startswith("#version")],
        **{name: text for name, text in roles.items() if text},
    )
    tokenizer.add_tokens([transformers.AddedToken(**added[i]) for i in sorted(added)])
    return tokenizer


def _refuse_missing(pretrained: str, name: str, told: Mapping[str, Any]) -> None:
    """transformers fills what is missing with random numbers, and only warns."""
    missing, others = sorted(told["missing_keys"]), sorted(key for key, *_ in told.get("mismatched_keys", ()))
    left = sorted(key for key in told["unexpected_keys"] if not _ASIDE.match(key))
    faults = {
        "lacks weights of": missing,
        "has weights of other shapes than": others,
        "has weights that have no place in": left,
    }
    for what, keys in faults.items():
        if keys:
            raise ModelError(
                f"{pretrained!r} {what} the class {name} ({len(keys)}, as {keys[0]!r}): it would be computed wrongly. Give the "
                "family it belongs to (family=), or a whole checkpoint."
            )


def _refuse_untied(pretrained: str, model: Any) -> None:
    """A file with an output layer of its own under a configuration that says there is none: either may be the wrong one."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    own, tied = head.weight, words.weight
    if own is tied or own.is_meta or tied.is_meta or own.shape != tied.shape:
        return
    if not torch.equal(own, tied.to(own.device)):
        raise ModelError(
            f"{pretrained!r}: config.json says that the output layer is the embedding (tied), and the weights hold another "
            "one. Put config.json right, or give the weights that belong to it."
        )


def _add_adapter(model: Any, peft: str, family: Family) -> None:
    from transformers.utils import is_peft_available

    if not is_peft_available():
        raise ModelError(f"peft={peft!r} needs the package peft: pip install 'lm_eval_ensemble[peft]'")
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    try:
        model.load_adapter(peft)
        given = {name.removeprefix("base_model.model."): value for name, value in load_peft_weights(peft, device="cpu").items()}
        # By peft itself as well: transformers leaves the magnitudes of DoRA at random.
        set_peft_model_state_dict(model, dict(given), adapter_name="default")
    except (OSError, ValueError) as error:
        raise missing_weights(peft, error) from error
    except RuntimeError as error:
        raise ModelError(
            f"The adapter {peft!r} does not fit {type(model).__name__}: its weights have other shapes. Give it the base model "
            "that it was trained on."
        ) from error
    # transformers only warns of what has no place.
    places = {name for name, _ in model.named_modules()}
    if lost := sorted(name for name in given if not places & {name, name.rpartition(".")[0]}):
        raise ModelError(
            f"The adapter {peft!r} does not fit {type(model).__name__} (family {family.name}): {len(lost)} of its weights have "
            f"no counterpart, as {lost[0]!r}. Merge it into the weights with the program it was trained with."
        )
    wanted = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    if missing := sorted(wanted.keys() - given.keys()):  # it would change a part of the layers that it was trained to change
        raise ModelError(
            f"The adapter {peft!r} lacks weights that its adapter_config.json names ({len(missing)}, as {missing[0]!r}). Give "
            "the whole adapter."
        )
