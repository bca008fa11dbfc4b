# Two commands do all the set-up: `make serve` and `make test`.
PORT ?= 8000
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& echo $$python && break; done)
# Versions the suite is known to pass with; on a machine without a GPU they keep torch to one known release.
CONSTRAINTS := constraints.txt
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c $(CONSTRAINTS)

PREFIX ?= $(HOME)/.local

.PHONY: serve install quick test coverage lint docs clean

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Octavo needs Python 3.11 or 3.12 with venv; say which with PYTHON=" >&2; exit 1; }
	@echo "First run: making the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing Octavo and what it runs on (PyTorch is the largest part; this takes a few minutes, once)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need besides (pytest, transformers, openai, ruff, mypy, ...)"
	@$(PIP) -e '.[test]'
	@touch $@

serve: $(VENV)/.installed
	@exec $(BIN)/octavo serve --port $(PORT)

# `octavo` for a shell anywhere: a link in PREFIX/bin, which most systems have on the path of a user's shell.
install: $(VENV)/.installed
	@mkdir -p "$(PREFIX)/bin"
	@ln -sfn "$(abspath $(BIN))/octavo" "$(PREFIX)/bin/octavo"
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) echo "octavo is installed: $(PREFIX)/bin/octavo" ;; \
	*) echo "octavo is at $(PREFIX)/bin, which is not on the PATH of this shell: export PATH=\"$(PREFIX)/bin:\$$PATH\"" ;; esac

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Under a minute: lint, types, and the tests nearest to what differs from main.
quick: lint
	$(BIN)/python -m tools.quick

# Two processes share the cores: threads that spin while they wait would take them from each other. Bytecode is kept, whatever the
# environment says: hundreds of processes start, and pytest compiles what it rewrites.
test: lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

# Apart from `make test`, whose tests it would slow by two fifths: rooms that need no device, tested in one process.
COVERED := tests/config tests/text tests/checkpoints tests/engine tests/models/test_config.py tests/grammar/test_engine.py \
	$(patsubst %,tests/recovery/test_%.py,blame crash deadline killers replay)
coverage: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m coverage run -m pytest -q -m "not slow" $(COVERED)
	$(BIN)/python -m coverage report

# Write the pages that are made from the code and from benchmark results.
docs: $(VENV)/.installed-test
	$(BIN)/python -m tools.configuration_page
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m tools.kernels_page

clean:
	rm -rf $(VENV) build dist src/*.egg-info
