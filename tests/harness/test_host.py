"""What we override or read in lm_eval under a name that it may move: each is still there in the release installed.

A method of ours whose original was renamed would never be called, and nobody would say so.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.model import CacheHook
from lm_eval.api.task import ConfigurableTask
from lm_eval.loggers.wandb_logger import WandbLogger
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI

from lm_eval_ensemble.errors import HostError
from lm_eval_ensemble.harness import wandb_log
from lm_eval_ensemble.harness.base import cached_answers


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (HFLM, ["_create_model", "generate_until", "tok_encode", "tok_decode", "_encode_pair", "get_model_info"]),
        (LocalCompletionsAPI, ["_create_payload", "model_call", "amodel_call", "parse_generations"]),
        (ConfigurableTask, ["download", "doc_to_text", "doc_to_target", "build_all_requests", "apply_filters"]),
        (ConfigurableTask, ["process_results", "aggregation", "higher_is_better"]),
        (WandbLogger, list(wandb_log._WRAPPERS)),
    ],
)
def test_what_we_override_is_there(host: Any, names: list[str]) -> None:
    assert [name for name in names if not callable(getattr(host, name, None))] == []


def test_a_cache_that_is_kept_elsewhere_is_an_error_and_not_no_cache() -> None:
    assert cached_answers(CacheHook(None)) is None
    with pytest.raises(HostError, match=r"SimpleNamespace has no 'dbdict'.*pip install"):
        cached_answers(SimpleNamespace(answers={}))


def test_a_logger_without_one_of_the_methods_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    wandb_log.extend(type("Slim", (), {name: lambda self: None for name in list(wandb_log._WRAPPERS)[1:]}))
    assert [record.message for record in caplog.records] == [
        f"lm_eval's Slim has no {next(iter(wandb_log._WRAPPERS))}: our part of what it logs is missing in W&B."
    ]
