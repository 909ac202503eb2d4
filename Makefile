# Two commands on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN = .venv/bin
# By environment, so that it also holds for what pip installs to build the package.
PIP = PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test test-faults bench clean

# Everything comes from pyproject.toml at the versions of constraints.txt. PyTorch first, so that nothing pulls another.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: a minute or two ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install torch
	@$(PIP) install --editable ".[dev]"
	@touch $@

demo: .venv/installed   ## train on handwritten digits, test, print a table, draw completions
	@$(BIN)/python examples/digits.py

test: .venv/installed   ## the whole suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

test-faults: .venv/installed   ## runs killed at twenty random moments, and what else is too long for the suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults
	$(BIN)/python results/faults/table.py

bench: .venv/installed   ## how long the hot paths take, beside the run before; kept in .benchmarks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks

clean:
	rm -rf .venv build *.egg-info
