# make demo: the whole loop in a few minutes.  make test: the tests; test-all: the long ones too.
# make lint: ruff.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all lint

demo: $(INSTALLED)
	$(VENV)/bin/mmi demo --out runs/demo

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -m "not long"

test-all: $(INSTALLED)
	$(VENV)/bin/python -m pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@
