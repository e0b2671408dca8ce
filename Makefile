PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A worker for each core, each with the tests of one file at a time; so every process, the scripts that tests start
# included, computes on one core. More than 8 workers would only take more memory.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: train test test-all bench lint clean

train: $(VENV)/.installed
	$(BIN)/python train.py --operation start_train

test: $(VENV)/.installed-dev lint
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev lint
	$(PYTEST)

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
