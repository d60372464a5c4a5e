# make run    sets up and runs the demo: http://127.0.0.1:8080/
# make test   sets up and passes all checks
# make soak   sets up and runs load, faults, reloads and restarts together, and
#             then kills pushd again and again (which takes KILLS times 2 seconds)
# make bench  sets up and measures pushd beside others, for half an hour;
#             make bench-quick takes two minutes
#
# All make a virtual environment in .venv. PYTHON, PORT and SECONDS can be chosen:
#   make run PYTHON=python3.13 PORT=9000
#   make soak SECONDS=3600 KILLS=20
#   make bench BENCH="fanout --peers pushd,c --runs 1"

PYTHON ?= python3
PORT ?= 8080
SECONDS ?= 60
KILLS ?= 200
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test check lint types floors tests soak bench bench-quick system format clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

run: $(VENV)/.runs
	@echo "pushd: the demo is at http://127.0.0.1:$(PORT)/ - end it with Ctrl-C"
	@exec $(BIN)/twistd -n --pidfile= pushd --listen tcp:$(PORT):interface=127.0.0.1

test: system check

check: lint types floors tests

lint: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.develops
	$(BIN)/mypy

floors: $(VENV)/.develops
	$(BIN)/lint-imports

tests: $(VENV)/.develops
	$(BIN)/python -m pytest $(PYTEST)

# Ends with a table, and with 1 if anything was lost, doubled, wrong or refused.
soak: $(VENV)/.develops
	@PYTHONPATH=tests:tests/e2e $(BIN)/python -W error -m soak $(SECONDS) $(KILLS)

format: $(VENV)/.develops
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.benches
	$(BIN)/python -m benchmarks $(BENCH)

bench-quick: $(VENV)/.benches
	$(BIN)/python -m benchmarks --quick $(BENCH)

# What the tests need that pip cannot install: a browser, an upstream, clients.
system:
	@sh tests/system.sh

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "pushd needs Python 3.11 or later; choose one: make run PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "pushd needs Python's venv module: apt-get install python3-venv"; exit 1; }
	@echo "pushd: making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runs: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "pushd: installing"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.develops: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "pushd: installing with what the checks need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.runs $@

$(VENV)/.benches: $(VENV)/bin/python setup.cfg pyproject.toml
	@command -v cc >/dev/null \
	  || { echo "the benchmarks need a C compiler: apt-get install gcc libc6-dev"; exit 1; }
	@echo "pushd: installing with what is measured beside it"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $(VENV)/.runs $@

clean:
	rm -rf $(VENV) build benchmarks/build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
