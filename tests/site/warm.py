"""One process that has imported what ``lm_eval`` stands on, and forks for each ``lm_eval`` that a test starts.

Importing torch, transformers and datasets takes longer than most runs of a test. Neither lm_eval nor this package is
imported here: each run loads them anew, as at a user's. ``conftest.py`` starts it with the number of a listening socket,
and ends it by closing its standard input; ``sitecustomize.py`` is the other side.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

_BENEATH = (
    *("numpy", "pandas", "scipy.stats", "sklearn.metrics", "datasets", "evaluate", "accelerate.commands.launch"),
    *("torch", "torch.distributed.run", "torch.utils.collect_env", "transformers"),
    *("transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2"),
    *(
        "transformers.models.qwen2.tokenization_qwen2",
        "aiohttp",
        "pydantic",
        "pytablewriter",
        "sacrebleu",
        "sqlite3",
        "tenacity",
    ),
)
#: What a run reads itself, not a library while it is imported, and what libraries set: a program may have others of these.
#: TQDM_MININTERVAL is read early, but only says how often a bar is drawn.
_READ_LATE = (
    *("PATH", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "COLUMNS", "LINES", "LM_EVAL_ENSEMBLE_", "PYTEST_", "WANDB_"),
    *("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "ACCELERATE_", "TORCH_NCCL_"),
    *("http", "HTTP", "no_proxy", "ALL_PROXY", "HF_XET_", "KMP_", "TORCHINDUCTOR_", "CUDA_VISIBLE_DEVICES"),
    "TQDM_MININTERVAL",
)
_BEFORE = dict(os.environ)


class _Program(NamedTuple):
    """What a client wants to run, and its open files."""

    asked: dict[str, Any]
    files: list[int]

    def alike(self) -> bool:
        """Whether what is imported here would be the same there."""
        there: dict[str, str] = self.asked["environment"]
        names = {name for name in there.keys() | _BEFORE.keys() if not name.startswith(_READ_LATE) or name.endswith("AUTOLOAD")}
        # Others may have been set by the same libraries, in the test that starts the program.
        alike = all(there.get(name) in (_BEFORE.get(name), os.environ.get(name)) for name in names)
        return alike and self.asked["executable"] == sys.executable

    def close(self) -> None:
        for fd in self.files:
            os.close(fd)

    def run(self) -> None:
        """Take over the client's files, folder, environment and arguments, and be its program."""
        high = 512  # above every number in use, so that none is overwritten before it is copied
        for fd, number in zip(self.files, self.asked["files"], strict=True):
            os.dup2(fd, high + number)
        self.close()
        for number in self.asked["files"]:
            os.dup2(high + number, number)
            os.close(high + number)
        os.chdir(self.asked["folder"])
        os.umask(self.asked["umask"])
        with contextlib.suppress(OSError):  # in another session; the client passes its signals on
            os.setpgid(0, self.asked["group"])
        set_by_libraries = os.environ.items() - _BEFORE.items()
        os.environ.clear()
        os.environ.update(self.asked["environment"] | dict(set_by_libraries))
        random.seed()
        sys.modules["numpy"].random.seed()

        options, (name, *arguments) = self.asked["options"], self.asked["program"]
        at_once = "-u" in options or bool(os.environ.get("PYTHONUNBUFFERED"))
        output = io.FileIO(1, "w", closefd=False)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
        sys.stdout = io.TextIOWrapper(
            output if at_once else io.BufferedWriter(output),
            line_buffering=os.isatty(1),
            write_through=at_once,
        )
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)), errors="backslashreplace", line_buffering=True
        )
        sys.orig_argv = [sys.executable, *options, name, *arguments]
        if name == "-m":
            sys.path[0] = str(Path.cwd())
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(name).parent)
            sys.argv = [name, *arguments]
            runpy.run_path(name, run_name="__main__")


def _receive(client: socket.socket) -> _Program:
    """One line of JSON, and the files that come with it."""
    files = array.array("i")
    text = b""
    while not text.endswith(b"\n"):
        part, ancillary, _, _ = client.recvmsg(1 << 20, socket.CMSG_SPACE(64 * files.itemsize))
        if not part:
            raise ConnectionError
        text += part
        for _, _, data in ancillary:
            files.frombytes(data)
    return _Program(json.loads(text), list(files))


def _load() -> None:
    for name in _BENEATH:
        importlib.import_module(name)
    # At the end of every run lm_eval has pip list the packages: half a second each, and always the same. The rest of its
    # description of the machine asks for GPUs, which a process that forks had better not.
    collect: Any = importlib.import_module("torch.utils.collect_env")
    packages = collect.get_pip_packages(collect.run)
    collect.get_pip_packages = lambda *_: packages
    gc.collect()
    gc.freeze()


def _serve(listener: socket.socket) -> _Program | None:
    """Fork for each client; returns in the fork with what it shall run, and here when the tests are over."""
    running: dict[int, tuple[socket.socket, int]] = {}  # by the file number of the process: its client and its pid
    loaded = False
    while True:
        clients = {client.fileno(): pid for client, pid in running.values()}
        ready, _, _ = select.select([0, listener.fileno(), *running, *clients], [], [])
        if 0 in ready:
            for pid in clients.values():
                os.kill(pid, signal.SIGKILL)
            return None
        for number in clients.keys() & set(ready):
            sent = os.read(number, 1)  # the number of a signal that it got; nothing if it was killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(clients[number], sent[0] if sent else signal.SIGKILL)
        for number in running.keys() & set(ready):
            client, pid = running.pop(number)
            os.close(number)
            with client, contextlib.suppress(OSError):
                client.sendall(str(os.waitpid(pid, 0)[1]).encode())
        if listener.fileno() not in ready:
            continue
        client, _ = listener.accept()
        try:
            program = _receive(client)
        except ConnectionError:
            client.close()
            continue
        if not loaded:
            _load()
            loaded = True
        if not program.alike():
            program.close()
            client.close()
            continue
        client.sendall(b"y")
        pid = os.fork()
        if pid == 0:
            for other in (listener, client, *(client for client, _ in running.values())):
                other.close()
            for number in running:
                os.close(number)
            return program
        program.close()
        running[os.pidfd_open(pid)] = (client, pid)


if __name__ == "__main__" and (program := _serve(socket.socket(fileno=int(sys.argv[1])))):
    program.run()
