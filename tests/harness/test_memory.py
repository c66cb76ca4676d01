from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from lm_eval_ensemble.harness.base import default_device
from lm_eval_ensemble.harness.memory import peak_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")

MIB = 1 << 18  # elements of a float32 tensor of one MiB


def test_the_peak_of_a_block_is_seen_and_the_largest_kept() -> None:
    peaks: dict[str, float] = {}
    with peak_memory("a", "cpu", peaks):
        pass
    base = peaks["a"]
    with peak_memory("a", "cpu", peaks):
        torch.ones(200 * MIB)
    high = peaks["a"]
    assert 150 < high - base < 400
    with peak_memory("a", "cpu", peaks):
        pass
    assert peaks["a"] == high
    # A block of its own does not see what others needed before.
    with peak_memory("b", "cpu", peaks):
        pass
    assert peaks["b"] < high - 100


def test_servers_are_left_out() -> None:
    peaks: dict[str, float] = {}
    for device in ("http://localhost", None, "server"):
        with peak_memory("s", device, peaks):
            pass
    assert peaks == {}


def test_runs_record_it_for_every_member_and_alone(evaluate: Any, diffusion: Any, scored: Any) -> None:
    arguments = {"preset": "tiny", "pretrained": "tiny", "steps": 2, "store": "off", "device": "cuda:0"}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=2)
    assert set(found["config"]["peak_memory_mib"]) == {"dllm", "fim"}
    assert found["config"]["ensemble"]["device"] == default_device("cuda:0")  # on a machine without a GPU: cpu
    for model in (diffusion, scored):
        evaluate(model, limit=1)
        assert model.get_model_info()["peak_memory_mib"][model.name] > 0
