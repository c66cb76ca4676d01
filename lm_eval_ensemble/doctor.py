"""``lm-eval-ensemble doctor``: what is installed, what works here, and what to do about the rest.

One line per check: a mark, what was found, and what to do. A check never raises: whatever goes wrong becomes its line.
The
checks download nothing; ``--try`` with a preset from the Hub may.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lm_eval_ensemble import __version__
from lm_eval_ensemble.config import asset_path, preset_names, preset_settings
from lm_eval_ensemble.data import DATA_VARIABLE, SETS, find_file, load_documents
from lm_eval_ensemble.errors import ConfigError, ModelError
from lm_eval_ensemble.execution import Job, Judge
from lm_eval_ensemble.families import FAMILIES, find_family
from lm_eval_ensemble.store import STORE_VARIABLE, Store, default_path

__all__ = ["Finding", "add_arguments", "examine", "main"]


@dataclass(frozen=True)
class Finding:
    """One line. ``mark`` is ok, warn (something is slower, weaker or must be asked for), optional (not here, and only some runs
    want it) or missing; ``essential`` is what an evaluation cannot do without."""

    name: str
    mark: str
    found: str
    advice: str = ""
    essential: bool = False

    def as_text(self) -> str:
        line = f"{self.mark:<10}{self.name:<33} {self.found}"
        return f"{line}; {self.advice}" if self.advice else line


Check = Callable[[], Iterator[Finding]]

#: the oldest release of each package that works, as in pyproject.toml.
NEEDED = {"lm_eval": "0.4.13", "torch": "2.4", "transformers": "5.2", "accelerate": "1.2", "datasets": "4.0"}
#: sha256 of the embedded weights.
TINY = {
    "tiny/mdm": "597c91e0350f1d0ee9c9ce9d115d466eaf96ba7695b1a3b9f83350c891270f15",
    "tiny/fim": "75a30cd74dab672af3b9cf65dcbe2ab8dfc10dc5ba3864ec01eadca1d08a6530",
}
#: what is lost without a layer of the sandbox.
_LAYERS = {
    "landlock": "judged programs can read files of this account",
    "seccomp": "judged programs can start processes and open sockets",
}
_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--try", dest="trial", action="store_true", help="also load a preset, fill one line and judge it")
    parser.add_argument("--preset", default="tiny", help=f"what --try loads: {', '.join(preset_names())} (default: tiny)")
    parser.add_argument("--dllm", help="also say how this diffusion checkpoint (folder or Hub name) would be loaded")
    parser.add_argument("--data_dir", help=f"folder with local data sets (default: ${DATA_VARIABLE})")
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON list")


def main(arguments: argparse.Namespace) -> int:
    """0 if the essentials work, 1 otherwise."""
    found = []
    for finding in examine(arguments.data_dir, arguments.preset if arguments.trial else None, arguments.dllm):
        found.append(finding)
        if not arguments.json:
            print(finding.as_text(), flush=True)
    broken = [finding.name for finding in found if finding.essential and finding.mark == "missing"]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    elif broken:
        print(f"\nNot ready: {', '.join(broken)}.")
    else:
        print("\nReady: lm_eval --model ensemble-ppl --model_args preset=tiny,pretrained=tiny --tasks infill_toy", end="")
        print(" --confirm_run_unsafe_code")
    return 1 if broken else 0


def examine(data_dir: str | None = None, trial: str | None = None, dllm: str | None = None) -> Iterator[Finding]:
    """Every finding, in the order of the report.

    :param trial: a preset to load and fill one line with.
    :param dllm: a diffusion checkpoint whose family is told.
    """
    checks: list[tuple[str, bool, Check]] = [
        ("versions", True, versions),
        ("plugin", True, plugin),
        ("sandbox", True, sandbox),
        ("data", False, lambda: data_sets(data_dir)),
        ("models", False, models),
        ("diffusion", False, lambda: diffusion(dllm)),
        ("gpu", False, gpu),
        ("store", False, store),
        ("machine", False, machine),
    ]
    if trial is not None:
        checks.append(("trial", True, lambda: fill_one_line(trial)))
    for name, essential, check in checks:
        try:
            yield from check()
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            yield Finding(name, "missing", f"{type(error).__name__}: {first}", "", essential)


def versions() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]}, {sys.executable}")
    yield Finding("lm_eval_ensemble", "ok", f"{__version__}, {Path(__file__).parent}")
    for name, oldest in NEEDED.items():
        found = _version(name)
        if found is None:
            yield Finding(name, "missing", "not installed", f"pip install '{name}>={oldest}'", essential=True)
        elif _numbers(found) < _numbers(oldest):
            advice = f"pip install --upgrade '{name}>={oldest}'"
            yield Finding(name, "missing", f"{found}, needs {oldest} or newer", advice, essential=True)
        else:
            yield Finding(name, "ok", found)
    wandb = _version("wandb")
    advice = "" if wandb else "only for --wandb_args: pip install 'lm_eval_ensemble[wandb]'"
    yield Finding("wandb", "ok" if wandb else "warn", wandb or "not installed", advice)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


#: run in a fresh interpreter, as plain `lm_eval` would start.
_ASK = """
import json, sys
import lm_eval.models
from lm_eval.api import registry
from lm_eval.tasks import TaskManager
print(json.dumps({
    "models": "ensemble-ppl" in registry.model_registry,
    "tasks": "infill_toy" in TaskManager(include_defaults=False).all_tasks,
    "hook": "lm_eval_ensemble._autoload" in sys.modules,
    "host": hasattr(registry, "load_plugins"),
}))
"""


def plugin() -> Iterator[Finding]:
    """Does plain ``lm_eval`` find us?"""
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("plugin", "missing", f"lm_eval cannot be started: {last}", "pip install --force-reinstall lm_eval", True)
        return
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    models, tasks = answer["models"] or answer["host"], answer["tasks"]
    if models and tasks:
        how = "entry points read by lm_eval, tasks by the import hook" if answer["host"] else "import hook (.pth)"
        yield Finding("plugin", "ok", f"plain lm_eval finds our models and tasks: {how}")
        return
    lacking = " and ".join(name for name, there in (("models", models), ("tasks", tasks)) if not there)
    if os.environ.get("LM_EVAL_ENSEMBLE_AUTOLOAD") == "0":
        advice = "unset LM_EVAL_ENSEMBLE_AUTOLOAD, which is 0"
    else:
        advice = "pip install lm_eval_ensemble into this interpreter (a folder on PYTHONPATH is not enough)"
    advice += "; or run `lm-eval-ensemble run` instead of `lm_eval`"
    yield Finding("plugin", "warn", f"plain lm_eval does not find our {lacking}", advice)


def sandbox(mode: str = "auto") -> Iterator[Finding]:
    """Starts the judge and gives it a right and a wrong program."""
    test = "def check(f):\n    assert f(1) == 2\n"
    jobs = [Job("def f(x):\n", f"    return x + {n}\n", "", test, "f") for n in (1, 2)]
    with Judge(workers=1, sandbox=mode, progress=False) as judge:
        found = [verdict.status for verdict in judge.run(jobs)]
        layers, line = {layer.partition("(")[0] for layer in judge.layers}, judge.description.removeprefix("sandbox: ")
    if found != ["pass", "fail"]:
        yield Finding("judge", "missing", f"a right and a wrong program gave {' and '.join(found)}", _REPORT, essential=True)
    else:
        yield Finding("judge", "ok", "a right program passes, a wrong one fails", essential=True)
    lost = [meaning for layer, meaning in _LAYERS.items() if layer not in layers]
    if not lost:
        yield Finding("sandbox", "ok", line)
        return
    advice = (
        f"{'; '.join(lost)}. Verdicts stay safe. Use Linux 5.13 or newer, or --metadata sandbox_command= (a container), or "
        "judge only what you trust"
    )
    yield Finding("sandbox", "warn", line, advice)


_REPORT = "this should not happen; run `lm-eval-ensemble judge` with --sandbox off to see whether the sandbox is the cause"


def data_sets(data_dir: str | None = None) -> Iterator[Finding]:
    documents = load_documents("infill_toy")
    yield Finding("data: infill_toy", "ok", f"{len(documents)} gaps, in the package")
    for name, data_set in SETS.items():
        path = find_file(name, data_dir)
        if path is None:
            advice = f"set {DATA_VARIABLE} to a folder that holds {data_set.sources[0].path}"
            if any(source.url for source in data_set.sources):
                advice += ", or let the first run download it"
            yield Finding(f"data: {name}", "optional", "not on this disk", advice)
            continue
        try:
            count = len(load_documents(name, data_dir))
        except Exception as error:
            advice = f"remove {path}, or fetch it again"
            yield Finding(f"data: {name}", "warn", f"damaged: {type(error).__name__}: {error}".split(" The file is")[0], advice)
            continue
        yield Finding(f"data: {name}", "ok", f"{count} documents, sha256 as published, {path}")


def models() -> Iterator[Finding]:
    for name, sha256 in TINY.items():
        weights = Path(asset_path(f"asset:{name}")) / "model.safetensors"
        if not weights.is_file():
            yield Finding(f"model: {name}", "missing", f"no file {weights}", _REINSTALL, essential=True)
        elif hashlib.sha256(weights.read_bytes()).hexdigest() != sha256:
            found = f"damaged: {weights.stat().st_size} bytes, another sha256"
            yield Finding(f"model: {name}", "missing", found, _REINSTALL, essential=True)
        else:
            yield Finding(f"model: {name}", "ok", f"{weights.stat().st_size / 1e6:.1f} MB, sha256 as released", essential=True)
    for member in preset_settings("paper")["members"]:
        name = member["args"]["pretrained"]
        folder = _in_hub_cache(name)
        if folder:
            yield Finding(f"model: {name}", "ok", str(folder))
        else:
            advice = f"only for preset=paper: hf download {name} (or let the first run do it), or give a local folder"
            yield Finding(f"model: {name}", "optional", "not in the local Hub cache", advice)


def diffusion(checkpoint: str | None = None) -> Iterator[Finding]:
    """The families of diffusion models, or that of one checkpoint, by its config.json; no weights are read."""
    if checkpoint is None:
        known, refused = ([f.name for f in FAMILIES.values() if bool(f.blocks) == blocks] for blocks in (False, True))
        found = f"{', '.join(known)}; refused: {', '.join(refused)}"
        yield Finding("diffusion families", "ok", found, "--dllm CHECKPOINT tells that of one, docs/diffusion.md each")
        return
    from lm_eval_ensemble.diffusion.loading import read_config, stock_config

    try:
        config = read_config(asset_path(checkpoint))
        family = find_family(checkpoint, config)
        kind = stock_config(checkpoint, config, family, trust_remote_code=False).model_type
    except ModelError as error:
        yield Finding(f"dllm: {checkpoint}", "missing", str(error))
    else:
        found = f"family {family.name} ({family.of}): read as {kind}; {family.told}"
        yield Finding(f"dllm: {checkpoint}", "ok", found, f"read in {family.source}")


_REINSTALL = "reinstall lm_eval_ensemble; preset=tiny needs it"


def _in_hub_cache(name: str) -> Path | None:
    """The snapshot of a checkpoint, if its configuration and weights are there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and any(folder.glob("*.safetensors")) else None


