# Each target does its own set-up: a virtual environment with what pyproject.toml names, and the servers that tests need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# More than cores: many tests wait for servers and leases longer than they compute.
JOBS ?= 3

# Tests in another order, the same for the same number: make unit SHUFFLE=7
PYTEST := $(BIN)/pytest --dist worksteal $(if $(SHUFFLE),--random-order --random-order-seed=$(SHUFFLE))

.PHONY: demo test quick quick-tests check unit conformance fast servers clean

demo: $(VENV)/installed
	$(BIN)/asynctasq demo

test: servers check unit conformance

# The developer's loop, in less than three minutes: the checks beside the tests that need neither server nor program.
quick: $(VENV)/installed
	$(MAKE) --no-print-directory --output-sync=target -j 2 check quick-tests

quick-tests: $(VENV)/installed
	$(PYTEST) -q -n 2 --hypothesis-profile=quick -m "not server and not program and not slow"

# Format, lint, types, floors.
check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	.ci/floor-zero $(BIN)

# Every test but the conformance of drivers with servers.
unit: $(VENV)/installed servers
	$(PYTEST) -n $(JOBS)

# One suite, every driver; a server that can't be started is a failure.
conformance: $(VENV)/installed servers
	$(PYTEST) -m conformance --asynctasq-driver=all -n $(JOBS) --conformance-report=conformance-report.json

# What needs no server, for another Python: make fast PYTHON=python3.13 VENV=.venvs/3.13
# Few examples a property: they are the same on every Python, and `unit` tries all of them.
fast: $(VENV)/installed
	$(PYTEST) -n $(JOBS) --hypothesis-profile=quick -m "not server and not slow" --ignore=tests/testing/test_conformance_suite.py \
		tests/kernel tests/codec tests/tasks tests/core tests/testing tests/scenarios property_tests

servers:
	.ci/servers

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venvs .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage conformance-report.*
