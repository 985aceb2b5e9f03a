# make demo: the whole loop in a few minutes.  make test: the tests; test-all: the long ones too.
# make lint: ruff.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# One process per core, each with one thread; a file's tests stay together, as they share what they have made.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all lint

demo: $(INSTALLED)
	$(VENV)/bin/mmi demo --out runs/demo

test: $(INSTALLED)
	$(PYTEST) -m "not long"

test-all: $(INSTALLED)
	$(PYTEST)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@
