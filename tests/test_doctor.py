"""The doctor on a healthy machine, and on every broken one we know how to make."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble import data, doctor
from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import SandboxError, missing_weights
from lm_eval_ensemble.execution import Judge

ROOT = Path(__file__).resolve().parent.parent


def marks(findings: Iterator[doctor.Finding]) -> dict[str, str]:
    return {finding.name: finding.mark for finding in findings}


def only(findings: Iterator[doctor.Finding], name: str) -> doctor.Finding:
    return next(finding for finding in findings if finding.name == name)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the checks that take seconds; each test runs its own for real."""

    def replace(*kept: str) -> None:
        for name in {"plugin", "sandbox", "data_sets", "models", "gpu"} - set(kept):
            monkeypatch.setattr(doctor, name, lambda *_: iter(()))

    return replace


def test_try_fills_a_line_and_says_who_won(healthy: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    healthy("plugin", "sandbox", "models")
    assert main(["doctor", "--try"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "plain lm_eval finds our models and tasks",
        "a right program passes",
        "tiny/mdm",
        "won by",
        "    + ",
        "Ready:",
    ):
        assert part in shown
    assert "Traceback" not in shown


def test_json_is_a_list_of_the_same_findings(healthy: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    healthy()
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "mark", "found", "advice", "essential"} == set(found[0])
    assert {entry["mark"] for entry in found} <= {"ok", "warn", "optional", "missing"}


def test_an_unknown_preset_is_a_line(healthy: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    healthy()
    assert main(["doctor", "--try", "--preset", "tinny"]) == 1
    assert "ConfigError: --preset 'tinny': expected one of paper, tiny." in capsys.readouterr().out


def test_weights_that_are_not_there_are_a_line(
    healthy: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(kind: Any, member: Any, *_: Any) -> None:
        raise missing_weights(member.args["pretrained"], OSError("not in the cache.\nand a page more"))

    healthy()
    monkeypatch.setattr("lm_eval_ensemble.harness.ensemble_lm.build_member", absent)
    assert main(["doctor", "--try", "--preset", "paper"]) == 1
    shown = capsys.readouterr().out
    assert "ModelError: Could not load the Hub model 'fredzzp/open-dcoder-0.5B'" in shown
    assert "Not ready: trial." in shown


def test_needed_versions_are_those_of_the_project() -> None:
    asked = (ROOT / "pyproject.toml").read_text()
    for name, oldest in doctor.NEEDED.items():
        assert re.search(rf'"{name.replace("_", "-")}>={re.escape(oldest)}[",]', asked)


def test_old_and_absent_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"lm_eval": "0.4.9", "torch": "2.13.0+cpu", "datasets": "10.0", "accelerate": "1.2.0rc1"}
    monkeypatch.setattr(doctor, "_version", found.get)
    lines = {finding.name: finding for finding in doctor.versions()}
    assert (lines["lm_eval"].mark, lines["lm_eval"].found) == ("missing", "0.4.9, needs 0.4.13 or newer")
    assert "pip install --upgrade 'lm_eval>=0.4.13'" in lines["lm_eval"].advice
    assert (lines["transformers"].mark, lines["transformers"].found) == ("missing", "not installed")
    assert [lines[name].mark for name in ("torch", "datasets", "accelerate", "wandb")] == ["ok", "ok", "ok", "warn"]


def test_the_plugin_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_EVAL_ENSEMBLE_AUTOLOAD", "0")
    (finding,) = doctor.plugin()
    assert finding.mark == "warn"
    assert finding.found == "plain lm_eval does not find our models and tasks"
    assert "unset LM_EVAL_ENSEMBLE_AUTOLOAD" in finding.advice
    assert "lm-eval-ensemble run" in finding.advice


def test_an_lm_eval_that_cannot_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_ASK", "raise ImportError('no module named sacrebleu')")
    (finding,) = doctor.plugin()
    assert (finding.mark, finding.essential) == ("missing", True)
    assert "no module named sacrebleu" in finding.found
    assert "Traceback" not in finding.as_text()


def test_the_sandbox_off_says_what_is_lost() -> None:
    found = {finding.name: finding for finding in doctor.sandbox("off")}
    assert found["judge"].mark == "ok"
    assert found["sandbox"].mark == "warn"
    assert "judged programs can read files of this account; judged programs can start processes" in found["sandbox"].advice


def test_a_judge_that_cannot_run(
    healthy: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: Any) -> None:
        raise SandboxError("The judge cannot run here.\nSecond line.")

    healthy("sandbox")
    monkeypatch.setattr(doctor, "Judge", refuse)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "SandboxError: The judge cannot run here." in shown
    assert "Not ready: sandbox." in shown


def test_a_judge_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Judge):
        def run(self, jobs: Any, mode: Any = "split") -> Any:
            return super().run(list(jobs)[:1] * 2)

    monkeypatch.setattr(doctor, "Judge", Wrong)
    finding = only(doctor.sandbox(), "judge")
    assert (finding.mark, finding.found) == ("missing", "a right and a wrong program gave pass and pass")


@pytest.mark.usefixtures("nowhere")
def test_no_data_folder() -> None:
    found = list(doctor.data_sets())
    assert (found[0].name, found[0].mark) == ("data: infill_toy", "ok")
    assert {finding.mark for finding in found[1:]} == {"optional"}
    assert not any(finding.essential for finding in found)
    assert "set LM_EVAL_ENSEMBLE_DATA to a folder that holds human-eval-infilling/" in found[1].advice
    assert "let the first run download it" in found[1].advice


@pytest.mark.usefixtures("nowhere")
def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / data.SETS["single-line"].sources[0].path
    path.parent.mkdir()
    path.write_bytes(b"not the file")
    finding = only(doctor.data_sets(str(tmp_path)), "data: single-line")
    assert finding.mark == "warn"
    assert "damaged: DataError" in finding.found
    assert "sha256 is" in finding.found
    assert str(path) in finding.advice


@pytest.mark.data
def test_the_real_sets_are_found() -> None:
    assert set(marks(doctor.data_sets()).values()) == {"ok"}


def test_damaged_and_absent_weights(monkeypatch: pytest.MonkeyPatch, assets: Path, tmp_path: Path) -> None:
    shutil.copytree(assets / "mdm", tmp_path / "tiny" / "mdm")
    (tmp_path / "tiny" / "mdm" / "model.safetensors").write_bytes(b"cut off")
    monkeypatch.setattr(doctor, "asset_path", lambda name: str(tmp_path / name.removeprefix("asset:")))
    found = {finding.name: finding for finding in doctor.models()}
    assert found["model: tiny/mdm"].found == "damaged: 7 bytes, another sha256"
    assert found["model: tiny/fim"].found.startswith("no file")
    assert found["model: tiny/fim"].essential


def test_checkpoints_in_the_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "Qwen/Qwen2.5-Coder-0.5B"
    cached = {name: str(tmp_path / "config.json")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: cached.get(repo))
    assert "hf download" in only(doctor.models(), f"model: {name}").advice  # a configuration without weights
    (tmp_path / "model.safetensors").touch()
    assert only(doctor.models(), f"model: {name}").mark == "ok"
    assert only(doctor.models(), "model: fredzzp/open-dcoder-0.5B").mark == "optional"


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert marks(doctor.gpu()) == {"gpu": "warn"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (8 * 2**30, 16 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Card")
    for supported, mark in ((True, "ok"), (False, "warn")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        (finding,) = doctor.gpu()
        assert (finding.name, finding.mark) == ("gpu: cuda:0", mark)
        assert finding.found.startswith("Card, 8.0 of 16.0 GiB free")


def test_a_broken_check_is_a_line_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, healthy: Callable[..., None]) -> None:
    def fail() -> Iterator[doctor.Finding]:
        raise ImportError("libcudart.so.12: cannot open shared object file\nand a page more")

    healthy()
    monkeypatch.setattr(doctor, "gpu", fail)
    found = list(doctor.examine())
    line = next(finding for finding in found if finding.name == "gpu")
    assert (line.mark, line.found) == ("missing", "ImportError: libcudart.so.12: cannot open shared object file")
    assert not line.essential
    assert found[-1].name in ("disk", "memory")


def test_the_store_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lm_eval_ensemble.store import Store
    from lm_eval_ensemble.types import Candidate

    monkeypatch.setenv("LM_EVAL_ENSEMBLE_STORE", "off")
    assert [(f.mark, f.found) for f in doctor.store()] == [("warn", "off")]
    path = tmp_path / "store.sqlite"
    monkeypatch.setenv("LM_EVAL_ENSEMBLE_STORE", str(path))
    assert [(f.mark, f.found) for f in doctor.store()] == [("ok", f"{path} (none yet)")]
    assert not path.exists()
    Store(path).write({"k": Candidate("", "x", "x")})
    (finding,) = doctor.store()
    assert finding.found.startswith(f"{path}, 1 candidates, 0.0")
    monkeypatch.setenv("LM_EVAL_ENSEMBLE_STORE", str(tmp_path))
    assert [(f.mark, f.advice) for f in doctor.store()] == [("warn", "it cannot be used")]


def test_the_family_of_a_diffusion_checkpoint_is_told(tmp_path: Path) -> None:
    known = only(doctor.diffusion(), "diffusion families")
    assert known.found.startswith("dream, llada-moe, llada, a2d")
    assert "refused: stable-diffcoder" in known.found
    found = next(doctor.diffusion("asset:tiny/mdm"))
    assert (found.mark, found.found.split(" (")[0]) == ("ok", "family open-dcoder")
    assert "read as qwen2; the state before a position predicts it" in found.found
    assert "the state before a position predicts it; mask as its files say, else <M>" in found.found
    assert "Open-dLLM" in found.advice
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sdar"}))
    refused = next(doctor.diffusion(str(tmp_path)))
    assert (refused.mark, "block-causal" in refused.found) == ("missing", True)
