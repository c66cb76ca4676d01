"""Python runs this at the start of every process that a test starts, to spare it what most runs do not need.

lm_eval sees our tasks alone: an index of all of its own, thousands of files, takes longer than a run. torchao, which
transformers imports wherever it is installed, is not seen: what uses it is tested in the tests' own processes. And a
program that needs lm_eval's libraries is run by the process that holds them ready (``warm.py``): this one hands over its
files, passes on the signals it gets, and ends as the program ends.
"""

import os
import pathlib
import sys

_glob = pathlib.Path.glob
pathlib.Path.glob = lambda self, *a, **k: iter(()) if self.parts[-2:] == ("lm_eval", "tasks") else _glob(self, *a, **k)  # type: ignore[assignment, method-assign]

#: Programs and modules that need the libraries that warm.py holds.
_NAMES = ("lm_eval", "lm-eval-ensemble", "accelerate", "processes.py", "block.py", "soak.py", "wandb_run.py")
_MODULES = (
    ["-m", "lm_eval"],
    ["-m", "lm_eval_ensemble"],
    ["-m", "lm_eval_ensemble.sweep.child"],
    ["-m", "torch.distributed.run"],
)


def _hand_over(address: str, options: list[str], program: list[str]) -> None:
    """Be what the process at the address makes of the program; return where it would not be the same."""
    import array
    import json
    import signal
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        files = []
        for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            try:
                if os.get_inheritable(number):
                    files.append(number)
            except OSError:  # the folder itself
                pass
        umask = os.umask(0)
        os.umask(umask)
        what = {"executable": sys.executable, "options": options, "program": program}
        where = {"environment": dict(os.environ), "folder": str(pathlib.Path.cwd()), "umask": umask, "group": os.getpgrp()}
        text = json.dumps({**what, **where, "files": files}).encode() + b"\n"
        sent = server.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
        while text := text[sent:]:
            sent = server.send(text)
        if server.recv(1) != b"y":
            return
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(kind, lambda got, _: server.sendall(bytes([got])))
        told = server.recv(16)
    if not told:
        sys.stderr.write("the process that runs lm_eval for the tests has ended\n")
        os._exit(70)
    code = os.waitstatus_to_exitcode(int(told))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# Not in the tests' own processes, which are started before the first test.
if "PYTEST_CURRENT_TEST" in os.environ:
    sys.modules["torchao"] = None  # type: ignore[assignment]
    _address = os.environ.get("LM_EVAL_ENSEMBLE_TESTS_WARM")
    _options = ["-u"] if sys.orig_argv[1:2] == ["-u"] else []
    _program = sys.orig_argv[1 + len(_options) :]
    if _address and (_program[:2] in _MODULES or (_program and pathlib.Path(_program[0]).name in _NAMES)):
        _hand_over(_address, _options, _program)
