"""The page as a file: what stands in it, how large it is, and that no text of a run becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.page.build import page, write_page
from lm_eval_ensemble.report.run import report_of
from lm_eval_ensemble.runs.load import load_runs
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record, sample, write_run

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>'\"`{{ 7*7 }}{% raw %}",
    "line\u2028separator\u2029end",
    "nul\x00 bell\x07 delete\x7f next\x85 mark\ufeff",
    "half \ud800 other half \udfff",
    "turned \u202e back \u2066",
    "javascript:alert(1)",
    "😀 outside of the plane",
]


class Reader(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self._in = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append("")
            self._in = True

    def handle_endtag(self, tag: str) -> None:
        self._in = False

    def handle_data(self, data: str) -> None:
        if self._in:
            self.inside[-1] += data

    @property
    def data(self) -> list[dict[str, Any]]:
        blocks = [found for found in self.elements if found[0] in ("script", "style")]
        return [
            json.loads(text)
            for (_, attributes), text in zip(blocks, self.inside, strict=True)
            if attributes.get("type") == "application/json"
        ]


def built(path: Path) -> str:
    runs, _ = load_runs([path])
    return page([report_of(run) for run in runs])


def hostile_run(folder: Path, extra: str = "") -> Path:
    """Every text of it is hostile: names, problems, members, texts, tokens, reasons."""
    samples = []
    for number, text in enumerate(HOSTILE):
        text += extra
        candidates = [
            candidate(HOSTILE[1], text, number % 2 == 0, 0.5)
            | {"raw": text + text, "why": text, "tokens": [text], "logprobs": [-1.5], "stop": text},
            candidate("b", text[::-1], False, 0.75),
        ]
        found = ensemble_sample(number, record(candidates, number % 2, reason=HOSTILE[0]), problem=text, middle=text)
        found["doc"] |= {"task_id": text, "prefix": text, "suffix": text, "test": text}
        samples.append(found)
    return write_run(folder, samples, task="t<img src=x onerror=alert(1)>", metric="pass@1", model=HOSTILE[0])


def test_hostile_texts_are_data_and_nothing_else(tmp_path: Path) -> None:
    text = built(hostile_run(tmp_path / "run"))
    path = tmp_path / "page.html"
    write_page(text, path)
    found = Reader(path.read_text(encoding="utf-8"))  # strict: no half of a surrogate pair is left

    plain = Reader(built(FIXTURES / "ensemble"))
    kinds = {tag for tag, _ in plain.elements}
    assert {tag for tag, _ in found.elements} <= kinds
    assert not any(name.startswith("on") or name in ("style", "src") for _, names in found.elements for name in names)
    assert {names["href"] for _, names in found.elements if "href" in names} == {"#"}
    assert sum(tag == "script" for tag, _ in found.elements) == 2

    (data,) = found.data
    assert [document["n"] for document in data["documents"]] == HOSTILE
    for document, expected in zip(data["documents"], HOSTILE, strict=True):
        (completion,) = document["k"]
        first = completion["c"][0]
        assert (first["t"], first["a"], first["x"], first["z"]) == (expected, expected * 2, expected, [expected])
        assert data["facts"]["members"][first["o"]] == HOSTILE[1]
        # The span is counted as JavaScript counts: in UTF-16 units.
        units = data["facts"]["strings"][document["w"][0]].encode("utf-16-le", "surrogatepass")
        start, end = (2 * place for place in document["w"][1:])
        parts = (units[:start], units[start:end], units[end:])
        assert [part.decode("utf-16-le", "surrogatepass") for part in parts] == [expected] * 3


def test_the_policy_allows_only_the_script_and_style_of_the_page() -> None:
    found = Reader(built(FIXTURES / "ensemble"))
    (policy,) = (names["content"] for tag, names in found.elements if names.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    style, *_, script = found.inside
    for rule, text in (("style-src", style), ("script-src", script)):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?:", script)
    assert not re.search(r"https?:|@import|url\(", style)


def test_a_text_of_a_megabyte_is_cut_and_told(tmp_path: Path) -> None:
    text = built(hostile_run(tmp_path / "run", extra="x" * 1_000_000))
    assert len(text.encode("utf-8", "backslashreplace")) < 5_000_000
    (data,) = Reader(text).data
    assert len(data["documents"]) == len(HOSTILE)
    assert re.search(r"\[… [\d,]+ characters more in the samples file …\]", data["documents"][0]["k"][0]["c"][0]["t"])
    assert f"Texts longer than {data['facts']['cut']:,} characters are cut here" in text


def test_documents_that_do_not_fit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval_ensemble.report.page.samples._BUDGET", 4)
    text = built(hostile_run(tmp_path / "run", extra="x" * 5_000))
    (data,) = Reader(text).data
    shown = len(data["documents"])
    assert 0 < shown < len(HOSTILE)
    assert f"{len(HOSTILE) - shown} documents did not fit on this page" in text


def test_1033_samples_with_tokens_stay_under_5_mb(tmp_path: Path) -> None:
    """As large as the real single-line set: programs of 800 characters, 160 problems, 50 tokens a candidate."""
    samples = []
    for number in range(1033):
        program = "".join(f"    value_{number % 160}_{line} = call({line})\n" for line in range(26))
        pieces = [f"tok{k}" for k in range(50)]
        told = {"tokens": pieces, "logprobs": [-0.12345 * k for k in range(50)], "raw": "".join(pieces)}
        names = ("causal", "joint", "joint_mean", "fim", "fim_byte", "fim_worst", "onepass", "onepass_byte", "onepass_worst")
        scores = dict.fromkeys(names, 1.23456)
        both = [candidate(name, "".join(pieces), number % 3 == 0) | told | {"scores": scores} for name in ("dllm", "qwen")]
        found = ensemble_sample(number, record(both, 0), problem=f"p{number % 160}", middle=program[100 : 130 + number % 50])
        found["doc"] |= {"prefix": program[:100], "suffix": program[130 + number % 50 :], "test": program[::-1]}
        samples.append(found)
    text = built(write_run(tmp_path / "run", samples, metric="pass@1"))
    (data,) = Reader(text).data
    assert (len(data["documents"]), data["facts"]["cut"], data["facts"]["left_out"]) == (1033, None, 0)
    assert 1_000_000 < len(text.encode()) < 5_000_000


@pytest.mark.parametrize("samples", [None, [], ["{"], [sample(0, None)]])
def test_a_run_without_usable_samples_still_has_a_page(tmp_path: Path, samples: list[Any] | None) -> None:
    found = Reader(built(write_run(tmp_path / "run", samples)))
    assert [block["documents"] for block in found.data] == [[]]


@pytest.mark.parametrize("name", ["hf", "stock", "dllm", "fim", "repeats", "questions"])
def test_every_kind_of_run_keeps_its_answers(name: str) -> None:
    runs, _ = load_runs([FIXTURES / name])
    for run, block in zip(runs, Reader(built(FIXTURES / name)).data, strict=True):
        samples = [entry for _, entry in run.lines({}) if entry["filter"] == run.first_filter]
        assert [d["i"] for d in block["documents"]] == [str(entry["doc_id"]) for entry in samples]
        for document, entry in zip(block["documents"], samples, strict=True):
            if "u" in document:
                told = entry["uncertainty"]
                assert (document["u"]["a"], document["u"]["z"]) == (told["answer"], told["tokens"])
                assert document["u"]["t"] == told["references"]
                assert document["s"]["g_nll"] == pytest.approx(-sum(told["logprobs"]), abs=1e-5)
            elif "k" in document:
                records = entry["selection"].get("completions", [entry["selection"]])
                texts = [[c["text"] for c in found["candidates"]] for found in records]
                assert [[c["t"] for c in found["c"]] for found in document["k"]] == texts
            elif "h" in document:
                assert [option[1] for option in document["h"]] == [float(answer[0]) for answer in entry["filtered_resps"]]
                assert [option[0] for option in document["h"]] == [a["arg_1"] for a in entry["arguments"].values()]
            else:
                assert document["a"] == entry["filtered_resps"]


def test_questions_have_a_curve_for_every_score_that_has_an_area() -> None:
    answers = FIXTURES.parent / "answers"
    text = built(answers / "qa_float32")
    (entries,) = (report_of(run).figures["uncertainty"] for run in load_runs([answers / "qa_float32"])[0])
    roc, risk = re.findall(r'<div class="squares">(.*?)</div>', text, re.S)
    for part, number in ((roc, "value"), (risk, "aurc")):
        named = [re.sub(r"<.*?>", "", name) for name in re.findall(r"<figcaption>(.*?)</figcaption>", part)]
        assert named == [f"{name} {entry[number]:.3f}" for name, entry in entries.items()]
    # all answers are wrong: no curve
    assert 'class="squares"' not in built(answers / "qa_fim")


def test_the_overview_shows_the_numbers_of_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(r"<[^>]*>", "\n", built(FIXTURES / "ensemble").split("<script")[0])
    shown = {line.strip() for line in text.splitlines()}
    assert main(["report", str(FIXTURES / "ensemble"), "--no_html"]) == 0
    cells = [cell.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|") for cell in line.split("|")]
    numbers = [cell for cell in cells if re.search(r"\d", cell)]
    assert len(numbers) > 80
    assert [cell for cell in numbers if cell not in shown] == []


def test_report_writes_the_page_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [sample(n, 1.0 - n, filtered_resps=["x"]) for n in (0, 1)])
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.endswith(f"Every sample: {run / 'report.html'}\n")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (results,) = run.glob("results_*.json")
    for arguments, path in (
        ([str(run), "--no_html"], None),
        ([str(run), "--format", "json"], None),
        ([str(run), "--export", "jsonl"], None),
        ([str(run), "--export", "jsonl", "--html", str(tmp_path / "b.html")], tmp_path / "b.html"),
        ([str(results)], results.with_suffix(".html")),
    ):
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.html")}
        assert main(["report", *arguments]) == 0
        after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.html")}
        assert {p for p in after if after[p] != before.get(p)} == ({path} if path else set())
    assert main(["report", str(run), "--open", "--no_html"]) == 2


def test_open_starts_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def show(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", show)
    run = write_run(tmp_path / "a run", [sample(0, 1.0)])
    assert main(["report", str(run), "--open"]) == 0
    assert opened == [(run / "report.html").as_uri()]
    assert "a%20run" in opened[0]


def test_the_page_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", [sample(0, 1.0)])
    (run / "report.html").write_text("mine")
    assert main(["report", str(run)]) == 1
    assert "is not a report of ours" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "mine"
    with pytest.raises(DataError, match="cannot be written"):
        write_page("text", tmp_path / "nowhere" / "page.html")
    assert list(tmp_path.rglob(".*")) == []