def gpu() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        bf16 = torch.cuda.is_bf16_supported()
        found = f"{torch.cuda.get_device_name(index)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free, "
        found += "bfloat16" if bf16 else "no bfloat16"
        yield Finding(f"gpu: cuda:{index}", "ok" if bf16 else "warn", found, "" if bf16 else "use --model_args dtype=float16")
    if not torch.cuda.device_count():
        built = f"torch {torch.__version__} finds none"
        yield Finding("gpu", "warn", built, "preset=tiny needs none; preset=paper is slow on a CPU (use --limit)")


def store() -> Iterator[Finding]:
    """Where candidates are kept between runs; nothing is created."""
    path = default_path()
    if path == "off":
        yield Finding(
            "store", "warn", "off", f"a killed run starts afresh; unset {STORE_VARIABLE} or give --model_args store=PATH"
        )
    elif not Path(path).exists():
        yield Finding("store", "ok", f"{path} (none yet)")
    else:
        kept = Store(Path(path))
        found = f"{path}, {kept.count()} candidates, {Path(path).stat().st_size / 1e6:.1f} MB" if kept.usable else path
        yield Finding("store", "ok" if kept.usable else "warn", found, "" if kept.usable else "it cannot be used")


def machine() -> Iterator[Finding]:
    """Room for the weights of preset=paper: about 2 GB on disk, 4 GB in memory."""
    home = Path(os.environ.get("HF_HOME") or Path.home())
    home = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(home).free / _GIB
    yield Finding("disk", "ok" if free > 4 else "warn", f"{free:.1f} GiB free at {home}", "" if free > 4 else _SPACE)
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
        yield Finding("memory", "ok" if memory > 5 else "warn", f"{memory:.1f} GiB free", "" if memory > 5 else _SPACE)


