"""Old pickles are read, tensors passed over, anything that could run code refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.uncertainty.analysis import AnalysisSettings, analyse
from lm_eval_ensemble.uncertainty.answers import load_answers
from lm_eval_ensemble.uncertainty.legacy import load_pickle, old_records


def entry(number: int, logprobs: Any, text: str, accuracy: float, embedding: Any = None) -> dict[str, Any]:
    """One answer as the old scripts saved it."""
    return {
        "question": f"Question {number}?",
        "context": "A long context.",
        "reference": {"answers": {"answer_start": [0], "text": ["Paris", "City of Light"]}, "id": str(number)},
        "most_likely_answer": {
            "response": text,
            "token_log_likelihoods": logprobs,
            "embedding": embedding,
            "accuracy": accuracy,
        },
        "responses": [("Paris", [-0.5], None, 1.0), ("Rome", [-1.0, -1.0], None, 0.0)],
    }


def old_run(folder: Path, content: Any, protocol: int = 4) -> Path:
    files = folder / "wandb" / "run-20251201_101010-ab12cd34" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text(
        "wandb_version: 1\nmodel_name:\n  desc: null\n  value: Llama-3-8B-8bit\ndataset:\n  value: trivia_qa\n"
        "experiment_lot:\n  value: lot7\n"
    )
    path = files / "validation_generations.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_an_old_run_is_analysed(tmp_path: Path, protocol: int) -> None:
    content = {}
    for number in range(24):
        right = number % 2 == 0
        logprobs: Any = [-0.1, -0.2] if right else [-3.0, -float(number)]
        forms = [logprobs, np.array(logprobs), [np.float32(value) for value in logprobs]]
        content[f"id{number}"] = entry(number, forms[number % 3], "Paris" if right else "Rome", float(right))
    path = old_run(tmp_path, content, protocol)
    (answers,), problems = load_answers([tmp_path])
    assert problems == []
    assert (answers.dataset, answers.run_id, answers.experiment_lot) == ("trivia_qa", "run-20251201_101010-ab12cd34", "lot7")
    assert (answers.origin.name, answers.origin.size, answers.origin.precision) == ("Llama-3-8B-8bit", "8B", "int8")
    analysis = analyse(answers, AnalysisSettings(draws=0))
    assert analysis.reports["g_nll"].discrimination.metrics["auroc"].value == 1.0
    assert analysis.reports["g_nll"].discrimination.mean == pytest.approx((12 * 0.3 + 12 * 3 + 144) / 24, rel=1e-6)
    assert set(analysis.columns["num_sets"]) == {2.0}
    assert analysis.columns["length_tokens"] == [2.0] * 24
    assert any("before 2025-12-08" in warning for warning in analysis.warnings)
    (same,), _ = load_answers([path])
    assert same.keys == answers.keys


@pytest.mark.parametrize(
    ("reference", "references"),
    [
        ("Paris", ["Paris"]),
        (["Paris", "City of Light"], ["Paris", "City of Light"]),
        (("Paris",), ["Paris"]),
        ({"answers": ["Paris"]}, ["Paris"]),
        ({"answers": {"text": []}}, []),
        (None, []),
    ],
)
def test_a_reference_may_be_a_text_or_a_list_of_texts(tmp_path: Path, reference: Any, references: list[str]) -> None:
    content = {str(i): {**entry(i, [-1.0], "Paris" if i else "Rome", 1.0), "reference": reference} for i in range(2)}
    problems: list[str] = []
    records = [record for _, record in old_records(old_run(tmp_path, content), problems)]
    assert problems == []
    # One text is one answer, not one answer for each of its letters.
    assert [record["references"] for record in records] == [references, references]
    assert [record["em"] for record in records] == ([0.0, 1.0] if references else [0.0, 0.0])
    assert {record["answerable"] for record in records} == {bool(references)}


def test_many_equal_faults_are_one_line(tmp_path: Path) -> None:
    content = {f"id{i}": entry(i, [-1.0], "Paris", 1.0) for i in range(9)}
    for i in range(7):
        del content[f"id{i}"]["most_likely_answer"]
    content["id7"]["reference"] = 3
    problems: list[str] = []
    path = old_run(tmp_path, content)
    assert [key for key, _ in old_records(path, problems)] == ["id8"]
    assert len(problems) == 2
    assert problems[0] == f"{path}, 7 entries, the first 'id0': KeyError: 'most_likely_answer'; left out."
    assert problems[1].startswith(f"{path}, entry 'id7': ")


def test_another_judge_is_noticed(tmp_path: Path) -> None:
    old_run(tmp_path, {str(i): entry(i, [-1.0], "Paris", float(i % 2)) for i in range(20)})
    (answers,), _ = load_answers([tmp_path])
    analysis = analyse(answers, AnalysisSettings(draws=0, label="stored"))
    assert analysis.accuracy.value == 0.5
    assert any("stored verdicts differ from F1 >= 0.5 in 10 answers" in warning for warning in analysis.warnings)


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_are_passed_over(tmp_path: Path, protocol: int) -> None:
    import torch

    tensor = torch.ones(2, 3, dtype=torch.bfloat16)
    path = old_run(tmp_path, {"a": entry(0, [-1.0], "Paris", 1.0, tensor), "p": torch.nn.Parameter(tensor)}, protocol)
    content = load_pickle(path)
    assert content["a"]["most_likely_answer"]["embedding"] is None
    assert content["a"]["most_likely_answer"]["token_log_likelihoods"] == [-1.0]


class Hostile:
    """Pickles into a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "numpy.load", "pickle.loads"])
