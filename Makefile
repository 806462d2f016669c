# Everything here needs Python 3.11 or newer, git and make; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# the tests mostly wait, for processes and timeouts
JOBS ?= 4
# the short ones fill what the long ones leave
LONG_FIRST := tests/end_to_end tests/collector
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-postgres interpreters lint type check soak bench format schema docs agent build clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## Make .venv with provision in it, to use it

setup-dev: $(VENV)/.installed-dev ## The same with everything that tests and checks need, to work on it

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "provision needs Python 3.11 or newer: try 'make $(MAKECMDGOALS) PYTHON=python3.11'"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this python cannot make virtual environments: 'apt-get install -y python3-venv', then again"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing provision into $(VENV) (half a minute); then: . $(VENV)/bin/activate"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[server,s3]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: setup ## Provision an embedded instance from an embedded file server, end to end
	@$(BIN)/provision demo

test: setup-dev ## Run the tests; those of the agent on the oldest and the newest Python that are here
	@$(PYTEST) -q -m 'not soak' -n $(JOBS) $(LONG_FIRST) || { \
	  echo "-- what failed beside others, once more and alone: only what fails again counts"; \
	  $(PYTEST) -q -m 'not soak' --last-failed --last-failed-no-failures none $(LONG_FIRST); }
	@$(BIN)/python tests/interpreters.py

test-postgres: setup-dev ## Run the tests of the server once more, each on a PostgreSQL database
	PROVISION_TEST_POSTGRES=1 $(PYTEST) -q -m 'not soak' -n $(JOBS) tests/end_to_end/test_server*.py

lint: setup-dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup-dev ## Check types
	$(BIN)/mypy

interpreters: setup-dev ## Make the environments of the oldest and the newest Python that are here
	@$(BIN)/python tests/interpreters.py --prepare

check: setup-dev ## All that CI runs: lint, types, tests
	@$(MAKE) --no-print-directory -j 3 lint type interpreters
	@$(MAKE) --no-print-directory test

soak: setup-dev ## Every seed of the random suites
	PROVISION_SOAK=1 $(PYTEST) -q -m 'soak or sampled' --timeout 600

bench: setup-dev ## Measure against the peers that are installed
	$(BIN)/python benchmarks/downloads.py
	$(BIN)/python benchmarks/follow.py
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/copying.py
	$(BIN)/python benchmarks/conversions.py

format: setup-dev ## Format the code
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

schema: setup-dev ## Write the profile's JSON Schema anew
	$(BIN)/provision profiles schema > provision_profiles/profile.schema.json

docs: setup-dev ## Write the generated documents anew
	@$(BIN)/python -m provision_collector.reference docs
	@$(BIN)/python -m provision_collector.profile.reference docs/PROFILE.md

agent: setup-dev ## Write the agent's single file to dist/
	@mkdir -p dist
	@$(BIN)/python -c 'from provision_collector.instance import build_bundle as b; open("dist/provision-agent.pyz", "wb").write(b().data); print("dist/provision-agent.pyz", b().sha256)'

build: setup-dev ## Build wheel and sdist
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build

clean: ## Remove what was made
	rm -rf $(VENV) .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
