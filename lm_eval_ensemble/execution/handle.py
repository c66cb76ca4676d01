"""The pool's end of one worker: start it, hand it jobs, notice that it is gone, end it."""

from __future__ import annotations

import contextlib
import errno
import functools
import marshal
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lm_eval_ensemble.errors import SandboxError
from lm_eval_ensemble.execution.wire import Channel, ClosedError, encoded

__all__ = ["Worker", "WorkerLostError", "worker_command"]

START_SECONDS = 120.0  # a loaded machine and a container may both be slow to start

# In the order of their imports.
_MODULES = (
    *("wire", "plain", "rebuild", "clock", "syscalls", "seccomp", "surroundings", "landlock", "lockdown", "scratch"),
    *("processes", "probe", "suite", "guest", "zygote", "trusted", "worker"),
)
_PACKAGE = "lm_eval_ensemble.execution"

# The worker's sources come over its standard input, since our files need not exist where it runs. It reads
# exactly one frame: no byte of a job may be in this process before the zygote is forked.
_BOOT = f"""
import json, marshal, os, sys, types
def read(size):
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part: sys.exit("the pool closed the pipe")
        data += part
    return data
start = json.loads(read(int.from_bytes(read(4), "big")))
os.environ.clear()
os.environ.update(start["environment"])
for name in ("{_PACKAGE.partition(".")[0]}", "{_PACKAGE}"):
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = []
for name, source, code in start["modules"]:
    full = "{_PACKAGE}." + name
    sys.modules[full] = module = types.ModuleType(full)
    setattr(sys.modules["{_PACKAGE}"], name, module)
    if start["version"] == sys.version:
        code = marshal.loads(bytes.fromhex(code))
    else:
        code = compile(source, "<judge:" + name + ">", "exec", dont_inherit=True)
    exec(code, module.__dict__)
settings, main = start["settings"], sys.modules["{_PACKAGE}.worker"].main
del start, source, code
main(settings)
"""


class WorkerLostError(Exception):
    """The worker ended, hung or babbled; the job it had is without a verdict."""


def worker_command(sandbox_command: Sequence[str], folder: str) -> list[str]:
    """The command line of a worker, behind the user's prefix. A prefix may end in its own interpreter.

    ``folder`` is there for whoever reads a list of processes: it says which pool they belong to.
    """
    has_python = bool(sandbox_command) and Path(sandbox_command[-1]).name.startswith("python")
    return [*sandbox_command, *([] if has_python else [sys.executable]), "-I", "-B", "-c", _BOOT, folder]


