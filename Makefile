# The three doors: make demo, make test, make check. Each sets the environment up when it is missing.
PYTHON ?= python3
# The version tested. The package itself asks for a range.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format docs clean

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(VENV)/installed  ## the embedded pair on infill_toy: members, ensemble, oracle and floor in one table
	HF_HUB_OFFLINE=1 $(BIN)/lm_eval --model ensemble-ppl --model_args preset=tiny,pretrained=tiny \
	  --tasks infill_toy --batch_size auto --confirm_run_unsafe_code

test: $(VENV)/installed  ## all tests; those on real data need LM_EVAL_ENSEMBLE_DATA
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra --durations=10 -n 2 --dist loadfile

check: $(VENV)/installed  ## lint, format, types, structure, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_structure.py
	$(BIN)/python scripts/docs_help.py --check

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed  ## write the --help blocks anew
	$(BIN)/python scripts/docs_help.py

clean:
	rm -rf $(VENV) dist out
