# A fresh machine needs Python 3.11 to 3.13 and make; everything else goes into .venv.
#   make quickstart   install, train for a minute, show what was learnt
#   make test         install, run the tests
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/quickstart
BIN := $(VENV)/bin

.PHONY: quickstart test slow check lock clean

quickstart: $(VENV)/installed
	$(BIN)/python -m jaxfaces.train --flagfile=configs/quickstart.cfg --workdir=$(RUN)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2

slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 -m slow

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The path form of an editable install: the default form is found after the current
# folder, where a folder called metric/ or augment/ would hide the package.
$(VENV)/installed: setup.cfg pyproject.toml $(wildcard requirements-*.txt)
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if [ ! -f requirements-$$version.txt ]; then \
	    echo "jaxfaces needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$version." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; fi; \
	set -e; $(PYTHON) -m venv $(VENV); \
	echo "Installing into $(VENV) (about a gigabyte, one to three minutes) ..."; \
	$(BIN)/python -m pip install -q -r requirements-$$version.txt; \
	$(BIN)/python -m pip install -q --no-deps -e . --config-settings editable_mode=compat
	@touch $@

# Needs uv. One lock a Python version: 3.11 and 3.12 resolve to different jax and flax.
lock:
	for version in 3.11 3.12 3.13; do \
	    uv pip compile setup.cfg --extra test --python-version $$version \
	        --no-header --no-annotate --upgrade -o requirements-$$version.txt; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
