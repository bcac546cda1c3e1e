# make demo   images, labels, student and test on real digits, in minutes on a laptop
# make test   the whole test suite
# make docs   the site of docs/, in build/site
# make bench-gpu   what has to be measured on a GPU, in half an hour
# Each makes .venv on first use and installs again when setup.cfg has changed.

PYTHON ?= python3
VENV := .venv
# Processes that share the tests.
WORKERS ?= 2
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow docs bench-gpu lint clean

demo: $(INSTALLED)
	$(VENV)/bin/dmkd demo

test: $(INSTALLED)
	$(VENV)/bin/pytest -m "not slow" -n $(WORKERS) --dist loadgroup

test-slow: $(INSTALLED)
	$(VENV)/bin/pytest -m slow

# Warnings are errors, and --quiet would hide them from --strict. The variable silences a notice of the theme's authors about their other tools.
docs: $(INSTALLED)
	$(VENV)/bin/python docs/site/prepare.py build/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --config-file build/docs/mkdocs.yml

# STAGES=A measures one stage alone.
STAGES ?= ABCD
bench-gpu: $(INSTALLED)
	$(VENV)/bin/python benchmarks/gpu.py --stages $(STAGES) --json

# Types and imports are checked on an installed copy: only there are the three folders one package.
lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build/lib build/typed && $(VENV)/bin/pip install -q --no-deps --no-build-isolation --target build/typed .
	MYPYPATH=build/typed $(VENV)/bin/mypy -p dmkd
	cd build/typed && $(CURDIR)/$(VENV)/bin/lint-imports --no-cache $(CURDIR)/pyproject.toml

clean:
	rm -rf $(VENV) build dmkd-demo .pytest_cache .ruff_cache .mypy_cache *.egg-info

$(INSTALLED): setup.cfg pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --upgrade pip "setuptools>=77"
	$(VENV)/bin/pip install -q -e ".[dev]"
	touch $@
