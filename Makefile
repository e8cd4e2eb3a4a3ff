# One environment in .venv, made once and brought up to date when pyproject.toml or constraints.txt change.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKED := rsembed workers migrations tests benchmarks docs
# Each of them needs up to 4 GB. The tests of a file stay together: they share servers.
TEST_PROCESSES ?= 2
# The first interpreter that starts and is new enough.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

# Numbers must not depend on how many cores a machine has.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export NUMEXPR_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint docs clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "make %-9s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything that runs, tests and tools included

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "rsembed needs Python 3.11 or newer; none of python3.13, python3.12, python3.11, python3 is." >&2; \
		echo "Install one, or name it: make install PYTHON=/path/to/python" >&2; exit 1; fi
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) could not make an environment; on Debian and Ubuntu its venv module is a package of its own." >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rsembed and what it needs into $(VENV); the first time takes some minutes (torch is large)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[all,fleet,dev]'
	@touch $@

demo: $(STAMP) ## a fleet on this machine embeds a synthetic scene, without network or weights, into demo-output
	@$(BIN)/rsembed fleet demo

test: $(STAMP) ## every test that needs no internet
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

lint: $(STAMP) ## ruff, and mypy strict on rsembed and workers
	@$(BIN)/ruff check $(wildcard $(CHECKED))
	@$(BIN)/mypy

docs: $(STAMP) ## the documentation site, in site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html; its search wants a server: $(BIN)/python -m http.server -d site"

clean: ## remove the environment, caches and the demo's output
	rm -rf $(VENV) build dist site demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard $(CHECKED)) -name __pycache__ -type d -prune -exec rm -rf {} +
