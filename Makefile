# Everything runs inside .venv; nothing needs root or a cluster.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECK_STAMP := $(VENV)/.installed-check

.DEFAULT_GOAL := help
.PHONY: help install run test check format lock bench faults clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Waypost needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(STAMP): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing Waypost and its locked dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(CHECK_STAMP): requirements/check.txt $(STAMP)
	@echo "Installing the checks' and tests' locked dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/check.txt
	@touch $@

install: $(STAMP) ## Make .venv with .venv/bin/waypost

run: $(STAMP) ## Run all of Waypost here and send a first mail through
	@$(BIN)/waypost dev --manifests examples/dev

test: $(CHECK_STAMP) ## Tests: real NATS, sockets, TLS and DNS; no root, no cluster
	@$(BIN)/pytest -n auto

check: $(CHECK_STAMP) ## Format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(CHECK_STAMP) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(CHECK_STAMP) ## Throughput beside Postfix in the same run (needs postfix installed)
	@$(BIN)/python -m tests.bench.run

faults: $(CHECK_STAMP) ## Kill and soak tests: nothing lost, duplicates counted
	@$(BIN)/pytest -m faults tests/faults --timeout=0

lock: ## Renew requirements/*.txt (needs uv)
	@sh scripts/lock.sh

clean: ## Remove .venv and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
