# make main: set up, then train, evaluate and explain AMVL.    make test: set up, then lint, types and tests.
# Each works alone on a machine that has Python 3.11 or newer; the set-up is repeated only when what it depends on changed.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2
BIN = $(VENV)/bin
STAMP = $(VENV)/.set-up

.PHONY: setup main test lint types tests format doctor clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	@echo "Setting up $(VENV); the first time takes a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints-cpu.txt --editable '.[dev]'
	touch $@

main: setup
	$(BIN)/python experiments/full_blink.py $(ARGS)

test: lint types tests

lint: setup
	$(BIN)/python -m ruff check .

types: setup
	$(BIN)/python -m mypy

tests: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

format: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

doctor: setup
	$(BIN)/amvl doctor

# Removes what the set-up, the tests and the build wrote; runs/ and results/ stay.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find amvl_model experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
