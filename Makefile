# Two commands matter: `make run` shows the proxy at work, `make test` checks everything.

VENV   := .venv
BIN    := $(VENV)/bin
# Stamps inside the environment: what is installed already is not installed again until pyproject.toml changes.
READY      := $(VENV)/.installed
READY_TEST := $(VENV)/.installed-test
READY_BENCH := $(VENV)/.installed-bench
READY_DOCS := $(VENV)/.installed-docs
READY_TOOLS := $(VENV)/.test-packages

# The first interpreter that is new enough; `make PYTHON=/path/to/python3 ...` overrides the search. The distribution's
# own comes first: it is built with all optimisations, which others (pyenv's as it comes) are not, and takes 7 % less CPU
# for a handshake. Without ensurepip (Debian's python3-venv) it cannot make a virtual environment: another one is looked for.
PYTHON ?= $(shell for module in ensurepip sys; do \
	for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$candidate -c "import sys, $$module; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$candidate && exit; \
	done; done)
WORKERS ?= 4
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run bench micro chaos docs test lint types format unit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: $(READY) ## install into .venv and start the demonstration (stop it with Ctrl-C)
	@$(BIN)/symphony run --demo

test: $(READY_TEST) $(READY_TOOLS) ## install with test extras, then lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(READY_TEST) ## ruff: lint and format, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY_TEST) ## ruff: rewrite the files in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY_TEST) ## mypy --strict
	$(BIN)/mypy

unit: $(READY_TEST) ## only the fast tests
	$(BIN)/python -m pytest -n $(WORKERS) tests/unit

bench: $(READY_BENCH) ## measure against nginx, HAProxy, hitch and others; writes docs/benchmarks.md (BENCH="--help": options, other parts)
	$(BIN)/python -m tools.bench $(or $(BENCH),--doc docs/benchmarks.md --json docs/benchmarks.json --plots docs/plots)

chaos: $(READY_TEST) ## kill, hang, starve and flood a real tree under traffic, and judge what came of it (CHAOS="--help" for its options)
	$(BIN)/python -m tools.chaos $(CHAOS)

micro: $(READY_BENCH) ## count instructions of single operations beside the stored baseline, then time them
	$(BIN)/python -m tools.micro count
	$(BIN)/python -m tools.micro time --fast

docs: $(READY_DOCS) ## build the site of the documentation into site/ (fails for a link to nothing)
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs site
	@echo "site/index.html"

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Symphony needs Python 3.11 or newer: install it, or name one by PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(READY): pyproject.toml | $(BIN)/python
	@echo "installing Symphony into $(VENV) ..."
	@$(PIP_INSTALL) --editable .
	@touch $@

$(READY_TEST): pyproject.toml | $(BIN)/python
	@echo "installing Symphony with its test extras into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(READY)

$(READY_DOCS): pyproject.toml | $(BIN)/python
	@echo "installing what builds the documentation into $(VENV) ..."
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@ $(READY)

# Never fails: without these packages the benchmark draws no plots, and says so.
$(READY_BENCH): pyproject.toml | $(READY_TEST)
	@echo "installing what the benchmarks can use into $(VENV) ..."
	@if $(PIP_INSTALL) --editable '.[test,bench]'; then touch $@; fi

# Never fails: where the programs cannot be installed, the tests that need them skip and say which one is missing.
$(READY_TOOLS): tools/install-test-packages | $(BIN)/python
	@tools/install-test-packages
	@touch $@
