PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A worker for each core; so every process, the scripts that tests start included, computes on one core. More than 8
# workers would only take more memory. A worker begins with its share of the tests in their order, so that what a file's
# tests have in common is mostly made once, and takes over tests of the others when it is done.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal --durations 20

.PHONY: train serve test test-all gpu bench lint clean

ifeq ($(MAKECMDGOALS),serve)
ifeq ($(and $(MODEL),$(GALLERY)),)
$(error name a model and a folder of images: make serve MODEL=runs/NAME/model.onnx GALLERY=DIR)
endif
endif

train: $(VENV)/.installed
	$(BIN)/python train.py --operation start_train

serve: $(VENV)/.installed-deploy
	$(BIN)/python -m deploy.serve --model "$(MODEL)" --gallery "$(GALLERY)"

test: $(VENV)/.installed-dev lint
	$(PYTEST) --hypothesis-profile quick -m "not slow and not gpu"

test-all: $(VENV)/.installed-dev lint
	$(PYTEST) --hypothesis-profile thorough -m "not gpu"

# One process: tests that share a GPU would wait for each other, and for its memory.
gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu -W default --durations 20 tests/gpu

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

$(VENV)/.installed-deploy: $(VENV)/.installed requirements-deploy.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-deploy.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-deploy requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
