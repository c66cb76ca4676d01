"""How many processes and threads a guest may have. ``RLIMIT_NPROC`` alone does not say: it does not bind root, and for anybody
else it counts what the user runs elsewhere.

Root gets a control group, anybody else the limit of a user namespace of their own, where only what lives in it counts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time

from lm_eval_ensemble.execution.landlock import version

__all__ = ["MOST", "join", "limit", "namespace", "remove_groups"]

MOST = 512
_SELF = "0"
_NO_GROUP = "no control group may be made here; ulimit -u holds, but not for root"


def limit(folder: str, original: int) -> tuple[str, str]:
    """What bounds the guests of one worker.

    :param folder: the scratch folder, for a name.
    :param original: the ``namespace`` of the worker when it began.
    :returns: a fresh control group for ``join`` (empty: the limit of this user namespace), and why there is neither.
    """
    if namespace() != original and version() >= 2:  # Linux 5.19; 5.14 is the first that counts so
        return "", ""
    for parent in _groups():
        group = f"{parent}/{_name(folder)}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            _write(f"{group}/pids.max", str(MOST))
            return group, ""
        except OSError:
            os.rmdir(group)
    return "", _NO_GROUP


def join(group: str) -> None:
    """Put this process and its children under the limit, for good. Raises OSError."""
    if group:
        _write(f"{group}/cgroup.procs", _SELF)
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST, MOST))


def remove_groups(folder: str) -> None:
    """Remove the control groups of a scratch folder, or of all that lie in a folder; their processes have ended."""
    for parent in _groups():
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                if name.startswith(_name(folder)):
                    _remove(f"{parent}/{name}")


def _remove(group: str) -> None:
    for _ in range(20):
        with contextlib.suppress(OSError):  # the kernel takes a moment to end the last process
            os.rmdir(group)
            return
        time.sleep(0.01)


def namespace() -> int:
    """The user namespace of this process; 0 where there is none."""
    try:
        return os.stat("/proc/self/ns/user").st_ino
    except OSError:
        return 0


def _name(folder: str) -> str:
    """Begins with the name of the pool's folder, which says whose it is."""
    return "-".join(folder.split(os.sep)[-2:]) if "guest-" in folder else os.path.basename(folder)


def _groups() -> list[str]:
    """The control groups that this process is in and that could count processes (both versions of the interface)."""
    try:
        with open("/proc/self/cgroup") as file:
            own = [line.rstrip("\n").split(":", 2) for line in file]
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return []
    found = []
    for _, controllers, path in own:
        for fields in mounts:
            kind = fields[fields.index("-") + 1]
            counts = (
                not controllers if kind == "cgroup2" else "pids" in controllers.split(",") and "pids" in fields[-1].split(",")
            )
            if kind in ("cgroup", "cgroup2") and counts:
                found.append(fields[4].rstrip("/") + ("" if fields[3] != "/" else path.rstrip("/")))
    return found


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
