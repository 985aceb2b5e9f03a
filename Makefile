# make demo: the whole loop in a few minutes.  make test: the tests; test-all: the long ones too, and then all of
# them with the lowest versions that pyproject.toml allows, in an environment of their own.  make lint: ruff.
# make docs: the site, strictly, in build/site, with mkdocs in an environment of its own.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
FLOORS := .venv-floors
LOWEST := $(FLOORS)/.installed
DOCS := .venv-docs
MKDOCS := $(DOCS)/.installed
# One process per core, each with one thread; a file's tests stay together, as they share what they have made.
pytest = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all lint docs

demo: $(INSTALLED)
	$(VENV)/bin/mmi demo --out runs/demo

test: $(INSTALLED)
	$(call pytest,$(VENV)) -m "not long"

test-all: $(INSTALLED) $(LOWEST)
	$(call pytest,$(VENV))
	$(call pytest,$(FLOORS))

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: $(INSTALLED) $(MKDOCS)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	MMI_SITE=build/site $(VENV)/bin/python -m pytest tests/test_docs_site.py

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@

$(LOWEST): pyproject.toml tests/floors.py $(INSTALLED)
	$(PYTHON) -m venv $(FLOORS)
	$(VENV)/bin/python tests/floors.py > $(FLOORS)/constraints.txt
	$(FLOORS)/bin/python -m pip install --quiet --constraint $(FLOORS)/constraints.txt --editable '.[test]'
	touch $@

$(MKDOCS): pyproject.toml tests/floors.py $(INSTALLED)
	$(PYTHON) -m venv $(DOCS)
	$(VENV)/bin/python tests/floors.py docs > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install --quiet --requirement $(DOCS)/requirements.txt
	touch $@
