# The doors: make demo, make test, make check, make docs. Each sets its environment up when it is missing.
PYTHON ?= python3
# The version tested. The package itself asks for a range.
TORCH ?= torch==2.13.0
VENV ?= .venv
RUN := "$(VENV)/bin/python" -m
ENVIRONMENT := $(PYTHON) scripts/environment.py --torch "$(TORCH)"
PYTEST := -m pytest -ra --durations=10 -n 3 --dist loadfile --no-loadscope-reorder
CHECKED := $(RUN) check_jsonschema --quiet --builtin-schema
# Where Python is told to keep no bytecode, each of the many programs that are started here would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE
TESTED := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.PHONY: demo test test-lowest test-latest check format help-blocks docs dist lock environment clean

environment:  ## the versions of requirements.lock, in VENV
	@"$(PYTHON)" -c "" >/dev/null 2>&1 || { echo "$(PYTHON) does not run here; name a Python 3.10 or newer: make PYTHON=..." >&2; exit 1; }
	@$(ENVIRONMENT) locked --venv "$(VENV)"

demo: environment  ## the embedded pair on infill_toy: members, ensemble, oracle and floor in one table
	HF_HUB_OFFLINE=1 $(RUN) lm_eval --model ensemble-ppl --model_args preset=tiny,pretrained=tiny \
	  --tasks infill_toy --batch_size auto --confirm_run_unsafe_code

test: environment  ## all tests; those on real data need LM_EVAL_ENSEMBLE_DATA
	$(TESTED) "$(VENV)/bin/python" $(PYTEST)

test-lowest:  ## the same with the lowest versions that pyproject.toml admits
	@$(ENVIRONMENT) lowest --venv .venv-lowest
	$(TESTED) .venv-lowest/bin/python $(PYTEST)

test-latest:  ## the same with the newest; ends with the deprecations that calls of ours raise
	@$(ENVIRONMENT) latest --venv .venv-latest
	$(TESTED) .venv-latest/bin/python $(PYTEST)

check: environment  ## lint, format, types, structure, --help in the docs, workflows and forms
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pytest tests/test_structure.py
	$(RUN) scripts.docs_help --check
	$(CHECKED) vendor.github-workflows .github/workflows/*.yml
	$(CHECKED) vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/wish.yml
	$(CHECKED) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(CHECKED) vendor.dependabot .github/dependabot.yml
	$(CHECKED) vendor.citation-file-format CITATION.cff
	"$(VENV)/bin/zizmor" --offline --quiet .github

format: environment
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

help-blocks: environment  ## write the --help blocks of the documentation anew
	$(RUN) scripts.docs_help

docs: environment  ## the documentation site, in build/docs; a warning is a failure
	$(RUN) sphinx --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

dist: environment  ## wheel and sdist, in dist, as they would be published
	rm -rf dist
	$(RUN) hatchling build -d dist
	$(RUN) twine check --strict dist/*

lock: environment  ## renew requirements.lock and say what changed
	@$(ENVIRONMENT) lock --venv "$(VENV)"

clean:
	rm -rf "$(VENV)" .venv-lowest .venv-latest build dist out
