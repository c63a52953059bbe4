# `make env` once, then anything else. PYTHON names the interpreter (3.11 or newer), VENV the environment's folder,
# TESTS the folders of `make test-slow`.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
EXTRAS := speech,natural,guards,data,tensorboard,s3,dev
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env quickstart check test test-slow test-trials clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## Create the virtual environment with everything pinned

# pip takes the torch build that its configured index offers; for another one (a certain CUDA version) name that build's
# index in PIP_EXTRA_INDEX_URL. The pins are the same for every build. Of resemblyzer and distillmos the
# weights are read and nothing is imported: what they ask for is not wanted, and no extra can say so.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("WavAlign needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make env PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[$(EXTRAS)]" -c constraints.txt
	$(BIN)/python -m pip install --no-deps resemblyzer distillmos -c constraints.txt
	@touch $@

quickstart: env ## Train the small spoken-world model and write its report
	$(BIN)/wavalign run recipes/quickstart.yaml

check: env ## Lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: env ## The tests that take seconds
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "not slow and not gpu"

test-slow: env ## The tests that train or measure
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "slow and not trial and not gpu" $(TESTS)

test-trials: env ## The 200 seeded kills, each resumed and compared with the run that nobody disturbed
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m trial

clean: ## Remove caches and builds; the environment and runs stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find wavalign cli recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
