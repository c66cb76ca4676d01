"""Locks, logs, shares of GPUs, files: the small parts that everything else trusts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.sweep.attempt import Children, How
from lm_eval_ensemble.sweep.failures import HEADER, diagnose, telling_lines
from lm_eval_ensemble.sweep.files import read_json, write_json, write_text
from lm_eval_ensemble.sweep.locks import CellLock, hold_as_worker, is_taken, owner
from lm_eval_ensemble.sweep.machine import git_commit, shares, versions


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = CellLock(tmp_path), CellLock(tmp_path)
    assert not is_taken(tmp_path)
    assert first.take()
    assert not second.take()
    assert is_taken(tmp_path)
    assert str(os.getpid()) in owner(tmp_path)
    first.release()
    assert not is_taken(tmp_path)
    assert second.take()
    second.release()


def test_a_child_keeps_the_lock_of_a_parent_that_is_gone(tmp_path: Path) -> None:
    lock = CellLock(tmp_path)
    assert lock.take()
    assert lock.fd is not None
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fd,))
    lock.release()  # as the end of the sweep does
    try:
        assert is_taken(tmp_path)
        assert not CellLock(tmp_path).take()
    finally:
        child.kill()
        child.wait()
    assert not is_taken(tmp_path)


def test_a_worker_that_inherited_nothing_is_seen(tmp_path: Path) -> None:
    fd = hold_as_worker(tmp_path)
    other = hold_as_worker(tmp_path)  # all ranks of a run together
    assert is_taken(tmp_path)
    assert not CellLock(tmp_path).take()
    os.close(fd)
    os.close(other)
    lock = CellLock(tmp_path)
    assert lock.take()
    lock.release()


@given(st.integers(1, 6), st.lists(st.integers(0, 9).map(str), unique=True, min_size=2, max_size=8))
def test_shares_use_every_gpu_and_none_twice(jobs: int, gpus: list[str]) -> None:
    found = shares(jobs, ",".join(gpus))
    assert len(found) == jobs
    if jobs == 1:
        assert found == [None]
        return
    used = [gpu for share in found if share for gpu in share.split(",")]
    assert set(used) == set(gpus[:jobs] if len(gpus) <= jobs else gpus)
    if len(gpus) >= jobs:
        assert len(used) == len(gpus)
        sizes = [len(share.split(",")) for share in found if share]
        assert max(sizes) - min(sizes) <= 1
    assert shares(jobs, None, gpus) == found
    assert shares(jobs, gpus[0]) == shares(jobs, None) == [None] * jobs


REFUSED = """INFO: loading
Traceback (most recent call last):
lm_eval_ensemble: ConfigError: $.members[0].args.steps: got 0, expected >= 1
$.prefer: 'x' is not a member.
"""
CRASHED = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'first'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
ValueError: Tasks not found: x
"""
RANKS = """[rank1]: Traceback (most recent call last):
[rank1]:   File "a.py", line 1
[rank1]: RuntimeError: the cause
[rank0]: RuntimeError: connection closed by peer
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


@pytest.mark.parametrize(
    ("log", "first"),
    [
        (REFUSED, "lm_eval_ensemble: ConfigError: $.members[0].args.steps: got 0, expected >= 1"),
        (CRASHED, "ValueError: Tasks not found: x"),
        (RANKS, "RuntimeError: the cause"),
        ("a\n 10%|#  \r 90%|###\rlast words\n", "a"),
        ("usage: lm-eval ...\nlm-eval: error: unrecognized arguments\n", "lm-eval: error: unrecognized arguments"),
        ("", ""),
    ],
)
def test_the_line_that_tells(log: str, first: str) -> None:
    found = telling_lines(log)
    assert (found[0] if found else "") == first
    assert all("\r" not in line for line in found)


def test_a_refusal_brings_all_its_lines() -> None:
    assert telling_lines(REFUSED)[1] == "$.prefer: 'x' is not a member."


@pytest.mark.parametrize(
    ("status", "log", "passing"),
    [
        (2, REFUSED, False),
        (1, CRASHED, False),
        (-9, "", True),
        (-11, "Fatal Python error: Segmentation fault\n", True),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n", True),
        (1, "MemoryError\n", True),
        (1, "requests.exceptions.ConnectionError: Max retries exceeded with url\n", True),
        (2, "lm_eval_ensemble: ModelError: Could not load the Hub model 'x': We couldn't connect to 'https://h'\n", True),
        (1, "exitcode: -9 (pid: 7)\nChildFailedError: x\n", True),
        (0, "", False),
    ],
)
def test_what_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, log: str, passing: bool) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    path = tmp_path / "log.txt"
    # An earlier attempt's words are not this one's.
    path.write_text(f"{HEADER}1: x\nCUDA out of memory\n{HEADER}2: x\n{log}", encoding="utf-8")
    assert diagnose(status, path).passing is passing
    assert diagnose(status, path).line


def test_offline_the_network_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "log.txt"
    path.write_text(f"{HEADER}1: x\nOSError: We couldn't connect to 'https://h'\n", encoding="utf-8")
    assert not diagnose(1, path).passing


def test_a_child_is_measured_and_its_end_told(tmp_path: Path) -> None:
    children = Children()
    code = "x = bytearray(64 << 20); x[:] = b'1' * len(x); print('there'); raise SystemExit(3)"
    ended = children.run([sys.executable, "-c", code], tmp_path / "log.txt", None, None)
    assert ended is not None
    assert ended[0] == 3
    assert ended[1] > 64
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "there\n"


def test_all_children_end_together_and_none_starts_after(tmp_path: Path) -> None:
    children, ended = Children(), []
    # A grandchild in the same group ends too.
    command = ["sh", "-c", "sleep 60 & echo up; wait"]

    def run(name: str) -> None:
        ended.append(children.run(command, tmp_path / name, None, None))

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    while not all((tmp_path / name).exists() and (tmp_path / name).stat().st_size for name in "ab"):
        threads[0].join(0.05)
    children.end()
    for thread in threads:
        thread.join()
    assert [status for status, _ in (found for found in ended if found)] == [-15, -15]
    assert children.run(["true"], tmp_path / "c", None, None) is None


def test_commands() -> None:
    config = Path("c.yaml")
    assert How().command(config)[1:] == ["-m", "lm_eval_ensemble.sweep.child", "c.yaml"]
    two = How(processes=2).command(config)
    assert two[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    nodes = How(processes=4, nodes=(2, 1, "node7")).command(config)
    assert {"--nnodes=2", "--node-rank=1", "--master-addr=node7", "--nproc-per-node=4"} <= set(nodes)
    assert "--standalone" not in nodes


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "f.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask()
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["f.json"]
    path.write_text("{", encoding="utf-8")
    assert read_json(path) == {}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_facts_of_the_machine() -> None:
    assert {"python", "lm_eval", "torch", "lm_eval_ensemble"} <= {name for name, version in versions().items() if version}
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
