# make main: set up, then train, evaluate and explain AMVL.    make test: set up, then lint, types and tests.
# Each works alone on a machine that has Python 3.11 or newer; the set-up is repeated only when what it depends on changed.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2
BIN = $(VENV)/bin
STAMP = $(VENV)/.set-up
LMMS_VENV ?= .venv-lmms
LMMS_BIN = $(LMMS_VENV)/bin
LMMS_STAMP = $(LMMS_VENV)/.set-up

.PHONY: setup main test lint types tests test-kernels faults audit test-oldest test-newest format doctor figures \
	notebooks notebook-tests docs lmms-eval-setup lmms-eval-test clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	@echo "Setting up $(VENV), about 2,000 MB; the first time takes a few minutes."
	@(n=0; while sleep 10 && kill -0 $$$$ 2>/dev/null; do n=$$((n + 10)); \
		echo "  $$n s, $$(du -sm $(VENV) | cut -f1) MB installed"; done) & \
	trap "kill $$! 2>/dev/null" EXIT INT TERM; \
	{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	$(BIN)/python -m pip install --quiet --constraint constraints-cpu.txt --editable '.[dev,notebooks]'
	touch $@

main: setup
	$(BIN)/python experiments/full_blink.py $(ARGS)

test: lint types tests

lint: setup
	$(BIN)/python -m ruff check .

types: setup
	@echo "Type check, one to three minutes."
	$(BIN)/python -m mypy

tests: setup
	@# one thread each: with more, every parallel region waits for a thread that another worker has displaced
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# The theory's tests with two kernels of OpenBLAS and one and two threads, the model's with the plainest kernels of torch and MKL.
test-kernels: setup
	for kernel in Haswell Prescott; do for threads in 1 2; do echo "OpenBLAS $$kernel, $$threads thread(s)"; \
		OPENBLAS_CORETYPE=$$kernel OPENBLAS_NUM_THREADS=$$threads OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
		--numprocesses $$(($(WORKERS) / threads)) --dist loadfile tests/theory tests/experiments/test_theory_vs_model_rounding.py $(ARGS) || exit 1; \
	done; done
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
		--numprocesses $(WORKERS) --dist loadfile tests/model $(ARGS)

# Interrupted runs, damaged files, planted code and fuzzed inputs, in two minutes; at length: python tests/faults/long.py
faults: setup
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m "" tests/faults $(ARGS)

# Known vulnerabilities of the pinned dependencies, from an environment of its own (needs a network). Names the packages that the
# index does not know, which are not audited; fails where a vulnerability is known, or where nothing could be audited.
define AUDIT
import json, sys
packages = json.load(open(sys.argv[1]))["dependencies"]
audited = [package for package in packages if "vulns" in package]
skipped = [package["name"] for package in packages if "vulns" not in package]
known = [f"{p['name']} {p['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version'}" for p in audited for v in p["vulns"]]
print(f"{len(audited)} of {len(packages)} packages were audited, {len(known)} vulnerabilities are known", *known, sep="\n  ")
if skipped: print("not audited, as the index does not know them:", ", ".join(skipped))
sys.exit(bool(known) or not audited)
endef
export AUDIT

audit:
	test -x .venv-audit/bin/pip-audit || ($(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet pip-audit)
	grep -E '^[A-Za-z0-9_.-]+==' constraints-cpu.txt | sed -E 's/\+[A-Za-z0-9.]+//' > .venv-audit/requirements.txt
	rm -f .venv-audit/report.json
	-.venv-audit/bin/pip-audit --disable-pip --no-deps --requirement .venv-audit/requirements.txt --progress-spinner off \
		--format json --output .venv-audit/report.json $(ARGS) 2> .venv-audit/messages.txt
	@test -s .venv-audit/report.json || (cat .venv-audit/messages.txt && exit 1)
	@.venv-audit/bin/python -c "$$AUDIT" .venv-audit/report.json

# The suite with the oldest or the newest transformers that pyproject.toml allows, in an environment of its own.
test-oldest: REQUIREMENT = transformers==$(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)
test-newest: REQUIREMENT = transformers
test-oldest test-newest: test-%:
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	grep -Ev '^(transformers|tokenizers|huggingface_hub)==' constraints-cpu.txt > .venv-$*/constraints.txt
	.venv-$*/bin/python -m pip install --quiet --upgrade --constraint .venv-$*/constraints.txt \
		--editable '.[dev]' '$(REQUIREMENT)'
	.venv-$*/bin/amvl doctor
	.venv-$*/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

format: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# paper_figs ends with 1 where everything was drawn but some result is missing, which it names: no error of make
figures: setup
	$(BIN)/python -m paper_figs $(ARGS) || [ $$? -eq 1 ]

notebooks: setup
	$(BIN)/python -m jupyter lab $(ARGS) notebooks/

# Executes every notebook and clicks through two of them in a headless Chromium, where one is installed.
notebook-tests: setup
	$(BIN)/python -m pip install --quiet --constraint constraints-cpu.txt --editable '.[browser]'
	$(BIN)/python -m pytest -m "" $(ARGS) \
		tests/notebooks/test_notebooks.py tests/notebooks/test_notebook_views.py tests/notebooks/test_notebooks_browser.py

# The documentation site, into runs/site; warnings are errors.
docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints-cpu.txt --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict

doctor: setup
	$(BIN)/amvl doctor

# lmms-eval in an environment of its own: it pins a protobuf older than ours, and pulls a torchvision which, where it is built
# for another torch or needs CUDA, breaks every import of transformers, while nothing here uses it.
lmms-eval-setup: $(LMMS_STAMP)

$(LMMS_STAMP): pyproject.toml constraints-cpu.txt
	@echo "Setting up $(LMMS_VENV); the first time takes a few minutes."
	test -x $(LMMS_BIN)/python || $(PYTHON) -m venv $(LMMS_VENV)
	grep -v '^protobuf' constraints-cpu.txt > $(LMMS_VENV)/constraints.txt
	$(LMMS_BIN)/python -m pip install --quiet --constraint $(LMMS_VENV)/constraints.txt torch
	$(LMMS_BIN)/python -m pip install --quiet --constraint $(LMMS_VENV)/constraints.txt --editable '.[lmms-eval,dev]'
	$(LMMS_BIN)/python -c 'import torchvision' 2>/dev/null || $(LMMS_BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $@

lmms-eval-test: lmms-eval-setup
	$(LMMS_BIN)/python -m pytest -m lmms_eval tests/model/evaluation/test_lmms_eval_plugin.py tests/model/evaluation/test_lmms_eval_pipeline.py $(ARGS)

# Removes what the set-up, the tests and the build wrote; runs/ and results/ stay.
clean:
	rm -rf $(VENV) $(LMMS_VENV) .venv-audit .venv-oldest .venv-newest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find amvl_model experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