_SPACE = "preset=paper needs about 2 GB on disk and 4 GB of memory; preset=tiny needs neither"


def fill_one_line(preset: str) -> Iterator[Finding]:
    """Loads the members of a preset, fills one line of ``infill_toy`` and judges it: every part of an evaluation."""
    if preset not in preset_names():
        raise ConfigError(f"--preset {preset!r}: expected one of {', '.join(preset_names())}.")
    from lm_eval_ensemble import ensemble
    from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
    from lm_eval_ensemble.harness.judging import JudgeSettings, judge_all
    from lm_eval_ensemble.types import InfillRequest

    lm = EnsemblePPL(preset=preset, pretrained=preset, store="off")
    doc = next(document for document in load_documents("infill_toy") if document["cut"] == "line")
    request = InfillRequest(doc["prefix"], doc["suffix"], "doctor", reference=doc["middle"], cut="line")
    (completion,) = ensemble.run([request], lm.members, lm.scorers, lm.settings)
    trace: Any = completion.trace
    (judged, *_), _ = judge_all([(doc, trace.candidates[trace.winner])], JudgeSettings(workers=1), "doctor")
    verdict = "passes its tests" if judged.verdict == "pass" else f"fails ({judged.why}): the model's miss, no fault here"
    won = f"{trace.chosen.member} won by {trace.reason} among {', '.join(trace.members)}; the program {verdict}"
    lines = [*_marked(doc["prefix"], " "), *_marked(str(completion), "+"), *_marked(doc["suffix"], " ")]
    yield Finding(f"trial: preset={preset}", "ok", "\n".join([won, *lines]), essential=True)


def _marked(text: str, mark: str) -> list[str]:
    return [f"    {mark} {line}".rstrip() for line in text.splitlines()]
