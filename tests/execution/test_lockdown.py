"""The layers: numbers of system calls, filters, and what happens where a layer is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lm_eval_ensemble.errors import SandboxError
from lm_eval_ensemble.execution import Judge, seccomp, staff, syscalls
from tests.execution.helpers import job, needs_layers

_HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def _numbers(header: Path) -> dict[str, int]:
    text = header.read_text()
    return {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", text, re.M)}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_kernel_headers(machine: str) -> None:
    if not _HEADERS[machine].exists():
        pytest.skip(f"{_HEADERS[machine]} is not installed (linux-libc-dev)")
    header = _numbers(_HEADERS[machine])
    names = [*syscalls.DENIED, *syscalls.DENIED_TO_GUESTS, *syscalls.SPECIAL]
    assert {name: syscalls.number(name, machine) for name in names} == {name: header.get(name) for name in names}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_only_jump_inside_themselves(machine: str) -> None:
    for program in (seccomp.zygote_filter(machine), seccomp.guest_filter(machine)):
        code = [program.code[i : i + 8] for i in range(0, len(program.code), 8)]
        for index, instruction in enumerate(code):
            if instruction[0] in (0x15, 0x35, 0x45):
                assert index + 1 + max(instruction[2], instruction[3]) < len(code)
        assert code[-1][0] == code[-2][0] == 0x06  # both ends are answers


@needs_layers
def test_a_probe_confirms_every_layer_here() -> None:
    with Judge(1, progress=False) as judge:
        names = [layer.partition("(")[0] for layer in judge.layers if not layer.startswith(("scratch", "process"))]
        assert names == ["rlimits", "capabilities", "no_new_privs", "landlock", "seccomp"]
        assert re.fullmatch(
            r"sandbox: split judge, rlimits, capabilities, no_new_privs, landlock\(\d+\), seccomp"
            r"(, process limit\(512\))?(, scratch limit\(64 MB\))?.*",
            judge.description,
        )


@needs_layers
def test_threads_are_limited_for_root_too() -> None:
    """``RLIMIT_NPROC`` does not bind root. A few dozen are everybody's right, and nothing is left for the next program."""
    body = """
    import threading
    threading.stack_size(32768)
    end, threads = threading.Event(), []
    try:
        for _ in range(x):
            threads.append(threading.Thread(target=end.wait))
            threads[-1].start()
    except RuntimeError:
        return 'refused'
    finally:
        end.set()
    return 'done'
"""
    wanted = [(2000, "refused"), (64, "done"), (2000, "refused"), (300, "done")]
    jobs = [job(body + f"# {n}\n", test=f"def check(c):\n    assert c({c}) == {w!r}\n") for n, (c, w) in enumerate(wanted)]
    with Judge(1, progress=False) as room:
        if not any(layer.startswith("process limit") for layer in room.layers):
            pytest.skip("no control group may be made here")
        assert [verdict.why for verdict in room.run(jobs)] == [""] * 4


def test_without_layers_the_line_says_so() -> None:
    with Judge(1, sandbox="off", progress=False) as judge:
        assert judge.layers[0] == "rlimits"
        assert not {"landlock", "seccomp"} & {layer.partition("(")[0] for layer in judge.layers}
        assert "landlock (sandbox=off), seccomp (sandbox=off)" in judge.description
        assert judge.run([job("    return x + 1\n")])[0].passed


_FULL = {
    "layers": ["rlimits", "capabilities", "no_new_privs", "landlock(7)", "seccomp"],
    "missing": {},
    "broken": [],
    "root": False,
}


def test_strict_refuses_a_missing_layer() -> None:
    hello = {"layers": ["rlimits", "seccomp"], "missing": {"landlock": "not in this kernel"}, "broken": [], "root": False}
    with pytest.raises(SandboxError, match=r"sandbox=strict: landlock is missing \(not in this kernel\)"):
        staff.check_layers(hello, "strict")
    assert staff.check_layers(hello, "auto") == (("rlimits", "seccomp"), {"landlock": "not in this kernel"})


def test_a_layer_that_does_not_hold_is_no_layer() -> None:
    hello = {**_FULL, "broken": [("landlock", "listed /")]}
    layers, missing = staff.check_layers(hello, "auto")
    assert "landlock(7)" not in layers
    assert missing == {"landlock": "accepted by the kernel, but a guest listed /"}
    with pytest.raises(SandboxError, match="listed /"):
        staff.check_layers(hello, "strict")


def test_a_sandbox_that_nothing_can_run_in_is_refused() -> None:
    with pytest.raises(SandboxError, match="could not write to its scratch folder"):
        staff.check_layers({**_FULL, "broken": [("", "could not write to its scratch folder")]}, "auto")


def test_a_replacement_must_hold_what_the_first_worker_held(monkeypatch: pytest.MonkeyPatch) -> None:
    with Judge(1, sandbox="off", progress=False) as judge:
        judge.layers = (*judge.layers, "seccomp")
        judge._slot(0)._replace(judge._slot(0).start())
        with pytest.raises(SandboxError, match="A new worker lacks seccomp"):
            judge.run([job("    return x + 1\n")])


@needs_layers
def test_a_guest_whose_filter_fails_costs_its_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The promise is kept by failing: sources in which the guest's own filter is refused give no pass."""
    from lm_eval_ensemble.execution import handle

    broken = [
        (name, source.replace("and not self._filter.install()", "and self._filter.install()"))
        for name, source in handle._sources()
    ]
    monkeypatch.setattr(handle, "_sources", lambda: broken)
    with pytest.raises(SandboxError, match="did not answer the probe"):
        Judge(1, progress=False)