def test_hostile_pickles_are_refused_by_name(tmp_path: Path, name: str, protocol: int) -> None:
    import torch

    marker = tmp_path / "ran"
    command = f"open({str(marker)!r}, 'w')"
    functions: dict[str, tuple[Any, ...]] = {
        "os.system": (os.system, f"touch {marker}"),
        "builtins.eval": (eval, command),
        "builtins.getattr": (getattr, "x", "upper"),
        "torch.load": (torch.load, str(marker)),
        "numpy.load": (np.load, str(marker)),
        "pickle.loads": (pickle.loads, b"."),
    }
    path = old_run(tmp_path, {"a": Hostile(*functions[name])}, protocol)
    with pytest.raises(DataError, match=r"refused: it asks for [\w.]+\. Only plain containers.*nothing was executed") as caught:
        load_pickle(path)
    assert name.split(".")[1] in str(caught.value)
    assert not marker.exists()
    with pytest.raises(DataError, match="refused"):
        load_answers([tmp_path])


def test_names_with_dots_reach_nothing(tmp_path: Path) -> None:
    """Protocol 4 resolves dotted names: ``numpy`` + ``ndarray.tofile`` must not be reached through an allowed module."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(DataError, match=r"asks for numpy.ndarray.tofile"):
        load_pickle(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04K", b"not a pickle", b"(lp0\nI1\na", b"\x80\x04\x8c\x01aQ.", b"\x80\x04}\x94b."]
)
def test_damaged_pickles_are_one_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "validation_generations.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"validation_generations.pkl: (refused|not a readable pickle)"):
        load_pickle(path)


def test_entries_of_another_form_are_told(tmp_path: Path) -> None:
    good = entry(0, [-1.0], "Paris", 1.0)
    path = old_run(tmp_path, {"good": good, "bad": {"question": "?"}, "worse": 3})
    (answers,), problems = load_answers([path])
    assert answers.keys == ("good",)
    assert ["entry 'bad'" in problems[0], "entry 'worse'" in problems[1]] == [True, True]
    path.write_bytes(pickle.dumps([good]))
    with pytest.raises(DataError, match="found list, expected a dict"):
        load_answers([path])


def test_impossible_numbers_in_an_entry_are_told(tmp_path: Path) -> None:
    good, nan, up = (entry(i, [p], "x", v) for i, (p, v) in enumerate([(-1.0, 1.0), (-1.0, float("nan")), (9.0, 0.0)]))
    (answers,), problems = load_answers([old_run(tmp_path, {"good": good, "nan": nan, "up": up})])
    assert answers.keys == ("good",)
    told = ["entry 'nan': 'uncertainty.stored' is nan", "entry 'up': 'uncertainty.logprobs' holds 9.0"]
    assert [part in problem for part, problem in zip(told, problems, strict=True)] == [True, True]