class Worker:
    """A running worker; ``greet`` comes first, its answer is ``hello``: ``layers``, ``missing``, ``broken``, ``python``."""

    hello: Mapping[str, Any]

    def __init__(self, sandbox_command: Sequence[str], folder: str) -> None:
        command = worker_command(sandbox_command, folder)
        self._killed = False
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        except OSError as error:
            raise SandboxError(f"The judge cannot write a temporary file: {error.strerror or error}. Is TMPDIR full?") from None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_launcher_environment(bool(sandbox_command)),
                start_new_session=True,  # Ctrl-C is for the harness, which then ends us in order
            )
        except OSError as error:
            self._errors.close()
            hint = " Is the limit on processes (ulimit -u) reached?" if error.errno == errno.EAGAIN else ""
            raise SandboxError(f"The judge's worker cannot be started: {command[0]}: {error.strerror}.{hint}") from None
        self.pid = self._process.pid
        self._stdin, self._stdout = _both_pipes(self._process)
        self._channel = _Impatient(self._stdout.fileno(), self._stdin.fileno())

    def greet(self, settings: Mapping[str, Any]) -> None:
        """Send it its sources and wait for its hello. Raises WorkerLostError with what it wrote to standard error."""
        modules = [(name, source, _code(name, source)) for name, source in _sources()]
        message = {"settings": dict(settings), "modules": modules, "version": sys.version, "environment": _guest_environment()}
        try:
            self.hello = self._exchange(encoded(message), START_SECONDS)
        except WorkerLostError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)  # for its own last words
            self.kill()
            raise WorkerLostError(self._complaint()) from None

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def was_killed(self) -> bool:
        """Whether somebody ended it by SIGKILL (known once it is gone)."""
        return self._process.returncode == -signal.SIGKILL and not self._killed

    def run(self, job: bytes, wall: float) -> dict[str, Any]:
        """Have one job (the body of a frame) judged. Raises WorkerLostError, also after ``wall`` seconds without an answer."""
        return dict(self._exchange(job, wall))

    def _exchange(self, body: bytes, seconds: float) -> Any:
        self._channel.deadline = time.monotonic() + seconds
        try:
            self._channel.send_frame(body)
            reply = self._channel.receive()
        except Exception as error:  # closed, too late, or not our protocol: a broken worker either way
            raise WorkerLostError(str(error)) from None
        if not isinstance(reply, dict):
            raise WorkerLostError("a reply of an unknown form")
        return reply

    def _complaint(self) -> str:
        """The end of what it wrote to standard error."""
        with contextlib.suppress(ValueError):
            self._errors.seek(0)
            return self._errors.read()[-2000:].decode("utf-8", "replace").strip()
        return ""

    def close(self) -> None:
        """End it in order: it removes its folder and takes its zygote along."""
        with contextlib.suppress(ClosedError, TimeoutError):
            self._channel.deadline = time.monotonic() + 1.0
            self._channel.send(None)
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        self.kill()

    def kill(self) -> None:
        """End it now, with all its processes (guests follow their zygote, zygotes their worker)."""
        if self._process.poll() is None:
            self._killed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def forget(self) -> None:
        """Kill it and drop what it wrote to standard error."""
        self.kill()
        self._errors.close()


class _Impatient(Channel):
    """A channel that gives up at ``deadline`` (of the monotonic clock) with TimeoutError."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        super().__init__(read_fd, write_fd, limit=1 << 20)
        self.deadline = 0.0
        self._polls = select.poll(), select.poll()
        for poll, fd, event in zip(self._polls, (read_fd, write_fd), (select.POLLIN, select.POLLOUT), strict=True):
            poll.register(fd, event)
            os.set_blocking(fd, False)

    def _some(self, most: int) -> bytes:
        self._wait(0)
        return super()._some(most)

    def _put(self, data: bytes | memoryview) -> int:
        self._wait(1)
        return super()._put(data)  # as much of it as there is room for

    def _wait(self, which: int) -> None:
        if not self._polls[which].poll(max(0.0, self.deadline - time.monotonic()) * 1000):
            raise TimeoutError


def _both_pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("started with pipes")
    return process.stdin, process.stdout


def _sources() -> list[tuple[str, str]]:
    folder = Path(__file__).parent
    return [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]


@functools.cache
def _code(name: str, source: str) -> str:
    """What the same interpreter need not compile once more."""
    return marshal.dumps(compile(source, f"<judge:{name}>", "exec", dont_inherit=True)).hex()


def _guest_environment() -> dict[str, str]:
    """All that worker and guest get to see. Numerical libraries must not start a thread per core."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **single}


def _launcher_environment(has_launcher: bool) -> dict[str, str]:
    """What the interpreter needs to start, and a launcher such as docker to find its service; no secrets."""
    names = ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT"]
    if has_launcher:
        names += ["HOME", "USER", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "CONTAINER_HOST"]
    kept = {name: os.environ[name] for name in names if name in os.environ}
    # Our own start-up hook has no business in a worker. Symbols are bound once, at its start, not by guest after guest.
    return kept | {"LANG": "C.UTF-8", "LM_EVAL_ENSEMBLE_AUTOLOAD": "0", "LD_BIND_NOW": "1"}
