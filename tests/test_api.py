"""docs/api.md names what is public; the modules agree."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import lm_eval_ensemble

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PUBLIC = {
    module: names.split() for module, names in re.findall(r"^\| `(lm_eval_ensemble[\w.]*)` \| (.+) \|$", TEXT, re.MULTILINE)
}
#: Rooms that know lm_eval and may be rebuilt with it: only what others subclass is promised.
IN_PART = {"lm_eval_ensemble.harness.base", "lm_eval_ensemble.harness.task"}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_page_lists_what_the_module_offers(module: str) -> None:
    listed = [name.strip("`") for name in PUBLIC[module]]
    offered = importlib.import_module(module).__all__
    if module in IN_PART:
        assert set(listed) < set(offered)
    else:
        assert sorted(listed) == sorted(offered)
    assert f"{module}\n" in TEXT or f"{module}.{listed[0]}\n" in TEXT  # and its reference is on the page


def test_there_is_a_page_to_compare() -> None:
    assert len(PUBLIC) == 8
    assert set(PUBLIC) >= IN_PART


def test_the_version_stands_in_one_place_and_is_repeated_right() -> None:
    assert f"version: {lm_eval_ensemble.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {lm_eval_ensemble.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
