"""Any number of processes tells the same: texts, winners, reasons, verdicts to the letter, scores within 1e-4.

One run of each case in this process; the same cases by torch.distributed.run in three, on five documents, which three do not
divide: one process has fewer documents than the others, or a row that only it has.
"""

from __future__ import annotations

import json
import pickle
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lm_eval_ensemble.config import MemberConfig
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness import base, ranks
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.member import ForeignMember, build_member
from lm_eval_ensemble.store import Store
from tests.harness.processes import answer
from tests.servers import CompletionsServer

QUESTIONS = [(f"What is {a} plus {b}?", str(a + b)) for a in range(4) for b in range(3)]
TOLERANCE = 1e-4
#: The cases that fill gaps: each is judged, and its diffusion model told the true lengths.
GAPS = ("greedy", "sampled", "members", "route", "diffusion")


def cases(folder: Path, checkpoint: str, url: str) -> dict[str, dict[str, Any]]:
    """Every LM class of ours and, as members, those of lm_eval."""
    (folder / "questions.jsonl").write_text(
        "".join(json.dumps({"id": q, "question": q, "context": f"It is {a}.", "answers": [a]}) + "\n" for q, a in QUESTIONS)
    )
    server = {"model": "tiny", "base_url": url, "tokenizer": checkpoint, "max_length": 384}
    fill = {"temperature": 0.6, "max_new_tokens": 16}
    trio = [
        {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny", **fill}},
        {"name": "stock", "model": "hf", "args": {"pretrained": checkpoint, "max_length": 384, "dtype": "float32"}},
        {"name": "server", "model": "local-completions", "args": server},
        {"name": "told", "model": "local-completions-scored", "args": server},
    ]
    gap, short = (
        {"task": "infill_toy", "limit": 5},
        {"preset": "tiny", "pretrained": "tiny", "store": "off", "max_new_tokens": 16},
    )
    plain = {"pretrained": checkpoint, "max_length": 384, "dtype": "float32"}
    asked = {"task": "squad_uncertainty", "metadata": {"file": str(folder / "questions.jsonl")}, "limit": 5}
    return {
        "greedy": {"lm": "ensemble-ppl", **gap, **short},
        "sampled": {
            "lm": "ensemble-ppl",
            **gap,
            "metadata": {"repeats": 2},
            **short,
            "temperature": 0.6,
            "samples": 2,
        },
        "members": {"lm": "ensemble-ppl", **gap, "members": trio, "max_new_tokens": 16, "store": "off"},
        # Documents with different rows (no length where no diffusion model was asked).
        "route": {"lm": "ensemble-ppl", **gap, **short, "route": "suffix_empty?fim:dllm"},
        "diffusion": {"lm": "diffusion-infill", **gap, "preset": "tiny", **fill},
        "questions": {"lm": "hf-scored", **asked, **plain, "max_new_tokens": 8, "n_samples": 2},
        "second pass": {"lm": "rescored", **asked, "inner": "hf", **plain},
        "server": {"lm": "local-completions-scored", **asked, **server},
    }


def launch(count: int, work: dict[str, Any], folder: Path) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """What the first of ``count`` processes got, and how the launcher ended."""
    (folder / f"cases{count}.json").write_text(json.dumps(work))
    script, out = str(Path(__file__).with_name("processes.py")), folder / f"out{count}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run([*command, script, str(folder / f"cases{count}.json"), str(out)], capture_output=True, text=True)
    return json.loads(out.read_text()) if out.exists() else {}, done


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two JSON values differ: numbers with a fraction by more than the tolerance, all else at all."""
    if isinstance(one, float) and isinstance(other, float):
        return [] if abs(one - other) <= TOLERANCE else [f"{where}: {one} {other}"]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [f for i, (a, b) in enumerate(zip(one, other, strict=True)) for f in differences(a, b, f"{where}[{i}]")]
    return [] if type(one) is type(other) and one == other else [f"{where}: {str(one)[:60]!r} {str(other)[:60]!r}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Any:
    """case -> samples, of one process and of three; and how the three ended, the second of which failed in the last case."""
    folder = tmp_path_factory.mktemp("runs")
    with CompletionsServer(assets / "fim") as server:
        work = cases(folder, str(assets / "fim"), server.url)
        store = {"store": str(folder / "store.sqlite"), "batch_size": 1}
        three, ended = launch(3, {**work, "fails": {**work["greedy"], **store}}, folder)
        one = {name: answer(**case) for name, case in work.items()}
    assert set(one) == set(three), ended.stderr[-3000:]
    return SimpleNamespace(one=one, three=three, ended=ended, store=folder / "store.sqlite")


@pytest.mark.parametrize("case", [*GAPS, "questions", "second pass", "server"])
def test_the_number_of_processes_changes_nothing(runs: Any, case: str) -> None:
    one, three = runs.one[case], runs.three[case]
    assert [row["doc_id"] for row in one["samples"]] == list(range(len(one["samples"])))
    assert differences(one, three) == []


def test_the_cases_test_something(runs: Any) -> None:
    sampled = [row["selection"] for row in runs.one["sampled"]["samples"]]
    assert all(len(entry["completions"]) == 2 and len(entry["candidates"]) == 4 for entry in sampled)
    assert len({candidate["text"] for entry in sampled for candidate in entry["candidates"]}) > 8
    members = [row["selection"] for row in runs.one["members"]["samples"]]
    assert [c["member"] for c in members[0]["candidates"]] == ["dllm", "stock", "server", "told"]
    assert all(len(row["uncertainty"]["samples"]) == 2 for row in runs.one["questions"]["samples"])


def test_the_first_process_speaks(runs: Any) -> None:
    # Once a task; the machine's other processes hold their tongue once the models are built.
    assert runs.ended.stderr.count("sandbox: split judge") == len(GAPS)
    assert runs.ended.stderr.count("is told the true length of every gap") == len(GAPS) + 1  # the run that failed, too


def test_one_failing_process_ends_the_run_with_its_message_and_loses_nothing(runs: Any) -> None:
    told = runs.ended.stderr
    assert runs.ended.returncode != 0
    assert "ModelError: the weights went away" in told
    assert "rank0]: Traceback" not in told
    assert "rank1]: Traceback" not in told
    # Five documents, two for the second process, of which one was done.
    assert Store(runs.store).count() >= 1


@pytest.mark.parametrize(
    ("local", "gpus", "asked", "expected"),
    [
        (0, 4, "cuda:0", "cuda:0"),
        (3, 4, "cuda:0", "cuda:3"),  # lm_eval's command says cuda:0 to every process
        (3, 4, None, "cuda:3"),
        (3, 4, "cuda", "cuda:3"),
        (3, 4, "cuda:1", "cuda:3"),
        (3, 1, "cuda:0", "cuda:0"),  # CUDA_VISIBLE_DEVICES gives each process its own
        (3, 2, "cuda:0", "cuda:1"),  # more processes than GPUs share them
        (3, 4, "cpu", "cpu"),
    ],
)
def test_every_process_has_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, local: int, gpus: int, asked: str | None, expected: str
) -> None:
    monkeypatch.setattr(ranks, "PartialState", lambda: SimpleNamespace(local_process_index=local, num_processes=8))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert base.default_device(asked) == expected


def test_alone_the_device_is_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [base.default_device(d) for d in (None, "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]


def test_halves_that_a_processor_only_emulates_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for capability, dtype, device, told in (
        ("AVX512", "bfloat16", "cpu", 0),
        ("AVX2", "float32", "cpu", 0),
        ("AVX2", "bfloat16", "cuda", 0),
        ("AVX2", "float16", "cpu", 1),
        ("AVX2", "float16", "cpu", 1),
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert base.default_dtype(dtype, device) == getattr(torch, dtype)
        assert len(caplog.records) == told, (capability, dtype, device)
    assert "float32 is several times faster" in caplog.text


def test_a_model_is_spread_over_the_gpus_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for gpus, expected in ((4, [1, 3]), (2, [1]), (1, [0])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr(ranks, "PartialState", lambda: SimpleNamespace(local_process_index=1, num_processes=2))
        assert ranks.own_gpus() == expected


def test_machines_are_numbered_only_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.machine() is None
    told = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert ranks.machine() == 1
    monkeypatch.setenv("GROUP_RANK", "0")
    assert ranks.machine() == 0
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranks.machine() is None


def test_a_member_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock hf counts itself among the processes where several GPUs are seen; inside an ensemble it must not."""

    class Stock:
        def __init__(self) -> None:
            self._rank, self._world_size = 1, 2

        @classmethod
        def create_from_arg_obj(cls, arguments: Any, host: Any) -> Stock:
            return cls()

    monkeypatch.setattr(ranks, "PartialState", lambda: SimpleNamespace(process_index=3, num_processes=8))
    found = build_member(Stock, MemberConfig(name="m", model="hf"), {}, 0)
    assert isinstance(found, ForeignMember)
    assert (found.lm._world_size, found.lm._rank) == (1, 3)


def test_a_peer_that_ended_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1")

    lm = ranks.OneOfSeveral()
    lm._rank, lm._world_size = 1, 2
    monkeypatch.setattr(torch.distributed, "barrier", closed)
    with pytest.raises(HostError, match=r"Process 1 of 2 waited for the others, and one of them has ended"):
        lm.barrier()


def test_a_row_that_no_document_of_a_process_has_is_empty_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    lm = ranks.OneOfSeveral()
    lm._rank, lm._world_size = 0, 2
    monkeypatch.setattr(torch.distributed, "gather_object", lambda value, found, dst: sent.append(value))
    lm.gather_object({"task": {("accuracy", "none"): [1.0]}})
    lm.gather_object({"task": [{"doc_id": 0}]})
    rows, samples = pickle.loads(pickle.dumps(sent))
    assert rows == {"task": {("accuracy", "none"): [1.0]}}
    assert rows["task"]["auroc", "none"] == []
    assert samples == {"task": [{"doc_id": 0}]}


def test_one_model_computed_by_all_processes_is_refused_in_an_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(process_index=0, num_processes=2, local_process_index=0)
    monkeypatch.setattr(ranks, "PartialState", lambda *a, **k: state)
    members = [{"name": "big", "model": "hf-scored", "args": {"preset": "tiny", "tp_plan": "auto"}}]
    with pytest.raises(ConfigError, match=r"'big' has tp_plan='auto'.*Use parallelize=True"):
        EnsemblePPL(members=members, store="off")
