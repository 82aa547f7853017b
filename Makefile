# Needs make, Python 3.11 or newer, Terraform and a Python package index; the rest is installed into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The first interpreter that is new enough and can make virtual environments.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null && { echo $$p; break; }; done)
# The Lambda runtime that `make package` builds for: the module's defaults (python3.13 on arm64).
PY ?= 3.13
ARCH ?= aarch64

# The size of `make chaos`; KILLS is of loader processes, SEED is for all three parts. EXAMPLES is for `make fuzz`.
MODEL ?= 100000
WIRE ?= 2000
FILES ?= 1000
KILLS ?= 50
EXAMPLES ?= 2000
SEED ?= 1

RUN := PYTHONPATH=handler:examples/local .venv/bin/python
LINT := .venv-lint/bin

help: ## Show this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: .venv/stamp ## The whole pipeline on this machine, with real data, told step by step
	@$(RUN) -m stack demo

up: .venv/stamp ## Start the local stack and leave it running (.local/env says where)
	@$(RUN) -m stack up

down: .venv/stamp ## Stop the local stack and remove what it left
	@$(RUN) -m stack down

test: .venv/stamp ## All tests (under 15 minutes on two cores)
	@$(MAKE) --no-print-directory --jobs=2 test-here test-local

# The files with the longest tests first, or one of them begins when everything else is over.
test-here: test-terraform ## All tests but those on the whole local stack
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  tests/model tests/wire tests/protocol tests/fuzz tests/corpus tests/standin tests/unit

test-unit: .venv/stamp ## Unit tests
	$(RUN) -m pytest tests/unit

test-standin: .venv/stamp ## Tests of the Firebolt stand-in
	$(RUN) -m pytest tests/standin

test-protocol: .venv/stamp ## Tests of the load protocol under faults
	$(RUN) -m pytest tests/protocol

test-corpus: .venv/stamp ## Tests of what happens to which data (docs/data.md)
	$(RUN) -m pytest tests/corpus

test-local: .venv/stamp ## Tests on the whole local stack
	$(RUN) -m pytest tests/local

test-terraform: .venv/stamp ## Terraform's own tests, with mocked AWS
	$(RUN) -m stack terraform test -test-directory=tests/terraform

chaos: .venv/stamp ## The long campaign: model, wire, whole stack, an hour or more (MODEL= WIRE= FILES= KILLS= SEED=)
	@broken=; \
	for part in "model --histories $(MODEL)" "wire --histories $(WIRE)" "chaos --files $(FILES) --kills $(KILLS)"; do \
	  echo "$$part --seed $(SEED)"; \
	  PYTHONPATH=handler:examples/local:tests .venv/bin/python -m $$part --seed $(SEED) || broken="$$broken $${part%% *}"; \
	done; \
	test -z "$$broken" || { echo "a promise was broken, or the campaign failed, in:$$broken" >&2; exit 1; }

bench: .venv/stamp ## Peak memory of a loader with a 1 GB file and with many changes, beside small ones (minutes)
	@PYTHONPATH=handler:examples/local:tests .venv/bin/python -m bench.memory

fuzz: .venv/stamp ## Any input at every entrance, a longer run than that of the tests (EXAMPLES= SEED=)
	PYTHONPATH=handler:examples/local:tests .venv/bin/python -m fuzz --examples $(EXAMPLES) --seed $(SEED)

lint: .venv/stamp .venv-lint/stamp ## Formatting, types, Terraform validation, checkov
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	env -u TF_CLI_CONFIG_FILE terraform fmt -check -recursive -diff
	$(RUN) -m stack validate
	$(LINT)/checkov --directory . --config-file .checkov.yaml

format: .venv/stamp ## Rewrite Python and Terraform files in the project's format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	env -u TF_CLI_CONFIG_FILE terraform fmt -recursive

package: .venv/stamp ## Build dist/firebolt-cdc.zip for Lambda (PY=3.13 ARCH=aarch64)
	@$(RUN) handler/build_package.py --python $(PY) --arch $(ARCH) --output dist/firebolt-cdc.zip

lock: .venv-lint/stamp ## Renew requirements/*.txt from requirements/*.in
	cd requirements && for set in dev lambda lint; do UV_CUSTOM_COMPILE_COMMAND="make lock" \
	  ../$(LINT)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --no-config --no-emit-index-url --no-emit-find-links $$set.in --output-file $$set.txt; done

clean: ## Stop the local stack, remove every built and downloaded file
	@if [ -x .venv/bin/python ] && [ -d .local ]; then $(RUN) -m stack down; fi
	rm -rf .local .cache .venv .venv-lint build dist handler/*.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name .terraform -prune -exec rm -rf {} + -o -name __pycache__ -prune -exec rm -rf {} +
	find . -name .terraform.lock.hcl -delete

.venv/stamp: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Installing Python packages into .venv (once)"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv-lint/stamp: requirements/lint.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed; set PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Installing checkov into .venv-lint (once)"
	@$(PYTHON) -m venv --clear .venv-lint
	@.venv-lint/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/lint.txt
	@touch $@

.PHONY: help demo up down test test-here test-unit test-standin test-protocol test-corpus test-local test-terraform chaos bench fuzz lint format package lock clean
