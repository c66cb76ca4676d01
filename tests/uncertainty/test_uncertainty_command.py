"""The command line: the table, the files, the messages."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.metrics.rejection import CURVES
from lm_eval_ensemble.uncertainty.output import COLUMNS
from tests.uncertainty.runs import CONFIG, a_record, records, write_run


def test_the_table_and_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "lot" / "a", records(), model="org/a")
    write_run(
        tmp_path / "lot" / "b",
        records(seed=1),
        model="org/b",
        config={**CONFIG, "model_num_parameters": 7_000_000_000, "model_dtype": "float16"},
    )
    out = tmp_path / "out"
    arguments = ["uncertainty", str(tmp_path / "lot"), "--draws", "20", "--similarity", "constant"]
    assert main([*arguments, "--csv", str(out / "t.csv"), "--json", str(out / "t.json")]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    text = shown.out
    assert "triviaqa_uncertainty, org/a (hf-scored)" in text
    assert "size 494M, precision bfloat16; 60 answers" in text
    for part in ("length_tokens (baseline)", "by em", "by rougeL", "- length", "cross-fitted", "an error of at most 10.0 %"):
        assert part in text
    assert "AUROC of the first model minus that of the second" in text
    # the confound of the earlier experiments: small models in 16 bits, large ones in 8
    assert "some pairs differ in size and in precision" in text

    rows = list(csv.DictReader((out / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    assert [(row["model_name"], row["model_size"], row["experiment_lot"]) for row in rows] == [
        ("org/a", "494M", "lot"),
        ("org/b", "7B", "lot"),
    ]
    # constant similarity: RW-G-NLL is the mean NLL, to the last digit
    assert rows[0]["RW-G-NLL_AUROC"] == rows[0]["ln_nll_AUROC"]
    content = json.loads((out / "t.json").read_text(encoding="utf-8"))
    run = content["runs"][0]
    metrics = run["scores"]["g_nll"]["metrics"]
    assert float(rows[0]["G-NLL_AUROC"]) == pytest.approx(metrics["auroc"]["value"], abs=1e-6)
    assert metrics["auroc"]["low"] < metrics["auroc"]["value"] < metrics["auroc"]["high"]
    assert set(metrics) == {*CURVES, "auroc_bootstrap"}
    assert set(run["spearman"]) == set(run["scores"])
    assert content["settings"]["similarity"] == "constant"
    assert len(content["comparisons"]) == 2


def test_a_second_run_prints_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, records(n=30))
    texts = []
    for _ in range(2):
        assert main(["uncertainty", str(tmp_path), "--draws", "50", "--similarity", "ngram", "--label", "em"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "em >= 1" in texts[0]


def test_runs_of_one_model_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, dtype in enumerate(("float32", "bfloat16")):
        config = {**CONFIG, "model_args": {"pretrained": "org/model", "dtype": dtype}}
        write_run(tmp_path / dtype, records(seed=seed), config=config)
    # In one parent folder, or as several.
    for folders in ([tmp_path], [tmp_path / "float32", tmp_path / "bfloat16"]):
        assert main(["uncertainty", *map(str, folders), "--draws", "20"]) == 0
        printed = capsys.readouterr().out
        for dtype in ("float32", "bfloat16"):
            assert f"triviaqa_uncertainty, org/model (dtype={dtype}) (hf-scored)\n" in printed
        pair = printed.split("AUROC of the first model")[1]
        assert all(f"org/model (dtype={dtype}) (hf-scored)" in pair for dtype in ("float32", "bfloat16"))


def test_one_class_is_a_null_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [a_record(i, [-float(i)], False) for i in range(12)])
    assert main(["uncertainty", str(tmp_path), "--draws", "20", "--csv", str(tmp_path / "t.csv")]) == 0
    shown = capsys.readouterr().out
    assert "note: all answers are wrong" in shown
    assert "its interval rests on a model" not in shown  # there is none
    assert "AUROC" in shown
    (row,) = csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines())
    assert (row["G-NLL_AUROC"], row["G-NLL_AUROC_reason"], row["Num_examples"]) == ("", "all answers are wrong", "12")
    assert float(row["Mean_G-NLL"]) == 5.5


def test_impossible_tokens_are_infinite_in_no_file(tmp_path: Path) -> None:
    found = [*records(n=70), a_record(70, [float("-inf")], False)]
    write_run(tmp_path, found)
    assert main(["uncertainty", str(tmp_path), "--draws", "20", "--json", str(tmp_path / "t.json")]) == 0
    text = (tmp_path / "t.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text


def test_the_usable_part_is_analysed_and_the_rest_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "good", records(n=20))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "validation_generations.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert main(["uncertainty", str(tmp_path), str(tmp_path / "missing"), "--draws", "0"]) == 1
    told = capsys.readouterr().err
    assert "refused: it asks for os.system" in told
    assert "no such file or folder" in told


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--similarity", "ngramm"], "Did you mean 'ngram'?"),
        (["--clusters", "nli"], "Known: match, nli:ID_OR_FOLDER"),
        (["--alpha", "2"], "alpha: found 2.0"),
        (["--csv", "."], "found a folder"),
        (["--label", "stored"], "no label 'stored'"),
    ],
)
def test_wrong_options_are_one_message(
    tmp_path: Path, extra: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, records(n=20))
    assert main(["uncertainty", str(tmp_path), "--draws", "0", *extra]) == 2
    assert expected in capsys.readouterr().err


def test_models_of_similarity_and_meaning_from_folders(tmp_path: Path, cross_encoder: Path, nli: Path) -> None:
    found = records(n=24)
    for number, record in enumerate(found):
        texts = ("Paris", "Rome", "Paris" if number % 2 else "Oslo")
        record["samples"] = [{"text": t, "tokens": [t], "token_ids": [1], "logprobs": [-1.0], "f1": 0.0} for t in texts]
    write_run(tmp_path / "run", found)
    arguments = ["--similarity", f"cross-encoder:{cross_encoder}", "--clusters", f"nli:{nli}", "--device", "cpu"]
    path = tmp_path / "t.json"
    assert main(["uncertainty", str(tmp_path / "run"), "--draws", "0", "--json", str(path), *arguments]) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["settings"]["similarity"] == f"cross-encoder:{cross_encoder}"
    assert content["settings"]["clusters"] == f"nli:{nli}"
    scores = content["runs"][0]["scores"]
    assert {"rw_g_nll", "rw_sum", "se", "sar", "sent_sar"} <= set(scores)
    # random weights weigh tokens unequally: not the mean
    assert scores["rw_g_nll"]["mean"] != pytest.approx(scores["ln_nll"]["mean"], abs=1e-4)


def test_a_reader_that_leaves_and_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", records(n=20))
    (tmp_path / "file").write_text("")
    assert main(["uncertainty", str(tmp_path / "run"), "--draws", "0", "--csv", str(tmp_path / "file" / "t.csv")]) == 2
    shown = capsys.readouterr()
    assert "g_nll" in shown.out
    assert "could not be written" in shown.err
    command = [
        sys.executable,
        "-m",
        "lm_eval_ensemble",
        "uncertainty",
        str(tmp_path / "run"),
        "--json",
        str(tmp_path / "t.json"),
    ]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*command, "--draws", "0"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["runs"]
