from __future__ import annotations

from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lm_eval_ensemble.config import Decoding
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.harness.requests import is_infill, resolve, to_requests


def instance(doc: dict[str, Any], context: str = "ctx", doc_id: int = 0, repeats: int = 1, **options: Any) -> Instance:
    metadata = ("task", doc_id, repeats)
    return Instance("generate_until", doc, (context, options), 0, metadata, task_name="task", doc_id=doc_id, repeats=repeats)


def test_a_document_becomes_a_request() -> None:
    doc = {"prefix": "p", "suffix": "s", "middle": "m", "cut": "line"}
    request = to_requests([instance(doc, until=["a"], max_gen_toks=9)])[0]
    assert (request.prefix, request.suffix, request.reference, request.cut) == ("p", "s", "m", "line")
    assert (request.until, request.max_new_tokens, request.key) == (("a",), 9, ("task", 0, 0))


def test_repeats_of_one_document_get_streams_of_their_own() -> None:
    one, other = (instance({"prefix": "p", "suffix": "s"}, doc_id=i, repeats=3) for i in range(2))
    assert [r.key for r in to_requests([one, one, other, one])] == [
        ("task", 0, 0),
        ("task", 0, 1),
        ("task", 1, 0),
        ("task", 0, 2),
    ]


@pytest.mark.parametrize("repeats", [1, 2])
def test_what_lm_eval_adds_to_even_out_shares_is_the_same_request_again(repeats: int) -> None:
    last = instance({"prefix": "p", "suffix": "s"}, repeats=repeats)
    requests = to_requests([last] * repeats + [last] * 2 * repeats)
    assert [r.sample for r in requests] == [*range(repeats)] * 3
    # Another ensemble's samples are told apart although each is an instance of its own.
    assert [r.sample for r in to_requests([instance({"prefix": "p", "suffix": "s"}) for _ in range(3)])] == [0, 1, 2]


def test_prompts_of_other_tasks_are_parsed() -> None:
    request = to_requests([instance({}, "<fim_prefix>a<fim_suffix>b<fim_middle>")])[0]
    assert (request.prefix, request.suffix, request.reference) == ("a", "b", None)
    assert to_requests([instance({"prompt": "a", "suffix": ""})])[0].suffix == ""


def test_a_task_without_a_gap_is_refused() -> None:
    assert not is_infill(instance({"question": "?"}))
    with pytest.raises(DataError, match="found no gap to fill"):
        to_requests([instance({"question": "?"})])


@pytest.mark.parametrize(
    ("own", "options", "temperature", "top_p", "tokens"),
    [
        ({}, {"do_sample": False, "temperature": 0.0, "max_gen_toks": 7}, 0.0, 1.0, 7),
        ({}, {"do_sample": True, "temperature": 0.4, "top_p": 0.8}, 0.4, 0.8, 256),
        ({}, {"temperature": 0.4}, 0.4, 1.0, 256),
        ({}, {"do_sample": True}, 1.0, 1.0, 256),
        ({"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 3}, {"do_sample": True, "temperature": 0.4}, 0.6, 0.9, 3),
        ({"temperature": 0.6, "greedy": True}, {}, 0.0, 1.0, 256),
    ],
)
def test_the_members_own_settings_come_first(
    own: dict[str, Any], options: dict[str, Any], temperature: float, top_p: float, tokens: int
) -> None:
    request = to_requests([instance({"prefix": "p", "suffix": "s"}, **options)])[0]
    found = resolve(Decoding(**own), request)
    assert (found.temperature, found.top_p, found.max_new_tokens) == (temperature, top_p, tokens)
