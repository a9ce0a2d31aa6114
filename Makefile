# Two commands: `make try` runs a first search, `make check` installs what tests need and runs them.
PYTHON ?= python3
VENV ?= .venv

.PHONY: try check test oldest lint slow gpu fuzz mutants docs clean

try: $(VENV)/installed
	$(VENV)/bin/se-nas search --budget 50

check: $(VENV)/installed-dev
	$(MAKE) --no-print-directory lint test

test: $(VENV)/installed-dev
	$(VENV)/bin/pytest

# The oldest torch that is promised and tested, without the model libraries, which need a newer one.
oldest: $(VENV)-oldest/installed
	$(VENV)-oldest/bin/pytest

slow: $(VENV)/installed-dev
	$(VENV)/bin/pytest -m slow

gpu: $(VENV)/installed-dev
	$(VENV)/bin/pytest -m gpu

# All modules that decide, SAMPLE mutants of each (SAMPLE= for all of them); MODULE=analysis/judge for one.
SAMPLE ?= 100
mutants: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin/python tests/mutants.py $(MODULE) $(if $(SAMPLE),--sample $(SAMPLE))

# FUZZ inputs in all, other ones with another SEED.
FUZZ ?= 10000
SEED ?= 0
fuzz: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin/pytest -n 0 -m fuzz --fuzz $(FUZZ) --fuzz-seed $(SEED) tests/fuzz

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check se_nas tests experiments docs
	$(VENV)/bin/ruff format --check se_nas tests experiments docs
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/installed-dev
	$(VENV)/bin/python -m mkdocs build --strict

# torch comes first and by version: without it pip would take the newest build with its CUDA packages.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -c constraints.txt torch
	$(VENV)/bin/pip install -q -c constraints.txt -e .
	touch $@

# Ultralytics comes without what it asks for: its OpenCV needs the libraries of a display, the headless one does not.
$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/pip install -q -c constraints.txt -e '.[dev]'
	$(VENV)/bin/pip install -q -c constraints.txt --no-deps ultralytics
	touch $@

$(VENV)-oldest/installed: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install -q -c constraints-oldest.txt torch
	grep -vE '^(torch|torchvision|timm|ultralytics)' constraints.txt > $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/pip install -q -c constraints-oldest.txt -c $(VENV)-oldest/constraints.txt -e '.[test]' tensorboard
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest dist build site mutants
