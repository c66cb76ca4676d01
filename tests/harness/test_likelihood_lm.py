from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill


def asked(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def test_the_host_gets_the_chain_and_whether_it_is_greedy(diffusion: DiffusionInfill) -> None:
    encode = diffusion.encoder.encode
    context, continuation = "for i in range(10", "):\n"
    chain = diffusion.chain_logprobs([(encode(context), encode(continuation), [])])[0]
    found = diffusion.loglikelihood([asked(context, continuation), asked(context, "zebra"), asked(context, "")])
    assert found[0][0] == pytest.approx(sum(chain), abs=1e-4)
    assert found[0][1] is True
    assert found[1][0] < found[0][0]
    assert found[1][1] is False
    assert found[2] == (0, True)


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(diffusion: DiffusionInfill) -> None:
    first, second = diffusion.loglikelihood([asked("x = ", "1"), asked("x =", " 1")])
    assert first == pytest.approx(second, abs=1e-4)


def test_the_bound_is_an_option(assets: Path) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), likelihood="elbo:8", seed=0, batch_size=4)
    requests = [asked("for i in range(10", "):\n"), asked("for i in range(10", "zebra")]
    found = model.loglikelihood(requests)
    assert found[0][0] > found[1][0]
    assert [is_greedy for _, is_greedy in found] == [True, False]
    backwards = model.loglikelihood(requests[::-1])[::-1]
    assert [value for value, _ in backwards] == pytest.approx([value for value, _ in found], abs=1e-3)


@pytest.mark.parametrize("value", ["elbo", "elbo:1", "mc:8", "chains"])
def test_other_rules_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"likelihood: got .* expected chain, or elbo:K"):
        DiffusionInfill(pretrained="x", likelihood=value)


def test_what_does_not_fit_is_said(assets: Path) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), max_length=16)
    with pytest.raises(HostError, match="does not fit the context of 16 tokens"):
        model.loglikelihood([asked("x", "a b c d e f g h i j k l m n o p q")])
    assert model.loglikelihood([asked("x = 1\n" * 40, "y")])[0][0] < 0


def test_running_text_is_refused(diffusion: DiffusionInfill) -> None:
    with pytest.raises(HostError, match="loglikelihood_rolling"):
        diffusion.loglikelihood_rolling([])


def test_a_stock_multiple_choice_task_runs(diffusion: DiffusionInfill, tmp_path: Path) -> None:
    rows = [
        {"question": "for i in range(10", "choices": ["):\n", " zebra", "import"], "answer": 0},
        {"question": "def f(x):\n    return", "choices": ["\n\n\n%", " x\n"], "answer": 1},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "which.yaml").write_text(
        f"""task: which
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {tmp_path / "cache"}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
""",
        encoding="utf-8",
    )
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path))
    found: Any = simple_evaluate(diffusion, tasks=["which"], task_manager=manager, bootstrap_iters=0)
    assert found["results"]["which"]["acc,none"] == 1.0
