# `make demo` and `make test` need nothing but Python 3.11 or newer: they create .venv and install into it first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test reproduce lint install clean

demo: .venv/installed
	$(BIN)/longva demo

test: .venv/installed
	$(BIN)/python -m pytest

reproduce: .venv/installed
	$(BIN)/python jobs/reproduce.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "longva_ray needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
